//! What to do about an error, apart from what is wrong.

use xapi_client::{Error as CallError, ErrorCode};

use super::Error;

pub(super) const PASSWORD_COMMAND: &str =
    "try the command by hand, and set password_command to one that prints the password";
pub(super) const CLOUD_INIT: &str =
    "look at /var/log/cloud-init-output.log in it, and correct the template";
pub(super) const NO_SHELL: &str = "set ssh.user to a user with a shell, or give this one /bin/sh with \
                                   `usermod --shell`";
pub(super) const NO_LUA: &str = "set lua to one that does";
pub(super) const INSTALL: &str = "check that the VM reaches its package servers, or install it in what \
                                  the template is made from";
pub(super) const CLEAN: &str = "correct in what it is made from what its system says";

/// What separates the two in a message.
const BETWEEN: &str = "; ";

impl Error {
    /// What is wrong, and what to do about it.
    pub(crate) fn parts(&self) -> (String, String) {
        let message = self.to_string();
        let remedy = match self {
            // What others say may hold what separates the two.
            Self::PasswordCommand { .. } => PASSWORD_COMMAND.to_owned(),
            Self::CloudInit { .. } => CLOUD_INIT.to_owned(),
            Self::NoShell { .. } => NO_SHELL.to_owned(),
            Self::NoLua { .. } => NO_LUA.to_owned(),
            Self::Install { .. } => INSTALL.to_owned(),
            Self::Clean { .. } => CLEAN.to_owned(),
            Self::NoAddress { why, .. } => why.remedy().to_owned(),
            Self::NoPlace { .. } => {
                "do for one of the hosts what is said of it, or ask for less".to_owned()
            }
            Self::Pool { source, .. } | Self::Login { source, .. } => of_call(source),
            Self::Guest(_) => "look at the VM's console and the log of its SSH server".to_owned(),
            _ => match message.split_once(BETWEEN) {
                Some((_, remedy)) => remedy.to_owned(),
                None => "try again; `bioxen -vv` shows each call".to_owned(),
            },
        };
        let found = message
            .strip_suffix(&*remedy)
            .and_then(|found| found.strip_suffix(BETWEEN))
            .unwrap_or(&message);
        (found.to_owned(), remedy)
    }
}

/// What to do about a call that the pool refuses, behind what could not be done, where that is known for
/// sure.
pub(super) fn behind(error: &CallError) -> String {
    let remedy = error.failure().and_then(|failure| known(&failure.code));
    remedy.map_or_else(String::new, |remedy| format!("{BETWEEN}{remedy}"))
}

/// What to do about a failure that means one thing.
fn known(code: &ErrorCode) -> Option<&'static str> {
    const FULL: &str = "SR_BACKEND_FAILURE_44";
    Some(match code {
        ErrorCode::SrFull => ROOM,
        ErrorCode::Unrecognized(code) if code == FULL => ROOM,
        ErrorCode::RbacPermissionDenied => {
            "set username to a user with the role vm-power-admin or a higher one"
        }
        ErrorCode::VmRequiresSr => {
            "its disks are on storage that only one host sees: make such VMs on storage that hosts share \
             (sr, with clone = \"copy\"), or move the disks along with `xe vm-migrate`"
        }
        _ => return None,
    })
}

/// What to do about a call that the pool refuses.
fn of_call(error: &CallError) -> String {
    let code = match error {
        CallError::Api(failure) => &failure.code,
        CallError::Untrusted {
            host, fingerprint, ..
        } => {
            return format!(
                "if the console of {host} shows the same SHA-256 fingerprint, add \"{fingerprint}\" to \
                 the list tls.fingerprint: each host of a pool has one of its own"
            );
        }
        CallError::Connect { host, .. } => {
            return format!("check that {host} is up and that this machine reaches it");
        }
        _ => return "try again; the pool may have been busy or restarting".to_owned(),
    };
    let general = match code {
        ErrorCode::Unrecognized(code) if code.starts_with("SR_BACKEND_FAILURE") => {
            "look into /var/log/SMlog of the pool's hosts for why the storage refuses"
        }
        _ => "look into /var/log/xensource.log of the pool's coordinator for what led to it",
    };
    known(code).unwrap_or(general).to_owned()
}

const ROOM: &str = "make room on the storage (`bioxen gc` removes what killed runs left), or set sr with \
                    clone = \"copy\" to another one";

#[cfg(test)]
mod tests {
    use xapi_client::Failure;

    use super::*;
    use crate::NoAddress;

    #[test]
    fn what_others_say_does_not_part_an_error_from_its_remedy() {
        let said = || "one; two".to_owned();
        for (error, found, remedy) in [
            (
                Error::CloudInit { said: said() },
                "cloud-init in the VM failed: one; two",
                CLOUD_INIT,
            ),
            (
                Error::NoPlace {
                    reasons: vec!["a: it is off; switch it on".into(), "b: full; wait".into()],
                    source: None,
                },
                "no host of the pool can run it: a: it is off; switch it on, b: full; wait",
                "do for one of the hosts what is said of it, or ask for less",
            ),
            (
                Error::NoAddress {
                    seconds: 3,
                    why: NoAddress::Unplugged { said: said() },
                },
                "the VM has no address after 3 s: its network interface is not plugged in (one; two)",
                "look at it with `xe vif-list`, and plug it",
            ),
            (
                Error::Diskless { name: "x".into() },
                "the template \"x\" has no disk, so its VMs have no system to boot",
                "make a template from an installed VM and give its name",
            ),
        ] {
            assert_eq!(error.parts(), (found.to_owned(), remedy.to_owned()));
        }
    }

    #[test]
    fn a_refused_call_has_a_remedy_of_its_own() {
        for (code, word) in [
            ("SR_BACKEND_FAILURE_44", "make room"),
            ("SR_BACKEND_FAILURE_46", "SMlog"),
            ("RBAC_PERMISSION_DENIED", "vm-power-admin"),
            ("INTERNAL_ERROR", "xensource.log"),
        ] {
            let failure = Failure::new("VM.clone", vec![code.to_owned()]);
            let error = Error::pool("clone the template")(CallError::Api(failure));
            let (found, remedy) = error.parts();
            assert_eq!(found, "the pool could not clone the template");
            assert!(remedy.contains(word), "{remedy}");
        }
    }
}
