//! Removes a VM together with its disks and snapshots, and nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::IgnoredAny;
use xapi_client::api::{Network, Task, TaskStatusType, Vbd, Vdi, Vif, Vm, VmPowerState};
use xapi_client::{Client, Error, ErrorCode, Ref, Result};

use crate::calls::{free, patiently};
use crate::find::disks;

/// How often a disk is tried that the host still detaches, and how long each time until it changes.
const DETACH_ATTEMPTS: u32 = 10;
const DETACH_PAUSE: Duration = Duration::from_secs(1);

/// How often a VM is switched off that something else switches on meanwhile: a start that was under
/// way, of a program that is gone or has given up waiting for it.
const SWITCHES: u32 = 4;

/// Removes a VM. What is gone already is as good as removed, and a removal that failed half-way can
/// be run again: the VM itself goes last, as what ties the rest together and says whose it is.
///
/// While something else is done to the VM, it begins again after that: there may be more of it then, a
/// snapshot for example.
pub(crate) async fn remove(client: &Client, vm: &Ref<Vm>) -> Result<()> {
    let mut switches = 1;
    loop {
        let removal = patiently(client, None, || try_to_remove(client, vm));
        match removal.await {
            // Of one that runs again, disks cannot be removed either.
            Err(Error::Api(failure))
                if switches < SWITCHES
                    && matches!(
                        failure.code,
                        ErrorCode::VmBadPowerState | ErrorCode::VdiInUse
                    ) =>
            {
                if failure.code == ErrorCode::VdiInUse && !runs(client, vm).await? {
                    return Err(Error::Api(failure));
                }
                switches += 1;
            }
            result => return result,
        }
    }
}

/// Removes a task that nothing works on: one that has ended, or that of a transfer whose client is gone.
pub(crate) async fn remove_task(client: &Client, task: &Ref<Task>) -> Result<()> {
    let tasks = client.task();
    let cancelled = tasks.set_status(task, TaskStatusType::Cancelled).await;
    if unless_gone(cancelled)?.is_some() {
        unless_gone(tasks.destroy(task).await)?;
    }
    Ok(())
}

/// Removes a snapshot.
pub(crate) async fn remove_snapshot(client: &Client, snapshot: &Ref<Vm>) -> Result<()> {
    patiently(client, None, || remove_halted(client, snapshot)).await
}

async fn try_to_remove(client: &Client, vm: &Ref<Vm>) -> Result<()> {
    let Some(record) = unless_gone(client.vm().get_record(vm).await)? else {
        return Ok(());
    };
    if record.power_state != VmPowerState::Halted {
        switch_off(client, vm).await?;
    }
    for snapshot in &record.snapshots {
        remove_halted(client, snapshot).await?;
    }
    remove_halted(client, vm).await?;
    // One that was being taken meanwhile has outlived it.
    let late = format!("field \"snapshot_of\" = \"{}\"", vm.as_str());
    let late: BTreeMap<Ref<Vm>, IgnoredAny> =
        client.vm().get_all_records_where(&late).select().await?;
    for snapshot in late.keys() {
        remove_halted(client, snapshot).await?;
    }
    Ok(())
}

/// Removes a VM that does not run, or a snapshot.
async fn remove_halted(client: &Client, vm: &Ref<Vm>) -> Result<()> {
    for disk in own_disks(client, vm).await? {
        remove_disk_of(Some(vm), client, &disk).await?;
    }
    unless_gone(client.vm().destroy(vm).await).map(drop)
}

/// Whether a VM has a domain, which uses its disks.
async fn runs(client: &Client, vm: &Ref<Vm>) -> Result<bool> {
    let state = unless_gone(client.vm().get_power_state(vm).await)?;
    Ok(matches!(
        state,
        Some(VmPowerState::Running | VmPowerState::Paused)
    ))
}

