//! What a user says about the pool, the VM and the way into it.

use std::path::PathBuf;
use std::time::Duration;

use bioxen_vm_core::words::ByteSize;
use bioxen_vm_core::{BackendConfig, ConfigProblem, Result};
use secrecy::SecretString;
use serde::Deserialize;

use crate::XcpngBackend;
use crate::config_drive::{Cidr, StaticAddress};
use crate::peers::Peers;
use crate::settings::Settings;
use crate::words;

/// The configuration of VMs of type `xcpng`.
///
/// It reads JSON, TOML or any other format of serde; unknown keys are refused. The keys of the
/// libraries that came before are accepted too: `xcp_host`, `xapi_url` or `host` for
/// `xcpng_host`, `xcp_username`, `xcp_password`, `template_name`, `storage_repository`,
/// `network_uuid`, `vm_name_prefix`, and `vm_username`, `ssh_user`, `vm_key_file`, `ssh_key_path`
/// for the user and key of `ssh`.
///
/// ```
/// use bioxen_vm_xcpng::XcpngConfig;
///
/// let config = XcpngConfig::new("pool.example", "lua-bio-template")
///     .with_password("secret".to_owned().into())
///     .with_memory("2GB".parse()?)
///     .with_vcpus(2);
/// assert!(config.problems().is_empty());
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct XcpngConfig {
    /// The pool: host name, address or `https://` URL of any of its hosts, with or without a port.
    /// Of several, the first that answers is used.
    #[serde(
        alias = "xcp_host",
        alias = "xapi_url",
        alias = "host",
        deserialize_with = "words::one_or_many"
    )]
    pub xcpng_host: Vec<String>,
    /// Who logs in to the pool, `root` by default.
    #[serde(alias = "xcp_username")]
    pub username: String,
    /// The password. Give exactly one of `password`, `password_file`, `password_command` and
    /// `password_variable`.
    #[serde(alias = "xcp_password", deserialize_with = "words::secret")]
    pub password: Option<SecretString>,
    /// A file whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// A program and its arguments; the first line that it prints is the password.
    #[serde(deserialize_with = "words::secret_command")]
    pub password_command: Vec<String>,
    /// The environment variable with the password. The program `bioxen` puts its value in place of
    /// it; libraries read no variables, so anywhere else it is a problem.
    pub password_variable: Option<String>,
    /// How the certificate of the pool is judged.
    pub tls: TlsConfig,
    /// The template that VMs are made from: its name or UUID.
    #[serde(alias = "template_name")]
    pub template: String,
    /// The memory of a VM; as the template has it when absent.
    pub memory: Option<ByteSize>,
    /// How many virtual processors a VM has; as the template has it when absent.
    pub vcpus: Option<u32>,
    /// How many of them form a socket, which `vcpus` must be a multiple of. When absent, as the
    /// template has it where that fits, and else all in one socket.
    pub cores_per_socket: Option<u32>,
    /// The size of the VM's first disk; as the template has it when absent. It may grow, not shrink.
    pub disk_size: Option<ByteSize>,
    /// Empty disks that a VM gets besides those of its template, in this order.
    pub disks: Vec<DiskConfig>,
    /// The host that the VM is to run on where it can: its name or UUID.
    pub affinity: Option<String>,
    /// Where the disks of a full copy go: name or UUID of a storage repository. Only with `clone =
    /// "copy"`; a fast clone is where its template is.
    #[serde(alias = "storage_repository")]
    pub sr: Option<String>,
    /// The networks, in the order of the VM's interfaces, by name or UUID, or as `name:…`, `uuid:…`,
    /// `bridge:…` or `tag:…`; as the template has them when empty.
    #[serde(alias = "network_uuid", deserialize_with = "words::one_or_many")]
    pub network: Vec<String>,
    /// A fixed address for the first interface; others, and all without it, ask DHCP. Needs a
    /// config drive: see [`FirstContact::ConfigDrive`].
    pub static_address: Option<StaticAddress>,
    /// The networks of which one has the VM's address (`10.0.0.0/8`), where its guest tools report
    /// several; any when empty.
    #[serde(deserialize_with = "words::networks")]
    pub address_cidr: Vec<Cidr>,
    /// VMs that know each other by fixed addresses on one of their networks and by name. Needs a
    /// config drive too.
    pub peers: Option<Box<Peers>>,
    /// The name of the VM in the pool. By default `name_prefix` and the id of the VM.
    pub name: Option<String>,
    /// What the names of VMs start with, `bioxen-` by default.
    #[serde(alias = "vm_name_prefix")]
    pub name_prefix: String,
    /// Tags that VMs get besides those of the template.
    pub tags: Vec<String>,
    /// How the template's disks are reproduced.
    pub clone: CloneMode,
    /// The way into the VM.
    pub ssh: SshConfig,
    /// The Lua interpreter in the VM: a name or a path, `lua5.4` by default.
    pub lua: String,
    /// The longest time that one execution may take. A script may ask for less. Without limit when
    /// absent.
    #[serde(deserialize_with = "words::duration_or_none")]
    pub execution_timeout: Option<Duration>,
    /// How long a VM may take from its start until it has an address, and again until a login
    /// succeeds. 3 minutes by default.
    #[serde(deserialize_with = "words::duration")]
    pub boot_timeout: Duration,
    /// How long a VM's system may take to end when it is asked to; then the VM is switched off. 1
    /// minute by default; 0 switches it off at once.
    #[serde(deserialize_with = "words::duration")]
    pub stop_timeout: Duration,

    /// A private directory of this program, in which it keeps what it has made on pools and not yet
    /// removed, so that [`XcpngBackend::collect`] can tell what a killed program has left. It is
    /// made when absent. Without it only what has expired can be told.
    pub state_dir: Option<PathBuf>,
    /// After how long a VM counts as left behind where nobody on this machine knows of it, 7 days by
    /// default. It is written on the VM when that is made.
    #[serde(deserialize_with = "words::duration")]
    pub expiry: Duration,

    #[serde(alias = "ssh_user")]
    vm_username: Option<String>,
    #[serde(alias = "ssh_key_path")]
    vm_key_file: Option<PathBuf>,
}

