//! Disks in the format VHD: a table says where in the file each block of 2 MiB is, and blocks that
//! were never written are not there.

use std::io::{self, Read, Write};
use std::sync::Arc;

use super::blocks::{self, Base, Blocks, broken};
use super::xva::{Broken, Cancelled};
use crate::storage::RawDisk;

const SECTOR: u64 = 512;
const BLOCK: u64 = 2 << 20;
/// Each block has a bit for each of its sectors in front: one sector of them.
const BITMAP: u64 = BLOCK / SECTOR / 8;
const FOOTER: usize = 512;
const HEADER: usize = 1024;
const ABSENT: u32 = u32::MAX;
const DYNAMIC: u32 = 3;
const DIFFERENCING: u32 = 4;
/// The largest disk that a host exports so.
pub(super) const MAX_SIZE: u64 = 2040 << 30;
/// No table is larger: that of a disk of [`MAX_SIZE`] in blocks of 64 KiB.
const MAX_ENTRIES: u64 = MAX_SIZE / (64 << 10);

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// The complement of the sum of all bytes, which is written over zeros.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    let sum = bytes
        .iter()
        .fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    (!sum).to_be_bytes()
}

/// Cylinders, heads and sectors, by the rules of the format.
fn geometry(size: u64) -> [u8; 4] {
    let sectors = (size / SECTOR).min(65_535 * 16 * 255);
    let (cylinder_heads, heads, per_track) = if sectors >= 65_535 * 16 * 63 {
        (sectors / 255, 16, 255)
    } else {
        let mut per_track = 17;
        let mut both = sectors / per_track;
        let mut heads = both.div_ceil(1024).max(4);
        if both >= heads * 1024 || heads > 16 {
            (per_track, heads) = (31, 16);
            both = sectors / per_track;
        }
        if both >= heads * 1024 {
            (per_track, heads) = (63, 16);
            both = sectors / per_track;
        }
        (both, heads, per_track)
    };
    let cylinders = u16::try_from(cylinder_heads / heads).unwrap_or(u16::MAX);
    let [high, low] = cylinders.to_be_bytes();
    // Both are at most 255, see above.
    [high, low, heads as u8, per_track as u8]
}

fn unique_id(uuid: &str) -> [u8; 16] {
    let digits: String = uuid.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16)
        .unwrap_or_default()
        .to_be_bytes()
}

fn footer(size: u64, uuid: &str, kind: u32) -> [u8; FOOTER] {
    let mut footer = [0; FOOTER];
    put(&mut footer, 0, b"conectix");
    put(&mut footer, 8, &2_u32.to_be_bytes());
    put(&mut footer, 12, &0x0001_0000_u32.to_be_bytes());
    put(&mut footer, 16, &(FOOTER as u64).to_be_bytes());
    put(&mut footer, 28, b"tap\0");
    put(&mut footer, 32, &0x0001_0003_u32.to_be_bytes());
    put(&mut footer, 40, &size.to_be_bytes());
    put(&mut footer, 48, &size.to_be_bytes());
    put(&mut footer, 56, &geometry(size));
    put(&mut footer, 60, &kind.to_be_bytes());
    put(&mut footer, 68, &unique_id(uuid));
    let sum = checksum(&footer);
    put(&mut footer, 64, &sum);
    footer
}

fn header(entries: u32, base: Option<&Base>) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    put(&mut header, 0, b"cxsparse");
    put(&mut header, 8, &u64::MAX.to_be_bytes());
    put(&mut header, 16, &((FOOTER + HEADER) as u64).to_be_bytes());
    put(&mut header, 24, &0x0001_0000_u32.to_be_bytes());
    put(&mut header, 28, &entries.to_be_bytes());
    put(&mut header, 32, &(BLOCK as u32).to_be_bytes());
    if let Some(base) = base {
        put(&mut header, 40, &unique_id(&base.uuid));
        let name = format!("{}.vhd", base.uuid);
        let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_be_bytes).collect();
        put(&mut header, 64, &name);
    }
    let sum = checksum(&header);
    put(&mut header, 36, &sum);
    header
}

