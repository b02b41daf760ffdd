//! Bonds: several cards of a host that act as one.

use super::{Table, done, network, pif, tunnel, vif, vlan};
use crate::db::Db;
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::value::{Value, parse_int};
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("Bond.create", Now(create)),
    ("Bond.destroy", Now(destroy)),
    ("Bond.set_mode", Now(set_mode)),
    ("Bond.set_property", Now(set_property)),
];

/// What a bond of a mode can be told: key, default, and whether a value will do.
type Property = (&'static str, Option<&'static str>, fn(&str) -> bool);

const LACP: [Property; 4] = [
    ("hashing_algorithm", Some("tcpudp_ports"), |value| {
        matches!(value, "src_mac" | "tcpudp_ports")
    }),
    ("lacp-time", Some("slow"), |value| {
        matches!(value, "fast" | "slow")
    }),
    ("lacp-aggregation-key", None, |value| {
        parse_int(value).is_some()
    }),
    ("lacp-fallback-ab", Some("true"), |value| {
        matches!(value, "true" | "false")
    }),
];

fn properties_of(mode: &str) -> &'static [Property] {
    if mode == "lacp" { &LACP } else { &[] }
}

fn is_property(mode: &str, key: &str, value: &str) -> bool {
    let known = properties_of(mode).iter();
    let mut known = known.filter(|(name, ..)| *name == key);
    known.any(|(_, _, will_do)| will_do(value))
}

fn assert_property(mode: &str, key: &str, value: &str) -> Result<(), Failure> {
    if is_property(mode, key, value) {
        return Ok(());
    }
    Err(Failure::invalid_value(
        "properties",
        &format!("{key} = {value}"),
    ))
}

/// The properties that a bond has when it is told some of them.
fn completed(mode: &str, told: &[(String, Value)]) -> Value {
    let mut all = told.to_vec();
    for (key, default, _) in properties_of(mode) {
        if let Some(default) = default
            && !told.iter().any(|(name, _)| name == key)
        {
            all.insert(0, ((*key).to_owned(), Value::from(*default)));
        }
    }
    Value::Struct(all)
}

/// The cards that shall become one, once they have passed.
struct Members {
    host: String,
    all: Vec<String>,
    /// The one whose address and MAC the bond gets.
    primary: String,
    management: bool,
    properties: Value,
}

impl Members {
    fn check(db: &Db, mut all: Vec<String>, host: String) -> Result<Members, Failure> {
        let mut seen = std::collections::HashSet::new();
        all.retain(|pif| seen.insert(pif.clone()));
        let mut with_address = Vec::new();
        let mut management = None;
        for pif in &all {
            if db.text("PIF", pif, "ip_configuration_mode")? != "None" {
                with_address.push(pif.clone());
            }
            if management.is_none() && db.flag("PIF", pif, "management")? {
                management = Some(pif.clone());
            }
        }
        for pif in &all {
            assert_bondable(db, pif)?;
        }
        let mut properties = None;
        for pif in &all {
            if db.text("PIF", pif, "host")? != host {
                return Err(Failure::code("PIF_CANNOT_BOND_CROSS_HOST"));
            }
        }
        for pif in &all {
            let own = db.get("PIF", pif, "properties")?;
            if *properties.get_or_insert(own) != own {
                return Err(Failure::code("INCOMPATIBLE_PIF_PROPERTIES"));
            }
        }
        let properties = properties.cloned().unwrap_or(Value::Struct(Vec::new()));
        if with_address.len() > 1 {
            return Err(Failure::code("PIF_BOND_MORE_THAN_ONE_IP"));
        }
        let primary = management.as_ref().or(with_address.first());
        let Some(primary) = primary.or(all.first()).cloned() else {
            return Err(Failure::code("PIF_BOND_NEEDS_MORE_MEMBERS"));
        };
        Ok(Members {
            host,
            primary,
            management: management.is_some(),
            properties,
            all,
        })
    }
}

fn assert_bondable(db: &Db, pif: &str) -> Result<(), Failure> {
    if db.exists("Bond", &db.text("PIF", pif, "bond_slave_of")?) {
        return Err(Failure::new("PIF_ALREADY_BONDED", [pif]));
    }
    if db.int("PIF", pif, "VLAN")? != -1 {
        let device = db.text("PIF", pif, "device")?;
        return Err(Failure::new("PIF_VLAN_EXISTS", [device]));
    }
    if !db.list("PIF", pif, "tunnel_access_PIF_of")?.is_empty() {
        return Err(Failure::new("IS_TUNNEL_ACCESS_PIF", [pif]));
    }
    if db.flag("PIF", pif, "management")? {
        assert_no_ha(db)?;
    }
    if !db.flag("PIF", pif, "managed")? {
        return Err(Failure::new("PIF_UNMANAGED", [pif]));
    }
    Ok(())
}

