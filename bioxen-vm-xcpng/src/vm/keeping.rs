//! VMs that outlive the program that made them.

use std::time::Duration;

use tokio::time::timeout;
use xapi_client::Client;
use xapi_client::api::Vm;

use super::{Lifecycle, XcpngVm};
use crate::adopt::rivals;
use crate::disks;
use crate::error::{Error, Result};
use crate::find::pool_uuid;
use crate::first_contact::FirstContact;
use crate::keyring::{Keyring, Lock};
use crate::ledger::Entry;
use crate::marks::{RUN, is_kept};

/// How long those that make VMs of the same id at the same time are waited for. Whoever gives way has only
/// to be removed.
const RIVALRY: Duration = Duration::from_secs(120);

impl XcpngVm {
    /// Takes from it what says that it belongs to this run, once the way in is on disk.
    pub(super) async fn keep_alive(&self) -> Result<()> {
        let client = self.shared.client().await?;
        // One that was found on the pool has its id already.
        let is_new = !self.names.working_name.is_empty();
        if is_new {
            let wins = timeout(RIVALRY, self.wins_its_id(client)).await;
            if !wins.unwrap_or(Ok(false))? {
                return Err(Error::IdTaken);
            }
        }
        if let Some(way_in) = self.contact.as_ref().and_then(FirstContact::way_in) {
            let keyring = self.keyring().ok_or(Error::NoStateDir)?;
            let lock = Lock {
                pool: pool_uuid(client).await?,
                uuid: self.uuid.clone(),
                name: self.names.name.clone(),
            };
            keyring.save(lock, way_in).await.map_err(Error::Ledger)?;
        }
        // Its snapshots have its marks, and give them back to it.
        let snapshots = client.vm().get_snapshots(&self.vm).await;
        let snapshots = snapshots.map_err(Error::pool("list the snapshots of the VM"))?;
        for vm in snapshots.iter().chain([&self.vm]) {
            client
                .vm()
                .remove_from_other_config(vm, RUN)
                .await
                .map_err(Error::pool("mark the VM as one to be kept"))?;
            disks::keep(client, vm)
                .await
                .map_err(Error::pool("mark the disks of the VM as those to be kept"))?;
        }
        self.shared.released(&self.vm);
        let kept = Entry::Removed(self.names.working_name.clone());
        let ledger = self.shared.ledger().await?;
        ledger.note(kept).await.map_err(Error::Ledger)
    }

    /// Whether no other VM is to be known by its id. Of several that are about to be kept at the same time,
    /// that with the lowest UUID is, unless another was faster: the others give way, and so it waits
    /// until each of them is kept or gone.
    async fn wins_its_id(&self, client: &Client) -> Result<bool> {
        let failed = || Error::pool("tell about other VMs of this id");
        loop {
            let rivals = rivals(client, &self.id, &self.uuid).await?;
            if rivals.is_empty() {
                return Ok(true);
            }
            if rivals.iter().any(|it| it.is_kept || it.uuid < self.uuid) {
                return Ok(false);
            }
            let subjects: Vec<_> = rivals
                .iter()
                .map(|it| format!("vm/{}", it.vm.as_str()))
                .collect();
            let subjects: Vec<_> = subjects.iter().map(String::as_str).collect();
            let mut watch = client.watch(&subjects);
            // The first batch tells how they are now, which may be another way than before.
            let now = watch.next().await.map_err(failed())?;
            let mut still = 0;
            for event in &now.events {
                let record = event.record::<Vm>().map_err(failed())?;
                still += usize::from(record.is_some_and(|it| !is_kept(&it.other_config)));
            }
            if still == rivals.len() {
                watch.next().await.map_err(failed())?;
            }
        }
    }

    /// Lets go of what has become something else: it is no VM of ours any more.
    pub(crate) async fn release(&self) -> Result<()> {
        *self.lifecycle.lock().await = Lifecycle::Dead;
        self.forget().await?;
        let made = Entry::Removed(self.names.working_name.clone());
        let ledger = self.shared.ledger().await?;
        ledger.note(made).await.map_err(Error::Ledger)
    }

    /// Removes what is kept on this machine for a VM that is gone.
    pub(super) async fn forget(&self) -> Result<()> {
        self.shared.released(&self.vm);
        match self.keyring() {
            Some(keyring) => keyring
                .remove(self.uuid.clone())
                .await
                .map_err(Error::Ledger),
            None => Ok(()),
        }
    }

    fn keyring(&self) -> Option<Keyring> {
        let dir = self.shared.settings().state_dir.as_deref();
        dir.map(Keyring::at)
    }
}
