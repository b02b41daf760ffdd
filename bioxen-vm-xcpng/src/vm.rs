//! The handle of a VM.

mod copies;
mod keeping;
mod power;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bioxen_vm_core::{
    BackendConfig, Capabilities, LuaVm, Outcome, OutputSink, PackageSite, Result, Script, Session,
    SessionOptions, Snapshot, VmId, VmInfo, VmState,
};
use tokio::sync::{Mutex, RwLock};
use xapi_client::api::{Vm, VmPowerState};
use xapi_client::{Client, ErrorCode, Ref, Watch};

use crate::address;
use crate::backend::Shared;
use crate::config::XcpngConfig;
use crate::error::{COLLECTED, Error};
use crate::execute::{AttachedDrive, Deployed};
use crate::first_contact::FirstContact;
use crate::guest::Guest;
use crate::ledger::Entry;
use crate::marks::{OWNER_NAME, VM_ID, is_kept, is_made_by_us};
use crate::progress::{Reporter, Stage};
use crate::remove::remove;

/// A VM on a pool, in which Lua runs over SSH.
///
/// Dropping the handle leaves the VM on the pool; [`destroy`](LuaVm::destroy) removes it.
pub struct XcpngVm {
    id: VmId,
    shared: Arc<Shared>,
    vm: Ref<Vm>,
    uuid: String,
    names: Names,
    /// Absent for a VM that was adopted and that nobody knows a way into.
    contact: Option<FirstContact>,
    reporter: Reporter,
    /// Held by what changes the state of the VM, one at a time.
    lifecycle: Mutex<Lifecycle>,
    /// There while the VM runs.
    guest: RwLock<Option<Arc<Guest>>>,
}

/// What a VM is called.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) name: String,
    /// Under which it is recorded.
    pub(crate) working_name: String,
    /// What it was made from.
    pub(crate) template: String,
}

#[derive(Debug)]
enum Lifecycle {
    Alive(Living),
    Dying,
    Dead,
}

#[derive(Debug)]
struct Living {
    /// Where the VM's private host key is still to be found besides in the VM.
    key_in: KeyIn,
    /// Of a VM that has just been made, and so is halted: what has happened to it since.
    fresh: Option<Watch>,
}

#[derive(Debug)]
enum KeyIn {
    Nowhere,
    XenstoreData,
    Drive(AttachedDrive),
}

impl XcpngVm {
    /// A VM that was just made.
    pub(crate) fn new(
        id: VmId,
        shared: Arc<Shared>,
        deployed: Deployed,
        names: Names,
        contact: FirstContact,
        reporter: Reporter,
    ) -> Self {
        let key_in = match (deployed.drive, contact.handover()) {
            (Some(drive), _) => KeyIn::Drive(drive),
            (None, Some(_)) => KeyIn::XenstoreData,
            (None, None) => KeyIn::Nowhere,
        };
        let living = Living {
            key_in,
            fresh: Some(deployed.watch),
        };
        Self {
            id,
            shared,
            vm: deployed.reference,
            uuid: deployed.uuid,
            names,
            contact: Some(contact),
            reporter,
            lifecycle: Mutex::new(Lifecycle::Alive(living)),
            guest: RwLock::default(),
        }
    }

    /// A VM that was there before.
    pub(crate) fn adopted(
        id: VmId,
        shared: Arc<Shared>,
        (vm, uuid): (Ref<Vm>, String),
        names: Names,
        contact: Option<FirstContact>,
        reporter: Reporter,
    ) -> Self {
        let living = Living {
            key_in: KeyIn::Nowhere,
            fresh: None,
        };
        Self {
            id,
            shared,
            vm,
            uuid,
            names,
            contact,
            reporter,
            lifecycle: Mutex::new(Lifecycle::Alive(living)),
            guest: RwLock::default(),
        }
    }

