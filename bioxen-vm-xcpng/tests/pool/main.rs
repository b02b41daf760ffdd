//! VMs on a simulated pool whose guests are real.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "tests print what they counted")]

mod boot_script;
mod busy;
mod config_drive;
mod copies;
mod doctor;
mod execution;
mod faults;
mod first_screen;
mod keeping;
mod kill;
mod lab;
mod leftovers;
mod life;
mod lifecycle;
mod members;
mod outcomes;
mod power;
mod template;
