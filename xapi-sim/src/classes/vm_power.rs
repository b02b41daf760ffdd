//! The power of VMs: starting, stopping and everything in between.

use std::sync::Arc;

use xapi_client::meta;

use super::operation::{Mark, Operation};
use super::{Table, check, done, message, power_of, refresh, task, vbd, vm, vm_placement};
use crate::backing::{self, BootPlan};
use crate::dispatch::Handler::{Later, Now};
use crate::dispatch::Pending;
use crate::failure::{Failure, Reply};
use crate::lifecycle::Power;
use crate::report;
use crate::value::{NULL_REF, Value};
use crate::world::{Call, Shared, World};

pub(crate) const TABLE: Table = &[
    (
        "VM.start",
        Later(|shared, call| Box::pin(start(shared, call))),
    ),
    (
        "VM.start_on",
        Later(|shared, call| Box::pin(start(shared, call))),
    ),
    ("VM.pause", Later(pause)),
    (
        "VM.unpause",
        Later(|shared, call| Box::pin(unpause(shared, call))),
    ),
    (
        "VM.clean_shutdown",
        Later(|shared, call| stop(shared, call, "clean_shutdown")),
    ),
    (
        "VM.hard_shutdown",
        Later(|shared, call| stop(shared, call, "hard_shutdown")),
    ),
    (
        "VM.shutdown",
        Later(|shared, call| stop(shared, call, "shutdown")),
    ),
    (
        "VM.clean_reboot",
        Later(|shared, call| Box::pin(reboot(shared, call, "clean_reboot"))),
    ),
    (
        "VM.hard_reboot",
        Later(|shared, call| Box::pin(reboot(shared, call, "hard_reboot"))),
    ),
    ("VM.power_state_reset", Now(power_state_reset)),
    ("VM.pool_migrate", Later(pool_migrate)),
];

/// `VM.start(vm, start_paused, force)` and `VM.start_on(vm, host, start_paused, force)`.
async fn start(shared: Arc<Shared>, call: Arc<Call>) -> Reply {
    let vm = call.text(0);
    let pinned = (call.message.name == "start_on").then(|| call.text(1).to_owned());
    let (paused, force) = if pinned.is_some() { (2, 3) } else { (1, 2) };
    let (paused, force) = (call.flag(paused), call.flag(force));
    let operation_name = if pinned.is_some() {
        "start_on"
    } else {
        "start"
    };
    let begin = |world: &mut World| {
        check(world, vm, operation_name)?;
        // A VM that has lost its metrics in a detour over `set_is_a_template` says yes and stays
        // as it is.
        if world.db.text("VM", vm, "metrics")? == NULL_REF {
            return Ok(None);
        }
        vbd::assert_startable(world, vm)?;
        let host = match &pinned {
            Some(host) => {
                vm_placement::assert_can_boot(world, vm, host, !force)?;
                host.clone()
            }
            None => vm_placement::choose(world, vm)?,
        };
        vm::complete_bios_strings(world, vm)?;
        vm::update_hardware_version(world, vm)?;
        complete_platform(world, vm)?;
        report::forget(world, vm)?;
        if let Err(failure) = vm_placement::assert_configuration(world, vm) {
            // The host notices only after it has taken the VM, and does not give it back.
            world.db.set("VM", vm, "resident_on", host)?;
            return Err(failure);
        }
        let plan = if paused {
            None
        } else {
            BootPlan::of(world, vm)?
        };
        // Nothing may fail after this: dropping the operation needs the lock that we hold.
        let mut operation = Operation::begin_with(&shared, world, &call, operation_name)?;
        operation.also_start(world, vm, &host);
        Ok(Some((operation, host, plan)))
    };
    let Some((operation, host, plan)) = shared.patiently(begin).await? else {
        return done();
    };
    operation.work().await?;
    let booted = backing::boot(&shared, plan).await?;
    operation.finish(|world| {
        let domain = build(world, vm, &host, Power::awake(paused))?;
        backing::follow(&shared, world, vm, domain, booted);
        tell_place(world, "VM_STARTED", vm, "started", &host)
    })?;
    done()
}

