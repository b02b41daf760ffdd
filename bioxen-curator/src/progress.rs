//! What goes on during an operation.

use std::fmt;
use std::time::Duration;

use crate::{Plan, Rock};

/// A step of an operation, as [`Curator::subscribe`](crate::Curator::subscribe) tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The tree is being changed by somebody else, whom we wait for.
    Waiting,
    /// A change that somebody else had left half done was undone.
    Repaired,
    /// It is known what will be installed.
    Planned(Plan),
    /// The file of a rock was read, from the cache or its server.
    Fetched {
        /// The file.
        file: String,
        /// Its size in bytes.
        bytes: u64,
    },
    /// Files are sent to the machine of the tree.
    Sending {
        /// How many files.
        files: usize,
        /// Their size in bytes.
        bytes: u64,
    },
    /// A rock is being installed, or removed.
    Started {
        /// The rock.
        rock: Rock,
        /// Its number, from 1.
        number: usize,
        /// How many there are.
        of: usize,
    },
    /// A rock is done.
    Finished {
        /// The rock.
        rock: Rock,
        /// How long it took.
        took: Duration,
    },
    /// A rock failed, and the tree was put back.
    RolledBack {
        /// The rock.
        rock: Rock,
    },
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => f.write_str("waiting for another change of this tree to end"),
            Self::Repaired => f.write_str("undid a change that had been left half done"),
            Self::Planned(plan) => write!(f, "{} to install", plan.steps.len()),
            Self::Fetched { file, bytes } => write!(f, "got {file} ({bytes} bytes)"),
            Self::Sending { files, bytes } => write!(f, "sending {files} files ({bytes} bytes)"),
            Self::Started { rock, number, of } => write!(f, "[{number}/{of}] {rock}"),
            Self::Finished { rock, took } => write!(f, "{rock} done in {} ms", took.as_millis()),
            Self::RolledBack { rock } => write!(f, "{rock} failed; the tree is as it was"),
        }
    }
}
