//! Copies of VMs and disks: what they take along, and the way back from a snapshot.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

mod common;

use common::{Pool, pool, text};
use xapi_sim::{NULL_REF, Value};

fn this(reference: &str) -> Vec<Value> {
    vec![reference.into()]
}

/// Whether the disk and the interface of a VM count as attached.
async fn attached(pool: &Pool, vm: &str) -> Vec<bool> {
    let mut attached = Vec::new();
    for vbd in pool.get("VM", "VBDs", vm).await.items() {
        let vbd = text(vbd);
        if pool.get("VBD", "type", &vbd).await == Value::from("Disk") {
            let flag = pool.get("VBD", "currently_attached", &vbd).await;
            attached.push(flag.as_bool().unwrap());
        }
    }
    for vif in pool.get("VM", "VIFs", vm).await.items() {
        let flag = pool.get("VIF", "currently_attached", &text(vif)).await;
        attached.push(flag.as_bool().unwrap());
    }
    attached
}

/// The disks of a VM.
async fn disks(pool: &Pool, vm: &str) -> Vec<String> {
    let mut disks = Vec::new();
    for vbd in pool.get("VM", "VBDs", vm).await.items() {
        let vdi = text(&pool.get("VBD", "VDI", &text(vbd)).await);
        if vdi != NULL_REF {
            disks.push(vdi);
        }
    }
    disks
}

async fn snapshot(pool: &Pool, vm: &str) -> String {
    let args = vec![vm.into(), "snapshot".into()];
    text(&pool.call("VM.snapshot", args).await)
}

#[tokio::test]
async fn snapshots_and_the_way_back() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    pool.call(
        "VM.set_name_description",
        vec![vm.as_str().into(), "before".into()],
    )
    .await;
    let snapshot = text(
        &pool
            .call("VM.snapshot", vec![vm.as_str().into(), "s".into()])
            .await,
    );
    assert_eq!(
        pool.get("VM", "is_a_template", &snapshot).await,
        Value::Bool(true)
    );
    assert_eq!(
        pool.get("VM", "snapshot_of", &snapshot).await,
        Value::from(vm.as_str())
    );
    assert_eq!(
        pool.get("VM", "snapshots", &vm).await,
        Value::strings([snapshot.as_str()])
    );
    pool.call(
        "VM.set_name_description",
        vec![vm.as_str().into(), "after".into()],
    )
    .await;
    let before = pool.get("VM", "VBDs", &vm).await;
    assert_eq!(
        pool.fails("VM.revert", vec![vm.as_str().into()]).await,
        format!("VM_REVERT_FAILED|{vm}|OpaqueRef:NULL")
    );
    pool.call("VM.revert", vec![snapshot.as_str().into()]).await;
    assert_eq!(
        pool.get("VM", "name_description", &vm).await,
        Value::from("before")
    );
    assert_eq!(
        pool.get("VM", "parent", &vm).await,
        Value::from(snapshot.as_str())
    );
    assert_ne!(pool.get("VM", "VBDs", &vm).await, before);
    pool.start(&vm).await;
    pool.call("VM.hard_shutdown", vec![vm.as_str().into()])
        .await;
    pool.call("VM.destroy", vec![vm.as_str().into()]).await;
    pool.call("VM.destroy", vec![snapshot.into()]).await;
}

