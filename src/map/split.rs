//! Cuts inputs into shards: tables of offsets, nothing of the data itself.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bioxen_vm_core::{Error, ErrorKind, Result};
use flate2::read::MultiGzDecoder;
use serde::{Deserialize, Serialize};

use super::records::{Format, Records};
use crate::sums::Summed;

/// The files whose records are mapped.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Input {
    /// The files, one after the other as if they were one; or two, whose records are pairs.
    pub files: Vec<PathBuf>,
    /// What the records are.
    pub format: Format,
    /// Whether a record of the first file and the one at the same place of the second are a pair.
    /// Programs get both, one after the other.
    pub paired: bool,
}

impl Input {
    /// The records of these files, one after the other as if they were one file. Files may be
    /// compressed with gzip; they are unpacked into the work folder first.
    pub fn new(files: impl IntoIterator<Item = impl Into<PathBuf>>, format: Format) -> Self {
        Self {
            files: files.into_iter().map(Into::into).collect(),
            format,
            paired: false,
        }
    }

    /// The pairs of two files, kept together: a program gets a record of the first file and then the
    /// one of the second.
    pub fn paired(first: impl Into<PathBuf>, second: impl Into<PathBuf>, format: Format) -> Self {
        Self {
            files: vec![first.into(), second.into()],
            format,
            paired: true,
        }
    }
}

/// Where shards end. Every shard ends with a record, and has one at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Shards {
    /// So many of about the same number of bytes; fewer where there are fewer records.
    Count(u64),
    /// At most so many bytes each, or a single record that is longer.
    Bytes(u64),
    /// So many records each.
    Records(u64),
}

/// A file that is mapped.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// As the user calls it.
    pub(super) name: PathBuf,
    /// Where its plain text is.
    plain: PathBuf,
    /// Of the file as it is, packed or not.
    pub(super) sha256: String,
    /// What the plain text looked like when it was cut.
    stamp: Stamp,
}

type Stamp = (u64, u64, i64, i64);

fn stamp(file: &File) -> io::Result<Stamp> {
    let metadata = file.metadata()?;
    Ok((
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    ))
}

impl Source {
    /// Opens the plain text, unless it is not what was cut.
    pub(super) fn open(&self) -> Result<File> {
        let opened = File::open(&self.plain).and_then(|file| Ok((stamp(&file)?, file)));
        match opened {
            Ok((stamp, file)) if stamp == self.stamp => Ok(file),
            Ok(_) => Err(Error::new(
                ErrorKind::Config,
                format!(
                    "{} was changed while it was mapped; begin again",
                    self.name.display()
                ),
            )),
            Err(error) => Err(unreadable(&self.name, error)),
        }
    }
}

/// A part of a source that begins and ends with records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) source: usize,
    pub(super) offset: u64,
    pub(super) length: u64,
    /// Whether its last line lacks its end.
    pub(super) is_open: bool,
}

/// What one program gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shard {
    /// The number of its first record, or pair, from 1.
    pub(super) first: u64,
    pub(super) records: u64,
    pub(super) pieces: Vec<Piece>,
}

impl Shard {
    pub(super) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.length).sum()
    }
}

/// The inputs and how they are cut.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) format: Format,
    pub(super) paired: bool,
    pub(super) sources: Vec<Source>,
    pub(super) shards: Vec<Shard>,
}

impl Table {
    pub(super) fn records(&self) -> u64 {
        self.shards.iter().map(|shard| shard.records).sum()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.shards.iter().map(Shard::bytes).sum()
    }
}

/// Reads the inputs once and cuts them. Blocks for as long as that takes.
///
/// What is packed is unpacked into the folder. What is no whole record is refused.
pub(super) fn split(input: &Input, shards: Shards, folder: &Path) -> Result<Table> {
    check(input, shards)?;
    let mut readers = Vec::new();
    for (number, name) in input.files.iter().enumerate() {
        readers.push(Reader::open(name, input.format, folder, number)?);
    }
    let total: u64 = readers.iter().map(|reader| reader.stamp.1).sum();
    let mut cutter = Cutter {
        shards,
        total,
        passed: 0,
        records: 0,
        closed: 0,
        done: Vec::new(),
        open: None,
    };
    if input.paired {
        let [first, second] = &mut readers[..] else {
            return Err(unpaired(input.files.len()));
        };
        while let Some(lengths) = next_pair(first, second)? {
            let starts = [first.at - lengths[0], second.at - lengths[1]];
            cutter.add(&[(0, starts[0], lengths[0]), (1, starts[1], lengths[1])]);
        }
    } else {
        for (number, reader) in readers.iter_mut().enumerate() {
            while let Some(length) = reader.pass()? {
                cutter.add(&[(number, reader.at - length, length)]);
            }
        }
    }
    let mut shards = cutter.finish();
    for piece in shards.iter_mut().flat_map(|shard| &mut shard.pieces) {
        let reader = &readers[piece.source];
        piece.is_open =
            !reader.records.ends_with_newline() && piece.offset + piece.length == reader.at;
    }
    if shards.is_empty() {
        return Err(Error::new(
            ErrorKind::Config,
            format!("{} has no records", input.files[0].display()),
        ));
    }
    let sources: Result<Vec<_>> = readers.into_iter().map(Reader::finish).collect();
    Ok(Table {
        format: input.format,
        paired: input.paired,
        sources: sources?,
        shards,
    })
}

