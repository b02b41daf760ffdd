//! Block devices of VMs.

use super::operation::{self, Mark};
use super::{Table, done, hotplug, plain, power_of};
use crate::db::Db;
use crate::dispatch::Handler::{Held, Now};
use crate::failure::{Failure, Reply};
use crate::lifecycle::{self, Power};
use crate::value::{NULL_REF, Value, parse_int};
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("VBD.create", Now(create)),
    ("VBD.destroy", Now(destroy)),
    ("VBD.plug", Held(|_, call| marked(call, "plug"), plug)),
    ("VBD.unplug", Held(|_, call| marked(call, "unplug"), unplug)),
    (
        "VBD.unplug_force",
        Held(|_, call| marked(call, "unplug_force"), unplug),
    ),
    ("VBD.insert", Held(|_, call| marked(call, "insert"), insert)),
    ("VBD.eject", Held(|_, call| marked(call, "eject"), eject)),
    ("VBD.assert_attachable", Now(assert_attachable)),
    ("VBD.set_mode", Now(set_mode)),
];

fn marked(call: &Call, operation: &'static str) -> Result<Vec<Mark>, Failure> {
    Ok(vec![Mark::new("VBD", call.text(0), operation)])
}

/// The number of a device by any of its names: `0`, `xvda`, `hda`, `sda`.
pub(crate) fn disk_number(device: &str) -> Option<i64> {
    if let Some(number) = parse_int(device) {
        return Some(number);
    }
    let letters = ["xvd", "hd", "sd"]
        .iter()
        .find_map(|prefix| device.strip_prefix(prefix))?;
    let letter = letters
        .bytes()
        .next()
        .filter(|letter| (b'a'..=b'p').contains(letter))?;
    let rest = &letters[1..];
    (rest.is_empty() || parse_int(rest).is_some()).then(|| i64::from(letter - b'a'))
}

/// The name that Linux in a guest gives to a device.
pub(crate) fn linux_name(device: &str) -> String {
    let letter = disk_number(device)
        .and_then(|number| u8::try_from(number).ok())
        .filter(|number| *number < 26)
        .map(|number| char::from(b'a' + number));
    letter.map_or_else(|| device.to_owned(), |letter| format!("xvd{letter}"))
}

fn is_valid_device(device: &str, kind: &str) -> bool {
    let floppy = device
        .strip_prefix("fd")
        .is_some_and(|rest| matches!(rest, "a" | "b"));
    // Numbers are not checked for their range.
    device == "autodetect"
        || floppy
        || disk_number(device).is_some_and(|_| kind != "Floppy" || parse_int(device).is_none())
}

/// The numbers of the devices that a VM uses.
pub(crate) fn used_numbers(world: &World, vm: &str) -> Result<Vec<i64>, Failure> {
    let mut used = Vec::new();
    for vbd in world.db.list("VM", vm, "VBDs")? {
        used.extend(disk_number(&world.db.text("VBD", &vbd, "userdevice")?));
    }
    Ok(used)
}

fn create(world: &mut World, call: &Call) -> Reply {
    let (vm, vdi) = (call.field_text("VM"), call.field_text("VDI"));
    let (kind, mode) = (call.field_text("type"), call.field_text("mode"));
    let empty = call.field("empty").as_bool().unwrap_or_default();
    let sleeps = power_of(world, &vm)? == Power::Suspended;
    if !empty {
        let vdi_type = world.db.text("VDI", &vdi, "type")?;
        if matches!(
            vdi_type.as_str(),
            "ha_statefile" | "redo_log" | "cbt_metadata"
        ) {
            return Err(Failure::new("VDI_INCOMPATIBLE_TYPE", [vdi, vdi_type]));
        }
    }
    if kind == "CD" && mode != "RO" {
        return Err(Failure::code("VBD_CDS_MUST_BE_READONLY"));
    }
    if kind != "CD" && empty {
        return Err(Failure::new("VBD_NOT_REMOVABLE_MEDIA", ["in constructor"]));
    }
    if !empty && mode == "RW" && world.db.flag("VDI", &vdi, "read_only")? {
        return Err(Failure::new("VDI_READONLY", [vdi]));
    }
    let mut device = call.field_text("userdevice");
    if !is_valid_device(&device, &kind) {
        return Err(Failure::new("INVALID_DEVICE", [device]));
    }
    if device == "autodetect" {
        match super::vm::free_vbd_devices(world, &vm)?.next() {
            Some(number) => device = number.to_string(),
            None => return Err(Failure::new("INVALID_DEVICE", [device])),
        }
    }
    let number = disk_number(&device);
    if number
        .is_some_and(|number| used_numbers(world, &vm).is_ok_and(|used| used.contains(&number)))
    {
        return Err(Failure::new("DEVICE_ALREADY_EXISTS", [device]));
    }
    let mut values: Vec<(&str, Value)> = call.fields.clone();
    // Only the devices of a VM that sleeps can be attached from the start.
    let kept = |name: &str| match name {
        "userdevice" => false,
        "currently_attached" | "device" => sleeps,
        _ => true,
    };
    values.retain(|(name, _)| kept(name));
    values.push(("userdevice", Value::String(device)));
    add(world, values).map(Value::String)
}

