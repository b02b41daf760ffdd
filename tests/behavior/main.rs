//! What every VM does, whatever its type: one suite, run against each kind of VM.
//!
//! Trials are chosen by what a VM says it can do ([`Capabilities`]). `B` is a behaviour of the
//! library that this project replaces and keeps, `D` a defect of it that must not come back; the
//! numbers are those of issue #5. Where another test shows the thing, `elsewhere.rs` names it, and
//! fails when that test is gone. What is no matter of a kind of VM is in `once.rs`, which also fails
//! when one of the 18 behaviours and 28 defects has no trial.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it did not try"
)]

mod agreement;
mod elsewhere;
mod once;
mod target;
mod trials;

use libtest_mimic::{Arguments, Trial};

use target::TARGETS;

fn main() {
    // A local VM starts this program as its worker.
    bioxen::basic::worker::run_if_asked();
    let mut all: Vec<Trial> = elsewhere::trials();
    all.extend(once::trials());
    for target in TARGETS {
        all.extend(trials::of(target));
    }
    all.push(agreement::trial());
    libtest_mimic::run(&Arguments::from_args(), all).exit();
}
