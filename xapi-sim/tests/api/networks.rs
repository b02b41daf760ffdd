//! Networks, VLANs and the addresses of cards.

use super::{map, network, record, this};
use crate::common::{device, pool, pool_of, text};
use xapi_sim::{Model, SimOptions, Value};

#[tokio::test]
async fn networks() {
    let pool = pool().await;
    let args = |bridge: &str, mtu: i64| {
        record(&[
            ("name_label", "lab".into()),
            ("other_config", map(&[])),
            ("bridge", bridge.into()),
            ("MTU", mtu.into()),
        ])
    };
    assert_eq!(
        pool.fails("network.create", args("xenbr7", 1500)).await,
        "INVALID_VALUE|bridge|xenbr7"
    );
    assert_eq!(
        pool.fails("network.create", args("sixteen-letters-", 0))
            .await,
        "INVALID_VALUE|bridge|sixteen-letters-"
    );
    let lab = text(&pool.call("network.create", args("br-lab", 0)).await);
    assert_eq!(pool.get("network", "MTU", &lab).await, Value::Int(1500));
    assert_eq!(
        pool.fails("network.create", args("br-lab", 0)).await,
        "BRIDGE_NAME_EXISTS|br-lab"
    );
    let own = pool
        .named("network", "Host internal management network")
        .await;
    assert_eq!(
        pool.fails("network.destroy", this(&own)).await,
        format!("CANNOT_DESTROY_SYSTEM_NETWORK|{own}")
    );
    let vm = pool.vm("worker").await;
    let vif = device(&pool, "VIF", &vm, "0").await;
    pool.call("VIF.move", vec![vif.as_str().into(), lab.as_str().into()])
        .await;
    pool.start(&vm).await;
    assert_eq!(
        pool.fails("network.destroy", this(&lab)).await,
        format!("NETWORK_CONTAINS_VIF|{vif}")
    );
    let locked = vec![lab.as_str().into(), "disabled".into()];
    assert_eq!(
        pool.fails("network.set_default_locking_mode", locked).await,
        format!("VIF_IN_USE|{lab}|{vif}")
    );
    pool.call("VM.hard_shutdown", this(&vm)).await;
    pool.call("network.destroy", this(&lab)).await;
    assert_eq!(
        pool.fails("VIF.get_record", this(&vif)).await,
        format!("HANDLE_INVALID|VIF|{vif}"),
        "interfaces go with their network"
    );
}

#[tokio::test]
async fn vlans() {
    let pool = pool().await;
    let network = Value::Struct(vec![
        ("name_label".to_owned(), "lab".into()),
        ("other_config".to_owned(), map(&[])),
    ]);
    let network = pool.call("network.create", vec![network]).await;
    let pifs = pool
        .call(
            "pool.create_VLAN",
            vec!["eth0".into(), network.clone(), Value::Int(42)],
        )
        .await;
    let pif = text(&pifs.items()[0]);
    assert_eq!(pool.get("PIF", "VLAN", &pif).await, Value::Int(42));
    let vlan = pool.get("PIF", "VLAN_master_of", &pif).await;
    pool.call("VLAN.destroy", vec![vlan]).await;
    pool.call("network.destroy", vec![network]).await;
}

#[tokio::test]
async fn what_a_vlan_can_be_made_of() {
    let pool = pool().await;
    let lab = network(&pool, "lab").await;
    let other = network(&pool, "other").await;
    let card = text(&pool.call("PIF.get_all", vec![]).await.items()[0]);
    let args = |pif: &str, tag: i64, network: &str| -> Vec<Value> {
        vec![pif.into(), tag.into(), network.into()]
    };
    assert_eq!(
        pool.fails("VLAN.create", args(&card, 4095, &lab)).await,
        "VLAN_TAG_INVALID|4095"
    );
    let vlan = text(&pool.call("VLAN.create", args(&card, 7, &lab)).await);
    let pif = text(&pool.get("VLAN", "untagged_PIF", &vlan).await);
    let host = text(&pool.get("PIF", "host", &card).await);
    for (tagged, tag, network, failure) in [
        (&card, 7, &other, "PIF_VLAN_EXISTS|eth0".to_owned()),
        (
            &card,
            8,
            &lab,
            format!("NETWORK_ALREADY_CONNECTED|{host}|{pif}"),
        ),
        (&pif, 8, &other, format!("PIF_IS_VLAN|{pif}")),
    ] {
        let args = args(tagged, tag, network);
        assert_eq!(pool.fails("VLAN.create", args).await, failure);
    }
    for (field, value) in [
        ("MAC", Value::from("fe:ff:ff:ff:ff:ff")),
        ("IPv6", Value::strings([""])),
        ("physical", false.into()),
        ("currently_attached", true.into()),
        ("metrics", pool.get("PIF", "metrics", &card).await),
    ] {
        assert_eq!(pool.get("PIF", field, &pif).await, value, "{field}");
    }
    pool.call("VLAN.destroy", this(&vlan)).await;
    let metrics = text(&pool.get("PIF", "metrics", &card).await);
    pool.call("PIF_metrics.get_record", this(&metrics)).await;
}

#[tokio::test]
async fn addresses_of_cards_are_checked() {
    let pool = pool().await;
    let card = text(&pool.call("PIF.get_all", vec![]).await.items()[0]);
    let args = |mode: &str, address: &str, mask: &str| -> Vec<Value> {
        let card = card.as_str();
        [card, mode, address, mask, "", "192.0.2.53"]
            .map(Value::from)
            .to_vec()
    };
    for (address, mask, field) in [
        ("x", "255.255.255.0", "IP"),
        ("192.0.2.9", "/24", "netmask"),
    ] {
        let args = args("Static", address, mask);
        assert_eq!(
            pool.fails("PIF.reconfigure_ip", args).await,
            format!("INVALID_IP_ADDRESS_SPECIFIED|{field}")
        );
    }
    let args = args("Static", "192.0.2.9", "255.255.255.0");
    pool.call("PIF.reconfigure_ip", args).await;
    assert_eq!(pool.get("PIF", "IP", &card).await, Value::from("192.0.2.9"));
}

#[tokio::test]
async fn a_network_without_interfaces_is_where_its_first_vm_is() {
    let model = Model::pool_of_three();
    let pool = pool_of(model, SimOptions::default()).await;
    let lab = network(&pool, "lab").await;
    let hosts = pool.call("host.get_all", vec![]).await;
    let (here, there) = (text(&hosts.items()[0]), text(&hosts.items()[1]));
    let mut vms = Vec::new();
    for name in ["one", "two"] {
        let vm = pool.vm(name).await;
        let vif = device(&pool, "VIF", &vm, "0").await;
        pool.call("VIF.move", vec![vif.into(), lab.as_str().into()])
            .await;
        vms.push(vm);
    }
    let start = |vm: &str, host: &str| vec![vm.into(), host.into(), false.into(), false.into()];
    pool.call("VM.start_on", start(&vms[0], &here)).await;
    assert_eq!(
        pool.fails("VM.start_on", start(&vms[1], &there)).await,
        format!("VM_REQUIRES_NETWORK|{}|{lab}", vms[1])
    );
    pool.call("VM.start_on", start(&vms[1], &here)).await;
}
