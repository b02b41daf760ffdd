//! SHA-256 of what passes by.

use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// The SHA-256 and size of bytes, as far as they have come.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sum {
    digest: Sha256,
    bytes: u64,
}

impl Sum {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut sum = Self::default();
        sum.add(bytes);
        sum
    }

    pub(crate) fn add(&mut self, piece: &[u8]) {
        self.digest.update(piece);
        self.bytes += piece.len() as u64;
    }

    /// In hexadecimal digits.
    pub(crate) fn sha256(&self) -> String {
        let digest = self.digest.clone().finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[cfg(feature = "cli")]
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A reader whose bytes are summed up as they are read.
pub(crate) struct Summed<R> {
    source: R,
    sum: Sum,
}

impl<R> Summed<R> {
    pub(crate) fn new(source: R) -> Self {
        let sum = Sum::default();
        Self { source, sum }
    }

    /// What was read so far.
    pub(crate) fn sum(&self) -> &Sum {
        &self.sum
    }
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.sum.add(&buffer[..count]);
        Ok(count)
    }
}

/// Sums up a file.
pub(crate) fn sum_of(path: &Path) -> io::Result<Sum> {
    let mut file = Summed::new(std::fs::File::open(path)?);
    io::copy(&mut file, &mut io::sink())?;
    Ok(file.sum)
}
