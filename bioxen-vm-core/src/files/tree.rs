//! Folders: what differs is copied.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::local::Found;
use super::there::{Codes, encoded};
use super::{Files, here, internal};
use crate::{Error, ErrorKind, Result};

/// How many files are on their way at once.
const AT_ONCE: usize = 4;

/// How many bytes of names one command is given.
const NAMES: usize = 64 * 1024;

/// What bringing a folder up to date did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Synced {
    /// How many files were copied.
    pub copied: usize,
    /// How many bytes these have.
    pub bytes: u64,
    /// How many of them were there already, from a transfer that broke off.
    pub resumed: u64,
    /// How many files were as they should be, or differed in their permissions only.
    pub unchanged: usize,
    /// How many files and folders were removed because the source has none of that name.
    pub removed: usize,
    /// What was left out: symbolic links, devices, sockets. Paths from the folder on.
    pub skipped: Vec<PathBuf>,
}

type Tree = BTreeMap<PathBuf, Entry>;

#[derive(Debug, Clone, PartialEq)]
enum Entry {
    Folder {
        mode: u32,
    },
    File {
        mode: u32,
        size: u64,
        /// Told for files of the other machine only.
        sum: Option<String>,
    },
    Other,
}

impl Entry {
    fn mode(&self) -> u32 {
        match self {
            Self::Folder { mode } | Self::File { mode, .. } => *mode,
            Self::Other => 0,
        }
    }

    fn is_folder(&self) -> bool {
        matches!(self, Self::Folder { .. })
    }
}

/// What is to be done to a folder.
#[derive(Debug, Default)]
struct Changes {
    remove: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    copy: Vec<PathBuf>,
    /// How many bytes the files to copy have.
    bytes: u64,
    modes: Vec<(u32, PathBuf)>,
    done: Synced,
}

impl Files {
    /// Brings a folder of the other machine up to date with one of this machine: copies the files
    /// that differ in size or content, makes folders, and sets permissions. With `delete` it also
    /// removes what this machine does not have. What has to give way to a thing of another kind is
    /// removed only with `delete` too.
    ///
    /// # Errors
    /// As [`put`](Self::put). What was copied before stays.
    ///
    /// # Cancel safety
    /// After a dropped future each file is either as before or as it should be.
    pub async fn push(&self, local: &Path, remote: &Path, delete: bool) -> Result<Synced> {
        let ours = walk(local).await?;
        let theirs = match self.list(remote).await {
            Err(Codes::Code(10, _)) => None,
            result => Some(result.map_err(|code| self.explain("push", remote, code))?),
        };
        let is_new = theirs.is_none();
        let theirs = theirs.unwrap_or_default();
        let root = local.to_owned();
        let compared = tokio::task::spawn_blocking(move || {
            compare(&ours, &theirs, delete, |path| {
                Found::at_once(&root.join(path)).map(|found| found.sum)
            })
        });
        let compared = compared.await.map_err(internal)?;
        let mut changes =
            compared.map_err(|(path, error)| here("push", &local.join(path), error))?;
        changes.folders.insert(0, PathBuf::new());
        if is_new {
            let about = fs::metadata(local).map_err(|error| here("push", local, error))?;
            let mode = about.permissions().mode() & 0o7777;
            changes.modes.push((mode, PathBuf::new()));
        }
        let told = |code| self.explain("push", remote, code);
        let removals = changes
            .remove
            .iter()
            .map(|path| ("remove".to_owned(), path));
        self.change(remote, removals).await.map_err(told)?;
        let folders = changes.folders.iter().map(|path| ("make".to_owned(), path));
        self.change(remote, folders).await.map_err(told)?;
        let announced = self.announced(&changes);
        let files = changes.copy.iter().map(|path| {
            let (files, from, to) = (announced.clone(), local.join(path), remote.join(path));
            async move { files.put(&from, &to).await }
        });
        (changes.done.bytes, changes.done.resumed) = at_once(files).await?;
        let modes = changes
            .modes
            .iter()
            .map(|(mode, path)| (format!("{mode:o}"), path));
        self.change(remote, modes).await.map_err(told)?;
        Ok(changes.done)
    }

