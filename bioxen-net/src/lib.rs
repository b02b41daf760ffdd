#![doc = include_str!("../README.md")]

mod apply;
mod check;
mod error;
mod guests;
mod info;
mod inventory;
mod lookup;
mod marks;
mod network;
mod nics;
mod plan;
mod plan_nics;
mod spec;
mod step;
mod subnet;
mod vif;

pub mod message;

pub use error::{Error, Names, Place, Problem, Problems, Result};
pub use info::{BondInfo, HostInterface, NetworkInfo, NetworkKind, Reach};
pub use lookup::NetworkSelector;
pub use network::Networks;
pub use nics::{NicInfo, SnapshotOf};
pub use spec::{DEFAULT_MTU, Locking, Mac, NetworkSpec, NicSpec, VlanSpec, Wanted};
pub use step::{Addresses, Device, Plan, Step};
pub use subnet::Subnet;

/// The tag of the networks that this library makes. It changes and removes no others.
pub const TAG: &str = "bioxen";
