//! What has to be done to have the networks that are wanted. Nothing here asks the pool.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use crate::error::Problems;
use crate::inventory::Inventory;
use crate::{NetworkInfo, NetworkSpec, Result, TAG, VlanSpec};

/// The steps that make networks as they are wanted. `Display` says them, a line each.
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
    /// Carry a VLAN on a network that leads nowhere yet.
    CreateVlan {
        /// The name of the network.
        network: String,
        /// The VLAN.
        vlan: VlanSpec,
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
    /// Add a tag.
    AddTag {
        /// The name of the network.
        network: String,
        /// The tag.
        tag: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { spec } => write!(f, "create network {}", spec.name),
            Self::CreateVlan { network, vlan } => write!(f, "carry {vlan} on network {network}"),
            Self::SetDescription { network, to, .. } => {
                write!(f, "describe network {network} as {to:?}")
            }
            Self::SetMtu {
                network, from, to, ..
            } => write!(f, "change the MTU of network {network} from {from} to {to}"),
            Self::AddTag { network, tag, .. } => write!(f, "tag network {network} with {tag:?}"),
        }
    }
}

/// Compares what is wanted with what is there.
///
/// # Errors
/// Gives all problems of all networks at once.
pub(crate) fn plan(wanted: &[NetworkSpec], there: &Inventory) -> Result<Plan> {
    let networks = there.networks();
    let mut problems = Problems(Vec::new());
    let mut steps = Vec::new();
    let mut names = BTreeSet::new();
    let mut vlans = BTreeSet::new();
    for spec in wanted {
        let say = |problem: String| format!("network {:?}: {problem}", spec.name);
        if !names.insert(&spec.name) {
            problems.0.push(say("it is asked for twice".into()));
            continue;
        }
        if let Some(vlan) = &spec.vlan
            && !vlans.insert((&vlan.device, vlan.tag))
        {
            problems
                .0
                .push(say(format!("another one carries {vlan} too")));
        }
        let existing: Vec<_> = networks.iter().filter(|n| n.name == spec.name).collect();
        let found = check(spec, &existing, &networks, there);
        problems.0.extend(found.into_iter().map(say));
        match existing.as_slice() {
            [network] => adapt(spec, network, &mut steps),
            _ => make(spec, &mut steps),
        }
    }
    problems.into_result()?;
    Ok(Plan { steps })
}

fn make(spec: &NetworkSpec, steps: &mut Vec<Step>) {
    steps.push(Step::Create { spec: spec.clone() });
    if let Some(vlan) = &spec.vlan {
        steps.push(Step::CreateVlan {
            network: spec.name.clone(),
            vlan: vlan.clone(),
        });
    }
}

fn adapt(spec: &NetworkSpec, network: &NetworkInfo, steps: &mut Vec<Step>) {
    let name = || spec.name.clone();
    if network.description != spec.description {
        steps.push(Step::SetDescription {
            network: name(),
            from: network.description.clone(),
            to: spec.description.clone(),
        });
    }
    if network.mtu != i64::from(spec.mtu) {
        steps.push(Step::SetMtu {
            network: name(),
            from: network.mtu,
            to: i64::from(spec.mtu),
        });
    }
    for tag in &spec.tags {
        if !network.tags.contains(tag) {
            steps.push(Step::AddTag {
                network: name(),
                tag: tag.clone(),
            });
        }
    }
    if let Some(vlan) = &spec.vlan
        && network.vlan().is_none()
    {
        steps.push(Step::CreateVlan {
            network: name(),
            vlan: vlan.clone(),
        });
    }
}

