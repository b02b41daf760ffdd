//! Deploys a VM from a template and waits for its address:
//! `cargo run -p xapi-client --example deploy -- HOST FINGERPRINT TEMPLATE NAME < FILE_WITH_THE_PASSWORD`.

#![allow(clippy::print_stdout, reason = "it is what was asked for")]

use xapi_client::api::{VbdType, Vm, VmGuestMetrics, VmPowerState};
use xapi_client::{Client, Error, Ref, Result, SecretString, Trust};

pub(crate) async fn deploy(client: &Client, template: &str, name: &str) -> Result<String> {
    let templates = client.vm().get_by_name_label(template).await?;
    let template = templates
        .first()
        .ok_or_else(|| Error::Config(format!("there is no template `{template}`")))?;
    let vm = client.vm().clone(template, name).into_task().wait().await?;
    let address = boot(client, &vm).await;
    if address.is_err() {
        remove(client, &vm).await?;
    }
    address
}

async fn boot(client: &Client, vm: &Ref<Vm>) -> Result<String> {
    client.vm().provision(vm).into_task().wait().await?;
    let start = client.vm().start(vm, false, false);
    start.into_task().wait().await?;
    // The guest's tools tell its addresses once it is up.
    let mirror = client.mirror().class::<Vm>().class::<VmGuestMetrics>();
    let mirror = mirror.start().await?;
    mirror
        .wait_for(|objects| {
            let guest = objects.get(&objects.get(vm)?.guest_metrics)?;
            guest.networks.get("0/ip").cloned()
        })
        .await
}

/// Leaves nothing of a VM that did not come up. A VM does not take its disks along by itself.
async fn remove(client: &Client, vm: &Ref<Vm>) -> Result<()> {
    if client.vm().get_power_state(vm).await? != VmPowerState::Halted {
        let off = client.vm().hard_shutdown(vm);
        off.into_task().wait().await?;
    }
    for device in client.vm().get_vbds(vm).await? {
        let device = client.vbd().get_record(&device).await?;
        if device.type_ == VbdType::Disk && !device.vdi.is_null() {
            client.vdi().destroy(&device.vdi).await?;
        }
    }
    client.vm().destroy(vm).await
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, fingerprint, template, name] = &arguments[..] else {
        return Err(Error::Config(
            "give HOST FINGERPRINT TEMPLATE NAME, and the password of root on standard input"
                .to_owned(),
        ));
    };
    let password = std::io::read_to_string(std::io::stdin()).unwrap_or_default();
    let client = Client::builder(host)
        .credentials("root", SecretString::from(password.trim_end()))
        .trust(Trust::Pinned(fingerprint.parse()?))
        .login()
        .await?;
    println!("{name} runs at {}", deploy(&client, template, name).await?);
    client.close().await
}
