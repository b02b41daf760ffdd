//! Who asks, for what, and in which task.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::sync::watch;

use super::blob;
use super::table::Handler;
use crate::classes::{session, task};
use crate::failure::{Failure, Reply};
use crate::fault::{Spoil, TransferVerdict};
use crate::http::Head;
use crate::rbac;
use crate::rpc::Face;
use crate::value::Value;
use crate::world::{Shared, World};

/// A request of somebody who may make it.
pub(super) struct Request {
    pub(super) shared: Arc<Shared>,
    /// The host that was asked.
    pub(super) host: String,
    pub(super) head: Head,
    session: String,
    /// Whether the session ends with the request.
    temporary: bool,
    cookies: Vec<(String, String)>,
    query: Vec<(String, String)>,
    /// How it fails after it has begun to answer, as a rule asks.
    pub(super) late: Option<Failure>,
}

/// A request before anybody has looked who asks.
pub(super) struct Asked<'a> {
    face: &'a Face,
    handler: &'static Handler,
    /// What it is called with, but for what lets it in.
    params: Vec<(String, String)>,
    session: Option<String>,
}

impl<'a> Asked<'a> {
    pub(super) fn new(face: &'a Face, head: &Head, handler: &'static Handler) -> Self {
        const SECRETS: [&str; 2] = ["session_id", "pool_secret"];
        let mut params = pairs(head.header("cookie").unwrap_or_default(), &[';', ',', '&']);
        params.extend(pairs(&head.query, &['&']));
        let session = params.iter().find(|(key, _)| key == "session_id");
        let session = session.map(|(_, value)| value.clone());
        params.retain(|(key, _)| !SECRETS.contains(&key.as_str()));
        Asked {
            face,
            handler,
            params,
            session,
        }
    }

    /// What the rules do to it.
    pub(super) fn strike(&self) -> TransferVerdict {
        let values = self.params.iter().map(|(_, value)| value.as_str());
        let values: Vec<Value> = values.map(Value::from).collect();
        let Handler { method, path, .. } = self.handler;
        self.face.shared.with(|world| {
            let verdict = world
                .faults
                .strike_transfer(&world.db, method, path, &values);
            if verdict.spoil == Some(Spoil::Expire)
                && let Some(session) = &self.session
            {
                session::close(world, session);
            }
            verdict
        })
    }

    /// Notes it in the log of calls, and gives its place there.
    pub(super) fn note(&self) -> usize {
        let Handler { method, path, .. } = self.handler;
        let named = |names: &[&str]| {
            let found = self
                .params
                .iter()
                .find(|(key, _)| names.contains(&key.as_str()));
            found.map(|(_, value)| value.as_str())
        };
        self.face.shared.with(|world| {
            let called = named(&["ref", "uuid", "vm_uuid"]);
            let vm = called.and_then(|called| match world.db.exists("VM", called) {
                true => Some(called.to_owned()),
                false => world.db.by_uuid("VM", called),
            });
            world
                .log
                .arrive_transfer(&format!("{method} {path}"), &self.params, vm)
        })
    }
}

/// Why a request is not carried out.
#[derive(Debug)]
pub(super) enum Denied {
    Unauthorised,
    Forbidden,
    UnknownScheme(String),
}

impl Request {
    /// Looks who asks. A session counts before the secret of the pool, and that before a password.
    pub(super) fn accept(
        face: &Face,
        head: &Head,
        name: &str,
        role: &str,
    ) -> Result<Request, Denied> {
        let shared = Arc::clone(&face.shared);
        let host = face.host();
        let mut request = Request {
            host,
            cookies: pairs(head.header("cookie").unwrap_or_default(), &[';', ',', '&']),
            query: pairs(&head.query, &['&']),
            head: head.clone(),
            session: String::new(),
            temporary: false,
            late: None,
            shared,
        };
        if name == "get_blob" && blob::is_public(&request) {
            return Ok(request);
        }
        if let Some(session) = request.param("session_id") {
            request.session = session.to_owned();
        } else if request.param("pool_secret").is_some() {
            // Nobody knows the secret of a simulated pool.
            return Err(Denied::Unauthorised);
        } else {
            request.session = request.log_in()?;
            request.temporary = true;
        }
        let permission = format!("http/{name}");
        let permitted = request.shared.with(|world| {
            let alive = session::touch(world, &request.session);
            alive.map_err(|_| Denied::Unauthorised)?;
            Ok(rbac::reach(world, &request.session, &permission, role))
        })?;
        permitted.map_err(|failure| {
            request.fail_given_task(&failure);
            Denied::Forbidden
        })?;
        Ok(request)
    }

