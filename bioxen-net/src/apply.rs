//! Carries out the steps of a plan, and undoes them.

use std::collections::{BTreeMap, BTreeSet};

use xapi_client::api::{Network, NetworkCreate, Pif, Vif};
use xapi_client::{Client, Ref};

use crate::error::Names;
use crate::inventory::{GATEWAY, Inventory, SUBNET, addresses_of, tag_of};
use crate::marks::{Marked, Marks, OWNER, of_network, of_new_network};
use crate::plan::tags;
use crate::step::{Addresses, Device, Step};
use crate::vif::{self, gone, is_unknown, locking_of, rate_of};
use crate::{Error, Locking, NetworkSelector, NetworkSpec, Result, VlanSpec};

/// A change of the pool on its way.
pub(crate) struct Change<'a> {
    client: &'a Client,
    there: &'a Inventory,
    marks: &'a Marks,
    /// What was made, and is marked.
    made: Vec<Marked>,
    /// The networks that this library made, by name.
    ours: BTreeMap<String, Ref<Network>>,
    undo: Vec<Undo>,
}

/// What puts a step back.
enum Undo {
    Remove(String, Ref<Network>),
    /// All but those that were there before.
    RemoveVlan(String, Ref<Network>, BTreeSet<Ref<Pif>>),
    Description(Ref<Network>, String),
    Mtu(Ref<Network>, i64),
    Addresses(Ref<Network>, Addresses),
    Tag(Ref<Network>, String),
    Detach(String, Ref<Vif>),
    Move(Device, Ref<Vif>, Ref<Network>),
    Locking(Device, Ref<Vif>, Locking),
    Rate(Device, Ref<Vif>, Option<u32>),
    /// With the marks that it had.
    Keep(String, Marked, BTreeMap<String, String>),
}

impl<'a> Change<'a> {
    pub(crate) fn new(client: &'a Client, there: &'a Inventory, marks: &'a Marks) -> Self {
        let ours = there
            .networks()
            .into_iter()
            .filter(|network| network.ours)
            .map(|network| (network.name, network.reference))
            .collect();
        Self {
            client,
            there,
            marks,
            made: Vec::new(),
            ours,
            undo: Vec::new(),
        }
    }

    /// Does a step. What puts it back is known before it is done where it may be done in part.
    pub(crate) async fn carry_out(&mut self, step: &Step) -> Result<()> {
        let api = self.client.network();
        let refused = || Error::pool(step.to_string());
        match step {
            Step::Create { spec } => {
                let reference = self.create(spec).await?;
                self.undo
                    .push(Undo::Remove(spec.name.clone(), reference.clone()));
                self.made.push(Marked::Network(reference.clone()));
                self.ours.insert(spec.name.clone(), reference);
            }
            Step::CreateVlan { network, vlan, .. } => {
                let reference = self.known(network)?;
                let before = self.there.pifs_of(&reference);
                let before = before.map(|(pif, _)| pif.clone()).collect();
                self.undo
                    .push(Undo::RemoveVlan(network.clone(), reference.clone(), before));
                self.create_vlan(&reference, network, vlan).await?;
            }
            Step::SetDescription { network, from, to } => {
                let reference = self.known(network)?;
                self.undo
                    .push(Undo::Description(reference.clone(), from.clone()));
                let set = api.set_name_description(&reference, to).await;
                set.map_err(refused())?;
            }
            Step::SetMtu { network, from, to } => {
                let reference = self.known(network)?;
                self.undo.push(Undo::Mtu(reference.clone(), *from));
                api.set_mtu(&reference, *to).await.map_err(refused())?;
            }
            Step::SetAddresses { network, from, to } => {
                let reference = self.known(network)?;
                self.undo.push(Undo::Addresses(reference.clone(), *from));
                self.set_addresses(&reference, to)
                    .await
                    .map_err(refused())?;
            }
            Step::AddTag { network, tag } => {
                let reference = self.known(network)?;
                self.undo.push(Undo::Tag(reference.clone(), tag.clone()));
                api.add_tags(&reference, tag).await.map_err(refused())?;
            }
            Step::Keep { network } => {
                let reference = self.known(network)?;
                let had = self.there.networks.get(&reference);
                let had = had.map(|record| of_network(&record.tags));
                let marked = Marked::Network(reference);
                self.keep(step, marked, had.unwrap_or_default()).await?;
            }
            nic => self.carry_out_nic(nic).await?,
        }
        Ok(())
    }

