//! What a manager of VMs promises, shown with an in-memory backend.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(feature = "testing")]

use std::sync::Arc;
use std::time::Duration;

use bioxen_vm_core::testing::{EchoBackend, EchoConfig};
use bioxen_vm_core::{
    ErrorKind, ExecutionStatus, Happening, SessionOptions, Status, Value, VmFactory, VmManager,
    VmState, gather,
};
use serde_json::json;

fn manager() -> VmManager {
    VmManager::new(VmFactory::new().with::<EchoConfig>())
}

#[tokio::test]
async fn a_created_vm_runs_until_it_is_removed() {
    let manager = manager();
    let vm = manager.create_vm("a", "echo", Value::Null).await.unwrap();
    assert_eq!(vm.info().await.unwrap().state, VmState::Running);
    assert_eq!(
        manager.execute_vm("a", "1").await.unwrap().stdout_text(),
        "1"
    );
    manager.remove_vm("a").await.unwrap();
    assert_eq!(vm.info().await.unwrap().state, VmState::Destroyed);
    let error = manager.execute_vm("a", "1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        error.to_string(),
        "VM \"a\" not found; this manager has: none"
    );
}

#[tokio::test]
async fn an_id_can_be_taken_once() {
    let manager = manager();
    manager.create_vm("a", "echo", Value::Null).await.unwrap();
    let error = manager
        .create_vm("a", "echo", Value::Null)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}

#[tokio::test]
async fn a_vm_that_does_not_start_leaves_its_id_free() {
    let manager = manager();
    let error = manager
        .create_vm("a", "echo", json!({"fail_start": true}))
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "VM a: cannot start: told to fail");
    manager.create_vm("a", "echo", Value::Null).await.unwrap();
}

#[tokio::test]
async fn a_wrong_key_names_itself_and_what_is_known() {
    let error = manager()
        .create_vm("a", "echo", json!({"fail": 1}))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(
        error.to_string().contains("unknown key \"fail\""),
        "{error}"
    );
    assert!(error.to_string().contains("fail_start"), "{error}");
}

