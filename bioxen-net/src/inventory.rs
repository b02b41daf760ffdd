//! What a pool has: the records that networks and interfaces are described from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Deserialize;
use xapi_client::api::{
    Bond, BondRecord, Host, HostMetrics, HostRecord, Network, NetworkRecord, Pif, PifRecord,
};
use xapi_client::{Client, Ref};

use crate::guests::Guests;
use crate::info::{BondInfo, HostInterface, NetworkInfo, NetworkKind};
use crate::marks::{is_mark, of_network, run_of};
use crate::{Addresses, Error, Result, Subnet, TAG};

/// Where the range of addresses of a network is on record, in its `other_config`.
pub(crate) const SUBNET: &str = "bioxen:subnet";
/// The same for where everything else is reached through.
pub(crate) const GATEWAY: &str = "bioxen:gateway";

/// The records of a pool, read at one time.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    pub(crate) networks: BTreeMap<Ref<Network>, NetworkRecord>,
    pub(crate) pifs: BTreeMap<Ref<Pif>, PifRecord>,
    pub(crate) bonds: BTreeMap<Ref<Bond>, BondRecord>,
    pub(crate) hosts: BTreeMap<Ref<Host>, HostRecord>,
    /// The hosts that the pool has lost sight of.
    pub(crate) dead: BTreeSet<Ref<Host>>,
    /// VMs and their interfaces, where they matter.
    pub(crate) guests: Guests,
}

impl Inventory {
    /// Reads all but the VMs: a call for each class, whatever the number of hosts.
    pub(crate) async fn read(client: &Client) -> Result<Self> {
        #[derive(Deserialize)]
        struct Life {
            live: bool,
        }
        let failed = || Error::pool("read the networks of the pool");
        let networks = client.network().get_all_records().await;
        let pifs = client.pif().get_all_records().await;
        let bonds = client.bond().get_all_records().await;
        let hosts = client.host().get_all_records().await.map_err(failed())?;
        let lives = client.host_metrics().get_all_records().select().await;
        let lives: BTreeMap<Ref<HostMetrics>, Life> = lives.map_err(failed())?;
        let is_dead = |host: &HostRecord| lives.get(&host.metrics).is_some_and(|life| !life.live);
        let dead = hosts.iter().filter(|(_, host)| is_dead(host));
        Ok(Self {
            networks: networks.map_err(failed())?,
            pifs: pifs.map_err(failed())?,
            bonds: bonds.map_err(failed())?,
            dead: dead.map(|(host, _)| host.clone()).collect(),
            hosts,
            guests: Guests::default(),
        })
    }

    /// The same with the VMs and their interfaces.
    pub(crate) async fn read_with_guests(client: &Client) -> Result<Self> {
        Ok(Self {
            guests: Guests::read(client).await?,
            ..Self::read(client).await?
        })
    }

    /// All networks, by name and bridge.
    pub(crate) fn networks(&self) -> Vec<NetworkInfo> {
        let mut all: Vec<_> = self
            .networks
            .iter()
            .map(|(reference, record)| self.describe(reference, record))
            .collect();
        all.sort_by(|a, b| (&a.name, &a.bridge).cmp(&(&b.name, &b.bridge)));
        all
    }

    /// All interfaces of hosts, by host and name.
    pub(crate) fn interfaces(&self) -> Vec<HostInterface> {
        let all = self.pifs.values();
        by_host(all.map(|pif| self.interface(pif)))
    }

    /// All bonds, by host and name.
    pub(crate) fn bonds(&self) -> Vec<BondInfo> {
        let device = |pif: &Ref<Pif>| self.pifs.get(pif).map(|pif| pif.device.clone());
        let describe = |bond: &BondRecord| {
            let master = self.pifs.get(&bond.master)?;
            let mut parts: Vec<_> = bond.slaves.iter().filter_map(device).collect();
            parts.sort();
            Some(BondInfo {
                uuid: bond.uuid.to_string(),
                host: self.host_name(&master.host),
                device: master.device.clone(),
                parts,
                mode: bond.mode.as_str().to_owned(),
                links_up: bond.links_up,
                network: self.network_name(&master.network),
            })
        };
        let mut all: Vec<_> = self.bonds.values().filter_map(describe).collect();
        all.sort_by(|a, b| (&a.host, &a.device).cmp(&(&b.host, &b.device)));
        all
    }

    fn describe(&self, reference: &Ref<Network>, record: &NetworkRecord) -> NetworkInfo {
        let pifs: Vec<_> = self.pifs_of(reference).map(|(_, pif)| pif).collect();
        let interfaces = pifs.iter().map(|pif| self.interface(pif));
        let mut tags = record.tags.clone();
        tags.retain(|tag| !is_mark(tag));
        tags.sort();
        let Addresses { subnet, gateway } = addresses_of(record);
        let of_templates = record.vifs.iter();
        let of_templates = of_templates.filter(|vif| self.guests.is_of_template(vif));
        let template_vifs = of_templates.count();
        NetworkInfo {
            reference: reference.clone(),
            uuid: record.uuid.to_string(),
            name: record.name_label.clone(),
            description: record.name_description.clone(),
            bridge: record.bridge.clone(),
            mtu: record.mtu,
            kind: kind(record, pifs.first().copied()),
            interfaces: by_host(interfaces),
            vifs: record.vifs.len() - template_vifs,
            template_vifs,
            locking: record.default_locking_mode.as_str().to_owned(),
            subnet,
            gateway,
            ours: tags.iter().any(|tag| tag == TAG),
            run: run_of(&of_network(&record.tags)),
            tags,
        }
    }

