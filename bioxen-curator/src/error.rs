//! Why the curator could not do what it was asked for.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bioxen_vm_core::ErrorKind;
use bioxen_vm_core::words::nearest_first;

pub use parts::{Log, Servers, Unreachable};

mod parts;

/// The result of the curator's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the curator could not do what it was asked for.
///
/// Whatever the error, the rocks that were in the tree before are there as they were. A connection
/// that was lost on the way can leave a half-done change behind; the next operation repairs it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name, version, constraint, server or site that can never work. Nothing was tried.
    #[error("{0}")]
    Invalid(String),

    /// The machine could not be asked, or what became of the command is unknown.
    #[error("cannot {operation} on {machine}")]
    Machine {
        /// What was being done: `install rocks`.
        operation: &'static str,
        /// The machine.
        machine: String,
        /// Why.
        source: Box<bioxen_vm_core::Error>,
    },

    /// The VM is not there, does not run, or has no packages.
    #[error("the packages of VM {vm} cannot be reached")]
    Vm {
        /// The id of the VM.
        vm: String,
        /// Why.
        source: Box<bioxen_vm_core::Error>,
    },

    /// The VM is of another type than the one that was named.
    #[error("VM {vm} is of type {actual:?}, not {wanted:?}; name its type, or another VM")]
    VmType {
        /// The id of the VM.
        vm: String,
        /// The type that was named.
        wanted: String,
        /// Its type.
        actual: String,
    },

    /// The machine lacks a program that is needed.
    #[error("{machine} has no {program}; install it there ({remedy})")]
    MissingProgram {
        /// The machine.
        machine: String,
        /// The program.
        program: String,
        /// The commands that install it, by distribution.
        remedy: String,
    },

    /// The tree cannot be written.
    #[error(
        "the tree {tree} on {machine} cannot be written; give it to the login user or choose another tree"
    )]
    NotWritable {
        /// The machine.
        machine: String,
        /// The tree.
        tree: String,
        /// What the machine said.
        log: Log,
    },

    /// The file system of the tree is full.
    #[error("no space is left for the tree {tree} on {machine}; free some and try again")]
    DiskFull {
        /// The machine.
        machine: String,
        /// The tree.
        tree: String,
        /// What LuaRocks said.
        log: Log,
    },

    /// No server has such a rock.
    #[error(
        "no rock {request} for Lua {lua_version} on {servers}; check the name and version, or add a server that has it"
    )]
    NoSuchRock {
        /// The request.
        request: String,
        /// The Lua version of the tree.
        lua_version: String,
        /// The servers that were asked.
        servers: Servers,
        /// What LuaRocks said.
        log: Log,
    },

    /// A rock was not found, and at least one server could not be asked for it.
    #[error(
        "rock {request} was not found because {unreachable}; check the server and the machine's way to it"
    )]
    ServerUnreachable {
        /// The request.
        request: String,
        /// The servers that could not be read, each with the reason.
        unreachable: Unreachable,
        /// What LuaRocks said.
        log: Log,
    },

    /// A rock that another one needs is on no server.
    #[error(
        "{request} needs {dependency}, which is not on {servers}{}; add a server that has it",
        versions(offered)
    )]
    MissingDependency {
        /// The rock that needs it.
        request: String,
        /// The dependency, as the rockspec writes it.
        dependency: String,
        /// The servers that were asked.
        servers: Servers,
        /// The versions that the servers do have.
        offered: Vec<String>,
        /// What LuaRocks said.
        log: Log,
    },

    /// Rocks need different versions of another one.
    #[error(
        "{by} needs {need}, but {taken} is there or was chosen; ask for other versions, or take an environment of its own"
    )]
    Conflict {
        /// What is needed.
        need: String,
        /// The rock that needs it.
        by: String,
        /// The version that stands in the way.
        taken: String,
    },

    /// The manifest of a server makes no sense.
    #[error("the manifest of {server} cannot be read: {reason}; it is damaged or was cut short")]
    BadManifest {
        /// The server.
        server: String,
        /// What makes no sense, and where.
        reason: String,
    },

    /// The file of a rock is damaged.
    #[error("{file} of {server} cannot be used: {reason}; nothing was installed")]
    Damaged {
        /// The file.
        file: String,
        /// The server that it came from.
        server: String,
        /// What is wrong with it.
        reason: String,
    },

    /// The file of a rock is not the one that was locked.
    #[error(
        "{file} of {source_name} has changed since it was locked: its SHA-256 is {found}, not {locked}; nothing was installed"
    )]
    Changed {
        /// The file.
        file: String,
        /// Where it was read from.
        source_name: String,
        /// The SHA-256 in the lock.
        locked: String,
        /// The SHA-256 that it has.
        found: String,
    },

    /// A rock comes without its sources, and they cannot be fetched.
    #[error(
        "{rock} is offered only as a rockspec, and its sources cannot be had: {reason}; pack it with `luarocks pack` into a directory of rocks, and take that"
    )]
    NoSources {
        /// The rock.
        rock: String,
        /// Why.
        reason: String,
    },

    /// There is no earlier set of rocks to return to.
    #[error("the tree {tree} on {machine} has no previous set of rocks; nothing was changed")]
    NothingToUndo {
        /// The tree.
        tree: String,
        /// The machine.
        machine: String,
    },

    /// The tree was changed by others again and again while changes of it were planned.
    #[error("the tree {tree} on {machine} keeps being changed by others; try again later")]
    Busy {
        /// The tree.
        tree: String,
        /// The machine.
        machine: String,
    },

    /// A library that a rock is built with is not on the machine.
    #[error(
        "{request} is built with {library}, but {machine} has no {missing}; install it there ({remedy})"
    )]
    NoLibrary {
        /// The rock.
        request: String,
        /// The machine.
        machine: String,
        /// The library, as the rockspec calls it.
        library: String,
        /// The file that is missing.
        missing: String,
        /// The commands that install it, by distribution.
        remedy: String,
    },

    /// A rock is not for the Lua version of the tree.
    #[error(
        "{request} needs {needs}, but the tree is for Lua {lua_version}; use a VM with that Lua or another version of the rock"
    )]
    WrongLua {
        /// The request.
        request: String,
        /// What the rock needs: `lua ~> 5.1`.
        needs: String,
        /// The Lua version of the tree.
        lua_version: String,
        /// What LuaRocks said.
        log: Log,
    },

    /// A rock has C code, and the machine has no headers of this Lua or no C compiler.
    #[error(
        "{request} has to be compiled, but {machine} has no {missing}; install it there ({remedy})"
    )]
    NoToolchain {
        /// The request.
        request: String,
        /// The machine.
        machine: String,
        /// What is missing: the headers or the compiler.
        missing: String,
        /// The commands that install it, by distribution.
        remedy: String,
        /// What LuaRocks said.
        log: Log,
    },

    /// A rock could not be built or installed.
    #[error("{request} could not be installed: {reason}")]
    Failed {
        /// The request.
        request: String,
        /// The line of the log that tells why.
        reason: String,
        /// What LuaRocks said.
        log: Log,
    },

    /// LuaRocks reported success, but Lua of this version cannot find the rock.
    #[error(
        "{request} was installed where Lua {lua_version} does not find it: {missing} is not in the tree; it is a fault of LuaRocks or of the rock"
    )]
    Misplaced {
        /// The request.
        request: String,
        /// The Lua version of the tree.
        lua_version: String,
        /// The first file that is missing.
        missing: String,
        /// What LuaRocks said.
        log: Log,
    },

    /// The rock is not in the tree.
    #[error("{rock} is not installed in {tree} on {machine}; {}", has(rock, there))]
    NotInstalled {
        /// The rock.
        rock: String,
        /// The tree.
        tree: String,
        /// The machine.
        machine: String,
        /// The names of the rocks that are.
        there: Vec<String>,
    },

    /// There is no environment of this name.
    #[error("{machine} has no environment {name:?}; {}", offered(there))]
    NoEnvironment {
        /// The name.
        name: String,
        /// The machine.
        machine: String,
        /// The names of those that are there.
        there: Vec<String>,
    },

    /// Other rocks of the tree need the rock that was to be removed.
    #[error("{rock} is still needed by {by}; remove that too, or force it (--force)")]
    StillNeeded {
        /// The rock.
        rock: String,
        /// The rocks that need it.
        by: String,
        /// What LuaRocks said.
        log: Log,
    },

    /// It took longer than the curator allows.
    #[error("{operation} on {machine} took longer than {} s and was ended; allow more time or look at the log", after.as_secs())]
    TimedOut {
        /// What was being done.
        operation: &'static str,
        /// The machine.
        machine: String,
        /// The time that was allowed.
        after: Duration,
        /// What LuaRocks said until then.
        log: Log,
    },

    /// A change could not be saved beforehand or put back afterwards.
    #[error("the journal of the tree {tree} on {machine} cannot be used: {reason}")]
    Journal {
        /// The tree.
        tree: String,
        /// The machine.
        machine: String,
        /// The last line of the log.
        reason: String,
        /// What the machine said.
        log: Log,
    },

    /// The machine answered something else than was asked.
    #[error("{machine} gave an answer that makes no sense to {operation}: {reason}")]
    Answer {
        /// What was being done.
        operation: &'static str,
        /// The machine.
        machine: String,
        /// The part that makes no sense.
        reason: String,
        /// What the machine said.
        log: Log,
    },

    /// A file or directory of this machine cannot be used.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was being done: `read`.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// A directory holds no rocks that could be served.
    #[error("{} has no manifest of rocks for Lua {lua_version}; make one with `bioxen pkg publish` or with `luarocks-admin make_manifest`", path.display())]
    NoManifest {
        /// The directory.
        path: PathBuf,
        /// The Lua version that a manifest is missing for.
        lua_version: String,
    },

    /// A rock could not be packed.
    #[error("the rock in {} cannot be published: {reason}", path.display())]
    Publish {
        /// The directory of its sources.
        path: PathBuf,
        /// Why.
        reason: String,
        /// What the programs said.
        log: Log,
    },
}