/// Leaves a message that a VM has come to a host.
pub(super) fn tell_place(
    world: &mut World,
    name: &str,
    vm: &str,
    how: &str,
    host: &str,
) -> Result<(), Failure> {
    let called = world.db.text("host", host, "name_label")?;
    let uuid = world.db.text("host", host, "uuid")?;
    let text = format!("{how} on host: {called} (uuid: {uuid})");
    message::tell(world, name, vm, &text)
}

/// Starts a VM for the pool itself.
pub(crate) async fn start_for_pool(shared: &Arc<Shared>, vm: &str) -> Reply {
    let class = meta::class("VM").ok_or_else(|| Failure::code("NOT_IMPLEMENTED"))?;
    let message = class.message("start");
    let message = message.ok_or_else(|| Failure::code("NOT_IMPLEMENTED"))?;
    let (task, host) = shared.with(|world| {
        let task = format!("DummyRef:|{}|VM.start", world.seed.uuid());
        (task, world.coordinator())
    });
    let call = Call {
        class,
        message,
        args: vec![Value::from(vm), Value::Bool(false), Value::Bool(false)],
        fields: Vec::new(),
        session: String::new(),
        task,
        host,
    };
    start(Arc::clone(shared), Arc::new(call)).await
}

/// Fills in what a platform leaves open, where it stays.
fn complete_platform(world: &mut World, vm: &str) -> Result<(), Failure> {
    let db = &mut world.db;
    let mut platform = db.get("VM", vm, "platform")?.members().to_vec();
    let uefi = db.key("VM", vm, "HVM_boot_params", "firmware")?.as_deref() == Some("uefi");
    let has_model = platform.iter().any(|(key, _)| key == "device-model");
    if db.text("VM", vm, "domain_type")? == "hvm" && !has_model {
        let model = if uefi {
            "qemu-upstream-uefi"
        } else {
            "qemu-upstream-compat"
        };
        platform.insert(0, ("device-model".to_owned(), Value::from(model)));
    }
    if let Some((_, secure)) = platform.iter_mut().find(|(key, _)| key == "secureboot")
        && secure.as_str() == Some("auto")
    {
        *secure = Value::from("false");
    }
    db.set("VM", vm, "platform", Value::Struct(platform))
}

/// Notes whether a VM that High Availability looks after is meant to run.
pub(super) fn mean_to_run(world: &mut World, vm: &str, runs: bool) -> Result<(), Failure> {
    let protected = world.db.text("VM", vm, "ha_restart_priority")? == "restart";
    if !runs || protected {
        world.db.set("VM", vm, "ha_always_run", runs)?;
    }
    Ok(())
}

/// Makes a VM live on a host and gives the number of its domain.
pub(super) fn build(world: &mut World, vm: &str, host: &str, power: Power) -> Result<i64, Failure> {
    world.counters.domains += 1;
    let domain = world.counters.domains;
    let now = Value::DateTime(world.clock.now());
    let vendor = world
        .db
        .key("host", host, "cpu_info", "vendor")?
        .unwrap_or_default();
    let memory = world.db.int("VM", vm, "memory_dynamic_max")?;
    let vcpus = world.db.int("VM", vm, "VCPUs_at_startup")?;
    let metrics = world.db.text("VM", vm, "metrics")?;
    let db = &mut world.db;
    let flags = Value::map([("vendor", vendor.as_str()), ("features", "")]);
    db.set("VM", vm, "last_boot_CPU_flags", flags)?;
    db.set("VM", vm, "domid", domain)?;
    db.set("VM", vm, "resident_on", host)?;
    db.set("VM", vm, "memory_target", memory)?;
    let kind = db.text("VM", vm, "domain_type")?;
    let platform = db.get("VM", vm, "platform")?.clone();
    let asks_for = |key: &str| {
        let text = platform.get(key).and_then(Value::as_str);
        Value::Bool(matches!(text, Some("1" | "true")))
    };
    for (field, value) in [
        ("start_time", now),
        ("memory_actual", Value::Int(memory)),
        ("VCPUs_number", Value::Int(vcpus)),
        ("hvm", Value::Bool(kind == "hvm")),
        ("nested_virt", asks_for("nested-virt")),
        ("nomigrate", asks_for("nomigrate")),
        ("current_domain_type", Value::String(kind)),
    ] {
        db.set("VM_metrics", &metrics, field, value)?;
    }
    for vbd in db.list("VM", vm, "VBDs")? {
        let name = vbd::linux_name(&db.text("VBD", &vbd, "userdevice")?);
        db.set("VBD", &vbd, "device", name)?;
        db.set("VBD", &vbd, "currently_attached", true)?;
    }
    for vif in db.list("VM", vm, "VIFs")? {
        db.set("VIF", &vif, "currently_attached", true)?;
    }
    add_console(world, vm, host, "rfb")?;
    mean_to_run(world, vm, true)?;
    world.db.set("VM", vm, "power_state", power.name())?;
    vm_placement::account(world);
    Ok(domain)
}

