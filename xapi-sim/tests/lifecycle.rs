//! A VM from its template to its end.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

mod common;

use common::{Pool, pool, pool_of, text};
use xapi_sim::{FaultRule, GuestReport, Model, NULL_REF, SimOptions, SrSpec, TemplateSpec, Value};

fn map(pairs: &[(&str, &str)]) -> Value {
    Value::map(pairs.iter().copied())
}

#[tokio::test]
async fn clone_provision_start_stop_destroy() {
    let pool = pool().await;
    let template = pool.template().await;
    let clone = pool
        .call("VM.clone", vec![template.as_str().into(), "worker".into()])
        .await;
    let vm = text(&clone);
    assert_eq!(
        pool.get("VM", "is_a_template", &vm).await,
        Value::Bool(true)
    );
    assert_eq!(
        pool.fails(
            "VM.start",
            vec![vm.as_str().into(), false.into(), false.into()]
        )
        .await,
        format!("VM_IS_TEMPLATE|{vm}|start")
    );
    let config = pool.get("VM", "other_config", &vm).await;
    assert_eq!(
        config.get("base_template_name"),
        Some(&Value::from("lua-bio-template"))
    );
    pool.call("VM.provision", vec![vm.as_str().into()]).await;
    assert_eq!(
        pool.fails("VM.provision", vec![vm.as_str().into()]).await,
        "PROVISION_ONLY_ALLOWED_ON_TEMPLATE"
    );
    assert_eq!(
        pool.get("VM", "guest_metrics", &vm).await,
        Value::from(NULL_REF)
    );
    pool.start(&vm).await;
    assert_eq!(pool.state(&vm).await, "Running");
    assert_eq!(
        pool.fails(
            "VM.start",
            vec![vm.as_str().into(), false.into(), false.into()]
        )
        .await,
        format!("VM_BAD_POWER_STATE|{vm}|halted|running")
    );
    assert_eq!(
        pool.fails("VM.destroy", vec![vm.as_str().into()]).await,
        format!("VM_BAD_POWER_STATE|{vm}|halted, suspended|running")
    );
    // A clean shutdown needs the guest's agent.
    report(&pool, &vm).await;
    pool.call("VM.clean_shutdown", vec![vm.as_str().into()])
        .await;
    assert_eq!(pool.state(&vm).await, "Halted");
    let vbds = pool.get("VM", "VBDs", &vm).await;
    let mut disks = Vec::new();
    for vbd in vbds.items() {
        let vdi = text(&pool.get("VBD", "VDI", vbd.as_str().unwrap()).await);
        if vdi != NULL_REF {
            disks.push(vdi);
        }
    }
    assert_eq!(disks.len(), 1);
    pool.call("VM.destroy", vec![vm.as_str().into()]).await;
    assert_eq!(
        pool.fails("VM.get_power_state", vec![vm.as_str().into()])
            .await,
        format!("HANDLE_INVALID|VM|{vm}")
    );
    // Disks outlive the VM.
    pool.call("VDI.destroy", vec![disks[0].as_str().into()])
        .await;
    assert_eq!(pool.sim.unimplemented(), Vec::<String>::new());
}

#[tokio::test]
async fn devices_are_copied_with_new_identities() {
    let pool = pool().await;
    let template = pool.template().await;
    let one = pool.vm("one").await;
    let two = pool.vm("two").await;
    let mut macs = Vec::new();
    for vm in [&template, &one, &two] {
        let vifs = pool.get("VM", "VIFs", vm).await;
        assert_eq!(vifs.items().len(), 1);
        macs.push(text(
            &pool
                .get("VIF", "MAC", vifs.items()[0].as_str().unwrap())
                .await,
        ));
    }
    macs.sort();
    macs.dedup();
    assert_eq!(macs.len(), 3);
}

