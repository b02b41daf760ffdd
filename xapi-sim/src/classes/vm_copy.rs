//! VMs from other VMs: clones, copies, and what snapshots share with them.

use std::sync::Arc;

use super::operation::Operation;
use super::vdi_copy::{self, CopyKind, Unfinished};
use super::{Table, power_of, refresh, vbd, vdi, vif, vm};
use crate::dispatch::Handler::Later;
use crate::failure::{Failure, Reply};
use crate::lifecycle::Power;
use crate::value::{NULL_REF, Value};
use crate::world::{Call, Shared, World};

pub(crate) const TABLE: Table = &[
    (
        "VM.clone",
        Later(|shared, call| Box::pin(clone(shared, call))),
    ),
    (
        "VM.csvm",
        Later(|shared, call| Box::pin(clone_suspended(shared, call))),
    ),
    (
        "VM.copy",
        Later(|shared, call| Box::pin(copy(shared, call))),
    ),
];

/// `VM.clone(vm, new_name)`.
async fn clone(shared: Arc<Shared>, call: Arc<Call>) -> Reply {
    let operation = Operation::begin(&shared, &call, "clone").await?;
    operation.work().await?;
    duplicate(
        &shared,
        &call.task,
        call.text(0),
        call.text(1),
        Purpose::Clone,
        &[],
    )
    .await
    .map(Value::String)
}

/// `VM.csvm(vm)`, from before suspended VMs had checkpoints.
async fn clone_suspended(shared: Arc<Shared>, call: Arc<Call>) -> Reply {
    let vm = call.text(0);
    let operation = Operation::begin(&shared, &call, "csvm").await?;
    operation.work().await?;
    let label = shared.with(|world| world.db.text("VM", vm, "name_label"))?;
    let name = format!("{label}-cloned-suspended");
    let copy = duplicate(&shared, &call.task, vm, &name, Purpose::Clone, &[]);
    copy.await.map(Value::String)
}

/// `VM.copy(vm, new_name, sr)`. A reference to no SR is no failure: each disk then stays where
/// it is.
async fn copy(shared: Arc<Shared>, call: Arc<Call>) -> Reply {
    let operation = Operation::begin(&shared, &call, "copy").await?;
    operation.work().await?;
    let sr = call.text(2);
    let content = shared.with(|world| world.db.text("SR", sr, "content_type"));
    if content.as_ref().is_ok_and(|content| content == "iso") {
        let text = "Cannot copy a VM's disks to an ISO SR";
        return Err(Failure::not_allowed(text));
    }
    let purpose = Purpose::Copy(content.is_ok().then_some(sr));
    duplicate(
        &shared,
        &call.task,
        call.text(0),
        call.text(1),
        purpose,
        &[],
    )
    .await
    .map(Value::String)
}

/// What a duplicate of a VM is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose<'c> {
    Clone,
    /// With the SR that takes the disks, if they do not stay where they are.
    Copy(Option<&'c str>),
    Snapshot,
    Checkpoint,
}

impl Purpose<'_> {
    fn disks(self) -> CopyKind {
        match self {
            Purpose::Clone => CopyKind::Clone,
            Purpose::Copy(_) => CopyKind::Copy,
            Purpose::Snapshot | Purpose::Checkpoint => CopyKind::Snapshot,
        }
    }

    fn is_snapshot(self) -> bool {
        matches!(self, Purpose::Snapshot | Purpose::Checkpoint)
    }

    /// The state of the duplicate: what has memory to keep sleeps.
    fn power(self, original: Power) -> Power {
        match (self, original) {
            (Purpose::Checkpoint, Power::Running | Power::Suspended)
            | (Purpose::Clone | Purpose::Copy(_), Power::Suspended) => Power::Suspended,
            _ => Power::Halted,
        }
    }
}

/// A device and the disk that its copy refers to.
type CopiedDisk = (String, String, bool);

