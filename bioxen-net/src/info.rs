//! Networks, and the interfaces of hosts on them, in words.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use serde::Serialize;
use xapi_client::Ref;
use xapi_client::api::{Host, Network};

use crate::{Subnet, VlanSpec};

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
    /// How many interfaces of templates and snapshots are on it. They keep it from being removed.
    pub template_vifs: usize,
    /// Which addresses an interface on it may use unless its own locking says otherwise: `unlocked`
    /// (any) or `disabled` (none).
    pub locking: String,
    /// The addresses that its machines have, where that is on record.
    pub subnet: Option<Subnet>,
    /// Where everything else is reached through, where that is on record.
    pub gateway: Option<IpAddr>,
    /// Whether this library made it.
    pub ours: bool,
    /// The run of a program that it belongs to: for as long as it is not complete, or for as long as
    /// that run lasts.
    pub run: Option<String>,
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

    /// Whether VMs on a host reach it.
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

/// An interface of a host (PIF): a card, a bond of several, or a VLAN on one of these.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct HostInterface {
    /// Its uuid.
    pub uuid: String,
    /// The name of the host.
    pub host: String,
    #[serde(skip)]
    pub(crate) host_reference: Ref<Host>,
    /// The interface, `eth0`.
    pub device: String,
    /// The VLAN, unless it is the interface itself.
    pub vlan: Option<u16>,
    /// The network that it is on.
    pub network: String,
    /// Its MAC address.
    pub mac: String,
    /// The largest packet in bytes.
    pub mtu: i64,
    /// The address of the host on the network, if it has one.
    pub address: Option<IpAddr>,
    /// The addresses that are reached without a gateway, where the host has one of them.
    pub subnet: Option<Subnet>,
    /// The bond that it is a part of.
    pub part_of: Option<String>,
    /// Whether it is up.
    pub attached: bool,
    /// Whether the host is managed through it.
    pub management: bool,
}

impl fmt::Display for HostInterface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.device)?;
        if let Some(tag) = self.vlan {
            write!(f, " VLAN {tag}")?;
        }
        write!(f, " of host {}", self.host)
    }
}

/// Several interfaces of a host that act as one.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct BondInfo {
    /// Its uuid.
    pub uuid: String,
    /// The name of the host.
    pub host: String,
    /// The interface that they form, `bond0`.
    pub device: String,
    /// Its parts.
    pub parts: Vec<String>,
    /// How they share the work: `balance-slb`, `active-backup`, `lacp`.
    pub mode: String,
    /// How many of the parts are up.
    pub links_up: i64,
    /// The network that it is on.
    pub network: String,
}
