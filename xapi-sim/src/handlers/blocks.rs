//! Disks block by block: which blocks have to travel, and what is in them.

use std::io;
use std::sync::Arc;

use super::xva::{Broken, Cancelled};
use crate::failure::Failure;
use crate::storage::RawDisk;

/// A disk that another is compared with.
pub(super) struct Base {
    /// `None` for a disk of zeros.
    pub(super) disk: Option<Arc<RawDisk>>,
    pub(super) size: u64,
    pub(super) uuid: String,
}

/// A disk in blocks of one size.
pub(super) struct Blocks<'a> {
    disk: Option<&'a RawDisk>,
    size: u64,
    block: u64,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(disk: Option<&'a RawDisk>, size: u64, block: u64) -> Self {
        Blocks { disk, size, block }
    }

    /// The blocks of a base, as far as they are also blocks of a disk of this size.
    pub(super) fn of_base(base: &'a Base, size: u64, block: u64) -> Self {
        Blocks::new(base.disk.as_deref(), base.size.min(size), block)
    }

    /// A block; behind the end of the disk are zeros.
    pub(super) fn read(&self, number: u64) -> io::Result<Vec<u8>> {
        let at = number * self.block;
        let mut bytes = vec![0; self.block as usize];
        let left = self.size.saturating_sub(at).min(self.block);
        if let (Some(disk), 1..) = (self.disk, left) {
            disk.read(at, &mut bytes[..left as usize])?;
        }
        Ok(bytes)
    }

    /// The blocks that may hold something, in order.
    fn present(&self) -> io::Result<Vec<u64>> {
        let mut present = Vec::new();
        let Some(disk) = self.disk else {
            return Ok(present);
        };
        let mut at = 0;
        while at < self.size {
            let Some(data) = disk.data_after(at)? else {
                break;
            };
            let first = data.start.max(at) / self.block;
            let end = data.end.min(self.size).div_ceil(self.block);
            present.extend(first..end);
            at = end.max(first + 1) * self.block;
        }
        Ok(present)
    }
}

/// The blocks to send, in order: those that may hold something, or that differ from those of a
/// base.
pub(super) fn to_send(
    now: &Blocks<'_>,
    then: Option<&Blocks<'_>>,
    cancelled: &Cancelled,
) -> Result<Vec<u64>, Broken> {
    let mut present = now.present()?;
    let Some(then) = then else {
        return Ok(present);
    };
    present.extend(then.present()?);
    present.sort_unstable();
    present.dedup();
    let mut differing = Vec::new();
    for block in present {
        if *cancelled.borrow() {
            return Err(Broken::Cancelled);
        }
        if now.read(block)? != then.read(block)? {
            differing.push(block);
        }
    }
    Ok(differing)
}

/// What the server says when the tool that copies disks fails.
pub(super) fn broken() -> Broken {
    Broken::Failed(Failure::new("VDI_IO_ERROR", ["Device I/O errors"]))
}

/// Writes what lies within the disk; beyond its end nothing but zeros may come.
pub(super) fn store(disk: &RawDisk, size: u64, at: u64, bytes: &[u8]) -> Result<(), Broken> {
    let fits = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX);
    let (inside, outside) = bytes.split_at(fits.min(bytes.len()));
    disk.write(at, inside)?;
    if outside.iter().any(|byte| *byte != 0) {
        return Err(broken());
    }
    Ok(())
}
