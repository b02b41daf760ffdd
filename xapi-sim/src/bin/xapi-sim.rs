//! The simulator as a program.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is what a program is for"
)]

use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use secrecy::ExposeSecret as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use xapi_sim::{Certificate, GuestMode, Model, SecretString, Sim, SimOptions};

/// Simulates a pool of XCP-ng hosts whose VMs can be reached over SSH.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves a pool until Ctrl-C or TERM.
    Serve(Serve),
    /// Lists the messages that are implemented, or those that are not.
    Coverage(Coverage),
}

#[derive(Debug, Args)]
struct Coverage {
    /// Lists the messages of the datamodel that answer NOT_IMPLEMENTED.
    #[arg(long)]
    missing: bool,
}

#[derive(Debug, Args)]
struct Serve {
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
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
    /// Number of hosts in the pool.
    #[arg(long, default_value_t = 1, value_name = "N")]
    hosts: usize,
    /// Number of halted VMs that are there from the start.
    #[arg(long, default_value_t = 0, value_name = "N")]
    vms: usize,
    /// Seed of references and uuids.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Boots no guests: VMs report an address at which nobody answers.
    #[arg(long)]
    no_guests: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let result = match Cli::parse().command {
        Command::Serve(options) => serve(options).await,
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

type Failed = Box<dyn std::error::Error>;

fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn read(path: &Path) -> Result<String, Failed> {
    let text = std::fs::read_to_string(path);
    Ok(text.map_err(|error| format!("cannot read {}: {error}", path.display()))?)
}

async fn serve(options: Serve) -> Result<(), Failed> {
    let mut settings = SimOptions::default();
    if let Some(path) = &options.password_file {
        let text = read(path)?;
        let line = text.lines().next().unwrap_or_default();
        if line.is_empty() {
            return Err(format!("{} has no password on its first line", path.display()).into());
        }
        settings = settings.with_password(SecretString::from(line.to_owned()));
    }
    if options.no_guests {
        settings = settings.with_guests(GuestMode::Simulated);
    }
    if let (Some(chain), Some(key)) = (&options.tls_certificate, &options.tls_key) {
        let key = SecretString::from(read(key)?);
        settings = settings.with_certificate(Certificate::from_pem(read(chain)?, key));
    } else if !options.tls_name.is_empty() {
        settings = settings.with_certificate(Certificate::for_names(&options.tls_name));
    }
    // Before anything that would have to be undone.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let model = Model::single_host()
        .hosts(options.hosts)
        .vms(options.vms)
        .seed(options.seed);
    let sim = Sim::start(model, settings).await?;
    let server = sim.serve(options.listen).await?;
    if let (Some(path), Some(pem)) = (&options.certificate_file, server.certificate_pem()) {
        std::fs::write(path, pem)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    let mut made_up = None;
    println!("url:         {}", server.url());
    println!("user:        {}", sim.credentials().user());
    match &options.password_file {
        Some(path) => println!("password:    first line of {}", path.display()),
        None => {
            // Readable for this user alone, and gone when we are.
            let mut file = tempfile::Builder::new()
                .prefix("xapi-sim-password-")
                .tempfile()?;
            writeln!(file, "{}", sim.credentials().password().expose_secret())?;
            println!("password:    first line of {}", file.path().display());
            made_up = Some(file);
        }
    }
    if let Some(fingerprint) = server.fingerprint() {
        println!("fingerprint: {fingerprint}");
    }
    match (sim.rung(), sim.guest_user()) {
        (Some(rung), Some(user)) => {
            println!(
                "guests:      {rung} ({}); SSH port {}, user {user}, template {}",
                rung.describe(),
                xapi_sim::guest::PORT,
                xapi_sim::LUA_TEMPLATE
            );
            for passed in sim.passed_over() {
                println!("             not {passed}");
            }
        }
        _ => println!("guests:      none"),
    }
    println!("ready; end with Ctrl-C");
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    server.shutdown().await;
    sim.shutdown().await;
    drop(made_up);
    Ok(())
}

/// Writes the list as far as somebody reads it.
async fn coverage(options: Coverage) -> Result<(), Failed> {
    let settings = SimOptions::default().with_guests(GuestMode::Simulated);
    let sim = Sim::start(Model::new(), settings).await?;
    let coverage = sim.coverage();
    sim.shutdown().await;
    let (implemented, missing) = (coverage.implemented, coverage.missing);
    let counts = format!(
        "{} of {} messages",
        implemented.len(),
        implemented.len() + missing.len()
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
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        written => written?,
    }
    eprintln!("{counts}");
    Ok(())
}
