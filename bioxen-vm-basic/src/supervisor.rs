//! Ends with a program all that it started, also what left its process group and session.
//!
//! A worker is a child subreaper: what a program starts, and whatever that starts, descends from
//! the worker for as long as it lives, also where the processes between have ended. So it can be
//! found, from inside when the program ends and from outside when it is ended.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use bioxen_vm_core::local::end_descendants;
use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::getpid;

/// Ends what the programs of this process start. It stands outside of the walls of this process,
/// which keep a program, and thus its own thread, from looking at others.
#[derive(Debug)]
pub(crate) struct Warden {
    orders: Sender<()>,
    done: Receiver<()>,
}

impl Warden {
    /// Makes this process the one that its orphaned descendants descend from. To be called before
    /// the walls are raised.
    ///
    /// While it ends something it holds `ending`.
    pub(crate) fn appoint(ending: Arc<Mutex<()>>) -> io::Result<Self> {
        set_child_subreaper(true)?;
        let (orders, to_do) = channel();
        let (tell, done) = channel();
        std::thread::Builder::new()
            .name("warden".into())
            .stack_size(128 << 10)
            .spawn(move || {
                while to_do.recv().is_ok() {
                    let alone = ending.lock().unwrap_or_else(PoisonError::into_inner);
                    end_descendants(getpid().as_raw());
                    drop(alone);
                    if tell.send(()).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self { orders, done })
    }

    /// Kills all that descends from this process, and waits until it is gone. Costs one system call
    /// where there is nothing.
    pub(crate) fn end_leftovers(&self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => {
                    if self.orders.send(()).is_ok() {
                        let _ = self.done.recv();
                    }
                    let _ = waitpid(None, None);
                }
                Ok(_) | Err(Errno::EINTR) => {}
                // There is no child, thus no descendant.
                Err(_) => return,
            }
        }
    }
}

/// How a process ended, in one number: its exit code, or the negative number of its signal.
pub(crate) fn ending(status: ExitStatus) -> i32 {
    match status.signal() {
        Some(signal) => -signal,
        None => status.code().unwrap_or(i32::from(u8::MAX)),
    }
}

/// Ends this process in the same way; returns the exit code where it was not a signal.
pub(crate) fn imitate(ending: i32) -> u8 {
    if ending < 0 {
        if let Ok(signal) = Signal::try_from(-ending) {
            // A handler of the Rust runtime takes the first of some of them, and withdraws.
            let _ = raise(signal).and_then(|()| raise(signal));
        }
        return u8::try_from(128 - ending).unwrap_or(u8::MAX);
    }
    u8::try_from(ending).unwrap_or(u8::MAX)
}

/// The exit code of a shell for a program that cannot be started.
pub(crate) fn unstartable(error: &io::Error) -> i32 {
    match error.kind() {
        io::ErrorKind::NotFound => 127,
        _ => 126,
    }
}
