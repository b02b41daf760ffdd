//! The way back from a snapshot: `VM.revert`.

use std::sync::Arc;

use super::operation::Operation;
use super::vdi_copy::{self, CopyKind, Unfinished};
use super::vm_copy::{copy_metrics, copy_report, copy_vbd};
use super::{Table, done, message, power_of, refresh, vbd, vdi, vif, vm, vm_power};
use crate::backing;
use crate::dbtext;
use crate::dispatch::Handler::Later;
use crate::failure::{Failure, Reply};
use crate::lifecycle::Power;
use crate::value::{NULL_REF, Value};
use crate::world::{Call, Shared, World};

pub(crate) const TABLE: Table = &[(
    "VM.revert",
    Later(|shared, call| Box::pin(revert(shared, call))),
)];

/// `VM.revert(snapshot)`: the VM keeps its reference, its devices and disks become new ones. A VM
/// that is gone comes back under its old uuid.
async fn revert(shared: Arc<Shared>, call: Arc<Call>) -> Reply {
    let snapshot = call.text(0);
    let vm = shared.with(|world| original(world, snapshot))?;
    let operation = Operation::begin(&shared, &call, "revert").await?;
    let reverting = shared
        .patiently(|world| Operation::begin_for(&shared, world, &call, &vm, "reverting"))
        .await?;
    operation.work().await?;
    if shared.with(|world| power_of(world, &vm))? != Power::Halted {
        backing::stop(&shared, &vm, false).await;
        shared.with(|world| {
            vm_power::halt(world, &vm)?;
            message::tell(world, "VM_SHUTDOWN", &vm, "shutdown forcibly")
        })?;
    }
    let mut made = Unfinished::new(&shared);
    let copies = match copy_disks(&shared, &call.task, snapshot, &mut made).await {
        Ok(copies) => copies,
        // What the storage lacks is told as it is.
        Err(failure)
            if matches!(
                failure.code.as_str(),
                "SR_BACKEND_FAILURE_44" | "SR_BACKEND_FAILURE_109" | "VDI_INCOMPATIBLE_TYPE"
            ) =>
        {
            return Err(failure);
        }
        Err(_) => return Err(failed(snapshot, &vm)),
    };
    let released = reverting.finish(|world| restore(world, &vm, snapshot, &copies))?;
    made.keep();
    for disk in released {
        vdi::release(disk).await;
    }
    done()
}

fn failed(snapshot: &str, vm: &str) -> Failure {
    Failure::new("VM_REVERT_FAILED", [snapshot, vm])
}

/// The VM of a snapshot, made anew from what the snapshot knows if it has been destroyed.
fn original(world: &mut World, snapshot: &str) -> Result<String, Failure> {
    let vm = world.db.text("VM", snapshot, "snapshot_of")?;
    if world.db.exists("VM", &vm) {
        return Ok(vm);
    }
    let metadata = world.db.text("VM", snapshot, "snapshot_metadata")?;
    let pairs = dbtext::read_pairs(&metadata).unwrap_or_default();
    let Some((_, uuid)) = pairs.into_iter().find(|(column, _)| column == "uuid") else {
        return Err(failed(snapshot, &vm));
    };
    let metrics = vm::new_metrics(world)?;
    let values = vec![
        ("uuid", Value::String(uuid)),
        ("power_state", Value::from(Power::Halted.name())),
        ("domid", Value::Int(-1)),
        ("metrics", Value::String(metrics)),
    ];
    let anew = world.create("VM", values)?;
    restore_fields(world, &anew, snapshot)?;
    for other in world.db.references("VM") {
        if world.db.text("VM", &other, "snapshot_of")? == vm {
            world.db.set("VM", &other, "snapshot_of", anew.as_str())?;
        }
    }
    Ok(anew)
}

/// A device of the snapshot, the disk that its copy gets, and of which disk that is a version.
struct CopiedDisk {
    device: String,
    disk: String,
    version_of: Option<String>,
}

async fn copy_disks(
    shared: &Arc<Shared>,
    task: &str,
    snapshot: &str,
    made: &mut Unfinished,
) -> Result<Vec<CopiedDisk>, Failure> {
    let devices = shared.with(|world| {
        let mut devices = Vec::new();
        for device in world.db.list("VM", snapshot, "VBDs")? {
            let vdi = world.db.text("VBD", &device, "VDI")?;
            let disk = world.db.text("VBD", &device, "type")? == "Disk" && vdi != NULL_REF;
            let version_of = if disk {
                Some(world.db.text("VDI", &vdi, "snapshot_of")?)
            } else {
                None
            };
            devices.push((device, vdi, version_of));
        }
        Ok(devices)
    })?;
    let mut copies = Vec::new();
    for (device, vdi, version_of) in devices {
        let disk = if version_of.is_some() {
            let copy = vdi_copy::copy(shared, task, &vdi, CopyKind::Clone, None).await?;
            made.add(&copy);
            copy
        } else {
            vdi
        };
        copies.push(CopiedDisk {
            device,
            disk,
            version_of,
        });
    }
    Ok(copies)
}