#[tokio::test]
async fn checkpoints_sleep() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    pool.start(&vm).await;
    pool.reported(&vm).await;
    let domain = pool.get("VM", "domid", &vm).await;
    let args = vec![vm.as_str().into(), "c".into()];
    let checkpoint = text(&pool.call("VM.checkpoint", args).await);
    assert_eq!(pool.state(&checkpoint).await, "Suspended");
    assert_eq!(pool.state(&vm).await, "Running");
    assert_ne!(pool.get("VM", "domid", &vm).await, domain);
    assert_eq!(attached(&pool, &checkpoint).await, [true, true]);
    let args = vec![checkpoint.as_str().into(), "copy".into()];
    // A clone of what sleeps sleeps, too, with an image of its own.
    let copy = text(&pool.call("VM.clone", args).await);
    assert_eq!(pool.state(&copy).await, "Suspended");
    assert_eq!(attached(&pool, &copy).await, [true, true]);
    let image = async |vm: &str| text(&pool.get("VM", "suspend_VDI", vm).await);
    assert_ne!(image(&copy).await, NULL_REF);
    assert_ne!(image(&copy).await, image(&checkpoint).await);
    pool.call("VM.revert", vec![checkpoint.into()]).await;
    assert_eq!(pool.state(&vm).await, "Suspended");
    // The older way to a clone of a VM that sleeps.
    let clone = text(&pool.call("VM.csvm", vec![vm.as_str().into()]).await);
    assert_eq!(pool.state(&clone).await, "Suspended");
    let label = pool.get("VM", "name_label", &clone).await;
    assert_eq!(text(&label), "worker-cloned-suspended");
    pool.call(
        "VM.resume",
        vec![vm.as_str().into(), false.into(), false.into()],
    )
    .await;
    assert_eq!(pool.state(&vm).await, "Running");
    assert_eq!(
        pool.fails("VM.csvm", vec![vm.as_str().into()]).await,
        format!("VM_BAD_POWER_STATE|{vm}|suspended|running")
    );
}

#[tokio::test]
async fn a_copy_keeps_the_stale_report_of_its_original() {
    let pool = pool().await;
    let vm = pool.vm("original").await;
    pool.start(&vm).await;
    pool.reported(&vm).await;
    let report = text(&pool.get("VM", "guest_metrics", &vm).await);
    let networks = pool.get("VM_guest_metrics", "networks", &report).await;
    assert!(networks.get("0/ip").is_some());
    let ignored = Value::Array(Vec::new());
    let snapshot = vec![vm.as_str().into(), "snapshot".into(), ignored];
    let snapshot = text(&pool.call("VM.snapshot", snapshot).await);
    pool.call("VM.hard_shutdown", vec![vm.as_str().into()])
        .await;
    let clone = vec![vm.as_str().into(), "clone".into()];
    let clone = text(&pool.call("VM.clone", clone).await);
    for copy in [snapshot, clone] {
        let copied = text(&pool.get("VM", "guest_metrics", &copy).await);
        assert_ne!(copied, report);
        assert_eq!(
            pool.get("VM_guest_metrics", "networks", &copied).await,
            networks
        );
        pool.call("VM.destroy", vec![copy.into()]).await;
        let gone = pool
            .fails("VM_guest_metrics.get_record", vec![copied.as_str().into()])
            .await;
        assert_eq!(gone, format!("HANDLE_INVALID|VM_guest_metrics|{copied}"));
    }
}

#[tokio::test]
async fn a_snapshot_of_a_running_vm_lies_still() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    pool.start(&vm).await;
    pool.reported(&vm).await;
    let snapshot = snapshot(&pool, &vm).await;
    assert_eq!(pool.state(&snapshot).await, "Halted");
    assert_eq!(attached(&pool, &snapshot).await, [false, false]);
    let metadata = text(&pool.get("VM", "snapshot_metadata", &snapshot).await);
    for part in [
        "(('xenstore_data' '()') ",
        "('power_state' 'Running')",
        "('name__label' 'worker')",
        "('HVM__shadow_multiplier' '1')",
        "('is_a_snapshot' 'false')",
        &format!("('_ref' '{vm}')"),
    ] {
        assert!(metadata.contains(part), "{part} in {metadata}");
    }
    let interface = |vifs: Value| text(&vifs.items()[0]);
    let mine = interface(pool.get("VM", "VIFs", &vm).await);
    let copied = interface(pool.get("VM", "VIFs", &snapshot).await);
    assert_eq!(
        pool.get("VIF", "MAC", &mine).await,
        pool.get("VIF", "MAC", &copied).await
    );
    assert_eq!(
        pool.get("VIF", "MAC_autogenerated", &copied).await,
        Value::Bool(false),
        "what is kept counts as given"
    );
    let mine = pool.get("VM", "metrics", &vm).await;
    let copied = pool.get("VM", "metrics", &snapshot).await;
    assert_ne!(mine, copied);
    assert_eq!(
        pool.get("VM_metrics", "start_time", &text(&mine)).await,
        pool.get("VM_metrics", "start_time", &text(&copied)).await
    );
}

