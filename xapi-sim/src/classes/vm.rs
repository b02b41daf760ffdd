//! VMs: making and destroying them, and their settings. Power, memory and copies have files of
//! their own.

use super::{Table, appliance, check, done, plain, power_of, refresh, vm_memory};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::lifecycle::{self, Power};
use crate::report;
use crate::value::{EPOCH, NULL_REF, Value};
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("VM.create", Now(create)),
    ("VM.destroy", Now(destroy)),
    ("VM.set_is_a_template", Now(set_is_a_template)),
    ("VM.set_is_default_template", Now(set_is_default_template)),
    ("VM.get_allowed_VBD_devices", Now(get_allowed_vbd_devices)),
    ("VM.get_allowed_VIF_devices", Now(get_allowed_vif_devices)),
    ("VM.assert_operation_valid", Now(assert_operation_valid)),
    (
        "VM.update_allowed_operations",
        Now(update_allowed_operations),
    ),
    ("VM.set_blocked_operations", Now(plain_refreshed)),
    ("VM.add_to_blocked_operations", Now(plain_refreshed)),
    ("VM.remove_from_blocked_operations", Now(plain_refreshed)),
    ("VM.set_bios_strings", Now(set_bios_strings)),
    ("VM.set_ha_restart_priority", Now(set_ha_restart_priority)),
    ("VM.set_ha_always_run", Now(set_ha_always_run)),
    ("VM.set_HVM_boot_policy", Now(set_hvm_boot_policy)),
    ("VM.set_domain_type", Now(set_domain_type)),
    ("VM.set_has_vendor_device", Now(set_has_vendor_device)),
    ("VM.set_actions_after_crash", Now(plain)),
    ("VM.set_start_delay", Now(set_not_negative)),
    ("VM.set_shutdown_delay", Now(set_not_negative)),
    ("VM.set_order", Now(set_not_negative)),
    ("VM.set_appliance", Now(set_appliance)),
    ("VM.set_NVRAM", Now(change_nvram)),
    ("VM.add_to_NVRAM", Now(change_nvram)),
    ("VM.remove_from_NVRAM", Now(change_nvram)),
    ("VM.set_other_config", Now(plain_refreshed)),
    ("VM.add_to_other_config", Now(plain_refreshed)),
    ("VM.remove_from_other_config", Now(plain_refreshed)),
    ("VM.set_platform", Now(plain)),
    ("VM.add_to_platform", Now(plain)),
    ("VM.remove_from_platform", Now(plain)),
];

/// The number of interfaces that a VM can have.
const VIF_DEVICES: usize = 16;
/// The number of block devices.
const VBD_DEVICES: usize = 255;

/// Writes a field on which the allowed operations depend.
fn plain_refreshed(world: &mut World, call: &Call) -> Reply {
    let reply = plain(world, call)?;
    refresh(world, call.text(0));
    Ok(reply)
}

/// A VM leaves its appliance for another, or for none.
fn set_appliance(world: &mut World, call: &Call) -> Reply {
    let left = world.db.text("VM", call.text(0), "appliance")?;
    let reply = plain_refreshed(world, call)?;
    appliance::refresh(world, &left);
    Ok(reply)
}

/// Metrics of a VM that has never run.
pub(crate) fn new_metrics(world: &mut World) -> Result<String, Failure> {
    let idle = Value::Struct(vec![("0".to_owned(), Value::Float(0.0))]);
    let values = vec![
        ("VCPUs_utilisation", idle),
        ("start_time", Value::DateTime(EPOCH.to_owned())),
        ("install_time", Value::DateTime(EPOCH.to_owned())),
        ("last_updated", Value::DateTime(EPOCH.to_owned())),
    ];
    world.create("VM_metrics", values)
}

/// What the server ignores in the struct that `VM.create` takes.
const NOT_TAKEN: &[&str] = &[
    "power_state",
    "blocked_operations",
    "protection_policy",
    "is_snapshot_from_vmpp",
    "snapshot_schedule",
    "is_vmss_snapshot",
];
/// What it takes only for a VM that sleeps.
const OF_SLEEPERS: &[&str] = &["suspend_VDI", "last_boot_CPU_flags", "last_booted_record"];

