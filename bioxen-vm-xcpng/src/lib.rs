//! VMs of type `xcpng`: deployed from a template on an XCP-ng pool, reached over SSH.

pub mod ssh;
