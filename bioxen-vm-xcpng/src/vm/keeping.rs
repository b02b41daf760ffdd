//! VMs that outlive the program that made them.

use super::{Lifecycle, XcpngVm};
use crate::error::{Error, Result};
use crate::find::pool_uuid;
use crate::first_contact::FirstContact;
use crate::keyring::{Keyring, Lock};
use crate::ledger::Entry;
use crate::marks::RUN;

impl XcpngVm {
    /// Takes from it what says that it belongs to this run, once the way in is on disk.
    pub(super) async fn keep_alive(&self) -> Result<()> {
        let client = self.shared.client().await?;
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
        }
        self.shared.released(&self.vm);
        let kept = Entry::Removed(self.names.working_name.clone());
        let ledger = self.shared.ledger().await?;
        ledger.note(kept).await.map_err(Error::Ledger)
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
