use std::fmt;

/// The result of operations on networks.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation on networks could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was asked for cannot be; all problems at once. Nothing was changed.
    #[error("{0}")]
    Invalid(Problems),

    /// No network answers.
    #[error("no network is {selector}; this pool has: {known}")]
    NotFound {
        /// What was looked for.
        selector: String,
        /// The networks of the pool.
        known: Names,
    },

    /// Several networks answer.
    #[error(
        "{selector} can mean several networks: {candidates}; choose one by \"uuid:…\" or \"bridge:…\""
    )]
    Ambiguous {
        /// What was looked for.
        selector: String,
        /// The networks that answer.
        candidates: Names,
    },

    /// No VM answers.
    #[error(
        "no VM is {name:?}; {known}; name one by its uuid, its name, the id that BioXen made it with, or \
         tag:NAME"
    )]
    NoVm {
        /// What was looked for.
        name: String,
        /// The VMs of the pool, in words.
        known: String,
    },

    /// Several VMs answer.
    #[error("{name:?} can mean several VMs: {candidates}; choose one by its uuid")]
    AmbiguousVm {
        /// What was looked for.
        name: String,
        /// The VMs that answer.
        candidates: Names,
    },

    /// The VM has no such interface.
    #[error("VM {vm} has no interface {device}; it has: {known}")]
    NoNic {
        /// The VM.
        vm: String,
        /// The number that was looked for.
        device: String,
        /// The interfaces that it has.
        known: Names,
    },

    /// The VM is in no state in which an interface can be plugged in or out.
    #[error("cannot {operation}: {reason}")]
    NotHot {
        /// What was to be done.
        operation: String,
        /// Why not, and what to do about it.
        reason: String,
    },

    /// The network was not made by this library, so it is not changed.
    #[error(
        "network {network} was not made by BioXen, so it stays as it is; remove it with the pool's own tools"
    )]
    NotOurs {
        /// The network.
        network: String,
    },

    /// VMs, templates or snapshots have interfaces on the network.
    #[error("network {network} is in use by {users}; {remedy}")]
    InUse {
        /// The network.
        network: String,
        /// The interfaces.
        users: Names,
        /// What to do about them.
        remedy: String,
    },

    /// The pool refused, or could not be asked.
    #[error("cannot {operation}")]
    Pool {
        /// What was being done: `create network lab`.
        operation: String,
        /// Why.
        source: Box<xapi_client::Error>,
    },

    /// A change failed half-way, and not all of it could be undone.
    #[error("cannot {operation}, and not all of it could be undone; left behind: {left}")]
    LeftBehind {
        /// What was being done.
        operation: String,
        /// What could not be undone, each with the reason.
        left: Names,
        /// Why it failed.
        source: Box<Error>,
    },
}

impl Error {
    pub(crate) fn invalid(problem: impl Into<String>) -> Self {
        Self::Invalid(Problems::from(vec![problem.into()]))
    }

    pub(crate) fn pool(operation: impl Into<String>) -> impl FnOnce(xapi_client::Error) -> Self {
        let operation = operation.into();
        |source| Self::Pool {
            operation,
            source: Box::new(source),
        }
    }
}

/// What is wrong with a request, each problem a sentence of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    place: Option<Place>,
    text: String,
}

/// What of a [`Wanted`](crate::Wanted) a problem is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// The network of this place, from 0.
    Network(usize),
    /// The interface of this place, from 0.
    Nic(usize),
}

impl Problem {
    /// What it is about, where there are several.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        self.place
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Problems {
    /// The problems.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    pub(crate) fn tell(&mut self, place: impl Into<Option<Place>>, text: String) {
        let place = place.into();
        self.0.push(Problem { place, text });
    }

    /// Nothing, or all problems as an error.
    pub(crate) fn into_result(self) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(Error::Invalid(self))
    }
}

impl From<Vec<String>> for Problems {
    fn from(texts: Vec<String>) -> Self {
        let place = None;
        let problem = |text| Problem { place, text };
        Self(texts.into_iter().map(problem).collect())
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.0.iter().map(|problem| &*problem.text).collect();
        f.write_str(&texts.join("; "))
    }
}

/// Things in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names(pub(crate) Vec<String>);

impl Names {
    /// The things.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&self.0.join(", "))
    }
}
