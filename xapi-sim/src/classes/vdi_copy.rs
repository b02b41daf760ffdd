//! Disks from other disks: clones, copies and snapshots.

use std::sync::Arc;

use super::operation::{Operation, of_disk};
use super::vdi::{add, check, release, remove};
use super::{Table, sr};
use crate::backing::{self, Disk};
use crate::dispatch::Handler::Later;
use crate::dispatch::Pending;
use crate::failure::{Failure, Reply};
use crate::value::{EPOCH, NULL_REF, Value};
use crate::world::{Call, Shared, World};

pub(crate) const TABLE: Table = &[
    (
        "VDI.clone",
        Later(|shared, call| copy_call(shared, call, CopyKind::Clone)),
    ),
    (
        "VDI.copy",
        Later(|shared, call| copy_call(shared, call, CopyKind::Copy)),
    ),
    (
        "VDI.snapshot",
        Later(|shared, call| copy_call(shared, call, CopyKind::Snapshot)),
    ),
];

/// How a disk comes from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyKind {
    Clone,
    Copy,
    Snapshot,
}

impl CopyKind {
    fn operation(self) -> &'static str {
        match self {
            CopyKind::Clone => "clone",
            CopyKind::Copy => "copy",
            CopyKind::Snapshot => "snapshot",
        }
    }

    /// What the SR of the disk is marked with. A copy only reads it.
    fn on_sr(self) -> Option<&'static str> {
        match self {
            CopyKind::Clone => Some("vdi_clone"),
            CopyKind::Copy => None,
            CopyKind::Snapshot => Some("vdi_snapshot"),
        }
    }
}

/// Disks that have been made for something that is not complete yet. They go again when it is
/// given up, also when it is cancelled.
pub(crate) struct Unfinished {
    shared: Arc<Shared>,
    disks: Vec<String>,
}

impl Unfinished {
    pub(crate) fn new(shared: &Arc<Shared>) -> Unfinished {
        Unfinished {
            shared: Arc::clone(shared),
            disks: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, vdi: &str) {
        self.disks.push(vdi.to_owned());
    }

    /// The disks are part of something whole now.
    pub(crate) fn keep(mut self) {
        self.disks.clear();
    }

    /// Removes the disks and waits for their files to go.
    pub(crate) async fn discard(mut self) {
        for disk in self.take() {
            release(Some(disk)).await;
        }
    }

    fn take(&mut self) -> Vec<Disk> {
        let disks = std::mem::take(&mut self.disks);
        self.shared.with(|world| {
            let removed = disks.iter().map(|vdi| remove(world, vdi));
            // One that has been destroyed in the meantime is gone, which is what we want.
            removed.filter_map(|disk| disk.ok().flatten()).collect()
        })
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.disks.is_empty() {
            return;
        }
        let files = self.take();
        // Files take time to go; without a runtime, which ends then, there is nobody to hold up.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(files));
        }
    }
}

/// `VDI.clone(vdi)`, `VDI.snapshot(vdi)` and `VDI.copy(vdi, sr, base_vdi, into_vdi)`.
fn copy_call(shared: Arc<Shared>, call: Arc<Call>, kind: CopyKind) -> Pending {
    Box::pin(async move {
        let vdi = call.text(0);
        let target = (kind == CopyKind::Copy).then(|| call.text(1).to_owned());
        let into = call.text(3);
        if target.is_some() && shared.with(|world| world.db.exists("VDI", into)) {
            return copy_into(&shared, &call.task, vdi, into).await;
        }
        let checks = |world: &mut World| {
            check(world, vdi, kind.operation())?;
            let attached = sr::assert_attached(world, &world.db.text("VDI", vdi, "SR")?);
            match &target {
                // For a copy a host looks for one that sees the SRs, and that search ends so.
                Some(_) if attached.is_err() => Err(Failure::internal("Not_found")),
                Some(sr) => sr::check(world, sr, "vdi_create"),
                None => attached,
            }
        };
        shared.patiently(checks).await?;
        copy(&shared, &call.task, vdi, kind, target.as_deref())
            .await
            .map(Value::String)
    })
}