    async fn carry_out_nic(&mut self, step: &Step) -> Result<()> {
        let refused = || Error::pool(step.to_string());
        let (client, there) = (self.client, self.there);
        match step {
            Step::Attach {
                vm: name,
                device,
                nic,
                ..
            } => {
                let network = self.meant(&nic.network)?;
                let vm = there.guests.find(nic.vm.as_deref().unwrap_or_default())?;
                let new = vif::New {
                    vm,
                    mtu: self.mtu(&network).await?,
                    network: &network,
                    device,
                    spec: nic,
                    marks: self.marks,
                };
                let vif = vif::attach(client, there, new, &step.to_string()).await?;
                let what = format!("interface {device} of VM {name}");
                self.undo.push(Undo::Detach(what, vif.clone()));
                self.made.push(Marked::Nic(vif));
            }
            Step::Move { nic, network, .. } => {
                let (vif, network) = (self.vif(nic)?, self.meant(network)?);
                let before = there.guests.vifs.get(&vif).map(|vif| vif.network.clone());
                let back = Undo::Move(nic.clone(), vif.clone(), before.unwrap_or_default());
                self.undo.push(back);
                client
                    .vif()
                    .move_(&vif, &network)
                    .await
                    .map_err(refused())?;
            }
            Step::SetLocking { nic, from, to } => {
                let vif = self.vif(nic)?;
                self.undo
                    .push(Undo::Locking(nic.clone(), vif.clone(), from.clone()));
                vif::lock(client, &vif, to).await.map_err(refused())?;
            }
            Step::SetRate { nic, from, to } => {
                let vif = self.vif(nic)?;
                self.undo.push(Undo::Rate(nic.clone(), vif.clone(), *from));
                vif::limit(client, &vif, *to).await.map_err(refused())?;
            }
            Step::KeepNic { nic } => {
                let vif = self.vif(nic)?;
                let had = there.guests.vifs.get(&vif);
                let had = had.map(|record| record.other_config.clone());
                let marked = Marked::Nic(vif);
                self.keep(step, marked, had.unwrap_or_default()).await?;
            }
            // The others are of networks.
            _ => {}
        }
        Ok(())
    }

    /// Takes the marks of a run off something that was there before.
    async fn keep(
        &mut self,
        step: &Step,
        marked: Marked,
        had: BTreeMap<String, String>,
    ) -> Result<()> {
        let kept = marked.clone();
        self.undo.push(Undo::Keep(step.to_string(), marked, had));
        let kept = kept.keep(self.client).await;
        kept.map_err(Error::pool(step.to_string()))
    }

    /// Ends the change: what was made is there to last, unless its marks are.
    pub(crate) async fn complete(&self) -> Result<()> {
        if self.marks.are_passing {
            for made in &self.made {
                let kept = made.keep(self.client).await;
                kept.map_err(Error::pool("keep what was made"))?;
            }
        }
        Ok(())
    }

