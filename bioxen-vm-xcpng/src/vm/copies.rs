//! What is made of a VM: snapshots, clones; and its place in the pool.

use std::collections::BTreeMap;
use std::sync::Arc;

use bioxen_vm_core::{LuaVm, Snapshot, VmId};
use serde::Deserialize;
use xapi_client::api::{Host, Vm, VmPowerState};
use xapi_client::{DateTime, Error as CallError, Ref};

use super::{KeyIn, Living, XcpngVm};
use crate::backend::Origin;
use crate::calls::carry_out;
use crate::deploy::Named;
use crate::error::{Error, Result};
use crate::find::{choose, config_drive};
use crate::making::deploy;
use crate::marks::is_unfinished;
use crate::progress::Stage;
use crate::remove::remove_snapshot;

#[derive(Deserialize)]
struct KnownSnapshot {
    uuid: String,
    name_label: String,
    snapshot_time: DateTime,
}

#[derive(Deserialize)]
struct KnownHost {
    uuid: String,
    name_label: String,
}

impl XcpngVm {
    /// Its snapshots, the oldest first.
    pub(super) async fn known_snapshots(&self) -> Result<Vec<(Ref<Vm>, Snapshot)>> {
        let client = self.shared.client().await?;
        let of_vm = format!("field \"snapshot_of\" = \"{}\"", self.vm.as_str());
        let all = client.vm().get_all_records_where(&of_vm).select().await;
        let all: BTreeMap<Ref<Vm>, KnownSnapshot> =
            all.map_err(Error::pool("list the snapshots of the VM"))?;
        let mut all: Vec<_> = all
            .into_iter()
            // What is made for a clone and removed after it.
            .filter(|(_, known)| !is_unfinished(&known.name_label))
            .map(|(reference, known)| {
                let created = known.snapshot_time.into();
                let snapshot = Snapshot::new(known.uuid, known.name_label, created);
                (reference, snapshot)
            })
            .collect();
        all.sort_by(|(_, a), (_, b)| (a.created, &a.name, &a.id).cmp(&(b.created, &b.name, &b.id)));
        Ok(all)
    }

    pub(super) async fn take_snapshot(&self, name: &str) -> Result<Snapshot> {
        if name.trim().is_empty() || is_unfinished(name) {
            return Err(Error::SnapshotName {
                name: name.to_owned(),
            });
        }
        let is_it = |(_, known): &(_, Snapshot)| known.name == name;
        if self.known_snapshots().await?.iter().any(is_it) {
            return Err(Error::SnapshotExists {
                name: name.to_owned(),
            });
        }
        let client = self.shared.client().await?;
        let take = async {
            let call = || client.vm().snapshot(&self.vm, name, None).into_task();
            let lost = match carry_out(client, call, "take a snapshot of the VM").await {
                Ok(_) => None,
                // Only what is there can tell.
                Err(Error::Pool { doing, source }) if is_unknown(&source) => {
                    Some(Error::Pool { doing, source })
                }
                Err(error) => return Err(error),
            };
            let found = self.known_snapshots().await?.into_iter().find(is_it);
            match (found, lost) {
                (Some((_, snapshot)), _) => Ok(snapshot),
                (None, Some(lost)) => Err(lost),
                (None, None) => Err(Error::State {
                    state: "being changed by somebody else, and the snapshot is gone".into(),
                    remedy: "take another one",
                }),
            }
        };
        self.reporter.stage(Stage::Snapshot, take).await
    }

    /// The snapshot of this name or UUID.
    async fn known_snapshot(&self, which: &str) -> Result<(Ref<Vm>, Snapshot)> {
        let known = self.known_snapshots().await?;
        let named = known.into_iter().map(|(reference, snapshot)| Named {
            reference,
            uuid: snapshot.id,
            name: snapshot.name,
        });
        let chosen = choose("snapshot", which, named.collect())?;
        let created = std::time::SystemTime::UNIX_EPOCH;
        let snapshot = Snapshot::new(chosen.uuid, chosen.name, created);
        Ok((chosen.reference, snapshot))
    }

    pub(super) async fn revert_alive(&self, which: &str, living: &mut Living) -> Result<()> {
        let (snapshot, _) = self.known_snapshot(which).await?;
        self.leave_guest().await;
        living.fresh = None;
        let client = self.shared.client().await?;
        let revert = async {
            let call = || client.vm().revert(&snapshot).into_task();
            carry_out(client, call, "revert the VM to its snapshot").await?;
            // What tells when it expires is as old as the snapshot, and so may be the way in.
            self.shared.renew(client, &self.vm).await?;
            living.key_in = match living.key_in {
                KeyIn::Nowhere | KeyIn::Drive(_) => {
                    let drive = config_drive(client, &self.vm).await;
                    let drive = drive.map_err(Error::pool("list the disks of the VM"))?;
                    drive.map_or(KeyIn::Nowhere, KeyIn::Drive)
                }
                KeyIn::XenstoreData => KeyIn::XenstoreData,
            };
            Ok(())
        };
        self.reporter.stage(Stage::Revert, revert).await
    }

    pub(super) async fn drop_snapshot(&self, which: &str) -> Result<()> {
        let (snapshot, _) = self.known_snapshot(which).await?;
        let client = self.shared.client().await?;
        remove_snapshot(client, &snapshot)
            .await
            .map_err(Error::pool("remove a snapshot of the VM"))
    }

    pub(super) async fn clone_alive(&self, id: VmId) -> Result<Arc<dyn LuaVm>> {
        if self.shared.settings().wish.fixed_address.is_some() {
            return Err(Error::SameAddress);
        }
        let origin = Origin::Vm {
            vm: self.vm.clone(),
            template: self.names.template.clone(),
        };
        let made: Arc<dyn LuaVm> = deploy(Arc::clone(&self.shared), id, origin).await?;
        Ok(made)
    }

    pub(super) async fn move_to(&self, which: &str) -> Result<()> {
        let client = self.shared.client().await?;
        let hosts = client.host().get_all_records().select().await;
        let hosts: BTreeMap<Ref<Host>, KnownHost> = hosts.map_err(Error::pool("list its hosts"))?;
        let named = hosts.into_iter().map(|(reference, known)| Named {
            reference,
            uuid: known.uuid,
            name: known.name_label,
        });
        let host = choose("host", which, named.collect())?.reference;
        let vm = client.vm();
        let record = vm.get_record(&self.vm).await;
        let record = record.map_err(Error::pool("tell about the VM"))?;
        match record.power_state {
            VmPowerState::Running | VmPowerState::Paused if record.resident_on == host => Ok(()),
            VmPowerState::Running => {
                let options = BTreeMap::from([("live".to_owned(), "true".to_owned())]);
                let call = || vm.pool_migrate(&self.vm, &host, &options).into_task();
                let moving = carry_out(client, call, "move the VM to another host");
                self.reporter.stage(Stage::Migrate, moving).await
            }
            VmPowerState::Halted => vm
                .set_affinity(&self.vm, &host)
                .await
                .map_err(Error::pool("bind the VM to another host")),
            other => Err(Error::State {
                state: super::state(&other).to_string(),
                remedy: "only what runs or is stopped can be moved",
            }),
        }
    }
}

/// Whether an error leaves open what happened.
fn is_unknown(error: &CallError) -> bool {
    matches!(
        error,
        CallError::UnknownOutcome { .. } | CallError::TaskGone { .. }
    )
}
