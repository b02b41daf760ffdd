//! Runs `site.sh` on the machine of a tree, which runs LuaRocks.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bioxen_vm_core::{
    Command, ErrorKind, Gather, Outcome, OutputSink, OutputStream, PackageSite, Status,
};
use bytes::Bytes;
use tokio::sync::broadcast;

use crate::diagnose::last_line;
use crate::error::Log;
use crate::parse::{Record, records};
use crate::{Error, Progress, Result, Rock, remedy};

const SCRIPT: &str = include_str!("site.sh");

/// What the script may tell: 512 MiB, for the tar of a tree.
const MAX_OUTPUT: usize = 512 << 20;

/// A tree, checked.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    site: &'a PackageSite,
    machine: String,
    timeout: Duration,
    progress: &'a broadcast::Sender<Progress>,
}

/// What the script told and what LuaRocks said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) log: Log,
    /// How long each step of a change took, as far as it came.
    pub(crate) times: Vec<Duration>,
}

impl Answer {
    pub(crate) fn records(&self) -> impl Iterator<Item = Record<'_>> {
        records(&self.text)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.records().any(|record| record.name == name)
    }

    /// The lines that name the rocks of the tree: whether they are the same tells whether somebody
    /// has changed the tree.
    fn state(&self) -> String {
        let lines: Vec<_> = self
            .text
            .lines()
            .filter(|line| line.starts_with("rock\t"))
            .collect();
        lines.join("\n")
    }
}

/// A step of a change.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) verb: &'static str,
    pub(crate) rock: Rock,
    /// The SHA-256 of the file to install and its name; both empty when nothing is installed.
    pub(crate) sha256: String,
    pub(crate) file: String,
}

/// What became of a change.
#[derive(Debug)]
pub(crate) enum Changed {
    /// It was tried.
    Tried(Answer),
    /// The tree or its store are not as they were when it was planned; nothing was done.
    Moved,
}

impl<'a> Site<'a> {
    pub(crate) fn open(
        site: &'a PackageSite,
        timeout: Duration,
        progress: &'a broadcast::Sender<Progress>,
    ) -> Result<Self> {
        check(site)?;
        Ok(Self {
            site,
            machine: site.runner.describe(),
            timeout,
            progress,
        })
    }

    pub(crate) fn machine(&self) -> &str {
        &self.machine
    }

    pub(crate) fn tell(&self, progress: Progress) {
        // Nobody has to listen.
        let _ = self.progress.send(progress);
    }

    /// The rocks of the tree, which is repaired if need be.
    pub(crate) async fn list(&self, operation: &'static str) -> Result<Answer> {
        self.run(operation, "look", &[]).await
    }

    /// The rocks of the tree, what they need, and the files that it has been sent.
    pub(crate) async fn look(&self, operation: &'static str) -> Result<Answer> {
        self.run(operation, "look", &["specs"]).await
    }

    /// Looks at the machine and changes nothing. Looks for these headers and libraries, too.
    pub(crate) async fn inspect(&self, operation: &'static str, files: &[&str]) -> Result<Answer> {
        self.run(operation, "inspect", files).await
    }

    /// Runs an action that takes no input and changes no rocks.
    pub(crate) async fn run(
        &self,
        operation: &'static str,
        action: &'static str,
        arguments: &[&str],
    ) -> Result<Answer> {
        let run = Run {
            action,
            arguments,
            stdin: Bytes::new(),
            steps: &[],
        };
        self.answer(operation, run).await
    }

    /// Runs LuaRocks with these arguments and gives its output and whether it succeeded.
    pub(crate) async fn ask(
        &self,
        operation: &'static str,
        arguments: &[&str],
    ) -> Result<(bool, Answer)> {
        let answer = self.run(operation, "ask", arguments).await?;
        let (_, output) = answer
            .text
            .split_once("output\n")
            .ok_or_else(|| self.senseless(operation, "it has no output", &answer.log))?;
        let (output, exit) = output
            .strip_suffix("end\n")
            .unwrap_or(output)
            .rsplit_once("exit\t")
            .ok_or_else(|| self.senseless(operation, "it has no exit code", &answer.log))?;
        let answer = Answer {
            text: output.to_owned(),
            log: answer.log,
            times: Vec::new(),
        };
        Ok((exit.trim() == "0", answer))
    }

    /// Changes the tree, which has to be as it is known. Sends a tar of files for its store first.
    pub(crate) async fn change(
        &self,
        operation: &'static str,
        known: &Answer,
        files: Bytes,
        steps: &[Step],
    ) -> Result<Changed> {
        let state = known.state();
        let mut arguments = vec![if files.is_empty() { "" } else { "upload" }, &state];
        for step in steps {
            let Rock { name, version } = &step.rock;
            arguments.extend([step.verb, name.as_str(), version.as_str()]);
            arguments.extend([step.sha256.as_str(), step.file.as_str()]);
        }
        let run = Run {
            action: "change",
            arguments: &arguments,
            stdin: files,
            steps,
        };
        self.changed(operation, run).await
    }