/// Writes a disk, or how it differs from another.
pub(super) fn write(
    mut out: impl Write,
    disk: Option<&RawDisk>,
    size: u64,
    uuid: &str,
    base: Option<&Base>,
    cancelled: &Cancelled,
) -> Result<(), Broken> {
    let entries = size.div_ceil(BLOCK);
    let now = Blocks::new(disk, size, BLOCK);
    let then = base.map(|base| Blocks::of_base(base, size, BLOCK));
    let present = blocks::to_send(&now, then.as_ref(), cancelled)?;
    let table_size = (entries * 4).next_multiple_of(SECTOR);
    let mut table = vec![0xff; usize::try_from(table_size).unwrap_or_default()];
    let mut sector = ((FOOTER + HEADER) as u64 + table_size) / SECTOR;
    for block in &present {
        let at = usize::try_from(block * 4).unwrap_or_default();
        // The largest size keeps sectors in 32 bits.
        put(&mut table, at, &(sector as u32).to_be_bytes());
        sector += (BITMAP + BLOCK) / SECTOR;
    }
    let kind = base.map_or(DYNAMIC, |_| DIFFERENCING);
    let footer = footer(size, uuid, kind);
    out.write_all(&footer)?;
    out.write_all(&header(u32::try_from(entries).unwrap_or(ABSENT), base))?;
    out.write_all(&table)?;
    for block in present {
        if *cancelled.borrow() {
            return Err(Broken::Cancelled);
        }
        let bytes = now.read(block)?;
        let bitmap = match &then {
            None => [0xff; BITMAP as usize],
            Some(then) => changed(&bytes, &then.read(block)?),
        };
        out.write_all(&bitmap)?;
        out.write_all(&bytes)?;
    }
    out.write_all(&footer)?;
    out.flush()?;
    Ok(())
}

/// Which sectors of a block are not what they were; the first is the highest bit.
fn changed(now: &[u8], then: &[u8]) -> [u8; BITMAP as usize] {
    let mut bitmap = [0; BITMAP as usize];
    let sectors = now
        .chunks(SECTOR as usize)
        .zip(then.chunks(SECTOR as usize));
    for (number, (now, then)) in sectors.enumerate() {
        if now != then {
            bitmap[number / 8] |= 0x80 >> (number % 8);
        }
    }
    bitmap
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4]
        .iter()
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(number(bytes, at)) << 32 | u64::from(number(bytes, at + 4))
}

/// Counts what has been read of a stream, which cannot go back.
struct Stream<R> {
    from: R,
    at: u64,
}

impl<R: Read> Stream<R> {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Broken> {
        self.from.read_exact(buffer).map_err(|_| broken())?;
        self.at += buffer.len() as u64;
        Ok(())
    }

    fn skip_to(&mut self, offset: u64) -> Result<(), Broken> {
        let gap = offset.checked_sub(self.at).ok_or_else(broken)?;
        let skipped = io::copy(&mut (&mut self.from).take(gap), &mut io::sink());
        self.at = offset;
        match skipped {
            Ok(skipped) if skipped == gap => Ok(()),
            _ => Err(broken()),
        }
    }
}

/// Reads a dynamic disk onto another, or a differencing one onto what it differs from.
pub(super) fn read(
    from: impl Read,
    disk: &Arc<RawDisk>,
    size: u64,
    cancelled: &Cancelled,
) -> Result<(), Broken> {
    let mut stream = Stream { from, at: 0 };
    let mut footer = [0; FOOTER];
    stream.fill(&mut footer)?;
    let kind = number(&footer, 60);
    if footer[..8] != *b"conectix" || !matches!(kind, DYNAMIC | DIFFERENCING) {
        return Err(broken());
    }
    stream.skip_to(long(&footer, 16))?;
    let mut header = [0; HEADER];
    stream.fill(&mut header)?;
    let (table_at, entries) = (long(&header, 16), u64::from(number(&header, 28)));
    let block_size = u64::from(number(&header, 32));
    let sane = block_size.is_power_of_two() && (64 << 10..=64 << 20).contains(&block_size);
    if header[..8] != *b"cxsparse" || !sane || entries > MAX_ENTRIES {
        return Err(broken());
    }
    stream.skip_to(table_at)?;
    let mut table = vec![0; usize::try_from(entries * 4).unwrap_or_default()];
    stream.fill(&mut table)?;
    // Blocks come in the order of the file, which need not be that of the disk.
    let mut blocks: Vec<(u64, u64)> = (0..entries)
        .map(|block| (number(&table, block as usize * 4), block))
        .filter(|(sector, _)| *sector != ABSENT)
        .map(|(sector, block)| (u64::from(sector) * SECTOR, block))
        .collect();
    blocks.sort_unstable();
    let sectors = block_size / SECTOR;
    let bitmap_size = (sectors / 8).next_multiple_of(SECTOR);
    let mut bitmap = vec![0; bitmap_size as usize];
    let mut bytes = vec![0; block_size as usize];
    for (offset, block) in blocks {
        if *cancelled.borrow() {
            return Err(Broken::Cancelled);
        }
        stream.skip_to(offset)?;
        stream.fill(&mut bitmap)?;
        stream.fill(&mut bytes)?;
        let start = block * block_size;
        if bitmap[..(sectors / 8) as usize]
            .iter()
            .all(|byte| *byte == 0xff)
        {
            blocks::store(disk, size, start, &bytes)?;
            continue;
        }
        for (sector, piece) in bytes.chunks(SECTOR as usize).enumerate() {
            // The first sector is the highest bit.
            if bitmap[sector / 8] & (0x80 >> (sector % 8)) != 0 {
                blocks::store(disk, size, start + sector as u64 * SECTOR, piece)?;
            }
        }
    }
    // The footer again, and whatever is behind it.
    io::copy(&mut stream.from, &mut io::sink())?;
    Ok(())
}
