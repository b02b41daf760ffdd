//! The audit log: who has called what that is more than reading, in the server's own form.

use std::collections::VecDeque;

use md5::{Digest as _, Md5};
use xapi_client::meta::Type;

use crate::failure::Reply;
use crate::value::Value;
use crate::world::{Call, World};

/// How many lines are kept; a host keeps files for as long as it has room.
const KEPT: usize = 10_000;

/// Where the stamp of a line begins, and how much of it counts.
const STAMP: usize = 21;

/// The lines, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct AuditLog {
    lines: VecDeque<String>,
}

impl AuditLog {
    /// The lines since a point in time, which may be written with or without dashes and `Z`, or cut
    /// short.
    pub(crate) fn since(&self, since: &str) -> String {
        let since = since.replace(['-', 'Z'], "");
        let lines = self.lines.iter();
        let wanted = lines.filter(|line| {
            let stamp = line.split_once('[').and_then(|(_, rest)| rest.get(..STAMP));
            stamp.is_some_and(|stamp| stamp >= since.as_str())
        });
        wanted.map(|line| format!("{line}\n")).collect()
    }
}

/// Notes a call and how it ended. What the weakest role may do changes nothing.
pub(crate) fn note(world: &mut World, call: &Call, reply: &Reply) {
    if call.message.min_role == "read-only" || !call.message.needs_session {
        return;
    }
    let text = |class: &str, reference: &str, field: &str| {
        world.db.text(class, reference, field).unwrap_or_default()
    };
    let name = call.message.wire_name;
    let is_root = world
        .db
        .flag("session", &call.session, "is_local_superuser")
        .unwrap_or(true);
    let user = text("session", &call.session, "auth_user_name");
    let sid = match is_root {
        true => "LOCAL_SUPERUSER".to_owned(),
        false => text("session", &call.session, "auth_user_sid"),
    };
    let (allowed, outcome) = match reply {
        Ok(_) => ("ALLOWED", "OK".to_owned()),
        Err(failure) if failure.code == "RBAC_PERMISSION_DENIED" => ("DENIED", String::new()),
        Err(failure) => (
            "ALLOWED",
            format!("ERROR:{}: [ {} ]", failure.code, failure.params.join("; ")),
        ),
    };
    let objects: Vec<String> = call
        .message
        .params
        .iter()
        .zip(&call.args)
        .filter_map(|(param, value)| match (param.ty, value) {
            (Type::Ref(class), Value::String(reference)) => {
                let label = text(class, reference, "name_label");
                let uuid = text(class, reference, "uuid");
                Some(list(&[param.name, &label, &uuid, reference]))
            }
            _ => None,
        })
        .collect();
    let mut line = list(&[
        &track(&call.session),
        &sid,
        &user,
        allowed,
        &outcome,
        "API",
        name,
    ]);
    line.truncate(line.len() - 1);
    let host = text("host", &call.host, "hostname");
    let stamp = world.clock.local();
    let line = format!(
        "{} {host} xapi: [{stamp}.000Z|info|{host}|0 |{name}|audit] {line} ({}))",
        syslog_time(&stamp),
        objects.join(" ")
    );
    let lines = &mut world.audit.lines;
    lines.push_back(line);
    if lines.len() > KEPT {
        lines.pop_front();
    }
}

/// What stands for a session in logs, since its reference is a secret.
fn track(session: &str) -> String {
    let digest = Md5::digest(session.as_bytes());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("trackid={digest}")
}

/// Quoted texts in parentheses.
fn list(texts: &[&str]) -> String {
    let quoted = |text: &&str| {
        let text = text.replace('\\', "\\\\").replace('\'', "\\'");
        format!("'{text}'")
    };
    let quoted: Vec<String> = texts.iter().map(quoted).collect();
    format!("({})", quoted.join(" "))
}

/// `Nov 23 02:31:00` of `20261123T02:31:00`.
fn syslog_time(stamp: &str) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let number =
        |range: std::ops::Range<usize>| -> Option<usize> { stamp.get(range)?.parse().ok() };
    let month = number(4..6).and_then(|month| MONTHS.get(month.checked_sub(1)?).copied());
    let month = month.unwrap_or_default();
    let day = number(6..8).unwrap_or_default();
    let clock = stamp.get(9..).unwrap_or_default();
    format!("{month} {day:>2} {clock}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted() {
        assert_eq!(list(&["a", "it's", "\\"]), r"('a' 'it\'s' '\\')");
        assert_eq!(syslog_time("20261103T02:31:00"), "Nov  3 02:31:00");
    }
}