/// How the certificate of a pool is judged. At most one field is set; without any, the
/// certificate must be signed by an authority that this machine trusts.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TlsConfig {
    /// The SHA-256 fingerprints of the certificates that are trusted, one for each host of the pool that
    /// is spoken with: 64 hex digits, with or without colons. A member that has one of them is believed
    /// which one its coordinator has.
    #[serde(deserialize_with = "words::one_or_many")]
    pub fingerprint: Vec<String>,
    /// A PEM file with the authority that signed the certificate.
    pub ca_file: Option<PathBuf>,
    /// Accepts any certificate: whoever is on the way can read the password.
    pub insecure: bool,
}

/// An empty disk besides those of the template.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DiskConfig {
    /// Its size.
    pub size: ByteSize,
    /// Where it is: name or UUID of a storage repository; next to the first disk when absent.
    pub sr: Option<String>,
    /// Its name in the pool; by default that of the VM and a number.
    pub name: Option<String>,
}

/// How the disks of a template are reproduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CloneMode {
    /// Copy on write: made in an instant, next to the template's own disks.
    #[default]
    Fast,
    /// A full copy, independent of the template's disks.
    Copy,
}

/// The way into a VM.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SshConfig {
    /// The user in the VM, `root` by default.
    pub user: String,
    /// The TCP port, 22 by default.
    pub port: u16,
    /// How the VM and we know each other at the first login.
    pub first_contact: FirstContact,
    /// The private key that VMs of this template accept. For `first_contact = "fixed"`.
    pub identity_file: Option<PathBuf>,
    /// The public host key of VMs of this template: `ssh-ed25519 AAAA...`. For `first_contact =
    /// "fixed"`.
    pub host_key: Option<String>,
    /// A known_hosts file that has the VMs' host keys. For `first_contact = "fixed"`.
    pub known_hosts: Option<PathBuf>,
}

