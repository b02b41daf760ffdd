//! Carries out a plan, and takes back what was done when a step fails or the caller gives up.

use std::time::Duration;

use bioxen_vm_core::VmId;
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;
use xapi_client::api::{Vbd, VbdCreate, Vdi, VdiCreate, VifCreate, Vm, VmRecord};
use xapi_client::{Client, DiskFormat, Ref, TaskHandle};

use crate::config_drive::{SIZE, network_config};
use crate::deploy::{Disks, Drive, Plan, Setting};
use crate::error::{Error, Result, chain};
use crate::find;
use crate::first_contact::FirstContact;
use crate::ledger::{Entry, Ledger};
use crate::progress::{Reporter, Stage};
use crate::remove::{remove, remove_disk};

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
    /// The config drive that it got, if any.
    pub(crate) drive: Option<AttachedDrive>,
}

/// A config drive as a VM has it.
#[derive(Debug, Clone)]
pub(crate) struct AttachedDrive {
    pub(crate) device: Ref<Vbd>,
    pub(crate) disk: Ref<Vdi>,
}

/// One deployment.
#[derive(Debug)]
pub(crate) struct Deployment<'a> {
    pub(crate) client: &'a Client,
    pub(crate) id: &'a VmId,
    pub(crate) plan: &'a Plan,
    pub(crate) contact: &'a FirstContact,
    pub(crate) reporter: &'a Reporter,
    pub(crate) ledger: &'a Ledger,
    /// Asks for the end of the deployment. The step at hand is ended in order.
    pub(crate) cancel: &'a CancellationToken,
}

