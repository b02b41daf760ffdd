//! The configuration after it was checked.

mod checks;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bioxen_vm_core::words::ByteSize;
use bioxen_vm_core::{ConfigProblem, VmId};
use secrecy::SecretString;
use xapi_client::Fingerprint;

use crate::config::{CloneMode, DiskConfig, FirstContact, SshConfig, XcpngConfig};
use crate::config_drive::{Cidr, StaticAddress};
use crate::peers::Peers;

/// A configuration without contradictions.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) hosts: Vec<String>,
    pub(crate) username: String,
    pub(crate) password: Password,
    pub(crate) tls: Tls,
    pub(crate) wish: Wish,
    pub(crate) login: Login,
    pub(crate) lua: String,
    pub(crate) execution_timeout: Option<Duration>,
    pub(crate) boot_timeout: Duration,
    /// How long a VM that has its address may take until it can be logged in to.
    pub(crate) login_timeout: Duration,
    pub(crate) stop_timeout: Duration,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) expiry: Duration,
}

#[derive(Debug, Clone)]
pub(crate) enum Password {
    Value(SecretString),
    File(PathBuf),
    Command(Vec<String>),
}

#[derive(Debug, Clone)]
pub(crate) enum Tls {
    SystemRoots,
    CaFile(PathBuf),
    Pinned(Vec<Fingerprint>),
    Insecure,
}

/// What the VM is to be like.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) template: String,
    pub(crate) memory: Option<ByteSize>,
    pub(crate) vcpus: Option<u32>,
    pub(crate) cores_per_socket: Option<u32>,
    pub(crate) disk_size: Option<ByteSize>,
    pub(crate) disks: Vec<DiskConfig>,
    pub(crate) affinity: Option<String>,
    pub(crate) sr: Option<String>,
    pub(crate) networks: Vec<String>,
    pub(crate) fixed_address: Option<StaticAddress>,
    pub(crate) address_cidr: Vec<Cidr>,
    pub(crate) peers: Option<Box<Peers>>,
    pub(crate) name: Option<String>,
    pub(crate) name_prefix: String,
    pub(crate) tags: Vec<String>,
    pub(crate) clone: CloneMode,
}

impl Wish {
    /// The fixed addresses of a VM, by the number of the interface.
    pub(crate) fn addresses(&self, vm: &VmId) -> BTreeMap<usize, StaticAddress> {
        let peers = self.peers.as_deref();
        let as_peer = peers.and_then(|peers| Some((peers.interface, peers.address_of(vm)?)));
        let first = self.fixed_address.clone().map(|fixed| (0, fixed));
        first.into_iter().chain(as_peer).collect()
    }

    /// Whether a VM has to be told more than its config drive alone can carry to it.
    pub(crate) fn needs_drive(&self) -> bool {
        self.fixed_address.is_some() || self.peers.is_some()
    }
}

/// How the VM is logged in to.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) port: u16,
    pub(crate) keys: Keys,
}

#[derive(Debug, Clone)]
pub(crate) enum Keys {
    /// Made for each VM, and handed to it.
    PerVm(Handover),
    Fixed {
        identity_file: PathBuf,
        host_key: KnownHost,
    },
}

/// How a VM gets its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handover {
    /// As its template says.
    AsTemplate,
    /// On a config drive.
    Drive,
    /// Through its xenstore data.
    VmData,
}

#[derive(Debug, Clone)]
pub(crate) enum KnownHost {
    Pinned(String),
    File(PathBuf),
}

impl Settings {
    /// Checks a configuration, and gives all problems at once.
    pub(crate) fn new(config: XcpngConfig) -> Result<Self, Vec<ConfigProblem>> {
        let mut problems = Vec::new();
        if config.template.trim().is_empty() {
            problems.push(ConfigProblem::new("template", "template is missing"));
        }
        Self::checked(config, problems)
    }

    /// The same for what needs no template, as it makes no VM.
    pub(crate) fn without_template(config: XcpngConfig) -> Result<Self, Vec<ConfigProblem>> {
        Self::checked(config, Vec::new())
    }

    fn checked(
        mut config: XcpngConfig,
        mut problems: Vec<ConfigProblem>,
    ) -> Result<Self, Vec<ConfigProblem>> {
        merge_older_keys(&mut config, &mut problems);
        checks::all(&config, &mut problems);
        let password = password(&mut config, &mut problems);
        let tls = tls(&config, &mut problems);
        let keys = keys(&config, &mut problems);
        match (password, tls, keys) {
            (Some(password), Some(tls), Some(keys)) if problems.is_empty() => Ok(Self {
                hosts: config.xcpng_host,
                username: config.username,
                password,
                tls,
                wish: Wish {
                    template: config.template,
                    memory: config.memory,
                    vcpus: config.vcpus,
                    cores_per_socket: config.cores_per_socket,
                    disk_size: config.disk_size,
                    disks: config.disks,
                    affinity: config.affinity,
                    sr: config.sr,
                    networks: config.network,
                    fixed_address: config.static_address,
                    address_cidr: config.address_cidr,
                    peers: config.peers,
                    name: config.name,
                    name_prefix: config.name_prefix,
                    tags: config.tags,
                    clone: config.clone,
                },
                login: Login {
                    user: config.ssh.user,
                    port: config.ssh.port,
                    keys,
                },
                lua: config.lua,
                execution_timeout: config.execution_timeout,
                boot_timeout: config.boot_timeout,
                login_timeout: config.boot_timeout,
                stop_timeout: config.stop_timeout,
                state_dir: config.state_dir,
                expiry: config.expiry,
            }),
            _ => Err(problems),
        }
    }
}

