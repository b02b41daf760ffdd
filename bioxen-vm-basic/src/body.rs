//! What a worker is to the operating system, and how it ends.

use std::process::ExitStatus;

use bioxen_vm_core::Result;
use bioxen_vm_core::local::end_tree;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::process::Child;

use crate::execution::lost;
use crate::supervisor::ending;
use crate::thread::Thread;

/// What it is to the operating system. When it is dropped it ends, with all that it has started.
#[derive(Debug)]
pub(crate) enum Body {
    Process(Process),
    /// One of this process.
    Thread(Thread),
}

/// A process of its own.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pid: Pid,
    /// Whether it cannot have started another process.
    childless: bool,
    /// Whether it runs a program.
    busy: bool,
    ended: bool,
}

impl Body {
    pub(crate) fn set_busy(&mut self, busy: bool) {
        if let Self::Process(process) = self {
            process.busy = busy;
        }
    }

    /// Ends it, which may have ended by itself, and waits for that. Returns how it ended.
    pub(crate) async fn ended(&mut self, alone: bool) -> Result<i32> {
        match self {
            Self::Process(process) => process.ended(alone).await.map(ending),
            Self::Thread(thread) => {
                thread.end().await;
                Ok(-(Signal::SIGKILL as i32))
            }
        }
    }

    pub(crate) async fn end(self) {
        match self {
            Self::Process(process) => process.end().await,
            Self::Thread(mut thread) => thread.end().await,
        }
    }

    pub(crate) fn retire(self) {
        match self {
            Self::Process(process) => process.retire(),
            // It ends by itself.
            Self::Thread(thread) => drop(thread),
        }
    }
}

impl Process {
    pub(crate) fn new(child: Child, pid: Pid, childless: bool) -> Self {
        Self {
            child,
            pid,
            childless,
            busy: false,
            ended: false,
        }
    }

    /// Kills it, which may have ended by itself, and waits for its end.
    async fn ended(&mut self, alone: bool) -> Result<ExitStatus> {
        kill_worker(self.pid, alone || self.childless);
        let exit = self.child.wait().await.map_err(lost)?;
        self.ended = true;
        Ok(exit)
    }

    async fn end(mut self) {
        self.kill();
        // There is nothing to do about a process that cannot be waited for.
        self.ended = self.child.wait().await.is_ok();
    }

    fn retire(self) {
        if !self.ended {
            self.kill();
            tokio::spawn(self.end());
        }
    }

    fn kill(&self) {
        kill_worker(self.pid, self.childless || !self.busy);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended {
            self.kill();
        }
    }
}

/// Kills a worker that has not been waited for.
fn kill_worker(pid: Pid, alone: bool) {
    if alone {
        // It may have ended by itself.
        let _ = killpg(pid, Signal::SIGKILL).or_else(|_| kill(pid, Signal::SIGKILL));
    } else {
        end_tree(pid.as_raw());
    }
}
