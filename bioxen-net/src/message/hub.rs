//! The hub: who is there, and what they send each other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bioxen_vm_core::{Error, ErrorKind, Result, VmId};
use bytes::Bytes;
use tokio::sync::oneshot;

use super::mailbox::{Deadline, Inbox, Message, Postbox, Refusal, mailbox};

/// How many bytes wait for a receiver before its senders have to wait: 4 MiB.
pub const DEFAULT_MAILBOX: usize = 4 << 20;

/// The longest message: 64 MiB.
pub const LONGEST_MESSAGE: usize = 64 << 20;

/// Of how many who left it is known why.
const REMEMBERED: usize = 256;

/// Passes messages between VMs, and between VMs and Rust. Clones are the same hub.
///
/// See the [module](super) for what is guaranteed.
#[derive(Debug, Clone)]
pub struct Hub {
    mailbox: usize,
    peers: Arc<Mutex<Peers>>,
}

#[derive(Debug, Default)]
struct Peers {
    /// How many have joined so far.
    count: u64,
    present: BTreeMap<VmId, Peer>,
    /// Those who left last, and why.
    gone: VecDeque<(VmId, String)>,
}

#[derive(Debug)]
struct Peer {
    /// Tells it from others that join by the same name before or after.
    number: u64,
    postbox: Postbox,
    topics: BTreeSet<Bytes>,
}

impl Default for Hub {
    fn default() -> Self {
        Self::new()
    }
}

impl Hub {
    /// Makes a hub that nobody has joined yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            mailbox: DEFAULT_MAILBOX,
            peers: Arc::default(),
        }
    }

    /// Sets how many bytes wait for a receiver before its senders have to wait,
    /// [`DEFAULT_MAILBOX`] unless set; for those who join from then on. A message counts 256 bytes
    /// more than it has, and one that is larger than a mailbox is let into an empty one.
    #[must_use]
    pub fn with_mailbox(mut self, bytes: usize) -> Self {
        self.mailbox = bytes;
        self
    }

    /// Joins from Rust, under a name of the form of a [`VmId`]. VMs join by [`join`](Self::join).
    ///
    /// # Errors
    /// Fails with [`ErrorKind::AlreadyExists`] when the name is taken, and with
    /// [`ErrorKind::Config`] when it cannot be one.
    pub fn endpoint(&self, name: &str) -> Result<Endpoint> {
        let name = VmId::new(name)?;
        let (postbox, inbox) = mailbox(self.mailbox);
        let mut peers = self.lock();
        if peers.present.contains_key(&name) {
            let text = format!("{name} has joined already; leave first, or join by another name");
            return Err(Error::new(ErrorKind::AlreadyExists, text).with_operation("join"));
        }
        peers.gone.retain(|(gone, _)| *gone != name);
        peers.count += 1;
        let number = peers.count;
        let peer = Peer {
            number,
            postbox,
            topics: BTreeSet::new(),
        };
        peers.present.insert(name.clone(), peer);
        drop(peers);
        Ok(Endpoint {
            hub: self.clone(),
            name,
            number,
            inbox: tokio::sync::Mutex::new(inbox),
        })
    }

    /// The names of all who have joined, sorted.
    #[must_use]
    pub fn peers(&self) -> Vec<VmId> {
        self.lock().present.keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where to send to reach somebody.
    fn find(&self, name: &str) -> Result<(VmId, Postbox)> {
        let peers = self.lock();
        if let Some((name, peer)) = peers.present.iter().find(|(id, _)| id.as_str() == name) {
            return Ok((name.clone(), peer.postbox.clone()));
        }
        if let Some((_, why)) = peers.gone.iter().find(|(id, _)| id.as_str() == name) {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!("{name} has left: {why}"),
            ));
        }
        let known: Vec<_> = peers.present.keys().map(VmId::as_str).collect();
        Err(Error::new(
            ErrorKind::NotFound,
            format!(
                "nobody has joined as {name:?}; there are: {}",
                known.join(", ")
            ),
        ))
    }

    /// Why somebody who was there a moment ago is not.
    fn gone(&self, name: &VmId) -> Error {
        match self.find(name.as_str()) {
            Err(error) => error,
            // Another one has joined by that name meanwhile.
            Ok(_) => Error::new(ErrorKind::Unavailable, format!("{name} has left")),
        }
    }
}