/// All that is wrong with one network.
fn check(
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
    if !(68..=9216).contains(&spec.mtu) {
        problems.push(format!(
            "an MTU of {} is outside of 68 to 9216 bytes",
            spec.mtu
        ));
    }
    for tag in &spec.tags {
        if tag.trim().is_empty() || tag.chars().any(char::is_control) {
            problems.push(format!("{tag:?} cannot be a tag"));
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
                    "it exists as {}; what it leads to cannot be changed, remove it first",
                    network.kind
                ));
            }
        }
        several => problems.push(format!(
            "{} networks have this name already; rename or remove them",
            several.len()
        )),
    }
    if let Some(vlan) = &spec.vlan {
        check_vlan(spec, vlan, networks, there, &mut problems);
    }
    problems
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
            .filter(|pif| crate::inventory::tag_of(pif).is_none())
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
        } else if pif.mtu < i64::from(spec.mtu) {
            problems.push(format!(
                "an MTU of {} is too much for {} of host {host}, which has {}",
                spec.mtu, vlan.device, pif.mtu
            ));
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
mod tests {
    use super::*;
    use crate::inventory::tests::pool_of_two;
    use xapi_client::Ref;

    fn planned(wanted: &[NetworkSpec]) -> String {
        plan(wanted, &pool_of_two()).unwrap().to_string()
    }

    fn problems(wanted: &[NetworkSpec]) -> String {
        plan(wanted, &pool_of_two()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_missing_is_made_and_what_differs_is_changed() {
        assert_eq!(planned(&[NetworkSpec::new("new")]), "create network new");
        assert_eq!(
            planned(&[NetworkSpec::new("new").with_vlan("eth0", 7)]),
            "create network new\ncarry VLAN 7 of eth0 on network new"
        );
        assert_eq!(
            planned(&[NetworkSpec::new("lab")
                .with_mtu(9000)
                .with_tag("a")
                .with_tag("b")]),
            "describe network lab as \"\"\nchange the MTU of network lab from 1500 to 9000\n\
             tag network lab with \"b\""
        );
        // Left half done: made, but without its VLAN.
        let half = NetworkSpec::new("lab")
            .with_description("of the lab")
            .with_vlan("eth0", 7);
        assert_eq!(planned(&[half]), "carry VLAN 7 of eth0 on network lab");
    }

    #[test]
    fn what_is_there_already_is_left_alone() {
        let lab = NetworkSpec::new("lab")
            .with_description("of the lab")
            .with_tag("a");
        assert_eq!(planned(&[lab]), "nothing to do");
        assert_eq!(planned(&[]), "nothing to do");
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let told = problems(&[
            NetworkSpec::new("LAN"),
            NetworkSpec::new("twin").with_mtu(20),
            NetworkSpec::new(" ").with_tag(""),
            NetworkSpec::new("a").with_vlan("eth0", 40),
            NetworkSpec::new("b").with_vlan("eth7", 0).with_mtu(9000),
            NetworkSpec::new("c").with_vlan("eth1", 5),
            NetworkSpec::new("c"),
            NetworkSpec::new("d").with_vlan("eth0", 9).with_mtu(9000),
            NetworkSpec::new("e").with_vlan("eth0", 9),
        ]);
        for part in [
            "network \"LAN\": LAN (xenbr0) has this name and was not made by BioXen",
            "network \"twin\": an MTU of 20 is outside",
            "network \"twin\": 2 networks have this name already",
            "network \" \": a name has 1 to 128 characters",
            "network \" \": \"\" cannot be a tag",
            "network \"a\": VLAN 40 of eth0 is in use by storage (xapi0)",
            "network \"b\": VLAN 0 is outside of 1 to 4094",
            "network \"b\": no host has an interface \"eth7\"; the hosts have: eth0, eth1",
            "network \"c\": eth1 of host one is a part of a bond",
            "network \"c\": it is asked for twice",
            "network \"d\": an MTU of 9000 is too much for eth0 of host two, which has 1500",
            "network \"e\": another one carries VLAN 9 of eth0 too",
        ] {
            assert!(told.contains(part), "{part:?} in {told:?}");
        }
    }

    #[test]
    fn a_network_never_changes_what_it_leads_to() {
        let mut there = pool_of_two();
        let storage = there.networks.get_mut(&Ref::new("storage")).unwrap();
        storage.tags.push(TAG.into());
        for spec in [
            NetworkSpec::new("storage").with_mtu(1500),
            NetworkSpec::new("storage").with_vlan("eth0", 41),
        ] {
            let told = plan(&[spec], &there).unwrap_err().to_string();
            assert!(
                told.contains("it exists as VLAN 40 of eth0; what it leads to"),
                "{told}"
            );
        }
    }

    #[test]
    fn a_new_network_carries_our_tag_once() {
        let spec = NetworkSpec::new("x")
            .with_tag("b")
            .with_tag(TAG)
            .with_tag("b");
        assert_eq!(tags(&spec), [TAG, "b"]);
    }
}
