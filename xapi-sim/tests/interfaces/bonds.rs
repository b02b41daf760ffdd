//! Bonds: what they take over, give back, and cannot be made of.

use super::*;

#[tokio::test]
async fn a_bond_takes_over_what_its_cards_carry_and_gives_it_back() {
    let pool = pool().await;
    let (first, second) = (card(&pool, "eth0").await, card(&pool, "eth1").await);
    let vm = pool.vm("worker").await;
    let vif = text(&pool.get("VM", "VIFs", &vm).await.items()[0]);
    let before = pool.get("VIF", "network", &vif).await;
    let address = pool.get("PIF", "IP", &first).await;
    let (tagged, tunnelled) = (
        network(&pool, "tagged").await,
        network(&pool, "tunnelled").await,
    );
    let args = vec![first.as_str().into(), Value::Int(7), tagged.as_str().into()];
    pool.call("VLAN.create", args).await;
    let args = vec![first.as_str().into(), tunnelled.as_str().into()];
    pool.call("tunnel.create", args).await;

    let bonded = network(&pool, "bonded").await;
    let args = bond(&bonded, &[&first, &second, &second], "", "lacp");
    let made = text(&pool.call("Bond.create", args).await);
    let above = text(&pool.get("Bond", "master", &made).await);
    let properties = pool.get("Bond", "properties", &made).await;
    for (key, value) in [
        ("hashing_algorithm", "tcpudp_ports"),
        ("lacp-time", "slow"),
        ("lacp-fallback-ab", "true"),
    ] {
        assert_eq!(properties.get(key), Some(&Value::from(value)), "{key}");
    }
    assert_fields(
        &pool,
        "Bond",
        &made,
        &[
            ("mode", "lacp".into()),
            ("primary_slave", first.as_str().into()),
            ("links_up", Value::Int(2)),
        ],
    )
    .await;
    assert_eq!(pool.get("Bond", "slaves", &made).await.items().len(), 2);
    assert_fields(
        &pool,
        "PIF",
        &above,
        &[
            ("device", "bond0".into()),
            ("MAC", pool.get("PIF", "MAC", &first).await),
            ("network", bonded.as_str().into()),
            ("physical", false.into()),
            ("management", true.into()),
            ("currently_attached", true.into()),
            ("IP", address.clone()),
            ("ip_configuration_mode", "DHCP".into()),
            ("MTU", Value::Int(1500)),
        ],
    )
    .await;
    assert_fields(
        &pool,
        "PIF",
        &first,
        &[
            ("bond_slave_of", made.as_str().into()),
            ("management", false.into()),
            ("currently_attached", false.into()),
            ("IP", "".into()),
            ("ip_configuration_mode", "None".into()),
            ("VLAN_slave_of", Value::Array(vec![])),
            ("tunnel_transport_PIF_of", Value::Array(vec![])),
        ],
    )
    .await;
    for field in ["VLAN_slave_of", "tunnel_transport_PIF_of"] {
        assert_eq!(pool.get("PIF", field, &above).await.items().len(), 1);
    }
    let bridge = text(&pool.get("network", "PIFs", &tagged).await.items()[0]);
    assert_eq!(pool.get("PIF", "device", &bridge).await, "bond0".into());
    assert_eq!(
        pool.get("VIF", "network", &vif).await,
        bonded.as_str().into()
    );
    assert_eq!(
        pool.fails("PIF.plug", this(&first)).await,
        format!("CANNOT_PLUG_BOND_SLAVE|{first}")
    );
    let host = text(&pool.get("PIF", "host", &above).await);
    assert_eq!(
        text(
            &pool
                .call("host.get_management_interface", this(&host))
                .await
        ),
        above
    );

    pool.call("Bond.destroy", this(&made)).await;
    assert_eq!(
        pool.fails("PIF.get_uuid", this(&above)).await,
        format!("HANDLE_INVALID|PIF|{above}")
    );
    assert_fields(
        &pool,
        "PIF",
        &first,
        &[
            ("bond_slave_of", NULL_REF.into()),
            ("management", true.into()),
            ("currently_attached", true.into()),
            ("IP", address),
        ],
    )
    .await;
    assert_fields(
        &pool,
        "PIF",
        &second,
        &[("currently_attached", true.into())],
    )
    .await;
    for field in ["VLAN_slave_of", "tunnel_transport_PIF_of"] {
        assert_eq!(pool.get("PIF", field, &first).await.items().len(), 1);
    }
    assert_eq!(pool.get("VIF", "network", &vif).await, before);
    pool.call("network.destroy", this(&bonded)).await;
}

