#![doc = include_str!("../README.md")]

mod backend;
mod capabilities;
mod config;
mod error;
mod factory;
mod input;
mod manager;
mod outcome;
mod output;
mod runner;
mod script;
mod session;
mod snapshot;
mod value;
mod vm;

#[cfg(feature = "local")]
pub mod files;
#[cfg(feature = "local")]
pub mod local;
pub mod lua;
#[cfg(feature = "testing")]
pub mod testing;
pub mod words;

pub use backend::{Backend, BackendConfig};
pub use capabilities::{Capabilities, Isolation, Wall};
pub use config::ConfigProblem;
pub use error::{Error, ErrorKind, Result};
pub use factory::VmFactory;
pub use input::{Input, InputStream};
pub use manager::{
    Execution, ExecutionStatus, Happening, ManagerStats, Totals, VmEvent, VmEvents, VmManager,
    gather,
};
pub use outcome::{Outcome, Status};
pub use output::{ChannelSink, Gather, OutputSink, OutputStream, Pieces, channel};
pub use runner::{Command, Runner};
pub use script::{DEFAULT_MAX_OUTPUT, Script};
pub use session::{
    Answer, Attachment, Chunk, Reply, Session, SessionEvent, SessionHost, SessionOptions,
    SessionStatus,
};
pub use snapshot::Snapshot;
pub use value::{LuaTable, LuaValue, Returned};
pub use vm::{LuaVm, PackageSite, VmId, VmInfo, VmState};

/// The JSON value that configurations are given in.
pub use serde_json::Value;
