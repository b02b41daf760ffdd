#![doc = include_str!("../README.md")]

mod backend;
mod error;
mod factory;
mod manager;
mod outcome;
mod runner;
mod script;
mod vm;

#[cfg(feature = "local")]
pub mod local;
pub mod lua;
#[cfg(feature = "testing")]
pub mod testing;
pub mod words;

pub use backend::{Backend, BackendConfig};
pub use error::{Error, ErrorKind, Result};
pub use factory::VmFactory;
pub use manager::{Execution, ExecutionStatus, VmManager};
pub use outcome::{Outcome, Status};
pub use runner::{Command, Runner};
pub use script::{DEFAULT_MAX_OUTPUT, Script};
pub use vm::{LuaVm, PackageSite, VmId, VmInfo, VmState};

/// The JSON value that configurations are given in.
pub use serde_json::Value;
