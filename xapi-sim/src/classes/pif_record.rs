//! Settings and bare records of network interfaces, and which of them a host is managed by.

use super::{Table, done, introduce, pif};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::value::{NULL_REF, Value};
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("PIF.set_property", Now(set_property)),
    ("PIF.pool_introduce", Now(introduce_pif)),
    ("PIF.db_introduce", Now(introduce_pif)),
    (
        "PIF.db_forget",
        Now(|world, call| {
            world.db.destroy("PIF", call.text(0))?;
            done()
        }),
    ),
    ("VLAN.pool_introduce", Now(introduce_vlan)),
    ("network.pool_introduce", Now(introduce)),
    ("network.attach_for_vm", Now(attach_for_vm)),
    (
        "network.detach_for_vm",
        Now(|world, call| {
            world.db.require("host", call.text(0))?;
            world.db.require("VM", call.text(1))?;
            done()
        }),
    ),
    (
        "host.management_reconfigure",
        Now(|world, call| {
            manage_by(world, call.text(0))?;
            done()
        }),
    ),
    ("host.local_management_reconfigure", Now(manage_by_device)),
    ("host.management_disable", Now(disable_management)),
    ("pool.management_reconfigure", Now(manage_pool_by)),
];

/// `PIF.set_property(self, name, value)`: of a card that is no member of a bond, or of a bond and
/// with it of its members.
fn set_property(world: &mut World, call: &Call) -> Reply {
    let (pif, name, value) = (call.text(0), call.text(1), call.text(2));
    let db = &mut world.db;
    db.require("PIF", pif)?;
    if name != "gro" || !matches!(value, "on" | "off") {
        let text = format!("{name} = {value}");
        return Err(Failure::invalid_value("properties", &text));
    }
    let bonds = db.list("PIF", pif, "bond_master_of")?;
    let configurable = db.flag("PIF", pif, "physical")? || !bonds.is_empty();
    if !configurable || db.text("PIF", pif, "bond_slave_of")? != NULL_REF {
        return Err(Failure::new("CANNOT_CHANGE_PIF_PROPERTIES", [pif]));
    }
    let mut concerned = vec![pif.to_owned()];
    for bond in bonds {
        concerned.extend(db.list("Bond", &bond, "slaves")?);
    }
    for pif in concerned {
        let old = db.get("PIF", &pif, "properties")?.members().to_vec();
        let rest = old.into_iter().filter(|(known, _)| known != name);
        let new = std::iter::once((name.to_owned(), Value::from(value)));
        let properties = Value::Struct(new.chain(rest).collect());
        db.set("PIF", &pif, "properties", properties)?;
    }
    done()
}

fn introduce_pif(world: &mut World, call: &Call) -> Reply {
    world.db.require("network", call.text(1))?;
    world.db.require("host", call.text(2))?;
    introduce(world, call)
}

fn introduce_vlan(world: &mut World, call: &Call) -> Reply {
    world.db.require("PIF", call.text(0))?;
    world.db.require("PIF", call.text(1))?;
    introduce(world, call)
}

fn attach_for_vm(world: &mut World, call: &Call) -> Reply {
    let (host, vm) = (call.text(0), call.text(1));
    world.db.require("host", host)?;
    for vif in world.db.list("VM", vm, "VIFs")? {
        let network = world.db.text("VIF", &vif, "network")?;
        if !super::vm_placement::has_network(world, &network, host) {
            let params = [host, network.as_str()];
            return Err(Failure::new("HOST_CANNOT_ATTACH_NETWORK", params));
        }
    }
    done()
}

/// Refuses an interface that a host cannot be managed by.
fn assert_can_manage(world: &World, pif: &str) -> Result<(), Failure> {
    let db = &world.db;
    if !db.flag("PIF", pif, "managed")? {
        return Err(Failure::new("PIF_UNMANAGED", [pif]));
    }
    if db.text("PIF", pif, "bond_slave_of")? != NULL_REF {
        return Err(Failure::new("CANNOT_PLUG_BOND_SLAVE", [pif]));
    }
    if db.text("PIF", pif, "ip_configuration_mode")? == "None" {
        return Err(Failure::new("PIF_HAS_NO_NETWORK_CONFIGURATION", [pif]));
    }
    if db.text("PIF", pif, "IP")?.is_empty() {
        return Err(Failure::new("INTERFACE_HAS_NO_IP", [pif]));
    }
    Ok(())
}

fn assert_no_ha(world: &World) -> Result<(), Failure> {
    if world.db.flag("pool", &world.pool(), "ha_enabled")? {
        return Err(Failure::code("HA_IS_ENABLED"));
    }
    Ok(())
}

/// Lets a host be managed by an interface, at whose address it is from then on.
fn manage_by(world: &mut World, pif: &str) -> Result<(), Failure> {
    world.db.require("PIF", pif)?;
    assert_no_ha(world)?;
    assert_can_manage(world, pif)?;
    pif::take_management(world, pif)?;
    let host = world.db.text("PIF", pif, "host")?;
    let address = world.db.text("PIF", pif, "IP")?;
    world.db.set("host", &host, "address", address)
}

/// The same by the name of the interface, of the host that is asked.
fn manage_by_device(world: &mut World, call: &Call) -> Reply {
    for pif in world.db.list("host", &call.host, "PIFs")? {
        if world.db.text("PIF", &pif, "device")? == call.text(0) {
            manage_by(world, &pif)?;
            return done();
        }
    }
    Err(Failure::code("PIF_DEVICE_NOT_FOUND"))
}

/// A host without management is out of reach: it is for those who sit in front of it.
fn disable_management(world: &mut World, call: &Call) -> Reply {
    if world.db.references("host").len() > 1 && call.host != world.coordinator() {
        return Err(Failure::code("SLAVE_REQUIRES_MANAGEMENT_INTERFACE"));
    }
    for pif in world.db.list("host", &call.host, "PIFs")? {
        world.db.set("PIF", &pif, "management", false)?;
    }
    done()
}

/// `pool.management_reconfigure(network)`: all hosts are managed by it, the coordinator last.
fn manage_pool_by(world: &mut World, call: &Call) -> Reply {
    let network = call.text(0);
    world.db.require("network", network)?;
    assert_no_ha(world)?;
    let mut chosen = Vec::new();
    for host in world.db.references("host") {
        let db = &world.db;
        let pifs = db.list("network", network, "PIFs")?;
        let here = |pif: &String| db.text("PIF", pif, "host").is_ok_and(|at| at == host);
        let Some(pif) = pifs.into_iter().find(here) else {
            return Err(Failure::new("PIF_NOT_PRESENT", [host.as_str(), network]));
        };
        assert_can_manage(world, &pif)?;
        chosen.push((host == world.coordinator(), pif));
    }
    chosen.sort();
    for (_, pif) in chosen {
        manage_by(world, &pif)?;
    }
    done()
}
