//! Messages between VMs of every type: what a hub promises, from inside the programs.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it did"
)]

mod api;
mod guests;
mod here;
mod leave;
mod ring;
mod sockets;

use std::sync::Arc;

use bioxen::embedded::EmbeddedPool;
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

/// VMs on a pool within this process, and their manager.
struct Guests {
    pool: EmbeddedPool,
    manager: VmManager,
    vms: Vec<Arc<dyn LuaVm>>,
}

impl Guests {
    async fn of<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Self {
        let pool = EmbeddedPool::start().await.unwrap();
        let manager = VmManager::new(bioxen::factory());
        let mut vms = Vec::new();
        for name in names {
            let made = manager.create_vm(name.as_ref(), "xcpng", pool.config());
            vms.push(made.await.unwrap());
        }
        Self { pool, manager, vms }
    }

    async fn end(self) {
        self.manager.shutdown_all().await.unwrap();
        self.pool.shutdown().await;
    }
}

/// Runs a program in a VM that joins a hub by its id, and insists that it succeeds.
async fn run(hub: &Hub, vm: Arc<dyn LuaVm>, script: Script) -> Outcome {
    let member = hub.join(vm).await.unwrap();
    let outcome = member.execute(script).await.unwrap();
    assert!(outcome.success(), "{}", outcome.stderr_text());
    outcome
}