/// How a VM and we know each other at the first login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FirstContact {
    /// `Fixed` when there is an `identity_file`, `host_key` or `known_hosts`. Otherwise as the
    /// template says in its `other_config`, under the key `bioxen:first-contact`: `config-drive` or
    /// `vm-data`. A template that says nothing gets `vm-data`.
    #[default]
    Auto,
    /// Keys made for each VM are handed to it on a config drive, which cloud-init in the template
    /// reads. The drive is removed once cloud-init has ended.
    ConfigDrive,
    /// Keys made for each VM are handed to it through its xenstore data, and a boot script of the
    /// template installs them.
    VmData,
    /// The template comes with keys: `identity_file`, and `host_key` or `known_hosts`.
    Fixed,
}

impl Default for XcpngConfig {
    fn default() -> Self {
        Self {
            xcpng_host: Vec::new(),
            username: "root".into(),
            password: None,
            password_file: None,
            password_command: Vec::new(),
            password_variable: None,
            tls: TlsConfig::default(),
            template: String::new(),
            memory: None,
            vcpus: None,
            cores_per_socket: None,
            disk_size: None,
            disks: Vec::new(),
            affinity: None,
            sr: None,
            network: Vec::new(),
            static_address: None,
            address_cidr: Vec::new(),
            peers: None,
            name: None,
            name_prefix: "bioxen-".into(),
            tags: Vec::new(),
            clone: CloneMode::default(),
            ssh: SshConfig::default(),
            lua: "lua5.4".into(),
            execution_timeout: None,
            boot_timeout: Duration::from_secs(180),
            stop_timeout: Duration::from_secs(60),
            state_dir: None,
            expiry: Duration::from_secs(7 * 24 * 3600),
            vm_username: None,
            vm_key_file: None,
        }
    }
}

impl Default for SshConfig {
    fn default() -> Self {
        Self {
            user: "root".into(),
            port: 22,
            first_contact: FirstContact::default(),
            identity_file: None,
            host_key: None,
            known_hosts: None,
        }
    }
}

impl XcpngConfig {
    /// Makes a configuration for a pool and a template. It still needs a password.
    pub fn new(xcpng_host: impl Into<String>, template: impl Into<String>) -> Self {
        Self {
            xcpng_host: vec![xcpng_host.into()],
            template: template.into(),
            ..Self::default()
        }
    }

    /// Sets who logs in to the pool.
    #[must_use]
    pub fn with_username(mut self, username: impl Into<String>) -> Self {
        self.username = username.into();
        self
    }

    /// Sets the password.
    #[must_use]
    pub fn with_password(mut self, password: SecretString) -> Self {
        self.password = Some(password);
        self
    }