fn check(input: &Input, shards: Shards) -> Result<()> {
    let problem = match shards {
        _ if input.files.is_empty() => "no input was named; give one file at least",
        _ if input.paired && input.files.len() != 2 => return Err(unpaired(input.files.len())),
        Shards::Count(0) | Shards::Bytes(0) | Shards::Records(0) => {
            "shards of nothing cannot be made; give a number of 1 or more"
        }
        _ => return Ok(()),
    };
    Err(Error::new(ErrorKind::Config, problem))
}

fn unpaired(count: usize) -> Error {
    Error::new(
        ErrorKind::Config,
        format!(
            "pairs are read from two files, and there {}",
            match count {
                1 => "is one".to_owned(),
                _ => format!("are {count}"),
            }
        ),
    )
}

/// The next pair of records; both files must end together.
fn next_pair(first: &mut Reader, second: &mut Reader) -> Result<Option<[u64; 2]>> {
    match (first.pass()?, second.pass()?) {
        (None, None) => Ok(None),
        (Some(a), Some(b)) if pair_name(first.records.id()) == pair_name(second.records.id()) => {
            Ok(Some([a, b]))
        }
        (Some(_), Some(_)) => {
            let shown = |id| String::from_utf8_lossy(id).into_owned();
            Err(second.records.refuse(format!(
                "{:?} is no pair of {:?} in {}",
                shown(second.records.id()),
                shown(first.records.id()),
                first.records.name()
            )))
        }
        (one, _) => {
            let (longer, shorter) = match one {
                Some(_) => (first, second),
                None => (second, first),
            };
            Err(longer.records.refuse(format!(
                "{} ends before this record; pairs need files with as many records",
                shorter.records.name()
            )))
        }
    }
}

/// The name of a pair: without what tells its reads apart.
fn pair_name(id: &[u8]) -> &[u8] {
    match id {
        [name @ .., b'/' | b'.' | b'_', b'1' | b'2'] => name,
        _ => id,
    }
}

/// Goes through one input, and sums it up on the way.
struct Reader {
    name: PathBuf,
    plain: PathBuf,
    stamp: Stamp,
    records: Records<Summed<File>>,
    /// How far we are in the plain text.
    at: u64,
    /// Known before where the input is packed.
    packed_sha256: Option<String>,
}

/// The byte order mark of UTF-8.
const MARK: [u8; 3] = [0xef, 0xbb, 0xbf];
const GZIP: [u8; 2] = [0x1f, 0x8b];

impl Reader {
    fn open(name: &Path, format: Format, folder: &Path, number: usize) -> Result<Self> {
        let cannot = |error| unreadable(name, error);
        let mut file = File::open(name).map_err(cannot)?;
        let kind = file.metadata().map_err(cannot)?.file_type();
        if !kind.is_file() {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "{} is no plain file; shards are read from their places in it, so give a file",
                    name.display()
                ),
            ));
        }
        let mut plain = name.to_owned();
        let mut packed_sha256 = None;
        if starts_with(&mut file, &GZIP).map_err(cannot)? {
            plain = folder.join(format!("input-{}", number + 1));
            packed_sha256 = Some(unpack(file, name, &plain)?);
            file = File::open(&plain).map_err(|error| unreadable(&plain, error))?;
        }
        let stamp = stamp(&file).map_err(cannot)?;
        let has_mark = starts_with(&mut file, &MARK).map_err(cannot)?;
        let mut summed = Summed::new(file);
        if has_mark {
            summed.read_exact(&mut [0; MARK.len()]).map_err(cannot)?;
        }
        Ok(Self {
            records: Records::new(summed, format, name.display().to_string()),
            name: name.to_owned(),
            plain,
            stamp,
            at: if has_mark { MARK.len() as u64 } else { 0 },
            packed_sha256,
        })
    }

    fn pass(&mut self) -> Result<Option<u64>> {
        let length = self.records.pass()?;
        self.at += length.unwrap_or(0);
        Ok(length)
    }

    fn finish(self) -> Result<Source> {
        let sha256 = match self.packed_sha256 {
            Some(sha256) => sha256,
            None => self.records.source().sum().sha256(),
        };
        let source = Source {
            name: self.name,
            plain: self.plain,
            sha256,
            stamp: self.stamp,
        };
        // What was written meanwhile would not be in the sum.
        source.open().map(|_| source)
    }
}