/// The disks of a VM that no other VM uses.
async fn own_disks(client: &Client, vm: &Ref<Vm>) -> Result<Vec<Ref<Vdi>>> {
    let drives = disks(client, vm).await?;
    let mut own = Vec::new();
    for (_, drive) in &drives {
        let Some(users) = unless_gone(client.vdi().get_vbds(&drive.vdi).await)? else {
            continue;
        };
        let others = users
            .iter()
            .filter(|user| !drives.iter().any(|(it, _)| it == *user));
        let mut is_shared = false;
        for other in others {
            is_shared |= !is_of_a_host(client, other).await?;
        }
        if is_shared {
            tracing::info!(
                disk = drive.vdi.as_str(),
                "a disk that another VM uses stays"
            );
        } else {
            own.push(drive.vdi.clone());
        }
    }
    own.dedup();
    Ok(own)
}

/// Whether a host itself uses a disk: for a transfer, which ends once its client is gone.
async fn is_of_a_host(client: &Client, user: &Ref<Vbd>) -> Result<bool> {
    let Some(vm) = unless_gone(client.vbd().get_vm(user).await)? else {
        return Ok(true);
    };
    let is_of_a_host = unless_gone(client.vm().get_is_control_domain(&vm).await)?;
    Ok(is_of_a_host.unwrap_or(true))
}

/// Ends a VM at once, whatever it does.
pub(crate) async fn switch_off(client: &Client, vm: &Ref<Vm>) -> Result<()> {
    let switch = || async { client.vm().hard_shutdown(vm).await };
    match patiently(client, None, switch).await {
        Err(Error::Api(failure))
            if failure.code == ErrorCode::VmBadPowerState
                && failure.param(2).eq_ignore_ascii_case("halted") =>
        {
            Ok(())
        }
        result => unless_gone(result).map(drop),
    }
}

/// Removes a disk, and waits for a host that still detaches it.
pub(crate) async fn remove_disk(client: &Client, disk: &Ref<Vdi>) -> Result<()> {
    remove_disk_of(None, client, disk).await
}

/// The same, but there is nothing to wait for when the disk's VM runs.
async fn remove_disk_of(vm: Option<&Ref<Vm>>, client: &Client, disk: &Ref<Vdi>) -> Result<()> {
    let mut attempt = 1;
    loop {
        match unless_gone(client.vdi().destroy(disk).await) {
            Err(Error::Api(failure))
                if attempt < DETACH_ATTEMPTS
                    && matches!(
                        failure.code,
                        ErrorCode::VdiInUse | ErrorCode::OtherOperationInProgress
                    ) =>
            {
                if let Some(vm) = vm
                    && runs(client, vm).await?
                {
                    return Err(Error::Api(failure));
                }
                attempt += 1;
                free(client, &failure, DETACH_PAUSE).await;
            }
            result => return result.map(drop),
        }
    }
}

/// Takes an interface from its VM, whether that runs or not.
pub(crate) async fn remove_interface(client: &Client, vif: &Ref<Vif>) -> Result<()> {
    let api = client.vif();
    let Some(is_plugged) = unless_gone(api.get_currently_attached(vif).await)? else {
        return Ok(());
    };
    if is_plugged && unless_gone(api.unplug(vif).await)?.is_none() {
        return Ok(());
    }
    unless_gone(api.destroy(vif).await).map(drop)
}

/// Removes a network with the VLANs that it carries.
pub(crate) async fn remove_network(client: &Client, network: &Ref<Network>) -> Result<()> {
    let Some(pifs) = unless_gone(client.network().get_pifs(network).await)? else {
        return Ok(());
    };
    for pif in &pifs {
        let Some(vlan) = unless_gone(client.pif().get_vlan_master_of(pif).await)? else {
            continue;
        };
        // A card is on it that is not ours: then the pool refuses the rest.
        if !vlan.is_null() {
            unless_gone(client.vlan().destroy(&vlan).await)?;
        }
    }
    unless_gone(client.network().destroy(network).await).map(drop)
}

pub(crate) fn unless_gone<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(Error::Api(failure)) if failure.is_gone() => Ok(None),
        result => result.map(Some),
    }
}
