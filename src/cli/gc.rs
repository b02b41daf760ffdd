//! `bioxen gc`: removes what killed programs have left on a pool.

use std::process::ExitCode;

use anyhow::Context as _;
use bioxen_vm_core::{Backend as _, BackendConfig as _};
use bioxen_vm_xcpng::{Leftover, XcpngConfig};

use super::vms::to_the_end;
use super::waiting::doing;
use super::{FAILED, config_without_template, print};
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only tell what would be removed
    #[arg(long, short = 'n')]
    dry_run: bool,

    /// Print JSON, one object to a line
    #[arg(long)]
    json: bool,

    /// Set a key of the configuration, `xcpng_host=pool.example` for example
    #[arg(long = "set", short = 's', value_name = "KEY=VALUE")]
    set: Vec<String>,
}

pub(super) async fn run(args: Args, settings: Settings) -> anyhow::Result<ExitCode> {
    to_the_end(collect(args, settings)).await
}

async fn collect(args: Args, mut settings: Settings) -> anyhow::Result<ExitCode> {
    for assignment in &args.set {
        settings.set(XcpngConfig::VM_TYPE, assignment)?;
    }
    let config = XcpngConfig::from_value(config_without_template(&settings)?)?;
    let backend = config.build_without_template()?;
    let collect = backend.collect(args.dry_run);
    let collected = doing("looking for what is left on the pool", collect).await;
    backend.close().await?;
    let collected = collected?;
    for left in &collected {
        print(&line(left, &args)?)?;
    }
    if collected.is_empty() && !args.json {
        print("nothing is left on the pool\n")?;
    }
    let is_clean = collected.iter().all(|left| left.problem.is_none());
    Ok(if is_clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    })
}

fn line(left: &Leftover, args: &Args) -> anyhow::Result<String> {
    if args.json {
        let json = serde_json::to_string(left).context("cannot write JSON")?;
        return Ok(format!("{json}\n"));
    }
    let Leftover {
        kind, name, uuid, ..
    } = left;
    Ok(match &left.problem {
        Some(problem) => format!("cannot remove {kind} {name} ({uuid}): {problem}\n"),
        None if args.dry_run => format!("would remove {kind} {name} ({uuid})\n"),
        None => format!("removed {kind} {name} ({uuid})\n"),
    })
}
