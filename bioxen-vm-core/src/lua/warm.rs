//! Interpreters that wait for programs.

mod lane;

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Mark, Returning, TELLING_DRIVER, frame};
use crate::{Command, Outcome, OutputSink, Result, Runner, Script};
use lane::{Lane, Run};

/// The program that keeps interpreters waiting, see there.
const KEEPER: &str = concat!("\n", include_str!("warm.lua"));

/// How many interpreters wait at least, once they are wanted.
const FEW: usize = 2;

/// How many there are at most, those that run a program included.
const MANY: usize = 8;

/// After this long a wait for an interpreter one more is started.
const GROWTH: Duration = Duration::from_millis(10);

/// After this long a wait a program runs without.
const PATIENCE: Duration = Duration::from_millis(50);

/// Input that surely fits into a pipe, so that nobody has to wait for a program to read it.
const FITS: usize = 60 * 1024;

/// How many of them may end before they have been of any use.
const FAILURES: usize = 3;

/// Keeps interpreters waiting on a machine, so that a program costs one round trip to it and not
/// the start of a command and of an interpreter there.
///
/// Each interpreter runs one program. They are started by a command that stays, one for each that
/// may run at the same time ([`Runner::run_streaming`] with a lifeline), and end with it. After a
/// program that leaves a process behind, that command ends too, and takes everything along.
#[derive(Debug)]
pub struct WarmInterpreters {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    runner: Arc<dyn Runner>,
    command: Command,
    lanes: Mutex<Lanes>,
    changed: Notify,
    closing: Notify,
}

#[derive(Debug, Default)]
struct Lanes {
    idle: VecDeque<Lane>,
    /// Those that run a program or are being started included.
    count: usize,
    failures: usize,
    /// How often those that there were have been given up.
    doubts: usize,
    closed: bool,
}

impl WarmInterpreters {
    /// Describes them; none is started yet. Each sees these environment variables.
    #[must_use]
    pub fn new(runner: Arc<dyn Runner>, interpreter: &str, env: Vec<(String, String)>) -> Self {
        let mut command = Command::new(interpreter)
            .args(["-e", KEEPER])
            .with_env("_warm_lua", interpreter)
            .with_env("_warm_driver", TELLING_DRIVER);
        let env = env.into_iter().map(|(name, value)| (name, value.into()));
        command.env.extend(env);
        Self {
            inner: Arc::new(Inner {
                runner,
                command,
                lanes: Mutex::default(),
                changed: Notify::new(),
                closing: Notify::new(),
            }),
        }
    }

    /// Has the first ones started, without waiting for them.
    pub fn prepare(&self) {
        self.inner.prepare();
    }

    /// Gives up those that wait or are being started, as something has gone wrong with the machine:
    /// they may have come to their end with it, and not have told yet. Later programs get new ones.
    pub fn doubt(&self) {
        let idle = {
            let mut lanes = self.inner.lock();
            lanes.doubts += 1;
            std::mem::take(&mut lanes.idle)
        };
        drop(idle);
    }

    /// Runs a program, and hands on its output as it comes; the outcome has none. Gives `None`, and
    /// has not begun, when no interpreter can be had or the program needs more than one that has
    /// been started already can give: environment variables, a working directory, or input that is
    /// a stream or large.
    ///
    /// # Errors
    /// Fails when what became of the program is unknown.
    ///
    /// # Cancel safety
    /// Dropping the future ends the program and what it started.
    pub async fn run(&self, script: &Script, sink: &mut dyn OutputSink) -> Result<Option<Outcome>> {
        if !script.env.is_empty() || script.cwd.is_some() || script.stdin.is_stream() {
            return Ok(None);
        }
        let mark = Mark::new();
        let frame = frame(script, Some(&mark));
        if frame.bytes().len() > FITS && !script.stdin.bytes().is_empty() {
            return Ok(None);
        }
        let started = Instant::now();
        let Some(lane) = self.inner.take().await else {
            return Ok(None);
        };
        let deadline = script.timeout.map(|limit| started + limit);
        let mut returning = Returning::new(&mark, sink).with_end(&mark);
        let end = lane.run(frame.bytes(), deadline, &mut returning).await;
        if end.is_err() {
            self.doubt();
        }
        let end = end?;
        let status = match end {
            Run::Ended(lane, status) => {
                self.inner.settle(lane, Before::ItRan { deadline });
                status
            }
            Run::Stopped(status) => {
                self.prepare();
                status
            }
        };
        let mut outcome = Outcome::new(status);
        outcome.returned = returning.finish().await;
        outcome.duration = started.elapsed();
        Ok(Some(outcome))
    }

