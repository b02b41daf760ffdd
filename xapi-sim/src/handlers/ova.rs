//! The description of exported VMs: records of them and of what belongs to them, in which
//! references are short names, `Ref:0`, and those that lead outside are null.

use std::collections::HashMap;

use crate::failure::Failure;
use crate::value::{EPOCH, NULL_REF, Value};
use crate::world::World;
use crate::xmlrpc;

/// What is exported.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope {
    /// Snapshots come along, and what VMs know of them.
    pub(super) snapshots: bool,
    /// VMs stay as they are; otherwise they are halted.
    pub(super) preserve_power_state: bool,
    /// Interfaces come along.
    pub(super) vifs: bool,
    /// Devices of disks come along, and the disks.
    pub(super) vbds: bool,
}

/// A description, and the names of objects in it.
#[derive(Debug)]
pub(super) struct Description {
    pub(super) text: String,
    names: HashMap<String, String>,
}

impl Description {
    /// The name of an object, if it is described.
    pub(super) fn name(&self, reference: &str) -> Option<&str> {
        self.names.get(reference).map(String::as_str)
    }
}

/// The classes in the order in which they are described.
const CLASSES: [&str; 8] = [
    "host",
    "VM",
    "VM_guest_metrics",
    "VBD",
    "VIF",
    "network",
    "VDI",
    "SR",
];

pub(super) fn describe(
    world: &World,
    vms: &[String],
    scope: Scope,
) -> Result<Description, Failure> {
    let mut names = Names::default();
    for vm in vms {
        names.add_vm(world, vm, scope)?;
    }
    let names = names.0;
    let mut objects = Vec::new();
    for class in CLASSES {
        for reference in world.db.references(class) {
            let Some(name) = names.get(&reference) else {
                continue;
            };
            let record = world.db.record(class, &reference)?;
            objects.push(Value::Struct(vec![
                ("class".to_owned(), Value::from(class)),
                ("id".to_owned(), Value::from(name.as_str())),
                (
                    "snapshot".to_owned(),
                    outside(class, &record, &names, scope),
                ),
            ]));
        }
    }
    let header = Value::Struct(vec![
        ("version".to_owned(), version(world)),
        ("objects".to_owned(), Value::Array(objects)),
    ]);
    Ok(Description {
        text: xmlrpc::value_text(&header),
        names,
    })
}

#[derive(Debug, Default)]
struct Names(HashMap<String, String>);

impl Names {
    /// Names an object. False for one that has a name already, and for none.
    fn add(&mut self, reference: &str) -> bool {
        if reference == NULL_REF || reference.is_empty() || self.0.contains_key(reference) {
            return false;
        }
        let name = format!("Ref:{}", self.0.len());
        self.0.insert(reference.to_owned(), name);
        true
    }

    fn add_vdi(&mut self, world: &World, vdi: &str) -> Result<(), Failure> {
        if world.db.exists("VDI", vdi) {
            self.add(vdi);
            self.add(&world.db.text("VDI", vdi, "SR")?);
        }
        Ok(())
    }

    fn add_vm(&mut self, world: &World, vm: &str, scope: Scope) -> Result<(), Failure> {
        let db = &world.db;
        if !db.exists("VM", vm) || !self.add(vm) {
            return Ok(());
        }
        let devices = |wanted: bool, field| match wanted {
            true => db.list("VM", vm, field),
            false => Ok(Vec::new()),
        };
        for vif in devices(scope.vifs, "VIFs")? {
            self.add(&vif);
            self.add(&db.text("VIF", &vif, "network")?);
        }
        for vbd in devices(scope.vbds, "VBDs")? {
            self.add(&vbd);
            if !db.flag("VBD", &vbd, "empty")? {
                self.add_vdi(world, &db.text("VBD", &vbd, "VDI")?)?;
            }
        }
        if scope.snapshots {
            let inner = Scope {
                snapshots: false,
                ..scope
            };
            for snapshot in db.list("VM", vm, "snapshots")? {
                self.add_vm(world, &snapshot, inner)?;
            }
        }
        if scope.preserve_power_state && db.text("VM", vm, "power_state")? == "Suspended" {
            self.add_vdi(world, &db.text("VM", vm, "suspend_VDI")?)?;
        }
        for field in ["guest_metrics", "resident_on", "affinity"] {
            self.add(&db.text("VM", vm, field)?);
        }
        if scope.snapshots {
            let inner = Scope {
                snapshots: false,
                ..scope
            };
            self.add_vm(world, &db.text("VM", vm, "parent")?, inner)?;
        }
        Ok(())
    }
}

