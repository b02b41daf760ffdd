//! Which release of the server a pool runs.

use std::fmt;
use std::str::FromStr;

/// Which datamodel clients see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Release {
    /// The one of XCP-ng 8.2 (API 2.15).
    Xcpng82,
    /// The one of XCP-ng 8.3 (API 2.21).
    #[default]
    Xcpng83,
    /// The newest that this crate knows, unreleased parts included.
    Newest,
}

/// The names of releases, for files and command lines.
pub(crate) const RELEASES: [(&str, Release); 3] = [
    ("8.2", Release::Xcpng82),
    ("8.3", Release::Xcpng83),
    ("newest", Release::Newest),
];

/// A text that names no [`Release`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no release {0:?}; use 8.2, 8.3 or newest")]
pub struct UnknownRelease(String);

impl FromStr for Release {
    type Err = UnknownRelease;

    fn from_str(text: &str) -> Result<Self, UnknownRelease> {
        let found = RELEASES.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, release)| *release)
            .ok_or_else(|| UnknownRelease(text.to_owned()))
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = RELEASES.iter().find(|(_, release)| release == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

impl Release {
    /// Whether something with this list of absences exists here.
    pub(crate) fn has(self, absent: &[&str]) -> bool {
        self.key().is_none_or(|key| !absent.contains(&key))
    }

    /// The name in the tables of the datamodel.
    pub(crate) fn key(self) -> Option<&'static str> {
        match self {
            Release::Xcpng82 => Some("8.2"),
            Release::Xcpng83 => Some("8.3"),
            Release::Newest => None,
        }
    }
}
