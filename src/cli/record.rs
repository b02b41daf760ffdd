//! The record of a run: what was run, on what, in which VM, and how it ended. JSON, from which
//! `bioxen replay` runs it again.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf, absolute};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bioxen_vm_core::{Returned, Value};
use serde::{Deserialize, Serialize};

use super::config::{is_public, without_secrets};
use super::copies::{ends, named};
use super::ground::Ground;
use super::run::Program;
use super::streams::Sums;
use super::telemetry::now;
use super::work::{Stage, Trace};
use crate::sums::{Sum, sum_of};

/// The form of records.
const FORMAT: u32 = 1;

/// What was run and what came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// The form of the record: 1.
    pub(super) format: u32,
    /// The version of BioXen.
    pub(super) bioxen: String,
    /// When it began: RFC 3339, UTC.
    pub(super) started: String,
    pub(super) program: Code,
    pub(super) arguments: Vec<String>,
    pub(super) timeout_seconds: Option<f64>,
    pub(super) stdin: Option<Stdin>,
    /// What was copied into the VM.
    pub(super) put: Vec<Copied>,
    /// What was copied out of it, where the program succeeded.
    pub(super) get: Vec<Copied>,
    /// The text of the `bioxen.lock` of its rocks.
    pub(super) lock: Option<String>,
    pub(super) vm: Place,
    pub(super) seconds: Seconds,
    pub(super) outcome: Outcome,
}

/// What every form of records has.
#[derive(Debug, Deserialize)]
struct Form {
    format: u32,
    bioxen: String,
}

/// A program.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Code {
    pub(super) name: String,
    /// Where it was, unless it was given with `-e`.
    pub(super) path: Option<PathBuf>,
    #[serde(flatten)]
    pub(super) content: Content,
    /// The program itself, where it is UTF-8.
    pub(super) text: Option<String>,
}

/// Some bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Content {
    pub(super) sha256: String,
    pub(super) bytes: u64,
}

/// What the program was given to read.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stdin {
    /// The file, unless it was our own standard input.
    pub(super) path: Option<PathBuf>,
    /// As much as was read before the program ended.
    #[serde(flatten)]
    pub(super) content: Content,
    /// Whether that was all.
    pub(super) complete: bool,
}

/// A file or folder that was copied.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Copied {
    /// On this machine.
    pub(super) local: PathBuf,
    /// In the VM.
    pub(super) remote: PathBuf,
    /// The files, by their paths from the folder on; a single file has the empty path.
    pub(super) files: BTreeMap<PathBuf, Content>,
}

/// The VM.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    #[serde(rename = "type")]
    pub(super) vm_type: String,
    /// The one of the pool that was meant, unless one was made.
    pub(super) existing: Option<String>,
    /// What was set on the command line, without secrets.
    pub(super) set: Vec<String>,
    /// The whole configuration, without secrets.
    pub(super) configuration: BTreeMap<String, Value>,
    /// The environment whose rocks programs found, where one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) env: Option<String>,
    /// The tree of this machine whose rocks programs found, where one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tree: Option<PathBuf>,
    /// What was known of the VM: its address, and as its type has them uuid, host, template.
    pub(super) info: Option<Value>,
}

/// How long each part took.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Seconds {
    pub(super) vm: f64,
    pub(super) rocks: f64,
    pub(super) program: f64,
}

/// How it ended.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// The program ended.
    Ended(Ended),
    /// We failed.
    Failed(String),
    /// We were told to end.
    Interrupted,
}

/// How a program ended.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ended {
    /// In words: `exit code 0`, `timed out`.
    pub(super) status: String,
    /// What the program returned, where JSON can hold it.
    #[serde(default)]
    pub(super) returned: Option<Vec<Value>>,
    pub(super) stdout: Content,
    pub(super) stderr: Content,
}

