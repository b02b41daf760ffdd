use std::ops::ControlFlow;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;

use crate::Outcome;

/// One of the two streams that a program writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Takes what a program writes, as it comes.
#[async_trait]
pub trait OutputSink: Send {
    /// Takes the next piece of a stream. No further piece of either stream is read before this
    /// returns, so a program that writes faster than its output is taken has to wait.
    ///
    /// `Break` ends the program with all that it started; its status is then
    /// [`Status::OutputLimit`](crate::Status::OutputLimit).
    async fn write(&mut self, stream: OutputStream, piece: Bytes) -> ControlFlow<()>;
}

/// Keeps the first bytes of each stream and counts on the rest being dropped.
#[derive(Debug)]
pub struct Gather {
    stdout: Kept,
    stderr: Kept,
    limit: usize,
}

#[derive(Debug, Default)]
struct Kept {
    bytes: BytesMut,
    truncated: bool,
}

impl Gather {
    /// Keeps this many bytes of each stream.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            stdout: Kept::default(),
            stderr: Kept::default(),
            limit,
        }
    }

    /// Puts what was kept into an outcome.
    #[must_use]
    pub fn into_outcome(self, mut outcome: Outcome) -> Outcome {
        outcome.stdout = self.stdout.bytes.freeze();
        outcome.stdout_truncated = self.stdout.truncated;
        outcome.stderr = self.stderr.bytes.freeze();
        outcome.stderr_truncated = self.stderr.truncated;
        outcome
    }
}

#[async_trait]
impl OutputSink for Gather {
    async fn write(&mut self, stream: OutputStream, piece: Bytes) -> ControlFlow<()> {
        let kept = match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        let room = self.limit - kept.bytes.len();
        kept.truncated |= piece.len() > room;
        kept.bytes
            .extend_from_slice(&piece[..piece.len().min(room)]);
        ControlFlow::Continue(())
    }
}

/// A sink that hands output to the receiver of a channel, which holds this many pieces before the
/// program has to wait. The program ends when the receiver is dropped.
///
/// ```no_run
/// # use bioxen_vm_core::{LuaVm, Outcome, Result, Script, channel};
/// # async fn example(vm: &dyn LuaVm, script: Script) -> Result<Outcome> {
/// let (mut sink, mut pieces) = channel(16);
/// let run = async move { vm.execute_streaming(script, &mut sink).await };
/// let show = async {
///     while let Some((stream, bytes)) = pieces.recv().await {
///         println!("{stream:?}: {} bytes", bytes.len());
///     }
/// };
/// let (outcome, ()) = tokio::join!(run, show);
/// outcome
/// # }
/// ```
#[must_use]
pub fn channel(pieces: usize) -> (ChannelSink, mpsc::Receiver<(OutputStream, Bytes)>) {
    let (sender, receiver) = mpsc::channel(pieces.max(1));
    (ChannelSink { sender }, receiver)
}

/// The sending half of [`channel`].
#[derive(Debug, Clone)]
pub struct ChannelSink {
    sender: mpsc::Sender<(OutputStream, Bytes)>,
}

#[async_trait]
impl OutputSink for ChannelSink {
    async fn write(&mut self, stream: OutputStream, piece: Bytes) -> ControlFlow<()> {
        match self.sender.send((stream, piece)).await {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

/// Reads what a program writes in pieces, each in memory of its own and none copied.
#[derive(Debug)]
pub struct Pieces<S> {
    /// `None` once it has ended.
    stream: Option<S>,
    buffer: BytesMut,
}

impl<S: AsyncRead + Unpin> Pieces<S> {
    /// How much is read at once, in bytes.
    pub const SIZE: usize = 64 << 10;

    /// Reads this stream.
    pub fn new(stream: S) -> Self {
        Self {
            stream: Some(stream),
            buffer: BytesMut::new(),
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stream.is_none()
    }

    /// The next piece; `None` at the end, and ever after. A stream that breaks has nothing more to
    /// give, as one that ends.
    ///
    /// # Cancel safety
    /// No byte is lost by dropping the future.
    pub async fn next(&mut self) -> Option<Bytes> {
        let stream = self.stream.as_mut()?;
        if self.buffer.capacity() < Self::SIZE / 4 {
            self.buffer.reserve(Self::SIZE);
        }
        match stream.read_buf(&mut self.buffer).await {
            Ok(1..) => Some(self.buffer.split().freeze()),
            Ok(0) | Err(_) => {
                self.stream = None;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;

    #[tokio::test]
    async fn a_stream_is_read_in_pieces_to_its_end() {
        let mut pieces = Pieces::new(&b"ab"[..]);
        assert!(!pieces.is_over());
        assert_eq!(pieces.next().await, Some(Bytes::from("ab")));
        assert_eq!(pieces.next().await, None);
        assert!(pieces.is_over());
        assert_eq!(pieces.next().await, None);
    }

    #[tokio::test]
    async fn what_is_over_the_limit_is_dropped_and_said_so() {
        let mut gather = Gather::new(3);
        for (stream, piece) in [
            (OutputStream::Stdout, "ab"),
            (OutputStream::Stderr, "xyz"),
            (OutputStream::Stdout, "cd"),
            (OutputStream::Stdout, "e"),
        ] {
            assert!(gather.write(stream, piece.into()).await.is_continue());
        }
        let outcome = gather.into_outcome(Outcome::new(Status::Exited(0)));
        assert_eq!(
            (&outcome.stdout[..], outcome.stdout_truncated),
            (&b"abc"[..], true)
        );
        assert_eq!(
            (&outcome.stderr[..], outcome.stderr_truncated),
            (&b"xyz"[..], false)
        );
    }

    #[tokio::test]
    async fn a_dropped_receiver_wants_no_more() {
        let (mut sink, receiver) = channel(1);
        let piece = Bytes::from("x");
        assert!(
            sink.write(OutputStream::Stdout, piece.clone())
                .await
                .is_continue()
        );
        drop(receiver);
        assert!(sink.write(OutputStream::Stdout, piece).await.is_break());
    }
}
