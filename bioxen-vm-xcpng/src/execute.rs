//! Carries out a plan, and takes back what was done when a step fails or the caller gives up.

use bioxen_vm_core::VmId;
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;
use xapi_client::api::{Network, Vbd, VbdCreate, Vdi, VdiCreate, VifCreate, Vm, VmRecord};
use xapi_client::{Client, DiskFormat, Ref, Watch};

use crate::calls::{begin, end, is_chain_too_long, patiently};
use crate::config_drive::{SIZE, network_config};
use crate::deploy::{Disks, Drive, Named, NewDisk, Plan, Setting};
use crate::disks;
use crate::error::{COLLECTED, Error, Result, chain};
use crate::find;
use crate::first_contact::FirstContact;
use crate::ledger::{Entry, Ledger};
use crate::progress::{Reporter, Stage};
use crate::remove::{remove, remove_disk, remove_task};

/// How often a clean-up is tried.
const CLEANUPS: u32 = 3;

/// A VM that was made as planned: stopped, and ours.
#[derive(Debug)]
pub(crate) struct Deployed {
    pub(crate) reference: Ref<Vm>,
    pub(crate) uuid: String,
    /// The config drive that it got, if any.
    pub(crate) drive: Option<AttachedDrive>,
    /// Tells what has happened to it since it was made.
    pub(crate) watch: Watch,
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
                        remedy: COLLECTED,
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
        let mut watch = self.client.watch(&[&format!("vm/{}", vm.as_str())]);
        let configure = async {
            let record = self.record(&vm, &mut watch).await?;
            let marked = self
                .plan
                .other_config(record.other_config.clone(), record.uuid.as_str());
            let api = self.client.vm();
            self.patiently(
                || async { api.set_other_config(&vm, &marked).await },
                "mark the cloned VM as ours",
            )
            .await?;
            let drive = Box::pin(self.configure(&vm, &record)).await?;
            Ok((record.uuid.as_str().to_owned(), drive))
        };
        let (uuid, drive) = reporter.stage(Stage::Configure, configure).await?;
        self.go_on()?;
        Ok(Deployed {
            reference: vm,
            uuid,
            drive,
            watch,
        })
    }

    /// The VM as it was cloned. What is heard of it later goes on from there.
    async fn record(&self, vm: &Ref<Vm>, watch: &mut Watch) -> Result<VmRecord> {
        let failed = || Error::pool("tell about the cloned VM");
        let batch = watch.next().await.map_err(failed())?;
        for event in &batch.events {
            if let Some(record) = event.record::<Vm>().map_err(failed())? {
                return Ok(record);
            }
        }
        // It is gone, which only a call can say.
        self.client.vm().get_record(vm).await.map_err(failed())
    }

    /// Carries out the settings of the plan. The config drive is made beside the rest; what was begun
    /// is awaited whatever fails, so that the clean-up sees all there is.
    async fn configure(&self, vm: &Ref<Vm>, record: &VmRecord) -> Result<Option<AttachedDrive>> {
        let (first, rest): (Vec<_>, Vec<_>) =
            self.plan.settings.iter().partition(|setting| {
                matches!(setting, Setting::Interfaces(_) | Setting::AddDisk(_))
            });
        // A config drive may name their MAC addresses, and comes after the disks.
        self.apply_all(&first, vm, record).await?;
        let (applied, marked, drive) = tokio::join!(
            self.apply_all(&rest, vm, record),
            disks::mark(self.client, vm, &self.plan.marks),
            self.drive(vm, record)
        );
        applied?;
        marked.map_err(Error::pool("mark the disks of the VM as ours"))?;
        drive
    }

    async fn apply_all(&self, all: &[&Setting], vm: &Ref<Vm>, record: &VmRecord) -> Result<()> {
        for setting in all {
            self.go_on()?;
            tracing::debug!(vm = %self.id, %setting, "configuring");
            self.apply(setting, vm, record).await?;
        }
        Ok(())
    }

    async fn drive(&self, vm: &Ref<Vm>, record: &VmRecord) -> Result<Option<AttachedDrive>> {
        for setting in &self.plan.settings {
            if let Setting::Drive(place) = setting {
                return self.give_drive(place, vm, record).await.map(Some);
            }
        }
        Ok(None)
    }

    /// Fails when the deployment is to end.
    fn go_on(&self) -> Result<()> {
        match self.cancel.is_cancelled() {
            true => Err(Error::Cancelled),
            false => Ok(()),
        }
    }

    /// Makes a call, again while the pool is busy.
    async fn patiently<T, F>(&self, call: impl FnMut() -> F, doing: &'static str) -> Result<T>
    where
        F: Future<Output = xapi_client::Result<T>>,
    {
        match patiently(self.client, Some(self.cancel), call).await {
            Err(_) if self.cancel.is_cancelled() => Err(Error::Cancelled),
            result => result.map_err(Error::pool(doing)),
        }
    }

    async fn note(&self, entry: Entry) -> Result<()> {
        self.ledger.note(entry).await.map_err(Error::Ledger)
    }

    async fn clone_template(&self) -> Result<Ref<Vm>> {
        self.go_on()?;
        let (source, name) = (&self.plan.template.reference, &self.plan.working_name);
        let vm = self.client.vm();
        let sr = match &self.plan.clone {
            Disks::FullCopy(sr) => sr.as_ref(),
            // It takes a moment, and what a lost answer was about is found by its name.
            Disks::CopyOnWrite => {
                let clone = || async { vm.clone(source, name).await };
                match self.patiently(clone, "clone the template").await {
                    Err(Error::Pool { source, .. }) if is_chain_too_long(&source) => {
                        tracing::warn!(
                            vm = %self.id,
                            "the template has been cloned so often that its storage has to tidy up \
                             first; its disks are copied in full instead"
                        );
                        None
                    }
                    cloned => return cloned,
                }
            }
        };
        self.copy_template(sr.map_or(&Ref::null(), |sr| &sr.reference))
            .await
    }

    async fn copy_template(&self, target: &Ref<xapi_client::api::Sr>) -> Result<Ref<Vm>> {
        const DOING: &str = "copy the template";
        let (source, name) = (&self.plan.template.reference, &self.plan.working_name);
        let copy = || async {
            let call = self.client.vm().copy(source, name, target).into_task();
            let task = begin(self.client, call).await?;
            tokio::select! {
                result = end(&task) => result.map(Ok),
                () = self.cancel.cancelled() => {
                    // Best effort: what it made all the same is found by its name.
                    let _ = task.cancel().await;
                    let _ = end(&task).await;
                    Ok(Err(Error::Cancelled))
                }
            }
        };
        self.patiently(copy, DOING).await?
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
        let network = match place.addresses.is_empty() {
            false => Some(network_config(&place.addresses, &self.macs(vm).await?)),
            true => None,
        };
        let instance = record.uuid.as_str().replace('-', "");
        let image = self
            .contact
            .drive(self.id, &instance, network, place.hosts.as_deref())?;
        let mut disk = VdiCreate::new(place.sr.clone(), SIZE as i64);
        disk.name_label = Some(self.plan.drive_name.clone());
        disk.name_description = Some("tells a VM who it is; removed after its first boot".into());
        disk.other_config = self.plan.marks.clone();
        let vdi = self.client.vdi();
        let disk = self
            .patiently(
                || async { vdi.create(&disk).await },
                "make the config drive of the VM",
            )
            .await?;
        self.go_on()?;
        let write = || async {
            self.client
                .import_raw_vdi(&disk, DiskFormat::Raw)
                .task_name(&self.plan.drive_name)
                .send(image.expose_secret(), SIZE as u64)
                .await
        };
        let device = VbdCreate::new(vm.clone(), disk.clone());
        let vbd = self.client.vbd();
        let attach = || async { vbd.create(&device).await };
        // The VM does not run yet, so it does not matter to it when its drive is written.
        let (written, device) = tokio::join!(
            self.patiently(write, "write the config drive of the VM"),
            self.patiently(attach, "attach the config drive of the VM")
        );
        written?;
        let device = device?;
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
            // What a template of the pool's installer wants done besides went with its mark.
            Setting::Provision => {
                let provision = || async { api.set_is_a_template(vm, false).await };
                self.patiently(provision, "turn the clone of the template into a VM")
                    .await
            }
            Setting::Memory { static_min, memory } => {
                let set = || async {
                    api.set_memory_limits(vm, *static_min, *memory, *memory, *memory)
                        .await
                };
                self.patiently(set, "set the memory of the VM").await
            }
            Setting::VcpusMax(count) => {
                let set = || async { api.set_vcpus_max(vm, *count).await };
                self.patiently(set, "set the most vcpus of the VM").await
            }
            Setting::VcpusAtStartup(count) => {
                let set = || async { api.set_vcpus_at_startup(vm, *count).await };
                self.patiently(set, "set the vcpus of the VM").await
            }
            Setting::Platform(platform) => {
                let set = || async { api.set_platform(vm, platform).await };
                self.patiently(set, "set the cores per socket of the VM")
                    .await
            }
            Setting::Disk { device, size } => self.grow(device, *size, vm).await,
            Setting::AddDisk(disk) => self.add_disk(disk, vm).await,
            Setting::Affinity(host) => {
                let set = || async { api.set_affinity(vm, &host.reference).await };
                self.patiently(set, "bind the VM to its host").await
            }
            Setting::Interfaces(networks) => self.replace_interfaces(networks, vm, record).await,
            Setting::Keys => {
                let data = self
                    .contact
                    .hand_over(self.id, record.xenstore_data.clone());
                let set = || async { api.set_xenstore_data(vm, &data).await };
                self.patiently(set, "hand the VM its SSH keys").await
            }
            // It is made beside the rest: see `configure`.
            Setting::Drive(_) => Ok(()),
            Setting::Tags(tags) => {
                let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
                let set = || async { api.set_tags(vm, &tags).await };
                self.patiently(set, "tag the VM").await
            }
            Setting::Name(name) => {
                let set = || async { api.set_name_label(vm, name).await };
                self.patiently(set, "name the VM").await
            }
        }
    }

    async fn grow(&self, device: &str, size: i64, vm: &Ref<Vm>) -> Result<()> {
        let drives = find::drives(self.client, vm)
            .await
            .map_err(Error::pool("list the disks of the VM"))?;
        for drive in drives.iter().filter(|drive| drive.userdevice == device) {
            let vdi = self.client.vdi();
            self.patiently(
                || async { vdi.resize(&drive.vdi, size).await },
                "grow the disk of the VM",
            )
            .await?;
        }
        Ok(())
    }

    async fn add_disk(&self, disk: &NewDisk, vm: &Ref<Vm>) -> Result<()> {
        let mut wanted = VdiCreate::new(disk.sr.clone(), disk.size);
        wanted.name_label = Some(disk.working_name.clone());
        wanted.other_config = self.plan.marks.clone();
        let (vdi, vbd) = (self.client.vdi(), self.client.vbd());
        let made = self
            .patiently(
                || async { vdi.create(&wanted).await },
                "make a disk of the VM",
            )
            .await?;
        let device = VbdCreate::new(vm.clone(), made.clone());
        self.patiently(
            || async { vbd.create(&device).await },
            "give the VM its disk",
        )
        .await?;
        // From here on it goes with the VM.
        let name = || async { vdi.set_name_label(&made, &disk.name).await };
        self.patiently(name, "name the disk of the VM").await
    }

    async fn replace_interfaces(
        &self,
        networks: &[Named<Network>],
        vm: &Ref<Vm>,
        record: &VmRecord,
    ) -> Result<()> {
        let vif = self.client.vif();
        for old in &record.vifs {
            self.patiently(
                || async { vif.destroy(old).await },
                "remove a network interface of the template",
            )
            .await?;
        }
        for (device, network) in networks.iter().enumerate() {
            let (vm, network) = (vm.clone(), network.reference.clone());
            let interface = VifCreate::new(vm, network, device.to_string());
            self.patiently(
                || async { vif.create(&interface).await },
                "give the VM a network interface",
            )
            .await?;
        }
        Ok(())
    }

    /// Removes whatever there is of the VM: all that a deployment makes belongs to it, but for a
    /// drive that is not attached yet.
    async fn take_back(&self, made: Option<Ref<Vm>>) -> xapi_client::Result<()> {
        let mut attempt = 1;
        loop {
            match self.try_to_take_back(made.as_ref()).await {
                Err(error) if attempt < CLEANUPS => {
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
        // That of an upload whose answer got lost.
        if self.plan.has_drive() {
            let name = &self.plan.drive_name;
            for task in self.client.task().get_by_name_label(name).await? {
                remove_task(self.client, &task).await?;
            }
        }
        for name in self.plan.loose_disks() {
            for disk in self.client.vdi().get_by_name_label(name).await? {
                remove_disk(self.client, &disk).await?;
            }
        }
        Ok(())
    }
}
