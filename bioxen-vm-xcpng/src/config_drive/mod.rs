//! The drive from which cloud-init in a VM takes who it is: keys, name and addresses (NoCloud).
//!
//! Its documents are YAML to cloud-init. They are written as JSON, which is YAML too, so that no
//! value can be mistaken for syntax.

mod network;
mod volume;

use std::fmt;

use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::ssh::KeyPair;

pub(crate) use network::network_config;
pub use network::{Cidr, StaticAddress};
pub(crate) use volume::SIZE;

/// What a VM is told by its drive.
pub(crate) struct ConfigDrive<'a> {
    /// Tells cloud-init that it has not seen this VM yet, also where its disk comes from another
    /// one: 32 hex digits, as a machine id.
    pub(crate) instance: &'a str,
    pub(crate) hostname: &'a str,
    /// Who logs in.
    pub(crate) user: &'a str,
    /// Opens the login.
    pub(crate) client: &'a KeyPair,
    /// Proves that the VM is the one that was made.
    pub(crate) host: &'a KeyPair,
    /// Without it, cloud-init asks DHCP.
    pub(crate) network: Option<Value>,
    /// Lines for `/etc/hosts`.
    pub(crate) hosts: Option<&'a str>,
}

impl ConfigDrive<'_> {
    /// The content of the drive.
    pub(crate) fn image(&self) -> Result<SecretSlice<u8>> {
        let meta_data = json!({
            "instance-id": format!("bioxen-{}", self.instance),
            "local-hostname": self.hostname,
        })
        .to_string();
        let user_data = self.user_data();
        let network = self.network.as_ref().map(Value::to_string);
        let mut files = vec![
            ("meta-data", meta_data.as_str()),
            ("user-data", user_data.expose_secret()),
        ];
        files.extend(network.as_deref().map(|text| ("network-config", text)));
        volume::volume(&files).map_err(Error::ConfigDrive)
    }

    fn user_data(&self) -> SecretString {
        let key = self.client.public();
        let mut config = json!({
            "preserve_hostname": false,
            "hostname": self.hostname,
            // The template's own, which all its VMs would share, go.
            "ssh_deletekeys": true,
            "ssh_keys": {
                "ed25519_private": self.host.expose_private(),
                "ed25519_public": self.host.public(),
            },
            // So does its machine id, by which DHCP servers and logs tell machines apart.
            "write_files": [{
                "path": "/etc/machine-id",
                "content": format!("{}\n", self.instance),
                "permissions": "0444",
            }],
        });
        if let Some(hosts) = self.hosts
            && let Some(files) = config["write_files"].as_array_mut()
        {
            files.push(json!({"path": "/etc/hosts", "content": hosts, "append": true}));
            // Otherwise it is written anew at each start where the template says so.
            config["manage_etc_hosts"] = json!(false);
        }
        let is_root = self.user == "root";
        // Root stays as it is but for the key; its password opens the console alone.
        config["disable_root"] = json!(!is_root);
        config["users"] = if is_root {
            json!([{"name": "root", "lock_passwd": false, "ssh_authorized_keys": [key]}])
        } else {
            json!([{"name": self.user, "shell": "/bin/sh", "ssh_authorized_keys": [key]}])
        };
        SecretString::from(format!("#cloud-config\n{config}\n"))
    }
}

impl fmt::Debug for ConfigDrive<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigDrive")
            .field("instance", &self.instance)
            .field("hostname", &self.hostname)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
