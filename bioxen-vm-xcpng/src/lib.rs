#![doc = include_str!("../README.md")]

mod address;
mod backend;
mod cloud_init;
mod config;
mod config_drive;
mod deploy;
mod doctor;
mod error;
mod execute;
mod find;
mod first_contact;
mod gc;
mod guest;
mod ledger;
mod marks;
mod no_address;
mod pool;
mod progress;
mod remove;
mod settings;
pub mod ssh;
mod vm;
mod words;

pub use backend::XcpngBackend;
pub use bioxen_vm_core::words::ByteSize;
pub use config::{CloneMode, FirstContact, SshConfig, TlsConfig, XcpngConfig};
pub use config_drive::{Cidr, StaticAddress};
pub use deploy::Plan;
pub use doctor::{Check, Doctor, Finding, Verdict};
pub use error::Error;
pub use gc::{Leftover, LeftoverKind};
pub use no_address::NoAddress;
pub use progress::{Progress, Stage, StageState};
pub use vm::XcpngVm;
