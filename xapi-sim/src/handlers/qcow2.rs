//! Disks in the format QCOW2: two levels of tables say where in the file each cluster is, and
//! clusters that were never written are not there.

use std::io::{self, Read, Write};

use flate2::read::DeflateDecoder;

use super::blocks::{self, Base, Blocks, broken};
use super::xva::{Broken, Cancelled};
use crate::storage::RawDisk;

const MAGIC: u32 = 0x5146_49fb;
const VERSION: u32 = 3;
const HEADER: usize = 104;
/// What we write: clusters of 64 KiB, and counts of 16 bits.
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
const COUNTS: u64 = CLUSTER / 2;
const ENTRIES: u64 = CLUSTER / 8;
/// A cluster that nothing else refers to, so that it may be written in place.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// Where an entry has the place of what it leads to.
const PLACE: u64 = 0x00ff_ffff_ffff_fe00;
const ZEROS: u64 = 1;
/// A table that is larger belongs to no disk that a host could hold.
const MAX_L1: u64 = 4 << 20;

/// Where the parts of a file are that is written front to back, in clusters.
struct Layout {
    l1: u64,
    l2: u64,
    table: u64,
    counts: u64,
    data: u64,
    end: u64,
}

impl Layout {
    fn of(size: u64, l2_tables: u64, data: u64) -> Layout {
        let l1 = 1;
        let l1_size = (size.div_ceil(CLUSTER * ENTRIES) * 8)
            .div_ceil(CLUSTER)
            .max(1);
        let l2 = l1 + l1_size;
        let table = l2 + l2_tables;
        // The counts count themselves, so what they take is found step by step.
        let (mut counts, mut table_size) = (1_u64, 1_u64);
        loop {
            let end = table + table_size + counts + data;
            let needed = end.div_ceil(COUNTS);
            if needed <= counts {
                break;
            }
            counts = needed;
            table_size = (counts * 8).div_ceil(CLUSTER);
        }
        let counts_at = table + table_size;
        Layout {
            l1,
            l2,
            table,
            counts: counts_at,
            data: counts_at + counts,
            end: counts_at + counts + data,
        }
    }

    fn header(&self, size: u64) -> Vec<u8> {
        let long = |value: u64| [(value >> 32) as u32, value as u32];
        let l1_entries = size.div_ceil(CLUSTER * ENTRIES).max(1);
        let words: [&[u32]; 7] = [
            // No file is behind this one.
            &[MAGIC, VERSION, 0, 0, 0, CLUSTER_BITS],
            &long(size),
            // No encryption.
            &[0, l1_entries as u32],
            &long(self.l1 * CLUSTER),
            &long(self.table * CLUSTER),
            // No snapshots.
            &[(self.counts - self.table) as u32, 0, 0, 0],
            // No features; counts of 2⁴ bits.
            &[0, 0, 0, 0, 0, 0, 4, HEADER as u32],
        ];
        let words = words.concat();
        words.into_iter().flat_map(u32::to_be_bytes).collect()
    }
}

/// Writes clusters that are made of entries, the last filled with zeros.
fn put_entries(out: &mut impl Write, entries: &[u64]) -> io::Result<()> {
    let mut bytes: Vec<u8> = entries
        .iter()
        .flat_map(|entry| entry.to_be_bytes())
        .collect();
    bytes.resize(bytes.len().max(1).next_multiple_of(CLUSTER as usize), 0);
    out.write_all(&bytes)
}

/// Writes a disk, or the clusters in which it differs from another.
pub(super) fn write(
    mut out: impl Write,
    disk: Option<&RawDisk>,
    size: u64,
    base: Option<&Base>,
    cancelled: &Cancelled,
) -> Result<(), Broken> {
    let now = Blocks::new(disk, size, CLUSTER);
    let then = base.map(|base| Blocks::of_base(base, size, CLUSTER));
    let data = blocks::to_send(&now, then.as_ref(), cancelled)?;
    let mut tables: Vec<u64> = data.iter().map(|cluster| cluster / ENTRIES).collect();
    tables.dedup();
    let layout = Layout::of(size, tables.len() as u64, data.len() as u64);
    let mut first = layout.header(size);
    first.resize(CLUSTER as usize, 0);
    out.write_all(&first)?;
    let mut l1 = vec![0; ((layout.l2 - layout.l1) * ENTRIES) as usize];
    for (place, table) in (layout.l2..).zip(&tables) {
        l1[*table as usize] = (place * CLUSTER) | COPIED;
    }
    put_entries(&mut out, &l1)?;
    let mut places = (layout.data..).zip(&data).peekable();
    for table in tables {
        let mut l2 = vec![0; ENTRIES as usize];
        while let Some((place, cluster)) =
            places.next_if(|(_, cluster)| **cluster / ENTRIES == table)
        {
            l2[(cluster % ENTRIES) as usize] = (place * CLUSTER) | COPIED;
        }
        put_entries(&mut out, &l2)?;
    }
    let counts: Vec<u64> = (layout.counts..layout.data)
        .map(|at| at * CLUSTER)
        .collect();
    let mut table = counts.clone();
    table.resize(((layout.counts - layout.table) * ENTRIES) as usize, 0);
    put_entries(&mut out, &table)?;
    for number in 0..counts.len() as u64 {
        let used = layout.end.saturating_sub(number * COUNTS).min(COUNTS);
        let mut bytes = [0_u8, 1].repeat(used as usize);
        bytes.resize(CLUSTER as usize, 0);
        out.write_all(&bytes)?;
    }
    for cluster in data {
        if *cancelled.borrow() {
            return Err(Broken::Cancelled);
        }
        out.write_all(&now.read(cluster)?)?;
    }
    out.flush()?;
    Ok(())
}

