//! What can go wrong with a guest.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::Rung;

/// Tells why a guest, its disk or the place for all of them could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// Programs that guests need are not installed.
    #[error(
        "guests need {}, which {} does not have: install with `apt-get install --yes {}`",
        programs.join(" and "),
        if root == Path::new("/") { "this machine".to_owned() } else { root.display().to_string() },
        packages.join(" ")
    )]
    MissingPrograms {
        /// Names of the programs.
        programs: Vec<&'static str>,
        /// The Debian packages that hold them.
        packages: Vec<&'static str>,
        /// The root file system that lacks them.
        root: PathBuf,
    },

    /// The given root file system cannot be used.
    #[error("cannot take the guests' software from {}", path.display())]
    Rootfs {
        /// Its directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },

    /// No directory could be made in which guests keep their files.
    #[error("cannot keep the files of guests under {}: name another state directory", path.display())]
    StateDir {
        /// The directory that was tried last.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },

    /// Every way to isolate guests that was asked for fails on this machine.
    #[error("this machine cannot run guests: {}", tried.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    NoRung {
        /// The rungs that were tried, best first.
        tried: Vec<PassedOver>,
    },

    /// A rung needs what is not there.
    #[error("{reason}")]
    Unsupported {
        /// What it needs.
        reason: String,
    },

    /// A file of a guest could not be written, read or removed.
    #[error("cannot {action} {}", path.display())]
    Files {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },

    /// The disk of a guest could not be copied.
    #[error("cannot copy the disk of {name}: {message}")]
    Copy {
        /// Name of the guest whose disk it is.
        name: String,
        /// What the copying program reported.
        message: String,
    },

    /// The bytes of an imported disk hold no files that a guest could run from.
    #[error("the disk of {name} holds no system that can run here: {reason}")]
    Image {
        /// Name of the guest whose disk it is.
        name: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A value in the boot data cannot be used.
    #[error("vm-data/{key} of {name} is not usable: {reason}")]
    BootData {
        /// Name of the guest.
        name: String,
        /// The key below `vm-data/`.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },

    /// No address is left for another guest.
    #[error("no address of 127.77.0.0/16 is free on port {}", super::PORT)]
    NoAddress,

    /// The asked address belongs to somebody else.
    #[error(
        "{address} port {} is taken or not one of this simulator's",
        super::PORT
    )]
    AddressTaken {
        /// The address.
        address: Ipv4Addr,
    },

    /// A guest runs on the disk already.
    #[error("{name} is running: shut it down first")]
    Running {
        /// Name of the guest.
        name: String,
    },

    /// A program that makes or starts guests could not be run.
    #[error("cannot run {program}")]
    Spawn {
        /// The program.
        program: String,
        /// The reason.
        source: io::Error,
    },

    /// The guest ended before it answered.
    #[error("{name} does not boot: {log}")]
    Boot {
        /// Name of the guest.
        name: String,
        /// What it wrote first, on one line.
        log: String,
    },

    /// The guest did not answer in time.
    #[error("{name} does not answer within {} seconds of its start", super::BOOT_LIMIT.as_secs())]
    Silent {
        /// Name of the guest.
        name: String,
    },

    /// A login into a trial guest failed.
    #[error("a login fails: {message}")]
    Login {
        /// What ssh and the guest reported, on one line.
        message: String,
    },
}

impl GuestError {
    /// Returns a function that says what was done with which file when it failed.
    pub(super) fn files(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Files {
            action,
            path,
            source,
        }
    }
}

/// A rung that does not work here, and why.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PassedOver {
    /// The rung.
    pub rung: Rung,
    /// The reason, on one line.
    pub reason: String,
}

impl PassedOver {
    pub(super) fn new(rung: Rung, error: &GuestError) -> Self {
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            reason = format!("{reason}: {cause}");
            source = cause.source();
        }
        Self { rung, reason }
    }
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rung, self.reason)
    }
}
