//! Tells from the log of LuaRocks why it failed.
//!
//! LuaRocks has one exit code for nearly everything, and for a server that does not answer the
//! same words as for a rock that does not exist. What it warned of before tells them apart.

use std::collections::BTreeSet;

use crate::error::{Log, Servers, Unreachable};
use crate::{Error, Rock, remedy};

/// What was asked of LuaRocks, and where.
pub(crate) struct Attempt<'a> {
    pub(crate) machine: &'a str,
    pub(crate) tree: &'a str,
    pub(crate) lua_version: &'a str,
    /// The rock that was asked for, as the caller wrote it.
    pub(crate) request: &'a str,
    /// The servers in words.
    pub(crate) servers: Vec<String>,
    /// How many KiB were free on the disk of the tree, where it was looked at.
    pub(crate) free: Option<u64>,
}

/// With less than this many KiB free, a failure may come from that: 16 MiB.
const SCARCE: u64 = 16 * 1024;

impl Attempt<'_> {
    /// The error for a failed `luarocks install`.
    pub(crate) fn failure(self, log: Log) -> Error {
        let request = self.request.to_owned();
        let machine = self.machine.to_owned();
        let lua_version = self.lua_version.to_owned();
        let reason = reason(log.as_str());
        let text = log.as_str();
        let not_found = text.contains("No results matching query were found");
        let unreachable = unreachable(text);
        if not_found && !unreachable.is_empty() {
            return Error::ServerUnreachable {
                request,
                unreachable: Unreachable(unreachable),
                log,
            };
        }
        if let Some(dependency) = between(text, "Could not satisfy dependency ", ": ") {
            let dependency = dependency.to_owned();
            return if dependency.starts_with("lua ") {
                Error::WrongLua {
                    request,
                    needs: dependency,
                    lua_version,
                    log,
                }
            } else {
                Error::MissingDependency {
                    request,
                    dependency,
                    servers: Servers(self.servers),
                    offered: Vec::new(),
                    log,
                }
            };
        }
        if not_found {
            return Error::NoSuchRock {
                request,
                lua_version,
                servers: Servers(self.servers),
                log,
            };
        }
        if text.contains("No space left on device") {
            return Error::DiskFull {
                machine,
                tree: self.tree.to_owned(),
                log,
            };
        }
        if text.contains("Lua header file")
            || text.contains("fatal error: lua.h")
            || text.contains("#error no headers of Lua")
        {
            return Error::NoToolchain {
                request,
                machine,
                missing: format!("headers of Lua {lua_version}"),
                remedy: remedy::headers(&lua_version),
                log,
            };
        }
        if let Some(program) = missing_program(text) {
            let is_compiler = matches!(program, "gcc" | "cc" | "ld" | "make" | "clang");
            return if is_compiler {
                Error::NoToolchain {
                    request,
                    machine,
                    missing: format!("{program:?}, a part of the C compiler"),
                    remedy: remedy::headers(&lua_version),
                    log,
                }
            } else {
                Error::MissingProgram {
                    machine,
                    program: program.to_owned(),
                    remedy: remedy::program(program),
                }
            };
        }
        if !unreachable.is_empty() {
            return Error::ServerUnreachable {
                request,
                unreachable: Unreachable(unreachable),
                log,
            };
        }
        let reason = match self.free {
            Some(free) if free < SCARCE => {
                format!("{reason}; only {free} KiB are free for the tree, which may be the cause")
            }
            _ => reason,
        };
        Error::Failed {
            request,
            reason,
            log,
        }
    }

    /// The error for a failed `luarocks remove`.
    pub(crate) fn removal_failure(self, there: &BTreeSet<Rock>, log: Log) -> Error {
        if log.as_str().contains("Could not find rock") {
            return Error::NotInstalled {
                rock: self.request.to_owned(),
                tree: self.tree.to_owned(),
                machine: self.machine.to_owned(),
                there: there.iter().map(|rock| rock.name.to_string()).collect(),
            };
        }
        if log.as_str().contains("would break dependencies for") {
            let by: Vec<_> = log
                .as_str()
                .lines()
                .skip_while(|line| !line.contains("would break dependencies for"))
                .skip(1)
                .take_while(|line| !line.trim().is_empty())
                .map(str::trim)
                .collect();
            return Error::StillNeeded {
                rock: self.request.to_owned(),
                by: by.join(", "),
                log,
            };
        }
        Error::Failed {
            request: self.request.to_owned(),
            reason: reason(log.as_str()),
            log,
        }
    }
}

/// The servers that LuaRocks could not ask, each once, with what it said.
pub(crate) fn unreachable(log: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for line in log.lines() {
        let Some(failure) = line
            .strip_prefix("Warning: Failed searching manifest: ")
            .or_else(|| line.strip_prefix("Error: Failed downloading "))
        else {
            continue;
        };
        let failure = failure
            .trim_start_matches("Failed downloading ")
            .trim_start_matches("Failed fetching manifest for ");
        let (url, reason) = failure.split_once(" - ").unwrap_or((failure, ""));
        let server = url
            .rsplit_once('/')
            .filter(|(_, file)| file.starts_with("manifest") || file.ends_with("rock"))
            .map_or(url, |(server, _)| server);
        // Programs that fetch for LuaRocks are kept quiet by it.
        let reason = if reason.starts_with("failed downloading") || reason.is_empty() {
            "the download failed"
        } else {
            reason
        };
        if all.iter().all(|(known, _)| known != server) {
            all.push((server.to_owned(), reason.to_owned()));
        }
    }
    all
}

/// The line that tells why: LuaRocks' own, with the compiler's first error where there is one.
pub(crate) fn reason(log: &str) -> String {
    let own = log
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("Error: "));
    let cause = log
        .lines()
        .find(|line| line.contains(": error: ") || line.contains(": fatal error: "));
    match (own, cause) {
        (Some(own), Some(cause)) => format!("{} ({})", own.trim_end_matches('.'), cause.trim()),
        (Some(own), None) => own.trim_end_matches('.').to_owned(),
        (None, Some(cause)) => cause.trim().to_owned(),
        (None, None) => last_line(log),
    }
}

/// The last line that says something.
pub(crate) fn last_line(log: &str) -> String {
    log.lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("it said nothing")
        .to_owned()
}

/// The program that a shell or LuaRocks did not find.
pub(crate) fn missing_program(log: &str) -> Option<&str> {
    if let Some(program) = between(log, "'", "' program not found") {
        return program.rsplit('\'').next()?.split(' ').next();
    }
    log.lines().find_map(|line| {
        // `sh: 1: gcc: not found`, `/bin/sh: line 1: gcc: command not found`
        let line = line
            .strip_suffix(": not found")
            .or_else(|| line.strip_suffix(": command not found"))?;
        let program = line.rsplit(": ").next()?;
        (line.contains("sh: ") && !program.contains(' ')).then_some(program)
    })
}

fn between<'t>(text: &'t str, before: &str, after: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(before)?;
    Some(rest.split_once(after)?.0)
}

#[cfg(test)]
#[path = "diagnose_tests.rs"]
mod tests;
