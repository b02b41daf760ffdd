//! Whenever a deploying program is killed, and whichever answer gets lost, nothing stays behind.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bioxen_vm_core::{Backend, BackendConfig, VmId};
use bioxen_vm_xcpng::{LeftoverKind, XcpngBackend, XcpngConfig};
use serde_json::{Value, json};
use xapi_sim::{FaultRule, GuestMode, SimOptions};

use crate::config_drive::{changes, model};
use crate::lab::Lab;

/// In which variable the killed program finds its configuration.
const CONFIG: &str = "BIOXEN_TEST_DEPLOY";

/// What the killed program does: one VM, from its template to its end.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the program that other tests start and kill"]
async fn deploying_program() {
    let Ok(config) = std::env::var(CONFIG) else {
        return;
    };
    let config: XcpngConfig = serde_json::from_str(&config).unwrap();
    let backend = config.build().unwrap();
    let vm = backend.create(VmId::new("vm1").unwrap()).await.unwrap();
    let started = vm.start().await;
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    started.unwrap();
}

fn deploy(config: &Value) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "leftovers::deploying_program", "--ignored"])
        .env(CONFIG, config.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn config(lab: &Lab, state: &Path, more: Value) -> Value {
    let mut config = changes(lab, more);
    config["state_dir"] = json!(state);
    lab.json(config)
}

async fn collect(config: &Value, dry_run: bool) -> Vec<bioxen_vm_xcpng::Leftover> {
    let config: XcpngConfig = serde_json::from_value(config.clone()).unwrap();
    let backend = config.build().unwrap();
    let found = backend.collect(dry_run).await.unwrap();
    backend.close().await.unwrap();
    found
}

async fn kill_after_each_call(lab: Lab, more: Value) {
    let state = tempfile::tempdir().unwrap();
    let config = config(&lab, state.path(), more);
    let before = lab.inventory().await;
    let mut calls = 0;
    let mut left = 0;
    for number in 0.. {
        let start = lab.sim.calls().len();
        // The call does its work, and no answer comes.
        let rule = FaultRule::method("*").after(number).times(1);
        lab.sim.inject(rule.slow_body(Duration::from_secs(3600)));
        let mut program = deploy(&config);
        let ended = lab.until(start + number as usize + 1, &mut program).await;
        program.kill().unwrap();
        program.wait().unwrap();
        lab.sim.clear_faults();
        lab.until_idle().await;
        if let Some(status) = ended {
            assert!(status.success(), "{status}");
            calls = number;
            break;
        }
        let told = collect(&config, true).await;
        let found = collect(&config, false).await;
        assert_eq!(told.len(), found.len(), "killed after {number} calls");
        for one in &found {
            assert_eq!(one.problem, None, "killed after {number} calls: {one:?}");
        }
        left += found.len();
        assert_eq!(lab.inventory().await, before, "killed after {number} calls");
        assert_eq!(collect(&config, false).await.len(), 0);
    }
    println!("killed after each of {calls} calls; {left} things were left and collected");
    assert!(calls > 15, "{calls}");
    assert!(left > 10, "{left}");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_killed_after_any_call_leaves_nothing_that_is_not_collected() {
    let lab = Lab::with(model(), SimOptions::default()).await;
    kill_after_each_call(lab, json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_killed_while_it_copies_leaves_nothing_that_is_not_collected() {
    let lab = Lab::with(model(), SimOptions::default()).await;
    kill_after_each_call(lab, json!({"clone": "copy"})).await;
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
                assert!(!error.to_string().contains("by hand"), "{error}");
            }
        }
        backend.close().await.unwrap();
        let mut after = lab.inventory().await;
        // A finished task whose clearing away got lost is cleared away by the pool.
        after.insert("task", before["task"].clone());
        assert_eq!(after, before, "answer {number} is lost");
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
