//! VMs: making and destroying them, and their settings. Power, memory and copies have files of
//! their own.

use super::{Table, check, done, plain, refresh, vm_memory};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
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
    ("VM.set_HVM_boot_policy", Now(set_hvm_boot_policy)),
    ("VM.set_domain_type", Now(set_domain_type)),
    ("VM.set_has_vendor_device", Now(plain)),
    ("VM.set_actions_after_crash", Now(plain)),
    ("VM.set_start_delay", Now(plain)),
    ("VM.set_shutdown_delay", Now(plain)),
    ("VM.set_order", Now(plain)),
    ("VM.set_suspend_VDI", Now(plain)),
    ("VM.set_appliance", Now(plain)),
    ("VM.set_NVRAM", Now(plain)),
    ("VM.add_to_NVRAM", Now(plain)),
    ("VM.remove_from_NVRAM", Now(plain)),
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
const VBD_DEVICES: usize = 256;

/// Writes a field on which the allowed operations depend.
fn plain_refreshed(world: &mut World, call: &Call) -> Reply {
    let reply = plain(world, call)?;
    refresh(world, call.text(0));
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

fn create(world: &mut World, call: &Call) -> Reply {
    let metrics = new_metrics(world)?;
    let mut values: Vec<(&str, Value)> = call.fields.clone();
    // The server ignores these in the struct.
    values.retain(|(name, _)| !matches!(*name, "blocked_operations" | "power_state"));
    let memory = call.field("memory_static_max").as_int().unwrap_or_default();
    let policy = call.field_text("HVM_boot_policy");
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
            _ => {}
        }
    }
    values.push(("metrics", Value::String(metrics)));
    values.push(("domid", Value::Int(-1)));
    values.push(("memory_overhead", Value::Int(vm_memory::overhead(memory))));
    let vm = world.create("VM", values)?;
    refresh(world, &vm);
    Ok(Value::String(vm))
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
    db.destroy("VM", vm)?;
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

/// BIOS strings can be set once, as long as the VM has never run.
fn set_bios_strings(world: &mut World, call: &Call) -> Reply {
    let vm = call.text(0);
    if !world.db.get("VM", vm, "bios_strings")?.members().is_empty() {
        return Err(Failure::code("VM_BIOS_STRINGS_ALREADY_SET"));
    }
    world.db.set("VM", vm, "bios_strings", call.arg(1))?;
    done()
}

fn set_ha_restart_priority(world: &mut World, call: &Call) -> Reply {
    if !matches!(call.text(1), "" | "restart" | "best-effort") {
        return Err(Failure::invalid_value("ha_restart_priority", call.text(1)));
    }
    plain(world, call)
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
