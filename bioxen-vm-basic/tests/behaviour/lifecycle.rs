//! Creating, starting, stopping and destroying.

use std::path::Path;

use bioxen_vm_basic::{BasicBackend, BasicConfig};
use bioxen_vm_core::{
    Backend, BackendConfig, ErrorKind, LuaVm, Script, Value, VmFactory, VmId, VmManager, VmState,
};

use crate::support::{Lab, create, ended, workers_of};

#[tokio::test]
async fn a_vm_is_made_stopped_and_runs_lua_once_started() {
    let base = tempfile::tempdir().unwrap();
    let vm = create(BasicConfig::default().with_directory(base.path())).await;
    assert_eq!(vm.info().await.unwrap().state, VmState::Stopped);
    let error = vm.execute("print(1)".into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidState);
    assert_eq!(
        error.to_string(),
        "VM lab: cannot execute: it is stopped; start it first"
    );
    let error = vm.package_site().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidState);
    vm.start().await.unwrap();
    vm.start().await.unwrap();
    assert!(vm.execute("print(1)".into()).await.unwrap().success());
    assert_eq!(vm.info().await.unwrap().state, VmState::Running);
}

#[tokio::test]
async fn stopping_ends_what_runs_and_keeps_the_files() {
    for lab in Lab::both_with_processes().await {
        let flag = lab.home().join("pid");
        let made = std::process::Command::new("mkfifo").arg(&flag).status();
        assert!(made.unwrap().success());
        let code = format!(
            "io.open('kept', 'w'):close() os.execute('echo $$ > {}; exec sleep 3600')",
            flag.display()
        );
        let site = lab.vm.package_site().await.unwrap();
        let (execution, (pid, ())) = tokio::join!(lab.vm.execute(code.into()), async {
            let pid: i32 = tokio::fs::read_to_string(&flag)
                .await
                .unwrap()
                .trim()
                .parse()
                .unwrap();
            (pid, lab.vm.stop().await.unwrap())
        });
        assert_eq!(execution.unwrap_err().kind(), ErrorKind::Cancelled);
        ended(pid).await;
        lab.vm.stop().await.unwrap();
        let command = bioxen_vm_core::Command::new("true");
        let error = site.runner.run(command).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidState);

        lab.vm.start().await.unwrap();
        let outcome = lab.vm.execute("print(io.open('kept') ~= nil)".into()).await;
        assert_eq!(outcome.unwrap().stdout_text(), "true\n");
    }
}

