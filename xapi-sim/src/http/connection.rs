//! A connection, and what becomes of its bytes on their way.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

/// How much room for bytes to come is made at least, so that large bodies come in large pieces.
const READ_AHEAD: usize = 64 * 1024;
/// How much is taken in of a body that waits, so as to see whether its sender is still there.
const MOST_AHEAD: usize = 64 * 1024 * 1024;

/// What carries bytes both ways: a socket, with or without TLS.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// What rules do to a transfer: the bytes of a body, in either direction.
#[derive(Debug, Default)]
pub(crate) struct Way {
    /// How many bytes come through before the connection ends.
    pub(crate) left: Option<usize>,
    /// How long the first of them wait; what is sent waits in its middle.
    pub(crate) pause: Option<Duration>,
    /// Whether the client gets to see nothing.
    pub(crate) mute: bool,
    /// Whether more would have come.
    pub(crate) cut: bool,
}

/// A connection, and what has been read from it and not been used yet.
pub(crate) struct Connection {
    pub(super) stream: Box<dyn Stream>,
    pub(super) buffer: Vec<u8>,
    pub(crate) way: Way,
}

impl Connection {
    pub(super) fn new(stream: impl Stream + 'static) -> Self {
        Connection {
            stream: Box::new(stream),
            buffer: Vec::new(),
            way: Way::default(),
        }
    }

    /// Reads more into the buffer, and tells whether anything came.
    async fn fill(&mut self) -> bool {
        self.buffer.reserve(READ_AHEAD);
        matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..))
    }

    /// Exactly so many bytes; `None` when the client ends before.
    pub(crate) async fn read(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < length {
            if !self.fill().await {
                return None;
            }
        }
        if self.admit(length).await < length {
            return None;
        }
        let rest = self.buffer.split_off(length);
        Some(std::mem::replace(&mut self.buffer, rest))
    }

    /// As many bytes as come without waiting, at least one and at most so many; none at the end.
    pub(crate) async fn read_some(&mut self, most: usize) -> Vec<u8> {
        if self.buffer.is_empty() && !self.fill().await {
            return Vec::new();
        }
        let length = self.admit(most.min(self.buffer.len())).await;
        let rest = self.buffer.split_off(length);
        std::mem::replace(&mut self.buffer, rest)
    }

    /// How many of so many bytes that have come come through.
    async fn admit(&mut self, length: usize) -> usize {
        match self.way.pause.take() {
            Some(pause) if !self.waits(pause).await => 0,
            _ => self.take(length),
        }
    }

    /// Waits for so long; tells whether the client was there all the time.
    async fn waits(&mut self, pause: Duration) -> bool {
        let end = Instant::now() + pause;
        while self.buffer.len() < MOST_AHEAD {
            tokio::select! {
                () = sleep_until(end) => return true,
                came = self.fill() => if !came {
                    return false;
                },
            }
        }
        sleep_until(end).await;
        true
    }

    /// Counts bytes against those that are left.
    fn take(&mut self, length: usize) -> usize {
        let Some(left) = &mut self.way.left else {
            return length;
        };
        let taken = length.min(*left);
        *left -= taken;
        self.way.cut |= taken < length;
        taken
    }

    /// Writes a head as handlers do it, line by line.
    pub(crate) async fn write_head(&mut self, lines: &[&str]) -> io::Result<()> {
        let mut head = lines.join("\r\n");
        head.push_str("\r\n\r\n");
        self.send(head.as_bytes()).await
    }

    /// Writes a part of a body.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let taken = self.take(bytes.len());
        let mut rest = &bytes[..taken];
        if let Some(pause) = self.way.pause.take() {
            let (first, second) = rest.split_at(taken / 2);
            self.send(first).await?;
            tokio::time::sleep(pause).await;
            rest = second;
        }
        self.send(rest).await?;
        if taken < bytes.len() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.way.mute {
            return Ok(());
        }
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }
}
