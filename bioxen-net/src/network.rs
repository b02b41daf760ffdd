//! The networks of a pool.

use std::collections::{BTreeMap, BTreeSet};

use xapi_client::Client;

use crate::apply::Change;
use crate::error::Names;
use crate::inventory::Inventory;
use crate::marks::{Marked, Marks};
use crate::nics::on;
use crate::plan::plan;
use crate::step::Plan;
use crate::{
    BondInfo, Error, HostInterface, NetworkInfo, NetworkKind, NetworkSelector, NetworkSpec,
    NicInfo, Result, Wanted,
};

/// The networks of a pool, and the interfaces of hosts and VMs on them.
#[derive(Debug, Clone)]
pub struct Networks {
    pub(crate) client: Client,
    pub(crate) marks: Marks,
}

impl Networks {
    /// The networks of the pool that a client is logged in to.
    #[must_use]
    pub fn new(client: &Client) -> Self {
        Self {
            client: client.clone(),
            marks: Marks::default(),
        }
    }

    /// Marks the networks and interfaces that are made with these keys of `other_config`: with the
    /// run that they belong to, for example, so that what a killed program leaves is found. An
    /// interface carries the uuid of its VM besides, as `bioxen:vm`.
    #[must_use]
    pub fn with_marks(mut self, keys: BTreeMap<String, String>) -> Self {
        let are_passing = false;
        self.marks = Marks { keys, are_passing };
        self
    }

    /// The same for what is to last: `bioxen:run` and `bioxen:expires` are taken off it once the whole
    /// change is complete.
    #[must_use]
    pub fn with_passing_marks(mut self, keys: BTreeMap<String, String>) -> Self {
        let are_passing = true;
        self.marks = Marks { keys, are_passing };
        self
    }

    /// All networks of the pool, by name.
    ///
    /// # Errors
    /// Fails with [`Error::Pool`] when the pool cannot be asked.
    pub async fn list(&self) -> Result<Vec<NetworkInfo>> {
        let there = Inventory::read_with_guests(&self.client).await?;
        Ok(there.networks())
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
    /// A dropped future leaves the steps so far; applying again completes them. What is new has marks
    /// then, where it was to have some.
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
        match change.complete().await {
            Ok(()) => Ok(plan),
            Err(error) => {
                let operation = "take the marks of this run off what was made";
                Err(change.undo(operation.to_owned(), error).await)
            }
        }
    }

    /// Reads what a wish has to be compared with.
    async fn read_for(&self, wanted: &Wanted) -> Result<Inventory> {
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
        let kept = Marked::Network(network.reference.clone());
        let kept = kept.keep(&self.client).await;
        kept.map_err(Error::pool(format!("keep network {network}")))
    }

    /// Removes a network that this library made, with its VLAN on every host.
    ///
    /// The pool itself would remove the interfaces of halted VMs along with it; here a network with
    /// any interface on it stays.
    ///
    /// # Errors
    /// Fails with [`Error::NotOurs`] for other networks, with [`Error::InUse`] while VMs,
    /// templates or snapshots have interfaces on it, with [`Error::NotFound`] and [`Error::Ambiguous`], and with
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
        in_use(network, &there)?;
        Change::new(&self.client, &there, &self.marks)
            .remove(&network.reference, &network.name)
            .await
    }
}

/// Says so when anything has an interface on a network, and what to do about it.
fn in_use(network: &NetworkInfo, there: &Inventory) -> Result<()> {
    let nics = on(network, there);
    if nics.is_empty() {
        return Ok(());
    }
    let (of_snapshots, others): (Vec<_>, Vec<_>) =
        nics.iter().partition(|nic| nic.snapshot.is_some());
    let mut remedies = Vec::new();
    if !others.is_empty() {
        let with_vms = match nics.iter().all(|nic| there.guests.is_of_ours(&nic.vm)) {
            true => format!(
                ", or remove these VMs too, all of which BioXen has made: bioxen net rm {} --vms",
                network.uuid
            ),
            false => String::new(),
        };
        remedies.push(format!("detach or move these interfaces first{with_vms}"));
    }
    let mut commands = BTreeSet::new();
    for nic in of_snapshots {
        let vm = nic.snapshot.as_ref().and_then(|of| of.vm_uuid.as_ref());
        commands.insert(match vm {
            Some(vm) => format!("bioxen snapshot rm {vm} {}", nic.vm_uuid),
            // Nobody but the pool itself knows it any more.
            None => format!("xe snapshot-uninstall uuid={} force=true", nic.vm_uuid),
        });
    }
    if !commands.is_empty() {
        let commands: Vec<_> = commands.into_iter().collect();
        remedies.push(format!(
            "what a snapshot has goes with the snapshot: {}",
            commands.join("; ")
        ));
    }
    Err(Error::InUse {
        network: network.to_string(),
        users: Names(nics.iter().map(NicInfo::place).collect()),
        remedy: remedies.join("; "),
    })
}
