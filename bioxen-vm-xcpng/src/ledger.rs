//! What runs of this program have made on pools and not yet removed, on disk: so that what a killed
//! one has left can be told from what a living one uses.
//!
//! Each run has a file, `<run>.run`, which it holds locked; the kernel takes the lock away when the
//! process ends, however it ends. The file has one JSON object to a line, written before the call to
//! the pool that it is about. It goes when nothing that it names is left.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};

const SUFFIX: &str = ".run";

/// A call that a killed run had sent may still be at work on the pool for this long. Its file is
/// kept until then, unless what it was about to make has been found.
const AFTERMATH: Duration = Duration::from_secs(3600);

/// A line of a run's file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Entry {
    /// Where the run makes things.
    Hosts(Vec<String>),
    /// A VM that is about to be made under this name, with all that belongs to it.
    Making(String),
    /// The session that the run works in. Whoever has it can do what the run could, for as long as it
    /// lives; the file is as private as a password is.
    Session(#[serde(serialize_with = "expose")] SecretString),
    /// The VM that was made under this name is gone again.
    Removed(String),
}

fn expose<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}

/// The file of the run that this process is.
#[derive(Debug)]
pub(crate) struct Ledger {
    run: String,
    /// Absent where there is no directory for it.
    book: Option<Arc<Mutex<Book>>>,
}

#[derive(Debug)]
struct Book {
    path: PathBuf,
    file: Flock<File>,
    /// What has been made and not been removed.
    open: BTreeSet<String>,
}

impl Ledger {
    /// Begins the file of a run. Blocks for as long as the file system takes.
    pub(crate) fn begin(run: String, dir: Option<&Path>, hosts: &[String]) -> io::Result<Self> {
        let Some(dir) = dir else {
            return Ok(Self { run, book: None });
        };
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let path = dir.join(format!("{run}{SUFFIX}"));
        // Somebody who collects may come between the making and the locking.
        let file = loop {
            let mut options = OpenOptions::new();
            let file = options.append(true).create(true).mode(0o600).open(&path)?;
            let file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
            let ours = file.metadata()?.ino();
            if fs::metadata(&path).is_ok_and(|named| named.ino() == ours) {
                break file;
            }
        };
        let mut book = Book {
            path,
            file,
            open: BTreeSet::new(),
        };
        book.write(&Entry::Hosts(hosts.to_vec()))?;
        Ok(Self {
            run,
            book: Some(Arc::new(Mutex::new(book))),
        })
    }

    pub(crate) fn run(&self) -> &str {
        &self.run
    }

    /// Notes something, on disk when this returns.
    pub(crate) async fn note(&self, entry: Entry) -> io::Result<()> {
        let Some(book) = &self.book else {
            return Ok(());
        };
        let book = Arc::clone(book);
        let write = move || {
            let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
            book.write(&entry)
        };
        let written = tokio::task::spawn_blocking(write).await;
        written.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

impl Book {
    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        match entry {
            Entry::Making(name) => drop(self.open.insert(name.clone())),
            Entry::Removed(name) => drop(self.open.remove(name)),
            Entry::Hosts(_) | Entry::Session(_) => {}
        }
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.file.sync_data()
    }
}

impl Drop for Book {
    fn drop(&mut self) {
        // A file that is left says that something is.
        if self.open.is_empty()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the record of this run");
        }
    }
}

/// What is known here of a run.
#[derive(Debug)]
pub(crate) enum Life {
    /// Its process lives.
    Alive,
    /// Its process has ended, and what it made may be removed.
    Dead,
    /// It was on another machine, or there is no record of it.
    Unknown,
}

/// The ended runs of this machine, held so that nobody else collects what they left meanwhile.
#[derive(Debug, Default)]
pub(crate) struct EndedRuns {
    runs: Vec<EndedRun>,
    alive: BTreeSet<String>,
}

#[derive(Debug)]
struct EndedRun {
    run: String,
    path: PathBuf,
    file: Flock<File>,
    entries: Vec<Entry>,
}