    /// Undoes all steps, the last one first, and tells what failed and what is left.
    pub(crate) async fn undo(mut self, operation: String, error: Error) -> Error {
        let mut left = Vec::new();
        while let Some(undo) = self.undo.pop() {
            // Whatever the pool tells, what counts is how it is: the step that failed may have changed
            // nothing, and what refused it would refuse this too.
            if self.is_as_before(&undo).await {
                continue;
            }
            if let Err(failed) = self.put_back(&undo).await
                && !self.is_as_before(&undo).await
            {
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

    async fn put_back(&self, undo: &Undo) -> Result<()> {
        let (client, api) = (self.client, self.client.network());
        let done = match undo {
            Undo::Remove(name, network) => return self.remove(network, name).await,
            Undo::RemoveVlan(name, network, before) => {
                return self.remove_vlans(network, name, before).await;
            }
            Undo::Detach(what, vif) => return vif::detach(client, vif, what).await,
            Undo::Description(network, from) => api.set_name_description(network, from).await,
            Undo::Mtu(network, from) => api.set_mtu(network, *from).await,
            Undo::Addresses(network, from) => self.set_addresses(network, from).await,
            Undo::Tag(network, tag) => api.remove_tags(network, tag).await,
            Undo::Move(_, vif, network) => client.vif().move_(vif, network).await,
            Undo::Locking(_, vif, from) => vif::lock(client, vif, from).await,
            Undo::Rate(_, vif, from) => vif::limit(client, vif, *from).await,
            Undo::Keep(_, marked, had) => marked.give_back(client, had).await,
        };
        done.map_err(Error::pool("put a step back"))
    }

    /// Whether there is nothing to put back, as far as that can be seen.
    async fn is_as_before(&self, undo: &Undo) -> bool {
        let network = async |network| self.client.network().get_record(network).await;
        let vif = async |vif| self.client.vif().get_record(vif).await;
        let look = async || {
            Ok::<_, xapi_client::Error>(match undo {
                Undo::Remove(..) | Undo::RemoveVlan(..) | Undo::Detach(..) | Undo::Keep(..) => {
                    false
                }
                Undo::Description(of, from) => network(of).await?.name_description == *from,
                Undo::Mtu(of, from) => network(of).await?.mtu == *from,
                Undo::Addresses(of, from) => addresses_of(&network(of).await?) == *from,
                Undo::Tag(of, tag) => !network(of).await?.tags.contains(tag),
                Undo::Move(_, of, from) => vif(of).await?.network == *from,
                Undo::Locking(_, of, from) => locking_of(&vif(of).await?) == *from,
                Undo::Rate(_, of, from) => rate_of(&vif(of).await?) == *from,
            })
        };
        look().await.unwrap_or(false)
    }

    /// Removes a network and its VLAN on every host.
    pub(crate) async fn remove(&self, network: &Ref<Network>, name: &str) -> Result<()> {
        self.remove_vlans(network, name, &BTreeSet::new()).await?;
        let destroyed = self.client.network().destroy(network).await;
        gone(destroyed).map_err(Error::pool(format!("remove network {name}")))
    }

    fn known(&self, name: &str) -> Result<Ref<Network>> {
        self.ours.get(name).cloned().ok_or_else(|| Error::NotFound {
            selector: format!("{name:?}"),
            known: Names(self.ours.keys().cloned().collect()),
        })
    }

    /// The network that a plan means: one that is planned too by its name, others by their uuid.
    fn meant(&self, network: &NetworkSelector) -> Result<Ref<Network>> {
        match network {
            NetworkSelector::Name(name) => self.known(name),
            other => {
                let networks = self.there.networks();
                other.choose(&networks).map(|found| found.reference.clone())
            }
        }
    }

    fn vif(&self, nic: &Device) -> Result<Ref<Vif>> {
        let mut all = self.there.guests.vifs.iter();
        let found = all.find(|(_, vif)| vif.uuid.as_str() == nic.uuid);
        let gone = || Error::NoNic {
            vm: nic.vm.clone(),
            device: nic.device.clone(),
            known: Names(Vec::new()),
        };
        found.map(|(vif, _)| vif.clone()).ok_or_else(gone)
    }

    /// The largest packet of a network, which may be made or changed only just now.
    async fn mtu(&self, network: &Ref<Network>) -> Result<i64> {
        let mtu = self.client.network().get_mtu(network).await;
        mtu.map_err(Error::pool("read the MTU of the network"))
    }

    async fn set_addresses(
        &self,
        network: &Ref<Network>,
        to: &Addresses,
    ) -> xapi_client::Result<()> {
        let api = self.client.network();
        for (key, value) in on_record(to) {
            api.remove_from_other_config(network, key).await?;
            if let Some(value) = value {
                api.add_to_other_config(network, key, &value).await?;
            }
        }
        Ok(())
    }

    async fn create(&self, spec: &NetworkSpec) -> Result<Ref<Network>> {
        let mut wanted = NetworkCreate::new(&spec.name);
        wanted.name_description.clone_from(&spec.description);
        wanted.mtu = spec.mtu.map(i64::from);
        let (marks, lasting) = of_new_network(&self.marks.keys);
        wanted.tags = Some([tags(spec), marks].concat());
        wanted.other_config = lasting;
        let (owner, us) = OWNER;
        wanted.other_config.insert(owner.to_owned(), us.to_owned());
        for (key, value) in on_record(&spec.addresses()) {
            let value = value.map(|value| (key.to_owned(), value));
            wanted.other_config.extend(value);
        }
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
        let refused = || Error::pool(format!("carry {vlan} on network {name}"));
        let tag = i64::from(vlan.tag);
        let carried: BTreeSet<_> = self
            .there
            .pifs_of(network)
            .map(|(_, pif)| &pif.host)
            .collect();
        let mut done: Vec<&Ref<Network>> = Vec::new();
        for (reference, trunk) in self.there.trunks(&vlan.device) {
            if carried.contains(&trunk.host) || done.contains(&&trunk.network) {
                continue;
            }
            if carried.is_empty() {
                // One call per network of trunks: the pool itself adds the VLAN on each of its hosts.
                done.push(&trunk.network);
                let made = self.client.pool();
                let made = made.create_vlan_from_pif(reference, network, tag).await;
                made.map_err(refused())?;
            } else {
                let made = self.client.vlan().create(reference, tag, network).await;
                made.map_err(refused())?;
            }
        }
        Ok(())
    }

    /// Removes the VLANs of a network from all hosts, but for some.
    async fn remove_vlans(
        &self,
        network: &Ref<Network>,
        name: &str,
        but: &BTreeSet<Ref<Pif>>,
    ) -> Result<()> {
        let now = Inventory::read(self.client).await?;
        for (reference, pif) in now.pifs_of(network) {
            if tag_of(pif).is_none() || pif.vlan_master_of.is_null() || but.contains(reference) {
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

/// What is on record of addresses, by key.
fn on_record(addresses: &Addresses) -> [(&'static str, Option<String>); 2] {
    let Addresses { subnet, gateway } = addresses;
    [
        (SUBNET, subnet.map(|subnet| subnet.to_string())),
        (GATEWAY, gateway.map(|gateway| gateway.to_string())),
    ]
}

impl Undo {
    fn what_is_left(&self, failed: &Error) -> String {
        let reason = std::error::Error::source(failed)
            .map_or_else(|| failed.to_string(), ToString::to_string);
        let what = match self {
            Self::Remove(name, _) => format!("network {name}"),
            Self::RemoveVlan(name, ..) => format!("the VLAN of network {name}"),
            Self::Description(_, from) => format!("a description other than {from:?}"),
            Self::Mtu(_, from) => format!("an MTU other than {from}"),
            Self::Addresses(_, from) => format!("addresses other than {from}"),
            Self::Tag(_, tag) => format!("the tag {tag:?}"),
            Self::Detach(what, _) => what.clone(),
            Self::Move(nic, ..) => format!("{nic} on another network"),
            Self::Locking(nic, _, from) => format!("a locking of {nic} other than {from}"),
            Self::Rate(nic, ..) => format!("another rate of {nic}"),
            Self::Keep(step, ..) => format!("no mark of a run: {step}"),
        };
        format!("{what} ({reason})")
    }
}
