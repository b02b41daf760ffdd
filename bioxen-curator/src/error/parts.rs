//! What errors tell besides words.

use std::fmt;
use std::sync::Arc;

/// The output of LuaRocks and of what it ran, both streams.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Log(Arc<str>);

impl Log {
    pub(crate) fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The log as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Log {
    /// Tells the length only: a log may have thousands of lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log({} bytes)", self.0.len())
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The servers that were asked, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Servers(pub(crate) Vec<String>);

impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("the servers that LuaRocks is set up with"),
            servers => f.write_str(&servers.join(", ")),
        }
    }
}

/// The servers that could not be read, each with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreachable(pub(crate) Vec<(String, String)>);

impl Unreachable {
    /// The servers and the reasons.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(server, reason)| (server.as_str(), reason.as_str()))
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (server, reason)) in self.0.iter().enumerate() {
            let and = if i == 0 { "" } else { " and " };
            write!(f, "{and}{server} could not be read ({reason})")?;
        }
        Ok(())
    }
}
