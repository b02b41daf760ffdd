//! Failures that the server reports, and what they mean.

use std::fmt;

use crate::error::ErrorCode;

/// A failure that the server reported: a code and its parameters.
///
/// `Display` says in words what the common codes mean, and always ends in the code and the parameters as
/// they came. The number and the order of parameters differ between versions of the server.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// The method that failed, `VM.start`.
    pub method: String,
    /// The code.
    pub code: ErrorCode,
    /// The parameters.
    pub params: Vec<String>,
}

impl Failure {
    /// A failure of this method, as the server lists it: the code, then the parameters.
    #[must_use]
    pub fn new(method: impl Into<String>, description: Vec<String>) -> Self {
        let mut parts = description.into_iter();
        let code = parts
            .next()
            .map_or_else(ErrorCode::default, |code| ErrorCode::from(&*code));
        Self {
            method: method.into(),
            code,
            params: parts.collect(),
        }
    }

    /// A parameter by its position, empty where the server sent fewer.
    #[must_use]
    pub fn param(&self, index: usize) -> &str {
        self.params.get(index).map_or("", String::as_str)
    }

    /// Whether the session is not known (any more). Nothing was executed.
    #[must_use]
    pub fn is_session_invalid(&self) -> bool {
        self.code == ErrorCode::SessionInvalid
    }

    /// Whether the object is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.code, ErrorCode::HandleInvalid | ErrorCode::UuidInvalid)
    }

    /// Whether nothing was executed and the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.code,
            ErrorCode::SessionInvalid
                | ErrorCode::HostIsSlave
                | ErrorCode::OtherOperationInProgress
                | ErrorCode::TooManyPendingTasks
                | ErrorCode::HostStillBooting
                | ErrorCode::HostMasterCannotTalkBack
        )
    }

    /// The parameters that may be shown: the reference of a session is as good as a password.
    fn tellable(&self) -> &[String] {
        let names_session =
            self.code == ErrorCode::HandleInvalid && self.param(0).eq_ignore_ascii_case("session");
        if self.is_session_invalid() || names_session {
            &[]
        } else {
            &self.params
        }
    }

    fn explanation(&self) -> Option<String> {
        let p = |index| self.param(index);
        Some(match &self.code {
            ErrorCode::SessionAuthenticationFailed => {
                "the user name or the password is wrong".to_owned()
            }
            ErrorCode::SessionInvalid => "the session has expired or was logged out".to_owned(),
            ErrorCode::RbacPermissionDenied => {
                format!("the role of this user does not permit {}", p(0))
            }
            ErrorCode::HostIsSlave => {
                format!("this host is no pool coordinator; connect to {}", p(0))
            }
            ErrorCode::HostStillBooting => "the host is still booting; try again later".to_owned(),
            ErrorCode::HandleInvalid if self.tellable().is_empty() => {
                "there is no such session (any more)".to_owned()
            }
            ErrorCode::HandleInvalid => {
                format!("there is no {} {} (any more)", p(0), p(1))
            }
            ErrorCode::UuidInvalid => format!("there is no {} with UUID {}", p(0), p(1)),
            ErrorCode::VmBadPowerState => {
                format!(
                    "the VM is {}, but must be {}",
                    p(2).to_lowercase(),
                    alternatives(p(1))
                )
            }
            ErrorCode::VmIsTemplate => {
                format!(
                    "the VM is a template, which cannot {}; provision it first",
                    p(1)
                )
            }
            ErrorCode::VmIsSnapshot => format!("the VM is a snapshot, which cannot {}", p(1)),
            ErrorCode::VmLacksFeature => {
                "the guest lacks this feature; are the guest tools installed and running".to_owned()
            }
            ErrorCode::OtherOperationInProgress => {
                format!(
                    "the {} is busy with {}",
                    p(0),
                    or(p(2), "another operation")
                )
            }
            ErrorCode::OperationNotAllowed => format!("the operation is not allowed: {}", p(0)),
            ErrorCode::OperationBlocked => {
                format!("the operation was blocked by an administrator: {}", p(1))
            }
            ErrorCode::HostNotEnoughFreeMemory => format!(
                "no host has enough free memory: {} needed, {} free",
                bytes(p(0)),
                bytes(p(1))
            ),
            ErrorCode::NoHostsAvailable => {
                "no host can run the VM; its storage, network or CPU demands rule all out"
                    .to_owned()
            }
            ErrorCode::VmRequiresSr => "the host cannot see the storage of the VM".to_owned(),
            ErrorCode::VmRequiresNetwork => "the host cannot see a network of the VM".to_owned(),
            ErrorCode::SrFull => format!(
                "the storage is full: {} needed, {} free",
                bytes(p(0)),
                bytes(p(1))
            ),
            ErrorCode::VdiInUse => "the disk is in use".to_owned(),
            ErrorCode::MemoryConstraintViolationOrder => {
                "the memory limits are out of order: static \
                 minimum, dynamic minimum, dynamic maximum and static maximum must rise"
                    .to_owned()
            }
            ErrorCode::MemoryConstraintViolationMaxpin => format!(
                "the memory limits must be equal (dynamic minimum, dynamic maximum, static maximum): {}",
                p(0)
            ),
            ErrorCode::VcpuMaxNotCoresPerSocketMultiple => {
                format!(
                    "{} vCPUs are no multiple of {} cores per socket",
                    p(0),
                    p(1)
                )
            }
            ErrorCode::DeviceAlreadyExists => format!("the device {} is taken", p(0)),
            ErrorCode::InvalidDevice => format!("there is no device {}", or(p(0), "of this name")),
            ErrorCode::MacInvalid => format!("{} is no MAC address", or(p(0), "the empty text")),
            ErrorCode::InvalidValue => format!("{}: invalid value {}", p(0), or(p(1), "(empty)")),
            ErrorCode::MapDuplicateKey => format!("{}.{} has the key {} already", p(0), p(1), p(3)),
            ErrorCode::MessageMethodUnknown => {
                format!(
                    "the server does not know {}; it is older, or the name is wrong",
                    p(0)
                )
            }
            ErrorCode::MessageParameterCountMismatch => {
                format!(
                    "{} takes {} parameters on this server, not {}",
                    p(0),
                    p(1),
                    p(2)
                )
            }
            ErrorCode::MessageRemoved => "the server has removed this method".to_owned(),
            ErrorCode::LicenceRestriction => format!("the licence does not cover {}", p(0)),
            ErrorCode::TooManyPendingTasks => {
                "the server has too many tasks waiting; try again later".to_owned()
            }
            ErrorCode::TaskCancelled => "the task was cancelled".to_owned(),
            ErrorCode::InternalError => "the server failed internally, or a parameter has a wrong \
                 form"
                .to_owned(),
            ErrorCode::Unrecognized(code) if code.starts_with("SR_BACKEND_FAILURE") => {
                format!("the storage backend failed: {}", or(p(2), p(1)))
            }
            _ => return None,
        })
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure")
            .field("method", &self.method)
            .field("code", &self.code)
            .field("params", &self.tellable())
            .finish()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = or(self.code.as_str(), "no error code");
        match self.explanation() {
            Some(explanation) => write!(f, "{}: {explanation} [{code}", self.method)?,
            None => write!(f, "{} failed [{code}", self.method)?,
        }
        for param in self.tellable() {
            write!(f, ", {}", one_line(param))?;
        }
        f.write_str("]")
    }
}

