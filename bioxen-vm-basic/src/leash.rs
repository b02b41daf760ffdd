//! Ends what a VM runs when the VM's owner is gone, however it went.
//!
//! Pipes and parent-death signals do not do this: the first can be held open by others, the second
//! fires when the *thread* that started a process ends, and neither reaches grandchildren. So every
//! worker waits, beside its work, for the lock that the owner holds on the VM's directory
//! ([`Place`](crate::place::Place)). Getting it means that the owner is gone, and then the worker
//! has itself ended with all that it started.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use bioxen_vm_core::local::{end_descendants, end_tree};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{getpgrp, getpid, getppid};

use crate::worker;

/// Ends this process and all that descends from it when the owner of the lock is gone.
///
/// # Errors
/// Fails when the lock cannot be watched, which means that the owner is gone already.
pub(crate) fn watch(lock: &Path) -> io::Result<()> {
    let mut file = File::open(lock)?;
    std::thread::Builder::new()
        .name("leash".into())
        // All there is to do is to wait, and memory may be limited.
        .stack_size(128 << 10)
        .spawn(move || {
            loop {
                match Flock::lock(file, FlockArg::LockShared) {
                    Err((again, nix::Error::EINTR)) => file = again,
                    _ => end(),
                }
            }
        })?;
    Ok(())
}

/// Has a process of its own end this one. Only from outside can a process be held still while that
/// is done; otherwise its program could go on starting others.
fn end() -> ! {
    let own = getpid();
    let helper = Command::new("/proc/self/exe")
        .args([worker::ARGUMENT, worker::END, &own.to_string()])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    if let Ok(mut helper) = helper {
        let _ = helper.wait();
    }
    // This is reached only where that did not work.
    end_descendants(own.as_raw());
    if getpgrp() == own {
        let _ = killpg(own, Signal::SIGKILL);
    }
    let _ = kill(own, Signal::SIGKILL);
    std::process::abort()
}

/// Ends the worker that started this process to do so.
pub(crate) fn end_parent(pid: &str) {
    if let Ok(pid) = pid.parse()
        && getppid().as_raw() == pid
    {
        end_tree(pid);
    }
}