    /// The UUID that the pool gave it.
    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Its name in the pool.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.names.name
    }

    /// How it is logged in to, if anybody knows.
    pub(crate) fn contact(&self) -> Option<&FirstContact> {
        self.contact.as_ref()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn reference(&self) -> &Ref<Vm> {
        &self.vm
    }

    pub(crate) fn login_user(&self) -> &str {
        &self.shared.settings().login.user
    }

    pub(crate) async fn try_start(&self) -> Result<(), Error> {
        self.alive(async |living| self.start_alive(living).await)
            .await
    }

    async fn power_state(&self, client: &Client) -> Result<VmPowerState, Error> {
        client
            .vm()
            .get_power_state(&self.vm)
            .await
            .map_err(Error::pool("tell the state of the VM"))
    }

    async fn remove(&self) -> Result<(), Error> {
        self.leave_guest().await;
        let client = self.shared.client().await?;
        let remove = async {
            remove(client, &self.vm)
                .await
                .map_err(|source| Error::LeftBehind {
                    what: format!(
                        "something of the VM named {:?} ({})",
                        self.names.name, self.uuid
                    ),
                    // What was there before this run is not collected.
                    remedy: match self.names.working_name.is_empty() {
                        true => "destroy it again",
                        false => COLLECTED,
                    },
                    source: Box::new(source),
                })?;
            let removed = Entry::Removed(self.names.working_name.clone());
            let ledger = self.shared.ledger().await?;
            ledger.note(removed).await.map_err(Error::Ledger)?;
            self.forget().await
        };
        self.reporter.stage(Stage::Destroy, remove).await
    }

    async fn leave_guest(&self) {
        let guest = self.guest.write().await.take();
        if let Some(guest) = guest {
            guest.close().await;
        }
    }

    async fn guest(&self) -> Result<Arc<Guest>, Error> {
        match &*self.guest.read().await {
            Some(guest) => return Ok(Arc::clone(guest)),
            None if self.contact.is_some() => {}
            None => return Err(Error::NoWayIn),
        }
        Err(Error::State {
            state: "stopped".into(),
            remedy: "start it first",
        })
    }

    /// Does something to a VM that is neither gone nor going, one thing at a time.
    async fn alive<T>(
        &self,
        act: impl AsyncFnOnce(&mut Living) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match &mut *self.lifecycle.lock().await {
            Lifecycle::Alive(living) => act(living).await,
            Lifecycle::Dying | Lifecycle::Dead => Err(Error::State {
                state: "destroyed".into(),
                remedy: "create another one",
            }),
        }
    }

    /// Adds who it is and what was tried to an error.
    fn at(&self, operation: &'static str) -> impl FnOnce(Error) -> bioxen_vm_core::Error {
        move |error| {
            bioxen_vm_core::Error::from(error)
                .with_operation(operation)
                .with_vm(&self.id)
        }
    }
}

#[async_trait]
impl LuaVm for XcpngVm {
    fn id(&self) -> &VmId {
        &self.id
    }

    fn vm_type(&self) -> &'static str {
        XcpngConfig::VM_TYPE
    }

    async fn info(&self) -> Result<VmInfo> {
        // A VM that is being started or stopped right now is not dead, and need not be waited for.
        if let Ok(lifecycle) = self.lifecycle.try_lock()
            && matches!(*lifecycle, Lifecycle::Dead)
        {
            let state = VmState::Destroyed;
            return Ok(VmInfo::new(self.id.clone(), self.vm_type(), state));
        }
        self.ask().await.map_err(self.at("tell about it"))
    }

    async fn start(&self) -> Result<()> {
        self.try_start().await.map_err(self.at("start"))
    }

    async fn stop(&self) -> Result<()> {
        self.alive(async |living| self.stop_alive(living).await)
            .await
            .map_err(self.at("stop"))
    }

    async fn reboot(&self) -> Result<()> {
        self.alive(async |living| self.reboot_alive(living).await)
            .await
            .map_err(self.at("reboot"))
    }

    async fn pause(&self) -> Result<()> {
        self.alive(async |_| self.pause_alive().await)
            .await
            .map_err(self.at("pause"))
    }

    async fn unpause(&self) -> Result<()> {
        self.alive(async |living| self.wake(living, VmPowerState::Paused).await)
            .await
            .map_err(self.at("unpause"))
    }

    async fn suspend(&self) -> Result<()> {
        self.alive(async |_| self.suspend_alive().await)
            .await
            .map_err(self.at("suspend"))
    }

    async fn resume(&self) -> Result<()> {
        self.alive(async |living| self.wake(living, VmPowerState::Suspended).await)
            .await
            .map_err(self.at("resume"))
    }

    async fn snapshot(&self, name: &str) -> Result<Snapshot> {
        self.alive(async |_| self.take_snapshot(name).await)
            .await
            .map_err(self.at("snapshot"))
    }

    async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.alive(async |_| {
            let known = self.known_snapshots().await?;
            Ok(known.into_iter().map(|(_, snapshot)| snapshot).collect())
        })
        .await
        .map_err(self.at("list the snapshots"))
    }

    async fn revert(&self, snapshot: &str) -> Result<()> {
        self.alive(async |living| self.revert_alive(snapshot, living).await)
            .await
            .map_err(self.at("revert"))
    }

    async fn remove_snapshot(&self, snapshot: &str) -> Result<()> {
        self.alive(async |_| self.drop_snapshot(snapshot).await)
            .await
            .map_err(self.at("remove a snapshot"))
    }

    async fn clone_vm(&self, id: VmId) -> Result<Arc<dyn LuaVm>> {
        self.alive(async |_| self.clone_alive(id).await)
            .await
            .map_err(self.at("clone"))
    }

    async fn migrate(&self, host: &str) -> Result<()> {
        self.alive(async |_| self.move_to(host).await)
            .await
            .map_err(self.at("migrate"))
    }

    async fn keep(&self) -> Result<()> {
        self.alive(async |_| self.keep_alive().await)
            .await
            .map_err(self.at("keep"))
    }

    #[tracing::instrument(name = "execute", skip_all, fields(vm = %self.id, vm_type = self.vm_type()))]
    async fn execute(&self, script: Script) -> Result<Outcome> {
        script.validate().map_err(|error| error.with_vm(&self.id))?;
        let guest = self.guest().await.map_err(self.at("execute"))?;
        guest
            .execute(script, self.shared.settings().execution_timeout)
            .await
            .map_err(|error| error.with_operation("execute").with_vm(&self.id))
    }

    #[tracing::instrument(name = "execute", skip_all, fields(vm = %self.id, vm_type = self.vm_type()))]
    async fn execute_streaming(
        &self,
        script: Script,
        sink: &mut dyn OutputSink,
    ) -> Result<Outcome> {
        script.validate().map_err(|error| error.with_vm(&self.id))?;
        let guest = self.guest().await.map_err(self.at("execute"))?;
        guest
            .execute_streaming(script, self.shared.settings().execution_timeout, sink)
            .await
            .map_err(|error| error.with_operation("execute").with_vm(&self.id))
    }

    async fn open_session(&self, options: SessionOptions) -> Result<Session> {
        let told =
            |error: bioxen_vm_core::Error| error.with_operation("open a session").with_vm(&self.id);
        options.validate().map_err(told)?;
        let guest = self.guest().await.map_err(self.at("open a session"))?;
        guest.open_session(options).await.map_err(told)
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.streaming = true;
        capabilities.returned_values = true;
        capabilities.sessions = true;
        capabilities.interrupts = true;
        capabilities.processes = true;
        capabilities.commands = true;
        capabilities.files = true;
        capabilities.packages = true;
        capabilities.pause = true;
        capabilities.suspend = true;
        capabilities.snapshots = true;
        capabilities.clones = true;
        capabilities.migrate = true;
        capabilities.keep = true;
        capabilities
    }

    async fn package_site(&self) -> Result<PackageSite> {
        let guest = self.guest().await.map_err(self.at("reach its packages"))?;
        Ok(guest.package_site())
    }

    async fn destroy(&self) -> Result<()> {
        let mut lifecycle = self.lifecycle.lock().await;
        if let Lifecycle::Dead = *lifecycle {
            return Ok(());
        }
        *lifecycle = Lifecycle::Dying;
        self.remove().await.map_err(self.at("destroy"))?;
        *lifecycle = Lifecycle::Dead;
        Ok(())
    }
}

