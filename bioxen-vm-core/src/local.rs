//! Runs commands on this machine, and gives them private directories.

mod directory;
mod group;
mod tree;

use std::ffi::OsString;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::io::AsyncWriteExt;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::Notify;

use crate::{
    Command, Error, ErrorKind, Gather, InputStream, Outcome, OutputSink, OutputStream, Pieces,
    Result, Runner, Script, Status,
};

use group::Group;

pub use directory::PrivateDir;
pub use tree::{count_descendants, eldest_child, end_descendants, end_tree};

/// Where programs are looked up unless the runner is given another `PATH`.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long output is still awaited after the command's process group has been killed. Only a
/// process that left the group can hold the pipes open that long.
const DRAIN: Duration = Duration::from_millis(500);

/// Runs commands on this machine, each in a process group of its own.
///
/// A command sees no environment variable of this process: only `PATH`, `LANG`, those of the
/// runner and its own. When it ends, its process group is killed. When it is cancelled or runs out
/// of time, so is everything else that descends from it, see [`end_tree`]. What escapes is a
/// process that has left the group, and whose line to the command ended before: one of a parent
/// that has ended, unless the command is a child subreaper.
#[derive(Debug, Clone)]
pub struct LocalRunner {
    env: Vec<(String, OsString)>,
}

impl Default for LocalRunner {
    fn default() -> Self {
        Self::new()
    }
}

impl LocalRunner {
    /// Makes a runner whose commands see `PATH` ([`DEFAULT_PATH`]) and `LANG` (`C.UTF-8`).
    #[must_use]
    pub fn new() -> Self {
        Self {
            env: vec![
                ("PATH".into(), DEFAULT_PATH.into()),
                ("LANG".into(), "C.UTF-8".into()),
            ],
        }
    }

    /// Adds an environment variable for all commands, or replaces it.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }
}

#[async_trait]
impl Runner for LocalRunner {
    async fn run(&self, command: Command) -> Result<Outcome> {
        let mut gather = Gather::new(command.max_output);
        let outcome = self.run_streaming(command, &mut gather).await?;
        Ok(gather.into_outcome(outcome))
    }

    async fn run_streaming(&self, command: Command, sink: &mut dyn OutputSink) -> Result<Outcome> {
        self.run_telling(command, sink, |_| ()).await
    }

    fn shares_files(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        "this machine".into()
    }
}

impl LocalRunner {
    /// As [`run_streaming`](Runner::run_streaming), and tells the id of the process once it is
    /// started. It leads a process group of that id.
    ///
    /// # Errors
    /// As [`Runner::run_streaming`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the command and what it started.
    pub async fn run_telling(
        &self,
        command: Command,
        sink: &mut dyn OutputSink,
        tell: impl FnOnce(i32) + Send,
    ) -> Result<Outcome> {
        let started = Instant::now();
        let stream = command.stdin.take_stream()?;
        let mut group = Group::spawn(&command, &self.env)?;
        if let Some(id) = group.id {
            tell(id.as_raw());
        }
        let child = &mut group.child;
        let input = child.stdin.take();
        let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Error::new(ErrorKind::Internal, "a command has no pipes"));
        };
        let mut feed = Box::pin(feed(input, command.stdin.bytes(), stream));
        let ended = Notify::new();
        let mut pump = Box::pin(pump(output, errors, sink, &ended));
        let mut deadline = Box::pin(at_end_of(command.timeout));
        let (mut fed, mut pumped) = (false, None);
        let end = loop {
            tokio::select! {
                exit = group.child.wait() => break End::Itself(exit),
                flow = &mut pump, if pumped.is_none() => {
                    pumped = Some(flow);
                    if flow.is_break() {
                        break End::Unwanted;
                    }
                }
                () = &mut feed, if !fed => {
                    fed = true;
                    if command.stdin.is_lifeline() {
                        break End::Left;
                    }
                }
                () = &mut deadline => break End::TimedOut,
            }
        };
        drop(feed);
        match end {
            End::Itself(_) => group.ended(),
            End::TimedOut | End::Unwanted | End::Left => group.end(),
        }
        ended.notify_one();
        if pumped.is_none() {
            pumped = Some(pump.await);
        }
        let timed_out = matches!(end, End::TimedOut);
        let exit = match end {
            End::Itself(exit) => exit,
            End::TimedOut | End::Unwanted | End::Left => group.child.wait().await,
        };
        let exit = exit.map_err(|error| lost(&command, error))?;
        group.reaped = true;
        let unwanted = pumped.is_some_and(|flow| flow.is_break());
        let mut outcome = Outcome::new(match (timed_out, unwanted) {
            (true, _) => Status::TimedOut,
            (false, true) => Status::OutputLimit,
            (false, false) => status(exit),
        });
        outcome.duration = started.elapsed();
        Ok(outcome)
    }
}

/// Reads a Lua file of this machine; messages name it by its path.
///
/// # Errors
/// Fails with [`ErrorKind::NotFound`] when the file cannot be read.
pub async fn read_script(path: &Path) -> Result<Script> {
    let name = path.display().to_string();
    let file = path.to_owned();
    let code = tokio::task::spawn_blocking(move || std::fs::read(file)).await;
    match code.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(code) => Ok(Script::new(code).with_name(name)),
        Err(error) => {
            let message = format!("cannot read the program {name}");
            Err(Error::new(ErrorKind::NotFound, message).with_source(error))
        }
    }
}

/// Why a command is over.
enum End {
    Itself(io::Result<ExitStatus>),
    TimedOut,
    /// Nobody wants more of its output.
    Unwanted,
    /// The end of its input was to be its own.
    Left,
}

/// Hands on both streams until they end. Once the command has ended it waits no longer than
/// [`DRAIN`] for more.
async fn pump(
    output: ChildStdout,
    errors: ChildStderr,
    sink: &mut dyn OutputSink,
    ended: &Notify,
) -> ControlFlow<()> {
    let (mut out, mut err) = (Pieces::new(output), Pieces::new(errors));
    let mut over = false;
    while !out.is_over() || !err.is_over() {
        let (stream, piece) = tokio::select! {
            piece = out.next(), if !out.is_over() => (OutputStream::Stdout, piece),
            piece = err.next(), if !err.is_over() => (OutputStream::Stderr, piece),
            () = ended.notified(), if !over => {
                over = true;
                continue;
            }
            () = tokio::time::sleep(DRAIN), if over => break,
        };
        if let Some(piece) = piece {
            sink.write(stream, piece).await?;
        }
    }
    ControlFlow::Continue(())
}

/// Writes standard input. A command that does not read it all is no failure.
async fn feed(pipe: Option<ChildStdin>, bytes: &[u8], stream: Option<InputStream>) {
    let Some(mut pipe) = pipe else { return };
    if pipe.write_all(bytes).await.is_ok()
        && let Some(mut stream) = stream
    {
        let _ = tokio::io::copy(&mut stream, &mut pipe).await;
    }
}

async fn at_end_of(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

fn status(exit: ExitStatus) -> Status {
    match (exit.code(), exit.signal()) {
        (Some(code), _) => Status::Exited(code),
        (None, signal) => Status::Signaled(signal.unwrap_or_default()),
    }
}

fn lost(command: &Command, error: io::Error) -> Error {
    Error::new(
        ErrorKind::Internal,
        format!("lost track of {:?}", command.program),
    )
    .with_source(error)
}

#[cfg(test)]
mod tests;
