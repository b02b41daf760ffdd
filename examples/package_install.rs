//! Installs the rock `bio_sequence_analysis` in a VM of a pool through the curator.
//!
//! It uses the embedded pool, or yours when `BIOXEN_XCPNG_HOST` and the credentials are set:
//!
//! ```sh
//! cargo run --features full --example package_install
//! ```

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example talks to its user"
)]

mod common;

use serde_json::json;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    common::in_lab(async |lab| {
        let config = lab.config(json!({"template": "lua-bio-template"}));
        lab.manager().create_vm("packages", "xcpng", config).await?;

        let installer = lab.installer();
        let report = installer
            .install_package_in_vm("bio_sequence_analysis", "packages", "xcpng")
            .await?;
        println!("{report}");

        let program =
            "print('k-mers:', require('bio_sequence_analysis').count_kmers(arg[1], tonumber(arg[2])):stats().total)";
        let script = bioxen::Script::new(program).arg("ACGTACGTACGT").arg("4");
        lab.run("packages", script).await
    })
    .await
}
