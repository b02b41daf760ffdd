//! A guest that is running.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::timeout;

use super::address::Lease;
use super::disk::{DiskFiles, Running};
use super::freeze::Freezer;
use super::process::{self, Process};
use super::sshd::{self, SshdConfig};
use super::{
    BootConfig, GuestDisk, GuestError, Rung, blocking, bubblewrap, cloud_init, overlay, plain,
};

/// A guest that is running. Dropping it is like cutting its power.
#[derive(Debug)]
pub struct Guest {
    // In the order of their ends: the processes go before what they use.
    process: Process,
    has_ended: watch::Receiver<bool>,
    address: Lease,
    host_key: String,
    freezer: Arc<Freezer>,
    disk: Running,
}

impl Guest {
    pub(super) async fn boot(disk: &GuestDisk, mut boot: BootConfig) -> Result<Self, GuestError> {
        let disk = disk.files.claim()?;
        let address = disk.guests.addresses.lease(boot.address)?;
        let name = disk.name().to_owned();
        let start = move || {
            cloud_init::forget_if_cleaned(&disk)?;
            disk.reset_volatile()?;
            cloud_init::prepare(&disk, &mut boot)?;
            let identity = sshd::install_keys(&disk, &boot)?;
            let command = boot_command(&disk, &boot, address.socket_addr(), identity.is_new)?;
            let rung = disk.guests.rung;
            let process = Process::spawn(command, rung.is_namespaced())?;
            let mark = (rung == Rung::Plain).then(|| plain::mark(&disk));
            let freezer = Freezer::new(process.id(), rung.is_namespaced(), mark);
            let freezer = Arc::new(freezer);
            disk.set_freezer(Some(Arc::clone(&freezer)));
            Ok((process, address, disk, identity.host_key, freezer))
        };
        let (process, address, disk, host_key, freezer) = blocking(start).await?;
        let has_ended = process.ready(&name).await?;
        Ok(Self {
            process,
            has_ended,
            address,
            host_key,
            freezer,
            disk,
        })
    }

    /// Returns where its sshd listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address.socket_addr()
    }

    /// Returns its public host key: type and key, as in a `known_hosts` file after the host.
    #[must_use]
    pub fn host_key(&self) -> &str {
        &self.host_key
    }

    /// Stops all processes of the guest where they are. Calls add up: it goes on after as many
    /// calls of [`thaw`](Self::thaw).
    ///
    /// # Cancel safety
    ///
    /// The guest stops also when the future is dropped.
    pub async fn freeze(&self) {
        let freezer = self.freezer();
        // Only a runtime that shuts down refuses, and the guest with it.
        let _ = tokio::task::spawn_blocking(move || freezer.freeze()).await;
    }

    /// Undoes one [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.freezer.thaw();
    }

    pub(crate) fn freezer(&self) -> Arc<Freezer> {
        Arc::clone(&self.freezer)
    }

    /// Shuts the guest down: asks its processes to end, and ends those that do not within the
    /// grace period of [`GuestOptions::stop_grace`](super::GuestOptions::stop_grace). When it returns, none is left.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cuts the power.
    pub async fn shutdown(mut self) {
        self.process.ask_to_end();
        let grace = self.disk.guests.stop_grace + process::patience();
        let _ = timeout(grace, self.exited()).await;
        self.power_off().await;
    }

    /// Ends all processes of the guest at once. When it returns, none is left.
    ///
    /// # Cancel safety
    ///
    /// The power is cut also when the future is dropped.
    pub async fn power_off(mut self) {
        self.process.cut_lifeline();
        let _ = timeout(process::patience(), self.exited()).await;
    }

    /// Waits until the guest has ended, by itself or because it was shut down.
    ///
    /// The future does not borrow the guest.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub fn exited(&self) -> impl Future<Output = ()> + Send + use<> {
        process::ended(self.has_ended.clone())
    }
}

/// Writes the configuration of the guest's sshd and returns what starts the guest.
fn boot_command(
    disk: &DiskFiles,
    boot: &BootConfig,
    address: SocketAddr,
    is_new: bool,
) -> Result<Command, GuestError> {
    let rung = disk.guests.rung;
    let ssh = disk.path().join("ssh").display().to_string();
    let directory = if rung.is_namespaced() {
        "/etc/ssh"
    } else {
        &ssh
    };
    let (mut command, sftp, more) = match rung {
        Rung::Overlay => (
            overlay::command(disk, &boot.hostname())?,
            "internal-sftp",
            String::new(),
        ),
        Rung::Bubblewrap => (
            bubblewrap::command(disk, &boot.hostname())?,
            "internal-sftp",
            bubblewrap::sshd_config(boot),
        ),
        Rung::Plain => (plain::command(disk)?, plain::SFTP, plain::sshd_config(disk)),
    };
    // In a user namespace the machine's root is nobody, and a disk in /tmp has a parent that
    // others may write to. Either would make sshd refuse keys.
    let strict_modes = rung == Rung::Overlay;
    let config = SshdConfig {
        address,
        directory,
        strict_modes,
        pam: rung == Rung::Overlay && disk.guests.software.has_pam(),
        sftp,
        more: &more,
    };
    disk.write("ssh/sshd_config", &config.text(), 0o644)?;
    command
        .arg(disk.guests.software.sshd())
        .arg(format!("{directory}/sshd_config"))
        .arg(disk.guests.stop_grace.as_secs_f64().ceil().to_string());
    if rung == Rung::Plain {
        command.arg(plain::mark(disk));
    } else {
        command
            .arg(boot.machine_id())
            .arg(if is_new { "new" } else { "" });
    }
    Ok(command)
}
