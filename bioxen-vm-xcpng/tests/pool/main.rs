//! VMs on a simulated pool whose guests are real.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod boot_script;
mod faults;
mod first_screen;
mod lab;
mod lifecycle;
mod outcomes;
