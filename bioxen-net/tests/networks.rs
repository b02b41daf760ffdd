//! Networks of a simulated pool: looking, making, changing, removing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use bioxen_net::{Error, Locking, NetworkKind, NetworkSpec, Networks, NicSpec, Reach, TAG, Wanted};
use support::Pool;
use xapi_client::{Client, ErrorCode, SecretString};
use xapi_sim::FaultRule;

#[tokio::test]
async fn the_networks_of_a_pool_are_described() {
    let pool = Pool::of(3).await;
    let networks = pool.networks.list().await.unwrap();
    let lan = networks
        .iter()
        .find(|network| network.name == "LAN")
        .unwrap();
    assert_eq!(
        lan.kind,
        NetworkKind::Physical {
            device: "eth0".into()
        }
    );
    let Reach::Hosts(hosts) = lan.hosts() else {
        panic!("LAN leads to the hosts' cables");
    };
    assert_eq!(hosts.len(), 3);
    assert!(lan.interfaces.iter().all(|interface| interface.management));
    assert!(!lan.ours);
    let internal = networks
        .iter()
        .find(|network| network.kind == NetworkKind::HostInternal);
    assert!(internal.is_some());

    let found = pool.networks.find("bridge:xenbr0").await.unwrap();
    assert_eq!(found.uuid, lan.uuid);
    let found = pool.networks.find(lan.uuid.as_str()).await.unwrap();
    assert_eq!(found.name, "LAN");
    let error = pool.networks.find("WAN").await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    pool.done().await;
}

