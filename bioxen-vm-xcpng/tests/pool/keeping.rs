//! VMs that outlive their program, and those that somebody else made.

use std::collections::BTreeMap;
use std::time::Duration;

use bioxen_vm_core::{Backend, ErrorKind, Script, VmId, VmState};
use bioxen_vm_xcpng::{LeftoverKind, XcpngBackend};
use serde_json::json;
use xapi_client::api::NetworkCreate;
use xapi_sim::{GuestMode, Model, SimOptions};

use crate::lab::Lab;

fn id(text: &str) -> VmId {
    VmId::new(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_vm_is_found_again_reached_and_never_collected_until_it_is_destroyed() {
    let lab = Lab::start().await;
    let before = lab.inventory().await;
    let state = tempfile::tempdir().unwrap();
    let open = || {
        let config = lab.config(json!({"state_dir": state.path(), "tags": ["lab-7"]}));
        XcpngBackend::new(config).unwrap()
    };
    let first = open();
    let vm = lab.running(&first, "mine").await;
    vm.stop().await.unwrap();
    vm.snapshot("before").await.unwrap();
    vm.start().await.unwrap();
    vm.keep().await.unwrap();
    vm.keep().await.unwrap();
    let uuid = vm.info().await.unwrap().details["uuid"].clone();
    drop(vm);
    first.close().await.unwrap();
    drop(first);

    let second = open();
    assert_eq!(second.collect(false).await.unwrap().len(), 0);
    let listed = second.list().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].id.as_str(), listed[0].state),
        ("mine", VmState::Running)
    );
    assert_eq!(listed[0].details["kept"], "true");
    assert!(listed[0].address.is_some());
    for which in ["mine", "bioxen-mine", &uuid, "tag:lab-7"] {
        let vm = second.adopt(id("found"), which).await.unwrap();
        assert_eq!(vm.info().await.unwrap().details["uuid"], uuid, "{which}");
    }
    let error = second.adopt(id("x"), "nobody").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("\"mine\""), "{error}");

    let vm = second.adopt(id("found"), "mine").await.unwrap();
    vm.start().await.unwrap();
    let outcome = vm.execute(Script::new("io.write('again')")).await.unwrap();
    assert_eq!(outcome.stdout_text(), "again");
    // A snapshot has no more to say about whose it is than the VM.
    vm.revert("before").await.unwrap();
    assert_eq!(second.collect(false).await.unwrap().len(), 0);
    vm.destroy().await.unwrap();
    second.close().await.unwrap();
    drop((vm, second));
    assert_eq!(lab.inventory().await, before);
    let left: Vec<_> = std::fs::read_dir(state.path().join("keys"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_nobody_knows_a_way_into_can_be_driven_but_not_entered() {
    let lab = Lab::records_only().await;
    let first = lab.backend();
    let vm = first.create(id("mine")).await.unwrap();
    let error = vm.keep().await.unwrap_err();
    assert!(error.to_string().contains("set state_dir"), "{error}");
    lab.copy("bioxen-mine", "made by hand").await;

    let second = lab.backend();
    let adopted = second.adopt(id("theirs"), "made by hand").await.unwrap();
    adopted.start().await.unwrap();
    adopted.pause().await.unwrap();
    adopted.unpause().await.unwrap();
    adopted.snapshot("one").await.unwrap();
    let error = adopted.execute(Script::new("print(1)")).await.unwrap_err();
    assert!(
        error.to_string().contains("nobody knows a way into it"),
        "{error}"
    );
    // A copy has the marks of the original, and is not ours for that.
    let listed = second.list().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].id.as_str(), "mine");
    let error = second.adopt(id("x"), "tag:none").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    adopted.destroy().await.unwrap();
    vm.destroy().await.unwrap();
    first.close().await.unwrap();
    second.close().await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_that_fit_are_listed() {
    let lab = Lab::records_only().await;
    let backend = XcpngBackend::new(lab.config(json!({"tags": ["lab"]}))).unwrap();
    let vms = [
        backend.create(id("a")).await.unwrap(),
        backend.create(id("b")).await.unwrap(),
    ];
    let error = backend.adopt(id("x"), "tag:lab").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    for vm in vms {
        let uuid = &vm.info().await.unwrap().details["uuid"];
        assert!(error.to_string().contains(uuid), "{error}");
        vm.destroy().await.unwrap();
    }
    backend.close().await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_run_renews_its_marks() {
    let lab = Lab::records_only().await;
    let config = lab.config(json!({"expiry": "3s"}));
    let backend = XcpngBackend::new(config.clone()).unwrap();
    let vm = backend.create(id("mine")).await.unwrap();
    let expires = async || lab.record(&*vm).await.other_config["bioxen:expires"].clone();
    let first = expires().await;
    let reference = lab.named("bioxen-mine").await;
    let mut watch = lab.client().watch(&[&format!("vm/{}", reference.as_str())]);
    while expires().await <= first {
        watch.next().await.unwrap();
    }
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_run_renews_the_marks_of_its_networks_and_no_others() {
    let lab = Lab::records_only().await;
    let backend = XcpngBackend::new(lab.config(json!({"expiry": "3s"}))).unwrap();
    let marks = backend.begin_making("network lab").await.unwrap();
    let client = lab.client();
    let api = client.network();
    let create = async |name: &str, marks: BTreeMap<String, String>| {
        let mut network = NetworkCreate::new(name);
        let (tags, lasting): (BTreeMap<_, _>, _) = marks
            .into_iter()
            .partition(|(key, _)| key != "bioxen:owner");
        network.other_config = lasting;
        let tags = tags.iter().map(|(key, value)| format!("{key}={value}"));
        network.tags = Some(tags.collect());
        api.create(&network).await.unwrap()
    };
    let lab_network = create("lab", marks.clone()).await;
    let mut foreign = marks.clone();
    foreign.insert("bioxen:run".to_owned(), "0123456789abcdef".to_owned());
    let foreign_network = create("foreign", foreign).await;
    let foreign_tags = api.get_tags(&foreign_network).await.unwrap();
    let mut watch = client.watch(&[&format!("network/{}", lab_network.as_str())]);
    let first = format!("bioxen:expires={}", marks["bioxen:expires"]);
    // One that is later, and in the end no other.
    loop {
        let mut now = api.get_tags(&lab_network).await.unwrap();
        now.retain(|tag| tag.starts_with("bioxen:expires="));
        if now.len() == 1 && now[0] > first {
            break;
        }
        watch.next().await.unwrap();
    }
    backend.end_making("network lab").await.unwrap();
    backend.close().await.unwrap();
    let now = api.get_tags(&foreign_network).await.unwrap();
    assert_eq!(now, foreign_tags);
    for network in [lab_network, foreign_network] {
        api.destroy(&network).await.unwrap();
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_to_vms_that_are_gone_are_collected_and_no_others() {
    let lab = Lab::records_only().await;
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    let other = Lab::with(Model::single_host().seed(7), options).await;
    let state = tempfile::tempdir().unwrap();
    let changes = json!({"state_dir": state.path()});
    let keys = || {
        let files = std::fs::read_dir(state.path().join("keys")).unwrap();
        files.count()
    };
    let elsewhere = XcpngBackend::new(other.config(changes.clone())).unwrap();
    let theirs = elsewhere.create(id("theirs")).await.unwrap();
    theirs.keep().await.unwrap();
    let backend = XcpngBackend::new(lab.config(changes)).unwrap();
    for name in ["gone", "there"] {
        let vm = backend.create(id(name)).await.unwrap();
        vm.keep().await.unwrap();
    }
    assert_eq!(
        (keys(), backend.collect(false).await.unwrap().len()),
        (3, 0)
    );
    lab.remove("bioxen-gone").await;
    let told = backend.collect(true).await.unwrap();
    assert_eq!(told[0].kind, LeftoverKind::Key);
    assert_eq!((told.len(), &*told[0].name), (1, "bioxen-gone"));
    assert_eq!(keys(), 3);
    assert_eq!(backend.collect(false).await.unwrap().len(), 1);
    assert_eq!(keys(), 2);
    let vm = backend.adopt(id("x"), "there").await.unwrap();
    vm.destroy().await.unwrap();
    theirs.destroy().await.unwrap();
    assert_eq!(keys(), 0);
    backend.close().await.unwrap();
    elsewhere.close().await.unwrap();
    lab.end().await;
    other.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_vms_are_listed_without_asking_for_all_that_the_pool_has() {
    let lab = Lab::records_only().await;
    let backend = lab.backend();
    let vm = backend.create(VmId::new("vm1").unwrap()).await.unwrap();
    let asked = async |backend: &XcpngBackend| {
        let first = lab.sim.calls().len();
        let listed = backend.list().await.unwrap();
        let calls = lab.sim.calls().split_off(first);
        let names: Vec<_> = calls.into_iter().map(|call| call.method).collect();
        (listed, names)
    };
    let (listed, names) = asked(&backend).await;
    assert_eq!(
        (listed.len(), names),
        (1, vec!["VM.get_all_records_where".to_owned()])
    );
    let on_pool = lab.named("bioxen-vm1").await;
    let mut watch = lab.client().watch(&["vm_guest_metrics"]);
    lab.client()
        .vm()
        .start(&on_pool, false, false)
        .await
        .unwrap();
    while lab
        .client()
        .vm()
        .get_guest_metrics(&on_pool)
        .await
        .unwrap()
        .is_null()
    {
        watch.next().await.unwrap();
    }
    let (listed, names) = asked(&backend).await;
    assert_eq!(
        names,
        [
            "VM.get_all_records_where",
            "VM_guest_metrics.get_networks",
            "host.get_name_label"
        ]
    );
    assert_eq!(listed[0].details["host"], lab.hosts().await[0]);
    assert!(listed[0].address.is_some(), "{listed:?}");
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_that_make_a_vm_of_one_id_at_the_same_time_one_keeps_it() {
    let lab = Lab::records_only().await;
    let state = tempfile::tempdir().unwrap();
    let config = lab.config(json!({"state_dir": state.path()}));
    // Some of the others see it when it is complete, and some before.
    for pause in [0, 3, 30] {
        let before = lab.inventory().await;
        let mut makers = tokio::task::JoinSet::new();
        for number in 0..5 {
            let backend = XcpngBackend::new(config.clone()).unwrap();
            makers.spawn(async move {
                tokio::time::sleep(Duration::from_millis(number * pause)).await;
                let vm = backend.create(id("mine")).await.unwrap();
                let kept = vm.keep().await;
                if let Err(error) = &kept {
                    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
                    vm.destroy().await.unwrap();
                }
                backend.close().await.unwrap();
                kept.is_ok()
            });
        }
        let kept = makers.join_all().await;
        assert_eq!(kept.iter().filter(|kept| **kept).count(), 1, "{kept:?}");
        assert_eq!(lab.inventory().await["VM"].len(), before["VM"].len() + 1);
        let backend = XcpngBackend::new(config.clone()).unwrap();
        let vm = backend.adopt(id("mine"), "mine").await.unwrap();
        vm.destroy().await.unwrap();
        backend.close().await.unwrap();
        assert_eq!(lab.inventory().await, before);
    }
    lab.end().await;
}