fn merge_older_keys(config: &mut XcpngConfig, problems: &mut Vec<ConfigProblem>) {
    let (user, key) = config.take_older_ssh_keys();
    if let Some(user) = user {
        config.ssh.user = user;
    }
    if let Some(key) = key
        && config.ssh.identity_file.replace(key).is_some()
    {
        let message = "ssh.identity_file is given twice, once by an older name";
        problems.push(ConfigProblem::new("ssh.identity_file", message));
    }
}

fn password(config: &mut XcpngConfig, problems: &mut Vec<ConfigProblem>) -> Option<Password> {
    let mut given = Vec::new();
    given.extend(config.password.take().map(Password::Value));
    given.extend(config.password_file.take().map(Password::File));
    if !config.password_command.is_empty() {
        given.push(Password::Command(std::mem::take(
            &mut config.password_command,
        )));
    }
    if let Some(variable) = &config.password_variable {
        problems.push(ConfigProblem::new(
            "password_variable",
            format!(
                "password_variable: the program bioxen reads the variable {variable:?}, a library \
                 reads none; give password"
            ),
        ));
        return None;
    }
    if given.len() == 1 {
        return given.pop();
    }
    problems.push(ConfigProblem::new(
        "password",
        if given.is_empty() {
            "the password is missing; give password, password_file, password_command or \
             password_variable"
        } else {
            "give only one of password, password_file and password_command"
        },
    ));
    None
}

fn tls(config: &XcpngConfig, problems: &mut Vec<ConfigProblem>) -> Option<Tls> {
    let tls = &config.tls;
    let mut pins = Vec::new();
    for text in &tls.fingerprint {
        match text.parse() {
            Ok(pin) => pins.push(pin),
            Err(error) => {
                let message = format!("tls.fingerprint: {error}");
                problems.push(ConfigProblem::new("tls.fingerprint", message));
            }
        }
    }
    match (tls.fingerprint.as_slice(), &tls.ca_file, tls.insecure) {
        ([], None, false) => Some(Tls::SystemRoots),
        ([], None, true) => Some(Tls::Insecure),
        ([], Some(path), false) => Some(Tls::CaFile(path.clone())),
        (_, None, false) => Some(Tls::Pinned(pins)),
        _ => {
            problems.push(ConfigProblem::new(
                "tls",
                "give only one of tls.fingerprint, tls.ca_file and tls.insecure",
            ));
            None
        }
    }
}

fn keys(config: &XcpngConfig, problems: &mut Vec<ConfigProblem>) -> Option<Keys> {
    let ssh = &config.ssh;
    let fixed = ssh.identity_file.is_some() || ssh.host_key.is_some() || ssh.known_hosts.is_some();
    let pinned = ssh.host_key.as_ref().and_then(|key| {
        if is_public_key(key) {
            return Some(key.trim().to_owned());
        }
        let message =
            format!("ssh.host_key {key:?} is no public key; give it as \"ssh-ed25519 AAAA...\"");
        problems.push(ConfigProblem::new("ssh.host_key", message));
        None
    });
    match ssh.first_contact {
        FirstContact::ConfigDrive | FirstContact::VmData if fixed => {
            problems.push(ConfigProblem::new(
                "ssh.first_contact",
                "ssh.identity_file, ssh.host_key and ssh.known_hosts need ssh.first_contact = \
                 \"fixed\"",
            ));
            None
        }
        FirstContact::Auto if !fixed => Some(Keys::PerVm(Handover::AsTemplate)),
        FirstContact::ConfigDrive => Some(Keys::PerVm(Handover::Drive)),
        FirstContact::VmData => Some(Keys::PerVm(Handover::VmData)),
        FirstContact::Auto | FirstContact::Fixed => {
            let host_key = known_host(ssh, pinned, problems);
            if ssh.identity_file.is_none() {
                let message = "ssh.first_contact = \"fixed\" needs ssh.identity_file";
                problems.push(ConfigProblem::new(makes_fixed(ssh), message));
            }
            Some(Keys::Fixed {
                identity_file: ssh.identity_file.clone()?,
                host_key: host_key?,
            })
        }
    }
}

/// By what a VM is known that comes with keys.
fn known_host(
    ssh: &SshConfig,
    pinned: Option<String>,
    problems: &mut Vec<ConfigProblem>,
) -> Option<KnownHost> {
    match (&ssh.host_key, &ssh.known_hosts) {
        (Some(_), None) => pinned.map(KnownHost::Pinned),
        (None, Some(path)) => Some(KnownHost::File(path.clone())),
        _ => {
            problems.push(ConfigProblem::new(
                makes_fixed(ssh),
                "ssh.first_contact = \"fixed\" needs either ssh.host_key or ssh.known_hosts, so \
                 that the VM can be told from an impostor",
            ));
            None
        }
    }
}

/// The key that says that the template has keys of its own.
fn makes_fixed(ssh: &SshConfig) -> &'static str {
    match ssh.first_contact {
        FirstContact::Fixed => "ssh.first_contact",
        _ if ssh.identity_file.is_some() => "ssh.identity_file",
        _ if ssh.host_key.is_some() => "ssh.host_key",
        _ => "ssh.known_hosts",
    }
}

/// Whether a text is one line of a key type and a key.
fn is_public_key(text: &str) -> bool {
    let mut words = text.split_whitespace();
    let (Some(kind), Some(key)) = (words.next(), words.next()) else {
        return false;
    };
    let is_kind = kind
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "-@.".contains(c));
    let is_key = key.starts_with("AAAA")
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+/=".contains(c));
    is_kind && is_key && !text.trim().contains('\n')
}
