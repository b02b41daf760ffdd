//! What a manager of VMs promises, shown with an in-memory backend.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(feature = "testing")]

use std::sync::Arc;

use bioxen_vm_core::testing::{EchoBackend, EchoConfig};
use bioxen_vm_core::{ErrorKind, ExecutionStatus, Value, VmFactory, VmManager, VmState};
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
    assert!(error.to_string().contains("`fail`"), "{error}");
    assert!(error.to_string().contains("fail_start"), "{error}");
}

#[tokio::test]
async fn a_wrong_value_is_named_by_its_key() {
    let config = json!({"fail_start": "perhaps"});
    let error = manager().create_vm("a", "echo", config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(
        error.to_string().contains("fail_start: invalid type"),
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
