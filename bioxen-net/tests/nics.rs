//! Interfaces of VMs in a simulated pool.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::{IpAddr, Ipv4Addr};

use bioxen_net::{Error, Locking, Mac, NetworkSpec, Networks, NicSpec, Wanted};
use support::Pool;
use xapi_client::{Client, ErrorCode, SecretString};
use xapi_sim::FaultRule;

fn mac(text: &str) -> Mac {
    text.parse().unwrap()
}

#[tokio::test]
async fn an_interface_is_attached_moved_and_detached_while_the_vm_is_halted_or_runs() {
    let pool = Pool::of(1).await;
    pool.networks
        .create(&NetworkSpec::new("lab"))
        .await
        .unwrap();
    let vm = pool.vm("reader").await;
    let before = pool.picture().await;
    for running in [false, true] {
        if running {
            pool.start(&vm).await;
        }
        let spec = NicSpec::new("name:lab")
            .with_mac(mac("02:16:3e:00:00:01"))
            .with_rate(1000)
            .with_locking(Locking::Locked {
                ipv4: vec![Ipv4Addr::new(10, 0, 0, 7)],
                ipv6: Vec::new(),
            });
        let nic = pool.networks.attach(&vm, &spec).await.unwrap();
        assert_eq!(
            nic.to_string(),
            "interface 1 of VM reader (02:16:3e:00:00:01) on lab"
        );
        assert_eq!((nic.attached, nic.mac_generated), (running, false));
        assert_eq!(nic.locking.to_string(), "locked to 10.0.0.7");
        assert_eq!(nic.rate, Some(1000));
        let record = pool.client.vif().get_record(&nic.reference).await.unwrap();
        assert_eq!(record.qos_algorithm_params["kbps"], "1000");
        pool.networks
            .set_locking(&nic, &Locking::Disabled)
            .await
            .unwrap();

        let moved = pool.networks.move_nic(&nic, "LAN").await.unwrap();
        assert_eq!(
            (moved.network.as_str(), moved.mac),
            ("LAN", nic.mac.clone())
        );
        let again = pool
            .networks
            .move_nic(&moved_back(&pool, &nic).await, "lab")
            .await
            .unwrap();
        assert_eq!(again.network, "lab");

        let nics = pool.networks.nics(&vm).await.unwrap();
        let devices: Vec<_> = nics.iter().map(|nic| nic.device.as_str()).collect();
        assert_eq!(devices, ["0", "1"]);
        pool.networks.detach(&nic).await.unwrap();
        pool.networks.detach(&nic).await.unwrap();
        assert_eq!(pool.networks.nics(&vm).await.unwrap().len(), 1);
        if !running {
            assert_eq!(pool.picture().await, before);
        }
    }
    pool.done().await;
}

/// Moves an interface to the lab again and gives it as it is then.
async fn moved_back(pool: &Pool, nic: &bioxen_net::NicInfo) -> bioxen_net::NicInfo {
    let now = pool.networks.nics(&nic.vm).await.unwrap();
    let now = now.into_iter().find(|n| n.uuid == nic.uuid).unwrap();
    pool.networks.move_nic(&now, "lab").await.unwrap()
}

