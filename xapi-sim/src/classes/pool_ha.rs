//! High Availability: the switch, the plan for lost hosts, and what the pool does when one is lost.

use std::sync::Arc;

use super::operation::{Mark, Operation};
use super::{Table, done, pool, sr_probe, vdi, vm_placement, vm_power};
use crate::dispatch::Handler::{Later, Now};
use crate::dispatch::Pending;
use crate::failure::{Failure, Reply};
use crate::outage;
use crate::value::{NULL_REF, Value};
use crate::world::{Call, Shared, World};

pub(crate) const TABLE: Table = &[
    ("pool.enable_ha", Later(enable)),
    ("pool.disable_ha", Later(disable)),
    ("pool.ha_prevent_restarts_for", Now(prevent_restarts)),
    ("pool.ha_failover_plan_exists", Now(plan_exists)),
    (
        "pool.ha_compute_max_host_failures_to_tolerate",
        Now(|world, _| Ok(Value::Int(bearable(world, &protected(world, &[])?)?))),
    ),
    (
        "pool.ha_compute_hypothetical_max_host_failures_to_tolerate",
        Now(|world, call| {
            let vms = protected(world, call.arg(0).members())?;
            Ok(Value::Int(bearable(world, &vms)?))
        }),
    ),
    ("pool.ha_compute_vm_failover_plan", Now(compute_plan)),
    ("pool.set_ha_host_failures_to_tolerate", Now(set_tolerated)),
    (
        "host.ha_xapi_healthcheck",
        Now(|_, _| Ok(Value::Bool(true))),
    ),
    ("host.emergency_ha_disable", Now(emergency_disable)),
    (
        "pool.enable_redo_log",
        Now(|world, call| set_redo_log(world, Some(call.text(0)))),
    ),
    (
        "pool.disable_redo_log",
        Now(|world, _| set_redo_log(world, None)),
    ),
];

/// `pool.enable_ha(heartbeat_srs, configuration)`.
fn enable(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        let begin = |world: &mut World| {
            let pool = world.pool();
            pool::check(world, &pool, "ha_enable")?;
            let srs = heartbeat_srs(world, &call.arg(0))?;
            let marks = vec![Mark::new("pool", pool, "ha_enable")];
            let operation = Operation::begin_all(&shared, world, &call.task, marks)?;
            Ok((operation, srs))
        };
        let (operation, srs) = shared.patiently(begin).await?;
        operation.work().await?;
        operation.finish(|world| switch_on(world, &srs, call.arg(1)))?;
        done()
    })
}

/// The SRs that the hosts beat their hearts into: those that are asked for, else the first that can.
fn heartbeat_srs(world: &World, asked: &Value) -> Result<Vec<String>, Failure> {
    for host in world.db.references("host") {
        let metrics = world.db.text("host", &host, "metrics")?;
        if !world.db.flag("host_metrics", &metrics, "live")? {
            return Err(Failure::new("HOST_OFFLINE", [host]));
        }
    }
    for pif in world.db.references("PIF") {
        let db = &world.db;
        let needed =
            db.flag("PIF", &pif, "disallow_unplug")? || db.flag("PIF", &pif, "management")?;
        if needed && !db.flag("PIF", &pif, "currently_attached")? {
            return Err(Failure::new("REQUIRED_PIF_IS_UNPLUGGED", [pif]));
        }
    }
    let asked: Vec<String> = asked
        .items()
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    if asked.is_empty() {
        let mut srs = world.db.references("SR").into_iter();
        let found = srs.find(|sr| sr_probe::assert_can_host_statefile(world, sr).is_ok());
        let found = found.ok_or_else(|| Failure::code("CANNOT_CREATE_STATE_FILE"))?;
        return Ok(vec![found]);
    }
    for sr in &asked {
        world.db.require("SR", sr)?;
        sr_probe::assert_can_host_statefile(world, sr)?;
    }
    Ok(asked)
}