    /// Brings a folder of this machine up to date with one of the other machine, as
    /// [`push`](Self::push) does the other way round.
    ///
    /// # Errors
    /// As [`get`](Self::get). What was copied before stays.
    ///
    /// # Cancel safety
    /// As of [`push`](Self::push).
    pub async fn pull(&self, remote: &Path, local: &Path, delete: bool) -> Result<Synced> {
        let told = |code| self.explain("get", remote, code);
        let theirs = self.list(remote).await.map_err(told)?;
        let ours = match local.exists() {
            true => walk(local).await?,
            false => Tree::new(),
        };
        let root = local.to_owned();
        let compared = tokio::task::spawn_blocking(move || {
            let ours = summed(ours, &theirs, &root);
            compare(&theirs, &ours, delete, |path| match theirs.get(path) {
                Some(Entry::File { sum: Some(sum), .. }) => Ok(sum.clone()),
                _ => Err(io::ErrorKind::NotFound.into()),
            })
        });
        let compared = compared.await.map_err(internal)?;
        let mut changes =
            compared.map_err(|(path, error)| here("get", &local.join(path), error))?;
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| here("get", &path, error)
        };
        for path in &changes.remove {
            let path = local.join(path);
            let removed = match path.symlink_metadata().is_ok_and(|about| about.is_dir()) {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            removed.map_err(failed(&path))?;
        }
        fs::create_dir_all(local).map_err(failed(local))?;
        for path in &changes.folders {
            fs::create_dir(local.join(path)).map_err(failed(&local.join(path)))?;
        }
        let announced = self.announced(&changes);
        let files = changes.copy.iter().map(|path| {
            let (files, from, to) = (announced.clone(), remote.join(path), local.join(path));
            async move { files.get(&from, &to).await }
        });
        (changes.done.bytes, changes.done.resumed) = at_once(files).await?;
        for (mode, path) in &changes.modes {
            let path = local.join(path);
            let mode = fs::Permissions::from_mode(*mode);
            fs::set_permissions(&path, mode).map_err(failed(&path))?;
        }
        Ok(changes.done)
    }

    /// These files, counting copies that their totals have already.
    fn announced(&self, changes: &Changes) -> Self {
        let files = changes.copy.len() as u64;
        Self {
            runner: Arc::clone(&self.runner),
            counter: self.counter.announce(files, changes.bytes),
        }
    }

    async fn list(&self, remote: &Path) -> std::result::Result<Tree, Codes> {
        let list = self.script(include_str!("list.sh"));
        let records = self.ask_bytes(list.arg(encoded(remote))).await?;
        let mut tree = Tree::new();
        for record in records.split(|byte| *byte == 0).filter(|r| !r.is_empty()) {
            let Some((path, entry)) = parse(record) else {
                return Err(Codes::said(String::from_utf8_lossy(record).into_owned()));
            };
            tree.insert(path, entry);
        }
        Ok(tree)
    }

    /// Has things below a folder changed, in order.
    async fn change<'p>(
        &self,
        remote: &Path,
        changes: impl Iterator<Item = (String, &'p PathBuf)>,
    ) -> std::result::Result<(), Codes> {
        let mut changes = changes.peekable();
        while changes.peek().is_some() {
            let mut command = self.script(include_str!("change.sh")).arg(encoded(remote));
            let mut size = 0;
            while size < NAMES
                && let Some((what, path)) = changes.next()
            {
                let path = encoded(path);
                size += path.len();
                command = command.args([what, path]);
            }
            self.ask(command).await?;
        }
        Ok(())
    }
}

/// A record of `list.sh`.
fn parse(record: &[u8]) -> Option<(PathBuf, Entry)> {
    let mut words = record.splitn(5, |byte| *byte == b' ');
    let mut word = || words.next();
    let text = |bytes| std::str::from_utf8(bytes).ok();
    let kind = word()?;
    let mode = u32::from_str_radix(text(word()?)?, 8).ok()?;
    let size = text(word()?)?.parse().ok()?;
    let sum = text(word()?)?.to_owned();
    let path = word()?.strip_prefix(b"./")?;
    let entry = match kind {
        b"d" => Entry::Folder { mode },
        b"f" => Entry::File {
            mode,
            size,
            sum: Some(sum),
        },
        _ => Entry::Other,
    };
    Some((PathBuf::from(OsStr::from_bytes(path)), entry))
}

