//! Whatever goes wrong, nothing stays behind.

use std::error::Error as _;
use std::time::Duration;

use bioxen_vm_core::{Backend, Script, VmId};
use xapi_sim::{FaultRule, GuestMode, Model, SimOptions};

use crate::lab::Lab;

/// The calls of one deployment, from the login to the end.
async fn calls_of_a_deployment() -> usize {
    let lab = Lab::records_only().await;
    let before = lab.sim.calls().len();
    let backend = lab.backend();
    let vm = backend.create(VmId::new("vm1").unwrap()).await.unwrap();
    let calls = lab.sim.calls().len() - before;
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.end().await;
    calls
}

async fn deploy_with(rule: impl Fn() -> FaultRule, name: &str) {
    let lab = Lab::records_only().await;
    let before = lab.inventory().await;
    let backend = lab.backend();
    lab.sim.inject(rule());
    let result = backend.create(VmId::new("vm1").unwrap()).await;
    lab.sim.clear_faults();
    if let Ok(vm) = result {
        vm.destroy().await.unwrap();
    }
    backend.close().await.unwrap();
    lab.holds_only(&before, name).await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_leaves_nothing_whichever_it_is() {
    let calls = calls_of_a_deployment().await as u64;
    assert!(calls > 8, "{calls}");
    for number in 0..calls {
        let rule = || {
            FaultRule::method("*")
                .after(number)
                .times(1)
                .fail("INTERNAL_ERROR", ["no"])
        };
        deploy_with(rule, &format!("call {number} of {calls} fails")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_after_it_took_effect_leaves_nothing_whichever_it_is() {
    let calls = calls_of_a_deployment().await as u64;
    for number in 0..calls {
        let rule = || {
            FaultRule::method("*")
                .after(number)
                .times(1)
                .fail("INTERNAL_ERROR", ["no"])
                .after_effect()
        };
        deploy_with(rule, &format!("call {number} of {calls} lies")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_back_is_named_with_what_went_wrong_before() {
    let lab = Lab::records_only().await;
    let backend = lab.backend();
    for (method, reason) in [("VM.set_other_config", "first"), ("VM.destroy", "second")] {
        lab.sim
            .inject(FaultRule::method(method).fail("INTERNAL_ERROR", [reason]));
    }
    let error = backend.create(VmId::new("vm1").unwrap()).await.unwrap_err();
    let told = error.to_string();
    for part in [
        "mark the cloned VM",
        "first",
        "\"bioxen-vm1\"",
        "`bioxen gc`",
    ] {
        assert!(told.contains(part), "{part} is missing in: {told}");
    }
    let cause = error.source().unwrap().to_string();
    assert!(cause.contains("second"), "{cause}");
    backend.close().await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_nobody_waits_for_leaves_nothing_wherever_it_is() {
    let options = SimOptions::default()
        .with_guests(GuestMode::Simulated)
        .with_latency(Duration::from_millis(2));
    let lab = Lab::with(Model::single_host(), options).await;
    let before = lab.inventory().await;
    let calls = calls_of_a_deployment().await;
    for number in 1..=calls {
        let backend = lab.backend();
        let start = lab.sim.calls().len();
        let id = VmId::new("vm1").unwrap();
        let deployment = backend.create(id);
        let far_enough = async {
            while lab.sim.calls().len() < start + number {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            result = deployment => drop(result.unwrap().destroy().await),
            () = far_enough => {}
        }
        backend.close().await.unwrap();
        assert_eq!(
            lab.inventory().await,
            before,
            "dropped after {number} of {calls} calls"
        );
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_failed_half_way_is_finished_by_the_next() {
    for method in [
        "VM.get_record",
        "VBD.get_all_records_where",
        "VM.destroy",
        "VDI.destroy",
    ] {
        for lies in [false, true] {
            let lab = Lab::records_only().await;
            let before = lab.inventory().await;
            let backend = lab.backend();
            let vm = backend.create(VmId::new("vm1").unwrap()).await.unwrap();
            let rule = FaultRule::method(method)
                .times(1)
                .fail("INTERNAL_ERROR", ["no"]);
            lab.sim
                .inject(if lies { rule.after_effect() } else { rule });
            let error = vm.destroy().await.unwrap_err();
            assert!(error.to_string().contains("bioxen-vm1"), "{error}");
            vm.destroy().await.unwrap();
            backend.close().await.unwrap();
            assert_eq!(lab.inventory().await, before, "{method}");
            lab.end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_can_be_tried_again_and_leaves_nothing_whichever_call_fails() {
    let lab = Lab::start().await;
    let before = lab.inventory().await;
    let backend = lab.backend();
    let vm = backend.create(VmId::new("vm0").unwrap()).await.unwrap();
    let first = lab.sim.calls().len();
    vm.start().await.unwrap();
    let calls = (lab.sim.calls().len() - first) as u64;
    vm.destroy().await.unwrap();
    for number in 0..calls {
        let vm = backend.create(VmId::new("vm1").unwrap()).await.unwrap();
        let rule = FaultRule::method("*")
            .after(number)
            .times(1)
            .fail("INTERNAL_ERROR", ["no"]);
        lab.sim.inject(rule);
        let failed = vm.start().await.is_err();
        lab.sim.clear_faults();
        vm.start().await.unwrap();
        let outcome = vm.execute(Script::new("print(1)")).await.unwrap();
        assert!(
            outcome.success(),
            "call {number} failed: {failed}, {outcome:?}"
        );
        vm.destroy().await.unwrap();
        lab.holds_only(&before, &format!("call {number} of {calls} fails"))
            .await;
    }
    backend.close().await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_whose_start_nobody_waits_for_any_more_is_removed() {
    let lab = Lab::records_only().await;
    let before = lab.inventory().await;
    let backend = lab.backend();
    let vm = backend.create(VmId::new("vm1").unwrap()).await.unwrap();
    // As one that nobody knows a way into, it starts without a guest.
    let driven = backend.adopt(VmId::new("driven").unwrap(), "bioxen-vm1");
    let driven = driven.await.unwrap();
    // It is seen to be stopped, starts, and then its disk is in use.
    let slow = |method, millis| FaultRule::method(method).delay(Duration::from_millis(millis));
    lab.sim.inject(slow("VM.start", 300).times(1));
    lab.sim.inject(slow("VDI.destroy", 1500).times(1));
    let called = async |method: &str| {
        while !lab.sim.calls().iter().any(|call| call.method == method) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let starting = tokio::spawn(async move { driven.start().await });
    called("VM.start").await;
    starting.abort();
    vm.destroy().await.unwrap();
    called("VM.hard_shutdown").await;
    backend.close().await.unwrap();
    assert_eq!(lab.inventory().await, before);
    lab.end().await;
}
