//! The trials of every kind of VM, by theme.

use std::future::Future;
use std::pin::Pin;

use bioxen::{Capabilities, Outcome, Script};
use libtest_mimic::Trial;

use crate::target::{Bench, Target};

type Running<'b> = Pin<Box<dyn Future<Output = ()> + Send + 'b>>;
type Body = for<'b> fn(&'b Bench) -> Running<'b>;
type Needs = fn(&Capabilities) -> bool;

/// Its name, what the VM must be able to do, and what is done.
type Entry = (&'static str, Needs, Body);

/// Anything can do it.
const ANY: Needs = |_| true;
const COMMANDS: Needs = |can| can.processes && can.commands;
const VALUES: Needs = |can| can.returned_values;
const STREAMING: Needs = |can| can.streaming;
const FILES: Needs = |can| can.files;
const SESSIONS: Needs = |can| can.sessions;

macro_rules! trials {
    ($($needs:ident $name:ident),* $(,)?) => {
        &[$((stringify!($name), $needs, |bench| Box::pin($name(bench)))),*]
    };
}

mod manager;
mod programs;
mod sessions;
mod surroundings;

const TRIALS: [&[Entry]; 4] = [
    programs::TRIALS,
    surroundings::TRIALS,
    sessions::TRIALS,
    manager::TRIALS,
];

/// The names of the trials of every kind of VM.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    TRIALS.into_iter().flatten().map(|(name, ..)| *name)
}

/// The trials of a kind of VM. Those that it cannot do pass, and say so.
pub(crate) fn of(target: Target) -> Vec<Trial> {
    TRIALS
        .into_iter()
        .flatten()
        .map(|(name, needs, body)| {
            Trial::test(format!("{}::{name}", target.name), move || {
                block_on(async {
                    let bench = target.bench().await;
                    if needs(&bench.can()) {
                        body(&bench).await;
                    } else {
                        eprintln!("{} cannot do this", target.name);
                    }
                    bench.end().await;
                });
                Ok(())
            })
        })
        .collect()
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future);
}

pub(crate) async fn run(bench: &Bench, script: impl Into<Script>) -> Outcome {
    bench.manager.execute_vm("vm", script).await.unwrap()
}
