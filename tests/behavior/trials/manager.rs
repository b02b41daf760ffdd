//! What the manager does with VMs and programs.

use std::path::Path;

use bioxen::{ErrorKind, ExecutionStatus, Value, gather};
use serde_json::json;

use super::{ANY, Entry, run};
use crate::target::Bench;

pub(super) const TRIALS: &[Entry] = trials![
    ANY b09_an_id_is_taken_once,
    ANY b10_an_execution_in_the_background_is_awaited_and_cancelled,
    ANY b11_a_cluster_is_broadcast_to_and_its_failures_are_data,
    ANY b12_the_manager_counts,
    ANY b14_each_vm_has_the_interpreter_that_was_chosen_for_it,
    ANY b16_what_went_wrong_is_told_by_its_kind,
    ANY b18_whoever_leaves_takes_everything_along,
    ANY d12_two_executions_at_once_know_their_own,
];

async fn b09_an_id_is_taken_once(bench: &Bench) {
    let again = bench
        .manager
        .create_vm("vm", bench.vm_type, bench.config.clone())
        .await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);
}

async fn b10_an_execution_in_the_background_is_awaited_and_cancelled(bench: &Bench) {
    let quick = bench.manager.spawn_execution("vm", "print(1)").unwrap();
    assert!(quick.wait().await.unwrap().success());
    assert_eq!(quick.status(), ExecutionStatus::Done);
    let endless = bench
        .manager
        .spawn_execution("vm", "while true do end")
        .unwrap();
    assert_eq!(endless.status(), ExecutionStatus::Running);
    endless.cancel();
    assert_eq!(
        endless.wait().await.unwrap_err().kind(),
        ErrorKind::Cancelled
    );
    assert_eq!(endless.status(), ExecutionStatus::Cancelled);
    let error = bench
        .manager
        .spawn_execution("nobody", "print(1)")
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

async fn b11_a_cluster_is_broadcast_to_and_its_failures_are_data(bench: &Bench) {
    let config: Value = bench.config.clone();
    let ids = bench
        .manager
        .create_cluster("x", 2, bench.vm_type, config)
        .await
        .unwrap();
    let names: Vec<_> = ids.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["x_000", "x_001"]);
    bench.manager.vm("x_001").unwrap().stop().await.unwrap();
    let results = gather(&bench.manager.broadcast("x_*", "print(1)").unwrap()).await;
    assert_eq!(results[&ids[0]].as_ref().unwrap().stdout_text(), "1\n");
    assert_eq!(
        results[&ids[1]].as_ref().unwrap_err().kind(),
        ErrorKind::InvalidState
    );
    assert_eq!(bench.manager.remove_cluster("x_*").await.unwrap(), 2);
}

async fn b12_the_manager_counts(bench: &Bench) {
    run(bench, "print(1)").await;
    let stats = bench.manager.stats();
    assert_eq!((stats.total_vms, stats.vms_by_type[bench.vm_type]), (1, 1));
    assert_eq!(
        (stats.running_operations, stats.completed_operations),
        (0, 1)
    );
}

async fn b14_each_vm_has_the_interpreter_that_was_chosen_for_it(bench: &Bench) {
    // LuaJIT calls itself Lua 5.1.
    let tell = "print(_VERSION, jit ~= nil)";
    let before = run(bench, tell).await.stdout_text().into_owned();
    assert!(before.starts_with(&format!("{}\t", bench.lua)), "{before}");
    for (id, program, says) in [
        ("old", "lua5.1", "Lua 5.1\tfalse\n"),
        ("jit", "luajit", "Lua 5.1\ttrue\n"),
        ("new", "lua5.3", "Lua 5.3\tfalse\n"),
    ] {
        let config = json!({"lua_executable": program});
        bench.manager.create_vm(id, "basic", config).await.unwrap();
        let outcome = bench.manager.execute_vm(id, tell).await.unwrap();
        assert_eq!(outcome.stdout_text(), says);
        let info = bench.manager.info(id).await.unwrap();
        let found = &info.details["program"];
        assert!(found.ends_with(&format!("/{program}")), "{found}");
    }
    // The choice of one VM is not that of another.
    assert_eq!(run(bench, tell).await.stdout_text(), before);
    // What is no Lua, or is not there, is told before there is a VM.
    for (program, kind) in [
        ("no-such-lua", ErrorKind::NotFound),
        ("true", ErrorKind::Config),
    ] {
        let config = json!({"lua_executable": program});
        let error = bench.manager.create_vm("none", "basic", config).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(program), "{error}");
    }
    assert_eq!(bench.manager.stats().total_vms, 4);
}

