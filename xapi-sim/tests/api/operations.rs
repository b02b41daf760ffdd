//! What objects show, and refuse, while something is done to them.

use std::time::Duration;

use super::{map, record, this};
use crate::common::{Pool, device, ended, pool, pool_of, text};
use xapi_sim::{Model, Plugin, SimOptions, Value};

/// A pool in which everything takes a while, and a provisioned VM with its disk and SR.
async fn slow() -> (Pool, String, String, String) {
    let options = SimOptions::default().with_latency(Duration::from_secs(5));
    let pool = pool_of(Model::single_host(), options).await;
    let vm = pool.vm("worker").await;
    let disk = device(&pool, "VBD", &vm, "0").await;
    let vdi = text(&pool.get("VBD", "VDI", &disk).await);
    let sr = text(&pool.get("VDI", "SR", &vdi).await);
    (pool, vm, vdi, sr)
}

/// The operations that an object shows, without their tasks.
async fn current(pool: &Pool, class: &str, object: &str) -> Vec<String> {
    let current = pool.get(class, "current_operations", object).await;
    current
        .members()
        .iter()
        .map(|(_, value)| text(value))
        .collect()
}

/// Waits until an object shows an operation.
async fn shown(pool: &Pool, class: &str, object: &str, operation: &str) {
    let mut token = String::new();
    while !current(pool, class, object)
        .await
        .iter()
        .any(|o| o == operation)
    {
        let classes = Value::strings([format!("{class}/{object}")]);
        let params = vec![classes, token.as_str().into(), 30.0.into()];
        let batch = pool.call("event.from", params).await;
        token = text(batch.get("token").unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_and_its_sr_show_what_is_done_to_them() {
    let (pool, _, vdi, sr) = slow().await;
    let args = vec![vdi.as_str().into(), map(&[])];
    let task = text(&pool.call("Async.VDI.snapshot", args).await);
    shown(&pool, "VDI", &vdi, "snapshot").await;
    assert_eq!(current(&pool, "SR", &sr).await, ["vdi_snapshot"]);
    for (class, object) in [("VDI", &vdi), ("SR", &sr)] {
        let allowed = pool.get(class, "allowed_operations", object).await;
        assert_eq!(allowed, Value::Array(vec![]), "{class}");
    }
    ended(&pool, &task).await;
    assert!(current(&pool, "VDI", &vdi).await.is_empty());
    assert!(current(&pool, "SR", &sr).await.is_empty());
    let allowed = pool.get("VDI", "allowed_operations", &vdi).await;
    assert!(allowed.items().contains(&"snapshot".into()));
}

#[tokio::test(start_paused = true)]
async fn an_sr_does_one_thing_after_the_other() {
    let (pool, _, _, sr) = slow().await;
    let scan = text(&pool.call("Async.SR.scan", this(&sr)).await);
    shown(&pool, "SR", &sr, "scan").await;
    let again = text(&pool.call("Async.SR.update", this(&sr)).await);
    // The second waits for the first, and both end well.
    let status = pool.get("task", "status", &again).await;
    assert_eq!(status, Value::from("pending"));
    assert_eq!(current(&pool, "SR", &sr).await, ["scan"]);
    for task in [scan, again] {
        let record = ended(&pool, &task).await;
        assert_eq!(record.get("status"), Some(&Value::from("success")));
    }
}

#[tokio::test(start_paused = true)]
async fn devices_and_the_host_show_that_a_vm_starts() {
    let (pool, vm, _, _) = slow().await;
    let disk = device(&pool, "VBD", &vm, "0").await;
    let card = device(&pool, "VIF", &vm, "0").await;
    let host = text(&pool.call("host.get_all", vec![]).await.items()[0]);
    let args = vec![vm.as_str().into(), false.into(), false.into()];
    let task = text(&pool.call("Async.VM.start", args).await);
    shown(&pool, "VM", &vm, "start").await;
    assert_eq!(current(&pool, "VBD", &disk).await, ["attach"]);
    assert_eq!(current(&pool, "VIF", &card).await, ["attach"]);
    assert_eq!(current(&pool, "host", &host).await, ["vm_start"]);
    ended(&pool, &task).await;
    for (class, object) in [("VBD", &disk), ("VIF", &card), ("host", &host)] {
        assert!(current(&pool, class, object).await.is_empty(), "{class}");
    }
    let args = this(&card);
    let task = text(&pool.call("Async.VIF.unplug", args).await);
    shown(&pool, "VIF", &card, "unplug").await;
    ended(&pool, &task).await;
    let attached = pool.get("VIF", "currently_attached", &card).await;
    assert_eq!(attached, Value::Bool(false));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_copy_leaves_neither_disks_nor_marks() {
    let (pool, vm, vdi, sr) = slow().await;
    let args = record(&[
        ("name_label", "second".into()),
        ("SR", sr.as_str().into()),
        ("virtual_size", (1 << 30).into()),
        ("type", "user".into()),
        ("sharable", false.into()),
        ("read_only", false.into()),
        ("other_config", map(&[])),
    ]);
    let second = text(&pool.call("VDI.create", args).await);
    let args = record(&[
        ("VM", vm.as_str().into()),
        ("VDI", second.as_str().into()),
        ("userdevice", "1".into()),
        ("bootable", false.into()),
        ("mode", "RW".into()),
        ("type", "Disk".into()),
        ("empty", false.into()),
        ("other_config", map(&[])),
        ("qos_algorithm_type", "".into()),
        ("qos_algorithm_params", map(&[])),
    ]);
    pool.call("VBD.create", args).await;
    let before = pool.call("VDI.get_all", vec![]).await.items().len();
    let args = vec![vm.as_str().into(), "copy".into()];
    let task = text(&pool.call("Async.VM.clone", args).await);
    // One of the two disks is copied, the other is about to be.
    let mut waiting = 0;
    while pool.call("VDI.get_all", vec![]).await.items().len() == before {
        waiting += 1;
        assert!(waiting < 1000, "no disk is ever copied");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    pool.call("task.cancel", this(&task)).await;
    let end = ended(&pool, &task).await;
    assert_eq!(end.get("status"), Some(&Value::from("cancelled")));
    assert_eq!(pool.call("VDI.get_all", vec![]).await.items().len(), before);
    for (class, object) in [("VM", &vm), ("VDI", &vdi), ("VDI", &second), ("SR", &sr)] {
        assert!(current(&pool, class, object).await.is_empty(), "{class}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_concerns_the_pool_goes_one_at_a_time() {
    let (pool, ..) = slow().await;
    let all = pool.call("pool.get_all", vec![]).await;
    let whole = text(&all.items()[0]);
    let args = vec![Value::Array(vec![]), map(&[])];
    let task = text(&pool.call("Async.pool.enable_ha", args.clone()).await);
    shown(&pool, "pool", &whole, "ha_enable").await;
    let allowed = pool.get("pool", "allowed_operations", &whole).await;
    assert_eq!(allowed, Value::Array(vec![]));
    assert_eq!(
        pool.fails("pool.enable_ha", args).await,
        "HA_ENABLE_IN_PROGRESS"
    );
    ended(&pool, &task).await;
    let allowed = pool.get("pool", "allowed_operations", &whole).await;
    assert!(allowed.items().contains(&"ha_disable".into()));
    assert!(!allowed.items().contains(&"ha_enable".into()));
}

#[tokio::test]
async fn plugins_answer_what_they_were_told_to() {
    let pool = pool().await;
    let host = text(&pool.call("host.get_all", vec![]).await.items()[0]);
    let call = |plugin: &str, function: &str| {
        let args = Value::map([("key", "value")]);
        vec![host.as_str().into(), plugin.into(), function.into(), args]
    };
    let refused = async |plugin: &str, function: &str| {
        pool.fails("host.call_plugin", call(plugin, function)).await
    };
    assert_eq!(
        refused("zfs.py", "list").await,
        "XENAPI_MISSING_PLUGIN|zfs.py"
    );
    let list = Plugin::new("zfs.py", "list");
    pool.sim.add_plugin(list.clone().returns("{}"));
    let answer = pool.call("host.call_plugin", call("zfs.py", "list")).await;
    assert_eq!(answer, "{}".into());
    assert_eq!(
        refused("zfs.py", "destroy").await,
        "UNKNOWN_XENAPI_PLUGIN_FUNCTION|destroy"
    );
    // The newest that fits counts, and one for other arguments does not fit.
    pool.sim
        .add_plugin(list.arg("key", "other").fails("NO", [""; 0]));
    pool.call("host.call_plugin", call("zfs.py", "list")).await;
    assert_eq!(pool.sim.plugins().len(), 2);
    pool.sim.clear_plugins();
    let other = Plugin::new("zfs.py", "list").arg("key", "other");
    pool.sim.add_plugin(other);
    assert!(
        refused("zfs.py", "list")
            .await
            .starts_with("XENAPI_PLUGIN_FAILURE|list|")
    );
    // A VM asks the host on which it runs.
    let vm = pool.vm("worker").await;
    pool.start(&vm).await;
    let mut of_vm = call("zfs.py", "none");
    of_vm[0] = vm.into();
    assert_eq!(
        pool.fails("VM.call_host_plugin", of_vm).await,
        "UNKNOWN_XENAPI_PLUGIN_FUNCTION|none"
    );
}
