use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bioxen_vm_core::local::LocalRunner;
use bioxen_vm_core::{
    BackendConfig, Command, Error, ErrorKind, LuaVm, Outcome, PackageSite, Result, Runner, Script,
    VmId, VmInfo, VmState,
};
use tokio::sync::{Mutex, RwLock, watch};
use tokio::task::JoinSet;

use crate::BasicConfig;
use crate::interpreter::Interpreter;
use crate::place::Place;

/// A VM of type `basic`: a private directory on this machine, and the Lua programs that run in it,
/// each in a process of its own.
///
/// When it is dropped its programs end and its directory is removed, which may take a moment;
/// [`destroy`](LuaVm::destroy) does that without blocking and tells whether it worked.
#[derive(Debug)]
pub struct BasicVm {
    id: VmId,
    interpreter: Arc<Interpreter>,
    execution_timeout: Option<Duration>,
    memory: Option<u64>,
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
    ) -> Self {
        let processes = Processes {
            vm: id.clone(),
            env: place.env(interpreter.lua_version()),
            place,
            state: watch::Sender::new(VmState::Stopped),
            running: Arc::default(),
        };
        Self {
            id,
            interpreter,
            execution_timeout: config.execution_timeout,
            memory: config.memory,
            processes: Arc::new(processes),
            changing: Mutex::default(),
        }
    }

    fn state(&self) -> VmState {
        *self.processes.state.borrow()
    }

    /// Leaves the running state, and waits until every process of the VM has been ended.
    async fn halt(&self, state: VmState) {
        self.processes.state.send_replace(state);
        drop(self.processes.running.write().await);
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
        if self.state() == VmState::Destroyed {
            return Err(refused(&self.id, VmState::Destroyed).with_operation("start"));
        }
        self.processes.state.send_replace(VmState::Running);
        Ok(())
    }

    async fn stop(&self) -> Result<()> {
        let _changing = self.changing.lock().await;
        if self.state() == VmState::Running {
            self.halt(VmState::Stopped).await;
        }
        Ok(())
    }

    async fn execute(&self, script: Script) -> Result<Outcome> {
        script.validate().map_err(|error| error.with_vm(&self.id))?;
        let processes = &self.processes;
        let mut command = self
            .interpreter
            .command(&script, &processes.place, self.memory);
        command.timeout = script.time_limit(self.execution_timeout);
        processes
            .run(command)
            .await
            .map_err(|error| error.with_operation("execute").with_vm(&self.id))
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
        let removed = tokio::task::spawn_blocking(move || processes.place.remove()).await;
        removed
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

fn refused(vm: &VmId, state: VmState) -> Error {
    let remedy = match state {
        VmState::Destroyed => "create a new one",
        _ => "start it first",
    };
    Error::new(ErrorKind::InvalidState, format!("it is {state}; {remedy}")).with_vm(vm)
}

/// The processes of a VM: what runs while the VM runs, and not longer.
#[derive(Debug)]
struct Processes {
    vm: VmId,
    place: Place,
    env: Vec<(String, String)>,
    state: watch::Sender<VmState>,
    /// Read by every process that runs, and written by who waits until none does.
    running: Arc<RwLock<()>>,
}

impl Processes {
    /// Runs a command in the VM's directory, with the VM's environment.
    async fn run(&self, mut command: Command) -> Result<Outcome> {
        command.env.splice(0..0, self.env.iter().cloned());
        command.cwd = Some(match command.cwd {
            Some(cwd) if cwd.starts_with('/') => cwd,
            Some(cwd) => format!("{}/{cwd}", self.place.home()),
            None => self.place.home(),
        });
        let running = Arc::clone(&self.running).read_owned().await;
        let mut state = self.state.subscribe();
        let now = *state.borrow_and_update();
        if now != VmState::Running {
            return Err(refused(&self.vm, now));
        }
        // In a task of its own it ends with the VM also when its caller does not poll it, and with
        // the caller, since dropping the set aborts it.
        let mut task = JoinSet::new();
        task.spawn(async move {
            let _running = running;
            let runner = LocalRunner::new();
            tokio::select! {
                outcome = runner.run(command) => outcome,
                _ = state.wait_for(|state| *state != VmState::Running) => Err(Error::new(
                    ErrorKind::Cancelled,
                    "the VM was stopped while it ran",
                )),
            }
        });
        match task.join_next().await {
            Some(Ok(result)) => result,
            Some(Err(error)) => Err(Error::new(
                ErrorKind::Internal,
                "the task that watched the process failed",
            )
            .with_source(error)),
            None => Err(Error::new(ErrorKind::Internal, "no process was started")),
        }
    }
}

/// Runs the commands of a package manager among the processes of a VM.
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
            .supervised(command, &self.processes.place, None);
        self.processes.run(command).await
    }

    fn describe(&self) -> String {
        format!("VM {}, on this machine", self.processes.vm)
    }
}
