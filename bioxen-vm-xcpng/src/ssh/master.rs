use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bioxen_vm_core::local::DEFAULT_PATH;
use secrecy::ExposeSecret;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::config::SOCKET;
use super::{Identity, SshError, SshTarget};

/// How many commands run over one connection at once. An sshd allows 10 by default, and frees a
/// slot only after we have seen the command end. One that allows fewer is found out.
const CHANNELS: usize = 6;

/// A login takes a fifth of a second; a server that needs this long is not usable.
const LOGIN_LIMIT: Duration = Duration::from_secs(30);

const LAUNCH: &str = include_str!("launch.sh");

/// One open SSH connection, held by an `ssh` process of ours.
///
/// The process, what it started and its private directory go when this is dropped, and also when
/// this program is killed.
#[derive(Debug)]
pub(super) struct Master {
    session: Arc<openssh::Session>,
    channels: Arc<Semaphore>,
    /// How many channels there are, those in use included.
    capacity: AtomicUsize,
    /// Since when it has been open.
    pub(super) opened: Instant,
    /// Closing this ends the connection.
    leash: Mutex<Option<ChildStdin>>,
    /// Holds what ssh said at its end, once it has ended.
    ended: watch::Receiver<Option<String>>,
}

impl Master {
    /// Logs in.
    pub(super) async fn connect(target: &SshTarget) -> Result<Self, SshError> {
        match tokio::time::timeout(LOGIN_LIMIT, Self::log_in(target)).await {
            Ok(result) => result,
            Err(_) => Err(SshError::Unreachable {
                reason: format!("the login took longer than {} s", LOGIN_LIMIT.as_secs()),
            }),
        }
    }

    async fn log_in(target: &SshTarget) -> Result<Self, SshError> {
        let mut child = launch(target).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => SshError::NoClient,
            _ => SshError::Launch(error),
        })?;
        let (Some(mut leash), Some(stdout), Some(mut stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(SshError::Launch(std::io::Error::other(
                "its pipes are missing",
            )));
        };
        // A launcher that ends early says why on its standard error.
        let _ = leash.write_all(target.known_hosts().as_bytes()).await;
        if let Identity::Key(key) = &target.identity {
            let _ = leash.write_all(key.expose_secret().as_bytes()).await;
        }
        let mut lines = BufReader::new(stdout).lines();
        let dir = lines.next_line().await.ok().flatten();
        let ready = lines.next_line().await.ok().flatten();
        let (Some(dir), Some(_)) = (dir, ready) else {
            let mut said = String::new();
            // Standard error that cannot be read says nothing.
            let _ = stderr.read_to_string(&mut said).await;
            return Err(SshError::from_ssh(&said));
        };
        let (told, ended) = watch::channel(None);
        tokio::spawn(async move {
            let mut said = String::new();
            let _ = stderr.read_to_string(&mut said).await;
            let status = child.wait().await;
            tracing::debug!(
                signal = status.ok().and_then(|status| status.signal()),
                said = said.trim(),
                "an SSH connection ended"
            );
            told.send_replace(Some(said.split_whitespace().collect::<Vec<_>>().join(" ")));
        });
        let socket = Path::new(&dir).join(SOCKET);
        Ok(Self {
            session: Arc::new(openssh::Session::resume_mux(socket.into_boxed_path(), None)),
            channels: Arc::new(Semaphore::new(CHANNELS)),
            capacity: AtomicUsize::new(CHANNELS),
            opened: Instant::now(),
            leash: Mutex::new(Some(leash)),
            ended,
        })
    }

    /// The connection, to run commands over.
    pub(super) fn session(&self) -> Arc<openssh::Session> {
        Arc::clone(&self.session)
    }

    /// Whether the connection stands, as far as is known.
    pub(super) fn is_alive(&self) -> bool {
        self.ended.borrow().is_none()
    }

    /// Asks the connection whether it stands, and if not, why.
    pub(super) async fn broken(&self) -> Option<SshError> {
        if self.is_alive() && self.session.check().await.is_ok() {
            return None;
        }
        self.cut();
        self.ended().await;
        let reason = self.ended.borrow().clone().unwrap_or_default();
        Some(SshError::Disconnected { reason })
    }

    /// A free channel, if there is one.
    pub(super) fn channel(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.channels).try_acquire_owned().ok()
    }

    /// Does without a channel from now on, as the server has no room for it. Not when it would be
    /// the only one in use: the server then only frees its room late.
    pub(super) fn forgo(&self, channel: OwnedSemaphorePermit) -> bool {
        let used = self.capacity.load(Ordering::Relaxed) - self.channels.available_permits();
        if used <= 1 {
            return false;
        }
        self.capacity.fetch_sub(1, Ordering::Relaxed);
        channel.forget();
        true
    }

    /// Waits until the connection has ended.
    pub(super) async fn ended(&self) {
        // An error means that the watching task is gone, and ssh with it.
        let _ = self.ended.clone().wait_for(Option::is_some).await;
    }

    /// Tells the connection to end, without waiting.
    pub(super) fn cut(&self) {
        *self.leash.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn launch(target: &SshTarget) -> std::io::Result<Child> {
    let key_size = match &target.identity {
        Identity::Key(key) => key.expose_secret().len(),
        Identity::File(_) => 0,
    };
    Command::new("/bin/sh")
        .args(["-c", LAUNCH, "sh"])
        .arg(&target.runtime_dir)
        .arg(target.known_hosts().len().to_string())
        .arg(key_size.to_string())
        .args(target.arguments())
        .env_clear()
        .env("PATH", DEFAULT_PATH)
        // The messages of ssh are sorted by their English words.
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A Ctrl-C at the terminal is for us, who end connections in their order.
        .process_group(0)
        .spawn()
}
