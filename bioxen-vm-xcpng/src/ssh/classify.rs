use std::error::Error as StdError;
use std::io;

use bioxen_vm_core::{Error, ErrorKind};

use crate::error::chain;

/// Why a guest could not be reached over SSH, or a command could not be run on it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SshError {
    /// This machine has no `ssh` program.
    #[error("there is no program ssh on this machine; install it (Debian: openssh-client)")]
    NoClient,
    /// The `ssh` program could not be started.
    #[error("the ssh program could not be started")]
    Launch(#[source] io::Error),
    /// This machine gives no random numbers.
    #[error("this machine gives no random numbers, so no SSH keys can be made")]
    NoRandomness,
    /// Nothing listens at the port.
    #[error("the port is closed: no SSH server listens there")]
    PortClosed,
    /// No packet came back.
    #[error("no answer: {reason}")]
    Unreachable {
        /// What the network said.
        reason: String,
    },
    /// The server ended the connection before the login.
    #[error("the SSH server ended the connection before the login")]
    Closed,
    /// The server does not accept the key or the user.
    #[error("the SSH server refused our key for this user")]
    KeyRefused,
    /// The private key cannot be used.
    #[error("the private key cannot be used: {reason}")]
    BadIdentity {
        /// What `ssh` said.
        reason: String,
    },
    /// The server is not the one we mean.
    #[error(
        "the SSH server does not have the host key that was expected; something else answers at \
         this address"
    )]
    WrongHostKey,
    /// Client and server have no algorithm in common.
    #[error("the SSH server and this machine's ssh have no algorithm in common: {reason}")]
    Incompatible {
        /// What `ssh` said.
        reason: String,
    },
    /// All channels of the connection are in use.
    #[error("the SSH server has no room for another command just now")]
    Saturated,
    /// The connection broke.
    #[error("the SSH connection broke{}", because(.reason))]
    Disconnected {
        /// What `ssh` said, empty when it said nothing.
        reason: String,
    },
    /// The login did not succeed in time.
    #[error("no login succeeded within {seconds} s")]
    NotReady {
        /// The time that was allowed.
        seconds: u64,
        /// What the last attempt met.
        #[source]
        last: Option<Box<SshError>>,
    },
    /// The SSH connection's own plumbing failed.
    #[error("the SSH client failed")]
    Client(#[source] Box<dyn StdError + Send + Sync>),
    /// `ssh` failed for a reason that has no name here.
    #[error("ssh says: {reason}")]
    Other {
        /// What `ssh` said.
        reason: String,
    },
}

impl SshError {
    /// Whether a guest that is still booting may answer like this.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::PortClosed
                | Self::Unreachable { .. }
                | Self::Closed
                | Self::Saturated
                | Self::Disconnected { .. }
        )
    }

    /// What a caller can do about it.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::PortClosed
            | Self::Unreachable { .. }
            | Self::Closed
            | Self::Saturated
            | Self::Disconnected { .. } => ErrorKind::Unavailable,
            Self::NotReady { .. } => ErrorKind::Timeout,
            Self::KeyRefused | Self::WrongHostKey => ErrorKind::Denied,
            Self::NoClient | Self::BadIdentity { .. } => ErrorKind::Config,
            Self::Incompatible { .. } => ErrorKind::Unsupported,
            Self::Launch(_) | Self::NoRandomness => ErrorKind::Exhausted,
            Self::Client(_) | Self::Other { .. } => ErrorKind::Internal,
        }
    }

    /// Sorts what `ssh` wrote when it gave up.
    pub(super) fn from_ssh(text: &str) -> Self {
        let has = |needles: &[&str]| needles.iter().any(|needle| text.contains(needle));
        if has(&["ssh: not found", "ssh: command not found"]) {
            Self::NoClient
        } else if has(&[
            "Host key verification failed",
            "HOST IDENTIFICATION HAS CHANGED",
            "host key is known for",
        ]) {
            Self::WrongHostKey
        } else if has(&["UNPROTECTED PRIVATE KEY", "Load key "]) {
            Self::BadIdentity {
                reason: line_with(text, &["Permissions ", "Load key "]),
            }
        } else if has(&["not accessible: No such file"]) {
            Self::BadIdentity {
                reason: line_with(text, &["not accessible"]),
            }
        } else if has(&["Permission denied (", "Too many authentication failures"]) {
            Self::KeyRefused
        } else if has(&["Unable to negotiate", "no matching "]) {
            Self::Incompatible {
                reason: line_with(text, &["no matching ", "Unable to negotiate"]),
            }
        } else if has(&["Connection refused"]) {
            Self::PortClosed
        } else if has(&[
            "timed out",
            "No route to host",
            "unreachable",
            "Host is down",
            "Could not resolve",
        ]) {
            let reason = line_with(
                text,
                &["timed out", "No route", "unreachable", "is down", "resolve"],
            );
            Self::Unreachable { reason }
        } else if has(&[
            "kex_exchange_identification",
            "Connection reset by",
            "Connection closed by",
            "Broken pipe",
        ]) {
            Self::Closed
        } else {
            let reason = one_line(text);
            if reason.is_empty() {
                Self::Closed
            } else {
                Self::Other { reason }
            }
        }
    }

    /// Sorts what the connection's multiplexing says.
    pub(super) fn from_mux(error: openssh::Error) -> Self {
        match error {
            openssh::Error::Disconnected => Self::Disconnected {
                reason: String::new(),
            },
            // The socket was closed while it was being spoken to.
            error
                if has_io_kind(
                    &error,
                    &[io::ErrorKind::UnexpectedEof, io::ErrorKind::BrokenPipe],
                ) =>
            {
                Self::Disconnected {
                    reason: String::new(),
                }
            }
            error if chain(&error).contains("Session open refused") => Self::Saturated,
            error => Self::Client(error.into()),
        }
    }
}

