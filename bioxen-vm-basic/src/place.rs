//! The private directory of a VM: what is in it, and what its programs see of that.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use bioxen_vm_core::local::PrivateDir;
use bioxen_vm_core::{Error, ErrorKind, Result, lua};

use crate::group;

/// The names of the directories begin so, and those of the control groups.
pub(crate) const PREFIX: &str = "bioxen-basic-";

const HOME: &str = "home";
const TMP: &str = "tmp";
/// Below the home, where a guest has its own, too; made with the first package.
const ROCKS: &str = "home/.luarocks";

/// The directory of a VM, with a home and a place for temporary files in it.
///
/// The programs of the VM wait for the lock of the directory, and end themselves when its owner
/// has ended, however it did.
#[derive(Debug)]
pub(crate) struct Place {
    dir: PrivateDir,
    /// What the names of the control groups begin with that its workers make.
    group: Option<PathBuf>,
    /// Its path as text, for commands and environment variables.
    text: String,
}

impl Place {
    /// Makes a directory below `base`, for workers that make control groups below `groups`.
    pub(crate) fn create(base: &Path, groups: Option<&Path>) -> Result<Self> {
        let dir = PrivateDir::create(base, PREFIX).map_err(|error| unusable(base, error))?;
        let Some(text) = dir.path().to_str().map(str::to_owned) else {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "the path {} is not UTF-8; choose another directory",
                    dir.path().display()
                ),
            ));
        };
        for name in [HOME, TMP] {
            DirBuilder::new()
                .mode(0o700)
                .create(dir.path().join(name))
                .map_err(|error| unusable(base, error))?;
        }
        let name = dir.path().file_name();
        let group = groups.and_then(|groups| Some(groups.join(name?)));
        Ok(Self { dir, group, text })
    }

    /// Removes what processes of this user that no longer live have left below `base`.
    pub(crate) fn sweep(base: &Path) {
        PrivateDir::sweep(base, PREFIX);
    }

    /// Removes the directory and the control group. Does nothing when they are gone.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.remove_group();
        self.dir.remove()
    }

    fn remove_group(&self) {
        // What has just been killed may take a moment to go.
        for _ in 0..100 {
            if self.group.as_deref().is_none_or(group::remove) {
                return;
            }
            std::thread::yield_now();
        }
    }

    /// What the names of the control groups of its workers begin with.
    pub(crate) fn group(&self) -> Option<&Path> {
        self.group.as_deref()
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The lock file. Whoever gets a shared lock on it knows that the owner is gone.
    pub(crate) fn lock(&self) -> PathBuf {
        self.dir.lock_file()
    }

    /// What programs of the VM may write.
    pub(crate) fn writable(&self) -> [PathBuf; 2] {
        [HOME, TMP].map(|name| self.dir.path().join(name))
    }

    fn below(&self, name: &str) -> String {
        format!("{}/{name}", self.text)
    }

    /// Where programs start: their home directory.
    pub(crate) fn home(&self) -> String {
        self.below(HOME)
    }

    /// The LuaRocks tree.
    pub(crate) fn rocks(&self) -> String {
        self.below(ROCKS)
    }

    /// What programs of the VM see in their environment, besides what all programs see.
    pub(crate) fn env(&self, lua_version: &str) -> Vec<(String, OsString)> {
        let own = [
            ("HOME".to_owned(), self.home()),
            ("TMPDIR".to_owned(), self.below(TMP)),
        ];
        own.into_iter()
            .chain(lua::search_path(lua_version, &self.rocks()))
            .map(|(name, value)| (name, value.into()))
            .collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.remove_group();
    }
}

fn unusable(base: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        io::ErrorKind::ResourceBusy => ErrorKind::Unavailable,
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
    fn a_place_is_swept_once_its_owner_is_gone() {
        let base = tempfile::tempdir().unwrap();
        let left = base.path().join(format!("{PREFIX}left"));
        std::fs::create_dir_all(left.join("home")).unwrap();
        let place = Place::create(base.path(), None).unwrap();
        assert!(place.lock().is_file());
        Place::sweep(base.path());
        assert!(!left.exists());
        assert!(Path::new(&place.home()).is_dir());
        drop(place);
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_base_that_does_not_exist_is_named_with_the_remedy() {
        let error = Place::create(Path::new("/no/such"), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("/no/such"), "{error}");
        assert!(error.to_string().contains("`directory`"), "{error}");
    }
}
