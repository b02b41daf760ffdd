//! How guests are run, and what each is told when it boots.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use super::{ConfigDrive, Rung, VM_DATA_HOSTNAME};
use crate::secret;

/// Says how guests are to be run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GuestOptions {
    /// The directory in which a private one is made for all files of guests. By default
    /// `/var/tmp`, or the first of `/tmp` and `/dev/shm` that works.
    pub state_dir: Option<PathBuf>,
    /// The rung to use. By default the best that works.
    pub rung: Option<Rung>,
    /// A root file system to take the guests' software from. By default the machine's own.
    pub rootfs: Option<PathBuf>,
    /// How long processes that were asked to end are given at a shutdown. By default 2 seconds.
    pub stop_grace: Duration,
}

impl Default for GuestOptions {
    fn default() -> Self {
        Self {
            state_dir: None,
            rung: None,
            rootfs: None,
            stop_grace: Duration::from_secs(2),
        }
    }
}

impl GuestOptions {
    /// Keeps the files of guests in this directory.
    #[must_use]
    pub fn with_state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(path.into());
        self
    }

    /// Uses this rung or none.
    #[must_use]
    pub fn with_rung(mut self, rung: Rung) -> Self {
        self.rung = Some(rung);
        self
    }

    /// Takes the guests' software from this root file system.
    #[must_use]
    pub fn with_rootfs(mut self, path: impl Into<PathBuf>) -> Self {
        self.rootfs = Some(path.into());
        self
    }

    /// Gives processes this long at a shutdown, rounded up to whole seconds.
    #[must_use]
    pub fn with_stop_grace(mut self, grace: Duration) -> Self {
        self.stop_grace = grace;
        self
    }
}

/// What a guest is told when it boots.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct BootConfig {
    /// The host name, unless the boot data have one. Anything that no host name may contain is
    /// replaced, so that the name of a VM will do.
    pub hostname: String,
    /// The values that the guest reads from xenstore, by their key below `vm-data/`.
    pub vm_data: BTreeMap<String, String>,
    /// The config drives that the guest finds, in the order of its devices; `None` for a guest
    /// without cloud-init. A guest with it does not read `vm_data`.
    pub config_drives: Option<Vec<ConfigDrive>>,
    /// The uuid of the VM, as its firmware has it: what the system takes for its machine id where
    /// it has none. By default any.
    pub uuid: Option<String>,
    /// The address to boot at: one that a guest of the same [`Guests`](super::Guests) had before. By default any.
    pub address: Option<Ipv4Addr>,
}

impl BootConfig {
    /// Returns boot data with nothing but a host name.
    #[must_use]
    pub fn new(hostname: impl Into<String>) -> Self {
        Self {
            hostname: hostname.into(),
            ..Self::default()
        }
    }

    /// Adds one of the values that the guest reads from xenstore.
    #[must_use]
    pub fn with_vm_data(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.vm_data.insert(key.into(), value.into());
        self
    }

    /// Lets cloud-init in the guest find these config drives, in the order of its devices.
    #[must_use]
    pub fn with_config_drives(mut self, drives: Vec<ConfigDrive>) -> Self {
        self.config_drives = Some(drives);
        self
    }

    /// Boots at this address.
    #[must_use]
    pub fn with_address(mut self, address: Ipv4Addr) -> Self {
        self.address = Some(address);
        self
    }

    /// Says the uuid of the VM.
    #[must_use]
    pub fn with_uuid(mut self, uuid: impl Into<String>) -> Self {
        self.uuid = Some(uuid.into());
        self
    }

    /// What the guest takes for its machine id if it has none.
    pub(super) fn machine_id(&self) -> String {
        if let Some(uuid) = &self.uuid {
            return uuid.replace('-', "");
        }
        secret::machine_id()
    }

    pub(super) fn hostname(&self) -> String {
        let asked = self.vm_data.get(VM_DATA_HOSTNAME).unwrap_or(&self.hostname);
        host_name(asked)
    }
}

/// Makes a host name out of any name.
fn host_name(name: &str) -> String {
    let name: String = name
        .chars()
        .map(|char| {
            if char.is_ascii_alphanumeric() {
                char.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .take(63)
        .collect();
    let name = name.trim_matches('-');
    if name.is_empty() {
        "guest".to_owned()
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_of_a_vm_makes_a_host_name() {
        assert_eq!(host_name("Lua worker #3"), "lua-worker--3");
        assert_eq!(host_name("日本"), "guest");
        assert_eq!(host_name(&"x".repeat(100)).len(), 63);
    }

    #[test]
    fn the_host_name_of_the_boot_data_wins() {
        let boot = BootConfig::new("one").with_vm_data(VM_DATA_HOSTNAME, "two");
        assert_eq!(boot.hostname(), "two");
    }
}