/// Adds a device with metrics of its own.
pub(crate) fn add(world: &mut World, mut values: Vec<(&str, Value)>) -> Result<String, Failure> {
    let metrics = world.create("VBD_metrics", Vec::new())?;
    values.push(("metrics", Value::String(metrics)));
    let vbd = world.create("VBD", values)?;
    refresh(world, &vbd)?;
    let vdi = world.db.text("VBD", &vbd, "VDI")?;
    super::vdi::refresh(world, &vdi);
    Ok(vbd)
}

/// Removes a device with its metrics.
pub(crate) fn remove(db: &mut Db, vbd: &str) -> Result<(), Failure> {
    let metrics = db.text("VBD", vbd, "metrics")?;
    if db.exists("VBD_metrics", &metrics) {
        db.destroy("VBD_metrics", &metrics)?;
    }
    db.destroy("VBD", vbd)
}

fn destroy(world: &mut World, call: &Call) -> Reply {
    let vbd = call.text(0);
    let db = &mut world.db;
    if db.flag("VBD", vbd, "currently_attached")? {
        let uuid = db.text("VBD", vbd, "uuid")?;
        let vm = db.text("VM", &db.text("VBD", vbd, "VM")?, "uuid")?;
        let text = format!("VBD '{uuid}' still attached to '{vm}'");
        return Err(Failure::not_allowed(&text));
    }
    let vdi = db.text("VBD", vbd, "VDI")?;
    remove(db, vbd)?;
    super::vdi::refresh(world, &vdi);
    done()
}

/// The operations in the order in which a real server lists them.
const OPERATIONS: &[&str] = &[
    "attach",
    "unpause",
    "unplug",
    "plug",
    "insert",
    "unplug_force",
    "pause",
    "eject",
];

/// Brings the allowed operations up to date.
pub(crate) fn refresh(world: &mut World, vbd: &str) -> Result<(), Failure> {
    // Whether others use the disk is looked at when it counts, not here.
    let allowed: Vec<&str> = OPERATIONS
        .iter()
        .filter(|operation| check(world, vbd, operation, false).is_ok())
        .copied()
        .collect();
    world
        .db
        .set("VBD", vbd, "allowed_operations", Value::strings(allowed))
}

/// Refuses an operation with the first failure that a real server would find.
pub(crate) fn check(
    world: &World,
    vbd: &str,
    operation: &str,
    sharing: bool,
) -> Result<(), Failure> {
    let db = &world.db;
    operation::assert_idle(world, "VBD", vbd)?;
    let flag = |field: &str| db.flag("VBD", vbd, field);
    let vm = db.text("VBD", vbd, "VM")?;
    let power = power_of(world, &vm)?;
    let removable = db.text("VBD", vbd, "type")? == "CD";
    let (empty, attached) = (flag("empty")?, flag("currently_attached")?);
    let changes_media = matches!(operation, "insert" | "eject");
    if matches!(operation, "unplug" | "unplug_force") && !flag("unpluggable")? {
        return Err(Failure::new("VBD_NOT_UNPLUGGABLE", [vbd]));
    }
    if changes_media && !removable {
        return Err(Failure::new("VBD_NOT_REMOVABLE_MEDIA", [vbd]));
    }
    if operation == "eject" && empty {
        return Err(Failure::new("VBD_IS_EMPTY", [vbd]));
    }
    if operation == "insert" && !empty {
        return Err(Failure::new("VBD_NOT_EMPTY", [vbd]));
    }
    hotplug::check(world, "VBD", vbd, &vm, operation)?;
    if removable && matches!(operation, "plug" | "unplug" | "unplug_force") {
        let text = "HVM CDROMs cannot be hotplugged/unplugged, only inserted or ejected";
        return Err(Failure::not_allowed(text));
    }
    if matches!(operation, "pause" | "unpause") && !power.is_live() {
        return Err(lifecycle::bad_power_state(&vm, &[Power::Running], power));
    }
    if changes_media && power == Power::Suspended {
        let expected = [Power::Halted, Power::Running];
        return Err(lifecycle::bad_power_state(&vm, &expected, power));
    }
    if !empty && !db.flag("VDI", &db.text("VBD", vbd, "VDI")?, "managed")? {
        return Err(Failure::new("VDI_NOT_MANAGED", [vbd]));
    }
    // What is done to a disk comes first, unless it is about to be attached by the same VM.
    if sharing && !empty && matches!(operation, "attach" | "plug") {
        operation::assert_idle(world, "VDI", &db.text("VBD", vbd, "VDI")?)?;
    }
    if sharing && !empty && !attached && matches!(operation, "attach" | "insert" | "plug") {
        check_sharing(world, vbd)?;
    }
    Ok(())
}

