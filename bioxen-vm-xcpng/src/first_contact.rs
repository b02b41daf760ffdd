//! How a VM and we know each other at the first login.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bioxen_vm_core::VmId;
use secrecy::SecretSlice;

use crate::config_drive::ConfigDrive;
use crate::error::{Error, Result};
use crate::keyring::WayIn;
use crate::settings::{Handover, Keys, KnownHost, Login};
use crate::ssh::{HostKey, Identity, KeyPair, SshError, SshTarget};

/// Where a boot script of the template finds what is for it, in the VM's xenstore.
pub(crate) const PREFIX: &str = "vm-data/bioxen/";
pub(crate) const AUTHORIZED_KEYS: &str = "vm-data/bioxen/authorized-keys";
pub(crate) const HOST_KEY: &str = "vm-data/bioxen/host-key";
pub(crate) const HOSTNAME: &str = "vm-data/bioxen/hostname";

/// The two sides' proofs for one VM.
#[derive(Debug, Clone)]
pub(crate) struct FirstContact {
    user: String,
    port: u16,
    proofs: Proofs,
}

#[derive(Debug, Clone)]
enum Proofs {
    /// Made for the VM, and handed to it.
    Made {
        client: KeyPair,
        host: KeyPair,
        handover: Handover,
    },
    /// The template has them.
    Fixed { identity: Identity, host: HostKey },
}

impl FirstContact {
    /// Makes keys for a VM, where the configuration has none.
    pub(crate) fn new(login: &Login) -> Result<Self> {
        let generate =
            |name: &str| KeyPair::generate(name).map_err(|error| Error::Keys(Box::new(error)));
        let proofs = match &login.keys {
            Keys::PerVm(handover) => Proofs::Made {
                client: generate("bioxen")?,
                host: generate("bioxen-guest")?,
                handover: *handover,
            },
            Keys::Fixed {
                identity_file,
                host_key,
            } => Proofs::Fixed {
                identity: Identity::File(absolute(identity_file)),
                host: match host_key {
                    KnownHost::Pinned(key) => HostKey::Pinned(key.clone()),
                    KnownHost::File(path) => HostKey::KnownHosts(absolute(path)),
                },
            },
        };
        Ok(Self {
            user: login.user.clone(),
            port: login.port,
            proofs,
        })
    }

    /// The way into a VM that was kept.
    pub(crate) fn kept(way_in: WayIn) -> Self {
        Self {
            user: way_in.user,
            port: way_in.port,
            proofs: Proofs::Fixed {
                identity: Identity::Key(way_in.identity),
                host: HostKey::Pinned(way_in.host_key),
            },
        }
    }

    /// What has to be kept of it, so that a later program gets in: nothing where the configuration
    /// says it all.
    pub(crate) fn way_in(&self) -> Option<WayIn> {
        let (identity, host_key) = match &self.proofs {
            Proofs::Made { client, host, .. } => (client.private().clone(), host.public()),
            Proofs::Fixed {
                identity: Identity::Key(key),
                host: HostKey::Pinned(host),
            } => (key.clone(), host.as_str()),
            Proofs::Fixed { .. } => return None,
        };
        Some(WayIn {
            user: self.user.clone(),
            port: self.port,
            identity,
            host_key: host_key.to_owned(),
        })
    }

    /// How the VM gets its keys from us, if it does.
    pub(crate) fn handover(&self) -> Option<Handover> {
        match &self.proofs {
            Proofs::Made { handover, .. } => Some(*handover),
            Proofs::Fixed { .. } => None,
        }
    }

    /// Settles how the VM gets its keys, where that was left to its template.
    pub(crate) fn decide(&mut self, by_drive: bool) {
        if let Proofs::Made { handover, .. } = &mut self.proofs {
            *handover = if by_drive {
                Handover::Drive
            } else {
                Handover::VmData
            };
        }
    }

    /// The key that was made for the login, if one was.
    pub(crate) fn public_key(&self) -> Option<&str> {
        match &self.proofs {
            Proofs::Made { client, .. } => Some(client.public()),
            Proofs::Fixed { .. } => None,
        }
    }

    /// The content of the VM's config drive. `instance` are 32 hex digits that no other VM has.
    pub(crate) fn drive(
        &self,
        vm: &VmId,
        instance: &str,
        network: Option<serde_json::Value>,
        hosts: Option<&str>,
    ) -> Result<SecretSlice<u8>> {
        let Proofs::Made { client, host, .. } = &self.proofs else {
            // Plans have no drive for VMs whose template has the keys.
            return Err(Error::Closed);
        };
        let drive = ConfigDrive {
            instance,
            hostname: &host_name(vm),
            user: &self.user,
            client,
            host,
            network,
            hosts,
        };
        drive.image()
    }

