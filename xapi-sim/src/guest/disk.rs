//! The disk of a guest: the files that are its own, kept from one start to the next.
//!
//! ```text
//! root/              the guest's /, with mount points where the machine's software shows
//! upper/usr, ...     what the guest changed of the machine's software (overlay)
//! scratch/usr, ...   working folders of the kernel for the same (overlay)
//! etc/               account files and the machine id, which cover the machine's (bubblewrap)
//! ssh/               the guest's /etc/ssh
//! instance           which cloud-init instance it was configured for
//! volatile/run, tmp  the guest's /run and /tmp, empty at each start
//! ```
//!
//! Once a guest has run, anything in `root` and `upper` may be a link to anywhere. So the
//! simulator writes there when it creates the disk, and never again. In `ssh`, which the guest
//! cannot replace, it writes no file but in place of what was there, and reads no link.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::unistd::geteuid;

use super::accounts;
use super::cloud_init;
use super::freeze::{Freezer, Frozen};
use super::state::{make_dir, remove_tree};
use super::{GuestError, Inner, Rung, sshd};

/// Directories that every guest has, in the order of their making.
const DIRECTORIES: [(&str, u32); 26] = [
    ("boot", 0o755),
    ("dev", 0o755),
    ("home", 0o755),
    (accounts::HOME, 0o755),
    ("media", 0o755),
    ("mnt", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("srv", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("var/backups", 0o755),
    ("var/cache", 0o755),
    ("var/cache/apt", 0o755),
    ("var/cache/apt/archives", 0o755),
    ("var/cache/apt/archives/partial", 0o755),
    ("var/lib", 0o755),
    ("var/local", 0o755),
    ("var/log", 0o755),
    ("var/log/apt", 0o755),
    ("var/mail", 0o755),
    ("var/opt", 0o755),
    ("var/spool", 0o755),
    ("var/tmp", 0o1777),
];

/// Empty until a guest has run, as in a system that no VM has booted yet.
pub(super) const MACHINE_ID: &str = "etc/machine-id";

const LINKS: [(&str, &str); 2] = [("var/run", "/run"), ("var/lock", "/run/lock")];

/// What a copy of a disk consists of.
pub(super) const PARTS: [&str; 5] = ["root", "upper", "etc", "ssh", cloud_init::INSTANCE];

/// The disk of a guest, which outlives the guests that run on it.
///
/// Its files go when the handle is dropped, or, if a guest is running on it then, when that ends.
#[derive(Debug)]
pub struct GuestDisk {
    pub(super) files: Arc<DiskFiles>,
}

impl GuestDisk {
    /// Returns the name given to [`Guests::create`](super::Guests::create).
    #[must_use]
    pub fn name(&self) -> &str {
        &self.files.name
    }

    /// Removes the disk, or sees to it that the end of the guest which still runs on it does.
    ///
    /// # Errors
    ///
    /// Returns [`GuestError::Files`] when files could not be removed.
    ///
    /// # Cancel safety
    ///
    /// The disk is removed also when the future is dropped.
    pub async fn destroy(self) -> Result<(), GuestError> {
        let Ok(files) = Arc::try_unwrap(self.files) else {
            return Ok(());
        };
        super::blocking(move || {
            remove_tree(&files.path).map_err(GuestError::files("remove", &files.path))
        })
        .await
    }
}

#[derive(Debug)]
pub(super) struct DiskFiles {
    name: String,
    path: PathBuf,
    is_running: AtomicBool,
    /// Stops the guest that runs on it.
    freezer: Mutex<Option<Arc<Freezer>>>,
    /// Keeps the state directory that the files are in.
    pub(super) guests: Arc<Inner>,
}

/// Proof that one guest and no other runs on the disk.
#[derive(Debug)]
pub(super) struct Running(Arc<DiskFiles>);

/// Proof that nobody writes to the disk: no guest runs on it, or the one that does stands still.
#[derive(Debug)]
pub(super) enum Still {
    Idle { _claim: Running },
    Frozen { _guest: Frozen },
}

impl DiskFiles {
    /// Makes an empty disk.
    pub(super) fn create(
        guests: &Arc<Inner>,
        name: &str,
        cloud_init: bool,
    ) -> Result<Self, GuestError> {
        let disk = Self::unfilled(guests, name)?;
        disk.make_dir("ssh", 0o755)?;
        disk.make_dir("root", 0o755)?;
        match guests.rung {
            Rung::Plain => {
                disk.make_dir("root/home", 0o755)?;
                disk.make_dir(&format!("root/{}", accounts::HOME), 0o700)?;
            }
            Rung::Bubblewrap => {
                disk.fill_root()?;
                disk.make_dir("etc", 0o755)?;
                disk.write_accounts("etc")?;
                disk.write(MACHINE_ID, "", 0o644)?;
            }
            Rung::Overlay => {
                disk.fill_root()?;
                disk.make_layers("upper")?;
                disk.make_layers("scratch")?;
                disk.write_accounts("upper/etc")?;
                disk.write(&format!("upper/{MACHINE_ID}"), "", 0o444)?;
                if guests.software.has_pam() {
                    disk.make_dir("upper/etc/pam.d", 0o755)?;
                    disk.write("upper/etc/pam.d/sshd", sshd::PAM, 0o644)?;
                }
                disk.write_network_files()?;
                if cloud_init {
                    disk.make_dir("upper/usr/bin", 0o755)?;
                    disk.write("upper/usr/bin/cloud-init", super::CLOUD_INIT, 0o755)?;
                }
                let home = disk.path.join("root").join(accounts::HOME);
                chown(&home, Some(accounts::ID), Some(accounts::ID))
                    .map_err(GuestError::files("change the owner of", &home))?;
            }
        }
        Ok(disk)
    }

    /// Makes a disk with the contents of this one. A guest that runs on it stands still meanwhile.
    pub(super) fn copy(self: &Arc<Self>, name: &str) -> Result<Self, GuestError> {
        let _still = self.hold_still()?;
        let disk = Self::unfilled(&self.guests, name)?;
        let parts = self.parts().into_iter().map(|part| self.path.join(part));
        let output = Command::new("cp")
            .args([
                "--archive",
                "--reflink=auto",
                "--one-file-system",
                "--target-directory",
            ])
            .arg(&disk.path)
            .args(parts)
            .env_clear()
            .env("PATH", super::software::PATH)
            .stdin(Stdio::null())
            .output()
            .map_err(|source| GuestError::Spawn {
                program: "cp".to_owned(),
                source,
            })?;
        if !output.status.success() {
            return Err(GuestError::Copy {
                name: self.name.clone(),
                message: super::one_line(&String::from_utf8_lossy(&output.stderr)),
            });
        }
        if self.guests.rung == Rung::Overlay {
            disk.make_layers("scratch")?;
        }
        Ok(disk)
    }

    /// The files and folders that make the disk what it is.
    pub(super) fn parts(&self) -> Vec<&'static str> {
        let mut parts = PARTS.to_vec();
        if cloud_init::is_cleaned(self) {
            parts.retain(|part| *part != cloud_init::INSTANCE);
        }
        parts.retain(|part| fs::symlink_metadata(self.path.join(part)).is_ok());
        parts
    }

    /// Keeps everybody from writing to the disk. Blocks.
    pub(super) fn hold_still(self: &Arc<Self>) -> Result<Still, GuestError> {
        let running = match self.claim() {
            Ok(claim) => return Ok(Still::Idle { _claim: claim }),
            Err(running) => running,
        };
        let freezer = self.freezer.lock().unwrap_or_else(PoisonError::into_inner);
        let freezer = freezer.clone().ok_or(running)?;
        Ok(Still::Frozen {
            _guest: Frozen::new(freezer),
        })
    }

    /// Notes how the guest is stopped that runs on the disk, if one does.
    pub(super) fn set_freezer(&self, freezer: Option<Arc<Freezer>>) {
        *self.freezer.lock().unwrap_or_else(PoisonError::into_inner) = freezer;
    }

    pub(super) fn unfilled(guests: &Arc<Inner>, name: &str) -> Result<Self, GuestError> {
        let path = guests.next_disk();
        make_dir(&path, 0o755).map_err(GuestError::files("create", &path))?;
        Ok(Self {
            name: name.to_owned(),
            path,
            is_running: AtomicBool::new(false),
            freezer: Mutex::default(),
            guests: Arc::clone(guests),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Claims the disk for one guest.
    pub(super) fn claim(self: &Arc<Self>) -> Result<Running, GuestError> {
        if self.is_running.swap(true, Ordering::AcqRel) {
            return Err(GuestError::Running {
                name: self.name.clone(),
            });
        }
        Ok(Running(Arc::clone(self)))
    }

    /// Empties what does not survive a restart.
    pub(super) fn reset_volatile(&self) -> Result<(), GuestError> {
        let path = self.path.join("volatile");
        remove_tree(&path).map_err(GuestError::files("remove", &path))?;
        for (directory, mode) in [
            ("volatile", 0o755),
            ("volatile/tmp", 0o1777),
            ("volatile/run", 0o755),
            ("volatile/run/lock", 0o1777),
            ("volatile/run/sshd", 0o755),
        ] {
            self.make_dir(directory, mode)?;
        }
        self.write_resolver(&self.path.join("volatile/run"))
    }

    /// Where `/etc/resolv.conf` is a link into `/run`, puts what it should lead to there.
    fn write_resolver(&self, run: &Path) -> Result<(), GuestError> {
        let Ok(target) = fs::canonicalize("/etc/resolv.conf") else {
            return Ok(());
        };
        let Ok(inside) = target.strip_prefix("/run") else {
            return Ok(());
        };
        let path = run.join(inside);
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(run))?;
            fs::copy(&target, &path).map(drop)
        };
        write().map_err(GuestError::files("write", &path))
    }

    fn fill_root(&self) -> Result<(), GuestError> {
        for (directory, mode) in DIRECTORIES {
            self.make_dir(&format!("root/{directory}"), mode)?;
        }
        for layer in self.guests.software.layers() {
            self.make_dir(&format!("root/{layer}"), 0o755)?;
        }
        let links = LINKS.map(|(link, target)| (link, PathBuf::from(target)));
        for (link, target) in links.into_iter().chain(self.guests.software.links()) {
            let path = self.path.join("root").join(link);
            symlink(target, &path).map_err(GuestError::files("create", &path))?;
        }
        for log in ["lastlog", "wtmp"] {
            self.write(&format!("root/var/log/{log}"), "", 0o644)?;
        }
        Ok(())
    }

    /// Makes a directory for each layer, with the mode and owner that the layer is to show.
    pub(super) fn make_layers(&self, kind: &str) -> Result<(), GuestError> {
        let software = &self.guests.software;
        for layer in software.layers() {
            let below = software.root().join(layer);
            let path = self.path.join(kind).join(layer);
            let make = || {
                fs::create_dir_all(&path)?;
                let like = fs::metadata(&below)?;
                chown(&path, Some(like.uid()), Some(like.gid()))?;
                fs::set_permissions(&path, like.permissions())
            };
            make().map_err(GuestError::files("create", &path))?;
        }
        Ok(())
    }

    fn write_accounts(&self, directory: &str) -> Result<(), GuestError> {
        let software = &self.guests.software;
        let (passwd, mut group) = (software.read("etc/passwd")?, software.read("etc/group")?);
        if self.guests.rung == Rung::Bubblewrap {
            // sshd gives terminals to this group where there is one, and fails where it may not.
            group = group
                .lines()
                .filter(|line| !line.starts_with("tty:"))
                .collect::<Vec<_>>()
                .join("\n");
        }
        for (name, contents, mode) in accounts::files(&passwd, &group) {
            self.write(&format!("{directory}/{name}"), &contents, mode)?;
        }
        Ok(())
    }

    /// Name resolution as on the machine: a container manager mounts these over the real files,
    /// and a mount does not show through an overlay.
    fn write_network_files(&self) -> Result<(), GuestError> {
        for name in ["hosts", "resolv.conf"] {
            if let Ok(contents) = fs::read_to_string(Path::new("/etc").join(name)) {
                self.write(&format!("upper/etc/{name}"), &contents, 0o644)?;
            }
        }
        Ok(())
    }

    pub(super) fn make_dir(&self, inside: &str, mode: u32) -> Result<(), GuestError> {
        let path = self.path.join(inside);
        make_dir(&path, mode).map_err(GuestError::files("create", &path))
    }

    /// Writes a file where no guest can have put a link.
    pub(super) fn write(&self, inside: &str, contents: &str, mode: u32) -> Result<(), GuestError> {
        let path = self.path.join(inside);
        write_file(&path, contents, mode).map_err(GuestError::files("write", &path))
    }

    /// Reads a file that a guest may have replaced, as long as it is one: a link might lead to a
    /// secret of the machine, and a pipe would never end. No guest may run.
    pub(super) fn read(&self, inside: &str) -> Option<String> {
        let path = self.path.join(inside);
        let is_file = fs::symlink_metadata(&path).is_ok_and(|found| found.is_file());
        is_file.then(|| fs::read_to_string(&path).ok()).flatten()
    }
}

impl Drop for DiskFiles {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "files of a guest stay behind");
        }
    }
}

impl std::ops::Deref for Running {
    type Target = DiskFiles;

    fn deref(&self) -> &DiskFiles {
        &self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.set_freezer(None);
        self.0.is_running.store(false, Ordering::Release);
    }
}

/// Replaces a file; a secret is never open to others in between.
pub(super) fn write_file(path: &Path, contents: &str, mode: u32) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(contents.as_bytes())?;
    file.set_permissions(fs::Permissions::from_mode(mode))
}

/// Whether this process is root in its user namespace.
pub(super) fn is_root() -> bool {
    geteuid().is_root()
}
