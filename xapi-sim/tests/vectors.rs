//! Replays exchanges, written after those of real servers, byte by byte.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

mod common;

use std::collections::HashMap;

use common::wire::Wire;
use common::{Pool, pool, pool_of, text};
use secrecy::ExposeSecret as _;
use tokio::net::TcpStream;
use xapi_sim::{Failure, LUA_TEMPLATE, Model, Release, SimOptions, Value};

/// What the names in a file of exchanges stand for.
struct Names(HashMap<String, String>);

const REFERENCE_LENGTH: usize = "OpaqueRef:00000000-0000-0000-0000-000000000000".len();

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
            let value = known.unwrap_or_else(|| answer[..REFERENCE_LENGTH].to_owned());
            assert!(value.starts_with("OpaqueRef:"), "{value}");
            answer = answer
                .strip_prefix(&value)
                .unwrap_or_else(|| panic!("${name}: {answer}"));
            self.0.insert(name.to_owned(), value);
        }
        assert_eq!(answer, expected);
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

/// JSON goes to /jsonrpc, XML to the root.
async fn replay_on(pool: &Pool, exchanges: &str) {
    let server = pool
        .sim
        .serve_plain(([127, 0, 0, 1], 0).into())
        .await
        .unwrap();
    let mut wire = Wire::over(TcpStream::connect(server.address()).await.unwrap());
    let password = pool.sim.credentials().password().expose_secret();
    // In emergency mode nobody tells, and nobody needs it.
    let named = vec![pool.session.as_str().into(), LUA_TEMPLATE.into()];
    let found = pool.sim.call("VM.get_by_name_label", named).await;
    let template = found.map_or(String::new(), |found| text(&found.items()[0]));
    let mut names = Names(HashMap::from([
        ("session".to_owned(), pool.session.clone()),
        ("template".to_owned(), template.to_owned()),
        ("password".to_owned(), password.to_owned()),
    ]));
    let mut request: Option<String> = None;
    let mut count = 0;
    for line in exchanges.lines() {
        if let Some(text) = line.strip_prefix("> ") {
            request = Some(names.fill(text));
        } else if let Some(expected) = line.strip_prefix("< ") {
            let body: String = request.take().unwrap();
            let path = if body.starts_with('<') {
                "/"
            } else {
                "/jsonrpc"
            };
            let head = format!(
                "POST {path} HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            wire.send((head + &body).as_bytes()).await;
            let answer = wire.answer().await;
            let (head, answer) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{body}\n{answer}");
            names.learn(expected, answer);
            count += 1;
        } else {
            assert!(line.is_empty() || line.starts_with('#'), "{line}");
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
