//! A guest as a process tree: one supervisor whose end is the end of them all.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::{BOOT_LIMIT, GuestError};

/// What sshd reports once its socket accepts connections.
const READY: &str = "Server listening on";
/// What a line begins with that tells of a failure of cloud-init.
const CLOUD_INIT: &str = "cloud-init: ";
/// How many lines a failed boot is explained with: the first, as the rest tends to follow from it.
const LOG_LINES: usize = 3;
/// How long, in milliseconds, a process tree that was told to end may take before stronger means.
const PATIENCE: u16 = 1000;

/// The processes of a running guest. Dropping it ends them all.
///
/// Two pipes tie them to this process. The lifeline, which nobody else holds, is closed by the
/// kernel when this process ends in whatever way, and the supervisor ends the guest then. The log
/// is held by the guest alone, so its end is the event that the guest has ended.
#[derive(Debug)]
pub(super) struct Process {
    supervisor: Child,
    lifeline: Option<ChildStdin>,
    log: OwnedFd,
    is_namespaced: bool,
}

impl Process {
    /// Starts the supervisor of a guest. Blocks for as long as it takes to fork.
    pub(super) fn spawn(mut command: Command, is_namespaced: bool) -> Result<Self, GuestError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let failed = |source| GuestError::Spawn { program, source };
        command
            .env_clear()
            .env("PATH", super::software::PATH)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // An interrupt from the terminal is for the owner, who then ends guests in order.
            .process_group(0);
        let mut supervisor = match command.spawn() {
            Ok(child) => child,
            Err(source) => return Err(failed(source)),
        };
        let lifeline = supervisor.stdin.take();
        let Some(log) = supervisor.stderr.take() else {
            return Err(failed(io::ErrorKind::BrokenPipe.into()));
        };
        Ok(Self {
            supervisor,
            lifeline,
            log: log.into(),
            is_namespaced,
        })
    }

    /// The number of the supervisor, of which all others descend.
    pub(super) fn id(&self) -> u32 {
        self.supervisor.id()
    }

    /// Waits until sshd accepts connections; the receiver changes when the guest has ended.
    pub(super) async fn ready(&self, name: &str) -> Result<watch::Receiver<bool>, GuestError> {
        let log = self.log.try_clone().and_then(pipe::Receiver::from_owned_fd);
        let log = log.map_err(|source| GuestError::Spawn {
            program: "sshd".to_owned(),
            source,
        })?;
        let (ready, is_ready) = oneshot::channel();
        let (ended, has_ended) = watch::channel(false);
        let span = tracing::warn_span!("guest", name);
        tokio::spawn(async move {
            read_log(log, ready, &span).await;
            ended.send_replace(true);
        });
        match timeout(BOOT_LIMIT, is_ready).await {
            Ok(Ok(Ok(()))) => Ok(has_ended),
            Ok(Ok(Err(log))) => Err(GuestError::Boot {
                name: name.to_owned(),
                log,
            }),
            Ok(Err(_)) | Err(_) => Err(GuestError::Silent {
                name: name.to_owned(),
            }),
        }
    }

    /// Asks the guest to end its processes, and then itself.
    pub(super) fn ask_to_end(&mut self) {
        if let Some(lifeline) = &mut self.lifeline {
            // A guest that has ended already is what was asked for.
            let _ = lifeline.write_all(b"shutdown\n");
        }
    }

    /// Makes the guest end at once.
    pub(super) fn cut_lifeline(&mut self) {
        self.lifeline = None;
    }

    /// Waits, blocking, until the guest has ended; false when it takes too long.
    fn has_ended(&self) -> bool {
        // Without asked events, poll still reports that the last writer is gone.
        let mut log = [PollFd::new(self.log.as_fd(), PollFlags::empty())];
        loop {
            match poll(&mut log, PollTimeout::from(PATIENCE)) {
                Err(Errno::EINTR) => {}
                Ok(count) => return count > 0,
                Err(_) => return false,
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.cut_lifeline();
        if !self.has_ended() {
            // Somebody has stopped the supervisor, or there is much to end.
            if self.is_namespaced {
                // The guest's first process dies with its parent.
                let _ = self.supervisor.kill();
                self.has_ended();
            } else {
                // Nobody but the supervisor can find the processes, so it has to live until it
                // has. It is not reaped yet: the process number is still its own.
                let supervisor = Pid::from_raw(self.supervisor.id().cast_signed());
                let _ = kill(supervisor, Signal::SIGHUP);
                let _ = kill(supervisor, Signal::SIGCONT);
            }
        }
        if let Err(error) = self.supervisor.wait() {
            tracing::warn!(%error, "cannot reap the supervisor of a guest");
        }
    }
}

/// Reads the log to its end, so that the guest never has to wait for a reader.
async fn read_log(
    log: pipe::Receiver,
    ready: oneshot::Sender<Result<(), String>>,
    span: &tracing::Span,
) {
    let mut ready = Some(ready);
    let mut first = Vec::new();
    let mut log = BufReader::new(log);
    let mut line = Vec::new();
    while let Ok(1..) = log.read_until(b'\n', &mut line).await {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        if text.starts_with(CLOUD_INIT) {
            // Perhaps nobody can log in to see it there.
            let text = text.replace(char::is_control, " ");
            tracing::warn!(parent: span, "{text}");
        } else {
            tracing::debug!(parent: span, "{text}");
        }
        if text.starts_with(READY) {
            if let Some(ready) = ready.take() {
                let _ = ready.send(Ok(()));
            }
        } else if first.len() < LOG_LINES {
            first.push(text);
        }
    }
    if let Some(ready) = ready {
        let log = super::one_line(&first.join("\n"));
        let _ = ready.send(Err(if log.is_empty() {
            "it ends at once".to_owned()
        } else {
            log
        }));
    }
}

/// Waits until the guest has ended.
pub(super) async fn ended(mut has_ended: watch::Receiver<bool>) {
    // A closed channel means that nobody reads the log any more: the runtime is going down, and
    // the guest with it.
    let _ = has_ended.wait_for(|ended| *ended).await;
}

/// How long a guest that ends in order may take beyond what its processes are given.
pub(super) fn patience() -> Duration {
    Duration::from_millis(PATIENCE.into())
}
