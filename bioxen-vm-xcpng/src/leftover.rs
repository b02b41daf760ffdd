//! What runs have left on a pool, as it is told.

use std::fmt;

use serde::Serialize;

/// Something that a run has left on a pool.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Leftover {
    /// What it is.
    pub kind: LeftoverKind,
    /// Its name on the pool.
    pub name: String,
    /// Its UUID on the pool. Of a key, that of its VM.
    pub uuid: String,
    /// The run that made it; empty of a key, which belongs to no run.
    pub run: String,
    /// Why it could not be removed, with the causes, if it could not.
    pub problem: Option<String>,
}

/// What something that was left is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LeftoverKind {
    /// A VM with its disks and snapshots.
    Vm,
    /// A snapshot of a VM that stays or is gone already.
    Snapshot,
    /// A config drive that no VM has.
    ConfigDrive,
    /// A disk of a VM that somebody else has removed.
    Disk,
    /// An interface that a VM of somebody else was given.
    Interface,
    /// A network that no VM is on.
    Network,
    /// A task.
    Task,
    /// A session.
    Session,
    /// The SSH key to a VM that was kept, on this machine; the VM is gone.
    Key,
}

impl fmt::Display for LeftoverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vm => "VM",
            Self::Snapshot => "snapshot",
            Self::ConfigDrive => "config drive",
            Self::Disk => "disk",
            Self::Interface => "interface",
            Self::Network => "network",
            Self::Task => "task",
            Self::Session => "session",
            Self::Key => "SSH key of VM",
        })
    }
}