#[tokio::test]
async fn all_problems_of_an_interface_are_told_at_once() {
    let pool = Pool::of(1).await;
    let vm = pool.vm("reader").await;
    let address = pool.networks.nics(&vm).await.unwrap().remove(0).mac;
    let before = pool.picture().await;
    let spec = NicSpec::new("LAN")
        .with_device(0)
        .with_mac(mac(&address))
        .with_rate(0);
    let error = pool.networks.attach(&vm, &spec).await.unwrap_err();
    let Error::Invalid(problems) = &error else {
        panic!("{error}");
    };
    assert_eq!(problems.iter().count(), 3, "{error}");
    let told = error.to_string();
    let owner = format!("interface 0 of VM reader has the MAC address {address} already");
    for part in ["number 0 of VM reader is taken", &owner, "a rate of 0"] {
        assert!(told.contains(part), "{part:?} in {told:?}");
    }
    let error = pool
        .networks
        .attach(&vm, &NicSpec::new("WAN"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert_eq!(pool.picture().await, before);
    pool.done().await;
}

#[tokio::test]
async fn a_network_that_the_host_of_a_running_vm_does_not_reach_is_refused() {
    let pool = Pool::of(2).await;
    let hosts = pool.client.host().get_all_records().await.unwrap();
    let mut hosts = hosts.into_iter();
    let (with, _) = hosts.next().unwrap();
    let (without, record) = hosts.next().unwrap();
    // One host loses its second network card.
    for (pif, record) in pool.client.pif().get_all_records().await.unwrap() {
        if record.host == without && record.device == "eth1" {
            pool.client.pif().forget(&pif).await.unwrap();
        }
    }
    let (here, there) = (pool.vm("here").await, pool.vm("there").await);
    pool.start_on(&here, &with).await;
    pool.start_on(&there, &without).await;
    let nic = pool
        .networks
        .attach(&here, &NicSpec::new("storage"))
        .await
        .unwrap();
    assert!(nic.attached);
    let error = pool
        .networks
        .attach(&there, &NicSpec::new("storage"))
        .await
        .unwrap_err();
    let told = error.to_string();
    let expected = format!(
        "VM there runs on host {}, which does not reach",
        record.name_label
    );
    assert!(told.contains(&expected), "{told}");
    let nic = pool.networks.nics(&there).await.unwrap().remove(0);
    let error = pool.networks.move_nic(&nic, "storage").await.unwrap_err();
    assert!(error.to_string().contains(&expected), "{error}");
    pool.done().await;
}

#[tokio::test]
async fn an_interface_that_cannot_be_plugged_in_is_removed_again() {
    let pool = Pool::of(1).await;
    let vm = pool.vm("reader").await;
    pool.start(&vm).await;
    let before = pool.picture().await;
    pool.sim
        .inject(FaultRule::method("VIF.plug").fail("DEVICE_ATTACH_TIMEOUT", ["VIF", "x"]));
    let error = pool
        .networks
        .attach(&vm, &NicSpec::new("storage"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Pool { .. }), "{error}");
    assert_eq!(pool.picture().await, before);
    pool.sim
        .inject(FaultRule::method("VIF.destroy").fail("INTERNAL_ERROR", ["broken"]));
    let error = pool
        .networks
        .attach(&vm, &NicSpec::new("storage"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::LeftBehind { .. }), "{error}");
    pool.done().await;
}

#[tokio::test]
async fn an_interface_that_cannot_be_removed_is_plugged_in_again() {
    let pool = Pool::of(1).await;
    let vm = pool.vm("reader").await;
    pool.start(&vm).await;
    let nic = pool.networks.nics(&vm).await.unwrap().remove(0);
    assert!(nic.attached);
    let before = pool.picture().await;
    pool.sim.inject(
        FaultRule::method("VIF.destroy")
            .times(1)
            .fail("INTERNAL_ERROR", ["broken"]),
    );
    let error = pool.networks.detach(&nic).await.unwrap_err();
    assert!(matches!(error, Error::Pool { .. }), "{error}");
    assert_eq!(pool.picture().await, before);
    pool.networks.detach(&nic).await.unwrap();
    pool.done().await;
}

#[tokio::test]
async fn a_lost_answer_makes_no_second_interface() {
    let pool = Pool::of(1).await;
    let vm = pool.vm("reader").await;
    pool.lose_answer_of("VIF.create");
    let nic = pool
        .networks
        .attach(&vm, &NicSpec::new("storage"))
        .await
        .unwrap();
    assert_eq!(nic.device, "1");
    assert_eq!(pool.networks.nics(&vm).await.unwrap().len(), 2);
    pool.done().await;
}

/// A private network with two VMs on it, and a third VM whose first interface is limited.
fn wanted() -> Wanted {
    let locked = |last| Locking::Locked {
        ipv4: vec![Ipv4Addr::new(10, 77, 0, last)],
        ipv6: Vec::new(),
    };
    Wanted::new()
        .with_network(NetworkSpec::new("lab").with_subnet("10.77.0.0/24".parse().unwrap()))
        .with_nic("reader", NicSpec::new("lab").with_locking(locked(1)))
        .with_nic("writer", NicSpec::new("lab").with_locking(locked(2)))
        .with_nic(
            "watcher",
            NicSpec::new("storage").with_device(0).with_rate(500),
        )
}

#[tokio::test]
async fn wanted_interfaces_are_made_once_and_brought_into_line() {
    let pool = Pool::of(1).await;
    let mut vms = Vec::new();
    for name in ["reader", "writer", "watcher"] {
        vms.push(pool.vm(name).await);
    }
    let before = pool.picture().await;
    let plan = pool.networks.plan(&wanted()).await.unwrap();
    assert_eq!(
        plan.to_string(),
        "create network lab\n\
         attach VM reader to network lab as interface 1, locked to 10.77.0.1\n\
         attach VM writer to network lab as interface 1, locked to 10.77.0.2\n\
         move interface 0 of VM watcher from network LAN to storage (xenbr1)\n\
         change what interface 0 of VM watcher may send from any to 500 kB/s"
    );
    assert_eq!(pool.picture().await, before, "a plan changes nothing");

    // Whatever step fails, all before it are undone.
    for (method, after_effect) in [
        ("VIF.create", false),
        ("VIF.move", false),
        ("VIF.move", true),
        ("VIF.set_qos_algorithm_params", false),
        ("VIF.set_qos_algorithm_type", true),
    ] {
        // The second interface, where there are two.
        let skipped = u64::from(method == "VIF.create");
        let mut rule = FaultRule::method(method).after(skipped).times(1);
        rule = rule.fail("INTERNAL_ERROR", ["broken"]);
        if after_effect {
            rule = rule.after_effect();
        }
        pool.sim.inject(rule);
        let error = pool.networks.apply(&wanted()).await.unwrap_err();
        assert!(matches!(error, Error::Pool { .. }), "{method}: {error}");
        pool.sim.clear_faults();
        assert_eq!(pool.picture().await, before, "{method}");
    }

    let done = pool.networks.apply(&wanted()).await.unwrap();
    assert_eq!(done, plan);
    let changes = pool.changes();
    assert!(pool.networks.apply(&wanted()).await.unwrap().is_empty());
    assert_eq!(pool.changes(), changes, "a second time does nothing");

    let on_lab = pool.networks.nics_on("name:lab").await.unwrap();
    let told: Vec<_> = on_lab.iter().map(|nic| nic.locking.to_string()).collect();
    assert_eq!(told, ["locked to 10.77.0.1", "locked to 10.77.0.2"]);
    let nic = pool.networks.nic(&vms[2], "0").await.unwrap();
    assert_eq!((&*nic.network, nic.rate), ("storage", Some(500)));
    let error = pool.networks.nic(&vms[2], "7").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "VM watcher has no interface 7; it has: 0 on storage"
    );

    let open = Wanted::new().with_nic("reader", NicSpec::new("lab"));
    let plan = pool.networks.apply(&open).await.unwrap();
    assert_eq!(
        plan.to_string(),
        "change the locking of interface 1 of VM reader from locked to 10.77.0.1 to as the network"
    );
    pool.done().await;
}

#[tokio::test]
async fn all_problems_of_wanted_interfaces_are_told_at_once() {
    let pool = Pool::of(1).await;
    for name in ["reader", "twin", "twin"] {
        pool.vm(name).await;
    }
    let before = pool.picture().await;
    let lab = NetworkSpec::new("lab").with_subnet("10.77.0.0/24".parse().unwrap());
    let locked = |last| Locking::Locked {
        ipv4: vec![Ipv4Addr::new(10, 77, 0, last)],
        ipv6: Vec::new(),
    };
    let wish = Wanted::new()
        .with_network(lab.with_gateway("10.78.0.1".parse().unwrap()))
        .with_nic("reader", NicSpec::new("lab").with_locking(locked(255)))
        .with_nic("reader", NicSpec::new("WAN").with_device(3))
        .with_nic("reader", NicSpec::new("storage").with_device(1))
        .with_nic("reader", NicSpec::new("storage").with_device(1))
        .with_nic(
            "reader",
            NicSpec::new("LAN").with_mac(mac("02:00:00:00:00:01")),
        )
        .with_nic("twin", NicSpec::new("lab"))
        .with_nic("nobody", NicSpec::new("lab").with_locking(locked(255)));
    let told = pool.networks.plan(&wish).await.unwrap_err().to_string();
    for part in [
        "the gateway 10.78.0.1 is no address that a machine of 10.77.0.0/24 can have",
        "the address 10.77.0.255 is none that a machine of 10.77.0.0/24 can have",
        "interface of VM \"reader\" on \"WAN\": no network is \"WAN\"",
        "interface 1 is asked for twice",
        "which cannot be changed; detach it first",
        "interface of VM \"twin\" on \"lab\": \"twin\" can mean several VMs: twin (uuid ",
        "no VM is \"nobody\"",
    ] {
        assert!(told.contains(part), "{part:?} in {told:?}");
    }
    assert_eq!(pool.picture().await, before);
    pool.done().await;
}

#[tokio::test]
async fn an_interface_without_a_number_leaves_those_that_others_name() {
    let pool = Pool::of(1).await;
    let vm = pool.vm("reader").await;
    let wish = Wanted::new()
        .with_network(NetworkSpec::new("lab"))
        .with_nic("reader", NicSpec::new("lab"))
        .with_nic("reader", NicSpec::new("storage").with_device(1));
    let plan = pool.networks.apply(&wish).await.unwrap().to_string();
    assert!(
        plan.contains("attach VM reader to network lab as interface 2"),
        "{plan}"
    );
    assert!(pool.networks.plan(&wish).await.unwrap().is_empty());
    // Of several on one network, none of which has a name, all are there the second time.
    let twins = Wanted::new()
        .with_nic("reader", NicSpec::new("lab"))
        .with_nic("reader", NicSpec::new("lab"));
    let plan = pool.networks.apply(&twins).await.unwrap();
    assert_eq!(plan.steps.len(), 1, "{plan}");
    assert!(pool.networks.plan(&twins).await.unwrap().is_empty());
    // They keep their order, and the one that has an address to itself is the one that asks for it.
    let (slow, fast) = (
        NicSpec::new("lab").with_rate(100),
        NicSpec::new("lab").with_rate(900),
    );
    let uneven = Wanted::new()
        .with_nic("reader", slow)
        .with_nic("reader", fast);
    pool.networks.apply(&uneven).await.unwrap();
    let nics = pool.networks.nics(&vm).await.unwrap();
    let last = nics
        .iter()
        .rfind(|nic| nic.network.contains("lab"))
        .unwrap();
    let of_last = NicSpec::new("lab").with_rate(900).with_mac(mac(&last.mac));
    let turned = Wanted::new()
        .with_nic("reader", of_last)
        .with_nic("reader", NicSpec::new("lab").with_rate(100));
    for wish in [&uneven, &turned] {
        assert!(pool.networks.plan(wish).await.unwrap().is_empty());
    }
    let one = Wanted::new().with_nic("reader", NicSpec::new("lab"));
    let error = pool.networks.plan(&one).await.unwrap_err().to_string();
    assert!(
        error.contains("the VM has several there; say which by device"),
        "{error}"
    );
    pool.done().await;
}

#[tokio::test]
async fn a_vm_whose_state_allows_no_plugging_says_what_to_do_and_stays_as_it_was() {
    let pool = Pool::of(1).await;
    let bare = pool.vm_of("bare", "bare").await;
    let vm = pool.vm("reader").await;
    pool.client.vm().start(&bare, false, false).await.unwrap();
    pool.start(&vm).await;
    let before = pool.picture().await;
    let nic = pool.networks.nics(&bare).await.unwrap().remove(0);
    assert!(!nic.allowed.contains(&"unplug".to_owned()), "{nic:?}");
    for refused in [
        pool.networks.detach(&nic).await,
        pool.networks
            .attach(&bare, &NicSpec::new("storage"))
            .await
            .map(drop),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::NotHot { .. }), "{error}");
        assert!(error.to_string().contains("guest tools"), "{error}");
        assert_eq!(pool.picture().await, before);
    }

    pool.client.vm().pause(&vm).await.unwrap();
    let nic = pool.networks.nics(&vm).await.unwrap().remove(0);
    let error = pool.networks.detach(&nic).await.unwrap_err();
    assert!(
        error.to_string().contains("the VM is paused; unpause"),
        "{error}"
    );
    assert_eq!(pool.picture().await, before);
    pool.client.vm().unpause(&vm).await.unwrap();
    pool.networks.detach(&nic).await.unwrap();
    pool.done().await;
}

