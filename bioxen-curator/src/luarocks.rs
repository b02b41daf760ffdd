//! Runs `site.sh` on the machine of a tree, which runs LuaRocks.

use std::time::Duration;

use bioxen_vm_core::{Command, PackageSite, Status};
use bytes::Bytes;

use crate::diagnose::last_line;
use crate::error::Log;
use crate::parse::{Record, records};
use crate::server::{Archive, RocksServer, Source, joined};
use crate::{Error, Result, remedy};

const SCRIPT: &str = include_str!("site.sh");

/// A tree, checked, and the servers as its machine gets them.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    site: &'a PackageSite,
    machine: String,
    timeout: Duration,
    sources: Vec<(RocksServer, Source)>,
}

/// What the script told and what LuaRocks said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) log: Log,
}

impl Answer {
    pub(crate) fn records(&self) -> impl Iterator<Item = Record<'_>> {
        records(&self.text)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.records().any(|record| record.name == name)
    }
}

impl<'a> Site<'a> {
    pub(crate) async fn open(
        site: &'a PackageSite,
        servers: &[RocksServer],
        timeout: Duration,
    ) -> Result<Self> {
        check(site)?;
        let mut sources = Vec::with_capacity(servers.len());
        for server in servers {
            sources.push((server.clone(), server.load(&site.lua_version).await?));
        }
        Ok(Self {
            site,
            machine: site.runner.describe(),
            timeout,
            sources,
        })
    }

    pub(crate) fn machine(&self) -> &str {
        &self.machine
    }

    /// The servers in words.
    pub(crate) fn servers(&self) -> Vec<String> {
        self.sources
            .iter()
            .map(|(server, _)| server.to_string())
            .collect()
    }

    /// The server that LuaRocks calls by this location, in the words of the caller.
    pub(crate) fn server_of(&self, location: &str) -> String {
        let known = self.sources.iter().find(|(_, source)| match source {
            Source::Url(url) => url == location,
            Source::Archive(archive) => location.ends_with(&format!("/{}", archive.hash)),
        });
        known.map_or_else(|| location.to_owned(), |(server, _)| server.to_string())
    }

    /// Looks at the tree and repairs it if need be.
    pub(crate) async fn list(&self, operation: &'static str) -> Result<Answer> {
        self.run(operation, "look", &[], Bytes::new()).await
    }

    /// Looks at the machine and changes nothing.
    pub(crate) async fn inspect(&self, operation: &'static str) -> Result<Answer> {
        self.run(operation, "inspect", &[], Bytes::new()).await
    }

    /// Runs LuaRocks with these arguments and gives its output and whether it succeeded.
    pub(crate) async fn ask(
        &self,
        operation: &'static str,
        arguments: &[&str],
    ) -> Result<(bool, Answer)> {
        let known = self.list(operation).await?;
        let answer = self
            .with_archives(operation, "ask", &known, arguments)
            .await?;
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
        };
        Ok((exit.trim() == "0", answer))
    }

    /// Changes the tree: verb, name and version for each step.
    pub(crate) async fn change(
        &self,
        operation: &'static str,
        known: &Answer,
        steps: &[[&str; 3]],
    ) -> Result<Answer> {
        let changed = self
            .with_archives(operation, "change", known, steps.as_flattened())
            .await;
        if matches!(changed, Err(Error::TimedOut { .. })) {
            // Puts the tree back now. If that fails too, the next operation does it.
            if let Err(error) = self.list(operation).await {
                tracing::warn!(machine = self.machine, %error, "a tree is not repaired yet");
            }
        }
        changed
    }

    /// Runs an action that needs the servers, and sends the directories that the machine lacks.
    async fn with_archives(
        &self,
        operation: &'static str,
        action: &'static str,
        known: &Answer,
        arguments: &[&str],
    ) -> Result<Answer> {
        let there: Vec<_> = known
            .records()
            .filter(|record| record.name == "server")
            .map(|record| record.field(0))
            .collect();
        let all = || {
            self.sources
                .iter()
                .filter_map(|(_, source)| source.archive())
        };
        let missing = all().filter(|archive| !there.contains(&archive.hash.as_str()));
        let first = self
            .run_with(operation, action, joined(missing), arguments)
            .await?;
        if !first.records().any(|record| is_absent(&record)) {
            return Ok(first);
        }
        // Somebody else's change has removed a directory since it was listed.
        self.run_with(operation, action, joined(all()), arguments)
            .await
    }

    async fn run_with(
        &self,
        operation: &'static str,
        action: &'static str,
        archives: Bytes,
        arguments: &[&str],
    ) -> Result<Answer> {
        let upload = if archives.is_empty() { "" } else { "upload" };
        let arguments: Vec<_> = [upload]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        self.run(operation, action, &arguments, archives).await
    }

    async fn run(
        &self,
        operation: &'static str,
        action: &'static str,
        arguments: &[&str],
        stdin: Bytes,
    ) -> Result<Answer> {
        let servers: Vec<_> = self
            .sources
            .iter()
            .map(|(_, source)| source.location())
            .collect();
        let hashes: Vec<_> = self
            .sources
            .iter()
            .filter_map(|(_, source)| source.archive())
            .map(|archive| archive.hash.as_str())
            .collect();
        let PackageSite {
            tree, lua_version, ..
        } = self.site;
        let command = Command::new("sh")
            .args(["-c", SCRIPT, "bioxen-curator", action, tree, lua_version])
            .args([servers.join("\n"), hashes.join(" ")])
            .args(arguments.iter().copied())
            .with_stdin(stdin)
            .with_timeout(self.timeout);
        let outcome = self
            .site
            .runner
            .run(command)
            .await
            .map_err(|source| Error::Machine {
                operation,
                machine: self.machine.clone(),
                source: Box::new(source),
            })?;
        let answer = Answer {
            text: outcome.stdout_text().into_owned(),
            log: Log::new(outcome.stderr_text().into_owned()),
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
        if is_absent(&problem) {
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

impl Source {
    fn archive(&self) -> Option<&Archive> {
        match self {
            Self::Archive(archive) => Some(archive),
            Self::Url(_) => None,
        }
    }

    /// The server as the script's configuration of LuaRocks reads it.
    fn location(&self) -> String {
        match self {
            Self::Url(url) => url.clone(),
            Self::Archive(archive) => format!("cache:{}", archive.hash),
        }
    }
}

fn is_absent(record: &Record<'_>) -> bool {
    record.name == "problem" && record.field(0) == "absent"
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
