//! What keeps the sessions of a VM, and reaches them while they run.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bioxen_vm_core::local::eldest_child;
use bioxen_vm_core::{
    Command, Error, ErrorKind, Input, Outcome, OutputSink, Result, SessionHost, SessionOptions,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::processes::{Processes, streamed};
use crate::brake::Brake;
use crate::execution::lost;
use crate::interpreter::Interpreter;
use crate::job::Job;
use crate::pool::Kind;
use crate::thread::Work;

/// What is to keep a session.
pub(super) fn host(
    interpreter: &Interpreter,
    processes: &Arc<Processes>,
    options: &SessionOptions,
) -> Arc<dyn SessionHost> {
    let processes = Arc::clone(processes);
    match &processes.pool.launch().kind {
        Kind::Process {
            program, orders, ..
        } => Arc::new(SessionProcess {
            command: interpreter.session(program, orders, options),
            minds: match interpreter.is_built_in() {
                true => options.interruptible.then_some(Minder::Worker),
                false => Some(Minder::Interpreter),
            },
            worker: AtomicI32::new(0).into(),
            processes,
        }),
        Kind::Thread(_) => Arc::new(SessionThread {
            env: options.env.clone(),
            cwd: options.cwd.clone(),
            brake: Mutex::default(),
            processes,
        }),
    }
}

/// The process that keeps a session, among the processes of a VM.
#[derive(Debug)]
struct SessionProcess {
    command: Command,
    /// Who minds an interrupt, if anybody.
    minds: Option<Minder>,
    /// The id of the worker, from its start to its end; 0 otherwise.
    worker: Arc<AtomicI32>,
    processes: Arc<Processes>,
}

#[derive(Debug, Clone, Copy)]
enum Minder {
    Worker,
    /// What the worker has started.
    Interpreter,
}

#[async_trait]
impl SessionHost for SessionProcess {
    async fn run(&self, input: Input, sink: &mut dyn OutputSink) -> Result<Outcome> {
        let command = self.command.clone().with_stdin(input);
        let worker = Arc::clone(&self.worker);
        let tell = move |pid| worker.store(pid, Ordering::Relaxed);
        let run = |pieces| async {
            let ran = self.processes.run_command(command, pieces, tell).await;
            ran.map(|(outcome, _)| outcome)
        };
        let outcome = streamed(sink, run).await;
        self.worker.store(0, Ordering::Relaxed);
        outcome
    }

    async fn interrupt(&self, _: u32) -> Result<()> {
        let worker = Some(self.worker.load(Ordering::Relaxed)).filter(|pid| *pid > 0);
        // It cannot tell who it is from within its walls. One that has ended meanwhile needs no
        // interrupt.
        let minder = match self.minds {
            Some(Minder::Worker) => worker,
            // It is what its worker has started first.
            Some(Minder::Interpreter) => worker.and_then(eldest_child),
            None => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "what runs in this session cannot be interrupted; close it, or open one that \
                     is interruptible",
                ));
            }
        };
        if let Some(minder) = minder {
            let _ = kill(Pid::from_raw(minder), Signal::SIGINT);
        }
        Ok(())
    }
}

/// The thread of this process that keeps a session.
#[derive(Debug)]
struct SessionThread {
    env: Vec<(String, OsString)>,
    cwd: Option<PathBuf>,
    /// Its brake, while it runs.
    brake: Mutex<Option<Arc<Brake>>>,
    processes: Arc<Processes>,
}

impl SessionThread {
    fn set_brake(&self, brake: Option<Arc<Brake>>) {
        *self.brake.lock().unwrap_or_else(PoisonError::into_inner) = brake;
    }
}

#[async_trait]
impl SessionHost for SessionThread {
    async fn run(&self, input: Input, sink: &mut dyn OutputSink) -> Result<Outcome> {
        let processes = &self.processes;
        let turn = processes.turn().await?;
        let cwd = processes.directory(self.cwd.as_deref());
        let job = Job::new(&cwd, &[], &input, None)?;
        let launch = processes.pool.launch();
        let mut thread = launch.spawn(Work::Session, &self.env).map_err(lost)?;
        thread.give(&job).map_err(lost)?;
        self.set_brake(thread.brake().cloned());
        let run = |mut pieces: bioxen_vm_core::ChannelSink| {
            let watch = async move {
                let (status, _) = thread.watch(job, &mut pieces).await?;
                Ok(Outcome::new(status))
            };
            processes.while_running(turn, watch)
        };
        let outcome = streamed(sink, run).await;
        self.set_brake(None);
        outcome
    }

    async fn interrupt(&self, _: u32) -> Result<()> {
        if let Some(brake) = &*self.brake.lock().unwrap_or_else(PoisonError::into_inner) {
            brake.interrupt();
        }
        Ok(())
    }
}
