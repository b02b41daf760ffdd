//! Snapshots, clones, and VMs that move.

use std::sync::Arc;

use bioxen_vm_core::{Backend, ErrorKind, LuaVm, Script, VmId, VmState};
use bioxen_vm_xcpng::XcpngBackend;
use serde_json::json;
use xapi_sim::{GuestMode, Model, SimOptions};

use crate::config_drive::{changes, model};
use crate::lab::Lab;

async fn run(vm: &Arc<dyn LuaVm>, code: &'static str) -> String {
    let outcome = vm.execute(Script::new(code)).await.unwrap();
    assert!(outcome.success(), "{outcome:?}");
    outcome.stdout_text().trim_end().to_owned()
}

const WRITE: &str = "local f = assert(io.open('kept', 'w')) f:write('first') f:close()";
const OVERWRITE: &str = "local f = assert(io.open('kept', 'w')) f:write('second') f:close()";
const READ: &str = "print(assert(io.open('kept')):read('a'))";

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_gets_back_what_its_disk_held() {
    let lab = Lab::start().await;
    let before = lab.inventory().await;
    let backend = lab.backend();
    let vm = lab.running(&backend, "vm1").await;
    run(&vm, WRITE).await;
    assert_eq!(vm.snapshots().await.unwrap(), []);
    // Simulated disks hold still only while nobody writes to them.
    vm.stop().await.unwrap();

    let first = vm.snapshot("first").await.unwrap();
    let age = first.created.elapsed().unwrap_or_default();
    assert!(age.as_secs() < 600, "{age:?}");
    let error = vm.snapshot("first").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(
        vm.snapshot(" ").await.unwrap_err().kind(),
        ErrorKind::Config
    );
    vm.start().await.unwrap();
    run(&vm, OVERWRITE).await;
    vm.stop().await.unwrap();
    let second = vm.snapshot("second").await.unwrap();
    assert_eq!(
        vm.snapshots().await.unwrap(),
        [first.clone(), second.clone()]
    );

    for which in [first.name.as_str(), first.id.as_str()] {
        vm.revert(which).await.unwrap();
        assert_eq!(vm.info().await.unwrap().state, VmState::Stopped);
        vm.start().await.unwrap();
        assert_eq!(run(&vm, READ).await, "first");
    }
    vm.revert("second").await.unwrap();
    vm.start().await.unwrap();
    assert_eq!(run(&vm, READ).await, "second");

    let error = vm.revert("third").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("\"second\""), "{error}");
    let with_both = lab.inventory().await;
    vm.remove_snapshot("first").await.unwrap();
    let error = vm.remove_snapshot("first").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("\"second\""), "{error}");
    assert_eq!(vm.snapshots().await.unwrap(), [second]);
    let with_one = lab.inventory().await;
    assert_eq!(with_one["VDI"].len(), with_both["VDI"].len() - 1);

    // What it has left goes with it.
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    assert_eq!(lab.inventory().await, before);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_vm_is_cloned_and_the_clone_is_one_of_its_own() {
    let lab = Lab::with(model(), SimOptions::default()).await;
    let before = lab.inventory().await;
    let backend = XcpngBackend::new(lab.config(changes(&lab, json!({})))).unwrap();
    let vm = lab.running(&backend, "vm1").await;
    run(&vm, WRITE).await;
    vm.stop().await.unwrap();
    let early = vm.clone_vm(VmId::new("vm2").unwrap()).await.unwrap();
    vm.start().await.unwrap();
    run(&vm, OVERWRITE).await;
    vm.stop().await.unwrap();
    let late = vm.clone_vm(VmId::new("vm3").unwrap()).await.unwrap();
    vm.start().await.unwrap();

    const WHO: &str = "print(io.open('/etc/machine-id'):read('a'))";
    let mut identities = vec![run(&vm, WHO).await];
    for (clone, expected) in [(&early, "first"), (&late, "second")] {
        assert_eq!(clone.info().await.unwrap().state, VmState::Stopped);
        clone.start().await.unwrap();
        assert_eq!(run(clone, READ).await, expected);
        let info = clone.info().await.unwrap();
        assert_eq!(info.details["name"], format!("bioxen-{}", clone.id()));
        assert_eq!(info.details["template"], "cloud");
        identities.push(run(clone, WHO).await);
    }
    identities.sort_unstable();
    identities.dedup();
    assert_eq!(identities.len(), 3, "each has its own");
    // They do not need each other.
    vm.destroy().await.unwrap();
    assert_eq!(run(&early, READ).await, "first");
    early.destroy().await.unwrap();
    late.destroy().await.unwrap();
    backend.close().await.unwrap();
    assert_eq!(lab.inventory().await, before);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_moves_while_it_runs_and_is_bound_while_it_does_not() {
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    let lab = Lab::with(Model::pool_of_three(), options).await;
    let backend = lab.backend();
    let vm = backend.create(VmId::new("vm1").unwrap()).await.unwrap();
    let hosts = lab.hosts().await;
    for _ in 0..2 {
        vm.migrate(&hosts[1]).await.unwrap();
    }
    let reference = lab.named("bioxen-vm1").await;
    let api = lab.client().vm();
    api.start(&reference, false, false).await.unwrap();
    assert_eq!(vm.info().await.unwrap().details["host"], hosts[1]);
    for host in [&hosts[2], &hosts[2], &hosts[0]] {
        vm.migrate(host).await.unwrap();
        assert_eq!(&vm.info().await.unwrap().details["host"], host);
    }
    let error = vm.migrate("nowhere").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains(&hosts[0]), "{error}");
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_vm_is_cloned_by_a_snapshot_that_is_gone_afterwards() {
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    let lab = Lab::with(Model::single_host(), options).await;
    let before = lab.inventory().await;
    let backend = lab.backend();
    let vm = backend.create(VmId::new("vm1").unwrap()).await.unwrap();
    let reference = lab.named("bioxen-vm1").await;
    let api = lab.client().vm();
    api.start(&reference, false, false).await.unwrap();
    let one = lab.inventory().await;
    let clone = vm.clone_vm(VmId::new("vm2").unwrap()).await.unwrap();
    let two = lab.inventory().await;
    assert_eq!(two["VM"].len(), one["VM"].len() + 1);
    assert_eq!(two["VDI"].len(), one["VDI"].len() + 1);
    assert_eq!(vm.info().await.unwrap().state, VmState::Running);
    let record = lab.record(&*clone).await;
    assert!(!record.is_a_template && record.name_label == "bioxen-vm2");
    assert_eq!(record.other_config["bioxen:vm-id"], "vm2");
    clone.destroy().await.unwrap();
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    assert_eq!(lab.inventory().await, before);
    lab.end().await;
}
