//! Real guests for simulated VMs: environments that are reached over SSH.
//!
//! When a simulated VM starts, a [`Guest`] boots: Debian's own OpenSSH server on an address of
//! its own in 127.77.0.0/16, port [`PORT`], with its own host key, Lua 5.4 and LuaRocks, and its
//! own view of the file system. What it writes is on its [`GuestDisk`], which stays when the
//! guest is shut down, and can be copied, as a template's is.
//!
//! How well guests are kept apart depends on what the machine allows: see [`Rung`].
//!
//! Guests end with the process that owns their [`Guests`], also when that is killed.
//!
//! # Boot data
//!
//! A real template reads small values from xenstore when it boots, where whoever deploys it has
//! put them through `VM.xenstore_data`. A guest knows these keys below `vm-data/`:
//!
//! | key | value |
//! |---|---|
//! | [`VM_DATA_AUTHORIZED_KEYS`] | public keys that may log in, one to a line |
//! | [`VM_DATA_HOST_KEY`] | the private host key, ed25519, in OpenSSH's format, without a passphrase |
//! | [`VM_DATA_HOSTNAME`] | the host name |
//!
//! A guest with cloud-init knows none of these; it takes its [`ConfigDrive`] instead.
//!
//! Without a host key, a guest makes one at its first boot and keeps it. Public keys apply to
//! [`Guests::user`], and to root too on the overlay rung; those that somebody puts into
//! `~/.ssh/authorized_keys` in the guest apply beside them.

mod accounts;
mod address;
mod bubblewrap;
pub(crate) mod cloud_init;
mod disk;
mod error;
pub(crate) mod freeze;
mod image;
mod machine;
mod options;
mod overlay;
mod plain;
mod process;
mod rung;
mod software;
mod sshd;
pub(crate) mod state;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use cloud_init::{ConfigDrive, InterfaceConfig};
pub use disk::GuestDisk;
pub use error::{GuestError, PassedOver};
pub use machine::Guest;
pub use options::{BootConfig, GuestOptions};
pub use rung::Rung;

use address::Addresses;
use disk::DiskFiles;
use software::Software;
use sshd::FileKey;
use state::StateDir;

/// The TCP port of every guest's sshd.
pub const PORT: u16 = 2222;
/// Key below `vm-data/` of the public keys that may log in, one to a line.
pub const VM_DATA_AUTHORIZED_KEYS: &str = "bioxen/authorized-keys";
/// Key below `vm-data/` of the guest's private SSH host key.
pub const VM_DATA_HOST_KEY: &str = "bioxen/host-key";
/// Key below `vm-data/` of the guest's host name.
pub const VM_DATA_HOSTNAME: &str = "bioxen/hostname";

/// The program `cloud-init` of guests.
const CLOUD_INIT: &str = include_str!("cloud-init");

/// How long a guest may take to answer; far longer than any does, for machines under load.
const BOOT_LIMIT: Duration = Duration::from_secs(30);
/// Where the state directory goes unless told otherwise: disks belong on a disk, a container may
/// have only the second, and where these cannot carry an overlay, memory can.
pub(crate) const STATE_PARENTS: [&str; 3] = ["/var/tmp", "/tmp", "/dev/shm"];

/// The place in which a simulator's guests live: one per simulator.
#[derive(Debug)]
pub struct Guests {
    inner: Arc<Inner>,
    passed_over: Vec<PassedOver>,
}

#[derive(Debug)]
struct Inner {
    rung: Rung,
    user: String,
    software: Software,
    state: StateDir,
    addresses: Arc<Addresses>,
    stop_grace: Duration,
    disks: AtomicU64,
}

