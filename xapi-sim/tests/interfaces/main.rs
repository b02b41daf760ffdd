//! Network interfaces of hosts: bonds, tunnels, VLANs over them, addresses.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

mod bonds;
#[path = "../common/mod.rs"]
mod common;

use common::{Pool, pool_of, text};
use xapi_sim::{Model, NULL_REF, NetworkSpec, SimOptions, Value};

/// A host with two cards.
async fn pool() -> Pool {
    let model = Model::single_host().network(NetworkSpec::external("Second", "eth1"));
    pool_of(model, SimOptions::default()).await
}

fn this(reference: &str) -> Vec<Value> {
    vec![reference.into()]
}

async fn card(pool: &Pool, device: &str) -> String {
    for pif in pool.call("PIF.get_all", vec![]).await.items() {
        let pif = text(pif);
        if pool.get("PIF", "device", &pif).await == Value::from(device) {
            return pif;
        }
    }
    panic!("no interface {device}")
}

async fn network(pool: &Pool, name: &str) -> String {
    let none: [(&str, &str); 0] = [];
    let fields = [
        ("name_label".to_owned(), name.into()),
        ("other_config".to_owned(), Value::map(none)),
    ];
    let args = vec![Value::Struct(fields.to_vec())];
    text(&pool.call("network.create", args).await)
}

/// Compares fields of an interface, and of nothing else.
fn bond(network: &str, members: &[&str], mac: &str, mode: &str) -> Vec<Value> {
    let members = Value::strings(members.iter().copied());
    vec![network.into(), members, mac.into(), mode.into()]
}

async fn assert_fields(pool: &Pool, class: &str, reference: &str, fields: &[(&str, Value)]) {
    for (field, value) in fields {
        let found = pool.get(class, field, reference).await;
        assert_eq!(found, *value, "{class}.{field}");
    }
}

#[tokio::test]
async fn a_tunnel_needs_an_address_below_it() {
    let pool = pool().await;
    let (first, second) = (card(&pool, "eth0").await, card(&pool, "eth1").await);
    let private = network(&pool, "private").await;
    let args = |pif: &str, network: &str| -> Vec<Value> {
        vec![pif.into(), network.into(), "vxlan".into()]
    };
    let tunnel = text(&pool.call("tunnel.create", args(&first, &private)).await);
    let access = text(&pool.get("tunnel", "access_PIF", &tunnel).await);
    assert_fields(
        &pool,
        "tunnel",
        &tunnel,
        &[
            ("protocol", "vxlan".into()),
            ("status", Value::map([("active", "false")])),
            ("transport_PIF", first.as_str().into()),
        ],
    )
    .await;
    assert_fields(
        &pool,
        "PIF",
        &access,
        &[
            ("device", "tunnel0".into()),
            ("physical", false.into()),
            ("currently_attached", true.into()),
            ("network", private.as_str().into()),
        ],
    )
    .await;
    let host = text(&pool.get("PIF", "host", &first).await);
    let other = network(&pool, "other").await;
    for (pif, network, failure) in [
        (
            &first,
            &private,
            format!("NETWORK_ALREADY_CONNECTED|{host}|{access}"),
        ),
        (&access, &other, format!("IS_TUNNEL_ACCESS_PIF|{access}")),
        (
            &second,
            &other,
            format!("TRANSPORT_PIF_NOT_CONFIGURED|{second}"),
        ),
    ] {
        let args = args(pif, network);
        assert_eq!(pool.fails("tunnel.create", args).await, failure);
    }
    let vlan = vec![access.as_str().into(), Value::Int(7), other.into()];
    let failure = pool.fails("VLAN.create", vlan).await;
    assert!(
        failure.starts_with("NETWORK_ALREADY_CONNECTED|"),
        "the tunnel that could not be plugged is still there: {failure}"
    );
    assert_eq!(
        pool.fails("PIF.forget", this(&access)).await,
        format!("PIF_TUNNEL_STILL_EXISTS|{access}")
    );
    pool.call("tunnel.destroy", this(&tunnel)).await;
    assert_eq!(
        pool.fails("PIF.get_uuid", this(&access)).await,
        format!("HANDLE_INVALID|PIF|{access}")
    );
}

