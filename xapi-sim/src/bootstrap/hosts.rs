//! The pool and its hosts as they are on a fresh installation.

use crate::classes::{self, vm, vm_power};
use crate::clock;
use crate::db::Release;
use crate::failure::Failure;
use crate::model::Model;
use crate::value::Value;
use crate::world::World;

pub(super) fn add(world: &mut World, model: &Model) -> Result<Vec<String>, Failure> {
    let mut hosts = Vec::new();
    for index in 0..model.hosts {
        hosts.push(add_host(world, model, index)?);
    }
    let coordinator = hosts.first().cloned().unwrap_or_default();
    let null = Value::null_ref;
    // Both are drawn when xapi starts for the first time; 8.2 knows neither.
    let identity = if model.release == Release::Xcpng82 {
        null()
    } else {
        let identity = world.seed.uuid_value();
        Value::String(world.create("secret", vec![("value", identity)])?)
    };
    let first = clock::stamp(world.clock.seconds() + TELEMETRY_DELAY);
    let pool = world.create(
        "pool",
        vec![
            ("name_label", Value::from(model.name.as_str())),
            ("master", Value::String(coordinator)),
            ("default_SR", null()),
            ("suspend_image_SR", null()),
            ("crash_dump_SR", null()),
            (
                "other_config",
                Value::map([("memory-ratio-hvm", "0.25"), ("memory-ratio-pv", "0.25")]),
            ),
            ("restrictions", restrictions(world.rules.dynamic_memory)),
            ("ha_cluster_stack", Value::from("xhad")),
            ("ext_auth_cache_enabled", Value::Bool(false)),
            ("telemetry_uuid", identity),
            ("telemetry_next_collection", Value::DateTime(first)),
            (
                "cpu_info",
                Value::map([
                    ("features_hvm_host", CPU_FEATURES.to_owned()),
                    ("features_pv_host", CPU_FEATURES.to_owned()),
                    ("socket_count", model.hosts.to_string()),
                    ("cpu_count", (model.host_cpus * model.hosts).to_string()),
                    ("vendor", "GenuineIntel".to_owned()),
                ]),
            ),
        ],
    )?;
    classes::pool::refresh(world, &pool)?;
    Ok(hosts)
}

/// How long a new pool waits before it would send statistics to its maker, in seconds.
const TELEMETRY_DELAY: u64 = 2 * 24 * 3600;

/// What the processors of the hosts can do.
const CPU_FEATURES: &str = "178bfbff-f6f83203-2e500800-040001f3-0000000f-219c01a9-00400004-\
                            00000000-00001000-9c000400-00000000-00000000-00000000-00000000-\
                            00000000-00000000-00000000-00000000";

/// The features of the pool: XCP-ng has all of them, so nothing is restricted.
fn restrictions(dynamic_memory: bool) -> Value {
    // In the order in which a real server lists them.
    const KEYS: [&str; 54] = [
        "restrict_vlan",
        "restrict_qos",
        "restrict_pool_attached_storage",
        "restrict_netapp",
        "restrict_equalogic",
        "restrict_pooling",
        "enable_xha",
        "restrict_marathon",
        "restrict_email_alerting",
        "restrict_historical_performance",
        "restrict_wlb",
        "restrict_rbac",
        "restrict_dmc",
        "restrict_checkpoint",
        "restrict_cpu_masking",
        "restrict_connection",
        "platform_filter",
        "regular_nag_dialog",
        "restrict_vmpr",
        "restrict_vmss",
        "restrict_intellicache",
        "restrict_gpu",
        "restrict_dr",
        "restrict_vif_locking",
        "restrict_storage_xen_motion",
        "restrict_vgpu",
        "restrict_integrated_gpu_passthrough",
        "restrict_vss",
        "restrict_guest_agent_auto_update",
        "restrict_pci_device_for_auto_update",
        "restrict_xen_motion",
        "restrict_guest_ip_setting",
        "restrict_ad",
        "restrict_nested_virt",
        "restrict_live_patching",
        "restrict_set_vcpus_number_live",
        "restrict_pvs_proxy",
        "restrict_igmp_snooping",
        "restrict_rpu",
        "restrict_pool_size",
        "restrict_cbt",
        "restrict_usb_passthrough",
        "restrict_network_sriov",
        "restrict_corosync",
        "restrict_cluster_address",
        "restrict_zstd_export",
        "restrict_pool_secret_rotation",
        "restrict_certificate_verification",
        "restrict_updates",
        "restrict_internal_repo_access",
        "restrict_vtpm",
        "restrict_vm_groups",
        "restrict_vm_start",
        "restrict_vm_appliance_start",
    ];
    Value::map(KEYS.map(|key| {
        let yes = match key {
            "enable_xha" => true,
            "restrict_dmc" => !dynamic_memory,
            _ => false,
        };
        (key, yes.to_string())
    }))
}

