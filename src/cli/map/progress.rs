//! What is told of a run while it goes on.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::cli::print;
use crate::cli::telemetry::say;
use crate::cli::waiting::{draw, room};
use crate::map::MapEvent;

/// Says how to go on when a run ends early that had begun.
pub(super) struct Hint<'a>(Option<&'a Path>, Shared);

impl<'a> Hint<'a> {
    pub(super) fn new(folder: Option<&'a Path>, progress: Shared) -> Self {
        Self(folder, progress)
    }

    /// The run has come to its end.
    pub(super) fn is_needless(&mut self) {
        self.0 = None;
    }
}

impl Drop for Hint<'_> {
    fn drop(&mut self) {
        let has_results = locked(&self.1).has_results;
        if let Some(folder) = self.0.filter(|_| has_results) {
            let folder = folder.display();
            say(
                "INFO",
                &format!("bioxen: what is done stays in {folder}; --resume goes on there"),
            );
        }
    }
}

/// Tells what goes on until the run has ended: a bar where somebody looks, else lines.
pub(super) async fn tell(
    mut events: broadcast::Receiver<MapEvent>,
    as_json: bool,
    progress: Shared,
) -> anyhow::Result<()> {
    loop {
        let event = match events.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return Ok(()),
        };
        locked(&progress).has_results |= match event {
            MapEvent::Split { done, .. } => done > 0,
            MapEvent::Finished { .. } => true,
            _ => false,
        };
        if as_json {
            print(&format!("{}\n", serde_json::to_string(&event)?))?;
        } else {
            locked(&progress).tell(&event);
        }
    }
}

/// Progress, which goes from the terminal with this.
pub(super) struct Bar(Shared);

impl Bar {
    pub(super) fn new(is_drawn: bool) -> Self {
        Self(Arc::new(Mutex::new(Progress {
            is_drawn,
            ..Progress::default()
        })))
    }

    pub(super) fn progress(&self) -> Shared {
        Arc::clone(&self.0)
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        let mut progress = locked(&self.0);
        progress.is_over = true;
        if progress.is_drawn {
            draw("");
        }
    }
}

pub(super) fn locked(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Progress on a terminal in one line, beneath what is told; without a terminal, lines only.
#[derive(Default)]
pub(super) struct Progress {
    is_drawn: bool,
    /// Whether a shard is done, so that there is something to go on with.
    has_results: bool,
    /// Whether no more is to be told.
    is_over: bool,
    done: usize,
    of: usize,
    /// How many VMs have been made.
    vms: usize,
    busy: usize,
    /// How programs failed, as far as it was told whole, and on which shard first.
    failures: BTreeMap<String, String>,
}

/// Progress, as those share it who tell of it.
pub(super) type Shared = Arc<Mutex<Progress>>;

impl Progress {
    fn tell(&mut self, event: &MapEvent) {
        if self.is_over {
            return;
        }
        match event {
            MapEvent::Split { shards, done, .. } => (self.done, self.of) = (*done, *shards),
            MapEvent::Ready { .. } => self.vms += 1,
            MapEvent::Started { .. } => self.busy += 1,
            MapEvent::Finished { done, .. } => {
                self.done = *done;
                self.busy = self.busy.saturating_sub(1);
            }
            MapEvent::Retried { .. } => self.busy = self.busy.saturating_sub(1),
            _ => {}
        }
        let is_told = match event {
            MapEvent::Started { .. } => false,
            // The bar shows these.
            MapEvent::Finished { .. } | MapEvent::Ready { .. } | MapEvent::Gathering => {
                !self.is_drawn
            }
            _ => true,
        };
        let line = self.line(event);
        if !self.is_drawn {
            if is_told {
                say("INFO", &line);
            }
            return;
        }
        let mut text = String::new();
        if is_told {
            text.push_str(&format!("{line}\n"));
        }
        if !matches!(event, MapEvent::Gathering) {
            let (done, of, busy) = (self.done, self.of, self.busy);
            let now = match self.vms {
                0 => "making VMs".to_owned(),
                _ => format!("{busy} running"),
            };
            let numbers = format!("{done} of {of} shards, {now}");
            text.push_str(&bar(done, of, room().saturating_sub(numbers.len())));
            text.push_str(&numbers);
        }
        draw(&text);
    }

    /// What is told of an event. How programs fail is told whole the first time only: a program that
    /// lacks something lacks it in every VM.
    fn line(&mut self, event: &MapEvent) -> String {
        match event {
            MapEvent::Retried {
                shard, reason, vm, ..
            } if reason.contains('\n') => match self.failures.entry(essence(reason)) {
                Entry::Vacant(new) => {
                    new.insert(MapEvent::name(*shard));
                    event.to_string()
                }
                Entry::Occupied(known) => format!(
                    "{} failed in {vm} as {} did, and is tried elsewhere",
                    MapEvent::name(*shard),
                    known.get()
                ),
            },
            _ => event.to_string(),
        }
    }

    /// An error without the details of how a program failed, where these were told.
    pub(super) fn shortened(&self, error: String) -> String {
        let short = essence(&error);
        if !self.failures.keys().any(|known| short.ends_with(known)) {
            return error;
        }
        let short = short.trim_end_matches(TRACEBACK).trim_end();
        short.trim_end_matches(':').to_owned()
    }
}

/// A bar for what has this much room before the numbers, unless that is too little to see anything in.
fn bar(done: usize, of: usize, room: usize) -> String {
    const FRAME: usize = "[] ".len();
    let width = room.saturating_sub(FRAME).min(32);
    if width < 4 {
        return String::new();
    }
    let filled = width * done / of.max(1);
    format!("[{}{}] ", "#".repeat(filled), "-".repeat(width - filled))
}

/// The line after which Lua tells where a program was.
const TRACEBACK: &str = "stack traceback:";

/// How a program failed, without what follows a line in deeper ones: where it was, and where it looked
/// for modules, which is another place in every VM.
fn essence(reason: &str) -> String {
    let is_detail = |line: &&str| line.starts_with(char::is_whitespace);
    let lines: Vec<_> = reason.lines().filter(|line| !is_detail(line)).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retried(shard: usize, reason: &str) -> MapEvent {
        MapEvent::Retried {
            shard: Some(shard),
            vm: format!("map-{shard}"),
            reason: reason.to_owned(),
            lost: false,
        }
    }

    #[test]
    fn what_fails_alike_in_many_vms_is_told_whole_once() {
        let failure = |vm| {
            format!(
                "exit code 1: lua: p.lua:1: module 'x' not found:\n\tno file '/tmp/{vm}/x.lua'\n\
                 stack traceback:\n\t[C]: in ?"
            )
        };
        let mut progress = Progress::default();
        let first = progress.line(&retried(1, &failure("a")));
        assert!(first.contains("'/tmp/a/x.lua'"), "{first}");
        assert_eq!(
            progress.line(&retried(2, &failure("b"))),
            "shard 2 failed in map-2 as shard 1 did, and is tried elsewhere"
        );
        let other = progress.line(&retried(3, "exit code 1: lua: y\nstack traceback:\n\tz"));
        assert!(other.contains("\tz"), "{other}");
        assert_eq!(
            progress.shortened(format!("the program on shard 2 failed: {}", failure("c"))),
            "the program on shard 2 failed: exit code 1: lua: p.lua:1: module 'x' not found"
        );
        let unknown = "another: exit code 1: lua: w\nstack traceback:\n\tv".to_owned();
        assert_eq!(progress.shortened(unknown.clone()), unknown);
    }
}
