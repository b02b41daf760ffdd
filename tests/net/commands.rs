//! Listing, making, changing and removing, by command and by file.

use std::collections::BTreeMap;

use serde_json::json;
use xapi_client::api::{BondMode, NetworkCreate};
use xapi_sim::GuestMode;

use crate::Pool;

#[tokio::test(flavor = "multi_thread")]
async fn networks_are_listed_made_used_and_removed() {
    let pool = Pool::with_reader(3).await;
    let before = pool.inventory().await;
    let listed = pool.json(&["ls"]).await;
    let lan = listed.iter().find(|one| one["name"] == "LAN").unwrap();
    assert_eq!(lan["interfaces"].as_array().unwrap().len(), 3);
    assert_eq!(lan["kind"], json!({"physical": {"device": "eth0"}}));
    assert_eq!(pool.json(&["interfaces"]).await.len(), 6);
    assert_eq!(pool.json(&["bonds"]).await.len(), 0);

    let create = [
        "create",
        "cluster",
        "--vlan",
        "eth1:42",
        "--subnet",
        "10.9.0.0/24",
    ];
    let steps = "create network cluster\ncarry VLAN 42 of eth1 on network cluster\n";
    assert_eq!(pool.says(&[&create[..], &["-n"]].concat()).await, steps);
    assert_eq!(pool.inventory().await, before);
    assert_eq!(pool.says(&create).await, steps);
    assert_eq!(pool.says(&create).await, "nothing to do\n");
    // Programs are told how the network is known, also now.
    let told = pool.json(&create).await;
    let uuid = pool.json(&["show", "cluster"]).await[0]["uuid"].clone();
    assert_eq!(
        told,
        [json!({"step": "ready", "network": "cluster", "uuid": uuid})]
    );
    // What is not said stays, and what changes is told.
    let cluster = ["create", "cluster", "--vlan", "eth1:42"];
    let describe = ["--description", "of the cluster"];
    let said = pool.says(&[&cluster[..], &describe].concat()).await;
    assert_eq!(said, "describe network cluster as \"of the cluster\"\n");
    assert_eq!(pool.says(&cluster).await, "nothing to do\n");
    let wider = [&cluster[..], &["--subnet", "10.9.0.0/16", "-n"]].concat();
    let said = "change the addresses of network cluster from 10.9.0.0/24 to 10.9.0.0/16\n";
    assert_eq!(pool.says(&wider).await, said);
    let said = pool.refused(&["create", "cluster", "-n"]).await;
    assert!(
        said.contains("ask for it as it is, or remove it first"),
        "{said}"
    );
    let shown = pool.says(&["show", "cluster"]).await;
    assert!(
        shown.contains("VLAN 42 of eth1 mtu=1500 vifs=0 hosts=3"),
        "{shown}"
    );
    assert!(shown.contains("subnet: 10.9.0.0/24"), "{shown}");

    let made = pool
        .json(&[
            "attach", "reader", "cluster", "--rate", "500", "--allow", "10.9.0.7",
        ])
        .await;
    assert_eq!(
        (&made[0]["device"], &made[0]["rate"]),
        (&"1".into(), &500.into())
    );
    assert_eq!(
        made[0]["locking"],
        json!({"locked": {"ipv4": ["10.9.0.7"], "ipv6": []}})
    );
    let said = pool.refused(&["rm", "cluster"]).await;
    assert!(
        said.contains("is in use by interface 1 of VM reader"),
        "{said}"
    );
    let moved = pool.json(&["move", "reader", "1", "storage"]).await;
    assert_eq!(moved[0]["network"], "storage");
    assert_eq!(pool.json(&["nics", "reader"]).await.len(), 2);
    pool.says(&["detach", "reader", "1"]).await;
    let gone = pool.json(&["rm", "cluster"]).await;
    assert_eq!(gone, [json!({"removed": "cluster"})]);
    assert_eq!(pool.inventory().await, before);

    let said = pool.refused(&["rm", "LAN"]).await;
    assert!(said.contains("was not made by BioXen"), "{said}");
    let said = pool.refused(&["nics", "raeder"]).await;
    assert!(
        said.contains("no VM is \"raeder\"; there are: \"reader\"; name one by its uuid"),
        "{said}"
    );
    let said = pool.refused(&["show", "WAN"]).await;
    assert!(
        said.contains("no network is \"WAN\"; this pool has: "),
        "{said}"
    );
    pool.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bonds_of_all_hosts_are_listed_and_what_is_on_them() {
    let pool = Pool::of(3, GuestMode::Simulated).await;
    let bonded = pool.client.network();
    let bonded = bonded.create(&NetworkCreate::new("bonded")).await.unwrap();
    let mut cards = BTreeMap::new();
    for (pif, record) in pool.client.pif().get_all_records().await.unwrap() {
        cards.entry(record.host).or_insert_with(Vec::new).push(pif);
    }
    for cards in cards.values() {
        let (mode, more) = (Some(BondMode::Lacp), BTreeMap::new());
        let bond = pool.client.bond();
        let made = bond.create(&bonded, cards, "", mode, Some(&more)).await;
        made.unwrap();
    }

    let bonds = pool.json(&["bonds"]).await;
    assert_eq!(bonds.len(), 3);
    for bond in &bonds {
        let told = (&bond["device"], &bond["parts"], &bond["mode"]);
        assert_eq!(
            told,
            (&json!("bond0"), &json!(["eth0", "eth1"]), &json!("lacp"))
        );
    }
    let host = bonds[0]["host"].as_str().unwrap();
    let said = pool.says(&["bonds"]).await;
    let row = said.lines().nth(1).unwrap();
    let cells: Vec<_> = row.split_whitespace().take(5).collect();
    assert_eq!(cells, [host, "bond0", "bonded", "lacp", "eth0+eth1"]);
    let interfaces = pool.json(&["interfaces"]).await;
    let parts = interfaces.iter().filter(|one| one["part_of"] == "bond0");
    assert_eq!(parts.count(), 6);
    let listed = pool.json(&["ls"]).await;
    let listed = listed.iter().find(|one| one["name"] == "bonded").unwrap();
    assert_eq!(listed["kind"], json!({"bond": {"device": "bond0"}}));
    assert_eq!(listed["interfaces"].as_array().unwrap().len(), 3);

    // It carries VLANs on every host; its parts do not.
    let said = pool
        .refused(&["create", "cluster", "--vlan", "eth1:42"])
        .await;
    assert!(said.contains("carry the VLAN on the bond"), "{said}");
    let carried = ["create", "cluster", "--vlan", "bond0:42"];
    pool.says(&carried).await;
    let said = pool.says(&["show", "cluster"]).await;
    assert!(said.contains("VLAN 42 of bond0"), "{said}");
    assert!(said.contains("hosts=3"), "{said}");
    pool.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_only_read_sees_all_and_changes_nothing() {
    let pool = Pool::of(1, GuestMode::Simulated).await;
    let before = pool.inventory().await;
    let looker = ["--set", "username=looker"];
    let listed = pool.json(&[&["ls"], &looker[..]].concat()).await;
    assert!(listed.len() >= 2);
    let said = pool
        .refused(&[&["create", "lab"], &looker[..]].concat())
        .await;
    assert!(said.contains("cannot create network lab"), "{said}");
    assert!(said.contains("RBAC_PERMISSION_DENIED"), "{said}");
    assert_eq!(pool.inventory().await, before);
    pool.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_make_networks_and_interfaces_may_keep_and_remove_them() {
    let pool = Pool::with_reader(1).await;
    let before = pool.inventory().await;
    let text = "[[network]]\nname = \"lab\"\n\n[[nic]]\nvm = \"reader\"\nnetwork = \"lab\"\n";
    let path = &pool.file("lab.toml", text);
    for user in ["maker", "deployer"] {
        let user = format!("username={user}");
        let says = async |args: &[&str]| pool.says(&[args, &["--set", &user]].concat()).await;
        let made = says(&["create", "lab", "--subnet", "10.9.0.0/24"]).await;
        assert_eq!(made, "create network lab\n");
        let lab = pool.json(&["show", "lab"]).await.remove(0);
        assert_eq!(
            (&lab["run"], &lab["tags"]),
            (&json!(null), &json!(["bioxen"]))
        );
        says(&["rm", "lab"]).await;
        let steps = "create network lab\nattach VM reader to network lab as interface 1\n";
        assert_eq!(says(&["apply", path]).await, steps);
        assert_eq!(says(&["apply", path]).await, "nothing to do\n");
        says(&["detach", "reader", "1"]).await;
        says(&["rm", "lab"]).await;
        assert_eq!(pool.inventory().await, before, "{user}");
    }
    pool.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_file_wants_is_planned_applied_once_and_told_with_lines_where_it_is_wrong() {
    let pool = Pool::with_reader(2).await;
    let before = pool.inventory().await;
    let path = &pool.file(
        "lab.toml",
        "[[network]]\nname = \"lab\"\nsubnet = \"10.9.0.0/24\"\n\n\
         [[network]]\nname = \"cluster\"\nvlan = { device = \"eth1\", tag = 42 }\n\n\
         [[nic]]\nvm = \"reader\"\nnetwork = \"lab\"\nlocking = { locked = { ipv4 = [\"10.9.0.7\"] } }\n",
    );
    let plan = "create network lab\ncreate network cluster\n\
                carry VLAN 42 of eth1 on network cluster\n\
                attach VM reader to network lab as interface 1, locked to 10.9.0.7\n";
    assert_eq!(pool.says(&["plan", path]).await, plan);
    assert_eq!(pool.inventory().await, before, "a plan changes nothing");
    assert_eq!(pool.says(&["apply", path]).await, plan);
    assert_eq!(pool.says(&["apply", path]).await, "nothing to do\n");
    assert_eq!(pool.json(&["plan", path]).await.len(), 0);

    pool.file(
        "lab.toml",
        "[[network]]\nname = \"a\"\nsubnet = \"10.9.0.0/16\"\n\n\
         [[network]]\nname = \"b\"\nvlan = { device = \"eth1\", tag = 5000 }\n\n\
         [[nic]]\nvm = \"nobody\"\nnetwork = \"lab\"\n",
    );
    let said = pool.refused(&["apply", path]).await;
    for part in [
        "lab.toml line 1: network \"a\": its addresses 10.9.0.0/16 and those of network lab",
        "line 5: network \"b\": VLAN 5000 is outside of 1 to 4094",
        "line 9: interface of VM \"nobody\" on \"lab\": no VM is \"nobody\"",
    ] {
        assert!(said.contains(part), "{part:?} in {said:?}");
    }
    pool.file(
        "lab.toml",
        "[[network]]\nname = \"a\"\nsubnet = \"10.9.0.5/16\"\n\n\
         [[nic]]\nvm = \"reader\"\nnetwork = \"lab\"\nmac = \"zz\"\n\n[nics]\n",
    );
    let said = pool.refused(&["plan", path]).await;
    for part in [
        "line 3: \"10.9.0.5/16\" is an address in the range \"10.9.0.0/16\"; write the range",
        "line 8: \"zz\" is no MAC address",
        "line 10: unknown key \"nics\"; use [[network]] and [[nic]]",
    ] {
        assert!(said.contains(part), "{part:?} in {said:?}");
    }
    pool.end().await;
}