impl Guests {
    /// Finds the best rung that works here, by booting a guest on it and logging in.
    ///
    /// Removes what simulators that were killed have left in the same state directory.
    ///
    /// # Errors
    ///
    /// Returns [`GuestError::MissingPrograms`] when the machine lacks what every guest needs,
    /// [`GuestError::StateDir`] and [`GuestError::Rootfs`] when a given directory cannot be used,
    /// and [`GuestError::NoRung`] when no rung that was asked for works.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends and removes what it has begun.
    pub async fn new(options: GuestOptions) -> Result<Self, GuestError> {
        let GuestOptions {
            state_dir,
            rung,
            rootfs,
            stop_grace,
        } = options;
        if let Some(rootfs) = &rootfs {
            check_path(rootfs).map_err(|source| GuestError::Rootfs {
                path: rootfs.clone(),
                source,
            })?;
        }
        // Before anything else, as no rung would make up for missing programs.
        Software::find(rootfs.as_deref())?;
        let is_given = state_dir.is_some();
        let parents =
            state_dir.map_or(STATE_PARENTS.map(PathBuf::from).to_vec(), |path| vec![path]);
        for parent in parents.clone() {
            blocking(move || {
                state::sweep(&parent);
                Ok(())
            })
            .await?;
        }
        let mut passed_over: Vec<PassedOver> = Vec::new();
        for rung in rung.map_or(Rung::ALL.to_vec(), |rung| vec![rung]) {
            let mut first_error = None;
            for parent in &parents {
                let software = Software::find(rootfs.as_deref())?;
                match Inner::try_rung(rung, software, parent, stop_grace).await {
                    Ok(inner) => return Ok(Self { inner, passed_over }),
                    // No other rung would do with it either.
                    Err(error @ GuestError::StateDir { .. }) if is_given => return Err(error),
                    Err(error) => {
                        first_error.get_or_insert(error);
                    }
                }
            }
            if let Some(error) = first_error {
                let passed = PassedOver::new(rung, &error);
                tracing::debug!(%passed, "cannot run guests this way");
                passed_over.push(passed);
            }
        }
        Err(GuestError::NoRung { tried: passed_over })
    }

    /// Returns the rung that is used.
    #[must_use]
    pub fn rung(&self) -> Rung {
        self.inner.rung
    }

    /// Returns the better rungs that do not work here, with the reasons.
    #[must_use]
    pub fn passed_over(&self) -> &[PassedOver] {
        &self.passed_over
    }

    /// Returns the name of the user to log in as.
    ///
    /// It is `bioxen`, except on the plain rung, where it is the user who runs the simulator.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.inner.user
    }

    /// Makes an empty disk for a new guest; the name appears in errors.
    ///
    /// # Errors
    ///
    /// Returns [`GuestError::Files`] when it cannot be written.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future removes what it has begun.
    pub async fn create(&self, name: &str) -> Result<GuestDisk, GuestError> {
        self.inner.create(name, false).await
    }

    /// Makes an empty disk for a new guest with cloud-init: see
    /// [`BootConfig::with_config_drives`].
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    ///
    /// # Cancel safety
    ///
    /// As [`create`](Self::create).
    pub async fn create_with_cloud_init(&self, name: &str) -> Result<GuestDisk, GuestError> {
        self.inner.create(name, true).await
    }

    /// Makes a disk with what another one holds, its host key included. A guest that runs on that
    /// one stands still meanwhile, so that the copy is what a power cut would have left.
    ///
    /// # Errors
    ///
    /// Returns [`GuestError::Running`] when a guest starts on that one or somebody else copies it,
    /// and [`GuestError::Copy`] when the copying fails.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future removes what it has begun.
    pub async fn copy(&self, of: &GuestDisk, name: &str) -> Result<GuestDisk, GuestError> {
        let source = Arc::clone(&of.files);
        let name = name.to_owned();
        let files = blocking(move || source.copy(&name)).await?;
        Ok(GuestDisk {
            files: Arc::new(files),
        })
    }

    /// Writes the files of a disk behind what a file holds so far, in a form that [`unpack`] reads.
    ///
    /// [`unpack`]: Self::unpack
    pub(crate) async fn pack(&self, disk: &GuestDisk, into: File) -> Result<(), GuestError> {
        let files = Arc::clone(&disk.files);
        blocking(move || image::pack(&files, into)).await
    }

    /// Makes a disk of what [`pack`](Self::pack) has written; `open` gives the file anew.
    pub(crate) async fn unpack(
        &self,
        name: &str,
        open: impl Fn() -> std::io::Result<File> + Send + 'static,
    ) -> Result<GuestDisk, GuestError> {
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        let files = blocking(move || image::unpack(&inner, &name, open)).await?;
        Ok(GuestDisk {
            files: Arc::new(files),
        })
    }

    /// Boots a guest on a disk, and returns when its sshd accepts connections.
    ///
    /// # Errors
    ///
    /// Returns [`GuestError::Running`] when a guest runs on the disk already,
    /// [`GuestError::BootData`] when a value in the boot data is of no use, and
    /// [`GuestError::Boot`] with the guest's last words when it does not come up.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends what it has begun.
    pub async fn boot(&self, disk: &GuestDisk, boot: BootConfig) -> Result<Guest, GuestError> {
        Guest::boot(disk, boot).await
    }
}