/// What the metrics of the guest say, once they are there.
async fn report(pool: &Pool, vm: &str) -> (String, Value) {
    let mut token = String::new();
    loop {
        let metrics = text(&pool.get("VM", "guest_metrics", vm).await);
        if metrics != NULL_REF {
            let networks = pool.get("VM_guest_metrics", "networks", &metrics).await;
            return (metrics, networks);
        }
        let class = format!("VM/{vm}");
        let args = vec![Value::strings([class]), token.as_str().into(), 10.0.into()];
        let batch = pool.call("event.from", args).await;
        token = text(batch.get("token").unwrap());
    }
}

#[tokio::test]
async fn guest_metrics_come_after_the_boot_and_anew_at_every_start() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    pool.start(&vm).await;
    let (first, networks) = report(&pool, &vm).await;
    let address = networks
        .get("0/ip")
        .and_then(Value::as_str)
        .unwrap()
        .to_owned();
    assert!(address.starts_with("192.0.2."));
    assert_eq!(networks.get("0/ipv4/0"), Some(&Value::from(address)));
    pool.call("VM.hard_shutdown", vec![vm.as_str().into()])
        .await;
    // Stale, and still readable.
    assert_eq!(
        pool.get("VM", "guest_metrics", &vm).await,
        Value::from(first.as_str())
    );
    pool.start(&vm).await;
    let (second, _) = report(&pool, &vm).await;
    assert_ne!(first, second);
}

#[tokio::test]
async fn power_states() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let this = || vec![Value::from(vm.as_str())];
    let with = |flags: &[bool]| {
        std::iter::once(Value::from(vm.as_str()))
            .chain(flags.iter().map(|flag| Value::Bool(*flag)))
            .collect::<Vec<_>>()
    };
    pool.call("VM.start", with(&[true, false])).await;
    assert_eq!(pool.state(&vm).await, "Paused");
    assert_eq!(
        pool.fails("VM.clean_shutdown", this()).await,
        format!("VM_BAD_POWER_STATE|{vm}|running|paused")
    );
    pool.call("VM.unpause", this()).await;
    report(&pool, &vm).await;
    pool.call("VM.suspend", this()).await;
    assert_eq!(pool.state(&vm).await, "Suspended");
    assert_ne!(
        pool.get("VM", "suspend_VDI", &vm).await,
        Value::from(NULL_REF)
    );
    assert_eq!(
        pool.fails("VM.clone", vec![vm.as_str().into(), "no".into()])
            .await,
        format!("VM_BAD_POWER_STATE|{vm}|halted|suspended")
    );
    pool.call("VM.resume", with(&[false, false])).await;
    assert_eq!(pool.state(&vm).await, "Running");
    pool.call("VM.clean_reboot", this()).await;
    assert_eq!(pool.state(&vm).await, "Running");
    assert_eq!(
        pool.fails("VM.power_state_reset", this()).await,
        format!("DOMAIN_EXISTS|{vm}")
    );
    pool.call("VM.pause", this()).await;
    pool.call("VM.hard_reboot", this()).await;
    assert_eq!(pool.state(&vm).await, "Running");
    pool.call("VM.shutdown", this()).await;
    assert_eq!(pool.state(&vm).await, "Halted");
}

#[tokio::test]
async fn memory_limits_keep_their_order() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let gib = 1_i64 << 30;
    let limits = |a: i64, b: i64, c: i64, d: i64| {
        vec![vm.as_str().into(), a.into(), b.into(), c.into(), d.into()]
    };
    // Minimum, maximum, minimum, maximum.
    pool.call(
        "VM.set_memory_limits",
        limits(gib / 2, 2 * gib, gib, 2 * gib),
    )
    .await;
    assert_eq!(
        pool.fails("VM.set_memory_limits", limits(gib, gib / 2, gib, gib))
            .await,
        "MEMORY_CONSTRAINT_VIOLATION_ORDER"
    );
    assert_eq!(
        pool.fails("VM.set_memory", vec![vm.as_str().into(), (gib / 4).into()])
            .await,
        "MEMORY_CONSTRAINT_VIOLATION_ORDER"
    );
    pool.call("VM.set_memory", vec![vm.as_str().into(), (4 * gib).into()])
        .await;
    assert_eq!(
        pool.get("VM", "memory_dynamic_min", &vm).await,
        Value::Int(4 * gib)
    );
    assert_eq!(
        pool.get("VM", "memory_static_min", &vm).await,
        Value::Int(gib / 2)
    );
    pool.start(&vm).await;
    assert_eq!(
        pool.fails("VM.set_memory", vec![vm.as_str().into(), gib.into()])
            .await,
        format!("VM_BAD_POWER_STATE|{vm}|halted|running")
    );
}

