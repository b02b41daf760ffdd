mod sessions;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bioxen_vm_core::local::{DEFAULT_PATH, LocalRunner};
use bioxen_vm_core::{
    BackendConfig, Capabilities, ChannelSink, Command, Error, ErrorKind, Gather, Isolation, LuaVm,
    Outcome, OutputSink, OutputStream, PackageSite, Result, Runner, Script, Session,
    SessionOptions, Status, VmId, VmInfo, VmState, channel, lua,
};
use bytes::Bytes;
use tokio::sync::{Mutex, OwnedRwLockReadGuard, RwLock, watch};
use tokio::task::JoinSet;

use crate::BasicConfig;
use crate::execution::Job;
use crate::interpreter::Interpreter;
use crate::place::Place;
use crate::pool::{Kind, Launch, Pool};
use crate::walls::NAMES;

/// The longest program that comes to a worker in a request, in bytes.
const IN_REQUEST: usize = 32 << 10;

/// How many pieces of output wait for a caller that is slow to take them.
const WAITING_PIECES: usize = 4;

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
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
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

    async fn execute(&self, mut script: Script) -> Result<Outcome> {
        self.check(&mut script)?;
        let sink = Gather::new(script.max_output);
        let (outcome, gather) = Arc::clone(&self.processes)
            .run_script(script, sink)
            .await
            .map_err(|error| self.not_executed(error))?;
        Ok(gather.into_outcome(outcome))
    }

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
    pool: Arc<Pool>,
    /// Whether its workers take programs in requests, and not on standard input.
    reads_requests: bool,
    state: watch::Sender<VmState>,
    /// Read by every process that runs, and written by who waits until none does.
    running: Arc<RwLock<()>>,
}

