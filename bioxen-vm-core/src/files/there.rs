//! The other machine's side.

use std::fmt::Write as _;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::Files;
use crate::{Command, Error, ErrorKind, Outcome, Result, Status};

const COMMON: &str = include_str!("common.sh");

/// Why a script could not do its work.
#[derive(Debug)]
pub(super) enum Codes {
    /// Its exit code, and what it said.
    Code(i32, String),
    /// It could not be run.
    Runner(Error),
    /// Something on this machine.
    Here(io::Error),
    /// The file is another one than a moment ago.
    Changed,
}

impl Codes {
    pub(super) fn said(text: String) -> Self {
        Self::Code(1, text)
    }

    pub(super) fn here(error: io::Error) -> Self {
        Self::Here(error)
    }
}

/// What a script said, if it was content.
pub(super) fn checked(outcome: Outcome, said: String) -> Result<String, Codes> {
    match outcome.status {
        Status::Exited(0) => Ok(said),
        Status::Exited(13..=15) => Err(Codes::Changed),
        Status::Exited(code) => Err(Codes::Code(code, said)),
        status => Err(Codes::Code(1, status.to_string())),
    }
}

impl Files {
    pub(super) fn script(&self, text: &str) -> Command {
        Command::new("sh").args(["-c", &format!("{COMMON}\n{text}"), "sh"])
    }

    /// Runs a script to its end, for what it prints.
    pub(super) async fn ask(&self, command: Command) -> Result<String, Codes> {
        self.ask_bytes(command)
            .await
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) async fn ask_bytes(&self, command: Command) -> Result<bytes::Bytes, Codes> {
        let command = command.with_max_output(usize::MAX);
        let outcome = self.runner.run(command).await.map_err(Codes::Runner)?;
        let (stdout, said) = (
            outcome.stdout.clone(),
            outcome.stderr_text().trim().to_owned(),
        );
        checked(outcome, said).map(|_| stdout)
    }

    /// The error for a path of the other machine.
    pub(super) fn explain(&self, what: &'static str, path: &Path, code: Codes) -> Error {
        let machine = self.runner.describe();
        let path = path.display();
        let error = |kind, text: String| Error::new(kind, text).with_operation(what);
        let (code, said) = match code {
            Codes::Runner(source) => {
                return error(
                    source.kind(),
                    format!("{path} on {machine} was not reached"),
                )
                .with_source(source);
            }
            Codes::Here(source) => {
                return error(ErrorKind::NotFound, "a file of this machine failed".into())
                    .with_source(source);
            }
            Codes::Changed => (13, String::new()),
            Codes::Code(code, said) => (code, said),
        };
        let has = |text: &str| said.contains(text);
        let (kind, why) = match code {
            10 if what == "get" => (ErrorKind::NotFound, "there is no such file".to_owned()),
            10 => (
                ErrorKind::NotFound,
                "its folder does not exist; make it first".to_owned(),
            ),
            11 => (
                ErrorKind::Config,
                "it is a folder; use push or pull, or name a file".to_owned(),
            ),
            12 => (
                ErrorKind::Unsupported,
                "there is no program sha256sum; install coreutils or busybox".to_owned(),
            ),
            13 => (
                ErrorKind::Unavailable,
                "the file kept changing while it was copied; try again later".to_owned(),
            ),
            16 => (ErrorKind::Config, "it is no file".to_owned()),
            17 => (ErrorKind::Config, "it is no folder".to_owned()),
            _ if has("No space left") || has("quota exceeded") => (
                ErrorKind::Exhausted,
                "the disk is full; free some room or use a larger disk".to_owned(),
            ),
            _ if has("Permission denied") || has("Operation not permitted") => (
                ErrorKind::Denied,
                "the user who logs in has no right to it".to_owned(),
            ),
            _ if has("Read-only file system") => {
                (ErrorKind::Denied, "its file system is read-only".to_owned())
            }
            _ => (ErrorKind::Internal, format!("it failed: {said}")),
        };
        error(kind, format!("{path} on {machine}: {why}"))
    }
}

/// A path as the scripts read it.
pub(super) fn encoded(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let mut text = String::with_capacity(bytes.len() + 2);
    if !bytes.starts_with(b"/") {
        text.push_str("./");
    }
    for &byte in bytes {
        if byte.is_ascii_graphic() && byte != b'\\' || byte == b' ' {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\0{byte:03o}");
        }
    }
    text
}

pub(super) fn hex_of(path: &Path) -> String {
    hex(&Sha256::digest(path.as_os_str().as_bytes()))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Size, permissions and sum.
pub(super) fn parse_look(text: &str) -> Option<(u64, u32, String)> {
    let mut words = text.split_whitespace();
    let size = words.next()?.parse().ok()?;
    let mode = u32::from_str_radix(words.next()?, 8).ok()?;
    let sum = words.next().filter(|sum| sum.len() == 64)?;
    Some((size, mode, sum.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn names_with_any_bytes_become_plain_text() {
        let path = Path::new(OsStr::from_bytes(b"-a b\\\n\xff'"));
        assert_eq!(encoded(path), "./-a b\\0134\\0012\\0377'");
        assert_eq!(encoded(Path::new("/x")), "/x");
    }
}
