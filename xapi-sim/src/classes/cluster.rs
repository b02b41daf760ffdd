//! Clusters of hosts for shared file systems. Their software is no part of XCP-ng, so that no
//! cluster can be made and there is none to do anything with.

use super::{Table, pool};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::value::Value;
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("Cluster.create", Now(create)),
    ("Cluster.pool_create", Now(pool_create)),
    ("Cluster.destroy", Now(of_none)),
    ("Cluster.get_network", Now(of_none)),
    ("Cluster.pool_force_destroy", Now(of_none)),
    ("Cluster.pool_destroy", Now(of_none)),
    ("Cluster.pool_resync", Now(of_none)),
    ("Cluster_host.create", Now(create_host)),
    ("Cluster_host.destroy", Now(of_none)),
    ("Cluster_host.enable", Now(of_none)),
    ("Cluster_host.force_destroy", Now(of_none)),
    ("Cluster_host.forget", Now(of_none)),
    ("Cluster_host.disable", Now(of_none)),
];

/// The stack that the software of clusters is called by.
const STACK: &str = "corosync";

/// What every way to make a cluster looks at.
fn check(world: &World, stack: &str, timeout: &Value, coefficient: &Value) -> Result<(), Failure> {
    pool::check(world, &world.pool(), "cluster_create")?;
    if stack != STACK {
        return Err(Failure::new("INVALID_CLUSTER_STACK", [stack]));
    }
    for (name, value, least) in [
        ("token_timeout", timeout, 1.0),
        ("token_timeout_coefficient", coefficient, 0.65),
    ] {
        if let Value::Float(number) = value
            && *number < least
        {
            let number = number.to_string();
            return Err(Failure::invalid_value(name, &number));
        }
    }
    Ok(())
}

/// The daemon that forms clusters does not answer.
fn no_daemon() -> Failure {
    Failure::internal_failure("xapi-clusterd is not installed on this host")
}

/// `Cluster.create(PIF, cluster_stack, pool_auto_join, token_timeout, token_timeout_coefficient)`.
fn create(world: &mut World, call: &Call) -> Reply {
    let pif = call.text(0);
    world.db.require("PIF", pif)?;
    check(world, call.text(1), &call.arg(3), &call.arg(4))?;
    assert_usable(world, pif)?;
    Err(no_daemon())
}

/// `Cluster.pool_create(network, cluster_stack, token_timeout, token_timeout_coefficient)`.
fn pool_create(world: &mut World, call: &Call) -> Reply {
    let network = call.text(0);
    world.db.require("network", network)?;
    check(world, call.text(1), &call.arg(2), &call.arg(3))?;
    for host in world.db.references("host") {
        let db = &world.db;
        let pifs = db.list("network", network, "PIFs")?;
        let here = |pif: &&String| db.text("PIF", pif, "host").is_ok_and(|at| at == host);
        let Some(pif) = pifs.iter().find(here) else {
            return Err(Failure::new("PIF_NOT_PRESENT", [host.as_str(), network]));
        };
        assert_usable(world, pif)?;
    }
    Err(no_daemon())
}

/// The network of a cluster may not go down under it.
fn assert_usable(world: &World, pif: &str) -> Result<(), Failure> {
    if !world.db.flag("PIF", pif, "disallow_unplug")? {
        return Err(Failure::new("PIF_ALLOWS_UNPLUG", [pif]));
    }
    if !world.db.flag("PIF", pif, "currently_attached")? {
        return Err(Failure::new("REQUIRED_PIF_IS_UNPLUGGED", [pif]));
    }
    if world.db.text("PIF", pif, "IP")?.is_empty() {
        return Err(Failure::new("INTERFACE_HAS_NO_IP", [pif]));
    }
    Ok(())
}

fn create_host(world: &mut World, call: &Call) -> Reply {
    world.db.require("Cluster", call.text(0))?;
    Err(no_daemon())
}

fn of_none(world: &mut World, call: &Call) -> Reply {
    world.db.require(call.class.name, call.text(0))?;
    Err(no_daemon())
}