/// The management interface stays as it is while others watch over the host by it.
fn assert_no_ha(db: &Db) -> Result<(), Failure> {
    for pool in db.references("pool") {
        if db.flag("pool", &pool, "ha_enabled")? {
            let code = "HA_CANNOT_CHANGE_BOND_STATUS_OF_MGMT_IFACE";
            return Err(Failure::code(code));
        }
    }
    Ok(())
}

/// `Bond.create(network, members, MAC, mode, properties)`: what was on the members is on the bond
/// afterwards.
fn create(world: &mut World, call: &Call) -> Reply {
    let (network, mac, mode) = (call.text(0), call.text(2), call.text(3));
    let items = call.args.get(1).map(Value::items).unwrap_or_default();
    let members: Vec<String> = items
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let Some(first) = members.first() else {
        return Err(Failure::code("PIF_BOND_NEEDS_MORE_MEMBERS"));
    };
    let db = &world.db;
    let host = db.text("PIF", first, "host")?;
    network::assert_managed(db, network)?;
    network::assert_unconnected(db, network, &host)?;
    if !mac.is_empty() && !vif::is_valid_mac(mac) {
        return Err(Failure::new("MAC_INVALID", [mac]));
    }
    let properties = call.arg(4);
    for (key, value) in properties.members() {
        assert_property(mode, key, value.as_str().unwrap_or_default())?;
    }
    let members = Members::check(db, members, host)?;
    let cargo = Cargo::on(world, &members.host, &members.all)?;
    let bond = add(world, &members, network, mac, mode, &properties)?;
    let above = world.db.text("Bond", &bond, "master")?;
    pif::move_configuration(world, &members.primary, &above)?;
    if members.management {
        pif::take_management(world, &above)?;
    } else {
        pif::bring_up(world, &above)?;
    }
    cargo.carry_over(world, &above)?;
    let mut fixed = false;
    for pif in &members.all {
        fixed |= world.db.flag("PIF", pif, "disallow_unplug")?;
        world.db.set("PIF", pif, "disallow_unplug", false)?;
    }
    world.db.set("PIF", &above, "disallow_unplug", fixed)?;
    Ok(Value::String(bond))
}

/// Makes the records of a bond, whose interface is down.
fn add(
    world: &mut World,
    members: &Members,
    network: &str,
    mac: &str,
    mode: &str,
    properties: &Value,
) -> Result<String, Failure> {
    let db = &world.db;
    let mac = if mac.is_empty() {
        db.text("PIF", &members.primary, "MAC")?
    } else {
        mac.to_owned()
    };
    let device = pif::free_device(db, &members.host, "bond")?;
    // What the host would measure: all links are up and add up.
    let mut speed = 0;
    for pif in &members.all {
        let metrics = db.text("PIF", pif, "metrics")?;
        speed += db.int("PIF_metrics", &metrics, "speed").unwrap_or_default();
    }
    let metrics = world.create(
        "PIF_metrics",
        vec![
            ("carrier", Value::Bool(true)),
            ("speed", Value::Int(speed)),
            ("duplex", Value::Bool(true)),
        ],
    )?;
    let above = world.create(
        "PIF",
        vec![
            ("device", Value::String(device)),
            ("network", Value::from(network)),
            ("host", Value::from(members.host.as_str())),
            ("MAC", Value::String(mac)),
            ("MTU", Value::Int(-1)),
            ("VLAN", Value::Int(-1)),
            ("metrics", Value::String(metrics)),
            ("currently_attached", Value::Bool(false)),
            ("IPv6", Value::strings([""])),
            ("properties", members.properties.clone()),
        ],
    )?;
    let links = i64::try_from(members.all.len()).unwrap_or_default();
    let bond = world.create(
        "Bond",
        vec![
            ("master", Value::String(above)),
            ("primary_slave", Value::from(members.primary.as_str())),
            ("mode", Value::from(mode)),
            ("properties", completed(mode, properties.members())),
            ("links_up", Value::Int(links)),
        ],
    )?;
    for pif in &members.all {
        world.db.set("PIF", pif, "bond_slave_of", bond.as_str())?;
    }
    Ok(bond)
}

