use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openssh::Stdio;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::master::Master;
use super::{SshError, SshTarget};

/// How many connections one guest gets at most.
const MASTERS: usize = 40;

/// After this long without a free channel another connection is opened. Commands that are quick
/// share few connections, and those that stay get more.
const GROWTH: Duration = Duration::from_millis(100);

/// How long a server that turned away another connection is left alone.
const REFUSED: Duration = Duration::from_secs(1);

/// Pauses between attempts: there is no event for "sshd listens now" or "a slot is free".
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long a guest may answer with keys other than ours because it has not installed them yet.
const KEY_GRACE: Duration = Duration::from_secs(5);

/// After this long a wait for the first login is told of, so that a wrong port does not look like a
/// program that hangs.
const SILENCE: Duration = Duration::from_secs(5);

/// How often a command is tried for which the server has no room, 15 s in all.
const ROOM_ATTEMPTS: u32 = 20;

/// The SSH connections to one guest: opened when needed, and again after they broke.
///
/// Dropping it ends the connections in the background, and so does the end of this program,
/// however it ends; [`close`](Self::close) waits for that.
#[derive(Debug)]
pub struct SshSession {
    target: SshTarget,
    masters: Mutex<Vec<Arc<Master>>>,
    /// Held by who opens another connection.
    opening: tokio::sync::Mutex<()>,
    /// Tells of channels that have become free, and of connections that were opened.
    freed: Arc<Notify>,
}

/// A command that runs on the guest. Dropping it ends the command and what it started.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) child: openssh::Child<Arc<openssh::Session>>,
    pub(super) master: Arc<Master>,
    _slot: Slot,
}

/// The right to one channel of a connection.
#[derive(Debug)]
struct Slot {
    master: Arc<Master>,
    permit: Option<OwnedSemaphorePermit>,
    freed: Arc<Notify>,
}

impl Slot {
    /// Gives the right up for good, as the server has no room for it; see [`Master::forgo`].
    fn forgo(mut self) -> bool {
        self.permit
            .take()
            .is_some_and(|permit| self.master.forgo(permit))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.freed.notify_waiters();
    }
}

impl SshSession {
    /// Describes the connections; none is opened yet.
    #[must_use]
    pub fn new(target: SshTarget) -> Self {
        Self {
            target,
            masters: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            freed: Arc::default(),
        }
    }

    /// Where it leads.
    #[must_use]
    pub fn target(&self) -> &SshTarget {
        &self.target
    }

