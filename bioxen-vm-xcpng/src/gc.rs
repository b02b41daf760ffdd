//! Finds and removes what runs of this program have left on a pool that ended before they could.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};
use xapi_client::api::{Task, TaskStatusType, Vdi, Vm};
use xapi_client::{Client, Ref, TaskHandle, TaskTag};

use crate::error::{Error, Result};
use crate::execute::end;
use crate::ledger::{EndedRuns, Life};
use crate::marks::Run;
use crate::remove::{remove, remove_disk};
use crate::settings::Settings;

/// Something that a run has left on a pool.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Leftover {
    /// What it is.
    pub kind: LeftoverKind,
    /// Its name on the pool.
    pub name: String,
    /// Its UUID on the pool.
    pub uuid: String,
    /// The run that made it.
    pub run: String,
    /// Why it could not be removed, with the causes, if it could not.
    pub problem: Option<String>,
}

/// What something that was left is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LeftoverKind {
    /// A VM with its disks and snapshots.
    Vm,
    /// A config drive that no VM has.
    ConfigDrive,
    /// A task.
    Task,
}

impl fmt::Display for LeftoverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vm => "VM",
            Self::ConfigDrive => "config drive",
            Self::Task => "task",
        })
    }
}

/// The fields by which things are known as ours; whole records of a large pool are many megabytes.
#[derive(Deserialize)]
struct Known {
    uuid: String,
    name_label: String,
    other_config: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct KnownTask {
    #[serde(flatten)]
    known: Known,
    status: TaskStatusType,
}

/// Finds what ended runs have left, and removes it, or, on a dry run, only tells.
pub(crate) async fn collect(
    client: &Client,
    settings: &Settings,
    dry_run: bool,
) -> Result<Vec<Leftover>> {
    let dir = settings.state_dir.clone();
    let read = tokio::task::spawn_blocking(move || EndedRuns::read(dir.as_deref())).await;
    let ended = read
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(Error::Ledger)?;
    let mut found = Vec::new();
    // First, as one that still runs is about to make something.
    collect_tasks(client, &ended, dry_run, &mut found).await?;
    collect_vms(client, &ended, dry_run, &mut found).await?;
    collect_drives(client, &ended, dry_run, &mut found).await?;
    if !dry_run {
        let removed = found
            .iter()
            .filter(|left| left.kind == LeftoverKind::Vm && left.problem.is_none())
            .map(|left| left.run.clone())
            .collect();
        let kept = found.iter().any(|left| left.problem.is_some());
        if !kept {
            forget(ended, settings.hosts.clone(), removed).await?;
        }
    }
    Ok(found)
}

async fn forget(ended: EndedRuns, hosts: Vec<String>, removed: Vec<String>) -> Result<()> {
    let forget = tokio::task::spawn_blocking(move || ended.forget(&hosts, &removed)).await;
    forget
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(Error::Ledger)
}

/// The run, if it has ended, or what is known of it says so.
fn if_ended(ended: &EndedRuns, run: Run) -> Option<String> {
    let is_left = match ended.life(&run.id) {
        Life::Alive => false,
        Life::Dead => true,
        Life::Unknown => run.is_expired(),
    };
    is_left.then_some(run.id)
}

fn leftover(kind: LeftoverKind, known: Known, run: String) -> Leftover {
    Leftover {
        kind,
        name: known.name_label,
        uuid: known.uuid,
        run,
        problem: None,
    }
}

async fn collect_tasks(
    client: &Client,
    ended: &EndedRuns,
    dry_run: bool,
    found: &mut Vec<Leftover>,
) -> Result<()> {
    let tasks: BTreeMap<Ref<Task>, KnownTask> = client
        .task()
        .get_all_records()
        .select()
        .await
        .map_err(Error::pool("list its tasks"))?;
    for (task, KnownTask { known, status }) in tasks {
        let tag = known.other_config.get(TaskTag::KEY).cloned();
        // Uploads are called as the drive that they fill.
        let by_name = || {
            let run = Run::of(&known.name_label, &known.other_config)?;
            if_ended(ended, run)
        };
        let by_tag = tag.as_deref().and_then(|tag| ended.of_task(tag));
        let Some(run) = by_tag.or_else(by_name) else {
            continue;
        };
        let mut left = leftover(LeftoverKind::Task, known, run);
        if !dry_run {
            let ending = end_task(client, &task, tag.as_deref(), &status);
            left.problem = ending.await.err().map(|error| crate::error::chain(&error));
        }
        found.push(left);
    }
    Ok(())
}

/// Ends a task and clears it away.
async fn end_task(
    client: &Client,
    task: &Ref<Task>,
    tag: Option<&str>,
    status: &TaskStatusType,
) -> xapi_client::Result<()> {
    let is_pending = matches!(status, TaskStatusType::Pending | TaskStatusType::Cancelling);
    if is_pending
        && let Some(tag) = tag.and_then(|tag| tag.parse().ok())
        && let Some(handle) = client.reconcile::<serde_json::Value>(&tag).await?
    {
        let handle: TaskHandle<serde_json::Value> = handle;
        // It may end well all the same; what it made is found afterwards.
        handle.cancel().await?;
        let _ = end(&handle).await;
        return Ok(());
    }
    let tasks = client.task();
    if is_pending {
        // Nothing works on the task of a transfer whose client is gone, so nothing else ends it.
        tasks.set_status(task, TaskStatusType::Cancelled).await?;
    }
    match tasks.destroy(task).await {
        Err(error) if error.failure().is_some_and(|failure| failure.is_gone()) => Ok(()),
        result => result,
    }
}

async fn collect_vms(
    client: &Client,
    ended: &EndedRuns,
    dry_run: bool,
    found: &mut Vec<Leftover>,
) -> Result<()> {
    #[derive(Deserialize)]
    struct KnownVm {
        #[serde(flatten)]
        known: Known,
        is_a_template: bool,
        is_a_snapshot: bool,
        is_control_domain: bool,
    }
    let vms: BTreeMap<Ref<Vm>, KnownVm> = client
        .vm()
        .get_all_records()
        .select()
        .await
        .map_err(Error::pool("list its VMs"))?;
    for (vm, record) in vms {
        // Snapshots of a VM have its marks, and go with it.
        if record.is_a_snapshot || record.is_control_domain {
            continue;
        }
        let Known {
            uuid,
            name_label,
            other_config,
        } = &record.known;
        let ours = Run::of_vm(name_label, uuid, record.is_a_template, other_config);
        let Some(run) = ours.and_then(|run| if_ended(ended, run)) else {
            continue;
        };
        let mut left = leftover(LeftoverKind::Vm, record.known, run);
        if !dry_run {
            let removal = remove(client, &vm).await;
            left.problem = removal.err().map(|error| crate::error::chain(&error));
        }
        found.push(left);
    }
    Ok(())
}

async fn collect_drives(
    client: &Client,
    ended: &EndedRuns,
    dry_run: bool,
    found: &mut Vec<Leftover>,
) -> Result<()> {
    #[derive(Deserialize)]
    struct KnownVdi {
        #[serde(flatten)]
        known: Known,
        #[serde(rename = "VBDs")]
        vbds: Vec<String>,
    }
    let disks: BTreeMap<Ref<Vdi>, KnownVdi> = client
        .vdi()
        .get_all_records()
        .select()
        .await
        .map_err(Error::pool("list its disks"))?;
    for (disk, record) in disks {
        // One that a VM has goes with that VM.
        if !record.vbds.is_empty() {
            continue;
        }
        let ours = Run::of(&record.known.name_label, &record.known.other_config);
        let Some(run) = ours.and_then(|run| if_ended(ended, run)) else {
            continue;
        };
        let mut left = leftover(LeftoverKind::ConfigDrive, record.known, run);
        if !dry_run {
            let removal = remove_disk(client, &disk).await;
            left.problem = removal.err().map(|error| crate::error::chain(&error));
        }
        found.push(left);
    }
    Ok(())
}
