//! Commands on a guest over SSH, as the core's [`Runner`](bioxen_vm_core::Runner).
//!
//! Only this folder knows of the `openssh` crate and of the `ssh` program.

mod classify;
mod config;
mod keys;
mod master;
mod runner;
mod session;

#[cfg(test)]
mod tests;

pub use classify::SshError;
pub use config::{HostKey, Identity, SshTarget};
pub use keys::KeyPair;
pub use runner::SshRunner;
pub use session::SshSession;
