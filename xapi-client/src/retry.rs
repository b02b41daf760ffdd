//! Which calls may be sent again when their answer was lost.
//!
//! The server gives requests no identity: a call whose connection broke may never have arrived, may be
//! done, or may still be running. What is sent again must do no harm in any of these cases.

use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;

use crate::error::{Error, ErrorCode};
use crate::failure::Failure;

/// How long to wait before each replay. The first goes out at once: most often it was a kept connection
/// that the server has closed. The others give a server that restarts some time.
pub(crate) const PAUSES: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(250),
    Duration::from_secs(1),
];

/// What a replay of a call can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replay {
    /// Nothing: the call reads, or sets what it has set.
    Harmless,
    /// Nothing, but fail because the object is gone, which is what was asked for.
    Destroys,
    /// Nothing, but fail because the VM is in this state, which is what was asked for.
    Powers(&'static str),
    /// Something a second time.
    Harmful,
}

/// What a replay of this call can do.
pub(crate) fn replay(method: &str, params: &[Value]) -> Replay {
    let Some((class, message)) = method.rsplit_once('.') else {
        return Replay::Harmful;
    };
    // A second task would do the work a second time, or fail where nobody compares.
    if class.starts_with("Async.") {
        return Replay::Harmful;
    }
    let starts = |paused: usize| match params.get(paused) {
        Some(Value::Bool(true)) => Replay::Powers("paused"),
        _ => Replay::Powers("running"),
    };
    match (class, message) {
        // A clock that is set late is set wrong; the others refuse what they have done already.
        ("host", "set_servertime") | ("VM", "set_bios_strings") | ("subject", "remove_from_roles") => {
            Replay::Harmful
        }
        ("VM", "start" | "resume") => starts(1),
        ("VM", "start_on" | "resume_on") => starts(2),
        ("VM", "unpause") => Replay::Powers("running"),
        ("VM", "pause") => Replay::Powers("paused"),
        ("VM", "suspend") => Replay::Powers("suspended"),
        ("VM", "shutdown" | "clean_shutdown" | "hard_shutdown") => Replay::Powers("halted"),
        ("event", "from")
        | ("system", "listMethods")
        | ("VM" | "host", "query_data_source")
        // Adding a tag that is there, or removing one that is not, does nothing.
        | (_, "add_tags" | "remove_tags") => Replay::Harmless,
        (_, "destroy") => Replay::Destroys,
        _ if ["get_", "compute_", "assert_", "set_", "remove_from_"]
            .iter()
            .any(|prefix| message.starts_with(prefix)) =>
        {
            Replay::Harmless
        }
        _ => Replay::Harmful,
    }
}

impl Replay {
    /// Whether this failure of a replay says that the call before it, whose answer was lost, did its work.
    pub(crate) fn is_done(self, params: &[Value], failure: &Failure) -> bool {
        let object = params.first().and_then(Value::as_str);
        match self {
            Self::Destroys => failure.is_gone() && object == Some(failure.param(1)),
            Self::Powers(state) => {
                failure.code == ErrorCode::VmBadPowerState
                    && object == Some(failure.param(0))
                    && failure.param(2).eq_ignore_ascii_case(state)
            }
            Self::Harmless | Self::Harmful => false,
        }
    }
}

/// Marks the task of one call, so that it can be found again after the answer, which would have named it,
/// was lost: see [`Client::reconcile`](crate::Client::reconcile).
///
/// The server keeps it in the field `other_config` of the task, under the key `http:xapi-client`. As text it
/// can be kept where it outlives the program.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TaskTag(String);

impl TaskTag {
    /// The key in the field `other_config` of tasks.
    pub const KEY: &str = "http:xapi-client";

    /// The header that makes the server keep a tag under [`KEY`](Self::KEY).
    pub(crate) const HEADER: &str = "x-http-other-config-xapi-client";

    /// A tag that no other call has.
    pub(crate) fn fresh(method: &str) -> Self {
        // Every state is seeded anew, from the randomness of the system.
        let random = || RandomState::new().build_hasher().finish();
        Self(format!("{method}#{:016x}{:016x}", random(), random()))
    }

