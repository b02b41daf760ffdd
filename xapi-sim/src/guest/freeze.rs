//! Guests that stand still: all their processes are stopped, and go on where they were.
//!
//! Processes are found as descendants of the guest's supervisor. Those that the guest itself has
//! stopped stay stopped afterwards.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often one looks whether all have stopped, a millisecond apart. A process that writes to a
/// slow disk takes its time, and no event tells of its stop to one who is not its parent.
const ROUNDS: u32 = 1000;

/// Stops the processes of a guest and lets them go on.
#[derive(Debug)]
pub(crate) struct Freezer {
    supervisor: i32,
    /// Whether the supervisor's children are part of the machinery and not of the guest.
    is_namespaced: bool,
    /// What the environment of those has that have left the line of descent.
    mark: Option<Vec<u8>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many want the guest to stand still.
    holders: u32,
    /// Who was stopped for them, ancestors first.
    stopped: Vec<i32>,
}

impl Freezer {
    pub(super) fn new(supervisor: u32, is_namespaced: bool, mark: Option<String>) -> Self {
        Self {
            supervisor: supervisor.cast_signed(),
            is_namespaced,
            mark: mark.map(String::into_bytes),
            state: Mutex::default(),
        }
    }

    /// Stops the guest, or keeps it stopped. Blocks until all its processes stand still.
    #[allow(
        clippy::disallowed_methods,
        reason = "no event tells of the stop of somebody else's child, and this thread may block"
    )]
    pub(crate) fn freeze(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.holders += 1;
        if state.holders > 1 {
            return;
        }
        for _ in 0..ROUNDS {
            let moving: Vec<i32> = self.members().into_iter().filter(is_moving).collect();
            if moving.is_empty() {
                return;
            }
            // Those that were started during the last round are among them.
            for process in moving {
                if kill(Pid::from_raw(process), Signal::SIGSTOP).is_ok()
                    && !state.stopped.contains(&process)
                {
                    state.stopped.push(process);
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        tracing::warn!("some processes of a guest do not stop");
    }

    /// Undoes one [`freeze`](Self::freeze).
    pub(crate) fn thaw(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.holders = state.holders.saturating_sub(1);
        if state.holders > 0 {
            return;
        }
        // Children first, as a shell that sees its child stopped would take the terminal back.
        for process in state.stopped.drain(..).rev() {
            // It may have been killed meanwhile.
            let _ = kill(Pid::from_raw(process), Signal::SIGCONT);
        }
    }

    /// The processes of the guest, ancestors first.
    fn members(&self) -> Vec<i32> {
        let processes: Vec<(i32, i32)> = all().filter_map(|id| Some((id, parent(id)?))).collect();
        let mut members = vec![self.supervisor];
        let mut next = 0;
        while let Some(&one) = members.get(next) {
            next += 1;
            let children = processes.iter().filter(|(_, parent)| *parent == one);
            members.extend(children.map(|(id, _)| *id));
        }
        let machinery = |id: i32| {
            id == self.supervisor || (self.is_namespaced && parent(id) == Some(self.supervisor))
        };
        members.retain(|id| !machinery(*id));
        if let Some(mark) = &self.mark {
            let left = processes
                .iter()
                .map(|(id, _)| *id)
                .filter(|id| !members.contains(id) && *id != self.supervisor && carries(*id, mark));
            let left: Vec<i32> = left.collect();
            members.extend(left);
        }
        members
    }
}

/// A guest that stands still until this is dropped.
#[derive(Debug)]
pub(crate) struct Frozen(Arc<Freezer>);

impl Frozen {
    /// Blocks.
    pub(crate) fn new(freezer: Arc<Freezer>) -> Self {
        freezer.freeze();
        Self(freezer)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.thaw();
    }
}

fn all() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// State and parent of a process, from behind its name, which may hold anything.
fn stat(process: i32) -> Option<(char, i32)> {
    let text = fs::read(format!("/proc/{process}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let (_, rest) = text.rsplit_once(')')?;
    let mut words = rest.split_whitespace();
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

fn parent(process: i32) -> Option<i32> {
    stat(process).map(|(_, parent)| parent)
}

fn is_moving(process: &i32) -> bool {
    stat(*process).is_some_and(|(state, _)| !matches!(state, 'T' | 't' | 'Z' | 'X'))
}

fn carries(process: i32, mark: &[u8]) -> bool {
    let environment = fs::read(Path::new("/proc").join(process.to_string()).join("environ"));
    environment.is_ok_and(|text| text.split(|byte| *byte == 0).any(|entry| entry == mark))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// A shell with a child, of which both can be asked for their state.
    #[test]
    fn all_stop_and_those_that_had_stopped_stay_so() {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", "sleep 60 & echo $!; sleep 61 & echo $!; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = std::io::BufReader::new(shell.stdout.take().unwrap());
        let mut child = || {
            let mut line = String::new();
            std::io::BufRead::read_line(&mut output, &mut line).unwrap();
            line.trim().parse::<i32>().unwrap()
        };
        let (first, second) = (child(), child());
        kill(Pid::from_raw(second), Signal::SIGSTOP).unwrap();
        while is_moving(&second) {
            std::thread::yield_now();
        }

        let freezer = Freezer::new(shell.id(), false, None);
        freezer.freeze();
        freezer.freeze();
        assert!(!is_moving(&first));
        freezer.thaw();
        assert!(!is_moving(&first), "somebody else still wants it to stand");
        freezer.thaw();
        assert!(is_moving(&first));
        assert!(!is_moving(&second), "its own stop is its own affair");

        for process in [first, second] {
            kill(Pid::from_raw(process), Signal::SIGKILL).unwrap();
        }
        shell.wait().unwrap();
    }
}
