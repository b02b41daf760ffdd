//! The steps of a plan, as data and in words.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use crate::{Locking, NetworkSpec, NicSpec, Subnet, VlanSpec};

/// The steps that make things as they are wanted. `Display` says them, a line each.
///
/// A plan is of the moment: [`Networks::apply`](crate::Networks::apply) makes it anew.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Plan {
    /// The steps, in their order.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Whether everything is as wanted already.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing to do");
        }
        let steps: Vec<_> = self.steps.iter().map(Step::to_string).collect();
        f.write_str(&steps.join("\n"))
    }
}

/// A step of a plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Step {
    /// Make a network, without its VLAN.
    Create {
        /// The network as it should be.
        spec: NetworkSpec,
    },
    /// Carry a VLAN on a network, on hosts that do not yet.
    CreateVlan {
        /// The name of the network.
        network: String,
        /// The VLAN.
        vlan: VlanSpec,
        /// The names of the hosts; all that have the interface when `None`.
        hosts: Option<Vec<String>>,
    },
    /// Say something else of what it is for.
    SetDescription {
        /// The name of the network.
        network: String,
        /// What it says now.
        from: String,
        /// What it should say.
        to: String,
    },
    /// Change the largest packet. VMs follow when they start the next time.
    SetMtu {
        /// The name of the network.
        network: String,
        /// The size in bytes now.
        from: i64,
        /// The size in bytes wanted.
        to: i64,
    },
    /// Put other addresses on record.
    SetAddresses {
        /// The name of the network.
        network: String,
        /// Those on record now.
        from: Addresses,
        /// Those wanted.
        to: Addresses,
    },
    /// Add a tag.
    AddTag {
        /// The name of the network.
        network: String,
        /// The tag.
        tag: String,
    },
    /// Take from a network what says that it belongs to a run of a program, which did not complete it.
    Keep {
        /// The name of the network.
        network: String,
    },
    /// Give a VM an interface, and plug it in when the VM runs.
    Attach {
        /// The name of the VM.
        vm: String,
        /// The number that the interface gets.
        device: String,
        /// The name of the network.
        network: String,
        /// The interface as it should be, with the uuid of its VM.
        nic: NicSpec,
    },
    /// Move an interface to another network.
    Move {
        /// The interface.
        nic: Device,
        /// The name of the network that it is on now.
        from: String,
        /// The name of the network that it should be on.
        to: String,
        /// Which of the networks of this name that is.
        #[serde(skip)]
        network: crate::NetworkSelector,
    },
    /// Change which addresses an interface may use.
    SetLocking {
        /// The interface.
        nic: Device,
        /// What it may now.
        from: Locking,
        /// What it should.
        to: Locking,
    },
    /// Change what an interface may send, at most.
    SetRate {
        /// The interface.
        nic: Device,
        /// The limit in kilobytes per second now.
        from: Option<u32>,
        /// The limit wanted.
        to: Option<u32>,
    },
    /// Take from an interface what says that it belongs to a run of a program, which did not complete
    /// it.
    KeepNic {
        /// The interface.
        nic: Device,
    },
}

/// The addresses that the machines on a network have, as they are on record with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Addresses {
    /// All of them.
    pub subnet: Option<Subnet>,
    /// Where everything else is reached through.
    pub gateway: Option<IpAddr>,
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.subnet {
            Some(subnet) => write!(f, "{subnet}")?,
            None => f.write_str("none")?,
        }
        match self.gateway {
            Some(gateway) => write!(f, " by way of {gateway}"),
            None => Ok(()),
        }
    }
}

/// An interface that a VM has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    /// The name of the VM.
    pub vm: String,
    /// The number of the interface.
    pub device: String,
    /// Its uuid.
    pub uuid: String,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interface {} of VM {}", self.device, self.vm)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = |rate: &Option<u32>| match rate {
            Some(rate) => format!("{rate} kB/s"),
            None => "any".to_owned(),
        };
        match self {
            Self::Create { spec } => write!(f, "create network {}", spec.name),
            Self::CreateVlan {
                network,
                vlan,
                hosts,
            } => {
                write!(f, "carry {vlan} on network {network}")?;
                match hosts {
                    Some(hosts) => write!(f, " on the hosts {}", hosts.join(", ")),
                    None => Ok(()),
                }
            }
            Self::SetDescription { network, to, .. } => {
                write!(f, "describe network {network} as {to:?}")
            }
            Self::SetMtu {
                network, from, to, ..
            } => write!(f, "change the MTU of network {network} from {from} to {to}"),
            Self::SetAddresses { network, from, to } => write!(
                f,
                "change the addresses of network {network} from {from} to {to}"
            ),
            Self::AddTag { network, tag, .. } => write!(f, "tag network {network} with {tag:?}"),
            Self::Keep { network } => write!(f, "keep network {network}, which was left half made"),
            Self::KeepNic { nic } => write!(f, "keep {nic}, which was left half made"),
            Self::Attach {
                vm,
                device,
                network,
                nic,
            } => {
                write!(
                    f,
                    "attach VM {vm} to network {network} as interface {device}"
                )?;
                if let Some(mac) = nic.mac {
                    write!(f, " ({mac})")?;
                }
                if nic.locking != Locking::default() {
                    write!(f, ", {}", nic.locking)?;
                }
                match nic.rate {
                    Some(_) => write!(f, ", sending at most {}", rate(&nic.rate)),
                    None => Ok(()),
                }
            }
            Self::Move { nic, from, to, .. } => write!(f, "move {nic} from network {from} to {to}"),
            Self::SetLocking { nic, from, to } => {
                write!(f, "change the locking of {nic} from {from} to {to}")
            }
            Self::SetRate { nic, from, to } => write!(
                f,
                "change what {nic} may send from {} to {}",
                rate(from),
                rate(to)
            ),
        }
    }
}