fn starts_with(file: &mut File, bytes: &[u8]) -> io::Result<bool> {
    let mut first = Vec::new();
    file.take(bytes.len() as u64).read_to_end(&mut first)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(first == bytes)
}

/// Unpacks a file and gives the SHA-256 of the packed one.
fn unpack(file: File, name: &Path, plain: &Path) -> Result<String> {
    let mut unpacked = MultiGzDecoder::new(Summed::new(file));
    let copied = File::create(plain).and_then(|mut to| io::copy(&mut unpacked, &mut to));
    copied.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            damaged(name, plain, error)
        }
        _ => {
            let message = format!("cannot unpack {} to {}", name.display(), plain.display());
            Error::new(ErrorKind::Unavailable, message).with_source(error)
        }
    })?;
    // The decoder reads no further than it has to.
    io::copy(unpacked.get_mut(), &mut io::sink()).map_err(|error| unreadable(name, error))?;
    Ok(unpacked.get_ref().sum().sha256())
}

/// The error of a packed file of which only this plain text could be had.
fn damaged(name: &Path, plain: &Path, error: io::Error) -> Error {
    let text = File::open(plain).map_err(|error| unreadable(plain, error));
    let lines = text.and_then(|text| {
        let mut lines = Records::new(text, Format::Lines, "");
        let mut count = 0;
        while lines.pass()?.is_some() {
            count += 1;
        }
        Ok(count)
    });
    let message = format!(
        "{} can be unpacked up to line {} only: it was cut short or damaged; get it again",
        name.display(),
        lines.unwrap_or(0)
    );
    Error::new(ErrorKind::Config, message).with_source(error)
}

/// Collects records into shards.
struct Cutter {
    shards: Shards,
    total: u64,
    /// Bytes and records of all shards so far, and the bytes of those that are done.
    passed: u64,
    records: u64,
    closed: u64,
    done: Vec<Shard>,
    open: Option<Shard>,
}

impl Cutter {
    /// Adds a record, or the two of a pair: source, offset and length of each.
    fn add(&mut self, parts: &[(usize, u64, u64)]) {
        let length: u64 = parts.iter().map(|(_, _, length)| length).sum();
        if let (Shards::Bytes(most), Some(open)) = (self.shards, &self.open)
            && open.bytes() + length > most
        {
            self.close();
        }
        let shard = self.open.get_or_insert_with(|| Shard {
            first: self.records + 1,
            records: 0,
            pieces: Vec::new(),
        });
        shard.records += 1;
        for &(source, offset, length) in parts {
            match shard.pieces.iter_mut().find(|piece| piece.source == source) {
                Some(piece) => piece.length += length,
                None => shard.pieces.push(Piece {
                    source,
                    offset,
                    length,
                    is_open: false,
                }),
            }
        }
        self.records += 1;
        self.passed += length;
        let is_full = match self.shards {
            // Of as many equal parts of all bytes, it ends the one that it began in.
            Shards::Count(count) => {
                let part = |at: u64| u128::from(at) * u128::from(count) / u128::from(self.total);
                part(self.passed) > part(self.closed)
            }
            Shards::Bytes(most) => shard.bytes() >= most,
            Shards::Records(count) => shard.records >= count,
        };
        if is_full {
            self.close();
        }
    }

    fn close(&mut self) {
        self.done.extend(self.open.take());
        self.closed = self.passed;
    }

    fn finish(mut self) -> Vec<Shard> {
        self.close();
        self.done
    }
}

pub(super) fn unreadable(path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("cannot read {}", path.display())).with_source(error)
}

/// The SHA-256 of a file, in hexadecimal digits.
pub(super) fn sum_of(path: &Path) -> Result<String> {
    let sum = crate::sums::sum_of(path).map_err(|error| unreadable(path, error))?;
    Ok(sum.sha256())
}

#[cfg(test)]
mod tests;