    /// Sets the file whose first line is the password.
    #[must_use]
    pub fn with_password_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.password_file = Some(path.into());
        self
    }

    /// Trusts the certificate with this SHA-256 fingerprint, besides others that were given so, and no
    /// others.
    #[must_use]
    pub fn with_fingerprint(mut self, fingerprint: impl Into<String>) -> Self {
        self.tls.fingerprint.push(fingerprint.into());
        self
    }

    /// Sets the memory of a VM.
    #[must_use]
    pub fn with_memory(mut self, memory: ByteSize) -> Self {
        self.memory = Some(memory);
        self
    }

    /// Sets how many virtual processors a VM has.
    #[must_use]
    pub fn with_vcpus(mut self, vcpus: u32) -> Self {
        self.vcpus = Some(vcpus);
        self
    }

    /// Adds an interface on this network, by name or UUID.
    #[must_use]
    pub fn with_network(mut self, network: impl Into<String>) -> Self {
        self.network.push(network.into());
        self
    }

    /// Lets VMs know each other.
    #[must_use]
    pub fn with_peers(mut self, peers: Peers) -> Self {
        self.peers = Some(Box::new(peers));
        self
    }

    /// Adds a tag.
    #[must_use]
    pub fn with_tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Sets how the template's disks are reproduced.
    #[must_use]
    pub fn with_clone(mut self, clone: CloneMode) -> Self {
        self.clone = clone;
        self
    }

    /// Sets the user in the VM and the port of its SSH server.
    #[must_use]
    pub fn with_ssh(mut self, user: impl Into<String>, port: u16) -> Self {
        self.ssh.user = user.into();
        self.ssh.port = port;
        self
    }

    /// Sets how a VM and we know each other at the first login.
    #[must_use]
    pub fn with_first_contact(mut self, contact: FirstContact) -> Self {
        self.ssh.first_contact = contact;
        self
    }

    /// Keeps a record of what is made on pools in this directory.
    #[must_use]
    pub fn with_state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(path.into());
        self
    }

    /// Sets how long a VM may take to boot.
    #[must_use]
    pub fn with_boot_timeout(mut self, timeout: Duration) -> Self {
        self.boot_timeout = timeout;
        self
    }

    /// Sets how long a program may run that sets no limit of its own.
    #[must_use]
    pub fn with_execution_timeout(mut self, timeout: Duration) -> Self {
        self.execution_timeout = Some(timeout);
        self
    }

    /// All that is wrong with it, one clause each.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let problems = self.contradictions();
        problems.iter().map(ToString::to_string).collect()
    }

    /// What the keys of earlier libraries are called now.
    pub const OLDER_KEYS: &[(&str, &str)] = &[
        ("xcp_host", "xcpng_host"),
        ("xapi_url", "xcpng_host"),
        ("host", "xcpng_host"),
        ("xcp_username", "username"),
        ("xcp_password", "password"),
        ("template_name", "template"),
        ("storage_repository", "sr"),
        ("network_uuid", "network"),
        ("vm_name_prefix", "name_prefix"),
        ("vm_username", "ssh.user"),
        ("ssh_user", "ssh.user"),
        ("vm_key_file", "ssh.identity_file"),
        ("ssh_key_path", "ssh.identity_file"),
    ];

    /// Builds a backend for VMs that are on the pool already: to adopt, list and collect them. It needs
    /// no template; without one, it makes no VM.
    ///
    /// # Errors
    /// As [`build`](BackendConfig::build).
    pub fn build_without_template(self) -> Result<XcpngBackend> {
        match Settings::without_template(self) {
            Ok(settings) => Ok(XcpngBackend::from_settings(settings)),
            Err(problems) => {
                let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
                Err(Self::wrong(&problems))
            }
        }
    }

    /// The user and the key of the older dialects.
    pub(crate) fn take_older_ssh_keys(&mut self) -> (Option<String>, Option<PathBuf>) {
        (self.vm_username.take(), self.vm_key_file.take())
    }
}

impl BackendConfig for XcpngConfig {
    const VM_TYPE: &'static str = "xcpng";
    type Backend = XcpngBackend;

    fn build(self) -> Result<XcpngBackend> {
        match Settings::new(self) {
            Ok(settings) => Ok(XcpngBackend::from_settings(settings)),
            Err(problems) => {
                let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
                Err(Self::wrong(&problems))
            }
        }
    }

    fn contradictions(&self) -> Vec<ConfigProblem> {
        Settings::new(self.clone()).err().unwrap_or_default()
    }

    fn advice(key: &str) -> Option<&'static str> {
        Some(match key {
            "vm_password" => "logins by password are not supported; give ssh.identity_file",
            "pool_uuid" => "leave it out: the pool is that of the host",
            "save_credentials" => "leave it out: nothing is saved; give password_file",
            "verify_ssl" => "give tls.fingerprint or tls.ca_file, or tls.insecure = true",
            "vm_config" => "put its memory, vcpus and network beside the other keys",
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests;
