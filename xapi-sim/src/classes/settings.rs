//! Messages that only write down what they are told, and small objects that hang on others.

use super::{Table, check, done, nothing, plain, sr};
use crate::clock;
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::interp;
use crate::plugin;
use crate::value::{EPOCH, Value};
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("host.set_iscsi_iqn", Now(set_iscsi_iqn)),
    ("host.set_multipathing", Now(set_multipathing)),
    ("host.set_other_config", Now(change_other_config)),
    ("host.add_to_other_config", Now(change_other_config)),
    ("host.remove_from_other_config", Now(change_other_config)),
    ("host.set_https_only", Now(plain)),
    ("host.set_numa_affinity_policy", Now(plain)),
    ("host.set_console_idle_timeout", Now(plain)),
    ("host.set_ssh_auto_mode", Now(plain)),
    ("host.set_max_cstate", Now(plain)),
    ("host.set_ntp_mode", Now(plain)),
    ("host.set_ntp_custom_servers", Now(plain)),
    ("host.set_power_on_mode", Now(set_power_on_mode)),
    ("host.set_hostname_live", Now(set_hostname_live)),
    (
        "host.enable_display",
        Now(|world, call| set_display(world, call, "disabled", "enabled", "enable_on_reboot")),
    ),
    (
        "host.disable_display",
        Now(|world, call| set_display(world, call, "enabled", "disabled", "disable_on_reboot")),
    ),
    ("host.apply_guest_agent_config", Now(nothing)),
    ("host.backup_rrds", Now(nothing)),
    ("host.sync_data", Now(nothing)),
    ("host.syslog_reconfigure", Now(nothing)),
    ("host.create_new_blob", Now(create_new_blob)),
    (
        "pool.set_telemetry_next_collection",
        Now(set_telemetry_next_collection),
    ),
    ("pool.set_update_sync_enabled", Now(plain)),
    ("pool.set_local_auth_max_threads", Now(plain)),
    ("pool.set_ext_auth_max_threads", Now(plain)),
    ("pool.set_ext_auth_cache_enabled", Now(plain)),
    ("pool.set_ext_auth_cache_size", Now(plain)),
    ("pool.set_ext_auth_cache_expiry", Now(plain)),
    ("pool.set_custom_uefi_certificates", Now(plain)),
    ("pool.configure_update_sync", Now(configure_update_sync)),
    ("pool.certificate_sync", Now(|_, _| done())),
    ("pool.create_new_blob", Now(create_new_blob)),
    (
        "pool.retrieve_wlb_configuration",
        Now(|_, _| Err(Failure::code("WLB_NOT_INITIALIZED"))),
    ),
    (
        "pool.send_wlb_configuration",
        Now(|_, _| Err(Failure::code("WLB_NOT_INITIALIZED"))),
    ),
    (
        "pool.retrieve_wlb_recommendations",
        Now(|_, _| Err(Failure::code("WLB_NOT_INITIALIZED"))),
    ),
    ("network.create_new_blob", Now(create_new_blob)),
    ("SR.create_new_blob", Now(create_new_blob)),
    ("SR.set_physical_size", Now(sr::of_driver)),
    ("SR.set_physical_utilisation", Now(sr::of_driver)),
    ("SR.set_virtual_allocation", Now(sr::of_driver)),
    ("VDI.set_physical_utilisation", Now(sr::of_driver)),
    ("VDI.set_virtual_size", Now(sr::of_driver)),
    ("VDI.set_metadata_of_pool", Now(sr::of_driver)),
    ("VDI.set_cbt_enabled", Now(sr::of_driver)),
    ("VDI.get_nbd_info", Now(get_nbd_info)),
    ("PBD.set_device_config", Now(set_device_config)),
    ("VM.set_snapshot_schedule", Now(plain)),
    ("VM.set_groups", Now(set_groups)),
    ("VM.copy_bios_strings", Now(copy_bios_strings)),
    ("VM.call_host_plugin", Now(call_host_plugin)),
    ("VM.create_new_blob", Now(create_new_blob)),
    ("VTPM.create", Now(create_vtpm)),
    ("VTPM.destroy", Now(destroy_vtpm)),
    ("blob.create", Now(create_blob)),
    ("blob.destroy", Now(destroy_blob)),
    ("secret.introduce", Now(introduce_secret)),
];

fn set_device_config(world: &mut World, call: &Call) -> Reply {
    super::sr_create::assert_no_coordinator(&call.arg(1))?;
    sr::of_driver(world, call)
}

fn set_power_on_mode(world: &mut World, call: &Call) -> Reply {
    let (db, host) = (&mut world.db, call.text(0));
    db.set("host", host, "power_on_mode", call.arg(1))?;
    db.set("host", host, "power_on_config", call.arg(2))?;
    done()
}

