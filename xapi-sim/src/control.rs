//! The simulator's own endpoint, on a port of its own: what tests in any language do to a pool and
//! learn of it. HTTP with JSON, for this machine alone, and with a token.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::assertions::{self, CallRecord};
use crate::failure::Failure;
use crate::json;
use crate::outage;
use crate::plugin;
use crate::scenario;
use crate::secret;
use crate::sim::Error;
use crate::spec::{Problems, SpecError, Table, read_json};
use crate::value::Value;
use crate::world::{Shared, World};

/// The longest request.
const MAX_BODY: usize = 64 * 1024;

/// An endpoint through which other programs control a simulator. Dropping it ends the endpoint,
/// not the simulator.
pub struct Control {
    address: SocketAddr,
    token: SecretString,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("url", &self.url())
            .finish_non_exhaustive()
    }
}

impl Control {
    pub(crate) async fn start(shared: Arc<Shared>, address: SocketAddr) -> Result<Control, Error> {
        if !address.ip().is_loopback() {
            return Err(Error::NotLoopback { address });
        }
        let listen = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let token = SecretString::from(secret::password());
        let (stop, stopped) = watch::channel(false);
        let door = Door {
            shared,
            token: token.clone(),
        };
        Ok(Control {
            address,
            token,
            stop,
            task: Some(tokio::spawn(accept(door, listener, stopped))),
        })
    }

    /// The URL, `http://127.0.0.1:12345`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What requests have to carry: `Authorization: Bearer` and this.
    #[must_use]
    pub fn token(&self) -> &SecretString {
        &self.token
    }

    /// Closes the endpoint.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does the same without waiting for it.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.take() {
            // It ends by itself; a panic in it has been reported where it happened.
            let _ = task.await;
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

#[derive(Clone)]
struct Door {
    shared: Arc<Shared>,
    token: SecretString,
}

async fn accept(door: Door, listener: TcpListener, mut stopped: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // An error means that the endpoint was dropped, which ends it as well.
            _ = stopped.wait_for(|stopped| *stopped) => break,
            () = door.shared.closed() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let door = door.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let door = door.clone();
                        async move { Ok::<_, Infallible>(answer(&door, request).await) }
                    });
                    let served = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                    if let Err(error) = served {
                        tracing::debug!(%error, "a connection to the control endpoint broke");
                    }
                });
            }
        }
    }
    connections.shutdown().await;
}

/// Why a request is not carried out.
struct Refusal(StatusCode, String);

