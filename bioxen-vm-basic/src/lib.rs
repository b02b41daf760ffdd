#![doc = include_str!("../README.md")]

mod backend;
mod body;
mod brake;
mod census;
mod config;
mod engine;
mod execution;
mod group;
mod interpreter;
mod job;
mod leash;
mod link;
mod orders;
mod place;
mod pool;
mod serve;
mod supervisor;
mod thread;
mod vm;
mod walls;

pub mod worker;

pub use backend::BasicBackend;
pub use config::{BasicConfig, Walls};
pub use vm::BasicVm;
