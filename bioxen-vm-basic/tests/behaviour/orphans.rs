//! What is left when the process that owns VMs is killed: nothing.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;

use bioxen_vm_basic::BasicConfig;
use bioxen_vm_core::{Command, LuaVm};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::{create, ended, runs};

/// The owner: VMs of both kinds run programs that start others, and print their process ids.
///
/// It is no test by itself. The test below runs it as a process of its own, and kills that.
#[tokio::test]
#[ignore = "is killed; run by a_killed_owner_leaves_no_process_and_no_directory"]
async fn owner() {
    let Some(base) = std::env::var_os("BIOXEN_TEST_BASE") else {
        return;
    };
    let base = Path::new(&base);
    let config = BasicConfig::default().with_directory(base);
    let built_in = create(config.clone()).await;
    let lua54 = create(config.with_lua_executable("lua5.4")).await;
    let fifo = base.join("pids");
    // The shell that os.execute starts writes its own id and that of the program that it is for.
    let shell = format!(
        "echo $PPID > {0}; echo $$ > {0}; exec sleep 3600",
        fifo.display()
    );
    for vm in [&built_in, &lua54] {
        vm.start().await.unwrap();
    }
    let site = lua54.package_site().await.unwrap();
    let code = format!("os.execute({shell:?})");
    let command = Command::new("sh").args(["-c", &shell]);
    let _ = tokio::join!(
        built_in.execute(code.clone().into()),
        lua54.execute(code.into()),
        site.runner.run(command),
    );
}

#[tokio::test]
async fn a_killed_owner_leaves_no_process_and_no_directory() {
    let base = tempfile::tempdir().unwrap();
    let fifo = base.path().join("pids");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    let mut owner = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "orphans::owner", "--ignored"])
        .env("BIOXEN_TEST_BASE", base.path())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let own = i32::try_from(owner.id().unwrap()).unwrap();

    // Opened for writing too, so that the pipe does not end between two writers.
    let pipe = tokio::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&fifo)
        .await
        .unwrap();
    let mut lines = BufReader::new(pipe).lines();
    let mut pids: Vec<i32> = Vec::new();
    for _ in 0..6 {
        pids.push(lines.next_line().await.unwrap().unwrap().parse().unwrap());
    }
    assert!(pids.iter().all(|pid| *pid != own && runs(*pid)));

    owner.start_kill().unwrap();
    assert_eq!(owner.wait().await.unwrap().signal(), Some(9));
    for pid in pids {
        ended(pid).await;
    }
    // The next owner sweeps what the killed one could not remove.
    let vm = create(BasicConfig::default().with_directory(base.path())).await;
    drop(vm);
    std::fs::remove_file(&fifo).unwrap();
    assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0);
}
