//! `bioxen doctor`: tells what keeps VMs from being made on a pool, and what to do.

use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use bioxen_vm_core::BackendConfig as _;
use bioxen_vm_xcpng::{Check, Doctor, Finding, Told, Verdict, XcpngConfig};

use super::interrupt::Interrupts;
use super::telemetry::say;
use super::waiting::{Line, seconds};
use super::{no_pool_remedy, print, warn, with_defaults};
use crate::settings::Settings;

/// The exit code when something keeps VMs from being made or used.
const ILL: u8 = 1;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Make no VM: leave out what can only be seen in one
    #[arg(long)]
    no_vm: bool,

    /// Print JSON, one object to a line
    #[arg(long)]
    json: bool,

    /// Set a key of the configuration, `xcpng_host=pool.example` for example
    #[arg(long = "set", short = 's', value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Args {
    /// Looks at what can be seen without a VM.
    pub(super) fn without_vm(json: bool) -> Self {
        Self {
            no_vm: true,
            json,
            set: Vec::new(),
        }
    }
}

pub(super) async fn run(args: Args, settings: Settings) -> anyhow::Result<ExitCode> {
    run_with(args, None, settings).await
}

/// The same with one more setting, of the most weight.
pub(super) async fn run_with(
    args: Args,
    setting: Option<String>,
    mut settings: Settings,
) -> anyhow::Result<ExitCode> {
    for assignment in args.set.iter().chain(&setting) {
        settings.set(XcpngConfig::VM_TYPE, assignment)?;
    }
    let interrupts = Interrupts::listen()?;
    let config = with_defaults(&settings, XcpngConfig::VM_TYPE);
    let problems = settings.check(&crate::factory(), XcpngConfig::VM_TYPE, &config)?;
    let mut tally = Tally::default();
    if !problems.is_empty() {
        // Of a pool that was never named, each of its keys is missing.
        let (problems, remedy) = match settings.has(XcpngConfig::VM_TYPE) {
            true => (
                problems.iter().map(ToString::to_string).collect(),
                "correct it; `bioxen config show` tells what holds and why".to_owned(),
            ),
            false => (
                vec!["no pool is configured".to_owned()],
                no_pool_remedy(&settings),
            ),
        };
        let wrong = problems
            .into_iter()
            .map(|problem| Finding::failed(Check::Config, problem, &remedy));
        let skipped = Check::ALL.into_iter().skip(1);
        for finding in wrong.chain(skipped.map(|check| Finding::skipped(check, Check::Config))) {
            tally.count(&finding);
            show(&finding, args.json)?;
        }
        if !args.json {
            print(&format!("{tally}\n"))?;
        }
        return Ok(ExitCode::from(ILL));
    }
    let mut doctor = Doctor::new(XcpngConfig::from_value(config)?);
    if args.no_vm {
        doctor = doctor.without_vm();
    }
    let line = Mutex::new(Line::new());
    let mut broken = None;
    let stop = async {
        let Err(told) = interrupts.unless(std::future::pending::<()>()).await else {
            return;
        };
        warn(&format!(
            "told to end; the VM, if there is one, is removed first (exit code {})",
            told.exit_code()
        ));
    };
    let tell = |told: Told<'_>| {
        let mut line = locked(&line);
        let finding = match told {
            Told::Found(finding) => finding,
            Told::Begun(check) => return begin(&mut line, check),
            _ => return,
        };
        line.clear();
        tally.count(finding);
        // Whoever reads no more still wants the VM to go.
        if broken.is_none() {
            broken = show(finding, args.json).err();
        }
    };
    tokio::select! {
        () = Box::pin(doctor.examine_until(stop, tell)) => {}
        () = keep_drawn(&line) => {}
    }
    locked(&line).clear();
    if let Some(error) = broken {
        return Err(error);
    }
    // Nothing ends a future that is told to end but this.
    if let Err(interrupted) = interrupts.unless(std::future::ready(())).await {
        return Ok(ExitCode::from(interrupted.exit_code()));
    }
    if !args.json {
        print(&format!("{tally}\n"))?;
    }
    Ok(ExitCode::from(if tally.failed > 0 { ILL } else { 0 }))
}

/// Lets the seconds pass in the line that says what is being looked at.
async fn keep_drawn(line: &Mutex<Line>) {
    let mut seconds = seconds();
    loop {
        seconds.tick().await;
        locked(line).draw();
    }
}

fn locked(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells what is being looked at: on a terminal in the line, elsewhere in lines, of what takes long.
fn begin(line: &mut Line, check: Check) {
    match (line.is_drawn(), doing(check)) {
        (true, doing) => line.begin(format!("{check}: {}", doing.unwrap_or("looking"))),
        (false, Some(doing)) => say("INFO", &format!("{check}: {doing}")),
        (false, None) => {}
    }
}

/// What is done for a check that takes long.
fn doing(check: Check) -> Option<&'static str> {
    Some(match check {
        Check::Deploy => "making a VM",
        Check::Boot => "starting the VM",
        Check::Address => "waiting for its guest tools to report an address",
        Check::Ssh => "waiting for a login over SSH",
        Check::Luarocks => "looking into the VM",
        Check::Cleanup => "removing the VM",
        _ => return None,
    })
}

fn show(finding: &Finding, json: bool) -> anyhow::Result<()> {
    if json {
        let json = serde_json::to_string(finding).context("cannot write JSON")?;
        return print(&format!("{json}\n"));
    }
    print(&format!("{finding}\n"))
}

#[derive(Debug, Default)]
struct Tally {
    failed: usize,
    warnings: usize,
    skipped: usize,
}

impl Tally {
    fn count(&mut self, finding: &Finding) {
        match finding.verdict {
            Verdict::Failed => self.failed += 1,
            Verdict::Warning => self.warnings += 1,
            Verdict::Skipped => self.skipped += 1,
            _ => {}
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            failed,
            warnings,
            skipped,
        } = self;
        match (failed, warnings) {
            (0, 0) => f.write_str("nothing is wrong")?,
            _ => write!(f, "{failed} failed, {warnings} to be warned of")?,
        }
        if *skipped > 0 {
            write!(f, ", {skipped} not looked at")?;
        }
        Ok(())
    }
}