/// Copies what is on a disk over what is on another.
async fn copy_into(shared: &Arc<Shared>, task: &str, vdi: &str, into: &str) -> Reply {
    let begin = |world: &mut World| {
        check(world, vdi, "copy")?;
        let db = &world.db;
        for disk in [vdi, into] {
            sr::assert_attached(world, &db.text("VDI", disk, "SR")?)?;
        }
        if db.flag("VDI", into, "read_only")? {
            return Err(Failure::new("VDI_READONLY", [into]));
        }
        let needed = db.int("VDI", vdi, "virtual_size")?;
        let size = db.int("VDI", into, "virtual_size")?;
        if size < needed {
            return Err(Failure::new(
                "VDI_TOO_SMALL",
                [into.to_owned(), needed.to_string()],
            ));
        }
        let disk = world.disks.get(vdi).cloned();
        let name = db.text("VDI", into, "name_label")?;
        let marks = of_disk(world, vdi, "copy", None)?;
        let operation = Operation::begin_all(shared, world, task, marks)?;
        Ok((operation, disk, name))
    };
    let (operation, disk, name) = shared.patiently(begin).await?;
    operation.work().await?;
    let disk = match &disk {
        Some(disk) => Some(backing::copy(shared, disk, &name).await?),
        None => None,
    };
    let old = operation.finish(|world| {
        Ok(match disk {
            Some(disk) => world.disks.insert(into.to_owned(), disk),
            None => world.disks.remove(into),
        })
    })?;
    release(old).await;
    Ok(Value::from(into))
}

/// Makes a disk from another, files included. Without a target it stays in the same SR.
pub(crate) async fn copy(
    shared: &Arc<Shared>,
    task: &str,
    vdi: &str,
    kind: CopyKind,
    target: Option<&str>,
) -> Result<String, Failure> {
    let begin = |world: &mut World| {
        let disk = world.disks.get(vdi).cloned();
        let name = world.db.text("VDI", vdi, "name_label")?;
        let marks = of_disk(world, vdi, kind.operation(), kind.on_sr())?;
        let operation = Operation::begin_all(shared, world, task, marks)?;
        Ok((operation, disk, name))
    };
    let (operation, disk, name) = shared.patiently(begin).await?;
    operation.work().await?;
    let mut disk = match &disk {
        Some(disk) => Some(backing::copy(shared, disk, &name).await?),
        None => None,
    };
    let made = operation.finish(|world| {
        let copy = copy_record(world, vdi, kind, target)?;
        if let Some(disk) = disk.take() {
            world.disks.insert(copy.clone(), disk);
        }
        Ok(copy)
    });
    release(disk).await;
    made
}

fn copy_record(
    world: &mut World,
    vdi: &str,
    kind: CopyKind,
    target: Option<&str>,
) -> Result<String, Failure> {
    let source = world.db.record("VDI", vdi)?;
    let size = world.db.int("VDI", vdi, "virtual_size")?;
    let snapshot = kind == CopyKind::Snapshot;
    let now = if snapshot {
        world.clock.now()
    } else {
        EPOCH.to_owned()
    };
    let mut values: Vec<(&str, Value)> = source
        .members()
        .iter()
        .filter(|(name, _)| match name.as_str() {
            "name_label" | "name_description" | "SR" | "type" | "sharable" | "other_config"
            | "xenstore_data" | "on_boot" | "allow_caching" => true,
            // Only a full copy is a disk of its own with the marks of the original.
            "tags" => kind == CopyKind::Copy,
            "cbt_enabled" => snapshot,
            _ => false,
        })
        .map(|(name, value)| (name.as_str(), value.clone()))
        .collect();
    if let Some(sr) = target {
        values.retain(|(name, _)| *name != "SR");
        values.push(("SR", Value::from(sr)));
    }
    values.push(("is_a_snapshot", Value::Bool(snapshot)));
    values.push((
        "snapshot_of",
        Value::from(if snapshot { vdi } else { NULL_REF }),
    ));
    values.push(("snapshot_time", Value::DateTime(now)));
    add(world, values, size)
}
