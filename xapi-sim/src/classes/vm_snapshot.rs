//! Snapshots of VMs. The way back has a file of its own.

use std::sync::Arc;

use super::operation::Operation;
use super::vm_copy::{Purpose, duplicate};
use super::{Table, power_of, vm_power};
use crate::backing;
use crate::dispatch::Handler::Later;
use crate::failure::Reply;
use crate::lifecycle::Power;
use crate::value::Value;
use crate::world::{Call, Shared};

pub(crate) const TABLE: Table = &[
    (
        "VM.snapshot",
        Later(|shared, call| Box::pin(snapshot(shared, call))),
    ),
    (
        "VM.checkpoint",
        Later(|shared, call| Box::pin(checkpoint(shared, call))),
    ),
];

/// `VM.snapshot(vm, new_name, ignore_vdis)`.
async fn snapshot(shared: Arc<Shared>, call: Arc<Call>) -> Reply {
    let vm = call.text(0);
    let operation = Operation::begin(&shared, &call, "snapshot").await?;
    operation.work().await?;
    let ignored: Vec<String> = call
        .arg(2)
        .items()
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    // All disks are of one moment.
    let still = backing::freeze(&shared, vm).await;
    let copy = duplicate(
        &shared,
        &call.task,
        vm,
        call.text(1),
        Purpose::Snapshot,
        &ignored,
    )
    .await?;
    drop(still);
    operation.finish(|world| world.db.set("VM", vm, "parent", copy.as_str()))?;
    Ok(Value::String(copy))
}

/// `VM.checkpoint(vm, new_name)`: a snapshot with the memory, which sleeps. A running VM sleeps
/// meanwhile, so it wakes up in a new domain.
async fn checkpoint(shared: Arc<Shared>, call: Arc<Call>) -> Reply {
    let vm = call.text(0);
    let operation = Operation::begin(&shared, &call, "checkpoint").await?;
    operation.work().await?;
    let still = backing::freeze(&shared, vm).await;
    let copy = duplicate(
        &shared,
        &call.task,
        vm,
        call.text(1),
        Purpose::Checkpoint,
        &[],
    )
    .await?;
    drop(still);
    operation.finish(|world| {
        if power_of(world, vm)? == Power::Running {
            vm_power::renew_domain(world, vm)?;
        }
        world.db.set("VM", vm, "parent", copy.as_str())
    })?;
    Ok(Value::String(copy))
}
