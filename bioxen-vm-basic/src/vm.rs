mod processes;
mod sessions;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bioxen_vm_core::local::DEFAULT_PATH;
use bioxen_vm_core::{
    BackendConfig, Capabilities, Command, Error, ErrorKind, Gather, Isolation, LuaVm, Outcome,
    OutputSink, PackageSite, Result, Runner, Script, Session, SessionOptions, VmId, VmInfo,
    VmState,
};
use tokio::sync::{Mutex, watch};

use crate::BasicConfig;
use crate::interpreter::Interpreter;
use crate::place::Place;
use crate::pool::{Kind, Launch, Pool};
use crate::walls::NAMES;
use processes::{Processes, refused, streamed};

/// A VM of type `basic`: a private directory on this machine, and the Lua programs that run in it,
/// in processes of its own.
///
/// When it is dropped its programs end and its directory is removed, which may take a moment;
/// [`destroy`](LuaVm::destroy) does that without blocking and tells whether it worked.
#[derive(Debug)]
pub struct BasicVm {
    id: VmId,
    interpreter: Arc<Interpreter>,
    execution_timeout: Option<Duration>,
    capabilities: Capabilities,
    processes: Arc<Processes>,
    /// Held while the VM changes its state, so that changes happen one after the other.
    changing: Mutex<()>,
}

impl BasicVm {
    pub(crate) fn new(
        id: VmId,
        interpreter: Arc<Interpreter>,
        place: Place,
        config: &BasicConfig,
    ) -> Result<Self> {
        let vm_env = place.env(interpreter.lua_version());
        let orders = interpreter.orders(config, Some(&place));
        let kind = match interpreter.worker() {
            Some(program) => Kind::Process {
                program: program.to_owned(),
                orders: orders.to_argument()?,
                childless: interpreter.is_childless(config),
            },
            None => Kind::Thread(Arc::new(orders)),
        };
        let launch = Launch {
            kind,
            env: [("PATH", DEFAULT_PATH), ("LANG", "C.UTF-8")]
                .map(|(name, value)| (name.to_owned(), value.into()))
                .into_iter()
                .chain(vm_env.iter().cloned())
                .collect(),
        };
        let mut capabilities = Capabilities::default();
        capabilities.streaming = true;
        capabilities.returned_values = true;
        capabilities.sessions = true;
        capabilities.interrupts = true;
        capabilities.processes = !config.in_process;
        capabilities.commands = config.processes;
        capabilities.files = true;
        capabilities.memory_limit = true;
        capabilities.packages = true;
        let processes = Processes {
            vm: id.clone(),
            env: vm_env,
            place,
            pool: Arc::new(Pool::new(launch, config.idle_workers)),
            reads_requests: interpreter.is_built_in(),
            state: watch::Sender::new(VmState::Stopped),
            running: Arc::default(),
        };
        Ok(Self {
            id,
            interpreter,
            execution_timeout: config.execution_timeout,
            capabilities,
            processes: Arc::new(processes),
            changing: Mutex::default(),
        })
    }

    fn state(&self) -> VmState {
        *self.processes.state.borrow()
    }

    /// Leaves the running state, and waits until every process of the VM has been ended.
    async fn halt(&self, state: VmState) {
        self.processes.state.send_replace(state);
        self.processes.pool.close().await;
        drop(self.processes.running.write().await);
    }

    fn check(&self, script: &mut Script) -> Result<()> {
        script.timeout = script.time_limit(self.execution_timeout);
        script.validate().map_err(|error| error.with_vm(&self.id))
    }

    fn not_executed(&self, error: Error) -> Error {
        error.with_operation("execute").with_vm(&self.id)
    }
}

#[async_trait]
impl LuaVm for BasicVm {
    fn id(&self) -> &VmId {
        &self.id
    }

