//! Every state that a VM can be in, and the ways between them.

use std::sync::Arc;

use bioxen_vm_core::{Backend, ErrorKind, LuaVm, Script, VmId, VmState};
use bioxen_vm_xcpng::XcpngBackend;
use serde_json::json;
use xapi_sim::FaultRule;

use crate::lab::Lab;

async fn state(vm: &Arc<dyn LuaVm>) -> VmState {
    vm.info().await.unwrap().state
}

async fn runs_lua(vm: &Arc<dyn LuaVm>) {
    let outcome = vm.execute(Script::new("io.write('alive')")).await.unwrap();
    assert_eq!(outcome.stdout_text(), "alive");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_stands_still_and_goes_on_and_asking_twice_changes_nothing() {
    let lab = Lab::start().await;
    let before = lab.inventory().await;
    let backend = lab.backend();
    let vm = lab.running(&backend, "vm1").await;

    for _ in 0..2 {
        vm.pause().await.unwrap();
        assert_eq!(state(&vm).await, VmState::Paused);
    }
    let error = vm.execute(Script::new("print(1)")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidState);
    let error = vm.suspend().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "VM vm1: cannot suspend: it is paused; only what runs can be suspended"
    );
    for _ in 0..2 {
        vm.unpause().await.unwrap();
    }
    runs_lua(&vm).await;

    for _ in 0..2 {
        vm.suspend().await.unwrap();
        assert_eq!(state(&vm).await, VmState::Suspended);
    }
    assert_eq!(
        vm.unpause().await.unwrap_err().kind(),
        ErrorKind::InvalidState
    );
    for _ in 0..2 {
        vm.resume().await.unwrap();
    }
    runs_lua(&vm).await;

    vm.reboot().await.unwrap();
    runs_lua(&vm).await;

    vm.suspend().await.unwrap();
    vm.stop().await.unwrap();
    assert_eq!(state(&vm).await, VmState::Stopped);
    for refused in [vm.pause().await, vm.suspend().await, vm.reboot().await] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidState);
    }
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    assert_eq!(lab.inventory().await, before);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_that_does_not_end_is_switched_off() {
    let lab = Lab::records_only().await;
    let before = lab.inventory().await;
    let backend = XcpngBackend::new(lab.config(json!({"stop_timeout": "1s"}))).unwrap();
    let vm = backend.create(VmId::new("vm1").unwrap()).await.unwrap();
    let start = async |name: &str| {
        let (api, vm) = (lab.client().vm(), lab.named(name).await);
        api.start(&vm, false, false).await.unwrap();
    };
    // It has no tools, it is deaf, and it takes for ever.
    for rule in [
        FaultRule::method("VM.clean_shutdown").fail("VM_LACKS_FEATURE", ["vm"]),
        FaultRule::method("VM.clean_shutdown").fail("VM_FAILED_SHUTDOWN_ACKNOWLEDGMENT", ["vm"]),
        FaultRule::method("VM.clean_shutdown").delay(std::time::Duration::from_secs(3600)),
    ] {
        start("bioxen-vm1").await;
        lab.sim.inject(rule);
        vm.stop().await.unwrap();
        vm.stop().await.unwrap();
        assert_eq!(state(&vm).await, VmState::Stopped);
        lab.sim.clear_faults();
    }
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    // One that can end, and has the time to, is not switched off.
    let backend = lab.backend();
    let vm = backend.create(VmId::new("vm2").unwrap()).await.unwrap();
    start("bioxen-vm2").await;
    let calls = lab.sim.calls().len();
    vm.stop().await.unwrap();
    let calls: Vec<_> = lab
        .sim
        .calls()
        .drain(calls..)
        .map(|call| call.method)
        .collect();
    assert!(
        !calls.iter().any(|call| call.contains("hard_shutdown")),
        "{calls:?}"
    );
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.holds_only(&before, "afterwards").await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_somebody_else_has_brought_about_is_as_good() {
    let lab = Lab::start().await;
    let backend = lab.backend();
    let vm = lab.running(&backend, "vm1").await;
    let reference = lab.named("bioxen-vm1").await;
    let api = lab.client().vm();
    api.pause(&reference).await.unwrap();
    vm.pause().await.unwrap();
    api.unpause(&reference).await.unwrap();
    vm.unpause().await.unwrap();
    runs_lua(&vm).await;
    api.hard_shutdown(&reference).await.unwrap();
    vm.stop().await.unwrap();
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kept_every_host_from_it_and_is_over_by_now_is_not_told() {
    let lab = Lab::start().await;
    let none: [&str; 0] = [];
    let once = FaultRule::method("VM.start").times(1);
    lab.sim.inject(once.fail("NO_HOSTS_AVAILABLE", none));
    let backend = lab.backend();
    let vm = lab.running(&backend, "vm1").await;
    runs_lua(&vm).await;
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_host_says_why_it_will_not_have_a_vm() {
    let options = xapi_sim::SimOptions::default().with_guests(xapi_sim::GuestMode::Simulated);
    let lab = Lab::with(xapi_sim::Model::pool_of_three(), options).await;
    let backend = lab.backend();
    let vm = backend.create(VmId::new("vm1").unwrap()).await.unwrap();
    let hosts = lab.client().host();
    for host in hosts.get_all().await.unwrap() {
        hosts.disable(&host, None).await.unwrap();
    }
    let error = vm.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    let told = error.to_string();
    assert!(told.contains("no host of the pool can run it"), "{told}");
    for host in lab.hosts().await {
        assert!(told.contains(&format!("{host}: ")), "{told}");
    }
    assert!(told.contains("it is disabled"), "{told}");
    // Another one is not even begun: what cannot run is told before anything is made.
    let second = lab.backend();
    let calls = lab.sim.calls().len();
    let error = second.create(VmId::new("vm2").unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    for host in lab.hosts().await {
        let reason = format!("{host}: it is disabled");
        assert!(error.to_string().contains(&reason), "{error}");
    }
    let calls = lab.sim.calls().split_off(calls);
    assert!(!calls.iter().any(|call| call.method == "VM.clone"));
    second.close().await.unwrap();
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.end().await;
}
