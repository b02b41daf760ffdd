#![doc = include_str!("../README.md")]

pub mod api {
    //! The API as its datamodel has it: for each class a marker (`Vm`), a record (`VmRecord`), its messages
    //! (`VmApi`) and structs for long argument lists (`VmCreate`); and the enums.

    pub use crate::generated::*;
}

mod call;
mod client;
mod error;
mod event;
mod failover;
mod failure;
mod filter;
#[rustfmt::skip]
mod generated;
mod handlers;
mod http;
mod jsonrpc;
#[cfg(feature = "meta")]
pub mod meta;
mod mirror;
mod open_enum;
mod records;
mod reference;
mod reply;
mod retry;
mod rrd;
mod session;
mod socket;
mod task;
mod tls;
mod transport;
mod wire;
mod xmlrpc;

pub use call::{AsyncCapable, Call, SyncOnly, TaskCall};
pub use client::{Client, ClientBuilder};
pub use error::{Error, ErrorCode, Failure, Result};
pub use event::{Event, EventBatch, Watch};
pub use filter::{Field, Filter};
pub use handlers::{Compression, DiskFormat, Download, Incoming, Progress, Upload};
pub use mirror::{Mirror, MirrorBuilder, Objects};
pub use records::Records;
pub use reference::{Class, Recorded, Ref, Uuid};
pub use retry::TaskTag;
pub use rrd::{Consolidation, Measurements, Row, RrdUpdates, Source};
pub use secrecy::SecretString;
pub use task::TaskHandle;
pub use tls::{Fingerprint, Trust};
pub use transport::{BodyStream, Connection, Protocol, Request, Transport};
pub use wire::{DateTime, ParseDateTimeError, ToWire};
