//! Networks.

use super::{Table, done, plain, vif};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::value::Value;
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("network.create", Now(create)),
    ("network.destroy", Now(destroy)),
    ("network.set_default_locking_mode", Now(plain)),
    ("network.add_purpose", Now(plain)),
    ("network.remove_purpose", Now(plain)),
    ("network.attach", Now(attach)),
];

fn create(world: &mut World, call: &Call) -> Reply {
    let mtu = call.field("MTU").as_int().unwrap_or_default();
    if !(68..=65_521).contains(&mtu) {
        return Err(Failure::invalid_value("MTU", &mtu.to_string()));
    }
    let mut values: Vec<(&str, Value)> = call.fields.clone();
    if call.field_text("bridge").is_empty() {
        values.retain(|(name, _)| *name != "bridge");
        let bridge = next_bridge(world);
        values.push(("bridge", Value::String(bridge)));
    }
    world.create("network", values).map(Value::String)
}

/// A name for the bridge of a new network.
pub(crate) fn next_bridge(world: &mut World) -> String {
    let bridge = format!("xapi{}", world.counters.bridges);
    world.counters.bridges += 1;
    bridge
}

/// Destroys a network and the interfaces on it, unless one is in use or a host's own.
fn destroy(world: &mut World, call: &Call) -> Reply {
    let network = call.text(0);
    let db = &mut world.db;
    if db
        .key(
            "network",
            network,
            "other_config",
            "is_host_internal_management_network",
        )?
        .is_some()
    {
        return Err(Failure::code("CANNOT_DESTROY_SYSTEM_NETWORK"));
    }
    if let Some(pif) = db.list("network", network, "PIFs")?.first() {
        return Err(Failure::new("NETWORK_CONTAINS_PIF", [pif]));
    }
    let vifs = db.list("network", network, "VIFs")?;
    for device in &vifs {
        if db.flag("VIF", device, "currently_attached")? {
            return Err(Failure::new("NETWORK_CONTAINS_VIF", [device]));
        }
    }
    for device in vifs {
        vif::remove(db, &device)?;
    }
    db.destroy("network", network)?;
    done()
}

fn attach(world: &mut World, call: &Call) -> Reply {
    world.db.require("network", call.text(0))?;
    world.db.require("host", call.text(1))?;
    done()
}