#[tokio::test]
async fn a_private_network_is_made_once_changed_and_removed() {
    let pool = Pool::of(1).await;
    let before = pool.picture().await;
    let spec = NetworkSpec::new("lab")
        .with_description("sequencing")
        .with_tag("run-7");
    let plan = pool.networks.plan(&[spec.clone()].into()).await.unwrap();
    assert_eq!(plan.to_string(), "create network lab");
    assert_eq!(pool.picture().await, before, "a plan changes nothing");

    let lab = pool.networks.create(&spec).await.unwrap();
    assert_eq!(lab.tags, [TAG, "run-7"]);
    assert_eq!(
        (&lab.kind, lab.hosts()),
        (&NetworkKind::Private, Reach::EachForItself)
    );
    assert_eq!(
        (lab.mtu, lab.ours, lab.description.as_str()),
        (1500, true, "sequencing")
    );
    assert_eq!(
        pool.networks.find("tag:run-7").await.unwrap().uuid,
        lab.uuid
    );

    let changes = pool.changes();
    assert!(
        pool.networks
            .apply(&[spec.clone()].into())
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(pool.changes(), changes, "a second time does nothing");

    let changed = spec.with_mtu(9000).with_tag("b");
    let plan = pool.networks.apply(&[changed].into()).await.unwrap();
    assert_eq!(
        plan.to_string(),
        "change the MTU of network lab from 1500 to 9000\ntag network lab with \"b\""
    );
    let lab = pool.networks.find("name:lab").await.unwrap();
    assert_eq!((lab.mtu, lab.tags.len()), (9000, 3));

    pool.networks.remove("lab").await.unwrap();
    assert_eq!(pool.picture().await, before);
    let error = pool.networks.remove("lab").await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    pool.done().await;
}

#[tokio::test]
async fn what_is_not_said_of_a_network_that_is_there_stays() {
    let pool = Pool::of(1).await;
    let lab = NetworkSpec::new("lab")
        .with_description("sequencing")
        .with_mtu(9000)
        .with_tag("run-7")
        .with_subnet("10.77.0.0/24".parse().unwrap())
        .with_gateway("10.77.0.1".parse().unwrap());
    pool.networks.create(&lab).await.unwrap();
    let before = pool.picture().await;
    pool.networks
        .create(&NetworkSpec::new("lab"))
        .await
        .unwrap();
    assert_eq!(pool.picture().await, before);

    // One thing that is said is one thing that changes.
    let wish = [NetworkSpec::new("lab").with_gateway("10.77.0.254".parse().unwrap())];
    let plan = pool.networks.apply(&wish.into()).await.unwrap();
    assert_eq!(
        plan.to_string(),
        "change the addresses of network lab from 10.77.0.0/24 by way of 10.77.0.1 to 10.77.0.0/24 by way \
         of 10.77.0.254"
    );
    let now = pool.networks.find("lab").await.unwrap();
    assert_eq!(
        (now.mtu, &*now.description, now.subnet),
        (9000, "sequencing", lab.subnet)
    );
    // What stays counts.
    let elsewhere = NetworkSpec::new("lab").with_subnet("10.78.0.0/24".parse().unwrap());
    let told = pool.networks.create(&elsewhere).await.unwrap_err();
    let problem = "the gateway 10.77.0.254 is no address that a machine of 10.78.0.0/24 can have";
    assert!(told.to_string().contains(problem), "{told}");
    pool.done().await;
}

#[tokio::test]
async fn other_addresses_of_a_network_are_refused_while_an_interface_is_locked_to_one_of_the_old() {
    let pool = Pool::of(1).await;
    let vm = pool.vm("reader").await;
    let lab = |subnet: &str| NetworkSpec::new("lab").with_subnet(subnet.parse().unwrap());
    pool.networks.create(&lab("10.77.0.0/24")).await.unwrap();
    let locked = |address: &str| {
        NicSpec::new("lab").with_locking(Locking::Locked {
            ipv4: vec![address.parse().unwrap()],
            ipv6: Vec::new(),
        })
    };
    let nic = locked("10.77.0.7");
    pool.networks.attach(&vm, &nic).await.unwrap();
    let before = pool.picture().await;
    let told = pool
        .networks
        .create(&lab("10.78.0.0/24"))
        .await
        .unwrap_err();
    assert_eq!(
        told.to_string(),
        "network \"lab\": the address 10.77.0.7 is none that a machine of 10.78.0.0/24 can have, and \
         interface 1 of VM reader is locked to it"
    );
    assert_eq!(pool.picture().await, before);
    // A wider range takes it along, and so does another lock that comes with the other range.
    pool.networks.create(&lab("10.77.0.0/16")).await.unwrap();
    let both = Wanted::from([lab("10.78.0.0/24")]).with_nic("reader", locked("10.78.0.7"));
    assert_eq!(pool.networks.apply(&both).await.unwrap().steps.len(), 2);
    pool.done().await;
}

#[tokio::test]
async fn a_vlan_is_carried_by_every_host() {
    let pool = Pool::of(3).await;
    let before = pool.picture().await;
    let spec = NetworkSpec::new("cluster").with_vlan("eth1", 42);
    let network = pool.networks.create(&spec).await.unwrap();
    assert_eq!(
        network.kind,
        NetworkKind::Vlan {
            device: "eth1".into(),
            tag: 42
        }
    );
    assert_eq!(network.interfaces.len(), 3);
    assert!(
        pool.networks
            .apply(&[spec].into())
            .await
            .unwrap()
            .is_empty()
    );

    let error = pool
        .networks
        .create(&NetworkSpec::new("other").with_vlan("eth1", 42))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("VLAN 42 of eth1 is in use by cluster"),
        "{error}"
    );
    let error = pool
        .networks
        .create(&NetworkSpec::new("cluster"))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("it exists as VLAN 42 of eth1"),
        "{error}"
    );

    pool.networks.remove("cluster").await.unwrap();
    assert_eq!(pool.picture().await, before);
    pool.done().await;
}