fn create(world: &mut World, call: &Call) -> Reply {
    let sleeps = call.field_text("power_state") == "Suspended";
    let mut values: Vec<(&str, Value)> = call.fields.clone();
    values.retain(|(name, _)| !NOT_TAKEN.contains(name) && (sleeps || !OF_SLEEPERS.contains(name)));
    let complete = call.field_text("suspend_VDI") != NULL_REF
        && !call.field_text("last_booted_record").is_empty()
        && !call.field("last_boot_CPU_flags").members().is_empty();
    if sleeps && !complete {
        let params = [&world.seed.reference(), "halted", "suspended"];
        return Err(Failure::new("VM_BAD_POWER_STATE", params));
    }
    let metrics = new_metrics(world)?;
    let memory = call.field("memory_static_max").as_int().unwrap_or_default();
    let policy = call.field_text("HVM_boot_policy");
    let vendor_device = call.field("has_vendor_device").as_bool() == Some(true);
    for (name, value) in &mut values {
        match *name {
            "other_config" if value.get("mac_seed").is_none() => {
                if let Value::Struct(members) = value {
                    members.insert(0, ("mac_seed".to_owned(), world.seed.uuid_value()));
                }
            }
            "domain_type" if value.as_str() == Some("unspecified") => {
                *value = Value::from(if policy.is_empty() { "pv" } else { "hvm" });
            }
            "hardware_platform_version" if vendor_device => {
                *value = Value::Int(value.as_int().unwrap_or_default().max(WITH_VENDOR_DEVICE));
            }
            _ => {}
        }
    }
    let power = if sleeps { "Suspended" } else { "Halted" };
    values.push(("power_state", Value::from(power)));
    values.push(("metrics", Value::String(metrics)));
    values.push(("domid", Value::Int(-1)));
    values.push(("memory_overhead", Value::Int(vm_memory::overhead(memory))));
    let vm = world.create("VM", values)?;
    refresh(world, &vm);
    Ok(Value::String(vm))
}

/// The version of the virtual hardware that has the vendor's device.
const WITH_VENDOR_DEVICE: i64 = 2;

/// Raises the version of a VM's virtual hardware to what its settings need.
pub(crate) fn update_hardware_version(world: &mut World, vm: &str) -> Result<(), Failure> {
    let version = world.db.int("VM", vm, "hardware_platform_version")?;
    if world.db.flag("VM", vm, "has_vendor_device")? && version < WITH_VENDOR_DEVICE {
        world
            .db
            .set("VM", vm, "hardware_platform_version", WITH_VENDOR_DEVICE)?;
    }
    Ok(())
}

fn destroy(world: &mut World, call: &Call) -> Reply {
    let vm = call.text(0);
    check(world, vm, "destroy")?;
    remove(world, vm)?;
    done()
}

/// Removes a VM with its devices and metrics. Its disks stay, and so do its snapshots.
pub(crate) fn remove(world: &mut World, vm: &str) -> Result<(), Failure> {
    // What was suspended has nowhere to wake up any more.
    world.running.remove(vm);
    world.leases.remove(vm);
    report::forget(world, vm)?;
    let db = &mut world.db;
    let mut vdis = Vec::new();
    for vbd in db.list("VM", vm, "VBDs")? {
        vdis.push(db.text("VBD", &vbd, "VDI")?);
        super::vbd::remove(db, &vbd)?;
    }
    for vif in db.list("VM", vm, "VIFs")? {
        super::vif::remove(db, &vif)?;
    }
    for (field, class) in [
        ("VTPMs", "VTPM"),
        ("consoles", "console"),
        ("VGPUs", "VGPU"),
    ] {
        for device in db.list("VM", vm, field)? {
            db.destroy(class, &device)?;
        }
    }
    let metrics = db.text("VM", vm, "metrics")?;
    if db.exists("VM_metrics", &metrics) {
        db.destroy("VM_metrics", &metrics)?;
    }
    let parent = db.text("VM", vm, "parent")?;
    for child in db.list("VM", vm, "children")? {
        db.set("VM", &child, "parent", parent.as_str())?;
    }
    let left = db.text("VM", vm, "appliance")?;
    db.destroy("VM", vm)?;
    appliance::refresh(world, &left);
    for vdi in vdis {
        super::vdi::refresh(world, &vdi);
    }
    Ok(())
}

/// Marks a VM's devices as attached to nothing.
pub(crate) fn detach_devices(world: &mut World, vm: &str) -> Result<(), Failure> {
    let db = &mut world.db;
    for vbd in db.list("VM", vm, "VBDs")? {
        db.set("VBD", &vbd, "currently_attached", false)?;
    }
    for vif in db.list("VM", vm, "VIFs")? {
        db.set("VIF", &vif, "currently_attached", false)?;
    }
    Ok(())
}

/// A new generation id for a VM that has one.
pub(crate) fn fresh_genid(world: &mut World, vm: &str) -> Result<Value, Failure> {
    if world.db.text("VM", vm, "generation_id")?.is_empty() {
        return Ok(Value::void());
    }
    let half = |text: String| {
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        u64::from_str_radix(digits.get(..15).unwrap_or("0"), 16).unwrap_or_default()
    };
    let (high, low) = (half(world.seed.uuid()), half(world.seed.uuid()));
    Ok(Value::String(format!("{high}:{low}")))
}

