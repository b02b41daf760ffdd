//! The networks of a pool, as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use xapi_client::api::{Host, HostRecord, Network, NetworkRecord, Pif, PifRecord};
use xapi_client::{Client, Ref};

use crate::{Error, Result, TAG, VlanSpec};

/// A network of a pool.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct NetworkInfo {
    /// Its reference, good for this pool until it is removed.
    #[serde(skip)]
    pub reference: Ref<Network>,
    /// Its uuid.
    pub uuid: String,
    /// Its name, which other networks may have too and which may be empty.
    pub name: String,
    /// What it is for, in a line.
    pub description: String,
    /// The name of its bridge on the hosts.
    pub bridge: String,
    /// The largest packet in bytes.
    pub mtu: i64,
    /// Its tags, sorted.
    pub tags: Vec<String>,
    /// What it leads to.
    pub kind: NetworkKind,
    /// The interfaces of hosts on it, by host.
    pub interfaces: Vec<HostInterface>,
    /// How many interfaces of VMs are on it, those of halted VMs included.
    pub vifs: usize,
    /// Whether this library made it.
    pub ours: bool,
}

impl NetworkInfo {
    /// The hosts whose VMs reach the network: those with an interface on it, or all for a network
    /// that leads to no cable, where VMs reach each other on the same host only.
    #[must_use]
    pub fn hosts(&self) -> Reach {
        if self.interfaces.is_empty() {
            return Reach::EachForItself;
        }
        let hosts = self
            .interfaces
            .iter()
            .map(|interface| interface.host.clone());
        Reach::Hosts(hosts.collect())
    }

    pub(crate) fn reaches(&self, host: &Ref<Host>) -> bool {
        self.interfaces.is_empty()
            || self
                .interfaces
                .iter()
                .any(|interface| interface.host_reference == *host)
    }

    /// The VLAN that it carries.
    pub(crate) fn vlan(&self) -> Option<VlanSpec> {
        match &self.kind {
            NetworkKind::Vlan { device, tag } => Some(VlanSpec {
                device: device.clone(),
                tag: *tag,
            }),
            _ => None,
        }
    }
}

impl fmt::Display for NetworkInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() {
            return write!(f, "{}", self.bridge);
        }
        write!(f, "{} ({})", self.name, self.bridge)
    }
}

/// What a network leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NetworkKind {
    /// No cable: it is between VMs of one host.
    Private,
    /// Between each host and its VMs, made by the pool itself.
    HostInternal,
    /// The interface of this name on the hosts.
    Physical {
        /// The interface, `eth0`.
        device: String,
    },
    /// Several interfaces that act as one.
    Bond {
        /// The bond, `bond0`.
        device: String,
    },
    /// A VLAN on the interface of this name.
    Vlan {
        /// The interface, `eth0`.
        device: String,
        /// The number of the VLAN.
        tag: u16,
    },
    /// Something else, a tunnel for example.
    Other {
        /// The interface.
        device: String,
    },
}

impl fmt::Display for NetworkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Private => f.write_str("private"),
            Self::HostInternal => f.write_str("host internal"),
            Self::Physical { device } | Self::Bond { device } | Self::Other { device } => {
                f.write_str(device)
            }
            Self::Vlan { device, tag } => write!(f, "VLAN {tag} of {device}"),
        }
    }
}

/// The hosts whose VMs reach a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// These, by name.
    Hosts(BTreeSet<String>),
    /// All, but VMs of different hosts do not reach each other.
    EachForItself,
}

/// An interface of a host on a network.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct HostInterface {
    /// The name of the host.
    pub host: String,
    #[serde(skip)]
    pub(crate) host_reference: Ref<Host>,
    /// The interface, `eth0`.
    pub device: String,
    /// The VLAN, unless it is the interface itself.
    pub vlan: Option<u16>,
    /// Whether it is up.
    pub attached: bool,
    /// Whether the host is managed through it.
    pub management: bool,
}

/// The records that networks are described from.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    pub(crate) networks: BTreeMap<Ref<Network>, NetworkRecord>,
    pub(crate) pifs: BTreeMap<Ref<Pif>, PifRecord>,
    pub(crate) hosts: BTreeMap<Ref<Host>, HostRecord>,
}