#[tokio::test]
async fn a_failed_step_undoes_those_before_it() {
    let pool = Pool::of(2).await;
    pool.networks
        .create(&NetworkSpec::new("old"))
        .await
        .unwrap();
    let before = pool.picture().await;
    let wanted = Wanted::from([
        NetworkSpec::new("old")
            .with_description("new words")
            .with_mtu(9000)
            .with_subnet("10.77.0.0/24".parse().unwrap())
            .with_tag("x"),
        NetworkSpec::new("private"),
        NetworkSpec::new("cluster").with_vlan("eth1", 42),
    ]);
    for method in [
        "network.set_name_description",
        "network.set_MTU",
        "network.add_to_other_config",
        "network.add_tags",
        "network.create",
        "pool.create_VLAN_from_PIF",
    ] {
        for after_effect in [false, true] {
            // What a host tells that died after it had done the work: but for a network, which can
            // only be found again by a name that its answer would have been about.
            if after_effect && method == "network.create" {
                continue;
            }
            let mut rule = FaultRule::method(method).fail("INTERNAL_ERROR", ["broken"]);
            if after_effect {
                rule = rule.after_effect();
            }
            pool.sim.inject(rule);
            let error = pool.networks.apply(&wanted).await.unwrap_err();
            assert!(matches!(error, Error::Pool { .. }), "{method}: {error}");
            pool.sim.clear_faults();
            assert_eq!(pool.picture().await, before, "{method}");
        }
    }
    let plan = pool.networks.apply(&wanted).await.unwrap();
    assert_eq!(plan.steps.len(), 7, "{plan}");
    assert!(pool.networks.apply(&wanted).await.unwrap().is_empty());
    pool.done().await;
}

#[tokio::test]
async fn what_cannot_be_undone_is_named() {
    let pool = Pool::of(1).await;
    for method in ["pool.create_VLAN_from_PIF", "network.destroy"] {
        pool.sim
            .inject(FaultRule::method(method).fail("INTERNAL_ERROR", ["broken"]));
    }
    let spec = NetworkSpec::new("cluster").with_vlan("eth1", 42);
    let error = pool.networks.create(&spec).await.unwrap_err();
    assert!(matches!(error, Error::LeftBehind { .. }), "{error}");
    let told = error.to_string();
    assert!(told.contains("left behind: network cluster ("), "{told}");
    pool.sim.clear_faults();
    // Applying again completes what was left.
    let network = pool.networks.create(&spec).await.unwrap();
    assert_eq!(network.kind.to_string(), "VLAN 42 of eth1");
    pool.done().await;
}

#[tokio::test]
async fn a_lost_answer_makes_no_second_network() {
    let pool = Pool::of(1).await;
    pool.lose_answer_of("network.create");
    pool.networks
        .create(&NetworkSpec::new("lab"))
        .await
        .unwrap();
    let networks = pool.networks.list().await.unwrap();
    assert_eq!(
        networks
            .iter()
            .filter(|network| network.name == "lab")
            .count(),
        1
    );
    pool.done().await;
}

#[tokio::test]
async fn only_our_networks_without_users_are_removed() {
    let pool = Pool::of(1).await;
    let error = pool.networks.remove("LAN").await.unwrap_err();
    assert!(matches!(error, Error::NotOurs { .. }), "{error}");

    let lab = pool
        .networks
        .create(&NetworkSpec::new("lab"))
        .await
        .unwrap();
    let vm = pool.vm("reader").await;
    let nic = pool
        .networks
        .attach(&vm, &NicSpec::new("lab"))
        .await
        .unwrap();
    let before = pool.picture().await;
    let error = pool.networks.remove("lab").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "network {lab} is in use by interface 1 of VM reader; detach or move these interfaces \
             first"
        )
    );
    assert_eq!(pool.picture().await, before);
    pool.networks.detach(&nic).await.unwrap();
    pool.networks.remove("lab").await.unwrap();
    pool.done().await;
}

