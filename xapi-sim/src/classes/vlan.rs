//! VLANs.

use super::{Table, done, network, pif};
use crate::db::Db;
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::value::{NULL_REF, Value};
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("VLAN.create", Now(create)),
    ("VLAN.destroy", Now(destroy)),
    ("pool.create_VLAN", Now(create_everywhere)),
    ("pool.create_VLAN_from_PIF", Now(create_from_pif)),
    ("PIF.create_VLAN", Now(create_on_device)),
    ("PIF.destroy", Now(destroy_interface)),
];

/// `VLAN.create(tagged_PIF, tag, network)`.
fn create(world: &mut World, call: &Call) -> Reply {
    add(world, call.text(0), call.int(1), call.text(2)).map(|(vlan, _)| Value::String(vlan))
}

/// The address of every VLAN's interface.
const VLAN_MAC: &str = "fe:ff:ff:ff:ff:ff";

/// Adds a VLAN and its interface, and gives both.
fn add(
    world: &mut World,
    tagged: &str,
    tag: i64,
    network: &str,
) -> Result<(String, String), Failure> {
    let db = &world.db;
    network::assert_managed(db, network)?;
    let host = db.text("PIF", tagged, "host")?;
    network::assert_unconnected(db, network, &host)?;
    if !db.flag("PIF", tagged, "managed")? {
        return Err(Failure::new("PIF_UNMANAGED", [tagged]));
    }
    if db.text("PIF", tagged, "bond_slave_of")? != NULL_REF {
        return Err(Failure::new("CANNOT_ADD_VLAN_TO_BOND_SLAVE", [tagged]));
    }
    if db.int("PIF", tagged, "VLAN")? >= 0 {
        return Err(Failure::new("PIF_IS_VLAN", [tagged]));
    }
    if !db.list("PIF", tagged, "tunnel_access_PIF_of")?.is_empty() {
        return Err(Failure::new("IS_TUNNEL_ACCESS_PIF", [tagged]));
    }
    if !(0..=4094).contains(&tag) {
        return Err(Failure::new("VLAN_TAG_INVALID", [tag.to_string()]));
    }
    if with_tag(db, tagged, tag)?.is_some() {
        let device = db.text("PIF", tagged, "device")?;
        return Err(Failure::new("PIF_VLAN_EXISTS", [device]));
    }
    let made = connect(world, tagged, tag, network)?;
    pif::bring_up(world, &made.1)?;
    Ok(made)
}

/// The VLAN with a tag on an interface.
fn with_tag(db: &Db, tagged: &str, tag: i64) -> Result<Option<String>, Failure> {
    for vlan in db.list("PIF", tagged, "VLAN_slave_of")? {
        if db.int("VLAN", &vlan, "tag")? == tag {
            return Ok(Some(vlan));
        }
    }
    Ok(None)
}

/// Makes the records of a VLAN, whose interface is down.
fn connect(
    world: &mut World,
    tagged: &str,
    tag: i64,
    network: &str,
) -> Result<(String, String), Failure> {
    let db = &world.db;
    let host = db.text("PIF", tagged, "host")?;
    let device = db.text("PIF", tagged, "device")?;
    // Size and metrics are those of the interface below.
    let mtu = db.get("PIF", tagged, "MTU")?.clone();
    let metrics = db.text("PIF", tagged, "metrics")?;
    let kind = db.get("PIF", tagged, "primary_address_type")?.clone();
    let untagged = world.create(
        "PIF",
        vec![
            ("device", Value::String(device)),
            ("network", Value::from(network)),
            ("host", Value::String(host)),
            ("MAC", Value::from(VLAN_MAC)),
            ("MTU", mtu),
            ("VLAN", Value::Int(tag)),
            ("metrics", Value::String(metrics)),
            ("physical", Value::Bool(false)),
            ("currently_attached", Value::Bool(false)),
            ("IPv6", Value::strings([""])),
            ("primary_address_type", kind),
        ],
    )?;
    let vlan = world.create(
        "VLAN",
        vec![
            ("tagged_PIF", Value::from(tagged)),
            ("untagged_PIF", Value::from(untagged.as_str())),
            ("tag", Value::Int(tag)),
        ],
    )?;
    world
        .db
        .set("PIF", &untagged, "VLAN_master_of", vlan.as_str())?;
    Ok((vlan, untagged))
}