#[tokio::test]
async fn without_dynamic_memory_the_limits_are_pinned() {
    let options = SimOptions::default().with_dynamic_memory(false);
    let pool = pool_of(Model::single_host(), options).await;
    let vm = pool.vm("worker").await;
    let gib = 1_i64 << 30;
    for limits in [[gib / 2, 2 * gib, gib, 2 * gib], [gib, gib / 2, gib, gib]] {
        let args = std::iter::once(Value::from(vm.as_str())).chain(limits.map(Value::Int));
        assert_eq!(
            pool.fails("VM.set_memory_limits", args.collect()).await,
            "MEMORY_CONSTRAINT_VIOLATION_MAXPIN|DMC disabled"
        );
    }
    pool.call("VM.set_memory", vec![vm.as_str().into(), (2 * gib).into()])
        .await;
}

#[tokio::test]
async fn vcpus_and_topology() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let rule = "INVALID_VALUE|VCPU values must satisfy: 0 < VCPUs_at_startup \u{2264} VCPUs_max";
    let set = |value: i64| vec![Value::from(vm.as_str()), value.into()];
    assert_eq!(
        pool.fails("VM.set_VCPUs_at_startup", set(9)).await,
        format!("{rule}|9")
    );
    assert_eq!(
        pool.fails("VM.set_VCPUs_max", set(1)).await,
        format!("{rule}|1")
    );
    pool.call("VM.set_VCPUs_max", set(3)).await;
    let start = || vec![Value::from(vm.as_str()), false.into(), false.into()];
    assert_eq!(
        pool.fails("VM.start", start()).await,
        "VCPU_MAX_NOT_CORES_PER_SOCKET_MULTIPLE|3|2"
    );
    let platform = map(&[("cores-per-socket", "many")]);
    pool.call("VM.set_platform", vec![vm.as_str().into(), platform])
        .await;
    assert_eq!(
        pool.fails("VM.start", start()).await,
        "INVALID_VALUE|platform:cores-per-socket|many"
    );
    pool.call("VM.set_platform", vec![vm.as_str().into(), map(&[])])
        .await;
    let firmware = map(&[("firmware", "coreboot")]);
    pool.call("VM.set_HVM_boot_params", vec![vm.as_str().into(), firmware])
        .await;
    assert_eq!(
        pool.fails("VM.start", start()).await,
        "INVALID_VALUE|HVM-boot-params['firmware']|coreboot"
    );
}

