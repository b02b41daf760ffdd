//! Between connections, which wait, and code that reads and writes files, which blocks.

use std::io::{self, Read, Write};

use tokio::sync::mpsc;

use super::Trouble;
use crate::http::Connection;

/// How many pieces may wait between the two sides.
const WAITING: usize = 4;
/// Bytes travel in pieces of at most this many.
const PIECE: usize = 256 * 1024;

/// Bytes from a client, to be read in blocking code.
pub(super) struct Inflow {
    pieces: mpsc::Receiver<Vec<u8>>,
    piece: Vec<u8>,
    used: usize,
}

impl Read for Inflow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.used == self.piece.len() {
            match self.pieces.blocking_recv() {
                Some(piece) => (self.piece, self.used) = (piece, 0),
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.piece.len() - self.used);
        buffer[..length].copy_from_slice(&self.piece[self.used..self.used + length]);
        self.used += length;
        Ok(length)
    }
}

/// Bytes for a client, written by blocking code.
pub(super) struct Outflow {
    pieces: mpsc::Sender<Vec<u8>>,
    piece: Vec<u8>,
}

impl Write for Outflow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        let sent = self.pieces.blocking_send(piece);
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Runs blocking code on the bytes that come from a client, at most so many.
pub(super) async fn inflow<T: Send + 'static>(
    connection: &mut Connection,
    length: Option<u64>,
    work: impl FnOnce(Inflow) -> T + Send + 'static,
) -> Result<T, Trouble> {
    let (sender, pieces) = mpsc::channel(WAITING);
    let inflow = Inflow {
        pieces,
        piece: Vec::new(),
        used: 0,
    };
    let mut work = tokio::task::spawn_blocking(move || work(inflow));
    let mut left = length.unwrap_or(u64::MAX);
    let feed = async {
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let piece = connection.read_some(most).await;
            left -= piece.len() as u64;
            if piece.is_empty() || sender.send(piece).await.is_err() {
                break;
            }
        }
        // Without the sender the other side comes to its end.
        drop(sender);
    };
    let result = tokio::select! {
        // Who has seen enough does not wait for more.
        result = &mut work => result,
        () = feed => work.await,
    };
    result.map_err(|_| Trouble::Gone)
}

/// Runs blocking code whose bytes go to a client.
pub(super) async fn outflow<T: Send + 'static>(
    connection: &mut Connection,
    work: impl FnOnce(Outflow) -> T + Send + 'static,
) -> Result<T, Trouble> {
    let (sender, mut pieces) = mpsc::channel(WAITING);
    let outflow = Outflow {
        pieces: sender,
        piece: Vec::with_capacity(PIECE),
    };
    let work = tokio::task::spawn_blocking(move || work(outflow));
    while let Some(piece) = pieces.recv().await {
        connection.write(&piece).await?;
    }
    work.await.map_err(|_| Trouble::Gone)
}
