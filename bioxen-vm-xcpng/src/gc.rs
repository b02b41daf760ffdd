//! Finds and removes what runs of this program have left on a pool that ended before they could.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use xapi_client::api::{Network, Task, TaskStatusType, Vdi, Vif, Vm};
use xapi_client::{Client, Ref, TaskHandle};

use crate::calls::end;
use crate::error::{Error, Result, chain};
use crate::find::pool_uuid;
use crate::keyring::{Keyring, Lock};
use crate::ledger::{EndedRuns, Life};
use crate::leftover::{Leftover, LeftoverKind};
use crate::marks::{OF_VM, Run};
use crate::pool::{ORIGINATOR, TASK_OF_RUN};
use crate::remove::{
    remove, remove_disk, remove_interface, remove_network, remove_snapshot, remove_task,
};
use crate::settings::Settings;

/// The fields by which things are known as ours; whole records of a large pool are many megabytes.
#[derive(Deserialize)]
struct Known {
    uuid: String,
    name_label: String,
    other_config: BTreeMap<String, String>,
}

/// Something that was left, and how it is removed.
struct Found {
    left: Leftover,
    thing: Thing,
}

enum Thing {
    /// One that nothing works on any more.
    Task(Ref<Task>),
    /// One that the pool still works on.
    Work(Ref<Task>),
    Vm(Ref<Vm>),
    Snapshot(Ref<Vm>),
    Drive(Ref<Vdi>),
    Interface(Ref<Vif>),
    Network(Ref<Network>),
    Session(SecretString),
    Key,
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
    // Before the VMs are listed: the key to a VM that is made meanwhile is not among these.
    let mut keys = keys(client, settings).await?;
    let mut all = Vec::new();
    let (mut going, mut going_interfaces) = (BTreeSet::new(), BTreeSet::new());
    for kind in [
        // First, as one that still runs is about to make something.
        LeftoverKind::Task,
        LeftoverKind::Vm,
        LeftoverKind::ConfigDrive,
        LeftoverKind::Interface,
        // After what was on them.
        LeftoverKind::Network,
        LeftoverKind::Session,
        LeftoverKind::Key,
    ] {
        let found = match kind {
            LeftoverKind::Task => tasks(client, &ended).await?,
            LeftoverKind::Vm => vms(client, &ended, &mut keys).await?,
            LeftoverKind::ConfigDrive => loose_disks(client, &ended).await?,
            LeftoverKind::Interface => interfaces(client, &ended, &going).await?,
            LeftoverKind::Network => networks(client, &ended, &going, &going_interfaces).await?,
            LeftoverKind::Key => std::mem::take(&mut keys).into_iter().map(key).collect(),
            _ => sessions(client, &ended, &settings.hosts).await?,
        };
        for Found { mut left, thing } in found {
            if let Thing::Vm(vm) | Thing::Snapshot(vm) = &thing {
                going.insert(vm.clone());
            }
            if let Thing::Interface(vif) = &thing {
                going_interfaces.insert(vif.clone());
            }
            if !dry_run {
                let removal = thing.remove(client, settings, &left.uuid).await;
                left.problem = removal.err().map(|error| chain(&error));
            }
            all.push(left);
        }
    }
    if !dry_run && all.iter().all(|left| left.problem.is_none()) {
        use LeftoverKind as Kind;
        let is_made = |left: &&Leftover| {
            use Kind::{Interface, Network, Snapshot, Vm};
            matches!(left.kind, Vm | Snapshot | Interface | Network)
        };
        let removed = all.iter().filter(is_made).map(|left| left.run.clone());
        forget(ended, settings.hosts.clone(), removed.collect()).await?;
    }
    Ok(all)
}

