//! A pool that is busy with others, and many VMs at once.

use std::sync::Arc;
use std::time::Duration;

use bioxen_vm_core::{Backend, LuaVm, VmId};
use bioxen_vm_xcpng::XcpngBackend;
use serde_json::json;
use xapi_sim::{FaultRule, GuestMode, Model, SimOptions};

use crate::config_drive::{changes, model};
use crate::lab::Lab;

/// What a deployment asks of a pool that can be refused for now.
const REFUSABLE: [&str; 9] = [
    "VM.clone",
    "VM.set_other_config",
    "VM.set_is_a_template",
    "VM.set_memory_limits",
    "VDI.create",
    "VBD.create",
    "VM.set_name_label",
    "VM.start",
    "VM.destroy",
];

async fn lab() -> (Lab, XcpngBackend) {
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    let lab = Lab::with(model(), options).await;
    let config = changes(&lab, json!({"memory": "3GB"}));
    let backend = XcpngBackend::new(lab.config(config)).unwrap();
    (lab, backend)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_pool_is_asked_again_whatever_it_was_asked() {
    let (lab, backend) = lab().await;
    let before = lab.inventory().await;
    for method in REFUSABLE {
        let busy = FaultRule::method(method).times(1);
        let busy = busy.fail(
            "OTHER_OPERATION_IN_PROGRESS",
            ["VM", "OpaqueRef:other", "clone", "OpaqueRef:task"],
        );
        lab.sim.inject(busy);
        let full = FaultRule::method(method).times(1).after(1);
        lab.sim.inject(full.fail("TOO_MANY_PENDING_TASKS", [""; 0]));
    }
    let vm = backend.create(VmId::new("vm1").unwrap()).await.unwrap();
    // As one that nobody knows a way into, it starts without a guest.
    let driven = backend.adopt(VmId::new("driven").unwrap(), "bioxen-vm1");
    driven.await.unwrap().start().await.unwrap();
    vm.destroy().await.unwrap();
    for rule in lab.sim.faults() {
        let told = format!("{rule:?}");
        assert!(told.contains("left: Some(0)"), "never met: {told}");
    }
    backend.close().await.unwrap();
    lab.holds_only(&before, "afterwards").await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_that_were_cloned_too_often_are_copied_in_full() {
    let (lab, backend) = lab().await;
    let before = lab.inventory().await;
    lab.sim.inject(FaultRule::method("VM.clone").fail(
        "SR_BACKEND_FAILURE_109",
        ["", "The snapshot chain is too long", ""],
    ));
    let vm = backend.create(VmId::new("vm1").unwrap()).await.unwrap();
    let calls = lab.sim.calls();
    assert!(calls.iter().any(|call| call.method == "Async.VM.copy"));
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.holds_only(&before, "afterwards").await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_vms_are_made_at_once_by_one_look_at_the_template() {
    let options = SimOptions::default()
        .with_guests(GuestMode::Simulated)
        .with_latency(Duration::from_millis(5));
    let lab = Lab::with(Model::single_host(), options).await;
    let before = lab.inventory().await;
    let backend = Arc::new(lab.backend());
    let first = lab.sim.calls().len();
    let deploys: Vec<_> = (0..100)
        .map(|number| {
            let backend = Arc::clone(&backend);
            let id = VmId::new(format!("vm{number}")).unwrap();
            tokio::spawn(async move { backend.create(id).await.unwrap() })
        })
        .collect();
    let mut vms: Vec<Arc<dyn LuaVm>> = Vec::new();
    for deploy in deploys {
        vms.push(deploy.await.unwrap());
    }
    let calls = lab.sim.calls().split_off(first);
    let looks = calls
        .iter()
        .filter(|call| call.method == "VM.get_all_records_where");
    assert_eq!(looks.count(), 1);
    let removals: Vec<_> = vms
        .into_iter()
        .map(|vm| tokio::spawn(async move { vm.destroy().await.unwrap() }))
        .collect();
    for removal in removals {
        removal.await.unwrap();
    }
    backend.close().await.unwrap();
    assert_eq!(lab.inventory().await, before);
    lab.end().await;
}
