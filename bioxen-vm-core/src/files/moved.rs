//! How far copies are.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::watch;

/// How far copies are, as [`Files::progress`](super::Files::progress) tells it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Moved {
    /// How many bytes are where they are to go.
    pub bytes: u64,
    /// How many of them an earlier copy that broke off had brought there.
    pub resumed: u64,
    /// How many bytes there will be, as far as is known by now.
    pub total: u64,
    /// How many files are whole.
    pub files: u64,
    /// How many there will be, as far as is known by now.
    pub total_files: u64,
}

/// Counts what moves.
#[derive(Debug, Clone, Default)]
pub(super) struct Counter {
    told: watch::Sender<Moved>,
    /// Whether the totals have what is copied already, as those of a folder do.
    is_announced: bool,
}

impl Counter {
    pub(super) fn subscribe(&self) -> watch::Receiver<Moved> {
        self.told.subscribe()
    }

    /// Tells beforehand of files that will be copied, and counts them with what this gives.
    pub(super) fn announce(&self, files: u64, bytes: u64) -> Self {
        self.told.send_modify(|moved| {
            moved.total += bytes;
            moved.total_files += files;
        });
        Self {
            told: self.told.clone(),
            is_announced: true,
        }
    }

    /// A file begins to move, of which some bytes are there.
    pub(super) fn begin(&self, size: u64, resumed: u64) {
        if !self.is_announced {
            self.announce(1, size);
        }
        self.told.send_modify(|moved| {
            moved.bytes += resumed;
            moved.resumed += resumed;
        });
    }

    pub(super) fn add(&self, bytes: usize) {
        self.told.send_modify(|moved| moved.bytes += bytes as u64);
    }

    /// A file is whole.
    pub(super) fn finish(&self) {
        self.told.send_modify(|moved| moved.files += 1);
    }
}

/// A reader of what moves.
#[derive(Debug)]
pub(super) struct Counted<R> {
    source: R,
    counter: Counter,
}

impl<R> Counted<R> {
    pub(super) fn new(source: R, counter: Counter) -> Self {
        Self { source, counter }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Counted<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.source).poll_read(cx, buffer))?;
        self.counter.add(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}
