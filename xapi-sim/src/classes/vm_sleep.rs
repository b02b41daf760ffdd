//! VMs that sleep and wake up.

use std::sync::Arc;

use super::operation::{Mark, Operation};
use super::vm_power::{build, leave_host, mean_to_run, tell_place};
use super::{Table, check, done, message, vbd, vm_placement};
use crate::backing::{self, BootPlan};
use crate::dispatch::Handler::Later;
use crate::dispatch::Pending;
use crate::failure::Failure;
use crate::json;
use crate::lifecycle::Power;
use crate::value::{NULL_REF, Value};
use crate::world::{Call, Shared, World};

pub(crate) const TABLE: Table = &[
    ("VM.suspend", Later(suspend)),
    ("VM.resume", Later(resume)),
    ("VM.resume_on", Later(resume)),
];

fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let fields = fields.map(|(name, value)| (name.to_owned(), value));
    Value::Struct(fields.to_vec())
}

/// Keeps what a VM is to wake up as, in the form in which the daemon of a host tells it.
fn remember(world: &mut World, vm: &str) -> Result<(), Failure> {
    let db = &world.db;
    let uuid = db.text("VM", vm, "uuid")?;
    let metrics = db.text("VM", vm, "metrics")?;
    let started = db.text("VM_metrics", &metrics, "start_time")?;
    let started = crate::clock::seconds_of(&started).unwrap_or_default();
    let mut vifs = Vec::new();
    for vif in db.list("VM", vm, "VIFs")? {
        vifs.push(remembered_vif(world, &uuid, &vif)?);
    }
    let mut vbds = Vec::new();
    for device in db.list("VM", vm, "VBDs")? {
        if !db.flag("VBD", &device, "empty")? {
            vbds.push(remembered_vbd(world, &uuid, &device)?);
        }
    }
    let none = || Value::Array(Vec::new());
    let record = object([
        ("last_create_time", Value::Float(started as f64)),
        ("xsdata", Value::Struct(Vec::new())),
        ("vusbs", none()),
        ("vgpus", none()),
        ("pcis", none()),
        ("vifs", Value::Array(vifs)),
        ("vbds", Value::Array(vbds)),
        ("suspended", Value::Bool(true)),
        ("qemu_created", Value::Bool(false)),
        (
            "memory_dynamic_max",
            db.get("VM", vm, "memory_dynamic_max")?.clone(),
        ),
        (
            "memory_dynamic_min",
            db.get("VM", vm, "memory_dynamic_min")?.clone(),
        ),
        (
            "shadow_multiplier",
            db.get("VM", vm, "HVM_shadow_multiplier")?.clone(),
        ),
        ("vcpus", db.get("VM", vm, "VCPUs_at_startup")?.clone()),
        ("built", Value::Bool(true)),
        ("paused", Value::Bool(true)),
        (
            "hvm",
            Value::Bool(db.text("VM", vm, "domain_type")? == "hvm"),
        ),
        ("uuid", Value::String(uuid)),
        ("domid", db.get("VM", vm, "domid")?.clone()),
    ]);
    let mut text = String::new();
    json::write(&mut text, &record);
    world.db.set("VM", vm, "last_booted_record", text)
}

fn remembered_vif(world: &World, vm: &str, vif: &str) -> Result<Value, Failure> {
    let db = &world.db;
    let text = |field: &str| db.text("VIF", vif, field);
    let network = text("network")?;
    let device = text("device")?;
    let bridge = db.text("network", &network, "bridge")?;
    let keys = object([
        ("vif-uuid", Value::String(text("uuid")?)),
        (
            "network-uuid",
            Value::String(db.text("network", &network, "uuid")?),
        ),
    ]);
    let position = device.parse().unwrap_or_default();
    Ok(object([
        ("trunks", Value::Array(Vec::new())),
        ("ipv6_configuration", Value::from("Unspecified6")),
        ("ipv4_configuration", Value::from("Unspecified4")),
        ("extra_private_keys", keys),
        ("locking_mode", Value::from("Unlocked")),
        ("other_config", db.get("VIF", vif, "other_config")?.clone()),
        ("backend", Value::strings(["Local".to_owned(), bridge])),
        ("mtu", db.get("VIF", vif, "MTU")?.clone()),
        ("carrier", Value::Bool(true)),
        ("mac", Value::String(text("MAC")?)),
        ("position", Value::Int(position)),
        ("id", Value::strings([vm.to_owned(), device])),
    ]))
}