/// The columns that a VM keeps: its identity, its place in the tree, and what is done anew below.
const KEPT: &[&str] = &[
    "uuid",
    "_ref",
    "suspend_VDI",
    "power_state",
    "parent",
    "children",
    "current_operations",
    "allowed_operations",
    "metrics",
    "guest_metrics",
    "resident_on",
    "domid",
    "protection_policy",
    "snapshot_schedule",
    "scheduled_to_be_resident_on",
    "snapshots",
    "tags",
    "affinity",
    "groups",
    "consoles",
    "VBDs",
    "VIFs",
    "VGPUs",
    "VUSBs",
    "VTPMs",
    "attached_PCIs",
    "is_snapshot_from_vmpp",
];

/// Gives a VM the fields that it had at the time of the snapshot.
fn restore_fields(world: &mut World, vm: &str, snapshot: &str) -> Result<(), Failure> {
    let metadata = world.db.text("VM", snapshot, "snapshot_metadata")?;
    let pairs = dbtext::read_pairs(&metadata).unwrap_or_default();
    let fields = world.db.table("VM").map_or(&[][..], |t| t.class.fields);
    for (column, text) in pairs {
        if KEPT.contains(&column.as_str()) {
            continue;
        }
        let Some(field) = fields.iter().find(|field| field.column == column) else {
            continue;
        };
        let value = match field.name {
            "ha_always_run" => Some(Value::Bool(false)),
            _ => dbtext::read(field.ty, &text),
        };
        if let Some(value) = value {
            world.db.set("VM", vm, field.name, value)?;
        }
    }
    Ok(())
}

type Released = Vec<Option<backing::Disk>>;

fn restore(
    world: &mut World,
    vm: &str,
    snapshot: &str,
    copies: &[CopiedDisk],
) -> Result<Released, Failure> {
    restore_fields(world, vm, snapshot)?;
    let released = replace_devices(world, vm, snapshot, copies)?;
    let report = world.db.text("VM", vm, "guest_metrics")?;
    if world.db.exists("VM_guest_metrics", &report) {
        world.db.destroy("VM_guest_metrics", &report)?;
    }
    let report = copy_report(world, snapshot)?;
    if report != NULL_REF {
        world.db.set("VM", vm, "guest_metrics", report)?;
    }
    let metrics = world.db.text("VM", vm, "metrics")?;
    if world.db.exists("VM_metrics", &metrics) {
        world.db.destroy("VM_metrics", &metrics)?;
    }
    let metrics = copy_metrics(world, snapshot)?;
    world.db.set("VM", vm, "metrics", metrics)?;
    let genid = vm::fresh_genid(world, vm)?;
    world.db.set("VM", vm, "generation_id", genid)?;
    world.db.set("VM", vm, "parent", snapshot)?;
    let power = power_of(world, snapshot)?;
    if power == Power::Suspended {
        let image = vdi::suspend_image(world, vm)?;
        world.db.set("VM", vm, "suspend_VDI", image)?;
    } else {
        vm::detach_devices(world, vm)?;
    }
    world.db.set("VM", vm, "power_state", power.name())?;
    refresh(world, vm);
    Ok(released)
}

/// Takes a VM's devices away and copies those of the snapshot. Disks of which the snapshot has a
/// version are replaced; others stay, attached to nothing.
fn replace_devices(
    world: &mut World,
    vm: &str,
    snapshot: &str,
    copies: &[CopiedDisk],
) -> Result<Released, Failure> {
    let mut released = Vec::new();
    for device in world.db.list("VM", vm, "VBDs")? {
        let vdi = world.db.text("VBD", &device, "VDI")?;
        vbd::remove(&mut world.db, &device)?;
        let replaced = copies
            .iter()
            .any(|copy| copy.version_of.as_deref() == Some(vdi.as_str()));
        if replaced && world.db.exists("VDI", &vdi) {
            released.push(vdi::remove(world, &vdi)?);
        } else {
            vdi::refresh(world, &vdi);
        }
    }
    for device in world.db.list("VM", vm, "VIFs")? {
        vif::remove(&mut world.db, &device)?;
    }
    for copy in copies {
        copy_vbd(world, &copy.device, vm, &copy.disk)?;
        // Every version of the old disk is a version of the new one from now on.
        for other in world.db.references("VDI") {
            let of = world.db.text("VDI", &other, "snapshot_of")?;
            if of != NULL_REF && copy.version_of.as_ref() == Some(&of) {
                world
                    .db
                    .set("VDI", &other, "snapshot_of", copy.disk.as_str())?;
            }
        }
    }
    for device in world.db.list("VM", snapshot, "VIFs")? {
        vif::copy(world, &device, vm, true)?;
    }
    Ok(released)
}
