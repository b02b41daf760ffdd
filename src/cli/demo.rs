//! `bioxen demo`: the whole job, each stage with its time.

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bioxen_curator::PackageInstaller;
use bioxen_vm_core::{BackendConfig as _, Outcome, Script, Value, VmManager};
use bioxen_vm_xcpng::{Progress, StageState, XcpngBackend, XcpngConfig};
use serde_json::json;
use tokio::sync::broadcast;

use super::interrupt::{Interrupted, Interrupts};
use super::own_rocks::OwnRocks;
use super::{print, warn};
use crate::embedded::{Pool, TEMPLATE};
use crate::settings::Settings;

/// What the VMs run.
const PROGRAM: &str = include_str!("demo.lua");
const PACKAGE: &str = "bio_sequence_analysis";
const REMOTE: &str = "demo-xcpng";
const LOCAL: &str = "demo-basic";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The genome to analyse
    #[arg(value_name = "FASTA")]
    fasta: PathBuf,

    /// Pack the rocks of the sources in this folder, instead of those that come with this program
    #[arg(long, value_name = "FOLDER")]
    rocks: Option<PathBuf>,

    /// Tell what goes on as JSON, an object to a line
    #[arg(long)]
    json: bool,
}

impl Args {
    fn telling(&self) -> Telling {
        Telling { as_json: self.json }
    }
}

/// How what goes on is told.
#[derive(Debug, Clone, Copy)]
struct Telling {
    as_json: bool,
}