#[tokio::test]
async fn interfaces_of_snapshots_and_templates_are_told_apart_and_how_to_remove_them() {
    let pool = Pool::of(1).await;
    let lab = pool
        .networks
        .create(&NetworkSpec::new("lab"))
        .await
        .unwrap();
    let vm = pool.vm("reader").await;
    let spec = NicSpec::new("lab");
    let nic = pool.networks.attach(&vm, &spec).await.unwrap();
    let api = pool.client.vm();
    let snapshot = api.snapshot(&vm, "clean", None).await.unwrap();
    let snapshot = api.get_uuid(&snapshot).await.unwrap();
    let template = api.get_by_name_label("bare").await.unwrap().remove(0);
    let of_template = pool.networks.attach(&template, &spec).await.unwrap();
    let seen = pool.networks.find("lab").await.unwrap();
    assert_eq!((seen.vifs, seen.template_vifs), (1, 2));

    let error = pool.networks.remove("lab").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "network {lab} is in use by interface 1 of template bare, interface 1 of snapshot \
             \"clean\" of VM reader, interface 1 of VM reader; detach or move these interfaces \
             first; what a snapshot has goes with the snapshot: bioxen snapshot rm {} {snapshot}",
            nic.vm_uuid
        )
    );
    pool.networks.detach(&of_template).await.unwrap();
    pool.networks.detach(&nic).await.unwrap();
    // A snapshot that has outlived its VM.
    api.destroy(&vm).await.unwrap();
    let error = pool.networks.remove("lab").await.unwrap_err().to_string();
    let remedy = format!("xe snapshot-uninstall uuid={snapshot} force=true");
    assert!(error.ends_with(&remedy), "{error}");
    assert!(error.contains("of a VM that is gone"), "{error}");
    let snapshot = api.get_by_uuid(snapshot.as_str()).await.unwrap();
    api.destroy(&snapshot).await.unwrap();
    pool.networks.remove("lab").await.unwrap();
    pool.done().await;
}

#[tokio::test]
async fn rights_that_are_missing_are_told() {
    let pool = Pool::of(1).await;
    let client = Client::over(pool.sim.transport())
        .credentials("looker", SecretString::from("looker"))
        .login()
        .await
        .unwrap();
    let networks = Networks::new(&client);
    assert!(!networks.list().await.unwrap().is_empty());
    let error = networks.create(&NetworkSpec::new("lab")).await.unwrap_err();
    let Error::Pool { operation, source } = &error else {
        panic!("{error}");
    };
    assert_eq!(operation, "create network lab");
    assert_eq!(source.code(), Some(&ErrorCode::RbacPermissionDenied));
    assert!(!error.to_string().contains(&source.to_string()), "{error}");
    client.close().await.unwrap();
    pool.done().await;
}

#[tokio::test]
async fn what_a_user_may_do_is_undone_when_the_rest_is_refused() {
    let pool = Pool::of(3).await;
    let before = pool.picture().await;
    let client = Client::over(pool.sim.transport())
        .credentials("maker", SecretString::from("maker"))
        .login()
        .await
        .unwrap();
    let networks = Networks::new(&client);
    let wanted = Wanted::from([
        NetworkSpec::new("lab"),
        NetworkSpec::new("cluster").with_vlan("eth1", 42),
    ]);
    let error = networks.apply(&wanted).await.unwrap_err();
    let Error::Pool { operation, source } = &error else {
        panic!("{error}");
    };
    assert_eq!(operation, "carry VLAN 42 of eth1 on network cluster");
    assert_eq!(source.code(), Some(&ErrorCode::RbacPermissionDenied));
    assert_eq!(pool.picture().await, before);
    networks.create(&NetworkSpec::new("lab")).await.unwrap();
    networks.remove("lab").await.unwrap();
    client.close().await.unwrap();
    pool.done().await;
}

