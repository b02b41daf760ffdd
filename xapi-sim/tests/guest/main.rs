//! Real guests, through real SSH logins, on every rung that this machine offers.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "tests say what they skip, and talk to the processes they start"
)]
#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

mod cloud_init;
mod isolation;
mod owner;
mod rungs;
mod support;
