//! What the curator tells about rocks.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::{Log, Rock, RockVersion};

/// What an installation did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
    #[serde(rename = "milliseconds", serialize_with = "milliseconds")]
    pub duration: Duration,
    /// How many bytes of rocks were sent to the machine.
    pub sent: u64,
    /// What LuaRocks said; empty when nothing had to be done.
    #[serde(skip)]
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

fn milliseconds<S: serde::Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
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
    /// The form it came in: built here, or before it was published.
    pub form: Option<Form>,
    /// The server it came from.
    pub server: Option<String>,
    /// The SHA-256 of the file that held it.
    pub sha256: Option<String>,
    /// Whether it has libraries of machine code, for this kind of machine only.
    pub native: bool,
    /// How many files of it Lua can load.
    pub modules: usize,
    /// What it needs, as its rockspec writes it.
    pub needs: Vec<String>,
    /// How long it took.
    #[serde(rename = "milliseconds", serialize_with = "milliseconds")]
    pub duration: Duration,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RemoveReport {
    /// The rocks that are gone.
    pub removed: Vec<Rock>,
    /// Time from the call to the report.
    #[serde(rename = "milliseconds", serialize_with = "milliseconds")]
    pub duration: Duration,
    /// What LuaRocks said.
    #[serde(skip)]
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

/// What [`Curator::verify`](crate::Curator::verify) found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Verified {
    /// How many files are as the curator left them.
    pub unchanged: usize,
    /// Files that have another content.
    pub changed: Vec<String>,
    /// Files that are gone.
    pub missing: Vec<String>,
    /// Files that somebody else has put there.
    pub foreign: Vec<String>,
    /// Rocks that a lock names and the tree lacks, or has in another version.
    pub unlocked: Vec<Rock>,
    /// Rocks of the tree that a lock does not name.
    pub extra: Vec<Rock>,
}

impl Verified {
    /// Whether everything is as it should be.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let files = [&self.changed, &self.missing, &self.foreign];
        files.iter().all(|files| files.is_empty())
            && self.unlocked.is_empty()
            && self.extra.is_empty()
    }
}

/// What [`Curator::undo`](crate::Curator::undo) did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UndoReport {
    /// The rocks that are gone.
    pub removed: Vec<Rock>,
    /// The rocks that are back.
    pub restored: Vec<Rock>,
}

/// What servers have of a rock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Offered {
    /// What the newest rock that was asked for says of itself.
    pub info: RockInfo,
    /// The server that has it.
    pub server: String,
    /// All versions, oldest first.
    pub versions: Vec<RockVersion>,
}