async fn b16_what_went_wrong_is_told_by_its_kind(bench: &Bench) {
    let (manager, vm_type) = (&bench.manager, bench.vm_type);
    let make = |id: &'static str, vm_type: &'static str, key: &'static str| {
        manager.create_vm(id, vm_type, json!({key: 1}))
    };
    let missing = Path::new("/no/such.lua");
    let stopped = async {
        manager.vm("vm").unwrap().stop().await.unwrap();
        let error = manager.execute_vm("vm", "print(1)").await.unwrap_err();
        manager.vm("vm").unwrap().start().await.unwrap();
        error
    };
    let cancelled = async {
        let endless = manager.spawn_execution("vm", "while true do end").unwrap();
        endless.cancel();
        endless.wait().await.unwrap_err()
    };
    // What was wrong, of which VM, and what the message names.
    let told = [
        (
            make("x", "none", "a").await.err(),
            ErrorKind::Unsupported,
            None,
            "basic",
        ),
        (
            make("x", vm_type, "misspelt").await.err(),
            ErrorKind::Config,
            None,
            "misspelt",
        ),
        (
            make("", vm_type, "a").await.err(),
            ErrorKind::Config,
            None,
            "id",
        ),
        (
            make("vm", vm_type, "a").await.err(),
            ErrorKind::AlreadyExists,
            Some("vm"),
            "vm",
        ),
        (
            manager.execute_vm("nobody", "x = 1").await.err(),
            ErrorKind::NotFound,
            None,
            "nobody",
        ),
        (
            manager.execute_file("vm", missing).await.err(),
            ErrorKind::NotFound,
            None,
            "such.lua",
        ),
        (
            manager.execute_vm("vm", "").await.err(),
            ErrorKind::Config,
            Some("vm"),
            "empty",
        ),
        (
            Some(stopped.await),
            ErrorKind::InvalidState,
            Some("vm"),
            "start it",
        ),
        (Some(cancelled.await), ErrorKind::Cancelled, None, "cancel"),
    ];
    for (error, kind, vm, named) in told {
        let error = error.unwrap();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(named), "{error}");
        if vm.is_some() {
            assert_eq!(error.vm(), vm, "{error}");
            assert!(error.operation().is_some(), "{error}");
        }
        // Trying again helps with none of them.
        assert!(!error.is_retryable(), "{error}");
    }
    assert!(run(bench, "print(1)").await.success());
}

async fn b18_whoever_leaves_takes_everything_along(bench: &Bench) {
    let endless = bench
        .manager
        .spawn_execution("vm", "while true do end")
        .unwrap();
    bench.manager.shutdown_all().await.unwrap();
    assert!(bench.manager.vms().is_empty());
    assert!(endless.wait().await.is_err());
}

async fn d12_two_executions_at_once_know_their_own(bench: &Bench) {
    let first = bench
        .manager
        .spawn_execution("vm", "while true do end")
        .unwrap();
    let second = bench.manager.spawn_execution("vm", "print(2)").unwrap();
    assert_eq!(second.wait().await.unwrap().stdout_text(), "2\n");
    assert_eq!(first.status(), ExecutionStatus::Running);
    first.cancel();
    assert!(first.wait().await.is_err());
}