impl From<SpecError> for Refusal {
    fn from(error: SpecError) -> Self {
        Refusal(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Refusal(StatusCode::UNPROCESSABLE_ENTITY, failure.to_string())
    }
}

async fn answer(door: &Door, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, value) = match handle(door, request).await {
        Ok(value) => (StatusCode::OK, value),
        Err(Refusal(status, why)) => (status, Value::map([("error", why)])),
    };
    let mut text = String::new();
    json::write(&mut text, &value);
    text.push('\n');
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

async fn handle(door: &Door, request: Request<Incoming>) -> Result<Value, Refusal> {
    let header = request.headers().get(AUTHORIZATION);
    let given = header.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    if !given.is_some_and(|given| secret::same(given, door.token.expose_secret())) {
        let text = "send the header Authorization: Bearer with the token of the control endpoint";
        return Err(Refusal(StatusCode::UNAUTHORIZED, text.to_owned()));
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let body = Limited::new(request.into_body(), MAX_BODY).collect().await;
    let bad = |why: String| Refusal(StatusCode::BAD_REQUEST, why);
    let body = body.map_err(|error| bad(format!("the body cannot be read: {error}")))?;
    let body = body.to_bytes();
    let body = match std::str::from_utf8(&body) {
        Ok("") => Value::Struct(Vec::new()),
        Ok(text) => json::parse(text).map_err(|error| bad(error.exception()))?,
        Err(_) => return Err(bad("the body is not UTF-8".to_owned())),
    };
    route(&door.shared, &method, &path, &body).await
}

async fn route(
    shared: &Arc<Shared>,
    method: &Method,
    path: &str,
    body: &Value,
) -> Result<Value, Refusal> {
    let done = || Value::Struct(Vec::new());
    let get = method == Method::GET;
    let post = method == Method::POST;
    Ok(match path {
        "/about" if get => about(shared),
        "/calls" if get => shared.with(|world| {
            let calls = world.log.calls.iter().map(call);
            Value::Array(calls.collect())
        }),
        "/calls-per-vm" if get => {
            let counts = shared.with(|world| world.log.calls_per_vm());
            let count = |count| Value::Int(i64::try_from(count).unwrap_or(i64::MAX));
            let counts = counts.into_iter().map(|(vm, calls)| (vm, count(calls)));
            Value::Struct(counts.collect())
        }
        "/leaks" if get => {
            let leaks = shared.with(|world| assertions::leaks(&world.db, world.started));
            let leaks = leaks.into_iter().map(|leak| {
                Value::map([
                    ("class", leak.class.to_owned()),
                    ("reference", leak.reference),
                    ("label", leak.label),
                ])
            });
            Value::Array(leaks.collect())
        }
        "/unimplemented" if get => {
            shared.with(|world| Value::strings(world.log.unimplemented.iter()))
        }
        "/faults" if get => shared.with(|world| {
            let rules = world.faults.rules().iter();
            let rules = rules.map(|rule| Value::map([("rule", rule.to_string())]));
            Value::Array(rules.collect())
        }),
        "/faults" if post => {
            let rule = read_json(body, scenario::fault)?;
            shared.with(|world| world.faults.add(rule));
            done()
        }
        "/faults" if method == Method::DELETE => {
            shared.with(|world| world.faults.clear());
            done()
        }
        "/plugins" if get => shared.with(|world| {
            let plugins = world.plugins.iter();
            let plugins = plugins.map(|plugin| Value::map([("plugin", plugin.to_string())]));
            Value::Array(plugins.collect())
        }),
        "/plugins" if post => {
            let plugin = read_json(body, plugin::read)?;
            shared.with(|world| world.plugins.push(plugin));
            done()
        }
        "/plugins" if method == Method::DELETE => {
            shared.with(|world| world.plugins.clear());
            done()
        }
        "/restart-toolstack" if post => {
            outage::restart_toolstack(shared);
            done()
        }
        "/fail-over" if post => {
            let host = named(shared, body, "host")?;
            if !outage::fail_over(shared, &host).map_err(is_down)? {
                let text = "the host is the coordinator already; name another".to_owned();
                return Err(Refusal(StatusCode::UNPROCESSABLE_ENTITY, text));
            }
            done()
        }
        "/crash-host" if post => {
            let host = named(shared, body, "host")?;
            outage::crash(shared, &host)?;
            done()
        }
        "/boot-host" if post => {
            let host = named(shared, body, "host")?;
            if !outage::boot(shared, &host)? {
                let text = "the host is up already; crash it first".to_owned();
                return Err(Refusal(StatusCode::UNPROCESSABLE_ENTITY, text));
            }
            done()
        }
        "/fill-sr" if post => {
            let (name, full) = read_json(body, |table: &mut Table, problems: &mut Problems| {
                let name = table.required(problems, "sr");
                (name, table.flag(problems, "full").unwrap_or(true))
            })?;
            outage::fill_sr(shared, &find(shared, "SR", &name)?, full)?;
            done()
        }
        "/shift-clock" if post => {
            let seconds = read_json(body, |table, problems| table.int(problems, "seconds"))?;
            outage::shift_clock(shared, seconds.unwrap_or_default());
            done()
        }
        "/skew-clock" if post => {
            let (host, seconds) = read_json(body, |table: &mut Table, problems: &mut Problems| {
                let host = table.required(problems, "host");
                (host, table.int(problems, "seconds").unwrap_or_default())
            })?;
            outage::skew_clock(shared, &find(shared, "host", &host)?, seconds);
            done()
        }
        "/emergency" if post => {
            let (host, failure) = read_json(body, |table: &mut Table, problems: &mut Problems| {
                (
                    table.text(problems, "host"),
                    scenario::failure(table, problems),
                )
            })?;
            let host = match host {
                Some(host) => find(shared, "host", &host)?,
                None => shared.with(|world| world.coordinator()),
            };
            outage::set_emergency(shared, &host, failure);
            done()
        }
        "/reset" if post => {
            outage::reset(shared).await.map_err(|error| {
                let text = crate::backing::whole(&error);
                Refusal(StatusCode::INTERNAL_SERVER_ERROR, text)
            })?;
            done()
        }
        _ => {
            let text =
                format!("there is no {method} {path}; the README of xapi-sim lists what there is");
            return Err(Refusal(StatusCode::NOT_FOUND, text));
        }
    })
}

/// The object that a request names by reference, uuid or name.
fn named(shared: &Shared, body: &Value, class: &'static str) -> Result<String, Refusal> {
    let called = read_json(body, |table: &mut Table, problems: &mut Problems| {
        table.required(problems, class)
    })?;
    find(shared, class, &called)
}

/// How many objects are named to whoever has named none of them.
const MOST_NAMED: usize = 10;

/// The object with this reference, uuid or name.
fn find(shared: &Shared, class: &'static str, called: &str) -> Result<String, Refusal> {
    let text = shared.with(|world| {
        let mut found = outage::find_all(world, class, called);
        match (found.pop(), found.is_empty()) {
            (Some(found), true) => Ok(found),
            (Some(last), false) => {
                found.push(last);
                Err(candidates(world, class, called, &found))
            }
            (None, _) => Err(nobody(world, class, called)),
        }
    });
    text.map_err(|text| Refusal(StatusCode::UNPROCESSABLE_ENTITY, text))
}

/// What is said of a name that several objects have.
fn candidates(world: &World, class: &'static str, called: &str, found: &[String]) -> String {
    let db = &world.db;
    let told = found.iter().take(MOST_NAMED).map(|reference| {
        let uuid = db.text(class, reference, "uuid").unwrap_or_default();
        // A local SR is known by its host.
        let pbds = db.list(class, reference, "PBDs").unwrap_or_default();
        let hosts = pbds.iter().filter_map(|pbd| {
            let host = db.text("PBD", pbd, "host").ok()?;
            db.text("host", &host, "name_label").ok()
        });
        let hosts: Vec<String> = hosts.collect();
        match hosts.is_empty() {
            true => uuid,
            false => format!("{uuid} (of {})", hosts.join(", ")),
        }
    });
    let told: Vec<String> = told.collect();
    format!(
        "there are {} objects of class {class} called {called:?}; give the uuid of one: {}",
        found.len(),
        told.join(", ")
    )
}

/// What is said where nobody has a name.
fn nobody(world: &World, class: &'static str, called: &str) -> String {
    let db = &world.db;
    let all = db.references(class).into_iter();
    let names = all.filter_map(|found| db.text(class, &found, "name_label").ok());
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names.dedup();
    let more = names.len().saturating_sub(MOST_NAMED);
    names.truncate(MOST_NAMED);
    let failure = Failure::handle_invalid(class, called);
    let mut text = format!(
        "{failure}: there is no {class} {called:?}; give the name, uuid or reference of one of: {}",
        names.join(", ")
    );
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// What is said of a host that cannot become the coordinator.
fn is_down(failure: Failure) -> Refusal {
    let text = format!("{failure}: the host is down; boot it first, or choose another");
    Refusal(StatusCode::UNPROCESSABLE_ENTITY, text)
}

fn about(shared: &Shared) -> Value {
    let implemented = shared.registry.messages(true);
    let missing = shared.registry.messages(false);
    let product = concat!("xapi-sim ", env!("CARGO_PKG_VERSION"));
    Value::Struct(vec![
        ("product".to_owned(), Value::from(product)),
        (
            "messages_implemented".to_owned(),
            Value::strings(implemented),
        ),
        ("messages_missing".to_owned(), Value::strings(missing)),
    ])
}

fn call(call: &CallRecord) -> Value {
    let mut members = vec![
        ("method".to_owned(), Value::from(call.method.as_str())),
        ("params".to_owned(), Value::Array(call.params.clone())),
        ("at".to_owned(), Value::Float(call.at.as_secs_f64())),
    ];
    if let Some(took) = call.took {
        members.push(("took".to_owned(), Value::Float(took.as_secs_f64())));
    }
    if let Some(failure) = &call.failure {
        members.push(("failure".to_owned(), Value::from(failure.as_str())));
    }
    Value::Struct(members)
}