impl Error {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(_)
            | Self::VmType { .. }
            | Self::NoManifest { .. }
            | Self::Conflict { .. } => ErrorKind::Config,
            Self::Machine { source, .. } | Self::Vm { source, .. } => source.kind(),
            Self::MissingProgram { .. }
            | Self::NoToolchain { .. }
            | Self::NoLibrary { .. }
            | Self::NoSources { .. }
            | Self::WrongLua { .. } => ErrorKind::Unsupported,
            Self::NotWritable { .. } => ErrorKind::Denied,
            Self::DiskFull { .. } => ErrorKind::Exhausted,
            Self::NoSuchRock { .. }
            | Self::MissingDependency { .. }
            | Self::NotInstalled { .. }
            | Self::NoEnvironment { .. } => ErrorKind::NotFound,
            Self::ServerUnreachable { .. } | Self::Busy { .. } => ErrorKind::Unavailable,
            Self::StillNeeded { .. } | Self::NothingToUndo { .. } => ErrorKind::InvalidState,
            Self::TimedOut { .. } => ErrorKind::Timeout,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                ErrorKind::NotFound
            }
            Self::Failed { .. }
            | Self::BadManifest { .. }
            | Self::Damaged { .. }
            | Self::Changed { .. }
            | Self::Misplaced { .. }
            | Self::Journal { .. }
            | Self::Answer { .. }
            | Self::Io { .. }
            | Self::Publish { .. } => ErrorKind::Internal,
        }
    }

    /// What LuaRocks and the machine said, where it came so far.
    #[must_use]
    pub fn log(&self) -> Option<&str> {
        match self {
            Self::NotWritable { log, .. }
            | Self::DiskFull { log, .. }
            | Self::NoSuchRock { log, .. }
            | Self::ServerUnreachable { log, .. }
            | Self::MissingDependency { log, .. }
            | Self::WrongLua { log, .. }
            | Self::NoToolchain { log, .. }
            | Self::Failed { log, .. }
            | Self::Misplaced { log, .. }
            | Self::StillNeeded { log, .. }
            | Self::TimedOut { log, .. }
            | Self::Journal { log, .. }
            | Self::Answer { log, .. }
            | Self::Publish { log, .. } => Some(log.as_str()),
            Self::Invalid(_)
            | Self::Machine { .. }
            | Self::Vm { .. }
            | Self::VmType { .. }
            | Self::MissingProgram { .. }
            | Self::NotInstalled { .. }
            | Self::NoEnvironment { .. }
            | Self::Conflict { .. }
            | Self::BadManifest { .. }
            | Self::Damaged { .. }
            | Self::Changed { .. }
            | Self::NoSources { .. }
            | Self::NoLibrary { .. }
            | Self::NothingToUndo { .. }
            | Self::Busy { .. }
            | Self::Io { .. }
            | Self::NoManifest { .. } => None,
        }
    }
}