impl Inventory {
    pub(crate) async fn read(client: &Client) -> Result<Self> {
        const OPERATION: &str = "read the networks of the pool";
        Ok(Self {
            networks: client
                .network()
                .get_all_records()
                .await
                .map_err(Error::pool(OPERATION))?,
            pifs: client
                .pif()
                .get_all_records()
                .await
                .map_err(Error::pool(OPERATION))?,
            hosts: client
                .host()
                .get_all_records()
                .await
                .map_err(Error::pool(OPERATION))?,
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

    fn describe(&self, reference: &Ref<Network>, record: &NetworkRecord) -> NetworkInfo {
        let pifs: Vec<_> = self.pifs_of(reference).map(|(_, pif)| pif).collect();
        let mut interfaces: Vec<_> = pifs.iter().map(|pif| self.interface(pif)).collect();
        interfaces.sort_by(|a, b| (&a.host, &a.device).cmp(&(&b.host, &b.device)));
        let mut tags = record.tags.clone();
        tags.sort();
        NetworkInfo {
            reference: reference.clone(),
            uuid: record.uuid.to_string(),
            name: record.name_label.clone(),
            description: record.name_description.clone(),
            bridge: record.bridge.clone(),
            mtu: record.mtu,
            kind: kind(record, &pifs),
            interfaces,
            vifs: record.vifs.len(),
            ours: tags.iter().any(|tag| tag == TAG),
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

    /// The interfaces of this name that can carry a VLAN, by host.
    pub(crate) fn trunks<'i>(
        &'i self,
        device: &'i str,
    ) -> impl Iterator<Item = (&'i Ref<Pif>, &'i PifRecord)> {
        self.pifs
            .iter()
            .filter(move |(_, pif)| pif.device == device && tag_of(pif).is_none())
    }

    pub(crate) fn host_name(&self, host: &Ref<Host>) -> String {
        self.hosts
            .get(host)
            .map_or_else(|| host.as_str().to_owned(), |host| host.name_label.clone())
    }

    fn interface(&self, pif: &PifRecord) -> HostInterface {
        HostInterface {
            host: self.host_name(&pif.host),
            host_reference: pif.host.clone(),
            device: pif.device.clone(),
            vlan: tag_of(pif),
            attached: pif.currently_attached,
            management: pif.management,
        }
    }
}

/// The VLAN of an interface; the pool writes -1 for none.
pub(crate) fn tag_of(pif: &PifRecord) -> Option<u16> {
    u16::try_from(pif.vlan).ok()
}

fn kind(record: &NetworkRecord, pifs: &[&PifRecord]) -> NetworkKind {
    let Some(pif) = pifs.first() else {
        return if record
            .other_config
            .contains_key("is_host_internal_management_network")
        {
            NetworkKind::HostInternal
        } else {
            NetworkKind::Private
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
    use serde_json::{Value, json};

    fn records<T, R>(all: Value) -> BTreeMap<Ref<T>, R>
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
                            "name_description": "of the lab", "tags": ["bioxen", "a"]},
                "twin1": {"uuid": "u-twin1", "name_label": "twin", "bridge": "xapi1"},
                "twin2": {"uuid": "u-twin2", "name_label": "twin", "bridge": "xapi2"},
                "internal": {"uuid": "u-in", "name_label": "Host internal", "bridge": "xenapi",
                             "other_config": {"is_host_internal_management_network": "true"}},
            })),
            pifs: records(json!({
                "p1": {"device": "eth0", "network": "lan", "host": "h1", "VLAN": -1, "MTU": 1500,
                       "physical": true, "currently_attached": true, "management": true},
                "p2": {"device": "eth0", "network": "lan", "host": "h2", "VLAN": -1, "MTU": 1500,
                       "physical": true, "currently_attached": true, "management": true},
                "p3": {"device": "eth0", "network": "storage", "host": "h1", "VLAN": 40,
                       "MTU": 9000, "currently_attached": true, "VLAN_master_of": "vlan40"},
                "p4": {"device": "eth1", "network": "gone", "host": "h1", "VLAN": -1,
                       "physical": true, "bond_slave_of": "bond"},
            })),
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
}
