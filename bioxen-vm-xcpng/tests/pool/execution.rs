//! Programs and files in a VM whose SSH server is as Debian installs it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bioxen_vm_core::files::Files;
use bioxen_vm_core::{Backend, ErrorKind, LuaVm, Script};

use crate::lab::Lab;

/// Kills the process that holds the connection which the program came over.
const CUT: &str = "os.execute([[pid=$PPID; until grep -q sshd /proc/$pid/comm; do \
                   pid=$(cut -d' ' -f4 /proc/$pid/stat); done; kill -9 $pid; sleep 60]])";

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_executions_at_once_all_succeed() {
    let lab = Lab::start().await;
    let backend = lab.backend();
    let vm = lab.running(&backend, "vm1").await;
    let runs: Vec<_> = (0..200)
        .map(|number| {
            let vm = Arc::clone(&vm);
            // Some need an interpreter of their own.
            let script = match number % 8 {
                0 => Script::new("print(os.getenv('N'))").with_env("N", number.to_string()),
                _ => Script::new("print((...))").arg(number.to_string()),
            };
            tokio::spawn(async move { vm.execute(script).await })
        })
        .collect();
    for (number, run) in runs.into_iter().enumerate() {
        let outcome = run.await.unwrap().unwrap();
        assert_eq!(outcome.stdout_text(), format!("{number}\n"));
    }
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_lost_connection_the_next_execution_works() {
    let lab = Lab::start().await;
    let backend = lab.backend();
    let vm = lab.running(&backend, "vm1").await;
    for _ in 0..3 {
        let error = vm.execute(Script::new(CUT)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        let outcome = vm.execute(Script::new("print('again')")).await.unwrap();
        assert_eq!(outcome.stdout_text(), "again\n");
    }
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_folders_travel_and_what_a_lost_connection_broke_off_goes_on() {
    let lab = Lab::start().await;
    let backend = lab.backend();
    let vm = lab.running(&backend, "vm1").await;
    let here = tempfile::tempdir().unwrap();
    let here = here.path();
    let files = Files::of(&*vm).await.unwrap();

    let folder = here.join("data");
    std::fs::create_dir_all(folder.join("a b")).unwrap();
    std::fs::write(folder.join("a b/it's.fa"), ">x\nACGT\n").unwrap();
    let data = Path::new("data");
    assert_eq!(files.push(&folder, data, true).await.unwrap().copied, 1);
    assert_eq!(files.push(&folder, data, true).await.unwrap().unchanged, 1);
    let read = "io.write(io.open(\"data/a b/it's.fa\"):read('*a'))";
    let outcome = vm.execute(Script::new(read)).await.unwrap();
    assert_eq!(outcome.stdout_text(), ">x\nACGT\n", "{outcome:?}");
    let back = here.join("back");
    assert_eq!(files.pull(data, &back, true).await.unwrap().copied, 1);
    assert!(back.join("a b/it's.fa").exists());

    let big = here.join("big");
    let content: Vec<u8> = (0..12_000_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&big, &content).unwrap();
    let broken = cut_when_begun(&vm, &files, &big).await;
    assert_eq!(broken.kind(), ErrorKind::Unavailable, "{broken}");
    let copied = files.put(&big, "big".as_ref()).await.unwrap();
    assert!(copied.resumed > 0, "{copied:?}");
    std::fs::remove_file(&big).unwrap();
    files.get("big".as_ref(), here).await.unwrap();
    assert_eq!(std::fs::read(&big).unwrap(), content);

    let file = folder.join("a b/it's.fa");
    let full = files.put(&file, "/proc/x".as_ref()).await.unwrap_err();
    assert!(
        matches!(full.kind(), ErrorKind::Denied | ErrorKind::Internal),
        "{full}"
    );
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.end().await;
}

/// Copies a file to the VM, and cuts the connection once some of it is there.
async fn cut_when_begun(vm: &Arc<dyn LuaVm>, files: &Files, big: &Path) -> bioxen_vm_core::Error {
    for _ in 0..20 {
        let (copying, from) = (files.clone(), big.to_owned());
        let put = tokio::spawn(async move { copying.put(&from, "big".as_ref()).await });
        let begun = Script::new(format!(
            "repeat local f = io.popen('ls -A | grep -c bioxen-'); local n = f:read('*n'); f:close() \
             until n > 0 {CUT}"
        ));
        let _ = vm
            .execute(begun.with_timeout(Duration::from_secs(10)))
            .await;
        match put.await.unwrap() {
            Err(error) => return error,
            // It was faster.
            Ok(_) => continue,
        }
    }
    panic!("the transfer cannot be interrupted");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_when_the_guest_reboots_is_told_as_lost_and_the_next_execution_works() {
    let lab = Lab::start().await;
    let backend = lab.backend();
    let vm = lab.running(&backend, "vm1").await;
    let begin = "io.stdout:write('begun') io.stdout:flush() while true do end";
    let (mut sink, mut output) = bioxen_vm_core::channel(1);
    let running = Arc::clone(&vm);
    let running = tokio::spawn(async move {
        running
            .execute_streaming(Script::new(begin), &mut sink)
            .await
    });
    assert_eq!(output.recv().await.unwrap().1, "begun");
    // Somebody else reboots it.
    let reference = lab.named("bioxen-vm1").await;
    lab.client().vm().hard_reboot(&reference).await.unwrap();
    let lost = running.await.unwrap().unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Unavailable, "{lost}");
    assert!(lost.to_string().contains("is unknown"), "{lost}");
    let outcome = vm.execute(Script::new("print('again')")).await.unwrap();
    assert_eq!(outcome.stdout_text(), "again\n");
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.end().await;
}
