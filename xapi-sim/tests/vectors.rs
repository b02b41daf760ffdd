//! Replays exchanges, written after those of real servers, byte by byte.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

mod common;

use std::collections::HashMap;
use std::time::Duration;

use common::wire::Wire;
use common::{Pool, ended, pool, pool_of, text};
use secrecy::ExposeSecret as _;
use tokio::net::TcpStream;
use xapi_sim::{Failure, FaultRule, LUA_TEMPLATE, Model, NetworkSpec, Release, Server, SimOptions};
use xapi_sim::{SrSpec, TemplateSpec, Value};

/// What the names in a file of exchanges stand for.
struct Names(HashMap<String, String>);

impl Names {
    fn fill(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            let name = name_at(&rest[at + 1..]);
            out.push_str(&rest[..at]);
            out.push_str(
                self.0
                    .get(name)
                    .unwrap_or_else(|| panic!("${name} is not known")),
            );
            rest = &rest[at + 1 + name.len()..];
        }
        out + rest
    }

    /// Learns new names from an answer by their places.
    fn learn(&mut self, expected: &str, answer: &str) {
        let (mut expected, mut answer) = (expected, answer);
        while let Some(at) = expected.find('$') {
            let name = name_at(&expected[at + 1..]);
            assert_eq!(answer.get(..at), Some(&expected[..at]), "{answer}");
            answer = &answer[at..];
            expected = &expected[at + 1 + name.len()..];
            let known = self.0.get(name).cloned();
            let value = known.unwrap_or_else(|| unknown(name, answer, expected).to_owned());
            answer = answer
                .strip_prefix(&value)
                .unwrap_or_else(|| panic!("${name}: {answer}"));
            if !matches!(name, "count" | "trace") {
                self.0.insert(name.to_owned(), value);
            }
        }
        assert_eq!(answer, expected);
    }
}

/// What a new name stands for at the beginning of an answer, before what is expected then.
fn unknown<'a>(name: &str, answer: &'a str, then: &str) -> &'a str {
    let like = |pattern: &str| {
        let found = &answer[..pattern.len()];
        let mut pairs = found.chars().zip(pattern.chars());
        assert!(
            pairs.all(|(c, like)| c == like || (like == '0' && c.is_ascii_hexdigit())),
            "${name}: {found}"
        );
        found
    };
    match name.trim_end_matches(|c: char| c.is_ascii_digit()) {
        "uuid" => like("00000000-0000-0000-0000-000000000000"),
        "time" => like("00000000T00:00:00Z"),
        "local" => like("00000000T00:00:00"),
        "mac" => like("00:00:00:00:00:00"),
        "token" => like("00000000000000000000,00000000000000000000"),
        "count" => {
            let end = answer.find(|c: char| !c.is_ascii_digit()).unwrap();
            assert_ne!(end, 0, "{answer}");
            &answer[..end]
        }
        "firmware" => &answer[..answer.find("</struct>").unwrap()],
        "trace" => &answer[..answer.rfind(then).unwrap()],
        _ => like("OpaqueRef:00000000-0000-0000-0000-000000000000"),
    }
}

fn name_at(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    &text[..end]
}

async fn replay(exchanges: &str) {
    replay_on(&pool().await, exchanges).await;
}

/// A request or an answer, as far as a file has told of it.
#[derive(Default)]
struct Part {
    head: Vec<String>,
    body: String,
}

impl Part {
    fn text(&self) -> String {
        let head = self.head.join("\r\n");
        let head = head.replace("$length", &self.body.len().to_string());
        format!("{head}\r\n\r\n{}", self.body)
    }
}

/// A connection to a server, and the names of what has come over it.
struct Replay<'p> {
    pool: &'p Pool,
    server: Server,
    wire: Option<Wire>,
    names: Names,
}

impl Replay<'_> {
    /// Sends a request and compares the answer, of which the head is optional.
    async fn exchange(&mut self, request: &Part, expected: &Part) {
        let address = self.server.address();
        let mut wire = match self.wire.take() {
            Some(wire) => wire,
            None => Wire::over(TcpStream::connect(address).await.unwrap()),
        };
        wire.send(request.text().as_bytes()).await;
        let answer = wire.answer().await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        self.names.learn(&expected.body, body);
        if expected.head.is_empty() {
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}\n{body}");
        } else {
            let length = body.len().to_string();
            let expected = expected.head.join("\r\n").replace("$length", &length);
            assert_eq!(head, expected);
        }
        if !head.contains("connection: close") {
            self.wire = Some(wire);
        }
    }

    async fn wait(&self, what: &str) {
        let what = self.names.fill(what);
        match what.split_once(' ').unwrap() {
            ("task", task) => drop(ended(self.pool, task).await),
            ("agent", vm) => drop(self.pool.reported(vm).await),
            _ => panic!("{what}"),
        }
    }
}