    fn vm_type(&self) -> &'static str {
        BasicConfig::VM_TYPE
    }

    async fn info(&self) -> Result<VmInfo> {
        let mut info = VmInfo::new(self.id.clone(), self.vm_type(), self.state());
        let details = [
            ("lua_version", self.interpreter.lua_version().to_owned()),
            ("program", self.interpreter.program().to_owned()),
            (
                "directory",
                self.processes.place.dir().display().to_string(),
            ),
        ];
        info.details
            .extend(details.map(|(name, value)| (name.to_owned(), value)));
        Ok(info)
    }

    async fn start(&self) -> Result<()> {
        let _changing = self.changing.lock().await;
        match self.state() {
            VmState::Destroyed => {
                return Err(refused(&self.id, VmState::Destroyed).with_operation("start"));
            }
            VmState::Running => {}
            _ => {
                self.processes.pool.open();
                self.processes.state.send_replace(VmState::Running);
            }
        }
        Ok(())
    }

    async fn stop(&self) -> Result<()> {
        let _changing = self.changing.lock().await;
        if self.state() == VmState::Running {
            self.halt(VmState::Stopped).await;
        }
        Ok(())
    }

    #[tracing::instrument(name = "execute", skip_all, fields(vm = %self.id, vm_type = self.vm_type()))]
    async fn execute(&self, mut script: Script) -> Result<Outcome> {
        self.check(&mut script)?;
        let sink = Gather::new(script.max_output);
        let (outcome, gather) = Arc::clone(&self.processes)
            .run_script(script, sink)
            .await
            .map_err(|error| self.not_executed(error))?;
        Ok(gather.into_outcome(outcome))
    }

    #[tracing::instrument(name = "execute", skip_all, fields(vm = %self.id, vm_type = self.vm_type()))]
    async fn execute_streaming(
        &self,
        mut script: Script,
        sink: &mut dyn OutputSink,
    ) -> Result<Outcome> {
        self.check(&mut script)?;
        let processes = Arc::clone(&self.processes);
        let run = |pieces| async {
            let ran = processes.run_script(script, pieces).await;
            ran.map(|(outcome, _)| outcome)
        };
        streamed(sink, run)
            .await
            .map_err(|error| self.not_executed(error))
    }

    async fn open_session(&self, options: SessionOptions) -> Result<Session> {
        let told = |error: Error| error.with_operation("open a session").with_vm(&self.id);
        options.validate().map_err(told)?;
        let state = self.state();
        if state != VmState::Running {
            return Err(told(refused(&self.id, state)));
        }
        let host = sessions::host(&self.interpreter, &self.processes, &options);
        Session::open(options.name, host).await.map_err(told)
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn isolation(&self) -> Isolation {
        let found = |name| {
            self.interpreter
                .walls()
                .iter()
                .find(|wall| wall.name == name)
        };
        NAMES
            .iter()
            .filter_map(|name| Some((name, found(*name)?)))
            .fold(Isolation::default(), |isolation, (name, wall)| {
                isolation.with(name, wall.stands, wall.detail.clone())
            })
    }

    async fn package_site(&self) -> Result<PackageSite> {
        let state = self.state();
        if state != VmState::Running {
            return Err(refused(&self.id, state).with_operation("reach its packages"));
        }
        let site = Site {
            interpreter: Arc::clone(&self.interpreter),
            processes: Arc::clone(&self.processes),
        };
        Ok(PackageSite::new(
            Arc::new(site),
            self.interpreter.lua_version(),
            self.processes.place.rocks(),
        ))
    }

    async fn destroy(&self) -> Result<()> {
        let _changing = self.changing.lock().await;
        self.halt(VmState::Destroyed).await;
        let processes = Arc::clone(&self.processes);
        tokio::task::spawn_blocking(move || processes.place.remove())
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map_err(|error| {
                let directory = self.processes.place.dir().display();
                Error::new(
                    ErrorKind::Denied,
                    format!("its directory {directory} cannot be removed; remove it by hand"),
                )
                .with_source(error)
                .with_operation("destroy")
                .with_vm(&self.id)
            })
    }
}

/// Runs commands among the processes of a VM: those of a package manager, and those that move files.
#[derive(Debug)]
struct Site {
    interpreter: Arc<Interpreter>,
    processes: Arc<Processes>,
}

#[async_trait]
impl Runner for Site {
    async fn run(&self, command: Command) -> Result<Outcome> {
        let command = self
            .interpreter
            .supervised(command, &self.processes.place)?;
        let sink = Gather::new(command.max_output);
        let (outcome, gather) = self.processes.run_command(command, sink, |_| ()).await?;
        Ok(gather.into_outcome(outcome))
    }

    async fn run_streaming(&self, command: Command, sink: &mut dyn OutputSink) -> Result<Outcome> {
        let command = self
            .interpreter
            .supervised(command, &self.processes.place)?;
        let run = |pieces| async {
            let ran = self.processes.run_command(command, pieces, |_| ()).await;
            ran.map(|(outcome, _)| outcome)
        };
        streamed(sink, run).await
    }

    fn shares_files(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        format!("VM {}, on this machine", self.processes.vm)
    }
}
