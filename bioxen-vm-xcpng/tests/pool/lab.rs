//! A pool to try things on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bioxen_vm_core::{Backend, LuaVm, VmId};
use bioxen_vm_xcpng::{XcpngBackend, XcpngConfig};
use serde_json::{Value, json};
use xapi_client::Client;
use xapi_sim::guest::PORT;
use xapi_sim::{GuestMode, LUA_TEMPLATE, Model, Server, Sim, SimOptions};

pub(crate) const PASSWORD: &str = "correct horse";

/// A simulated pool behind a socket.
pub(crate) struct Lab {
    pub(crate) sim: Sim,
    pub(crate) server: Server,
    client: Client,
}

/// What is on the pool, by class.
pub(crate) type Inventory = BTreeMap<&'static str, BTreeSet<String>>;

impl Lab {
    /// A pool whose VMs are real guests.
    pub(crate) async fn start() -> Self {
        Self::with(Model::single_host(), SimOptions::default()).await
    }

    /// A pool whose VMs exist in the records only.
    pub(crate) async fn records_only() -> Self {
        let options = SimOptions::default().with_guests(GuestMode::Simulated);
        Self::with(Model::single_host(), options).await
    }

    pub(crate) async fn with(model: Model, options: SimOptions) -> Self {
        let options = options.with_password(PASSWORD.to_owned().into());
        let sim = Sim::start(model, options).await.unwrap();
        let server = sim
            .serve(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .await
            .unwrap();
        let client = Client::over(sim.transport())
            .credentials("root", PASSWORD.to_owned().into())
            .login()
            .await
            .unwrap();
        Self {
            sim,
            server,
            client,
        }
    }

    /// The configuration that a user would write, with changes.
    pub(crate) fn config(&self, changes: Value) -> XcpngConfig {
        serde_json::from_value(self.json(changes)).unwrap()
    }

    pub(crate) fn json(&self, changes: Value) -> Value {
        let mut config = json!({
            "xcpng_host": self.server.address().to_string(),
            "username": "root",
            "password": PASSWORD,
            "tls": {"fingerprint": self.server.fingerprint().unwrap().to_string()},
            "template": LUA_TEMPLATE,
            "memory": "2GB",
            "vcpus": 2,
            "boot_timeout": "60s",
            "ssh": {"user": self.sim.guest_user().unwrap_or("root"), "port": PORT},
        });
        let all = config.as_object_mut().unwrap();
        for (key, value) in changes.as_object().unwrap() {
            all.insert(key.clone(), value.clone());
        }
        config
    }

    pub(crate) fn backend(&self) -> XcpngBackend {
        XcpngBackend::new(self.config(json!({}))).unwrap()
    }

    /// A VM that runs.
    pub(crate) async fn running(&self, backend: &XcpngBackend, id: &str) -> Arc<dyn LuaVm> {
        let vm = backend.create(VmId::new(id).unwrap()).await.unwrap();
        vm.start().await.unwrap();
        vm
    }

    pub(crate) async fn inventory(&self) -> Inventory {
        let mut inventory = Inventory::new();
        for class in ["VM", "VDI", "VBD", "VIF", "VM_guest_metrics", "task"] {
            let all = self.client.call(&format!("{class}.get_all"), Vec::new());
            let all: BTreeSet<String> = serde_json::from_value(all.await.unwrap()).unwrap();
            inventory.insert(class, all);
        }
        inventory
    }

    /// Insists that the pool has what it had before, but for finished tasks, which it clears away by itself.
    pub(crate) async fn holds_only(&self, before: &Inventory, when: &str) {
        let mut after = self.inventory().await;
        after.insert("task", before["task"].clone());
        assert_eq!(after, *before, "{when}");
    }

    /// Ends the pool. Insists that nothing was asked of it that it does not know.
    pub(crate) async fn end(self) {
        assert_eq!(self.sim.unimplemented(), Vec::<String>::new());
        self.client.close().await.unwrap();
        self.server.shutdown().await;
        self.sim.shutdown().await;
    }
}

impl Lab {
    /// The record of a VM.
    pub(crate) async fn record(&self, vm: &dyn LuaVm) -> xapi_client::api::VmRecord {
        let special = (vm as &dyn std::any::Any).downcast_ref::<bioxen_vm_xcpng::XcpngVm>();
        let api = self.client.vm();
        let vm = api.get_by_uuid(special.unwrap().uuid()).await.unwrap();
        api.get_record(&vm).await.unwrap()
    }

    /// The name of a network that VMs can have.
    pub(crate) async fn some_network(&self) -> String {
        let all = self.client.network().get_all_records().await.unwrap();
        all.into_values().next().unwrap().name_label
    }
}

impl Lab {
    pub(crate) async fn named(&self, name: &str) -> xapi_client::Ref<xapi_client::api::Vm> {
        let mut found = self.client.vm().get_by_name_label(name).await.unwrap();
        assert_eq!(found.len(), 1, "{name}");
        found.remove(0)
    }

    /// Sets a key in the `other_config` of a VM or template.
    pub(crate) async fn set_other_config(&self, name: &str, key: &str, value: &str) {
        let vm = self.named(name).await;
        let api = self.client.vm();
        api.add_to_other_config(&vm, key, value).await.unwrap();
    }

