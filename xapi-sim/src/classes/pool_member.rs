//! Hosts that join a pool and leave it.

use std::sync::Arc;

use super::operation::{Mark, Operation};
use super::{Table, done, power_of};
use crate::dispatch::Handler::{Later, Now};
use crate::dispatch::Pending;
use crate::failure::{Failure, Reply};
use crate::outage;
use crate::value::Value;
use crate::world::{Call, Shared, World};

pub(crate) const TABLE: Table = &[
    ("pool.join", Now(|world, call| join(world, call, false))),
    (
        "pool.join_force",
        Now(|world, call| join(world, call, true)),
    ),
    ("pool.eject", Later(eject)),
    ("host.destroy", Later(destroy)),
    ("host.create", Now(create)),
    ("pool.hello", Now(hello)),
    ("pool.initial_auth", Now(initial_auth)),
    ("pool.rotate_secret", Now(rotate_secret)),
    ("host.notify_accept_new_pool_secret", Now(of_host)),
    ("host.notify_send_new_pool_secret", Now(of_host)),
    ("host.cleanup_pool_secret", Now(of_host)),
    ("pool.enable_binary_storage", Now(|_, _| done())),
    ("pool.disable_binary_storage", Now(|_, _| done())),
    ("pool.send_test_post", Now(send_test_post)),
    ("pool.test_archive_target", Now(|_, _| removed())),
    ("session.slave_login", Now(|_, _| Err(no_secret()))),
    ("session.slave_local_login", Now(|_, _| Err(no_secret()))),
    (
        "session.create_from_db_file",
        Now(|_, call| {
            let text = format!("{}: No such file or directory", call.text(0));
            Err(Failure::internal_failure(&text))
        }),
    ),
];

fn removed() -> Reply {
    Err(Failure::code("MESSAGE_REMOVED"))
}

/// Hosts know a secret that nobody else does.
fn no_secret() -> Failure {
    let params = ["", "Authentication failure"];
    Failure::new("SESSION_AUTHENTICATION_FAILED", params)
}

/// `pool.join(master_address, master_username, master_password)`: what can be seen from here is
/// looked at; then the other coordinator does not answer.
fn join(world: &mut World, call: &Call, force: bool) -> Reply {
    let db = &world.db;
    let pool = world.pool();
    if db.flag("pool", &pool, "ha_enabled")? {
        return Err(Failure::code("HA_IS_ENABLED"));
    }
    let own = db.text("host", &world.coordinator(), "address")?;
    if call.text(0) == own {
        return Err(Failure::code("HOST_ITS_OWN_SLAVE"));
    }
    if db.references("host").len() > 1 {
        let code = "JOINING_HOST_CANNOT_BE_MASTER_OF_OTHER_HOSTS";
        return Err(Failure::code(code));
    }
    for vm in db.references("VM") {
        if db.flag("VM", &vm, "is_control_domain")? {
            continue;
        }
        if !db
            .get("VM", &vm, "current_operations")?
            .members()
            .is_empty()
        {
            let code = "JOINING_HOST_CANNOT_HAVE_VMS_WITH_CURRENT_OPERATIONS";
            return Err(Failure::code(code));
        }
        if power_of(world, &vm)? != crate::lifecycle::Power::Halted {
            let code = "JOINING_HOST_CANNOT_HAVE_RUNNING_OR_SUSPENDED_VMS";
            return Err(Failure::code(code));
        }
    }
    for sr in db.references("SR") {
        let tools = db.flag("SR", &sr, "is_tools_sr")?;
        if db.flag("SR", &sr, "shared")? && !tools && !force {
            let code = "JOINING_HOST_CANNOT_CONTAIN_SHARED_SRS";
            return Err(Failure::code(code));
        }
    }
    for (class, code) in [
        ("Bond", "POOL_JOINING_HOST_HAS_BONDS"),
        ("tunnel", "POOL_JOINING_HOST_HAS_TUNNELS"),
        ("VLAN", "POOL_JOINING_HOST_HAS_NON_MANAGEMENT_VLANS"),
    ] {
        if !db.references(class).is_empty() {
            return Err(Failure::code(code));
        }
    }
    Err(Failure::code("JOINING_HOST_CONNECTION_FAILED"))
}

/// What keeps a host in the pool.
fn assert_can_go(world: &World, host: &str) -> Result<(), Failure> {
    let db = &world.db;
    db.require("host", host)?;
    assert_without_ha(world)?;
    if world.coordinator() == host {
        return Err(Failure::new("HOST_CANNOT_DESTROY_SELF", [host]));
    }
    Ok(())
}

fn assert_without_ha(world: &World) -> Result<(), Failure> {
    if world.db.flag("pool", &world.pool(), "ha_enabled")? {
        return Err(Failure::code("HA_IS_ENABLED"));
    }
    Ok(())
}

/// Refuses a host that is there to speak for itself.
pub(super) fn assert_dead(world: &World, host: &str) -> Result<(), Failure> {
    let metrics = world.db.text("host", host, "metrics")?;
    if world.db.flag("host_metrics", &metrics, "live")? {
        return Err(Failure::new("HOST_IS_LIVE", [host]));
    }
    Ok(())
}