    /// The method that the task is for, `VM.clone`.
    #[must_use]
    pub fn method(&self) -> &str {
        self.0.split_once('#').map_or("", |(method, _)| method)
    }

    /// The text, `VM.clone#` and 32 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TaskTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TaskTag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let is_digits =
            |digits: &str| digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        match text.split_once('#') {
            Some((method, digits)) if !method.is_empty() && is_digits(digits) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(Error::Config(format!(
                "`{text}` is no task tag; give one as an error or a task told it, `VM.clone#` and 32 digits"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_may_be_sent_again() {
        for (method, expected) in [
            ("VM.get_record", Replay::Harmless),
            ("VM.get_all_records_where", Replay::Harmless),
            ("VM.assert_can_boot_here", Replay::Harmless),
            ("host.compute_free_memory", Replay::Harmless),
            ("event.from", Replay::Harmless),
            ("VM.set_memory_limits", Replay::Harmless),
            ("VM.remove_from_other_config", Replay::Harmless),
            ("VM.add_tags", Replay::Harmless),
            ("VDI.destroy", Replay::Destroys),
            ("VM.start", Replay::Powers("running")),
            ("VM.hard_shutdown", Replay::Powers("halted")),
            ("VM.suspend", Replay::Powers("suspended")),
            ("VM.clone", Replay::Harmful),
            ("VM.copy", Replay::Harmful),
            ("VM.snapshot", Replay::Harmful),
            ("VM.provision", Replay::Harmful),
            ("VM.clean_reboot", Replay::Harmful),
            ("VM.add_to_other_config", Replay::Harmful),
            ("VDI.create", Replay::Harmful),
            ("VBD.plug", Replay::Harmful),
            ("task.create", Replay::Harmful),
            ("event.next", Replay::Harmful),
            ("host.set_servertime", Replay::Harmful),
            ("subject.remove_from_roles", Replay::Harmful),
            ("session.login_with_password", Replay::Harmful),
            ("Async.VM.destroy", Replay::Harmful),
            ("Async.VM.start", Replay::Harmful),
            ("VM.levitate", Replay::Harmful),
            ("nonsense", Replay::Harmful),
        ] {
            assert_eq!(replay(method, &[]), expected, "{method}");
        }
        let paused = [json!("v"), json!(true), json!(false)];
        assert_eq!(replay("VM.start", &paused), Replay::Powers("paused"));
        let running_on = [json!("v"), json!("h"), json!(false), json!(true)];
        assert_eq!(
            replay("VM.start_on", &running_on),
            Replay::Powers("running")
        );
    }

    #[test]
    fn a_failure_may_say_that_the_work_is_done() {
        let is_done = |replay: Replay, description: &[&str]| {
            let description = description.iter().map(|&part| part.to_owned()).collect();
            replay.is_done(&[json!("v")], &Failure::new("VM.x", description))
        };
        let powered = ["VM_BAD_POWER_STATE", "v", "halted", "Running"];
        assert!(is_done(Replay::Powers("running"), &powered));
        assert!(!is_done(Replay::Powers("halted"), &powered));
        assert!(!is_done(
            Replay::Powers("running"),
            &["VM_BAD_POWER_STATE", "w", "halted", "running"]
        ));
        assert!(is_done(Replay::Destroys, &["HANDLE_INVALID", "VM", "v"]));
        assert!(!is_done(Replay::Destroys, &["HANDLE_INVALID", "VM", "w"]));
        assert!(!is_done(Replay::Harmless, &["HANDLE_INVALID", "VM", "v"]));
    }

    #[test]
    fn tags_differ_and_survive_as_text() {
        let tag = TaskTag::fresh("VM.clone");
        assert_ne!(tag, TaskTag::fresh("VM.clone"));
        assert_eq!(tag.method(), "VM.clone");
        assert_eq!(tag.to_string().parse::<TaskTag>().unwrap(), tag);
        for text in [
            "",
            "VM.clone",
            "VM.clone#12",
            "#00112233445566778899aabbccddeeff",
        ] {
            assert!(text.parse::<TaskTag>().is_err(), "{text}");
        }
    }
}
