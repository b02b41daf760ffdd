use std::fmt;

use super::Origin;

/// One thing that is wrong with settings. `Display` is one line, with where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The VM type whose configuration it is in; of the file itself none.
    pub vm_type: Option<String>,
    /// What it comes from; of a key that is missing there may be nothing.
    pub origin: Option<Origin>,
    /// What is wrong and what to do.
    pub message: String,
}

impl Problem {
    pub(super) fn new(vm_type: Option<&str>, origin: Option<Origin>, message: String) -> Self {
        Self {
            vm_type: vm_type.map(str::to_owned),
            origin,
            message,
        }
    }

    /// The line of the settings file, from 1.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        match self.origin {
            Some(Origin::File { line, .. } | Origin::Pool { line, .. }) => Some(line),
            _ => None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "{origin}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Puts problems in the order of the lines; those of no line come last.
pub(crate) fn sort(problems: &mut [Problem]) {
    problems.sort_by_key(|problem| {
        let place = problem.origin.as_ref().map(Origin::place);
        (place.is_none(), place)
    });
}

/// All in one clause after the other.
pub(crate) fn joined(problems: &[Problem]) -> String {
    let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
    told.join("; ")
}
