//! Runs commands on this machine, and gives them private directories.

mod directory;
mod tree;

use std::io;
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::Notify;

use crate::{
    Command, Error, ErrorKind, Gather, InputStream, Outcome, OutputSink, OutputStream, Pieces,
    Result, Runner, Script, Status,
};

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
    env: Vec<(String, String)>,
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
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
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

/// A child that leads a process group. When this is dropped early, all that the child started ends.
struct Group {
    child: Child,
    id: Option<Pid>,
    reaped: bool,
}

impl Group {
    fn spawn(command: &Command, env: &[(String, String)]) -> Result<Self> {
        let mut process = tokio::process::Command::new(&command.program);
        process
            .args(&command.args)
            .env_clear()
            .envs(
                env.iter()
                    .chain(&command.env)
                    .map(|(name, value)| (name, value)),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(cwd) = &command.cwd {
            if !Path::new(cwd).is_dir() {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("the working directory {cwd:?} is no directory on this machine"),
                ));
            }
            process.current_dir(cwd);
        }
        let child = process
            .spawn()
            .map_err(|error| unstartable(command, error))?;
        let id = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .map(Pid::from_raw);
        Ok(Self {
            child,
            id,
            reaped: false,
        })
    }

    /// Notes that the child has ended by itself, and kills what it has left in its group.
    fn ended(&mut self) {
        self.reaped = true;
        if let Some(id) = self.id {
            // The group is gone already in the good case; there is nothing else to report.
            let _ = killpg(id, Signal::SIGKILL);
        }
    }

    /// Ends the child, which is not reaped, and all that it started.
    fn end(&self) {
        if let Some(id) = self.id {
            end_tree(id.as_raw());
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.reaped {
            self.end();
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

fn unstartable(command: &Command, error: io::Error) -> Error {
    let program = &command.program;
    let (kind, message) = match error.kind() {
        io::ErrorKind::NotFound => (
            ErrorKind::NotFound,
            format!("there is no program {program:?} on this machine; install it or give its path"),
        ),
        io::ErrorKind::PermissionDenied => (
            ErrorKind::Denied,
            format!("{program:?} may not be executed by this user"),
        ),
        io::ErrorKind::ArgumentListTooLong => (
            ErrorKind::Config,
            format!("the arguments of {program:?} are too long; pass the data on standard input"),
        ),
        _ => (
            ErrorKind::Exhausted,
            format!("{program:?} could not be started"),
        ),
    };
    Error::new(kind, message).with_source(error)
}

fn lost(command: &Command, error: io::Error) -> Error {
    Error::new(
        ErrorKind::Internal,
        format!("lost track of {:?}", command.program),
    )
    .with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Input, channel};

    fn sh(script: &str) -> Command {
        Command::new("sh").args(["-c", script])
    }

    #[tokio::test]
    async fn output_input_and_exit_code_come_back_byte_for_byte() {
        let outcome = LocalRunner::new()
            .run(sh("cat; printf '\\377\\000 ' >&2; exit 7").with_stdin(&b" in\xfe\n"[..]))
            .await
            .unwrap();
        assert_eq!(outcome.status, Status::Exited(7));
        assert_eq!(&outcome.stdout[..], b" in\xfe\n");
        assert_eq!(&outcome.stderr[..], b"\xff\0 ");
    }

    #[tokio::test]
    async fn a_command_sees_nothing_of_our_environment() {
        let outcome = LocalRunner::new()
            .run(Command::new("env").with_env("A", "b"))
            .await
            .unwrap();
        let mut names: Vec<_> = outcome
            .stdout_text()
            .lines()
            .map(|l| l.split('=').next().unwrap().to_owned())
            .collect();
        names.sort();
        assert_eq!(names, ["A", "LANG", "PATH"]);
    }

    #[tokio::test]
    async fn a_timeout_ends_grandchildren_and_keeps_the_output_so_far() {
        let outcome = LocalRunner::new()
            .run(sh("sleep 3600 & echo $!; wait").with_timeout(Duration::from_millis(300)))
            .await
            .unwrap();
        assert_eq!(outcome.status, Status::TimedOut);
        let grandchild: i32 = outcome.stdout_text().trim().parse().unwrap();
        ended(grandchild).await;
    }

    #[tokio::test]
    async fn a_background_process_that_holds_the_pipes_does_not_hold_us() {
        let outcome = LocalRunner::new()
            .run(sh("sleep 3600 & echo $!"))
            .await
            .unwrap();
        assert_eq!(outcome.status, Status::Exited(0));
        ended(outcome.stdout_text().trim().parse().unwrap()).await;
    }

    #[tokio::test]
    async fn dropping_the_future_ends_the_command() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("pid");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let script = format!("echo $$ > {}; exec sleep 3600", fifo.display());
        let run = tokio::spawn(async move { LocalRunner::new().run(sh(&script)).await });
        let pid: i32 = tokio::fs::read_to_string(&fifo)
            .await
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        assert!(runs(pid));
        run.abort();
        assert!(run.await.unwrap_err().is_cancelled());
        ended(pid).await;
    }

    #[tokio::test]
    async fn too_much_output_is_cut_and_said_so() {
        let command = sh("head -c 1000000 /dev/zero; echo end >&2").with_max_output(1000);
        let outcome = LocalRunner::new().run(command).await.unwrap();
        assert_eq!(
            (outcome.stdout.len(), outcome.stdout_truncated),
            (1000, true)
        );
        assert_eq!(
            (&outcome.stderr[..], outcome.stderr_truncated),
            (&b"end\n"[..], false)
        );
        assert!(outcome.success());
    }

    #[tokio::test]
    async fn output_is_handed_on_as_it_comes_and_input_read_as_it_is_asked_for() {
        let (mut ours, theirs) = tokio::io::duplex(64);
        let command = sh("read line; echo got $line; read line; echo got $line; cat")
            .with_stdin(Input::stream(theirs).with_bytes("one\n".into()));
        let (mut sink, mut output) = channel(1);
        let run = async { LocalRunner::new().run_streaming(command, &mut sink).await };
        let talk = async {
            let (_, piece) = output.recv().await.unwrap();
            assert_eq!(piece, "got one\n");
            ours.write_all(b"two\n").await.unwrap();
            let (_, piece) = output.recv().await.unwrap();
            assert_eq!(piece, "got two\n");
            drop(ours);
        };
        let (outcome, ()) = tokio::join!(run, talk);
        assert_eq!(outcome.unwrap().status, Status::Exited(0));
    }

    #[tokio::test]
    async fn a_taker_that_wants_no_more_ends_the_command() {
        let (mut sink, output) = channel(1);
        drop(output);
        let outcome = LocalRunner::new().run_streaming(sh("yes"), &mut sink).await;
        assert_eq!(outcome.unwrap().status, Status::OutputLimit);
    }

    #[tokio::test]
    async fn the_end_of_a_lifeline_ends_the_command() {
        let (ours, theirs) = tokio::io::duplex(64);
        let command = sh("trap '' TERM; sleep 3600 & wait").with_stdin(Input::lifeline(theirs));
        drop(ours);
        let outcome = LocalRunner::new().run(command).await.unwrap();
        assert_eq!(outcome.status, Status::Signaled(9));
    }

    #[tokio::test]
    async fn an_input_stream_is_for_one_command() {
        let command = sh("cat").with_stdin(Input::stream(&b"x"[..]));
        let outcome = LocalRunner::new().run(command.clone()).await.unwrap();
        assert_eq!(outcome.stdout_text(), "x");
        let error = LocalRunner::new().run(command).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
    }

    #[tokio::test]
    async fn a_missing_program_or_directory_is_named() {
        let error = LocalRunner::new()
            .run(Command::new("no-such-program"))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("no-such-program"), "{error}");
        let error = LocalRunner::new()
            .run(sh("true").with_cwd("/no/such"))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("/no/such"), "{error}");
    }

    /// Waits for a killed process to be gone; the test's own time limit ends the wait.
    async fn ended(pid: i32) {
        while runs(pid) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Whether a process exists and is no zombie.
    fn runs(pid: i32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
            !stat
                .rsplit(')')
                .next()
                .unwrap()
                .trim_start()
                .starts_with('Z')
        })
    }
}
