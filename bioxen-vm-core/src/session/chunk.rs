//! What is given to a session, and what comes of it.

use std::time::Duration;

use bytes::Bytes;

use crate::{DEFAULT_MAX_OUTPUT, Returned, Status};

/// Lua code for a session: an expression or statements.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Chunk {
    /// The source text.
    pub code: Bytes,
    /// Whether values are also printed, as the `lua` program does at a terminal; `false` by
    /// default.
    pub print: bool,
    /// After this long the session is ended. `None`: no limit.
    pub timeout: Option<Duration>,
    /// How many bytes of each output stream are kept; [`DEFAULT_MAX_OUTPUT`] by default.
    pub max_output: usize,
}

impl Chunk {
    /// A chunk whose values are not printed.
    pub fn new(code: impl Into<Bytes>) -> Self {
        Self {
            code: code.into(),
            print: false,
            timeout: None,
            max_output: DEFAULT_MAX_OUTPUT,
        }
    }

    /// Has its values printed.
    #[must_use]
    pub fn printing(mut self) -> Self {
        self.print = true;
        self
    }

    /// Limits its time; the session ends when that is up.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl<T: Into<Bytes>> From<T> for Chunk {
    fn from(code: T) -> Self {
        Self::new(code)
    }
}

/// How a chunk went.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Answer {
    /// It ran to its end and returned this; an expression returns its value.
    Returned(Returned),
    /// It could not be compiled or failed: the message, with a traceback where it ran.
    Failed(String),
    /// It is the beginning of a chunk: give it again with more lines. Nothing ran.
    Incomplete,
    /// The session ended while it ran.
    Ended(Status),
}

/// How a chunk went, and what it wrote.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Reply {
    /// How it went.
    pub answer: Answer,
    /// What was written to standard output, at most as much as the chunk allowed.
    pub stdout: Bytes,
    /// What was written to standard error, at most as much as the chunk allowed.
    pub stderr: Bytes,
    /// Whether more was written than is kept.
    pub truncated: bool,
    /// Time from request to answer, as seen from this machine.
    pub duration: Duration,
}
