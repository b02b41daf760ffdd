//! The processes of a VM: what runs while it runs, and not longer.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bioxen_vm_core::local::LocalRunner;
use bioxen_vm_core::{
    ChannelSink, Command, Error, ErrorKind, Outcome, OutputSink, OutputStream, Result, Script,
    Status, VmId, VmState, channel, lua,
};
use bytes::Bytes;
use tokio::sync::{OwnedRwLockReadGuard, RwLock, watch};
use tokio::task::JoinSet;

use crate::job::Job;
use crate::place::Place;
use crate::pool::Pool;

/// The longest program that comes to a worker in a request, in bytes.
const IN_REQUEST: usize = 32 << 10;

/// How many pieces of output wait for a caller that is slow to take them.
const WAITING_PIECES: usize = 4;

pub(super) fn refused(vm: &VmId, state: VmState) -> Error {
    let remedy = match state {
        VmState::Destroyed => "create a new one",
        _ => "start it first",
    };
    Error::new(ErrorKind::InvalidState, format!("it is {state}; {remedy}")).with_vm(vm)
}

/// The processes of a VM: what runs while the VM runs, and not longer.
#[derive(Debug)]
pub(super) struct Processes {
    pub(super) vm: VmId,
    pub(super) place: Place,
    pub(super) env: Vec<(String, OsString)>,
    pub(super) pool: Arc<Pool>,
    /// Whether its workers take programs in requests, and not on standard input.
    pub(super) reads_requests: bool,
    pub(super) state: watch::Sender<VmState>,
    /// Read by every process that runs, and written by who waits until none does.
    pub(super) running: Arc<RwLock<()>>,
}

impl Processes {
    /// Runs a Lua program in a worker, and hands its output to the sink, which comes back.
    pub(super) async fn run_script<S: OutputSink + 'static>(
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
    pub(super) async fn run_command<S: OutputSink + 'static>(
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
    pub(super) fn directory(&self, path: Option<&Path>) -> PathBuf {
        let home = PathBuf::from(self.place.home());
        match path {
            // An absolute path takes the place of the other.
            Some(path) => home.join(path),
            None => home,
        }
    }

    /// Waits while the VM changes its state, and then keeps it from that until the result is
    /// dropped.
    pub(super) async fn turn(&self) -> Result<Turn> {
        let running = Arc::clone(&self.running).read_owned().await;
        let state = *self.state.borrow();
        match state {
            VmState::Running => Ok(Turn { _running: running }),
            state => Err(refused(&self.vm, state)),
        }
    }

    /// Does some work that ends when the VM stops running.
    pub(super) async fn while_running<T: Send + 'static>(
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
pub(super) struct Turn {
    _running: OwnedRwLockReadGuard<()>,
}

/// Runs what needs a sink of its own, and hands its output on to another one.
pub(super) async fn streamed<F>(
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