/// Lines of heads begin with `>>` and `<<`, bodies with `>` and `<`. Without a head, JSON goes to
/// /jsonrpc and XML to the root.
async fn replay_on(pool: &Pool, exchanges: &str) {
    let server = pool
        .sim
        .serve_plain(([127, 0, 0, 1], 0).into())
        .await
        .unwrap();
    let password = pool.sim.credentials().password().expose_secret();
    // In emergency mode nobody tells, and nobody needs it.
    let named = vec![pool.session.as_str().into(), LUA_TEMPLATE.into()];
    let found = pool.sim.call("VM.get_by_name_label", named).await;
    let template = found.map_or(String::new(), |found| text(&found.items()[0]));
    let names = Names(HashMap::from([
        ("session".to_owned(), pool.session.clone()),
        ("template".to_owned(), template.to_owned()),
        ("password".to_owned(), password.to_owned()),
    ]));
    let mut replay = Replay {
        pool,
        server,
        wire: None,
        names,
    };
    let (mut request, mut expected) = (Part::default(), Part::default());
    let mut count = 0;
    let mut lines = exchanges.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(text) = line.strip_prefix(">> ") {
            request.head.push(text.to_owned());
        } else if let Some(text) = line.strip_prefix("> ") {
            request.body = replay.names.fill(text);
            if request.head.is_empty() {
                let path = if text.starts_with('<') {
                    "/"
                } else {
                    "/jsonrpc"
                };
                let first = format!("POST {path} HTTP/1.1");
                request.head = vec![first, "Content-Length: $length".to_owned()];
            }
        } else if let Some(text) = line.strip_prefix("<< ") {
            expected.head.push(text.to_owned());
        } else if let Some(text) = line.strip_prefix("< ") {
            expected.body = text.to_owned();
        } else if let Some(what) = line.strip_prefix("~ ") {
            replay.wait(what).await;
        } else {
            assert!(line.is_empty() || line.starts_with('#'), "{line}");
        }
        let answered = line.starts_with('<');
        if answered && !lines.peek().is_some_and(|next| next.starts_with('<')) {
            replay.exchange(&request, &expected).await;
            (request, expected) = (Part::default(), Part::default());
            count += 1;
        }
    }
    assert!(count > 2);
}

#[tokio::test]
async fn json() {
    replay(include_str!("vectors/jsonrpc.txt")).await;
}

#[tokio::test]
async fn xml() {
    replay(include_str!("vectors/xmlrpc.txt")).await;
}

#[tokio::test]
async fn lifecycle() {
    replay(include_str!("vectors/lifecycle.txt")).await;
}

#[tokio::test]
async fn sessions() {
    replay(include_str!("vectors/sessions.txt")).await;
}

#[tokio::test]
async fn heads() {
    replay(include_str!("vectors/http.txt")).await;
}

#[tokio::test]
async fn tasks() {
    let pool = pool_of(
        Model::single_host().release(Release::Newest),
        SimOptions::default(),
    )
    .await;
    let long = Duration::from_secs(3600);
    pool.sim.inject(FaultRule::method("VM.pause").delay(long));
    replay_on(&pool, include_str!("vectors/tasks.txt")).await;
}

/// A pool that is as small as the recorded ones.
async fn small() -> Pool {
    let model = Model::new()
        .release(Release::Newest)
        .sr(SrSpec::local("Local storage"))
        .network(NetworkSpec::external("LAN", "eth0"))
        .template(TemplateSpec::with_guest(LUA_TEMPLATE).vif("LAN"))
        .template(TemplateSpec::built_in("Debian Bookworm 12", 10 << 30));
    pool_of(model, SimOptions::default()).await
}

#[tokio::test]
async fn events() {
    replay_on(&small().await, include_str!("vectors/events.txt")).await;
}

#[tokio::test]
async fn devices() {
    replay_on(&small().await, include_str!("vectors/devices.txt")).await;
}

/// The names that a real server lists, in its order, one a line, have this SHA-256.
#[tokio::test]
async fn methods() {
    let listed = small().await.sim.call("system.listMethods", vec![]).await;
    let names: Vec<String> = listed.unwrap().items().iter().map(text).collect();
    assert_eq!(names.len(), 2258);
    let digest = ring::digest::digest(&ring::digest::SHA256, names.join("\n").as_bytes());
    let digest: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let recorded = "934f8011b7016aae177c8c09c9bb62be7d6a26470003d7ef5972b601f631bdb1";
    assert_eq!(digest, recorded);
}

#[tokio::test]
async fn members() {
    let pool = pool_of(Model::pool_of_three(), SimOptions::default()).await;
    pool.sim.fail_over("xcp-ng-2").unwrap();
    replay_on(&pool, include_str!("vectors/members.txt")).await;
}

#[tokio::test]
async fn emergency() {
    let pool = pool().await;
    let failure = Failure::code("HOST_STILL_BOOTING");
    pool.sim.set_emergency(Some(failure));
    replay_on(&pool, include_str!("vectors/emergency.txt")).await;
}

/// A record of each class that the file describes has these fields, in this order and of this kind.
#[tokio::test]
async fn records() {
    let model = Model::single_host().release(Release::Newest);
    let pool = pool_of(model, SimOptions::default()).await;
    let vm = pool.vm("recorded").await;
    pool.start(&vm).await;
    pool.reported(&vm).await;
    pool.call("task.create", vec!["recorded".into(), "".into()])
        .await;
    let mut class = "";
    let mut wanted: Vec<(&str, Vec<String>)> = Vec::new();
    for line in include_str!("vectors/records.txt").lines() {
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        match line.strip_prefix("  ") {
            None => {
                class = line;
                wanted.push((class, Vec::new()));
            }
            Some(fields) => {
                let (known, all) = wanted.last_mut().unwrap();
                assert_eq!(*known, class);
                all.extend(fields.split_whitespace().map(str::to_owned));
            }
        }
    }
    assert_eq!(wanted.len(), 13);
    for (class, fields) in wanted {
        let record = if class == "session" {
            let session = vec![pool.session.as_str().into()];
            pool.call("session.get_record", session).await
        } else {
            let records = pool.call(&format!("{class}.get_all_records"), vec![]).await;
            records.members()[0].1.clone()
        };
        let found: Vec<String> = record
            .members()
            .iter()
            .map(|(name, value)| format!("{name}:{}", kind(value)))
            .collect();
        assert_eq!(found, fields, "{class}");
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Int(_) | Value::Float(_) => "number",
        Value::Bool(_) => "truth",
        Value::Array(_) => "list",
        Value::Struct(_) => "map",
        _ => "text",
    }
}
