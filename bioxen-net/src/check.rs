//! What is wrong with networks that are wanted: all of it, before anything is made.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::info::NetworkInfo;
use crate::inventory::{Inventory, tag_of};
use crate::marks::is_mark;
use crate::{NetworkSpec, Subnet, VlanSpec};

/// What is wrong between several networks that are wanted together.
#[derive(Debug, Default)]
pub(crate) struct Together<'w> {
    names: BTreeSet<&'w str>,
    vlans: BTreeSet<(&'w str, u16)>,
    subnets: Vec<(&'w str, Subnet)>,
}

impl<'w> Together<'w> {
    /// Looks at one more network.
    pub(crate) fn check(&mut self, spec: &'w NetworkSpec) -> Vec<String> {
        if !self.names.insert(&spec.name) {
            return vec!["it is asked for twice".to_owned()];
        }
        let mut problems = Vec::new();
        if let Some(vlan) = &spec.vlan
            && !self.vlans.insert((&vlan.device, vlan.tag))
        {
            problems.push(format!("another one carries {vlan} too"));
        }
        if let Some(subnet) = spec.subnet {
            for (name, other) in &self.subnets {
                if subnet.overlaps(*other) {
                    problems.push(format!(
                        "its addresses {subnet} and those of network {name:?}, {other}, overlap"
                    ));
                }
            }
            self.subnets.push((&spec.name, subnet));
        }
        problems
    }
}

/// All that is wrong with one network.
pub(crate) fn check(
    spec: &NetworkSpec,
    existing: &[&NetworkInfo],
    networks: &[NetworkInfo],
    there: &Inventory,
) -> Vec<String> {
    let mut problems = Vec::new();
    let name_fits = !spec.name.trim().is_empty()
        && spec.name.len() <= 128
        && !spec.name.chars().any(char::is_control);
    if !name_fits {
        problems.push("a name has 1 to 128 characters, none of them control characters".into());
    }
    if let Some(mtu) = spec.mtu
        && !(68..=9216).contains(&mtu)
    {
        problems.push(format!("an MTU of {mtu} is outside of 68 to 9216 bytes"));
    }
    for tag in &spec.tags {
        if tag.trim().is_empty() || tag.chars().any(char::is_control) {
            problems.push(format!("{tag:?} cannot be a tag"));
        }
        if is_mark(tag) {
            problems.push(format!(
                "the tag {tag:?} would mark it as left behind; choose another one"
            ));
        }
    }
    match existing {
        [] => {}
        [network] if !network.ours => problems.push(format!(
            "{network} has this name and was not made by BioXen; choose another name, or use that \
             network as it is"
        )),
        [network] => {
            let has = network.vlan();
            if has != spec.vlan && (has.is_some() || !network.interfaces.is_empty()) {
                problems.push(format!(
                    "it exists as {}, and what it leads to cannot be changed; ask for it as it is, or \
                     remove it first",
                    network.kind
                ));
            }
        }
        several => problems.push(format!(
            "{} networks have this name already; rename or remove them",
            several.len()
        )),
    }
    addresses(spec, networks, there, &mut problems);
    if let Some(vlan) = &spec.vlan {
        check_vlan(spec, vlan, networks, there, &mut problems);
    }
    hosts(spec, there, &mut problems);
    problems
}

fn addresses(
    spec: &NetworkSpec,
    networks: &[NetworkInfo],
    there: &Inventory,
    problems: &mut Vec<String>,
) {
    match (spec.gateway, spec.subnet) {
        (Some(gateway), Some(subnet)) if !subnet.has_host(gateway) => problems.push(format!(
            "the gateway {gateway} is no address that a machine of {subnet} can have; give another one"
        )),
        (Some(gateway), None) => problems.push(format!(
            "the gateway {gateway} needs a subnet that it is an address of"
        )),
        _ => {}
    }
    let Some(subnet) = spec.subnet else { return };
    let wrong_kind = |address: IpAddr| address.is_multicast() || address.is_loopback();
    if subnet.hosts().next().is_some_and(wrong_kind) {
        problems.push(format!(
            "{subnet} is no range for the addresses of machines"
        ));
    }
    for network in networks.iter().filter(|network| network.name != spec.name) {
        if let Some(other) = network.subnet.filter(|other| subnet.overlaps(*other)) {
            problems.push(format!(
                "its addresses {subnet} and those of network {network}, {other}, overlap"
            ));
        }
    }
    for interface in there.interfaces() {
        let other = interface.subnet.filter(|other| subnet.overlaps(*other));
        if let Some(other) = other.filter(|_| interface.network != spec.name) {
            problems.push(format!(
                "its addresses {subnet} and those that {interface} reaches, {other}, overlap"
            ));
        }
    }
}

fn check_vlan(
    spec: &NetworkSpec,
    vlan: &VlanSpec,
    networks: &[NetworkInfo],
    there: &Inventory,
    problems: &mut Vec<String>,
) {
    if !(1..=4094).contains(&vlan.tag) {
        problems.push(format!("VLAN {} is outside of 1 to 4094", vlan.tag));
    }
    let user = networks
        .iter()
        .find(|network| network.vlan().as_ref() == Some(vlan) && network.name != spec.name);
    if let Some(user) = user {
        problems.push(format!("{vlan} is in use by {user}"));
    }
    let mut trunks = there.trunks(&vlan.device).peekable();
    if trunks.peek().is_none() {
        let mut known: Vec<_> = there
            .pifs
            .values()
            .filter(|pif| tag_of(pif).is_none())
            .map(|pif| pif.device.as_str())
            .collect();
        known.sort_unstable();
        known.dedup();
        problems.push(format!(
            "no host has an interface {:?}; the hosts have: {}",
            vlan.device,
            known.join(", ")
        ));
    }
    for (_, pif) in trunks {
        let host = there.host_name(&pif.host);
        if !pif.bond_slave_of.is_null() {
            problems.push(format!(
                "{} of host {host} is a part of a bond; carry the VLAN on the bond",
                vlan.device
            ));
        } else if let Some(mtu) = spec.mtu.filter(|mtu| pif.mtu < i64::from(*mtu)) {
            problems.push(format!(
                "an MTU of {mtu} is too much for {} of host {host}, which has {}",
                vlan.device, pif.mtu
            ));
        }
    }
}

/// The hosts that were chosen have to be there, and to have what carries the network.
fn hosts(spec: &NetworkSpec, there: &Inventory, problems: &mut Vec<String>) {
    for chosen in &spec.hosts {
        let is_it = |name: &str, uuid: &str| name == chosen || uuid == chosen;
        let mut found = there
            .hosts
            .iter()
            .filter(|(_, host)| is_it(&host.name_label, host.uuid.as_str()));
        let (host, record) = match (found.next(), found.next()) {
            (Some(host), None) => host,
            (Some(_), Some(_)) => {
                problems.push(format!("several hosts are called {chosen:?}; give a uuid"));
                continue;
            }
            (None, _) => {
                let names = there.hosts.values().map(|host| host.name_label.clone());
                let known = crate::error::Names(names.collect());
                problems.push(format!("no host is {chosen:?}; the pool has: {known}"));
                continue;
            }
        };
        let Some(vlan) = &spec.vlan else { continue };
        if !there.trunks(&vlan.device).any(|(_, pif)| pif.host == *host) {
            let why = match there.dead.contains(host) {
                true => "is not up".to_owned(),
                false => format!("has no {}", vlan.device),
            };
            let name = &record.name_label;
            problems.push(format!("host {name} {why}, so it does not reach {vlan}"));
        }
    }
}
