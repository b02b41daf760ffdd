//! The pool.

use super::{Table, done, plain};
use crate::dispatch::Handler::Now;
use crate::failure::Reply;
use crate::value::Value;
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("pool.is_slave", Now(is_slave)),
    ("pool.sync_database", Now(|_, _| done())),
    ("pool.has_extension", Now(|_, _| Ok(Value::Bool(false)))),
    ("pool.add_to_guest_agent_config", Now(plain)),
    ("pool.remove_from_guest_agent_config", Now(plain)),
    ("pool.set_igmp_snooping_enabled", Now(plain)),
    ("pool.get_license_state", Now(get_license_state)),
    ("pool.reset_telemetry_uuid", Now(reset_telemetry_uuid)),
    ("pool.set_https_only", Now(set_on_hosts)),
    ("pool.set_console_idle_timeout", Now(set_on_hosts)),
    ("pool.set_ssh_auto_mode", Now(set_on_hosts)),
];

/// Asked of a host, so the answer is about the one that answers: the coordinator.
fn is_slave(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    Ok(Value::Bool(call.text(0) != world.coordinator()))
}

fn get_license_state(world: &mut World, call: &Call) -> Reply {
    world.db.require("pool", call.text(0))?;
    Ok(Value::map([("expiry", "never"), ("edition", "xcp-ng")]))
}

/// Draws another identity; the old one is gone.
fn reset_telemetry_uuid(world: &mut World, call: &Call) -> Reply {
    let old = world.db.text("pool", call.text(0), "telemetry_uuid")?;
    let identity = world.seed.uuid_value();
    let secret = world.create("secret", vec![("value", identity)])?;
    world
        .db
        .set("pool", call.text(0), "telemetry_uuid", secret)?;
    if world.db.exists("secret", &old) {
        world.db.destroy("secret", &old)?;
    }
    done()
}

/// A setter whose field is not the pool's but that of all its hosts.
fn set_on_hosts(world: &mut World, call: &Call) -> Reply {
    world.db.require("pool", call.text(0))?;
    let name = call.message.name;
    let field = name.strip_prefix("set_").unwrap_or(name);
    for host in world.db.references("host") {
        world.db.set("host", &host, field, call.arg(1))?;
    }
    done()
}
