//! `bioxen sim`: the embedded pool for as long as somebody wants it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value, json};
use xapi_sim::{GuestMode, Scenario};

use super::interrupt::Interrupts;
use super::print;
use crate::embedded::EmbeddedPool;

/// The first line of the files that this command writes, and so may write again.
const MARK: &str = "# A pool that `bioxen sim` serves; gone when it ends.";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to write the settings with which the other commands reach the pool; only you can read
    /// the file, since the password is in it
    #[arg(default_value = "pool.toml", value_name = "FILE")]
    settings: PathBuf,

    /// TOML file that describes the pool, as `xapi-sim serve --model` takes it, instead of one host
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,

    /// Number of hosts in the pool, of which the coordinator answers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    hosts: Option<u16>,

    /// Seed of references, uuids and chances: pools with the same one have the same references
    #[arg(long)]
    seed: Option<u64>,

    /// Boot no guests: VMs start at once and report an address at which nobody answers
    #[arg(long)]
    no_guests: bool,

    /// Tell how the pool is reached as JSON, in one line, once it is ready
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let scenario = scenario(&args)?;
    may_write(&args.settings)?;
    // Before anything that would have to be undone.
    let interrupts = Interrupts::listen()?;
    let started = interrupts.unless(EmbeddedPool::start_as(scenario)).await;
    let pool = match started {
        Ok(pool) => pool?,
        Err(interrupted) => return Ok(ExitCode::from(interrupted.exit_code())),
    };
    let served = serve(&pool, &args, &interrupts).await;
    pool.shutdown().await;
    served
}

/// Serves until the program is told to end, which is how this command is meant to end.
async fn serve(
    pool: &EmbeddedPool,
    args: &Args,
    interrupts: &Interrupts,
) -> anyhow::Result<ExitCode> {
    let settings = &*args.settings;
    let mut config = pool.config();
    // What is recorded of this pool, and the keys to its VMs, end with it.
    let about = pool
        .sim()
        .keep("about", "The records of those who use this pool.\n")?;
    let state_dir = about.with_file_name("state");
    config["state_dir"] = Value::from(state_dir.to_string_lossy());
    let control = pool
        .sim()
        .serve_control((Ipv4Addr::LOCALHOST, 0).into())
        .await?;
    let token = control.token().expose_secret();
    let controlled = format!("{}\n{token}\n", control.url());
    let controlled = pool.sim().keep("control", &controlled)?;
    let _served = write(settings, &config)?;
    let file = settings.display();
    let isolation = pool.isolation();
    let (guests, example) = if isolation.is_empty() {
        let none = "none; VMs report an address at which nobody answers";
        (none.to_owned(), format!("bioxen doctor --config {file}"))
    } else {
        let run = format!("bioxen run --type xcpng --config {file} -e 'print(_VERSION)'");
        (isolation.join("; "), run)
    };
    let ready = json!({
        "url": pool.url(),
        "host": config["xcpng_host"],
        "fingerprint": config["tls"]["fingerprint"],
        "settings": std::path::absolute(settings)?,
        "guests": isolation,
        "control": {"url": control.url(), "file": controlled},
    });
    let told = match args.json {
        true => print(&format!("{ready}\n")),
        false => print(&format!(
            "pool:     {} (settings in {file})\n\
             guests:   {guests}\n\
             control:  xapi-sim ctl --file {}\n\
             try:      {example}\n\
             ready; end with Ctrl-C\n",
            pool.url(),
            controlled.display(),
        )),
    };
    if told.is_ok() {
        // The only answer is that the signal came.
        let _ = interrupts.unless(std::future::pending::<()>()).await;
    }
    control.shutdown().await;
    std::fs::remove_file(settings)
        .or_else(|error| match error.kind() {
            ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })
        .with_context(|| format!("cannot remove {file}"))?;
    told?;
    Ok(ExitCode::SUCCESS)
}

/// The pool that the options describe; they count before a model.
fn scenario(args: &Args) -> anyhow::Result<Scenario> {
    let mut scenario = match &args.model {
        Some(path) => read_model(path)?,
        None => EmbeddedPool::scenario(),
    };
    if let Some(hosts) = args.hosts {
        scenario.model = scenario.model.hosts(hosts.into());
    }
    if let Some(seed) = args.seed {
        scenario.model = scenario.model.seed(seed);
    }
    if args.no_guests {
        scenario.options.guests = GuestMode::Simulated;
    }
    Ok(scenario)
}

fn read_model(path: &Path) -> anyhow::Result<Scenario> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the model {}", path.display()))?;
    Scenario::from_toml(&text).with_context(|| format!("the model {} is wrong", path.display()))
}

/// Whether it is that a pool could not be reached.
pub(super) fn is_unreachable(error: &anyhow::Error) -> bool {
    let kind = |cause: &(dyn std::error::Error + 'static)| {
        let of_vm = cause.downcast_ref().map(bioxen_vm_core::Error::kind);
        of_vm.or_else(|| cause.downcast_ref().map(bioxen_vm_xcpng::Error::kind))
    };
    error
        .chain()
        .any(|cause| kind(cause) == Some(bioxen_vm_core::ErrorKind::Unavailable))
}

/// What to do about a settings file of a pool that is served no more, as its `bioxen sim` was killed.
pub(super) fn ended(path: &Path) -> Option<String> {
    let is_ours = std::fs::read_to_string(path).is_ok_and(|text| text.starts_with(MARK));
    let file = is_ours.then(|| File::open(path).ok()).flatten();
    Flock::lock(file?, FlockArg::LockSharedNonblock).ok()?;
    let file = path.display();
    Some(format!(
        "{file} is of a `bioxen sim` that has ended; start it again with `bioxen sim {file}`"
    ))
}

/// Refuses to replace a file that somebody else wrote, or of a pool that is being served.
fn may_write(path: &Path) -> anyhow::Result<()> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.starts_with(MARK) => {
            let file =
                File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(_) => Ok(()),
                Err(_) => bail!(
                    "another `bioxen sim` serves the pool of {}; name another file",
                    path.display()
                ),
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Ok(_) => bail!(
            "{} is there already and was not written by `bioxen sim`; name another file",
            path.display()
        ),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes the settings of a pool. The file stays locked for as long as the pool is served.
fn write(path: &Path, config: &Value) -> anyhow::Result<Flock<File>> {
    let tables = Map::from_iter([("xcpng".to_owned(), config.clone())]);
    let tables = toml::to_string(&tables).context("cannot write the pool's settings as TOML")?;
    // A file of a pool that was killed may have other rights by now: a new one has ours.
    let gone = std::fs::remove_file(path);
    if let Err(error) = gone
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("cannot replace {}", path.display()));
    }
    let written = || -> std::io::Result<Flock<File>> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        let mut file =
            Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error)?;
        writeln!(file, "{MARK}\n\n{tables}")?;
        Ok(file)
    };
    written().with_context(|| format!("cannot write {}", path.display()))
}
