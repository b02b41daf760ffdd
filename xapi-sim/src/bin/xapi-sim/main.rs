//! The simulator as a program.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is what a program is for"
)]

mod ctl;

use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use secrecy::ExposeSecret as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use xapi_sim::{
    Certificate, Control, GuestMode, Model, Release, Scenario, SecretString, Server, Sim,
    SimOptions,
};

/// Simulates a pool of XCP-ng hosts whose VMs can be reached over SSH.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves a pool until Ctrl-C, TERM or HUP.
    Serve(Box<Serve>),
    /// Does something to a pool that is being served, or asks what happened in it.
    Ctl(ctl::Ctl),
    /// Lists the messages that are implemented, or those that are not.
    Coverage(Coverage),
}

#[derive(Debug, Args)]
struct Coverage {
    /// Lists the messages of the datamodel that answer NOT_IMPLEMENTED.
    #[arg(long)]
    missing: bool,
    /// Release of XCP-ng whose messages are looked at: 8.2, 8.3 or newest.
    #[arg(long, default_value = "8.3")]
    release: Release,
}

#[derive(Debug, Args)]
struct Serve {
    /// TOML file that describes the pool, how it behaves and what goes wrong in it. Options count
    /// before what it says.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// What the pool begins as: single-host (if nothing else is said), pool-of-three, fleet (of
    /// 10,000 VMs) or empty. A model names its own.
    #[arg(long, value_name = "NAME", conflicts_with = "model", value_parser = preset)]
    preset: Option<Model>,
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Address and port of another host of the pool, which redirects to the coordinator; may be
    /// repeated. Clients follow with the port that they used, so use one port for all.
    #[arg(long, value_name = "ADDRESS")]
    member: Vec<SocketAddr>,
    /// Speaks HTTP without TLS. Passwords then travel in the clear.
    #[arg(long, conflicts_with_all = ["certificate_file", "member"])]
    plain: bool,
    /// Reads the password of root from the first line of this file, instead of making one up.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Shows the certificate in this PEM file, in place of a fresh one.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// The RSA key of that certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Makes the certificate for this name or address only; can be given again.
    #[arg(long, value_name = "NAME", conflicts_with = "tls_certificate")]
    tls_name: Vec<String>,
    /// Writes the certificate to this file, for clients to trust.
    #[arg(long, value_name = "FILE")]
    certificate_file: Option<PathBuf>,
    /// Port of 127.0.0.1 for `xapi-sim ctl`; 0 takes a free one.
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    control_port: u16,
    /// Number of hosts in the pool, 1 unless the preset or model has more.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    hosts: Option<usize>,
    /// Number of halted VMs that are there from the start.
    #[arg(long, value_name = "N")]
    vms: Option<usize>,
    /// Release of XCP-ng that the pool runs: 8.2, 8.3 (if nothing else is said) or newest.
    #[arg(long)]
    release: Option<Release>,
    /// Seed of references, uuids and chances: pools with the same one have the same references. It
    /// is 1 if nothing else is said.
    #[arg(long)]
    seed: Option<u64>,
    /// Seconds that a failed login takes; a host takes about 2.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    login_delay: Option<Duration>,
    /// Boots no guests: VMs report an address at which nobody answers.
    #[arg(long)]
    no_guests: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("a pool has at least one host, its coordinator".to_owned()),
        Ok(count) => Ok(count),
        Err(error) => Err(format!("{error}; give a number, 1 or more")),
    }
}

