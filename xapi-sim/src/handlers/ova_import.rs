//! VMs from a description.

use std::collections::{HashMap, HashSet};

use xapi_client::meta;

use crate::check;
use crate::classes::{self, vbd, vdi, vif, vm};
use crate::failure::Failure;
use crate::value::{NULL_REF, Value, parse_int};
use crate::world::World;
use crate::xmlrpc;

/// How an import goes.
#[derive(Debug, Clone)]
pub(super) struct Import {
    /// The SR for new disks; without one the disks have to be there already.
    pub(super) sr: Option<String>,
    /// uuid of a disk → uuid of the one to take in its place.
    pub(super) disks: HashMap<String, String>,
    /// Whether VMs keep their uuids and MAC addresses.
    pub(super) restore: bool,
    pub(super) force: bool,
    /// Whether all of it goes again, so that what it would replace has to stay.
    pub(super) dry_run: bool,
}

/// What becomes of a described VM.
enum Fate {
    New,
    /// It takes the place of a VM of the pool.
    Replaces(String),
    /// The VM of the pool whose place it would take is in use.
    Skipped,
}

/// What an import has made.
#[derive(Debug, Default)]
pub(super) struct Imported {
    /// The VMs, snapshots left out.
    pub(super) vms: Vec<String>,
    /// New disks: their names in the description and themselves.
    pub(super) disks: Vec<(String, String)>,
    /// Every object, in the order of their making.
    made: Vec<(&'static str, String)>,
}

impl Imported {
    /// Removes everything again. The answer is what was on the disks, to be released where nobody
    /// waits for the lock.
    pub(super) fn undo(self, world: &mut World) -> Vec<crate::backing::Disk> {
        let mut disks = Vec::new();
        for (class, reference) in self.made.iter().rev() {
            // What somebody else has removed in the meantime needs no removing.
            let _ = match *class {
                "VBD" => vbd::remove(&mut world.db, reference),
                "VIF" => vif::remove(&mut world.db, reference),
                "VDI" => vdi::remove(world, reference).map(|disk| disks.extend(disk)),
                _ => world.db.destroy(class, reference),
            };
        }
        disks
    }
}

#[derive(Debug)]
struct Object {
    class: String,
    name: String,
    record: Value,
}

/// Makes what a text describes, or nothing.
pub(super) fn import(world: &mut World, text: &str, how: &Import) -> Result<Imported, Failure> {
    let mut imported = Imported::default();
    match fill(world, text, how, &mut imported) {
        Ok(()) => Ok(imported),
        Err(failure) => {
            if !how.force {
                // Nothing has been written to these disks yet.
                drop(imported.undo(world));
            }
            Err(failure)
        }
    }
}

fn fill(
    world: &mut World,
    text: &str,
    how: &Import,
    imported: &mut Imported,
) -> Result<(), Failure> {
    let generic = |text: String| Failure::new("IMPORT_ERROR_GENERIC", [text]);
    let header = xmlrpc::parse_value(text).map_err(generic)?;
    assert_compatible(world, &header)?;
    let objects = header.get("objects").map(Value::items).unwrap_or_default();
    let objects: Vec<Object> = objects.iter().filter_map(object).collect();
    let of = |class: &str| {
        let class = class.to_owned();
        objects.iter().filter(move |object| object.class == class)
    };
    let mut table: HashMap<String, String> = HashMap::new();
    for host in of("host") {
        let found = world.db.by_uuid("host", &text_of(&host.record, "uuid"));
        table.extend(found.map(|found| (host.name.clone(), found)));
    }
    for network in of("network") {
        let found = network_for(world, &network.record, imported)?;
        table.insert(network.name.clone(), found);
    }
    for disk in of("VDI") {
        let sr = of("SR").find(|sr| sr.name == text_of(&disk.record, "SR"));
        let is_iso = sr.is_some_and(|sr| text_of(&sr.record, "content_type") == "iso");
        let drives = of("VBD").filter(|vbd| text_of(&vbd.record, "VDI") == disk.name);
        let in_drives = drives.clone().count() > 0
            && drives
                .clone()
                .all(|vbd| text_of(&vbd.record, "type") == "CD");
        let found = match &how.sr {
            Some(sr) if !is_iso && !in_drives => {
                let made = new_disk(world, &disk.record, sr)?;
                imported.made.push(("VDI", made.clone()));
                imported.disks.push((disk.name.clone(), made.clone()));
                Some(made)
            }
            _ => disk_there(world, &disk.record, how),
        };
        match found {
            Some(found) => drop(table.insert(disk.name.clone(), found)),
            None if is_iso || in_drives || how.force => {}
            None => {
                let code = "IMPORT_ERROR_ATTACHED_DISKS_NOT_FOUND";
                return Err(Failure::code(code));
            }
        }
    }
    let mut left_out: HashSet<&str> = HashSet::new();
    for machine in of("VM") {
        match fate(world, &machine.record, how)? {
            Fate::New => {}
            Fate::Replaces(vm) if how.dry_run => {
                imported.vms.push(vm);
                left_out.insert(&machine.name);
                continue;
            }
            Fate::Replaces(vm) => vm::remove(world, &vm)?,
            Fate::Skipped => {
                left_out.insert(&machine.name);
                continue;
            }
        }
        let made = new_vm(world, machine, how, &table)?;
        imported.made.push(("VM", made.clone()));
        if !world.db.flag("VM", &made, "is_a_snapshot")? {
            imported.vms.push(made.clone());
        }
        table.insert(machine.name.clone(), made);
    }
    // Snapshots may come before the VM that they are of.
    for machine in of("VM") {
        let of = table.get(&text_of(&machine.record, "snapshot_of"));
        if let (Some(of), Some(made)) = (of, table.get(&machine.name)) {
            world.db.set("VM", made, "snapshot_of", of.as_str())?;
        }
    }
    let of_present = |device: &&Object| {
        let owner = text_of(&device.record, "VM");
        !left_out.contains(owner.as_str())
    };
    for device in of("VBD").filter(of_present) {
        let vdi = text_of(&device.record, "VDI");
        let lost = vdi != NULL_REF && !vdi.is_empty() && !table.contains_key(&vdi);
        let is_drive = text_of(&device.record, "type") == "CD";
        if lost && !is_drive {
            continue;
        }
        let mut values = fields("VBD", &device.record, VBD_FIELDS)?;
        let owner = table.get(&text_of(&device.record, "VM"));
        let owner = owner.ok_or_else(|| lost_object(&text_of(&device.record, "VM")))?;
        let disk = table.get(&vdi).map_or(NULL_REF, String::as_str);
        values.retain(|(name, _)| !matches!(*name, "VM" | "VDI" | "empty"));
        values.push(("VM", Value::from(owner.as_str())));
        values.push(("VDI", Value::from(disk)));
        values.push(("empty", Value::Bool(disk == NULL_REF)));
        imported.made.push(("VBD", vbd::add(world, values)?));
    }
    for device in of("VIF").filter(of_present) {
        let made = new_vif(world, device, how, &table)?;
        imported.made.push(("VIF", made));
    }
    for vm in &imported.vms {
        classes::refresh(world, vm);
    }
    Ok(())
}

/// Refuses what a newer server has written.
fn assert_compatible(world: &World, header: &Value) -> Result<(), Failure> {
    let version = header.get("version");
    let theirs = |name: &str| {
        let value = version.and_then(|version| version.get(name));
        value
            .and_then(|value| value.as_int().or_else(|| parse_int(value.as_str()?)))
            .unwrap_or(0)
    };
    let host = world.coordinator();
    let ours = |field: &str| world.db.int("host", &host, field).unwrap_or(0);
    let theirs = (theirs("xapi_major"), theirs("xapi_minor"));
    if theirs > (ours("API_version_major"), ours("API_version_minor")) {
        return Err(Failure::code("IMPORT_INCOMPATIBLE_VERSION"));
    }
    Ok(())
}

fn object(value: &Value) -> Option<Object> {
    Some(Object {
        class: value.get("class")?.as_str()?.to_owned(),
        name: value.get("id")?.as_str()?.to_owned(),
        record: value.get("snapshot")?.clone(),
    })
}

fn text_of(record: &Value, field: &str) -> String {
    let value = record.get(field).and_then(Value::as_str);
    value.unwrap_or_default().to_owned()
}

fn lost_object(name: &str) -> Failure {
    Failure::new("IMPORT_ERROR_FAILED_TO_FIND_OBJECT", [name])
}

/// The fields of a record that are taken over, in the types of the datamodel. Older and newer
/// servers know other fields, and leave some out.
fn fields<'f>(
    class: &str,
    record: &Value,
    wanted: &[&'f str],
) -> Result<Vec<(&'f str, Value)>, Failure> {
    let class = meta::class(class).ok_or_else(|| lost_object(class))?;
    let mut values = Vec::new();
    for name in wanted {
        let field = class.fields.iter().find(|field| field.name == *name);
        if let (Some(field), Some(value)) = (field, record.get(name)) {
            values.push((*name, check::convert(field.ty, value.clone())?));
        }
    }
    Ok(values)
}

/// A network like the described one: the same, one with the same bridge, or a new one.
fn network_for(
    world: &mut World,
    record: &Value,
    imported: &mut Imported,
) -> Result<String, Failure> {
    if let Some(found) = world.db.by_uuid("network", &text_of(record, "uuid")) {
        return Ok(found);
    }
    let bridge = text_of(record, "bridge");
    let networks = world.db.references("network");
    let same = networks.into_iter().find(|network| {
        let known = world.db.text("network", network, "bridge");
        known.is_ok_and(|known| known == bridge)
    });
    if let Some(found) = same {
        return Ok(found);
    }
    let wanted = ["name_label", "name_description", "MTU", "other_config"];
    let mut values = fields("network", record, &wanted)?;
    values.push(("bridge", Value::String(bridge)));
    let network = world.create("network", values)?;
    imported.made.push(("network", network.clone()));
    Ok(network)
}

fn new_disk(world: &mut World, record: &Value, sr: &str) -> Result<String, Failure> {
    let wanted = [
        "name_label",
        "name_description",
        "type",
        "sharable",
        "read_only",
        "other_config",
        "xenstore_data",
        "tags",
        "virtual_size",
    ];
    let mut values = fields("VDI", record, &wanted)?;
    let size = values.iter().find(|(name, _)| *name == "virtual_size");
    let size = size.and_then(|(_, size)| size.as_int()).unwrap_or_default();
    values.push(("SR", Value::from(sr)));
    vdi::add(world, values, size)
}

/// The disk of the pool that a description means.
fn disk_there(world: &World, record: &Value, how: &Import) -> Option<String> {
    let uuid = text_of(record, "uuid");
    let db = &world.db;
    if let Some(mapped) = how.disks.get(&uuid) {
        let is_reference = db.exists("VDI", mapped);
        return is_reference
            .then(|| mapped.clone())
            .or_else(|| db.by_uuid("VDI", mapped));
    }
    db.by_uuid("VDI", &uuid).or_else(|| {
        let location = text_of(record, "location");
        let disks = db.references("VDI").into_iter();
        disks.filter(|_| !location.is_empty()).find(|vdi| {
            let known = db.text("VDI", vdi, "location");
            known.is_ok_and(|known| known == location)
        })
    })
}

const VM_FIELDS: &[&str] = &[
    "name_label",
    "name_description",
    "user_version",
    "is_a_template",
    "memory_static_max",
    "memory_dynamic_max",
    "memory_dynamic_min",
    "memory_static_min",
    "memory_target",
    "memory_overhead",
    "VCPUs_params",
    "VCPUs_max",
    "VCPUs_at_startup",
    "actions_after_softreboot",
    "actions_after_shutdown",
    "actions_after_reboot",
    "actions_after_crash",
    "PV_bootloader",
    "PV_kernel",
    "PV_ramdisk",
    "PV_args",
    "PV_bootloader_args",
    "PV_legacy_args",
    "HVM_boot_policy",
    "HVM_boot_params",
    "HVM_shadow_multiplier",
    "platform",
    "PCI_bus",
    "other_config",
    "recommendations",
    "xenstore_data",
    "ha_always_run",
    "ha_restart_priority",
    "is_a_snapshot",
    "snapshot_time",
    "transportable_snapshot_id",
    "tags",
    "blocked_operations",
    "snapshot_info",
    "snapshot_metadata",
    "bios_strings",
    "start_delay",
    "shutdown_delay",
    "order",
    "version",
    "generation_id",
    "hardware_platform_version",
    "has_vendor_device",
    "domain_type",
    "NVRAM",
];

/// Refuses a VM that is to be what one of the pool is, unless it is newer or may be forced.
fn fate(world: &World, record: &Value, how: &Import) -> Result<Fate, Failure> {
    let there = world.db.by_uuid("VM", &text_of(record, "uuid"));
    let Some(vm) = there.filter(|_| how.restore) else {
        return Ok(Fate::New);
    };
    let power = world.db.text("VM", &vm, "power_state")?;
    if power != "Halted" {
        let params = [vm.as_str(), "Halted", &power];
        return if how.force {
            Ok(Fate::Skipped)
        } else {
            Err(Failure::new("VM_BAD_POWER_STATE", params))
        };
    }
    let existing = world.db.int("VM", &vm, "version")?;
    let version = record
        .get("version")
        .and_then(|version| version.as_int().or_else(|| parse_int(version.as_str()?)));
    let imported = version.unwrap_or_default();
    if existing >= imported && !how.force {
        let params = [vm, existing.to_string(), imported.to_string()];
        return Err(Failure::new("VM_TO_IMPORT_IS_NOT_NEWER_VERSION", params));
    }
    Ok(Fate::Replaces(vm))
}

fn new_vm(
    world: &mut World,
    machine: &Object,
    how: &Import,
    table: &HashMap<String, String>,
) -> Result<String, Failure> {
    let record = &machine.record;
    let mut values = fields("VM", record, VM_FIELDS)?;
    let uuid = text_of(record, "uuid");
    if how.restore {
        values.push(("uuid", Value::String(uuid)));
    }
    if let Some((_, config)) = values.iter_mut().find(|(name, _)| *name == "other_config") {
        let mut members = config.members().to_vec();
        members.retain(|(key, _)| key != "default_template");
        if !how.restore {
            let seed = world.seed.uuid_value();
            let known = members.iter_mut().find(|(key, _)| key == "mac_seed");
            if let Some((_, value)) = known {
                *value = seed;
            }
        }
        *config = Value::Struct(members);
    }
    let null = NULL_REF.to_owned();
    let image = table.get(&text_of(record, "suspend_VDI"));
    let sleeps = text_of(record, "power_state") == "Suspended" && image.is_some();
    let affinity = table.get(&text_of(record, "affinity"));
    values.extend([
        (
            "power_state",
            Value::from(if sleeps { "Suspended" } else { "Halted" }),
        ),
        (
            "suspend_VDI",
            Value::String(image.filter(|_| sleeps).unwrap_or(&null).clone()),
        ),
        ("affinity", Value::String(affinity.unwrap_or(&null).clone())),
        ("resident_on", Value::null_ref()),
        ("domid", Value::Int(-1)),
        ("metrics", Value::String(vm::new_metrics(world)?)),
    ]);
    world.create("VM", values)
}

const VBD_FIELDS: &[&str] = &[
    "userdevice",
    "device",
    "bootable",
    "mode",
    "type",
    "unpluggable",
    "empty",
    "other_config",
    "qos_algorithm_type",
    "qos_algorithm_params",
];

const VIF_FIELDS: &[&str] = &[
    "device",
    "MAC",
    "MAC_autogenerated",
    "MTU",
    "other_config",
    "qos_algorithm_type",
    "qos_algorithm_params",
    "locking_mode",
    "ipv4_allowed",
    "ipv6_allowed",
];

fn new_vif(
    world: &mut World,
    device: &Object,
    how: &Import,
    table: &HashMap<String, String>,
) -> Result<String, Failure> {
    let mut values = fields("VIF", &device.record, VIF_FIELDS)?;
    let name = text_of(&device.record, "VM");
    let vm = table.get(&name).ok_or_else(|| lost_object(&name))?.clone();
    let network = text_of(&device.record, "network");
    let network = table.get(&network).ok_or_else(|| lost_object(&network))?;
    if !how.restore {
        // A second VM must not have the addresses of the first.
        let seed = world.db.key("VM", &vm, "other_config", "mac_seed")?;
        let number = text_of(&device.record, "device");
        let number = parse_int(&number).unwrap_or_default();
        let mac = vif::derived_mac(&seed.unwrap_or_default(), number);
        values.retain(|(name, _)| !matches!(*name, "MAC" | "MAC_autogenerated"));
        values.push(("MAC", Value::String(mac)));
        values.push(("MAC_autogenerated", Value::Bool(true)));
    }
    values.push(("network", Value::from(network.as_str())));
    values.push(("VM", Value::String(vm)));
    vif::add(world, values)
}
