use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;

use crate::{Error, ErrorKind, Input, Result};

/// How many bytes of each output stream are kept unless a request says otherwise: 16 MiB.
pub const DEFAULT_MAX_OUTPUT: usize = 16 * 1024 * 1024;

/// A Lua program to run once, in a fresh Lua state.
///
/// ```
/// use bioxen_vm_core::Script;
/// use std::time::Duration;
///
/// let script = Script::new("print(#arg[1], io.read('a'))")
///     .arg("ACGT")
///     .with_stdin("from standard input")
///     .with_timeout(Duration::from_secs(10));
/// # assert!(script.validate().is_ok());
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Script {
    /// The source text: any bytes and any size. Bytecode is refused when it is run.
    pub code: Bytes,
    /// The name in error messages (`name:3: ...`) and `arg[0]`; `script` by default.
    pub name: String,
    /// The program's arguments: `...` and the table `arg`.
    pub args: Vec<Bytes>,
    /// Environment variables, which `os.getenv` sees. Values are any bytes but NUL. The VM sees none of
    /// this machine's own.
    pub env: Vec<(String, OsString)>,
    /// The working directory; the VM's own when `None`.
    pub cwd: Option<PathBuf>,
    /// What the program reads from standard input, empty by default: bytes, or a stream.
    pub stdin: Input,
    /// After this long the program is ended together with what it started. `None`: as long as the
    /// VM's configuration allows, which no script can exceed.
    pub timeout: Option<Duration>,
    /// How many bytes of each output stream are kept; [`DEFAULT_MAX_OUTPUT`] by default.
    pub max_output: usize,
}

impl Script {
    /// Makes a script from source text.
    pub fn new(code: impl Into<Bytes>) -> Self {
        Self {
            code: code.into(),
            name: "script".into(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            stdin: Input::default(),
            timeout: None,
            max_output: DEFAULT_MAX_OUTPUT,
        }
    }

    /// Sets the name in error messages.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<Bytes>) -> Self {
        self.args.push(arg.into());
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

    /// Sets what the program reads from standard input.
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

    /// How long it may run in a VM whose configuration has this limit: the lesser of both.
    #[must_use]
    pub fn time_limit(&self, of_vm: Option<Duration>) -> Option<Duration> {
        [self.timeout, of_vm].into_iter().flatten().min()
    }

    /// Checks what can be checked before any VM sees the script.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Config`] when the code is blank, or when the name, an environment
    /// variable or the working directory holds what no machine can take.
    pub fn validate(&self) -> Result<()> {
        let problem = if self.code.iter().all(u8::is_ascii_whitespace) {
            "the Lua code is empty; give it at least one statement".to_owned()
        } else if self.name.contains(['\n', '\r', '\0']) {
            format!(
                "the script name {:?} holds a line break or a NUL byte",
                self.name
            )
        } else if let Some(problem) = unfit(&self.env, self.cwd.as_deref()) {
            problem
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Config, problem).with_operation("execute"))
    }
}

impl<T: Into<Bytes>> From<T> for Script {
    fn from(code: T) -> Self {
        Self::new(code)
    }
}

/// What no machine can take of these variables and this working directory.
pub(crate) fn unfit(env: &[(String, OsString)], cwd: Option<&Path>) -> Option<String> {
    let has_nul = |text: &OsStr| text.as_encoded_bytes().contains(&0);
    for (name, value) in env {
        if !is_environment_name(name) {
            return Some(format!(
                "{name:?} cannot be the name of an environment variable; use letters, digits and _"
            ));
        }
        if has_nul(value) {
            return Some(format!("the environment variable {name} holds a NUL byte"));
        }
    }
    cwd.is_some_and(|cwd| has_nul(cwd.as_os_str()))
        .then(|| "the working directory holds a NUL byte".to_owned())
}

fn is_environment_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_code_is_refused_before_running() {
        for code in ["", " \n\t "] {
            let error = Script::new(code).validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains("empty"), "{error}");
        }
        assert!(Script::new("-- a comment").validate().is_ok());
    }

    #[test]
    fn an_environment_name_that_a_shell_would_misread_is_refused() {
        for name in ["", "1A", "A-B", "A=B", "A;id"] {
            assert!(
                Script::new("x=1").with_env(name, "v").validate().is_err(),
                "{name:?}"
            );
        }
        assert!(
            Script::new("x=1")
                .with_env("LUA_PATH_5_4", "v")
                .validate()
                .is_ok()
        );
    }

    #[test]
    fn a_variable_or_directory_with_a_nul_byte_is_refused() {
        let script = Script::new("x=1");
        for hostile in [
            script.clone().with_env("A", "x\0y"),
            script.with_cwd("/tmp\0/x"),
        ] {
            let error = hostile.validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains("NUL byte"), "{error}");
        }
    }
}
