#![doc = include_str!("../README.md")]

mod curator;
mod diagnose;
mod doctor;
mod error;
mod installer;
mod lua_table;
mod luarocks;
#[cfg(feature = "mirror")]
mod mirror;
mod parse;
mod publish;
mod remedy;
mod report;
mod rock;
mod server;
mod version;

pub use curator::{Curator, DEFAULT_TIMEOUT};
pub use doctor::{Check, Health, Verdict};
pub use error::{Error, Log, Result, Servers, Unreachable};
pub use installer::{LuaVmPackages, PackageInstaller};
#[cfg(feature = "mirror")]
pub use mirror::Mirror;
pub use publish::publish;
pub use report::{Form, Found, InstallReport, InstalledRock, RemoveReport, RockInfo};
pub use rock::{Rock, RockName, RockRequest};
pub use server::RocksServer;
pub use version::{Constraints, RockVersion};
