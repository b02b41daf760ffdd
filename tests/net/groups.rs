//! VMs that belong together, on a network of their own or another.

use std::collections::BTreeSet;

use bioxen::Script;
use bioxen::group::{GroupSpec, Preset, VmGroup};
use serde_json::json;
use xapi_sim::{FaultRule, GuestMode};

use crate::{PLAIN, Pool, ids};

#[tokio::test(flavor = "multi_thread")]
async fn vms_of_a_group_have_addresses_and_know_each_other_by_name() {
    let pool = Pool::of(3, GuestMode::Real).await;
    let before = pool.inventory().await;
    let spec = GroupSpec::isolated("mapping", ids(&["reads", "index", "report"])).with_locking();
    let group = VmGroup::new(pool.config(), spec).unwrap();
    group.create().await.unwrap();
    let network = group.network().await.unwrap();
    assert_eq!(network.subnet.unwrap().to_string(), "10.77.0.0/24");
    assert_eq!(
        (network.kind.to_string(), network.vifs),
        ("private".into(), 3)
    );
    group.start().await.unwrap();
    let hosts = "io.write(io.open('/etc/hosts'):read('a'))";
    for (id, vm) in group.vms().await {
        // A second boot forgets nothing.
        if id.as_str() == "index" {
            vm.reboot().await.unwrap();
        }
        let outcome = vm.execute(Script::new(hosts)).await.unwrap();
        let known = outcome.stdout_text();
        for line in [
            "10.77.0.1 reads\n",
            "10.77.0.2 index\n",
            "10.77.0.3 report\n",
        ] {
            assert!(known.contains(line), "{id}: {line:?} in {known:?}");
        }
    }
    let networks = bioxen::net::Networks::new(&pool.client);
    let nics = networks.nics_on("name:mapping").await.unwrap();
    let locked: Vec<_> = nics.iter().map(|nic| nic.locking.to_string()).collect();
    let expected = [
        "locked to 10.77.0.2",
        "locked to 10.77.0.1",
        "locked to 10.77.0.3",
    ];
    assert_eq!(locked, expected);
    // Where there is no cable, they are on one host.
    let mut hosts = BTreeSet::new();
    for nic in &nics {
        hosts.insert(pool.client.vm().get_resident_on(&nic.vm).await.unwrap());
    }
    assert_eq!(hosts.len(), 1);
    // The tools of a guest tell what it was told.
    let reads = pool
        .client
        .vm()
        .get_by_name_label("bioxen-reads")
        .await
        .unwrap();
    let metrics = pool.client.vm().get_guest_metrics(&reads[0]).await.unwrap();
    let metrics = pool
        .client
        .vm_guest_metrics()
        .get_networks(&metrics)
        .await
        .unwrap();
    assert_eq!(metrics["1/ip"], "10.77.0.1");
    group.destroy().await.unwrap();
    assert_eq!(pool.inventory().await, before);
    pool.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn presets_put_vms_on_a_lan_a_vlan_or_only_where_they_are_reached() {
    let pool = Pool::of(1, GuestMode::Real).await;
    let before = pool.inventory().await;
    let networks = bioxen::net::Networks::new(&pool.client);
    let two = || ids(&["a", "b"]);
    for (spec, on, count) in [
        (GroupSpec::lan("bridge:xenbr1", two()), "name:storage", 1),
        (
            GroupSpec::vlan("cluster", "eth1", 42, two()),
            "name:cluster",
            2,
        ),
        (GroupSpec::reached_only(two()), "name:LAN", 1),
    ] {
        let is_locked = spec.locked;
        let group = VmGroup::new(pool.config(), spec).unwrap();
        group.create().await.unwrap();
        group.start().await.unwrap();
        let nics = networks.nics_on(on).await.unwrap();
        for (id, vm) in group.vms().await {
            let outcome = vm.execute(Script::new("io.write(_VERSION)")).await.unwrap();
            assert_eq!(outcome.stdout_text(), "Lua 5.4", "{on}");
            let own = nics
                .iter()
                .filter(|nic| nic.vm_name == format!("bioxen-{id}"));
            let own: Vec<_> = own.collect();
            assert_eq!(own.len(), 1, "{on}");
            assert_eq!(
                networks.nics(&own[0].vm).await.unwrap().len(),
                count,
                "{on}"
            );
            if is_locked {
                let address = vm.info().await.unwrap().address.unwrap();
                assert_eq!(own[0].locking.to_string(), format!("locked to {address}"));
            }
        }
        group.destroy().await.unwrap();
        assert_eq!(pool.inventory().await, before, "{on}");
    }
    pool.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vms_may_be_on_no_other_network_than_that_made_for_them() {
    let pool = Pool::of(3, GuestMode::Simulated).await;
    let before = pool.inventory().await;
    let network = bioxen::net::NetworkSpec::new("cluster")
        .with_vlan("eth1", 42)
        .with_subnet("10.9.0.0/29".parse().unwrap())
        .with_gateway("10.9.0.1".parse().unwrap());
    let preset = Preset::Own {
        network,
        alone: true,
    };
    let group = VmGroup::new(pool.config(), GroupSpec::new(preset, ids(&["a", "b"]))).unwrap();
    let addresses: Vec<_> = group
        .addresses()
        .values()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        addresses,
        ["10.9.0.2", "10.9.0.3"],
        "the gateway has the first"
    );
    group.create().await.unwrap();
    assert_eq!(group.network().await.unwrap().vifs, 2);
    let networks = bioxen::net::Networks::new(&pool.client);
    for nic in networks.nics_on("name:cluster").await.unwrap() {
        assert_eq!(networks.nics(&nic.vm).await.unwrap().len(), 1);
    }
    group.destroy().await.unwrap();
    assert_eq!(pool.inventory().await, before);
    pool.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_that_cannot_be_is_refused_before_anything_is_made() {
    let pool = Pool::of(1, GuestMode::Simulated).await;
    let networks = bioxen::net::Networks::new(&pool.client);
    let lab = bioxen::net::NetworkSpec::new("lab").with_subnet("10.77.0.0/25".parse().unwrap());
    networks.create(&lab).await.unwrap();
    let before = pool.inventory().await;
    let vms = || ids(&["a", "b"]);
    let create = async |spec| {
        let group = VmGroup::new(pool.config(), spec)?;
        let created = group.create().await;
        group.destroy().await.unwrap();
        created
    };
    let chain = |error: bioxen::Error| {
        let mut told = error.to_string();
        let mut next = std::error::Error::source(&error);
        while let Some(cause) = next {
            told.push_str(&format!(": {cause}"));
            next = cause.source();
        }
        told
    };
    for (spec, part) in [
        (
            GroupSpec::isolated("lab", vms()),
            "has a network \"lab\" already",
        ),
        (
            GroupSpec::isolated("mapping", vms()),
            "those of network lab",
        ),
        (
            GroupSpec::vlan("mapping", "eth7", 42, vms())
                .with_subnet("10.9.0.0/24".parse().unwrap()),
            "no host has an interface \"eth7\"",
        ),
        (
            GroupSpec::isolated("mapping", vms()).with_subnet("10.9.0.0/32".parse().unwrap()),
            "2 VMs are too many",
        ),
        (
            GroupSpec::isolated("mapping", ids(&["a", "a"])),
            "asked for twice",
        ),
        (GroupSpec::isolated("mapping", ids(&[])), "at least one VM"),
        (GroupSpec::lan("WAN", vms()), "\"WAN\""),
    ] {
        let told = chain(create(spec).await.unwrap_err());
        assert!(told.contains(part), "{part:?} in {told:?}");
        assert_eq!(pool.inventory().await, before);
    }
    // A VM that cannot be made takes the rest with it.
    pool.sim.inject(
        FaultRule::method("VBD.create")
            .after(1)
            .fail("INTERNAL_ERROR", ["no"]),
    );
    let spec = GroupSpec::isolated("mapping", vms()).with_subnet("10.9.0.0/24".parse().unwrap());
    create(spec).await.unwrap_err();
    pool.sim.clear_faults();
    assert_eq!(pool.inventory().await, before);
    pool.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vms_that_are_isolated_by_command_stay_until_they_are_removed() {
    let pool = Pool::of(1, GuestMode::Real).await;
    let before = pool.inventory().await;
    let made = pool
        .json(&["isolate", "mapping", "reads", "index", "--lock"])
        .await;
    // In the order in which they were named.
    assert_eq!(made[0]["id"], "reads");
    let own: Vec<_> = made.iter().map(|one| one["own_address"].as_str()).collect();
    assert_eq!(own, [Some("10.77.0.1"), Some("10.77.0.2")]);
    let gc = pool.bioxen(&["gc"]).await;
    assert_eq!(gc.stdout, b"nothing is left on the pool\n");
    let run = pool
        .bioxen(&["run", "--vm", "reads", "-e", "print(1)"])
        .await;
    assert_eq!(run.stdout, b"1\n", "{run:?}");
    let network = pool.json(&["show", "mapping"]).await.remove(0);
    let uuid = network["uuid"].as_str().unwrap();
    let said = pool.refused(&["rm", "mapping"]).await;
    assert!(said.contains("is in use by"), "{said}");
    let remedy = format!("all of which BioXen has made: bioxen net rm {uuid} --vms\n");
    assert!(said.ends_with(&remedy), "{said}");
    // With a VM that is somebody else's on it, all stay.
    pool.vm("guest").await;
    let with_guest = pool.inventory().await;
    pool.says(&["attach", "guest", "mapping"]).await;
    let said = pool.refused(&["rm", "mapping"]).await;
    assert!(
        said.ends_with("detach or move these interfaces first\n"),
        "{said}"
    );
    let said = pool.refused(&["rm", "mapping", "--vms"]).await;
    assert!(
        said.contains("interface 1 of VM guest is on the network and was not made by BioXen"),
        "{said}"
    );
    pool.says(&["detach", "guest", "1"]).await;
    assert_eq!(pool.inventory().await, with_guest);
    pool.says(&["rm", "mapping", "--vms"]).await;
    let guest = pool.bioxen(&["destroy", "--foreign", "guest"]).await;
    assert!(guest.status.success(), "{guest:?}");
    assert_eq!(pool.inventory().await, before);
    pool.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_chosen_for_the_vms_has_to_reach_the_vlan_that_is_made_for_them() {
    let pool = Pool::of(3, GuestMode::Simulated).await;
    let mut cards = pool.client.pif().get_all_records().await.unwrap();
    cards.retain(|_, card| card.device == "eth1");
    let (card, record) = cards.first_key_value().unwrap();
    pool.client.pif().forget(card).await.unwrap();
    let without = pool.client.host().get_name_label(&record.host);
    let without = without.await.unwrap();
    let before = pool.inventory().await;
    let isolate = ["isolate", "cluster", "a", "--vlan", "eth1:42"];
    let affinity = format!("affinity={without}");
    let said = pool
        .refused(&[&isolate[..], &["--set", &affinity]].concat())
        .await;
    let problem = format!("host {without} has no eth1, so it does not reach VLAN 42 of eth1");
    assert!(said.contains(&problem), "{said}");
    assert_eq!(pool.inventory().await, before);
    pool.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_says_how_a_network_is_made_is_refused_where_none_is_made() {
    let pool = Pool::of(1, GuestMode::Simulated).await;
    let subnet = ["--subnet", "10.9.0.0/24", "--alone"];
    for preset in ["lan", "ssh-only"] {
        let isolate = ["isolate", "LAN", "reads", "--preset", preset];
        let said = pool.refused(&[&isolate[..], &subnet].concat()).await;
        assert!(
            said.contains("--subnet, --alone would say how a network is made"),
            "{said}"
        );
    }
    pool.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_without_cloud_init_is_refused_and_one_with_it_named() {
    let pool = Pool::of(1, GuestMode::Simulated).await;
    let before = pool.inventory().await;
    let plain = format!("template={PLAIN}");
    let isolate = ["isolate", "mapping", "reads", "--set", &plain];
    let said = pool.refused(&isolate).await;
    assert!(
        said.contains("the template \"plain\" does not say that it has cloud-init"),
        "{said}"
    );
    assert!(said.contains("choose one that has (\"cloud\")"), "{said}");
    assert_eq!(pool.inventory().await, before);
    pool.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vms_are_isolated_by_a_user_who_may_make_vms_or_nothing_stays() {
    let pool = Pool::of(3, GuestMode::Real).await;
    let before = pool.inventory().await;
    let isolate = ["isolate", "mapping", "reads", "index"];
    let deployer = ["--set", "username=deployer"];
    for method in ["network.remove_tags", "VM.remove_from_other_config"] {
        pool.sim
            .inject(FaultRule::method(method).fail("INTERNAL_ERROR", ["broken"]));
        let failed = pool
            .bioxen(&[&["net"], &isolate[..], &deployer].concat())
            .await;
        assert_eq!(failed.status.code(), Some(125), "{failed:?}");
        let said = String::from_utf8_lossy(&failed.stderr);
        assert!(said.contains("broken"), "{said}");
        assert_eq!(failed.stdout, b"", "nothing is told of that does not stay");
        pool.sim.clear_faults();
        assert_eq!(pool.inventory().await, before, "{method}");
    }
    let made = pool.json(&[&isolate[..], &deployer].concat()).await;
    assert_eq!(made.len(), 2);
    let gc = pool.bioxen(&["gc"]).await;
    assert_eq!(gc.stdout, b"nothing is left on the pool\n");
    let mapping = pool.json(&["show", "mapping"]).await.remove(0);
    assert_eq!(mapping["run"], json!(null));
    pool.says(&[&["rm", "mapping", "--vms"], &deployer[..]].concat())
        .await;
    assert_eq!(pool.inventory().await, before);
    pool.end().await;
}
