//! `bioxen map`: runs a program over the records of files, in several VMs made for it.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::num::NonZero;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bioxen_curator::{Lock, RockRequest};
use bioxen_vm_core::words::{ByteSize, parse_duration};
use bioxen_vm_core::{LuaValue, Script, VmManager};
use serde_json::json;

use super::copies::{ends, named};
use super::interrupt::Interrupts;
use super::library::Library;
use super::metrics::{self, Page};
use super::streams::NO_READER;
use super::telemetry::{is_json, say};
use super::{FAILED, config, hints, print, servers, with_vms};
use crate::map::{Format, Input, Map, Mapped, Shards};
use crate::settings::Settings;
use progress::{Bar, Hint, Shared, tell};

mod progress;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What the records are: `fasta`, `fastq` or `lines`
    #[arg(long, value_name = "FORMAT")]
    by: Format,

    /// The two inputs have pairs: a program gets a record of the first and then one of the second.
    /// Wherever records are counted, pairs are: by --shard-records, in the number of a shard's first
    /// record, and in what is told
    #[arg(long)]
    paired: bool,

    /// Cut the input into so many shards [default: four for each VM]
    #[arg(long, value_name = "N", conflicts_with_all = ["shard_size", "shard_records"])]
    shards: Option<u64>,

    /// Cut the input into shards of at most this size, `8MB` for example
    #[arg(long, value_name = "SIZE", conflicts_with = "shard_records")]
    shard_size: Option<ByteSize>,

    /// Cut the input into shards of so many records
    #[arg(long, value_name = "N")]
    shard_records: Option<u64>,

    /// How many VMs to make [default: one for each processor of this machine where they are on it,
    /// else 1]
    #[arg(long, value_name = "N", value_parser = one_or_more)]
    vms: Option<NonZero<usize>>,

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

    /// Install this rock in every VM; which version it is is decided once
    #[arg(
        long = "package",
        visible_alias = "rocks",
        short = 'p',
        value_name = "ROCK"
    )]
    packages: Vec<RockRequest>,

    /// Install exactly the rocks of this lock in every VM
    #[arg(long, value_name = "FILE", conflicts_with = "packages")]
    locked: Option<PathBuf>,

    /// Where rocks come from: a URL, a directory, a bundle, or `bioxen` for the rocks of this
    /// program, in order
    #[arg(long = "server", value_name = "SERVER", default_values = servers::DEFAULT)]
    servers: Vec<String>,

    #[command(flatten)]
    library: Library,

    /// Copy this file into every VM before programs run; they start in the folder that relative
    /// paths are meant from
    #[arg(long, value_name = "LOCAL[:REMOTE]")]
    put: Vec<String>,

    /// End the program on a shard after this long: `30s`, `1h30m`, or a number of seconds
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,

    /// Gather the results with this program, whose first argument gives them:
    /// `for shard, value, output in ... do`
    #[arg(long, value_name = "FILE")]
    reduce: Option<PathBuf>,

    /// Keep results in this folder, the result itself as the file `result` in it in place of standard
    /// output
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,

    /// Go on with what was begun in the folder, with the same program, inputs and rocks
    #[arg(long, requires = "out")]
    resume: bool,

    /// Tell what goes on as JSON on standard output, an object to a line; the last has the result,
    /// which has to be text where it is not in a file of --out
    #[arg(long)]
    json: bool,

    /// Serve numbers of the run for Prometheus at this address, `127.0.0.1:9464` for example, on the
    /// page /metrics; with port 0 on a free one, which is told
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = metrics::address)]
    metrics: Option<String>,

    /// The program, which is run on every shard
    #[arg(value_name = "PROGRAM")]
    program: PathBuf,

    /// The files with the records, plain or compressed with gzip
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,

    /// Arguments of the programs, which they get after what they get anyway
    #[arg(last = true, value_name = "ARG")]
    arguments: Vec<OsString>,
}

pub(super) async fn run(args: Args, mut settings: Settings) -> anyhow::Result<ExitCode> {
    for assignment in &args.set {
        settings.set(&args.vm_type, assignment)?;
    }
    let map = map(&args, &settings).await?;
    let interrupts = Interrupts::listen()?;
    let manager = Arc::new(VmManager::new(crate::factory()));
    let metrics = match &args.metrics {
        Some(address) => Some(Page::serve(address, Arc::clone(&manager)).await?),
        None => None,
    };
    if let Some(page) = &metrics {
        say("INFO", &format!("bioxen: metrics are at {}", page.url()));
    }
    let is_drawn = !args.json && !is_json() && io::stderr().is_terminal();
    let bar = Bar::new(is_drawn);
    let progress = bar.progress();
    let telling = tokio::spawn(tell(map.subscribe(), args.json, bar.progress()));
    let work = async {
        let mut hint = Hint::new(args.out.as_deref(), bar.progress());
        // Gone before anything else is told, however the run ends.
        let bar = bar;
        let mapped = map.run(&manager).await;
        drop(map);
        // All events are told before the result.
        telling.await.context("cannot tell what goes on")??;
        drop(bar);
        let mapped = mapped?;
        hint.is_needless();
        show(&args, mapped).await
    };
    let ended = with_vms(&manager, &interrupts, work).await;
    ended.or_else(|error| failed(&args, error, &progress))
}

