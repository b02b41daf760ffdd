//! `bioxen shell`: talks to a Lua state in a VM that is made for it, or in one that is there.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bioxen_vm_core::{
    Answer, Chunk, ErrorKind, LuaVm, OutputSink as _, OutputStream, Session, SessionOptions,
    Status, VmManager,
};
use bytes::Bytes;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};

use super::ground::Kind;
use super::hints::{self, Place};
use super::interrupt::Interrupts;
use super::lines::{Line, Lines};
use super::streams::{Streams, exit_code};
use super::with_vms;
use super::work::Needs;
use crate::settings::Settings;

/// How long a chunk that was interrupted may take to end before the user is told that it still runs.
const PATIENCE: Duration = Duration::from_secs(1);

/// The exit code of Ctrl-C: 128 and SIGINT.
const INTERRUPTED: u8 = 128 + 2;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    kind: Kind,

    #[command(flatten)]
    needs: Needs,

    /// Compute at full speed with the Lua that is built in: Ctrl-C can then only end the session
    #[arg(long)]
    fast: bool,
}

pub(super) async fn run(args: Args, settings: Settings) -> anyhow::Result<ExitCode> {
    let lines = Lines::new()?;
    // At a terminal Ctrl-C is for the chunk that runs, in a script for us.
    let (interrupts, mut ctrl_c) = if lines.is_typed() {
        let ctrl_c = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
        (Interrupts::listen_without_ctrl_c()?, Some(ctrl_c))
    } else {
        (Interrupts::listen()?, None)
    };
    let mut ground = args.kind.ground(settings)?;
    let stage = args.needs.stage();
    let installs = stage.installs();
    let library = stage
        .library
        .open(&ground.vm_type, &mut ground.config, installs);
    library.await?;
    let manager = &ground.manager;
    let servers = stage.servers()?;
    let work = async {
        let entering = async {
            let vm = ground.enter("shell").await?;
            stage.install(&ground, &*vm, servers, false).await?;
            stage.copies(&*vm).await?.put().await?;
            anyhow::Ok(vm)
        };
        let vm = tokio::select! {
            entered = Box::pin(entering) => entered?,
            () = pressed(&mut ctrl_c) => return Ok(ExitCode::from(INTERRUPTED)),
        };
        let mut options = SessionOptions::named("shell");
        for (name, value) in stage.library.variables(&ground, &*vm).await? {
            options = options.with_env(name, value);
        }
        // Nobody interrupts a script.
        options.interruptible = lines.is_typed() && !args.fast;
        let shell = Shell {
            session: manager
                .open_session(vm.id().as_str(), options.clone())
                .await?,
            vm: Arc::clone(&vm),
            place: stage.place(&ground),
            options,
            manager,
            streams: Streams::new()?,
            lines,
            ctrl_c,
        };
        let (code, went_well) = shell.talk(&ground.vm_type).await?;
        if went_well {
            stage.copies(&*vm).await?.get().await?;
        }
        Ok(code)
    };
    with_vms(manager, &interrupts, work).await
}

/// A session, and who talks to it.
struct Shell<'a> {
    manager: &'a VmManager,
    vm: Arc<dyn LuaVm>,
    place: Place<'a>,
    session: Session,
    options: SessionOptions,
    streams: Streams,
    lines: Lines,
    /// Heard at a terminal only.
    ctrl_c: Option<Signal>,
}

/// What became of a chunk.
enum Done {
    Answered(Answer),
    /// The user gave it up, and the session with it.
    GivenUp,
    /// Nobody takes our output.
    Unheard,
}

