//! A simulated pool and a client of it.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "a module of several test targets, each of which uses a part of it"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bioxen_net::Networks;
use bytes::Bytes;
use xapi_client::api::{Host, Vm};
use xapi_client::{Client, Error, Ref, Request, Result, SecretString, Transport};
use xapi_sim::{GuestMode, GuestReport, Model, NetworkSpec, Sim, SimOptions, SrSpec, TemplateSpec};

pub struct Pool {
    pub sim: Sim,
    pub client: Client,
    pub networks: Networks,
    line: Arc<Line>,
}

impl Pool {
    /// A pool of so many hosts with the networks LAN (eth0) and storage (eth1).
    pub async fn of(hosts: usize) -> Self {
        let model = Model::new()
            .hosts(hosts)
            .sr(SrSpec::shared("disks"))
            .network(NetworkSpec::external("LAN", "eth0"))
            .network(NetworkSpec::external("storage", "eth1"))
            .template(TemplateSpec::with_guest("worker").vif("LAN"))
            .template(
                TemplateSpec::with_guest("bare")
                    .report(GuestReport::NoTools)
                    .vif("LAN"),
            );
        let options = SimOptions::default()
            .with_guests(GuestMode::Simulated)
            .with_user("looker", SecretString::from("looker"), "read-only")
            .with_user("maker", SecretString::from("maker"), "vm-admin");
        let sim = Sim::start(model, options).await.unwrap();
        let line = Arc::new(Line {
            inner: sim.transport(),
            lost: Mutex::default(),
        });
        let client = Client::over(Arc::clone(&line) as Arc<dyn Transport>)
            .credentials(
                sim.credentials().user(),
                sim.credentials().password().clone(),
            )
            .login()
            .await
            .unwrap();
        let networks = Networks::new(&client);
        Self {
            sim,
            client,
            networks,
            line,
        }
    }

    /// Lets the next call of a method be carried out and its answer be lost.
    pub fn lose_answer_of(&self, method: &str) {
        *self.line.lost.lock().unwrap() = Some(method.to_owned());
    }

    /// A VM with one interface, on LAN.
    pub async fn vm(&self, name: &str) -> Ref<Vm> {
        self.vm_of("worker", name).await
    }

    /// The same of another template: "bare" has no guest tools.
    pub async fn vm_of(&self, template: &str, name: &str) -> Ref<Vm> {
        let api = self.client.vm();
        let template = api.get_by_name_label(template).await.unwrap().remove(0);
        let vm = api.clone(&template, name).await.unwrap();
        api.provision(&vm).await.unwrap();
        vm
    }

    /// Starts a VM and waits until its tools have reported, without which nothing is plugged in.
    pub async fn start(&self, vm: &Ref<Vm>) {
        self.client.vm().start(vm, false, false).await.unwrap();
        self.wait_for_tools(vm).await;
    }

    /// As [`start`](Self::start), on a certain host.
    pub async fn start_on(&self, vm: &Ref<Vm>, host: &Ref<Host>) {
        let api = self.client.vm();
        api.start_on(vm, host, false, false).await.unwrap();
        self.wait_for_tools(vm).await;
    }

    async fn wait_for_tools(&self, vm: &Ref<Vm>) {
        let mut watch = self.client.watch(&["vm", "vm_guest_metrics"]);
        loop {
            watch.next().await.unwrap();
            let metrics = self.client.vm().get_guest_metrics(vm).await.unwrap();
            if metrics.is_null() {
                continue;
            }
            let metrics = self.client.vm_guest_metrics().get_record(&metrics).await;
            if metrics.is_ok_and(|metrics| !metrics.pv_drivers_version.is_empty()) {
                return;
            }
        }
    }

    /// What there is of networks, VLANs, interfaces of hosts and of VMs, in words.
    pub async fn picture(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        for (reference, mut record) in self.client.network().get_all_records().await.unwrap() {
            // A set: the pool promises no order.
            record.tags.sort();
            let what = format!(
                "{} {} {} {:?} {:?} {:?}",
                record.name_label,
                record.name_description,
                record.mtu,
                record.tags,
                record.vifs,
                record.other_config
            );
            all.insert(reference.as_str().to_owned(), what);
        }
        for (reference, record) in self.client.pif().get_all_records().await.unwrap() {
            all.insert(
                reference.as_str().to_owned(),
                format!("{} {}", record.device, record.vlan),
            );
        }
        for (reference, record) in self.client.vlan().get_all_records().await.unwrap() {
            all.insert(reference.as_str().to_owned(), format!("{}", record.tag));
        }
        for (reference, record) in self.client.vif().get_all_records().await.unwrap() {
            let what = format!(
                "{} {:?} {} {} {} {:?} {:?} {:?}",
                record.device,
                record.network,
                record.mac,
                record.currently_attached,
                record.locking_mode,
                record.ipv4_allowed,
                record.qos_algorithm_type,
                record.qos_algorithm_params
            );
            all.insert(reference.as_str().to_owned(), what);
        }
        all
    }

    /// The methods that changed something so far.
    pub fn changes(&self) -> usize {
        self.sim
            .calls()
            .iter()
            .filter(|call| {
                let (_, message) = call.method.rsplit_once('.').unwrap_or_default();
                !message.starts_with("get_") && !message.starts_with("login")
            })
            .count()
    }

    /// Checks that the simulator knew all that was asked of it.
    pub async fn done(self) {
        self.client.close().await.unwrap();
        assert_eq!(self.sim.unimplemented(), Vec::<String>::new());
        self.sim.shutdown().await;
    }
}

/// A line to the pool that loses an answer when it is told to.
#[derive(Debug)]
struct Line {
    inner: Arc<dyn Transport>,
    lost: Mutex<Option<String>>,
}

#[async_trait]
impl Transport for Line {
    async fn send(&self, request: Request) -> Result<Bytes> {
        let method = request.method.clone();
        let answer = self.inner.send(request).await?;
        let mut lost = self.lost.lock().unwrap();
        if lost.as_deref() == Some(method.as_str()) {
            *lost = None;
            return Err(Error::Transport {
                method,
                host: self.host().to_owned(),
                source: "the cable was cut".into(),
            });
        }
        Ok(answer)
    }

    fn host(&self) -> &str {
        self.inner.host()
    }
}
