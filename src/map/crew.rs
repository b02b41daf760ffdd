//! The VMs of a run, and who does what in them.
//!
//! One loop knows what is to be done and what each VM is doing, and gives orders; a task for each VM
//! carries them out. A VM that breaks is replaced by its task, and what it was doing is given to
//! another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use bioxen_vm_core::{Error, ErrorKind, Result};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::events::{MapEvent, VmTimes};
use super::job::{Failure, Job};

/// How often something is tried, in different VMs, before the run fails.
const ATTEMPTS: usize = 3;

/// The same for programs that end by themselves with a failure: the second time it is the program.
const PROGRAM_ATTEMPTS: usize = 2;

/// How often a VM that broke is replaced.
const REPLACEMENTS: u32 = 2;

/// Something to do in a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    /// The program on a shard, by its place in the table.
    Shard(usize),
    /// The reduce program on all results.
    Reduce,
}

impl Task {
    /// The number of the shard in events.
    pub(super) fn shard(self) -> Option<usize> {
        match self {
            Self::Shard(index) => Some(index + 1),
            Self::Reduce => None,
        }
    }
}

/// What the task of a VM tells.
enum News {
    Ready {
        vm: String,
    },
    Done,
    /// The VM goes on, unless it is what failed.
    Failed {
        task: Task,
        failure: Failure,
    },
    /// There will be no VM any more.
    Gone {
        vm: String,
        error: Error,
    },
}

/// A VM as the loop sees it.
struct Member {
    orders: mpsc::Sender<Task>,
    state: State,
}

enum State {
    Making,
    Idle(String),
    Busy(String),
}

/// Where something was tried, and how it ended the last time.
struct Trials {
    vms: Vec<String>,
    last: Failure,
}

/// The VMs of a run.
pub(super) struct Crew {
    job: Arc<Job>,
    members: BTreeMap<usize, Member>,
    news: mpsc::Receiver<(usize, News)>,
    tasks: JoinSet<VmTimes>,
    /// Those that could not be made before any other was.
    left: Vec<(String, Error)>,
    someone_was_ready: bool,
}

impl Crew {
    /// Begins to make so many VMs.
    pub(super) fn start(job: &Arc<Job>, size: usize) -> Self {
        let (sender, news) = mpsc::channel(size.max(1) * 2);
        let mut crew = Self {
            job: Arc::clone(job),
            members: BTreeMap::new(),
            news,
            tasks: JoinSet::new(),
            left: Vec::new(),
            someone_was_ready: false,
        };
        for number in 1..=size {
            let (orders, receiver) = mpsc::channel(1);
            let state = State::Making;
            crew.members.insert(number, Member { orders, state });
            let work = work(Arc::clone(job), number, receiver, sender.clone());
            crew.tasks.spawn(work);
        }
        crew
    }

    /// Does all of this.
    ///
    /// # Errors
    /// Fails when something failed too often, or no VM is left.
    pub(super) async fn run(&mut self, mut waiting: BTreeSet<Task>) -> Result<()> {
        let mut trials: BTreeMap<Task, Trials> = BTreeMap::new();
        loop {
            self.assign(&mut waiting, &trials).await;
            let is_busy = |member: &Member| matches!(member.state, State::Busy(_));
            if waiting.is_empty() && !self.members.values().any(is_busy) {
                return Ok(());
            }
            let Some((number, news)) = self.news.recv().await else {
                return Err(Error::new(
                    ErrorKind::Internal,
                    "the tasks of all VMs ended early",
                ));
            };
            match news {
                News::Ready { vm } => {
                    self.someone_was_ready = true;
                    self.set(number, State::Idle(vm));
                    for (vm, error) in std::mem::take(&mut self.left) {
                        self.tell_left(vm, &error);
                    }
                }
                News::Done => drop(self.rest(number, false)),
                News::Failed { task, failure } => {
                    let lost = matches!(failure, Failure::Vm(_));
                    let vm = self.rest(number, lost);
                    let reason = failure.to_string();
                    let tried = trials.entry(task).or_insert_with(|| Trials {
                        vms: Vec::new(),
                        last: failure.clone(),
                    });
                    tried.vms.push(vm.clone());
                    tried.last = failure;
                    self.check(task, tried)?;
                    self.job.tell(MapEvent::Retried {
                        shard: task.shard(),
                        vm,
                        reason,
                        lost,
                    });
                    waiting.insert(task);
                }
                News::Gone { vm, error } => {
                    self.members.remove(&number);
                    if self.members.is_empty() {
                        // The first that could not be made tells most.
                        let first = self.left.drain(..).next();
                        return Err(first.map_or(error, |(_, error)| error));
                    }
                    match self.someone_was_ready {
                        true => self.tell_left(vm, &error),
                        false => self.left.push((vm, error)),
                    }
                    for task in &waiting {
                        if let Some(tried) = trials.get(task) {
                            self.check(*task, tried)?;
                        }
                    }
                }
            }
        }
    }

