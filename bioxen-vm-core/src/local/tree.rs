//! Ends processes together with everything that they started.

use std::collections::{HashMap, HashSet};
use std::fs;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid, getpid};

/// Kills a process of this user with everything that descends from it, and with its process group
/// if it leads one.
///
/// A process whose parent has ended descends from the nearest ancestor that is a child subreaper
/// (`prctl(2)`), and otherwise from `init`: it is found when the given process is a subreaper. This
/// process is spared, also where it descends from the given one.
///
/// Blocks for the time that some passes over `/proc` take, some milliseconds. Where that cannot be
/// read only the process and its group are killed.
pub fn end_tree(pid: i32) {
    let root = Pid::from_raw(pid);
    // What is gone needs no ending, and there is nothing else that a signal could fail of.
    let signal = |signal| {
        let _ = match getpgid(Some(root)) {
            Ok(group) if group == root => killpg(root, signal),
            _ => kill(root, signal),
        };
    };
    // What stands still starts no other process, and does not see what it has started end.
    signal(Signal::SIGSTOP);
    end_descendants(pid);
    signal(Signal::SIGKILL);
}

/// Kills everything that descends from a process, and spares that process and this one.
///
/// What it finds is what [`end_tree`] finds.
pub fn end_descendants(pid: i32) {
    let mut seen = HashSet::new();
    // What escaped a pass was started during it, by a process that the pass saw for the first time,
    // dead or alive: one that was killed before starts no other. Those that have ended stay to be
    // seen until the given process takes notice of them.
    while kill_those_there(pid, &mut seen) {}
}

/// How many living processes descend from a process.
#[must_use]
pub fn count_descendants(pid: i32) -> usize {
    let mut known = HashMap::new();
    let living = pids().filter(|candidate| {
        look_up(&mut known, *candidate).is_some_and(|process| process.alive)
            && descends(&mut known, *candidate, pid)
    });
    living.count()
}

/// The child of a process that was started first, if it has any.
#[must_use]
pub fn eldest_child(pid: i32) -> Option<i32> {
    let mut children: Vec<_> = pids()
        .filter_map(|child| Some((Process::read(child)?, child)))
        .filter(|(process, _)| process.parent == pid && process.alive)
        .collect();
    children.sort_by_key(|(process, child)| (process.started, *child));
    children.first().map(|(_, child)| *child)
}

/// The ids of all processes.
fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Makes one pass, and tells whether there was a process that had not been seen before.
fn kill_those_there(root: i32, seen: &mut HashSet<(i32, u64)>) -> bool {
    let own = getpid().as_raw();
    let mut pids: Vec<i32> = pids().filter(|pid| *pid != own).collect();
    // The newest first, before they are gone and others in their place.
    pids.sort_unstable_by(|a, b| b.cmp(a));
    let mut known = HashMap::new();
    let mut news = false;
    let mut held = Vec::new();
    for pid in pids {
        let Some(process) = look_up(&mut known, pid) else {
            continue;
        };
        if descends(&mut known, pid, root) && seen.insert((pid, process.started)) {
            news = true;
            // Those that stand still do not see each other end, and do nothing about it. Any may
            // have ended by now.
            if process.alive && kill(Pid::from_raw(pid), Signal::SIGSTOP).is_ok() {
                held.push(pid);
            }
        }
    }
    for pid in held {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    news
}

/// What `/proc` says of a process.
#[derive(Debug, Clone, Copy)]
struct Process {
    parent: i32,
    /// Whether it still runs, and is not only to be noticed by its parent.
    alive: bool,
    /// When it started, in clock ticks since boot: with the number, its identity.
    started: u64,
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        // The name of the program comes second, in parentheses, and may hold anything.
        let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(stat.get(end_of_name + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        let started = fields.nth(17)?.parse().ok()?;
        Some(Self {
            parent,
            alive: !matches!(state, "Z" | "X"),
            started,
        })
    }
}

fn look_up(known: &mut HashMap<i32, Process>, pid: i32) -> Option<Process> {
    if let Some(process) = known.get(&pid) {
        return Some(*process);
    }
    let process = Process::read(pid)?;
    known.insert(pid, process);
    Some(process)
}

fn descends(known: &mut HashMap<i32, Process>, pid: i32, root: i32) -> bool {
    let mut at = pid;
    loop {
        let Some(parent) = look_up(known, at).map(|process| process.parent) else {
            return false;
        };
        if parent == root {
            return true;
        }
        if parent <= 1 {
            return false;
        }
        if look_up(known, parent).is_some() {
            at = parent;
            continue;
        }
        // The parent has ended since this process was read, which has another one now.
        match Process::read(at) {
            Some(now) if now.parent != parent => known.insert(at, now),
            _ => return false,
        };
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_tree_ends_with_those_in_it_that_left_the_group_or_ignore_signals() {
        let mut child = Command::new("sh")
            .args([
                "-c",
                "trap '' TERM HUP INT; setsid sh -c 'trap \"\" TERM; echo $$; sleep 3600' & \
                 sh -c 'echo $$; exec sleep 3600' & echo $$; wait",
            ])
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let pids: Vec<i32> = lines.take(3).map(|l| l.unwrap().parse().unwrap()).collect();
        let shell = i32::try_from(child.id()).unwrap();
        assert!((3..=4).contains(&count_descendants(shell)));
        end_tree(shell);
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        for pid in pids {
            while Process::read(pid).is_some_and(|process| process.alive) {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn the_name_of_a_program_does_not_confuse() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join(") Z 1 (\u{fc}");
        fs::copy("/bin/sleep", &odd).unwrap();
        let mut child = Command::new(&odd).arg("3600").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = Process::read(pid).unwrap();
        assert_eq!((process.parent, process.alive), (getpid().as_raw(), true));
        end_tree(pid);
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
}
