//! The VMs of a run, and who does what in them.
//!
//! One loop knows what is to be done and what each VM is doing, and gives orders; a task for each VM
//! carries them out. A VM that breaks is replaced by its task, and what it was doing is given to
//! another; so is a VM in which a program failed, when there is no other for the second time.

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

/// What the task of a VM is to do next.
enum Order {
    Do(Task),
    /// Remove the VM and make another.
    Replace,
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
    orders: mpsc::Sender<Order>,
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

impl Trials {
    /// Whether this VM is another one, or will be.
    fn could_go_to(&self, member: &Member) -> bool {
        match &member.state {
            State::Making => true,
            State::Idle(vm) | State::Busy(vm) => !self.vms.contains(vm),
        }
    }
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
            self.replace(&waiting, &trials).await;
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
                    check(task, tried)?;
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
                        return Err(self.nobody_left(error, &trials));
                    }
                    match self.someone_was_ready {
                        true => self.tell_left(vm, &error),
                        false => self.left.push((vm, error)),
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

    /// Has an idle VM replaced for something that was tried in every VM there is.
    async fn replace(&mut self, waiting: &BTreeSet<Task>, trials: &BTreeMap<Task, Trials>) {
        for tried in waiting.iter().filter_map(|task| trials.get(task)) {
            if self
                .members
                .values()
                .any(|member| tried.could_go_to(member))
            {
                continue;
            }
            let is_idle = |member: &&mut Member| matches!(member.state, State::Idle(_));
            // Where all are busy, one of them will be idle.
            if let Some(member) = self.members.values_mut().find(is_idle)
                && member.orders.send(Order::Replace).await.is_ok()
            {
                member.state = State::Making;
            }
        }
    }

    /// Gives every idle VM something that was not tried in it, the first in order.
    async fn assign(&mut self, waiting: &mut BTreeSet<Task>, trials: &BTreeMap<Task, Trials>) {
        for member in self.members.values_mut() {
            let State::Idle(vm) = &member.state else {
                continue;
            };
            let fits = |task: &&Task| {
                let tried = trials.get(*task);
                tried.is_none_or(|tried| tried.could_go_to(member))
            };
            let Some(task) = waiting.iter().find(fits).copied() else {
                continue;
            };
            // A task that has ended tells so as news.
            if member.orders.send(Order::Do(task)).await.is_ok() {
                waiting.remove(&task);
                if let Some(shard) = task.shard() {
                    let vm = vm.clone();
                    self.job.tell(MapEvent::Started { shard, vm });
                }
                member.state = State::Busy(vm.clone());
            }
        }
    }

    /// The error of a run whose last VM is gone.
    fn nobody_left(&mut self, error: Error, trials: &BTreeMap<Task, Trials>) -> Error {
        // A program that failed has more to say than a second VM that could not be made for it; of
        // VMs that could not be made the first tells most.
        let failed = trials
            .iter()
            .find(|(_, tried)| matches!(tried.last, Failure::Program(_)));
        match (failed, self.left.drain(..).next()) {
            (Some((task, tried)), _) => tried.last.clone().into_error(*task, &tried.vms),
            (None, first) => first.map_or(error, |(_, error)| error),
        }
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

/// Fails when something is not to be tried again.
fn check(task: Task, tried: &Trials) -> Result<()> {
    let most = match tried.last {
        Failure::Final(_) => 0,
        Failure::Program(_) => PROGRAM_ATTEMPTS,
        Failure::Vm(_) => ATTEMPTS,
    };
    match tried.vms.len() < most {
        true => Ok(()),
        false => Err(tried.last.clone().into_error(task, &tried.vms)),
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

/// Why a VM is removed.
enum End {
    Over,
    Replaced,
    Broken(Error),
}

/// Carries out orders in a VM, and in others when it breaks or is to be replaced, until there are no
/// more.
async fn work(
    job: Arc<Job>,
    number: usize,
    mut orders: mpsc::Receiver<Order>,
    news: mpsc::Sender<(usize, News)>,
) -> VmTimes {
    let mut times = VmTimes {
        number,
        ..VmTimes::default()
    };
    let mut broke = 0;
    for generation in 1.. {
        let id = match generation {
            1 => format!("{}-{number}", job.name),
            again => format!("{}-{number}.{again}", job.name),
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
        let end = loop {
            let idle = Instant::now();
            let order = orders.recv().await;
            times.wait += idle.elapsed();
            let task = match order {
                Some(Order::Do(task)) => task,
                Some(Order::Replace) => break End::Replaced,
                None => break End::Over,
            };
            let begun = Instant::now();
            let result = tokio::select! {
                result = Box::pin(job.execute(task, &*vm, &mut times)) => result,
                () = news.closed() => break End::Over,
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
                    let broken = match &failure {
                        Failure::Vm(error) => Some(error.clone()),
                        _ => None,
                    };
                    let _ = news.send((number, News::Failed { task, failure })).await;
                    if let Some(error) = broken {
                        break End::Broken(error);
                    }
                }
            }
        };
        job.remove(&id).await;
        match end {
            End::Replaced => {}
            End::Broken(_) if broke < REPLACEMENTS => broke += 1,
            End::Broken(error) => {
                let _ = news.send((number, News::Gone { vm: id, error })).await;
                break;
            }
            End::Over => break,
        }
    }
    times
}