    /// Ends those that wait, and waits until those that run a program have ended. None is started
    /// again.
    pub async fn close(&self) {
        self.inner.close();
        loop {
            let changed = self.inner.changed.notified();
            if self.inner.lock().count == 0 {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for WarmInterpreters {
    fn drop(&mut self) {
        self.inner.close();
    }
}

/// What an interpreter that is awaited has behind it.
#[derive(Debug, Clone, Copy)]
enum Before {
    Nothing,
    /// A program, which has told its end, but may still be on its way out.
    ItRan {
        deadline: Option<Instant>,
    },
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prepare(self: &Arc<Self>) {
        let missing = FEW.saturating_sub(self.lock().count);
        for _ in 0..missing {
            self.start();
        }
    }

    fn start(self: &Arc<Self>) {
        let doubts = {
            let mut lanes = self.lock();
            if lanes.closed || lanes.count >= MANY {
                return;
            }
            lanes.count += 1;
            lanes.doubts
        };
        let inner = Arc::clone(self);
        let over = move || {
            inner.lock().count -= 1;
            inner.changed.notify_waiters();
        };
        let lane = Lane::start(Arc::clone(&self.runner), self.command.clone(), doubts, over);
        self.settle(lane, Before::Nothing);
    }

    /// Waits until an interpreter waits again, and lets it be taken.
    fn settle(self: &Arc<Self>, mut lane: Lane, before: Before) {
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            let too_late = async {
                match before {
                    Before::ItRan {
                        deadline: Some(deadline),
                    } => sleep_until(deadline).await,
                    _ => pending().await,
                }
            };
            let closing = inner.closing.notified();
            if inner.lock().closed {
                return;
            }
            let waits = tokio::select! {
                waits = lane.waits() => waits,
                () = closing => return,
                () = too_late => {
                    drop(lane);
                    return inner.prepare();
                }
            };
            let ended = match waits {
                Ok(()) => {
                    let mut lanes = inner.lock();
                    lanes.failures = 0;
                    let welcome = !lanes.closed && lane.doubts == lanes.doubts;
                    if welcome {
                        lanes.idle.push_back(lane);
                    }
                    drop(lanes);
                    inner.changed.notify_one();
                    return;
                }
                Err(ended) => ended,
            };
            match (ended, before) {
                // A program left something behind.
                (Ok(_), Before::ItRan { .. }) => inner.prepare(),
                (Ok(outcome), Before::Nothing) => {
                    tracing::debug!(status = %outcome.status, "an interpreter does not wait");
                    inner.lock().failures += 1;
                }
                // The next program finds out what is wrong with the machine.
                (Err(error), _) => tracing::debug!(%error, "an interpreter waits no more"),
            }
        });
    }

    async fn take(self: &Arc<Self>) -> Option<Lane> {
        let started = Instant::now();
        let mut limit = GROWTH;
        loop {
            let changed = self.changed.notified();
            let (idle, count) = {
                let mut lanes = self.lock();
                if lanes.closed || lanes.failures >= FAILURES {
                    return None;
                }
                (lanes.idle.pop_front(), lanes.count)
            };
            if let Some(mut lane) = idle {
                if lane.is_there().await {
                    return Some(lane);
                }
                continue;
            }
            if count == 0 {
                self.prepare();
                return None;
            }
            if timeout_at(started + limit, changed).await.is_err() {
                if limit == PATIENCE {
                    return None;
                }
                limit = PATIENCE;
                self.start();
            }
        }
    }

    fn close(&self) {
        let idle = {
            let mut lanes = self.lock();
            lanes.closed = true;
            std::mem::take(&mut lanes.idle)
        };
        drop(idle);
        self.changed.notify_waiters();
        self.closing.notify_waiters();
    }
}
