//! What has to be done to have the networks and interfaces that are wanted. Nothing here asks the
//! pool.

use crate::check::{Together, check};
use crate::error::{Place, Problems};
use crate::info::NetworkInfo;
use crate::inventory::Inventory;
use crate::step::{Addresses, Plan, Step};
use crate::{DEFAULT_MTU, NetworkSpec, Result, TAG, Wanted, plan_nics};

/// Compares what is wanted with what is there.
///
/// # Errors
/// Gives all problems of all networks and interfaces at once.
pub(crate) fn plan(wanted: &Wanted, there: &Inventory) -> Result<Plan> {
    let networks = there.networks();
    let called = |name: &str| -> Vec<&NetworkInfo> {
        networks.iter().filter(|one| one.name == name).collect()
    };
    let mut wanted = wanted.clone();
    for spec in &mut wanted.networks {
        match called(&spec.name).as_slice() {
            [network] if network.ours => spec.leave_the_rest_as(network),
            _ => spec.take_defaults(),
        }
    }
    let mut problems = Problems::default();
    let mut steps = Vec::new();
    let mut together = Together::default();
    for (number, spec) in wanted.networks.iter().enumerate() {
        let existing = called(&spec.name);
        let alone = check(spec, &existing, &networks, there);
        for problem in together.check(spec).into_iter().chain(alone) {
            let text = format!("network {:?}: {problem}", spec.name);
            problems.tell(Place::Network(number), text);
        }
        match existing.as_slice() {
            [network] => adapt(spec, network, there, &mut steps),
            _ => make(spec, &mut steps),
        }
    }
    plan_nics::plan(&wanted, &networks, there, &mut steps, &mut problems);
    problems.into_result()?;
    // What was left half made is kept once it is complete.
    steps.sort_by_key(|step| matches!(step, Step::Keep { .. } | Step::KeepNic { .. }));
    Ok(Plan { steps })
}

fn make(spec: &NetworkSpec, steps: &mut Vec<Step>) {
    steps.push(Step::Create { spec: spec.clone() });
    if let Some(vlan) = &spec.vlan {
        steps.push(Step::CreateVlan {
            network: spec.name.clone(),
            vlan: vlan.clone(),
            hosts: None,
        });
    }
}

fn adapt(spec: &NetworkSpec, network: &NetworkInfo, there: &Inventory, steps: &mut Vec<Step>) {
    let name = || spec.name.clone();
    if let Some(to) = spec.description.clone()
        && network.description != to
    {
        let (network, from) = (name(), network.description.clone());
        steps.push(Step::SetDescription { network, from, to });
    }
    if let Some(to) = spec.mtu.map(i64::from)
        && network.mtu != to
    {
        let (network, from) = (name(), network.mtu);
        steps.push(Step::SetMtu { network, from, to });
    }
    let from = Addresses {
        subnet: network.subnet,
        gateway: network.gateway,
    };
    let to = spec.addresses();
    if from != to {
        let network = name();
        steps.push(Step::SetAddresses { network, from, to });
    }
    for tag in &spec.tags {
        if !network.tags.contains(tag) {
            steps.push(Step::AddTag {
                network: name(),
                tag: tag.clone(),
            });
        }
    }
    if network.run.is_some() {
        steps.push(Step::Keep { network: name() });
    }
    let Some(vlan) = &spec.vlan else { return };
    // A host that came to the pool later, or a change that was cut short.
    let lack = there
        .trunks(&vlan.device)
        .filter(|(_, pif)| !network.reaches(&pif.host) || network.interfaces.is_empty());
    let mut hosts: Vec<_> = lack.map(|(_, pif)| there.host_name(&pif.host)).collect();
    hosts.sort();
    if !hosts.is_empty() {
        steps.push(Step::CreateVlan {
            network: name(),
            vlan: vlan.clone(),
            hosts: network.vlan().map(|_| hosts),
        });
    }
}

impl NetworkSpec {
    /// Says of a network that is made what was not said.
    fn take_defaults(&mut self) {
        self.description.get_or_insert_default();
        self.mtu.get_or_insert(DEFAULT_MTU);
    }

    /// Says of a network that is there what was not said: it stays.
    fn leave_the_rest_as(&mut self, network: &NetworkInfo) {
        let description = || network.description.clone();
        self.description.get_or_insert_with(description);
        self.mtu = self.mtu.or(u16::try_from(network.mtu).ok());
        self.subnet = self.subnet.or(network.subnet);
        self.gateway = self.gateway.or(network.gateway);
    }

    pub(crate) fn addresses(&self) -> Addresses {
        Addresses {
            subnet: self.subnet,
            gateway: self.gateway,
        }
    }
}

/// The tags that a new network gets.
pub(crate) fn tags(spec: &NetworkSpec) -> Vec<String> {
    let mut tags = vec![TAG.to_owned()];
    for tag in &spec.tags {
        if !tags.contains(tag) {
            tags.push(tag.clone());
        }
    }
    tags
}

#[cfg(test)]
mod tests;
