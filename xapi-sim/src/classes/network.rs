//! Networks.

use super::{Table, done, plain, vif};
use crate::db::Db;
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::value::Value;
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("network.create", Now(create)),
    ("network.destroy", Now(destroy)),
    (
        "network.set_default_locking_mode",
        Now(set_default_locking_mode),
    ),
    ("network.add_purpose", Now(add_purpose)),
    ("network.remove_purpose", Now(plain)),
    ("network.attach", Now(attach)),
];

/// Names of bridges that the server gives itself.
const RESERVED: [&str; 5] = ["xen", "xapi", "vif", "tap", "eth"];
const BRIDGE_NAME_MAX: usize = 15;

fn create(world: &mut World, call: &Call) -> Reply {
    let mut values: Vec<(&str, Value)> = call.fields.clone();
    let mtu = call.field("MTU").as_int().unwrap_or_default();
    if mtu <= 0 {
        values.retain(|(name, _)| *name != "MTU");
        values.push(("MTU", Value::Int(1500)));
    }
    let bridge = call.field_text("bridge");
    if bridge.is_empty() {
        values.retain(|(name, _)| *name != "bridge");
        let bridge = next_bridge(world);
        values.push(("bridge", Value::String(bridge)));
    } else {
        let reserved = RESERVED.iter().any(|prefix| bridge.starts_with(prefix));
        if reserved || bridge.len() > BRIDGE_NAME_MAX {
            return Err(Failure::invalid_value("bridge", &bridge));
        }
        if bridge_exists(world, &bridge) {
            return Err(Failure::new("BRIDGE_NAME_EXISTS", [bridge]));
        }
    }
    world.create("network", values).map(Value::String)
}

fn bridge_exists(world: &World, bridge: &str) -> bool {
    let networks = world.db.references("network");
    networks.iter().any(|network| {
        let name = world.db.text("network", network, "bridge");
        name.is_ok_and(|name| name == bridge)
    })
}

/// A name for the bridge of a new network.
pub(crate) fn next_bridge(world: &mut World) -> String {
    loop {
        let bridge = format!("xapi{}", world.counters.bridges);
        world.counters.bridges += 1;
        if !bridge_exists(world, &bridge) {
            return bridge;
        }
    }
}

/// Destroys a network and the interfaces on it, unless one is in use or a host's own.
fn destroy(world: &mut World, call: &Call) -> Reply {
    let network = call.text(0);
    let db = &mut world.db;
    let vifs = db.list("network", network, "VIFs")?;
    let used = attached(db, &vifs);
    if !used.is_empty() {
        return Err(Failure::new("NETWORK_CONTAINS_VIF", used));
    }
    let pifs = db.list("network", network, "PIFs")?;
    if !pifs.is_empty() {
        return Err(Failure::new("NETWORK_CONTAINS_PIF", pifs));
    }
    let key = "is_host_internal_management_network";
    if db.key("network", network, "other_config", key)?.as_deref() == Some("true") {
        return Err(Failure::new("CANNOT_DESTROY_SYSTEM_NETWORK", [network]));
    }
    for device in vifs {
        vif::remove(db, &device)?;
    }
    db.destroy("network", network)?;
    done()
}

/// Refuses a network that the server does not manage.
pub(crate) fn assert_managed(db: &Db, network: &str) -> Result<(), Failure> {
    if db.flag("network", network, "managed")? {
        Ok(())
    } else {
        Err(Failure::new("NETWORK_UNMANAGED", [network]))
    }
}

/// Refuses a network that a host is on already: it has one interface to each.
pub(crate) fn assert_unconnected(db: &Db, network: &str, host: &str) -> Result<(), Failure> {
    for pif in db.list("network", network, "PIFs")? {
        if db.text("PIF", &pif, "host")? == host {
            return Err(Failure::new(
                "NETWORK_ALREADY_CONNECTED",
                [host, pif.as_str()],
            ));
        }
    }
    Ok(())
}

/// Those of some interfaces that are attached.
fn attached(db: &Db, vifs: &[String]) -> Vec<String> {
    let vifs = vifs.iter().cloned();
    vifs.filter(|vif| db.flag("VIF", vif, "currently_attached").unwrap_or(false))
        .collect()
}

/// The default counts for interfaces from when they are attached, so none may be.
fn set_default_locking_mode(world: &mut World, call: &Call) -> Reply {
    let network = call.text(0);
    let vifs = world.db.list("network", network, "VIFs")?;
    if let Some(vif) = attached(&world.db, &vifs).first() {
        return Err(Failure::new("VIF_IN_USE", [network, vif]));
    }
    plain(world, call)
}

/// A pool cannot serve disks over NBD with and without TLS.
fn add_purpose(world: &mut World, call: &Call) -> Reply {
    let wanted = call.text(1);
    let bad = if wanted == "nbd" {
        "insecure_nbd"
    } else {
        "nbd"
    };
    world.db.require("network", call.text(0))?;
    for network in world.db.references("network") {
        let purposes = world.db.list("network", &network, "purpose")?;
        if purposes.iter().any(|purpose| purpose == bad) {
            let params = [wanted, bad];
            return Err(Failure::new("NETWORK_INCOMPATIBLE_PURPOSES", params));
        }
    }
    plain(world, call)
}

fn attach(world: &mut World, call: &Call) -> Reply {
    world.db.require("network", call.text(0))?;
    world.db.require("host", call.text(1))?;
    done()
}