/// What a host of a release says that it runs.
struct Build {
    api_minor: i64,
    product: &'static str,
    platform: &'static str,
    xapi: &'static str,
    xapi_build: &'static str,
    xen: &'static str,
    xencenter: &'static str,
    db_schema: &'static str,
}

impl Build {
    const fn of(release: Release) -> Build {
        match release {
            Release::Xcpng82 => Build {
                api_minor: 15,
                product: "8.2.1",
                platform: "3.2.1",
                xapi: "1.20",
                xapi_build: "1.249.41",
                xen: "4.13.5",
                xencenter: "2.16",
                db_schema: "5.603",
            },
            Release::Xcpng83 => Build {
                api_minor: 21,
                product: "8.3.0",
                platform: "3.4.0",
                xapi: "26.1",
                xapi_build: "26.1.3",
                xen: "4.17.5",
                xencenter: "2.21",
                db_schema: "5.792",
            },
            Release::Newest => Build {
                api_minor: 23,
                product: "9.0.0",
                platform: "3.5.0",
                xapi: "26.17",
                xapi_build: "26.17.0",
                ..Build::of(Release::Xcpng83)
            },
        }
    }
}

/// What the firmware of a host says of the machine. Hosts add the last two, which guests look for.
const BIOS_STRINGS: [(&str, &str); 15] = [
    ("bios-vendor", "Simulated BIOS"),
    ("bios-version", "1.0"),
    ("system-manufacturer", "Simulated"),
    ("system-product-name", "Server"),
    ("system-version", "1"),
    ("system-serial-number", "S0000001"),
    ("baseboard-manufacturer", "Simulated"),
    ("baseboard-product-name", "Board"),
    ("baseboard-version", "1"),
    ("baseboard-serial-number", "B0000001"),
    ("enclosure-asset-tag", ""),
    ("oem-1", "Xen"),
    (
        "oem-2",
        "MS_VM_CERT/SHA1/bdbeb6e0a816d43fa6d3fe8aaef04c2bad9d3e3d",
    ),
    ("oem-3", "Simulated machine"),
    ("hp-rombios", ""),
];

