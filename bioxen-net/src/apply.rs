//! Carries out the steps of a plan, and undoes them.

use std::collections::BTreeMap;

use xapi_client::api::{Network, NetworkCreate};
use xapi_client::{Client, Ref};

use crate::error::Names;
use crate::inventory::{Inventory, tag_of};
use crate::plan::{Step, tags};
use crate::{Error, NetworkSpec, Result, VlanSpec};

/// A change of the pool on its way.
pub(crate) struct Change<'a> {
    client: &'a Client,
    there: &'a Inventory,
    /// The networks that this library made, by name.
    ours: BTreeMap<String, Ref<Network>>,
    undo: Vec<Undo>,
}

/// What puts a step back.
enum Undo {
    Remove(String, Ref<Network>),
    RemoveVlan(String, Ref<Network>),
    Description(Ref<Network>, String),
    Mtu(Ref<Network>, i64),
    Tag(Ref<Network>, String),
}

impl<'a> Change<'a> {
    pub(crate) fn new(client: &'a Client, there: &'a Inventory) -> Self {
        let ours = there
            .networks()
            .into_iter()
            .filter(|network| network.ours)
            .map(|network| (network.name, network.reference))
            .collect();
        Self {
            client,
            there,
            ours,
            undo: Vec::new(),
        }
    }

    pub(crate) async fn carry_out(&mut self, step: &Step) -> Result<()> {
        let api = self.client.network();
        let refused = || Error::pool(step.to_string());
        match step {
            Step::Create { spec } => {
                let reference = self.create(spec).await?;
                self.undo
                    .push(Undo::Remove(spec.name.clone(), reference.clone()));
                self.ours.insert(spec.name.clone(), reference);
            }
            Step::CreateVlan { network, vlan } => {
                let reference = self.known(network)?;
                // Before the call: a part of the hosts may have it when it fails.
                self.undo
                    .push(Undo::RemoveVlan(network.clone(), reference.clone()));
                self.create_vlan(&reference, network, vlan).await?;
            }
            Step::SetDescription { network, from, to } => {
                let reference = self.known(network)?;
                api.set_name_description(&reference, to)
                    .await
                    .map_err(refused())?;
                self.undo.push(Undo::Description(reference, from.clone()));
            }
            Step::SetMtu { network, from, to } => {
                let reference = self.known(network)?;
                api.set_mtu(&reference, *to).await.map_err(refused())?;
                self.undo.push(Undo::Mtu(reference, *from));
            }
            Step::AddTag { network, tag } => {
                let reference = self.known(network)?;
                api.add_tags(&reference, tag).await.map_err(refused())?;
                self.undo.push(Undo::Tag(reference, tag.clone()));
            }
        }
        Ok(())
    }

    /// Undoes all steps, the last one first, and tells what failed and what is left.
    pub(crate) async fn undo(mut self, operation: String, error: Error) -> Error {
        let mut left = Vec::new();
        while let Some(undo) = self.undo.pop() {
            let api = self.client.network();
            let undone = match &undo {
                Undo::Remove(name, network) => self.remove(network, name).await,
                Undo::RemoveVlan(name, network) => self.remove_vlans(network, name).await,
                Undo::Description(network, from) => api
                    .set_name_description(network, from)
                    .await
                    .map_err(Error::pool("put the description back")),
                Undo::Mtu(network, from) => api
                    .set_mtu(network, *from)
                    .await
                    .map_err(Error::pool("put the MTU back")),
                Undo::Tag(network, tag) => api
                    .remove_tags(network, tag)
                    .await
                    .map_err(Error::pool("take the tag back")),
            };
            if let Err(failed) = undone {
                left.push(undo.what_is_left(&failed));
            }
        }
        if left.is_empty() {
            return error;
        }
        Error::LeftBehind {
            operation,
            left: Names(left),
            source: Box::new(error),
        }
    }