/// Makes a VM from another with its disks and devices. When something fails, what was made so far
/// goes again.
pub(crate) async fn duplicate(
    shared: &Arc<Shared>,
    task: &str,
    source: &str,
    name: &str,
    purpose: Purpose<'_>,
    ignored_disks: &[String],
) -> Result<String, Failure> {
    let vbds = shared.with(|world| {
        let mut vbds = Vec::new();
        for vbd in world.db.list("VM", source, "VBDs")? {
            let vdi = world.db.text("VBD", &vbd, "VDI")?;
            let kind = world.db.text("VBD", &vbd, "type")?;
            if !ignored_disks.contains(&vdi) {
                // Images in drives are shared, and empty drives stay empty.
                let shared = kind != "Disk" || vdi == NULL_REF;
                vbds.push((vbd, vdi, shared));
            }
        }
        Ok(vbds)
    })?;
    let mut copies: Vec<CopiedDisk> = Vec::new();
    let mut made = Unfinished::new(shared);
    for (vbd, vdi, shares) in vbds {
        if shares {
            copies.push((vbd, vdi, false));
            continue;
        }
        let target = match purpose {
            Purpose::Copy(target) => target,
            _ => None,
        };
        match vdi_copy::copy(shared, task, &vdi, purpose.disks(), target).await {
            Ok(copy) => {
                made.add(&copy);
                copies.push((vbd, copy, true));
            }
            Err(failure) => {
                made.discard().await;
                return Err(failure);
            }
        }
    }
    let vm = shared.with(|world| record(world, source, name, purpose, &copies));
    match vm {
        Ok(_) => made.keep(),
        Err(_) => made.discard().await,
    }
    vm
}

/// Fields that a copy starts afresh with, or that get values of their own below.
const NOT_COPIED: &[&str] = &[
    "uuid",
    "allowed_operations",
    "current_operations",
    "blocked_operations",
    "name_label",
    "power_state",
    "is_default_template",
    "suspend_VDI",
    "resident_on",
    "scheduled_to_be_resident_on",
    "consoles",
    "VIFs",
    "VBDs",
    "VUSBs",
    "VTPMs",
    "VGPUs",
    "crash_dumps",
    "attached_PCIs",
    "domid",
    "domarch",
    "metrics",
    "guest_metrics",
    "ha_always_run",
    "snapshots",
    "snapshot_of",
    "snapshot_time",
    "snapshot_info",
    "snapshot_metadata",
    "is_a_snapshot",
    "transportable_snapshot_id",
    "blobs",
    "parent",
    "children",
    "protection_policy",
    "is_snapshot_from_vmpp",
    "snapshot_schedule",
    "is_vmss_snapshot",
    "appliance",
    "start_delay",
    "shutdown_delay",
    "order",
    "suspend_SR",
    "version",
    "generation_id",
    "requires_reboot",
    "pending_guidances",
    "pending_guidances_recommended",
    "pending_guidances_full",
    "groups",
    "other_config",
    "is_a_template",
];

fn record(
    world: &mut World,
    source: &str,
    name: &str,
    purpose: Purpose<'_>,
    copies: &[CopiedDisk],
) -> Result<String, Failure> {
    let original = world.db.record("VM", source)?;
    let power = power_of(world, source)?;
    let metrics = copy_metrics(world, source)?;
    let report = copy_report(world, source)?;
    let mut values: Vec<(&str, Value)> = original
        .members()
        .iter()
        .filter(|(field, _)| !NOT_COPIED.contains(&field.as_str()))
        .map(|(field, value)| (field.as_str(), value.clone()))
        .collect();
    let template = original
        .get("is_a_template")
        .and_then(Value::as_bool)
        .unwrap_or_default();
    let other_config = other_config(world, &original, purpose.is_snapshot(), template);
    let genid = vm::fresh_genid(world, source)?;
    values.extend([
        ("name_label", Value::from(name)),
        ("power_state", Value::from(purpose.power(power).name())),
        (
            "is_a_template",
            Value::Bool(purpose.is_snapshot() || template),
        ),
        ("domid", Value::Int(-1)),
        ("metrics", Value::String(metrics)),
        ("guest_metrics", Value::String(report)),
        ("generation_id", genid),
        ("other_config", other_config),
    ]);
    if purpose.is_snapshot() {
        let parent = original.get("parent").cloned();
        let info = [
            ("disk-snapshot-type", "crash_consistent"),
            ("power-state-at-snapshot", power.name()),
        ];
        values.extend([
            ("is_a_snapshot", Value::Bool(true)),
            ("snapshot_of", Value::from(source)),
            ("snapshot_time", Value::DateTime(world.clock.now())),
            ("parent", parent.unwrap_or_else(Value::null_ref)),
            ("snapshot_info", Value::map(info)),
            (
                "snapshot_metadata",
                Value::String(world.db.dump("VM", source)?),
            ),
        ]);
    }
    let copy = world.create("VM", values)?;
    for (device, disk, made) in copies {
        let device = copy_vbd(world, device, &copy, disk)?;
        if *made {
            own(world, &device)?;
        }
    }
    for device in world.db.list("VM", source, "VIFs")? {
        vif::copy(world, &device, &copy, purpose.is_snapshot())?;
    }
    match purpose.power(power) {
        Power::Suspended => {
            let image = vdi::suspend_image(world, &copy)?;
            world.db.set("VM", &copy, "suspend_VDI", image)?;
        }
        // What does not sleep is attached to nothing.
        _ => vm::detach_devices(world, &copy)?,
    }
    refresh(world, &copy);
    Ok(copy)
}

