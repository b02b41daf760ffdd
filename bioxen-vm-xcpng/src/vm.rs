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
use xapi_client::{Client, ErrorCode, Ref};

use crate::address;
use crate::backend::Shared;
use crate::config::XcpngConfig;
use crate::error::Error;
use crate::execute::{Deployed, end};
use crate::first_contact::{FirstContact, HOST_KEY};
use crate::guest::Guest;
use crate::progress::{Reporter, Stage};
use crate::remove::Removal;

/// A VM on a pool, in which Lua runs over SSH.
///
/// Dropping the handle leaves the VM on the pool; [`destroy`](LuaVm::destroy) removes it.
pub struct XcpngVm {
    id: VmId,
    shared: Arc<Shared>,
    vm: Ref<Vm>,
    uuid: String,
    name: String,
    template: String,
    contact: FirstContact,
    reporter: Reporter,
    /// Held by what changes the state of the VM, one at a time.
    lifecycle: Mutex<Lifecycle>,
    /// There while the VM runs.
    guest: RwLock<Option<Arc<Guest>>>,
}

#[derive(Debug)]
enum Lifecycle {
    Alive {
        /// Whether the private host key is still in the VM's xenstore data.
        key_on_the_way: bool,
    },
    Dying(Removal),
    Dead,
}

impl XcpngVm {
    pub(crate) fn new(
        id: VmId,
        shared: Arc<Shared>,
        deployed: Deployed,
        (name, template): (String, String),
        contact: FirstContact,
        reporter: Reporter,
    ) -> Self {
        let key_on_the_way = contact.hands_over();
        Self {
            id,
            shared,
            vm: deployed.reference,
            uuid: deployed.uuid,
            name,
            template,
            contact,
            reporter,
            lifecycle: Mutex::new(Lifecycle::Alive { key_on_the_way }),
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
        &self.name
    }

    async fn start_alive(&self, key_on_the_way: &mut bool) -> Result<(), Error> {
        let client = self.shared.client().await?;
        let state = self.power_state(client).await?;
        if state == VmPowerState::Running && self.guest.read().await.is_some() {
            return Ok(());
        }
        self.leave_guest().await;
        if state != VmPowerState::Running {
            let run = self.run(client, &state);
            self.reporter.stage(Stage::Start, run).await?;
        }
        let settings = self.shared.settings();
        let limit = settings.boot_timeout;
        let address = address::wait(client, &self.vm, limit);
        let address = self.reporter.stage(Stage::Address, address).await?;
        let login = Guest::log_in(&self.contact, address, &settings.lua, limit);
        let guest = self.reporter.stage(Stage::Login, login).await?;
        *self.guest.write().await = Some(Arc::new(guest));
        if *key_on_the_way {
            // The VM has it on its own disk now; nobody else needs to be able to read it.
            client
                .vm()
                .remove_from_xenstore_data(&self.vm, HOST_KEY)
                .await
                .map_err(Error::pool(
                    "take the host key out of the VM's xenstore data",
                ))?;
            *key_on_the_way = false;
        }
        Ok(())
    }

    async fn power_state(&self, client: &Client) -> Result<VmPowerState, Error> {
        client
            .vm()
            .get_power_state(&self.vm)
            .await
            .map_err(Error::pool("tell the state of the VM"))
    }

    /// Makes a VM run, from whatever state.
    async fn run(&self, client: &Client, state: &VmPowerState) -> Result<(), Error> {
        let vm = client.vm();
        let call = match state {
            VmPowerState::Paused => vm.unpause(&self.vm),
            VmPowerState::Suspended => vm.resume(&self.vm, false, false),
            _ => vm.start(&self.vm, false, false),
        };
        let result = match call.into_task().await {
            Ok(task) => end(&task).await,
            Err(error) => Err(error),
        };
        match result {
            Err(error) if !has_become(&error, "running") => Err(Error::pool("start the VM")(error)),
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
            let result = match client.vm().shutdown(&self.vm).into_task().await {
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

    async fn remove(&self, removal: &mut Removal) -> Result<(), Error> {
        self.leave_guest().await;
        let client = self.shared.client().await?;
        let remove = async {
            removal
                .run(client)
                .await
                .map_err(|source| Error::LeftBehind {
                    what: format!("something of the VM named {:?} ({})", self.name, self.uuid),
                    source: Box::new(source),
                })
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
        match &mut *self.lifecycle.lock().await {
            Lifecycle::Alive { key_on_the_way } => self.start_alive(key_on_the_way).await,
            Lifecycle::Dying(_) | Lifecycle::Dead => Err(destroyed()),
        }
        .map_err(self.at("start"))
    }

    async fn stop(&self) -> Result<()> {
        match &*self.lifecycle.lock().await {
            Lifecycle::Alive { .. } => self.stop_alive().await,
            Lifecycle::Dying(_) | Lifecycle::Dead => Err(destroyed()),
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
        if let Lifecycle::Alive { .. } = *lifecycle {
            *lifecycle = Lifecycle::Dying(Removal::new(self.vm.clone()));
        }
        if let Lifecycle::Dying(removal) = &mut *lifecycle {
            self.remove(removal).await.map_err(self.at("destroy"))?;
            *lifecycle = Lifecycle::Dead;
        }
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
            ("template", &*self.template),
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
            .field("name", &self.name)
            .field("uuid", &self.uuid)
            .finish_non_exhaustive()
    }
}
