//! `bioxen run` and `bioxen exec`: one program in a VM that is made for it, or in one that is there.

use std::fs::File;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bioxen_curator::PackageInstaller;
use bioxen_vm_core::words::parse_duration;
use bioxen_vm_core::{Input, Script};

use super::copies::Copies;
use super::ground::{Ground, Kind};
use super::interrupt::Interrupts;
use super::streams::{Streams, exit_code, read_ahead};
use super::{servers, with_vms};
use crate::settings::Settings;

/// What the exit code says, for the help.
const ENDINGS: &str = "\
Exit codes: that of the program, but 123 when it was out of memory, 124 when its time was up, 152 when
its processor time was, 122 when it met another limit (processes, disk), 128 and its number for another
signal, 125 when BioXen itself failed.";

#[derive(Debug, clap::Args)]
#[command(after_help = ENDINGS)]
pub(super) struct Run {
    #[command(flatten)]
    kind: Kind,

    #[command(flatten)]
    job: Job,
}

#[cfg(feature = "xcpng")]
#[derive(Debug, clap::Args)]
#[command(after_help = ENDINGS)]
pub(super) struct Exec {
    /// The VM, started if need be: its id, name or UUID, or `tag:NAME`
    #[arg(value_name = "VM")]
    vm: String,

    /// Set a key of the configuration, `xcpng_host=pool.example` for example
    #[arg(long = "set", short = 's', value_name = "KEY=VALUE")]
    set: Vec<String>,

    #[command(flatten)]
    job: Job,
}

/// A program, and what it needs.
#[derive(Debug, clap::Args)]
pub(super) struct Job {
    /// Install this rock before the program runs
    #[arg(long = "package", short = 'p', value_name = "ROCK")]
    packages: Vec<String>,

    /// Where rocks come from: a URL, a directory, a bundle, or `bioxen` for the rocks of this
    /// program, in order
    #[arg(long = "server", value_name = "SERVER", default_values = servers::DEFAULT)]
    servers: Vec<String>,

    /// End the program after this long: `30s`, `1h30m`, or a number of seconds
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,

    /// Give the program this file as standard input; `-` for our own, which it also gets without
    /// this option unless that is a terminal
    #[arg(long, value_name = "FILE")]
    stdin: Option<PathBuf>,

    /// Copy this file or folder into the VM before the program runs; programs start in the folder
    /// that relative paths are meant from
    #[arg(long, value_name = "LOCAL[:REMOTE]")]
    put: Vec<String>,

    /// Copy this file or folder out of the VM when the program has succeeded
    #[arg(long, value_name = "REMOTE[:LOCAL]")]
    get: Vec<String>,

    /// Run this text instead of a file
    #[arg(long = "execute", short = 'e', value_name = "LUA")]
    code: Option<String>,

    /// The program (not with -e) and its arguments; options of bioxen go before it
    #[arg(trailing_var_arg = true, value_name = "FILE [ARGUMENT]")]
    arguments: Vec<String>,
}

pub(super) async fn run(args: Run, settings: Settings) -> anyhow::Result<ExitCode> {
    // What is wrong with the program is told before anything else.
    let script = script(&args.job)?;
    execute(args.kind.ground(settings)?, &args.job, script).await
}

#[cfg(feature = "xcpng")]
pub(super) async fn exec(args: Exec, settings: Settings) -> anyhow::Result<ExitCode> {
    let script = script(&args.job)?;
    let ground = Ground::existing(args.vm, &args.set, settings)?;
    execute(ground, &args.job, script).await
}

async fn execute(ground: Ground, job: &Job, script: Script) -> anyhow::Result<ExitCode> {
    let mut streams = Streams::new()?;
    let interrupts = Interrupts::listen()?;
    let manager = &ground.manager;
    let work = async {
        let vm = ground.enter("run").await?;
        if !job.packages.is_empty() {
            let servers = servers::servers(&job.servers)?;
            let installer = PackageInstaller::new(Arc::clone(manager)).with_servers(servers);
            for package in &job.packages {
                installer
                    .install_package_in_vm(package, vm.id().as_str(), &ground.vm_type)
                    .await?;
            }
        }
        let copies = Copies::new(&job.put, &job.get, &*vm).await?;
        copies.put().await?;
        let outcome = vm.execute_streaming(script, &mut streams).await?;
        if let Some(end) = streams.failure() {
            return end;
        }
        if outcome.success() {
            copies.get().await?;
        }
        Ok(exit_code(outcome.status))
    };
    with_vms(manager, &interrupts, work).await
}

fn script(args: &Job) -> anyhow::Result<Script> {
    let mut arguments = args.arguments.iter();
    let mut script = match &args.code {
        Some(code) => Script::new(code.clone()).with_name("-e"),
        None => {
            let file = arguments
                .next()
                .context("give a Lua file, or Lua text with -e")?;
            let code =
                std::fs::read(file).with_context(|| format!("cannot read the program {file}"))?;
            Script::new(code).with_name(file.clone())
        }
    };
    for argument in arguments {
        script = script.arg(argument.clone());
    }
    if let Some(input) = input(args)? {
        script = script.with_stdin(input);
    }
    if let Some(limit) = args.timeout {
        script = script.with_timeout(limit);
    }
    script.validate()?;
    Ok(script)
}

/// What the program reads, as it comes. The terminal only on request: it is the user's.
fn input(args: &Job) -> anyhow::Result<Option<Input>> {
    let ours = std::io::stdin();
    Ok(match &args.stdin {
        Some(file) if file.as_os_str() != "-" => {
            let cannot = || format!("cannot read {}", file.display());
            let opened = File::open(file).with_context(cannot)?;
            if opened.metadata().with_context(cannot)?.is_dir() {
                anyhow::bail!("{}: it is a directory", cannot());
            }
            Some(Input::stream(read_ahead(opened)))
        }
        None if ours.is_terminal() => None,
        _ => Some(Input::stream(read_ahead(ours))),
    })
}
