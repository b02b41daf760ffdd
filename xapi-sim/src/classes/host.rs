//! Hosts.

use super::{Table, done};
use crate::db::Release;
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::plugin;
use crate::value::Value;
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("host.get_servertime", Now(get_servertime)),
    ("host.get_server_localtime", Now(get_server_localtime)),
    (
        "host.enable",
        Now(|world, call| set_enabled(world, call, true)),
    ),
    (
        "host.disable",
        Now(|world, call| set_enabled(world, call, false)),
    ),
    (
        "host.get_management_interface",
        Now(get_management_interface),
    ),
    ("host.is_in_emergency_mode", Now(is_in_emergency_mode)),
    ("host.has_extension", Now(has_extension)),
    ("host.call_extension", Now(call_extension)),
    ("host.call_plugin", Now(call_plugin)),
    ("VMSS.snapshot_now", Now(snapshot_now)),
    (
        "VM.import_convert",
        Now(|_, _| Err(plugin::missing("conversion"))),
    ),
    ("host.compute_memory_overhead", Now(compute_memory_overhead)),
];

fn get_servertime(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    let now = world.clock.ahead_by(world.skew(call.text(0))).now();
    Ok(Value::DateTime(now))
}

fn get_server_localtime(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    let now = world.clock.ahead_by(world.skew(call.text(0))).local();
    Ok(Value::DateTime(now))
}

fn set_enabled(world: &mut World, call: &Call, enabled: bool) -> Reply {
    world.db.set("host", call.text(0), "enabled", enabled)?;
    refresh(world, call.text(0))?;
    done()
}

/// The operations in the order in which a real server lists them.
const OPERATIONS: [&str; 10] = [
    "vm_migrate",
    "power_on",
    "provision",
    "vm_resume",
    "apply_updates",
    "enable",
    "reboot",
    "evacuate",
    "vm_start",
    "shutdown",
];

/// Brings the allowed operations up to date.
pub(crate) fn refresh(world: &mut World, host: &str) -> Result<(), Failure> {
    let old = world.db.release() == Release::Xcpng82;
    let known = |operation: &&str| !old || !matches!(*operation, "apply_updates" | "enable");
    let allowed: Vec<&str> = OPERATIONS
        .into_iter()
        .filter(known)
        .filter(|operation| check(world, host, operation).is_ok())
        .collect();
    let allowed = Value::strings(allowed);
    world.db.set("host", host, "allowed_operations", allowed)
}

/// Refuses an operation with the first failure that a real server would find. What brings VMs does
/// not go along with what takes them away, and a host goes down only when it is disabled.
pub(crate) fn check(world: &World, host: &str, operation: &str) -> Result<(), Failure> {
    const BRINGS: [&str; 3] = ["provision", "vm_resume", "vm_migrate"];
    const TAKES: [&str; 3] = ["evacuate", "reboot", "shutdown"];
    const ENDS: [&str; 3] = ["reboot", "shutdown", "apply_updates"];
    let db = &world.db;
    let current = db.get("host", host, "current_operations")?;
    let clashes = |other: &str| {
        (BRINGS.contains(&operation) && TAKES.contains(&other))
            || (TAKES.contains(&operation) && BRINGS.contains(&other))
            || (ENDS.contains(&operation) && ENDS.contains(&other))
            || (operation == "provision" && other == "provision")
            || (operation == "enable" && other == "enable")
    };
    for (task, other) in current.members() {
        let other = other.as_str().unwrap_or_default();
        if operation == "evacuate" && other == "evacuate" {
            return Err(Failure::new("HOST_EVACUATE_IN_PROGRESS", [host]));
        }
        if clashes(other) {
            let params = ["host", host, other, task];
            return Err(Failure::new("OTHER_OPERATION_IN_PROGRESS", params));
        }
    }
    if ENDS.contains(&operation) && db.flag("host", host, "enabled")? {
        return Err(Failure::code("HOST_NOT_DISABLED"));
    }
    if operation == "power_on" {
        let metrics = db.text("host", host, "metrics")?;
        if db.flag("host_metrics", &metrics, "live")? {
            return Err(Failure::new("HOST_IS_LIVE", [host]));
        }
        if db.text("host", host, "power_on_mode")?.is_empty() {
            return Err(Failure::code("HOST_POWER_ON_MODE_DISABLED"));
        }
    }
    Ok(())
}

fn get_management_interface(world: &mut World, call: &Call) -> Reply {
    let db = &world.db;
    for pif in db.list("host", call.text(0), "PIFs")? {
        if db.flag("PIF", &pif, "management")? {
            return Ok(Value::String(pif));
        }
    }
    Err(Failure::code("HOST_HAS_NO_MANAGEMENT_IP"))
}

/// Of the host that is asked, whichever the call names.
fn is_in_emergency_mode(world: &mut World, call: &Call) -> Reply {
    Ok(Value::Bool(world.emergency.contains_key(&call.host)))
}

fn has_extension(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    Ok(Value::Bool(false))
}

fn call_extension(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    Err(Failure::new("MESSAGE_METHOD_UNKNOWN", [call.text(1)]))
}

/// `host.call_plugin(host, plugin, fn, args)`
fn call_plugin(world: &mut World, call: &Call) -> Reply {
    let (host, db) = (call.text(0), &world.db);
    db.require("host", host)?;
    let args = call.arg(3);
    let asked = (call.text(1), call.text(2), &args);
    plugin::call(&world.plugins, db, host, asked)
}

/// Schedules of snapshots are carried out by a plugin, also right away.
fn snapshot_now(world: &mut World, call: &Call) -> Reply {
    world.db.require("VMSS", call.text(0))?;
    Err(plugin::missing("vmss"))
}

fn compute_memory_overhead(world: &mut World, call: &Call) -> Reply {
    world
        .db
        .get("host", call.text(0), "memory_overhead")
        .cloned()
}
