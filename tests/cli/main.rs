//! What a user of `bioxen run` and of what every command has in common sees: the program's own bytes and exit
//! code, and for every wrong input of the first screen one line that says what to do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output, Stdio};

mod pool;
mod program;
mod usage;

const PASSWORD: &str = "canary-of-the-pool";

fn bioxen(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bioxen"));
    command
        .args(args)
        .env("BIOXEN_XCPNG_PASSWORD", PASSWORD)
        .env("XDG_STATE_HOME", env!("CARGO_TARGET_TMPDIR"))
        .stdin(Stdio::null());
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
