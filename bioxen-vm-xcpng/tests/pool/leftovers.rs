//! Whenever a deploying program is killed, and whichever answer gets lost, nothing stays behind.

use std::path::Path;

use bioxen_vm_core::{Backend, BackendConfig, Script, VmId};
use bioxen_vm_xcpng::{LeftoverKind, XcpngBackend, XcpngConfig};
use serde_json::{Value, json};
use xapi_client::api::TaskStatusType;
use xapi_sim::{FaultRule, GuestMode, Model, SimOptions};

use crate::config_drive::{changes, model};
use crate::kill::{Killed, after_each_call, at_each_ssh_step, collect, during_each_call, given};
use crate::lab::Lab;

const DEPLOYING: &str = "leftovers::deploying_program";
const DRIVING: &str = "leftovers::driving_program";

/// Nothing is there that a program makes to stay.
async fn none(_: &Lab) -> usize {
    0
}

/// What the killed program does: one VM, from its template to its end.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the program that other tests start and kill"]
async fn deploying_program() {
    let Some((config, _)) = given() else {
        return;
    };
    let backend = config.build().unwrap();
    let vm = backend.create(VmId::new("vm1").unwrap()).await.unwrap();
    let started = vm.start().await;
    if started.is_ok() {
        let outcome = vm.execute(Script::new("print(_VERSION)")).await.unwrap();
        assert!(outcome.success(), "{outcome:?}");
    }
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    started.unwrap();
}

/// What the other killed program does: all that can be done to a VM without entering it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the program that other tests start and kill"]
async fn driving_program() {
    let Some((config, host)) = given() else {
        return;
    };
    let backend = config.build().unwrap();
    let vm = backend.create(VmId::new("vm1").unwrap()).await.unwrap();
    vm.snapshot("first").await.unwrap();
    vm.revert("first").await.unwrap();
    // As one that nobody knows a way into, it starts without a guest.
    let id = VmId::new("driven").unwrap();
    let driven = backend.adopt(id, "bioxen-vm1").await.unwrap();
    driven.start().await.unwrap();
    let clone = driven.clone_vm(VmId::new("vm2").unwrap()).await.unwrap();
    driven.snapshot("second").await.unwrap();
    driven.migrate(&host).await.unwrap();
    driven.remove_snapshot("second").await.unwrap();
    clone.destroy().await.unwrap();
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
}

