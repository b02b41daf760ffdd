//! Carries out a plan, and takes back what was done when a step fails or the caller gives up.

use std::time::Duration;

use bioxen_vm_core::VmId;
use tokio_util::sync::CancellationToken;
use xapi_client::api::{VifCreate, Vm, VmRecord};
use xapi_client::{Client, Ref, TaskHandle};

use crate::deploy::{Disks, Plan, Setting};
use crate::error::{Error, Result, chain};
use crate::first_contact::FirstContact;
use crate::progress::{Reporter, Stage};
use crate::remove::Removal;

/// How often a busy pool is asked again, and after which pause: 5 s, as its own tools do.
const PATIENCE: u32 = 10;
const PAUSE: Duration = Duration::from_secs(5);

/// How often a task whose end could not be read is looked at again.
const LOOKS: u32 = 3;

/// A VM that was made as planned: stopped, and ours.
#[derive(Debug, Clone)]
pub(crate) struct Deployed {
    pub(crate) reference: Ref<Vm>,
    pub(crate) uuid: String,
}

/// One deployment.
#[derive(Debug)]
pub(crate) struct Deployment<'a> {
    pub(crate) client: &'a Client,
    pub(crate) id: &'a VmId,
    pub(crate) plan: &'a Plan,
    pub(crate) contact: &'a FirstContact,
    pub(crate) reporter: &'a Reporter,
    /// Asks for the end of the deployment. The step at hand is ended in order.
    pub(crate) cancel: &'a CancellationToken,
}

