//! VMs and disks that move.

use super::{map, this};
use crate::common::{Pool, device, pool_of, text};
use xapi_sim::{Model, NULL_REF, SimOptions, Value};

async fn pool_of_three() -> Pool {
    pool_of(Model::pool_of_three(), SimOptions::default()).await
}

async fn hosts(pool: &Pool) -> Vec<String> {
    let hosts = pool.call("host.get_all", vec![]).await;
    hosts.items().iter().map(text).collect()
}

/// A host that a VM is not on.
async fn another_host(pool: &Pool, vm: &str) -> String {
    let here = text(&pool.get("VM", "resident_on", vm).await);
    hosts(pool)
        .await
        .into_iter()
        .find(|host| *host != here)
        .unwrap()
}

async fn receiver(pool: &Pool, host: &str) -> Value {
    let networks = pool.call("network.get_all", vec![]).await;
    for network in networks.items() {
        let args = vec![host.into(), network.clone(), map(&[])];
        if let Ok(dest) = pool.try_call("host.migrate_receive", args).await {
            return dest;
        }
    }
    panic!("no network reaches {host}")
}

fn journey(vm: &str, dest: &Value, live: bool, disks: &[(&str, &str)]) -> Vec<Value> {
    let options = map(&[]);
    vec![
        vm.into(),
        dest.clone(),
        live.into(),
        map(disks),
        map(&[]),
        options,
    ]
}

#[tokio::test]
async fn a_vm_moves_with_its_disk() {
    let pool = pool_of_three().await;
    let vm = pool.vm("worker").await;
    pool.start(&vm).await;
    pool.reported(&vm).await;
    let disk = device(&pool, "VBD", &vm, "0").await;
    let old = text(&pool.get("VBD", "VDI", &disk).await);
    let host = another_host(&pool, &vm).await;
    // The local SR of the host that it goes to.
    let mut local = String::new();
    for pbd in pool.get("host", "PBDs", &host).await.items() {
        let sr = text(&pool.get("PBD", "SR", &text(pbd)).await);
        if pool.get("SR", "type", &sr).await == Value::from("ext") {
            local = sr;
        }
    }
    let dest = receiver(&pool, &host).await;
    let args = journey(&vm, &dest, true, &[(&old, &local)]);
    pool.call("VM.assert_can_migrate", args.clone()).await;
    let moved = pool.call("VM.migrate_send", args).await;
    assert_eq!(moved, Value::from(vm.as_str()));
    assert_eq!(
        pool.get("VM", "resident_on", &vm).await,
        host.as_str().into()
    );
    let new = text(&pool.get("VBD", "VDI", &disk).await);
    assert_ne!(new, old);
    assert_eq!(pool.get("VDI", "SR", &new).await, local.as_str().into());
    assert_eq!(
        pool.fails("VDI.get_record", this(&old)).await,
        format!("HANDLE_INVALID|VDI|{old}")
    );
    // Now it depends on that host, and no other can take it without the disk.
    let elsewhere = another_host(&pool, &vm).await;
    let dest = receiver(&pool, &elsewhere).await;
    let args = journey(&vm, &dest, true, &[]);
    assert_eq!(
        pool.fails("VM.migrate_send", args).await,
        format!("VDI_NOT_IN_MAP|{new}")
    );
    let options = vec![vm.as_str().into(), elsewhere.as_str().into(), map(&[])];
    assert_eq!(
        pool.fails("VM.pool_migrate", options).await,
        format!("VM_REQUIRES_SR|{vm}|{local}")
    );
}

