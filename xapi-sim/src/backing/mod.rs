//! What stands behind the records: disks that hold a system or bytes, and the guests that run from
//! them.
//!
//! The files of a guest belong to the VDI and not to the VM, as on a real host: `VM.destroy`
//! leaves them, `VDI.destroy` removes them, cloning a VDI copies them. A VM runs a guest when its
//! boot disk holds one.

mod bytes;
mod run;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;

pub(crate) use bytes::{to_read, to_write};
pub(crate) use run::{BootPlan, boot, follow, freeze, sleep, stop, wake};

use crate::failure::Failure;
use crate::guest::{BootConfig, Guest, GuestDisk, GuestError, Guests};
use crate::report::GuestReport;
use crate::storage::RawDisk;
use crate::world::Shared;

/// What is on a VDI.
#[derive(Debug, Clone)]
pub(crate) enum Disk {
    /// A system that has run or can run.
    System(Installed),
    /// Bytes that a client has written. Who boots from them looks whether a system is there.
    Raw(Arc<RawDisk>),
}

/// A system on a VDI.
#[derive(Debug, Clone)]
pub(crate) struct Installed {
    system: System,
    /// Whether it takes keys and name from a config drive, and from nothing else.
    cloud_init: bool,
    /// What its agent will tell.
    report: GuestReport,
}

#[derive(Debug, Clone)]
enum System {
    /// A system with a guest agent that only pretends to run.
    Simulated,
    /// The files of a real guest.
    Guest(Arc<BackedDisk>),
}

/// The files of a guest.
#[derive(Debug)]
pub(crate) struct BackedDisk {
    disk: GuestDisk,
    /// One copy at a time: copying needs the disk for itself, as running does.
    copying: tokio::sync::Mutex<()>,
}

/// A system that runs in a VM.
#[derive(Debug)]
pub(crate) struct Running {
    /// The domain in which it booted, which tells this run from earlier and later ones.
    pub(crate) domain: i64,
    /// Where the guest says it can be reached.
    pub(crate) address: IpAddr,
    /// Addresses that it was told for interfaces other than its first, by their numbers. Nothing on
    /// this machine has them.
    pub(crate) further: Vec<(String, IpAddr)>,
    pub(crate) guest: Option<Guest>,
    /// Whether the VM is paused or suspended, for what runs in it without being a guest.
    pub(crate) asleep: watch::Sender<bool>,
}

/// Where guests are booted, if anywhere.
#[derive(Debug)]
pub(crate) struct GuestHost {
    pub(crate) guests: Option<Guests>,
}

impl GuestHost {
    /// A fresh system: a real one where guests are real.
    pub(crate) async fn install(
        &self,
        name: &str,
        report: GuestReport,
        cloud_init: bool,
    ) -> Result<Installed, GuestError> {
        let system = match &self.guests {
            Some(guests) if cloud_init => backed(guests.create_with_cloud_init(name).await?),
            Some(guests) => backed(guests.create(name).await?),
            None => System::Simulated,
        };
        Ok(Installed {
            system,
            cloud_init,
            report,
        })
    }

    /// A disk with the same content.
    async fn copy(&self, of: &Installed, name: &str) -> Result<Installed, Failure> {
        match (&of.system, &self.guests) {
            (System::Guest(source), Some(guests)) => {
                let _turn = source.copying.lock().await;
                let copy = guests.copy(&source.disk, name).await;
                let copy = copy.map_err(|error| storage_failure(&error))?;
                Ok(Installed {
                    system: backed(copy),
                    cloud_init: of.cloud_init,
                    report: of.report,
                })
            }
            _ => Ok(of.clone()),
        }
    }

    async fn boot(&self, disk: &Installed, config: BootConfig) -> Result<Option<Guest>, Failure> {
        let (System::Guest(backed), Some(guests)) = (&disk.system, &self.guests) else {
            return Ok(None);
        };
        // A copy under way would make the boot fail; it does not last long.
        let _turn = backed.copying.lock().await;
        let mut result = guests.boot(&backed.disk, config.clone()).await;
        if matches!(result, Err(GuestError::AddressTaken { .. })) {
            // As with any lease: the old address if it is to be had, else a new one.
            let mut config = config;
            config.address = None;
            result = guests.boot(&backed.disk, config).await;
        }
        result.map(Some).map_err(|error| {
            let text = whole(&error);
            tracing::error!(%text, "guest does not boot");
            Failure::internal(format!("xenopsd internal error: {text}"))
        })
    }
}

/// A disk with the same content as another.
pub(crate) async fn copy(shared: &Shared, of: &Disk, name: &str) -> Result<Disk, Failure> {
    match of {
        Disk::System(installed) => {
            let copy = shared.guests.copy(installed, name).await?;
            Ok(Disk::System(copy))
        }
        Disk::Raw(source) => {
            let (source, storage) = (Arc::clone(source), Arc::clone(&shared.storage));
            let copy = blocking(move || {
                let copy = storage.create()?;
                copy.copy_from(&source)?;
                Ok(copy)
            });
            let copy = copy.await.map_err(|error| storage_failure(&error))?;
            Ok(Disk::Raw(Arc::new(copy)))
        }
    }
}

/// Runs file work where it holds nobody up.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    // Only a panic and a runtime that shuts down are errors here.
    let result = tokio::task::spawn_blocking(work).await;
    result.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn backed(disk: GuestDisk) -> System {
    System::Guest(Arc::new(BackedDisk {
        disk,
        copying: tokio::sync::Mutex::new(()),
    }))
}

fn storage_failure(error: &(dyn std::error::Error + 'static)) -> Failure {
    let text = whole(error);
    tracing::error!(%text, "a disk cannot be copied");
    Failure::new(
        "SR_BACKEND_FAILURE_81",
        [String::new(), text, String::new()],
    )
}

/// An error with its causes on one line.
pub(crate) fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