impl Record {
    /// Reads a record.
    pub(super) fn read(file: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot read the record {}", file.display());
        let text = std::fs::read(file).with_context(cannot)?;
        let none = || {
            format!(
                "{} is no record that `bioxen run --record` has written",
                file.display()
            )
        };
        // A newer form may have other keys.
        let of: Form = serde_json::from_slice(&text).with_context(none)?;
        ensure!(
            of.format == FORMAT,
            "{} has the form {} of records, and this program, BioXen {}, knows form {FORMAT}; replay it \
             with BioXen {}, which wrote it, or a newer one",
            file.display(),
            of.format,
            env!("CARGO_PKG_VERSION"),
            of.bioxen
        );
        serde_json::from_slice(&text).with_context(none)
    }
}

impl From<&Sum> for Content {
    fn from(sum: &Sum) -> Self {
        Self {
            sha256: sum.sha256(),
            bytes: sum.bytes(),
        }
    }
}

/// What a program has read so far.
pub(super) type Seen = Arc<Mutex<(Sum, bool)>>;

/// A reader that tells what was read.
pub(super) struct Watch<R> {
    source: R,
    seen: Option<Seen>,
}

impl<R> Watch<R> {
    pub(super) fn new(source: R, seen: Option<Seen>) -> Self {
        Self { source, seen }
    }
}

impl<R: Read> Read for Watch<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        if let Some(seen) = &self.seen {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.0.add(&buffer[..count]);
            seen.1 |= count == 0;
        }
        Ok(count)
    }
}

/// What a program is given to read.
pub(super) struct Watched {
    pub(super) path: Option<PathBuf>,
    pub(super) seen: Seen,
}

/// A record of what is under way.
pub(super) struct Draft {
    file: PathBuf,
    record: Record,
    stdin: Option<Watched>,
}

impl Draft {
    /// Begins a record, and sees to it that it can be written in the end.
    pub(super) fn new(
        file: PathBuf,
        program: &Program,
        timeout: Option<Duration>,
        stdin: Option<Watched>,
        stage: &Stage,
        ground: &Ground,
    ) -> anyhow::Result<Self> {
        if file.symlink_metadata().is_ok() {
            bail!(
                "{} is there already; name another file for the record",
                file.display()
            );
        }
        let folder = folder_of(&file);
        ensure!(
            folder.is_dir(),
            "there is no folder {} for the record {}",
            folder.display(),
            file.display()
        );
        let put = stage.put.iter().map(|text| {
            let (local, remote) = ends(text);
            let remote = match (local.is_dir(), remote) {
                (false, Some(remote)) => remote.to_owned(),
                (false, None) => ".".into(),
                (true, remote) => named(local, remote),
            };
            Copied::of(local, remote)
        });
        let get = stage.get.iter().map(|text| {
            let (remote, local) = ends(text);
            Ok(Copied {
                local: absolute(named(remote, local))?,
                remote: remote.to_owned(),
                files: BTreeMap::new(),
            })
        });
        let record = Record {
            format: FORMAT,
            bioxen: env!("CARGO_PKG_VERSION").to_owned(),
            started: now(),
            program: Code::of(program)?,
            arguments: program
                .arguments
                .iter()
                .map(|argument| text(argument))
                .collect::<anyhow::Result<_>>()?,
            timeout_seconds: timeout.map(|limit| limit.as_secs_f64()),
            stdin: None,
            put: put.collect::<anyhow::Result<_>>()?,
            get: get.collect::<io::Result<_>>()?,
            lock: None,
            vm: Place {
                vm_type: ground.vm_type.clone(),
                existing: ground.existing.clone(),
                set: ground
                    .set
                    .iter()
                    .filter(|text| is_public(text))
                    .cloned()
                    .collect(),
                configuration: without_secrets(&ground.config),
                env: stage.library.env.clone(),
                tree: stage.library.tree.as_ref().map(absolute).transpose()?,
                info: None,
            },
            seconds: Seconds {
                vm: 0.0,
                rocks: 0.0,
                program: 0.0,
            },
            outcome: Outcome::Interrupted,
        };
        Ok(Self {
            file,
            record,
            stdin,
        })
    }