/// `pool.eject(host)`: the host leaves with its local storage and whatever is on it, and is a pool of
/// its own from then on, of which this one knows nothing.
fn eject(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        let host = call.text(0);
        let begin = |world: &mut World| {
            assert_can_go(world, host)?;
            let metrics = world.db.text("host", host, "metrics")?;
            if !world.db.flag("host_metrics", &metrics, "live")? {
                return Err(Failure::new("HOST_OFFLINE", [host]));
            }
            for vm in world.db.list("host", host, "resident_VMs")? {
                let runs = power_of(world, &vm)? != crate::lifecycle::Power::Halted;
                if runs && !world.db.flag("VM", &vm, "is_control_domain")? {
                    let text = "Host is not empty: migrate or shut down its VMs first";
                    return Err(Failure::not_allowed(text));
                }
            }
            let marks = vec![Mark::new("pool", world.pool(), "eject")];
            Operation::begin_all(&shared, world, &call.task, marks)
        };
        let operation = shared.patiently(begin).await?;
        operation.work().await?;
        operation.finish(|world| remove(world, host))?;
        shared.end_life(&[host.to_owned()]);
        done()
    })
}

/// `host.destroy(self)`: the records of a host that is gone for ever.
fn destroy(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        let host = call.text(0);
        shared.with(|world| {
            assert_dead(world, host)?;
            assert_without_ha(world)?;
            for vm in world.db.list("host", host, "resident_VMs")? {
                if !world.db.flag("VM", &vm, "is_control_domain")? {
                    return Err(Failure::new("HOST_HAS_RESIDENT_VMS", [host]));
                }
            }
            remove(world, host)
        })?;
        shared.end_life(&[host.to_owned()]);
        done()
    })
}

/// Takes a host out of the pool with its cards, its storage and its control domain.
fn remove(world: &mut World, host: &str) -> Result<(), Failure> {
    let mut homeless = Vec::new();
    for pbd in world.db.list("host", host, "PBDs")? {
        let sr = world.db.text("PBD", &pbd, "SR")?;
        world.db.destroy("PBD", &pbd)?;
        if world.db.exists("SR", &sr) && world.db.list("SR", &sr, "PBDs")?.is_empty() {
            homeless.push(sr);
        }
    }
    for sr in homeless {
        for vdi in world.db.list("SR", &sr, "VDIs")? {
            // What was on it has left with the host.
            super::vdi_introduce::forget(world, &vdi)?;
        }
        world.db.destroy("SR", &sr)?;
    }
    for pif in world.db.list("host", host, "PIFs")? {
        let metrics = world.db.text("PIF", &pif, "metrics")?;
        if world.db.exists("PIF_metrics", &metrics) {
            world.db.destroy("PIF_metrics", &metrics)?;
        }
        world.db.destroy("PIF", &pif)?;
    }
    world.cards.retain(|card| card.host != host);
    for vm in world.db.list("host", host, "resident_VMs")? {
        super::vm::remove(world, &vm)?;
    }
    for (class, field) in [("host_cpu", "host"), ("Certificate", "host")] {
        for part in world.db.references(class) {
            if world.db.text(class, &part, field)? == host {
                world.db.destroy(class, &part)?;
            }
        }
    }
    let metrics = world.db.text("host", host, "metrics")?;
    if world.db.exists("host_metrics", &metrics) {
        world.db.destroy("host_metrics", &metrics)?;
    }
    world.down.remove(host);
    world.db.destroy("host", host)
}

/// What a host that joins makes of itself: no client has the session for it to mean anything.
fn create(world: &mut World, call: &Call) -> Reply {
    let uuid = call.text(0);
    if world.db.by_uuid("host", uuid).is_some() {
        let params = ["host", "uuid", uuid];
        return Err(Failure::new("DB_UNIQUENESS_CONSTRAINT_VIOLATION", params));
    }
    let metrics = world.create("host_metrics", Vec::new())?;
    let params = call.message.params.iter().zip(&call.args);
    let mut values: Vec<(&str, Value)> = params
        .map(|(param, value)| (param.name, value.clone()))
        .collect();
    values.push(("metrics", Value::String(metrics)));
    let host = world.create("host", values)?;
    super::host::refresh(world, &host)?;
    Ok(Value::String(host))
}

/// `pool.hello(host_uuid, host_address)`: a member says that it is there.
fn hello(world: &mut World, call: &Call) -> Reply {
    let known = world.db.by_uuid("host", call.text(0));
    Ok(Value::from(match known {
        None => "unknown_host",
        Some(host) if world.down.contains_key(&host) => "cannot_talk_back",
        Some(_) => "ok",
    }))
}

/// The secret of the pool, for those who join it: it is one of a pool that nobody can join.
fn initial_auth(world: &mut World, _: &Call) -> Reply {
    Ok(world.seed.uuid_value())
}

fn rotate_secret(world: &mut World, _: &Call) -> Reply {
    if world.db.flag("pool", &world.pool(), "ha_enabled")? {
        return Err(Failure::code("HA_IS_ENABLED"));
    }
    for host in world.db.references("host") {
        outage::assert_up(world, &host)?;
    }
    done()
}

/// A step of another secret's way into the pool, of which nothing can be seen: nobody knows a secret.
fn of_host(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    done()
}

/// Nobody can be reached from here.
fn send_test_post(_: &mut World, call: &Call) -> Reply {
    let (host, port) = (call.text(0), call.int(1).to_string());
    Err(Failure::new("TLS_CONNECTION_FAILED", [host, &port]))
}
