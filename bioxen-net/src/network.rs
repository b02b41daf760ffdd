//! The networks of a pool.

use xapi_client::Client;

use crate::apply::Change;
use crate::error::Names;
use crate::inventory::Inventory;
use crate::plan::{Plan, plan};
use crate::{Error, NetworkInfo, NetworkKind, NetworkSelector, NetworkSpec, Result};

/// The networks of a pool, and the interfaces of VMs on them.
#[derive(Debug, Clone)]
pub struct Networks {
    pub(crate) client: Client,
}

impl Networks {
    /// The networks of the pool that a client is logged in to.
    #[must_use]
    pub fn new(client: &Client) -> Self {
        Self {
            client: client.clone(),
        }
    }

    /// All networks of the pool, by name.
    ///
    /// # Errors
    /// Fails with [`Error::Pool`] when the pool cannot be asked.
    pub async fn list(&self) -> Result<Vec<NetworkInfo>> {
        Ok(Inventory::read(&self.client).await?.networks())
    }

    /// The one network that is meant.
    ///
    /// # Errors
    /// Fails with [`Error::NotFound`] and [`Error::Ambiguous`], which list the candidates, and with
    /// [`Error::Pool`].
    pub async fn find(&self, network: impl Into<NetworkSelector>) -> Result<NetworkInfo> {
        network.into().choose(&self.list().await?).cloned()
    }

    /// What would have to be done to have these networks. Changes nothing.
    ///
    /// A network is found again by its name among those that this library made. What a network
    /// leads to is never changed, and networks that are not asked for are left alone.
    ///
    /// # Errors
    /// Fails with [`Error::Invalid`], which has all problems of all networks, and with
    /// [`Error::Pool`].
    pub async fn plan(&self, wanted: &[NetworkSpec]) -> Result<Plan> {
        plan(wanted, &Inventory::read(&self.client).await?)
    }

    /// Makes the pool have these networks, and tells what was done. A second time does nothing.
    ///
    /// When a step fails, those before it are undone.
    ///
    /// # Errors
    /// As [`plan`](Self::plan), then nothing was changed; with [`Error::Pool`] when a step failed and
    /// all is as before, and with [`Error::LeftBehind`] when it is not.
    ///
    /// # Cancel safety
    /// A dropped future leaves the steps so far; applying again completes them.
    pub async fn apply(&self, wanted: &[NetworkSpec]) -> Result<Plan> {
        let there = Inventory::read(&self.client).await?;
        let plan = plan(wanted, &there)?;
        let mut change = Change::new(&self.client, &there);
        for step in &plan.steps {
            if let Err(error) = change.carry_out(step).await {
                return Err(change.undo(step.to_string(), error).await);
            }
            tracing::info!(%step, "done");
        }
        Ok(plan)
    }

    /// Makes one network, or brings the one of this name into line, and describes it.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    ///
    /// # Cancel safety
    /// As [`apply`](Self::apply).
    pub async fn create(&self, spec: &NetworkSpec) -> Result<NetworkInfo> {
        self.apply(std::slice::from_ref(spec)).await?;
        let networks = self.list().await?;
        let ours: Vec<_> = networks
            .into_iter()
            .filter(|network| network.ours)
            .collect();
        NetworkSelector::Name(spec.name.clone())
            .choose(&ours)
            .cloned()
    }

    /// Removes a network that this library made, with its VLAN on every host.
    ///
    /// The pool itself would remove the interfaces of halted VMs along with it; here a network with
    /// any interface on it stays.
    ///
    /// # Errors
    /// Fails with [`Error::NotOurs`] for other networks, with [`Error::InUse`] while VMs have
    /// interfaces on it, with [`Error::NotFound`] and [`Error::Ambiguous`], and with
    /// [`Error::Pool`].
    ///
    /// # Cancel safety
    /// A dropped future may leave the network without its VLAN; removing it again completes that.
    pub async fn remove(&self, network: impl Into<NetworkSelector>) -> Result<()> {
        let there = Inventory::read(&self.client).await?;
        let networks = there.networks();
        let network = network.into().choose(&networks)?;
        let is_ours = network.ours
            && matches!(
                network.kind,
                NetworkKind::Private | NetworkKind::Vlan { .. }
            );
        if !is_ours {
            return Err(Error::NotOurs {
                network: network.to_string(),
            });
        }
        if network.vifs > 0 {
            return Err(Error::InUse {
                network: network.to_string(),
                users: Names(self.users(network).await?),
            });
        }
        Change::new(&self.client, &there)
            .remove(&network.reference, &network.name)
            .await
    }

    /// The VMs that have interfaces on a network, by name.
    async fn users(&self, network: &NetworkInfo) -> Result<Vec<String>> {
        let operation = || format!("read who uses network {network}");
        let vifs = self
            .client
            .network()
            .get_vifs(&network.reference)
            .await
            .map_err(Error::pool(operation()))?;
        let mut users = Vec::with_capacity(vifs.len());
        for vif in &vifs {
            let record = self
                .client
                .vif()
                .get_record(vif)
                .await
                .map_err(Error::pool(operation()))?;
            let vm = self
                .client
                .vm()
                .get_name_label(&record.vm)
                .await
                .map_err(Error::pool(operation()))?;
            users.push(format!("interface {} of VM {vm}", record.device));
        }
        users.sort();
        Ok(users)
    }
}