/// A tree of this machine with the sums of those files that have the size of their counterpart, and
/// so must be read to be told from it.
fn summed(mut tree: Tree, theirs: &Tree, root: &Path) -> Tree {
    for (path, entry) in &mut tree {
        if let Entry::File { size, sum, .. } = entry
            && let Some(Entry::File { size: other, .. }) = theirs.get(path)
            && size == other
        {
            // One that cannot be read is copied anew.
            *sum = Found::at_once(&root.join(path)).map(|found| found.sum).ok();
        }
    }
    tree
}

/// What has to be done to the second tree to make it like the first one, whose sums are asked for
/// where they are needed.
fn compare(
    wanted: &Tree,
    there: &Tree,
    delete: bool,
    sum_of: impl Fn(&Path) -> io::Result<String>,
) -> std::result::Result<Changes, (PathBuf, io::Error)> {
    let mut changes = Changes::default();
    let mut removed: Option<&Path> = None;
    for (path, old) in there {
        // What is in a folder that goes, goes with it.
        let gone = removed.is_some_and(|folder| path.starts_with(folder));
        let gives_way = match wanted.get(path) {
            None => true,
            Some(new) => new.is_folder() != old.is_folder(),
        };
        if delete && gives_way {
            changes.done.removed += 1;
            if !gone {
                changes.remove.push(path.clone());
                removed = Some(path);
            }
        }
    }
    for (path, new) in wanted {
        let old = there.get(path);
        match (new, old) {
            (Entry::Other, _) => changes.done.skipped.push(path.clone()),
            (Entry::Folder { .. }, Some(Entry::Folder { .. })) => {}
            (Entry::Folder { .. }, _) => changes.folders.push(path.clone()),
            (
                Entry::File { size, .. },
                Some(Entry::File {
                    size: other,
                    sum: Some(sum),
                    ..
                }),
            ) if size == other && sum_of(path).map_err(|error| (path.clone(), error))? == *sum => {
                changes.done.unchanged += 1;
            }
            (Entry::File { size, .. }, _) => {
                changes.bytes += size;
                changes.done.copied += 1;
                changes.copy.push(path.clone());
                // It arrives with its permissions.
                continue;
            }
        }
        if !matches!(new, Entry::Other) && old.map(Entry::mode) != Some(new.mode()) {
            changes.modes.push((new.mode(), path.clone()));
        }
    }
    // A folder may lose the permission to be written to only when all that is in it is there.
    changes.modes.reverse();
    Ok(changes)
}

/// What is in a folder of this machine.
async fn walk(root: &Path) -> Result<Tree> {
    let root = root.to_owned();
    let walked = tokio::task::spawn_blocking(move || {
        let mut tree = Tree::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let path = root.join(&folder);
            let entries = fs::read_dir(&path).map_err(|error| here("push", &path, error))?;
            for entry in entries {
                let entry = entry.map_err(|error| here("push", &path, error))?;
                let name = folder.join(entry.file_name());
                let about = entry.metadata();
                let about = about.map_err(|error| here("push", &entry.path(), error))?;
                let mode = about.permissions().mode() & 0o7777;
                if about.is_dir() {
                    folders.push(name.clone());
                    tree.insert(name, Entry::Folder { mode });
                } else if about.is_file() {
                    let size = about.len();
                    let file = entry.file_name();
                    let file = file.to_string_lossy();
                    if file.starts_with(".bioxen-") && file.ends_with(".part") {
                        continue;
                    }
                    let sum = None;
                    tree.insert(name, Entry::File { mode, size, sum });
                } else {
                    tree.insert(name, Entry::Other);
                }
            }
        }
        Ok(tree)
    });
    walked.await.map_err(internal)?
}

/// Copies files, some at the same time; gives how many bytes they have, and how many were there.
async fn at_once<F>(copies: impl Iterator<Item = F>) -> Result<(u64, u64)>
where
    F: Future<Output = Result<super::Copied>> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for copy in copies {
        let room = Arc::clone(&room);
        tasks.spawn(async move {
            let _room = room.acquire_owned().await.map_err(|error| {
                // Never closed, so never an error.
                Error::new(ErrorKind::Internal, "no room").with_source(error)
            })?;
            copy.await
        });
    }
    let (mut bytes, mut resumed) = (0, 0);
    while let Some(copied) = tasks.join_next().await {
        let copied = copied.map_err(internal)??;
        bytes += copied.bytes;
        resumed += copied.resumed;
    }
    Ok((bytes, resumed))
}
