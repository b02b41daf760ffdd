//! `bioxen run`: makes a VM, runs one program in it, and removes the VM.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bioxen_curator::{PackageInstaller, RocksServer};
use bioxen_vm_core::{Outcome, Script, Status, VmManager};

use super::interrupt::Interrupts;
use super::{FAILED, config, warn};
use crate::settings::Settings;

/// The exit code of a program that ran out of time, as of timeout(1).
const TIMED_OUT: u8 = 124;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// VM type; `bioxen types` lists those of this build
    #[arg(
        long = "type",
        short = 't',
        default_value = "basic",
        value_name = "TYPE"
    )]
    vm_type: String,

    /// Set a key of the type's configuration, `template=lua-bio-template` for example
    #[arg(long = "set", short = 's', value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Install this rock before the program runs
    #[arg(long = "package", short = 'p', value_name = "ROCK")]
    packages: Vec<String>,

    /// Where rocks come from: a URL or a directory, in order
    #[arg(
        long = "server",
        value_name = "SERVER",
        default_value = "https://luarocks.org"
    )]
    servers: Vec<String>,

    /// End the program after this many seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,

    /// Give the program this file as standard input; `-` for our own
    #[arg(long, value_name = "FILE")]
    stdin: Option<PathBuf>,

    /// Run this text instead of a file
    #[arg(long = "execute", short = 'e', value_name = "LUA")]
    code: Option<String>,

    /// The program (not with -e) and its arguments; options of bioxen go before it
    #[arg(trailing_var_arg = true, value_name = "FILE [ARGUMENT]")]
    arguments: Vec<String>,
}

pub(super) async fn run(args: Args, mut settings: Settings) -> anyhow::Result<ExitCode> {
    for assignment in &args.set {
        settings.set(&args.vm_type, assignment)?;
    }
    let script = script(&args)?;
    script.validate()?;
    let interrupts = Interrupts::listen()?;
    let manager = Arc::new(VmManager::new(crate::factory()));
    let work = async {
        let config = config(&settings, &args.vm_type);
        manager.create_vm("run", &args.vm_type, config).await?;
        if !args.packages.is_empty() {
            let servers = args.servers.iter().map(|server| rocks_server(server));
            let installer = PackageInstaller::new(Arc::clone(&manager)).with_servers(servers);
            for package in &args.packages {
                installer
                    .install_package_in_vm(package, "run", &args.vm_type)
                    .await?;
            }
        }
        anyhow::Ok(manager.execute_vm("run", script).await?)
    };
    let result = interrupts.unless(work).await;
    // Whatever happened: the VM goes.
    let cleaned = manager.shutdown_all().await;
    match result {
        Ok(Ok(outcome)) => {
            cleaned.context("the program ran, but its VM could not be removed")?;
            show(&outcome)
        }
        Ok(Err(error)) => {
            if let Err(left) = cleaned {
                warn(&format!("the VM could not be removed: {left}"));
            }
            Err(error)
        }
        Err(interrupted) => {
            cleaned.context("interrupted, and the VM could not be removed")?;
            Ok(ExitCode::from(interrupted.exit_code()))
        }
    }
}

/// A server as the user writes it: what has a scheme is a URL, anything else a directory.
fn rocks_server(text: &str) -> RocksServer {
    if text.contains("://") {
        RocksServer::Url(text.to_owned())
    } else {
        RocksServer::Directory(text.into())
    }
}

fn script(args: &Args) -> anyhow::Result<Script> {
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
    if let Some(file) = &args.stdin {
        script = script.with_stdin(read_input(file)?);
    }
    if let Some(seconds) = args.timeout {
        let limit = Duration::try_from_secs_f64(seconds)
            .with_context(|| format!("{seconds} seconds is no time limit"))?;
        script = script.with_timeout(limit);
    }
    Ok(script)
}

pub(super) fn read_input(file: &std::path::Path) -> anyhow::Result<Vec<u8>> {
    if file.as_os_str() == "-" {
        let mut input = Vec::new();
        std::io::stdin()
            .read_to_end(&mut input)
            .context("cannot read standard input")?;
        return Ok(input);
    }
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Passes on what the program wrote, and how it ended.
fn show(outcome: &Outcome) -> anyhow::Result<ExitCode> {
    std::io::stdout()
        .write_all(&outcome.stdout)
        .context("cannot write to standard output")?;
    std::io::stderr()
        .write_all(&outcome.stderr)
        .context("cannot write to standard error")?;
    if outcome.stdout_truncated || outcome.stderr_truncated {
        warn("the output was longer than kept; its end is missing");
    }
    Ok(match outcome.status {
        Status::Exited(code) => ExitCode::from(u8::try_from(code).unwrap_or(FAILED)),
        Status::Signaled(signal) => ExitCode::from(u8::try_from(128 + signal).unwrap_or(FAILED)),
        Status::TimedOut => {
            warn("the program ran out of time and was ended");
            ExitCode::from(TIMED_OUT)
        }
        _ => ExitCode::from(FAILED),
    })
}
