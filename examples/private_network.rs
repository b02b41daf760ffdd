//! Makes three VMs with a private network between them, lets each find the others by name, and
//! removes all of it again.
//!
//! It uses the embedded pool, or yours when `BIOXEN_XCPNG_HOST`, the credentials, a template with
//! cloud-init and the network by which VMs are reached (`BIOXEN_XCPNG_NETWORK`) are set:
//!
//! ```sh
//! cargo run --features full --example private_network
//! ```

#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use bioxen::embedded::{CLOUD_TEMPLATE, NETWORK, Pool};
use bioxen::group::{GroupSpec, VmGroup};
use bioxen::settings::Settings;
use bioxen::{Script, VmId};
use serde_json::json;

/// Looks its arguments up in what the VM knows of names.
const WHO_IS_WHO: &str = r#"
for line in io.lines("/etc/hosts") do
  local address, name = line:match("^(%S+)%s+(%S+)")
  for _, wanted in ipairs(arg) do
    if name == wanted then print(wanted .. " is " .. address) end
  end
end
"#;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut settings = Settings::new();
    settings.read_environment(std::env::vars());
    let pool = Pool::open(settings.config("xcpng")).await?;
    let mut config = pool.config(json!({"network": [NETWORK]}));
    if pool.embedded().is_some() {
        config["template"] = json!(CLOUD_TEMPLATE);
    }
    let ids = ["reads", "index", "report"].map(VmId::new);
    let ids = ids.into_iter().collect::<Result<Vec<_>, _>>()?;
    let group = VmGroup::new(config, GroupSpec::isolated("mapping", ids).with_locking())?;
    let result = tokio::select! {
        result = work(&group) => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    group.destroy().await?;
    pool.close().await;
    result
}

async fn work(group: &VmGroup) -> anyhow::Result<()> {
    group.create().await?;
    let network = group.network().await?;
    println!("made network {network}: {}", network.kind);
    group.start().await?;
    for (id, vm) in group.vms().await {
        let others = group.addresses().keys().filter(|other| **other != id);
        let script = others.fold(Script::new(WHO_IS_WHO), |script, other| {
            script.arg(other.to_string())
        });
        let outcome = vm.execute(script).await?;
        anyhow::ensure!(
            outcome.success(),
            "the Lua program failed: {}",
            outcome.status
        );
        println!("{id} ({}) knows:", group.addresses()[&id]);
        print!("{}", outcome.stdout_text());
    }
    Ok(())
}
