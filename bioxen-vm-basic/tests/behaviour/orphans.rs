//! What is left when the process that owns VMs is killed: nothing.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bioxen_vm_basic::BasicConfig;
use bioxen_vm_core::{Command, LuaVm};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::{create, ended, groups_named, runs, somebody_below};
use crate::tree::{ESCAPE, ESCAPED};

/// The owner: VMs of both kinds run programs that start others, also such as are hard to end, and
/// print their process ids.
///
/// It is no test by itself. The tests below run it as a process of its own, and kill that.
#[tokio::test]
#[ignore = "is killed; run by the other tests of this module"]
async fn owner() {
    let Some(base) = std::env::var_os("BIOXEN_TEST_BASE") else {
        return;
    };
    let base = Path::new(&base);
    let config = BasicConfig::default()
        .with_directory(base)
        .with_processes(true)
        .with_write(base.join("fifo"));
    let built_in = create(config.clone()).await;
    let lua54 = create(config.with_lua_executable("lua5.4")).await;
    // The shell that os.execute starts writes the ids of what escapes from it, its own, and that of
    // the program that it is for.
    let shell = format!(
        "rm -f pids; {ESCAPE} for pid in $(cat pids) $PPID $$; do echo $pid > {}; done; \
         exec sleep 3600",
        base.join("fifo").display()
    );
    for vm in [&built_in, &lua54] {
        vm.start().await.unwrap();
    }
    let site = built_in.package_site().await.unwrap();
    let code = format!("os.execute([==[{shell}]==])");
    let command = Command::new("sh").args(["-c", &shell]).with_cwd("../tmp");
    let _ = tokio::join!(
        built_in.execute(code.clone().into()),
        lua54.execute(code.into()),
        site.runner.run(command),
    );
}

/// Kills an owner when its programs have noted so many process ids, and waits until nothing of
/// them is left.
async fn kill_owner_after(ids: usize) {
    let base = tempfile::tempdir().unwrap();
    let fifo = base.path().join("fifo");
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
    for _ in 0..ids {
        pids.push(lines.next_line().await.unwrap().unwrap().parse().unwrap());
    }
    assert!(pids.iter().all(|pid| *pid != own && runs(*pid)));

    owner.start_kill().unwrap();
    assert_eq!(owner.wait().await.unwrap().signal(), Some(9));
    for pid in pids {
        ended(pid).await;
    }
    while let Some(pid) = somebody_below(base.path()) {
        ended(pid).await;
    }
    std::fs::remove_file(&fifo).unwrap();
    let left: Vec<_> = std::fs::read_dir(base.path())
        .unwrap()
        .map(|place| place.unwrap().file_name().into_string().unwrap())
        .collect();
    // The next owner sweeps what the killed one could not remove. A process that was about to be
    // started still holds the owner's lock until it is.
    loop {
        let config = BasicConfig::default()
            .with_directory(base.path())
            .with_processes(true);
        drop(create(config).await);
        if std::fs::read_dir(base.path()).unwrap().count() == 0
            && left.iter().all(|name| groups_named(name).is_empty())
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_killed_owner_leaves_no_process_and_no_directory() {
    kill_owner_after(3 * (ESCAPED + 2)).await;
}

#[tokio::test]
async fn an_owner_may_be_killed_at_any_time() {
    for ids in 0..=ESCAPED + 2 {
        kill_owner_after(ids).await;
    }
}