fn switch_on(world: &mut World, srs: &[String], configuration: Value) -> Result<(), Failure> {
    let mut files = Vec::new();
    for sr in srs {
        let values = vec![
            ("name_label", Value::from("Statefile for HA")),
            (
                "name_description",
                Value::from("Used for storage heartbeating"),
            ),
            ("SR", Value::from(sr.as_str())),
            ("type", Value::from("ha_statefile")),
            ("sharable", Value::Bool(true)),
        ];
        files.push(vdi::add(world, values, sr_probe::STATEFILE)?);
    }
    let uuids: Result<Vec<String>, Failure> = files
        .iter()
        .map(|vdi| world.db.text("VDI", vdi, "uuid"))
        .collect();
    let uuids = Value::strings(uuids?);
    let hosts = world.db.references("host");
    for host in &hosts {
        let mut peers = Vec::new();
        for peer in &hosts {
            peers.push(world.db.text("host", peer, "uuid")?);
        }
        world.db.set("host", host, "ha_statefiles", uuids.clone())?;
        world
            .db
            .set("host", host, "ha_network_peers", Value::strings(peers))?;
    }
    let pool = world.pool();
    let tolerated = bearable(world, &protected(world, &[])?)?;
    let db = &mut world.db;
    db.set("pool", &pool, "ha_statefiles", Value::strings(files))?;
    db.set("pool", &pool, "ha_configuration", configuration)?;
    db.set("pool", &pool, "ha_enabled", true)?;
    db.set("pool", &pool, "ha_plan_exists_for", tolerated)?;
    update(world)
}

/// `pool.disable_ha()`.
fn disable(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        let begin = |world: &mut World| {
            let marks = vec![Mark::new("pool", world.pool(), "ha_disable")];
            Operation::begin_all(&shared, world, &call.task, marks)
        };
        let operation = shared.patiently(begin).await?;
        operation.work().await?;
        operation.finish(switch_off)?;
        done()
    })
}

fn switch_off(world: &mut World) -> Result<(), Failure> {
    let pool = world.pool();
    let files = world.db.list("pool", &pool, "ha_statefiles")?;
    let none = || Value::Array(Vec::new());
    for host in world.db.references("host") {
        world.db.set("host", &host, "ha_statefiles", none())?;
        world.db.set("host", &host, "ha_network_peers", none())?;
    }
    let db = &mut world.db;
    db.set("pool", &pool, "ha_plan_exists_for", 0)?;
    db.set("pool", &pool, "ha_overcommitted", false)?;
    db.set("pool", &pool, "ha_enabled", false)?;
    db.set("pool", &pool, "ha_statefiles", none())?;
    db.set("pool", &pool, "ha_configuration", Value::Struct(Vec::new()))?;
    for file in files {
        // Statefiles are empty; one that is gone needs nothing.
        let _ = vdi::remove(world, &file);
    }
    Ok(())
}

/// Only where the host is cut off from the others, which it is not as long as we hear the call.
fn emergency_disable(world: &mut World, _: &Call) -> Reply {
    if !world.db.flag("pool", &world.pool(), "ha_enabled")? {
        return Err(Failure::code("HA_NOT_ENABLED"));
    }
    switch_off(world)?;
    let pool = world.pool();
    pool::refresh(world, &pool)?;
    done()
}

fn prevent_restarts(world: &mut World, call: &Call) -> Reply {
    assert_enabled(world)?;
    let until = world.clock.seconds().saturating_add_signed(call.int(0));
    world.no_restarts_before = until;
    done()
}

fn assert_enabled(world: &World) -> Result<(), Failure> {
    if world.db.flag("pool", &world.pool(), "ha_enabled")? {
        Ok(())
    } else {
        Err(Failure::code("HA_NOT_ENABLED"))
    }
}

/// A VM that is restarted when its host is lost, and the memory that it needs.
struct Protected {
    vm: String,
    host: String,
    memory: i64,
}