    fn log_in(&self) -> Result<String, Denied> {
        let Some(header) = self.head.header("authorization") else {
            return Err(Denied::Unauthorised);
        };
        let decoded = header.strip_prefix("Basic ").and_then(|encoded| {
            let decoded = BASE64_STANDARD.decode(encoded).ok()?;
            String::from_utf8(decoded).ok()
        });
        let pair = decoded.as_deref().and_then(|pair| pair.split_once(':'));
        let Some((name, password)) = pair else {
            return Err(Denied::UnknownScheme(header.to_owned()));
        };
        let opened = self
            .shared
            .with(|world| session::try_login(world, name, password, false, "xapi"));
        opened.map_err(|_| Denied::Unauthorised)
    }

    /// A parameter of the query or, before that, of a cookie.
    pub(super) fn param(&self, name: &str) -> Option<&str> {
        let all = self.cookies.iter().chain(&self.query);
        all.into_iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Refuses what the role of whoever asks does not reach.
    pub(super) fn assert_role(&self, permission: &str, role: &str) -> Result<(), Failure> {
        self.shared
            .with(|world| rbac::reach(world, &self.session, permission, role))
    }

    /// A parameter of the query alone.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The parameters of the query that begin with a prefix, without it.
    pub(super) fn query_map(&self, prefix: &str) -> HashMap<String, String> {
        let pairs = self.query.iter().filter_map(|(key, value)| {
            let key = key.strip_prefix(prefix)?;
            Some((key.to_owned(), value.clone()))
        });
        pairs.collect()
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.param(name) == Some("true")
    }

    /// The object of a class that a parameter names by its reference or uuid.
    pub(super) fn object(
        &self,
        class: &'static str,
        name: &str,
    ) -> Result<Option<String>, Failure> {
        let Some(text) = self.param(name) else {
            return Ok(None);
        };
        self.shared.with(|world| {
            if world.db.exists(class, text) {
                return Ok(Some(text.to_owned()));
            }
            let found = world.db.by_uuid(class, text);
            found
                .map(Some)
                .ok_or_else(|| Failure::uuid_invalid(class, text))
        })
    }

    /// The SR that the parameters name.
    pub(super) fn sr(&self) -> Result<Option<String>, Failure> {
        if let Some(sr) = self.param("sr_id") {
            self.shared.with(|world| world.db.require("SR", sr))?;
            return Ok(Some(sr.to_owned()));
        }
        self.object("SR", "sr_uuid")
    }

    /// The task of the request: the one that the client made for it, or a fresh one.
    pub(super) fn task(&self, label: &str) -> Result<Task, Failure> {
        let given = self.param("task_id");
        let (cancel, cancelled) = watch::channel(false);
        let reference = self.shared.with(|world| {
            let task = match given {
                Some(task) => {
                    world.db.require("task", task)?;
                    task.to_owned()
                }
                None => {
                    let task = task::open(world, label, &self.session, &[])?;
                    if let Some(parent) = self.param("subtask_of") {
                        world.db.set("task", &task, "subtask_of", parent)?;
                    }
                    task
                }
            };
            world.cancels.insert(task.clone(), cancel);
            Ok(task)
        })?;
        Ok(Task {
            shared: Arc::clone(&self.shared),
            reference,
            given: given.is_some(),
            late: self.late.clone(),
            cancelled,
            open: true,
        })
    }

    /// Lets the task that the client made for the request fail, if there is one.
    pub(super) fn fail_given_task(&self, failure: &Failure) {
        if let Some(task) = self.param("task_id") {
            let reply = Err(failure.clone());
            self.shared.with(|world| task::finish(world, task, &reply));
        }
    }

    /// Where the request belongs if another host has to carry it out.
    pub(super) fn elsewhere(&self, host: &str) -> String {
        let address = match self.shared.address_of(host) {
            Some(address) => address.to_string(),
            None => self
                .shared
                .with(|world| world.db.text("host", host, "address"))
                .unwrap_or_default(),
        };
        let query = if self.head.query.is_empty() {
            String::new()
        } else {
            format!("?{}", self.head.query)
        };
        format!("https://{address}{}{query}", self.head.path)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if self.temporary {
            self.shared
                .with(|world| session::close(world, &self.session));
        }
    }
}

/// The task in which a request is carried out.
pub(super) struct Task {
    shared: Arc<Shared>,
    pub(super) reference: String,
    /// Whether the client made it, and so destroys it.
    given: bool,
    /// How it fails in place of whatever comes of it.
    late: Option<Failure>,
    /// Whether somebody has cancelled it.
    pub(super) cancelled: watch::Receiver<bool>,
    open: bool,
}

impl Task {
    /// The header that names the task.
    pub(super) fn header(&self) -> String {
        format!("task-id: {}", self.reference)
    }

