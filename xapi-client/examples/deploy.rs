//! Deploys a VM from a template and waits for its address:
//! `cargo run -p xapi-client --example deploy -- HOST FINGERPRINT TEMPLATE NAME < FILE_WITH_THE_PASSWORD`.

#![allow(clippy::print_stdout, reason = "it is what was asked for")]

use xapi_client::api::{Vm, VmGuestMetrics};
use xapi_client::{Client, Error, Result, SecretString, Trust};

pub(crate) async fn deploy(client: &Client, template: &str, name: &str) -> Result<String> {
    let templates = client.vm().get_by_name_label(template).await?;
    let template = templates
        .first()
        .ok_or_else(|| Error::Config(format!("there is no template `{template}`")))?;
    let vm = client.vm().clone(template, name).into_task().wait().await?;
    client.vm().provision(&vm).into_task().wait().await?;
    client
        .vm()
        .start(&vm, false, false)
        .into_task()
        .wait()
        .await?;
    // The guest's tools tell its addresses once it is up.
    let mirror = client.mirror().class::<Vm>().class::<VmGuestMetrics>();
    let mirror = mirror.start().await?;
    mirror
        .wait_for(|objects| {
            let guest = objects.get(&objects.get(&vm)?.guest_metrics)?;
            guest.networks.get("0/ip").cloned()
        })
        .await
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
