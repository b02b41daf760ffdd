use super::*;
use crate::inventory::tests::pool_of_two;
use xapi_client::Ref;

/// The network "lab" as it is.
fn lab() -> NetworkSpec {
    NetworkSpec::new("lab")
        .with_description("of the lab")
        .with_tag("a")
        .with_subnet("10.77.0.0/24".parse().unwrap())
}

fn planned<const N: usize>(wanted: [NetworkSpec; N]) -> String {
    plan(&wanted.into(), &pool_of_two()).unwrap().to_string()
}

fn problems<const N: usize>(wanted: [NetworkSpec; N]) -> String {
    plan(&wanted.into(), &pool_of_two())
        .unwrap_err()
        .to_string()
}

#[test]
fn what_is_missing_is_made_and_what_differs_is_changed() {
    assert_eq!(planned([NetworkSpec::new("new")]), "create network new");
    assert_eq!(
        planned([NetworkSpec::new("new").with_vlan("eth0", 7)]),
        "create network new\ncarry VLAN 7 of eth0 on network new"
    );
    assert_eq!(
        planned([NetworkSpec::new("lab")
            .with_mtu(9000)
            .with_tag("a")
            .with_tag("b")
            .with_subnet("10.77.0.0/24".parse().unwrap())]),
        "change the MTU of network lab from 1500 to 9000\ntag network lab with \"b\""
    );
    let described = NetworkSpec::new("lab").with_description("");
    assert_eq!(planned([described]), "describe network lab as \"\"");
    // Left half done: made, but without its VLAN.
    let half = lab().with_vlan("eth0", 7);
    assert_eq!(planned([half]), "carry VLAN 7 of eth0 on network lab");
    let moved = lab()
        .with_subnet("10.78.0.0/24".parse().unwrap())
        .with_gateway("10.78.0.1".parse().unwrap());
    assert_eq!(
        planned([moved]),
        "change the addresses of network lab from 10.77.0.0/24 to 10.78.0.0/24 by way of 10.78.0.1"
    );
}

#[test]
fn a_vlan_is_carried_by_hosts_that_lack_it_but_for_those_that_are_not_up() {
    let mut there = pool_of_two();
    let storage = there.networks.get_mut(&Ref::new("storage")).unwrap();
    storage.tags.push(TAG.into());
    let wanted = [NetworkSpec::new("storage")
        .with_mtu(9000)
        .with_vlan("eth0", 40)]
    .into();
    for pif in there.pifs.values_mut() {
        pif.mtu = 9000;
    }
    assert_eq!(
        plan(&wanted, &there).unwrap().to_string(),
        "carry VLAN 40 of eth0 on network storage on the hosts two"
    );
    there.dead.insert(Ref::new("h2"));
    assert!(plan(&wanted, &there).unwrap().is_empty());
}

#[test]
fn what_is_there_already_is_left_alone() {
    assert_eq!(planned([lab()]), "nothing to do");
    assert_eq!(planned([]), "nothing to do");
    assert_eq!(planned([NetworkSpec::new("lab")]), "nothing to do");
}

#[test]
fn all_problems_are_told_at_once() {
    let told = problems([
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
        "network \"b\": no host has an interface \"eth7\"; the hosts have: bond0, eth0, eth1, eth2",
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
        let told = plan(&[spec].into(), &there).unwrap_err().to_string();
        assert!(
            told.contains("it exists as VLAN 40 of eth0, and what it leads to"),
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