#[tokio::test]
async fn provisioning_asks_for_the_sr_to_be_filled_in() {
    let pool = pool().await;
    let template = pool.named("VM", "Debian Bookworm 12").await;
    assert_eq!(
        pool.fails("VM.destroy", vec![template.as_str().into()])
            .await,
        format!("VM_IS_TEMPLATE|{template}|destroy")
    );
    let clone = |name: &str| vec![Value::from(template.as_str()), name.into()];
    let broken = text(&pool.call("VM.clone", clone("broken")).await);
    assert_eq!(
        pool.fails("VM.provision", vec![broken.as_str().into()])
            .await,
        "UUID_INVALID|sr|"
    );
    // The failure leaves an ordinary VM.
    assert_eq!(
        pool.get("VM", "is_a_template", &broken).await,
        Value::Bool(false)
    );
    let vm = text(&pool.call("VM.clone", clone("whole")).await);
    let sr = pool.named("SR", "Local storage").await;
    let uuid = text(&pool.get("SR", "uuid", &sr).await);
    let disks = format!(
        "<provision><disk device=\"0\" size=\"8589934592\" sr=\"{uuid}\" bootable=\"true\" type=\"system\"/></provision>"
    );
    let key = |value: &str| vec![Value::from(vm.as_str()), "disks".into(), value.into()];
    assert_eq!(
        pool.fails("VM.add_to_other_config", key(&disks)).await,
        format!("MAP_DUPLICATE_KEY|VM|other_config|{vm}|disks")
    );
    pool.call(
        "VM.remove_from_other_config",
        vec![vm.as_str().into(), "disks".into()],
    )
    .await;
    pool.call("VM.add_to_other_config", key(&disks)).await;
    pool.call("VM.provision", vec![vm.as_str().into()]).await;
    assert!(
        pool.get("VM", "other_config", &vm)
            .await
            .get("disks")
            .is_none()
    );
    let vbds = pool.get("VM", "VBDs", &vm).await;
    let vbd = pool
        .call("VBD.get_record", vec![vbds.items()[0].clone()])
        .await;
    assert_eq!(vbd.get("unpluggable"), Some(&Value::Bool(false)));
    assert_eq!(vbd.get("other_config"), Some(&map(&[("owner", "")])));
    let vdi = pool
        .call("VDI.get_record", vec![vbd.get("VDI").unwrap().clone()])
        .await;
    assert_eq!(vdi.get("name_label"), Some(&Value::from("0")));
    assert_eq!(vdi.get("virtual_size"), Some(&Value::Int(8 << 30)));
    // It starts, and nothing reports from an empty disk.
    pool.start(&vm).await;
    assert_eq!(
        pool.fails("VM.clean_shutdown", vec![vm.as_str().into()])
            .await,
        format!("VM_LACKS_FEATURE|{vm}")
    );
    pool.call("VM.hard_shutdown", vec![vm.as_str().into()])
        .await;
}

#[tokio::test]
async fn making_a_template_costs_the_metrics() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    for template in [true, false] {
        pool.call(
            "VM.set_is_a_template",
            vec![vm.as_str().into(), template.into()],
        )
        .await;
    }
    pool.start(&vm).await;
    assert_eq!(pool.state(&vm).await, "Halted");
    let copy = pool
        .call("VM.clone", vec![vm.as_str().into(), "healed".into()])
        .await;
    pool.start(&text(&copy)).await;
    assert_eq!(pool.state(&text(&copy)).await, "Running");
}

#[tokio::test]
async fn a_host_has_so_much_memory() {
    let model = Model::new()
        .host_memory(4 << 30)
        .sr(SrSpec::local("local"))
        .template(TemplateSpec::with_guest("lua-bio-template").memory(1 << 29, 1 << 30));
    let pool = pool_of(model, SimOptions::default()).await;
    let first = pool.vm("first").await;
    pool.start(&first).await;
    let second = pool.vm("second").await;
    let failure = pool
        .fails(
            "VM.start",
            vec![second.as_str().into(), false.into(), false.into()],
        )
        .await;
    assert!(
        failure.starts_with("HOST_NOT_ENOUGH_FREE_MEMORY|1087373312|"),
        "{failure}"
    );
    let hosts = pool
        .call("VM.get_possible_hosts", vec![second.as_str().into()])
        .await;
    assert!(hosts.items().is_empty());
    pool.call("VM.hard_shutdown", vec![first.into()]).await;
    pool.start(&second).await;
}

