//! A typed client for XAPI, the management API of XCP-ng and XenServer.

#[rustfmt::skip]
mod generated;
#[cfg(feature = "meta")]
pub mod meta;