/// Sets what a host keeps in a field of its own and, for older clients, among its other settings.
fn set_twice(world: &mut World, host: &str, key: &'static str, value: Value) -> Reply {
    let text = match &value {
        Value::Bool(flag) => flag.to_string(),
        other => other.as_str().unwrap_or_default().to_owned(),
    };
    let db = &mut world.db;
    db.set("host", host, key, value)?;
    let other_config = db.get("host", host, "other_config")?.members().iter();
    let rest = other_config.filter(|(known, _)| known != key).cloned();
    let all = std::iter::once((key.to_owned(), Value::String(text))).chain(rest);
    let all = Value::Struct(all.collect());
    db.set("host", host, "other_config", all)?;
    done()
}

fn set_iscsi_iqn(world: &mut World, call: &Call) -> Reply {
    if call.text(1).is_empty() {
        return Err(Failure::invalid_value("value", ""));
    }
    set_twice(world, call.text(0), "iscsi_iqn", call.arg(1))
}

fn set_multipathing(world: &mut World, call: &Call) -> Reply {
    set_twice(world, call.text(0), "multipathing", call.arg(1))
}

/// Changes the other settings of a host; those that have fields of their own set these, too.
fn change_other_config(world: &mut World, call: &Call) -> Reply {
    let host = call.text(0);
    let reply = interp::answer(&mut world.db, call.class, call.message, &call.args);
    reply.unwrap_or_else(done)?;
    if let Some(iqn) = world.db.key("host", host, "other_config", "iscsi_iqn")? {
        world.db.set("host", host, "iscsi_iqn", iqn)?;
    }
    if let Some(text) = world.db.key("host", host, "other_config", "multipathing")? {
        world.db.set("host", host, "multipathing", text == "true")?;
    }
    done()
}

/// The next collection is at most two intervals away.
fn set_telemetry_next_collection(world: &mut World, call: &Call) -> Reply {
    const DAY: u64 = 24 * 3600;
    let days = match world
        .db
        .text("pool", call.text(0), "telemetry_frequency")?
        .as_str()
    {
        "daily" => 2,
        "weekly" => 14,
        _ => 62,
    };
    let latest = world.clock.seconds() + days * DAY;
    let wanted = clock::seconds_of(call.text(1)).and_then(|at| u64::try_from(at).ok());
    if wanted.is_some_and(|wanted| wanted > latest) {
        let code = "TELEMETRY_NEXT_COLLECTION_TOO_LATE";
        return Err(Failure::new(code, [clock::stamp(latest)]));
    }
    plain(world, call)
}

fn set_groups(world: &mut World, call: &Call) -> Reply {
    if call.arg(1).items().len() > 1 {
        return Err(Failure::code("TOO_MANY_GROUPS"));
    }
    plain(world, call)
}

