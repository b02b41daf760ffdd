//! The records of 10,000 VMs while they arrive, against plain serde_json on the whole answer.
//!
//! `cargo bench -p xapi-client --features meta --bench stream`. Every case runs in a process of its own, so that
//! its memory can be told; the ratios are of one run on one machine. The answer comes in pieces of 16 KiB, as
//! TLS cuts it. What holds it back here, at the server, is not counted.

#![allow(clippy::print_stdout, reason = "a benchmark reports")]
#![allow(clippy::unwrap_used, reason = "a panic is how a benchmark fails")]

mod support;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use support::{Overview, VMS, envelope, json_body, measure, peak, xml_body};
use xapi_client::api::{Vm, VmRecord};
use xapi_client::{BodyStream, Client, Protocol, Ref, Request, Result, Transport};

const RUNS: usize = 5;
const PIECE: usize = 16 * 1024;

type Map<V> = BTreeMap<Ref<Vm>, V>;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().position(|argument| argument == "--case") {
        Some(at) => child(&arguments[at + 1]),
        None => report(),
    }
}

fn report() {
    println!("{VMS} VM records; best of {RUNS} runs\n");
    println!(
        "{:44} {:>8} {:>7} {:>20}",
        "", "time", "ratio", "memory over the body"
    );
    for group in [
        [
            "all fields: plain serde_json",
            "all fields: stream, none kept",
            "all fields: stream, into a map",
        ],
        [
            "five fields: plain serde_json",
            "five fields: stream, none kept",
            "five fields: stream, into a map",
        ],
        [
            "XML, all fields: await",
            "XML, all fields: stream, none kept",
            "XML, five fields: stream, into a map",
        ],
    ] {
        let mut base = None;
        for case in group {
            let (time, memory) = measure(case);
            let time = time.as_secs_f64();
            let ratio = time / *base.get_or_insert(time);
            println!(
                "{case:44} {time:>6.3} s {ratio:>7.2} {:>17.1} MB",
                memory as f64 / 1e3
            );
        }
        println!();
    }
}

fn child(case: &str) {
    let (body, protocol) = if case.starts_with("XML") {
        (xml_body(), Protocol::XmlRpc)
    } else {
        (json_body(), Protocol::JsonRpc)
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let transport = Arc::new(Pieces(body.clone()));
    let client = Client::over(transport).protocol(protocol);
    let client = runtime.block_on(client.login()).unwrap();
    let run = || -> usize {
        match case {
            "all fields: plain serde_json" => plain::<VmRecord>(&body),
            "five fields: plain serde_json" => plain::<Overview>(&body),
            "XML, all fields: await" => {
                let records = async { client.vm().get_all_records().await };
                black_box(runtime.block_on(records).unwrap()).len()
            }
            "all fields: stream, none kept" | "XML, all fields: stream, none kept" => {
                runtime.block_on(count::<VmRecord>(&client))
            }
            "five fields: stream, none kept" => runtime.block_on(count::<Overview>(&client)),
            "all fields: stream, into a map" => runtime.block_on(keep::<VmRecord>(&client)),
            "five fields: stream, into a map" | "XML, five fields: stream, into a map" => {
                runtime.block_on(keep::<Overview>(&client))
            }
            other => panic!("no case is named {other}"),
        }
    };
    // Forgets the peak of making the body.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = peak();
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        let start = Instant::now();
        assert_eq!(run(), VMS);
        best = best.min(start.elapsed());
    }
    println!("{} {}", best.as_micros(), peak() - before);
}

async fn count<V: DeserializeOwned + 'static>(client: &Client) -> usize {
    let mut records = client.vm().get_all_records().select::<Map<V>>().stream();
    let mut count = 0;
    while let Some(record) = records.next().await {
        black_box(record.unwrap());
        count += 1;
    }
    count
}

async fn keep<V: DeserializeOwned + 'static>(client: &Client) -> usize {
    let records = client.vm().get_all_records().select::<Map<V>>().stream();
    black_box(records.into_map().await.unwrap()).len()
}

#[derive(Deserialize)]
struct Envelope<V> {
    result: Map<V>,
}

fn plain<V: DeserializeOwned>(body: &[u8]) -> usize
where
    Envelope<V>: DeserializeOwned,
{
    let answer: Envelope<V> = serde_json::from_slice(body).unwrap();
    black_box(answer.result).len()
}

/// Answers the login, and all else with one body.
#[derive(Debug)]
struct Pieces(Bytes);

#[async_trait]
impl Transport for Pieces {
    async fn send(&self, request: Request) -> Result<Bytes> {
        Ok(match (request.method.as_str(), request.protocol) {
            ("session.login_with_password", Protocol::XmlRpc) => {
                envelope("<value>s</value>").into()
            }
            ("session.login_with_password", _) => r#"{"result":"s"}"#.into(),
            _ => self.0.clone(),
        })
    }

    async fn stream(&self, _: Request) -> Result<BodyStream> {
        Ok(Box::pin(Rest(self.0.clone())))
    }

    fn host(&self) -> &str {
        "canned"
    }
}

struct Rest(Bytes);

impl Stream for Rest {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let length = self.0.len().min(PIECE);
        let piece = self.0.split_to(length);
        Poll::Ready((!piece.is_empty()).then_some(Ok(piece)))
    }
}
