//! The bytes on simulated disks: one sparse file for each disk that holds some.
//!
//! The files are in a private directory that is made when the first byte comes, so that pools
//! without data touch no file system. A file goes with its disk, the directory with the simulator,
//! and what a killed simulator leaves is removed by a later one, as the files of guests are.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use crate::guest::state::{self, StateDir};

/// Bytes are written, left out and punched out in pieces of this many.
const BLOCK: usize = 64 * 1024;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Where the files of a simulator's disks are.
#[derive(Debug)]
pub(crate) struct Storage {
    /// Where the directory may go, the best place first.
    parents: Vec<PathBuf>,
    home: Mutex<Option<Arc<StateDir>>>,
    next: AtomicU64,
}

impl Storage {
    pub(crate) fn new(parents: Vec<PathBuf>) -> Self {
        Storage {
            parents,
            home: Mutex::default(),
            next: AtomicU64::new(0),
        }
    }

    /// Writes a file that only this user can read. Blocks.
    pub(crate) fn keep(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let path = self.home()?.path().join(name);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(text.as_bytes())?;
        Ok(path)
    }

    /// An empty disk: zeros from end to end. Blocks.
    pub(crate) fn create(&self) -> io::Result<RawDisk> {
        let home = self.home()?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = home.path().join(format!("vdi-{number}"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(RawDisk {
            file,
            path,
            _home: home,
        })
    }

    fn home(&self) -> io::Result<Arc<StateDir>> {
        let mut home = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(home) = &*home {
            return Ok(Arc::clone(home));
        }
        let mut failure = io::Error::other("there is no place for disks");
        for parent in &self.parents {
            state::sweep(parent);
            match StateDir::create(parent) {
                Ok(made) => return Ok(Arc::clone(home.insert(Arc::new(made)))),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Gives the directory up. It goes when the last disk in it goes.
    pub(crate) fn close(&self) {
        self.home
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

/// The bytes of a disk. Where the file ends, or has a hole, the disk has zeros. Dropping it
/// removes the file.
#[derive(Debug)]
pub(crate) struct RawDisk {
    file: File,
    path: PathBuf,
    _home: Arc<StateDir>,
}

impl Drop for RawDisk {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the file of a disk stays behind");
        }
    }
}

impl RawDisk {
    /// Writes, without storing zeros. Blocks.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut offset = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            // Pieces end where blocks of the file end, so that holes can be whole blocks.
            let room = BLOCK - usize::try_from(offset % BLOCK as u64).unwrap_or(0);
            let (piece, later) = rest.split_at(room.min(rest.len()));
            if *piece == ZEROS[..piece.len()] {
                self.clear(offset, piece)?;
            } else {
                self.file.write_all_at(piece, offset)?;
            }
            offset += piece.len() as u64;
            rest = later;
        }
        Ok(())
    }

    fn clear(&self, offset: u64, zeros: &[u8]) -> io::Result<()> {
        if offset >= self.file.metadata()?.len() {
            return Ok(());
        }
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let (at, length) = (to_offset(offset)?, zeros.len() as i64);
        match fallocate(&self.file, flags, at, length) {
            Ok(()) => Ok(()),
            Err(Errno::EOPNOTSUPP) => self.file.write_all_at(zeros, offset),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The file from this place on, for those who read or write it by themselves.
    pub(crate) fn file_at(&self, offset: u64) -> io::Result<File> {
        let mut file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(file)
    }

    /// Where the bytes end; behind it are zeros.
    pub(crate) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Fills the buffer from this place on, with zeros where the file has none. Blocks.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self
                .file
                .read_at(&mut buffer[filled..], offset + filled as u64)
            {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buffer[filled..].fill(0);
        Ok(())
    }

    /// The next stretch of bytes at or after this place that may be others than zeros. Blocks.
    pub(crate) fn data_after(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let seek = |from: u64, whence| match lseek(&self.file, to_offset(from)?, whence) {
            Ok(at) => Ok(u64::try_from(at).ok()),
            // Beyond the end there is nothing.
            Err(Errno::ENXIO) => Ok(None),
            Err(errno) => Err(io::Error::from(errno)),
        };
        let Some(start) = seek(offset, Whence::SeekData)? else {
            return Ok(None);
        };
        let end = seek(start, Whence::SeekHole)?;
        Ok(end.map(|end| start..end))
    }

    /// The bytes that the file takes.
    pub(crate) fn allocated(&self) -> u64 {
        self.file
            .metadata()
            .map_or(0, |metadata| metadata.blocks() * 512)
    }

    /// Copies the bytes of another disk here; holes stay holes. Blocks.
    pub(crate) fn copy_from(&self, other: &RawDisk) -> io::Result<()> {
        let mut source = File::open(&other.path)?;
        let mut target = OpenOptions::new().write(true).open(&self.path)?;
        let mut at = 0;
        while let Some(data) = other.data_after(at)? {
            source.seek(SeekFrom::Start(data.start))?;
            target.seek(SeekFrom::Start(data.start))?;
            // Between files the kernel copies, or shares the blocks where the file system can.
            io::copy(&mut (&source).take(data.end - data.start), &mut target)?;
            at = data.end;
        }
        Ok(())
    }
}

fn to_offset(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn storage() -> (tempfile::TempDir, Storage) {
        let parent = tempfile::tempdir().unwrap();
        let storage = Storage::new(vec![parent.path().to_owned()]);
        (parent, storage)
    }

    fn entries(parent: &Path) -> usize {
        std::fs::read_dir(parent).unwrap().count()
    }

    #[test]
    fn the_directory_comes_with_the_first_disk_and_goes_with_the_last() {
        let (parent, storage) = storage();
        assert_eq!(entries(parent.path()), 0);
        let disk = storage.create().unwrap();
        assert_eq!(entries(parent.path()), 1);
        storage.close();
        assert!(disk.path.exists());
        drop(disk);
        assert_eq!(entries(parent.path()), 0);
    }

    #[test]
    fn zeros_take_no_space_also_where_there_were_bytes() {
        let (_parent, storage) = storage();
        let disk = storage.create().unwrap();
        disk.write(0, &[0; 3 * BLOCK]).unwrap();
        assert_eq!(disk.allocated(), 0);
        disk.write(1 << 40, b"far away").unwrap();
        disk.write(BLOCK as u64, &[7; 2 * BLOCK]).unwrap();
        assert!(disk.allocated() < 1 << 20);
        disk.write(BLOCK as u64, &[0; BLOCK]).unwrap();
        let data = disk.data_after(0).unwrap().unwrap();
        assert_eq!(data, 2 * BLOCK as u64..3 * BLOCK as u64);
        let mut bytes = [1; 16];
        disk.read(3 * BLOCK as u64 - 8, &mut bytes).unwrap();
        assert_eq!(bytes, *b"\x07\x07\x07\x07\x07\x07\x07\x07\0\0\0\0\0\0\0\0");
        disk.read((1 << 40) + 4, &mut bytes).unwrap();
        assert_eq!(bytes, *b"away\0\0\0\0\0\0\0\0\0\0\0\0");
    }

    #[test]
    fn a_copy_has_the_bytes_and_the_holes() {
        let (_parent, storage) = storage();
        let disk = storage.create().unwrap();
        disk.write(1 << 20, b"one").unwrap();
        disk.write(1 << 36, b"two").unwrap();
        let copy = storage.create().unwrap();
        copy.copy_from(&disk).unwrap();
        disk.write(1 << 20, b"new").unwrap();
        let mut bytes = [0; 3];
        copy.read(1 << 20, &mut bytes).unwrap();
        assert_eq!(&bytes, b"one");
        copy.read(1 << 36, &mut bytes).unwrap();
        assert_eq!(&bytes, b"two");
        assert!(copy.allocated() < 1 << 20);
    }
}
