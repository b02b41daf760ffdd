//! What a program needs that runs Lua in VMs of this machine: one dependency with one feature.

use bioxen::{Script, Value, VmManager};

#[tokio::main]
async fn main() -> bioxen::Result<()> {
    // A local VM is a process of this very program.
    bioxen::basic::worker::run_if_asked();
    let manager = VmManager::new(bioxen::factory());
    manager.create_vm("lab", "basic", Value::Null).await?;
    let gc = "local dna = arg[1] print(select(2, dna:gsub('[GC]', '')) / #dna)";
    let outcome = manager
        .execute_vm("lab", Script::new(gc).arg("ACGTGGCT"))
        .await?;
    print!("{}", outcome.stdout_text());
    manager.shutdown_all().await
}