impl Shell<'_> {
    /// Gives the exit code, and whether all went well.
    async fn talk(mut self, vm_type: &str) -> anyhow::Result<(ExitCode, bool)> {
        if self.lines.is_typed() {
            self.say(&format!(
                "Lua in a VM of type {vm_type}; Ctrl-D or os.exit() ends it"
            ))
            .await;
        }
        let mut code = Vec::new();
        let mut all_well = true;
        loop {
            match self.next_line(code.is_empty()).await? {
                Line::End => break,
                Line::Dropped => code.clear(),
                Line::Text(line) => {
                    if code.is_empty() && line.trim_ascii().is_empty() {
                        continue;
                    }
                    code.extend_from_slice(&line);
                    let done = self.eval(Bytes::copy_from_slice(&code)).await?;
                    if let Some(end) = self.streams.failure() {
                        return Ok((end?, false));
                    }
                    match done {
                        Done::Answered(Answer::Incomplete) => {
                            code.push(b'\n');
                            continue;
                        }
                        Done::Answered(Answer::Ended(status)) => {
                            return Ok((exit_code(status), status == Status::Exited(0)));
                        }
                        Done::Answered(Answer::Failed(problem)) => {
                            all_well = false;
                            self.say(&problem).await;
                            hints::after_error(&problem, &self.place);
                        }
                        Done::GivenUp => {
                            self.session.close().await;
                            let options = self.options.clone();
                            let id = self.vm.id().as_str();
                            self.session = self.manager.open_session(id, options).await?;
                            self.say("this is a new session, without the variables of the old one")
                                .await;
                        }
                        Done::Answered(_) | Done::Unheard => {}
                    }
                    self.lines.remember(&code);
                    code.clear();
                }
            }
        }
        if !self.lines.is_typed() && !code.is_empty() {
            all_well = false;
            self.say("the input ends within a chunk, which was not run")
                .await;
        }
        // As the `lua` program ends: so files that are still open become whole. Where the user has put
        // something else in its place, the session ends all the same.
        let _ = self.eval(Bytes::from_static(b"os.exit(0, true)")).await;
        self.session.close().await;
        // A script wants to know; a person has seen it.
        Ok(if all_well || self.lines.is_typed() {
            (ExitCode::SUCCESS, true)
        } else {
            (ExitCode::FAILURE, false)
        })
    }

    async fn next_line(&mut self, is_first: bool) -> anyhow::Result<Line> {
        if self.lines.is_typed() && !self.streams.is_at_line_start() {
            // The prompt would overwrite what the chunk wrote last.
            self.write(OutputStream::Stdout, "\n".into()).await;
        }
        let prompt = if is_first { "> " } else { ">> " };
        self.lines.next(prompt).await
    }

    /// Runs a chunk. Ctrl-C interrupts it; where that does not help, another one gives it up.
    async fn eval(&mut self, code: Bytes) -> anyhow::Result<Done> {
        // One that came after the chunk before had ended was meant for that.
        tokio::select! {
            biased;
            () = pressed(&mut self.ctrl_c) => {}
            () = std::future::ready(()) => {}
        }
        let broken = self.streams.broken();
        let running = self
            .session
            .eval_streaming(Chunk::new(code).printing(), &mut self.streams);
        tokio::pin!(running);
        let still_runs = |why: &str| {
            super::warn(&format!(
                "it still runs: {why}; Ctrl-C once more ends it with its session"
            ));
        };
        let heard = sleep(PATIENCE);
        tokio::pin!(heard);
        let (mut is_interrupted, mut is_told) = (false, false);
        loop {
            tokio::select! {
                answer = &mut running => return Ok(Done::Answered(answer?)),
                () = broken.notified() => return Ok(Done::Unheard),
                () = pressed(&mut self.ctrl_c) => {
                    if is_told {
                        return Ok(Done::GivenUp);
                    }
                    // Another interrupt would end some interpreters.
                    if is_interrupted {
                        is_told = true;
                        still_runs("what it does cannot be interrupted");
                        continue;
                    }
                    is_interrupted = true;
                    match self.session.interrupt().await {
                        Ok(()) => heard.as_mut().reset(Instant::now() + PATIENCE),
                        Err(error) => {
                            is_told = true;
                            match error.kind() {
                                ErrorKind::Unsupported => {
                                    still_runs("a session that is --fast cannot be interrupted");
                                }
                                _ => still_runs(&error.to_string()),
                            }
                        }
                    }
                }
                () = &mut heard, if is_interrupted && !is_told => {
                    is_told = true;
                    still_runs("what it does cannot be interrupted");
                }
            }
        }
    }

    /// Tells the user something that is no output of the program.
    async fn say(&mut self, text: &str) {
        self.write(OutputStream::Stderr, format!("{text}\n").into())
            .await;
    }

    async fn write(&mut self, stream: OutputStream, piece: Bytes) {
        // That a stream takes no more shows after the next chunk.
        let _ = self.streams.write(stream, piece).await;
    }
}

/// Waits for Ctrl-C, for ever where it is not for us.
async fn pressed(ctrl_c: &mut Option<Signal>) {
    if let Some(signal) = ctrl_c
        && signal.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}