fn preset(name: &str) -> Result<Model, String> {
    let known = Model::PRESETS.join(", ");
    Model::preset(name).ok_or_else(|| format!("there is no preset {name}; there are {known}"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.ok_or_else(|| format!("{text} is no number of seconds, 0 or more"))
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let result = match Cli::parse().command {
        Command::Serve(options) => serve(*options).await,
        Command::Ctl(options) => ctl::run(options).await,
        Command::Coverage(options) => coverage(options).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xapi-sim: {}", whole(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// So many VMs are not made in a moment.
const MANY: usize = 1000;

type Failed = Box<dyn std::error::Error>;

fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn read(path: &Path) -> Result<String, Failed> {
    let text = std::fs::read_to_string(path);
    Ok(text.map_err(|error| format!("cannot read {}: {error}", path.display()))?)
}

/// Tells whoever lets others in what that means.
fn warn_of_others(options: &Serve) {
    let mut open = std::iter::once(options.listen).chain(options.member.iter().copied());
    let Some(address) = open.find(|address| !address.ip().is_loopback()) else {
        return;
    };
    let guests = if options.no_guests {
        ""
    } else {
        " and run programs on this machine as guests"
    };
    let plain = if options.plain {
        " Without TLS it travels in the clear."
    } else {
        ""
    };
    eprintln!(
        "xapi-sim: warning: {address} can be reached from other machines. Whoever has the password \
         can fill its disks{guests}.{plain} Listen on 127.0.0.1 if that is not wanted."
    );
}

async fn serve(options: Serve) -> Result<(), Failed> {
    warn_of_others(&options);
    let mut scenario = match &options.model {
        Some(path) => Scenario::from_toml(&read(path)?)
            .map_err(|error| format!("{}: {error}", path.display()))?,
        None => {
            let mut scenario = Scenario::default();
            let preset = options.preset.clone();
            scenario.model = preset.unwrap_or_else(Model::single_host);
            scenario
        }
    };
    scenario.model = adjusted(scenario.model, &options);
    assert_members(&scenario.model, &options)?;
    if let Some(delay) = options.login_delay {
        scenario.options.login_delay = delay;
    }
    if let Some(path) = &options.password_file {
        let text = read(path)?;
        let line = text.lines().next().unwrap_or_default();
        if line.is_empty() {
            return Err(format!("{} has no password on its first line", path.display()).into());
        }
        scenario.options.password = Some(SecretString::from(line.to_owned()));
    }
    if options.no_guests {
        scenario.options.guests = GuestMode::Simulated;
    }
    if let (Some(chain), Some(key)) = (&options.tls_certificate, &options.tls_key) {
        let key = SecretString::from(read(key)?);
        scenario.options.certificate = Certificate::from_pem(read(chain)?, key);
    } else if !options.tls_name.is_empty() {
        scenario.options.certificate = Certificate::for_names(&options.tls_name);
    }
    // Before anything that would have to be undone.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let vms = scenario.model.vm_count();
    if vms >= MANY {
        eprintln!("xapi-sim: making a pool of {vms} VMs, which takes some seconds");
    }
    let sim = scenario.start().await?;
    let mut servers = Vec::new();
    servers.push(if options.plain {
        sim.serve_plain(options.listen).await?
    } else {
        sim.serve(options.listen).await?
    });
    for (number, address) in options.member.iter().enumerate() {
        servers.push(sim.serve_host(number + 1, *address).await?);
    }
    let control = (Ipv4Addr::LOCALHOST, options.control_port).into();
    let control = sim.serve_control(control).await?;
    introduce(&options, &sim, &servers, &control)?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        // The terminal has been closed.
        _ = hangup.recv() => {}
    }
    control.shutdown().await;
    for server in servers {
        server.shutdown().await;
    }
    sim.shutdown().await;
    Ok(())
}

/// The pool with what options say of it.
fn adjusted(mut model: Model, options: &Serve) -> Model {
    if let Some(hosts) = options.hosts {
        model = model.hosts(hosts);
    }
    if let Some(vms) = options.vms {
        model = model.vms(vms);
    }
    if let Some(seed) = options.seed {
        model = model.seed(seed);
    }
    if let Some(release) = options.release {
        model = model.release(release);
    }
    model
}

/// Refuses addresses for more hosts than the pool has, before it is made.
fn assert_members(model: &Model, options: &Serve) -> Result<(), Failed> {
    let (hosts, members) = (model.host_count(), options.member.len());
    if members < hosts {
        return Ok(());
    }
    let text = format!(
        "--member is given {members} times, and beside its coordinator the pool has {} hosts; \
         add --hosts {}",
        hosts - 1,
        members + 1
    );
    Err(text.into())
}

/// Tells how the pool can be reached. Secrets go into files that only this user can read and that
/// go with the simulator.
fn introduce(
    options: &Serve,
    sim: &Sim,
    servers: &[Server],
    control: &Control,
) -> Result<(), Failed> {
    let mut text = String::new();
    let mut tell = |name: &str, what: String| text.push_str(&format!("{name:<12} {what}\n"));
    for server in servers {
        tell("url:", server.url());
    }
    tell("user:", sim.credentials().user().to_owned());
    let password = match &options.password_file {
        Some(path) => path.clone(),
        None => {
            let password = sim.credentials().password().expose_secret();
            sim.keep("password", &format!("{password}\n"))?
        }
    };
    tell("password:", format!("first line of {}", password.display()));
    for server in servers {
        if let Some(fingerprint) = server.fingerprint() {
            tell("fingerprint:", fingerprint.to_string());
        }
    }
    if let Some(path) = &options.certificate_file {
        let pem = servers.iter().filter_map(Server::certificate_pem);
        std::fs::write(path, pem.collect::<String>())
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    let token = control.token().expose_secret();
    let file = sim.keep("control", &format!("{}\n{token}\n", control.url()))?;
    tell(
        "control:",
        format!("xapi-sim ctl --file {}", file.display()),
    );
    match (sim.rung(), sim.guest_user()) {
        (Some(rung), Some(user)) => {
            let port = xapi_sim::guest::PORT;
            let template = xapi_sim::LUA_TEMPLATE;
            let how = rung.describe();
            tell(
                "guests:",
                format!("{rung} ({how}); SSH port {port}, user {user}, template {template}"),
            );
            for passed in sim.passed_over() {
                tell("", format!("not {passed}"));
            }
        }
        _ => tell("guests:", "none".to_owned()),
    }
    text.push_str("ready; end with Ctrl-C\n");
    Ok(write_out(&text)?)
}

/// Writes as far as somebody reads it.
fn write_out(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

async fn coverage(options: Coverage) -> Result<(), Failed> {
    let settings = SimOptions::default().with_guests(GuestMode::Simulated);
    let sim = Sim::start(Model::new().release(options.release), settings).await?;
    let coverage = sim.coverage();
    sim.shutdown().await;
    let (implemented, missing) = (coverage.implemented, coverage.missing);
    let counts = format!(
        "{} of {} messages of {}",
        implemented.len(),
        implemented.len() + missing.len(),
        options.release
    );
    let mut text = String::new();
    for name in if options.missing {
        missing
    } else {
        implemented
    } {
        text.push_str(name);
        text.push('\n');
    }
    write_out(&text)?;
    eprintln!("{counts}");
    Ok(())
}
