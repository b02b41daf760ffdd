use std::ffi::OsString;
use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use crate::{DEFAULT_MAX_OUTPUT, Error, ErrorKind, Input, Outcome, OutputSink, Result};
use async_trait::async_trait;

/// Runs commands on one machine: this one, or a VM that is reached over SSH.
#[async_trait]
pub trait Runner: Debug + Send + Sync {
    /// Runs a command to its end and gathers its output.
    ///
    /// # Errors
    /// Fails when the command could not be started, or when what became of it is unknown. A
    /// command that ran and failed is an [`Outcome`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the command and what it started.
    async fn run(&self, command: Command) -> Result<Outcome>;

    /// Runs a command to its end and hands on its output as it comes; the outcome has none.
    /// [`Command::max_output`] does not count.
    ///
    /// # Errors
    /// As [`run`](Self::run), and with [`ErrorKind::Unsupported`] where output comes only at the
    /// end.
    ///
    /// # Cancel safety
    /// Dropping the future ends the command and what it started.
    async fn run_streaming(&self, command: Command, sink: &mut dyn OutputSink) -> Result<Outcome> {
        let _ = sink;
        Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "{} gives the output of {:?} only at its end",
                self.describe(),
                command.program
            ),
        ))
    }

    /// Whether its commands see the files of this machine, under the same paths and for the same
    /// user; `false` by default.
    fn shares_files(&self) -> bool {
        false
    }

    /// The machine in words: `this machine`, `bioxen@10.0.0.5`.
    fn describe(&self) -> String;
}

/// A command as a program and its arguments. No shell sees it, so nothing needs quoting.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Command {
    /// The program: a path, or a name that the machine looks up in its `PATH`.
    pub program: String,
    /// The arguments, byte for byte.
    pub args: Vec<String>,
    /// Environment variables added to those of the machine's login. Values are any bytes but NUL.
    pub env: Vec<(String, OsString)>,
    /// The working directory; where the machine's login starts when `None`.
    pub cwd: Option<PathBuf>,
    /// What it reads from standard input, empty by default: bytes, or a stream.
    pub stdin: Input,
    /// After this long it is ended together with what it started; no limit when `None`.
    pub timeout: Option<Duration>,
    /// How many bytes of each output stream are kept; [`DEFAULT_MAX_OUTPUT`] by default. What
    /// comes after is read and dropped.
    pub max_output: usize,
}

impl Command {
    /// Makes a command without arguments.
    pub fn new(program: impl Into<String>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            stdin: Input::default(),
            timeout: None,
            max_output: DEFAULT_MAX_OUTPUT,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I, S>(mut self, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        self.args.extend(args.into_iter().map(Into::into));
        self
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

    /// Sets what it reads from standard input.
    #[must_use]
    pub fn with_stdin(mut self, stdin: impl Into<Input>) -> Self {
        self.stdin = stdin.into();
        self
    }

    /// Limits its time.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Limits how many bytes of each output stream are kept.
    #[must_use]
    pub fn with_max_output(mut self, bytes: usize) -> Self {
        self.max_output = bytes;
        self
    }
}
