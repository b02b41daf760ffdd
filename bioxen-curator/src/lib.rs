#![doc = include_str!("../README.md")]

mod arrived;
mod build_needs;
mod builds;
mod bundle;
mod cache;
mod catalogue;
mod curator;
mod diagnose;
mod doctor;
mod embedded;
mod environment;
mod error;
mod evaluate;
mod fetch;
mod hash;
mod import;
mod index;
mod install;
mod installer;
mod lock;
mod locked;
mod lua_table;
mod luarocks;
mod manifest;
#[cfg(feature = "mirror")]
mod mirror;
mod parse;
mod plan;
mod progress;
mod publish;
mod remedy;
mod report;
mod resolve;
mod rock;
mod rockspec;
mod server;
mod sources;
mod tar;
mod version;
mod zip;

pub use builds::Builds;
pub use bundle::{Bundle, BundleReport};
pub use cache::Cache;
pub use catalogue::{Catalogue, Entry, Profile, ProfileReport, Recommendation, Selection};
pub use curator::{Curator, DEFAULT_TIMEOUT};
pub use doctor::{Check, Health, Verdict};
pub use embedded::EmbeddedRocks;
pub use environment::Environment;
pub use error::{Error, Log, Result, Servers, Unreachable};
pub use import::{Imported, import};
pub use installer::{LuaVmPackages, PackageInstaller};
pub use lock::{Lock, LockedRock};
#[cfg(feature = "mirror")]
pub use mirror::Mirror;
pub use plan::{Plan, PlanStep};
pub use progress::Progress;
pub use publish::publish;
pub use report::{
    Form, Found, InstallReport, InstalledRock, Offered, RemoveReport, RockInfo, UndoReport,
    Verified,
};
pub use rock::{Rock, RockName, RockRequest};
pub use server::RocksServer;
pub use version::{Constraints, RockVersion};
