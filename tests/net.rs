//! What a user of `bioxen net` sees, and groups of VMs on networks of their own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test says what it did")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use bioxen::group::{GroupSpec, Preset, VmGroup};
use bioxen::xcpng::{Leftover, XcpngConfig};
use bioxen::{Backend as _, BackendConfig as _, Script, VmId};
use serde_json::{Value, json};
use xapi_client::{Client, SecretString};
use xapi_sim::guest::PORT;
use xapi_sim::{
    FaultRule, GuestMode, Model, NetworkSpec, Server, Sim, SimOptions, SrSpec, TemplateSpec,
};

const PASSWORD: &str = "canary-of-the-pool";
const TEMPLATE: &str = "cloud";

struct Pool {
    sim: Sim,
    server: Server,
    client: Client,
    state: tempfile::TempDir,
}

impl Pool {
    /// So many hosts with two cards each, and a template with cloud-init.
    async fn of(hosts: usize, guests: GuestMode) -> Self {
        let template = TemplateSpec::with_guest(TEMPLATE)
            .cloud_init()
            .other_config("bioxen:first-contact", "config-drive")
            .vif("LAN");
        let model = Model::new()
            .hosts(hosts)
            .sr(SrSpec::shared("disks"))
            .network(NetworkSpec::external("LAN", "eth0"))
            .network(NetworkSpec::external("storage", "eth1"))
            .template(template);
        let options = SimOptions::default()
            .with_guests(guests)
            .with_password(SecretString::from(PASSWORD))
            .with_user("looker", SecretString::from(PASSWORD), "read-only");
        let sim = Sim::start(model, options).await.unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = sim.serve(address).await.unwrap();
        let client = Client::over(sim.transport())
            .credentials("root", SecretString::from(PASSWORD))
            .login()
            .await
            .unwrap();
        let state = tempfile::tempdir().unwrap();
        Self {
            sim,
            server,
            client,
            state,
        }
    }

    /// The configuration of VMs on it.
    fn config(&self) -> Value {
        json!({
            "xcpng_host": self.server.address().to_string(),
            "password": PASSWORD,
            "tls": {"fingerprint": self.server.fingerprint().unwrap().to_string()},
            "template": TEMPLATE,
            "network": ["LAN"],
            "ssh": {"user": self.sim.guest_user().unwrap_or("root"), "port": PORT},
            "state_dir": self.state.path(),
        })
    }

