//! The handle of a VM.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bioxen_vm_core::{
    BackendConfig, Capabilities, LuaVm, Outcome, OutputSink, PackageSite, Result, Script, Session,
    SessionOptions, VmId, VmInfo, VmState,
};
use tokio::sync::{Mutex, RwLock};
use xapi_client::api::{Vm, VmPowerState};
use xapi_client::{Client, ErrorCode, Ref, TaskCall};

use crate::address;
use crate::backend::Shared;
use crate::config::XcpngConfig;
use crate::error::{Error, STARTING};
use crate::execute::{AttachedDrive, Deployed, end};
use crate::first_contact::{FirstContact, HOST_KEY};
use crate::guest::Guest;
use crate::ledger::Entry;
use crate::progress::{Reporter, Stage};
use crate::remove::{remove, remove_disk};

/// A VM on a pool, in which Lua runs over SSH.
///
/// Dropping the handle leaves the VM on the pool; [`destroy`](LuaVm::destroy) removes it.
pub struct XcpngVm {
    id: VmId,
    shared: Arc<Shared>,
    vm: Ref<Vm>,
    uuid: String,
    names: Names,
    contact: FirstContact,
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
    Alive {
        /// Where the VM's private host key is still to be found besides in the VM.
        key_in: KeyIn,
        /// Whether it has been started at all: one that has just been made is halted.
        started: bool,
    },
    Dying,
    Dead,
}

#[derive(Debug)]
enum KeyIn {
    Nowhere,
    XenstoreData,
    Drive(AttachedDrive),
}