fn add_host(world: &mut World, model: &Model, index: usize) -> Result<String, Failure> {
    let name = if index == 0 {
        "xcp-ng".to_owned()
    } else {
        format!("xcp-ng-{}", index + 1)
    };
    // Only the coordinator answers; the others have addresses from the documentation range.
    let address = if index == 0 {
        "127.0.0.1".to_owned()
    } else {
        format!("192.0.2.{}", 200 + index % 50)
    };
    let build = Build::of(model.release);
    let product = build.product;
    let now = world.clock.now();
    let metrics = world.create(
        "host_metrics",
        vec![
            ("memory_total", Value::Int(model.host_memory)),
            ("memory_free", Value::Int(model.host_memory)),
            ("live", Value::Bool(true)),
            ("last_updated", Value::DateTime(now.clone())),
        ],
    )?;
    let unix = world.clock.unix();
    let cpus = model.host_cpus.to_string();
    let software = [
        ("product_version", product),
        ("product_version_text", product),
        (
            "product_version_text_short",
            product.get(..3).unwrap_or(product),
        ),
        ("platform_name", "XCP"),
        ("platform_version", build.platform),
        ("product_brand", "XCP-ng"),
        ("build_number", "simulator"),
        ("hostname", "localhost"),
        ("date", now.get(..8).unwrap_or_default()),
        ("xapi", build.xapi),
        ("xapi_build", build.xapi_build),
        ("git_id", "release"),
        ("dbv", "0.0.1"),
        ("xencenter_min", build.xencenter),
        ("xencenter_max", build.xencenter),
        ("xen", build.xen),
        ("linux", "4.19.0+1"),
        ("network_backend", "openvswitch"),
        ("db_schema", build.db_schema),
    ];
    let host = world.create(
        "host",
        vec![
            ("name_label", Value::from(name.as_str())),
            ("name_description", Value::from("Default install")),
            ("memory_overhead", Value::Int(model.host_memory / 128)),
            ("API_version_major", Value::Int(2)),
            ("API_version_minor", Value::Int(build.api_minor)),
            ("API_version_vendor", Value::from("XenSource")),
            ("enabled", Value::Bool(true)),
            ("software_version", Value::map(software)),
            (
                "other_config",
                Value::map([
                    ("agent_start_time", unix.as_str()),
                    ("boot_time", unix.as_str()),
                ]),
            ),
            (
                "capabilities",
                Value::strings([
                    "xen-3.0-x86_64",
                    "hvm-3.0-x86_32",
                    "hvm-3.0-x86_32p",
                    "hvm-3.0-x86_64",
                ]),
            ),
            ("sched_policy", Value::from("credit")),
            (
                "supported_bootloaders",
                Value::strings(["pygrub", "eliloader"]),
            ),
            (
                "cpu_info",
                // In the order in which a real server lists them.
                Value::map([
                    ("cpu_count", cpus.as_str()),
                    ("socket_count", "1"),
                    ("threads_per_core", "2"),
                    ("nr_nodes", "1"),
                    ("vendor", "GenuineIntel"),
                    ("speed", "2600.000"),
                    ("modelname", "Simulated Xeon(R) CPU @ 2.60GHz"),
                    ("family", "6"),
                    ("model", "85"),
                    ("stepping", "7"),
                    (
                        "flags",
                        "fpu de tsc msr pae mce cx8 apic sep mca cmov pat clflush acpi mmx fxsr \
                         sse sse2 ht syscall nx lm",
                    ),
                    ("features_pv", CPU_FEATURES),
                    ("features_hvm", CPU_FEATURES),
                    ("features_hvm_host", CPU_FEATURES),
                    ("features_pv_host", CPU_FEATURES),
                ]),
            ),
            ("bios_strings", Value::map(BIOS_STRINGS)),
            ("hostname", Value::from(name.as_str())),
            ("address", Value::String(address)),
            ("metrics", Value::String(metrics)),
            ("license_params", restrictions(world.rules.dynamic_memory)),
            ("ssl_legacy", Value::Bool(false)),
            (
                "license_server",
                Value::map([("address", "localhost"), ("port", "27000")]),
            ),
            ("edition", Value::from("xcp-ng")),
            ("editions", Value::strings(["xcp-ng"])),
            ("display", Value::from("enabled")),
            ("chipset_info", Value::map([("iommu", "true")])),
            (
                "virtual_hardware_platform_versions",
                Value::Array(vec![Value::Int(0), Value::Int(1), Value::Int(2)]),
            ),
            ("suspend_image_sr", Value::null_ref()),
            ("crash_dump_sr", Value::null_ref()),
        ],
    )?;
    for number in 0..model.host_cpus {
        world.create(
            "host_cpu",
            vec![
                ("host", Value::from(host.as_str())),
                (
                    "number",
                    Value::Int(i64::try_from(number).unwrap_or_default()),
                ),
                ("vendor", Value::from("GenuineIntel")),
                ("speed", Value::Int(2600)),
                ("modelname", Value::from("Simulated Xeon(R) CPU @ 2.60GHz")),
                ("family", Value::Int(6)),
                ("model", Value::Int(85)),
                ("stepping", Value::from("7")),
            ],
        )?;
    }
    classes::host::refresh(world, &host)?;
    let dom0 = add_control_domain(world, &name, &host)?;
    world.db.set("host", &host, "control_domain", dom0)?;
    Ok(host)
}

fn add_control_domain(world: &mut World, name: &str, host: &str) -> Result<String, Failure> {
    const MEMORY: i64 = 2 << 30;
    let metrics = vm::new_metrics(world)?;
    let text = "The domain which manages physical devices and manages other domains";
    let vm = world.create(
        "VM",
        vec![
            (
                "name_label",
                Value::String(format!("Control domain on host: {name}")),
            ),
            ("name_description", Value::from(text)),
            ("power_state", Value::from("Running")),
            ("user_version", Value::Int(1)),
            ("is_control_domain", Value::Bool(true)),
            ("domain_type", Value::from("pv")),
            ("domid", Value::Int(0)),
            ("domarch", Value::from("x64")),
            ("resident_on", Value::from(host)),
            ("affinity", Value::from(host)),
            ("memory_static_max", Value::Int(MEMORY)),
            ("memory_static_min", Value::Int(MEMORY)),
            ("memory_dynamic_max", Value::Int(MEMORY)),
            ("memory_dynamic_min", Value::Int(MEMORY)),
            ("memory_target", Value::Int(MEMORY)),
            ("memory_overhead", Value::Int(20 << 20)),
            ("VCPUs_max", Value::Int(2)),
            ("VCPUs_at_startup", Value::Int(2)),
            ("generation_id", Value::void()),
            ("has_vendor_device", Value::Bool(false)),
            ("actions_after_shutdown", Value::from("destroy")),
            ("actions_after_reboot", Value::from("destroy")),
            ("actions_after_crash", Value::from("destroy")),
            ("metrics", Value::String(metrics)),
        ],
    )?;
    for protocol in ["vt100", "rfb"] {
        vm_power::add_console(world, &vm, host, protocol)?;
    }
    classes::refresh(world, &vm);
    Ok(vm)
}