/// Adds a console that is reached through the VM's host.
pub(crate) fn add_console(
    world: &mut World,
    vm: &str,
    host: &str,
    protocol: &str,
) -> Result<(), Failure> {
    let address = world.db.text("host", host, "address")?;
    let uuid = world.seed.uuid();
    let values = vec![
        (
            "location",
            Value::String(format!("https://{address}/console?uuid={uuid}")),
        ),
        ("uuid", Value::String(uuid)),
        ("protocol", Value::from(protocol)),
        ("VM", Value::from(vm)),
    ];
    world.create("console", values).map(drop)
}

/// Takes a VM's domain away. What ran in it has to be stopped by the caller.
pub(crate) fn halt(world: &mut World, vm: &str) -> Result<(), Failure> {
    world.running.remove(vm);
    vm::detach_devices(world, vm)?;
    leave_host(world, vm)?;
    let suspended = world.db.text("VM", vm, "suspend_VDI")?;
    if suspended != NULL_REF {
        world.db.set("VM", vm, "suspend_VDI", NULL_REF)?;
        // It may have been destroyed by hand.
        let _ = world.db.destroy("VDI", &suspended);
    }
    world
        .db
        .set("VM", vm, "power_state", Power::Halted.name())?;
    vm_placement::account(world);
    refresh(world, vm);
    Ok(())
}

/// Takes a VM off its host. Its devices are a matter of their own: those of a VM that sleeps count
/// as attached.
pub(super) fn leave_host(world: &mut World, vm: &str) -> Result<(), Failure> {
    let db = &mut world.db;
    for console in db.list("VM", vm, "consoles")? {
        db.destroy("console", &console)?;
    }
    db.set("VM", vm, "domid", -1)?;
    db.set("VM", vm, "resident_on", NULL_REF)
}

/// Gives a running VM a new domain on its host, as one that slept for a moment gets it.
pub(crate) fn renew_domain(world: &mut World, vm: &str) -> Result<(), Failure> {
    let host = world.db.text("VM", vm, "resident_on")?;
    leave_host(world, vm)?;
    build(world, vm, &host, Power::Running).map(drop)
}

/// What the hard operations do not wait for.
const OVERTAKEN: &[&str] = &[
    "clean_shutdown",
    "clean_reboot",
    "pool_migrate",
    "call_plugin",
    "suspend",
];

/// How often a server looks whether a clean shutdown is cancelled while the guest obeys.
const CLEAN_SHUTDOWN_CANCEL_POINTS: u32 = 11;

fn stop(shared: Arc<Shared>, call: Arc<Call>, name: &'static str) -> Pending {
    Box::pin(async move {
        let vm = call.text(0);
        let operation = Operation::begin(&shared, &call, name).await?;
        if name == "hard_shutdown" {
            operation.overtake(OVERTAKEN);
            operation.overtake(&["hard_reboot"]);
        }
        let (domain, power) =
            shared.with(|world| Ok((world.db.int("VM", vm, "domid")?, power_of(world, vm)?)))?;
        operation.work().await?;
        // The plain shutdown asks first and then cuts the power, which for a guest that does as
        // it is told is the same as asking.
        let clean = name != "hard_shutdown" && power == Power::Running;
        backing::stop(&shared, vm, clean).await;
        operation.finish(|world| {
            if name == "clean_shutdown" {
                task::note_cancel_points(world, &call.task, CLEAN_SHUTDOWN_CANCEL_POINTS);
            }
            // A hard shutdown may have overtaken a clean one, and a start have followed.
            let unchanged = world.db.int("VM", vm, "domid")? == domain;
            if unchanged && power_of(world, vm)? != Power::Halted {
                mean_to_run(world, vm, false)?;
                halt(world, vm)?;
                let how = if name == "hard_shutdown" {
                    "shutdown forcibly"
                } else {
                    "shutdown"
                };
                message::tell(world, "VM_SHUTDOWN", vm, how)?;
            }
            Ok(())
        })?;
        done()
    })
}

