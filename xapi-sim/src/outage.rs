//! Hosts that go away and come back, and what a pool loses by it.

use std::sync::Arc;
use std::time::Duration;

use crate::backing::Running;
use crate::bootstrap;
use crate::classes::{pool_ha, sr, vm_power};
use crate::db::Restored;
use crate::failure::Failure;
use crate::sim::Error;
use crate::value::{NULL_REF, Value};
use crate::world::{Call, Down, Shared, World};

/// Restarts the toolstack of the coordinator: sessions, tasks and connections are lost, VMs run on.
pub(crate) fn restart_toolstack(shared: &Shared) {
    let coordinator = shared.with(|world| {
        lose_memory(world);
        let coordinator = world.coordinator();
        note_start(world, &coordinator, &["agent_start_time"]);
        coordinator
    });
    shared.end_life(&[coordinator]);
}

/// Stops the toolstack of a host, which then answers nobody. Its VMs run on.
pub(crate) fn stop_toolstack(shared: &Shared, host: &str) {
    shared.with(|world| {
        world
            .down
            .entry(host.to_owned())
            .or_insert(Down::WithoutToolstack);
        if world.coordinator() == host {
            lose_memory(world);
        }
    });
    shared.end_life(&[host.to_owned()]);
}

/// Cuts the power of a host. What ran on it ends at once, yet the pool takes its VMs for running
/// until the host is back or declared dead.
///
/// # Errors
///
/// `HANDLE_INVALID` for a host that does not exist.
pub(crate) fn crash(shared: &Arc<Shared>, host: &str) -> Result<(), Failure> {
    let ended = shared.with(|world| {
        let metrics = world.db.text("host", host, "metrics")?;
        world.down.insert(host.to_owned(), Down::Off);
        world.db.set("host_metrics", &metrics, "live", false)?;
        let ended = take_running(world, host)?;
        if world.coordinator() == host {
            lose_memory(world);
        }
        Ok(ended)
    })?;
    shared.end_life(&[host.to_owned()]);
    // Guests take time to end, and nobody needs the world for it.
    drop(ended);
    pool_ha::after_crash(shared, host)
}

/// Boots a host that is down. Its VMs are halted now. False for one that is not down.
///
/// # Errors
///
/// `HANDLE_INVALID` for a host that does not exist.
pub(crate) fn boot(shared: &Shared, host: &str) -> Result<bool, Failure> {
    shared.with(|world| {
        let metrics = world.db.text("host", host, "metrics")?;
        let stamps: &[&str] = match world.down.remove(host) {
            None => return Ok(false),
            Some(Down::Off) => {
                halt_all(world, host)?;
                &["boot_time", "agent_start_time"]
            }
            Some(Down::WithoutToolstack) => &["agent_start_time"],
        };
        world.db.set("host_metrics", &metrics, "live", true)?;
        note_start(world, host, stamps);
        Ok(true)
    })
}

/// Boots a host that is down, later.
pub(crate) fn boot_after(shared: &Arc<Shared>, host: String, pause: Duration) {
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        tokio::select! {
            () = shared.closed() => {}
            () = tokio::time::sleep(pause) => {
                if let Err(failure) = boot(&shared, &host) {
                    tracing::warn!(%failure, "a host does not come back");
                }
            }
        }
    });
}

/// Makes another host the coordinator. As after a crash of the old one, sessions and tasks are
/// lost. False for the one that it is.
///
/// # Errors
///
/// `HANDLE_INVALID` for a host that does not exist, `CANNOT_CONTACT_HOST` for one that is down.
pub(crate) fn fail_over(shared: &Shared, host: &str) -> Result<bool, Failure> {
    let hosts = shared.with(|world| {
        world.db.require("host", host)?;
        assert_up(world, host)?;
        let pool = world.pool();
        if world.coordinator() == host {
            return Ok(Vec::new());
        }
        world.db.set("pool", &pool, "master", host)?;
        lose_memory(world);
        let hosts = world.db.references("host");
        for host in &hosts {
            note_start(world, host, &["agent_start_time"]);
        }
        Ok(hosts)
    })?;
    shared.end_life(&hosts);
    Ok(!hosts.is_empty())
}

