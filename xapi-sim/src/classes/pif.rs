//! The network interfaces of hosts: cards, and what VLANs, bonds and tunnels have in their place.

use std::net::{IpAddr, Ipv4Addr};

use super::{Table, done, plain, power_of, vif, vm_placement};
use crate::db::Db;
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::value::{NULL_REF, Value, parse_int};
use crate::world::{Call, Card, World};

pub(crate) const TABLE: Table = &[
    ("PIF.plug", Now(|world, call| plug(world, call.text(0)))),
    ("PIF.unplug", Now(|world, call| unplug(world, call.text(0)))),
    ("PIF.scan", Now(scan)),
    ("PIF.introduce", Now(introduce)),
    ("PIF.set_disallow_unplug", Now(plain)),
    (
        "PIF.set_primary_address_type",
        Now(set_primary_address_type),
    ),
    ("PIF.reconfigure_ip", Now(reconfigure_ip)),
    ("PIF.reconfigure_ipv6", Now(reconfigure_ipv6)),
    ("PIF.forget", Now(forget)),
];

/// Brings an interface up; that of a tunnel needs the one below it, with an address.
pub(crate) fn plug(world: &mut World, pif: &str) -> Reply {
    if let Some(tunnel) = world.db.list("PIF", pif, "tunnel_access_PIF_of")?.first() {
        let transport = world.db.text("tunnel", tunnel, "transport_PIF")?;
        let mode = world.db.text("PIF", &transport, "ip_configuration_mode")?;
        if mode == "None" {
            return Err(Failure::new("TRANSPORT_PIF_NOT_CONFIGURED", [transport]));
        }
        plug(world, &transport)?;
    }
    if world.db.text("PIF", pif, "bond_slave_of")? != NULL_REF {
        return Err(Failure::new("CANNOT_PLUG_BOND_SLAVE", [pif]));
    }
    bring_up(world, pif)?;
    done()
}

/// Brings an interface down, and those of the tunnels over it.
pub(crate) fn unplug(world: &mut World, pif: &str) -> Reply {
    let db = &world.db;
    if db.flag("PIF", pif, "currently_attached")? && db.flag("PIF", pif, "management")? {
        return Err(Failure::new("PIF_IS_MANAGEMENT_INTERFACE", [pif]));
    }
    let host = db.text("PIF", pif, "host")?;
    let network = db.text("PIF", pif, "network")?;
    for vif in db.list("network", &network, "VIFs")? {
        let vm = db.text("VIF", &vif, "VM")?;
        if db.flag("VIF", &vif, "currently_attached")?
            && db.text("VM", &vm, "resident_on")? == host
            && power_of(world, &vm)?.is_live()
        {
            return Err(Failure::new("VIF_IN_USE", [network, vif]));
        }
    }
    if db.flag("PIF", pif, "disallow_unplug")? {
        return Err(Failure::new("PIF_DOES_NOT_ALLOW_UNPLUG", [pif]));
    }
    if let Some(tunnel) = db.list("PIF", pif, "tunnel_transport_PIF_of")?.first() {
        let access = db.text("tunnel", tunnel, "access_PIF")?;
        unplug(world, &access)?;
    }
    world.db.set("PIF", pif, "currently_attached", false)?;
    done()
}

/// Attaches an interface. Of a bond and its members only one side is up.
pub(crate) fn bring_up(world: &mut World, pif: &str) -> Result<(), Failure> {
    let db = &mut world.db;
    for bond in db.list("PIF", pif, "bond_master_of")? {
        for member in db.list("Bond", &bond, "slaves")? {
            db.set("PIF", &member, "currently_attached", false)?;
        }
    }
    let bond = db.text("PIF", pif, "bond_slave_of")?;
    if db.exists("Bond", &bond) {
        let above = db.text("Bond", &bond, "master")?;
        db.set("PIF", &above, "currently_attached", false)?;
    }
    let network = db.text("PIF", pif, "network")?;
    let mtu = db.get("network", &network, "MTU")?.clone();
    db.set("PIF", pif, "MTU", mtu)?;
    db.set("PIF", pif, "currently_attached", true)
}

/// Makes an interface the management interface of its host.
pub(crate) fn take_management(world: &mut World, pif: &str) -> Result<(), Failure> {
    bring_up(world, pif)?;
    let host = world.db.text("PIF", pif, "host")?;
    for other in world.db.list("host", &host, "PIFs")? {
        world.db.set("PIF", &other, "management", other == pif)?;
    }
    Ok(())
}

/// Moves the IPv4 settings of an interface to another one.
pub(crate) fn move_configuration(world: &mut World, from: &str, to: &str) -> Result<(), Failure> {
    let db = &mut world.db;
    for (field, none) in [
        ("ip_configuration_mode", "None"),
        ("IP", ""),
        ("netmask", ""),
        ("gateway", ""),
        ("DNS", ""),
    ] {
        let value = db.get("PIF", from, field)?.clone();
        db.set("PIF", to, field, value)?;
        db.set("PIF", from, field, none)?;
    }
    Ok(())
}

