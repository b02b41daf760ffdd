//! The format of exported VMs: a tar archive with `ova.xml`, which describes them, and behind it
//! their disks in blocks of 1 MiB, each followed by a file with its checksum.
//!
//! Blocks of zeros are left out, but for the first and the last of a disk.

use std::collections::HashMap;
use std::hash::Hasher as _;
use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;

use tokio::sync::watch;
use twox_hash::XxHash64;

use crate::failure::Failure;
use crate::storage::RawDisk;

pub(super) const DESCRIPTION: &str = "ova.xml";
const BLOCK: u64 = 1 << 20;
/// No description is larger; a real one of a thousand VMs has some 30 MB.
const MAX_DESCRIPTION: u64 = 1 << 30;

/// A disk on its way out or in.
#[derive(Debug, Clone)]
pub(super) struct DiskFile {
    /// What the description calls it, `Ref:4`; empty for a disk that travels alone.
    pub(super) name: String,
    pub(super) size: u64,
    /// `None` for zeros from end to end.
    pub(super) disk: Option<Arc<RawDisk>>,
}

impl DiskFile {
    /// What the file of a block is called.
    fn block(&self, number: u64) -> String {
        if self.name.is_empty() {
            format!("{number:08}")
        } else {
            format!("{}/{number:08}", self.name)
        }
    }
}

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// Whether somebody has cancelled the task of a transfer.
pub(super) type Cancelled = watch::Receiver<bool>;

/// Why an archive is not written or read to its end.
#[derive(Debug)]
pub(super) enum Broken {
    /// The other side has gone.
    Gone,
    Cancelled,
    Failed(Failure),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Broken::Gone,
            _ => Broken::Failed(Failure::new("VDI_IO_ERROR", ["Device I/O errors"])),
        }
    }
}

/// Writes an archive.
pub(super) fn write(
    out: impl Write,
    compression: Compression,
    description: &str,
    disks: &[DiskFile],
    cancelled: &Cancelled,
) -> Result<(), Broken> {
    match compression {
        Compression::None => write_plain(out, description, disks, cancelled)?.flush()?,
        Compression::Gzip => {
            let out = flate2::write::GzEncoder::new(out, flate2::Compression::fast());
            let out = write_plain(out, description, disks, cancelled)?;
            out.finish()?.flush()?;
        }
        Compression::Zstd => {
            let out = zstd::stream::write::Encoder::new(out, 1)?;
            let out = write_plain(out, description, disks, cancelled)?;
            out.finish()?.flush()?;
        }
    }
    Ok(())
}

fn write_plain<W: Write>(
    out: W,
    description: &str,
    disks: &[DiskFile],
    cancelled: &Cancelled,
) -> Result<W, Broken> {
    let mut archive = tar::Builder::new(out);
    append(&mut archive, DESCRIPTION, description.as_bytes())?;
    let mut sorted: Vec<&DiskFile> = disks.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    for disk in sorted {
        write_disk(&mut archive, disk, cancelled)?;
    }
    Ok(archive.into_inner()?)
}

/// Writes an archive of the blocks of one disk.
pub(super) fn write_alone(
    out: impl Write,
    disk: &DiskFile,
    cancelled: &Cancelled,
) -> Result<(), Broken> {
    let mut archive = tar::Builder::new(out);
    write_disk(&mut archive, disk, cancelled)?;
    archive.into_inner()?.flush()?;
    Ok(())
}

fn append(archive: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(bytes.len() as u64);
    header.set_mode(0o400);
    header.set_cksum();
    archive.append(&header, bytes)
}

fn write_disk(
    archive: &mut tar::Builder<impl Write>,
    file: &DiskFile,
    cancelled: &Cancelled,
) -> Result<(), Broken> {
    let last = file.size.div_ceil(BLOCK).saturating_sub(1);
    let mut block = vec![0; BLOCK as usize];
    let mut number = 0;
    loop {
        if *cancelled.borrow() {
            return Err(Broken::Cancelled);
        }
        let at = number * BLOCK;
        let length = usize::try_from(BLOCK.min(file.size - at)).unwrap_or(0);
        let block = &mut block[..length];
        match &file.disk {
            Some(disk) => disk.read(at, block)?,
            None => block.fill(0),
        }
        if number == 0 || number == last || block.iter().any(|byte| *byte != 0) {
            let name = file.block(number);
            append(archive, &name, block)?;
            let checksum = format!("{:016X}", xxhash(block));
            append(archive, &format!("{name}.xxhash"), checksum.as_bytes())?;
        }
        if number == last {
            return Ok(());
        }
        // Holes are skipped without reading them.
        let data = match &file.disk {
            Some(disk) => disk.data_after(at + BLOCK)?,
            None => None,
        };
        let next = data.map_or(last, |data| data.start / BLOCK);
        number = next.clamp(number + 1, last);
    }
}

fn xxhash(bytes: &[u8]) -> u64 {
    let mut hasher = XxHash64::with_seed(0);
    hasher.write(bytes);
    hasher.finish()
}

fn sha1(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
    let hex = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
    hex.collect()
}

