//! The `bioxen` program: argument parsing and one file per command.

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bioxen_vm_core::VmManager;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::settings::Settings;
use configuration::{Place, config, state_home, user_dir, warn_of_readers, with_defaults};
#[cfg(feature = "xcpng")]
use configuration::{config_without_template, no_pool_remedy};
use interrupt::Interrupts;
use streams::NO_READER;

mod config;
mod configuration;
mod copies;
#[cfg(feature = "sim")]
mod demo;
#[cfg(feature = "xcpng")]
mod doctor;
#[cfg(feature = "xcpng")]
mod gc;
mod ground;
mod hints;
#[cfg(feature = "xcpng")]
mod init;
mod interrupt;
mod library;
mod lines;
mod manual;
mod map;
mod metrics;
#[cfg(all(feature = "net", feature = "xcpng"))]
mod net;
#[cfg(feature = "xcpng")]
mod own_rocks;
mod pkg;
mod record;
mod replay;
mod run;
mod servers;
mod shell;
#[cfg(feature = "sim")]
mod sim;
#[cfg(feature = "xcpng")]
mod snapshot;
mod streams;
#[cfg(feature = "xcpng")]
mod table;
mod telemetry;
#[cfg(feature = "xcpng")]
mod template;
#[cfg(feature = "xcpng")]
mod vms;
mod waiting;
mod work;

/// The exit code when BioXen itself failed; all others are those of the Lua program.
const FAILED: u8 = 125;

/// How long we wait for the threads that write and read for us. Nothing is lost with them but what
/// nobody reads or writes any more.
const LINGER: Duration = Duration::from_millis(200);

/// Runs Lua, above all for biological computation, in isolated VMs.
#[derive(Debug, Parser)]
#[command(name = "bioxen", version, about, max_term_width = 100)]
struct Cli {
    // Variables are not clap's affair: it takes what they say for given, and its usage lines show it.
    /// Settings file (TOML with the tables [basic], [xcpng] and [pools.NAME]); without this option
    /// ~/.config/bioxen/config.toml, if there is one [env: BIOXEN_CONFIG=]
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The pool of the settings file that xcpng VMs are on: the table [pools.NAME] outweighs [xcpng]
    /// [env: BIOXEN_POOL=]
    #[arg(long, global = true, value_name = "NAME")]
    pool: Option<String>,

    /// Say more on standard error; twice for even more
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    verbose: u8,

    /// How what goes on is written on standard error: for people, or one JSON object to a line
    #[arg(long, global = true, value_name = "FORM", default_value = "text")]
    log: LogForm,

    #[command(subcommand)]
    command: Command,
}

/// What a line of the log looks like.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LogForm {
    Text,
    Json,
}

/// The shells that `bioxen completions` knows.
#[derive(Debug, clap::Args)]
struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

impl Completions {
    fn run(self) -> anyhow::Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "bioxen", &mut script);
        print(&String::from_utf8_lossy(&script))?;
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Debug, clap::Args)]
struct Types {
    /// Print JSON, one object to a line
    #[arg(long)]
    json: bool,
}