    /// Gives a VM or template another disk, of this name.
    pub(crate) async fn add_disk(&self, name: &str, disk: &str) {
        let vm = self.named(name).await;
        let api = self.client.vm();
        let mut first = xapi_client::Ref::null();
        for device in api.get_vbds(&vm).await.unwrap() {
            let held = self.client.vbd().get_vdi(&device).await.unwrap();
            if !held.is_null() {
                first = held;
            }
        }
        let sr = self.client.vdi().get_sr(&first).await.unwrap();
        let mut create = xapi_client::api::VdiCreate::new(sr, 10 << 20);
        create.name_label = Some(disk.to_owned());
        let disk = self.client.vdi().create(&create).await.unwrap();
        let device = xapi_client::api::VbdCreate::new(vm, disk);
        self.client.vbd().create(&device).await.unwrap();
    }
}

impl Lab {
    /// Waits until so many calls have come, or gives how a program ended before that.
    pub(crate) async fn until(
        &self,
        calls: usize,
        program: &mut std::process::Child,
    ) -> Option<std::process::ExitStatus> {
        loop {
            if self.sim.calls().len() >= calls {
                return None;
            }
            if let Some(status) = program.try_wait().unwrap() {
                return Some(status);
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    /// Waits until the pool has ended what it was asked for.
    pub(crate) async fn until_idle(&self) {
        use xapi_client::api::TaskStatusType::Pending;
        let mut watch = self.client.watch(&["task"]);
        loop {
            let tasks = self.client.task().get_all_records().await.unwrap();
            // Nothing works on those that clients have made, such as of a transfer.
            let is_busy = |task: &xapi_client::api::TaskRecord| {
                task.status == Pending && task.name_description != "made by a client"
            };
            if !tasks.values().any(is_busy) {
                return;
            }
            watch.next().await.unwrap();
        }
    }

    /// Copies a VM, as an operator would by hand.
    pub(crate) async fn copy(&self, name: &str, copy: &str) {
        let vm = self.named(name).await;
        self.client.vm().clone(&vm, copy).await.unwrap();
    }

    /// Replaces a key in the `other_config` of a VM.
    pub(crate) async fn set_other_config_again(&self, name: &str, key: &str, value: &str) {
        let vm = self.named(name).await;
        let api = self.client.vm();
        api.remove_from_other_config(&vm, key).await.unwrap();
        api.add_to_other_config(&vm, key, value).await.unwrap();
    }

    /// Removes a VM with its disks, as an operator would by hand.
    pub(crate) async fn remove(&self, name: &str) {
        let vm = self.named(name).await;
        let api = self.client.vm();
        for device in api.get_vbds(&vm).await.unwrap() {
            let disk = self.client.vbd().get_vdi(&device).await.unwrap();
            if !disk.is_null() {
                self.client.vdi().destroy(&disk).await.unwrap();
            }
        }
        api.destroy(&vm).await.unwrap();
    }
}

impl Lab {
    /// Disconnects all hosts from all storage.
    pub(crate) async fn unplug_storage(&self) {
        let api = self.client.pbd();
        for plug in api.get_all().await.unwrap() {
            api.unplug(&plug).await.unwrap();
        }
    }
}

impl Lab {
    /// Turns a VM into a template of this name, as an operator would by hand.
    pub(crate) async fn make_template(&self, name: &str, template: &str) {
        let vm = self.named(name).await;
        let api = self.client.vm();
        api.set_is_a_template(&vm, true).await.unwrap();
        api.set_name_label(&vm, template).await.unwrap();
    }

    /// Ends a VM once it runs, as if it had crashed or switched itself off.
    pub(crate) async fn end_vm(&self, name: &str, crashes: bool) {
        use xapi_client::api::{Cls, VmPowerState};
        let vm = self.named(name).await;
        let api = self.client.vm();
        let mut watch = self.client.watch(&["vm"]);
        while api.get_power_state(&vm).await.unwrap() != VmPowerState::Running {
            watch.next().await.unwrap();
        }
        if crashes {
            let uuid = api.get_uuid(&vm).await.unwrap();
            let messages = self.client.message();
            let message = messages.create("VM_CRASHED", 3, Cls::Vm, uuid.as_str(), "");
            message.await.unwrap();
        }
        api.hard_shutdown(&vm).await.unwrap();
    }
}

impl Lab {
    /// The names of all hosts, sorted.
    pub(crate) async fn hosts(&self) -> Vec<String> {
        let all = self.client.host().get_all_records().await.unwrap();
        let mut names: Vec<_> = all.into_values().map(|host| host.name_label).collect();
        names.sort_unstable();
        names
    }

    /// The sizes of a VM's disks.
    pub(crate) async fn disk_sizes(&self, vm: &xapi_client::api::VmRecord) -> Vec<i64> {
        let mut sizes = Vec::new();
        for device in &vm.vbds {
            let disk = self.client.vbd().get_vdi(device).await.unwrap();
            if !disk.is_null() {
                sizes.push(self.client.vdi().get_virtual_size(&disk).await.unwrap());
            }
        }
        sizes
    }

    /// What an operator does by hand.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) async fn sessions(&self) -> usize {
        let leaks = self.sim.leaks();
        leaks.iter().filter(|leak| leak.class == "session").count()
    }

    /// The record of the one VM or template of this name.
    pub(crate) async fn record_of(&self, name: &str) -> xapi_client::api::VmRecord {
        let vm = self.named(name).await;
        self.client.vm().get_record(&vm).await.unwrap()
    }

    /// Whether there is a VM or template of this name.
    pub(crate) async fn has(&self, name: &str) -> bool {
        let found = self.client.vm().get_by_name_label(name).await;
        !found.unwrap().is_empty()
    }
}
