//! What is served beside calls.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

mod administration;
mod changed_blocks;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod config_drive;
mod faults;
mod internal;
mod raw_vdi;
mod statistics;
mod xva;

use std::path::Path;

use common::wire::Wire;
use common::{Pool, pool_of, text};
use tokio::net::TcpStream;
use xapi_sim::{Model, Server, SimOptions, Value};

const MIB: usize = 1 << 20;

/// A pool that is served without TLS and whose disks are in a folder of the test.
struct Served {
    pool: Pool,
    server: Server,
    folder: tempfile::TempDir,
}

async fn served() -> Served {
    served_with(Model::single_host(), SimOptions::default()).await
}

async fn served_with(model: Model, options: SimOptions) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let pool = pool_of(model, options.with_state_dir(folder.path())).await;
    let server = pool
        .sim
        .serve_plain(([127, 0, 0, 1], 0).into())
        .await
        .unwrap();
    Served {
        pool,
        server,
        folder,
    }
}

/// An answer that ended with the connection.
struct Answer {
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn status(&self) -> &str {
        self.head.lines().next().unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Served {
    /// Sends a request with the session and a body, and reads to the end.
    async fn ask(&self, request: &str, headers: &str, body: &[u8]) -> Answer {
        let session = &self.pool.session;
        let headers = format!("Cookie: session_id={session}\r\n{headers}");
        self.ask_alone(request, &headers, body).await
    }

    async fn ask_alone(&self, request: &str, headers: &str, body: &[u8]) -> Answer {
        let stream = TcpStream::connect(self.server.address()).await.unwrap();
        let mut wire = Wire::over(stream);
        wire.send(format!("{request} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").as_bytes())
            .await;
        // A server that refuses does not read to the end.
        let answer = wire.send_and_read_to_end(body).await;
        let end = answer
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap();
        Answer {
            head: String::from_utf8(answer[..end].to_vec()).unwrap(),
            body: answer[end + 4..].to_vec(),
        }
    }

    async fn put(&self, path: &str, body: &[u8]) -> Answer {
        let length = format!("Content-Length: {}\r\n", body.len());
        self.ask(&format!("PUT {path}"), &length, body).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), "", b"").await
    }

    async fn vdi(&self, size: usize) -> String {
        let sr = self.pool.named("SR", "Local storage").await;
        let fields = Value::Struct(vec![
            ("SR".to_owned(), sr.as_str().into()),
            ("virtual_size".to_owned(), (size as i64).into()),
            ("type".to_owned(), "user".into()),
            ("sharable".to_owned(), false.into()),
            ("read_only".to_owned(), false.into()),
            ("other_config".to_owned(), Value::Struct(vec![])),
        ]);
        text(&self.pool.call("VDI.create", vec![fields]).await)
    }

    async fn task(&self) -> String {
        let task = self
            .pool
            .call("task.create", vec!["transfer".into(), "".into()]);
        text(&task.await)
    }

    /// Status, result and error of a task.
    async fn outcome(&self, task: &str) -> (String, String, Vec<String>) {
        let error = self.pool.get("task", "error_info", task).await;
        (
            text(&self.pool.get("task", "status", task).await),
            text(&self.pool.get("task", "result", task).await),
            error.items().iter().map(text).collect(),
        )
    }

    /// How many files of disks there are.
    fn files(&self) -> usize {
        files_below(self.folder.path())
    }
}

fn files_below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let is_disk = path
                .file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("vdi-");
            if path.is_dir() {
                files_below(&path)
            } else {
                usize::from(is_disk)
            }
        })
        .sum()
}

/// Bytes that are easy to tell from others: no two blocks are the same.
fn bytes(length: usize) -> Vec<u8> {
    (0..length)
        .map(|n| (n % 251) as u8 ^ (n >> 16) as u8)
        .collect()
}
