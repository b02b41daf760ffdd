//! VLANs, and the physical interfaces below them.

use std::net::Ipv4Addr;

use super::{Table, done, plain};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::value::{NULL_REF, Value};
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("VLAN.create", Now(create)),
    ("VLAN.destroy", Now(destroy)),
    ("pool.create_VLAN", Now(create_everywhere)),
    ("pool.create_VLAN_from_PIF", Now(create_from_pif)),
    ("PIF.plug", Now(plug)),
    ("PIF.unplug", Now(unplug)),
    ("PIF.scan", Now(scan)),
    ("PIF.set_disallow_unplug", Now(plain)),
    ("PIF.set_primary_address_type", Now(plain)),
    ("PIF.reconfigure_ip", Now(reconfigure_ip)),
    ("PIF.forget", Now(forget)),
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
    if !db.flag("network", network, "managed")? {
        return Err(Failure::new("NETWORK_UNMANAGED", [network]));
    }
    let host = db.text("PIF", tagged, "host")?;
    for pif in db.list("network", network, "PIFs")? {
        if db.text("PIF", &pif, "host")? == host {
            let params = [host.as_str(), &pif];
            return Err(Failure::new("NETWORK_ALREADY_CONNECTED", params));
        }
    }
    if !db.flag("PIF", tagged, "managed")? {
        return Err(Failure::new("PIF_UNMANAGED", [tagged]));
    }
    if db.text("PIF", tagged, "bond_slave_of")? != NULL_REF {
        return Err(Failure::new("CANNOT_ADD_VLAN_TO_BOND_SLAVE", [tagged]));
    }
    if db.int("PIF", tagged, "VLAN")? >= 0 {
        return Err(Failure::new("PIF_IS_VLAN", [tagged]));
    }
    if !(0..=4094).contains(&tag) {
        return Err(Failure::new("VLAN_TAG_INVALID", [tag.to_string()]));
    }
    let device = db.text("PIF", tagged, "device")?;
    for vlan in db.list("PIF", tagged, "VLAN_slave_of")? {
        if db.int("VLAN", &vlan, "tag")? == tag {
            return Err(Failure::new("PIF_VLAN_EXISTS", [device]));
        }
    }
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
            ("currently_attached", Value::Bool(true)),
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

fn destroy(world: &mut World, call: &Call) -> Reply {
    let vlan = call.text(0);
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
    add_everywhere(world, call.text(0), call.text(1), call.int(2))
}

/// `pool.create_VLAN_from_PIF(pif, network, tag)`.
fn create_from_pif(world: &mut World, call: &Call) -> Reply {
    let device = world.db.text("PIF", call.text(0), "device")?;
    add_everywhere(world, &device, call.text(1), call.int(2))
}

fn add_everywhere(world: &mut World, device: &str, network: &str, tag: i64) -> Reply {
    let mut made = Vec::new();
    for pif in world.db.references("PIF") {
        let physical = world.db.flag("PIF", &pif, "physical")?;
        if physical && world.db.text("PIF", &pif, "device")? == device {
            made.push(add(world, &pif, tag, network)?.1);
        }
    }
    Ok(Value::strings(made))
}

fn plug(world: &mut World, call: &Call) -> Reply {
    world
        .db
        .set("PIF", call.text(0), "currently_attached", true)?;
    done()
}

fn unplug(world: &mut World, call: &Call) -> Reply {
    let pif = call.text(0);
    if world.db.flag("PIF", pif, "management")? {
        return Err(Failure::new("PIF_IS_MANAGEMENT_INTERFACE", [pif]));
    }
    if world.db.flag("PIF", pif, "disallow_unplug")? {
        return Err(Failure::new("PIF_DOES_NOT_ALLOW_UNPLUG", [pif]));
    }
    world.db.set("PIF", pif, "currently_attached", false)?;
    done()
}

fn scan(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    done()
}

/// `PIF.reconfigure_ip(self, mode, IP, netmask, gateway, DNS)`.
fn reconfigure_ip(world: &mut World, call: &Call) -> Reply {
    let pif = call.text(0);
    world.db.require("PIF", pif)?;
    let fields = ["ip_configuration_mode", "IP", "netmask", "gateway", "DNS"];
    if call.text(1) == "Static" {
        let is_address = |text: &str| text.parse::<Ipv4Addr>().is_ok();
        for (index, field) in fields.into_iter().enumerate().skip(1) {
            let text = call.text(index + 1);
            let fine = match field {
                "IP" | "netmask" => is_address(text),
                "gateway" => text.is_empty() || is_address(text),
                _ => text.is_empty() || text.split(',').all(is_address),
            };
            if !fine {
                return Err(Failure::new("INVALID_IP_ADDRESS_SPECIFIED", [field]));
            }
        }
    }
    for (index, field) in fields.into_iter().enumerate() {
        world.db.set("PIF", pif, field, call.arg(index + 1))?;
    }
    done()
}

fn forget(world: &mut World, call: &Call) -> Reply {
    let pif = call.text(0);
    if world.db.flag("PIF", pif, "management")? {
        return Err(Failure::new("PIF_IS_MANAGEMENT_INTERFACE", [pif]));
    }
    world.db.destroy("PIF", pif)?;
    done()
}