    /// Waits until a login succeeds, as a guest that boots will let it.
    ///
    /// # Errors
    /// Fails with [`SshError::NotReady`] when the time is up, and at once for reasons that time
    /// does not cure: our key is refused, the host key is another one.
    ///
    /// # Cancel safety
    /// Dropping the future ends the attempt.
    pub async fn ready(&self, limit: Duration) -> Result<(), SshError> {
        let started = Instant::now();
        let deadline = started + limit;
        let mut pause = FIRST_PAUSE;
        let mut last = None;
        let mut told = false;
        loop {
            match timeout_at(deadline, self.slot()).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => {
                    let may_install_keys =
                        matches!(error, SshError::KeyRefused | SshError::WrongHostKey)
                            && started.elapsed() < KEY_GRACE;
                    if !error.is_transient() && !may_install_keys {
                        return Err(error);
                    }
                    if !told && started.elapsed() >= SILENCE {
                        told = true;
                        tracing::warn!(
                            address = %self.target.address, port = self.target.port, reason = %error,
                            "no SSH login yet; trying for up to {} s", limit.as_secs()
                        );
                    }
                    last = Some(Box::new(error));
                }
                Err(_) => {}
            }
            if Instant::now() + pause >= deadline {
                let seconds = limit.as_secs();
                return Err(SshError::NotReady { seconds, last });
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Ends all connections and waits until nothing of them is left. Later commands open new ones.
    pub async fn close(&self) {
        let masters = std::mem::take(&mut *self.masters());
        for master in &masters {
            master.cut();
        }
        for master in &masters {
            master.ended().await;
        }
    }

    /// Starts a command, given as constant shell text.
    ///
    /// The command must do nothing before it has read its standard input: one whose start is in
    /// doubt is started again.
    pub(super) async fn spawn(&self, command: &str) -> Result<Channel, SshError> {
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        loop {
            let slot = self.slot().await?;
            match start(&slot.master, command).await {
                Ok(child) => {
                    tracing::debug!(address = %self.target.address, "a command is started");
                    return Ok(Channel {
                        child,
                        master: Arc::clone(&slot.master),
                        _slot: slot,
                    });
                }
                // Each that was open before may have broken unnoticed.
                Err(error @ SshError::Disconnected { .. }) if slot.master.opened < started => {
                    tracing::debug!(%error, "the SSH connection is opened again");
                    slot.master.cut();
                    slot.master.ended().await;
                }
                Err(SshError::Saturated) if attempt < ROOM_ATTEMPTS => {
                    if !slot.forgo() {
                        attempt += 1;
                        sleep(pause).await;
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What the login shell answers to a command, given as constant shell text: its standard output
    /// as far as it comes within this time.
    pub(crate) async fn shell_says(
        &self,
        command: &str,
        limit: Duration,
    ) -> Result<String, SshError> {
        let mut channel = self.spawn(command).await?;
        let mut said = Vec::new();
        if let Some(output) = channel.child.stdout().take() {
            // What it says later does not matter.
            let _ = timeout_at(
                Instant::now() + limit,
                output.take(4096).read_to_end(&mut said),
            )
            .await;
        }
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    /// A free channel of a living connection. Waits for one, and opens another connection when none
    /// becomes free.
    async fn slot(&self) -> Result<Slot, SshError> {
        loop {
            let freed = self.freed.notified();
            if let Some(slot) = self.free() {
                return Ok(slot);
            }
            tokio::select! {
                () = freed => {}
                _opening = self.opening.lock() => {
                    if let Some(slot) = self.grow().await? {
                        return Ok(slot);
                    }
                }
            }
        }
    }

    /// Opens another connection, unless a channel becomes free in time; then the answer is `None`.
    async fn grow(&self) -> Result<Option<Slot>, SshError> {
        let freed = self.freed.notified();
        if let Some(slot) = self.free() {
            return Ok(Some(slot));
        }
        let open = self.masters().len();
        if open == MASTERS {
            freed.await;
            return Ok(None);
        }
        if open > 0 && timeout(GROWTH, freed).await.is_ok() {
            return Ok(None);
        }
        let address = self.target.address;
        tracing::debug!(%address, "opening an SSH connection");
        match Master::connect(&self.target).await {
            Ok(master) => {
                tracing::debug!(%address, "an SSH connection stands");
                self.masters().push(Arc::new(master));
                let slot = self.free();
                self.freed.notify_waiters();
                Ok(slot)
            }
            // A server that turns away further logins still serves those that it has.
            Err(error) if error.is_transient() && self.masters().iter().any(|m| m.is_alive()) => {
                tracing::debug!(%error, "no further SSH connection");
                let _ = timeout(REFUSED, self.freed.notified()).await;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn free(&self) -> Option<Slot> {
        let mut masters = self.masters();
        masters.retain(|master| master.is_alive());
        masters.iter().find_map(|master| {
            Some(Slot {
                permit: Some(master.channel()?),
                master: Arc::clone(master),
                freed: Arc::clone(&self.freed),
            })
        })
    }

    fn masters(&self) -> MutexGuard<'_, Vec<Arc<Master>>> {
        self.masters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn start(
    master: &Master,
    command: &str,
) -> Result<openssh::Child<Arc<openssh::Session>>, SshError> {
    openssh::Session::to_raw_command(master.session(), command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .await
        .map_err(SshError::from_mux)
}

#[cfg(test)]
impl SshSession {
    /// Why no connection can be opened.
    pub(super) async fn slot_error(&self) -> SshError {
        match self.slot().await {
            Ok(_) => SshError::Other {
                reason: "the login succeeded".into(),
            },
            Err(error) => error,
        }
    }
}