impl XcpngVm {
    async fn ask(&self) -> Result<VmInfo, Error> {
        let client = self.shared.client().await?;
        let record = client.vm().get_record(&self.vm).await;
        let record = record.map_err(Error::pool("tell about the VM"))?;
        let state = state(&record.power_state);
        let is_ours = is_made_by_us(&self.uuid, &record.other_config);
        // One that was found is called here as whoever asked calls it.
        let own_id = record.other_config.get(VM_ID).filter(|_| is_ours);
        let id = own_id.and_then(|id| VmId::new(id.as_str()).ok());
        let id = id.unwrap_or_else(|| self.id.clone());
        let mut info = VmInfo::new(id, self.vm_type(), state);
        let connected = self.guest.read().await.as_deref().map(Guest::address);
        info.address = match (connected, record.guest_metrics.non_null()) {
            (None, Some(metrics)) if record.power_state == VmPowerState::Running => {
                match client.vm_guest_metrics().get_networks(metrics).await {
                    Ok(networks) => {
                        address::choose(&networks, &self.shared.settings().wish.address_cidr)
                    }
                    // A report of an earlier run, which goes as soon as there is a newer one.
                    Err(error) if error.failure().is_some_and(|failure| failure.is_gone()) => None,
                    Err(error) => return Err(Error::pool("read the VM's addresses")(error)),
                }
            }
            _ => connected,
        };
        for (key, value) in [
            ("name", &*record.name_label),
            ("uuid", &*self.uuid),
            ("template", &*self.names.template),
        ] {
            info.details.insert(key.to_owned(), value.to_owned());
        }
        let maker = if is_ours { OWNER_NAME } else { "somebody else" };
        info.details.insert("made_by".to_owned(), maker.to_owned());
        if is_ours {
            let kept = is_kept(&record.other_config).to_string();
            info.details.insert("kept".to_owned(), kept);
        }
        if let Some(host) = record.resident_on.non_null() {
            let name = client.host().get_name_label(host).await;
            let name = name.map_err(Error::pool("name the VM's host"))?;
            info.details.insert("host".to_owned(), name);
        }
        Ok(info)
    }
}

/// What the pool's word for a state means.
pub(crate) fn state(power: &VmPowerState) -> VmState {
    match power {
        VmPowerState::Running => VmState::Running,
        VmPowerState::Paused => VmState::Paused,
        VmPowerState::Suspended => VmState::Suspended,
        _ => VmState::Stopped,
    }
}

/// Whether a call failed because the VM is in the wanted state already.
fn has_become(error: &xapi_client::Error, state: &str) -> bool {
    error.failure().is_some_and(|failure| {
        failure.code == ErrorCode::VmBadPowerState && failure.param(2).eq_ignore_ascii_case(state)
    })
}

impl fmt::Debug for XcpngVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XcpngVm")
            .field("id", &self.id)
            .field("name", &self.names.name)
            .field("uuid", &self.uuid)
            .finish_non_exhaustive()
    }
}