#[tokio::test]
async fn a_wrong_value_is_named_by_its_key() {
    let config = json!({"fail_start": "perhaps"});
    let error = manager().create_vm("a", "echo", config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(
        error
            .to_string()
            .contains("fail_start: true or false is needed"),
        "{error}"
    );
}

#[tokio::test]
async fn an_execution_in_the_background_can_be_awaited_and_cancelled() {
    let manager = manager().with_backend(Arc::new(EchoBackend::default()));
    manager.create_vm("a", "echo", Value::Null).await.unwrap();
    let quick = manager.spawn_execution("a", "1").unwrap();
    assert_eq!(quick.wait().await.unwrap().stdout_text(), "1");
    assert_eq!(quick.status(), ExecutionStatus::Done);

    let endless = manager.spawn_execution("a", "wait for ever").unwrap();
    assert_eq!(endless.status(), ExecutionStatus::Running);
    endless.cancel();
    assert_eq!(
        endless.wait().await.unwrap_err().kind(),
        ErrorKind::Cancelled
    );
    assert_eq!(endless.status(), ExecutionStatus::Cancelled);
}

#[tokio::test]
async fn shutdown_destroys_everything() {
    let manager = manager();
    let a = manager.create_vm("a", "echo", Value::Null).await.unwrap();
    let b = manager.create_vm("b", "echo", Value::Null).await.unwrap();
    manager.shutdown_all().await.unwrap();
    assert!(manager.vms().is_empty());
    for vm in [a, b] {
        assert_eq!(vm.info().await.unwrap().state, VmState::Destroyed);
    }
}

#[tokio::test]
async fn a_vm_whose_creation_is_dropped_while_it_starts_is_not_forgotten() {
    let manager = Arc::new(manager());
    let creator = Arc::clone(&manager);
    let config = json!({"hang_start": true});
    let create =
        tokio::spawn(async move { creator.create_vm("a", "echo", config).await.map(drop) });
    // The VM exists once its id is known and it is not being made any more.
    while manager
        .vm("a")
        .is_err_and(|error| !error.to_string().contains("being made"))
    {
        tokio::task::yield_now().await;
    }
    create.abort();
    assert!(create.await.unwrap_err().is_cancelled());
    let error = manager
        .create_vm("a", "echo", Value::Null)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    manager.shutdown_all().await.unwrap();
    manager.create_vm("a", "echo", Value::Null).await.unwrap();
}

#[tokio::test]
async fn a_cluster_is_made_asked_and_removed_together() {
    let manager = Arc::new(manager().with_max_workers(2));
    let ids = manager
        .create_cluster("lab", 5, "echo", Value::Null)
        .await
        .unwrap();
    let names: Vec<_> = ids.iter().map(ToString::to_string).collect();
    assert_eq!(
        names,
        ["lab_000", "lab_001", "lab_002", "lab_003", "lab_004"]
    );
    manager
        .create_vm("other", "echo", Value::Null)
        .await
        .unwrap();
    manager.vm("lab_003").unwrap().stop().await.unwrap();
    let results = gather(&manager.broadcast("lab_*", "1").unwrap()).await;
    assert_eq!(results.len(), 5);
    for (id, result) in results {
        match result {
            Ok(outcome) => assert_eq!(outcome.stdout_text(), "1"),
            Err(error) => {
                assert_eq!(id.as_str(), "lab_003");
                assert_eq!(error.kind(), ErrorKind::InvalidState);
            }
        }
    }
    assert_eq!(manager.remove_cluster("lab_*").await.unwrap(), 5);
    assert_eq!(manager.vms().len(), 1);
    let error = manager.broadcast("lab_*", "1").unwrap_err();
    assert_eq!(
        error.to_string(),
        "no VM fits \"lab_*\"; this manager has: other"
    );
}

#[tokio::test]
async fn a_broadcast_runs_as_many_programs_at_once_as_it_may() {
    let manager = Arc::new(manager().with_max_workers(2));
    manager
        .create_cluster("lab", 5, "echo", Value::Null)
        .await
        .unwrap();
    let mut events = manager.subscribe();
    let executions = manager.broadcast("lab_*", "wait for ever").unwrap();
    // Each that ends makes room for one, and for no more.
    let (mut running, mut begun, mut ended) = (Vec::new(), 0, 0);
    while ended < 5 {
        let event = events.next().await.unwrap();
        match event.what {
            Happening::ExecutionStarted(_) => {
                begun += 1;
                running.push(event.vm);
            }
            Happening::ExecutionFinished(..) => {
                ended += 1;
                running.retain(|vm| *vm != event.vm);
            }
            _ => continue,
        }
        assert!(running.len() <= 2, "{running:?}");
        let full = running.len() == 2 || begun == 5;
        if full && let Some(vm) = running.first() {
            // Whoever still waits has every occasion to begin.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            let counted = manager.stats().running_operations;
            assert_eq!(usize::try_from(counted).unwrap(), running.len());
            executions[vm].cancel();
        }
    }
    assert_eq!(begun, 5);
}

#[tokio::test]
async fn a_cluster_that_cannot_be_made_whole_is_not_made() {
    let manager = Arc::new(manager());
    manager
        .create_vm("lab_002", "echo", Value::Null)
        .await
        .unwrap();
    let error = manager
        .create_cluster("lab", 4, "echo", Value::Null)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(manager.matching("*").len(), 1);
}

#[tokio::test]
async fn observers_see_what_happens_and_the_numbers_agree() {
    let manager = manager();
    let mut events = manager.subscribe();
    manager.create_vm("a", "echo", Value::Null).await.unwrap();
    manager.execute_vm("a", "1").await.unwrap();
    let endless = manager.spawn_execution("a", "wait for ever").unwrap();
    let mut seen = Vec::new();
    while seen.len() < 5 {
        seen.push(events.next().await.unwrap().what);
    }
    assert_eq!(manager.stats().running_operations, 1);
    endless.cancel();
    manager.remove_vm("a").await.unwrap();
    while seen.len() < 7 {
        seen.push(events.next().await.unwrap().what);
    }
    seen[5..].sort_by_key(|what| *what == Happening::Destroyed);
    assert_eq!(
        seen,
        [
            Happening::Creating,
            Happening::Ready,
            Happening::ExecutionStarted(1),
            Happening::ExecutionFinished(1, Some(Status::Exited(0))),
            Happening::ExecutionStarted(2),
            Happening::ExecutionFinished(2, None),
            Happening::Destroyed,
        ]
    );
    let stats = manager.stats();
    assert_eq!(
        (
            stats.total_vms,
            stats.running_operations,
            stats.completed_operations
        ),
        (0, 0, 2)
    );
    let totals = &stats.totals;
    assert_eq!((totals.vms_created, totals.vms_destroyed), (1, 1));
    let ends: Vec<_> = totals.operations_by_end.iter().collect();
    assert_eq!(ends, [(&"success", &1), (&"unknown", &1)]);
    let page = stats.to_prometheus();
    assert!(
        page.contains("bioxen_executions_total{end=\"success\"} 1\n"),
        "{page}"
    );
    assert!(
        page.contains("bioxen_execution_seconds_count 2\n"),
        "{page}"
    );
}

#[tokio::test]
async fn what_a_type_cannot_do_says_so() {
    let manager = manager();
    manager.create_vm("a", "echo", Value::Null).await.unwrap();
    let error = manager
        .open_session("a", SessionOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(
        error.to_string(),
        "VM a: VMs of type \"echo\" cannot keep sessions"
    );
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_no_longer_than_it_may() {
    let manager = manager().with_shutdown_limit(Duration::from_secs(5));
    manager
        .create_vm("a", "echo", json!({"hang_destroy": true}))
        .await
        .unwrap();
    let error = manager.shutdown_all().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(
        error.to_string(),
        "VM a: cannot destroy: it was not gone within 5 s; try again"
    );
}

#[tokio::test]
async fn what_was_kept_or_adopted_outlives_the_manager_and_is_removed_on_request_only() {
    let manager = manager();
    for id in ["mine", "kept"] {
        manager.create_vm(id, "echo", Value::Null).await.unwrap();
    }
    let adopt = |which: &'static str| manager.adopt_vm("theirs", "echo", which, Value::Null);
    let error = adopt("nobody").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    adopt("somebody").await.unwrap();
    let error = adopt("somebody").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    manager.keep_vm("kept").await.unwrap();
    let vms = ["mine", "kept", "theirs"].map(|id| manager.vm(id).unwrap());

    manager.shutdown_all().await.unwrap();
    let mut states = Vec::new();
    for vm in &vms {
        states.push(vm.info().await.unwrap().state);
    }
    use VmState::{Destroyed, Running};
    assert_eq!(states, [Destroyed, Running, Running]);
    assert_eq!(manager.vms().len(), 0);

    let adopted = adopt("somebody").await.unwrap();
    manager.remove_vm("theirs").await.unwrap();
    assert_eq!(adopted.info().await.unwrap().state, Destroyed);
}

#[tokio::test]
async fn a_clone_is_another_vm_that_runs_under_its_own_id() {
    let manager = manager();
    manager.create_vm("a", "echo", Value::Null).await.unwrap();
    let clone = manager.clone_vm("a", "b").await.unwrap();
    assert_eq!(clone.id().as_str(), "b");
    assert_eq!(clone.info().await.unwrap().state, VmState::Running);
    let error = manager.clone_vm("a", "b").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let error = manager.clone_vm("nobody", "c").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    manager.remove_vm("a").await.unwrap();
    assert_eq!(clone.info().await.unwrap().state, VmState::Running);
    manager.shutdown_all().await.unwrap();
}

#[tokio::test]
async fn what_a_type_cannot_do_it_says_and_changes_nothing() {
    let manager = manager();
    let vm = manager.create_vm("a", "echo", Value::Null).await.unwrap();
    let refusals = [
        (vm.pause().await, "be paused"),
        (vm.unpause().await, "be paused"),
        (vm.suspend().await, "be suspended"),
        (vm.resume().await, "be suspended"),
        (vm.snapshot("s").await.map(drop), "keep snapshots"),
        (vm.snapshots().await.map(drop), "keep snapshots"),
        (vm.revert("s").await, "keep snapshots"),
        (vm.remove_snapshot("s").await, "keep snapshots"),
        (vm.migrate("h").await, "be moved to another host"),
    ];
    for (refused, cannot) in refusals {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{cannot}");
        assert_eq!(
            error.to_string(),
            format!("VM a: VMs of type \"echo\" cannot {cannot}")
        );
    }
    assert_eq!(vm.info().await.unwrap().state, VmState::Running);
    vm.reboot().await.unwrap();
    assert_eq!(vm.info().await.unwrap().state, VmState::Running);
    manager.shutdown_all().await.unwrap();
}