#[tokio::test]
async fn a_failed_copy_leaves_nothing() {
    let pool = pool().await;
    let template = pool.template().await;
    let counts = || async {
        let args = vec![Value::Array(vec![]), "".into(), 0.0.into()];
        pool.call("event.from", args)
            .await
            .get("valid_ref_counts")
            .cloned()
    };
    let before = counts().await;
    let full = ["", "There is insufficient space", ""];
    pool.sim.inject(
        FaultRule::method("VM.clone")
            .after(1)
            .times(1)
            .fail("SR_BACKEND_FAILURE_44", full),
    );
    let args = || vec![Value::from(template.as_str()), "copy".into()];
    let first = text(&pool.call("VM.clone", args()).await);
    assert_eq!(
        pool.fails("VM.clone", args()).await,
        "SR_BACKEND_FAILURE_44||There is insufficient space|"
    );
    pool.call("VM.clone", args()).await;
    for vm in pool
        .call("VM.get_by_name_label", vec!["copy".into()])
        .await
        .items()
    {
        for vbd in pool.get("VM", "VBDs", vm.as_str().unwrap()).await.items() {
            let vdi = pool.get("VBD", "VDI", vbd.as_str().unwrap()).await;
            if vdi.as_str() != Some(NULL_REF) {
                pool.call("VDI.destroy", vec![vdi]).await;
            }
        }
        pool.call("VM.destroy", vec![vm.clone()]).await;
    }
    assert_eq!(counts().await, before);
    assert!(
        pool.try_call("VM.get_record", vec![first.into()])
            .await
            .is_err()
    );
}

#[tokio::test]
async fn blocked_operations() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let blocked = map(&[("start", "maintenance")]);
    pool.call(
        "VM.set_blocked_operations",
        vec![vm.as_str().into(), blocked],
    )
    .await;
    assert_eq!(
        pool.fails(
            "VM.start",
            vec![vm.as_str().into(), false.into(), false.into()]
        )
        .await,
        format!("OPERATION_BLOCKED|{vm}|maintenance")
    );
    let allowed = pool.get("VM", "allowed_operations", &vm).await;
    assert!(!allowed.items().contains(&Value::from("start")));
}

#[tokio::test]
async fn two_starts_at_once() {
    let options = SimOptions::default().with_latency(std::time::Duration::from_millis(20));
    let pool = pool_of(Model::single_host(), options).await;
    let vm = pool.vm("worker").await;
    let start = || {
        pool.try_call(
            "VM.start",
            vec![vm.as_str().into(), false.into(), false.into()],
        )
    };
    let (one, two) = tokio::join!(start(), start());
    let failure = match (one, two) {
        (Ok(_), Err(failure)) | (Err(failure), Ok(_)) => failure,
        other => panic!("{other:?}"),
    };
    // The server waits for the first to end before it looks at the second.
    assert_eq!(failure.code, "VM_BAD_POWER_STATE");
    assert_eq!(failure.params, [vm.as_str(), "halted", "running"]);
}

#[tokio::test]
async fn vms_move_between_hosts_that_share_storage() {
    let model = Model::new()
        .hosts(2)
        .sr(SrSpec::shared("shared"))
        .sr(SrSpec::local("local"))
        .template(TemplateSpec::with_guest("lua-bio-template"));
    let pool = pool_of(model, SimOptions::default()).await;
    let vm = pool.vm("worker").await;
    let hosts = pool
        .call("VM.get_possible_hosts", vec![vm.as_str().into()])
        .await;
    assert_eq!(hosts.items().len(), 2);
    let this_pool = text(&pool.call("pool.get_all", vec![]).await.items()[0]);
    let here = pool.get("pool", "master", &this_pool).await;
    let mut others = hosts.items().iter().filter(|host| **host != here);
    let there = others.next().unwrap().clone();
    let args = vec![vm.as_str().into(), here.clone(), false.into(), false.into()];
    pool.call("VM.start_on", args).await;
    report(&pool, &vm).await;
    assert_eq!(pool.get("VM", "resident_on", &vm).await, here);
    let args = vec![vm.as_str().into(), there.clone(), Value::Struct(vec![])];
    pool.call("VM.pool_migrate", args).await;
    assert_eq!(pool.get("VM", "resident_on", &vm).await, there);
    assert_eq!(
        pool.fails("VM.power_state_reset", vec![vm.as_str().into()])
            .await,
        format!("HOST_IS_LIVE|{}", text(&there)),
        "what a member runs is its own affair"
    );
    pool.call("host.disable", vec![here.clone()]).await;
    assert_eq!(
        pool.fails(
            "VM.assert_can_boot_here",
            vec![vm.as_str().into(), here.clone()]
        )
        .await,
        format!("HOST_DISABLED|{}", text(&here))
    );
}

