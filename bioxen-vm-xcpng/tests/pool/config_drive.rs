//! VMs of templates with cloud-init: nobody gets in without their config drive.

use std::sync::Arc;
use std::time::Duration;

use bioxen_vm_core::{Backend, LuaVm, Script, VmId};
use bioxen_vm_xcpng::XcpngBackend;
use serde_json::{Value, json};
use xapi_sim::{FaultRule, GuestMode, Model, SimOptions, TemplateSpec};

use crate::lab::Lab;

const TEMPLATE: &str = "cloud";
pub(crate) const NETWORK: &str = "Pool-wide network associated with eth0";

pub(crate) fn model() -> Model {
    let template = TemplateSpec::with_guest(TEMPLATE).cloud_init().vif(NETWORK);
    Model::single_host().template(template)
}

async fn lab() -> Lab {
    Lab::with(model(), SimOptions::default()).await
}

/// The configuration for a template with cloud-init, with changes.
pub(crate) fn changes(lab: &Lab, more: Value) -> Value {
    let mut changes = json!({
        "template": TEMPLATE,
        "ssh": {
            "first_contact": "config-drive",
            "user": lab.sim.guest_user().unwrap_or("root"),
            "port": xapi_sim::guest::PORT,
        },
    });
    let all = changes.as_object_mut().unwrap();
    all.extend(more.as_object().unwrap().clone());
    changes
}

fn backend(lab: &Lab, more: Value) -> XcpngBackend {
    XcpngBackend::new(lab.config(changes(lab, more))).unwrap()
}

async fn run(vm: &Arc<dyn LuaVm>, code: &str) -> String {
    let outcome = vm.execute(Script::new(code.to_owned())).await.unwrap();
    assert!(outcome.success(), "{outcome:?}");
    outcome.stdout_text().trim_end().to_owned()
}

const READ: &str = "local f = assert(io.open(arg[1])) io.write(f:read('a'))";

