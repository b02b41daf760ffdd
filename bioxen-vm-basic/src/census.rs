//! Looks, while a program runs, at what no limit of the kernel counts for a program alone: how many
//! processes it has, and how much it keeps on disk.
//!
//! The kernel counts processes by user or by control group, both with threads and with more than the
//! program's; quotas of disks take rights that a user does not have. Nothing tells when a process or a
//! file is made. So this looks ten times a second, and more seldom where looking takes long. What a
//! program does between two looks passes; processes that double faster than this gets a turn are held
//! by the kernel (`group.rs`).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Thread, park, park_timeout};
use std::time::{Duration, Instant};

use bioxen_vm_core::local::count_descendants;
use nix::unistd::getpid;

use crate::link;
use crate::orders::Orders;

/// How long after one look the next one comes, at least.
const INTERVAL: Duration = Duration::from_millis(100);

/// Looking takes at most one part in so many of the time.
const SHARE: u32 = 20;

/// Knows whether a program runs.
#[derive(Debug, Clone)]
pub(crate) struct Census {
    thread: Option<Thread>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Whether a program runs.
    busy: AtomicBool,
    /// Whether nobody looks, because none ran at the last look.
    asleep: AtomicBool,
}

impl Census {
    /// Begins to look, unless nothing is limited. Calls `tell` with the ending of a program that has
    /// too much, and looks no more. To be called before the walls are raised.
    pub(crate) fn take(
        orders: &Orders,
        tell: impl FnOnce(i32) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let limits = Limited {
            processes: orders.limits.processes,
            disk: orders.limits.disk,
            folders: orders.folders.clone(),
        };
        let thread = match limits.any() {
            false => None,
            true => {
                let shared = Arc::clone(&shared);
                let started = std::thread::Builder::new()
                    .name("census".into())
                    .stack_size(48 << 10)
                    .spawn(move || tell(limits.watch(&shared)))?;
                Some(started.thread().clone())
            }
        };
        Ok(Self { thread, shared })
    }

    /// A program begins.
    pub(crate) fn begin(&self) {
        self.shared.busy.store(true, Ordering::SeqCst);
        if let Some(thread) = &self.thread
            && self.shared.asleep.load(Ordering::SeqCst)
        {
            thread.unpark();
        }
    }

    /// It has ended. Tells whether it has, and was not found to have too much just before.
    #[must_use]
    pub(crate) fn end(&self) -> bool {
        self.shared.busy.swap(false, Ordering::SeqCst)
    }
}

/// What is limited.
#[derive(Debug)]
struct Limited {
    processes: Option<usize>,
    disk: Option<u64>,
    folders: Vec<PathBuf>,
}

impl Limited {
    fn any(&self) -> bool {
        self.processes.is_some() || self.disk.is_some()
    }

    /// Looks until a program has too much, and returns its ending.
    fn watch(&self, shared: &Shared) -> i32 {
        let mut last = None;
        loop {
            if !shared.busy.load(Ordering::SeqCst) {
                shared.asleep.store(true, Ordering::SeqCst);
                // One that began before it could see that wakes nobody.
                while !shared.busy.load(Ordering::SeqCst) {
                    park();
                }
                shared.asleep.store(false, Ordering::SeqCst);
                last = None;
            }
            let before = Instant::now();
            if let Some(ending) = self.look(&mut last)
                && shared.busy.swap(false, Ordering::SeqCst)
            {
                return ending;
            }
            park_timeout(INTERVAL.max(before.elapsed() * SHARE));
        }
    }

    /// What is wrong, knowing what the folders took at the last look at this program.
    fn look(&self, last: &mut Option<u64>) -> Option<i32> {
        if let Some(limit) = self.processes
            && count_descendants(getpid().as_raw()) > limit
        {
            return Some(link::TOO_MANY_PROCESSES);
        }
        if let Some(limit) = self.disk {
            let size = self.folders.iter().map(|folder| size_of(folder)).sum();
            // Who finds a full VM may work in it, and make room.
            let has_grown = last.replace(size).is_some_and(|last| size > last);
            if size > limit && has_grown {
                return Some(link::TOO_MUCH_ON_DISK);
            }
        }
        None
    }
}

/// The processes and threads of this user, which the kernel counts together.
pub(crate) fn of_this_user() -> u64 {
    let Ok(own) = fs::metadata("/proc/self") else {
        return 0;
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let name = entry.file_name();
            name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
                && entry.metadata().is_ok_and(|other| other.uid() == own.uid())
        })
        // A folder has a link for each folder in it, and two more.
        .filter_map(|entry| fs::metadata(entry.path().join("task")).ok())
        .map(|task| task.nlink().saturating_sub(2))
        .sum()
}

/// The bytes that a folder takes on disk. What vanishes meanwhile counts nothing.
fn size_of(folder: &Path) -> u64 {
    let mut size = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        for entry in entries {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            // An empty file takes its place in the tables of the file system.
            size += (metadata.blocks() * 512).max(512);
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threads_of_this_user_are_counted() {
        let barrier = std::sync::Barrier::new(11);
        std::thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| barrier.wait());
            }
            assert!(of_this_user() > 10);
            barrier.wait();
        });
    }

    #[test]
    fn all_that_a_folder_holds_counts_also_what_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("full"), vec![1; 1 << 20]).unwrap();
        for i in 0..100 {
            fs::write(dir.path().join(i.to_string()), "").unwrap();
        }
        let size = size_of(dir.path());
        assert!(size >= (1 << 20) + 100 * 512, "{size}");
    }
}