fn premature_end() -> Failure {
    Failure::code("IMPORT_ERROR_PREMATURE_EOF")
}

/// Reads an archive: `describe` gets the description and gives the disks that are to come.
pub(super) fn read(
    from: impl Read + 'static,
    force: bool,
    cancelled: &Cancelled,
    describe: impl FnOnce(&str) -> Result<Vec<DiskFile>, Failure>,
) -> Result<(), Broken> {
    let mut archive = tar::Archive::new(decompressed(from).map_err(end)?);
    let mut entries = archive.entries().map_err(end)?;
    let mut description = String::new();
    {
        let first = entries
            .next()
            .ok_or_else(premature_end)
            .map_err(Broken::Failed)?;
        let first = first.map_err(end)?;
        let name = name_of(&first);
        if name != DESCRIPTION {
            return Err(Broken::Failed(unexpected(DESCRIPTION, &name)));
        }
        let size = first.size();
        first
            .take(MAX_DESCRIPTION)
            .read_to_string(&mut description)
            .map_err(end)?;
        if (description.len() as u64) < size {
            return Err(Broken::Failed(premature_end()));
        }
    }
    let disks = describe(&description).map_err(Broken::Failed)?;
    drop(description);
    read_blocks(entries, &disks, force, cancelled)
}

/// Reads an archive of the blocks of one disk.
pub(super) fn read_alone(
    from: impl Read,
    disk: DiskFile,
    cancelled: &Cancelled,
) -> Result<(), Broken> {
    let mut archive = tar::Archive::new(from);
    read_blocks(archive.entries().map_err(end)?, &[disk], false, cancelled)
}

fn read_blocks<R: Read>(
    entries: tar::Entries<'_, R>,
    disks: &[DiskFile],
    force: bool,
    cancelled: &Cancelled,
) -> Result<(), Broken> {
    let mut waiting: HashMap<&str, &DiskFile> = disks
        .iter()
        .map(|disk| (disk.name.as_str(), disk))
        .collect();
    let mut block = Vec::new();
    let mut block_name = String::new();
    for entry in entries {
        if *cancelled.borrow() {
            return Err(Broken::Cancelled);
        }
        let mut entry = entry.map_err(end)?;
        let name = name_of(&entry);
        if let Some(checked) = strip_checksum(&name) {
            let mut expected = String::new();
            entry.read_to_string(&mut expected).map_err(end)?;
            let found = if name.ends_with(".xxhash") {
                format!("{:016X}", xxhash(&block))
            } else {
                sha1(&block)
            };
            let matches = checked == block_name && found.eq_ignore_ascii_case(expected.trim());
            if !matches && !force {
                return Err(Broken::Failed(Failure::code(
                    "IMPORT_ERROR_SOME_CHECKSUMS_FAILED",
                )));
            }
            continue;
        }
        let (disk, number) = name.rsplit_once('/').unwrap_or(("", &name));
        let known = disks.iter().find(|known| known.name == disk);
        let (Some(disk), Ok(number)) = (known, number.parse::<u64>()) else {
            // The checksums at the end of very old files.
            if name == "checksum.xml" {
                continue;
            }
            let expected = waiting.keys().min().copied().unwrap_or_default();
            return Err(Broken::Failed(unexpected(expected, &name)));
        };
        let at = number.saturating_mul(BLOCK);
        block.clear();
        let size = entry.size();
        if size > BLOCK || at.saturating_add(size) > disk.size.next_multiple_of(512) {
            return Err(Broken::Failed(Failure::new(
                "VDI_IO_ERROR",
                ["Device I/O errors"],
            )));
        }
        entry.read_to_end(&mut block).map_err(end)?;
        if (block.len() as u64) < size {
            return Err(Broken::Failed(premature_end()));
        }
        if let Some(disk) = &disk.disk {
            disk.write(at, &block)?;
        }
        if at + size >= disk.size {
            waiting.remove(disk.name.as_str());
        }
        block_name = name;
    }
    if waiting.is_empty() {
        Ok(())
    } else {
        Err(Broken::Failed(premature_end()))
    }
}

/// What an error of a reader means: the file is not what it should be, or ends too early.
fn end(_: io::Error) -> Broken {
    Broken::Failed(premature_end())
}

fn unexpected(expected: &str, found: &str) -> Failure {
    Failure::new("IMPORT_ERROR_UNEXPECTED_FILE", [expected, found])
}

fn name_of(entry: &tar::Entry<'_, impl Read>) -> String {
    String::from_utf8_lossy(&entry.path_bytes()).into_owned()
}

/// The name of the block that a checksum is for.
fn strip_checksum(name: &str) -> Option<&str> {
    name.strip_suffix(".xxhash")
        .or_else(|| name.strip_suffix(".checksum"))
}

fn decompressed(from: impl Read + 'static) -> io::Result<Box<dyn Read>> {
    let mut from = BufReader::new(from);
    let start = io::BufRead::fill_buf(&mut from)?;
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(from)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::stream::read::Decoder::with_buffer(from)?),
        _ => Box::new(from),
    })
}