/// The metrics of a VM under a reference of the copy's own, or fresh ones if it has none.
pub(crate) fn copy_metrics(world: &mut World, source: &str) -> Result<String, Failure> {
    let metrics = world.db.text("VM", source, "metrics")?;
    if world.db.exists("VM_metrics", &metrics) {
        copy_object(world, "VM_metrics", &metrics)
    } else {
        vm::new_metrics(world)
    }
}

/// What a VM's guest last reported, stale or not, under a reference of the copy's own.
pub(crate) fn copy_report(world: &mut World, source: &str) -> Result<String, Failure> {
    let report = world.db.text("VM", source, "guest_metrics")?;
    if world.db.exists("VM_guest_metrics", &report) {
        copy_object(world, "VM_guest_metrics", &report)
    } else {
        Ok(NULL_REF.to_owned())
    }
}

fn copy_object(world: &mut World, class: &'static str, reference: &str) -> Result<String, Failure> {
    let record = world.db.record(class, reference)?;
    let values = record.members().iter();
    let values = values.filter(|(field, _)| field != "uuid");
    let values = values.map(|(field, value)| (field.as_str(), value.clone()));
    world.create(class, values.collect())
}

/// A copy gets a seed of its own, so that its interfaces get addresses of their own, and
/// remembers which template it came from.
fn other_config(world: &mut World, original: &Value, snapshot: bool, template: bool) -> Value {
    let source = original
        .get("other_config")
        .map(|map| map.members().to_vec());
    let mut members = source.unwrap_or_default();
    if !snapshot {
        let seed = world.seed.uuid_value();
        match members.iter_mut().find(|(key, _)| key == "mac_seed") {
            Some((_, value)) => *value = seed,
            None => members.insert(0, ("mac_seed".to_owned(), seed)),
        }
    }
    members.retain(|(key, _)| !matches!(key.as_str(), "default_template" | "xensource_internal"));
    if template && !members.iter().any(|(key, _)| key == "base_template_name") {
        let label = original
            .get("name_label")
            .cloned()
            .unwrap_or_else(Value::void);
        members.insert(0, ("base_template_name".to_owned(), label));
    }
    Value::Struct(members)
}

/// Copies a block device to another VM, with another disk.
pub(crate) fn copy_vbd(
    world: &mut World,
    device: &str,
    vm: &str,
    disk: &str,
) -> Result<String, Failure> {
    let original = world.db.record("VBD", device)?;
    let mut values: Vec<(&str, Value)> = original
        .members()
        .iter()
        .filter(|(field, _)| {
            matches!(
                field.as_str(),
                "userdevice"
                    | "device"
                    | "bootable"
                    | "mode"
                    | "type"
                    | "unpluggable"
                    | "currently_attached"
                    | "other_config"
                    | "qos_algorithm_type"
                    | "qos_algorithm_params"
            )
        })
        .map(|(field, value)| (field.as_str(), value.clone()))
        .collect();
    let empty = world.db.flag("VBD", device, "empty")? || disk == NULL_REF;
    values.push(("empty", Value::Bool(empty)));
    values.push(("VM", Value::from(vm)));
    values.push(("VDI", Value::from(disk)));
    vbd::add(world, values)
}

/// Marks a device's disk as one that goes with the VM, as clients do.
fn own(world: &mut World, device: &str) -> Result<(), Failure> {
    let mut config = world
        .db
        .get("VBD", device, "other_config")?
        .members()
        .to_vec();
    if !config.iter().any(|(key, _)| key == "owner") {
        config.insert(0, ("owner".to_owned(), Value::void()));
    }
    let config = Value::Struct(config);
    world.db.set("VBD", device, "other_config", config)
}