#[tokio::test]
async fn what_cannot_be_sent() {
    let pool = pool_of_three().await;
    let vm = pool.vm("worker").await;
    pool.start(&vm).await;
    pool.reported(&vm).await;
    let host = another_host(&pool, &vm).await;
    let dest = receiver(&pool, &host).await;
    assert_eq!(
        pool.fails("VM.migrate_send", journey(&vm, &dest, false, &[]))
            .await,
        format!("VM_BAD_POWER_STATE|{vm}|halted, suspended|running")
    );
    assert_eq!(
        pool.fails("VM.migrate_send", journey(&vm, &map(&[]), true, &[]))
            .await,
        "INTERNAL_ERROR|Not_found"
    );
    let card = device(&pool, "VIF", &vm, "0").await;
    let network = text(&pool.get("VIF", "network", &card).await);
    let mut args = journey(&vm, &dest, true, &[]);
    args[4] = map(&[(&card, &network)]);
    assert_eq!(
        pool.fails("VM.assert_can_migrate", args).await,
        "NOT_IMPLEMENTED|VIF mapping is not supported for intra-pool migration"
    );
    // Another pool, at an address where nobody is.
    let away = map(&[
        ("master", "http://192.0.2.9/"),
        ("xenops", "http://192.0.2.9/services/xenops?session_id=x"),
        ("SM", "http://192.0.2.9/services/SM?session_id=x"),
        ("session_id", "x"),
        ("host", "OpaqueRef:elsewhere"),
    ]);
    assert_eq!(
        pool.fails("VM.migrate_send", journey(&vm, &away, true, &[]))
            .await,
        "CANNOT_CONTACT_HOST|192.0.2.9"
    );
    let internal = pool
        .named("network", "Host internal management network")
        .await;
    let args = vec![host.as_str().into(), internal.as_str().into(), map(&[])];
    assert_eq!(
        pool.fails("host.migrate_receive", args).await,
        format!("HOST_CANNOT_ATTACH_NETWORK|{host}|{internal}")
    );
}

#[tokio::test]
async fn a_disk_moves_under_a_running_vm() {
    let pool = pool_of(Model::single_host(), SimOptions::default()).await;
    let vm = pool.vm("worker").await;
    pool.start(&vm).await;
    pool.reported(&vm).await;
    let disk = device(&pool, "VBD", &vm, "0").await;
    let old = text(&pool.get("VBD", "VDI", &disk).await);
    let shared = pool.named("SR", "Shared storage").await;
    let free = pool.get("SR", "virtual_allocation", &shared).await;
    let args = vec![old.as_str().into(), shared.as_str().into(), map(&[])];
    let new = text(&pool.call("VDI.pool_migrate", args).await);
    assert_eq!(text(&pool.get("VBD", "VDI", &disk).await), new);
    assert_eq!(pool.get("VDI", "SR", &new).await, shared.as_str().into());
    assert_ne!(pool.get("SR", "virtual_allocation", &shared).await, free);
    assert_eq!(pool.state(&vm).await, "Running");
    // A disk without a VM stays where it is.
    let copy = text(&pool.call("VDI.clone", vec![new.into(), map(&[])]).await);
    let local = pool.named("SR", "Local storage").await;
    let args = vec![copy.as_str().into(), local.into(), map(&[])];
    assert_eq!(
        pool.fails("VDI.pool_migrate", args).await,
        format!("VDI_NEEDS_VM_FOR_MIGRATE|{copy}")
    );
}

#[tokio::test]
async fn a_moved_disk_takes_its_snapshots_along() {
    let pool = pool_of(Model::single_host(), SimOptions::default()).await;
    let vm = pool.vm("worker").await;
    let disk = device(&pool, "VBD", &vm, "0").await;
    let old = text(&pool.get("VBD", "VDI", &disk).await);
    let args = vec![vm.as_str().into(), "before".into(), Value::Array(vec![])];
    let snapshot = text(&pool.call("VM.snapshot", args).await);
    let shared = pool.named("SR", "Shared storage").await;
    let args = vec![old.as_str().into(), shared.as_str().into(), map(&[])];
    let new = text(&pool.call("VDI.pool_migrate", args).await);
    let version = device(&pool, "VBD", &snapshot, "0").await;
    let version = text(&pool.get("VBD", "VDI", &version).await);
    assert_ne!(version, NULL_REF);
    assert_eq!(
        pool.get("VDI", "SR", &version).await,
        shared.as_str().into()
    );
    assert_eq!(pool.get("VDI", "snapshot_of", &version).await, new.into());
    pool.call("VM.revert", this(&snapshot)).await;
}
