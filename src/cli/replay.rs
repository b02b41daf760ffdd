//! `bioxen replay`: runs again what a record tells of, and says whether the same came of it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bioxen_curator::Lock;
use bioxen_vm_core::Value;
use serde::Serialize;
use serde_json::json;
use tempfile::NamedTempFile;

use super::config::without_secrets;
use super::ground::Ground;
use super::interrupt::Interrupts;
use super::library::Library;
use super::record::{Content, Copied, Ended, Outcome, Record, Stdin, contents, in_json};
use super::run::{Program, input};
use super::streams::Streams;
use super::telemetry::say;
use super::work::{Rocks, Stage, Trace, Work};
use super::{print, servers, warn, with_vms};
use crate::settings::Settings;
use crate::sums::{Sum, Summed};

/// The exit code when something else came of it.
const DIFFERENT: u8 = 1;

/// What the exit code says, for the help.
const ENDINGS: &str = "\
Exit codes: 0 when the same came of it, 1 when something else did, 125 when BioXen itself failed or \
the inputs are not those of the record, 128 and its number for a signal that ended bioxen.";

#[derive(Debug, clap::Args)]
#[command(after_help = ENDINGS)]
pub(super) struct Args {
    /// What `bioxen run --record` or `bioxen exec --record` has written
    #[arg(value_name = "RECORD")]
    record: PathBuf,

    /// Standard input, where the record was made with what came over a pipe, or the file has moved;
    /// `-` for our own
    #[arg(long, value_name = "FILE")]
    stdin: Option<PathBuf>,

    /// Where rocks come from that are not where they were: a URL, a directory, a bundle, or `bioxen`
    /// for the rocks of this program, in order
    #[arg(long = "server", value_name = "SERVER", default_values = servers::DEFAULT)]
    servers: Vec<String>,

    /// Set a key of the configuration, besides what the record sets; a password for example is not in
    /// a record
    #[arg(long = "set", short = 's', value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Print what came of it as JSON, and not what the program prints
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, settings: Settings) -> anyhow::Result<ExitCode> {
    let record = Record::read(&args.record)?;
    let Outcome::Ended(then) = &record.outcome else {
        bail!(
            "the run of {} did not come to an end, so there is nothing to compare with",
            args.record.display()
        );
    };
    let program = program(&record)?;
    let stdin = stdin(args.stdin, record.stdin.as_ref())?;
    for copied in &record.put {
        unchanged(copied)?;
    }
    let set: Vec<_> = record.vm.set.iter().chain(&args.set).cloned().collect();
    let mut ground = ground(&record, &set, settings)?;
    let library = Library {
        env: record.vm.env.clone(),
        tree: record.vm.tree.clone(),
    };
    let opened = library.open(&ground.vm_type, &mut ground.config, record.lock.is_some());
    opened.await?;
    tell_other_configuration(&record, &ground);
    // What is copied out of the VM must not replace what the first run has left.
    let got =
        tempfile::tempdir().context("cannot make a folder for what is copied out of the VM")?;
    let mut work = work(&record, &program, stdin.as_ref(), args.servers, got.path())?;
    work.stage.library = library;

    let interrupts = Interrupts::listen()?;
    let mut streams = Streams::new()?.summed();
    if args.json {
        streams = streams.without_stdout()?;
    }
    let mut trace = Trace::default();
    let done = work.perform(&ground, &mut streams, Some(&mut trace));
    let code = with_vms(&ground.manager, &interrupts, done).await?;
    let Some(status) = trace.status else {
        return Ok(code);
    };
    let sums = streams.sums();
    let now = Ended {
        status: status.to_string(),
        returned: in_json(&trace.returned),
        stdout: Content::from(&sums.stdout),
        stderr: Content::from(&sums.stderr),
    };
    let mut differences = differences(then, &now)?;
    for (index, copied) in record.get.iter().enumerate() {
        let files = match copied.files.is_empty() {
            true => BTreeMap::new(),
            false => contents(&got.path().join(index.to_string()))?,
        };
        differences.extend(other_files(&copied.remote, &copied.files, &files)?);
    }
    let code = match differences.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(DIFFERENT),
    };
    if args.json {
        let told = json!({
            "record": args.record,
            "same": differences.is_empty(),
            "status": now.status,
            "differences": differences,
        });
        print(&format!("{told}\n"))?;
        return Ok(code);
    }
    if differences.is_empty() {
        say(
            "INFO",
            &format!(
                "bioxen: the same as in {}: {}, {} bytes of standard output",
                args.record.display(),
                now.status,
                now.stdout.bytes
            ),
        );
    }
    for difference in differences {
        say("WARN", &format!("bioxen: {difference}"));
    }
    Ok(code)
}

