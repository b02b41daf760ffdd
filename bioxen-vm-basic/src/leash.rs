//! Ends what a VM runs when the VM's owner is gone, however it went.
//!
//! Pipes and parent-death signals do not do this: the first can be held open by others, the second
//! fires when the *thread* that started a process ends, and neither reaches grandchildren. So every
//! process of a VM waits, beside its work, for the lock that the owner holds on the VM's directory
//! ([`Place`](crate::place::Place)). Getting it means that the owner is gone, and then the waiting
//! process kills its process group, which is to say itself and all that it started.

use std::fs::File;
use std::io;
use std::path::Path;

use bioxen_vm_core::{Command, Error, ErrorKind, Result};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{getpgrp, getpid};

use crate::interpreter::find_program;

/// Ends this process and its group when the owner of the lock is gone.
///
/// # Errors
/// Fails when the lock cannot be watched, which means that the owner is gone already.
pub(crate) fn watch(lock: &Path) -> io::Result<()> {
    let mut file = File::open(lock)?;
    std::thread::Builder::new()
        .name("leash".into())
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

fn end() -> ! {
    let own = getpid();
    // Started by hand, this process may share the group of a shell's pipeline.
    if getpgrp() == own {
        let _ = killpg(own, Signal::SIGKILL);
    }
    let _ = kill(own, Signal::SIGKILL);
    std::process::abort()
}

/// Does in a shell what [`watch`] does in Rust, takes limits, and becomes the command.
///
/// Everything that differs between two calls is a positional parameter; the text is constant. A
/// limit on memory cannot be set where a lower one is in force, which is as good.
const HOLD: &str = r#"
flock=$1 lock=$2 memory=$3
shift 3
{ "$flock" --shared 9 9<"$lock"; kill -s KILL 0; } </dev/null >/dev/null 2>&1 &
ulimit -c 0
if [ "$memory" ] && ! ulimit -d "$memory" 2>/dev/null; then
    [ "$(ulimit -d)" != unlimited ] || exit 126
fi
exec "$@"
"#;

/// Puts programs that are not ours on the leash.
#[derive(Debug, Clone)]
pub(crate) struct Holder {
    flock: String,
}

impl Holder {
    /// Makes sure that the machine has what that needs.
    pub(crate) fn find() -> Result<Self> {
        find_program("flock")
            .map(|flock| Self { flock })
            .ok_or_else(|| {
                let message = "there is no program \"flock\" on this machine; install util-linux";
                Error::new(ErrorKind::NotFound, message)
            })
    }

    /// Puts a command on the leash, and limits its data segment to this many bytes.
    pub(crate) fn hold(&self, mut command: Command, lock: &str, memory: Option<u64>) -> Command {
        let memory = memory.map_or_else(String::new, |bytes| (bytes / 1024).to_string());
        let program = std::mem::replace(&mut command.program, "/bin/sh".into());
        let args = std::mem::take(&mut command.args);
        command
            .args(["-c", HOLD, "sh", &self.flock, lock, &memory, &program])
            .args(args)
    }
}