    /// Completes the record and writes it.
    pub(super) fn finish(
        mut self,
        ended: &anyhow::Result<ExitCode>,
        trace: Trace,
        sums: &Sums,
    ) -> anyhow::Result<()> {
        let record = &mut self.record;
        record.seconds = Seconds {
            vm: trace.times.vm.as_secs_f64(),
            rocks: trace.times.rocks.as_secs_f64(),
            // Where its end was not told, it ran until now.
            program: match (trace.status, trace.program_began) {
                (None, Some(began)) => began.elapsed().as_secs_f64(),
                _ => trace.times.program.as_secs_f64(),
            },
        };
        record.lock = trace.lock.map(|lock| lock.to_string());
        record.vm.info = trace.vm.map(serde_json::to_value).transpose()?;
        if let Some(Watched { path, seen }) = self.stdin {
            let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            record.stdin = Some(Stdin {
                path: path.map(absolute).transpose()?,
                content: Content::from(&seen.0),
                complete: seen.1,
            });
        }
        let returned = in_json(&trace.returned);
        record.outcome = match (ended, trace.status) {
            (Err(error), _) => Outcome::Failed(format!("{error:#}")),
            (Ok(_), None) => Outcome::Interrupted,
            (Ok(_), Some(status)) => {
                if status == bioxen_vm_core::Status::Exited(0) {
                    for copied in &mut record.get {
                        copied.files = contents(&copied.local)?;
                    }
                }
                Outcome::Ended(Ended {
                    status: status.to_string(),
                    returned,
                    stdout: Content::from(&sums.stdout),
                    stderr: Content::from(&sums.stderr),
                })
            }
        };
        write(&self.file, &self.record)
            .with_context(|| format!("cannot write the record {}", self.file.display()))
    }
}

/// What a program returned, where JSON can hold it.
pub(super) fn in_json(returned: &Returned) -> Option<Vec<Value>> {
    match returned {
        Returned::Values(values) => values.iter().map(|value| value.to_json().ok()).collect(),
        _ => None,
    }
}

/// An argument, as records have it.
fn text(argument: &OsStr) -> anyhow::Result<String> {
    let text = argument.to_str().with_context(|| {
        format!(
            "the argument '{}' is not UTF-8, which a record cannot hold; give it in a file, or leave \
             --record out",
            argument.as_encoded_bytes().escape_ascii()
        )
    })?;
    Ok(text.to_owned())
}

impl Code {
    fn of(program: &Program) -> anyhow::Result<Self> {
        ensure!(
            program.path.is_some() || std::str::from_utf8(&program.code).is_ok(),
            "{} is not UTF-8, which a record cannot hold; give it in a file, or leave --record out",
            match program.was_typed {
                true => "the program on standard input",
                false => "the text of -e",
            }
        );
        Ok(Self {
            name: program.name.clone(),
            path: program.path.as_ref().map(absolute).transpose()?,
            content: Content::from(&Sum::of(&program.code)),
            text: String::from_utf8(program.code.clone()).ok(),
        })
    }
}

impl Copied {
    fn of(local: &Path, remote: PathBuf) -> anyhow::Result<Self> {
        Ok(Self {
            local: absolute(local)?,
            remote,
            files: contents(local)?,
        })
    }
}

/// The files of a folder, or of a path that is a file. Links and devices are not copied, so they are
/// left out.
pub(super) fn contents(root: &Path) -> anyhow::Result<BTreeMap<PathBuf, Content>> {
    let mut files = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let cannot = || format!("cannot read {}", path.display());
        let kind = match path == root {
            true => path.metadata(),
            false => path.symlink_metadata(),
        };
        let kind = kind.with_context(cannot)?;
        if kind.is_dir() {
            for entry in path.read_dir().with_context(cannot)? {
                open.push(entry.with_context(cannot)?.path());
            }
        } else if kind.is_file() {
            let content = Content::from(&sum_of(&path).with_context(cannot)?);
            let name = path.strip_prefix(root).unwrap_or(&path);
            files.insert(name.to_owned(), content);
        }
    }
    Ok(files)
}

/// Writes a record, which is there as a whole or not at all, and never in place of another file.
fn write(file: &Path, record: &Record) -> anyhow::Result<()> {
    let mut written = tempfile::NamedTempFile::new_in(folder_of(file))?;
    serde_json::to_writer_pretty(&mut written, record)?;
    written.write_all(b"\n")?;
    written.persist_noclobber(file)?;
    Ok(())
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