/// The program, as it was.
fn program(record: &Record) -> anyhow::Result<Program> {
    let then = &record.program;
    let code = match (&then.text, &then.path) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(path)) => std::fs::read(path)
            .with_context(|| format!("cannot read the program {}", path.display()))?,
        (None, None) => bail!("the record has no program"),
    };
    ensure!(
        Content::from(&Sum::of(&code)) == then.content,
        "the program {} is not the one of the record any more",
        then.name
    );
    Ok(Program {
        name: then.name.clone(),
        path: then.path.clone(),
        was_typed: false,
        code,
        arguments: record.arguments.iter().map(Into::into).collect(),
    })
}

/// What the program is given to read.
enum Given {
    File(PathBuf),
    Spooled(NamedTempFile),
}

impl Given {
    fn path(&self) -> &Path {
        match self {
            Self::File(file) => file,
            Self::Spooled(file) => file.path(),
        }
    }
}

/// What comes over a pipe, as a file: it is looked at before the program gets it.
fn spooled(mut pipe: impl io::Read) -> anyhow::Result<NamedTempFile> {
    let mut file = NamedTempFile::new().context("cannot make a file for standard input")?;
    io::copy(&mut pipe, &mut file).context("cannot keep standard input in a file")?;
    Ok(file)
}

/// The file to read, once it is sure that it is what was read.
fn stdin(named: Option<PathBuf>, then: Option<&Stdin>) -> anyhow::Result<Option<Given>> {
    let Some(then) = then else {
        ensure!(
            named.is_none(),
            "the program of the record had nothing to read; leave --stdin out"
        );
        return Ok(None);
    };
    let Some(file) = named.or_else(|| then.path.clone()) else {
        // Nothing came over the pipe.
        ensure!(
            then.content.bytes == 0,
            "the program read {} bytes from a pipe; give them as a file with --stdin",
            then.content.bytes
        );
        return Ok(None);
    };
    let (given, name) = match file.as_os_str() == "-" {
        true => (
            Given::Spooled(spooled(io::stdin())?),
            "what was given".into(),
        ),
        false => (Given::File(file.clone()), file.display().to_string()),
    };
    let cannot = || format!("cannot read {name}, the standard input of the record");
    let opened = File::open(given.path()).with_context(cannot)?;
    let length = opened.metadata().with_context(cannot)?.len();
    let mut read = Summed::new(opened.take(then.content.bytes));
    io::copy(&mut read, &mut io::sink()).with_context(cannot)?;
    ensure!(
        Content::from(read.sum()) == then.content
            && (!then.complete || length == then.content.bytes),
        "{name} is not what the program of the record read: it had {} bytes with the SHA-256 {}",
        then.content.bytes,
        then.content.sha256
    );
    Ok(Some(given))
}

/// Refuses files that have changed, by name.
fn unchanged(copied: &Copied) -> anyhow::Result<()> {
    let now = contents(&copied.local)?;
    let changed = other_files(&copied.local, &copied.files, &now)?;
    let changed: Vec<_> = changed.iter().map(ToString::to_string).collect();
    ensure!(
        changed.is_empty(),
        "what was copied into the VM is not what it was: {}",
        changed.join("; ")
    );
    Ok(())
}

fn ground(record: &Record, set: &[String], settings: Settings) -> anyhow::Result<Ground> {
    match &record.vm.existing {
        #[cfg(feature = "xcpng")]
        Some(which) => Ground::existing(which.clone(), set, settings),
        #[cfg(not(feature = "xcpng"))]
        Some(_) => bail!("the record is of a VM of a pool; this build has no VM type xcpng"),
        None => Ground::new(record.vm.vm_type.clone(), set, settings),
    }
}

