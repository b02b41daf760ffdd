//! The program of the README, which `cargo run --example first` runs.

use bioxen::{Script, Value, VmManager};

#[tokio::main]
async fn main() -> bioxen::Result<()> {
    bioxen::basic::worker::run_if_asked();
    let manager = VmManager::new(bioxen::factory());
    manager.create_vm("lab", "basic", Value::Null).await?;
    let count = "local dna = io.read('a') print(select(2, dna:gsub('[GC]', '')))";
    let outcome = manager
        .execute_vm("lab", Script::new(count).with_stdin("ACGTGGC"))
        .await?;
    assert_eq!(outcome.stdout_text(), "5\n");
    manager.shutdown_all().await
}