/// The fields that are left empty, whatever is in them.
fn is_emptied(class: &str, field: &str) -> bool {
    if matches!(field, "current_operations" | "allowed_operations") {
        return true;
    }
    match class {
        "VM" => matches!(field, "crash_dumps" | "consoles" | "metrics" | "blobs"),
        "VBD" | "VIF" => field == "metrics",
        "network" => field == "PIFs",
        "SR" => field == "PBDs",
        "VDI" => field == "crash_dumps",
        "host" => matches!(
            field,
            "PIFs"
                | "PBDs"
                | "PGPUs"
                | "PCIs"
                | "host_CPUs"
                | "license_params"
                | "blobs"
                | "external_auth_type"
                | "external_auth_service_name"
                | "external_auth_configuration"
                | "metrics"
                | "patches"
                | "crashdumps"
                | "logging"
                | "supported_bootloaders"
                | "cpu_configuration"
                | "other_config"
                | "capabilities"
                | "software_version"
                | "sched_policy"
                | "ha_statefiles"
                | "ha_network_peers"
                | "tags"
        ),
        _ => false,
    }
}

/// A record as others may see it.
fn outside(class: &str, record: &Value, names: &HashMap<String, String>, scope: Scope) -> Value {
    let snapshot_fields = [
        "is_a_snapshot",
        "snapshot_of",
        "snapshots",
        "snapshot_time",
        "transportable_snapshot_id",
        "parent",
    ];
    let members = record.members().iter().map(|(field, value)| {
        let hides_snapshot =
            class == "VM" && !scope.snapshots && snapshot_fields.contains(&field.as_str());
        let halts = !scope.preserve_power_state;
        let shown = match field.as_str() {
            _ if is_emptied(class, field) => emptied(value),
            _ if hides_snapshot => emptied(value),
            "power_state" if halts => Value::from("Halted"),
            "currently_attached" if halts => Value::Bool(false),
            "suspend_VDI" if halts => Value::null_ref(),
            _ => renamed(value, names),
        };
        (field.clone(), shown)
    });
    Value::Struct(members.collect())
}

fn emptied(value: &Value) -> Value {
    match value {
        Value::String(text) if text.starts_with("OpaqueRef:") => Value::null_ref(),
        Value::String(_) => Value::void(),
        Value::Array(_) => Value::Array(Vec::new()),
        Value::Struct(_) => Value::Struct(Vec::new()),
        Value::Bool(_) => Value::Bool(false),
        Value::DateTime(_) => Value::DateTime(EPOCH.to_owned()),
        other => other.clone(),
    }
}

fn renamed(value: &Value, names: &HashMap<String, String>) -> Value {
    match value {
        Value::String(text) if text.starts_with("OpaqueRef:") => {
            Value::from(names.get(text).map_or(NULL_REF, String::as_str))
        }
        Value::Array(items) => {
            let items = items.iter().map(|item| renamed(item, names));
            let is_null = |item: &Value| item.as_str() == Some(NULL_REF);
            Value::Array(items.filter(|item| !is_null(item)).collect())
        }
        other => other.clone(),
    }
}

/// Who writes the description.
fn version(world: &World) -> Value {
    let host = world.coordinator();
    let software = |key: &str| {
        let found = world.db.key("host", &host, "software_version", key);
        Value::String(found.ok().flatten().unwrap_or_default())
    };
    let number = |field: &str| world.db.get("host", &host, field).cloned();
    let hostname = world.db.text("host", &host, "hostname");
    let members = [
        ("hostname", Value::String(hostname.unwrap_or_default())),
        ("date", software("date")),
        ("product_version", software("product_version")),
        ("product_brand", software("product_brand")),
        ("build_number", software("build_number")),
        (
            "xapi_major",
            number("API_version_major").unwrap_or(Value::Int(2)),
        ),
        (
            "xapi_minor",
            number("API_version_minor").unwrap_or(Value::Int(21)),
        ),
        ("export_vsn", Value::Int(2)),
    ];
    let members = members.map(|(name, value)| (name.to_owned(), value));
    Value::Struct(members.into())
}