/// Puts a host into emergency mode, or takes it out again.
pub(crate) fn set_emergency(shared: &Shared, host: &str, failure: Option<Failure>) {
    shared.with(|world| match failure {
        Some(failure) => drop(world.emergency.insert(host.to_owned(), failure)),
        None => drop(world.emergency.remove(host)),
    });
}

/// The objects with this reference, uuid or name; several only by their name.
pub(crate) fn find_all(world: &World, class: &str, called: &str) -> Vec<String> {
    let db = &world.db;
    if db.exists(class, called) {
        return vec![called.to_owned()];
    }
    if let Some(found) = db.by_uuid(class, called) {
        return vec![found];
    }
    let mut found = db.references(class);
    found.retain(|known| db.is_called(known, called));
    found
}

/// An object by its reference, uuid or name.
///
/// # Errors
///
/// `HANDLE_INVALID` when there is none, `INVALID_VALUE` when several have the name.
pub(crate) fn find(shared: &Shared, class: &str, called: &str) -> Result<String, Failure> {
    let mut found = shared.with(|world| find_all(world, class, called));
    match (found.pop(), found.is_empty()) {
        (Some(found), true) => Ok(found),
        (None, _) => Err(Failure::handle_invalid(class, called)),
        (Some(_), false) => Err(Failure::new("INVALID_VALUE", [class, called])),
    }
}

/// Lets an SR take nothing more, or again what fits.
///
/// # Errors
///
/// `HANDLE_INVALID` for an SR that does not exist.
pub(crate) fn fill_sr(shared: &Shared, sr: &str, full: bool) -> Result<(), Failure> {
    shared.with(|world| {
        if full {
            world.full.insert(sr.to_owned());
        } else {
            world.full.remove(sr);
        }
        sr::account(world, sr)
    })
}

/// Moves the clock of one host by so many seconds against that of the pool.
pub(crate) fn skew_clock(shared: &Shared, host: &str, seconds: i64) {
    shared.with(|world| world.skews.insert(host.to_owned(), seconds));
}

/// Moves the clock, so that what is too old now ends.
pub(crate) fn shift_clock(shared: &Shared, seconds: i64) {
    shared.with(|world| {
        world.clock.shift(seconds);
        world.next_collection = 0;
    });
}

/// Makes the world anew. The old one goes with its guests.
pub(crate) async fn reset(shared: &Shared) -> Result<(), Error> {
    let (mut world, hosts) = shared.origin.world(&shared.guests).await?;
    for host in &hosts {
        if let Some(address) = shared.address_of(host) {
            bootstrap::move_host(&mut world, host, address.ip());
        }
    }
    let mut old = shared.with(|current| std::mem::replace(current, world));
    shared.show_first_certificates();
    shared.end_life(&hosts);
    for guest in std::mem::take(&mut old.running).into_values() {
        if let Some(guest) = guest.guest {
            guest.power_off().await;
        }
    }
    // Only a runtime that shuts down refuses, and then dropping the closure does the same.
    let _ = tokio::task::spawn_blocking(move || drop(old)).await;
    Ok(())
}