    /// Makes the tree what a tar says that [`pack`](Self::pack) gave.
    pub(crate) async fn place(
        &self,
        operation: &'static str,
        known: &Answer,
        tar: Bytes,
    ) -> Result<Changed> {
        let state = known.state();
        let run = Run {
            action: "place",
            arguments: &[&state],
            stdin: tar,
            steps: &[],
        };
        self.changed(operation, run).await
    }

    async fn changed(&self, operation: &'static str, run: Run<'_>) -> Result<Changed> {
        let answer = self.answer(operation, run).await;
        if matches!(answer, Err(Error::TimedOut { .. })) {
            // Puts the tree back now. If that fails too, the next operation does it.
            if let Err(error) = self.list(operation).await {
                tracing::warn!(machine = self.machine, %error, "a tree is not repaired yet");
            }
        }
        let answer = answer?;
        if answer.records().any(|record| is_moved(&record)) {
            return Ok(Changed::Moved);
        }
        Ok(Changed::Tried(answer))
    }

    /// A tar of the whole tree.
    pub(crate) async fn pack(&self, operation: &'static str) -> Result<Bytes> {
        let run = Run {
            action: "pack",
            arguments: &[],
            stdin: Bytes::new(),
            steps: &[],
        };
        let (outcome, _) = self.outcome(operation, run).await?;
        let log = Log::new(outcome.stderr_text().into_owned());
        if outcome.success() && !outcome.stdout_truncated {
            return Ok(outcome.stdout);
        }
        let reason = format!("{}: {}", outcome.status, last_line(log.as_str()));
        Err(self.senseless(operation, &reason, &log))
    }

    async fn outcome(
        &self,
        operation: &'static str,
        run: Run<'_>,
    ) -> Result<(Outcome, Vec<Duration>)> {
        let PackageSite {
            tree, lua_version, ..
        } = self.site;
        let mut command = Command::new("sh")
            .args([
                "-c",
                SCRIPT,
                "bioxen-curator",
                run.action,
                tree,
                lua_version,
            ])
            .args(run.arguments.iter().copied())
            .with_stdin(run.stdin)
            .with_timeout(self.timeout);
        let mut listener = Listener {
            gather: Gather::new(MAX_OUTPUT),
            line: (run.action != "pack").then(Vec::new),
            steps: run.steps,
            progress: self.progress,
            since: Instant::now(),
            times: Vec::new(),
        };
        command.max_output = MAX_OUTPUT;
        let failed = |source: bioxen_vm_core::Error| Error::Machine {
            operation,
            machine: self.machine.clone(),
            source: Box::new(source),
        };
        let runner = &self.site.runner;
        let outcome = match runner.run_streaming(command.clone(), &mut listener).await {
            Ok(outcome) => outcome,
            // What comes only at the end is heard at the end.
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                let outcome = runner.run(command).await.map_err(failed)?;
                let said = outcome.stdout.clone();
                // The listener never breaks.
                let _ = listener.write(OutputStream::Stdout, said).await;
                return Ok((outcome, Vec::new()));
            }
            Err(error) => return Err(failed(error)),
        };
        Ok((listener.gather.into_outcome(outcome), listener.times))
    }

    async fn answer(&self, operation: &'static str, run: Run<'_>) -> Result<Answer> {
        let (outcome, times) = self.outcome(operation, run).await?;
        let answer = Answer {
            text: outcome.stdout_text().into_owned(),
            log: Log::new(outcome.stderr_text().into_owned()),
            times,
        };
        match outcome.status {
            Status::Exited(0) if !outcome.stdout_truncated => self.checked(operation, answer),
            Status::TimedOut => Err(Error::TimedOut {
                operation,
                machine: self.machine.clone(),
                after: self.timeout,
                log: answer.log,
            }),
            Status::Exited(0) => Err(self.senseless(operation, "it is too long", &answer.log)),
            status => {
                let reason = format!("{status}: {}", last_line(answer.log.as_str()));
                Err(self.senseless(operation, &reason, &answer.log))
            }
        }
    }

    /// Turns what kept the script from its work into an error.
    fn checked(&self, operation: &'static str, answer: Answer) -> Result<Answer> {
        let Some(problem) = answer.records().find(|record| record.name == "problem") else {
            return if answer.text.ends_with("end\n") {
                Ok(answer)
            } else {
                Err(self.senseless(operation, "it has no end", &answer.log))
            };
        };
        if is_moved(&problem) {
            return Ok(answer);
        }
        let (machine, tree) = (self.machine.clone(), self.site.tree.clone());
        let log = answer.log.clone();
        let full = log.as_str().contains("No space left on device");
        Err(match problem.field(0) {
            "missing" => Error::MissingProgram {
                machine,
                program: problem.field(1).to_owned(),
                remedy: remedy::program(problem.field(1)),
            },
            "nothing" => Error::NothingToUndo { tree, machine },
            _ if full => Error::DiskFull { machine, tree, log },
            "unwritable" => Error::NotWritable { machine, tree, log },
            "journal" => Error::Journal {
                tree,
                machine,
                reason: last_line(log.as_str()),
                log,
            },
            other => {
                let reason = format!("{other}: {}", last_line(log.as_str()));
                self.senseless(operation, &reason, &log)
            }
        })
    }

    pub(crate) fn senseless(&self, operation: &'static str, reason: &str, log: &Log) -> Error {
        Error::Answer {
            operation,
            machine: self.machine.clone(),
            reason: reason.to_owned(),
            log: log.clone(),
        }
    }
}

