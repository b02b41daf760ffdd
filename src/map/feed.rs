//! What programs read: pieces of the inputs, or the results of all shards, as streams.

use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bioxen_vm_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncWriteExt as _, DuplexStream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::records::Records;
use super::split::{Shard, Table, unreadable};

/// How much is read ahead of a program, in bytes.
const AHEAD: usize = 256 << 10;

/// A stream that is being made.
pub(super) struct Fed {
    making: JoinHandle<Result<Duration>>,
}

impl Fed {
    /// Waits until nothing more is made, and gives the time that making took, without that in which
    /// the program did not take what there was. Call it when the stream has been dropped.
    ///
    /// # Errors
    /// Fails when the stream ended too early, for a reason on this machine. What the program made of
    /// it is wrong then.
    pub(super) async fn end(self) -> Result<Duration> {
        self.making.await.unwrap_or_else(|error| {
            let message = "the thread that read the input ended early";
            Err(Error::new(ErrorKind::Internal, message).with_source(error))
        })
    }
}

/// Makes a stream of what is written, on a thread of its own. A program that does not read to the
/// end is no failure.
pub(super) fn feed(
    write: impl FnOnce(&mut dyn Write) -> Result<()> + Send + 'static,
) -> (impl AsyncRead + Unpin + Send + 'static, Fed) {
    let (reader, stream) = tokio::io::duplex(AHEAD);
    let mut pipe = Pipe {
        runtime: Handle::current(),
        stream,
        waited: Duration::ZERO,
        is_left: false,
    };
    let making = tokio::task::spawn_blocking(move || {
        let begun = Instant::now();
        match write(&mut pipe) {
            Err(error) if !pipe.is_left => return Err(error),
            _ => {}
        }
        Ok(begun.elapsed().saturating_sub(pipe.waited))
    });
    (reader, Fed { making })
}

/// The end of a stream that a thread writes to.
struct Pipe {
    runtime: Handle,
    stream: DuplexStream,
    waited: Duration,
    /// Whether nobody reads any more.
    is_left: bool,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let begun = Instant::now();
        let written = self.runtime.block_on(self.stream.write(bytes));
        self.waited += begun.elapsed();
        self.is_left |= written.is_err();
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the records of a shard; those of pairs in turns.
pub(super) fn write_shard(table: &Table, number: usize, to: &mut dyn Write) -> Result<()> {
    let shard = &table.shards[number];
    if table.paired {
        return write_pairs(table, shard, to);
    }
    let mut buffer = vec![0; AHEAD];
    for piece in &shard.pieces {
        let source = &table.sources[piece.source];
        let cannot = |error| unreadable(&source.name, error);
        let mut file = source.open()?;
        file.seek(SeekFrom::Start(piece.offset)).map_err(cannot)?;
        let mut file = file.take(piece.length);
        while file.limit() > 0 {
            match file.read(&mut buffer) {
                Ok(0) => return Err(cannot(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => to.write_all(&buffer[..count]).map_err(left)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(cannot(error)),
            }
        }
        if piece.is_open {
            to.write_all(b"\n").map_err(left)?;
        }
    }
    Ok(())
}

fn write_pairs(table: &Table, shard: &Shard, to: &mut dyn Write) -> Result<()> {
    let mut sides = Vec::new();
    for piece in &shard.pieces {
        let source = &table.sources[piece.source];
        let mut file = source.open()?;
        let sought = file.seek(SeekFrom::Start(piece.offset));
        sought.map_err(|error| unreadable(&source.name, error))?;
        let name = source.name.display().to_string();
        sides.push(Records::new(file.take(piece.length), table.format, name));
    }
    let mut record = Vec::new();
    for _ in 0..shard.records {
        for side in &mut sides {
            record.clear();
            if side.take(&mut record)?.is_none() {
                return Err(side.refuse("the file ends early; it was changed while it was mapped"));
            }
            if record.last() != Some(&b'\n') {
                record.push(b'\n');
            }
            to.write_all(&record).map_err(left)?;
        }
    }
    Ok(())
}

/// The error when nobody reads any more, which `feed` knows by itself.
pub(super) fn left(error: io::Error) -> Error {
    Error::new(ErrorKind::Cancelled, "nobody reads the stream any more").with_source(error)
}

/// The records of a shard as a stream.
pub(super) fn shard(
    table: &Arc<Table>,
    number: usize,
) -> (impl AsyncRead + Unpin + Send + 'static, Fed) {
    let table = Arc::clone(table);
    feed(move |to| write_shard(&table, number, to))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::io::AsyncReadExt as _;

    use super::super::records::Format;
    use super::super::split::{Input, Shards, split};
    use super::*;

    async fn text(table: &Arc<Table>, number: usize) -> String {
        let (mut stream, fed) = shard(table, number);
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        drop(stream);
        fed.end().await.unwrap();
        text
    }

    #[tokio::test]
    async fn pairs_come_in_turns_and_every_record_has_its_line_end() {
        let lab = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            fs::write(lab.path().join(name), text).unwrap();
            lab.path().join(name)
        };
        let (a, b) = (file("a", ">1\nA\n>2\nAA"), file("b", ">1\nC\n>2\nCC"));
        let input = Input::paired(&a, &b, Format::Fasta);
        let table = Arc::new(split(&input, Shards::Count(1), lab.path()).unwrap());
        assert_eq!(text(&table, 0).await, ">1\nA\n>1\nC\n>2\nAA\n>2\nCC\n");
        let input = Input::new([&a, &b], Format::Fasta);
        let table = Arc::new(split(&input, Shards::Records(3), lab.path()).unwrap());
        assert_eq!(text(&table, 0).await, ">1\nA\n>2\nAA\n>1\nC\n");
        assert_eq!(text(&table, 1).await, ">2\nCC\n");
    }

    #[tokio::test]
    async fn a_reader_who_leaves_is_no_failure_and_an_input_that_changes_is_one() {
        let lab = tempfile::tempdir().unwrap();
        let file = lab.path().join("x");
        fs::write(&file, "x\n".repeat(AHEAD)).unwrap();
        let input = Input::new([&file], Format::Lines);
        let table = Arc::new(split(&input, Shards::Count(1), lab.path()).unwrap());
        let (mut stream, fed) = shard(&table, 0);
        stream.read_u8().await.unwrap();
        drop(stream);
        fed.end().await.unwrap();

        fs::write(&file, "y\n").unwrap();
        let (mut stream, fed) = shard(&table, 0);
        assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap(), 0);
        drop(stream);
        let error = fed.end().await.unwrap_err();
        assert!(error.to_string().contains("changed"), "{error}");
    }
}