/// Refuses a disk that another VM uses in a way that does not go together with ours.
pub(crate) fn check_sharing(world: &World, vbd: &str) -> Result<(), Failure> {
    let db = &world.db;
    let vdi = db.text("VBD", vbd, "VDI")?;
    let writes = db.text("VBD", vbd, "mode")? == "RW";
    let mut others = Vec::new();
    for other in db.list("VDI", &vdi, "VBDs")? {
        // What a VM that sleeps has attached is really free.
        let vm = db.text("VBD", &other, "VM")?;
        let counts = other != vbd && power_of(world, &vm)? != Power::Suspended;
        if counts && db.flag("VBD", &other, "currently_attached")? {
            others.push(db.text("VBD", &other, "mode")? == "RW");
        }
    }
    let clash = others.contains(&true) || (writes && !others.is_empty());
    if clash && !db.flag("VDI", &vdi, "sharable")? {
        return Err(Failure::new("VDI_IN_USE", [vdi]));
    }
    if writes && db.flag("VDI", &vdi, "read_only")? {
        return Err(Failure::new("VDI_READONLY", [vdi]));
    }
    Ok(())
}

/// Refuses to start a VM one of whose disks cannot be attached.
pub(crate) fn assert_startable(world: &World, vm: &str) -> Result<(), Failure> {
    for vbd in world.db.list("VM", vm, "VBDs")? {
        if !world.db.flag("VBD", &vbd, "empty")? {
            world
                .db
                .require("VDI", &world.db.text("VBD", &vbd, "VDI")?)?;
            check(world, &vbd, "attach", true)?;
        }
    }
    Ok(())
}

fn assert_attachable(world: &mut World, call: &Call) -> Reply {
    check(world, call.text(0), "attach", true)?;
    done()
}

fn attach(world: &mut World, vbd: &str, attached: bool) -> Reply {
    let name = linux_name(&world.db.text("VBD", vbd, "userdevice")?);
    if attached {
        world.db.set("VBD", vbd, "device", name)?;
    }
    world.db.set("VBD", vbd, "currently_attached", attached)?;
    super::refresh(world, &world.db.text("VBD", vbd, "VM")?);
    done()
}

fn plug(world: &mut World, call: &Call) -> Reply {
    let vbd = call.text(0);
    check(world, vbd, "plug", true)?;
    // The device model of a guest with full virtualisation knows no disk that it may not write.
    let db = &world.db;
    let hvm = db.text("VM", &db.text("VBD", vbd, "VM")?, "domain_type")? == "hvm";
    if hvm && db.text("VBD", vbd, "mode")? == "RO" {
        return Err(Failure::new("DISK_VBD_MUST_BE_READWRITE_FOR_HVM", [vbd]));
    }
    attach(world, vbd, true)
}

fn unplug(world: &mut World, call: &Call) -> Reply {
    check(world, call.text(0), call.message.name, false)?;
    attach(world, call.text(0), false)
}

fn insert(world: &mut World, call: &Call) -> Reply {
    let (vbd, vdi) = (call.text(0), call.text(1));
    check(world, vbd, "insert", false)?;
    if !world.db.flag("VDI", vdi, "managed")? {
        return Err(Failure::new("VDI_NOT_MANAGED", [vdi]));
    }
    world.db.set("VBD", vbd, "VDI", vdi)?;
    world.db.set("VBD", vbd, "empty", false)?;
    super::refresh(world, &world.db.text("VBD", vbd, "VM")?);
    done()
}

fn eject(world: &mut World, call: &Call) -> Reply {
    let vbd = call.text(0);
    check(world, vbd, "eject", false)?;
    world.db.set("VBD", vbd, "VDI", NULL_REF)?;
    world.db.set("VBD", vbd, "empty", true)?;
    super::refresh(world, &world.db.text("VBD", vbd, "VM")?);
    done()
}

fn set_mode(world: &mut World, call: &Call) -> Reply {
    let vm = world.db.text("VBD", call.text(0), "VM")?;
    let power = power_of(world, &vm)?;
    if power != Power::Halted {
        return Err(lifecycle::bad_power_state(&vm, &[Power::Halted], power));
    }
    plain(world, call)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices() {
        for (device, number) in [
            ("0", Some(0)),
            ("xvdb", Some(1)),
            ("hda", Some(0)),
            ("sdp", Some(15)),
            ("x", None),
        ] {
            assert_eq!(disk_number(device), number, "{device}");
        }
        for device in ["-1", "99999", "autodetect", "xvda1", "fda"] {
            assert!(is_valid_device(device, "Disk"), "{device}");
        }
        for device in ["", "x", "xvdz", "sda!"] {
            assert!(!is_valid_device(device, "Disk"), "{device}");
        }
        assert_eq!(linux_name("3"), "xvdd");
    }
}
