//! The private directory that holds all files of one simulator's guests.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

const PREFIX: &str = "bioxen-guests-";
const LOCK: &str = "lock";
/// How long a directory may exist without its lock before it counts as abandoned.
const GRACE: Duration = Duration::from_secs(60);

/// A directory, mode 0700, that is locked while its owner lives and removed when dropped.
///
/// A lock that is free marks a directory whose owner was killed; see [`sweep`].
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl StateDir {
    /// Creates a directory in `parent`.
    pub(crate) fn create(parent: &Path) -> io::Result<Self> {
        loop {
            let path = tempfile::Builder::new()
                .prefix(PREFIX)
                .permissions(fs::Permissions::from_mode(0o700))
                .tempdir_in(parent)?
                .keep();
            let lock = OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(false)
                .mode(0o600)
                .open(path.join(LOCK))?;
            // Somebody who sweeps may have been faster.
            if let Ok(lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
                && path.join(LOCK).exists()
            {
                return Ok(Self { path, _lock: lock });
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "guest files stay behind");
        }
    }
}

/// Removes the directories in `parent` whose owners were killed.
pub(crate) fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry
                .metadata()
                .is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == geteuid().as_raw());
        if is_ours && let Some(_lock) = abandoned(&entry.path()) {
            match remove_tree(&entry.path()) {
                Ok(()) => {
                    tracing::info!(path = %entry.path().display(), "removed guest files of a simulator that was killed")
                }
                Err(error) => {
                    tracing::warn!(path = %entry.path().display(), %error, "cannot remove guest files of a simulator that was killed")
                }
            }
        }
    }
}

/// Returns proof that nobody owns the directory.
fn abandoned(path: &Path) -> Option<Option<Flock<File>>> {
    match OpenOptions::new().write(true).open(path.join(LOCK)) {
        Ok(file) => Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .ok()
            .map(Some),
        // The owner is about to make its lock, unless it was killed right there.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let age = fs::metadata(path).ok()?.modified().ok()?.elapsed().ok()?;
            (age > GRACE).then_some(None)
        }
        Err(_) => None,
    }
}

/// Creates a directory with exactly this mode, whatever the umask.
pub(super) fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Removes a directory tree, also one with directories that its owner may not write to.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            unlock_tree(path)?;
            fs::remove_dir_all(path)
        }
        // The last process of a killed guest may have left something in the meantime.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => fs::remove_dir_all(path),
        other => other,
    }
}

fn unlock_tree(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            unlock_tree(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_owner_keeps_its_directory_and_a_dead_one_loses_it() {
        let parent = tempfile::tempdir().unwrap();
        let living = StateDir::create(parent.path()).unwrap();
        let dead = parent.path().join(format!("{PREFIX}dead"));
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        let young = parent.path().join(format!("{PREFIX}young"));
        fs::create_dir(&young).unwrap();
        let foreign = parent.path().join("foreign");
        fs::create_dir(&foreign).unwrap();

        sweep(parent.path());

        assert!(living.path().exists());
        assert!(!dead.exists());
        assert!(young.exists(), "its owner may be about to lock it");
        assert!(foreign.exists());
    }

    #[test]
    fn the_directory_is_private_and_goes_with_its_owner() {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::create(parent.path()).unwrap();
        assert_eq!(fs::metadata(state.path()).unwrap().mode() & 0o777, 0o700);
        let closed = state.path().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::write(closed.join("file"), "").unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
        let path = state.path().to_owned();
        drop(state);
        assert!(!path.exists());
    }
}
