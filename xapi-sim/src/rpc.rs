//! A request body in, a reply body out, for both protocols.

use std::sync::Arc;

use crate::classes::session;
use crate::dispatch::{LIST_METHODS, Request, dispatch};
use crate::failure::{Failure, Reply};
use crate::fault::Spoil;
use crate::value::Value;
use crate::world::Shared;
use crate::{jsonrpc, xmlrpc};

/// Which protocol a path speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    Json,
    Xml,
}

/// Who answers: a host of the pool. Members only know who the coordinator is.
#[derive(Debug, Clone)]
pub(crate) struct Face {
    pub(crate) shared: Arc<Shared>,
    /// A host, or whoever is the coordinator at the time.
    host: Option<String>,
}

impl Face {
    pub(crate) fn of_host(shared: Arc<Shared>, host: String) -> Self {
        Face {
            shared,
            host: Some(host),
        }
    }

    pub(crate) fn of_coordinator(shared: Arc<Shared>) -> Self {
        Face { shared, host: None }
    }

    /// The host that answers now.
    pub(crate) fn host(&self) -> String {
        match &self.host {
            Some(host) => host.clone(),
            None => self.shared.with(|world| world.coordinator()),
        }
    }

    /// Whether the host is down, so that nothing answers.
    pub(crate) fn is_down(&self) -> bool {
        let host = self.host();
        self.shared.with(|world| world.down.contains_key(&host))
    }

    /// The failure of a call that the host's emergency mode keeps from being dispatched.
    fn emergency(&self, method: &str) -> Option<Failure> {
        if EMERGENCY_CALLS.contains(&method) {
            return None;
        }
        let host = self.host();
        self.shared
            .with(|world| world.emergency.get(&host).cloned())
    }

    /// The failure of a member of the pool that is asked what only the coordinator answers.
    fn redirect(&self, method: &str) -> Option<Failure> {
        let host = self.host.as_ref()?;
        if EMERGENCY_CALLS.contains(&method) {
            return None;
        }
        self.shared.with(|world| {
            let coordinator = world.coordinator();
            let address = world.db.text("host", &coordinator, "address");
            (coordinator != *host)
                .then(|| Failure::new("HOST_IS_SLAVE", [address.unwrap_or_default()]))
        })
    }
}

/// A reply body and what is to become of it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) body: Vec<u8>,
    pub(crate) spoil: Option<Spoil>,
    /// Whether the call came as far as its dispatch. The heads of other answers are shorter.
    pub(crate) dispatched: bool,
    /// Whether it sends the client to the coordinator, whose certificate it may name.
    pub(crate) redirects: bool,
}

impl Answer {
    fn undispatched(body: String, spoil: Option<Spoil>) -> Self {
        Answer {
            body: body.into_bytes(),
            spoil,
            dispatched: false,
            redirects: false,
        }
    }
}

/// Whether a reply sends the client elsewhere, whoever has made it.
fn is_redirect(reply: &Reply) -> bool {
    let failure = reply.as_ref().err();
    failure.is_some_and(|failure| failure.code == "HOST_IS_SLAVE" && failure.params.len() == 1)
}

/// Answers a request body. The error is the text of the exception that a real server answers
/// with HTTP 500.
pub(crate) async fn answer(
    face: &Face,
    codec: Codec,
    body: &[u8],
    tags: Vec<(String, String)>,
) -> Result<Answer, String> {
    let (text, broken) = match std::str::from_utf8(body) {
        Ok(text) => (text.to_owned(), false),
        Err(_) => (mark_bytes(body), true),
    };
    let (reply, redirects, spoil) = match codec {
        Codec::Json => {
            let call = jsonrpc::parse(&text)?;
            let (spoil, skips) = on_the_way(&face.shared, &call.method, &call.params).await;
            if skips {
                return Ok(Answer::undispatched(String::new(), spoil));
            }
            if let Some(failure) = face.emergency(&call.method) {
                return Ok(Answer::undispatched(jsonrpc::undispatched(&failure), spoil));
            }
            let reply = run(face, call.method, call.params, tags, broken).await;
            let text = jsonrpc::reply(call.version, &call.id, &reply);
            (text, is_redirect(&reply), spoil)
        }
        Codec::Xml => {
            let call = xmlrpc::parse(&text)?;
            let (spoil, skips) = on_the_way(&face.shared, &call.method, &call.params).await;
            if skips {
                return Ok(Answer::undispatched(String::new(), spoil));
            }
            if let Some(failure) = face.emergency(&call.method) {
                return Ok(Answer::undispatched(xmlrpc::reply(&Err(failure)), spoil));
            }
            let bare = call.method == LIST_METHODS;
            let reply = run(face, call.method, call.params, tags, broken).await;
            let redirects = is_redirect(&reply);
            let text = match reply {
                Ok(value) if bare => xmlrpc::bare_reply(&value),
                reply => xmlrpc::reply(&reply),
            };
            (text, redirects, spoil)
        }
    };
    let body = if broken {
        unmark_bytes(&reply)
    } else {
        reply.into_bytes()
    };
    Ok(Answer {
        body,
        spoil,
        dispatched: true,
        redirects,
    })
}