    pub(super) fn progress(&self, part: f64) {
        // The client may have destroyed the task; then nobody asks.
        let set = |world: &mut World| world.db.set("task", &self.reference, "progress", part);
        let _ = self.shared.with(set);
    }

    /// Fails when somebody has cancelled the task.
    pub(super) fn go_on(&self) -> Result<(), Failure> {
        if *self.cancelled.borrow() {
            return Err(self.cancellation());
        }
        Ok(())
    }

    /// How a cancelled task fails.
    pub(super) fn cancellation(&self) -> Failure {
        Failure::new("TASK_CANCELLED", [self.reference.as_str()])
    }

    /// Ends the task. One that nobody made goes at once, as those of calls do.
    pub(super) fn finish(mut self, reply: &Reply) {
        self.close(reply);
    }

    fn close(&mut self, reply: &Reply) {
        self.open = false;
        let late = self.late.take().map(Err);
        let reply = late.as_ref().unwrap_or(reply);
        self.shared.with(|world| {
            world.cancels.remove(&self.reference);
            task::finish(world, &self.reference, reply);
            if !self.given {
                // It was ours and is there.
                let _ = world.db.destroy("task", &self.reference);
            }
        });
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if self.open {
            let text = "the request was given up";
            self.close(&Err(Failure::new("CLIENT_ERROR", [text])));
        }
    }
}

/// A failure as the server's pages show it.
pub(super) fn text_of(failure: &Failure) -> String {
    format!("{}: [ {} ]", failure.code, failure.params.join("; "))
}

/// The host that can see an SR, this one if it can.
pub(super) fn host_for_sr(request: &Request, sr: &str) -> Result<String, Failure> {
    request.shared.with(|world| {
        let hosts = hosts_of_sr(world, sr)?;
        best_host(world, request, hosts)
    })
}

/// The hosts that have an SR attached.
pub(super) fn hosts_of_sr(world: &World, sr: &str) -> Result<Vec<String>, Failure> {
    let db = &world.db;
    let mut hosts = Vec::new();
    for pbd in db.list("SR", sr, "PBDs")? {
        if db.flag("PBD", &pbd, "currently_attached")? {
            hosts.push(db.text("PBD", &pbd, "host")?);
        }
    }
    Ok(hosts)
}

/// One of these hosts: this one, or any that takes work, rather one that is served.
pub(super) fn best_host(
    world: &World,
    request: &Request,
    hosts: Vec<String>,
) -> Result<String, Failure> {
    if hosts.contains(&request.host) {
        return Ok(request.host.clone());
    }
    let enabled = |host: &String| world.db.flag("host", host, "enabled").unwrap_or(false);
    let able = hosts.into_iter().filter(enabled);
    able.max_by_key(|host| request.shared.address_of(host).is_some())
        .ok_or_else(|| Failure::code("NO_HOSTS_AVAILABLE"))
}

/// The pairs of a query or, with other separators, of a cookie.
fn pairs(text: &str, separators: &[char]) -> Vec<(String, String)> {
    let parts = text.split(separators).map(str::trim);
    let parts = parts.filter(|part| !part.is_empty());
    parts
        .flat_map(|part| form_urlencoded::parse(part.as_bytes()))
        .map(|(key, value)| (key.into_owned(), value.into_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded() {
        let parsed = pairs("session_id=OpaqueRef%3aa; task_id=b+c,x=", &[';', ',']);
        let expected = [("session_id", "OpaqueRef:a"), ("task_id", "b c"), ("x", "")];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(parsed, expected);
    }
}
