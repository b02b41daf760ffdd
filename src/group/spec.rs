//! Which VMs belong together, and on which network.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bioxen_net::{NetworkSelector, NetworkSpec, Subnet};
use bioxen_vm_core::{Result, VmId};

use super::{config, failed};

/// The addresses of a network of its own unless others are asked for.
const SUBNET: &str = "10.77.0.0/24";

/// Which VMs belong together, and on which network.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GroupSpec {
    /// The VMs, by the ids that they get.
    pub vms: Vec<VmId>,
    /// Their network.
    pub preset: Preset,
    /// Whether the hosts drop what a VM sends from an address that is not its own. Where it gets its
    /// address from DHCP, that is locked once it is known.
    pub locked: bool,
}

/// What network a lab wishes for its VMs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Preset {
    /// One that is made for them and goes with them, with fixed addresses, beside that of `network`
    /// in the configuration, by which they are reached.
    Own {
        /// The network. Without a VLAN it is private: it leads to no cable. Its subnet is
        /// `10.77.0.0/24` unless it says another; its gateway is the way to everything else.
        network: NetworkSpec,
        /// Whether the VMs are on no other network. Then they are reached there, so that this machine
        /// has to have a way to its addresses.
        alone: bool,
    },
    /// One that is there, with addresses from its DHCP server.
    Lan(NetworkSelector),
    /// None but that by which they are reached: the first of `network` in the configuration.
    ReachedOnly,
}

impl GroupSpec {
    /// VMs with a private network of this name between them: no cable leads there.
    pub fn isolated(network: impl Into<String>, vms: impl IntoIterator<Item = VmId>) -> Self {
        let network = NetworkSpec::new(network);
        Self::new(
            Preset::Own {
                network,
                alone: false,
            },
            vms,
        )
    }

    /// VMs on a VLAN that is made for them, of the interfaces of hosts of this name, with fixed
    /// addresses.
    pub fn vlan(
        network: impl Into<String>,
        device: impl Into<String>,
        tag: u16,
        vms: impl IntoIterator<Item = VmId>,
    ) -> Self {
        let network = NetworkSpec::new(network).with_vlan(device, tag);
        Self::new(
            Preset::Own {
                network,
                alone: false,
            },
            vms,
        )
    }

    /// VMs on a network that is there, with addresses from its DHCP server.
    pub fn lan(network: impl Into<NetworkSelector>, vms: impl IntoIterator<Item = VmId>) -> Self {
        Self::new(Preset::Lan(network.into()), vms)
    }

    /// VMs on no network but that by which they are reached, each locked to its address there.
    ///
    /// The hosts of a pool filter by address, not by port: what else a VM reaches on that network is
    /// the affair of its firewall.
    pub fn reached_only(vms: impl IntoIterator<Item = VmId>) -> Self {
        Self::new(Preset::ReachedOnly, vms).with_locking()
    }

    /// VMs with any of these.
    pub fn new(preset: Preset, vms: impl IntoIterator<Item = VmId>) -> Self {
        Self {
            vms: vms.into_iter().collect(),
            preset,
            locked: false,
        }
    }

    /// Lets the hosts drop what a VM sends from an address that is not its own.
    #[must_use]
    pub fn with_locking(mut self) -> Self {
        self.locked = true;
        self
    }

    /// Sets the addresses of the network that is made for the VMs.
    #[must_use]
    pub fn with_subnet(mut self, subnet: Subnet) -> Self {
        if let Preset::Own { network, .. } = &mut self.preset {
            network.subnet = Some(subnet);
        }
        self
    }

    /// The addresses that the VMs get on the network that is made for them: those of its subnet, in
    /// their order, but for the gateway.
    pub(super) fn addresses(&self) -> Result<Option<(Subnet, BTreeMap<VmId, IpAddr>)>> {
        let Preset::Own { network, .. } = &self.preset else {
            return Ok(None);
        };
        let subnet = match network.subnet {
            Some(subnet) => subnet,
            None => SUBNET
                .parse()
                .map_err(|error| failed("read the subnet", error))?,
        };
        let mut free = subnet
            .hosts()
            .filter(|address| network.gateway != Some(*address));
        let mut addresses = BTreeMap::new();
        for vm in &self.vms {
            let Some(address) = free.next() else {
                return Err(config(format!(
                    "{} VMs are too many for the addresses of {subnet}",
                    self.vms.len()
                )));
            };
            if addresses.insert(vm.clone(), address).is_some() {
                return Err(config(format!("VM {vm} is asked for twice")));
            }
        }
        Ok(Some((subnet, addresses)))
    }
}
