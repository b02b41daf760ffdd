//! What hosts are asked beside their part in the pool: logs, clocks, SSH, licences, statistics of
//! the server itself.

use super::{Table, done, nothing, plain};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::value::{EPOCH, NULL_REF, Value};
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("host.dmesg", Now(kernel_log)),
    ("host.dmesg_clear", Now(kernel_log)),
    ("host.get_log", Now(get_log)),
    ("host.send_debug_keys", Now(nothing)),
    ("host.bugreport_upload", Now(upload)),
    ("host_crashdump.upload", Now(upload)),
    ("host_crashdump.destroy", Now(destroy)),
    ("crashdump.destroy", Now(destroy)),
    (
        "host.list_methods",
        Now(|_, _| not_implemented("list_methods")),
    ),
    ("host.get_system_status_capabilities", Now(capabilities)),
    ("host.get_diagnostic_timing_stats", Now(timing_stats)),
    ("host.get_sm_diagnostics", Now(diagnostics)),
    ("host.get_thread_diagnostics", Now(diagnostics)),
    ("host.sm_dp_destroy", Now(nothing)),
    ("host.prepare_for_poweroff", Now(nothing)),
    ("host.reset_networking", Now(nothing)),
    ("host.refresh_pack_info", Now(nothing)),
    ("host.rescan_drivers", Now(nothing)),
    (
        "host.emergency_clear_mandatory_guidance",
        Now(|_, _| done()),
    ),
    (
        "host.license_add",
        Now(|_, _| Err(Failure::code("LICENSE_FILE_DEPRECATED"))),
    ),
    ("host.license_remove", Now(nothing)),
    ("host.apply_edition", Now(apply_edition)),
    ("pool.apply_edition", Now(apply_edition)),
    ("host.enable_local_storage_caching", Now(enable_caching)),
    ("host.disable_local_storage_caching", Now(disable_caching)),
    (
        "pool.enable_local_storage_caching",
        Now(enable_caching_everywhere),
    ),
    (
        "pool.disable_local_storage_caching",
        Now(disable_caching_everywhere),
    ),
    ("host.set_ssl_legacy", Now(set_ssl_legacy)),
    ("pool.disable_ssl_legacy", Now(|_, _| done())),
    (
        "host.enable_ssh",
        Now(|world, call| set_ssh(world, call, true)),
    ),
    (
        "host.disable_ssh",
        Now(|world, call| set_ssh(world, call, false)),
    ),
    (
        "pool.enable_ssh",
        Now(|world, call| set_ssh(world, call, true)),
    ),
    (
        "pool.disable_ssh",
        Now(|world, call| set_ssh(world, call, false)),
    ),
    ("host.set_ssh_enabled_timeout", Now(set_ssh_timeout)),
    ("pool.set_ssh_enabled_timeout", Now(set_ssh_timeout)),
    ("host.get_ntp_servers_status", Now(ntp_status)),
    ("host.get_ntp_synchronized", Now(ntp_synchronised)),
    ("host.list_timezones", Now(timezones)),
    ("host.set_timezone", Now(set_timezone)),
    ("host.set_servertime", Now(set_servertime)),
    ("host.get_tracked_user_agents", Now(user_agents)),
    ("host.set_sched_gran", Now(set_granularity)),
    ("host.get_sched_gran", Now(granularity)),
    ("host.set_uefi_certificates", Now(plain)),
    ("pool.set_uefi_certificates", Now(plain)),
    ("host.allocate_resources_for_vm", Now(allocate)),
    ("Host_driver.select", Now(of_no_driver)),
    ("Host_driver.deselect", Now(of_no_driver)),
    ("Driver_variant.select", Now(of_no_driver)),
    (
        "Host_driver.rescan",
        Now(|world, call| {
            world.db.require("host", call.text(0))?;
            done()
        }),
    ),
    ("Diagnostics.gc_compact", Now(diagnose)),
    ("Diagnostics.gc_stats", Now(memory_stats)),
    ("Diagnostics.db_stats", Now(database_stats)),
    ("Diagnostics.network_stats", Now(diagnose_list)),
];

fn not_implemented(function: &str) -> Reply {
    Err(Failure::new("NOT_IMPLEMENTED", [function]))
}

fn destroy(world: &mut World, call: &Call) -> Reply {
    world.db.destroy(call.class.name, call.text(0))?;
    done()
}

