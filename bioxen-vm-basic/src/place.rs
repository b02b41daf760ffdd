//! The private directory of a VM, and the lock that says whether its owner still lives.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bioxen_vm_core::{Error, ErrorKind, Result, lua};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

const PREFIX: &str = "bioxen-basic-";
const LOCK: &str = "lock";

/// A directory that only this user can enter, with a lock file that this process holds locked.
///
/// The kernel takes the lock away when this process ends, however it ends. Then the programs of
/// the VM, which wait for the lock, end themselves, and the next process that
/// [sweeps](Self::sweep) removes the directory.
#[derive(Debug)]
pub(crate) struct Place {
    dir: PathBuf,
    /// The same path as text, for commands and environment variables.
    text: String,
    _lock: Flock<File>,
}

impl Place {
    /// Makes a directory below `base`.
    pub(crate) fn create(base: &Path) -> Result<Self> {
        // Another process may sweep a new directory away before its lock is held.
        for _ in 0..16 {
            let dir = tempfile::Builder::new()
                .prefix(PREFIX)
                .rand_bytes(8)
                .permissions(Permissions::from_mode(0o700))
                .tempdir_in(base)
                .map_err(|error| unusable(base, error))?
                .keep();
            let Some(text) = dir.to_str().map(str::to_owned) else {
                let _ = fs::remove_dir(&dir);
                return Err(Error::new(
                    ErrorKind::Config,
                    format!(
                        "the path {} is not UTF-8; choose another directory",
                        dir.display()
                    ),
                ));
            };
            match take(&dir) {
                Ok(Some(lock)) => {
                    // From here on, dropping the place removes the directory.
                    let place = Self {
                        dir,
                        text,
                        _lock: lock,
                    };
                    for name in ["home", "tmp"] {
                        DirBuilder::new()
                            .mode(0o700)
                            .create(place.dir.join(name))
                            .map_err(|error| unusable(base, error))?;
                    }
                    return Ok(place);
                }
                Ok(None) => {}
                Err(error) => {
                    let _ = fs::remove_dir_all(&dir);
                    return Err(unusable(base, error));
                }
            }
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            format!(
                "directories in {} vanish as soon as they are made",
                base.display()
            ),
        ))
    }

    /// Removes what processes of this user that no longer live have left below `base`.
    pub(crate) fn sweep(base: &Path) {
        let entries = fs::read_dir(base).into_iter().flatten().flatten();
        for entry in entries {
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                match sweep_one(&entry.path()) {
                    Ok(true) => tracing::debug!(directory = %entry.path().display(), "swept"),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(
                        directory = %entry.path().display(), %error,
                        "cannot remove what an ended process has left"
                    ),
                }
            }
        }
    }

    /// Removes the directory. Does nothing when it is gone.
    pub(crate) fn remove(&self) -> io::Result<()> {
        remove(&self.dir)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The lock file. Whoever gets a shared lock on it knows that the owner is gone.
    pub(crate) fn lock(&self) -> String {
        format!("{}/{LOCK}", self.text)
    }

    /// Where programs start: their home directory.
    pub(crate) fn home(&self) -> String {
        format!("{}/home", self.text)
    }

    /// The LuaRocks tree.
    pub(crate) fn rocks(&self) -> String {
        format!("{}/rocks", self.text)
    }

    /// What programs of the VM see in their environment, besides what all programs see.
    pub(crate) fn env(&self, lua_version: &str) -> Vec<(String, String)> {
        let mut env = vec![
            ("HOME".to_owned(), self.home()),
            ("TMPDIR".to_owned(), format!("{}/tmp", self.text)),
        ];
        env.extend(lua::search_path(lua_version, &self.rocks()));
        env
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(directory = %self.dir.display(), %error, "cannot remove");
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
        .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
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

fn unusable(base: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        _ => ErrorKind::Exhausted,
    };
    Error::new(
        kind,
        format!(
            "cannot make a private directory in {}; set `directory` to one that exists and may \
             be written",
            base.display()
        ),
    )
    .with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_private_and_goes_with_its_owner() {
        let base = tempfile::tempdir().unwrap();
        let place = Place::create(base.path()).unwrap();
        let mode = fs::metadata(place.dir()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        place.remove().unwrap();
        place.remove().unwrap();
        drop(place);
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_sweep_removes_what_is_left_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        let alive = Place::create(base.path()).unwrap();
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

        Place::sweep(base.path());
        assert!(alive.dir().is_dir());
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
                        let place = Place::create(base.path()).unwrap();
                        assert!(place.dir().join(LOCK).exists());
                        Place::sweep(base.path());
                        assert!(place.dir().join("home").exists());
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_base_that_does_not_exist_is_named_with_the_remedy() {
        let error = Place::create(Path::new("/no/such")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("/no/such"), "{error}");
        assert!(error.to_string().contains("`directory`"), "{error}");
    }
}