#[tokio::test]
async fn a_revert_restores_what_the_snapshot_knows() {
    let pool = pool().await;
    let vm = pool.vm("before").await;
    let old = disks(&pool, &vm).await;
    let first = snapshot(&pool, &vm).await;
    let second = snapshot(&pool, &vm).await;
    for (field, value) in [
        ("name_label", Value::from("after")),
        ("blocked_operations", Value::map([("pause", "no")])),
        ("tags", Value::strings(["kept"])),
    ] {
        let args = vec![vm.as_str().into(), value];
        pool.call(&format!("VM.set_{field}"), args).await;
    }
    pool.start(&vm).await;
    pool.call("VM.revert", this(&first)).await;
    assert_eq!(pool.state(&vm).await, "Halted");
    assert_eq!(
        pool.get("VM", "name_label", &vm).await,
        Value::from("before")
    );
    assert_eq!(
        pool.get("VM", "blocked_operations", &vm).await,
        Value::Struct(vec![])
    );
    assert_eq!(
        pool.get("VM", "tags", &vm).await,
        Value::strings(["kept"]),
        "tags stay"
    );
    assert_eq!(
        pool.get("VM", "is_a_snapshot", &vm).await,
        Value::Bool(false)
    );
    let new = disks(&pool, &vm).await;
    assert_ne!(new, old);
    assert_eq!(
        pool.fails("VDI.get_uuid", this(&old[0])).await,
        format!("HANDLE_INVALID|VDI|{}", old[0])
    );
    for snapshot in [first, second] {
        let version = &disks(&pool, &snapshot).await[0];
        assert_eq!(
            pool.get("VDI", "snapshot_of", version).await,
            Value::from(new[0].as_str()),
            "every version follows the disk"
        );
    }
    let messages = pool.call("message.get_all_records", vec![]).await;
    assert!(messages.members().iter().any(|(_, message)| {
        message.get("body") == Some(&Value::from("VM 'before' shutdown forcibly"))
            || message.get("body") == Some(&Value::from("VM 'after' shutdown forcibly"))
    }));
}

#[tokio::test]
async fn a_revert_brings_a_destroyed_vm_back() {
    let pool = pool().await;
    let vm = pool.vm("phoenix").await;
    let uuid = pool.get("VM", "uuid", &vm).await;
    let snapshot = snapshot(&pool, &vm).await;
    pool.call("VM.destroy", this(&vm)).await;
    pool.call("VM.revert", this(&snapshot)).await;
    let back = text(&pool.call("VM.get_by_uuid", vec![uuid]).await);
    assert_ne!(back, vm);
    assert_eq!(
        pool.get("VM", "snapshot_of", &snapshot).await,
        Value::from(back.as_str())
    );
    assert_eq!(disks(&pool, &back).await.len(), 1);
    pool.start(&back).await;
}

