//! What happened, for tests to look at.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use xapi_client::meta::{Message, Param, Type};

use crate::db::Db;
use crate::value::Value;

/// A call that the simulator has received.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CallRecord {
    /// The method as the client wrote it, `Async.VM.start` for example; of a request to an HTTP
    /// handler its method and path, `GET /export`.
    pub method: String,
    /// The parameters without the session; secrets are replaced by `"<hidden>"`. Those of a request
    /// to an HTTP handler are one struct.
    pub params: Vec<Value>,
    /// The code of the failure that came back at once, if any, or `HTTP 401` and the like. What becomes of a task is not
    /// recorded here.
    pub failure: Option<String>,
    /// The reference of the VM that the call is about, if it is about one.
    pub vm: Option<String>,
    /// When it came, counted from the start of the simulator.
    pub at: Duration,
    /// How long the answer took; `None` while it is not ready, and for ever if nobody waited for
    /// it.
    pub took: Option<Duration>,
}

/// An object that is there and was not when the simulator started.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leak {
    /// Its class, `VM` for example.
    pub class: &'static str,
    /// Its reference; of a session, whose reference is a secret, its uuid.
    pub reference: String,
    /// Its `name_label`, the originator of a session, or nothing for classes without a name.
    pub label: String,
}

/// Objects that come and go with another.
const DEPENDENT: &[&str] = &[
    "VM_metrics",
    "VM_guest_metrics",
    "VBD_metrics",
    "VIF_metrics",
    "PIF_metrics",
    "console",
];

/// A certificate that a server shows came with the server; those that are trusted came from a client.
fn is_of_a_server(db: &Db, class: &str, reference: &str) -> bool {
    class == "Certificate"
        && db
            .text(class, reference, "type")
            .is_ok_and(|kind| kind != "ca")
}

/// What has been made after this generation and is still there.
pub(crate) fn leaks(db: &Db, start: i64) -> Vec<Leak> {
    let tables = db.tables();
    let tables = tables.filter(|table| !DEPENDENT.contains(&table.class.name));
    let leaks = tables.flat_map(|table| {
        let class = table.class.name;
        let rows = table.rows.iter();
        rows.filter(|(_, row)| row.created > start)
            .filter(move |(reference, _)| !is_of_a_server(db, class, reference))
            .map(move |(reference, _)| {
                let text = |field| db.text(class, reference, field).unwrap_or_default();
                let (reference, label) = match class {
                    "session" => (text("uuid"), text("originator")),
                    _ => (reference.clone(), text("name_label")),
                };
                Leak {
                    class,
                    reference,
                    label,
                }
            })
    });
    leaks.collect()
}

/// Calls in the order of arrival, and messages that nobody has taught us.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) calls: Vec<CallRecord>,
    begun: Instant,
    /// How many older calls have been forgotten.
    forgotten: usize,
    pub(crate) unimplemented: BTreeSet<String>,
}

/// The newest calls are kept; this many are enough for any test and bounded for a server.
const KEPT: usize = 100_000;

impl Log {
    pub(crate) fn new() -> Self {
        Log {
            calls: Vec::new(),
            begun: Instant::now(),
            forgotten: 0,
            unimplemented: BTreeSet::new(),
        }
    }

    /// How many calls were about each VM.
    pub(crate) fn calls_per_vm(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for vm in self.calls.iter().filter_map(|call| call.vm.as_ref()) {
            *counts.entry(vm.clone()).or_default() += 1;
        }
        counts
    }

    /// Notes a call and gives its place.
    pub(crate) fn arrive(
        &mut self,
        method: &str,
        message: Option<&'static Message>,
        params: &[Value],
    ) -> usize {
        let vm = message.and_then(|message| vm_of(message, params));
        let params = match message {
            Some(message) => {
                let params = &params[usize::from(message.needs_session).min(params.len())..];
                // What a guest reads at its boot may hold keys.
                let secrets = message.wire_name.starts_with("secret.")
                    || message.wire_name.ends_with("xenstore_data");
                let is_event = message.wire_name.starts_with("event.");
                let hidden = message.params.iter().map(|param| {
                    let open = matches!(param.ty, Type::Ref(_)) || param.name == "key";
                    (is_secret(param) && !is_event) || (secrets && !open)
                });
                let hidden = hidden.chain(std::iter::repeat(false));
                params.iter().zip(hidden).map(shown).collect()
            }
            // The first parameter of an unknown method is most likely a session.
            None => params.iter().skip(1).cloned().collect(),
        };
        self.add(method, params, vm)
    }

    /// Notes a request to an HTTP handler and gives its place.
    pub(crate) fn arrive_transfer(
        &mut self,
        handler: &str,
        params: &[(String, String)],
        vm: Option<String>,
    ) -> usize {
        let params = params.iter();
        let params = params.map(|(key, value)| (key.clone(), Value::from(value.as_str())));
        self.add(handler, vec![Value::Struct(params.collect())], vm)
    }

    fn add(&mut self, method: &str, params: Vec<Value>, vm: Option<String>) -> usize {
        if self.calls.len() >= KEPT {
            self.calls.drain(..KEPT / 2);
            self.forgotten += KEPT / 2;
        }
        self.calls.push(CallRecord {
            method: method.to_owned(),
            params,
            failure: None,
            vm,
            at: self.begun.elapsed(),
            took: None,
        });
        self.forgotten + self.calls.len() - 1
    }

    /// Notes what became of a call.
    pub(crate) fn answered(&mut self, place: usize, failure: Option<&str>) {
        let kept = place.checked_sub(self.forgotten);
        if let Some(call) = kept.and_then(|place| self.calls.get_mut(place)) {
            call.took = Some(self.begun.elapsed().saturating_sub(call.at));
            call.failure = failure.map(str::to_owned);
        }
    }
}

/// The first VM among the parameters, the session included.
fn vm_of(message: &Message, params: &[Value]) -> Option<String> {
    let sessions = usize::from(message.needs_session);
    let at = message
        .params
        .iter()
        .position(|param| param.ty == Type::Ref("VM"))?;
    params.get(at + sessions)?.as_str().map(str::to_owned)
}

fn is_secret(param: &Param) -> bool {
    let named = ["pwd", "password", "secret", "token"]
        .iter()
        .any(|word| param.name.contains(word));
    named || matches!(param.ty, Type::SecretString | Type::Ref("session"))
}

fn shown((value, hidden): (&Value, bool)) -> Value {
    match value {
        // The keys tell enough.
        Value::Struct(members) if hidden => {
            let members = members
                .iter()
                .map(|(key, _)| (key.clone(), Value::from(HIDDEN)));
            Value::Struct(members.collect())
        }
        _ if hidden => Value::from(HIDDEN),
        _ => value.clone(),
    }
}

const HIDDEN: &str = "<hidden>";