fn kernel_log(world: &mut World, call: &Call) -> Reply {
    let build = world
        .db
        .key("host", call.text(0), "software_version", "xen")?;
    Ok(Value::String(format!(
        "(XEN) Xen version {}\n",
        build.unwrap_or_default()
    )))
}

/// The log, compressed by whoever reads it: there is nothing in it.
fn get_log(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    Ok(Value::void())
}

/// Nobody can be reached from here.
fn upload(world: &mut World, call: &Call) -> Reply {
    world.db.require(call.class.name, call.text(0))?;
    let text = format!("Upload to {} failed", call.text(1));
    Err(Failure::internal_failure(&text))
}

fn capabilities(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    let text = "<system-status-capabilities><capability content-type=\"text/plain\" \
                default-checked=\"yes\" key=\"xenserver-logs\" max-size=\"425984000\" \
                max-time=\"-1\" min-size=\"16384\" min-time=\"-1\" pii=\"maybe\"/>\
                </system-status-capabilities>";
    Ok(Value::from(text))
}

fn timing_stats(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    Ok(Value::Struct(Vec::new()))
}

fn diagnostics(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    Ok(Value::void())
}

/// There is one edition, for which nobody pays.
fn apply_edition(world: &mut World, call: &Call) -> Reply {
    world.db.require(call.class.name, call.text(0))?;
    let edition = call.text(1);
    if edition != "xcp-ng" {
        return Err(Failure::new("INVALID_EDITION", [edition]));
    }
    done()
}

/// `host.enable_local_storage_caching(host, sr)`: the SR has to be the host's own, of a kind that
/// can be a cache, and attached to it alone.
fn enable_caching(world: &mut World, call: &Call) -> Reply {
    cache_on(world, call.text(0), call.text(1))?;
    done()
}

fn cache_on(world: &mut World, host: &str, sr: &str) -> Result<(), Failure> {
    world.db.require("host", host)?;
    let pbds = world.db.list("SR", sr, "PBDs")?;
    if world.db.flag("SR", sr, "shared")? || pbds.len() != 1 {
        return Err(Failure::new("SR_OPERATION_NOT_SUPPORTED", [sr]));
    }
    let here = world.db.text("PBD", &pbds[0], "host")? == host;
    if !here {
        return Err(Failure::new("HOST_CANNOT_SEE_SR", [host, sr]));
    }
    if world.db.text("SR", sr, "type")? != "ext" {
        return Err(Failure::new("SR_OPERATION_NOT_SUPPORTED", [sr]));
    }
    world.db.set("SR", sr, "local_cache_enabled", true)?;
    world.db.set("host", host, "local_cache_sr", sr)
}

fn disable_caching(world: &mut World, call: &Call) -> Reply {
    cache_off(world, call.text(0))?;
    done()
}

fn cache_off(world: &mut World, host: &str) -> Result<(), Failure> {
    let sr = world.db.text("host", host, "local_cache_sr")?;
    if world.db.exists("SR", &sr) {
        world.db.set("SR", &sr, "local_cache_enabled", false)?;
    }
    world.db.set("host", host, "local_cache_sr", NULL_REF)
}

fn enable_caching_everywhere(world: &mut World, call: &Call) -> Reply {
    world.db.require("pool", call.text(0))?;
    let mut without = Vec::new();
    for host in world.db.references("host") {
        let mut cached = false;
        for pbd in world.db.list("host", &host, "PBDs")? {
            let sr = world.db.text("PBD", &pbd, "SR")?;
            cached = cached || cache_on(world, &host, &sr).is_ok();
        }
        if !cached {
            without.push(host);
        }
    }
    if without.is_empty() {
        return done();
    }
    Err(Failure::new("HOSTS_FAILED_TO_ENABLE_CACHING", without))
}

fn disable_caching_everywhere(world: &mut World, call: &Call) -> Reply {
    world.db.require("pool", call.text(0))?;
    for host in world.db.references("host") {
        cache_off(world, &host)?;
    }
    done()
}

/// TLS of the old kind can only be switched off, which it is.
fn set_ssl_legacy(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    if call.flag(1) {
        let params = ["ssl_legacy", "true", "Legacy SSL support has been removed"];
        return Err(Failure::new("VALUE_NOT_SUPPORTED", params));
    }
    done()
}

/// The hosts that a call to one, or to the pool, is about.
fn hosts_of(world: &World, call: &Call) -> Result<Vec<String>, Failure> {
    world.db.require(call.class.name, call.text(0))?;
    Ok(match call.class.name {
        "pool" => world.db.references("host"),
        _ => vec![call.text(0).to_owned()],
    })
}