impl Telling {
    /// Awaits work, and says what it is and how long it took.
    async fn stage<T, E: Into<anyhow::Error>>(
        self,
        name: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> anyhow::Result<T> {
        let begun = Instant::now();
        let result = work.await.map_err(Into::into)?;
        self.line(name, begun.elapsed())?;
        Ok(result)
    }

    /// Awaits work of the pool's backend, and says what it goes through and how long each stage took.
    async fn watched<T, E: Into<anyhow::Error>>(
        self,
        progress: &mut broadcast::Receiver<Progress>,
        work: impl Future<Output = Result<T, E>>,
    ) -> anyhow::Result<T> {
        let mut work = std::pin::pin!(work);
        let result = loop {
            tokio::select! {
                biased;
                Ok(step) = progress.recv() => self.step(&step)?,
                result = &mut work => break result,
            }
        };
        // What it said with its last breath.
        while let Ok(step) = progress.try_recv() {
            self.step(&step)?;
        }
        result.map_err(Into::into)
    }

    fn step(self, step: &Progress) -> anyhow::Result<()> {
        match step.state {
            StageState::Finished(took) => self.line(&step.stage.to_string(), took),
            _ => Ok(()),
        }
    }

    fn line(self, name: &str, took: Duration) -> anyhow::Result<()> {
        let milliseconds = took.as_millis();
        self.tell(
            || format!("{name:<44}{:>10}", time(took)),
            json!({"event": "stage", "name": name, "milliseconds": milliseconds as u64}),
        )
    }

    fn note(self, text: &str) -> anyhow::Result<()> {
        let text = text.trim_end();
        self.tell(
            || format!("    {text}"),
            json!({"event": "note", "text": text}),
        )
    }

    fn tell(self, text: impl FnOnce() -> String, object: Value) -> anyhow::Result<()> {
        print(&match self.as_json {
            true => format!("{object}\n"),
            false => format!("{}\n", text()),
        })
    }
}

pub(super) async fn run(args: Args, settings: Settings) -> anyhow::Result<ExitCode> {
    let fasta = std::fs::read(&args.fasta)
        .with_context(|| format!("cannot read the genome {}", args.fasta.display()))?;
    let telling = args.telling();
    let interrupts = Interrupts::listen()?;
    let begun = Instant::now();
    let pool = match interrupts.unless(Box::pin(open(&settings, telling))).await {
        Ok(pool) => pool?,
        Err(interrupted) => return Ok(ExitCode::from(interrupted.exit_code())),
    };
    let result = Box::pin(on_pool(&interrupts, &pool, &args, &settings, fasta)).await;
    pool.close().await;
    match result? {
        Ended::Finished => {
            let took = begun.elapsed();
            telling.tell(
                || format!("\nAll of it took {}. Nothing is left behind.", time(took)),
                json!({"event": "finished", "milliseconds": took.as_millis() as u64}),
            )?;
            Ok(ExitCode::SUCCESS)
        }
        Ended::Interrupted(interrupted) => {
            telling.tell(
                || "\nInterrupted. Nothing is left behind.".to_owned(),
                json!({"event": "interrupted"}),
            )?;
            Ok(ExitCode::from(interrupted.exit_code()))
        }
    }
}

async fn open(settings: &Settings, telling: Telling) -> anyhow::Result<Pool> {
    let pool = telling
        .stage("open the pool", Pool::open(settings.config("xcpng")))
        .await?;
    match pool.embedded() {
        Some(embedded) => {
            telling.note(&format!("embedded XAPI simulator at {}", embedded.url()))?;
            for line in embedded.isolation() {
                telling.note(&format!("guests: {line}"))?;
            }
        }
        None => telling.note("as configured")?,
    }
    Ok(pool)
}

/// Does the work on a pool and removes what it made there, also when interrupted.
async fn on_pool(
    interrupts: &Interrupts,
    pool: &Pool,
    args: &Args,
    settings: &Settings,
    fasta: Vec<u8>,
) -> anyhow::Result<Ended> {
    let defaults = json!({"template": TEMPLATE, "memory": "2GB", "vcpus": 2});
    let backend = Arc::new(XcpngConfig::from_value(pool.config(defaults))?.build()?);
    let mut progress = backend.subscribe();
    let local_config = super::config(settings, "basic")?;
    let manager = Arc::new(
        VmManager::new(crate::factory()).with_backend(Arc::<XcpngBackend>::clone(&backend)),
    );
    let result = interrupts
        .unless(Box::pin(job(
            &manager,
            &backend,
            &mut progress,
            args,
            local_config,
            fasta,
        )))
        .await;
    let telling = args.telling();
    let cleaned = telling.watched(&mut progress, manager.shutdown_all()).await;
    match result {
        Ok(Ok(())) => {
            cleaned?;
            Ok(Ended::Finished)
        }
        Ok(Err(error)) => {
            if let Err(left) = cleaned {
                warn(&format!("not everything could be removed: {left}"));
            }
            Err(error)
        }
        Err(interrupted) => {
            cleaned.context("interrupted, and not everything could be removed")?;
            Ok(Ended::Interrupted(interrupted))
        }
    }
}

async fn job(
    manager: &Arc<VmManager>,
    pool: &XcpngBackend,
    progress: &mut broadcast::Receiver<Progress>,
    args: &Args,
    local_config: Value,
    fasta: Vec<u8>,
) -> anyhow::Result<()> {
    let telling = args.telling();
    telling
        .watched(progress, manager.create_vm(REMOTE, "xcpng", Value::Null))
        .await?;
    let calls = pool.client().await?.calls_sent();
    telling.note(&format!("{calls} calls of the pool's API"))?;
    let greeting = "print(_VERSION, io.popen('uname -n'):read())";
    let hello = telling
        .stage(
            "run Lua in it",
            execute(manager, REMOTE, Script::new(greeting)),
        )
        .await?;
    telling.note(&hello.stdout_text())?;

    let rocks = OwnRocks::of(args.rocks.as_deref()).await?;
    let installer = PackageInstaller::new(Arc::clone(manager)).with_servers([rocks.server.clone()]);
    let install = installer.install_package_in_vm(PACKAGE, REMOTE, "xcpng");
    let report = telling
        .stage(&format!("install {PACKAGE} in it"), install)
        .await?;
    telling.note(&report.to_string())?;

    let name = args
        .fasta
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let script = Script::new(PROGRAM).with_name("demo.lua").with_stdin(fasta);
    let remote = execute(manager, REMOTE, script.clone());
    let remote = telling
        .stage(&format!("analyse {name} in it"), remote)
        .await?;
    for line in remote.stdout_text().lines() {
        telling.note(line)?;
    }

    let local = async {
        manager.create_vm(LOCAL, "basic", local_config).await?;
        installer
            .install_package_in_vm(PACKAGE, LOCAL, "basic")
            .await?;
        execute(manager, LOCAL, script).await
    };
    let local = telling
        .stage("the same in a VM of type basic", local)
        .await?;
    ensure!(
        local.stdout == remote.stdout,
        "the VMs do not agree: {}",
        local.stdout_text()
    );
    telling.note("gives the same bytes")
}

/// Runs a program that is expected to succeed.
async fn execute(manager: &VmManager, vm: &str, script: Script) -> anyhow::Result<Outcome> {
    let outcome = manager.execute_vm(vm, script).await?;
    if !outcome.success() {
        bail!(
            "the Lua program in VM {vm} failed ({}): {}",
            outcome.status,
            outcome.stderr_text()
        );
    }
    Ok(outcome)
}

/// How the work on the pool ended.
enum Ended {
    Finished,
    Interrupted(Interrupted),
}

fn time(took: Duration) -> String {
    format!("{:.0} ms", took.as_secs_f64() * 1000.0)
}
