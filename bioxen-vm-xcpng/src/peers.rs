//! VMs that know each other: by fixed addresses on a network of theirs, and by names for these.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bioxen_vm_core::VmId;
use serde::Deserialize;

use crate::config_drive::{Cidr, StaticAddress};
use crate::first_contact::host_name;

/// VMs that know each other. Each of them gets its address on one of its interfaces, and finds the
/// others by their ids.
///
/// A VM whose id is not among them finds them too, and asks DHCP for an address of its own.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Peers {
    /// The number of the interface that is on their network: the place of that in `network`, from 0.
    pub interface: usize,
    /// The addresses of their network: `10.77.0.0/24`.
    pub subnet: Cidr,
    /// Where everything else is reached through; by default nowhere, or by another interface.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// The address of each, by id.
    pub addresses: BTreeMap<VmId, IpAddr>,
}

impl Peers {
    /// VMs with these addresses on the network of this number.
    #[must_use]
    pub fn new(interface: usize, subnet: Cidr, addresses: BTreeMap<VmId, IpAddr>) -> Self {
        Self {
            interface,
            subnet,
            gateway: None,
            addresses,
        }
    }

    /// The address that a VM gets.
    pub(crate) fn address_of(&self, vm: &VmId) -> Option<StaticAddress> {
        let ip = *self.addresses.get(vm)?;
        Some(StaticAddress {
            address: self.subnet.with_ip(ip),
            gateway: self.gateway,
            nameservers: Vec::new(),
        })
    }

    /// The lines of `/etc/hosts`: addresses, and what a VM is called there.
    pub(crate) fn hosts(&self) -> String {
        let mut lines = String::new();
        for (vm, address) in &self.addresses {
            let name = host_name(vm);
            lines.push_str(&format!("{address} {name}"));
            // An id may have letters and signs that a host name has not.
            if name != vm.as_str() {
                lines.push_str(&format!(" {vm}"));
            }
            lines.push('\n');
        }
        lines
    }

    /// What is wrong with them.
    pub(crate) fn problems(&self, networks: usize) -> Vec<String> {
        let subnet = self.subnet;
        let mut problems = Vec::new();
        if !subnet.is_network() {
            problems.push(format!(
                "peers.subnet {subnet} is an address in a network, not the network"
            ));
        }
        if self.interface >= networks.max(1) {
            problems.push(format!(
                "peers.interface is {}, but network names {networks}; interfaces count from 0",
                self.interface
            ));
        }
        let mut taken = BTreeSet::new();
        let mut names = BTreeSet::new();
        for (vm, address) in &self.addresses {
            if !subnet.has(*address) {
                problems.push(format!(
                    "peers: {vm} has {address}, which is not in {subnet}"
                ));
            }
            if !taken.insert(address) {
                problems.push(format!("peers: {vm} has {address}, and so has another VM"));
            }
            if !names.insert(host_name(vm)) {
                problems.push(format!("peers: {vm} has the host name of another VM"));
            }
        }
        if let Some(gateway) = self.gateway.filter(|gateway| !subnet.has(*gateway)) {
            problems.push(format!("peers.gateway {gateway} is not in {subnet}"));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(addresses: &[(&str, &str)]) -> Peers {
        let addresses = addresses
            .iter()
            .map(|(vm, ip)| (VmId::new(*vm).unwrap(), ip.parse().unwrap()));
        Peers::new(1, "10.77.0.0/24".parse().unwrap(), addresses.collect())
    }

    #[test]
    fn each_has_its_address_and_all_are_called_by_their_ids() {
        let peers = peers(&[("alpha", "10.77.0.1"), ("Beta_2", "10.77.0.2")]);
        assert_eq!(peers.problems(2), Vec::<String>::new());
        assert_eq!(peers.hosts(), "10.77.0.2 beta-2 Beta_2\n10.77.0.1 alpha\n");
        let of = |vm: &str| peers.address_of(&VmId::new(vm).unwrap());
        assert_eq!(of("alpha").unwrap().address.to_string(), "10.77.0.1/24");
        assert!(of("gamma").is_none());
    }

    #[test]
    fn all_that_is_wrong_is_told() {
        let mut peers = peers(&[
            ("a-b", "10.77.0.1"),
            ("a_b", "10.77.0.1"),
            ("c", "10.78.0.1"),
        ]);
        peers.subnet = "10.77.0.9/24".parse().unwrap();
        peers.gateway = "10.1.0.1".parse().ok();
        assert_eq!(
            peers.problems(1),
            [
                "peers.subnet 10.77.0.9/24 is an address in a network, not the network",
                "peers.interface is 1, but network names 1; interfaces count from 0",
                "peers: a_b has 10.77.0.1, and so has another VM",
                "peers: a_b has the host name of another VM",
                "peers: c has 10.78.0.1, which is not in 10.77.0.9/24",
                "peers.gateway 10.1.0.1 is not in 10.77.0.9/24",
            ]
        );
    }
}