impl Types {
    fn run(&self) -> anyhow::Result<ExitCode> {
        for vm_type in crate::factory().vm_types() {
            print(&match self.json {
                true => format!("{}\n", serde_json::json!({"type": vm_type})),
                false => format!("{vm_type}\n"),
            })?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The width of help for whoever has no terminal.
const PLAIN_WIDTH: usize = 80;

/// What can be said to the program. Help is as wide as a terminal up to what is easily read.
fn command() -> clap::Command {
    use std::io::IsTerminal as _;
    // Help behind a pipe is mostly for a pager, on the terminal that standard error still is.
    let is_seen = std::io::stdout().is_terminal() || std::io::stderr().is_terminal();
    match is_seen {
        true => Cli::command(),
        false => Cli::command().term_width(PLAIN_WIDTH),
    }
}

fn parse() -> Result<Cli, clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(std::env::args_os())?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

#[derive(Debug, Subcommand)]
enum Command {
    // In the order of the help: what is done most, then VMs that stay, then what they need.
    /// Run a Lua program in a VM made for it
    Run(run::Run),
    /// Run a Lua program in a VM of a pool that is there
    #[cfg(feature = "xcpng")]
    Exec(run::Exec),
    /// Talk to a living Lua state in a VM made for it, or in one of a pool that is there
    Shell(shell::Args),
    /// Run a program over the records of files, in several VMs made for it
    Map(Box<map::Args>),
    /// Run again what a record tells of, and say whether the same came of it
    Replay(replay::Args),
    /// Make a VM on a pool that outlives this program, and start it
    #[cfg(feature = "xcpng")]
    Create(vms::Create),
    /// List the VMs of a pool that BioXen has made
    #[cfg(feature = "xcpng")]
    Ls(vms::Common),
    /// Tell about VMs of a pool
    #[cfg(feature = "xcpng")]
    Info(vms::Existing),
    /// Start VMs of a pool, and wait until they can run Lua
    #[cfg(feature = "xcpng")]
    Start(vms::Existing),
    /// Stop VMs of a pool; what they have on disk stays
    #[cfg(feature = "xcpng")]
    Stop(vms::Existing),
    /// Stop VMs of a pool and start them again
    #[cfg(feature = "xcpng")]
    Reboot(vms::Existing),
    /// Let VMs of a pool stand still in memory
    #[cfg(feature = "xcpng")]
    Pause(vms::Existing),
    /// Let paused VMs of a pool go on
    #[cfg(feature = "xcpng")]
    Unpause(vms::Existing),
    /// Write the memory of VMs of a pool to disk
    #[cfg(feature = "xcpng")]
    Suspend(vms::Existing),
    /// Let suspended VMs of a pool go on
    #[cfg(feature = "xcpng")]
    Resume(vms::Existing),
    /// Make another VM of what a VM of a pool has on its disks, and start it
    #[cfg(feature = "xcpng")]
    Clone(vms::Clone),
    /// Move a VM to another host of its pool
    #[cfg(feature = "xcpng")]
    Migrate(vms::Migrate),
    /// Remove VMs of a pool with their disks and snapshots
    #[cfg(feature = "xcpng")]
    Destroy(vms::Destroy),
    /// Copy files and folders into a VM of a pool, started if need be, or out of it
    #[cfg(feature = "xcpng")]
    Cp(copies::Args),
    /// Keep what the disks of a VM of a pool hold, and give it back
    #[cfg(feature = "xcpng")]
    #[command(subcommand)]
    Snapshot(snapshot::Command),
    /// Install, lock and look after rocks in a tree of this machine or in a VM that was kept
    Pkg(Box<pkg::Args>),
    /// Look at the networks of a pool and make some, also for VMs of their own
    #[cfg(all(feature = "net", feature = "xcpng"))]
    #[command(subcommand)]
    Net(net::Command),
    /// Make a template for VMs of a pool, or say what one lacks
    #[cfg(feature = "xcpng")]
    Template(template::Args),
    /// Set up a pool (`config init`), show the configuration that holds in the end, or check it
    Config(config::Args),
    /// Show the certificate of a pool's host, and trust it if it is the right one
    #[cfg(feature = "xcpng")]
    Trust(init::Trust),
    /// Tell what keeps VMs from being made on a pool, and what to do about it
    #[cfg(feature = "xcpng")]
    Doctor(doctor::Args),
    /// Remove what killed programs have left on a pool
    #[cfg(feature = "xcpng")]
    Gc(gc::Args),
    /// Serve a pool on this machine, whose VMs are guests that can be reached over SSH
    #[cfg(feature = "sim")]
    Sim(sim::Args),
    /// Show the whole job: deploy a VM, install packages in it, analyse a genome
    #[cfg(feature = "sim")]
    Demo(demo::Args),
    /// List the VM types of this build
    Types(Types),
    /// Print a script with which a shell completes this program's commands and options
    Completions(Completions),
    /// Write the manual pages of this program, one for each command
    Man(manual::Args),
}

impl Command {
    /// Whether it must have the settings file. Who makes the file cannot.
    fn needs_settings(&self) -> bool {
        match self {
            Self::Config(args) => !args.makes_a_file(),
            #[cfg(feature = "sim")]
            Self::Sim(_) => false,
            Self::Completions(_) | Self::Man(_) | Self::Types(_) => false,
            _ => true,
        }
    }

    /// Whether it may be about this machine alone, so that a pool which has gone is no hindrance.
    fn needs_no_pool(&self) -> bool {
        match self {
            Self::Map(_) | Self::Pkg(_) | Self::Replay(_) | Self::Run(_) | Self::Shell(_) => true,
            #[cfg(feature = "sim")]
            Self::Demo(_) => true,
            _ => false,
        }
    }
}

/// Runs the program and gives its exit code.
#[must_use]
pub fn main() -> ExitCode {
    // Before anything else: a local VM starts with every program that it runs.
    bioxen_vm_basic::worker::run_if_asked();
    let cli = match parse() {
        Ok(cli) => cli,
        // Help and the version are no failure. Of the others the code is ours, not that of clap, which may
        // be a program's.
        Err(error) => {
            // Nobody may be there to read it.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { FAILED } else { 0 });
        }
    };
    let ended = telemetry::start(cli.verbose, cli.log).and_then(|telemetry| {
        let ended = start(cli);
        telemetry.end();
        ended
    });
    ended.unwrap_or_else(|error| {
        if error.is::<NoReader>() {
            return ExitCode::from(NO_READER);
        }
        report(&error);
        ExitCode::from(FAILED)
    })
}

fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    let mut settings = Settings::new();
    let place = Place::of(&cli);
    let file = match cli.command.needs_settings() {
        true => place.to_read()?.map(std::path::Path::to_owned),
        false => None,
    };
    let file = match file {
        Some(file) if cli.command.needs_no_pool() && place.has_gone(&file) => {
            warn(&format!(
                "there is no {}, which the variable BIOXEN_CONFIG names, so no settings of it hold; a \
                 `bioxen sim` that has ended removes its file: start it again, or unset the variable",
                file.display()
            ));
            None
        }
        file => file,
    };
    let mut wrong = Vec::new();
    if let Some(file) = &file {
        wrong = place.read(file, &mut settings)?;
        let is_result = matches!(&cli.command, Command::Config(args) if args.tells_problems());
        if !wrong.is_empty() && !is_result {
            return Err(place.refused(&wrong, &settings));
        }
    }
    settings.read_environment(std::env::vars_os().filter_map(|(name, value)| {
        // A variable that is not text is none of ours.
        Some((name.into_string().ok()?, value.into_string().ok()?))
    }));
    for note in settings.notes() {
        warn(note);
    }
    warn_of_readers(&settings);
    #[cfg(feature = "sim")]
    let is_about_trust = matches!(&cli.command, Command::Trust(args) if !args.names_host());
    #[cfg(feature = "sim")]
    let is_about_health = matches!(&cli.command, Command::Doctor(_));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(async {
        match cli.command {
            Command::Completions(args) => args.run(),
            Command::Config(args) => Box::pin(config::run(args, settings, place, wrong)).await,
            #[cfg(feature = "xcpng")]
            Command::Create(args) => Box::pin(vms::create(args, settings)).await,
            #[cfg(feature = "xcpng")]
            Command::Cp(args) => Box::pin(copies::run(args, settings)).await,
            #[cfg(feature = "xcpng")]
            Command::Clone(args) => Box::pin(vms::clone(args, settings)).await,
            #[cfg(feature = "xcpng")]
            Command::Start(args) => vms::change(args, vms::Change::Start, settings).await,
            #[cfg(feature = "xcpng")]
            Command::Stop(args) => vms::change(args, vms::Change::Stop, settings).await,
            #[cfg(feature = "xcpng")]
            Command::Reboot(args) => vms::change(args, vms::Change::Reboot, settings).await,
            #[cfg(feature = "xcpng")]
            Command::Pause(args) => vms::change(args, vms::Change::Pause, settings).await,
            #[cfg(feature = "xcpng")]
            Command::Unpause(args) => vms::change(args, vms::Change::Unpause, settings).await,
            #[cfg(feature = "xcpng")]
            Command::Suspend(args) => vms::change(args, vms::Change::Suspend, settings).await,
            #[cfg(feature = "xcpng")]
            Command::Resume(args) => vms::change(args, vms::Change::Resume, settings).await,
            #[cfg(feature = "xcpng")]
            Command::Migrate(args) => vms::migrate(args, settings).await,
            #[cfg(feature = "xcpng")]
            Command::Destroy(args) => vms::destroy(args, settings).await,
            #[cfg(feature = "xcpng")]
            Command::Ls(args) => vms::list(args, settings).await,
            #[cfg(feature = "xcpng")]
            Command::Info(args) => vms::info(args, settings).await,
            #[cfg(feature = "xcpng")]
            Command::Snapshot(command) => snapshot::run(command, settings).await,
            #[cfg(feature = "sim")]
            Command::Demo(args) => Box::pin(demo::run(args, settings)).await,
            #[cfg(feature = "xcpng")]
            Command::Doctor(args) => Box::pin(doctor::run(args, settings)).await,
            #[cfg(feature = "xcpng")]
            Command::Gc(args) => gc::run(args, settings).await,
            Command::Man(args) => args.run(),
            Command::Map(args) => Box::pin(map::run(*args, settings)).await,
            #[cfg(all(feature = "net", feature = "xcpng"))]
            Command::Net(command) => Box::pin(net::run(command, settings)).await,
            Command::Pkg(args) => Box::pin(pkg::run(*args, settings)).await,
            #[cfg(feature = "xcpng")]
            Command::Exec(args) => run::exec(args, settings).await,
            Command::Replay(args) => Box::pin(replay::run(args, settings)).await,
            Command::Run(args) => run::run(args, settings).await,
            Command::Shell(args) => shell::run(args, settings).await,
            #[cfg(feature = "sim")]
            Command::Sim(args) => sim::run(args).await,
            #[cfg(feature = "xcpng")]
            Command::Trust(args) => init::trust(args, settings, place).await,
            #[cfg(feature = "xcpng")]
            Command::Template(args) => Box::pin(template::run(args, settings)).await,
            Command::Types(args) => args.run(),
        }
    });
    runtime.shutdown_timeout(LINGER);
    #[cfg(feature = "sim")]
    if let Some(ended) = file.as_deref().and_then(sim::ended) {
        match &result {
            // Why nothing answers is known, and so is the one remedy.
            Err(error) if is_about_trust || sim::is_unreachable(error) => {
                return Err(anyhow::Error::msg(ended));
            }
            Ok(code) if is_about_health && *code != ExitCode::SUCCESS => warn(&ended),
            _ => {}
        }
    }
    result
}

/// Does work with VMs until it is done or the program is told to end. Whatever happened, the VMs go.
async fn with_vms(
    manager: &VmManager,
    interrupts: &Interrupts,
    work: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    let result = interrupts.unless(work).await;
    let cleaned = manager.shutdown_all().await;
    match result {
        Ok(Ok(code)) => {
            cleaned.context("the program ran, but its VM could not be removed")?;
            Ok(code)
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

/// Prints an error and what caused it in one line.
fn report(error: &anyhow::Error) {
    telemetry::say("ERROR", &format!("bioxen: {error:#}"));
}

/// Tells the user what went on beside the program's own result.
fn warn(text: &str) {
    telemetry::say("WARN", &format!("bioxen: warning: {text}"));
}

/// Prints text on standard output.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    waiting::make_way();
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(NoReader.into()),
        written => written.context("cannot write to standard output"),
    }
}

/// Nobody reads what is printed any more, as behind `| head`: no failure to tell anybody of.
#[derive(Debug)]
struct NoReader;

impl std::fmt::Display for NoReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nobody reads standard output any more")
    }
}

impl std::error::Error for NoReader {}

/// Whether a stream takes colours: a terminal, unless the user wants none.
fn is_coloured(stream: &impl std::io::IsTerminal) -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !unwanted && stream.is_terminal()
}