/// What rules do to a request on its way, and whether they keep it from being carried out.
async fn on_the_way(shared: &Shared, method: &str, params: &[Value]) -> (Option<Spoil>, bool) {
    let verdict = shared.with(|world| {
        let verdict = world.faults.strike_on_the_way(&world.db, method, params);
        if verdict.spoil == Some(Spoil::Expire)
            && let Some(session) = params.first().and_then(Value::as_str)
        {
            session::close(world, session);
        }
        verdict
    });
    if !verdict.delay.is_zero() {
        tokio::time::sleep(verdict.delay).await;
    }
    (verdict.spoil, verdict.skips)
}

/// The calls that a host answers alone: in emergency mode, and when it is not the coordinator.
const EMERGENCY_CALLS: &[&str] = &[
    "pool.emergency_reset_master",
    "pool.emergency_transition_to_master",
    "pool.is_slave",
    "session.slave_local_login",
    "session.slave_local_login_with_password",
    "session.local_logout",
    "host.propose_new_master",
    "host.commit_new_master",
    "host.abort_new_master",
    "host.local_assert_healthy",
    "host.signal_networking_change",
    "host.local_management_reconfigure",
    "host.ha_xapi_healthcheck",
    "host.emergency_ha_disable",
    "host.management_disable",
    "host.get_system_status_capabilities",
    "host.is_in_emergency_mode",
    "host.shutdown_agent",
    "host.emergency_reset_server_certificate",
    "host.emergency_disable_tls_verification",
    "host.emergency_reenable_tls_verification",
    "host.emergency_clear_mandatory_guidance",
    "host.update_firewalld_service_status",
];

async fn run(
    face: &Face,
    method: String,
    params: Vec<Value>,
    tags: Vec<(String, String)>,
    broken: bool,
) -> Reply {
    if broken && let Some(param) = params.iter().find(|param| is_marked(param)) {
        let text = "Invalid UTF-8 string in parameter";
        return Err(Failure::new(
            "INVALID_VALUE",
            [text.to_owned(), param.debug_text()],
        ));
    }
    if let Some(failure) = face.redirect(&method) {
        return Err(failure);
    }
    dispatch(
        &face.shared,
        Request {
            method,
            params,
            tags,
            host: face.host(),
        },
    )
    .await
}

// A body that is not UTF-8 is still parsed, because the server complains only about parameters,
// and repeats the offending bytes. They travel as characters of the last private plane.

const MARK: u32 = 0x0010_ff00;

fn mark_bytes(body: &[u8]) -> String {
    let mut out = String::with_capacity(body.len());
    for chunk in body.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(
            chunk
                .invalid()
                .iter()
                .filter_map(|byte| char::from_u32(MARK + u32::from(*byte))),
        );
    }
    out
}

fn unmark_bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for character in text.chars() {
        match u32::from(character).checked_sub(MARK).map(u8::try_from) {
            Some(Ok(byte)) => out.push(byte),
            _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out
}

fn is_marked(value: &Value) -> bool {
    let marked = |text: &str| text.chars().any(|character| u32::from(character) >= MARK);
    match value {
        Value::String(text) | Value::DateTime(text) => marked(text),
        Value::Array(items) => items.iter().any(is_marked),
        Value::Struct(members) => members
            .iter()
            .any(|(name, member)| marked(name) || is_marked(member)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive() {
        let body = b"caf\xe9 \xf0\x9f\x98\x80 \xff";
        assert_eq!(unmark_bytes(&mark_bytes(body)), body);
        assert!(is_marked(&Value::String(mark_bytes(body))));
        assert!(!is_marked(&Value::from("caf\u{e9} \u{1f600}")));
    }
}
