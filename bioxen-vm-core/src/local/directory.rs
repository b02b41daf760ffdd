use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::unistd::geteuid;

const LOCK: &str = "lock";

/// A directory that only this user can enter, and that is removed with its owner.
///
/// Dropping it removes it. Where the owner is killed before that, the next one who
/// [sweeps](Self::sweep) does: the directory has a lock file that this process holds locked, and
/// the kernel takes the lock away when the process ends, however it ends.
///
/// All of this blocks for as long as the file system takes.
#[derive(Debug)]
pub struct PrivateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl PrivateDir {
    /// Makes a directory below `base`, with a name that starts with `prefix` and ends at random.
    ///
    /// # Errors
    /// Fails when `base` does not exist or may not be written.
    pub fn create(base: &Path, prefix: &str) -> io::Result<Self> {
        // Another process may sweep a new directory away before its lock is held.
        for _ in 0..16 {
            let path = tempfile::Builder::new()
                .prefix(prefix)
                .rand_bytes(8)
                .permissions(Permissions::from_mode(0o700))
                .tempdir_in(base)?
                .keep();
            match take(&path) {
                Ok(Some(lock)) => return Ok(Self { path, _lock: lock }),
                Ok(None) => {}
                Err(error) => {
                    let _ = fs::remove_dir_all(&path);
                    return Err(error);
                }
            }
        }
        Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "directories vanish as soon as they are made",
        ))
    }

    /// Makes a directory among the system's temporary files, after a sweep there.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn temporary(prefix: &str) -> io::Result<Self> {
        let base = std::env::temp_dir();
        Self::sweep(&base, prefix);
        Self::create(&base, prefix)
    }

    /// Removes the directories below `base` whose names start with `prefix` and that processes of
    /// this user have left there when they ended. All of that name must be of this kind.
    pub fn sweep(base: &Path, prefix: &str) {
        let entries = fs::read_dir(base).into_iter().flatten().flatten();
        for entry in entries {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                match sweep_one(&entry.path()) {
                    Ok(true) => tracing::debug!(directory = %entry.path().display(), "swept"),
                    Ok(false) => {}
                    // Another process sweeps too.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => tracing::warn!(
                        directory = %entry.path().display(), %error,
                        "cannot remove what an ended process has left"
                    ),
                }
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The lock file in it. Whoever gets a shared lock on it knows that the owner is gone.
    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        self.path.join(LOCK)
    }

    /// Removes the directory with all in it. Does nothing when it is gone.
    ///
    /// # Errors
    /// Fails when something in it cannot be removed.
    pub fn remove(&self) -> io::Result<()> {
        remove(&self.path)
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(directory = %self.path.display(), %error, "cannot remove");
        }
    }
}

/// Makes and locks the lock file of a new directory; `None` when a sweep came between.
fn take(dir: &Path) -> io::Result<Option<Flock<File>>> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    let file = match file {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((_, nix::Error::EWOULDBLOCK)) => return Ok(None),
        Err((_, errno)) => return Err(errno.into()),
    };
    let held = lock.metadata()?.ino();
    Ok(fs::metadata(&path)
        .is_ok_and(|named| named.ino() == held)
        .then_some(lock))
}

/// Removes a directory unless its owner lives. Tells whether it did.
fn sweep_one(dir: &Path) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(dir)?;
    if !metadata.is_dir() || metadata.uid() != geteuid().as_raw() {
        return Ok(false);
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(dir.join(LOCK));
    let file = match file {
        // Its owner is, or ended, between making the directory and the lock, or ended while it
        // removed them. In the first case the directory is empty, and the owner makes another.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match fs::remove_dir(dir) {
                Ok(()) => Ok(true),
                Err(_) if dir.join(LOCK).exists() => Ok(false),
                Err(_) => remove(dir).map(|()| true),
            };
        }
        file => file?,
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(_held_until_removed) => remove(dir).map(|()| true),
        Err(_) => Ok(false),
    }
}

/// Removes a directory with all in it, also where a program took rights away from itself.
fn remove(dir: &Path) -> io::Result<()> {
    let mut result = fs::remove_dir_all(dir);
    // A program that has just been killed may still be in the system call that makes a file.
    for _ in 0..100 {
        match &result {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                std::thread::yield_now();
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => open_up(dir),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            _ => break,
        }
        result = fs::remove_dir_all(dir);
    }
    result
}

fn open_up(dir: &Path) {
    // What does not work here shows when the directory is removed.
    let _ = fs::set_permissions(dir, Permissions::from_mode(0o700));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "bioxen-test-";

    #[test]
    fn a_directory_is_private_and_goes_with_its_owner() {
        let base = tempfile::tempdir().unwrap();
        let dir = PrivateDir::create(base.path(), PREFIX).unwrap();
        let name = dir.path().file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with(PREFIX), "{name}");
        let mode = fs::metadata(dir.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        dir.remove().unwrap();
        dir.remove().unwrap();
        drop(dir);
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_sweep_removes_what_is_left_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        let alive = PrivateDir::create(base.path(), PREFIX).unwrap();
        let left = base.path().join(format!("{PREFIX}left"));
        fs::create_dir_all(left.join("home/deep")).unwrap();
        fs::write(left.join(LOCK), "").unwrap();
        fs::set_permissions(left.join("home"), Permissions::from_mode(0o000)).unwrap();
        let half_removed = base.path().join(format!("{PREFIX}removed"));
        fs::create_dir_all(half_removed.join("home")).unwrap();
        let half_made = base.path().join(format!("{PREFIX}half"));
        fs::create_dir(&half_made).unwrap();
        let foreign = base.path().join("something-else");
        fs::create_dir(&foreign).unwrap();

        PrivateDir::sweep(base.path(), PREFIX);
        assert!(alive.path().is_dir());
        assert!(!left.exists());
        assert!(!half_made.exists());
        assert!(!half_removed.exists());
        assert!(foreign.is_dir());
    }

    #[test]
    fn many_may_create_while_others_sweep() {
        let base = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let dir = PrivateDir::create(base.path(), PREFIX).unwrap();
                        assert!(dir.lock_file().exists());
                        PrivateDir::sweep(base.path(), PREFIX);
                        assert!(dir.lock_file().exists());
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    }
}
