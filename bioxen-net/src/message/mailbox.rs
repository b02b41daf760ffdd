//! Mailboxes: where messages wait for their receiver, in limited room.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bioxen_vm_core::{Error, ErrorKind, Result, VmId};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

/// What a message takes of a mailbox besides its bytes.
const OVERHEAD: usize = 256;

/// A message that was received.
///
/// One that was sent with [`request`](super::Endpoint::request) is answered with
/// [`reply`](Self::reply); dropping it unanswered tells the sender that no reply will come.
#[non_exhaustive]
pub struct Message {
    /// Who sent it.
    pub from: VmId,
    /// What it was published under; `None` for one that was sent to its receiver, or to all.
    pub topic: Option<Bytes>,
    /// What was sent.
    pub bytes: Bytes,
    pub(super) reply: Option<oneshot::Sender<Bytes>>,
}

impl Message {
    /// A message to one receiver.
    pub(super) fn new(from: VmId, bytes: Bytes) -> Self {
        Self {
            from,
            topic: None,
            bytes,
            reply: None,
        }
    }

    /// Whether its sender waits for a reply.
    #[must_use]
    pub fn wants_reply(&self) -> bool {
        self.reply.as_ref().is_some_and(|reply| !reply.is_closed())
    }

    /// Answers it. Waits for nothing: the sender has asked for it and has room.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::InvalidState`] when no reply was asked for, and with
    /// [`ErrorKind::Unavailable`] when the sender waits no longer.
    pub fn reply(self, bytes: impl Into<Bytes>) -> Result<()> {
        let Some(reply) = self.reply else {
            let text = format!("{} did not ask for a reply; use send", self.from);
            return Err(Error::new(ErrorKind::InvalidState, text).with_operation("reply"));
        };
        reply.send(bytes.into()).map_err(|_| {
            let text = format!("{} waits for the reply no longer", self.from);
            Error::new(ErrorKind::Unavailable, text).with_operation("reply")
        })
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("from", &self.from)
            .field("topic", &self.topic)
            .field("bytes", &self.bytes.len())
            .field("wants_reply", &self.wants_reply())
            .finish()
    }
}

/// When an operation is to be given up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Option<Instant>);

impl Deadline {
    /// After this long; never for `None`.
    pub(super) fn after(limit: Option<Duration>) -> Self {
        // A limit beyond the end of the clock is none.
        Self(limit.and_then(|limit| Instant::now().checked_add(limit)))
    }

    /// What the future gives, or `None` when the time is up first.
    pub(super) async fn limit<T>(self, future: impl Future<Output = T>) -> Option<T> {
        match self.0 {
            Some(deadline) => tokio::time::timeout_at(deadline, future).await.ok(),
            None => Some(future.await),
        }
    }
}

/// The receiver's end of a mailbox: messages in the order in which they were put in.
#[derive(Debug)]
pub(super) struct Inbox(mpsc::UnboundedReceiver<(Message, OwnedSemaphorePermit)>);

impl Inbox {
    /// The next message; `None` when the mailbox is closed and empty.
    ///
    /// Dropping the future loses no message.
    pub(super) async fn next(&mut self) -> Option<Message> {
        self.0.recv().await.map(|(message, _room)| message)
    }
}

/// The senders' end of a mailbox.
#[derive(Debug, Clone)]
pub(super) struct Postbox {
    messages: mpsc::UnboundedSender<(Message, OwnedSemaphorePermit)>,
    /// In bytes.
    room: Arc<Semaphore>,
    capacity: usize,
}

/// Why a message was not put into a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There was no room for it in time.
    Full,
    /// Its receiver is no longer there.
    Closed,
}

/// Makes a mailbox with room for so many bytes.
pub(super) fn mailbox(capacity: usize) -> (Postbox, Inbox) {
    let capacity = capacity.clamp(OVERHEAD, u32::MAX as usize >> 4);
    let room = Arc::new(Semaphore::new(capacity));
    let (sender, messages) = mpsc::unbounded_channel();
    let postbox = Postbox {
        messages: sender,
        room,
        capacity,
    };
    (postbox, Inbox(messages))
}

impl Postbox {
    /// Lets nothing more in. Those who wait for room are told.
    pub(super) fn close(&self) {
        self.room.close();
    }

    /// Puts a message in, once there is room for it. One that is larger than the mailbox waits until
    /// the mailbox is empty. Who comes first is served first.
    ///
    /// Dropping the future puts nothing in.
    pub(super) async fn put(&self, message: Message, deadline: Deadline) -> Result<(), Refusal> {
        let size = message.bytes.len().saturating_add(OVERHEAD);
        let size = u32::try_from(size.min(self.capacity)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(size);
        match deadline.limit(room).await {
            None => Err(Refusal::Full),
            Some(Err(_closed)) => Err(Refusal::Closed),
            Some(Ok(room)) => self
                .messages
                .send((message, room))
                .map_err(|_| Refusal::Closed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(size: usize) -> Message {
        Message::new(VmId::new("a").unwrap(), vec![b'x'; size].into())
    }

    const NEVER: Deadline = Deadline(None);

    fn now() -> Deadline {
        Deadline::after(Some(Duration::ZERO))
    }

    #[tokio::test]
    async fn who_sends_into_a_full_mailbox_waits_until_there_is_room() {
        let (postbox, mut inbox) = mailbox(4 * OVERHEAD);
        let half = 2 * OVERHEAD - OVERHEAD;
        postbox.put(message(half), now()).await.unwrap();
        postbox.put(message(half), now()).await.unwrap();
        assert_eq!(postbox.put(message(0), now()).await, Err(Refusal::Full));
        let (put, got) = tokio::join!(postbox.put(message(1), NEVER), inbox.next());
        assert_eq!((put, got.unwrap().bytes.len()), (Ok(()), half));
    }

    #[tokio::test]
    async fn a_message_larger_than_the_mailbox_waits_until_it_is_empty() {
        let (postbox, mut inbox) = mailbox(1000);
        postbox.put(message(1), now()).await.unwrap();
        assert_eq!(postbox.put(message(5000), now()).await, Err(Refusal::Full));
        inbox.next().await.unwrap();
        postbox.put(message(5000), now()).await.unwrap();
        assert_eq!(inbox.next().await.unwrap().bytes.len(), 5000);
    }

    #[tokio::test]
    async fn who_waits_for_room_is_told_when_the_mailbox_is_closed() {
        let (postbox, _inbox) = mailbox(1000);
        postbox.put(message(1000), now()).await.unwrap();
        let (put, ()) = tokio::join!(postbox.put(message(1), NEVER), async { postbox.close() });
        assert_eq!(put, Err(Refusal::Closed));
        assert_eq!(postbox.put(message(1), now()).await, Err(Refusal::Closed));
    }
}