/// What is built on interfaces and moves with a bond.
struct Cargo {
    vlans: Vec<String>,
    tunnels: Vec<String>,
    vifs: Vec<String>,
}

impl Cargo {
    fn on(world: &World, host: &str, pifs: &[String]) -> Result<Cargo, Failure> {
        let db = &world.db;
        let (mut vlans, mut tunnels, mut networks) = (Vec::new(), Vec::new(), Vec::new());
        for pif in pifs {
            vlans.extend(db.list("PIF", pif, "VLAN_slave_of")?);
            tunnels.extend(db.list("PIF", pif, "tunnel_transport_PIF_of")?);
            networks.push(db.text("PIF", pif, "network")?);
        }
        Ok(Cargo {
            vlans,
            tunnels,
            vifs: pif::local_vifs(world, host, &networks)?,
        })
    }

    fn carry_over(self, world: &mut World, pif: &str) -> Result<(), Failure> {
        let network = world.db.text("PIF", pif, "network")?;
        for vlan in self.vlans {
            vlan::carry_over(world, &vlan, pif)?;
        }
        for tunnel in self.tunnels {
            tunnel::carry_over(world, &tunnel, pif)?;
        }
        for vif in self.vifs {
            world.db.set("VIF", &vif, "network", network.as_str())?;
        }
        Ok(())
    }
}

/// Gives all that the bond has back to its primary member.
fn destroy(world: &mut World, call: &Call) -> Reply {
    let bond = call.text(0);
    let db = &world.db;
    let above = db.text("Bond", bond, "master")?;
    let primary = db.text("Bond", bond, "primary_slave")?;
    let members = db.list("Bond", bond, "slaves")?;
    let host = db.text("PIF", &above, "host")?;
    let attached = db.flag("PIF", &above, "currently_attached")?;
    let management = db.flag("PIF", &above, "management")?;
    if management {
        assert_no_ha(db)?;
    }
    let cargo = Cargo::on(world, &host, std::slice::from_ref(&above))?;
    pif::move_configuration(world, &above, &primary)?;
    if management {
        pif::take_management(world, &primary)?;
    }
    if attached || management {
        for pif in &members {
            pif::bring_up(world, pif)?;
        }
    }
    cargo.carry_over(world, &primary)?;
    if world.db.flag("PIF", &above, "disallow_unplug")? {
        world.db.set("PIF", &primary, "disallow_unplug", true)?;
    }
    let metrics = world.db.text("PIF", &above, "metrics")?;
    world.db.destroy("Bond", bond)?;
    world.db.destroy("PIF", &above)?;
    if world.db.exists("PIF_metrics", &metrics) {
        world.db.destroy("PIF_metrics", &metrics)?;
    }
    for pif in &members {
        world
            .db
            .set("PIF", pif, "bond_slave_of", Value::null_ref())?;
    }
    done()
}

/// `Bond.set_mode(self, value)`: properties that the new mode lacks go.
fn set_mode(world: &mut World, call: &Call) -> Reply {
    let (bond, mode) = (call.text(0), call.text(1));
    world.db.set("Bond", bond, "mode", mode)?;
    let told = world.db.get("Bond", bond, "properties")?.members();
    let told: Vec<_> = told
        .iter()
        .filter(|(key, value)| is_property(mode, key, value.as_str().unwrap_or_default()))
        .cloned()
        .collect();
    let properties = completed(mode, &told);
    world.db.set("Bond", bond, "properties", properties)?;
    reset(world, bond)
}

/// `Bond.set_property(self, name, value)`.
fn set_property(world: &mut World, call: &Call) -> Reply {
    let (bond, key, value) = (call.text(0), call.text(1), call.text(2));
    let mode = world.db.text("Bond", bond, "mode")?;
    assert_property(&mode, key, value)?;
    let mut properties = world.db.get("Bond", bond, "properties")?.members().to_vec();
    properties.retain(|(name, _)| name != key);
    properties.insert(0, (key.to_owned(), Value::from(value)));
    let properties = Value::Struct(properties);
    world.db.set("Bond", bond, "properties", properties)?;
    reset(world, bond)
}

/// Applies a changed configuration.
fn reset(world: &mut World, bond: &str) -> Reply {
    let above = world.db.text("Bond", bond, "master")?;
    pif::bring_up(world, &above)?;
    done()
}