fn remembered_vbd(world: &World, vm: &str, device: &str) -> Result<Value, Failure> {
    let db = &world.db;
    let text = |field: &str| db.text("VBD", device, field);
    let vdi = text("VDI")?;
    let sr = db.text("VDI", &vdi, "SR")?;
    let place = format!(
        "{}/{}",
        db.text("SR", &sr, "uuid")?,
        db.text("VDI", &vdi, "location")?
    );
    let (drive, mode) = (text("type")? == "CD", text("mode")?);
    let kind = if drive { "CDROM" } else { "Disk" };
    let mode = if mode == "RW" {
        "ReadWrite"
    } else {
        "ReadOnly"
    };
    let number = vbd::disk_number(&text("userdevice")?).unwrap_or_default();
    let position = vec![Value::from("Ide"), Value::Int(number), Value::Int(0)];
    let polling = [
        ("polling-duration", "8000"),
        ("polling-idle-threshold", "50"),
    ];
    Ok(object([
        ("can_attach_early", Value::Bool(false)),
        (
            "persistent",
            Value::Bool(db.text("VDI", &vdi, "on_boot")? == "persist"),
        ),
        ("extra_private_keys", Value::Struct(Vec::new())),
        ("extra_backend_keys", Value::map(polling)),
        ("unpluggable", db.get("VBD", device, "unpluggable")?.clone()),
        ("ty", Value::from(kind)),
        ("backend", Value::strings(["VDI".to_owned(), place])),
        ("mode", Value::from(mode)),
        ("position", Value::Array(position)),
        ("id", Value::strings([vm.to_owned(), text("device")?])),
    ]))
}

/// Suspends a VM. Its guest has no image: its processes stay where they are, stopped.
fn suspend(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        let vm = call.text(0);
        let operation = Operation::begin(&shared, &call, "suspend").await?;
        operation.work().await?;
        backing::sleep(&shared, vm).await;
        operation.finish(|world| {
            mean_to_run(world, vm, false)?;
            remember(world, vm)?;
            let image = super::vdi::suspend_image(world, vm)?;
            world.db.set("VM", vm, "suspend_VDI", image)?;
            leave_host(world, vm)?;
            world
                .db
                .set("VM", vm, "power_state", Power::Suspended.name())?;
            vm_placement::account(world);
            message::tell(world, "VM_SUSPENDED", vm, "suspended")
        })?;
        done()
    })
}

/// `VM.resume(vm, start_paused, force)` and `VM.resume_on(vm, host, start_paused, force)`.
fn resume(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        let vm = call.text(0);
        let pinned = call.message.name == "resume_on";
        let paused = call.flag(if pinned { 2 } else { 1 });
        let name = if pinned { "resume_on" } else { "resume" };
        let begin = |world: &mut World| {
            check(world, vm, name)?;
            let host = if pinned {
                let host = call.text(1).to_owned();
                vm_placement::assert_can_boot(world, vm, &host, true)?;
                host
            } else {
                vm_placement::choose(world, vm)?
            };
            // What a checkpoint has kept of a guest is its disk.
            let plan = if paused || world.running.contains_key(vm) {
                None
            } else {
                BootPlan::of(world, vm)?
            };
            let mut operation = Operation::begin_with(&shared, world, &call, name)?;
            operation.also(world, Mark::new("host", host.as_str(), "vm_resume"));
            Ok((operation, host, plan))
        };
        let (operation, host, plan) = shared.patiently(begin).await?;
        operation.work().await?;
        let booted = backing::boot(&shared, plan).await?;
        operation.finish(|world| {
            let image = world.db.text("VM", vm, "suspend_VDI")?;
            world.db.set("VM", vm, "suspend_VDI", NULL_REF)?;
            // It may have been destroyed by hand.
            let _ = world.db.destroy("VDI", &image);
            let domain = build(world, vm, &host, Power::awake(paused))?;
            backing::follow(&shared, world, vm, domain, booted);
            tell_place(world, "VM_RESUMED", vm, "resumed", &host)
        })?;
        if !paused {
            backing::wake(&shared, vm);
        }
        done()
    })
}
