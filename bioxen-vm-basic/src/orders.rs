//! What a worker is told when it is started, and what it says of itself.

use std::path::PathBuf;

use bioxen_vm_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::walls::Plan;

/// What a worker is told, as JSON in an argument. Nothing in it is secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Orders {
    /// The lock that the owner holds for as long as it lives.
    pub(crate) lock: PathBuf,
    /// What runs Lua programs.
    pub(crate) engine: Engine,
    pub(crate) limits: Limits,
    pub(crate) plan: Plan,
    /// The folders whose size `disk` limits.
    pub(crate) folders: Vec<PathBuf>,
    /// Whether a process is to run one program only.
    pub(crate) fresh: bool,
}

impl Orders {
    pub(crate) fn to_argument(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|error| {
            Error::new(
                ErrorKind::Config,
                "the paths of a VM must be UTF-8; choose others for directory, read and write",
            )
            .with_source(error)
        })
    }
}

/// What runs Lua programs in a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Engine {
    /// The Lua that is built in, in this process.
    BuiltIn,
    /// This program, in a process of its own for each Lua program.
    Program(String),
}

/// The limits of a worker. The operating system keeps them, but for the last two, which the worker looks
/// after itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// Bytes.
    pub(crate) memory: Option<u64>,
    /// Seconds of processor time of one execution.
    pub(crate) cpu_time: Option<u64>,
    /// Bytes that one file may have.
    pub(crate) file_size: Option<u64>,
    /// Processes besides the worker.
    pub(crate) processes: Option<usize>,
    /// What the name of the control group begins with in which the kernel counts them.
    pub(crate) group: Option<PathBuf>,
    /// Bytes that the folders of the VM may take.
    pub(crate) disk: Option<u64>,
}

/// One wall, as a worker found it: its name, whether it stands, and what it is made of or why it
/// does not.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Finding {
    pub(crate) name: String,
    pub(crate) stands: bool,
    pub(crate) detail: String,
    /// Whether the configuration wants it not to stand.
    pub(crate) opened: bool,
}