    /// The interfaces of hosts on a network.
    pub(crate) fn pifs_of<'i>(
        &'i self,
        network: &'i Ref<Network>,
    ) -> impl Iterator<Item = (&'i Ref<Pif>, &'i PifRecord)> {
        self.pifs
            .iter()
            .filter(move |(_, pif)| pif.network == *network)
    }

    /// The interfaces of this name that can carry a VLAN, on the hosts that are there.
    pub(crate) fn trunks<'i>(
        &'i self,
        device: &'i str,
    ) -> impl Iterator<Item = (&'i Ref<Pif>, &'i PifRecord)> {
        self.pifs.iter().filter(move |(_, pif)| {
            pif.device == device && tag_of(pif).is_none() && !self.dead.contains(&pif.host)
        })
    }

    pub(crate) fn host_name(&self, host: &Ref<Host>) -> String {
        self.hosts
            .get(host)
            .map_or_else(|| host.as_str().to_owned(), |host| host.name_label.clone())
    }

    /// What people call a network.
    pub(crate) fn network_name(&self, network: &Ref<Network>) -> String {
        match self.networks.get(network) {
            Some(record) if record.name_label.is_empty() => record.bridge.clone(),
            Some(record) => record.name_label.clone(),
            None => String::new(),
        }
    }

    fn interface(&self, pif: &PifRecord) -> HostInterface {
        let bond = self.bonds.get(&pif.bond_slave_of);
        let bond = bond.and_then(|bond| self.pifs.get(&bond.master));
        let address: Option<IpAddr> = pif.ip.parse().ok();
        HostInterface {
            uuid: pif.uuid.to_string(),
            host: self.host_name(&pif.host),
            host_reference: pif.host.clone(),
            device: pif.device.clone(),
            vlan: tag_of(pif),
            network: self.network_name(&pif.network),
            mac: pif.mac.clone(),
            mtu: pif.mtu,
            address,
            subnet: address.and_then(|address| subnet(address, &pif.netmask)),
            part_of: bond.map(|bond| bond.device.clone()),
            attached: pif.currently_attached,
            management: pif.management,
        }
    }
}

/// The addresses that are on record with a network.
pub(crate) fn addresses_of(record: &NetworkRecord) -> Addresses {
    let on_record = |key| record.other_config.get(key);
    Addresses {
        subnet: on_record(SUBNET).and_then(|text| text.parse().ok()),
        gateway: on_record(GATEWAY).and_then(|text| text.parse().ok()),
    }
}

fn by_host(all: impl Iterator<Item = HostInterface>) -> Vec<HostInterface> {
    let mut all: Vec<_> = all.collect();
    all.sort_by(|a, b| (&a.host, &a.device, a.vlan).cmp(&(&b.host, &b.device, b.vlan)));
    all
}

/// The range of an address, from a mask as the pool writes it: `255.255.255.0`.
fn subnet(address: IpAddr, mask: &str) -> Option<Subnet> {
    let mask: std::net::Ipv4Addr = mask.parse().ok()?;
    let prefix = u8::try_from(u32::from(mask).leading_ones()).ok()?;
    Subnet::of(address, prefix).ok()
}

/// The VLAN of an interface; the pool writes -1 for none.
pub(crate) fn tag_of(pif: &PifRecord) -> Option<u16> {
    u16::try_from(pif.vlan).ok()
}