fn set_ssh(world: &mut World, call: &Call, enabled: bool) -> Reply {
    for host in hosts_of(world, call)? {
        world.db.set("host", &host, "ssh_enabled", enabled)?;
        let timeout = world.db.int("host", &host, "ssh_enabled_timeout")?;
        let expiry = expiry(world, enabled, timeout);
        world.db.set("host", &host, "ssh_expiry", expiry)?;
    }
    done()
}

/// When SSH is switched off again.
fn expiry(world: &World, enabled: bool, timeout: i64) -> Value {
    Value::DateTime(if enabled && timeout > 0 {
        let end = world.clock.seconds().saturating_add_signed(timeout);
        crate::clock::stamp(end)
    } else {
        EPOCH.to_owned()
    })
}

fn set_ssh_timeout(world: &mut World, call: &Call) -> Reply {
    const MOST: i64 = 172_800;
    let timeout = call.int(1);
    let hosts = hosts_of(world, call)?;
    if !(0..=MOST).contains(&timeout) {
        return Err(Failure::invalid_value(
            "ssh_enabled_timeout",
            &timeout.to_string(),
        ));
    }
    for host in hosts {
        world
            .db
            .set("host", &host, "ssh_enabled_timeout", timeout)?;
        let enabled = world.db.flag("host", &host, "ssh_enabled")?;
        let expiry = expiry(world, enabled, timeout);
        world.db.set("host", &host, "ssh_expiry", expiry)?;
    }
    done()
}

fn ntp_status(world: &mut World, call: &Call) -> Reply {
    let servers = world.db.list("host", call.text(0), "ntp_custom_servers")?;
    Ok(Value::map(
        servers.into_iter().map(|server| (server, "selected")),
    ))
}

/// A host whose clock is wrong is not synchronised.
fn ntp_synchronised(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    Ok(Value::Bool(world.skew(call.text(0)) == 0))
}

/// The time zones of the IANA database that name a place, one a line.
const ZONES: &str = include_str!("timezones.txt");

fn timezones(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    Ok(Value::strings(ZONES.lines()))
}

/// `host.set_timezone(self, value)`
fn set_timezone(world: &mut World, call: &Call) -> Reply {
    let (host, zone) = (call.text(0), call.text(1));
    world.db.require("host", host)?;
    if !ZONES.lines().any(|known| known == zone) {
        return Err(Failure::new("INVALID_VALUE", ["timezone", zone]));
    }
    world.db.set("host", host, "timezone", zone)?;
    done()
}

/// `host.set_servertime(self, value)`: only where no time server does it.
fn set_servertime(world: &mut World, call: &Call) -> Reply {
    let host = call.text(0);
    if world.db.text("host", host, "ntp_mode")? != "Disabled" {
        return Err(Failure::new("NOT_ALLOWED_WHEN_NTP_IS_ENABLED", [host]));
    }
    let value = call.arg(1);
    let wanted = value.as_str().and_then(crate::clock::seconds_of);
    let now = i64::try_from(world.clock.seconds()).unwrap_or_default();
    if let Some(wanted) = wanted {
        world.skews.insert(host.to_owned(), wanted - now);
    }
    done()
}

fn user_agents(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    Ok(Value::Struct(Vec::new()))
}

fn set_granularity(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    world
        .granularity
        .insert(call.text(0).to_owned(), call.text(1).to_owned());
    done()
}

fn granularity(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    let set = world.granularity.get(call.text(0));
    Ok(Value::from(set.map_or("cpu", String::as_str)))
}

/// `host.allocate_resources_for_vm(self, vm, live)`: of what hosts of a model have, none needs it.
fn allocate(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    world.db.require("VM", call.text(1))?;
    done()
}

fn of_no_driver(world: &mut World, call: &Call) -> Reply {
    world.db.require(call.class.name, call.text(0))?;
    done()
}

fn diagnose(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    done()
}

fn diagnose_list(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    Ok(Value::Array(Vec::new()))
}

fn memory_stats(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    Ok(Value::map([
        ("minor_words", "0"),
        ("promoted_words", "0"),
        ("major_words", "0"),
        ("minor_collections", "0"),
        ("major_collections", "0"),
        ("compactions", "0"),
    ]))
}

/// How many rows each table has.
fn database_stats(world: &mut World, _: &Call) -> Reply {
    let tables = world.db.tables();
    Ok(Value::map(tables.map(|table| {
        (table.class.name, table.rows.len().to_string())
    })))
}