/// Makes an ordinary VM of a template, which counts as its installation.
pub(crate) fn make_ordinary(world: &mut World, vm: &str) -> Result<(), Failure> {
    let metrics = world.db.text("VM", vm, "metrics")?;
    if world.db.exists("VM_metrics", &metrics) {
        let now = Value::DateTime(world.clock.now());
        world.db.set("VM_metrics", &metrics, "install_time", now)?;
    }
    world.db.set("VM", vm, "is_a_template", false)?;
    refresh(world, vm);
    Ok(())
}

/// Turning a VM into a template takes its metrics away, and nothing gives them back: a trap of
/// the real server that clients have to know.
fn set_is_a_template(world: &mut World, call: &Call) -> Reply {
    let vm = call.text(0);
    if call.flag(1) {
        check(world, vm, "make_into_template")?;
        make_template(world, vm)?;
        refresh(world, vm);
    } else {
        world.db.require("VM", vm)?;
        make_ordinary(world, vm)?;
    }
    done()
}

fn make_template(world: &mut World, vm: &str) -> Result<(), Failure> {
    let db = &mut world.db;
    let metrics = db.text("VM", vm, "metrics")?;
    if db.exists("VM_metrics", &metrics) {
        db.destroy("VM_metrics", &metrics)?;
    }
    db.set("VM", vm, "ha_always_run", false)?;
    db.set("VM", vm, "groups", Value::Array(Vec::new()))?;
    db.set("VM", vm, "metrics", NULL_REF)?;
    db.set("VM", vm, "is_a_template", true)
}

/// Default templates are templates, and carry the mark of older times too.
fn set_is_default_template(world: &mut World, call: &Call) -> Reply {
    let (vm, default) = (call.text(0), call.flag(1));
    if default && !world.db.flag("VM", vm, "is_a_template")? {
        make_template(world, vm)?;
    }
    let mut config = world.db.get("VM", vm, "other_config")?.members().to_vec();
    config.retain(|(key, _)| key != "default_template");
    config.insert(
        0,
        ("default_template".to_owned(), default.to_string().into()),
    );
    world
        .db
        .set("VM", vm, "other_config", Value::Struct(config))?;
    world.db.set("VM", vm, "is_default_template", default)?;
    refresh(world, vm);
    done()
}

fn get_allowed_vbd_devices(world: &mut World, call: &Call) -> Reply {
    let free = free_vbd_devices(world, call.text(0))?;
    Ok(Value::strings(free.map(|number| number.to_string())))
}

/// The numbers of block devices that a VM has free.
pub(crate) fn free_vbd_devices(
    world: &World,
    vm: &str,
) -> Result<impl Iterator<Item = usize> + use<>, Failure> {
    let used = super::vbd::used_numbers(world, vm)?;
    Ok(
        (0..VBD_DEVICES)
            .filter(move |number| !used.contains(&i64::try_from(*number).unwrap_or(-1))),
    )
}

fn get_allowed_vif_devices(world: &mut World, call: &Call) -> Reply {
    let db = &world.db;
    let mut used = Vec::new();
    for vif in db.list("VM", call.text(0), "VIFs")? {
        used.push(db.text("VIF", &vif, "device")?);
    }
    let limit = if db.release() == crate::db::Release::Xcpng82 {
        7
    } else {
        VIF_DEVICES
    };
    let devices = (0..limit).map(|number| number.to_string());
    Ok(Value::strings(
        devices.filter(|device| !used.contains(device)),
    ))
}

fn assert_operation_valid(world: &mut World, call: &Call) -> Reply {
    check(world, call.text(0), call.text(1))?;
    done()
}

fn update_allowed_operations(world: &mut World, call: &Call) -> Reply {
    world.db.require("VM", call.text(0))?;
    refresh(world, call.text(0));
    done()
}

/// What a BIOS says of itself when nobody has set anything. The first of the keys can be set.
const BIOS_STRINGS: [(&str, &str); 16] = [
    ("bios-vendor", "Xen"),
    ("bios-version", ""),
    ("system-manufacturer", "Xen"),
    ("system-product-name", "HVM domU"),
    ("system-version", ""),
    ("system-serial-number", ""),
    ("baseboard-manufacturer", ""),
    ("baseboard-product-name", ""),
    ("baseboard-version", ""),
    ("baseboard-serial-number", ""),
    ("baseboard-asset-tag", ""),
    ("baseboard-location-in-chassis", ""),
    ("enclosure-asset-tag", ""),
    ("hp-rombios", ""),
    ("oem-1", "Xen"),
    (
        "oem-2",
        "MS_VM_CERT/SHA1/bdbeb6e0a816d43fa6d3fe8aaef04c2bad9d3e3d",
    ),
];
const SETTABLE_BIOS_STRINGS: usize = 13;
const BIOS_STRING_MAX: usize = 512;