#[tokio::test(start_paused = true)]
async fn a_hard_shutdown_overtakes_a_clean_one() {
    let options = SimOptions::default().with_latency(std::time::Duration::from_secs(1));
    let pool = pool_of(Model::single_host(), options).await;
    let vm = pool.vm("worker").await;
    pool.start(&vm).await;
    report(&pool, &vm).await;
    let this = || vec![Value::from(vm.as_str())];
    let clean = pool.fails("VM.clean_shutdown", this());
    let hard = async {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        pool.call("VM.hard_shutdown", this()).await;
        pool.start(&vm).await;
    };
    let (clean, ()) = tokio::join!(clean, hard);
    assert!(clean.starts_with("TASK_CANCELLED|OpaqueRef:"), "{clean}");
    assert_eq!(
        pool.state(&vm).await,
        "Running",
        "the clean one does not stop what came after it"
    );
}

#[tokio::test]
async fn the_server_leaves_messages() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    pool.start(&vm).await;
    pool.call("VM.hard_shutdown", vec![vm.as_str().into()])
        .await;
    let uuid = pool.get("VM", "uuid", &vm).await;
    let messages = pool.call("message.get_all_records", vec![]).await;
    let mut told: Vec<(String, String)> = Vec::new();
    for (_, message) in messages.members() {
        assert_eq!(message.get("obj_uuid"), Some(&uuid));
        told.push((
            text(message.get("name").unwrap()),
            text(message.get("body").unwrap()),
        ));
    }
    told.sort();
    assert_eq!(told[0].0, "VM_SHUTDOWN");
    assert_eq!(told[0].1, "VM 'worker' shutdown forcibly");
    assert!(
        told[1]
            .1
            .starts_with("VM 'worker' started on host: xcp-ng (uuid: "),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_start_that_the_host_refuses_leaves_the_vm_with_it() {
    let pool = pool().await;
    let vm = pool.vm("odd").await;
    let host = text(&pool.call("host.get_all", vec![]).await.items()[0]);
    let free = pool
        .call("host.compute_free_memory", vec![host.as_str().into()])
        .await;
    let platform = Value::map([("cores-per-socket", "3")]);
    pool.call("VM.set_platform", vec![vm.as_str().into(), platform])
        .await;
    let start = vec![vm.as_str().into(), false.into(), false.into()];
    let refused = pool.fails("VM.start", start).await;
    assert_eq!(refused, "VCPU_MAX_NOT_CORES_PER_SOCKET_MULTIPLE|2|3");
    assert_eq!(pool.state(&vm).await, "Halted");
    assert_eq!(text(&pool.get("VM", "resident_on", &vm).await), host);
    let after = pool
        .call("host.compute_free_memory", vec![host.into()])
        .await;
    assert_eq!(after, free);
}

#[tokio::test]
async fn settings_are_looked_at_when_a_vm_starts() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let host = text(&pool.call("host.get_all", vec![]).await.items()[0]);
    let set = |field: &str, value: Value| {
        let (method, args) = (format!("VM.set_{field}"), vec![vm.as_str().into(), value]);
        let pool = &pool;
        async move { pool.call(&method, args).await }
    };
    let here = || vec![vm.as_str().into(), host.as_str().into()];
    let start = || vec![vm.as_str().into(), false.into(), false.into()];
    set("VCPUs_max", 64.into()).await;
    assert_eq!(
        pool.fails("VM.assert_can_boot_here", here()).await,
        "HOST_NOT_ENOUGH_PCPUS|64|8"
    );
    assert_eq!(pool.fails("VM.start", start()).await, "NO_HOSTS_AVAILABLE");
    set("VCPUs_max", 2.into()).await;
    set("actions_after_crash", "coredump_and_restart".into()).await;
    assert_eq!(
        pool.fails("VM.assert_can_boot_here", here()).await,
        "VALUE_NOT_SUPPORTED|VM.actions_after_crash|coredump_and_restart|\
         cannot invoke a coredump of an HVM, PVH or PV-in-PVH domain"
    );
    set("actions_after_crash", "restart".into()).await;
    set("platform", map(&[("secureboot", "auto")])).await;
    pool.start(&vm).await;
    assert_eq!(
        pool.get("VM", "platform", &vm).await,
        map(&[
            ("device-model", "qemu-upstream-compat"),
            ("secureboot", "false")
        ]),
        "what was open is filled in"
    );
    let metrics = text(&pool.get("VM", "metrics", &vm).await);
    assert_eq!(
        pool.get("VM_metrics", "current_domain_type", &metrics)
            .await,
        Value::from("hvm")
    );
}