    /// The program with what it takes to reach this pool.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bioxen"));
        let pin = self.server.fingerprint().unwrap().to_string();
        command
            .args(args)
            .env("BIOXEN_XCPNG_HOST", self.server.address().to_string())
            .env("BIOXEN_XCPNG_PASSWORD", PASSWORD)
            .env("BIOXEN_XCPNG_TLS__FINGERPRINT", pin)
            .env("BIOXEN_XCPNG_TEMPLATE", TEMPLATE)
            .env("BIOXEN_XCPNG_NETWORK", "LAN")
            .env(
                "BIOXEN_XCPNG_SSH__USER",
                self.sim.guest_user().unwrap_or("root"),
            )
            .env("BIOXEN_XCPNG_SSH__PORT", PORT.to_string())
            .env("XDG_STATE_HOME", self.state.path())
            .stdin(Stdio::null());
        command
    }

    /// The same, to its end.
    async fn bioxen(&self, args: &[&str]) -> Output {
        let mut command = self.command(args);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await;
        output.unwrap()
    }

    /// The same for what succeeds: what it prints.
    async fn says(&self, args: &[&str]) -> String {
        let output = self.bioxen(&[&["net"], args].concat()).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same as JSON.
    async fn json(&self, args: &[&str]) -> Vec<Value> {
        let text = self.says(&[args, &["--json"]].concat()).await;
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.collect()
    }

    /// The same for what is refused: the one line that it says.
    async fn refused(&self, args: &[&str]) -> String {
        let output = self.bioxen(&[&["net"], args].concat()).await;
        assert_eq!(output.status.code(), Some(125), "{args:?}: {output:?}");
        assert_eq!(output.stdout, b"");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "more than one line:\n{said}");
        assert!(!said.contains(PASSWORD), "the password shows: {said}");
        said
    }

    /// A halted VM that is not ours.
    async fn vm(&self, name: &str) {
        let api = self.client.vm();
        let template = api.get_by_name_label(TEMPLATE).await.unwrap().remove(0);
        let vm = api.clone(&template, name).await.unwrap();
        api.provision(&vm).await.unwrap();
    }

    /// What there is, by class.
    async fn inventory(&self) -> BTreeMap<&'static str, BTreeSet<String>> {
        let mut inventory = BTreeMap::new();
        for class in ["VM", "VDI", "VBD", "VIF", "network", "PIF", "VLAN", "task"] {
            let all = self.client.call(&format!("{class}.get_all"), Vec::new());
            let all: BTreeSet<String> = serde_json::from_value(all.await.unwrap()).unwrap();
            inventory.insert(class, all);
        }
        inventory
    }

    /// Starts a program and kills it when so many of its calls have been answered and one more has
    /// been carried out. Gives how it ended before that, if it did.
    async fn kill_after(&self, calls: u64, start: impl FnOnce() -> Child) -> Option<ExitStatus> {
        let before = self.sim.calls().len();
        // The call does its work, and no answer comes.
        let rule = FaultRule::method("*").after(calls).times(1);
        self.sim.inject(rule.slow_body(Duration::from_secs(3600)));
        let mut program = start();
        let ended = loop {
            if self.sim.calls().len() > before + calls as usize {
                break None;
            }
            if let Some(status) = program.try_wait().unwrap() {
                break Some(status);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        program.kill().unwrap();
        program.wait().unwrap();
        self.sim.clear_faults();
        ended
    }

    async fn end(self) {
        assert_eq!(self.sim.unimplemented(), Vec::<String>::new());
        self.client.close().await.unwrap();
        self.server.shutdown().await;
        self.sim.shutdown().await;
    }
}

fn ids(names: &[&str]) -> Vec<VmId> {
    names.iter().map(|name| VmId::new(*name).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_are_listed_made_used_and_removed() {
    let pool = Pool::of(3, GuestMode::Simulated).await;
    pool.vm("reader").await;
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
    pool.says(&["rm", "cluster"]).await;
    assert_eq!(pool.inventory().await, before);

    let said = pool.refused(&["rm", "LAN"]).await;
    assert!(said.contains("was not made by BioXen"), "{said}");
    let said = pool.refused(&["show", "WAN"]).await;
    assert!(
        said.contains("no network is \"WAN\"; this pool has: "),
        "{said}"
    );
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
async fn what_a_file_wants_is_planned_applied_once_and_told_with_lines_where_it_is_wrong() {
    let pool = Pool::of(2, GuestMode::Simulated).await;
    pool.vm("reader").await;
    let before = pool.inventory().await;
    let file = pool.state.path().join("lab.toml");
    let path = file.to_str().unwrap();
    std::fs::write(
        &file,
        "[[network]]\nname = \"lab\"\nsubnet = \"10.9.0.0/24\"\n\n\
         [[network]]\nname = \"cluster\"\nvlan = { device = \"eth1\", tag = 42 }\n\n\
         [[nic]]\nvm = \"reader\"\nnetwork = \"lab\"\nlocking = { locked = { ipv4 = [\"10.9.0.7\"] } }\n",
    )
    .unwrap();
    let plan = "create network lab\ncreate network cluster\n\
                carry VLAN 42 of eth1 on network cluster\n\
                attach VM reader to network lab as interface 1, locked to 10.9.0.7\n";
    assert_eq!(pool.says(&["plan", path]).await, plan);
    assert_eq!(pool.inventory().await, before, "a plan changes nothing");
    assert_eq!(pool.says(&["apply", path]).await, plan);
    assert_eq!(pool.says(&["apply", path]).await, "nothing to do\n");
    assert_eq!(pool.json(&["plan", path]).await.len(), 0);

    std::fs::write(
        &file,
        "[[network]]\nname = \"a\"\nsubnet = \"10.9.0.0/16\"\n\n\
         [[network]]\nname = \"b\"\nvlan = { device = \"eth1\", tag = 5000 }\n\n\
         [[nic]]\nvm = \"nobody\"\nnetwork = \"lab\"\n",
    )
    .unwrap();
    let said = pool.refused(&["apply", path]).await;
    for part in [
        "lab.toml line 1: network \"a\": its addresses 10.9.0.0/16 and those of network lab",
        "line 5: network \"b\": VLAN 5000 is outside of 1 to 4094",
        "line 9: interface of VM \"nobody\" on \"lab\": no VM is \"nobody\"",
    ] {
        assert!(said.contains(part), "{part:?} in {said:?}");
    }
    std::fs::write(
        &file,
        "[[network]]\nname = \"a\"\nsubnet = \"10.9.0.5/16\"\n\n\
         [[nic]]\nvm = \"reader\"\nnetwork = \"lab\"\nmac = \"zz\"\n\n[nics]\n",
    )
    .unwrap();
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
        (GroupSpec::lan("storage", two()), "name:storage", 1),
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
    assert_eq!(made[0]["id"], "index");
    let own: Vec<_> = made.iter().map(|one| one["own_address"].as_str()).collect();
    assert_eq!(own, [Some("10.77.0.2"), Some("10.77.0.1")]);
    let gc = pool.bioxen(&["gc"]).await;
    assert_eq!(gc.stdout, b"nothing is left on the pool\n");
    let run = pool
        .bioxen(&["run", "--vm", "reads", "-e", "print(1)"])
        .await;
    assert_eq!(run.stdout, b"1\n", "{run:?}");
    let said = pool.refused(&["rm", "mapping"]).await;
    assert!(said.contains("is in use by"), "{said}");
    // With a VM that is somebody else's on it, all stay.
    pool.vm("guest").await;
    let with_guest = pool.inventory().await;
    pool.says(&["attach", "guest", "mapping"]).await;
    let said = pool.refused(&["rm", "mapping", "--vms"]).await;
    assert!(
        said.contains("VM guest is on the network and was not made by BioXen"),
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
async fn a_change_killed_after_any_call_is_completed_by_the_next_and_makes_nothing_twice() {
    let pool = Pool::of(3, GuestMode::Simulated).await;
    pool.vm("reader").await;
    let before = pool.inventory().await;
    let file = pool.state.path().join("lab.toml");
    let path = file.to_str().unwrap();
    std::fs::write(
        &file,
        "[[network]]\nname = \"lab\"\nsubnet = \"10.9.0.0/24\"\n\
         [[network]]\nname = \"cluster\"\nvlan = { device = \"eth1\", tag = 42 }\n\
         [[nic]]\nvm = \"reader\"\nnetwork = \"lab\"\n\
         [[nic]]\nvm = \"reader\"\ndevice = 0\nnetwork = \"storage\"\nrate = 500\n",
    )
    .unwrap();
    let counts = |inventory: BTreeMap<&'static str, BTreeSet<String>>| -> Vec<_> {
        let all = inventory.into_iter();
        all.map(|(class, all)| (class, all.len())).collect()
    };
    let mut complete = None;
    let mut calls = 0;
    for number in 0.. {
        let start = || {
            let mut command = pool.command(&["net", "apply", path]);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        if let Some(status) = pool.kill_after(number, start).await {
            assert!(status.success(), "{status}");
            calls = number;
            break;
        }
        pool.says(&["apply", path]).await;
        assert_eq!(pool.says(&["plan", path]).await, "nothing to do\n");
        let now = counts(pool.inventory().await);
        let complete = complete.get_or_insert_with(|| now.clone());
        assert_eq!(*complete, now, "killed after {number} calls");
        pool.says(&["detach", "reader", "1"]).await;
        pool.says(&["move", "reader", "0", "LAN"]).await;
        for network in ["lab", "cluster"] {
            pool.says(&["rm", network]).await;
        }
        assert_eq!(
            pool.inventory().await,
            before,
            "killed after {number} calls"
        );
    }
    println!("killed after each of {calls} calls");
    assert!(calls > 12, "{calls}");
    pool.end().await;
}

/// In which variable the killed program finds its configuration.
const CONFIG: &str = "BIOXEN_TEST_GROUP";

/// What the killed program does: two VMs on a VLAN of their own, from their templates to their end.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the program that another test starts and kills"]
async fn grouping_program() {
    let Ok(config) = std::env::var(CONFIG) else {
        return;
    };
    let config: Value = serde_json::from_str(&config).unwrap();
    let spec = GroupSpec::vlan("cluster", "eth1", 42, ids(&["a"])).with_locking();
    let group = VmGroup::new(config, spec).unwrap();
    group.create().await.unwrap();
    group.destroy().await.unwrap();
}

fn start(config: &Value) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "grouping_program", "--ignored"])
        .env(CONFIG, config.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

async fn collect(config: &Value, dry_run: bool) -> Vec<Leftover> {
    let backend = XcpngConfig::from_value(config.clone()).unwrap();
    let backend = backend.build().unwrap();
    let found = backend.collect(dry_run).await.unwrap();
    backend.close().await.unwrap();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_killed_after_any_call_leaves_no_vm_and_no_network_that_is_not_collected() {
    let pool = Pool::of(3, GuestMode::Simulated).await;
    let config = pool.config();
    let before = pool.inventory().await;
    let mut networks = 0;
    let mut calls = 0;
    for number in 0.. {
        let ended = pool.kill_after(number, || start(&config)).await;
        if let Some(status) = ended {
            assert!(status.success(), "{status}");
            calls = number;
            break;
        }
        let told = collect(&config, true).await;
        let found = collect(&config, false).await;
        assert_eq!(told.len(), found.len(), "killed after {number} calls");
        for one in &found {
            assert_eq!(one.problem, None, "killed after {number} calls: {one:?}");
            networks += usize::from(one.kind.to_string() == "network");
        }
        assert_eq!(
            pool.inventory().await,
            before,
            "killed after {number} calls"
        );
        assert_eq!(collect(&config, false).await.len(), 0);
    }
    println!("killed after each of {calls} calls; {networks} networks were left and collected");
    assert!(networks > 10, "{networks}");
    pool.end().await;
}