fn set_hostname_live(world: &mut World, call: &Call) -> Reply {
    let (host, name) = (call.text(0), call.text(1));
    world.db.require("host", host)?;
    if name.is_empty() {
        let text = "hostname empty";
        return Err(Failure::new("HOST_NAME_INVALID", [text]));
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    if !name.chars().all(fits) {
        let text = "hostname contains invalid characters";
        return Err(Failure::new("HOST_NAME_INVALID", [text]));
    }
    world.db.set("host", host, "hostname", name)?;
    done()
}

/// Changes what a host shows on its own screen, which takes a reboot, or takes that back.
fn set_display(
    world: &mut World,
    call: &Call,
    other: &str,
    wanted: &str,
    on_reboot: &str,
) -> Reply {
    let now = world.db.text("host", call.text(0), "display")?;
    let ends_so = now == wanted || now == on_reboot;
    let next = if ends_so {
        now.as_str()
    } else if now == other {
        on_reboot
    } else {
        wanted
    };
    world.db.set("host", call.text(0), "display", next)?;
    Ok(Value::from(next))
}

fn configure_update_sync(world: &mut World, call: &Call) -> Reply {
    let (frequency, day) = (call.text(1), call.int(2));
    // Every day is one day of the week too many, and there are seven.
    let fits = match frequency {
        "daily" => day == 0,
        _ => (0..=6).contains(&day),
    };
    if !fits {
        return Err(Failure::new("INVALID_UPDATE_SYNC_DAY", [day.to_string()]));
    }
    let (db, pool) = (&mut world.db, call.text(0));
    db.set("pool", pool, "update_sync_frequency", frequency)?;
    db.set("pool", pool, "update_sync_day", day)?;
    done()
}

/// No network is for NBD, so nobody can be told where to connect.
fn get_nbd_info(world: &mut World, call: &Call) -> Reply {
    world.db.require("VDI", call.text(0))?;
    Ok(Value::Array(Vec::new()))
}

fn copy_bios_strings(world: &mut World, call: &Call) -> Reply {
    let (vm, host) = (call.text(0), call.text(1));
    let db = &mut world.db;
    let strings = db.get("host", host, "bios_strings")?.clone();
    if !db.get("VM", vm, "bios_strings")?.members().is_empty() {
        return Err(Failure::code("VM_BIOS_STRINGS_ALREADY_SET"));
    }
    db.set("VM", vm, "bios_strings", strings)?;
    done()
}

/// `VM.call_host_plugin(vm, plugin, fn, args)`: of the host on which the VM runs.
fn call_host_plugin(world: &mut World, call: &Call) -> Reply {
    let host = world.db.text("VM", call.text(0), "resident_on")?;
    let args = call.arg(3);
    let asked = (call.text(1), call.text(2), &args);
    plugin::call(&world.plugins, &world.db, &host, asked)
}

fn new_blob(world: &mut World, mime_type: &str, public: bool) -> Reply {
    let mime_type = if mime_type.is_empty() {
        "application/octet-stream"
    } else {
        mime_type
    };
    let values = vec![
        ("mime_type", Value::from(mime_type)),
        ("public", Value::Bool(public)),
        ("last_updated", Value::DateTime(EPOCH.to_owned())),
    ];
    world.create("blob", values).map(Value::String)
}

fn create_blob(world: &mut World, call: &Call) -> Reply {
    new_blob(world, call.text(0), call.flag(1))
}

fn destroy_blob(world: &mut World, call: &Call) -> Reply {
    let blob = call.text(0);
    world.db.destroy("blob", blob)?;
    world.blobs.remove(blob);
    // Only VMs are looked at, whatever else it hangs on.
    for vm in world.db.references("VM") {
        let blobs = world.db.get("VM", &vm, "blobs")?.members();
        if blobs.iter().any(|(_, hung)| hung.as_str() == Some(blob)) {
            let mut rest = blobs.to_vec();
            rest.retain(|(_, hung)| hung.as_str() != Some(blob));
            world.db.set("VM", &vm, "blobs", Value::Struct(rest))?;
        }
    }
    done()
}

/// `X.create_new_blob(x, name, mime_type, public)`: a blob under a name of the object's own.
fn create_new_blob(world: &mut World, call: &Call) -> Reply {
    let (class, owner, name) = (call.class.name, call.text(0), call.text(1));
    let mut blobs = world.db.get(class, owner, "blobs")?.members().to_vec();
    if blobs.iter().any(|(known, _)| known == name) {
        let params = [class, "blobs", owner, name];
        return Err(Failure::new("MAP_DUPLICATE_KEY", params));
    }
    let blob = new_blob(world, call.text(2), call.flag(3))?;
    blobs.insert(0, (name.to_owned(), blob.clone()));
    world.db.set(class, owner, "blobs", Value::Struct(blobs))?;
    Ok(blob)
}

fn introduce_secret(world: &mut World, call: &Call) -> Reply {
    let values = vec![
        ("uuid", call.arg(0)),
        ("value", call.arg(1)),
        ("other_config", call.arg(2)),
    ];
    world.create("secret", values).map(Value::String)
}

fn create_vtpm(world: &mut World, call: &Call) -> Reply {
    let vm = call.text(0);
    check(world, vm, "create_vtpm")?;
    let values = vec![
        ("VM", Value::from(vm)),
        ("backend", Value::null_ref()),
        ("is_unique", call.arg(1)),
        ("persistence_backend", Value::from("xapi")),
    ];
    let vtpm = world.create("VTPM", values)?;
    super::refresh(world, vm);
    Ok(Value::String(vtpm))
}

fn destroy_vtpm(world: &mut World, call: &Call) -> Reply {
    let vm = world.db.text("VTPM", call.text(0), "VM")?;
    let power = super::power_of(world, &vm)?;
    if power != crate::lifecycle::Power::Halted {
        let halted = [crate::lifecycle::Power::Halted];
        return Err(crate::lifecycle::bad_power_state(&vm, &halted, power));
    }
    world.db.destroy("VTPM", call.text(0))?;
    super::refresh(world, &vm);
    done()
}

#[cfg(test)]
mod tests {
    use xapi_client::meta;

    #[test]
    fn what_is_written_down_has_a_field() {
        for (name, _) in super::TABLE {
            let (class, message) = name.split_once('.').unwrap();
            let fields = ["set_power_on_mode", "set_hostname_live"];
            if let Some(field) = message.strip_prefix("set_")
                && !fields.contains(&message)
            {
                let class = meta::class(class).unwrap();
                assert!(class.field(field).is_some(), "{name}");
            }
        }
    }
}