impl XcpngVm {
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
        Self {
            id,
            shared,
            vm: deployed.reference,
            uuid: deployed.uuid,
            names,
            contact,
            reporter,
            lifecycle: Mutex::new(Lifecycle::Alive {
                key_in,
                started: false,
            }),
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

    pub(crate) fn contact(&self) -> &FirstContact {
        &self.contact
    }

    pub(crate) async fn try_start(&self) -> Result<(), Error> {
        match &mut *self.lifecycle.lock().await {
            Lifecycle::Alive { key_in, started } => self.start_alive(key_in, started).await,
            Lifecycle::Dying | Lifecycle::Dead => Err(destroyed()),
        }
    }

    async fn start_alive(&self, key_in: &mut KeyIn, started: &mut bool) -> Result<(), Error> {
        let client = self.shared.client().await?;
        let state = match *started {
            true => self.power_state(client).await?,
            false => VmPowerState::Halted,
        };
        if state == VmPowerState::Running && self.guest.read().await.is_some() {
            return Ok(());
        }
        self.leave_guest().await;
        if state != VmPowerState::Running {
            let run = self.run(client, &state);
            self.reporter.stage(Stage::Start, run).await?;
            *started = true;
        }
        let settings = self.shared.settings();
        let limit = settings.boot_timeout;
        let address = match &settings.wish.fixed_address {
            // It needs no tools to tell it.
            Some(fixed) => fixed.ip(),
            None => {
                let address = address::wait(client, &self.vm, limit);
                self.reporter.stage(Stage::Address, address).await?
            }
        };
        let login = Guest::log_in(&self.contact, address, &settings.lua, limit);
        let guest = Arc::new(self.reporter.stage(Stage::Login, login).await?);
        *self.guest.write().await = Some(guest);
        self.take_key_back(client, key_in).await
    }

    /// Removes the VM's private host key from where it was handed over. The VM has it on its own disk
    /// now; nobody else needs to be able to read it.
    async fn take_key_back(&self, client: &Client, key_in: &mut KeyIn) -> Result<(), Error> {
        match key_in {
            KeyIn::Nowhere => return Ok(()),
            KeyIn::XenstoreData => client
                .vm()
                .remove_from_xenstore_data(&self.vm, HOST_KEY)
                .await
                .map_err(Error::pool(
                    "take the host key out of the VM's xenstore data",
                ))?,
            KeyIn::Drive(drive) => {
                if let Err(error) = detach(client, drive).await {
                    // The VM is as good with it; it goes with the VM at the latest.
                    tracing::warn!(
                        vm = %self.id, %error,
                        "the config drive stays until the VM is started again or removed"
                    );
                    return Ok(());
                }
            }
        }
        *key_in = KeyIn::Nowhere;
        Ok(())
    }

    async fn power_state(&self, client: &Client) -> Result<VmPowerState, Error> {
        client
            .vm()
            .get_power_state(&self.vm)
            .await
            .map_err(Error::pool("tell the state of the VM"))
    }

    /// A call that is about to be sent as a task, once that is on record.
    async fn noted<'c, R>(&self, call: TaskCall<'c, R>) -> Result<TaskCall<'c, R>, Error> {
        let started = Entry::Task(call.tag().to_string());
        let ledger = self.shared.ledger().await?;
        ledger.note(started).await.map_err(Error::Ledger)?;
        Ok(call)
    }

    /// Makes a VM run, from whatever state.
    async fn run(&self, client: &Client, state: &VmPowerState) -> Result<(), Error> {
        let vm = client.vm();
        let call = match state {
            VmPowerState::Paused => vm.unpause(&self.vm),
            VmPowerState::Suspended => vm.resume(&self.vm, false, false),
            _ => vm.start(&self.vm, false, false),
        };
        let result = match self.noted(call.into_task()).await?.await {
            Ok(task) => end(&task).await,
            Err(error) => Err(error),
        };
        match result {
            Err(error) if !has_become(&error, "running") => Err(Error::pool(STARTING)(error)),
            _ => Ok(()),
        }
    }

    async fn stop_alive(&self) -> Result<(), Error> {
        self.leave_guest().await;
        let client = self.shared.client().await?;
        if self.power_state(client).await? == VmPowerState::Halted {
            return Ok(());
        }
        let shutdown = async {
            // Asks the VM's system first, and switches it off when that does not help.
            let call = client.vm().shutdown(&self.vm).into_task();
            let result = match self.noted(call).await?.await {
                Ok(task) => end(&task).await,
                Err(error) => Err(error),
            };
            match result {
                Err(error) if !has_become(&error, "halted") => {
                    Err(Error::pool("shut down the VM")(error))
                }
                _ => Ok(()),
            }
        };
        self.reporter.stage(Stage::Stop, shutdown).await
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
                    source: Box::new(source),
                })?;
            let removed = Entry::Removed(self.names.working_name.clone());
            let ledger = self.shared.ledger().await?;
            ledger.note(removed).await.map_err(Error::Ledger)
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
            Some(guest) => Ok(Arc::clone(guest)),
            None => Err(Error::State {
                state: "stopped".into(),
                remedy: "start it first",
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
        match &*self.lifecycle.lock().await {
            Lifecycle::Alive { .. } => self.stop_alive().await,
            Lifecycle::Dying | Lifecycle::Dead => Err(destroyed()),
        }
        .map_err(self.at("stop"))
    }

    async fn execute(&self, script: Script) -> Result<Outcome> {
        script.validate().map_err(|error| error.with_vm(&self.id))?;
        let guest = self.guest().await.map_err(self.at("execute"))?;
        guest
            .execute(script, self.shared.settings().execution_timeout)
            .await
            .map_err(|error| error.with_operation("execute").with_vm(&self.id))
    }

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
        let guest = self.guest().await.map_err(self.at("open a session"))?;
        guest
            .open_session(options)
            .await
            .map_err(|error| error.with_operation("open a session").with_vm(&self.id))
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
        let state = match record.power_state {
            VmPowerState::Running => VmState::Running,
            VmPowerState::Paused => VmState::Paused,
            VmPowerState::Suspended => VmState::Suspended,
            _ => VmState::Stopped,
        };
        let mut info = VmInfo::new(self.id.clone(), self.vm_type(), state);
        info.address = self
            .guest
            .read()
            .await
            .as_ref()
            .map(|guest| guest.address());
        for (key, value) in [
            ("name", &*record.name_label),
            ("uuid", &*self.uuid),
            ("template", &*self.names.template),
        ] {
            info.details.insert(key.to_owned(), value.to_owned());
        }
        if let Some(host) = record.resident_on.non_null() {
            let name = client.host().get_name_label(host).await;
            let name = name.map_err(Error::pool("name the VM's host"))?;
            info.details.insert("host".to_owned(), name);
        }
        Ok(info)
    }
}

/// Takes a config drive from a VM, running or not, and removes it.
async fn detach(client: &Client, drive: &AttachedDrive) -> xapi_client::Result<()> {
    match client.vbd().unplug(&drive.device).await {
        Err(error)
            if error.failure().is_some_and(|failure| {
                failure.is_gone()
                    || matches!(
                        failure.code,
                        ErrorCode::DeviceAlreadyDetached | ErrorCode::VmBadPowerState
                    )
            }) => {}
        result => result?,
    }
    remove_disk(client, &drive.disk).await
}

fn destroyed() -> Error {
    Error::State {
        state: "destroyed".into(),
        remedy: "create another one",
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