/// The VIFs on some networks that belong to VMs which run on a host, or which could start on no
/// other one.
pub(crate) fn local_vifs(
    world: &World,
    host: &str,
    networks: &[String],
) -> Result<Vec<String>, Failure> {
    let mut local = Vec::new();
    for network in networks {
        for vif in world.db.list("network", network, "VIFs")? {
            let vm = world.db.text("VIF", &vif, "VM")?;
            let resident = world.db.text("VM", &vm, "resident_on")?;
            let is_local = if resident == NULL_REF {
                let hosts = vm_placement::possible_hosts(world, &vm);
                hosts.iter().all(|possible| possible == host)
            } else {
                resident == host
            };
            if is_local {
                local.push(vif);
            }
        }
    }
    Ok(local)
}

/// The first name with a prefix and a number that no interface of a host has.
pub(crate) fn free_device(db: &Db, host: &str, prefix: &str) -> Result<String, Failure> {
    let mut taken = Vec::new();
    for pif in db.list("host", host, "PIFs")? {
        taken.push(db.text("PIF", &pif, "device")?);
    }
    let mut number = 0;
    loop {
        let device = format!("{prefix}{number}");
        if !taken.contains(&device) {
            return Ok(device);
        }
        number += 1;
    }
}

/// Makes the records of a card, which is down. A host measures what is plugged into it.
pub(crate) fn add_card(
    world: &mut World,
    card: &Card,
    network: &str,
    managed: bool,
) -> Result<String, Failure> {
    let metrics = world.create(
        "PIF_metrics",
        vec![
            ("carrier", Value::Bool(true)),
            ("speed", Value::Int(10_000)),
            ("duplex", Value::Bool(true)),
        ],
    )?;
    world.create(
        "PIF",
        vec![
            ("device", Value::from(card.device.as_str())),
            ("network", Value::from(network)),
            ("host", Value::from(card.host.as_str())),
            ("MAC", Value::from(card.mac.as_str())),
            ("MTU", Value::Int(1500)),
            ("VLAN", Value::Int(-1)),
            ("metrics", Value::String(metrics)),
            ("physical", Value::Bool(true)),
            ("currently_attached", Value::Bool(false)),
            ("managed", Value::Bool(managed)),
            ("properties", Value::map([("gro", "on")])),
        ],
    )
}

/// Gives a card records, on the network that is named after it.
fn admit(world: &mut World, card: &Card, managed: bool) -> Result<String, Failure> {
    let bridge = match card.device.strip_prefix("eth") {
        _ if !managed => String::new(),
        Some(number) => format!("xenbr{number}"),
        None => format!("br{}", card.device),
    };
    let mut networks = world.db.references("network");
    networks.retain(|network| {
        let name = world.db.text("network", network, "bridge");
        name.is_ok_and(|name| name == bridge)
    });
    let network = if let [network] = networks.as_slice() {
        network.clone()
    } else {
        let label = format!("Pool-wide network associated with {}", card.device);
        let values = vec![
            ("name_label", Value::String(label)),
            ("bridge", Value::String(bridge)),
            ("managed", Value::Bool(managed)),
        ];
        world.create("network", values)?
    };
    add_card(world, card, &network, managed)
}