/// A file that has come whole: its tables may be anywhere in it.
struct File<'a> {
    bytes: &'a RawDisk,
    length: u64,
}

impl<'a> File<'a> {
    fn keep(mut from: impl Read, bytes: &'a RawDisk) -> io::Result<Self> {
        let mut length = 0;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = from.read(&mut buffer)?;
            if read == 0 {
                return Ok(File { bytes, length });
            }
            bytes.write(length, &buffer[..read])?;
            length += read as u64;
        }
    }

    fn read(&self, at: u64, length: u64) -> Result<Vec<u8>, Broken> {
        let end = at.checked_add(length).filter(|end| *end <= self.length);
        end.ok_or_else(broken)?;
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| broken())?];
        self.bytes.read(at, &mut bytes)?;
        Ok(bytes)
    }

    fn entries(&self, at: u64, count: u64) -> Result<Vec<u64>, Broken> {
        let bytes = self.read(at, count * 8)?;
        let entries = bytes.chunks_exact(8);
        Ok(entries.map(|entry| number(entry, 0, 8)).collect())
    }
}

/// A number, the most significant byte first.
fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    let bytes = bytes[at..at + length].iter();
    bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Reads a file onto a disk, by way of another that keeps it until it is whole. Clusters that are
/// not in it leave what is there.
pub(super) fn read(
    from: impl Read,
    whole: &RawDisk,
    disk: &RawDisk,
    size: u64,
    cancelled: &Cancelled,
) -> Result<(), Broken> {
    let file = File::keep(from, whole)?;
    let header = file.read(0, 72)?;
    let version = number(&header, 4, 4);
    let cluster_bits = number(&header, 20, 4);
    let encrypted = number(&header, 32, 4) != 0;
    let l1_entries = number(&header, 36, 4);
    // Of the features that a reader has to know we know none but that the file was not closed.
    let features = if version >= 3 {
        number(&file.read(0, HEADER as u64)?, 72, 8) & !1
    } else {
        0
    };
    let sane = number(&header, 0, 4) == u64::from(MAGIC)
        && matches!(version, 2 | 3)
        && (9..=21).contains(&cluster_bits)
        && l1_entries <= MAX_L1;
    if !sane || encrypted || features != 0 {
        return Err(broken());
    }
    let cluster = 1_u64 << cluster_bits;
    let per_table = cluster / 8;
    let l1 = file.entries(number(&header, 40, 8), l1_entries)?;
    for (table, entry) in (0_u64..).zip(l1) {
        if entry & PLACE == 0 {
            continue;
        }
        let l2 = file.entries(entry & PLACE, per_table)?;
        for (number, entry) in (0_u64..).zip(l2) {
            if *cancelled.borrow() {
                return Err(Broken::Cancelled);
            }
            let at = (table * per_table + number) * cluster;
            let content = if entry & COMPRESSED != 0 {
                inflate(&file, entry, cluster_bits)?
            } else if version >= 3 && entry & ZEROS != 0 {
                vec![0; cluster as usize]
            } else if entry & PLACE != 0 {
                file.read(entry & PLACE, cluster)?
            } else {
                continue;
            };
            blocks::store(disk, size, at, &content)?;
        }
    }
    Ok(())
}

/// A compressed cluster: its entry has place and length, of which the split depends on the size of
/// clusters.
fn inflate(file: &File<'_>, entry: u64, cluster_bits: u64) -> Result<Vec<u8>, Broken> {
    let split = 62 - (cluster_bits - 8);
    let at = entry & ((1 << split) - 1);
    let sectors = (entry & !(COMPRESSED | COPIED)) >> split;
    let length = (sectors + 1) * 512 - at % 512;
    let packed = file.read(at, length.min(file.length.saturating_sub(at)))?;
    let mut content = vec![0; 1 << cluster_bits];
    DeflateDecoder::new(&packed[..])
        .read_exact(&mut content)
        .map_err(|_| broken())?;
    Ok(content)
}