#[tokio::test]
async fn an_execution_that_nobody_polls_does_not_hold_up_a_stop() {
    let lab = Lab::built_in().await;
    let mut execution = Box::pin(lab.vm.execute("while true do end".into()));
    std::future::poll_fn(|cx| {
        assert!(execution.as_mut().poll(cx).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
    lab.vm.stop().await.unwrap();
    assert_eq!(execution.await.unwrap_err().kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn destroying_removes_everything_and_can_be_repeated() {
    for lab in Lab::both_with_processes().await {
        let code = "os.execute('mkdir -p a/b .luarocks/lib && touch a/b/c && chmod 000 a/b a')";
        assert!(lab.vm.execute(code.into()).await.unwrap().success());
        lab.vm.destroy().await.unwrap();
        lab.vm.destroy().await.unwrap();
        assert_eq!(std::fs::read_dir(lab.base.path()).unwrap().count(), 0);
        assert_eq!(lab.vm.info().await.unwrap().state, VmState::Destroyed);
        for error in [
            lab.vm.start().await.unwrap_err(),
            lab.vm.execute("x=1".into()).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidState);
            assert!(
                error
                    .to_string()
                    .ends_with("it is destroyed; create a new one")
            );
        }
        lab.vm.stop().await.unwrap();
        assert_eq!(lab.vm.info().await.unwrap().state, VmState::Destroyed);
    }
}

#[tokio::test]
async fn destroying_ends_programs_that_make_files_as_fast_as_they_can() {
    let lab = Lab::built_in().await;
    let code = "io.write('on') io.stdout:flush() \
                for i = 1, math.huge do io.open('f' .. i, 'w'):close() end";
    let (execution, ()) = tokio::join!(lab.vm.execute(code.into()), async {
        while !home(lab.base.path()).is_some_and(|home| home.join("f100").exists()) {
            tokio::task::yield_now().await;
        }
        lab.vm.destroy().await.unwrap();
    });
    assert_eq!(execution.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(std::fs::read_dir(lab.base.path()).unwrap().count(), 0);
}

fn home(base: &Path) -> Option<std::path::PathBuf> {
    Some(
        std::fs::read_dir(base)
            .ok()?
            .next()?
            .ok()?
            .path()
            .join("home"),
    )
}

#[tokio::test]
async fn a_dropped_vm_removes_its_directory() {
    let base = tempfile::tempdir().unwrap();
    let vm = create(BasicConfig::default().with_directory(base.path())).await;
    vm.start().await.unwrap();
    drop(vm);
    assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn factory_and_manager_know_the_type() {
    let base = tempfile::tempdir().unwrap();
    let manager = VmManager::new(VmFactory::new().with::<BasicConfig>());
    let config = serde_json::json!({"directory": base.path(), "memory": "64MB"});
    for id in ["a", "b"] {
        let vm = manager
            .create_vm(id, "basic", config.clone())
            .await
            .unwrap();
        assert_eq!(vm.vm_type(), "basic");
    }
    let outcome = manager
        .execute_vm("a", Script::new("print(...)").arg("x"))
        .await;
    assert_eq!(outcome.unwrap().stdout_text(), "x\n");
    let taken = manager.create_vm("a", "basic", config).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    manager.shutdown_all().await.unwrap();
    assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0);
    let wrong = manager.create_vm("c", "basic", serde_json::json!({"memory": 1}));
    assert_eq!(wrong.await.unwrap_err().kind(), ErrorKind::Config);
    let unset = manager.create_vm("d", "basic", Value::Null).await.unwrap();
    unset.destroy().await.unwrap();
}

async fn failure(config: BasicConfig) -> bioxen_vm_core::Error {
    let backend: BasicBackend = config.build().unwrap();
    backend.create(VmId::new("lab").unwrap()).await.unwrap_err()
}

#[tokio::test]
async fn what_the_machine_lacks_is_named_with_the_remedy() {
    for (config, kind, parts) in [
        (
            BasicConfig::default().with_lua_executable("no-such-lua"),
            ErrorKind::NotFound,
            ["no-such-lua", "install it"],
        ),
        (
            BasicConfig::default().with_lua_executable("/bin/true"),
            ErrorKind::Config,
            ["/bin/true", "lua5.4 for example"],
        ),
        (
            BasicConfig::default().with_worker("/no/such/worker"),
            ErrorKind::NotFound,
            ["/no/such/worker", "bioxen-lua-worker"],
        ),
        (
            BasicConfig::default().with_worker("/bin/true"),
            ErrorKind::Config,
            ["/bin/true", "run_if_asked"],
        ),
        (
            BasicConfig::default().with_directory("/no/such/directory"),
            ErrorKind::NotFound,
            ["/no/such/directory", "`directory`"],
        ),
    ] {
        let error = failure(config).await;
        assert_eq!(error.kind(), kind, "{error}");
        let text = error.to_string();
        assert!(text.starts_with("VM lab: cannot create: "), "{text}");
        for part in parts {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert!(!text.contains('\n'), "{text}");
    }
}

#[tokio::test]
async fn the_worker_does_nothing_by_hand() {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_bioxen-lua-worker"))
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("BioXen"));
}

#[tokio::test]
async fn programs_that_follow_closely_take_turns_in_two_processes_at_most() {
    let lab = Lab::built_in().await;
    for _ in 0..200 {
        assert!(lab.vm.execute("print(1)".into()).await.unwrap().success());
    }
    let workers = workers_of(&lab);
    assert!((1..=2).contains(&workers.len()), "{workers:?}");
}
