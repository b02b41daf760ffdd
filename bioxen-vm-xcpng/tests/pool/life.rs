//! A VM that ends while it boots is not waited for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bioxen_vm_core::{Backend as _, ErrorKind, LuaVm, VmId};
use bioxen_vm_xcpng::{Stage, StageState, XcpngBackend};
use serde_json::{Value, json};
use xapi_sim::{GuestMode, GuestReport, Model, SimOptions, TemplateSpec};

use crate::config_drive::NETWORK;
use crate::lab::Lab;

/// Longer than any of this takes, and much shorter than the wait that it would be.
const AT_ONCE: Duration = Duration::from_secs(20);

/// Starts a VM, does something to it when it comes to a stage, and gives the error of the start.
async fn start_until(
    lab: &Lab,
    changes: Value,
    stage: Stage,
    end: impl AsyncFnOnce(&Lab, &str),
) -> bioxen_vm_core::Error {
    let backend = XcpngBackend::new(lab.config(changes)).unwrap();
    let vm: Arc<dyn LuaVm> = backend.create(VmId::new("vm1").unwrap()).await.unwrap();
    let mut progress = backend.subscribe();
    let begun = Instant::now();
    let ending = async {
        loop {
            let news = progress.recv().await.unwrap();
            if (news.stage, news.state) == (stage, StageState::Started) {
                return end(lab, "bioxen-vm1").await;
            }
        }
    };
    let (started, ()) = tokio::join!(vm.start(), ending);
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    started.unwrap_err()
}

async fn switch_off(lab: &Lab, name: &str) {
    let vm = lab.named(name).await;
    lab.client().vm().hard_shutdown(&vm).await.unwrap();
}

async fn destroy(lab: &Lab, name: &str) {
    switch_off(lab, name).await;
    lab.remove(name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_ends_before_it_can_be_logged_in_to_is_told_of_at_once() {
    let mute = TemplateSpec::with_guest("mute").report(GuestReport::NoTools);
    let model = Model::single_host().template(mute.vif(NETWORK));
    let lab = Lab::with(
        model,
        SimOptions::default().with_guests(GuestMode::Simulated),
    )
    .await;
    let before = lab.inventory().await;
    // Nothing listens anywhere.
    let by_tools = json!({"boot_timeout": "90s"});
    let mute = json!({"template": "mute", "boot_timeout": "90s"});
    let fixed = json!({
        "boot_timeout": "90s", "static_address": {"address": "127.0.0.9/8"},
        "ssh": {"first_contact": "config-drive", "port": 1},
    });
    for (changes, stage) in [
        (by_tools, Stage::Login),
        (fixed, Stage::Login),
        (mute, Stage::Address),
    ] {
        let error = start_until(&lab, changes.clone(), stage, switch_off).await;
        assert_eq!(error.kind(), ErrorKind::InvalidState, "{error}");
        let told = error.to_string();
        assert!(told.contains("was switched off"), "{told}");

        let error = start_until(&lab, changes, stage, destroy).await;
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        let told = error.to_string();
        assert!(told.contains("was destroyed by somebody else"), "{told}");
    }
    assert_eq!(lab.inventory().await, before);
    lab.end().await;
}

async fn unplug(lab: &Lab, name: &str) {
    let mut reports = lab.client().watch(&["vm_guest_metrics"]);
    for vif in lab.record_of(name).await.vifs {
        // Only a guest whose tools have reported lets go of it.
        while lab.client().vif().unplug(&vif).await.is_err() {
            reports.next().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_that_is_unplugged_and_an_address_elsewhere_are_told() {
    let mute = TemplateSpec::with_guest("mute").report(GuestReport::NoAddress);
    let model = Model::single_host().template(mute.vif(NETWORK));
    let lab = Lab::with(
        model,
        SimOptions::default().with_guests(GuestMode::Simulated),
    )
    .await;
    let mute = json!({"template": "mute", "boot_timeout": "2s"});
    let elsewhere = json!({"address_cidr": "198.51.100.0/24", "boot_timeout": "2s"});
    let error = start_until(&lab, mute, Stage::Address, unplug).await;
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    let told = error.to_string();
    assert!(
        told.contains("interface is not plugged in") && told.contains("xe vif-list"),
        "{told}"
    );
    let error = start_until(&lab, elsewhere, Stage::Address, async |_, _| {}).await;
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    let told = error.to_string();
    assert!(
        told.contains("in none of the networks of address_cidr"),
        "{told}"
    );
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_without_an_interface_is_refused_before_anything_is_made() {
    let alone = TemplateSpec::with_guest("alone");
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    let lab = Lab::with(Model::single_host().template(alone), options).await;
    let before = lab.inventory().await;
    let id = VmId::new("vm1").unwrap();
    let backend = XcpngBackend::new(lab.config(json!({"template": "alone"}))).unwrap();
    for error in [
        backend.plan(&id).await.unwrap_err(),
        backend.create(id.clone()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        let told = error.to_string();
        assert!(
            told.contains("\"alone\" has no network interface") && told.contains("set network"),
            "{told}"
        );
    }
    backend.close().await.unwrap();
    let given = json!({"template": "alone", "network": NETWORK});
    let backend = XcpngBackend::new(lab.config(given)).unwrap();
    backend.create(id).await.unwrap().destroy().await.unwrap();
    backend.close().await.unwrap();
    assert_eq!(lab.inventory().await, before);
    lab.end().await;
}