async fn file(vm: &Arc<dyn LuaVm>, path: &str) -> String {
    let outcome = vm
        .execute(Script::new(READ).arg(path.to_owned()))
        .await
        .unwrap();
    outcome.stdout_text().trim_end().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_gets_its_keys_and_names_from_a_drive_that_is_gone_when_it_is_up() {
    let lab = lab().await;
    let before = lab.inventory().await;
    let backend = backend(&lab, json!({}));
    let plan = backend.plan(&VmId::new("vm1").unwrap()).await.unwrap();
    assert!(
        plan.to_string().contains("give it a config drive"),
        "{plan}"
    );

    let vm = backend.create(VmId::new("vm1").unwrap()).await.unwrap();
    vm.start().await.unwrap();
    let special = (&*vm as &dyn std::any::Any).downcast_ref::<bioxen_vm_xcpng::XcpngVm>();
    let uuid = special.unwrap().uuid().replace('-', "");
    assert_eq!(file(&vm, "/etc/machine-id").await, uuid);
    assert_eq!(file(&vm, "/proc/sys/kernel/hostname").await, "vm1");
    let instance = file(&vm, "/var/lib/cloud/data/instance-id").await;
    assert_eq!(instance, format!("bioxen-{uuid}"));
    assert_eq!(
        run(&vm, "print(io.open('/run/cloud-init/result.json') ~= nil)").await,
        "true"
    );
    let up = lab.inventory().await;
    assert_eq!(
        up["VDI"].len(),
        before["VDI"].len() + 1,
        "the drive is gone"
    );
    assert!(lab.record(&*vm).await.xenstore_data.is_empty());

    vm.stop().await.unwrap();
    vm.start().await.unwrap();
    assert_eq!(file(&vm, "/etc/machine-id").await, uuid);
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    assert_eq!(lab.inventory().await, before);
    lab.end().await;
}

/// How many of the calls were made one after the other: calls that are under way at the same time are
/// one round trip. Nobody waits for the last events, which tell of a VM that ends before its login.
fn round_trips(calls: &[xapi_sim::CallRecord]) -> usize {
    let end = |call: &xapi_sim::CallRecord| call.at + call.took.unwrap_or_default();
    let unawaited = calls.iter().rposition(|call| call.method == "event.from");
    let awaited = (0..).zip(calls).filter(|(at, _)| Some(*at) != unawaited);
    let mut spans: Vec<_> = awaited.map(|(_, call)| (end(call), call.at)).collect();
    spans.sort_unstable();
    let mut trips = 0;
    let mut over = Duration::ZERO;
    for (end, begin) in spans {
        if begin >= over {
            trips += 1;
            over = end;
        }
    }
    trips
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_costs_few_calls_and_fewer_round_trips_none_of_them_polling() {
    // Each call takes a while, so that what is sent at the same time can be told.
    let lab = lab().await;
    let backend = backend(&lab, json!({"memory": "3GB"}));
    // What concerns the template is looked up once for all VMs.
    lab.running(&backend, "vm0").await.destroy().await.unwrap();
    let first = lab.sim.calls().len();
    lab.sim
        .inject(FaultRule::method("*").delay(Duration::from_millis(20)));
    let vm = lab.running(&backend, "vm1").await;
    lab.sim.clear_faults();
    let calls = lab.sim.calls().split_off(first);
    let names: Vec<_> = calls.iter().map(|call| &*call.method).collect();
    let (made, trips) = (calls.len(), round_trips(&calls));
    println!("{made} calls in {trips} round trips: {}", names.join(" "));
    let per_vm = lab.sim.calls_per_vm();
    println!(
        "{} of them name the VM",
        per_vm[lab.named("bioxen-vm1").await.as_str()]
    );
    // Whoever adds one adds one for each VM of a large pool.
    assert!(made <= 24, "{made}");
    assert!(trips <= 14, "{trips}");
    for (at, name) in names.iter().enumerate() {
        let again = names[..at].contains(name) && *name != "event.from";
        // Its disks are marked as the VM is, beside the rest; only then is known which they are.
        let of_disks = ["VBD.get_all_records_where", "VDI.get_record"].contains(name);
        assert!(
            !again && (of_disks || !name.contains("get_")),
            "{name} is asked again"
        );
    }
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_may_say_that_it_reads_a_drive() {
    let lab = lab().await;
    let mut config = changes(&lab, json!({}));
    config["ssh"]["first_contact"] = json!("auto");
    let backend = XcpngBackend::new(lab.config(config)).unwrap();
    let id = VmId::new("vm1").unwrap();
    let plan = backend.plan(&id).await.unwrap().to_string();
    assert!(plan.contains("hand it its SSH keys"), "{plan}");
    lab.set_other_config(TEMPLATE, "bioxen:first-contact", "config-drive")
        .await;
    let plan = backend.plan(&id).await.unwrap().to_string();
    assert!(plan.contains("give it a config drive"), "{plan}");
    backend.close().await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drive_that_the_template_brings_along_does_not_speak_for_the_vm() {
    let lab = lab().await;
    lab.add_disk(TEMPLATE, "XO CloudConfigDrive").await;
    let before = lab.inventory().await;
    let backend = backend(&lab, json!({}));
    let plan = backend.plan(&VmId::new("vm1").unwrap()).await.unwrap();
    assert!(plan.to_string().contains("brings along as 1"), "{plan}");
    let vm = lab.running(&backend, "vm1").await;
    let up = lab.inventory().await;
    assert_eq!(up["VDI"].len(), before["VDI"].len() + 1);
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    assert_eq!(lab.inventory().await, before);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_address_is_used_without_waiting_for_tools() {
    let lab = lab().await;
    let before = lab.inventory().await;
    // An address of the simulator's own, where guests can really be.
    let first = backend(&lab, json!({}));
    let vm = lab.running(&first, "vm1").await;
    let taken = vm.info().await.unwrap().address.unwrap();
    vm.destroy().await.unwrap();
    first.close().await.unwrap();

    let fixed =
        json!({"static_address": {"address": format!("{taken}/16"), "gateway": "127.77.0.1"}});
    let second = backend(&lab, fixed);
    let id = VmId::new("vm2").unwrap();
    let plan = second.plan(&id).await.unwrap().to_string();
    assert!(plan.contains(&format!("the address {taken}/16")), "{plan}");
    let vm = lab.running(&second, "vm2").await;
    assert_eq!(vm.info().await.unwrap().address, Some(taken));
    assert_eq!(run(&vm, "print(1)").await, "1");
    vm.destroy().await.unwrap();
    second.close().await.unwrap();
    assert_eq!(lab.inventory().await, before);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drive_that_cannot_be_detached_goes_with_the_vm() {
    let lab = lab().await;
    let before = lab.inventory().await;
    let backend = backend(&lab, json!({}));
    lab.sim.inject(
        FaultRule::method("VBD.unplug").fail("DEVICE_DETACH_REJECTED", ["VBD", "x", "busy"]),
    );
    let vm = lab.running(&backend, "vm1").await;
    assert_eq!(run(&vm, "print(1)").await, "1");
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.holds_only(&before, "afterwards").await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_whose_template_does_not_read_the_drive_says_what_to_check() {
    let lab = Lab::start().await;
    let before = lab.inventory().await;
    let mut config = changes(&lab, json!({"boot_timeout": "8s"}));
    config["template"] = json!(xapi_sim::LUA_TEMPLATE);
    let backend = XcpngBackend::new(lab.config(config)).unwrap();
    let vm = backend.create(VmId::new("vm1").unwrap()).await.unwrap();
    let error = vm.start().await.unwrap_err().to_string();
    assert!(error.contains("cloud-init is installed"), "{error}");
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    assert_eq!(lab.inventory().await, before);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_fails_leaves_nothing() {
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    let lab = Lab::with(model(), options).await;
    let before = lab.inventory().await;
    let backend = backend(&lab, json!({}));
    for method in ["VDI.create", "VBD.create", "task.create"] {
        lab.sim.inject(
            FaultRule::method(method)
                .times(1)
                .fail("INTERNAL_ERROR", ["no"]),
        );
        let error = backend.create(VmId::new("vm1").unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("config drive"), "{error}");
        assert_eq!(lab.inventory().await, before, "{method}");
    }
    backend.close().await.unwrap();
    lab.end().await;
}