#[tokio::test]
async fn marks_go_once_a_change_is_complete_or_with_the_next_after_one_that_was_cut_short() {
    let pool = Pool::of(1).await;
    let run = |run: &str| [("bioxen:run".to_owned(), run.to_owned())].into();
    let vm = pool.vm("reader").await;
    let wanted = Wanted::from([NetworkSpec::new("lab")]).with_nic("reader", NicSpec::new("lab"));
    let complete = async || {
        let lab = pool.networks.find("lab").await.unwrap();
        let nics = pool.networks.nics(&vm).await.unwrap();
        (lab.run, nics[1].run.clone())
    };
    // As one leaves them that is killed before it has taken them off.
    let marked = pool.networks.clone().with_marks(run("a"));
    marked.apply(&wanted).await.unwrap();
    assert_eq!(complete().await, (Some("a".into()), Some("a".into())));
    let before = pool.picture().await;
    pool.sim.inject(
        FaultRule::method("VIF.remove_from_other_config").fail("INTERNAL_ERROR", ["broken"]),
    );
    pool.networks.apply(&wanted).await.unwrap_err();
    pool.sim.clear_faults();
    assert_eq!(pool.picture().await, before);
    let plan = pool.networks.apply(&wanted).await.unwrap();
    assert_eq!(
        plan.to_string(),
        "keep network lab, which was left half made\n\
         keep interface 1 of VM reader, which was left half made"
    );
    assert_eq!(complete().await, (None, None));
    assert!(pool.networks.apply(&wanted).await.unwrap().is_empty());

    let passing = pool.networks.clone().with_passing_marks(run("b"));
    let spec = NetworkSpec::new("other");
    assert_eq!(passing.create(&spec).await.unwrap().run, None);
    let nic = passing.attach(&vm, &NicSpec::new("other")).await.unwrap();
    let now = pool.networks.nic(&vm, &nic.device).await.unwrap();
    assert_eq!(now.run, None);
    for method in ["network.remove_tags", "VIF.remove_from_other_config"] {
        let before = pool.picture().await;
        pool.sim
            .inject(FaultRule::method(method).fail("INTERNAL_ERROR", ["broken"]));
        let more =
            Wanted::from([NetworkSpec::new("more")]).with_nic("reader", NicSpec::new("more"));
        let error = passing.apply(&more).await.unwrap_err();
        assert!(matches!(error, Error::Pool { .. }), "{error}");
        pool.sim.clear_faults();
        assert_eq!(pool.picture().await, before, "{method}");
    }
    pool.done().await;
}

#[tokio::test]
async fn a_vlan_that_some_hosts_lack_is_completed() {
    let pool = Pool::of(3).await;
    let spec = NetworkSpec::new("cluster").with_vlan("eth1", 42);
    pool.networks.create(&spec).await.unwrap();
    let complete = pool.picture().await;
    // As on a host that came to the pool later.
    let vlans = pool.client.vlan();
    let all = vlans.get_all_records().await.unwrap();
    let (vlan, _) = all.iter().find(|(_, vlan)| vlan.tag == 42).unwrap();
    vlans.destroy(vlan).await.unwrap();
    let lacking = pool.picture().await;
    let wanted = Wanted::from([spec]);
    let plan = pool.networks.plan(&wanted).await.unwrap();
    assert_eq!(plan.steps.len(), 1, "{plan}");
    let told = plan.to_string();
    assert!(
        told.starts_with("carry VLAN 42 of eth1 on network cluster on the hosts "),
        "{told}"
    );
    // What was there before stays when it fails.
    pool.sim
        .inject(FaultRule::method("VLAN.create").fail("INTERNAL_ERROR", ["broken"]));
    pool.networks.apply(&wanted).await.unwrap_err();
    pool.sim.clear_faults();
    assert_eq!(pool.picture().await, lacking);
    pool.networks.apply(&wanted).await.unwrap();
    assert_eq!(pool.picture().await.len(), complete.len());
    assert!(pool.networks.apply(&wanted).await.unwrap().is_empty());
    pool.done().await;
}

