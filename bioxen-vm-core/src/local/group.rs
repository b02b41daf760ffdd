//! A command as a process of this machine, with all that it starts.

use std::ffi::OsString;
use std::io;
use std::process::Stdio;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Child;

use super::end_tree;
use crate::{Command, Error, ErrorKind, Result};

/// A child that leads a process group. When this is dropped early, all that the child started ends.
pub(super) struct Group {
    pub(super) child: Child,
    pub(super) id: Option<Pid>,
    pub(super) reaped: bool,
}

impl Group {
    pub(super) fn spawn(command: &Command, env: &[(String, OsString)]) -> Result<Self> {
        let mut process = tokio::process::Command::new(&command.program);
        process
            .args(&command.args)
            .env_clear()
            .envs(
                env.iter()
                    .chain(&command.env)
                    .map(|(name, value)| (name, value)),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(cwd) = &command.cwd {
            if !cwd.is_dir() {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("the working directory {cwd:?} is no directory on this machine"),
                ));
            }
            process.current_dir(cwd);
        }
        let child = process
            .spawn()
            .map_err(|error| unstartable(command, error))?;
        let id = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .map(Pid::from_raw);
        Ok(Self {
            child,
            id,
            reaped: false,
        })
    }

    /// Notes that the child has ended by itself, and kills what it has left in its group.
    pub(super) fn ended(&mut self) {
        self.reaped = true;
        if let Some(id) = self.id {
            // The group is gone already in the good case; there is nothing else to report.
            let _ = killpg(id, Signal::SIGKILL);
        }
    }

    /// Ends the child, which is not reaped, and all that it started.
    pub(super) fn end(&self) {
        if let Some(id) = self.id {
            end_tree(id.as_raw());
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.reaped {
            self.end();
        }
    }
}

fn unstartable(command: &Command, error: io::Error) -> Error {
    let program = &command.program;
    let (kind, message) = match error.kind() {
        io::ErrorKind::NotFound => (
            ErrorKind::NotFound,
            format!("there is no program {program:?} on this machine; install it or give its path"),
        ),
        io::ErrorKind::PermissionDenied => (
            ErrorKind::Denied,
            format!("{program:?} may not be executed by this user"),
        ),
        io::ErrorKind::ArgumentListTooLong => (
            ErrorKind::Config,
            format!("the arguments of {program:?} are too long; pass the data on standard input"),
        ),
        _ => (
            ErrorKind::Exhausted,
            format!("{program:?} could not be started"),
        ),
    };
    Error::new(kind, message).with_source(error)
}