fn work(
    record: &Record,
    program: &Program,
    stdin: Option<&Given>,
    servers: Vec<String>,
    got: &Path,
) -> anyhow::Result<Work> {
    let timeout = record.timeout_seconds.map(Duration::try_from_secs_f64);
    let timeout = timeout
        .transpose()
        .context("the record has a wrong timeout")?;
    let stdin = match stdin {
        Some(given) => input(Some(given.path()), None)?.0,
        None => None,
    };
    let lock = record.lock.as_deref().map(str::parse::<Lock>).transpose()?;
    let text = |path: &Path| {
        let text = path.to_str().map(str::to_owned);
        text.with_context(|| format!("the path {} is no text", path.display()))
    };
    let put = record.put.iter().map(|copied| {
        Ok(format!(
            "{}:{}",
            text(&copied.local)?,
            text(&copied.remote)?
        ))
    });
    let get = record.get.iter().enumerate().map(|(index, copied)| {
        Ok(format!(
            "{}:{}",
            text(&copied.remote)?,
            text(&got.join(index.to_string()))?
        ))
    });
    Ok(Work {
        script: program.script(stdin, timeout),
        stage: Stage {
            rocks: match lock {
                Some(lock) => Rocks::Locked(Box::new(lock)),
                None => Rocks::Named(Vec::new()),
            },
            servers,
            library: Library::default(),
            put: put.collect::<anyhow::Result<_>>()?,
            get: get.collect::<anyhow::Result<_>>()?,
        },
    })
}

/// Says what of the configuration is not as it was. Results may be the same all the same.
fn tell_other_configuration(record: &Record, ground: &Ground) {
    // Where this program keeps things is no property of a VM.
    const OURS: [&str; 2] = ["worker", "state_dir"];
    let (then, now) = (&record.vm.configuration, without_secrets(&ground.config));
    let keys: std::collections::BTreeSet<_> = then.keys().chain(now.keys()).collect();
    for key in keys.into_iter().filter(|key| !OURS.contains(&key.as_str())) {
        let shown =
            |value: Option<&Value>| value.map_or_else(|| "not set".to_owned(), ToString::to_string);
        let (then, now) = (then.get(key), now.get(key));
        if then != now {
            warn(&format!("{key} was {} and is {}", shown(then), shown(now)));
        }
    }
}

/// What came of it otherwise.
#[derive(Debug, Serialize)]
struct Difference {
    /// `status`, `returned`, `stdout`, `stderr`, or the path of a file.
    what: String,
    then: Value,
    now: Value,
}

impl Difference {
    fn of(what: &str, then: &impl Serialize, now: &impl Serialize) -> anyhow::Result<Self> {
        Ok(Self {
            what: what.to_owned(),
            then: serde_json::to_value(then)?,
            now: serde_json::to_value(now)?,
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what.as_str() {
            "status" => "ended otherwise",
            "returned" => "returned otherwise",
            "stdout" => "standard output differs",
            "stderr" => "standard error differs",
            file => &format!("{file} differs"),
        };
        let shown = |value: &Value| match (value, &*self.what) {
            (Value::String(text), _) => text.clone(),
            (Value::Null, "returned") => "nothing that JSON can hold".to_owned(),
            (Value::Null, _) => "nothing".to_owned(),
            (Value::Object(content), _) => {
                let (bytes, sum) = (&content["bytes"], &content["sha256"]);
                format!(
                    "{bytes} bytes, SHA-256 {}",
                    sum.as_str().unwrap_or_default()
                )
            }
            (value, _) => value.to_string(),
        };
        let (then, now) = (shown(&self.then), shown(&self.now));
        write!(f, "{what}: {then} then, {now} now")
    }
}

fn differences(then: &Ended, now: &Ended) -> anyhow::Result<Vec<Difference>> {
    let mut found = Vec::new();
    if then.status != now.status {
        found.push(Difference::of("status", &then.status, &now.status)?);
    }
    if then.returned != now.returned {
        found.push(Difference::of("returned", &then.returned, &now.returned)?);
    }
    for (name, then, now) in [
        ("stdout", &then.stdout, &now.stdout),
        ("stderr", &then.stderr, &now.stderr),
    ] {
        if then != now {
            found.push(Difference::of(name, then, now)?);
        }
    }
    Ok(found)
}

fn other_files(
    root: &Path,
    then: &BTreeMap<PathBuf, Content>,
    now: &BTreeMap<PathBuf, Content>,
) -> anyhow::Result<Vec<Difference>> {
    let names: std::collections::BTreeSet<_> = then.keys().chain(now.keys()).collect();
    let path = |name: &Path| match name.as_os_str().is_empty() {
        true => root.display().to_string(),
        false => root.join(name).display().to_string(),
    };
    names
        .into_iter()
        .map(|name| (name, then.get(name), now.get(name)))
        .filter(|(_, then, now)| then != now)
        .map(|(name, then, now)| Difference::of(&path(name), &then, &now))
        .collect()
}
