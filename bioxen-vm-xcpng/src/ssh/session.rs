use std::sync::Arc;
use std::time::Duration;

use openssh::Stdio;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};

use super::master::{CHANNELS, Master};
use super::{SshError, SshTarget};

/// How many connections one guest gets at most.
const MASTERS: usize = 4;

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
    room: Arc<Semaphore>,
}

/// A command that runs on the guest. Dropping it ends the command and what it started.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) child: openssh::Child<Arc<openssh::Session>>,
    pub(super) master: Arc<Master>,
    _slot: OwnedSemaphorePermit,
    _room: OwnedSemaphorePermit,
}

impl SshSession {
    /// Describes the connections; none is opened yet.
    #[must_use]
    pub fn new(target: SshTarget) -> Self {
        Self {
            target,
            masters: Mutex::default(),
            room: Arc::new(Semaphore::new(MASTERS * CHANNELS)),
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
        let masters = std::mem::take(&mut *self.masters.lock().await);
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
        let room = Arc::clone(&self.room);
        let room = room.acquire_owned().await.map_err(|error| {
            SshError::Client(error.into()) // Never closed, so never an error.
        })?;
        let mut pause = FIRST_PAUSE;
        let mut reconnected = false;
        for attempt in 1.. {
            let failure = match self.slot().await {
                Ok((master, slot)) => match start(&master, command).await {
                    Ok(child) => {
                        return Ok(Channel {
                            child,
                            master,
                            _slot: slot,
                            _room: room,
                        });
                    }
                    Err(error @ SshError::Disconnected { .. }) if !reconnected => {
                        tracing::debug!(%error, "the SSH connection is opened again");
                        master.cut();
                        master.ended().await;
                        reconnected = true;
                        continue;
                    }
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if !matches!(failure, SshError::Saturated) || attempt == ROOM_ATTEMPTS {
                return Err(failure);
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Err(SshError::Saturated)
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

    /// A free channel of a living connection; opens one more when all are in use.
    async fn slot(&self) -> Result<(Arc<Master>, OwnedSemaphorePermit), SshError> {
        let mut masters = self.masters.lock().await;
        masters.retain(|master| master.is_alive());
        let free = masters
            .iter()
            .find_map(|master| Some((Arc::clone(master), master.channel()?)));
        if let Some(free) = free {
            return Ok(free);
        }
        if masters.len() == MASTERS {
            return Err(SshError::Saturated);
        }
        match Master::connect(&self.target).await {
            Ok(master) => {
                let master = Arc::new(master);
                let slot = master.channel().ok_or(SshError::Saturated)?;
                masters.push(Arc::clone(&master));
                Ok((master, slot))
            }
            // A server that turns away further logins still serves those that it has.
            Err(error) if error.is_transient() && !masters.is_empty() => {
                tracing::debug!(%error, "no further SSH connection");
                Err(SshError::Saturated)
            }
            Err(error) => Err(error),
        }
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
