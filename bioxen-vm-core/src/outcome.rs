use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::Returned;

/// What a Lua program or a command did: its output, byte for byte, and how it ended.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// Standard output, at most as much as the request allowed.
    pub stdout: Bytes,
    /// Standard error, at most as much as the request allowed.
    pub stderr: Bytes,
    /// Whether standard output was longer than allowed and its end is missing.
    pub stdout_truncated: bool,
    /// Whether standard error was longer than allowed and its end is missing.
    pub stderr_truncated: bool,
    /// What a Lua program returned: `return {gc = 0.5}`. Nothing of it is in the output.
    pub returned: Returned,
    /// Time from its start to its end, as seen from this machine.
    pub duration: Duration,
}

/// How a Lua program or a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// By itself, with this exit code. A Lua error is exit code 1, as of the `lua` program.
    Exited(i32),
    /// By this signal, from outside or by a fault.
    Signaled(i32),
    /// Ended by us, because its time was up.
    TimedOut,
    /// Ended because it wanted more memory than it may have, where its VM can tell that. A Lua
    /// program that meets its limit may also end by itself, with `not enough memory`.
    OutOfMemory,
    /// Ended because it used more processor time than it may have.
    CpuLimit,
    /// Ended by us, because it had more processes at once than it may have.
    ProcessLimit,
    /// Ended by us, because it kept more on disk than it may.
    DiskLimit,
    /// Ended by us, because it wrote more than it may, or more than the taker of its output wanted.
    OutputLimit,
}

impl Outcome {
    /// Makes an outcome without output.
    #[must_use]
    pub fn new(status: Status) -> Self {
        Self {
            status,
            stdout: Bytes::new(),
            stderr: Bytes::new(),
            stdout_truncated: false,
            stderr_truncated: false,
            returned: Returned::Nothing,
            duration: Duration::ZERO,
        }
    }

    /// Whether it ended by itself with exit code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status == Status::Exited(0)
    }

    /// The exit code, where it ended by itself.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        match self.status {
            Status::Exited(code) => Some(code),
            _ => None,
        }
    }

    /// Standard output as text; bytes that are not UTF-8 show as U+FFFD.
    #[must_use]
    pub fn stdout_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.stdout)
    }

    /// Standard error as text; bytes that are not UTF-8 show as U+FFFD.
    #[must_use]
    pub fn stderr_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.stderr)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signaled(signal) => write!(f, "ended by signal {signal}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::CpuLimit => f.write_str("out of processor time"),
            Self::ProcessLimit => f.write_str("ended for too many processes"),
            Self::DiskLimit => f.write_str("ended for too much on disk"),
            Self::OutputLimit => f.write_str("ended for too much output"),
        }
    }
}