    /// Removes a network and its VLAN on every host.
    pub(crate) async fn remove(&self, network: &Ref<Network>, name: &str) -> Result<()> {
        self.remove_vlans(network, name).await?;
        let destroyed = self.client.network().destroy(network).await;
        gone(destroyed).map_err(Error::pool(format!("remove network {name}")))
    }

    fn known(&self, name: &str) -> Result<Ref<Network>> {
        self.ours.get(name).cloned().ok_or_else(|| Error::NotFound {
            selector: format!("{name:?}"),
            known: Names(self.ours.keys().cloned().collect()),
        })
    }

    async fn create(&self, spec: &NetworkSpec) -> Result<Ref<Network>> {
        let mut wanted = NetworkCreate::new(&spec.name);
        wanted.name_description = Some(spec.description.clone());
        wanted.mtu = Some(i64::from(spec.mtu));
        wanted.tags = Some(tags(spec));
        let refused = Error::pool(format!("create network {}", spec.name));
        match self.client.network().create(&wanted).await {
            Ok(reference) => Ok(reference),
            Err(error) if is_unknown(&error) => match self.new_network(&spec.name).await {
                Some(reference) => Ok(reference),
                None => Err(refused(error)),
            },
            Err(error) => Err(refused(error)),
        }
    }

    /// The network that a call made whose answer was lost: ours, of this name, and not there before.
    async fn new_network(&self, name: &str) -> Option<Ref<Network>> {
        let now = Inventory::read(self.client).await.ok()?;
        now.networks()
            .into_iter()
            .find(|network| {
                network.ours
                    && network.name == name
                    && !self.there.networks.contains_key(&network.reference)
            })
            .map(|network| network.reference)
    }

    async fn create_vlan(&self, network: &Ref<Network>, name: &str, vlan: &VlanSpec) -> Result<()> {
        // One call per network of trunks: the pool itself adds the VLAN on each of its hosts.
        let mut done: Vec<&Ref<Network>> = Vec::new();
        for (reference, trunk) in self.there.trunks(&vlan.device) {
            if done.contains(&&trunk.network) {
                continue;
            }
            done.push(&trunk.network);
            self.client
                .pool()
                .create_vlan_from_pif(reference, network, i64::from(vlan.tag))
                .await
                .map_err(Error::pool(format!("carry {vlan} on network {name}")))?;
        }
        Ok(())
    }

    /// Removes the VLANs of a network from all hosts.
    async fn remove_vlans(&self, network: &Ref<Network>, name: &str) -> Result<()> {
        let now = Inventory::read(self.client).await?;
        for (_, pif) in now.pifs_of(network) {
            if tag_of(pif).is_none() || pif.vlan_master_of.is_null() {
                continue;
            }
            let host = now.host_name(&pif.host);
            let destroyed = self.client.vlan().destroy(&pif.vlan_master_of).await;
            gone(destroyed).map_err(Error::pool(format!(
                "remove the VLAN of network {name} from host {host}"
            )))?;
        }
        Ok(())
    }
}

impl Undo {
    fn what_is_left(&self, failed: &Error) -> String {
        let reason = std::error::Error::source(failed)
            .map_or_else(|| failed.to_string(), ToString::to_string);
        match self {
            Self::Remove(name, _) => format!("network {name} ({reason})"),
            Self::RemoveVlan(name, _) => format!("the VLAN of network {name} ({reason})"),
            Self::Description(_, from) => format!("a description other than {from:?} ({reason})"),
            Self::Mtu(_, from) => format!("an MTU other than {from} ({reason})"),
            Self::Tag(_, tag) => format!("the tag {tag:?} ({reason})"),
        }
    }
}

/// Takes what is gone already for removed.
pub(crate) fn gone(destroyed: xapi_client::Result<()>) -> xapi_client::Result<()> {
    match destroyed {
        Err(error) if error.failure().is_some_and(xapi_client::Failure::is_gone) => Ok(()),
        other => other,
    }
}

/// Whether the pool may have done what it was asked for.
pub(crate) fn is_unknown(error: &xapi_client::Error) -> bool {
    error.is_outcome_unknown()
}
