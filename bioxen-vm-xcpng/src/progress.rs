//! What a backend is doing, for those who watch.

use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant};

use bioxen_vm_core::VmId;
use tokio::sync::broadcast;
use tracing::Instrument as _;

/// A stage in the life of a VM began or ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Progress {
    /// The VM.
    pub vm: VmId,
    /// The stage.
    pub stage: Stage,
    /// How far it is.
    pub state: StageState,
}

/// A stage in the life of a VM. `Display` says it in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// The login to the pool; ends at once when another VM has done it.
    Connect,
    /// Looking up the template and what else the configuration names.
    Plan,
    /// Reproducing the template.
    Clone,
    /// Giving the VM its memory, processors, networks, keys and name.
    Configure,
    /// Starting the VM, until its system runs.
    Start,
    /// Waiting for the VM's address.
    Address,
    /// Waiting for a verified SSH login.
    Login,
    /// Stopping the VM.
    Stop,
    /// Ending its system and starting it again, without waiting for the new one.
    Reboot,
    /// Letting it stand still.
    Pause,
    /// Writing its memory to disk.
    Suspend,
    /// Keeping what its disks hold.
    Snapshot,
    /// Giving it back what its disks held.
    Revert,
    /// Moving it to another host.
    Migrate,
    /// Removing the VM and its disks.
    Destroy,
}

/// How far a stage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StageState {
    /// It began.
    Started,
    /// It succeeded after this time.
    Finished(Duration),
    /// It failed after this time. The error goes to the caller.
    Failed(Duration),
}

impl Stage {
    /// Its name in spans, which does not change: `clone`, `configure`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Plan => "plan",
            Self::Clone => "clone",
            Self::Configure => "configure",
            Self::Start => "start",
            Self::Address => "address",
            Self::Login => "login",
            Self::Stop => "stop",
            Self::Reboot => "reboot",
            Self::Pause => "pause",
            Self::Suspend => "suspend",
            Self::Snapshot => "snapshot",
            Self::Revert => "revert",
            Self::Migrate => "migrate",
            Self::Destroy => "destroy",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect to the pool",
            Self::Plan => "plan the VM",
            Self::Clone => "clone the template",
            Self::Configure => "configure the VM",
            Self::Start => "start the VM",
            Self::Address => "wait for its address",
            Self::Login => "log in over SSH",
            Self::Stop => "stop the VM",
            Self::Reboot => "reboot the VM",
            Self::Pause => "pause the VM",
            Self::Suspend => "suspend the VM",
            Self::Snapshot => "take a snapshot of the VM",
            Self::Revert => "revert the VM",
            Self::Migrate => "move the VM",
            Self::Destroy => "destroy the VM",
        })
    }
}

/// Tells of the stages of one VM.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    vm: VmId,
    sender: broadcast::Sender<Progress>,
}

impl Reporter {
    pub(crate) fn new(vm: VmId, sender: broadcast::Sender<Progress>) -> Self {
        Self { vm, sender }
    }

    /// Carries out a stage.
    pub(crate) async fn stage<T, E>(
        &self,
        stage: Stage,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let started = Instant::now();
        self.tell(stage, StageState::Started);
        let span = tracing::info_span!("stage", vm = %self.vm, stage = stage.name());
        let result = work.instrument(span).await;
        let after = started.elapsed();
        let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        let state = if result.is_ok() {
            tracing::info!(vm = %self.vm, %stage, millis, "done");
            StageState::Finished(after)
        } else {
            tracing::info!(vm = %self.vm, %stage, millis, "failed");
            StageState::Failed(after)
        };
        self.tell(stage, state);
        result
    }

    fn tell(&self, stage: Stage, state: StageState) {
        // That nobody watches is no failure.
        let _ = self.sender.send(Progress {
            vm: self.vm.clone(),
            stage,
            state,
        });
    }
}