/// The versions that are offered instead, where there are any.
fn versions(offered: &[String]) -> String {
    match offered {
        [] => String::new(),
        offered => format!(" (only in {})", offered.join(", ")),
    }
}

/// What a tree has, the most similar first.
fn has(rock: &str, there: &[String]) -> String {
    match there {
        [] => "it has no rocks".into(),
        there => format!(
            "it has {}",
            nearest_first(rock, there.iter().map(String::as_str))
        ),
    }
}

/// What is there instead.
fn offered(there: &[String]) -> String {
    match there {
        [] => "there are none".into(),
        there => format!("there are {}", there.join(", ")),
    }
}

impl From<Error> for bioxen_vm_core::Error {
    fn from(error: Error) -> Self {
        Self::new(error.kind(), error.to_string()).with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn display_does_not_repeat_the_cause() {
        let cause = || {
            Box::new(bioxen_vm_core::Error::new(
                ErrorKind::Unavailable,
                "no route",
            ))
        };
        for error in [
            Error::Machine {
                operation: "install rocks",
                machine: "bioxen@10.0.0.5".into(),
                source: cause(),
            },
            Error::Vm {
                vm: "lab".into(),
                source: cause(),
            },
            Error::Io {
                operation: "read",
                path: "/srv/rocks".into(),
                source: io::Error::from(io::ErrorKind::PermissionDenied),
            },
        ] {
            let cause = error.source().unwrap().to_string();
            assert!(!error.to_string().contains(&cause), "{error}: {cause}");
            let core = bioxen_vm_core::Error::from(error);
            assert!(core.source().unwrap().is::<Error>());
        }
    }
}
