//! The warm workers of a VM: processes, or threads, that have started already and wait for a program.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bioxen_vm_core::{Error, ErrorKind, Result};
use nix::unistd::Pid;
use tokio::process::Command;

use crate::body::{Body, Process};
use crate::execution::{Line, Worker, lost};
use crate::job::Job;
use crate::orders::Orders;
use crate::thread::{Thread, Tools, Work};
use crate::worker;

/// How the workers of a VM are started, and those that wait.
#[derive(Debug)]
pub(crate) struct Pool {
    launch: Launch,
    /// How many wait at most.
    keep: usize,
    idle: Mutex<Idle>,
}

/// How a worker is started.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) kind: Kind,
    pub(crate) env: Vec<(String, OsString)>,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Process {
        program: String,
        /// What it is told.
        orders: String,
        /// Whether no program in it can start another, so that it can be ended by one signal.
        childless: bool,
    },
    Thread(Arc<Orders>),
}

/// A worker that has ended a program this long ago has made the Lua state for the next one.
const REST: Duration = Duration::from_micros(300);

#[derive(Debug, Default)]
struct Idle {
    open: bool,
    /// Those that wait, and since when, the longest first.
    workers: VecDeque<(Instant, Worker)>,
    /// Whether a second one was started because programs follow closely on each other.
    paired: bool,
}

impl Idle {
    /// The one that has waited the shortest of those that are ready; if none is, the one that will
    /// be first. Tells whether it is ready.
    fn take(&mut self) -> Option<(Worker, bool)> {
        let ready = self
            .workers
            .iter()
            .rposition(|(since, _)| since.elapsed() >= REST);
        let (_, worker) = self.workers.remove(ready.unwrap_or(0))?;
        Some((worker, ready.is_some()))
    }
}

impl Pool {
    pub(crate) fn new(launch: Launch, keep: usize) -> Self {
        Self {
            launch,
            keep,
            idle: Mutex::default(),
        }
    }

    /// Begins to keep workers, and starts one.
    pub(crate) fn open(self: &Arc<Self>) {
        self.lock().open = true;
        self.refill();
    }

    /// Ends those that wait, and keeps none from now on.
    pub(crate) async fn close(&self) {
        let workers = {
            let mut idle = self.lock();
            idle.open = false;
            idle.paired = false;
            std::mem::take(&mut idle.workers)
        };
        for (_, worker) in workers {
            worker.end().await;
        }
    }

    /// Gives a program to a worker that waits, or to a new one. With an environment of its own it is
    /// always a new one.
    pub(crate) fn give(self: &Arc<Self>, env: &[(String, OsString)], job: &Job) -> Result<Worker> {
        while env.is_empty()
            && let Some((mut worker, ready)) = self.take()
        {
            // One that is gone takes none.
            if worker.give(job).is_ok() {
                if !ready {
                    self.pair();
                }
                return Ok(worker);
            }
        }
        let mut worker = self.launch.start(env)?;
        worker.give(job).map_err(lost)?;
        Ok(worker)
    }

    /// How a session is started.
    pub(crate) fn launch(&self) -> &Launch {
        &self.launch
    }

    fn take(&self) -> Option<(Worker, bool)> {
        self.lock().take()
    }

    /// Starts a second worker, once: while one makes a state, the other runs a program.
    fn pair(self: &Arc<Self>) {
        let first = !std::mem::replace(&mut self.lock().paired, true);
        if first && self.keep > 1 {
            self.refill();
        }
    }

    /// Takes a worker back whose program is over, to keep it or not.
    pub(crate) fn done(self: &Arc<Self>, worker: Option<Worker>, keep: bool) {
        match worker {
            Some(worker) if keep => self.put(worker),
            worker => {
                if let Some(worker) = worker {
                    worker.retire();
                }
                self.lock().paired = false;
                self.refill();
            }
        }
    }

    /// Keeps a worker for the next program, if there is room.
    fn put(&self, worker: Worker) {
        let mut idle = self.lock();
        if idle.open && idle.workers.len() < self.keep {
            idle.workers.push_back((Instant::now(), worker));
        } else {
            worker.retire();
        }
    }

    /// Sees to it that a worker waits, in the background.
    pub(crate) fn refill(self: &Arc<Self>) {
        let wanted = {
            let idle = self.lock();
            idle.open && idle.workers.is_empty() && self.keep > 0
        };
        if wanted {
            let pool = Arc::clone(self);
            // Starting a process takes the time of the thread that does it.
            tokio::task::spawn_blocking(move || match pool.launch.start(&[]) {
                Ok(worker) => pool.put(worker),
                Err(error) => tracing::debug!(%error, "no worker could be started ahead"),
            });
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Launch {
    fn start(&self, env: &[(String, OsString)]) -> Result<Worker> {
        self.spawn(Work::Programs, env).map_err(|error| {
            let what = match &self.kind {
                Kind::Process { program, .. } => format!("the worker {program}"),
                Kind::Thread(_) => "a thread for programs".to_owned(),
            };
            Error::new(
                ErrorKind::Exhausted,
                format!(
                    "{what} could not be started; lower the number of VMs and programs that run at \
                     once, or raise the limits on processes and open files"
                ),
            )
            .with_source(error)
        })
    }

    /// Starts a worker for this work, which only threads can choose.
    pub(crate) fn spawn(&self, work: Work, env: &[(String, OsString)]) -> io::Result<Worker> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        let (stdout, their_stdout) = io::pipe()?;
        let (stderr, their_stderr) = io::pipe()?;
        let line = Line {
            socket: ours,
            stdout: stdout.into(),
            stderr: stderr.into(),
        };
        line.socket.set_nonblocking(true)?;
        rustix::io::ioctl_fionbio(&line.stdout, true)?;
        rustix::io::ioctl_fionbio(&line.stderr, true)?;
        let env = self.env.iter().chain(env);
        let body = match &self.kind {
            Kind::Thread(orders) => Body::Thread(Thread::start(
                work,
                Tools {
                    orders: Arc::clone(orders),
                    env: env.cloned().collect(),
                    socket: theirs,
                    stdout: their_stdout.into(),
                    stderr: their_stderr.into(),
                },
            )?),
            Kind::Process {
                program,
                orders,
                childless,
            } => {
                let child = Command::new(program)
                    .args([worker::ARGUMENT, orders])
                    .env_clear()
                    .envs(env.map(|(name, value)| (name, value)))
                    .current_dir("/")
                    .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
                    .stdout(their_stdout)
                    .stderr(their_stderr)
                    .process_group(0)
                    .kill_on_drop(true)
                    .spawn()?;
                let pid = child
                    .id()
                    .and_then(|id| i32::try_from(id).ok())
                    .ok_or_else(|| io::Error::other("a process without an id"))?;
                Body::Process(Process::new(child, Pid::from_raw(pid), *childless))
            }
        };
        Ok(Worker::new(body, line))
    }
}