/// The VMs that are restarted wherever they were, with other priorities for some of them.
fn protected(world: &World, others: &[(String, Value)]) -> Result<Vec<Protected>, Failure> {
    let db = &world.db;
    let mut found = Vec::new();
    for vm in db.references("VM") {
        let other = others.iter().find(|(known, _)| *known == vm);
        let priority = match other {
            Some((_, priority)) => priority.as_str().unwrap_or_default().to_owned(),
            None => db.text("VM", &vm, "ha_restart_priority")?,
        };
        let runs = other.is_some() || db.flag("VM", &vm, "ha_always_run")?;
        // A VM that can run on one host only is lost with it.
        if priority == "restart" && runs && vm_placement::is_agile(world, &vm)? {
            found.push(Protected {
                host: db.text("VM", &vm, "resident_on")?,
                memory: vm_placement::footprint(world, &vm)?,
                vm,
            });
        }
    }
    // The largest are the hardest to place.
    found.sort_by_key(|vm| std::cmp::Reverse(vm.memory));
    Ok(found)
}

/// The hosts that can take VMs and the memory that each can give to protected ones.
fn rooms(world: &World, vms: &[Protected]) -> Result<Vec<(String, i64)>, Failure> {
    let mut rooms = Vec::new();
    for host in world.db.references("host") {
        let metrics = world.db.text("host", &host, "metrics")?;
        let live = world.db.flag("host_metrics", &metrics, "live")?;
        if live && world.db.flag("host", &host, "enabled")? {
            let here = vms.iter().filter(|vm| vm.host == host);
            let taken: i64 = here.map(|vm| vm.memory).sum();
            let free = vm_placement::free_memory(world, &host)?;
            rooms.push((host, free.saturating_add(taken)));
        }
    }
    rooms.sort_by_key(|(_, room)| std::cmp::Reverse(*room));
    Ok(rooms)
}

/// Puts each VM where the least room is left. `None` when one does not fit.
fn pack<'v>(
    vms: impl Iterator<Item = &'v Protected>,
    rooms: &[(String, i64)],
) -> Option<Vec<(&'v Protected, String)>> {
    let mut rooms = rooms.to_vec();
    vms.map(|vm| {
        let fitting = rooms.iter_mut().filter(|(_, room)| *room >= vm.memory);
        let (host, room) = fitting.min_by_key(|(_, room)| *room)?;
        *room -= vm.memory;
        Some((vm, host.clone()))
    })
    .collect()
}

/// How many hosts can be lost, the roomiest first, so that all VMs still find a place.
fn bearable(world: &World, vms: &[Protected]) -> Result<i64, Failure> {
    let rooms = rooms(world, vms)?;
    let most = rooms.len().saturating_sub(1);
    let bearable = (0..=most)
        .rev()
        .find(|lost| pack(vms.iter(), &rooms[*lost..]).is_some());
    Ok(i64::try_from(bearable.unwrap_or(0)).unwrap_or_default())
}

fn plan_exists(world: &mut World, call: &Call) -> Reply {
    assert_enabled(world)?;
    let vms = protected(world, &[])?;
    Ok(Value::Bool(call.int(0) <= bearable(world, &vms)?))
}

/// `pool.ha_compute_vm_failover_plan(failed_hosts, failed_vms)`: for each of the VMs a host, or why
/// there is none.
fn compute_plan(world: &mut World, call: &Call) -> Reply {
    let failed = call.arg(0);
    let lost: Vec<&str> = failed.items().iter().filter_map(Value::as_str).collect();
    let wanted = call.arg(1);
    let vms = protected(world, &[])?;
    let rooms = rooms(world, &vms)?;
    let rooms: Vec<_> = rooms
        .into_iter()
        .filter(|(host, _)| !lost.contains(&host.as_str()))
        .collect();
    let asked: Vec<&str> = wanted.items().iter().filter_map(Value::as_str).collect();
    let theirs = vms.iter().filter(|vm| asked.contains(&vm.vm.as_str()));
    let plan = pack(theirs, &rooms).unwrap_or_default();
    let answers = asked.into_iter().map(|vm| {
        let place = plan.iter().find(|(planned, _)| planned.vm == vm);
        let answer = match place {
            Some((_, host)) => ("host", host.as_str()),
            None if vms.iter().any(|known| known.vm == vm) => ("error_code", "NO_HOSTS_AVAILABLE"),
            None => ("error_code", "VM_IS_NOT_PROTECTED"),
        };
        (vm.to_owned(), Value::map([answer]))
    });
    Ok(Value::Struct(answers.collect()))
}