#[tokio::test]
async fn an_agent_without_a_feature() {
    let model = Model::new()
        .sr(SrSpec::local("local"))
        .template(TemplateSpec::with_guest("lua-bio-template").report(GuestReport::NoTools));
    let pool = pool_of(model, SimOptions::default()).await;
    let vm = pool.vm("worker").await;
    pool.start(&vm).await;
    for method in ["VM.clean_shutdown", "VM.suspend", "VM.clean_reboot"] {
        assert_eq!(
            pool.fails(method, vec![vm.as_str().into()]).await,
            format!("VM_LACKS_FEATURE|{vm}")
        );
    }
    let allowed = pool.get("VM", "allowed_operations", &vm).await;
    assert_eq!(
        allowed,
        Value::strings([
            "sysprep",
            "metadata_export",
            "changing_dynamic_range",
            "hard_reboot",
            "hard_shutdown",
            "pause",
            "snapshot"
        ])
    );
}

#[tokio::test]
async fn a_vm_made_by_hand() {
    let pool = pool().await;
    let text_fields = [
        "PV_bootloader",
        "PV_kernel",
        "PV_ramdisk",
        "PV_args",
        "PV_bootloader_args",
        "PV_legacy_args",
        "PCI_bus",
        "recommendations",
    ];
    let mut fields: Vec<(String, Value)> = text_fields
        .map(|field| (field.to_owned(), Value::from("")))
        .to_vec();
    for (field, value) in [
        ("user_version", Value::Int(1)),
        ("is_a_template", false.into()),
        ("affinity", NULL_REF.into()),
        ("memory_static_max", (1_i64 << 30).into()),
        ("memory_dynamic_max", (1_i64 << 30).into()),
        ("memory_dynamic_min", (1_i64 << 30).into()),
        ("memory_static_min", Value::Int(0)),
        ("VCPUs_params", map(&[])),
        ("VCPUs_max", Value::Int(1)),
        ("VCPUs_at_startup", Value::Int(1)),
        ("actions_after_shutdown", "destroy".into()),
        ("actions_after_reboot", "restart".into()),
        ("actions_after_crash", "restart".into()),
        ("HVM_boot_policy", "BIOS order".into()),
        ("HVM_boot_params", map(&[])),
        ("platform", map(&[])),
        ("other_config", map(&[])),
        ("has_vendor_device", true.into()),
        ("blocked_operations", map(&[("start", "ignored")])),
        ("snapshot_schedule", "OpaqueRef:ignored".into()),
    ] {
        fields.push((field.to_owned(), value));
    }
    let mut asleep = fields.clone();
    asleep.push(("power_state".to_owned(), "Suspended".into()));
    let failure = pool.fails("VM.create", vec![Value::Struct(asleep)]).await;
    assert!(
        failure.starts_with("VM_BAD_POWER_STATE|OpaqueRef:")
            && failure.ends_with("|halted|suspended"),
        "{failure}"
    );
    let vm = text(&pool.call("VM.create", vec![Value::Struct(fields)]).await);
    for (field, value) in [
        ("domain_type", Value::from("hvm")),
        ("hardware_platform_version", Value::Int(2)),
        ("blocked_operations", map(&[])),
        ("snapshot_schedule", NULL_REF.into()),
        ("memory_overhead", (13_i64 << 20).into()),
        ("memory_target", Value::Int(0)),
    ] {
        assert_eq!(pool.get("VM", field, &vm).await, value, "{field}");
    }
    let set = |pairs| vec![vm.as_str().into(), map(pairs)];
    assert_eq!(
        pool.fails("VM.set_bios_strings", set(&[("oem-1", "x")]))
            .await,
        "INVALID_VALUE|oem-1|Unknown key"
    );
    pool.call("VM.set_bios_strings", set(&[("bios-vendor", "Lab")]))
        .await;
    let strings = pool.get("VM", "bios_strings", &vm).await;
    assert_eq!(strings.get("bios-vendor"), Some(&"Lab".into()));
    assert_eq!(strings.get("oem-1"), Some(&"Xen".into()));
    assert_eq!(
        pool.fails("VM.set_bios_strings", set(&[])).await,
        "VM_BIOS_STRINGS_ALREADY_SET"
    );
    assert_eq!(
        pool.fails("VM.set_start_delay", vec![vm.as_str().into(), (-1).into()])
            .await,
        "INVALID_VALUE|start_delay must be non-negative|-1"
    );
}