    /// Removes the VMs and gives their times. What runs there still is ended.
    pub(super) async fn end(mut self) -> Vec<VmTimes> {
        self.members.clear();
        // Those that are still being made are not needed any more.
        self.news.close();
        let mut times = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            times.extend(ended.ok());
        }
        times.sort_by_key(|times| times.number);
        times
    }

    /// Gives every idle VM something that was not tried in it, the first in order.
    async fn assign(&mut self, waiting: &mut BTreeSet<Task>, trials: &BTreeMap<Task, Trials>) {
        for member in self.members.values_mut() {
            let State::Idle(vm) = &member.state else {
                continue;
            };
            let fits = |task: &&Task| {
                let tried = trials.get(*task);
                tried.is_none_or(|tried| !tried.vms.contains(vm))
            };
            let Some(task) = waiting.iter().find(fits).copied() else {
                continue;
            };
            // A task that has ended tells so as news.
            if member.orders.send(task).await.is_ok() {
                waiting.remove(&task);
                if let Some(shard) = task.shard() {
                    let vm = vm.clone();
                    self.job.tell(MapEvent::Started { shard, vm });
                }
                member.state = State::Busy(vm.clone());
            }
        }
    }

    /// Fails when something is not to be tried again, or there is no VM in which it could be.
    fn check(&self, task: Task, tried: &Trials) -> Result<()> {
        let most = match tried.last {
            Failure::Final(_) => 0,
            Failure::Program(_) => PROGRAM_ATTEMPTS,
            Failure::Vm(_) => ATTEMPTS,
        };
        let could = |member: &Member| match &member.state {
            State::Making => true,
            State::Idle(vm) | State::Busy(vm) => !tried.vms.contains(vm),
        };
        if tried.vms.len() < most && self.members.values().any(could) {
            return Ok(());
        }
        Err(tried.last.clone().into_error(task, &tried.vms))
    }

    fn set(&mut self, number: usize, state: State) {
        if let Some(member) = self.members.get_mut(&number) {
            member.state = state;
        }
    }

    /// Notes that a VM is idle, or lost and perhaps being made anew, and gives its name.
    fn rest(&mut self, number: usize, lost: bool) -> String {
        let Some(member) = self.members.get_mut(&number) else {
            return String::new();
        };
        let vm = match &member.state {
            State::Busy(vm) | State::Idle(vm) => vm.clone(),
            State::Making => String::new(),
        };
        member.state = match lost {
            true => State::Making,
            false => State::Idle(vm.clone()),
        };
        vm
    }

    fn tell_left(&self, vm: String, error: &Error) {
        let reason = with_causes(error);
        self.job.tell(MapEvent::Left { vm, reason });
    }
}

/// An error with its causes in one line.
pub(super) fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Carries out orders in a VM, and in others when it breaks, until there are no more.
async fn work(
    job: Arc<Job>,
    number: usize,
    mut orders: mpsc::Receiver<Task>,
    news: mpsc::Sender<(usize, News)>,
) -> VmTimes {
    let mut times = VmTimes {
        number,
        ..VmTimes::default()
    };
    for generation in 0..=REPLACEMENTS {
        let id = match generation {
            0 => format!("{}-{number}", job.name),
            again => format!("{}-{number}.{}", job.name, again + 1),
        };
        times.vm.clone_from(&id);
        let made = tokio::select! {
            made = Box::pin(job.make(&id, &mut times)) => made,
            // The run has ended without us.
            () = news.closed() => {
                job.remove(&id).await;
                break;
            }
        };
        let vm = match made {
            Ok(vm) => vm,
            Err(error) => {
                job.remove(&id).await;
                let _ = news.send((number, News::Gone { vm: id, error })).await;
                return times;
            }
        };
        if news
            .send((number, News::Ready { vm: id.clone() }))
            .await
            .is_err()
        {
            job.remove(&id).await;
            break;
        }
        let broken = loop {
            let idle = Instant::now();
            let order = orders.recv().await;
            times.wait += idle.elapsed();
            let Some(task) = order else {
                break None;
            };
            let begun = Instant::now();
            let result = tokio::select! {
                result = Box::pin(job.execute(task, &*vm, &mut times)) => result,
                () = news.closed() => break None,
            };
            match result {
                Ok(()) => {
                    if let Some(shard) = task.shard() {
                        times.shards += 1;
                        job.tell_finished(shard, &id, begun.elapsed());
                    }
                    let _ = news.send((number, News::Done)).await;
                }
                Err(failure) => {
                    times.lost += begun.elapsed();
                    let broke = match &failure {
                        Failure::Vm(error) => Some(error.clone()),
                        _ => None,
                    };
                    let _ = news.send((number, News::Failed { task, failure })).await;
                    if broke.is_some() {
                        break broke;
                    }
                }
            }
        };
        job.remove(&id).await;
        let Some(error) = broken else {
            break;
        };
        if generation == REPLACEMENTS {
            let _ = news.send((number, News::Gone { vm: id, error })).await;
        }
    }
    times
}
