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