impl Inner {
    /// Sets up a rung and proves that it works.
    async fn try_rung(
        rung: Rung,
        software: Software,
        parent: &Path,
        stop_grace: Duration,
    ) -> Result<Arc<Self>, GuestError> {
        let parent = parent.to_owned();
        let inner = blocking(move || Self::set_up(rung, software, &parent, stop_grace)).await?;
        let inner = Arc::new(inner);
        let (key, public) = {
            let inner = Arc::clone(&inner);
            let make = move || {
                let key = FileKey::generate(&inner)?;
                let public = key.public()?;
                Ok((key, public))
            };
            blocking(make).await?
        };
        let disk = inner.create("a trial guest", false).await?;
        let boot = BootConfig::new("trial").with_vm_data(VM_DATA_AUTHORIZED_KEYS, public);
        let guest = Guest::boot(&disk, boot).await?;
        key.log_in(&inner, guest.address(), guest.host_key())
            .await?;
        guest.power_off().await;
        disk.destroy().await?;
        Ok(inner)
    }

    fn set_up(
        rung: Rung,
        software: Software,
        parent: &Path,
        stop_grace: Duration,
    ) -> Result<Self, GuestError> {
        let unsupported = |reason: &str| {
            Err(GuestError::Unsupported {
                reason: reason.to_owned(),
            })
        };
        if rung == Rung::Overlay && !disk::is_root() {
            return unsupported("only root can mount it");
        }
        if rung == Rung::Plain && !software.is_machine() {
            return unsupported("it has no root file system but the machine's");
        }
        let user = match rung {
            Rung::Plain => plain::user()?,
            Rung::Overlay | Rung::Bubblewrap => accounts::USER.to_owned(),
        };
        let unusable = |source| GuestError::StateDir {
            path: parent.to_owned(),
            source,
        };
        check_path(parent).map_err(unusable)?;
        let state = StateDir::create(parent).map_err(unusable)?;
        fill_state(state.path()).map_err(unusable)?;
        Ok(Self {
            rung,
            user,
            software,
            state,
            addresses: Arc::default(),
            stop_grace,
            disks: AtomicU64::new(0),
        })
    }

    fn next_disk(&self) -> PathBuf {
        let number = self.disks.fetch_add(1, Ordering::Relaxed);
        self.state.path().join(format!("disk-{number}"))
    }

    async fn create(
        self: &Arc<Self>,
        name: &str,
        cloud_init: bool,
    ) -> Result<GuestDisk, GuestError> {
        let (inner, name) = (Arc::clone(self), name.to_owned());
        let files = blocking(move || DiskFiles::create(&inner, &name, cloud_init)).await?;
        Ok(GuestDisk {
            files: Arc::new(files),
        })
    }
}

/// Refuses a directory whose name mount options or a configuration file cannot carry.
fn check_path(path: &Path) -> std::io::Result<()> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._+@-".contains(&byte);
    if path.is_absolute()
        && path
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .copied()
            .all(is_plain)
    {
        return Ok(());
    }
    let reason = "the path must be absolute, of ASCII letters, digits and ._+@- only";
    Err(std::io::Error::new(
        std::io::ErrorKind::InvalidInput,
        reason,
    ))
}

/// Puts the files into the state directory that all guests share.
fn fill_state(path: &Path) -> std::io::Result<()> {
    for directory in ["boot", "boot/bin", "boot/machine", "empty"] {
        state::make_dir(&path.join(directory), 0o755)?;
    }
    for (name, script) in [
        ("supervise.sh", include_str!("supervise.sh")),
        ("init.sh", include_str!("init.sh")),
        ("plain.sh", include_str!("plain.sh")),
        ("overlay.sh", include_str!("overlay.sh")),
        ("login.sh", include_str!("login.sh")),
        ("cloud-init.sh", include_str!("cloud-init.sh")),
        ("bin/cloud-init", CLOUD_INIT),
    ] {
        disk::write_file(&path.join("boot").join(name), script, 0o755)?;
    }
    overlay::make_dev(&path.join("dev"))
}

/// Makes one line of several.
fn one_line(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

/// Runs file and process work where it holds nobody up.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, GuestError> + Send + 'static,
) -> Result<T, GuestError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that shuts down cancels, and then nobody waits for the result.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_that_mounts_cannot_name_is_refused() {
        assert!(check_path(Path::new("/var/tmp")).is_ok());
        for path in ["relative", "/a,b", "/a b", "/a:b", "/a\"b"] {
            assert!(check_path(Path::new(path)).is_err(), "{path}");
        }
    }
}