impl Deployment<'_> {
    /// Makes the VM, or leaves nothing behind.
    pub(crate) async fn run(&self) -> Result<Deployed> {
        let mut made = None;
        match self.make(&mut made).await {
            Ok(deployed) => Ok(deployed),
            Err(error) => match self.take_back(made).await {
                Ok(()) => Err(error),
                Err(source) => {
                    let (working, name) = (&self.plan.working_name, &self.plan.name);
                    let why = chain(&error);
                    tracing::debug!(vm = %self.id, why, "the deployment failed");
                    Err(Error::LeftBehind {
                        what: format!("{why}, and an unfinished VM named {working:?} or {name:?}"),
                        source: Box::new(source),
                    })
                }
            },
        }
    }

    async fn make(&self, made: &mut Option<Ref<Vm>>) -> Result<Deployed> {
        let reporter = self.reporter;
        let vm = reporter.stage(Stage::Clone, self.clone_template()).await?;
        *made = Some(vm.clone());
        let configure = async {
            let record = self
                .client
                .vm()
                .get_record(&vm)
                .await
                .map_err(Error::pool("tell about the cloned VM"))?;
            let marked = self.plan.other_config(record.other_config.clone());
            self.client
                .vm()
                .set_other_config(&vm, &marked)
                .await
                .map_err(Error::pool("mark the cloned VM as ours"))?;
            for setting in &self.plan.settings {
                if self.cancel.is_cancelled() {
                    return Err(Error::Cancelled);
                }
                tracing::debug!(vm = %self.id, %setting, "configuring");
                self.apply(setting, &vm, &record).await?;
            }
            Ok(record.uuid.as_str().to_owned())
        };
        let uuid = reporter.stage(Stage::Configure, configure).await?;
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        Ok(Deployed {
            reference: vm,
            uuid,
        })
    }

    async fn clone_template(&self) -> Result<Ref<Vm>> {
        let (source, name) = (&self.plan.template.reference, &self.plan.working_name);
        let vm = self.client.vm();
        let mut attempt = 1;
        let task = loop {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let call = match &self.plan.clone {
                Disks::CopyOnWrite => vm.clone(source, name),
                Disks::FullCopy(sr) => {
                    let keep = Ref::null();
                    let target = sr.as_ref().map_or(&keep, |sr| &sr.reference);
                    vm.copy(source, name, target)
                }
            };
            match call.into_task().await {
                Ok(task) => break task,
                Err(error)
                    if error.code().is_some() && error.is_retryable() && attempt < PATIENCE =>
                {
                    tracing::debug!(vm = %self.id, %error, "the pool is busy");
                    attempt += 1;
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE) => {}
                        () = self.cancel.cancelled() => {}
                    }
                }
                Err(error) => return Err(Error::pool("clone the template")(error)),
            }
        };
        tokio::select! {
            result = end(&task) => result.map_err(Error::pool("clone the template")),
            () = self.cancel.cancelled() => {
                // Best effort: what it made all the same is found by its name.
                let _ = task.cancel().await;
                let _ = end(&task).await;
                Err(Error::Cancelled)
            }
        }
    }

    async fn apply(&self, setting: &Setting, vm: &Ref<Vm>, record: &VmRecord) -> Result<()> {
        let api = self.client.vm();
        match setting {
            Setting::Provision => api
                .provision(vm)
                .await
                .map_err(Error::pool("turn the clone of the template into a VM")),
            Setting::Memory { static_min, memory } => api
                .set_memory_limits(vm, *static_min, *memory, *memory, *memory)
                .await
                .map_err(Error::pool("set the memory of the VM")),
            Setting::VcpusMax(count) => api
                .set_vcpus_max(vm, *count)
                .await
                .map_err(Error::pool("set the most vcpus of the VM")),
            Setting::VcpusAtStartup(count) => api
                .set_vcpus_at_startup(vm, *count)
                .await
                .map_err(Error::pool("set the vcpus of the VM")),
            Setting::Platform(platform) => api
                .set_platform(vm, platform)
                .await
                .map_err(Error::pool("set the cores per socket of the VM")),
            Setting::Interfaces(networks) => {
                let vif = self.client.vif();
                for old in &record.vifs {
                    vif.destroy(old)
                        .await
                        .map_err(Error::pool("remove a network interface of the template"))?;
                }
                for (device, network) in networks.iter().enumerate() {
                    let (vm, network) = (vm.clone(), network.reference.clone());
                    let interface = VifCreate::new(vm, network, device.to_string());
                    vif.create(&interface)
                        .await
                        .map_err(Error::pool("give the VM a network interface"))?;
                }
                Ok(())
            }
            Setting::Keys => {
                let data = self
                    .contact
                    .hand_over(self.id, record.xenstore_data.clone());
                api.set_xenstore_data(vm, &data)
                    .await
                    .map_err(Error::pool("hand the VM its SSH keys"))
            }
            Setting::Tags(tags) => {
                let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
                api.set_tags(vm, &tags)
                    .await
                    .map_err(Error::pool("tag the VM"))
            }
            Setting::Name(name) => api
                .set_name_label(vm, name)
                .await
                .map_err(Error::pool("name the VM")),
        }
    }

    /// Removes whatever there is of the VM: all that a deployment makes belongs to it.
    async fn take_back(&self, made: Option<Ref<Vm>>) -> xapi_client::Result<()> {
        let mut removals: Vec<_> = made.map(Removal::new).into_iter().collect();
        let mut attempt = 1;
        loop {
            match self.try_to_take_back(&mut removals).await {
                Err(error) if attempt < LOOKS => {
                    tracing::debug!(vm = %self.id, %error, "the clean-up is tried again");
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn try_to_take_back(&self, removals: &mut Vec<Removal>) -> xapi_client::Result<()> {
        if removals.is_empty() {
            // Its reference may have got lost on the way here.
            let name = &self.plan.working_name;
            let lost = self.client.vm().get_by_name_label(name).await?;
            removals.extend(lost.into_iter().map(Removal::new));
        }
        for removal in removals {
            removal.run(self.client).await?;
        }
        Ok(())
    }
}

/// The end of a task. A look that fails says nothing about the task, so another one is taken.
pub(crate) async fn end<R: serde::de::DeserializeOwned>(
    task: &TaskHandle<R>,
) -> xapi_client::Result<R> {
    let mut look = 1;
    loop {
        match task.wait().await {
            Err(error) if look < LOOKS && is_only_a_failed_look(&error) => look += 1,
            result => return result,
        }
    }
}

fn is_only_a_failed_look(error: &xapi_client::Error) -> bool {
    use xapi_client::Error as E;
    match error {
        E::Api(failure) => failure.method.starts_with("task.") || failure.method == "event.from",
        E::Connect { .. } | E::Transport { .. } | E::Timeout { .. } | E::Http { .. } => true,
        _ => false,
    }
}