/// Somebody who has joined a hub. Dropping it leaves the hub.
///
/// All operations may go on at the same time. A time limit of `None` waits for as long as the other
/// one is there.
#[derive(Debug)]
pub struct Endpoint {
    hub: Hub,
    name: VmId,
    number: u64,
    inbox: tokio::sync::Mutex<Inbox>,
}

impl Endpoint {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &VmId {
        &self.name
    }

    /// The hub that it has joined.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Sends a message. Returns when it is in the receiver's mailbox: from then on it will be
    /// received, once, and after those that were sent before it, unless the receiver leaves.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::NotFound`] when nobody has that name, with
    /// [`ErrorKind::Unavailable`] when the receiver has left, and says why, with
    /// [`ErrorKind::Timeout`] when its mailbox had no room in time, and with [`ErrorKind::Config`]
    /// when the message is longer than [`LONGEST_MESSAGE`].
    ///
    /// # Cancel safety
    /// Dropping the future sends nothing.
    pub async fn send(
        &self,
        to: &str,
        bytes: impl Into<Bytes>,
        limit: Option<Duration>,
    ) -> Result<()> {
        let message = Message::new(self.name.clone(), bytes.into());
        self.put(to, message, Deadline::after(limit), "send").await
    }

    /// Sends a message and waits for the reply.
    ///
    /// # Errors
    /// As [`send`](Self::send). With [`ErrorKind::Timeout`] when no reply came in time, and with
    /// [`ErrorKind::Unavailable`] when the receiver left, or dropped the message, without one.
    ///
    /// # Cancel safety
    /// When the future is dropped the message may or may not have been received; its reply goes
    /// nowhere.
    pub async fn request(
        &self,
        to: &str,
        bytes: impl Into<Bytes>,
        limit: Option<Duration>,
    ) -> Result<Bytes> {
        let deadline = Deadline::after(limit);
        let (reply, answer) = oneshot::channel();
        let mut message = Message::new(self.name.clone(), bytes.into());
        message.reply = Some(reply);
        self.put(to, message, deadline, "request").await?;
        let failed = |kind, text| Error::new(kind, text).with_operation("request");
        match deadline.limit(answer).await {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(_dropped)) => Err(failed(
                ErrorKind::Unavailable,
                match self.hub.find(to) {
                    Err(error) => format!("no reply: {error}"),
                    Ok(_) => format!("{to} does not reply to it"),
                },
            )),
            None => Err(failed(
                ErrorKind::Timeout,
                format!("{to} has it, and did not reply in time"),
            )),
        }
    }

    /// The next message for this endpoint; `None` when none came in time. Of several who wait, one
    /// gets it.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Unavailable`] when this endpoint has been taken out of its hub.
    ///
    /// # Cancel safety
    /// Dropping the future loses no message.
    pub async fn receive(&self, limit: Option<Duration>) -> Result<Option<Message>> {
        let next = async { self.inbox.lock().await.next().await };
        match Deadline::after(limit).limit(next).await {
            None => Ok(None),
            Some(Some(message)) => Ok(Some(message)),
            Some(None) => Err(self.hub.gone(&self.name).with_operation("receive")),
        }
    }

    /// Sends a message to all who have [subscribed](Self::subscribe) to its topic, except itself.
    /// Waits for room in each of their mailboxes. Returns how many have it.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Timeout`] when the mailboxes of some had no room in time, and names
    /// them; all others have it then.
    ///
    /// # Cancel safety
    /// When the future is dropped some may have it and others not.
    pub async fn publish(
        &self,
        topic: impl Into<Bytes>,
        bytes: impl Into<Bytes>,
        limit: Option<Duration>,
    ) -> Result<usize> {
        self.spread(Some(topic.into()), bytes.into(), limit, "publish")
            .await
    }

    /// Sends a message to all others. Waits for room in each of their mailboxes. Returns how many
    /// have it.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    ///
    /// # Cancel safety
    /// As of [`publish`](Self::publish).
    pub async fn broadcast(
        &self,
        bytes: impl Into<Bytes>,
        limit: Option<Duration>,
    ) -> Result<usize> {
        self.spread(None, bytes.into(), limit, "broadcast").await
    }

    /// Gets what is published under a topic from now on. A topic is any bytes, compared byte for
    /// byte. Does nothing the second time.
    pub fn subscribe(&self, topic: impl Into<Bytes>) {
        if let Some(own) = self.hub.lock().present.get_mut(&self.name) {
            own.topics.insert(topic.into());
        }
    }

    /// Gets no more of what is published under a topic.
    pub fn unsubscribe(&self, topic: &[u8]) {
        if let Some(own) = self.hub.lock().present.get_mut(&self.name) {
            own.topics.remove(topic);
        }
    }

    /// Leaves the hub, and says why to those who send to it. Does nothing the second time.
    pub(super) fn leave(&self, why: impl Into<String>) {
        let mut peers = self.hub.lock();
        let own = peers.present.get(&self.name);
        let Some(own) = own.filter(|peer| peer.number == self.number) else {
            return;
        };
        own.postbox.close();
        peers.present.remove(&self.name);
        if peers.gone.len() == REMEMBERED {
            peers.gone.pop_front();
        }
        peers.gone.push_back((self.name.clone(), why.into()));
    }

    async fn put(
        &self,
        to: &str,
        message: Message,
        deadline: Deadline,
        operation: &'static str,
    ) -> Result<()> {
        let told = |error: Error| error.with_operation(operation);
        check(&message.bytes).map_err(told)?;
        let (name, postbox) = self.hub.find(to).map_err(told)?;
        postbox.put(message, deadline).await.map_err(|refusal| {
            told(match refusal {
                Refusal::Closed => self.hub.gone(&name),
                Refusal::Full => Error::new(
                    ErrorKind::Timeout,
                    format!("the mailbox of {name} had no room in time; it does not receive"),
                ),
            })
        })
    }

    async fn spread(
        &self,
        topic: Option<Bytes>,
        bytes: Bytes,
        limit: Option<Duration>,
        operation: &'static str,
    ) -> Result<usize> {
        check(&bytes).map_err(|error| error.with_operation(operation))?;
        let deadline = Deadline::after(limit);
        let others: Vec<(VmId, Postbox)> = {
            let peers = self.hub.lock();
            let others = peers.present.iter().filter(|(name, peer)| {
                let wants = topic
                    .as_ref()
                    .is_none_or(|topic| peer.topics.contains(topic));
                **name != self.name && wants
            });
            others
                .map(|(name, peer)| (name.clone(), peer.postbox.clone()))
                .collect()
        };
        let (mut have, mut full) = (0, Vec::new());
        // One after the other: who has no room holds up the rest at most until the time is up, and
        // then those with room still get it.
        for (name, postbox) in others {
            let mut message = Message::new(self.name.clone(), bytes.clone());
            message.topic.clone_from(&topic);
            match postbox.put(message, deadline).await {
                Ok(()) => have += 1,
                Err(Refusal::Full) => full.push(name.to_string()),
                Err(Refusal::Closed) => {}
            }
        }
        if full.is_empty() {
            return Ok(have);
        }
        Err(Error::new(
            ErrorKind::Timeout,
            format!(
                "{have} have it, and the mailboxes of these had no room in time: {}",
                full.join(", ")
            ),
        )
        .with_operation(operation))
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.leave("it is no longer in use");
    }
}

fn check(bytes: &Bytes) -> Result<()> {
    if bytes.len() <= LONGEST_MESSAGE {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Config,
        format!(
            "the message has {} bytes, and the longest may have {LONGEST_MESSAGE}; send it in parts",
            bytes.len()
        ),
    ))
}
