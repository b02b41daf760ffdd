//! A template is made from another one, complete or not at all.

use std::path::Path;

use bioxen_vm_core::{Backend as _, BackendConfig as _, ErrorKind, Script, VmId};
use bioxen_vm_xcpng::{TemplateBuilder, XcpngBackend, XcpngConfig};
use serde_json::{Value, json};
use xapi_sim::guest::{GuestOptions, PORT, Rung};
use xapi_sim::{FaultRule, GuestMode, GuestReport, Model, SimOptions, TemplateSpec};

use crate::config_drive::{NETWORK, changes, model};
use crate::kill::{after_each_call, at_each_ssh_step, given};
use crate::lab::Lab;

const MADE: &str = "made";

/// A pool on which guests have files of their own, so that something can be installed in them.
async fn lab() -> Option<Lab> {
    let lab = Lab::with(model(), SimOptions::default()).await;
    if lab.sim.rung() == Some(Rung::Overlay) {
        return Some(lab);
    }
    println!("left out: guests have no files of their own here");
    lab.end().await;
    None
}

fn config(lab: &Lab, more: Value) -> Value {
    let ssh = json!({"user": "root", "port": PORT, "first_contact": "config-drive"});
    let mut config = changes(lab, json!({"ssh": ssh}));
    config
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    lab.json(config)
}