impl Thing {
    async fn remove(self, client: &Client, settings: &Settings, uuid: &str) -> Result<()> {
        const DOING: &str = "remove it";
        let removed = match self {
            Self::Task(task) => remove_task(client, &task).await,
            Self::Work(task) => see_to_its_end(client, task).await,
            Self::Vm(vm) => remove(client, &vm).await,
            Self::Snapshot(snapshot) => remove_snapshot(client, &snapshot).await,
            Self::Drive(disk) => remove_disk(client, &disk).await,
            Self::Interface(vif) => remove_interface(client, &vif).await,
            Self::Network(network) => remove_network(client, &network).await,
            Self::Session(session) => client.end_session(&session).await.map(drop),
            Self::Key => Ok(()),
        };
        removed.map_err(Error::pool(DOING))?;
        match &settings.state_dir {
            // Only of VMs, which a key stands for, is there anything.
            Some(dir) => Keyring::at(dir)
                .remove(uuid.to_owned())
                .await
                .map_err(Error::Ledger),
            None => Ok(()),
        }
    }
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

async fn tasks(client: &Client, ended: &EndedRuns) -> Result<Vec<Found>> {
    #[derive(Deserialize)]
    struct KnownTask {
        #[serde(flatten)]
        known: Known,
        status: TaskStatusType,
    }
    let tasks: BTreeMap<Ref<Task>, KnownTask> = client
        .task()
        .get_all_records()
        .select()
        .await
        .map_err(Error::pool("list its tasks"))?;
    let ours = tasks.into_iter().filter_map(|(task, record)| {
        let KnownTask { known, status } = record;
        let is_over = !matches!(status, TaskStatusType::Pending | TaskStatusType::Cancelling);
        let marked = known.other_config.get(TASK_OF_RUN);
        if let Some(run) = marked.filter(|run| matches!(ended.life(run), Life::Dead)) {
            let run = run.clone();
            return Some(Found {
                left: leftover(LeftoverKind::Task, known, run),
                thing: match is_over {
                    true => Thing::Task(task),
                    false => Thing::Work(task),
                },
            });
        }
        // Uploads are called as the drive that they fill. Nothing works on the task of a transfer
        // whose client is gone, so nothing else ends it.
        let run = if_ended(ended, Run::of(&known.name_label, &known.other_config)?)?;
        Some(Found {
            left: leftover(LeftoverKind::Task, known, run),
            thing: Thing::Task(task),
        })
    });
    Ok(ours.collect())
}

/// Waits until the pool works on something no more. What it made is found afterwards.
async fn see_to_its_end(client: &Client, task: Ref<Task>) -> xapi_client::Result<()> {
    let handle: TaskHandle<serde_json::Value> = client.attach("task", task);
    // It may end well all the same, or not be one that can be cancelled.
    if let Err(error) = handle.cancel().await {
        tracing::debug!(%error, "a task of an ended run is waited for");
    }
    let _ = end(&handle).await;
    Ok(())
}

/// VMs, and the snapshots of other VMs that clones were to be made from.
///
/// Of the keys, those to VMs that are gone remain.
async fn vms(client: &Client, ended: &EndedRuns, keys: &mut Vec<Lock>) -> Result<Vec<Found>> {
    #[derive(Deserialize)]
    struct KnownVm {
        #[serde(flatten)]
        known: Known,
        is_a_template: bool,
        is_a_snapshot: bool,
        is_control_domain: bool,
        snapshot_of: Ref<Vm>,
    }
    let vms: BTreeMap<Ref<Vm>, KnownVm> = client
        .vm()
        .get_all_records()
        .select()
        .await
        .map_err(Error::pool("list its VMs"))?;
    let present: BTreeSet<_> = vms.keys().cloned().collect();
    keys.retain(|key| !vms.values().any(|vm| vm.known.uuid == key.uuid));
    let ours = vms.into_iter().filter_map(|(vm, record)| {
        let KnownVm {
            known,
            is_a_template,
            is_a_snapshot,
            is_control_domain,
            snapshot_of,
        } = record;
        if is_control_domain {
            return None;
        }
        // Other snapshots of a VM have its marks, and go with it. One that came into being while its
        // VM was removed has no VM to go with.
        let (kind, run) = if is_a_snapshot {
            let run = match present.contains(&snapshot_of) {
                true => Run::of_unfinished(&known.name_label),
                false => Run::of(&known.name_label, &known.other_config),
            };
            (LeftoverKind::Snapshot, run?)
        } else {
            let Known {
                name_label,
                uuid,
                other_config,
            } = &known;
            let run = Run::of_vm(name_label, uuid, is_a_template, other_config)?;
            (LeftoverKind::Vm, run)
        };
        let run = if_ended(ended, run)?;
        Some(Found {
            left: leftover(kind, known, run),
            thing: match is_a_snapshot {
                true => Thing::Snapshot(vm),
                false => Thing::Vm(vm),
            },
        })
    });
    Ok(ours.collect())
}

async fn loose_disks(client: &Client, ended: &EndedRuns) -> Result<Vec<Found>> {
    #[derive(Deserialize)]
    struct KnownVdi {
        #[serde(flatten)]
        known: Known,
        #[serde(rename = "VBDs")]
        vbds: Vec<String>,
        is_a_snapshot: bool,
    }
    let disks: BTreeMap<Ref<Vdi>, KnownVdi> = client
        .vdi()
        .get_all_records()
        .select()
        .await
        .map_err(Error::pool("list its disks"))?;
    let ours = disks.into_iter().filter_map(|(disk, record)| {
        // One that a VM has goes with that VM, and what somebody made of one is theirs.
        if !record.vbds.is_empty() || record.is_a_snapshot {
            return None;
        }
        let known = record.known;
        let (kind, run) = match Run::of_drive(&known.name_label) {
            Some(run) => (LeftoverKind::ConfigDrive, run),
            None => {
                let run = Run::of_disk(&known.uuid, &known.other_config)?;
                (LeftoverKind::Disk, run)
            }
        };
        let run = if_ended(ended, run)?;
        Some(Found {
            left: leftover(kind, known, run),
            thing: Thing::Drive(disk),
        })
    });
    Ok(ours.collect())
}

/// Interfaces that were being made for VMs that stay.
async fn interfaces(
    client: &Client,
    ended: &EndedRuns,
    going: &BTreeSet<Ref<Vm>>,
) -> Result<Vec<Found>> {
    #[derive(Deserialize)]
    struct KnownVif {
        uuid: String,
        device: String,
        #[serde(rename = "VM")]
        vm: Ref<Vm>,
        other_config: BTreeMap<String, String>,
    }
    let all: BTreeMap<Ref<Vif>, KnownVif> = client
        .vif()
        .get_all_records()
        .select()
        .await
        .map_err(Error::pool("list the interfaces of its VMs"))?;
    let mut ours = Vec::new();
    for (vif, record) in all {
        let run = Run::of_marked(&record.other_config).and_then(|run| if_ended(ended, run));
        let Some(run) = run.filter(|_| !going.contains(&record.vm)) else {
            continue;
        };
        let (name, uuid) = match client.vm().get_record(&record.vm).await {
            Err(error) if error.failure().is_some_and(|failure| failure.is_gone()) => continue,
            vm => {
                let vm = vm.map_err(Error::pool("list its VMs"))?;
                (vm.name_label, vm.uuid)
            }
        };
        // That of a copy of the VM is not ours.
        if record.other_config.get(OF_VM).map(String::as_str) == Some(uuid.as_str()) {
            let known = Known {
                uuid: record.uuid,
                name_label: format!("{} of VM {name}", record.device),
                other_config: record.other_config,
            };
            ours.push(Found {
                left: leftover(LeftoverKind::Interface, known, run),
                thing: Thing::Interface(vif),
            });
        }
    }
    Ok(ours)
}

/// Networks that were made for VMs that are gone, or that are going.
async fn networks(
    client: &Client,
    ended: &EndedRuns,
    going: &BTreeSet<Ref<Vm>>,
    going_interfaces: &BTreeSet<Ref<Vif>>,
) -> Result<Vec<Found>> {
    #[derive(Deserialize)]
    struct KnownNetwork {
        #[serde(flatten)]
        known: Known,
        #[serde(rename = "VIFs")]
        vifs: Vec<Ref<Vif>>,
        tags: Vec<String>,
    }
    let all: BTreeMap<Ref<Network>, KnownNetwork> = client
        .network()
        .get_all_records()
        .select()
        .await
        .map_err(Error::pool("list its networks"))?;
    let mut ours = Vec::new();
    for (network, KnownNetwork { known, vifs, tags }) in all {
        let run = Run::of_network(&known.other_config, &tags);
        let Some(run) = run.and_then(|run| if_ended(ended, run)) else {
            continue;
        };
        let mut is_used = false;
        for vif in vifs.iter().filter(|vif| !going_interfaces.contains(*vif)) {
            match client.vif().get_vm(vif).await {
                Err(error) if error.failure().is_some_and(|failure| failure.is_gone()) => {}
                vm => is_used |= !going.contains(&vm.map_err(Error::pool("list its VMs"))?),
            }
        }
        if !is_used {
            ours.push(Found {
                left: leftover(LeftoverKind::Network, known, run),
                thing: Thing::Network(network),
            });
        }
    }
    Ok(ours)
}

/// The VMs of this pool to which there are keys on this machine.
async fn keys(client: &Client, settings: &Settings) -> Result<Vec<Lock>> {
    let Some(keyring) = settings.state_dir.as_deref().map(Keyring::at) else {
        return Ok(Vec::new());
    };
    // There rarely is one, and then the pool need not be asked who it is.
    if !keyring.has_any().await.map_err(Error::Ledger)? {
        return Ok(Vec::new());
    }
    let keys = keyring.of_pool(pool_uuid(client).await?).await;
    keys.map_err(Error::Ledger)
}

/// The key to a VM that is gone.
fn key(lock: Lock) -> Found {
    Found {
        left: Leftover {
            kind: LeftoverKind::Key,
            name: lock.name,
            uuid: lock.uuid,
            run: String::new(),
            problem: None,
        },
        thing: Thing::Key,
    }
}

/// The sessions that ended runs have not ended themselves.
async fn sessions(client: &Client, ended: &EndedRuns, hosts: &[String]) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for (run, session) in ended.sessions(hosts) {
        let reference = Ref::new(session.expose_secret());
        let uuid = match client.session().get_uuid(&reference).await {
            Err(error) if error.failure().is_some_and(|failure| failure.is_gone()) => continue,
            uuid => uuid.map_err(Error::pool("look for a session"))?,
        };
        found.push(Found {
            left: Leftover {
                kind: LeftoverKind::Session,
                name: ORIGINATOR.to_owned(),
                uuid,
                run,
                problem: None,
            },
            thing: Thing::Session(session),
        });
    }
    Ok(found)
}