impl Deployment<'_> {
    /// Makes the VM, or leaves nothing behind.
    pub(crate) async fn run(&self) -> Result<Deployed> {
        let name = &self.plan.working_name;
        self.note(Entry::Making(name.clone())).await?;
        let mut made = None;
        match self.make(&mut made).await {
            Ok(deployed) => Ok(deployed),
            Err(error) => match self.take_back(made).await {
                Ok(()) => {
                    self.note(Entry::Removed(name.clone())).await?;
                    Err(error)
                }
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
            let marked = self
                .plan
                .other_config(record.other_config.clone(), record.uuid.as_str());
            self.client
                .vm()
                .set_other_config(&vm, &marked)
                .await
                .map_err(Error::pool("mark the cloned VM as ours"))?;
            let mut drive = None;
            for setting in &self.plan.settings {
                if self.cancel.is_cancelled() {
                    return Err(Error::Cancelled);
                }
                tracing::debug!(vm = %self.id, %setting, "configuring");
                match setting {
                    Setting::Drive(place) => {
                        drive = Some(self.give_drive(place, &vm, &record).await?)
                    }
                    setting => self.apply(setting, &vm, &record).await?,
                }
            }
            Ok((record.uuid.as_str().to_owned(), drive))
        };
        let (uuid, drive) = reporter.stage(Stage::Configure, configure).await?;
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        Ok(Deployed {
            reference: vm,
            uuid,
            drive,
        })
    }

    async fn note(&self, entry: Entry) -> Result<()> {
        self.ledger.note(entry).await.map_err(Error::Ledger)
    }

    async fn clone_template(&self) -> Result<Ref<Vm>> {
        let mut attempt = 1;
        loop {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            match self.try_to_clone().await {
                Ok(vm) => return Ok(vm),
                Err(Error::Pool { source, .. })
                    if source.code().is_some() && source.is_retryable() && attempt < PATIENCE =>
                {
                    tracing::debug!(vm = %self.id, error = %source, "the pool is busy");
                    attempt += 1;
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE) => {}
                        () = self.cancel.cancelled() => {}
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_to_clone(&self) -> Result<Ref<Vm>> {
        let failed = || Error::pool("clone the template");
        let (source, name) = (&self.plan.template.reference, &self.plan.working_name);
        let vm = self.client.vm();
        let sr = match &self.plan.clone {
            // It takes a moment, and what a lost answer was about is found by its name.
            Disks::CopyOnWrite => return vm.clone(source, name).await.map_err(failed()),
            Disks::FullCopy(sr) => sr,
        };
        let keep = Ref::null();
        let target = sr.as_ref().map_or(&keep, |sr| &sr.reference);
        let call = vm.copy(source, name, target).into_task();
        self.note(Entry::Task(call.tag().to_string())).await?;
        let task = call.await.map_err(failed())?;
        tokio::select! {
            result = end(&task) => result.map_err(failed()),
            () = self.cancel.cancelled() => {
                // Best effort: what it made all the same is found by its name.
                let _ = task.cancel().await;
                let _ = end(&task).await;
                Err(Error::Cancelled)
            }
        }
    }

    /// Makes the VM's config drive, and attaches it in place of those that the template brought
    /// along.
    async fn give_drive(
        &self,
        place: &Drive,
        vm: &Ref<Vm>,
        record: &VmRecord,
    ) -> Result<AttachedDrive> {
        if !place.old.is_empty() {
            let drives = find::drives(self.client, vm)
                .await
                .map_err(Error::pool("list the disks of the VM"))?;
            for old in drives
                .iter()
                .filter(|drive| place.old.contains(&drive.userdevice))
            {
                remove_disk(self.client, &old.vdi)
                    .await
                    .map_err(Error::pool("remove a config drive of the template"))?;
            }
        }
        let network = match &place.fixed_address {
            Some(fixed) => Some(network_config(fixed, &self.macs(vm).await?)),
            None => None,
        };
        let instance = record.uuid.as_str().replace('-', "");
        let image = self.contact.drive(self.id, &instance, network)?;
        let mut disk = VdiCreate::new(place.sr.clone(), SIZE as i64);
        disk.name_label = Some(self.plan.drive_name.clone());
        disk.name_description = Some("tells a VM who it is; removed after its first boot".into());
        disk.other_config = self.plan.marks.clone();
        let disk = self
            .client
            .vdi()
            .create(&disk)
            .await
            .map_err(Error::pool("make the config drive of the VM"))?;
        self.client
            .import_raw_vdi(&disk, DiskFormat::Raw)
            .task_name(&self.plan.drive_name)
            .send(image.expose_secret(), SIZE as u64)
            .await
            .map_err(Error::pool("write the config drive of the VM"))?;
        let device = VbdCreate::new(vm.clone(), disk.clone());
        let device = self
            .client
            .vbd()
            .create(&device)
            .await
            .map_err(Error::pool("attach the config drive of the VM"))?;
        Ok(AttachedDrive { device, disk })
    }

    /// The MAC addresses of the VM, in the order of its interfaces.
    async fn macs(&self, vm: &Ref<Vm>) -> Result<Vec<String>> {
        let interfaces = self
            .client
            .vif()
            .get_all_records_where(&format!("field \"VM\" = \"{}\"", vm.as_str()))
            .await
            .map_err(Error::pool("tell the MAC addresses of the VM"))?;
        let mut interfaces: Vec<_> = interfaces.into_values().collect();
        interfaces.sort_by_key(|vif| (vif.device.len(), vif.device.clone()));
        Ok(interfaces.into_iter().map(|vif| vif.mac).collect())
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
            // It comes with something to keep: see `give_drive`.
            Setting::Drive(_) => Ok(()),
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

    /// Removes whatever there is of the VM: all that a deployment makes belongs to it, but for a
    /// drive that is not attached yet.
    async fn take_back(&self, made: Option<Ref<Vm>>) -> xapi_client::Result<()> {
        let mut attempt = 1;
        loop {
            match self.try_to_take_back(made.as_ref()).await {
                Err(error) if attempt < LOOKS => {
                    tracing::debug!(vm = %self.id, %error, "the clean-up is tried again");
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn try_to_take_back(&self, made: Option<&Ref<Vm>>) -> xapi_client::Result<()> {
        let vms = match made {
            Some(vm) => vec![vm.clone()],
            // Its reference may have got lost on the way here.
            None => {
                let name = &self.plan.working_name;
                self.client.vm().get_by_name_label(name).await?
            }
        };
        for vm in vms {
            remove(self.client, &vm).await?;
        }
        if self.plan.has_drive() {
            let name = &self.plan.drive_name;
            for drive in self.client.vdi().get_by_name_label(name).await? {
                remove_disk(self.client, &drive).await?;
            }
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