#[tokio::test]
async fn what_is_left_of_older_ways() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let this = || vec![Value::from(vm.as_str())];
    let and = |more: &[&str]| {
        let more = more.iter().map(|text| Value::from(*text));
        this().into_iter().chain(more).collect::<Vec<_>>()
    };
    assert_eq!(
        pool.fails("VM.send_sysrq", and(&["h"])).await,
        format!("VM_BAD_POWER_STATE|{vm}|running|halted")
    );
    assert_eq!(
        pool.fails("VM.set_suspend_VDI", and(&["OpaqueRef:x"]))
            .await,
        format!("VM_BAD_POWER_STATE|{vm}|suspended|halted")
    );
    assert_eq!(
        pool.fails("VM.query_services", this()).await,
        format!("NOT_SYSTEM_DOMAIN|{vm}")
    );
    assert_eq!(
        pool.call("VM.get_cooperative", this()).await,
        Value::Bool(true)
    );
    pool.start(&vm).await;
    assert_eq!(
        pool.fails("VM.send_sysrq", and(&["h"])).await,
        "NOT_IMPLEMENTED|send_sysrq"
    );
    let plugin = [and(&["p", "f"]), vec![map(&[])]].concat();
    assert_eq!(
        pool.fails("VM.call_plugin", plugin).await,
        "XENAPI_MISSING_PLUGIN|p"
    );
    let record = pool.call("VM.get_boot_record", this()).await;
    assert_eq!(record.get("name_label"), Some(&"worker".into()));
    pool.call(
        "VM.set_ha_always_run",
        vec![vm.as_str().into(), true.into()],
    )
    .await;
    assert_eq!(
        pool.get("VM", "ha_restart_priority", &vm).await,
        Value::from("restart")
    );
    assert_eq!(
        pool.get("VM", "ha_always_run", &vm).await,
        Value::Bool(true)
    );
}
