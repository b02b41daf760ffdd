//! Snapshots of VMs and the way back.

use std::sync::Arc;

use super::operation::Operation;
use super::vdi::{self, CopyKind};
use super::vm_copy::{Purpose, copy_vbd, duplicate};
use super::{Table, check, done, refresh, vbd, vif, vm_power};
use crate::backing;
use crate::dispatch::Handler::Later;
use crate::failure::{Failure, Reply};
use crate::lifecycle::Power;
use crate::value::{NULL_REF, Value};
use crate::world::{Call, Shared, World};

pub(crate) const TABLE: Table = &[
    (
        "VM.snapshot",
        Later(|shared, call| Box::pin(snapshot(shared, call))),
    ),
    (
        "VM.checkpoint",
        Later(|shared, call| Box::pin(checkpoint(shared, call))),
    ),
    (
        "VM.revert",
        Later(|shared, call| Box::pin(revert(shared, call))),
    ),
];

/// `VM.snapshot(vm, new_name, ignore_vdis)`.
async fn snapshot(shared: Arc<Shared>, call: Arc<Call>) -> Reply {
    let vm = call.text(0);
    let operation = Operation::begin(&shared, &call, "snapshot").await?;
    operation.work().await;
    let ignored: Vec<String> = call
        .arg(2)
        .items()
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let purpose = Purpose {
        disks: CopyKind::Snapshot,
        snapshot: true,
    };
    let copy = duplicate(&shared, vm, call.text(1), &purpose, None, &ignored).await?;
    operation.finish(|world| world.db.set("VM", vm, "parent", copy.as_str()))?;
    Ok(Value::String(copy))
}

/// `VM.checkpoint(vm, new_name)`: a snapshot with the memory, which sleeps.
async fn checkpoint(shared: Arc<Shared>, call: Arc<Call>) -> Reply {
    let vm = call.text(0);
    let operation = Operation::begin(&shared, &call, "checkpoint").await?;
    operation.work().await;
    let purpose = Purpose {
        disks: CopyKind::Snapshot,
        snapshot: true,
    };
    let copy = duplicate(&shared, vm, call.text(1), &purpose, None, &[]).await?;
    operation.finish(|world| {
        let image = vdi::suspend_image(world, &copy)?;
        world.db.set("VM", &copy, "suspend_VDI", image)?;
        world
            .db
            .set("VM", &copy, "power_state", Power::Suspended.name())?;
        refresh(world, &copy);
        world.db.set("VM", vm, "parent", copy.as_str())
    })?;
    Ok(Value::String(copy))
}

/// What a VM gets back from its snapshot.
const RESTORED: &[&str] = &[
    "name_description",
    "user_version",
    "memory_static_max",
    "memory_dynamic_max",
    "memory_dynamic_min",
    "memory_static_min",
    "memory_target",
    "memory_overhead",
    "VCPUs_params",
    "VCPUs_max",
    "VCPUs_at_startup",
    "actions_after_softreboot",
    "actions_after_shutdown",
    "actions_after_reboot",
    "actions_after_crash",
    "HVM_boot_policy",
    "HVM_boot_params",
    "HVM_shadow_multiplier",
    "platform",
    "other_config",
    "recommendations",
    "xenstore_data",
    "tags",
    "domain_type",
    "NVRAM",
    "has_vendor_device",
];

/// `VM.revert(snapshot)`: the VM keeps its reference, its devices and disks become new ones.
async fn revert(shared: Arc<Shared>, call: Arc<Call>) -> Reply {
    let snapshot = call.text(0);
    let vm = shared.with(|world| {
        let vm = world.db.text("VM", snapshot, "snapshot_of")?;
        if !world.db.exists("VM", &vm) {
            return Err(Failure::new("VM_REVERT_FAILED", [snapshot, vm.as_str()]));
        }
        check(world, snapshot, "revert")?;
        Ok(vm)
    })?;
    let operation = Operation::begin(&shared, &call, "revert").await?;
    operation.work().await;
    backing::stop(&shared, &vm, false).await;
    let disks = shared.with(|world| {
        vm_power::halt(world, &vm)?;
        let mut disks = Vec::new();
        for device in world.db.list("VM", snapshot, "VBDs")? {
            let vdi = world.db.text("VBD", &device, "VDI")?;
            let disk = world.db.text("VBD", &device, "type")? == "Disk";
            disks.push((device, vdi, disk));
        }
        Ok(disks)
    })?;
    let mut copies = Vec::new();
    for (device, vdi, disk) in disks {
        let copy = if disk && vdi != NULL_REF {
            vdi::copy(&shared, &vdi, CopyKind::Clone, None).await?
        } else {
            vdi
        };
        copies.push((device, copy, disk));
    }
    let released = operation.finish(|world| restore(world, &vm, snapshot, &copies))?;
    for disk in released {
        vdi::release(disk).await;
    }
    done()
}

type Released = Vec<Option<backing::Disk>>;

fn restore(
    world: &mut World,
    vm: &str,
    snapshot: &str,
    copies: &[(String, String, bool)],
) -> Result<Released, Failure> {
    let mut released = Vec::new();
    for device in world.db.list("VM", vm, "VBDs")? {
        let vdi = world.db.text("VBD", &device, "VDI")?;
        let disk = world.db.text("VBD", &device, "type")? == "Disk";
        vbd::remove(&mut world.db, &device)?;
        if disk && world.db.exists("VDI", &vdi) {
            released.push(vdi::remove(world, &vdi)?);
        }
    }
    for device in world.db.list("VM", vm, "VIFs")? {
        vif::remove(&mut world.db, &device)?;
    }
    let record = world.db.record("VM", snapshot)?;
    for field in RESTORED {
        if let Some(value) = record.get(field) {
            world.db.set("VM", vm, field, value.clone())?;
        }
    }
    for (device, vdi, disk) in copies {
        copy_vbd(world, device, vm, vdi, *disk)?;
        if *disk {
            world.db.set("VDI", vdi, "is_a_snapshot", false)?;
        }
    }
    for device in world.db.list("VM", snapshot, "VIFs")? {
        vif::copy(world, &device, vm, true)?;
    }
    world.db.set("VM", vm, "parent", snapshot)?;
    if world.db.text("VM", snapshot, "power_state")? == Power::Suspended.name() {
        let image = vdi::suspend_image(world, vm)?;
        world.db.set("VM", vm, "suspend_VDI", image)?;
        world
            .db
            .set("VM", vm, "power_state", Power::Suspended.name())?;
    }
    refresh(world, vm);
    Ok(released)
}