fn kind(record: &NetworkRecord, pif: Option<&PifRecord>) -> NetworkKind {
    const INTERNAL: &str = "is_host_internal_management_network";
    let Some(pif) = pif else {
        return match record.other_config.contains_key(INTERNAL) {
            true => NetworkKind::HostInternal,
            false => NetworkKind::Private,
        };
    };
    let device = pif.device.clone();
    match tag_of(pif) {
        Some(tag) => NetworkKind::Vlan { device, tag },
        None if !pif.bond_master_of.is_empty() => NetworkKind::Bond { device },
        None if pif.physical => NetworkKind::Physical { device },
        None => NetworkKind::Other { device },
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::info::Reach;
    use serde_json::{Value, json};

    pub(crate) fn records<T, R>(all: Value) -> BTreeMap<Ref<T>, R>
    where
        R: serde::de::DeserializeOwned,
    {
        let Value::Object(all) = all else {
            panic!("records are an object");
        };
        all.into_iter()
            .map(|(reference, record)| {
                (
                    Ref::new(&reference),
                    serde_json::from_value(record).unwrap(),
                )
            })
            .collect()
    }

    /// Two hosts; a LAN, a VLAN on one host, a private network of ours, and two networks of one
    /// name.
    pub(crate) fn pool_of_two() -> Inventory {
        Inventory {
            hosts: records(json!({
                "h1": {"uuid": "u-h1", "name_label": "one"},
                "h2": {"uuid": "u-h2", "name_label": "two"},
            })),
            networks: records(json!({
                "lan": {"uuid": "u-lan", "name_label": "LAN", "bridge": "xenbr0", "MTU": 1500,
                        "tags": ["office"], "VIFs": ["v1", "v2"], "PIFs": ["p1", "p2"]},
                "storage": {"uuid": "u-st", "name_label": "storage", "bridge": "xapi0",
                            "MTU": 9000, "PIFs": ["p3"]},
                "private": {"uuid": "u-pr", "name_label": "lab", "bridge": "xapi3", "MTU": 1500,
                            "name_description": "of the lab", "tags": ["bioxen", "a"],
                            "other_config": {"bioxen:subnet": "10.77.0.0/24"}},
                "twin1": {"uuid": "u-twin1", "name_label": "twin", "bridge": "xapi1"},
                "twin2": {"uuid": "u-twin2", "name_label": "twin", "bridge": "xapi2"},
                "internal": {"uuid": "u-in", "name_label": "Host internal", "bridge": "xenapi",
                             "other_config": {"is_host_internal_management_network": "true"}},
            })),
            pifs: records(json!({
                "p1": {"device": "eth0", "network": "lan", "host": "h1", "VLAN": -1, "MTU": 1500,
                       "IP": "192.168.7.1", "netmask": "255.255.255.0", "physical": true, "currently_attached": true, "management": true},
                "p2": {"device": "eth0", "network": "lan", "host": "h2", "VLAN": -1, "MTU": 1500,
                       "physical": true, "currently_attached": true, "management": true},
                "p3": {"device": "eth0", "network": "storage", "host": "h1", "VLAN": 40,
                       "MTU": 9000, "currently_attached": true, "VLAN_master_of": "vlan40"},
                "p4": {"device": "eth1", "network": "gone", "host": "h1", "VLAN": -1,
                       "physical": true, "bond_slave_of": "bond"},
                "p5": {"device": "eth2", "network": "gone", "host": "h1", "VLAN": -1,
                       "physical": true, "bond_slave_of": "bond"},
                "p6": {"device": "bond0", "network": "twin1", "host": "h1", "VLAN": -1,
                       "MTU": 1500, "bond_master_of": ["bond"]},
            })),
            bonds: records(json!({
                "bond": {"uuid": "u-bond", "master": "p6", "slaves": ["p5", "p4"],
                         "mode": "lacp", "links_up": 2},
            })),
            dead: BTreeSet::new(),
            guests: Guests::default(),
        }
    }

    #[test]
    fn networks_are_described_with_what_they_lead_to_and_who_reaches_them() {
        let networks = pool_of_two().networks();
        let names: Vec<_> = networks.iter().map(ToString::to_string).collect();
        assert_eq!(
            names,
            [
                "Host internal (xenapi)",
                "LAN (xenbr0)",
                "lab (xapi3)",
                "storage (xapi0)",
                "twin (xapi1)",
                "twin (xapi2)"
            ]
        );
        let by_name = |name: &str| networks.iter().find(|n| n.name == name).unwrap();
        let lan = by_name("LAN");
        assert_eq!(lan.kind.to_string(), "eth0");
        assert_eq!((lan.vifs, lan.ours), (2, false));
        let both = ["one".to_owned(), "two".to_owned()].into_iter().collect();
        assert_eq!(lan.hosts(), Reach::Hosts(both));
        let storage = by_name("storage");
        assert_eq!(storage.kind.to_string(), "VLAN 40 of eth0");
        assert!(storage.reaches(&Ref::new("h1")) && !storage.reaches(&Ref::new("h2")));
        let lab = by_name("lab");
        assert!(lab.ours);
        assert_eq!(
            (&lab.kind, lab.hosts()),
            (&NetworkKind::Private, Reach::EachForItself)
        );
        assert_eq!(by_name("Host internal").kind, NetworkKind::HostInternal);
    }

    #[test]
    fn interfaces_of_hosts_and_bonds_are_described() {
        let there = pool_of_two();
        let interfaces = there.interfaces();
        let names: Vec<_> = interfaces.iter().map(ToString::to_string).collect();
        assert_eq!(
            names,
            [
                "bond0 of host one",
                "eth0 of host one",
                "eth0 VLAN 40 of host one",
                "eth1 of host one",
                "eth2 of host one",
                "eth0 of host two"
            ]
        );
        assert_eq!(interfaces[3].part_of.as_deref(), Some("bond0"));
        assert_eq!(interfaces[1].part_of, None);
        let subnet = interfaces[1].subnet.unwrap();
        assert_eq!(subnet.to_string(), "192.168.7.0/24");
        assert_eq!(interfaces[5].subnet, None);
        let bonds = there.bonds();
        assert_eq!(bonds.len(), 1);
        assert_eq!(bonds[0].parts, ["eth1", "eth2"]);
        assert_eq!(
            (&*bonds[0].device, &*bonds[0].mode, &*bonds[0].network),
            ("bond0", "lacp", "twin")
        );
    }
}
