//! How a session is to be.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::script::unfit;
use crate::{Error, ErrorKind, Result};

/// How a session is to be.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SessionOptions {
    /// Its name, in messages and for who looks for it; `session` by default.
    pub name: String,
    /// Environment variables, as of [`Script::env`](crate::Script::env).
    pub env: Vec<(String, OsString)>,
    /// The working directory; the VM's own when `None`.
    pub cwd: Option<PathBuf>,
    /// Whether a chunk that runs can be [interrupted](crate::Session::interrupt) also where that costs speed:
    /// the Lua that is built into VMs of type `basic` computes at less than half of its speed then.
    /// `false` by default. Interpreters can always be interrupted.
    pub interruptible: bool,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            name: "session".into(),
            env: Vec::new(),
            cwd: None,
            interruptible: false,
        }
    }
}

impl SessionOptions {
    /// Options with this name.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn with_cwd(mut self, cwd: impl Into<PathBuf>) -> Self {
        self.cwd = Some(cwd.into());
        self
    }

    /// Has chunks that run be interruptible everywhere.
    #[must_use]
    pub fn interruptible(mut self) -> Self {
        self.interruptible = true;
        self
    }

    /// Checks what can be checked before any VM sees them.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Config`] when an environment variable or the working directory holds
    /// what no machine can take.
    pub fn validate(&self) -> Result<()> {
        match unfit(&self.env, self.cwd.as_deref()) {
            Some(problem) => Err(Error::new(ErrorKind::Config, problem)),
            None => Ok(()),
        }
    }
}
