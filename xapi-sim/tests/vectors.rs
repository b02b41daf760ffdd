//! Replays exchanges, written after those of real servers, byte by byte.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

mod common;

use std::collections::HashMap;

use common::pool;
use common::wire::Wire;
use tokio::net::TcpStream;

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

async fn replay(path: &str, exchanges: &str) {
    let pool = pool().await;
    let server = pool
        .sim
        .serve_plain(([127, 0, 0, 1], 0).into())
        .await
        .unwrap();
    let mut wire = Wire::over(TcpStream::connect(server.address()).await.unwrap());
    let mut names = Names(HashMap::from([
        ("session".to_owned(), pool.session.clone()),
        ("template".to_owned(), pool.template().await),
    ]));
    let mut request = None;
    let mut count = 0;
    for line in exchanges.lines() {
        if let Some(text) = line.strip_prefix("> ") {
            request = Some(names.fill(text));
        } else if let Some(expected) = line.strip_prefix("< ") {
            let body = request.take().unwrap();
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
    assert!(count > 10);
}

#[tokio::test]
async fn json() {
    replay("/jsonrpc", include_str!("vectors/jsonrpc.txt")).await;
}

#[tokio::test]
async fn xml() {
    replay("/", include_str!("vectors/xmlrpc.txt")).await;
}

#[tokio::test]
async fn lifecycle() {
    replay("/jsonrpc", include_str!("vectors/lifecycle.txt")).await;
}