#[tokio::test]
async fn what_cannot_be_bonded() {
    let pool = pool().await;
    let (first, second) = (card(&pool, "eth0").await, card(&pool, "eth1").await);
    let free = network(&pool, "free").await;
    let taken = text(&pool.get("PIF", "network", &second).await);
    let host = text(&pool.get("PIF", "host", &first).await);
    let tagged = network(&pool, "tagged").await;
    let args = vec![
        second.as_str().into(),
        Value::Int(7),
        tagged.as_str().into(),
    ];
    pool.call("VLAN.create", args).await;
    let vlan = text(&pool.get("network", "PIFs", &tagged).await.items()[0]);
    let slb = "balance-slb";
    for (args, failure) in [
        (
            bond(&free, &[], "", slb),
            "PIF_BOND_NEEDS_MORE_MEMBERS".to_owned(),
        ),
        (
            bond(&taken, &[&first], "", slb),
            format!("NETWORK_ALREADY_CONNECTED|{host}|{second}"),
        ),
        (
            bond(&free, &[&first], "02:00", slb),
            "MAC_INVALID|02:00".to_owned(),
        ),
        (
            bond(&free, &[&first, &vlan], "", slb),
            "PIF_VLAN_EXISTS|eth1".to_owned(),
        ),
    ] {
        assert_eq!(pool.fails("Bond.create", args).await, failure);
    }
    for (mode, key, value) in [(slb, "lacp-time", "slow"), ("lacp", "lacp-time", "never")] {
        let mut args = bond(&free, &[&first], "", mode);
        args.push(Value::map([(key, value)]));
        assert_eq!(
            pool.fails("Bond.create", args).await,
            format!("INVALID_VALUE|properties|{key} = {value}")
        );
    }
    let still = vec![
        second.as_str().into(),
        "Static".into(),
        "192.0.2.9".into(),
        "255.255.255.0".into(),
        "".into(),
        "".into(),
    ];
    pool.call("PIF.reconfigure_ip", still).await;
    let both = bond(&free, &[&first, &second], "", slb);
    assert_eq!(
        pool.fails("Bond.create", both).await,
        "PIF_BOND_MORE_THAN_ONE_IP"
    );

    let one = bond(&free, &[&second], "", slb);
    let made = text(&pool.call("Bond.create", one).await);
    let other = network(&pool, "other").await;
    assert_eq!(
        pool.fails("Bond.create", bond(&other, &[&second], "", slb))
            .await,
        format!("PIF_ALREADY_BONDED|{second}")
    );
    assert_eq!(
        pool.fails("PIF.forget", this(&second)).await,
        format!("PIF_ALREADY_BONDED|{second}")
    );
    let args = |key: &str, value: &str| vec![made.as_str().into(), key.into(), value.into()];
    assert_eq!(
        pool.fails("Bond.set_property", args("lacp-time", "fast"))
            .await,
        "INVALID_VALUE|properties|lacp-time = fast"
    );
    let mode = vec![made.as_str().into(), "lacp".into()];
    pool.call("Bond.set_mode", mode).await;
    pool.call("Bond.set_property", args("lacp-time", "fast"))
        .await;
    let properties = pool.get("Bond", "properties", &made).await;
    assert_eq!(properties.get("lacp-time"), Some(&"fast".into()));
    let mode = vec![made.as_str().into(), slb.into()];
    pool.call("Bond.set_mode", mode).await;
    let properties = pool.get("Bond", "properties", &made).await;
    assert_eq!(properties.members(), []);
}

#[tokio::test]
async fn a_bond_has_the_cards_of_one_host() {
    let pool = pool_of(Model::pool_of_three(), SimOptions::default()).await;
    let cards = pool.call("PIF.get_all", vec![]).await;
    let cards: Vec<&str> = cards.items().iter().filter_map(Value::as_str).collect();
    let free = network(&pool, "free").await;
    // A host's own card first: with both management interfaces the host is what differs.
    assert_eq!(
        pool.fails("Bond.create", bond(&free, &cards, "", "active-backup"))
            .await,
        "PIF_CANNOT_BOND_CROSS_HOST"
    );
}

#[tokio::test]
async fn cards_that_differ_or_are_in_use_otherwise_cannot_be_bonded() {
    let pool = pool().await;
    let (first, second) = (card(&pool, "eth0").await, card(&pool, "eth1").await);
    let free = network(&pool, "free").await;
    let both = || bond(&free, &[&first, &second], "", "balance-slb");
    let property = |value: &str| vec![second.as_str().into(), "gro".into(), value.into()];
    pool.call("PIF.set_property", property("off")).await;
    assert_eq!(
        pool.fails("Bond.create", both()).await,
        "INCOMPATIBLE_PIF_PROPERTIES"
    );
    pool.call("PIF.set_property", property("on")).await;

    let tunnelled = network(&pool, "tunnelled").await;
    let args = vec![first.as_str().into(), tunnelled.as_str().into()];
    let tunnel = text(&pool.call("tunnel.create", args).await);
    let access = text(&pool.get("tunnel", "access_PIF", &tunnel).await);
    assert_eq!(
        pool.fails("Bond.create", bond(&free, &[&second, &access], "", "lacp"))
            .await,
        format!("IS_TUNNEL_ACCESS_PIF|{access}")
    );
    assert_eq!(
        pool.fails(
            "PIF.set_property",
            vec![access.into(), "gro".into(), "off".into()]
        )
        .await
        .split('|')
        .next(),
        Some("CANNOT_CHANGE_PIF_PROPERTIES")
    );

    // As long as hosts watch over each other, the way to them stays as it is.
    let shared = pool.named("SR", "Shared storage").await;
    let none: [(&str, &str); 0] = [];
    let args = vec![Value::strings([shared]), Value::map(none)];
    pool.call("pool.enable_ha", args).await;
    assert_eq!(
        pool.fails("Bond.create", both()).await,
        "HA_CANNOT_CHANGE_BOND_STATUS_OF_MGMT_IFACE"
    );
    pool.call("pool.disable_ha", vec![]).await;
    let made = text(&pool.call("Bond.create", both()).await);
    // What is set on a bond is set on its members.
    let above = text(&pool.get("Bond", "master", &made).await);
    let args = vec![above.as_str().into(), "gro".into(), "off".into()];
    pool.call("PIF.set_property", args).await;
    let off = Value::map([("gro", "off")]);
    for pif in [&first, &second, &above] {
        assert_eq!(pool.get("PIF", "properties", pif).await, off);
    }
    assert_eq!(
        pool.fails("PIF.set_property", property("on")).await,
        format!("CANNOT_CHANGE_PIF_PROPERTIES|{second}")
    );
}
