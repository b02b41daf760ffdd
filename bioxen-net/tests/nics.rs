//! Interfaces of VMs in a simulated pool.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::Ipv4Addr;

use bioxen_net::{Error, Locking, Mac, NetworkSpec, NicSpec};
use support::Pool;
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
        assert_eq!(nic.to_string(), "interface 1 (02:16:3e:00:00:01) on lab");
        assert_eq!((nic.attached, nic.mac_generated), (running, false));
        assert_eq!(
            (nic.locking.as_str(), nic.ipv4_allowed.len()),
            ("locked", 1)
        );
        let record = pool.client.vif().get_record(&nic.reference).await.unwrap();
        assert_eq!(record.qos_algorithm_params["kbps"], "1000");

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
    for part in ["number 0 of VM reader is taken", &address, "a rate of 0"] {
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