fn set_tolerated(world: &mut World, call: &Call) -> Reply {
    let (pool, value) = (call.text(0), call.int(1));
    world.db.require("pool", pool)?;
    if value < 0 {
        let params = ["ha_host_failures_to_tolerate", &value.to_string()];
        return Err(Failure::new("INVALID_VALUE", params));
    }
    if world.db.flag("pool", pool, "ha_enabled")?
        && value > bearable(world, &protected(world, &[])?)?
    {
        let code = "HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN";
        return Err(Failure::code(code));
    }
    world
        .db
        .set("pool", pool, "ha_host_failures_to_tolerate", value)?;
    update(world)?;
    done()
}

/// Brings what the pool says of its plan up to date.
pub(crate) fn update(world: &mut World) -> Result<(), Failure> {
    let pool = world.pool();
    if !world.db.flag("pool", &pool, "ha_enabled")? {
        return Ok(());
    }
    let bearable = bearable(world, &protected(world, &[])?)?;
    let wanted = world
        .db
        .int("pool", &pool, "ha_host_failures_to_tolerate")?;
    let db = &mut world.db;
    db.set("pool", &pool, "ha_plan_exists_for", bearable)?;
    db.set("pool", &pool, "ha_overcommitted", bearable < wanted)
}

/// What the other hosts do when one is lost: with High Availability they declare it dead, make one
/// of them the coordinator if it was that, and start the VMs that are protected.
pub(crate) fn after_crash(shared: &Arc<Shared>, host: &str) -> Result<(), Failure> {
    let plan = shared.with(|world| {
        if !world.db.flag("pool", &world.pool(), "ha_enabled")? {
            return Ok(None);
        }
        let mut hosts = world.db.references("host").into_iter();
        let Some(heir) = hosts.find(|other| !world.down.contains_key(other)) else {
            return Ok(None);
        };
        let heir = (world.coordinator() == host).then_some(heir);
        let vms: Vec<String> = protected(world, &[])?
            .into_iter()
            .filter(|vm| vm.host == host)
            .map(|vm| vm.vm)
            .collect();
        outage::halt_all(world, host)?;
        let restarts = world.clock.seconds() >= world.no_restarts_before;
        Ok(Some((heir, if restarts { vms } else { Vec::new() })))
    })?;
    let Some((heir, vms)) = plan else {
        return Ok(());
    };
    if let Some(heir) = heir {
        outage::fail_over(shared, &heir)?;
    }
    for vm in vms {
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            let started = tokio::select! {
                () = shared.closed() => return,
                started = vm_power::start_for_pool(&shared, &vm) => started,
            };
            if let Err(failure) = started {
                tracing::warn!(%failure, vm, "a protected VM cannot be restarted");
            }
        });
    }
    shared.with(update)
}

/// `pool.enable_redo_log(sr)` and `pool.disable_redo_log()`.
fn set_redo_log(world: &mut World, sr: Option<&str>) -> Reply {
    const SIZE: i64 = 256 << 20;
    let pool = world.pool();
    let enabled = world.db.flag("pool", &pool, "redo_log_enabled")?;
    let old = world.db.text("pool", &pool, "redo_log_vdi")?;
    match sr {
        Some(_) if enabled => return Err(Failure::code("REDO_LOG_IS_ENABLED")),
        Some(sr) => {
            world.db.require("SR", sr)?;
            let values = vec![
                ("name_label", Value::from("Metadata for HA")),
                ("name_description", Value::from("Used for master failover")),
                ("SR", Value::from(sr)),
                ("type", Value::from("redo_log")),
                ("sharable", Value::Bool(true)),
            ];
            let vdi = vdi::add(world, values, SIZE)
                .map_err(|failure| Failure::new("CANNOT_ENABLE_REDO_LOG", [failure.to_string()]))?;
            world.db.set("pool", &pool, "redo_log_vdi", vdi)?;
        }
        None => {
            world.db.set("pool", &pool, "redo_log_vdi", NULL_REF)?;
            // Redo logs are empty; one that is gone needs nothing.
            let _ = vdi::remove(world, &old);
        }
    }
    world
        .db
        .set("pool", &pool, "redo_log_enabled", sr.is_some())?;
    done()
}