/// The BIOS strings of a VM where `given` are set.
pub(crate) fn bios_strings(given: &Value) -> Value {
    Value::map(BIOS_STRINGS.map(|(key, default)| {
        let text = given.get(key).and_then(Value::as_str).unwrap_or(default);
        (key, text.to_owned())
    }))
}

/// Gives a VM the default BIOS strings where it has none, as the first try to start it does.
pub(crate) fn complete_bios_strings(world: &mut World, vm: &str) -> Result<(), Failure> {
    if world.db.get("VM", vm, "bios_strings")?.members().is_empty() {
        let defaults = bios_strings(&Value::Struct(Vec::new()));
        world.db.set("VM", vm, "bios_strings", defaults)?;
    }
    Ok(())
}

/// BIOS strings can be set once, as long as the VM has never run.
fn set_bios_strings(world: &mut World, call: &Call) -> Reply {
    let vm = call.text(0);
    if !world.db.get("VM", vm, "bios_strings")?.members().is_empty() {
        return Err(Failure::code("VM_BIOS_STRINGS_ALREADY_SET"));
    }
    let given = call.arg(1);
    for (key, value) in given.members() {
        let text = value.as_str().unwrap_or_default();
        let settable = &BIOS_STRINGS[..SETTABLE_BIOS_STRINGS];
        let trouble = if !settable.iter().any(|(known, _)| known == key) {
            "Unknown key".to_owned()
        } else if text.is_empty() {
            "Value provided is empty".to_owned()
        } else if text.len() > BIOS_STRING_MAX {
            format!("{text} has length more than {BIOS_STRING_MAX} characters")
        } else if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            format!("{text} has non-printable ASCII characters")
        } else {
            continue;
        };
        return Err(Failure::invalid_value(key, &trouble));
    }
    world
        .db
        .set("VM", vm, "bios_strings", bios_strings(&given))?;
    done()
}

/// `VM.set_start_delay`, `VM.set_shutdown_delay` and `VM.set_order`.
fn set_not_negative(world: &mut World, call: &Call) -> Reply {
    world.db.require("VM", call.text(0))?;
    if call.int(1) < 0 {
        let field = call.message.name.trim_start_matches("set_");
        let rule = format!("{field} must be non-negative");
        return Err(Failure::invalid_value(&rule, &call.int(1).to_string()));
    }
    plain(world, call)
}

fn set_has_vendor_device(world: &mut World, call: &Call) -> Reply {
    let vm = call.text(0);
    let power = power_of(world, vm)?;
    if power != Power::Halted {
        return Err(lifecycle::bad_power_state(vm, &[Power::Halted], power));
    }
    plain(world, call)?;
    update_hardware_version(world, vm)?;
    done()
}

/// Writes variables of the firmware, which a running VM holds itself.
fn change_nvram(world: &mut World, call: &Call) -> Reply {
    check(world, call.text(0), "changing_NVRAM")?;
    plain(world, call)
}

fn set_ha_restart_priority(world: &mut World, call: &Call) -> Reply {
    protect(world, call.text(0), call.text(1))
}

/// What is left of an older switch: it sets the priority.
fn set_ha_always_run(world: &mut World, call: &Call) -> Reply {
    let priority = if call.flag(1) { "restart" } else { "" };
    protect(world, call.text(0), priority)
}

fn protect(world: &mut World, vm: &str, priority: &str) -> Reply {
    if !matches!(priority, "" | "restart" | "best-effort") {
        return Err(Failure::invalid_value("ha_restart_priority", priority));
    }
    if world.db.text("VM", vm, "ha_restart_priority")? == priority {
        return done();
    }
    if power_of(world, vm)? == Power::Running {
        let always = priority == "restart";
        world.db.set("VM", vm, "ha_always_run", always)?;
    }
    world.db.set("VM", vm, "ha_restart_priority", priority)?;
    done()
}

fn set_hvm_boot_policy(world: &mut World, call: &Call) -> Reply {
    let vm = call.text(0);
    let domain_type = if call.text(1).is_empty() { "pv" } else { "hvm" };
    world.db.set("VM", vm, "HVM_boot_policy", call.arg(1))?;
    world.db.set("VM", vm, "domain_type", domain_type)?;
    done()
}

fn set_domain_type(world: &mut World, call: &Call) -> Reply {
    let vm = call.text(0);
    let policy = if call.text(1) == "hvm" {
        "BIOS order"
    } else {
        ""
    };
    world.db.set("VM", vm, "domain_type", call.arg(1))?;
    world.db.set("VM", vm, "HVM_boot_policy", policy)?;
    done()
}
