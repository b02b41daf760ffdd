//! What happens in a manager: events for observers, and numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::broadcast;

use crate::{Outcome, Status, VmId};

/// How many events an observer may be behind before the oldest are lost.
const BEHIND: usize = 1024;

/// What happened to a VM of a manager.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct VmEvent {
    /// The VM.
    pub vm: VmId,
    /// What happened.
    pub what: Happening,
}

/// What can happen to a VM.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Happening {
    /// It is being made.
    Creating,
    /// It was made and started.
    Ready,
    /// It could not be made or started; the reason.
    Failed(String),
    /// A program was given to it; the number is the manager's count.
    ExecutionStarted(u64),
    /// A program ended like this; `None`: it was cancelled, or its end is unknown.
    ExecutionFinished(u64, Option<Status>),
    /// A session of this name was opened.
    SessionOpened(String),
    /// It was destroyed.
    Destroyed,
}

impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Creating => f.write_str("is being made"),
            Self::Ready => f.write_str("is ready"),
            Self::Failed(reason) => write!(f, "could not be made: {reason}"),
            Self::ExecutionStarted(number) => write!(f, "runs program {number}"),
            Self::ExecutionFinished(number, Some(status)) => {
                write!(f, "has ended program {number}: {status}")
            }
            Self::ExecutionFinished(number, None) => {
                write!(f, "has left program {number}, whose end is not known")
            }
            Self::SessionOpened(name) => write!(f, "has a session {name}"),
            Self::Destroyed => f.write_str("is gone"),
        }
    }
}

/// Sees what happens to the VMs of a manager.
#[derive(Debug)]
pub struct VmEvents {
    receiver: broadcast::Receiver<VmEvent>,
}

impl VmEvents {
    /// Waits for the next event; `None` once the manager is gone. One who is far behind loses the
    /// oldest.
    ///
    /// # Cancel safety
    /// No event is lost by dropping the future.
    pub async fn next(&mut self) -> Option<VmEvent> {
        loop {
            match self.receiver.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// Numbers of a manager.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct ManagerStats {
    /// VMs that are ready.
    pub total_vms: usize,
    /// The same by type.
    pub vms_by_type: BTreeMap<String, usize>,
    /// Sessions that are not over.
    pub interactive_sessions: usize,
    /// Those of them that somebody is attached to.
    pub attached_sessions: usize,
    /// Programs that run.
    pub running_operations: u64,
    /// Programs that have ended, in whatever way.
    pub completed_operations: u64,
    /// How many programs a broadcast runs at once.
    pub max_workers: usize,
    /// What has happened since the manager was made.
    #[serde(flatten)]
    pub totals: Totals,
}

/// What has happened in a manager since it was made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct Totals {
    /// VMs that became ready.
    pub vms_created: u64,
    /// VMs that could not be made or started.
    pub vms_failed: u64,
    /// VMs that were destroyed.
    pub vms_destroyed: u64,
    /// Programs by how they ended: `success`, `failure` (another exit code than 0), `signal`,
    /// `timed_out`, `out_of_memory`, `cpu_limit`, `process_limit`, `disk_limit`, `output_limit`, and
    /// `unknown` for those that were cancelled or whose end is not known.
    pub operations_by_end: BTreeMap<&'static str, u64>,
    /// How long they ran, all together; in JSON as seconds.
    #[serde(rename = "operation_seconds", serialize_with = "seconds")]
    pub operation_time: Duration,
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// The names of all ends in [`Totals::operations_by_end`].
pub(super) const ENDS: [&str; 10] = [
    "success",
    "failure",
    "signal",
    "timed_out",
    "out_of_memory",
    "cpu_limit",
    "process_limit",
    "disk_limit",
    "output_limit",
    "unknown",
];

/// The name of an end in [`Totals::operations_by_end`].
fn name_of(end: Option<Status>) -> &'static str {
    match end {
        Some(Status::Exited(0)) => "success",
        Some(Status::Exited(_)) => "failure",
        Some(Status::Signaled(_)) => "signal",
        Some(Status::TimedOut) => "timed_out",
        Some(Status::OutOfMemory) => "out_of_memory",
        Some(Status::CpuLimit) => "cpu_limit",
        Some(Status::ProcessLimit) => "process_limit",
        Some(Status::DiskLimit) => "disk_limit",
        Some(Status::OutputLimit) => "output_limit",
        None => "unknown",
    }
}

/// Counts programs and tells observers.
#[derive(Debug)]
pub(super) struct Observed {
    events: broadcast::Sender<VmEvent>,
    started: AtomicU64,
    completed: AtomicU64,
    totals: Mutex<Totals>,
}

impl Default for Observed {
    fn default() -> Self {
        Self {
            events: broadcast::Sender::new(BEHIND),
            started: AtomicU64::default(),
            completed: AtomicU64::default(),
            totals: Mutex::default(),
        }
    }
}

impl Observed {
    pub(super) fn subscribe(&self) -> VmEvents {
        VmEvents {
            receiver: self.events.subscribe(),
        }
    }

    pub(super) fn totals(&self) -> Totals {
        self.count(|totals| totals.clone())
    }

    fn count<T>(&self, act: impl FnOnce(&mut Totals) -> T) -> T {
        act(&mut self.totals.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn tell(&self, vm: &VmId, what: Happening) {
        tracing::debug!("VM {vm} {what}");
        match &what {
            Happening::Ready => self.count(|totals| totals.vms_created += 1),
            Happening::Failed(_) => self.count(|totals| totals.vms_failed += 1),
            Happening::Destroyed => self.count(|totals| totals.vms_destroyed += 1),
            _ => {}
        }
        // Nobody may be listening.
        let _ = self.events.send(VmEvent {
            vm: vm.clone(),
            what,
        });
    }

    /// Programs that run, and those that have ended.
    pub(super) fn operations(&self) -> (u64, u64) {
        let completed = self.completed.load(Ordering::Acquire);
        let started = self.started.load(Ordering::Acquire);
        (started.saturating_sub(completed), completed)
    }

    /// Notes that a program was given to a VM.
    pub(super) fn begin(self: &Arc<Self>, vm: &VmId) -> Operation {
        let number = self.started.fetch_add(1, Ordering::AcqRel) + 1;
        self.tell(vm, Happening::ExecutionStarted(number));
        Operation {
            observed: Arc::clone(self),
            vm: vm.clone(),
            number,
            begun: Instant::now(),
            status: None,
        }
    }
}

/// A program that runs. Dropping this notes that it has ended.
#[derive(Debug)]
pub(super) struct Operation {
    observed: Arc<Observed>,
    vm: VmId,
    number: u64,
    begun: Instant,
    status: Option<Status>,
}

impl Operation {
    pub(super) fn end(mut self, result: &crate::Result<Outcome>) {
        self.status = result.as_ref().ok().map(|outcome| outcome.status);
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        self.observed.count(|totals| {
            *totals
                .operations_by_end
                .entry(name_of(self.status))
                .or_default() += 1;
            totals.operation_time += self.begun.elapsed();
        });
        self.observed.completed.fetch_add(1, Ordering::AcqRel);
        let what = Happening::ExecutionFinished(self.number, self.status);
        self.observed.tell(&self.vm, what);
    }
}