impl std::error::Error for Failure {}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

/// Bytes for people, when the text is a number.
fn bytes(text: &str) -> String {
    match text.parse::<u64>() {
        Ok(bytes) => format!("{} MiB", bytes.div_ceil(1 << 20)),
        Err(_) => or(text, "an unknown amount").to_owned(),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A list of states as servers write it (`paused, running`, `running;paused`), in words.
fn alternatives(states: &str) -> String {
    let states: Vec<_> = states.split([',', ';']).map(str::trim).collect();
    states.join(" or ").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn display(description: &[&str]) -> String {
        let description = description.iter().map(|&part| part.to_owned()).collect();
        Failure::new("VM.start", description).to_string()
    }

    #[test]
    fn common_codes_are_put_in_words() {
        assert_eq!(
            display(&["VM_BAD_POWER_STATE", "OpaqueRef:1", "halted", "Running"]),
            "VM.start: the VM is running, but must be halted \
             [VM_BAD_POWER_STATE, OpaqueRef:1, halted, Running]"
        );
        assert!(
            display(&[
                "VM_BAD_POWER_STATE",
                "OpaqueRef:1",
                "paused, running",
                "Halted"
            ])
            .contains("the VM is halted, but must be paused or running")
        );
        assert_eq!(
            display(&["HOST_NOT_ENOUGH_FREE_MEMORY", "2147483648", "1048576"]),
            "VM.start: no host has enough free memory: 2048 MiB needed, 1 MiB free \
             [HOST_NOT_ENOUGH_FREE_MEMORY, 2147483648, 1048576]"
        );
    }

    #[test]
    fn missing_parameters_and_unknown_codes_are_no_trouble() {
        assert_eq!(
            display(&["NEW_CODE", "a\nb"]),
            "VM.start failed [NEW_CODE, a b]"
        );
        assert_eq!(display(&[]), "VM.start failed [no error code]");
        assert!(display(&["OTHER_OPERATION_IN_PROGRESS", "VM"]).contains("busy with another"));
        assert!(
            display(&["SR_BACKEND_FAILURE_44", "", "", "no space"])
                .contains("storage backend failed: no space")
        );
    }

    #[test]
    fn session_references_do_not_leak() {
        let failure = Failure::new("VM.start", vec!["SESSION_INVALID".into(), "secret".into()]);
        assert!(!format!("{failure} {failure:?}").contains("secret"));
        let handle = ["HANDLE_INVALID", "session", "secret"].map(str::to_owned);
        let failure = Failure::new("session.get_record", handle.to_vec());
        assert!(!format!("{failure} {failure:?}").contains("secret"));
    }
}
