//! Hosts.

use super::{Table, done};
use crate::db::Release;
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
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
    ("host.compute_memory_overhead", Now(compute_memory_overhead)),
];

fn get_servertime(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    Ok(Value::DateTime(world.clock.now()))
}

fn get_server_localtime(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    Ok(Value::DateTime(world.clock.local()))
}

fn set_enabled(world: &mut World, call: &Call, enabled: bool) -> Reply {
    world.db.set("host", call.text(0), "enabled", enabled)?;
    refresh(world, call.text(0))?;
    done()
}

/// Brings the allowed operations up to date: a host goes down only when it is disabled.
pub(crate) fn refresh(world: &mut World, host: &str) -> Result<(), Failure> {
    // In the order in which a real server lists them.
    const OPERATIONS: [&str; 9] = [
        "vm_migrate",
        "provision",
        "vm_resume",
        "apply_updates",
        "enable",
        "reboot",
        "evacuate",
        "vm_start",
        "shutdown",
    ];
    let enabled = world.db.flag("host", host, "enabled")?;
    let old = world.db.release() == Release::Xcpng82;
    let allowed = OPERATIONS.into_iter().filter(|operation| match *operation {
        "apply_updates" => !enabled && !old,
        "enable" => !old,
        "reboot" | "shutdown" => !enabled,
        _ => true,
    });
    let allowed = Value::strings(allowed);
    world.db.set("host", host, "allowed_operations", allowed)
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

fn is_in_emergency_mode(world: &mut World, _: &Call) -> Reply {
    Ok(Value::Bool(world.emergency.is_some()))
}

fn has_extension(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    Ok(Value::Bool(false))
}

fn call_extension(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    Err(Failure::new("MESSAGE_METHOD_UNKNOWN", [call.text(1)]))
}

/// No plugins are installed.
fn call_plugin(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    Err(Failure::new("XENAPI_MISSING_PLUGIN", [call.text(1)]))
}

fn compute_memory_overhead(world: &mut World, call: &Call) -> Reply {
    world
        .db
        .get("host", call.text(0), "memory_overhead")
        .cloned()
}
