//! What the curator tells about rocks.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::{Log, Rock};

/// What an installation did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InstallReport {
    /// The rocks that are new in the tree: those that were asked for and what they need.
    pub installed: Vec<InstalledRock>,
    /// The rocks that were asked for and were there already, untouched.
    pub present: Vec<Rock>,
    /// The rocks that gave way to another version of themselves.
    pub replaced: Vec<Rock>,
    /// Whether a change that somebody else had left half done was undone first.
    pub repaired: bool,
    /// Time from the call to the report.
    pub duration: Duration,
    /// What LuaRocks said; empty when nothing had to be done.
    pub log: Log,
}

impl InstallReport {
    /// Whether the tree was as asked for before, so that nothing was done.
    #[must_use]
    pub fn unchanged(&self) -> bool {
        self.installed.is_empty() && self.replaced.is_empty()
    }
}

impl fmt::Display for InstallReport {
    /// One line: `installed alpha 1.0-1, beta 2.0-1; gamma 1-1 was there already`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if !self.installed.is_empty() {
            let installed = self.installed.iter().map(|installed| &installed.rock);
            write!(f, "installed {}", joined(installed))?;
            separator = "; ";
        }
        if !self.replaced.is_empty() {
            write!(f, "{separator}replaced {}", joined(&self.replaced))?;
            separator = "; ";
        }
        match self.present.as_slice() {
            [] => Ok(()),
            [rock] => write!(f, "{separator}{rock} was there already"),
            rocks => write!(f, "{separator}{} were there already", joined(rocks)),
        }
    }
}

fn joined<'r>(rocks: impl IntoIterator<Item = &'r Rock>) -> String {
    let rocks: Vec<_> = rocks.into_iter().map(Rock::to_string).collect();
    rocks.join(", ")
}

/// A rock that an installation brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct InstalledRock {
    /// The rock.
    pub rock: Rock,
    /// Whether it was asked for. Otherwise it came because another rock needs it.
    pub requested: bool,
    /// The form it came in, where LuaRocks told.
    pub form: Option<Form>,
    /// The server it came from, where LuaRocks told.
    pub server: Option<String>,
    /// Whether it has libraries of machine code, for this kind of machine only.
    pub native: bool,
    /// How many files of it Lua can load.
    pub modules: usize,
}

/// The form that a rock comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Built where it is installed. A rock of Lua alone needs no compiler for that.
    Source,
    /// Built before it was published.
    Binary,
}

/// What a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoveReport {
    /// The rocks that are gone.
    pub removed: Vec<Rock>,
    /// Time from the call to the report.
    pub duration: Duration,
    /// What LuaRocks said.
    pub log: Log,
}

/// A rock on a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Found {
    /// The rock.
    pub rock: Rock,
    /// The form that it is offered in.
    pub form: Form,
    /// The server that offers it.
    pub server: String,
}

/// What a rock of the tree says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RockInfo {
    /// The rock.
    pub rock: Rock,
    /// What it is, in a line.
    pub summary: String,
    /// Its licence, where it names one.
    pub license: Option<String>,
    /// The address of its pages, where it names one.
    pub homepage: Option<String>,
    /// The names that `require` takes, sorted.
    pub modules: Vec<String>,
    /// What it needs, as its rockspec writes it: `lua >= 5.1`.
    pub dependencies: Vec<String>,
}