#[tokio::test]
async fn a_bond_is_described_and_carries_vlans() {
    let pool = Pool::of(1).await;
    let before = pool.networks.list().await.unwrap().len();
    let pifs = pool.client.pif().get_all_records().await.unwrap();
    let cards: Vec<_> = pifs.keys().cloned().collect();
    let bonded = xapi_client::api::NetworkCreate::new("bonded");
    let bonded = pool.client.network().create(&bonded).await.unwrap();
    let create = pool.client.bond();
    let mode = xapi_client::api::BondMode::Lacp;
    let none = std::collections::BTreeMap::new();
    create
        .create(&bonded, &cards, "", Some(mode), Some(&none))
        .await
        .unwrap();
    let bonds = pool.networks.bonds().await.unwrap();
    assert_eq!(bonds.len(), 1);
    let bond = &bonds[0];
    assert_eq!((&*bond.network, &*bond.mode), ("bonded", "lacp"));
    assert_eq!(bond.parts, ["eth0", "eth1"]);
    let interfaces = pool.networks.interfaces().await.unwrap();
    let parts = interfaces
        .iter()
        .filter(|interface| interface.part_of.as_ref() == Some(&bond.device));
    assert_eq!(parts.count(), 2);
    let error = pool
        .networks
        .create(&NetworkSpec::new("cluster").with_vlan("eth1", 42))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("is a part of a bond"), "{error}");
    let spec = NetworkSpec::new("cluster").with_vlan(&bond.device, 42);
    let cluster = pool.networks.create(&spec).await.unwrap();
    assert_eq!(
        cluster.kind.to_string(),
        format!("VLAN 42 of {}", bond.device)
    );
    pool.networks.remove("cluster").await.unwrap();
    assert_eq!(pool.networks.list().await.unwrap().len(), before + 1);
    pool.done().await;
}

#[tokio::test]
async fn addresses_that_hosts_or_other_networks_have_are_refused() {
    let pool = Pool::of(1).await;
    let subnet = |text: &str| text.parse().unwrap();
    let lab = NetworkSpec::new("lab").with_subnet(subnet("10.77.0.0/24"));
    let made = pool.networks.create(&lab).await.unwrap();
    assert_eq!(made.subnet, lab.subnet);
    let interfaces = pool.networks.interfaces().await.unwrap();
    let of_host = interfaces.iter().find_map(|one| one.subnet).unwrap();
    let wish = Wanted::from([
        NetworkSpec::new("a").with_subnet(subnet("10.77.0.0/25")),
        NetworkSpec::new("b").with_subnet(of_host),
        NetworkSpec::new("c").with_subnet(subnet("10.77.0.0/16")),
        NetworkSpec::new("d").with_subnet(subnet("224.0.0.0/8")),
        NetworkSpec::new("e").with_gateway("10.1.0.1".parse().unwrap()),
        NetworkSpec::new("f")
            .with_vlan("eth1", 5)
            .with_host("nobody"),
    ]);
    let told = pool.networks.plan(&wish).await.unwrap_err().to_string();
    for part in [
        "network \"a\": its addresses 10.77.0.0/25 and those of network lab",
        "network \"b\": its addresses",
        "network \"c\": its addresses 10.77.0.0/16 and those of network \"a\", 10.77.0.0/25",
        "network \"d\": 224.0.0.0/8 is no range for the addresses of machines",
        "network \"e\": the gateway 10.1.0.1 needs a subnet",
        "network \"f\": no host is \"nobody\"",
    ] {
        assert!(told.contains(part), "{part:?} in {told:?}");
    }
    pool.done().await;
}

#[tokio::test]
async fn a_chosen_host_without_the_interface_of_a_vlan_is_refused() {
    let pool = Pool::of(2).await;
    let hosts = pool.client.host().get_all_records().await.unwrap();
    let (without, record) = hosts.into_iter().next().unwrap();
    for (pif, record) in pool.client.pif().get_all_records().await.unwrap() {
        if record.host == without && record.device == "eth1" {
            pool.client.pif().forget(&pif).await.unwrap();
        }
    }
    let name = record.name_label;
    let spec = NetworkSpec::new("cluster").with_vlan("eth1", 42);
    let wish = Wanted::from([spec.clone().with_host(&name)]);
    let told = pool.networks.plan(&wish).await.unwrap_err().to_string();
    let expected = format!("host {name} has no eth1, so it does not reach VLAN 42 of eth1");
    assert!(told.contains(&expected), "{told}");
    let made = pool.networks.create(&spec).await.unwrap();
    assert_eq!(made.interfaces.len(), 1);
    pool.done().await;
}