/// One run of the script.
struct Run<'r> {
    action: &'static str,
    arguments: &'r [&'r str],
    stdin: Bytes,
    steps: &'r [Step],
}

/// Keeps what the script says, and tells of its steps as they come.
struct Listener<'l> {
    gather: Gather,
    /// The line that has begun; `None` when there are no lines.
    line: Option<Vec<u8>>,
    steps: &'l [Step],
    progress: &'l broadcast::Sender<Progress>,
    since: Instant,
    times: Vec<Duration>,
}

impl Listener<'_> {
    fn hear(&mut self, line: &str) {
        let (name, field) = line.split_once('\t').unwrap_or((line, ""));
        let step = || {
            let number: usize = field.parse().ok()?;
            Some((number, self.steps.get(number)?.rock.clone()))
        };
        let progress = match name {
            "waiting" => Some(Progress::Waiting),
            "repaired" => Some(Progress::Repaired),
            "step" => step().map(|(number, rock)| {
                self.since = Instant::now();
                Progress::Started {
                    rock,
                    number: number + 1,
                    of: self.steps.len(),
                }
            }),
            "done" => step().map(|(_, rock)| {
                let took = self.since.elapsed();
                self.times.push(took);
                Progress::Finished { rock, took }
            }),
            "failed" | "misplaced" => {
                let number = field.split('\t').next().unwrap_or_default();
                let number: Option<usize> = number.parse().ok();
                let step = number.and_then(|number| self.steps.get(number));
                step.map(|step| Progress::RolledBack {
                    rock: step.rock.clone(),
                })
            }
            _ => None,
        };
        if let Some(progress) = progress {
            // Nobody has to listen.
            let _ = self.progress.send(progress);
        }
    }
}

#[async_trait]
impl OutputSink for Listener<'_> {
    async fn write(&mut self, stream: OutputStream, piece: Bytes) -> ControlFlow<()> {
        if stream == OutputStream::Stdout
            && let Some(mut begun) = self.line.take()
        {
            let mut lines = piece.split(|&byte| byte == b'\n');
            // The last has not ended.
            let open = lines.next_back().unwrap_or_default();
            for line in lines {
                begun.extend_from_slice(line);
                self.hear(&String::from_utf8_lossy(&begun));
                begun.clear();
            }
            begun.extend_from_slice(open);
            self.line = Some(begun);
        }
        self.gather.write(stream, piece).await
    }
}

/// Whether the tree or its store are not as they were when a change was planned.
fn is_moved(record: &Record<'_>) -> bool {
    record.name == "problem" && matches!(record.field(0), "absent" | "moved")
}

/// Refuses trees and versions that the script cannot keep apart from its own words.
fn check(site: &PackageSite) -> Result<()> {
    let version_fits = site
        .lua_version
        .strip_prefix("5.")
        .is_some_and(|minor| minor.len() == 1 && minor.bytes().all(|b| b.is_ascii_digit()));
    if !version_fits {
        return Err(Error::Invalid(format!(
            "{:?} is no version of Lua; versions look like \"5.4\"",
            site.lua_version
        )));
    }
    let tree = &site.tree;
    let tree_fits = tree.starts_with('/')
        && tree.len() > 1
        && !tree.chars().any(char::is_control)
        // LuaRocks separates search paths and wraps scripts with these.
        && !tree.contains([';', '?', '%', '"', '\'', '\\'])
        && !tree.split('/').any(|part| part == "..");
    if !tree_fits {
        return Err(Error::Invalid(format!(
            "{tree:?} cannot be a tree of rocks; give an absolute path without '..', quotes, \
             ';', '?' and '%'"
        )));
    }
    Ok(())
}