impl Processes {
    /// Runs a Lua program in a worker, and hands its output to the sink, which comes back.
    async fn run_script<S: OutputSink + 'static>(
        self: Arc<Self>,
        script: Script,
        sink: S,
    ) -> Result<(Outcome, S)> {
        let started = Instant::now();
        let turn = self.turn().await?;
        let mark = lua::Mark::new();
        let cwd = self.directory(script.cwd.as_deref());
        let program = match self.reads_requests {
            true => lua::program(&script, Some(&mark)),
            false => Bytes::new(),
        };
        let job = if program.is_empty() || program.len() > IN_REQUEST {
            let input = lua::frame(&script, Some(&mark));
            Job::new(&cwd, &[], &input, script.timeout)?
        } else {
            Job::new(&cwd, &program, &script.stdin, script.timeout)?
        };
        let keep = script.env.is_empty();
        let mut worker = self.pool.give(&script.env, &job)?;
        let over = worker.soon(&job);
        let mut tail = Tail::new(sink);
        let (status, returned) = match over {
            Some(over) => {
                self.pool.done(Some(worker), keep && over.reusable);
                // Nothing of the VM runs any more.
                drop(turn);
                let mut returning = lua::Returning::new(&mark, &mut tail);
                let mut flow = ControlFlow::Continue(());
                for (stream, piece) in [
                    (OutputStream::Stdout, over.stdout),
                    (OutputStream::Stderr, over.stderr),
                ] {
                    if flow.is_continue() && !piece.is_empty() {
                        flow = returning.write(stream, piece).await;
                    }
                }
                let returned = returning.finish().await;
                match flow {
                    ControlFlow::Continue(()) => (over.status, returned),
                    ControlFlow::Break(()) => (Status::OutputLimit, returned),
                }
            }
            None => {
                let watch = async move {
                    let mut returning = lua::Returning::new(&mark, &mut tail);
                    let (status, worker) = worker.watch(job, &mut returning).await?;
                    let returned = returning.finish().await;
                    Ok((worker, status, returned, tail))
                };
                let (worker, status, returned, written) = self.while_running(turn, watch).await?;
                self.pool.done(worker, keep);
                tail = written;
                (status, returned)
            }
        };
        let mut outcome = Outcome::new(match status {
            Status::Exited(1) if tail.is_out_of_memory() => Status::OutOfMemory,
            status => status,
        });
        outcome.returned = returned;
        outcome.duration = started.elapsed();
        Ok((outcome, tail.sink))
    }

    /// Runs a command in the VM's directory, with the VM's environment, and hands its output to the
    /// sink, which comes back. Tells its process id once it is started.
    async fn run_command<S: OutputSink + 'static>(
        &self,
        mut command: Command,
        mut sink: S,
        tell: impl FnOnce(i32) + Send + 'static,
    ) -> Result<(Outcome, S)> {
        command.env.splice(0..0, self.env.iter().cloned());
        command.cwd = Some(self.directory(command.cwd.as_deref()));
        let turn = self.turn().await?;
        let run = async move {
            let outcome = LocalRunner::new()
                .run_telling(command, &mut sink, tell)
                .await?;
            Ok((outcome, sink))
        };
        self.while_running(turn, run).await
    }

    /// The working directory that is meant by a path.
    fn directory(&self, path: Option<&str>) -> String {
        match path {
            Some(path) if path.starts_with('/') => path.to_owned(),
            Some(path) => format!("{}/{path}", self.place.home()),
            None => self.place.home(),
        }
    }

    /// Waits while the VM changes its state, and then keeps it from that until the result is
    /// dropped.
    async fn turn(&self) -> Result<Turn> {
        let running = Arc::clone(&self.running).read_owned().await;
        let state = *self.state.borrow();
        match state {
            VmState::Running => Ok(Turn { _running: running }),
            state => Err(refused(&self.vm, state)),
        }
    }

    /// Does some work that ends when the VM stops running.
    async fn while_running<T: Send + 'static>(
        &self,
        turn: Turn,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let mut state = self.state.subscribe();
        // In a task of its own it ends with the VM also when its caller does not poll it, and with
        // the caller, since dropping the set aborts it.
        let mut task = JoinSet::new();
        task.spawn(async move {
            let _turn = turn;
            tokio::select! {
                result = work => result,
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

/// Held by what runs in a VM, which does not change its state meanwhile.
#[derive(Debug)]
struct Turn {
    _running: OwnedRwLockReadGuard<()>,
}

/// Runs what needs a sink of its own, and hands its output on to another one.
async fn streamed<F>(
    sink: &mut dyn OutputSink,
    run: impl FnOnce(ChannelSink) -> F,
) -> Result<Outcome>
where
    F: Future<Output = Result<Outcome>>,
{
    let (pieces, mut receiver) = channel(WAITING_PIECES);
    let pass_on = async {
        while let Some((stream, piece)) = receiver.recv().await {
            if sink.write(stream, piece).await.is_break() {
                // This ends the program.
                break;
            }
        }
        drop(receiver);
    };
    // The run keeps nothing of the sink once it is over, so that there is an end to the pieces.
    let (outcome, ()) = tokio::join!(run(pieces), pass_on);
    outcome
}

/// Hands output on, and remembers the end of standard error, by which a program tells that it had
/// no more memory.
struct Tail<S> {
    sink: S,
    stderr: VecDeque<u8>,
}

impl<S> Tail<S> {
    /// What every Lua says last when it had no more memory.
    const OUT_OF_MEMORY: &[u8] = b"lua: not enough memory\n";

    fn new(sink: S) -> Self {
        Self {
            sink,
            stderr: VecDeque::new(),
        }
    }

    fn is_out_of_memory(&self) -> bool {
        self.stderr.iter().eq(Self::OUT_OF_MEMORY)
    }
}

#[async_trait]
impl<S: OutputSink> OutputSink for Tail<S> {
    async fn write(&mut self, stream: OutputStream, piece: Bytes) -> ControlFlow<()> {
        if stream == OutputStream::Stderr {
            let start = piece.len().saturating_sub(Self::OUT_OF_MEMORY.len());
            self.stderr.extend(&piece[start..]);
            let excess = self.stderr.len().saturating_sub(Self::OUT_OF_MEMORY.len());
            self.stderr.drain(..excess);
        }
        self.sink.write(stream, piece).await
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