fn config(lab: &Lab, state: &Path, more: Value) -> Value {
    let mut config = changes(lab, more);
    config["state_dir"] = json!(state);
    lab.json(config)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_killed_after_any_call_leaves_nothing_that_is_not_collected() {
    let lab = Lab::with(model(), SimOptions::default()).await;
    let state = tempfile::tempdir().unwrap();
    let config = config(&lab, state.path(), json!({}));
    let Killed { steps, left } = after_each_call(&lab, DEPLOYING, config, 0.., none).await;
    assert!(steps > 15 && left > 10, "{steps} {left}");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_pool_still_works_on_for_a_killed_program_is_waited_for() {
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    let lab = Lab::with(Model::pool_of_three(), options).await;
    let state = tempfile::tempdir().unwrap();
    let host = lab.hosts().await.remove(1);
    let config = lab.json(json!({"state_dir": state.path(), "more": host}));
    // Those before make nothing, but for the session of a login that is not answered.
    let Killed { steps, left } = during_each_call(&lab, DRIVING, config, 9.., none).await;
    assert!(steps > 30 && left > 30, "{steps} {left}");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_killed_while_it_copies_leaves_nothing_that_is_not_collected() {
    let lab = Lab::with(model(), SimOptions::default()).await;
    let state = tempfile::tempdir().unwrap();
    let config = config(
        &lab,
        state.path(),
        json!({"clone": "copy", "disks": [{"size": "1GB"}]}),
    );
    let Killed { steps, left } = after_each_call(&lab, DEPLOYING, config, 0.., none).await;
    assert!(steps > 15 && left > 10, "{steps} {left}");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_killed_while_it_drives_vms_leaves_nothing_that_is_not_collected() {
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    let lab = Lab::with(Model::pool_of_three(), options).await;
    let state = tempfile::tempdir().unwrap();
    let host = lab.hosts().await.remove(1);
    let config = lab.json(json!({"state_dir": state.path(), "more": host}));
    // That a deployment can be killed is shown above.
    let Killed { steps, left } = after_each_call(&lab, DRIVING, config, 9.., none).await;
    assert!(steps > 30 && left > 30, "{steps} {left}");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_killed_at_any_step_of_its_way_into_a_vm_leaves_nothing_that_is_not_collected() {
    let lab = Lab::with(model(), SimOptions::default()).await;
    let state = tempfile::tempdir().unwrap();
    let config = config(&lab, state.path(), json!({}));
    let Killed { steps, left } = at_each_ssh_step(&lab, DEPLOYING, config, 0, none).await;
    assert!(steps > 6 && left > 6, "{steps} {left}");
    lab.end().await;
}

/// Once more where the answer that got lost was that of this very call.
async fn twice<T>(mut act: impl AsyncFnMut() -> bioxen_vm_core::Result<T>) -> T {
    match act().await {
        Ok(done) => done,
        Err(_) => act().await.unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_done_to_a_vm_is_done_once_or_not_at_all_when_an_answer_is_lost() {
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    let lab = Lab::with(Model::pool_of_three(), options).await;
    let before = lab.inventory().await;
    let hosts = lab.hosts().await;
    let id = |text: &str| VmId::new(text).unwrap();
    let (mut done, mut refused) = (0, 0);
    for number in 0.. {
        let backend = lab.backend();
        let vm = backend.create(id("vm1")).await.unwrap();
        let driven = backend.adopt(id("driven"), "bioxen-vm1").await.unwrap();
        let start = lab.sim.calls().len();
        let rule = FaultRule::method("*").after(number).times(1);
        lab.sim.inject(rule.disconnect().after_effect());

        let mut count = |is_done: bool| {
            done += usize::from(is_done);
            refused += usize::from(!is_done);
            usize::from(is_done)
        };
        let taken = driven.snapshot("one").await.is_ok();
        let found = twice(async || driven.snapshots().await).await.len();
        assert_eq!(found, count(taken), "answer {number} is lost");
        if taken {
            twice(async || driven.revert("one").await).await;
        }
        count(driven.start().await.is_ok());
        twice(async || driven.start().await).await;
        let clone = driven.clone_vm(id("vm2")).await;
        let vms = lab.inventory().await["VM"].len() - before["VM"].len() - found;
        assert_eq!(vms, 1 + count(clone.is_ok()), "answer {number} is lost");
        if let Ok(clone) = clone {
            twice(async || clone.destroy().await).await;
        }
        count(driven.migrate(&hosts[1]).await.is_ok());
        twice(async || driven.migrate(&hosts[1]).await).await;
        count(driven.stop().await.is_ok());
        count(vm.destroy().await.is_ok());
        twice(async || vm.destroy().await).await;
        let calls = (lab.sim.calls().len() - start) as u64;
        lab.sim.clear_faults();
        backend.close().await.unwrap();
        let mut after = lab.inventory().await;
        // A finished task whose clearing away got lost is cleared away by the pool.
        let tasks = lab.client().task().get_all_records().await.unwrap();
        let pending: Vec<_> = tasks
            .values()
            .filter(|task| task.status == TaskStatusType::Pending)
            .collect();
        assert!(pending.is_empty(), "answer {number} is lost: {pending:?}");
        after.insert("task", before["task"].clone());
        assert_eq!(after, before, "answer {number} is lost");
        if number > calls {
            break;
        }
    }
    println!("{done} went on after a lost answer, {refused} were refused with nothing left");
    assert!(done > refused, "{done} {refused}");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_ends_in_one_vm_or_none() {
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    let lab = Lab::with(model(), options).await;
    let state = tempfile::tempdir().unwrap();
    let config = config(&lab, state.path(), json!({}));
    let before = lab.inventory().await;
    let (mut made, mut refused) = (0, 0);
    for number in 0.. {
        let backend: XcpngConfig = serde_json::from_value(config.clone()).unwrap();
        let backend = backend.build().unwrap();
        let start = lab.sim.calls().len();
        let rule = FaultRule::method("*").after(number).times(1);
        lab.sim.inject(rule.disconnect().after_effect());
        let result = backend.create(VmId::new("vm1").unwrap()).await;
        let calls = (lab.sim.calls().len() - start) as u64;
        lab.sim.clear_faults();
        match result {
            Ok(vm) => {
                made += 1;
                let vms = lab.inventory().await["VM"].len();
                assert_eq!(vms, before["VM"].len() + 1, "answer {number} is lost");
                vm.destroy().await.unwrap();
            }
            Err(error) => {
                refused += 1;
                assert!(
                    !error.to_string().contains("is left on the pool"),
                    "{error}"
                );
            }
        }
        backend.close().await.unwrap();
        lab.holds_only(&before, &format!("answer {number} is lost"))
            .await;
        if number > calls {
            break;
        }
    }
    println!("{made} deployments went on after a lost answer, {refused} ended with nothing left");
    assert!(made > 5, "{made}");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_alive_or_not_ours_is_never_touched() {
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    let lab = Lab::with(model(), options).await;
    let state = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let config = config(&lab, state.path(), json!({}));
    let mut foreign = config.clone();
    foreign["state_dir"] = json!(elsewhere.path());
    let open = |config: &Value| -> XcpngBackend {
        let config: XcpngConfig = serde_json::from_value(config.clone()).unwrap();
        config.build().unwrap()
    };
    let before = lab.inventory().await;
    let (ours, theirs) = (open(&config), open(&foreign));
    let mine = ours.create(VmId::new("mine").unwrap()).await.unwrap();
    let other = theirs.create(VmId::new("other").unwrap()).await.unwrap();
    lab.copy("bioxen-mine", "a copy that somebody made").await;
    let busy = lab.inventory().await;

    assert_eq!(collect(&config, false).await.len(), 0, "both are in use");
    // Their run ends without removing its VM.
    drop((other, theirs));
    assert_eq!(
        collect(&config, false).await.len(),
        0,
        "another machine may use it"
    );
    assert_eq!(lab.inventory().await, busy);
    let found = collect(&foreign, true).await;
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].kind, &*found[0].name),
        (LeftoverKind::Vm, "bioxen-other")
    );
    assert_eq!(collect(&foreign, false).await.len(), 1);

    // Ours too, and nobody on this machine knows of it any more.
    drop((mine, ours));
    let mut forgotten = config.clone();
    forgotten["state_dir"] = Value::Null;
    assert_eq!(
        collect(&forgotten, true).await.len(),
        0,
        "it has not expired"
    );
    lab.set_other_config_again("bioxen-mine", "bioxen:expires", "1")
        .await;
    assert_eq!(collect(&forgotten, false).await.len(), 1);
    lab.remove("a copy that somebody made").await;
    assert_eq!(lab.inventory().await, before);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_looks_like_ours_is_never_touched() {
    let lab = Lab::records_only().await;
    let state = tempfile::tempdir().unwrap();
    let config = lab.json(json!({"state_dir": state.path()}));
    let backend: XcpngConfig = serde_json::from_value(config.clone()).unwrap();
    let backend = backend.build().unwrap();
    let vm = backend.create(VmId::new("mine").unwrap()).await.unwrap();
    // Names that begin as ours do, a copy with our marks, a template, a snapshot, a disk, a task.
    for name in [
        "bioxen-unfinished-report",
        "bioxen-unfinished-2024-7-final",
        "bioxen-mine",
        "copy",
    ] {
        lab.copy("lua-bio-template", name).await;
    }
    let api = lab.client().vm();
    let mine = vm.info().await.unwrap().details["uuid"].clone();
    let mine = api.get_by_uuid(&mine).await.unwrap();
    let copy = api.clone(&mine, "with our marks").await.unwrap();
    api.snapshot(&copy, "bioxen-unfinished-2024", None)
        .await
        .unwrap();
    let template = api.clone(&mine, "made a template").await.unwrap();
    api.set_is_a_template(&template, true).await.unwrap();
    lab.add_disk("copy", "bioxen-config-drive-of-mine").await;
    let task = lab.client().task();
    task.create("bioxen-config-drive-2024", "").await.unwrap();
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    drop((vm, backend));
    let theirs = lab.inventory().await;
    assert_eq!(collect(&config, false).await.len(), 0);
    assert_eq!(lab.inventory().await, theirs);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cleaning_up_needs_no_template() {
    let lab = Lab::records_only().await;
    let mut config = lab.json(json!({}));
    config.as_object_mut().unwrap().remove("template");
    let config: XcpngConfig = serde_json::from_value(config).unwrap();
    let error = config.clone().build().unwrap_err();
    assert!(error.to_string().contains("template is missing"), "{error}");
    let backend = config.build_without_template().unwrap();
    assert_eq!(backend.collect(true).await.unwrap().len(), 0);
    let refused = backend.create(VmId::new("vm1").unwrap()).await;
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("there is no template \"\""), "{error}");
    backend.close().await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_has_lost_its_vm_is_collected_with_its_run() {
    let lab = Lab::records_only().await;
    let before = lab.inventory().await;
    let state = tempfile::tempdir().unwrap();
    let config = lab.json(json!({"state_dir": state.path()}));
    let backend: XcpngConfig = serde_json::from_value(config.clone()).unwrap();
    let backend = backend.build().unwrap();
    let vm = backend.create(VmId::new("mine").unwrap()).await.unwrap();
    vm.snapshot("late").await.unwrap();
    lab.remove("bioxen-mine").await;
    assert_eq!(collect(&config, false).await.len(), 0, "its run lives");
    drop((vm, backend));
    let found = collect(&config, false).await;
    let kinds: Vec<_> = found.iter().map(|left| left.kind).collect();
    assert!(kinds.contains(&LeftoverKind::Snapshot), "{kinds:?}");
    assert_eq!(lab.inventory().await, before);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_whose_vm_somebody_destroyed_is_collected_unless_the_vm_was_kept() {
    let lab = Lab::records_only().await;
    let before = lab.inventory().await;
    let state = tempfile::tempdir().unwrap();
    let config = lab.json(json!({"state_dir": state.path(), "disks": [{"size": "1GB"}]}));
    let backend: XcpngConfig = serde_json::from_value(config.clone()).unwrap();
    let backend = backend.build().unwrap();
    let api = lab.client().vm();
    let mut disks = Vec::new();
    for (id, is_kept) in [("short", false), ("long", true)] {
        let vm = backend.create(VmId::new(id).unwrap()).await.unwrap();
        if is_kept {
            vm.keep().await.unwrap();
        }
        let uuid = vm.info().await.unwrap().details["uuid"].clone();
        let vm = api.get_by_uuid(&uuid).await.unwrap();
        for device in api.get_vbds(&vm).await.unwrap() {
            let disk = lab.client().vbd().get_vdi(&device).await.unwrap();
            if disk.is_null() {
                continue;
            }
            let copied = lab.client().vdi().clone(&disk, None).await;
            disks.push((disk, is_kept));
            // Somebody's copy of it is somebody's.
            disks.push((copied.unwrap(), true));
        }
        // As the pool does it: the disks stay.
        api.destroy(&vm).await.unwrap();
    }
    assert_eq!(disks.len(), 8);
    drop(backend);
    let found = collect(&config, false).await;
    let of_disks = found.iter().filter(|left| left.kind == LeftoverKind::Disk);
    assert_eq!(of_disks.count(), 2, "{found:?}");
    let mut expected = before;
    let stay = disks.iter().filter(|(_, stays)| *stays);
    let stay = stay.map(|(disk, _)| disk.as_str().to_owned());
    expected.get_mut("VDI").unwrap().extend(stay);
    assert_eq!(lab.inventory().await, expected);
    lab.end().await;
}
