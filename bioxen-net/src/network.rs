//! The networks of a pool.

use std::collections::BTreeMap;

use xapi_client::Client;

use crate::apply::Change;
use crate::error::Names;
use crate::inventory::Inventory;
use crate::nics::on;
use crate::plan::{Plan, plan};
use crate::{
    BondInfo, Error, HostInterface, NetworkInfo, NetworkKind, NetworkSelector, NetworkSpec, Result,
    Wanted,
};

/// Which run of a program a network belongs to, in its `other_config`, and until when.
const RUN: &str = "bioxen:run";
const EXPIRES: &str = "bioxen:expires";

/// The networks of a pool, and the interfaces of hosts and VMs on them.
#[derive(Debug, Clone)]
pub struct Networks {
    pub(crate) client: Client,
    marks: BTreeMap<String, String>,
}

impl Networks {
    /// The networks of the pool that a client is logged in to.
    #[must_use]
    pub fn new(client: &Client) -> Self {
        Self {
            client: client.clone(),
            marks: BTreeMap::new(),
        }
    }

    /// Marks the networks that are made with these keys of `other_config`: with the run that they
    /// belong to, for example, so that what a killed program leaves is found.
    #[must_use]
    pub fn with_marks(mut self, marks: BTreeMap<String, String>) -> Self {
        self.marks = marks;
        self
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

    /// The interfaces of all hosts of the pool (cards, bonds, VLANs), by host.
    ///
    /// # Errors
    /// Fails with [`Error::Pool`] when the pool cannot be asked.
    pub async fn interfaces(&self) -> Result<Vec<HostInterface>> {
        Ok(Inventory::read(&self.client).await?.interfaces())
    }

    /// The bonds of all hosts of the pool, by host.
    ///
    /// # Errors
    /// Fails with [`Error::Pool`] when the pool cannot be asked.
    pub async fn bonds(&self) -> Result<Vec<BondInfo>> {
        Ok(Inventory::read(&self.client).await?.bonds())
    }

    /// What would have to be done to have these networks and interfaces. Changes nothing.
    ///
    /// A network is found again by its name among those that this library made. What a network
    /// leads to is never changed, and what is not asked for is left alone. An interface is found
    /// again by its VM and its number, or its network where that is not given.
    ///
    /// # Errors
    /// Fails with [`Error::Invalid`], which has all problems of all of them, and with
    /// [`Error::Pool`].
    pub async fn plan(&self, wanted: &Wanted) -> Result<Plan> {
        plan(wanted, &self.read_for(wanted).await?)
    }

    /// Makes the pool have these networks and interfaces, and tells what was done. A second time
    /// does nothing.
    ///
    /// When a step fails, those before it are undone.
    ///
    /// # Errors
    /// As [`plan`](Self::plan), then nothing was changed; with [`Error::Pool`] when a step failed and
    /// all is as before, and with [`Error::LeftBehind`] when it is not.
    ///
    /// # Cancel safety
    /// A dropped future leaves the steps so far; applying again completes them.
    pub async fn apply(&self, wanted: &Wanted) -> Result<Plan> {
        let there = self.read_for(wanted).await?;
        let plan = plan(wanted, &there)?;
        let mut change = Change::new(&self.client, &there, &self.marks);
        for step in &plan.steps {
            if let Err(error) = change.carry_out(step).await {
                return Err(change.undo(step.to_string(), error).await);
            }
            tracing::info!(%step, "done");
        }
        Ok(plan)
    }

    /// Reads what a wish has to be compared with.
    async fn read_for(&self, wanted: &Wanted) -> Result<Inventory> {
        if wanted.nics.is_empty() {
            return Inventory::read(&self.client).await;
        }
        let mut there = Inventory::read_with_guests(&self.client).await?;
        for name in wanted.nics.iter().filter_map(|nic| nic.vm.as_ref()) {
            // Whoever is not found is told of by the plan.
            if let Ok(vm) = there.guests.find(name).cloned() {
                there.guests.ask_for_room(&self.client, &vm).await?;
            }
        }
        Ok(there)
    }

    /// Makes one network, or brings the one of this name into line, and describes it.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    ///
    /// # Cancel safety
    /// As [`apply`](Self::apply).
    pub async fn create(&self, spec: &NetworkSpec) -> Result<NetworkInfo> {
        self.apply(&[spec.clone()].into()).await?;
        let networks = self.list().await?;
        let ours: Vec<_> = networks
            .into_iter()
            .filter(|network| network.ours)
            .collect();
        NetworkSelector::Name(spec.name.clone())
            .choose(&ours)
            .cloned()
    }

    /// Takes from a network that this library made what says that it belongs to a run, so that no
    /// clean-up touches it any more. Does nothing the second time.
    ///
    /// # Errors
    /// Fails with [`Error::NotOurs`] for other networks, with [`Error::NotFound`] and
    /// [`Error::Ambiguous`], and with [`Error::Pool`].
    pub async fn keep(&self, network: impl Into<NetworkSelector>) -> Result<()> {
        let networks = self.list().await?;
        let network = network.into().choose(&networks)?;
        if !network.ours {
            return Err(Error::NotOurs {
                network: network.to_string(),
            });
        }
        let api = self.client.network();
        for key in [RUN, EXPIRES] {
            let removed = api.remove_from_other_config(&network.reference, key).await;
            removed.map_err(Error::pool(format!("keep network {network}")))?;
        }
        Ok(())
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
        let there = Inventory::read_with_guests(&self.client).await?;
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
        let users = on(network, &there);
        if !users.is_empty() {
            let name =
                |nic: &crate::NicInfo| format!("interface {} of VM {}", nic.device, nic.vm_name);
            return Err(Error::InUse {
                network: network.to_string(),
                users: Names(users.iter().map(name).collect()),
            });
        }
        Change::new(&self.client, &there, &self.marks)
            .remove(&network.reference, &network.name)
            .await
    }
}
