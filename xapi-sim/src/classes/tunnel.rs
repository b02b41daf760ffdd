//! Tunnels: private networks of hosts over the addresses of one of their interfaces.

use super::{Table, done, network, pif, vif};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::value::{NULL_REF, Value};
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("tunnel.create", Now(create)),
    ("tunnel.destroy", Now(destroy)),
];

/// `tunnel.create(transport_PIF, network, protocol)`. Its status stays inactive: a controller of
/// virtual switches writes it, not the server.
fn create(world: &mut World, call: &Call) -> Reply {
    let (transport, network) = (call.text(0), call.text(1));
    let db = &world.db;
    network::assert_managed(db, network)?;
    if !db.flag("PIF", transport, "managed")? {
        return Err(Failure::new("PIF_UNMANAGED", [transport]));
    }
    if db.text("PIF", transport, "bond_slave_of")? != NULL_REF {
        return Err(Failure::new("CANNOT_ADD_TUNNEL_TO_BOND_SLAVE", [transport]));
    }
    if !db
        .list("PIF", transport, "tunnel_access_PIF_of")?
        .is_empty()
    {
        return Err(Failure::new("IS_TUNNEL_ACCESS_PIF", [transport]));
    }
    let host = db.text("PIF", transport, "host")?;
    network::assert_unconnected(db, network, &host)?;
    let (tunnel, access) = connect(world, transport, network, call.arg(2))?;
    // Where the interface below has no address this fails, and the records stay.
    pif::plug(world, &access)?;
    Ok(Value::String(tunnel))
}

/// Makes the records of a tunnel, whose interface is down.
fn connect(
    world: &mut World,
    transport: &str,
    network: &str,
    protocol: Value,
) -> Result<(String, String), Failure> {
    let db = &world.db;
    let host = db.text("PIF", transport, "host")?;
    let device = pif::free_device(db, &host, "tunnel")?;
    let metrics = db.text("PIF", transport, "metrics")?;
    let mac = vif::derived_mac(&world.seed.uuid(), 0);
    let access = world.create(
        "PIF",
        vec![
            ("device", Value::String(device)),
            ("network", Value::from(network)),
            ("host", Value::String(host)),
            ("MAC", Value::String(mac)),
            ("MTU", Value::Int(-1)),
            ("VLAN", Value::Int(-1)),
            ("metrics", Value::String(metrics)),
            ("currently_attached", Value::Bool(false)),
            ("IPv6", Value::strings([""])),
        ],
    )?;
    let mut values = vec![
        ("access_PIF", Value::from(access.as_str())),
        ("transport_PIF", Value::from(transport)),
        ("status", Value::map([("active", "false")])),
    ];
    // Releases without the field have only one protocol.
    if protocol != Value::Nil {
        values.push(("protocol", protocol));
    }
    let tunnel = world.create("tunnel", values)?;
    Ok((tunnel, access))
}

/// Moves a tunnel to another interface, a bond's or from there.
pub(crate) fn carry_over(world: &mut World, tunnel: &str, transport: &str) -> Result<(), Failure> {
    let db = &world.db;
    let old = db.text("tunnel", tunnel, "access_PIF")?;
    let network = db.text("PIF", &old, "network")?;
    let attached = db.flag("PIF", &old, "currently_attached")?;
    let protocol = db.get("tunnel", tunnel, "protocol").cloned();
    let protocol = protocol.unwrap_or(Value::Nil);
    let (_, access) = connect(world, transport, &network, protocol)?;
    world.db.destroy("tunnel", tunnel)?;
    world.db.destroy("PIF", &old)?;
    if attached {
        pif::bring_up(world, &access)?;
    }
    Ok(())
}

fn destroy(world: &mut World, call: &Call) -> Reply {
    let tunnel = call.text(0);
    let access = world.db.text("tunnel", tunnel, "access_PIF")?;
    pif::unplug(world, &access)?;
    world.db.destroy("PIF", &access)?;
    world.db.destroy("tunnel", tunnel)?;
    done()
}