/// Whether a host has records of a card.
fn is_known(db: &Db, host: &str, device: &str) -> Result<bool, Failure> {
    for pif in db.list("host", host, "PIFs")? {
        if db.flag("PIF", &pif, "physical")? && db.text("PIF", &pif, "device")? == device {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Gives all cards of a host records.
fn scan(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    let mut cards = world.cards.clone();
    cards.retain(|card| card.host == call.text(0));
    for card in cards {
        if !is_known(&world.db, &card.host, &card.device)? {
            admit(world, &card, true)?;
        }
    }
    done()
}

/// `PIF.introduce(host, MAC, device, managed)`: without a MAC it is that of the device.
fn introduce(world: &mut World, call: &Call) -> Reply {
    let (host, device) = (call.text(0), call.text(2));
    world.db.require("host", host)?;
    let card = world
        .cards
        .iter()
        .find(|card| card.host == host && card.device == device)
        .cloned();
    let mut mac = call.text(1).to_lowercase();
    if let Some(card) = &card
        && mac.is_empty()
    {
        mac.clone_from(&card.mac);
    }
    if !vif::is_valid_mac(&mac) {
        return Err(Failure::new("MAC_INVALID", [mac]));
    }
    if is_known(&world.db, host, device)? {
        return Err(Failure::new("DUPLICATE_PIF_DEVICE_NAME", [device]));
    }
    let Some(card) = card.filter(|card| card.mac == mac) else {
        let code = "COULD_NOT_FIND_NETWORK_INTERFACE_WITH_SPECIFIED_DEVICE_NAME_AND_MAC_ADDRESS";
        return Err(Failure::new(code, [device, mac.as_str()]));
    };
    admit(world, &card, call.flag(3)).map(Value::String)
}

fn set_primary_address_type(world: &mut World, call: &Call) -> Reply {
    if world.db.flag("PIF", call.text(0), "management")? {
        return Err(Failure::new("PIF_IS_MANAGEMENT_INTERFACE", [call.text(0)]));
    }
    plain(world, call)
}

/// Refuses to leave a management interface without an address of the family that it is reached by.
fn assert_keeps_address(world: &World, call: &Call, family: &str) -> Result<(), Failure> {
    let pif = call.text(0);
    let primary = world.db.text("PIF", pif, "primary_address_type")?;
    if call.text(1) == "None" && primary == family && world.db.flag("PIF", pif, "management")? {
        return Err(Failure::new("PIF_IS_MANAGEMENT_INTERFACE", [pif]));
    }
    Ok(())
}

fn bad_address(what: &str) -> Failure {
    Failure::new("INVALID_IP_ADDRESS_SPECIFIED", [what])
}

/// `PIF.reconfigure_ip(self, mode, IP, netmask, gateway, DNS)`.
fn reconfigure_ip(world: &mut World, call: &Call) -> Reply {
    let pif = call.text(0);
    world.db.require("PIF", pif)?;
    let fields = ["ip_configuration_mode", "IP", "netmask", "gateway", "DNS"];
    let is_address = |text: &str| text.parse::<Ipv4Addr>().is_ok();
    let fixed = call.text(1) == "Static";
    for (index, field) in fields.into_iter().enumerate().skip(1) {
        let text = call.text(index + 1);
        let needed = fixed && matches!(field, "IP" | "netmask");
        let fine = match field {
            _ if text.is_empty() => !needed,
            "DNS" => text.split(',').all(is_address),
            _ => is_address(text),
        };
        if !fine {
            return Err(bad_address(field));
        }
    }
    assert_keeps_address(world, call, "IPv4")?;
    for (index, field) in fields.into_iter().enumerate() {
        world.db.set("PIF", pif, field, call.arg(index + 1))?;
    }
    done()
}

/// `PIF.reconfigure_ipv6(self, mode, IPv6, gateway, DNS)`.
fn reconfigure_ipv6(world: &mut World, call: &Call) -> Reply {
    let (pif, address, gateway) = (call.text(0), call.text(2), call.text(3));
    world.db.require("PIF", pif)?;
    let is_address = |text: &str| text.parse::<IpAddr>().is_ok();
    if !gateway.is_empty() && !is_address(gateway) {
        return Err(bad_address("gateway"));
    }
    if !address.is_empty() {
        let Some((address, length)) = address.split_once('/') else {
            // The parenthesis stays open on a host, too.
            let text = "Prefix length must be specified (format: <ipv6>/<prefix>";
            return Err(bad_address(text));
        };
        if !is_address(address) {
            return Err(bad_address("IPv6"));
        }
        match parse_int(length) {
            None => {
                let text = format!("Cannot parse prefix length '{length}'");
                return Err(bad_address(&text));
            }
            Some(0..=128) => {}
            Some(_) => return Err(bad_address("Prefix length must be between 0 and 128")),
        }
    }
    assert_keeps_address(world, call, "IPv6")?;
    let db = &mut world.db;
    db.set("PIF", pif, "ipv6_configuration_mode", call.arg(1))?;
    db.set("PIF", pif, "ipv6_gateway", gateway)?;
    db.set("PIF", pif, "IPv6", Value::strings([address]))?;
    if !call.text(4).is_empty() {
        db.set("PIF", pif, "DNS", call.arg(4))?;
    }
    done()
}

/// Removes the record of a card, unless something is built on it.
fn forget(world: &mut World, call: &Call) -> Reply {
    let pif = call.text(0);
    let db = &mut world.db;
    let bond = db.text("PIF", pif, "bond_slave_of")?;
    if db.exists("Bond", &bond) || !db.list("PIF", pif, "bond_master_of")?.is_empty() {
        return Err(Failure::new("PIF_ALREADY_BONDED", [pif]));
    }
    let tagged = !db.list("PIF", pif, "VLAN_slave_of")?.is_empty();
    if tagged || db.int("PIF", pif, "VLAN")? != -1 {
        return Err(Failure::new("PIF_VLAN_STILL_EXISTS", [pif]));
    }
    for field in ["tunnel_transport_PIF_of", "tunnel_access_PIF_of"] {
        if !db.list("PIF", pif, field)?.is_empty() {
            return Err(Failure::new("PIF_TUNNEL_STILL_EXISTS", [pif]));
        }
    }
    if db.flag("PIF", pif, "management")? {
        return Err(Failure::new("PIF_IS_MANAGEMENT_INTERFACE", [pif]));
    }
    let metrics = db.text("PIF", pif, "metrics")?;
    if db.exists("PIF_metrics", &metrics) {
        db.destroy("PIF_metrics", &metrics)?;
    }
    db.destroy("PIF", pif)?;
    done()
}
