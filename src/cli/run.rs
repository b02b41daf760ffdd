//! `bioxen run`: makes a VM, runs one program in it, and removes the VM.

use std::fs::File;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bioxen_curator::PackageInstaller;
#[cfg(feature = "xcpng")]
use bioxen_vm_core::BackendConfig as _;
use bioxen_vm_core::words::parse_duration;
use bioxen_vm_core::{Input, Script, Value, VmManager};

use super::copies::Copies;
use super::interrupt::Interrupts;
use super::streams::{Streams, exit_code, read_ahead};
use super::{config, servers, with_defaults, with_vms};
use crate::settings::Settings;

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

    /// Run in this VM of a pool, started if need be, instead of one made for the program: its id,
    /// name or UUID, or `tag:NAME`
    #[cfg(feature = "xcpng")]
    #[arg(long, value_name = "VM", conflicts_with = "vm_type")]
    vm: Option<String>,

    /// Set a key of the type's configuration, `template=lua-bio-template` for example
    #[arg(long = "set", short = 's', value_name = "KEY=VALUE")]
    set: Vec<String>,

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
    pub(super) put: Vec<String>,

    /// Copy this file or folder out of the VM when the program has succeeded
    #[arg(long, value_name = "REMOTE[:LOCAL]")]
    pub(super) get: Vec<String>,

    /// Run this text instead of a file
    #[arg(long = "execute", short = 'e', value_name = "LUA")]
    code: Option<String>,

    /// The program (not with -e) and its arguments; options of bioxen go before it
    #[arg(trailing_var_arg = true, value_name = "FILE [ARGUMENT]")]
    arguments: Vec<String>,
}

pub(super) async fn run(mut args: Args, mut settings: Settings) -> anyhow::Result<ExitCode> {
    let existing = existing(&mut args);
    for assignment in &args.set {
        settings.set(&args.vm_type, assignment)?;
    }
    let script = script(&args)?;
    script.validate()?;
    let mut streams = Streams::new()?;
    let interrupts = Interrupts::listen()?;
    let config = match &existing {
        Some(_) => with_defaults(&settings, &args.vm_type),
        None => config(&settings, &args.vm_type)?,
    };
    let manager = VmManager::new(crate::factory());
    let manager = Arc::new(match &existing {
        Some(_) => for_existing(manager, config.clone())?,
        None => manager,
    });
    let work = async {
        match &existing {
            Some(which) => {
                let vm = manager.adopt_vm("run", &args.vm_type, which, config);
                vm.await?.start().await?;
            }
            None => drop(manager.create_vm("run", &args.vm_type, config).await?),
        }
        if !args.packages.is_empty() {
            let servers = servers::servers(&args.servers)?;
            let installer = PackageInstaller::new(Arc::clone(&manager)).with_servers(servers);
            for package in &args.packages {
                installer
                    .install_package_in_vm(package, "run", &args.vm_type)
                    .await?;
            }
        }
        let vm = manager.vm("run")?;
        let copies = Copies::new(&args, &*vm).await?;
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
    with_vms(&manager, &interrupts, work).await
}

/// The VM that the program runs in, where that is not made for it.
fn existing(args: &mut Args) -> Option<String> {
    #[cfg(feature = "xcpng")]
    if let Some(which) = args.vm.take() {
        args.vm_type = bioxen_vm_xcpng::XcpngConfig::VM_TYPE.to_owned();
        return Some(which);
    }
    let _ = args;
    None
}

/// A manager that finds VMs of a pool, and so needs no template.
pub(super) fn for_existing(manager: VmManager, config: Value) -> anyhow::Result<VmManager> {
    #[cfg(feature = "xcpng")]
    {
        let config = bioxen_vm_xcpng::XcpngConfig::from_value(config)?;
        let pool = config.build_without_template()?;
        Ok(manager.with_backend(Arc::new(pool)))
    }
    #[cfg(not(feature = "xcpng"))]
    {
        let _ = config;
        Ok(manager)
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
    if let Some(input) = input(args)? {
        script = script.with_stdin(input);
    }
    if let Some(limit) = args.timeout {
        script = script.with_timeout(limit);
    }
    Ok(script)
}

/// What the program reads, as it comes. The terminal only on request: it is the user's.
fn input(args: &Args) -> anyhow::Result<Option<Input>> {
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