#[tokio::test]
async fn the_devices_of_a_sleeping_vm_count_as_attached() {
    let pool = pool().await;
    let vm = pool.vm("sleeper").await;
    pool.start(&vm).await;
    pool.reported(&vm).await;
    pool.call("VM.suspend", this(&vm)).await;
    assert_eq!(attached(&pool, &vm).await, [true, true]);
    let vdi = disks(&pool, &vm).await.remove(0);
    assert_eq!(
        pool.fails("VDI.destroy", this(&vdi)).await,
        format!("VDI_IN_USE|{vdi}|destroy")
    );
    let image = text(&pool.get("VM", "suspend_VDI", &vm).await);
    pool.call("VDI.destroy", this(&image)).await;
    assert_eq!(
        pool.get("VM", "suspend_VDI", &vm).await,
        Value::from(NULL_REF)
    );
    pool.call("VM.hard_shutdown", this(&vm)).await;
    assert_eq!(attached(&pool, &vm).await, [false, false]);
}

#[tokio::test]
async fn copies_of_disks() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let vdi = disks(&pool, &vm).await.remove(0);
    let sr = pool.get("VDI", "SR", &vdi).await;
    let tags = Value::strings(["blue"]);
    pool.call("VDI.set_tags", vec![vdi.as_str().into(), tags.clone()])
        .await;
    let clone = text(&pool.call("VDI.clone", this(&vdi)).await);
    let none = Value::Array(vec![]);
    assert_eq!(pool.get("VDI", "tags", &clone).await, none);
    let args = vec![vdi.as_str().into(), sr];
    let copy = text(&pool.call("VDI.copy", args.clone()).await);
    assert_eq!(pool.get("VDI", "tags", &copy).await, tags);
    let into = [args.clone(), vec![NULL_REF.into(), copy.as_str().into()]].concat();
    assert_eq!(
        pool.call("VDI.copy", into).await,
        Value::from(copy.as_str())
    );
    let reset = vec![vdi.as_str().into(), "reset".into()];
    pool.call("VDI.set_on_boot", reset).await;
    for (method, args) in [("VDI.snapshot", this(&vdi)), ("VDI.copy", args)] {
        assert_eq!(
            pool.fails(method, args).await,
            "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION"
        );
    }
    let tools = pool.named("VDI", "guest-tools.iso").await;
    let tools_sr = text(&pool.get("VDI", "SR", &tools).await);
    assert_eq!(
        pool.fails("VDI.destroy", this(&tools)).await,
        format!("SR_OPERATION_NOT_SUPPORTED|{tools_sr}")
    );
}

#[tokio::test]
async fn tracked_disks() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let vdi = disks(&pool, &vm).await.remove(0);
    let untracked = text(&pool.call("VDI.snapshot", this(&vdi)).await);
    pool.call("VDI.enable_cbt", this(&vdi)).await;
    let tracked = text(&pool.call("VDI.snapshot", this(&vdi)).await);
    assert_eq!(
        pool.get("VDI", "cbt_enabled", &tracked).await,
        Value::Bool(true)
    );
    for (method, vdi, failure) in [
        (
            "VDI.data_destroy",
            &vdi,
            format!("OPERATION_NOT_ALLOWED|VDI is not a snapshot: {vdi}"),
        ),
        (
            "VDI.data_destroy",
            &untracked,
            format!("VDI_NO_CBT_METADATA|{untracked}"),
        ),
        (
            "VDI.enable_cbt",
            &tracked,
            format!("OPERATION_NOT_ALLOWED|VDI is a snapshot: {tracked}"),
        ),
    ] {
        assert_eq!(pool.fails(method, this(vdi)).await, failure);
    }
    let reset = vec![vdi.as_str().into(), "reset".into()];
    assert_eq!(
        pool.fails("VDI.set_on_boot", reset).await,
        format!("VDI_CBT_ENABLED|{vdi}")
    );
    pool.call("VDI.data_destroy", this(&tracked)).await;
    assert_eq!(
        pool.fails("VDI.clone", this(&tracked)).await,
        format!("VDI_INCOMPATIBLE_TYPE|{tracked}|cbt_metadata")
    );
    pool.call("VDI.disable_cbt", this(&vdi)).await;
    pool.call("VDI.destroy", this(&tracked)).await;
}
