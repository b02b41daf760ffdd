use std::net::IpAddr;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

/// A guest's SSH server, and how each side proves who it is.
///
/// Nothing else is consulted: neither the user's SSH configuration nor an agent.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SshTarget {
    /// The address of the guest.
    pub address: IpAddr,
    /// The TCP port, 22 by default.
    pub port: u16,
    /// The user who logs in.
    pub user: String,
    /// What proves that we are that user.
    pub identity: Identity,
    /// What proves that the guest is the one we mean.
    pub host_key: HostKey,
    /// Where the private directory of a connection is made, `/tmp` by default.
    pub runtime_dir: PathBuf,
}

/// What proves to a guest who logs in.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Identity {
    /// A private key in OpenSSH's form. It touches the disk only while a connection is open, in a
    /// directory that no other user can read.
    Key(SecretString),
    /// A file that holds a private key without a passphrase.
    File(PathBuf),
}

/// What proves that a guest is the one we mean. A guest without that proof is never logged in to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum HostKey {
    /// Its public key: `ssh-ed25519 AAAA...`.
    Pinned(String),
    /// A known_hosts file that has its key under its address.
    KnownHosts(PathBuf),
}

impl SshTarget {
    /// Describes a guest's SSH server at port 22.
    pub fn new(
        address: IpAddr,
        user: impl Into<String>,
        identity: Identity,
        host_key: HostKey,
    ) -> Self {
        Self {
            address,
            port: 22,
            user: user.into(),
            identity,
            host_key,
            runtime_dir: PathBuf::from("/tmp"),
        }
    }

    /// Sets the TCP port.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Sets where the private directory of a connection is made. Keep it short: the path of a
    /// socket in it must fit 104 bytes.
    #[must_use]
    pub fn with_runtime_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.runtime_dir = dir.into();
        self
    }

    /// The arguments of the `ssh` program that opens the connection. Paths without a leading slash
    /// are in the connection's private directory.
    pub(super) fn arguments(&self) -> Vec<String> {
        // First value wins, and -F none keeps out the files of the user and of the machine.
        let mut arguments: Vec<String> = ["-F", "none", "-M", "-N", "-T", "-S", SOCKET]
            .map(String::from)
            .into();
        let mut option = |name: &str, value: &str| {
            arguments.extend(["-o".to_owned(), format!("{name}={value}")]);
        };
        for (name, value) in OPTIONS {
            option(name, value);
        }
        match &self.host_key {
            HostKey::Pinned(_) => {
                option("HostKeyAlias", ALIAS);
                option("UserKnownHostsFile", KNOWN_HOSTS);
            }
            HostKey::KnownHosts(path) => option("UserKnownHostsFile", &quoted(path)),
        }
        option(
            "IdentityFile",
            &match &self.identity {
                Identity::Key(_) => KEY.to_owned(),
                Identity::File(path) => quoted(path),
            },
        );
        option("Port", &self.port.to_string());
        option("User", &self.user);
        arguments.push("--".to_owned());
        arguments.push(self.address.to_string());
        arguments
    }

    /// The line of the private known_hosts file, where there is one.
    pub(super) fn known_hosts(&self) -> String {
        match &self.host_key {
            HostKey::Pinned(key) => format!("{ALIAS} {key}\n"),
            HostKey::KnownHosts(_) => String::new(),
        }
    }
}

/// The connection's socket, in its private directory.
pub(super) const SOCKET: &str = "s";
const KEY: &str = "key";
const KNOWN_HOSTS: &str = "known_hosts";
/// The name that a pinned key goes by, so that it holds at whichever address the guest is.
const ALIAS: &str = "bioxen-guest";

const OPTIONS: [(&str, &str); 22] = [
    ("BatchMode", "yes"),
    ("StrictHostKeyChecking", "yes"),
    ("GlobalKnownHostsFile", "none"),
    ("CheckHostIP", "no"),
    ("UpdateHostKeys", "no"),
    ("IdentitiesOnly", "yes"),
    ("IdentityAgent", "none"),
    ("PreferredAuthentications", "publickey"),
    ("ControlPersist", "no"),
    ("ForwardAgent", "no"),
    ("ForwardX11", "no"),
    ("ClearAllForwardings", "yes"),
    ("Compression", "no"),
    // Post-quantum key exchange costs 80 ms per connection; it stays available to servers that
    // offer nothing else.
    ("KexAlgorithms", "^curve25519-sha256"),
    ("ConnectTimeout", "10"),
    ("ConnectionAttempts", "1"),
    // A guest that is silent for 45 seconds is gone.
    ("ServerAliveInterval", "15"),
    ("ServerAliveCountMax", "3"),
    ("EscapeChar", "none"),
    ("LogLevel", "ERROR"),
    // Runs once the login has succeeded and the socket is there.
    ("PermitLocalCommand", "yes"),
    ("LocalCommand", "echo ready"),
];

/// A path as the value of an ssh option, which is split at blanks and expands `%` otherwise.
fn quoted(path: &Path) -> String {
    let path = path.to_string_lossy().replace('%', "%%");
    format!("\"{path}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(identity: Identity, host_key: HostKey) -> SshTarget {
        SshTarget::new(IpAddr::from([10, 0, 0, 5]), "bioxen", identity, host_key).with_port(2222)
    }

    #[test]
    fn a_pinned_key_holds_at_every_address() {
        let target = target(
            Identity::Key(SecretString::from("secret")),
            HostKey::Pinned("ssh-ed25519 AAAA".into()),
        );
        assert_eq!(target.known_hosts(), "bioxen-guest ssh-ed25519 AAAA\n");
        let arguments = target.arguments();
        for option in [
            "HostKeyAlias=bioxen-guest",
            "StrictHostKeyChecking=yes",
            "UserKnownHostsFile=known_hosts",
            "IdentityFile=key",
            "Port=2222",
            "User=bioxen",
        ] {
            assert!(arguments.iter().any(|a| a == option), "{option}");
        }
        assert_eq!(arguments.last().unwrap(), "10.0.0.5");
    }

    #[test]
    fn the_key_is_neither_in_arguments_nor_in_debug_output() {
        let target = target(
            Identity::Key(SecretString::from("hush-hush")),
            HostKey::Pinned("ssh-ed25519 AAAA".into()),
        );
        assert!(!format!("{target:?}{:?}", target.arguments()).contains("hush-hush"));
    }

    #[test]
    fn paths_with_blanks_and_percent_signs_stay_one_value() {
        let target = target(
            Identity::File("/my keys/100%".into()),
            HostKey::KnownHosts("/my keys/known".into()),
        );
        let arguments = target.arguments();
        assert!(arguments.contains(&"IdentityFile=\"/my keys/100%%\"".to_owned()));
        assert!(arguments.contains(&"UserKnownHostsFile=\"/my keys/known\"".to_owned()));
        assert_eq!(target.known_hosts(), "");
    }
}
