//! What can be set on VMs, and when it counts.

use super::map;
use crate::common::{pool, pool_of, text};
use xapi_sim::{Model, NULL_REF, Release, SimOptions, Value};

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
async fn what_older_clients_look_for_among_other_settings_is_there_too() {
    let pool = pool().await;
    let host = text(&pool.call("host.get_all", vec![]).await.items()[0]);
    let with = |value: Value| vec![host.as_str().into(), value];
    let iqn = "iqn.2001-05.com.example:one";
    pool.call("host.set_iscsi_iqn", with(iqn.into())).await;
    pool.call("host.set_multipathing", with(true.into())).await;
    let other = pool.get("host", "other_config", &host).await;
    assert_eq!(other.get("iscsi_iqn"), Some(&iqn.into()));
    assert_eq!(other.get("multipathing"), Some(&"true".into()));
    assert!(other.get("boot_time").is_some());
    assert_eq!(
        pool.fails("host.set_iscsi_iqn", with("".into())).await,
        "INVALID_VALUE|value|"
    );
    for key in ["iscsi_iqn", "multipathing"] {
        pool.call("host.remove_from_other_config", with(key.into()))
            .await;
    }
    assert_eq!(pool.get("host", "iscsi_iqn", &host).await, iqn.into());
    for (key, value) in [("iscsi_iqn", "iqn.two"), ("multipathing", "false")] {
        let pair = vec![host.as_str().into(), key.into(), value.into()];
        pool.call("host.add_to_other_config", pair).await;
    }
    assert_eq!(pool.get("host", "iscsi_iqn", &host).await, "iqn.two".into());
    let multipathing = pool.get("host", "multipathing", &host).await;
    assert_eq!(multipathing, false.into());
}

#[tokio::test]
async fn settings_of_a_pool_within_their_limits() {
    let pool = pool_of(
        Model::single_host().release(Release::Newest),
        SimOptions::default(),
    )
    .await;
    let whole = text(&pool.call("pool.get_all", vec![]).await.items()[0]);
    let sync =
        |frequency: &str, day: i64| vec![whole.as_str().into(), frequency.into(), day.into()];
    for (frequency, day) in [("daily", 1), ("weekly", 7), ("weekly", -1)] {
        assert_eq!(
            pool.fails("pool.configure_update_sync", sync(frequency, day))
                .await,
            format!("INVALID_UPDATE_SYNC_DAY|{day}")
        );
    }
    pool.call("pool.configure_update_sync", sync("weekly", 6))
        .await;
    let next = |stamp: &str| vec![whole.as_str().into(), Value::DateTime(stamp.to_owned())];
    let late = pool
        .fails(
            "pool.set_telemetry_next_collection",
            next("20990101T00:00:00Z"),
        )
        .await;
    assert!(
        late.starts_with("TELEMETRY_NEXT_COLLECTION_TOO_LATE|"),
        "{late}"
    );
    pool.call(
        "pool.set_telemetry_next_collection",
        next("20200101T00:00:00Z"),
    )
    .await;
    let vm = pool.vm("worker").await;
    let groups = vec![vm.as_str().into(), Value::strings(["one", "two"])];
    assert_eq!(pool.fails("VM.set_groups", groups).await, "TOO_MANY_GROUPS");
}

#[tokio::test]
async fn a_vm_can_be_given_the_bios_strings_of_a_host() {
    let pool = pool().await;
    let host = text(&pool.call("host.get_all", vec![]).await.items()[0]);
    let strings = pool.get("host", "bios_strings", &host).await;
    assert!(strings.get("system-manufacturer").is_some());
    let vm = pool.vm("worker").await;
    let pair = || vec![vm.as_str().into(), host.as_str().into()];
    pool.call("VM.copy_bios_strings", pair()).await;
    assert_eq!(pool.get("VM", "bios_strings", &vm).await, strings);
    assert_eq!(
        pool.fails("VM.copy_bios_strings", pair()).await,
        "VM_BIOS_STRINGS_ALREADY_SET"
    );
}