#[tokio::test]
async fn what_addresses_an_interface_can_have() {
    let pool = pool().await;
    let (first, second) = (card(&pool, "eth0").await, card(&pool, "eth1").await);
    let v6 = |pif: &str, mode: &str, address: &str, gateway: &str| -> Vec<Value> {
        vec![
            pif.into(),
            mode.into(),
            address.into(),
            gateway.into(),
            "".into(),
        ]
    };
    let unclosed = "Prefix length must be specified (format: <ipv6>/<prefix>";
    for (address, gateway, what) in [
        ("2001:db8::1/64", "router", "gateway"),
        ("2001:db8::1", "", unclosed),
        ("nonsense/64", "", "IPv6"),
        ("2001:db8::1/x", "", "Cannot parse prefix length 'x'"),
        (
            "2001:db8::1/129",
            "",
            "Prefix length must be between 0 and 128",
        ),
    ] {
        let args = v6(&second, "Static", address, gateway);
        assert_eq!(
            pool.fails("PIF.reconfigure_ipv6", args).await,
            format!("INVALID_IP_ADDRESS_SPECIFIED|{what}")
        );
    }
    let args = v6(&second, "Static", "2001:db8::1/64", "2001:db8::ff");
    pool.call("PIF.reconfigure_ipv6", args).await;
    assert_fields(
        &pool,
        "PIF",
        &second,
        &[
            ("ipv6_configuration_mode", "Static".into()),
            ("IPv6", Value::strings(["2001:db8::1/64"])),
            ("ipv6_gateway", "2001:db8::ff".into()),
        ],
    )
    .await;
    let own = format!("PIF_IS_MANAGEMENT_INTERFACE|{first}");
    let none = vec![
        first.as_str().into(),
        "None".into(),
        "".into(),
        "".into(),
        "".into(),
        "".into(),
    ];
    assert_eq!(pool.fails("PIF.reconfigure_ip", none).await, own);
    let kind = vec![first.as_str().into(), "IPv6".into()];
    assert_eq!(pool.fails("PIF.set_primary_address_type", kind).await, own);
    assert_eq!(pool.fails("PIF.unplug", this(&first)).await, own);
    assert_eq!(
        pool.fails("PIF.destroy", this(&first)).await,
        "PIF_IS_PHYSICAL"
    );
    pool.call("PIF.forget", this(&second)).await;
    assert_eq!(
        pool.fails("PIF.get_uuid", this(&second)).await,
        format!("HANDLE_INVALID|PIF|{second}")
    );
}

#[tokio::test]
async fn a_forgotten_card_is_found_again() {
    let pool = pool().await;
    let second = card(&pool, "eth1").await;
    let host = text(&pool.get("PIF", "host", &second).await);
    let mac = text(&pool.get("PIF", "MAC", &second).await);
    let network = pool.get("PIF", "network", &second).await;
    let args = |mac: &str, device: &str| -> Vec<Value> {
        vec![host.as_str().into(), mac.into(), device.into()]
    };
    assert_eq!(
        pool.fails("PIF.introduce", args("", "eth1")).await,
        "DUPLICATE_PIF_DEVICE_NAME|eth1"
    );
    assert_eq!(
        pool.fails("PIF.introduce", args("", "eth9")).await,
        "MAC_INVALID|"
    );
    pool.call("PIF.forget", this(&second)).await;
    let other = "02:00:00:00:00:01";
    let code = "COULD_NOT_FIND_NETWORK_INTERFACE_WITH_SPECIFIED_DEVICE_NAME_AND_MAC_ADDRESS";
    assert_eq!(
        pool.fails("PIF.introduce", args(other, "eth1")).await,
        format!("{code}|eth1|{other}")
    );
    let fields = [
        ("MAC", Value::from(mac.as_str())),
        ("network", network),
        ("currently_attached", false.into()),
        ("physical", true.into()),
        ("managed", true.into()),
        ("ip_configuration_mode", "None".into()),
    ];
    let again = text(
        &pool
            .call("PIF.introduce", args(&mac.to_uppercase(), "eth1"))
            .await,
    );
    assert_fields(&pool, "PIF", &again, &fields).await;

    pool.call("PIF.forget", this(&again)).await;
    pool.call("PIF.scan", this(&host)).await;
    let found = card(&pool, "eth1").await;
    assert_fields(&pool, "PIF", &found, &fields).await;
    pool.call("PIF.scan", this(&host)).await;
    let all = pool.call("PIF.get_all", vec![]).await;
    assert_eq!(all.items().len(), 2, "a card has one record");
}

