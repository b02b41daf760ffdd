//! What a user of `bioxen net` sees, and groups of VMs on networks of their own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test says what it did")]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

use bioxen::VmId;
use serde_json::{Value, json};
use xapi_client::{Client, SecretString};
use xapi_sim::guest::PORT;
use xapi_sim::{GuestMode, Model, NetworkSpec, SimOptions, SrSpec, TemplateSpec};

use support::PASSWORD;

mod commands;
mod groups;
mod kills;
#[path = "../support/mod.rs"]
mod support;

const TEMPLATE: &str = "cloud";
/// One without cloud-init.
const PLAIN: &str = "plain";

struct Pool {
    served: support::Pool,
    client: Client,
}

impl Deref for Pool {
    type Target = support::Pool;

    fn deref(&self) -> &Self::Target {
        &self.served
    }
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
            .template(template)
            .template(TemplateSpec::with_guest(PLAIN).vif("LAN"));
        let mut options = SimOptions::default().with_guests(guests);
        for (name, role) in [
            ("looker", "read-only"),
            ("maker", "vm-admin"),
            ("deployer", "vm-power-admin"),
        ] {
            options = options.with_user(name, SecretString::from(PASSWORD), role);
        }
        let mut served = support::Pool::of(model, options).await;
        served.env = vec![
            ("BIOXEN_XCPNG_TEMPLATE", TEMPLATE.to_owned()),
            ("BIOXEN_XCPNG_NETWORK", "LAN".to_owned()),
        ];
        let client = Client::over(served.sim.transport())
            .credentials("root", SecretString::from(PASSWORD))
            .login()
            .await
            .unwrap();
        Self { served, client }
    }

    /// The same without guests, and with the halted VM "reader".
    async fn with_reader(hosts: usize) -> Self {
        let pool = Self::of(hosts, GuestMode::Simulated).await;
        pool.vm("reader").await;
        pool
    }

    /// A file that says this.
    fn file(&self, name: &str, text: &str) -> String {
        let file = self.state.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
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
            // Where the program has it too.
            "state_dir": self.state.path().join("bioxen"),
        })
    }

    /// What `bioxen net` prints.
    async fn says(&self, args: &[&str]) -> String {
        self.served.says(&[&["net"], args].concat()).await
    }

    /// The same as JSON.
    async fn json(&self, args: &[&str]) -> Vec<Value> {
        self.served.json(&[&["net"], args].concat()).await
    }

    /// The line with which it refuses something.
    async fn refused(&self, args: &[&str]) -> String {
        self.served.refused(&[&["net"], args].concat()).await
    }

    /// A halted VM that is not ours.
    async fn vm(&self, name: &str) {
        let api = self.client.vm();
        let template = api.get_by_name_label(TEMPLATE).await.unwrap().remove(0);
        let vm = api.clone(&template, name).await.unwrap();
        api.provision(&vm).await.unwrap();
    }

    /// Starts a VM and waits until interfaces can be plugged in and out.
    async fn start(&self, name: &str) {
        let networks = bioxen::net::Networks::new(&self.client);
        let vm = networks.find_vm(name).await.unwrap();
        let mut watch = self.client.watch(&["vm", "vif"]);
        self.client.vm().start(&vm, false, false).await.unwrap();
        loop {
            let nics = networks.nics(&vm).await.unwrap();
            if nics[0].allowed.iter().any(|allowed| allowed == "unplug") {
                return;
            }
            watch.next().await.unwrap();
        }
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

    async fn end(self) {
        assert_eq!(self.sim.unimplemented(), Vec::<String>::new());
        self.client.close().await.unwrap();
        self.served.server.shutdown().await;
        self.served.sim.shutdown().await;
    }
}

fn ids(names: &[&str]) -> Vec<VmId> {
    names.iter().map(|name| VmId::new(*name).unwrap()).collect()
}
