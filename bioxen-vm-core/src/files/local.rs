//! This machine's side.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::ops::ControlFlow;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::moved::Counter;
use super::there::{hex, hex_of};
use super::{folder, internal};
use crate::{Error, ErrorKind, OutputSink, OutputStream, Result};

/// A file of this machine.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) size: u64,
    pub(super) mode: u32,
    /// SHA-256, in hexadecimal digits.
    pub(super) sum: String,
}

impl Found {
    pub(super) async fn at(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        let found = tokio::task::spawn_blocking(move || {
            let found = Self::at_once(&path);
            found.map_err(|error| explain(&path, error))
        });
        found.await.map_err(internal)?
    }

    /// Reads a file whose reading may block.
    pub(super) fn at_once(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let (size, sum) = sum(&mut file)?;
        Ok(Self {
            size,
            mode: about.permissions().mode() & 0o7777,
            sum,
        })
    }
}

/// The size and the SHA-256 sum of what can be read.
fn sum(file: &mut File) -> io::Result<(u64, String)> {
    let (mut digest, mut size) = (Sha256::new(), 0);
    let mut piece = vec![0; 256 * 1024];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok((size, hex(&digest.finalize()))),
            length => {
                digest.update(&piece[..length]);
                size += length as u64;
            }
        }
    }
}

/// The error for a path of this machine.
pub(super) fn explain(path: &Path, error: io::Error) -> Error {
    let (kind, why) = match error.kind() {
        io::ErrorKind::NotFound => (
            ErrorKind::NotFound,
            "there is no such file or folder on this machine",
        ),
        io::ErrorKind::PermissionDenied => (
            ErrorKind::Denied,
            "this user has no right to it on this machine",
        ),
        io::ErrorKind::IsADirectory => (
            ErrorKind::Config,
            "it is a folder or a device; use push or pull, or name a file",
        ),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (ErrorKind::Exhausted, "the disk of this machine is full")
        }
        _ => (ErrorKind::Internal, "it cannot be used on this machine"),
    };
    Error::new(kind, format!("{}: {why}", path.display())).with_source(error)
}

/// A file that is on its way here, under a name of its own in its folder.
pub(super) struct Part {
    path: PathBuf,
    target: PathBuf,
    id: String,
    file: File,
    size: u64,
    problem: Option<io::Error>,
    said: Vec<u8>,
    counter: Counter,
}

impl Part {
    /// Opens what an earlier transfer has left, or a new one.
    pub(super) fn open(target: &Path, sum: &str, whole: u64, counter: Counter) -> io::Result<Self> {
        if target.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let id = format!(".bioxen-{}-", &hex_of(target)[..16]);
        let path = folder(target).join(format!("{id}{}.part", &sum[..16]));
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)?;
        let mut size = file.metadata()?.len();
        if size > whole {
            file.set_len(0)?;
            size = 0;
        }
        Ok(Self {
            path,
            target: target.to_owned(),
            id,
            file,
            size,
            problem: None,
            said: Vec::new(),
            counter,
        })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Fails when something could not be written. Nothing is gained by a part that fills the disk.
    pub(super) fn checked(&mut self) -> io::Result<()> {
        match self.problem.take() {
            Some(problem) => {
                let _ = fs::remove_file(&self.path);
                Err(problem)
            }
            None => Ok(()),
        }
    }

    /// What the other machine had to say.
    pub(super) fn said(&self) -> String {
        String::from_utf8_lossy(&self.said).trim().to_owned()
    }

    /// Gives it its name, if it is what it should be.
    pub(super) async fn finish(self, sum: &str, mode: u32) -> io::Result<bool> {
        let sum = sum.to_owned();
        tokio::task::spawn_blocking(move || {
            if self::sum(&mut File::open(&self.path)?)?.1 != sum {
                fs::remove_file(&self.path)?;
                return Ok(false);
            }
            self.file.set_permissions(Permissions::from_mode(mode))?;
            fs::rename(&self.path, &self.target)?;
            for entry in fs::read_dir(folder(&self.target))?.flatten() {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                if name.starts_with(&self.id) && name.ends_with(".part") {
                    // What cannot be removed does no harm.
                    let _ = fs::remove_file(entry.path());
                }
            }
            Ok(true)
        })
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

#[async_trait]
impl OutputSink for Part {
    async fn write(&mut self, stream: OutputStream, piece: Bytes) -> ControlFlow<()> {
        if stream == OutputStream::Stderr {
            let room = 1000_usize.saturating_sub(self.said.len());
            self.said.extend_from_slice(&piece[..piece.len().min(room)]);
            return ControlFlow::Continue(());
        }
        match self.file.write_all(&piece) {
            Ok(()) => {
                self.counter.add(piece.len());
                ControlFlow::Continue(())
            }
            Err(error) => {
                self.problem = Some(error);
                ControlFlow::Break(())
            }
        }
    }
}