/// Moves a VLAN from the interface below it to another one, a bond's or from there. Where that has
/// a VLAN with the tag already, the local VIFs move to its network.
pub(crate) fn carry_over(world: &mut World, vlan: &str, tagged: &str) -> Result<(), Failure> {
    let db = &world.db;
    let old = db.text("VLAN", vlan, "untagged_PIF")?;
    let tag = db.int("VLAN", vlan, "tag")?;
    let network = db.text("PIF", &old, "network")?;
    let attached = db.flag("PIF", &old, "currently_attached")?;
    let management = db.flag("PIF", &old, "management")?;
    let new = match with_tag(db, tagged, tag)? {
        Some(there) => {
            let new = db.text("VLAN", &there, "untagged_PIF")?;
            let target = db.text("PIF", &new, "network")?;
            let host = db.text("PIF", &old, "host")?;
            for vif in pif::local_vifs(world, &host, std::slice::from_ref(&network))? {
                world.db.set("VIF", &vif, "network", target.as_str())?;
            }
            new
        }
        None => connect(world, tagged, tag, &network)?.1,
    };
    pif::move_configuration(world, &old, &new)?;
    world.db.destroy("VLAN", vlan)?;
    world.db.destroy("PIF", &old)?;
    if management {
        pif::take_management(world, &new)?;
    } else if attached {
        pif::bring_up(world, &new)?;
    }
    Ok(())
}

fn destroy(world: &mut World, call: &Call) -> Reply {
    remove(world, call.text(0))
}

/// `PIF.destroy(self)`: the interface goes with its VLAN.
fn destroy_interface(world: &mut World, call: &Call) -> Reply {
    if world.db.int("PIF", call.text(0), "VLAN")? < 0 {
        return Err(Failure::code("PIF_IS_PHYSICAL"));
    }
    let vlan = world.db.text("PIF", call.text(0), "VLAN_master_of")?;
    remove(world, &vlan)
}

/// `PIF.create_VLAN(device, network, host, VLAN)`.
fn create_on_device(world: &mut World, call: &Call) -> Reply {
    let (device, network) = (call.text(0), call.text(1));
    for pif in world.db.list("host", call.text(2), "PIFs")? {
        let untagged = world.db.int("PIF", &pif, "VLAN")? < 0;
        if untagged && world.db.text("PIF", &pif, "device")? == device {
            return add(world, &pif, call.int(3), network).map(|(_, pif)| Value::String(pif));
        }
    }
    Err(Failure::invalid_value("device", device))
}

fn remove(world: &mut World, vlan: &str) -> Reply {
    let db = &mut world.db;
    let untagged = db.text("VLAN", vlan, "untagged_PIF")?;
    let network = db.text("PIF", &untagged, "network")?;
    for vif in db.list("network", &network, "VIFs")? {
        if db.flag("VIF", &vif, "currently_attached")? {
            return Err(Failure::new("VIF_IN_USE", [network, vif]));
        }
    }
    db.destroy("PIF", &untagged)?;
    db.destroy("VLAN", vlan)?;
    done()
}

/// `pool.create_VLAN(device, network, tag)`: one on every host that has the device.
fn create_everywhere(world: &mut World, call: &Call) -> Reply {
    let mut trunks = Vec::new();
    for pif in world.db.references("PIF") {
        let physical = world.db.flag("PIF", &pif, "physical")?;
        if physical && world.db.text("PIF", &pif, "device")? == call.text(0) {
            trunks.push(pif);
        }
    }
    add_to_all(world, &trunks, call.int(2), call.text(1))
}

/// `pool.create_VLAN_from_PIF(pif, network, tag)`: one on each interface, of hosts that are there, to
/// the network that this one is on, whether that is a card's or a bond's.
fn create_from_pif(world: &mut World, call: &Call) -> Reply {
    let below = world.db.text("PIF", call.text(0), "network")?;
    let mut trunks = Vec::new();
    for pif in world.db.list("network", &below, "PIFs")? {
        let host = world.db.text("PIF", &pif, "host")?;
        let metrics = world.db.text("host", &host, "metrics")?;
        if world.db.flag("host_metrics", &metrics, "live")? {
            trunks.push(pif);
        }
    }
    add_to_all(world, &trunks, call.int(2), call.text(1))
}

/// Adds a VLAN to all of them, or to none.
fn add_to_all(world: &mut World, trunks: &[String], tag: i64, network: &str) -> Reply {
    let mut made = Vec::new();
    for trunk in trunks {
        match add(world, trunk, tag, network) {
            Ok(vlan) => made.push(vlan),
            Err(failure) => {
                for (vlan, _) in &made {
                    remove(world, vlan)?;
                }
                return Err(failure);
            }
        }
    }
    let pifs = made.into_iter().map(|(_, pif)| pif);
    Ok(Value::strings(pifs))
}