/// Where a program failed, tells what may help behind that.
fn failed(args: &Args, error: anyhow::Error, progress: &Shared) -> anyhow::Result<ExitCode> {
    let whole = format!("{error:#}");
    let Some((_, said)) = whole.split_once(": exit code 1: ") else {
        return Err(error);
    };
    let short = progress::locked(progress).shortened(whole.clone());
    super::report(&anyhow::anyhow!(short));
    let rocks = args.packages.iter().map(|rock| rock.name.as_str());
    let place = hints::Place {
        rocks: rocks.collect(),
        existing: None,
    };
    hints::after_words(said, &place);
    Ok(ExitCode::from(FAILED))
}

async fn map(args: &Args, settings: &Settings) -> anyhow::Result<Map> {
    if args.inputs.iter().any(|input| input.as_os_str() == "-") {
        anyhow::bail!(
            "map reads files, not standard input: shards are read from their places in them; write \
             it to a file first, and give that (a file whose name is - as ./-)"
        );
    }
    let mut input = Input::new(&args.inputs, args.by);
    input.paired = args.paired;
    let vms = args.vms.map_or_else(
        || match args.vm_type.as_str() {
            "basic" => std::thread::available_parallelism().map_or(1, NonZero::get),
            _ => 1,
        },
        NonZero::get,
    );
    ensure!(
        args.library.env.is_none() || args.vm_type == "basic",
        "map takes the rocks of --env from this machine, which VMs of type {} do not see; --package or \
         --locked installs rocks in every VM",
        args.vm_type
    );
    let mut config = config(settings, &args.vm_type)?;
    let installs = !args.packages.is_empty() || args.locked.is_some();
    let library = args.library.open(&args.vm_type, &mut config, installs);
    library.await?;
    let variables = args.library.variables_of_machine(&config).await?;
    let script = |file: &Path| -> anyhow::Result<Script> {
        let script = script(args, file)?;
        let set = variables.iter().cloned();
        Ok(set.fold(script, |script, (name, value)| script.with_env(name, value)))
    };
    let mut program = script(&args.program)?;
    program.timeout = args.timeout;
    let mut map = Map::new(program, input)
        .on(&args.vm_type, config, vms)
        .with_rocks(
            args.packages.iter().cloned(),
            servers::servers(&args.servers)?,
        );
    let sizes = [
        args.shards.map(Shards::Count),
        args.shard_size.map(|size| Shards::Bytes(size.0)),
        args.shard_records.map(Shards::Records),
    ];
    if let Some(shards) = sizes.into_iter().flatten().next() {
        map = map.with_shards(shards);
    }
    if let Some(file) = &args.locked {
        map = map.with_lock(Lock::read(file)?);
    }
    for text in &args.put {
        let (local, remote) = ends(text);
        let remote = named(local, remote);
        map = map.with_file(local, remote.to_string_lossy());
    }
    if let Some(file) = &args.reduce {
        map = map.with_reduce(script(file)?);
    }
    if let Some(folder) = &args.out {
        map = map.in_folder(folder, args.resume);
    }
    Ok(map)
}

fn script(args: &Args, file: &Path) -> anyhow::Result<Script> {
    let code = std::fs::read(file)
        .with_context(|| format!("cannot read the program {}", file.display()))?;
    let mut script = Script::new(code).with_name(file.display().to_string());
    for argument in &args.arguments {
        script = script.arg(argument.clone().into_vec());
    }
    Ok(script)
}

fn one_or_more(text: &str) -> Result<NonZero<usize>, String> {
    text.parse()
        .map_err(|_| "give a whole number from 1 on".to_owned())
}

async fn show(args: &Args, mapped: Mapped) -> anyhow::Result<ExitCode> {
    if args.json {
        let value = match &mapped.value {
            LuaValue::Nil => None,
            value => Some(value.to_json()?),
        };
        let (result, output) = match args.out {
            Some(_) => (Some(&mapped.result), None),
            None => (None, Some(text(&mapped)?)),
        };
        let line = json!({
            "event": "mapped",
            "shards": mapped.shards,
            "resumed": mapped.resumed,
            "records": mapped.records,
            "result": result,
            "output": output,
            "value": value,
            "times": mapped.times,
        });
        print(&format!("{line}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    say("INFO", &mapped.times.to_string());
    if args.out.is_some() {
        let result = mapped.result.display();
        say("INFO", &format!("bioxen: the result is {result}"));
        return Ok(ExitCode::SUCCESS);
    }
    // On a thread of its own, so that signals are heard while the reader takes its time.
    let copying = tokio::task::spawn_blocking(move || {
        let mut out = io::stdout().lock();
        io::copy(&mut mapped.open()?, &mut out)
            .and_then(|_| out.flush())
            .map_or_else(
                |error| match error.kind() {
                    io::ErrorKind::BrokenPipe => Ok(ExitCode::from(NO_READER)),
                    _ => Err(error).context("cannot write to standard output"),
                },
                |()| Ok(ExitCode::SUCCESS),
            )
    });
    copying.await.context("cannot write the result")?
}

/// The result as text, which a JSON object can hold.
fn text(mapped: &Mapped) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = mapped.open()?.read_to_string(&mut text);
    read.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => anyhow::anyhow!(
            "the result is not UTF-8, which JSON cannot hold; --out FOLDER puts it into a file"
        ),
        _ => anyhow::Error::new(error).context("cannot read the result"),
    })?;
    Ok(text)
}