fn builder(config: &Value) -> TemplateBuilder {
    let config = XcpngConfig::from_value(config.clone()).unwrap();
    TemplateBuilder::new(config).named(MADE)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_is_made_whose_vms_are_nobody_elses() {
    let Some(lab) = lab().await else { return };
    let before = lab.inventory().await;
    let config = config(&lab, json!({}));
    let build = builder(&config).begin().await.unwrap();
    assert_eq!(build.package_site().await.unwrap().tree, "/usr/local");
    let leave = "local f = assert(io.open('/usr/local/made', 'w')) f:write('here') f:close()";
    let outcome = build.vm().execute(Script::new(leave)).await.unwrap();
    assert!(outcome.success(), "{outcome:?}");
    let template = build.finish().await.unwrap();
    assert_eq!(template.name, MADE);
    assert_eq!(
        template.left, [""; 0],
        "no key is left that its VMs would share"
    );

    let record = lab.record_of(MADE).await;
    assert!(record.is_a_template);
    assert_eq!(record.uuid.as_str(), template.uuid);
    let ours: Vec<_> = record
        .other_config
        .keys()
        .filter(|key| key.starts_with("bioxen:"))
        .collect();
    assert_eq!(ours, ["bioxen:first-contact", "bioxen:template"]);
    let disks = lab.disk_sizes(&record).await;
    assert_eq!(disks.len(), 1, "the config drive is gone");
    let with_it = lab.inventory().await;
    assert_eq!(with_it["VM"].len(), before["VM"].len() + 1);
    assert_eq!(with_it["VDI"].len(), before["VDI"].len() + 1);

    // It says itself how its VMs get their keys.
    let mut of_it = config.clone();
    of_it["template"] = json!(MADE);
    of_it["ssh"]["first_contact"] = json!("auto");
    let backend: XcpngBackend = XcpngConfig::from_value(of_it).unwrap().build().unwrap();
    let vm = lab.running(&backend, "vm1").await;
    let read = "print(io.open('/usr/local/made'):read('a'), io.open('/etc/machine-id'):read('a'))";
    let outcome = vm.execute(Script::new(read)).await.unwrap();
    let said = outcome.stdout_text().into_owned();
    let special = (&*vm as &dyn std::any::Any).downcast_ref::<bioxen_vm_xcpng::XcpngVm>();
    let uuid = special.unwrap().uuid().replace('-', "");
    assert_eq!(said, format!("here\t{uuid}\n\n"), "{outcome:?}");
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();

    let taken = builder(&config).begin().await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists, "{taken}");

    let backend: XcpngBackend = XcpngConfig::from_value(config).unwrap().build().unwrap();
    for (which, foreign, said) in [
        ("cloud", false, "BioXen has not made the template"),
        ("Other install media", true, "came with the pool"),
        ("mad", true, "there are: \"made\""),
    ] {
        let error = backend.remove_template(which, foreign).await.unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
    let gone = backend.remove_template(MADE, false).await.unwrap();
    assert_eq!(gone.uuid, template.uuid);
    backend.close().await.unwrap();
    lab.holds_only(&before, "afterwards").await;
    lab.end().await;
}

/// As root such a guest could change and clean this machine's system.
#[tokio::test(flavor = "multi_thread")]
async fn a_vm_whose_files_are_those_of_this_machine_becomes_no_template() {
    let guests = GuestMode::RealWith(GuestOptions::default().with_rung(Rung::Plain));
    let options = SimOptions::default().with_guests(guests);
    let lab = Lab::with(Model::single_host(), options).await;
    let before = lab.inventory().await;
    let error = builder(&lab.json(json!({}))).begin().await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("files are those of this machine"),
        "{error}"
    );
    lab.holds_only(&before, "afterwards").await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_installed_by_the_package_manager_or_told() {
    let Some(lab) = lab().await else { return };
    let config = config(&lab, json!({}));
    // A system without LuaRocks, and with a package manager that does as it is told here.
    let prepare = |manager: &'static str| {
        let script = r#"
            assert(os.execute('rm -f /usr/bin/luarocks /usr/bin/luarocks-5.4'))
            local f = assert(io.open('/usr/local/bin/apt-get', 'w'))
            f:write(arg[1]) f:close()
            assert(os.execute('chmod 755 /usr/local/bin/apt-get'))"#;
        Script::new(script).arg(manager)
    };
    let works = "#!/bin/sh\n[ \"$1\" = install ] || exit 0\n\
        echo '#!/bin/sh\necho 3.8.0' >/usr/local/bin/luarocks\nchmod 755 /usr/local/bin/luarocks\n";
    let fails = "#!/bin/sh\necho 'E: Unable to locate package luarocks'\nexit 100\n";
    for (name, manager) in [("works", works), ("fails", fails)] {
        let backend: XcpngBackend = XcpngConfig::from_value(config.clone())
            .unwrap()
            .build()
            .unwrap();
        let vm = backend.create(VmId::new(name).unwrap()).await.unwrap();
        vm.start().await.unwrap();
        let outcome = vm.execute(prepare(manager)).await.unwrap();
        assert!(outcome.success(), "{outcome:?}");
        vm.stop().await.unwrap();
        lab.make_template(&format!("bioxen-{name}"), name).await;
        backend.close().await.unwrap();
    }
    let before = lab.inventory().await;
    let mut of_base = config.clone();
    of_base["template"] = json!("works");
    let build = builder(&of_base).begin().await.unwrap();
    assert_eq!(build.installed(), ["luarocks"]);
    build.abandon().await.unwrap();
    of_base["template"] = json!("fails");
    let error = builder(&of_base).begin().await.unwrap_err().to_string();
    for words in [
        "luarocks could not be installed",
        "(apt)",
        "Unable to locate package",
    ] {
        assert!(error.contains(words), "{error}");
    }
    lab.holds_only(&before, "afterwards").await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guest_tools_are_installed_where_the_package_manager_has_them() {
    let mute = |name: &str| {
        let template = TemplateSpec::with_guest(name).cloud_init().vif(NETWORK);
        template.report(GuestReport::NoTools)
    };
    let lab = Lab::with(model().template(mute("mute")), SimOptions::default()).await;
    if lab.sim.rung() != Some(Rung::Overlay) {
        println!("left out: guests have no files of their own here");
        return lab.end().await;
    }
    // An address of the simulator's own, where guests can really be.
    let backend: XcpngBackend = XcpngConfig::from_value(config(&lab, json!({})))
        .unwrap()
        .build()
        .unwrap();
    let vm = lab.running(&backend, "first").await;
    let free = vm.info().await.unwrap().address.unwrap();
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    let fixed = json!({
        "template": "mute",
        "static_address": {"address": format!("{free}/16"), "gateway": "127.77.0.1"},
    });
    let config = config(&lab, fixed);
    let build = builder(&config).begin().await.unwrap();
    assert!(!build.has_guest_tools());
    // A package manager that does as it is told here.
    let manager = "#!/bin/sh\ncase \"$*\" in *xen-guest-agent) ;; *) exit 100 ;; esac\n\
        echo '#!/bin/sh' >/usr/local/bin/xen-guest-agent\nchmod 755 /usr/local/bin/xen-guest-agent\n";
    let script = r#"
        local f = assert(io.open('/usr/local/bin/apt-get', 'w'))
        f:write(arg[1]) f:close()
        assert(os.execute('chmod 755 /usr/local/bin/apt-get'))"#;
    let outcome = build.vm().execute(Script::new(script).arg(manager)).await;
    assert!(outcome.unwrap().success());
    build.finish().await.unwrap();
    let mut of_made = config.clone();
    of_made["template"] = json!(MADE);
    let build = TemplateBuilder::new(XcpngConfig::from_value(of_made).unwrap()).named("second");
    let build = build.begin().await.unwrap();
    assert!(build.has_guest_tools());
    assert_eq!(build.installed(), ["guest tools"]);
    build.abandon().await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_leaves_nothing() {
    let Some(lab) = lab().await else { return };
    let before = lab.inventory().await;
    let config = config(&lab, json!({}));
    for method in ["VM.set_is_a_template", "VM.set_name_label"] {
        let build = builder(&config).begin().await.unwrap();
        lab.sim
            .inject(FaultRule::method(method).fail("INTERNAL_ERROR", ["no luck"]));
        let error = build.finish().await.unwrap_err();
        lab.sim.clear_faults();
        assert!(
            error.to_string().contains("turn the VM into a template"),
            "{error}"
        );
        lab.holds_only(&before, method).await;
    }
    let fixed = json!({"ssh": {
        "user": "root", "identity_file": "/k", "host_key": "ssh-ed25519 AAAA",
    }});
    let shared = builder(&self::config(&lab, fixed)).begin().await;
    assert!(
        shared
            .unwrap_err()
            .to_string()
            .contains("leave out ssh.identity_file")
    );
    lab.end().await;
}

/// As much of a cloud image as firmware looks at: boot code, a partition, the signature.
fn image() -> Vec<u8> {
    let mut image = vec![0; 4 << 20];
    image[..2].copy_from_slice(&[0xeb, 0xfe]);
    image[446] = 0x80;
    image[450] = 0x83;
    image[454..458].copy_from_slice(&2048_u32.to_le_bytes());
    image[458..462].copy_from_slice(&4096_u32.to_le_bytes());
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    image
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_is_made_from_an_image_whose_upload_leaves_nothing_else() {
    let options = SimOptions::default().with_image_report(GuestReport::Address);
    let lab = Lab::with(model(), options).await;
    if lab.sim.rung() != Some(Rung::Overlay) {
        println!("left out: guests have no files of their own here");
        return lab.end().await;
    }
    let before = lab.inventory().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cloud.raw");
    std::fs::write(&path, image()).unwrap();
    let ssh = json!({"user": "root", "port": PORT});
    let config = lab.json(json!({"template": "", "network": NETWORK, "ssh": ssh}));
    let from_image = |config: &Value| builder(config).from_image(&path);

    let build = from_image(&config).begin().await.unwrap();
    let outcome = build.vm().execute(Script::new("print(_VERSION)")).await;
    assert_eq!(outcome.unwrap().stdout_text(), "Lua 5.4\n");
    build.abandon().await.unwrap();
    lab.holds_only(&before, "afterwards").await;

    let template = from_image(&config).begin().await.unwrap();
    let template = template.finish().await.unwrap();
    let record = lab.record_of(MADE).await;
    assert!(record.is_a_template);
    assert_eq!(record.other_config["bioxen:first-contact"], "config-drive");
    let with_it = lab.inventory().await;
    assert_eq!(with_it["VM"].len(), before["VM"].len() + 1);
    let mut of_it = config.clone();
    of_it["template"] = json!(template.uuid);
    let backend: XcpngBackend = XcpngConfig::from_value(of_it).unwrap().build().unwrap();
    let vm = lab.running(&backend, "vm1").await;
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.remove(MADE).await;

    // It is refused before anything is made, or what was made is removed.
    let mut without = config.clone();
    without.as_object_mut().unwrap().remove("network");
    let error = from_image(&without).begin().await.unwrap_err().to_string();
    assert!(error.contains("set network"), "{error}");
    std::fs::write(&path, b"QFI\xfb").unwrap();
    let error = from_image(&config).begin().await.unwrap_err().to_string();
    assert!(error.contains("qemu-img convert"), "{error}");
    lab.holds_only(&before, "afterwards").await;
    lab.end().await;
}

/// What the killed program does: one template, from another one, or from the image that it is told.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the program that other tests start and kill"]
async fn building_program() {
    let Some((config, image)) = given() else {
        return;
    };
    let mut builder = TemplateBuilder::new(config).named(MADE);
    if !image.is_empty() {
        builder = builder.from_image(image);
    }
    let build = builder.begin().await;
    build.unwrap().finish().await.unwrap();
}

const BUILDING: &str = "template::building_program";

/// Removes the template that a build may have ended with just before it was killed.
async fn whole_template(lab: &Lab) -> usize {
    if !lab.has(MADE).await {
        return 0;
    }
    assert!(lab.record_of(MADE).await.is_a_template);
    lab.remove(MADE).await;
    1
}

/// A pool for a build from an image, what it is configured with, and how many of its calls come before
/// those of the deployment, and how many with them.
async fn image_lab(state: &Path) -> Option<(Lab, Value, [u64; 2])> {
    let options = SimOptions::default().with_image_report(GuestReport::Address);
    let lab = Lab::with(model(), options).await;
    if lab.sim.rung() != Some(Rung::Overlay) {
        println!("left out: guests have no files of their own here");
        lab.end().await;
        return None;
    }
    let path = state.join("cloud.raw");
    std::fs::write(&path, image()).unwrap();
    let ssh = json!({"user": "root", "port": PORT});
    let config = json!({"template": "", "network": NETWORK, "ssh": ssh, "state_dir": state});
    let config = lab.json(config);
    let begun = lab.sim.calls().len();
    let build = builder(&config).from_image(&path).begin().await.unwrap();
    let calls = lab.sim.calls().split_off(begun);
    build.abandon().await.unwrap();
    // The VM is made in a session of its own.
    let is_login = |call: &xapi_sim::CallRecord| call.method == "session.login_with_password";
    let second = calls.iter().rposition(is_login).unwrap();
    let mut config = config;
    config["more"] = json!(path);
    Some((lab, config, [second as u64, calls.len() as u64]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_killed_after_any_call_for_its_image_leaves_nothing() {
    let state = tempfile::tempdir().unwrap();
    let Some((lab, config, [base, _])) = image_lab(state.path()).await else {
        return;
    };
    let begun = after_each_call(&lab, BUILDING, config, 0..base, whole_template).await;
    assert!(begun.steps >= 10, "{}", begun.steps);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_killed_after_any_call_behind_its_deployment_leaves_nothing_or_a_whole_template() {
    let state = tempfile::tempdir().unwrap();
    let Some((lab, config, [_, deployed])) = image_lab(state.path()).await else {
        return;
    };
    // How a deployment goes is what other tests kill at each call.
    let calls = deployed..;
    let ended = after_each_call(&lab, BUILDING, config, calls, whole_template).await;
    assert!(ended.steps >= 10, "{}", ended.steps);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_killed_at_any_step_in_its_vm_leaves_nothing() {
    let Some(lab) = lab().await else { return };
    let state = tempfile::tempdir().unwrap();
    let config = config(&lab, json!({"state_dir": state.path()}));
    let built = at_each_ssh_step(&lab, BUILDING, config, 6, whole_template).await;
    assert!(built.steps > 10, "{}", built.steps);
    lab.end().await;
}

/// What a build asks of the pool that may be done twice: sent again when its answer is lost.
const REPEATED: [&str; 9] = [
    "VM.get_record",
    "VM.set_other_config",
    "VM.set_xenstore_data",
    "VM.set_is_a_template",
    "VM.set_name_label",
    "VDI.set_name_label",
    "VDI.destroy",
    "VM.destroy",
    "VBD.unplug",
];

/// What may not, and how often it is asked for: for the image, and for the VM of it.
const ONCE: [(&str, u64); 5] = [
    ("VDI.create", 2),
    ("VBD.create", 2),
    ("VM.clone", 2),
    ("VIF.create", 1),
    ("VM.clean_shutdown", 1),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_of_a_build_ends_in_one_template_or_none() {
    let state = tempfile::tempdir().unwrap();
    let Some((lab, mut config, _)) = image_lab(state.path()).await else {
        return;
    };
    let image = config.as_object_mut().unwrap().remove("more").unwrap();
    let before = lab.inventory().await;
    let build = async || -> bioxen_vm_core::Result<_> {
        let builder = builder(&config).from_image(image.as_str().unwrap());
        builder.begin().await?.finish().await
    };
    let lost = |method: &str, number| {
        let rule = FaultRule::method(method).after(number).times(1);
        lab.sim.inject(rule.disconnect().after_effect());
    };
    let as_before = async |what: &str| {
        lab.sim.clear_faults();
        let made = whole_template(&lab).await;
        lab.holds_only(&before, what).await;
        made
    };
    for method in REPEATED {
        // Each is answered at the second try.
        (0..40).step_by(2).for_each(|number| lost(method, number));
    }
    build().await.unwrap();
    assert_eq!(as_before("all that may be repeated").await, 1);
    let (mut made, mut refused) = (0, 0);
    for (method, times) in ONCE {
        for number in 0..times {
            lost(method, number);
            let result = build().await;
            let what = format!("answer {number} to {method} is lost");
            assert_eq!(
                as_before(&what).await,
                usize::from(result.is_ok()),
                "{what}"
            );
            match result {
                Ok(_) => made += 1,
                Err(error) => {
                    refused += 1;
                    assert!(
                        !error.to_string().contains("is left on the pool"),
                        "{error}"
                    );
                }
            }
        }
    }
    println!("{made} builds went on after a lost answer, {refused} ended with nothing left");
    lab.end().await;
}
