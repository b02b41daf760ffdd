//! A ring of three VMs, one of them on a pool, that passes a gene along: each does to it what a cell
//! does, and the protein comes back.
//!
//! It uses the embedded pool, or yours when `BIOXEN_XCPNG_HOST` and the credentials are set:
//!
//! ```sh
//! cargo run --features full --example ring
//! ```

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example talks to its user"
)]

mod common;

use std::time::Duration;

use bioxen::Script;
use bioxen::net::message::Hub;
use serde_json::json;

const LIMIT: Option<Duration> = Some(Duration::from_secs(60));

/// Receives sequences, does to each what `bio_compute` is asked for, and passes it on.
const STATION: &str = r#"
local net, bio = require("bioxen.net"), require("bio_compute")
local what, next_one = ...
repeat
  local message = assert(net.receive(60))
  local sequence = message.bytes
  if sequence ~= "" then
    for step in what:gmatch("%S+") do sequence = bio[step](sequence) end
  end
  assert(net.send(next_one, sequence, 60))
until sequence == ""
"#;

const WEIGH: &str = r#"
local protein = ...
local weight = require("bio_compute").molecular_weight(protein, {kind = "protein"})
print(("made %s, of %.0f Da"):format(protein, weight))
"#;

/// VM, type, what it does.
const RING: [(&str, &str, &str); 3] = [
    ("polymerase", "basic", "reverse_complement"),
    ("nucleus", "basic", "transcribe"),
    ("ribosome", "xcpng", "back_transcribe translate"),
];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    bioxen::basic::worker::run_if_asked();
    common::in_lab(async |lab| {
        let hub = Hub::new();
        let cell = hub.endpoint("cell")?;
        let mut programs = Vec::new();
        for (station, (id, vm_type, what)) in RING.into_iter().enumerate() {
            let config = match vm_type {
                "xcpng" => lab.config(json!({"template": "lua-bio-template"})),
                _ => json!({}),
            };
            let vm = lab.manager().create_vm(id, vm_type, config).await?;
            lab.installer()
                .install_package_in_vm("bio_compute", id, vm_type)
                .await?;
            let next = RING.get(station + 1).map_or("cell", |(id, ..)| id);
            let script = Script::new(STATION).arg(what).arg(next);
            let member = hub.join(vm).await?;
            programs.push(tokio::spawn(member.execute(script)));
        }

        // The template strands of the first ten codons of insulin (MALWMRLLPL) and of beta globin (MVHLTPEEKS).
        for template in [
            "CAGGGGCAGGAGGCGCATCCACAGGGCCAT",
            "AGACTTCTCCTCAGGAGTCAGATGCACCAT",
        ] {
            cell.send(RING[0].0, template, LIMIT).await?;
        }
        cell.send(RING[0].0, "", LIMIT).await?;
        let mut proteins = Vec::new();
        while let Some(message) = cell.receive(LIMIT).await? {
            if message.bytes.is_empty() {
                break;
            }
            proteins.push(message.bytes);
        }
        for program in programs {
            let outcome = program.await??;
            anyhow::ensure!(outcome.success(), "{}", outcome.stderr_text());
        }
        for protein in proteins {
            lab.run("ribosome", Script::new(WEIGH).arg(protein)).await?;
        }
        Ok(())
    })
    .await
}