    /// The VM's xenstore data with what is for its boot script, in place of what a template or an
    /// earlier VM may have had there.
    pub(crate) fn hand_over(
        &self,
        vm: &VmId,
        mut data: BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        data.retain(|key, _| !key.starts_with(PREFIX));
        if let Proofs::Made { client, host, .. } = &self.proofs {
            data.insert(AUTHORIZED_KEYS.into(), client.public().into());
            data.insert(HOST_KEY.into(), host.expose_private().into());
            data.insert(HOSTNAME.into(), host_name(vm));
        }
        data
    }

    /// The way into the VM at an address.
    pub(crate) fn target(&self, address: IpAddr) -> SshTarget {
        let (identity, host_key) = match &self.proofs {
            Proofs::Made { client, host, .. } => (
                Identity::Key(client.private().clone()),
                HostKey::Pinned(host.public().to_owned()),
            ),
            Proofs::Fixed { identity, host } => (identity.clone(), host.clone()),
        };
        SshTarget::new(address, &self.user, identity, host_key).with_port(self.port)
    }

    /// What to check when a login fails for this reason.
    pub(crate) fn remedy(&self, error: &SshError) -> &'static str {
        let cause = match error {
            SshError::NotReady {
                last: Some(last), ..
            } => last,
            error => error,
        };
        match (cause, &self.proofs) {
            (
                SshError::KeyRefused | SshError::WrongHostKey,
                Proofs::Made {
                    handover: Handover::Drive,
                    ..
                },
            ) => {
                "check that cloud-init is installed and enabled in the template, with NoCloud among \
                 its data sources"
            }
            (SshError::KeyRefused, Proofs::Made { .. }) => {
                "check that the template's boot script installs vm-data/bioxen/authorized-keys for \
                 ssh.user before its SSH server starts"
            }
            (SshError::KeyRefused, Proofs::Fixed { .. }) => {
                "check that the template accepts ssh.identity_file for ssh.user"
            }
            (SshError::WrongHostKey, Proofs::Made { .. }) => {
                "check that the template's boot script installs vm-data/bioxen/host-key before its \
                 SSH server starts"
            }
            (SshError::WrongHostKey, Proofs::Fixed { .. }) => {
                "check ssh.host_key or ssh.known_hosts against the template's own key"
            }
            (SshError::PortClosed, _) => {
                "check ssh.port, and that the template starts an SSH server"
            }
            (SshError::Unreachable { .. }, _) => {
                "check that this machine can reach the network of the VM"
            }
            _ => "look at the VM's console and its SSH server's log",
        }
    }
}

/// The path as seen from any directory: connections are held from one of their own.
fn absolute(path: &std::path::Path) -> std::path::PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The id as a host name, which may have letters, digits and hyphens only.
pub(crate) fn host_name(vm: &VmId) -> String {
    let name: String = vm
        .as_str()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect();
    name.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact() -> FirstContact {
        FirstContact::new(&Login {
            user: "bio".into(),
            port: 2222,
            keys: Keys::PerVm(Handover::VmData),
        })
        .unwrap()
    }

    #[test]
    fn what_an_earlier_vm_had_is_replaced_and_the_rest_stays() {
        let data = [("vm-data/bioxen/old", "x"), ("vm-data/other", "y")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let contact = contact();
        let data = contact.hand_over(&VmId::new("Vm_1.a-").unwrap(), data);
        assert_eq!(
            data.keys().map(String::as_str).collect::<Vec<_>>(),
            [AUTHORIZED_KEYS, HOST_KEY, HOSTNAME, "vm-data/other"]
        );
        assert_eq!(data[HOSTNAME], "vm-1-a");
        assert!(data[AUTHORIZED_KEYS].starts_with("ssh-ed25519 AAAA"));
        assert!(data[HOST_KEY].starts_with("-----BEGIN OPENSSH PRIVATE KEY-----"));
    }

    #[test]
    fn the_vm_is_known_by_the_key_that_it_was_given() {
        let contact = contact();
        let data = contact.hand_over(&VmId::new("vm").unwrap(), BTreeMap::new());
        let target = contact.target(IpAddr::from([10, 0, 0, 5]));
        assert_eq!((target.port, &*target.user), (2222, "bio"));
        let HostKey::Pinned(pinned) = &target.host_key else {
            panic!("{target:?}");
        };
        assert!(pinned.starts_with("ssh-ed25519 "));
        assert!(
            !data[AUTHORIZED_KEYS].contains(pinned.as_str()),
            "two different keys"
        );
        assert!(!format!("{contact:?}{target:?}").contains("PRIVATE"));
    }
}
