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

    /// The network was not made by this library, so it is not changed.
    #[error(
        "network {network} was not made by BioXen, so it stays as it is; remove it with the pool's own tools"
    )]
    NotOurs {
        /// The network.
        network: String,
    },

    /// VMs have interfaces on the network.
    #[error("network {network} is in use by {users}; detach or move these interfaces first")]
    InUse {
        /// The network.
        network: String,
        /// The VMs.
        users: Names,
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
        Self::Invalid(Problems(vec![problem.into()]))
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub(crate) Vec<String>);

impl Problems {
    /// The problems.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Nothing, or all problems as an error.
    pub(crate) fn into_result(self) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(Error::Invalid(self))
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
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
