//! Runs commands on this machine, and gives them private directories.

mod directory;
mod tree;

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin};

use crate::{Command, Error, ErrorKind, Outcome, Result, Runner, Status};

pub use directory::PrivateDir;
pub use tree::{end_descendants, end_tree};

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
        let started = Instant::now();
        let mut group = Group::spawn(&command, &self.env)?;
        let mut stdout = Capture::new(command.max_output);
        let mut stderr = Capture::new(command.max_output);
        let child = &mut group.child;
        let (input, output, errors) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let exit = {
            // Boxed, so that it can be dropped, and the captures read, before this block ends.
            let mut streams = Box::pin(async {
                tokio::join!(
                    feed(input, &command.stdin),
                    stdout.fill(output),
                    stderr.fill(errors)
                )
            });
            let mut deadline = Box::pin(at_end_of(command.timeout));
            let mut drained = false;
            let exit = loop {
                tokio::select! {
                    exit = group.child.wait() => break Some(exit),
                    _ = &mut streams, if !drained => drained = true,
                    () = &mut deadline => break None,
                }
            };
            match exit {
                Some(_) => group.ended(),
                None => group.end(),
            }
            if !drained {
                // Running out of this time is no failure: what was read so far is the output.
                let _ = tokio::time::timeout(DRAIN, streams).await;
            }
            exit
        };
        let status = match exit {
            Some(exit) => status(exit.map_err(|error| lost(&command, error))?),
            None => {
                group
                    .child
                    .wait()
                    .await
                    .map_err(|error| lost(&command, error))?;
                Status::TimedOut
            }
        };
        group.reaped = true;
        let mut outcome = Outcome::new(status);
        (outcome.stdout, outcome.stdout_truncated) = stdout.into_parts();
        (outcome.stderr, outcome.stderr_truncated) = stderr.into_parts();
        outcome.duration = started.elapsed();
        Ok(outcome)
    }

    fn describe(&self) -> String {
        "this machine".into()
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

/// Keeps the first bytes of a stream and counts on reading it to its end.
struct Capture {
    kept: BytesMut,
    limit: usize,
    truncated: bool,
}

impl Capture {
    fn new(limit: usize) -> Self {
        Self {
            kept: BytesMut::new(),
            limit,
            truncated: false,
        }
    }

    async fn fill(&mut self, stream: Option<impl AsyncRead + Unpin>) {
        let Some(mut stream) = stream else { return };
        let mut rest = BytesMut::new();
        loop {
            let room = self.limit - self.kept.len();
            let buffer = if room > 0 { &mut self.kept } else { &mut rest };
            buffer.reserve(64 * 1024);
            match stream.read_buf(buffer).await {
                // A pipe that breaks has nothing more to give, as one that ends.
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            self.truncated |= !rest.is_empty() || self.kept.len() > self.limit;
            self.kept.truncate(self.limit);
            rest.clear();
        }
    }

    fn into_parts(self) -> (Bytes, bool) {
        (self.kept.freeze(), self.truncated)
    }
}

/// Writes standard input. A command that does not read it all is no failure.
async fn feed(pipe: Option<ChildStdin>, bytes: &[u8]) {
    if let Some(mut pipe) = pipe {
        let _ = pipe.write_all(bytes).await;
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
