//! Directory services and Workload Balancing: what connects a pool to servers that others run.
//! Nobody answers for them here, except that the users of a model count as found in a directory.

use super::{Table, done};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::value::Value;
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("host.enable_external_auth", Now(enable_on_host)),
    ("host.disable_external_auth", Now(disable_on_host)),
    ("host.external_auth_set_ldaps", Now(set_ldaps)),
    ("pool.enable_external_auth", Now(enable)),
    ("pool.disable_external_auth", Now(disable)),
    ("pool.external_auth_set_ldaps", Now(set_ldaps)),
    ("pool.detect_nonhomogeneous_external_auth", Now(detect)),
    ("pool.initialize_wlb", Now(initialise_wlb)),
    ("pool.deconfigure_wlb", Now(|_, _| Err(not_initialised()))),
    (
        "VM.retrieve_wlb_recommendations",
        Now(|world, call| {
            world.db.require("VM", call.text(0))?;
            Err(not_initialised())
        }),
    ),
    (
        "host.retrieve_wlb_evacuate_recommendations",
        Now(|world, call| {
            world.db.require("host", call.text(0))?;
            Err(not_initialised())
        }),
    ),
];

/// The only kind of directory that hosts can join.
const KIND: &str = "AD";

fn is_off(world: &World, host: &str) -> Result<bool, Failure> {
    Ok(world
        .db
        .text("host", host, "external_auth_type")?
        .is_empty())
}

/// What keeps a host from joining the directory: `(service name, type)`.
fn assert_can_join(world: &World, host: &str, service: &str, kind: &str) -> Result<(), Failure> {
    if !is_off(world, host)? {
        let text = |field| world.db.text("host", host, field);
        let params = [
            text("external_auth_type")?,
            text("external_auth_service_name")?,
        ];
        return Err(Failure::new("AUTH_ALREADY_ENABLED", params));
    }
    if kind != KIND {
        return Err(Failure::new("AUTH_UNKNOWN_TYPE", [kind]));
    }
    let text = format!("Failed to look up domain {service}");
    Err(Failure::new(
        "AUTH_ENABLE_FAILED_DOMAIN_LOOKUP_FAILED",
        [text],
    ))
}

/// `host.enable_external_auth(host, config, service_name, auth_type)`.
fn enable_on_host(world: &mut World, call: &Call) -> Reply {
    assert_can_join(world, call.text(0), call.text(2), call.text(3))?;
    done()
}

/// The same for each host of the pool.
fn enable(world: &mut World, call: &Call) -> Reply {
    world.db.require("pool", call.text(0))?;
    for host in world.db.references("host") {
        match assert_can_join(world, &host, call.text(2), call.text(3)) {
            Ok(()) => {}
            Err(failure) if failure.code == "AUTH_ALREADY_ENABLED" => {
                return Err(Failure::new("POOL_AUTH_ALREADY_ENABLED", [host]));
            }
            Err(failure) if failure.code == "AUTH_UNKNOWN_TYPE" => return Err(failure),
            Err(failure) => {
                let code = format!("POOL_{}", failure.code);
                let params = std::iter::once(host).chain(failure.params);
                return Err(Failure::new(code, params));
            }
        }
    }
    done()
}

fn leave(world: &mut World, host: &str) -> Result<(), Failure> {
    let db = &mut world.db;
    db.set("host", host, "external_auth_type", "")?;
    db.set("host", host, "external_auth_service_name", "")?;
    let none = Value::Struct(Vec::new());
    db.set("host", host, "external_auth_configuration", none)
}

/// Leaving a directory that a host is not in is no failure.
fn disable_on_host(world: &mut World, call: &Call) -> Reply {
    leave(world, call.text(0))?;
    done()
}

fn disable(world: &mut World, call: &Call) -> Reply {
    world.db.require("pool", call.text(0))?;
    for host in world.db.references("host") {
        leave(world, &host)?;
    }
    done()
}

fn set_ldaps(world: &mut World, call: &Call) -> Reply {
    world.db.require(call.class.name, call.text(0))?;
    Err(Failure::code("AUTH_IS_DISABLED"))
}

/// All hosts are in the same directory, or in none.
fn detect(world: &mut World, call: &Call) -> Reply {
    world.db.require("pool", call.text(0))?;
    let hosts = world.db.references("host");
    let text = |host: &String, field: &str| world.db.text("host", host, field);
    for pair in hosts.windows(2) {
        for field in ["external_auth_type", "external_auth_service_name"] {
            if text(&pair[0], field)? != text(&pair[1], field)? {
                return Err(Failure::new("POOL_JOINING_EXTERNAL_AUTH_MISMATCH", [""; 0]));
            }
        }
    }
    done()
}

fn not_initialised() -> Failure {
    Failure::code("WLB_NOT_INITIALIZED")
}

/// `pool.initialize_wlb(wlb_url, ...)`: the address is looked at, and nobody answers there.
fn initialise_wlb(_: &mut World, call: &Call) -> Reply {
    let url = call.text(0);
    let is_address = url.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if !is_address {
        return Err(Failure::new("WLB_URL_INVALID", [url]));
    }
    Err(Failure::code("WLB_CONNECTION_REFUSED"))
}
