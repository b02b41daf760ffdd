//! Messages between VMs of every type: what a hub promises, from inside the programs.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it did"
)]

mod api;
mod guests;
mod here;
mod ring;
mod sockets;

use std::sync::Arc;

use bioxen::net::message::Hub;
use bioxen::{LuaVm, Outcome, Script, Value, VmManager};

/// A manager with a VM of type `basic` for each name.
async fn basic(names: &[&str], config: Value) -> VmManager {
    let manager = VmManager::new(bioxen::factory());
    for name in names {
        manager
            .create_vm(*name, "basic", config.clone())
            .await
            .unwrap();
    }
    manager
}

/// Runs a program in a VM that joins a hub by its id, and insists that it succeeds.
async fn run(hub: &Hub, vm: Arc<dyn LuaVm>, script: Script) -> Outcome {
    let member = hub.join(vm).await.unwrap();
    let outcome = member.execute(script).await.unwrap();
    assert!(outcome.success(), "{}", outcome.stderr_text());
    outcome
}
