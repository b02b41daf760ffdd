//! Networks of a simulated pool: looking, making, changing, removing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use bioxen_net::{Error, NetworkKind, NetworkSpec, Networks, NicSpec, Reach, TAG};
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
    let plan = pool
        .networks
        .plan(std::slice::from_ref(&spec))
        .await
        .unwrap();
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
            .apply(std::slice::from_ref(&spec))
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(pool.changes(), changes, "a second time does nothing");

    let changed = spec.with_mtu(9000).with_tag("b");
    let plan = pool.networks.apply(&[changed]).await.unwrap();
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
    assert!(pool.networks.apply(&[spec]).await.unwrap().is_empty());

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
    let wanted = [
        NetworkSpec::new("old")
            .with_description("new words")
            .with_mtu(9000)
            .with_tag("x"),
        NetworkSpec::new("private"),
        NetworkSpec::new("cluster").with_vlan("eth1", 42),
    ];
    for method in [
        "network.set_name_description",
        "network.set_MTU",
        "network.add_tags",
        "network.create",
        "pool.create_VLAN_from_PIF",
    ] {
        for after_effect in [false, true] {
            // What a host tells that died after it had done the work, as far as it can be undone.
            if after_effect && method != "pool.create_VLAN_from_PIF" {
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
    assert_eq!(plan.steps.len(), 6, "{plan}");
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