#[tokio::test]
async fn the_older_way_to_a_vlan_names_the_device() {
    let pool = pool().await;
    let first = card(&pool, "eth0").await;
    let host = text(&pool.get("PIF", "host", &first).await);
    let tagged = network(&pool, "tagged").await;
    let vlan = |device: &str, tag: i64| {
        vec![
            device.into(),
            tagged.as_str().into(),
            host.as_str().into(),
            tag.into(),
        ]
    };
    assert_eq!(
        pool.fails("PIF.create_VLAN", vlan("eth7", 7)).await,
        "INVALID_VALUE|device|eth7"
    );
    assert_eq!(
        pool.fails("PIF.create_VLAN", vlan("eth0", 4095)).await,
        "VLAN_TAG_INVALID|4095"
    );
    let pif = text(&pool.call("PIF.create_VLAN", vlan("eth0", 7)).await);
    assert_fields(
        &pool,
        "PIF",
        &pif,
        &[
            ("VLAN", Value::Int(7)),
            ("device", "eth0".into()),
            ("network", tagged.as_str().into()),
            ("physical", false.into()),
        ],
    )
    .await;
    pool.call("PIF.destroy", this(&pif)).await;
    let pifs = pool.get("network", "PIFs", &tagged).await;
    assert_eq!(pifs, Value::Array(vec![]));
}

#[tokio::test]
async fn a_vlan_of_the_pool_follows_the_network_of_an_interface_and_is_on_all_hosts_or_none() {
    let pool = pool().await;
    let (first, second) = (card(&pool, "eth0").await, card(&pool, "eth1").await);
    let args = bond(
        &network(&pool, "bonded").await,
        &[&first, &second],
        "",
        "lacp",
    );
    let made = text(&pool.call("Bond.create", args).await);
    let above = text(&pool.get("Bond", "master", &made).await);
    let tagged = network(&pool, "tagged").await;
    let vlan = |network: &str| vec![above.as_str().into(), network.into(), Value::Int(7)];
    let pifs = pool.call("pool.create_VLAN_from_PIF", vlan(&tagged)).await;
    assert_eq!(
        pifs.items().len(),
        1,
        "a bond is no card, and carries VLANs"
    );
    let other = network(&pool, "other").await;
    let device = text(&pool.get("PIF", "device", &above).await);
    assert_eq!(
        pool.fails("pool.create_VLAN_from_PIF", vlan(&other)).await,
        format!("PIF_VLAN_EXISTS|{device}")
    );

    // Of three hosts the second has the VLAN already.
    let pool = pool_of(Model::pool_of_three(), SimOptions::default()).await;
    let mut cards = Vec::new();
    for pif in pool.call("PIF.get_all", vec![]).await.items() {
        cards.push(text(pif));
    }
    let own = network(&pool, "own").await;
    let args = vec![cards[1].as_str().into(), Value::Int(7), own.as_str().into()];
    pool.call("VLAN.create", args).await;
    let before = pool.call("PIF.get_all", vec![]).await;
    let lab = network(&pool, "lab").await;
    let args = vec![cards[0].as_str().into(), lab.as_str().into(), Value::Int(7)];
    let failure = pool.fails("pool.create_VLAN_from_PIF", args).await;
    assert!(failure.starts_with("PIF_VLAN_EXISTS|"), "{failure}");
    assert_eq!(pool.call("PIF.get_all", vec![]).await, before);
}