async fn reboot(shared: Arc<Shared>, call: Arc<Call>, name: &'static str) -> Reply {
    let vm = call.text(0);
    let operation = Operation::begin(&shared, &call, name).await?;
    if name == "hard_reboot" {
        operation.overtake(OVERTAKEN);
    }
    operation.work().await?;
    backing::stop(&shared, vm, name == "clean_reboot").await;
    let plan = shared.with(|world| BootPlan::of(world, vm))?;
    let booted = match backing::boot(&shared, plan).await {
        Ok(booted) => booted,
        Err(failure) => {
            operation.finish(|world| halt(world, vm))?;
            return Err(failure);
        }
    };
    operation.finish(|world| {
        let host = world.db.text("VM", vm, "resident_on")?;
        leave_host(world, vm)?;
        report::forget(world, vm)?;
        let domain = build(world, vm, &host, Power::Running)?;
        backing::follow(&shared, world, vm, domain, booted);
        let how = if name == "clean_reboot" {
            "rebooted cleanly"
        } else {
            "rebooted forcibly"
        };
        message::tell(world, "VM_REBOOTED", vm, how)
    })?;
    done()
}

fn pause(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        let operation = Operation::begin(&shared, &call, "pause").await?;
        operation.work().await?;
        backing::sleep(&shared, call.text(0)).await;
        operation.finish(|world| {
            world
                .db
                .set("VM", call.text(0), "power_state", Power::Paused.name())
        })?;
        done()
    })
}

async fn unpause(shared: Arc<Shared>, call: Arc<Call>) -> Reply {
    let vm = call.text(0);
    let operation = Operation::begin(&shared, &call, "unpause").await?;
    operation.work().await?;
    // A VM that was started paused has not booted yet.
    let plan = shared.with(|world| {
        if world.running.contains_key(vm) {
            Ok(None)
        } else {
            BootPlan::of(world, vm)
        }
    })?;
    let booted = backing::boot(&shared, plan).await?;
    operation.finish(|world| {
        world
            .db
            .set("VM", vm, "power_state", Power::Running.name())?;
        let domain = world.db.int("VM", vm, "domid")?;
        backing::follow(&shared, world, vm, domain, booted);
        Ok(())
    })?;
    backing::wake(&shared, vm);
    done()
}

fn power_state_reset(world: &mut World, call: &Call) -> Reply {
    let vm = call.text(0);
    check(world, vm, "power_state_reset")?;
    if world.db.flag("VM", vm, "is_control_domain")? {
        return Err(Failure::new("CANNOT_RESET_CONTROL_DOMAIN", [vm]));
    }
    if power_of(world, vm)?.is_live() {
        let host = world.db.text("VM", vm, "resident_on")?;
        if host == world.coordinator() {
            return Err(Failure::new("DOMAIN_EXISTS", [vm]));
        }
        // What a member runs is its own affair, as long as it is there.
        let metrics = world.db.text("host", &host, "metrics");
        let live = metrics.and_then(|metrics| world.db.flag("host_metrics", &metrics, "live"));
        if live.unwrap_or(false) {
            return Err(Failure::new("HOST_IS_LIVE", [host]));
        }
    }
    halt(world, vm)?;
    done()
}

/// `VM.pool_migrate(vm, host, options)`: moves a running VM to another host that has what it
/// needs. Its domain there is a new one, its guest the same.
fn pool_migrate(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        let (vm, host) = (call.text(0), call.text(1));
        let begin = |world: &mut World| {
            check(world, vm, "pool_migrate")?;
            vm_placement::assert_can_boot(world, vm, host, true)?;
            let mut operation = Operation::begin_with(&shared, world, &call, "pool_migrate")?;
            operation.also(world, Mark::new("host", host, "vm_migrate"));
            Ok(operation)
        };
        let operation = shared.patiently(begin).await?;
        operation.work().await?;
        operation.finish(|world| {
            world.counters.domains += 1;
            let domain = world.counters.domains;
            world.db.set("VM", vm, "domid", domain)?;
            world.db.set("VM", vm, "resident_on", host)?;
            vm_placement::account(world);
            Ok(())
        })?;
        done()
    })
}
