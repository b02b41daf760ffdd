#![doc = include_str!("../README.md")]

mod apply;
mod error;
mod inventory;
mod lookup;
mod network;
mod plan;
mod spec;
mod vif;

pub mod message;

pub use error::{Error, Names, Problems, Result};
pub use inventory::{HostInterface, NetworkInfo, NetworkKind, Reach};
pub use lookup::NetworkSelector;
pub use network::Networks;
pub use plan::{Plan, Step};
pub use spec::{DEFAULT_MTU, Locking, Mac, NetworkSpec, NicSpec, VlanSpec};
pub use vif::NicInfo;

/// The tag of the networks that this library makes. It changes and removes no others.
pub const TAG: &str = "bioxen";
