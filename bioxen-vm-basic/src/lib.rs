#![doc = include_str!("../README.md")]

mod backend;
mod config;
mod engine;
mod interpreter;
mod leash;
mod place;
mod supervisor;
mod vm;

pub mod worker;

pub use backend::BasicBackend;
pub use config::BasicConfig;
pub use vm::BasicVm;
