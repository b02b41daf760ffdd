//! Phage-lambda resequencing in a lab pool: reads of a known genome, split over VMs and gathered into
//! one report as JSON, TSV and a page for the browser.
//!
//! ```sh
//! make data
//! cargo run --features full --example phage_resequencing -- --out target/phage
//! cargo run --features full --example phage_resequencing -- --out target/phage-pool --type xcpng --vms 4
//! ```
//!
//! VMs of type `xcpng` are made on the embedded pool, or on yours when `BIOXEN_XCPNG_HOST` and the
//! credentials are set. docs/workflow.md goes through it step by step.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example talks to its user"
)]

mod page;
mod plots;
mod report;
mod workflow;

use std::path::PathBuf;
use std::sync::Arc;

use bioxen::embedded::Pool;
use bioxen::settings::Settings;
use bioxen::{Value, VmManager};
use clap::Parser as _;
use workflow::{Data, Vms};

#[derive(clap::Parser)]
struct Args {
    /// The folder for the report; a run that was ended there goes on
    #[arg(long, default_value = "target/phage")]
    out: PathBuf,

    /// The folder with lambda_virus.fa, reads_1.fq, reads_2.fq and longreads.fq
    #[arg(long, default_value = "target/data")]
    data: PathBuf,

    /// The type of the VMs: basic or xcpng
    #[arg(long = "type", default_value = "basic")]
    vm_type: String,

    /// How many VMs
    #[arg(long, default_value_t = 2)]
    vms: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    bioxen::basic::worker::run_if_asked();
    let args = Args::parse();
    let mut settings = Settings::new();
    settings.read_environment(std::env::vars());
    let pool = match args.vm_type.as_str() {
        "xcpng" => Some(Pool::open(settings.config("xcpng")).await?),
        _ => None,
    };
    let config = match &pool {
        Some(pool) => pool.config(serde_json::json!({"template": "lua-bio-template"})),
        None => settings.config(&args.vm_type),
    };
    let manager = Arc::new(VmManager::new(bioxen::factory()));
    let result = tokio::select! {
        result = Box::pin(analyse(&args, config, &manager)) => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted; the same command goes on")),
    };
    manager.shutdown_all().await?;
    if let Some(pool) = pool {
        pool.close().await;
    }
    result
}

async fn analyse(args: &Args, config: Value, manager: &Arc<VmManager>) -> anyhow::Result<()> {
    let vms = Vms {
        vm_type: args.vm_type.clone(),
        config,
        count: args.vms,
    };
    let hear = |map: &bioxen::map::Map| {
        let mut events = map.subscribe();
        tokio::spawn(async move {
            while let Ok(event) = events.recv().await {
                if let Some(line) = workflow::line(&event) {
                    eprintln!("{line}");
                }
            }
        });
    };
    let data = Data::of(&args.data);
    let report = workflow::run(manager, &data, &vms, &args.out, hear).await?;
    println!("{}", report.summary());
    println!("{}", args.out.join("report.html").display());
    Ok(())
}
