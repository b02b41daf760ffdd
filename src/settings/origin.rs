use std::fmt;
use std::path::{Path, PathBuf};

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A line of a settings file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A line of the table of a named pool in a settings file, which outweighs `[xcpng]`.
    Pool {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// An option of the program.
    Option,
}

impl Origin {
    /// Whether both have the same weight.
    pub(super) fn is_of_one_layer(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Where it stands among others: in the order of the lines of the file, and then those that outweigh
    /// it.
    pub(super) fn place(&self) -> (u8, usize) {
        match self {
            Self::File { line, .. } | Self::Pool { line, .. } => (0, *line),
            Self::Variable(_) => (1, 0),
            Self::Option => (2, 0),
        }
    }

    /// Where relative paths start: in the folder of the file, and elsewhere where the program does.
    pub(super) fn folder(&self) -> PathBuf {
        match self {
            Self::File { path, .. } | Self::Pool { path, .. } => {
                // The file may have been named by a relative path.
                let whole = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                whole.parent().map(Path::to_owned).unwrap_or_default()
            }
            Self::Variable(_) | Self::Option => std::env::current_dir().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } | Self::Pool { path, line } => {
                write!(f, "{} line {line}", path.display())
            }
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Option => f.write_str("--set"),
        }
    }
}
