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
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bioxen_vm_core::local::{end_descendants, end_tree};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgrp, getpid, getppid};

use crate::orders::Orders;
use crate::{group, worker};

/// How often it is tried to start the process that ends this one.
const ATTEMPTS: usize = 10;

/// Ends this process and all that descends from it when the owner of the lock is gone.
///
/// # Errors
/// Fails when the lock cannot be watched, which means that the owner is gone already.
///
/// From then on it holds `ending`, so that nobody else in this process ends its descendants: among
/// them is the process that ends this one.
pub(crate) fn watch(orders: &Orders, ending: Arc<Mutex<()>>) -> io::Result<()> {
    let mut file = File::open(&orders.lock)?;
    let group = orders.limits.group.clone();
    let owner = getppid();
    std::thread::Builder::new()
        .name("leash".into())
        // All there is to do is to wait, and memory may be limited.
        .stack_size(128 << 10)
        .spawn(move || {
            loop {
                match Flock::lock(file, FlockArg::LockShared) {
                    Err((again, nix::Error::EINTR)) => file = again,
                    _ => {
                        let _alone = ending.lock().unwrap_or_else(PoisonError::into_inner);
                        end(owner, group.as_deref())
                    }
                }
            }
        })?;
    Ok(())
}

/// Ends this process and all that descends from it.
pub(crate) fn end_all(orders: &Orders, ending: &Mutex<()>) -> ! {
    let _alone = ending.lock().unwrap_or_else(PoisonError::into_inner);
    end(getppid(), orders.limits.group.as_deref())
}

/// Has a process of its own end this one. Only from outside can a process be held still while that
/// is done; otherwise its program could go on starting others.
fn end(owner: Pid, group: Option<&Path>) -> ! {
    // When a process has gone, the kernel sends SIGHUP to those of its children that stand still,
    // and kills them before all that they started is found. It gives up its locks before.
    #[allow(
        clippy::disallowed_methods,
        reason = "nothing tells about the end of a process that is no child"
    )]
    while getppid() == owner && is_exiting(owner) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let own = getpid();
    for _ in 0..ATTEMPTS {
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
        // This is reached only where that did not work, as where the program has all the processes
        // that it may have.
        group.map(group::make_room);
    }
    end_descendants(own.as_raw());
    if getpgrp() == own {
        let _ = killpg(own, Signal::SIGKILL);
    }
    let _ = kill(own, Signal::SIGKILL);
    std::process::abort()
}

/// Whether a process has begun to end.
fn is_exiting(pid: Pid) -> bool {
    /// `PF_EXITING`, see `/proc/pid/stat` in `proc_pid_stat(5)`.
    const EXITING: u64 = 4;
    let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // The name of the program comes second, in parentheses, and may hold anything.
    let rest = stat.rsplit(|byte| *byte == b')').next().unwrap_or_default();
    String::from_utf8_lossy(rest)
        .split_ascii_whitespace()
        .nth(6)
        .and_then(|flags| flags.parse::<u64>().ok())
        .is_some_and(|flags| flags & EXITING != 0)
}

/// Ends the worker that started this process to do so.
pub(crate) fn end_parent(pid: &str) {
    if let Ok(pid) = pid.parse()
        && getppid().as_raw() == pid
    {
        end_tree(pid);
    }
}
