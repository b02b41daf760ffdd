//! Records of Citrix Provisioning, of network controllers and of observers: what is told to a host
//! is written down; there is no service behind it.

use super::{Table, done, introduce, plain};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::value::Value;
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    (
        "PVS_site.introduce",
        Now(|world, call| {
            let uuid = call.text(2);
            for site in world.db.references("PVS_site") {
                // The same site is there once.
                if !uuid.is_empty() && world.db.text("PVS_site", &site, "PVS_uuid")? == uuid {
                    return Ok(Value::String(site));
                }
            }
            introduce(world, call)
        }),
    ),
    ("PVS_site.forget", Now(forget_site)),
    ("PVS_site.set_PVS_uuid", Now(plain)),
    ("PVS_server.introduce", Now(introduce_server)),
    ("PVS_server.forget", Now(forget)),
    ("PVS_proxy.create", Now(create_proxy)),
    ("PVS_proxy.destroy", Now(forget)),
    ("SDN_controller.introduce", Now(introduce_controller)),
    ("SDN_controller.forget", Now(forget)),
    ("pool.set_vswitch_controller", Now(set_controller)),
    (
        "Observer.register",
        Now(|world, call| {
            world.db.require("Observer", call.text(0))?;
            done()
        }),
    ),
    (
        "Observer.unregister",
        Now(|world, call| {
            world.db.require("Observer", call.text(0))?;
            done()
        }),
    ),
    ("Observer.set_hosts", Now(plain)),
    ("Observer.set_enabled", Now(plain)),
    ("Observer.set_attributes", Now(plain)),
    ("Observer.set_endpoints", Now(set_endpoints)),
    ("Observer.set_components", Now(set_components)),
];

fn forget(world: &mut World, call: &Call) -> Reply {
    world.db.destroy(call.class.name, call.text(0))?;
    done()
}

fn forget_site(world: &mut World, call: &Call) -> Reply {
    for (field, code) in [
        ("proxies", "PVS_SITE_CONTAINS_RUNNING_PROXIES"),
        ("servers", "PVS_SITE_CONTAINS_SERVERS"),
    ] {
        let members = world.db.list("PVS_site", call.text(0), field)?;
        if !members.is_empty() {
            return Err(Failure::new(code, [members.join(",")]));
        }
    }
    forget(world, call)
}

/// `PVS_server.introduce(addresses, first_port, last_port, site)`.
fn introduce_server(world: &mut World, call: &Call) -> Reply {
    let (first, last) = (call.int(1), call.int(2));
    world.db.require("PVS_site", call.text(3))?;
    let given = call.arg(0);
    for address in given.items().iter().filter_map(Value::as_str) {
        if address.parse::<std::net::IpAddr>().is_err() {
            let params = ["addresses"];
            return Err(Failure::new("INVALID_IP_ADDRESS_SPECIFIED", params));
        }
        for server in world.db.references("PVS_server") {
            let known = world.db.list("PVS_server", &server, "addresses")?;
            if known.iter().any(|known| known == address) {
                return Err(Failure::new("PVS_SERVER_ADDRESS_IN_USE", [address]));
            }
        }
    }
    let is_port = |port: i64| (1..=65_535).contains(&port);
    for (name, port) in [("first_port", first), ("last_port", last)] {
        if !is_port(port) {
            let port = port.to_string();
            let params = [name, &port, "Port out of range"];
            return Err(Failure::new("VALUE_NOT_SUPPORTED", params));
        }
    }
    if last < first {
        let last = last.to_string();
        let params = ["last_port", &last, "Port out of range"];
        return Err(Failure::new("VALUE_NOT_SUPPORTED", params));
    }
    introduce(world, call)
}

/// `PVS_proxy.create(site, VIF)`: only for the first interface of a VM.
fn create_proxy(world: &mut World, call: &Call) -> Reply {
    let (site, vif) = (call.text(0), call.text(1));
    world.db.require("PVS_site", site)?;
    if world.db.text("VIF", vif, "device")? != "0" {
        return Err(Failure::code("PVS_VIF_MUST_BE_FIRST_DEVICE"));
    }
    for proxy in world.db.references("PVS_proxy") {
        if world.db.text("PVS_proxy", &proxy, "VIF")? == vif {
            return Err(Failure::new("PVS_PROXY_ALREADY_PRESENT", [proxy]));
        }
    }
    introduce(world, call)
}

/// `SDN_controller.introduce(protocol, address, port)`: one at most.
fn introduce_controller(world: &mut World, call: &Call) -> Reply {
    const SECURE: i64 = 6632;
    let (protocol, address, port) = (call.text(0), call.text(1), call.int(2));
    if !world.db.references("SDN_controller").is_empty() {
        let text = "SDN controller already exists";
        return Err(Failure::not_allowed(text));
    }
    let passive = protocol == "pssl";
    if passive && (!address.is_empty() || port != 0) {
        let text = "No address or port is needed for pssl";
        return Err(Failure::not_allowed(text));
    }
    if !passive && address.parse::<std::net::IpAddr>().is_err() {
        return Err(Failure::new("INVALID_IP_ADDRESS_SPECIFIED", ["address"]));
    }
    if !(0..=65_535).contains(&port) {
        return Err(Failure::invalid_value("port", &port.to_string()));
    }
    let values = vec![
        ("protocol", call.arg(0)),
        ("address", call.arg(1)),
        ("port", Value::Int(if port == 0 { SECURE } else { port })),
    ];
    world.create("SDN_controller", values).map(Value::String)
}

/// The older way to say the same; an empty address takes the controller away.
fn set_controller(world: &mut World, call: &Call) -> Reply {
    let address = call.text(0);
    if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
        return Err(Failure::new("INVALID_IP_ADDRESS_SPECIFIED", ["address"]));
    }
    for controller in world.db.references("SDN_controller") {
        world.db.destroy("SDN_controller", &controller)?;
    }
    let pool = world.pool();
    world.db.set("pool", &pool, "vswitch_controller", address)?;
    if !address.is_empty() {
        let values = vec![
            ("protocol", Value::from("ssl")),
            ("address", Value::from(address)),
            ("port", Value::Int(6632)),
        ];
        world.create("SDN_controller", values)?;
    }
    done()
}

/// Endpoints are the host's own log or URLs.
fn set_endpoints(world: &mut World, call: &Call) -> Reply {
    let given = call.arg(1);
    for endpoint in given.items().iter().filter_map(Value::as_str) {
        let is_url = endpoint.starts_with("http://") || endpoint.starts_with("https://");
        if endpoint != "bugtool" && !is_url {
            let params = ["endpoint", endpoint];
            return Err(Failure::new("INVALID_VALUE", params));
        }
    }
    plain(world, call)
}

fn set_components(world: &mut World, call: &Call) -> Reply {
    const KNOWN: [&str; 5] = ["xapi", "xenopsd", "xapi-clusterd", "smapi", "xs-net"];
    let given = call.arg(1);
    for component in given.items().iter().filter_map(Value::as_str) {
        if !KNOWN.contains(&component) {
            let params = ["component", component];
            return Err(Failure::new("INVALID_VALUE", params));
        }
    }
    plain(world, call)
}