/// Lets the coordinator start from another database, without the other hosts of that: nobody tells
/// whether they are still there.
///
/// # Errors
///
/// `HANDLE_INVALID` where the database has no host that is its coordinator.
pub(crate) fn start_from(shared: &Arc<Shared>, restored: Restored) -> Result<(), Failure> {
    let coordinator = shared.with(|world| world.coordinator());
    crash(shared, &coordinator)?;
    let address = shared.address_of(&coordinator);
    shared.with(|world| {
        let uuid = world.db.text("host", &coordinator, "uuid")?;
        world.db.replace(&restored);
        world.db.set("host", &coordinator, "uuid", uuid)?;
        if let Some(address) = address {
            bootstrap::move_host(world, &coordinator, address.ip());
        }
        world.down.clear();
        for host in world.db.references("host") {
            if host == coordinator {
                continue;
            }
            for pif in world.db.list("host", &host, "PIFs")? {
                world.db.destroy("PIF", &pif)?;
            }
            world.db.destroy("host", &host)?;
        }
        let db = &world.db;
        world.disks.retain(|vdi, _| db.exists("VDI", vdi));
        world.blobs.retain(|blob, _| db.exists("blob", blob));
        world.down.insert(coordinator.clone(), Down::Off);
        Ok(())
    })?;
    boot(shared, &coordinator).map(drop)
}

/// Resets the VMs of a host that will not come back soon.
///
/// # Errors
///
/// `HANDLE_INVALID` for a host that does not exist.
pub(crate) fn halt_all(world: &mut World, host: &str) -> Result<(), Failure> {
    for vm in world.db.list("host", host, "resident_VMs")? {
        if !world.db.flag("VM", &vm, "is_control_domain")? {
            vm_power::halt(world, &vm)?;
        }
    }
    Ok(())
}

/// Refuses a host that is down.
pub(crate) fn assert_up(world: &World, host: &str) -> Result<(), Failure> {
    if world.down.contains_key(host) {
        Err(Failure::new("CANNOT_CONTACT_HOST", [host]))
    } else {
        Ok(())
    }
}

/// Refuses what only a host could do that is down.
pub(crate) fn assert_reachable(world: &World, call: &Call) -> Result<(), Failure> {
    const BY_ITS_HOST: [&str; 9] = [
        "VM.pause",
        "VM.unpause",
        "VM.clean_shutdown",
        "VM.clean_reboot",
        "VM.hard_shutdown",
        "VM.hard_reboot",
        "VM.shutdown",
        "VM.suspend",
        "VM.pool_migrate",
    ];
    if world.down.is_empty() || !BY_ITS_HOST.contains(&call.message.wire_name) {
        return Ok(());
    }
    match world.db.text("VM", call.text(0), "resident_on") {
        Ok(host) => assert_up(world, &host),
        Err(_) => Ok(()),
    }
}

/// The host that carries a call out: one that it names, else that of its VM, else the coordinator.
pub(crate) fn host_of(world: &World, call: &Call) -> String {
    let mut texts = call.args.iter().filter_map(Value::as_str);
    if let Some(host) = texts.find(|text| world.db.exists("host", text)) {
        return host.to_owned();
    }
    match world.db.text("VM", call.text(0), "resident_on") {
        Ok(host) if host != NULL_REF => host,
        _ => world.coordinator(),
    }
}

/// What the coordinator has in memory alone.
fn lose_memory(world: &mut World) {
    for class in ["task", "session"] {
        for reference in world.db.references(class) {
            // It is there: we have just been told so.
            let _ = world.db.destroy(class, &reference);
        }
    }
    world.sessions.clear();
    world.listeners.clear();
    world.cancels.clear();
}

fn take_running(world: &mut World, host: &str) -> Result<Vec<Running>, Failure> {
    let vms = world.db.list("host", host, "resident_VMs")?;
    let ended = vms.iter().filter_map(|vm| world.running.remove(vm));
    Ok(ended.collect())
}

/// Notes in `other_config` that a host has just started.
fn note_start(world: &mut World, host: &str, keys: &[&str]) {
    let now = world.clock.unix();
    let Ok(old) = world.db.get("host", host, "other_config") else {
        return;
    };
    let mut members = old.members().to_vec();
    for key in keys {
        members.retain(|(name, _)| name != key);
        members.push(((*key).to_owned(), Value::from(now.as_str())));
    }
    // The host is there, see above.
    let _ = world
        .db
        .set("host", host, "other_config", Value::Struct(members));
}
