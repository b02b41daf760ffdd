//! Ends with a program all that it started, also what left its process group and session.
//!
//! A worker is a child subreaper: what a program starts, and whatever that starts, descends from
//! the worker for as long as it lives, also where the processes between have ended. So it can be
//! found, from inside when the program ends and from outside when it is ended.

use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use bioxen_vm_core::local::end_descendants;
use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::getpid;

/// Makes this process the one that its orphaned descendants descend from.
pub(crate) fn adopt() -> io::Result<()> {
    set_child_subreaper(true).map_err(io::Error::from)
}

/// Kills all that descends from this process, and waits until it is gone. Costs one system call
/// where there is nothing.
pub(crate) fn end_leftovers() {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {
                end_descendants(getpid().as_raw());
                let _ = waitpid(None, None);
            }
            Ok(_) | Err(Errno::EINTR) => {}
            // There is no child, thus no descendant.
            Err(_) => return,
        }
    }
}

/// Runs a program to its end, ends what it has left, and ends this process as the program ended.
/// Where it cannot be started, the exit code is that of a shell.
pub(crate) fn supervise(program: &str, args: &[&str]) -> u8 {
    let status = Command::new(program).args(args).status();
    end_leftovers();
    match status {
        Ok(status) => imitate(status),
        Err(error) => {
            let _ = writeln!(io::stderr(), "{program}: {error}");
            match error.kind() {
                io::ErrorKind::NotFound => 127,
                _ => 126,
            }
        }
    }
}

/// Ends this process by the signal that ended another one; returns the exit code where none did.
fn imitate(status: ExitStatus) -> u8 {
    if let Some(number) = status.signal() {
        if let Ok(signal) = Signal::try_from(number) {
            // A handler of the Rust runtime takes the first of some of them, and withdraws.
            let _ = raise(signal).and_then(|()| raise(signal));
        }
        return u8::try_from(128 + number).unwrap_or(u8::MAX);
    }
    status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(u8::MAX)
}