#[tokio::test]
async fn rights_that_are_missing_are_told() {
    let pool = Pool::of(1).await;
    let vm = pool.vm("reader").await;
    let before = pool.picture().await;
    let client = Client::over(pool.sim.transport())
        .credentials("looker", SecretString::from("looker"))
        .login()
        .await
        .unwrap();
    let looker = Networks::new(&client);
    let nic = looker.nics(&vm).await.unwrap().remove(0);
    for refused in [
        looker.attach(&vm, &NicSpec::new("LAN")).await.map(drop),
        looker.move_nic(&nic, "storage").await.map(drop),
        looker.set_locking(&nic, &Locking::Disabled).await,
        looker.detach(&nic).await,
    ] {
        let error = refused.unwrap_err();
        let Error::Pool { source, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(source.code(), Some(&ErrorCode::RbacPermissionDenied));
    }
    assert_eq!(pool.picture().await, before);
    client.close().await.unwrap();
    pool.done().await;
}

#[tokio::test]
async fn a_vm_without_a_seed_has_the_same_address_whenever_its_interface_is_made() {
    let pool = Pool::of(1).await;
    let vm = pool.vm("reader").await;
    let api = pool.client.vm();
    api.remove_from_other_config(&vm, "mac_seed").await.unwrap();
    let spec = NicSpec::new("storage");
    let first = pool.networks.attach(&vm, &spec).await.unwrap();
    pool.networks.detach(&first).await.unwrap();
    let second = pool.networks.attach(&vm, &spec).await.unwrap();
    assert_eq!(first.mac, second.mac);
    pool.done().await;
}

#[tokio::test]
async fn a_lock_to_an_address_that_the_interface_cannot_have_is_refused() {
    let pool = Pool::of(1).await;
    let mut vms = Vec::new();
    for name in ["reader", "writer"] {
        vms.push(pool.vm(name).await);
    }
    let lab = NetworkSpec::new("lab")
        .with_subnet("10.77.0.0/24".parse().unwrap())
        .with_gateway("10.77.0.1".parse().unwrap());
    let six = NetworkSpec::new("six").with_subnet("fd00:77::/64".parse().unwrap());
    let other = NetworkSpec::new("other").with_subnet("10.78.0.0/24".parse().unwrap());
    let networks = [lab, six, other];
    pool.networks.apply(&networks.into()).await.unwrap();
    let locked = |network: &str, address: &str| {
        let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
        match address.parse().unwrap() {
            IpAddr::V4(address) => ipv4.push(address),
            IpAddr::V6(address) => ipv6.push(address),
        }
        NicSpec::new(network).with_locking(Locking::Locked { ipv4, ipv6 })
    };
    let seven = locked("lab", "10.77.0.7");
    let nic = pool.networks.attach(&vms[0], &seven).await.unwrap();
    let before = pool.picture().await;
    let refused = [
        ("lab", "10.78.0.7", "is none that a machine of 10.77.0.0/24"),
        (
            "six",
            "fd00:78::7",
            "is none that a machine of fd00:77::/64",
        ),
        ("lab", "10.77.0.1", "10.77.0.1 is that of the gateway"),
        (
            "lab",
            "10.77.0.7",
            "interface 1 of VM reader is locked to the address 10.77.0.7 already",
        ),
    ];
    for (network, address, problem) in refused {
        let spec = locked(network, address);
        let attached = pool.networks.attach(&vms[1], &spec).await.unwrap_err();
        let wish = Wanted::new().with_nic("writer", spec);
        let planned = pool.networks.plan(&wish).await.unwrap_err();
        for error in [attached, planned] {
            assert!(error.to_string().contains(problem), "{error}");
        }
    }
    let error = pool.networks.move_nic(&nic, "other").await.unwrap_err();
    let problem = "10.77.0.7 is none that a machine of 10.78.0.0/24";
    assert!(error.to_string().contains(problem), "{error}");
    for (network, address, problem) in refused {
        let of_writer = NicSpec::new(network);
        let nic = pool.networks.attach(&vms[1], &of_writer).await.unwrap();
        let locking = locked(network, address).locking;
        let error = pool.networks.set_locking(&nic, &locking).await.unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
        pool.networks.detach(&nic).await.unwrap();
    }
    assert_eq!(pool.picture().await, before);
    // What it has already it may have.
    let locking = &seven.locking;
    pool.networks.set_locking(&nic, locking).await.unwrap();
    assert_eq!(pool.picture().await, before);

    for (network, address) in [("six", "fd00:77::7"), ("lab", "fe80::7")] {
        let spec = locked(network, address);
        pool.networks.attach(&vms[1], &spec).await.unwrap();
    }
    // Who had an address may leave it to another at the same time.
    let swap = Wanted::new()
        .with_nic("writer", seven)
        .with_nic("reader", locked("lab", "10.77.0.8"));
    pool.networks.apply(&swap).await.unwrap();
    let mut told = Vec::new();
    for vm in &vms {
        let nics = pool.networks.nics(vm).await.unwrap();
        let on_lab = nics.iter().find(|nic| nic.network == "lab").unwrap();
        told.push(on_lab.locking.to_string());
    }
    assert_eq!(told, ["locked to 10.77.0.8", "locked to 10.77.0.7"]);
    pool.done().await;
}

#[tokio::test]
async fn the_largest_packet_of_an_interface_is_that_of_its_network() {
    let pool = Pool::of(1).await;
    let vm = pool.vm("reader").await;
    let nic = pool.networks.nics(&vm).await.unwrap().remove(0);
    assert_eq!(nic.mtu, 1500);
    let lab = NetworkSpec::new("lab").with_mtu(9000);
    pool.networks.create(&lab).await.unwrap();
    let moved = pool.networks.move_nic(&nic, "lab").await.unwrap();
    assert_eq!(moved.mtu, 9000);
    let smaller = NetworkSpec::new("lab").with_mtu(8000);
    pool.networks.create(&smaller).await.unwrap();
    let now = pool.networks.nic(&vm, "0").await.unwrap();
    assert_eq!(now.mtu, 8000);
    let own = pool.client.vif();
    own.add_to_other_config(&nic.reference, "mtu", "1400")
        .await
        .unwrap();
    let now = pool.networks.nic(&vm, "0").await.unwrap();
    assert_eq!(now.mtu, 1400);
    pool.done().await;
}

#[tokio::test]
async fn an_interface_may_have_the_mac_address_that_it_has_in_a_snapshot() {
    let pool = Pool::of(1).await;
    let vm = pool.vm("reader").await;
    let spec = NicSpec::new("storage").with_mac(mac("02:16:3e:00:00:01"));
    let nic = pool.networks.attach(&vm, &spec).await.unwrap();
    let api = pool.client.vm();
    api.snapshot(&vm, "before", None).await.unwrap();
    pool.networks.detach(&nic).await.unwrap();
    let again = pool.networks.attach(&vm, &spec).await.unwrap();
    assert_eq!(again.mac, nic.mac);
    let error = pool.networks.attach(&vm, &spec).await.unwrap_err();
    assert!(error.to_string().contains("already"), "{error}");
    pool.done().await;
}
