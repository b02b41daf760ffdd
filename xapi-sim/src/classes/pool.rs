//! The pool.

use super::{Table, done, plain};
use crate::db::Release;
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::value::Value;
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("pool.is_slave", Now(is_slave)),
    ("pool.sync_database", Now(|_, _| done())),
    ("pool.has_extension", Now(|_, _| Ok(Value::Bool(false)))),
    ("pool.add_to_guest_agent_config", Now(plain)),
    ("pool.remove_from_guest_agent_config", Now(plain)),
    ("pool.set_igmp_snooping_enabled", Now(plain)),
    ("pool.get_license_state", Now(get_license_state)),
    ("pool.reset_telemetry_uuid", Now(reset_telemetry_uuid)),
    ("pool.set_https_only", Now(set_on_hosts)),
    ("pool.set_console_idle_timeout", Now(set_on_hosts)),
    ("pool.set_ssh_auto_mode", Now(set_on_hosts)),
];

/// The operations in the order in which a real server lists them, each with what it answers while
/// it is under way.
const OPERATIONS: [(&str, &str); 16] = [
    ("ha_enable", "HA_ENABLE_IN_PROGRESS"),
    ("ha_disable", "HA_DISABLE_IN_PROGRESS"),
    ("cluster_create", "CLUSTER_CREATE_IN_PROGRESS"),
    ("designate_new_master", "DESIGNATE_NEW_MASTER_IN_PROGRESS"),
    (
        "tls_verification_enable",
        "TLS_VERIFICATION_ENABLE_IN_PROGRESS",
    ),
    (
        "configure_repositories",
        "CONFIGURE_REPOSITORIES_IN_PROGRESS",
    ),
    ("sync_updates", "SYNC_UPDATES_IN_PROGRESS"),
    ("sync_bundle", "SYNC_BUNDLE_IN_PROGRESS"),
    ("apply_updates", "APPLY_UPDATES_IN_PROGRESS"),
    ("cert_refresh", "CERT_REFRESH_IN_PROGRESS"),
    ("exchange_certificates_on_join", ""),
    ("exchange_ca_certificates_on_join", ""),
    ("copy_primary_host_certs", ""),
    ("eject", ""),
    ("get_updates", "GET_UPDATES_IN_PROGRESS"),
    ("exchange_crls_on_join", ""),
];

/// Refuses an operation with the first failure that a real server would find: of what concerns the
/// whole pool, one thing at a time.
pub(crate) fn check(world: &World, pool: &str, operation: &str) -> Result<(), Failure> {
    let db = &world.db;
    for (_, other) in db.get("pool", pool, "current_operations")?.members() {
        let other = other.as_str().unwrap_or_default();
        let busy = OPERATIONS.iter().find(|(known, _)| *known == other);
        if let Some((_, code)) = busy.filter(|(_, code)| !code.is_empty()) {
            return Err(Failure::code(*code));
        }
    }
    let ha = db.flag("pool", pool, "ha_enabled")?;
    match operation {
        "ha_enable" if ha => Err(Failure::code("HA_IS_ENABLED")),
        "ha_disable" if !ha => Err(Failure::code("HA_NOT_ENABLED")),
        "cluster_create" if !db.references("Cluster").is_empty() => {
            Err(Failure::code("CLUSTER_ALREADY_EXISTS"))
        }
        "cluster_create" if ha => {
            let stack = db.text("pool", pool, "ha_cluster_stack")?;
            Err(Failure::new("INCOMPATIBLE_CLUSTER_STACK_ACTIVE", [stack]))
        }
        _ => Ok(()),
    }
}

/// Brings the allowed operations up to date.
pub(crate) fn refresh(world: &mut World, pool: &str) -> Result<(), Failure> {
    // What a release knows, it lists.
    let release = world.db.release();
    let known = |operation: &&str| match release {
        Release::Xcpng82 => OF_82.contains(operation),
        Release::Xcpng83 => *operation != "exchange_crls_on_join",
        Release::Newest => true,
    };
    let operations = OPERATIONS.iter().map(|(operation, _)| *operation);
    let allowed: Vec<&str> = operations
        .filter(known)
        .filter(|operation| check(world, pool, operation).is_ok())
        .collect();
    let allowed = Value::strings(allowed);
    world.db.set("pool", pool, "allowed_operations", allowed)
}

/// What a pool of XCP-ng 8.2 knows.
const OF_82: [&str; 4] = [
    "ha_enable",
    "ha_disable",
    "cluster_create",
    "designate_new_master",
];

/// Asked of a host, so the answer is about the one that answers: the coordinator.
fn is_slave(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    Ok(Value::Bool(call.text(0) != world.coordinator()))
}

fn get_license_state(world: &mut World, call: &Call) -> Reply {
    world.db.require("pool", call.text(0))?;
    Ok(Value::map([("expiry", "never"), ("edition", "xcp-ng")]))
}

/// Draws another identity; the old one is gone.
fn reset_telemetry_uuid(world: &mut World, call: &Call) -> Reply {
    let old = world.db.text("pool", call.text(0), "telemetry_uuid")?;
    let identity = world.seed.uuid_value();
    let secret = world.create("secret", vec![("value", identity)])?;
    world
        .db
        .set("pool", call.text(0), "telemetry_uuid", secret)?;
    if world.db.exists("secret", &old) {
        world.db.destroy("secret", &old)?;
    }
    done()
}

/// A setter whose field is not the pool's but that of all its hosts.
fn set_on_hosts(world: &mut World, call: &Call) -> Reply {
    world.db.require("pool", call.text(0))?;
    let name = call.message.name;
    let field = name.strip_prefix("set_").unwrap_or(name);
    for host in world.db.references("host") {
        world.db.set("host", &host, field, call.arg(1))?;
    }
    done()
}
