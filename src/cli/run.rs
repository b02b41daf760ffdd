//! `bioxen run` and `bioxen exec`: one program in a VM that is made for it, or in one that is there.

use std::ffi::OsString;
use std::fs::File;
use std::io::{IsTerminal as _, Read as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bioxen_vm_core::words::parse_duration;
use bioxen_vm_core::{Input, Script};

use super::ground::{Ground, Kind};
use super::interrupt::Interrupts;
use super::record::{Draft, Seen, Watch, Watched};
use super::streams::{Streams, read_ahead};
use super::with_vms;
use super::work::{Needs, Trace, Work};
use crate::settings::Settings;

/// What the exit code says, for the help.
const ENDINGS: &str = "\
Exit codes: that of the program, but 123 when it was out of memory, 124 when its time was up, 152 \
when its processor time was, 122 when it met another limit (processes, disk), 128 and its number \
for another signal, 125 when BioXen itself failed.";

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
    #[command(flatten)]
    needs: Needs,

    /// End the program after this long: `30s`, `1h30m`, or a number of seconds
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,

    /// Give the program this file as standard input; `-` for our own, which it also gets without
    /// this option unless that is a terminal
    #[arg(long, value_name = "FILE")]
    stdin: Option<PathBuf>,

    /// Write what was run, on what, in which VM and how it ended into this file, from which
    /// `bioxen replay` runs it again
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,

    /// Run this text instead of a file
    #[arg(
        long = "execute",
        short = 'e',
        value_name = "LUA",
        allow_hyphen_values = true
    )]
    code: Option<OsString>,

    /// The program (not with -e) and its arguments; options of bioxen go before it. `-` takes standard
    /// input as the program, which then has none of its own. After -e arguments that begin with a dash
    /// go behind `--`
    #[arg(trailing_var_arg = true, value_name = "FILE [ARGUMENT]")]
    arguments: Vec<OsString>,
}

pub(super) async fn run(args: Run, settings: Settings) -> anyhow::Result<ExitCode> {
    // What is wrong with the program is told before anything else.
    let program = Program::of(&args.job)?;
    execute(args.kind.ground(settings)?, args.job, program).await
}

#[cfg(feature = "xcpng")]
pub(super) async fn exec(args: Exec, settings: Settings) -> anyhow::Result<ExitCode> {
    let program = Program::of(&args.job)?;
    let ground = Ground::existing(args.vm, &args.set, settings)?;
    execute(ground, args.job, program).await
}

async fn execute(mut ground: Ground, job: Job, program: Program) -> anyhow::Result<ExitCode> {
    let stage = job.needs.stage();
    let installs = stage.installs();
    let library = stage
        .library
        .open(&ground.vm_type, &mut ground.config, installs);
    library.await?;
    let seen = job.record.as_ref().map(|_| Seen::default());
    let (stdin, path) = match &job.stdin {
        // Our own was the program.
        None if program.was_typed => (None, None),
        named => input(named.as_deref(), seen.clone())?,
    };
    let reads = stdin.is_some();
    let script = program.script(stdin, job.timeout);
    script.validate()?;
    let watched = seen.filter(|_| reads).map(|seen| Watched { path, seen });
    let draft = job
        .record
        .map(|file| Draft::new(file, &program, job.timeout, watched, &stage, &ground));
    let draft = draft.transpose()?;
    let work = Work { script, stage };
    let interrupts = Interrupts::listen()?;
    let Some(draft) = draft else {
        let mut streams = Streams::new()?;
        let work = Box::pin(work.perform(&ground, &mut streams, None));
        return with_vms(&ground.manager, &interrupts, work).await;
    };
    let mut streams = Streams::new()?.summed();
    let mut trace = Trace::default();
    let work = Box::pin(work.perform(&ground, &mut streams, Some(&mut trace)));
    let ended = with_vms(&ground.manager, &interrupts, work).await;
    let written = draft.finish(&ended, trace, &streams.sums());
    let code = ended?;
    written.map(|()| code)
}

/// A program and its arguments.
pub(super) struct Program {
    pub(super) name: String,
    /// Where it is, unless it is the text of `-e` or came from standard input.
    pub(super) path: Option<PathBuf>,
    /// Whether it was standard input.
    pub(super) was_typed: bool,
    pub(super) code: Vec<u8>,
    /// Any bytes, as the system hands them over.
    pub(super) arguments: Vec<OsString>,
}

impl Program {
    fn of(job: &Job) -> anyhow::Result<Self> {
        let mut arguments = job.arguments.iter().cloned();
        let (name, path, code) = match &job.code {
            Some(code) => ("-e".to_owned(), None, code.clone().into_vec()),
            None => {
                let file: PathBuf = arguments
                    .next()
                    .context("give a Lua file, `-` for standard input, or Lua text with -e")?
                    .into();
                if file.as_os_str() == "-" {
                    return Self::typed(job, arguments.collect());
                }
                let name = file.display().to_string();
                let code = std::fs::read(&file)
                    .with_context(|| format!("cannot read the program {name}"))?;
                (name, Some(file), code)
            }
        };
        Ok(Self {
            name,
            path,
            was_typed: false,
            code,
            arguments: arguments.collect(),
        })
    }

    /// The program that standard input is, under the name that `lua` gives it.
    fn typed(job: &Job, arguments: Vec<OsString>) -> anyhow::Result<Self> {
        anyhow::ensure!(
            job.stdin
                .as_ref()
                .is_none_or(|file| file.as_os_str() != "-"),
            "standard input cannot be both the program and what it reads; name a file for one of them"
        );
        let mut code = Vec::new();
        std::io::stdin()
            .read_to_end(&mut code)
            .context("cannot read the program from standard input")?;
        Ok(Self {
            name: "stdin".to_owned(),
            path: None,
            was_typed: true,
            code,
            arguments,
        })
    }

    pub(super) fn script(&self, stdin: Option<Input>, timeout: Option<Duration>) -> Script {
        let mut script = Script::new(self.code.clone()).with_name(self.name.clone());
        for argument in &self.arguments {
            script = script.arg(argument.clone().into_vec());
        }
        if let Some(stdin) = stdin {
            script = script.with_stdin(stdin);
        }
        if let Some(limit) = timeout {
            script = script.with_timeout(limit);
        }
        script
    }
}

/// What a program reads, as it comes, and the file that it comes from. The terminal only on request:
/// it is the user's.
pub(super) fn input(
    named: Option<&Path>,
    seen: Option<Seen>,
) -> anyhow::Result<(Option<Input>, Option<PathBuf>)> {
    let ours = std::io::stdin();
    Ok(match named {
        Some(file) if file.as_os_str() != "-" => {
            let cannot = || format!("cannot read {}", file.display());
            let opened = File::open(file).with_context(cannot)?;
            if opened.metadata().with_context(cannot)?.is_dir() {
                anyhow::bail!("{}: it is a directory", cannot());
            }
            let stream = read_ahead(Watch::new(opened, seen));
            (Some(Input::stream(stream)), Some(file.to_owned()))
        }
        None if ours.is_terminal() => (None, None),
        _ => {
            let stream = read_ahead(Watch::new(ours, seen));
            (Some(Input::stream(stream)), None)
        }
    })
}