impl EndedRuns {
    /// Looks at all runs. Blocks for as long as the file system takes.
    pub(crate) fn read(dir: Option<&Path>) -> io::Result<Self> {
        let mut all = Self::default();
        let Some(dir) = dir else { return Ok(all) };
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(all),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some(run) = name.strip_suffix(SUFFIX).map(str::to_owned) else {
                continue;
            };
            let file = match File::open(&path) {
                // It ended in order just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file?,
            };
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => {
                    let text = fs::read_to_string(&path)?;
                    // The last line of a killed run may be cut short.
                    let lines = text
                        .lines()
                        .filter_map(|line| serde_json::from_str(line).ok());
                    all.runs.push(EndedRun {
                        run,
                        path: path.clone(),
                        file,
                        entries: lines.collect(),
                    });
                }
                Err((_, nix::errno::Errno::EWOULDBLOCK)) => drop(all.alive.insert(run)),
                Err((_, errno)) => return Err(errno.into()),
            }
        }
        Ok(all)
    }

    pub(crate) fn life(&self, run: &str) -> Life {
        if self.alive.contains(run) {
            Life::Alive
        } else if self.runs.iter().any(|ended| ended.run == run) {
            Life::Dead
        } else {
            Life::Unknown
        }
    }

    /// The sessions that runs at these hosts worked in, each with its run.
    pub(crate) fn sessions(&self, hosts: &[String]) -> Vec<(String, SecretString)> {
        let there = self.runs.iter().filter(|ended| ended.is_at(hosts));
        there
            .flat_map(|ended| {
                ended.entries.iter().filter_map(|entry| match entry {
                    Entry::Session(session) => Some((ended.run.clone(), session.clone())),
                    _ => None,
                })
            })
            .collect()
    }

    /// Forgets the runs of which nothing is left on the pool of these hosts, given of which runs a VM
    /// was removed, one entry for each.
    pub(crate) fn forget(self, hosts: &[String], removed: &[String]) -> io::Result<()> {
        for ended in self.runs {
            if ended.is_at(hosts) && ended.is_settled(removed)? {
                fs::remove_file(&ended.path)?;
            }
        }
        Ok(())
    }
}

impl EndedRun {
    fn is_at(&self, hosts: &[String]) -> bool {
        self.entries.iter().any(|entry| match entry {
            Entry::Hosts(of_run) => of_run.iter().any(|host| hosts.contains(host)),
            _ => false,
        })
    }

    fn is_settled(&self, removed: &[String]) -> io::Result<bool> {
        let mut open = BTreeSet::new();
        for entry in &self.entries {
            match entry {
                Entry::Making(name) => drop(open.insert(name)),
                Entry::Removed(name) => drop(open.remove(name)),
                Entry::Hosts(_) | Entry::Session(_) => {}
            }
        }
        let found = removed.iter().filter(|run| **run == self.run).count();
        let age = self.file.metadata()?.modified()?.elapsed();
        Ok(found >= open.len() || age.is_ok_and(|age| age > AFTERMATH))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Vec<String> {
        vec!["pool".into()]
    }

    fn begin(dir: &Path, run: &str) -> Ledger {
        Ledger::begin(run.into(), Some(dir), &hosts()).unwrap()
    }

    fn files(dir: &Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    /// What a killed process leaves: the file, without the lock.
    fn kill(ledger: Ledger) {
        let book = Arc::into_inner(ledger.book.unwrap()).unwrap();
        let mut book = book.into_inner().unwrap();
        book.open.insert("not removed".into());
    }

    #[tokio::test]
    async fn a_run_that_leaves_nothing_leaves_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("deep/state");
        let ledger = begin(&dir, "a");
        ledger.note(Entry::Making("vm".into())).await.unwrap();
        assert!(matches!(
            EndedRuns::read(Some(&dir)).unwrap().life("a"),
            Life::Alive
        ));
        ledger.note(Entry::Removed("vm".into())).await.unwrap();
        drop(ledger);
        assert_eq!(files(&dir), 0);
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
    }

    #[tokio::test]
    async fn a_killed_run_is_dead_and_forgotten_once_what_it_made_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let ledger = begin(dir, "a");
        ledger.note(Entry::Making("vm".into())).await.unwrap();
        kill(ledger);
        let ended = EndedRuns::read(Some(dir)).unwrap();
        assert!(matches!(ended.life("a"), Life::Dead));
        assert!(matches!(ended.life("b"), Life::Unknown));
        assert!(
            matches!(EndedRuns::read(Some(dir)).unwrap().life("a"), Life::Alive),
            "somebody collects already"
        );
        // Nothing was found yet, or on another pool: it may still come.
        ended.forget(&hosts(), &[]).unwrap();
        let ended = EndedRuns::read(Some(dir)).unwrap();
        ended.forget(&["other".into()], &["a".into()]).unwrap();
        assert_eq!(files(dir), 1);
        let ended = EndedRuns::read(Some(dir)).unwrap();
        ended.forget(&hosts(), &["a".into()]).unwrap();
        assert_eq!(files(dir), 0);
    }

    #[tokio::test]
    async fn without_a_directory_nothing_is_kept_and_nothing_known() {
        let ledger = Ledger::begin("a".into(), None, &hosts()).unwrap();
        ledger.note(Entry::Making("vm".into())).await.unwrap();
        let ended = EndedRuns::read(None).unwrap();
        assert!(matches!(ended.life("a"), Life::Unknown));
        let absent = EndedRuns::read(Some(Path::new("/no/such/folder"))).unwrap();
        assert!(matches!(absent.life("a"), Life::Unknown));
    }
}
