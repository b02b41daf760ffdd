//! What others see of a session.

use bytes::Bytes;
use tokio::sync::broadcast;

use super::Answer;
use crate::OutputStream;

/// What a session does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionStatus {
    /// It waits for a chunk.
    Idle,
    /// A chunk runs.
    Running,
    /// It is over.
    Ended,
}

/// What happens in a session, for those who are attached to it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// A chunk was given.
    Chunk(Bytes),
    /// Something was written.
    Output(OutputStream, Bytes),
    /// A chunk was answered.
    Answered(Answer),
    /// The session is over.
    Ended,
}

/// Sees what happens in a session, whoever gives the chunks. Dropping it detaches.
#[derive(Debug)]
pub struct Attachment {
    pub(super) events: broadcast::Receiver<SessionEvent>,
}

impl Attachment {
    /// Waits for the next event; `None` once the session is gone. One who is far behind loses the
    /// oldest.
    ///
    /// # Cancel safety
    /// No event is lost by dropping the future.
    pub async fn next(&mut self) -> Option<SessionEvent> {
        loop {
            match self.events.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}
