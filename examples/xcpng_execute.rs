//! Deploys a VM from the template `lua-bio-template`, runs Lua in it that needs the rock
//! `bio_compute`, and prints what it wrote.
//!
//! It uses the embedded pool, or yours when `BIOXEN_XCPNG_HOST` and the credentials are set:
//!
//! ```sh
//! cargo run --features full --example xcpng_execute
//! ```

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example talks to its user"
)]

mod common;

use bioxen::Script;
use serde_json::json;

/// Analyses a sequence that it gets as its argument.
const ANALYSIS: &str = r#"
local bio = require("bio_compute")
local report = bio.analyze_dna(...)
print("length", report.length)
print("GC", string.format("%.2f %%", report.gc * 100))
print("reverse complement", report.reverse_complement)
print("translation", report.translation)
"#;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    common::in_lab(async |lab| {
        let config = lab.config(json!({
            "template": "lua-bio-template",
            "memory": "2GB",
            "vcpus": 2,
        }));
        lab.manager().create_vm("analysis", "xcpng", config).await?;
        lab.installer()
            .install_package_in_vm("bio_compute", "analysis", "xcpng")
            .await?;

        let script = Script::new(ANALYSIS).arg("ATGGCCATTGTAATGGGCCGCTGAAAGGGTGCCCGATAG");
        lab.run("analysis", script).await
    })
    .await
}