impl From<SshError> for Error {
    fn from(error: SshError) -> Self {
        Self::new(error.kind(), "SSH is not to be had").with_source(error)
    }
}

/// The first line that holds one of the needles, tried in their order; else all as one line.
fn line_with(text: &str, needles: &[&str]) -> String {
    needles
        .iter()
        .find_map(|needle| text.lines().find(|line| line.contains(needle)))
        .map_or_else(|| one_line(text), one_line)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn because(reason: &str) -> String {
    if reason.is_empty() {
        String::new()
    } else {
        format!(": {reason}")
    }
}

fn has_io_kind(error: &(dyn StdError + 'static), kinds: &[io::ErrorKind]) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error
            .downcast_ref()
            .is_some_and(|io: &io::Error| kinds.contains(&io.kind()))
        {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_in_which_ssh_gives_up_has_a_name() {
        type Row = (&'static str, fn(&SshError) -> bool);
        let table: [Row; 16] = [
            (
                "ssh: connect to host 10.0.0.5 port 22: Connection refused\r\n",
                |e| matches!(e, SshError::PortClosed),
            ),
            (
                "ssh: connect to host 10.0.0.5 port 22: Connection timed out\r\n",
                |e| matches!(e, SshError::Unreachable { .. }),
            ),
            (
                "ssh: connect to host 10.0.0.5 port 22: No route to host\r\n",
                |e| matches!(e, SshError::Unreachable { .. }),
            ),
            ("Connection timed out during banner exchange\r\n", |e| {
                matches!(e, SshError::Unreachable { .. })
            }),
            (
                "ssh: connect to host fe80::1 port 22: Network is unreachable\r\n",
                |e| matches!(e, SshError::Unreachable { .. }),
            ),
            ("root@10.0.0.5: Permission denied (publickey).\r\n", |e| {
                matches!(e, SshError::KeyRefused)
            }),
            (
                "Received disconnect from 10.0.0.5 port 22:2: Too many authentication failures\r\n",
                |e| matches!(e, SshError::KeyRefused),
            ),
            (
                "@@@\r\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\r\nHost key verification failed.\r\n",
                |e| matches!(e, SshError::WrongHostKey),
            ),
            (
                "No ED25519 host key is known for bioxen-guest and you have requested strict checking.\r\nHost key verification failed.\r\n",
                |e| matches!(e, SshError::WrongHostKey),
            ),
            (
                "Load key \"key\": invalid format\r\nroot@10.0.0.5: Permission denied (publickey).\r\n",
                |e| matches!(e, SshError::BadIdentity { reason } if reason == "Load key \"key\": invalid format"),
            ),
            (
                "@ WARNING: UNPROTECTED PRIVATE KEY FILE! @\r\nPermissions 0644 for '/k' are too open.\r\nLoad key \"/k\": bad permissions\r\nroot@h: Permission denied (publickey).",
                |e| matches!(e, SshError::BadIdentity { reason } if reason.starts_with("Permissions 0644")),
            ),
            (
                "kex_exchange_identification: Connection closed by remote host\r\nConnection closed by 10.0.0.5 port 22\r\n",
                |e| matches!(e, SshError::Closed),
            ),
            (
                "Unable to negotiate with 10.0.0.5 port 22: no matching host key type found. Their offer: ssh-dss\r\n",
                |e| matches!(e, SshError::Incompatible { .. }),
            ),
            ("sh: 1: ssh: not found\n", |e| {
                matches!(e, SshError::NoClient)
            }),
            ("", |e| matches!(e, SshError::Closed)),
            (
                "something\nnew",
                |e| matches!(e, SshError::Other { reason } if reason == "something new"),
            ),
        ];
        for (text, expected) in table {
            let error = SshError::from_ssh(text);
            assert!(expected(&error), "{text:?} became {error:?}");
        }
    }

    #[test]
    fn what_a_booting_guest_may_answer_is_transient_and_a_wrong_key_is_not() {
        assert!(SshError::PortClosed.is_transient());
        assert!(SshError::Closed.is_transient());
        assert!(!SshError::KeyRefused.is_transient());
        assert!(!SshError::WrongHostKey.is_transient());
    }

    #[test]
    fn a_broken_connection_is_told_from_the_rest() {
        assert!(matches!(
            SshError::from_mux(openssh::Error::Disconnected),
            SshError::Disconnected { .. }
        ));
        assert!(matches!(
            SshError::from_mux(openssh::Error::RemoteProcessTerminated),
            SshError::Client(_)
        ));
    }
}
