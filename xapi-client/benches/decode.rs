//! Decoding the records of 10,000 VMs: the client against plain serde_json and a bare XML parser.
//!
//! `cargo bench -p xapi-client --features meta --bench decode`. Every case runs in a process of its own, so that its memory
//! can be told; the ratios are of one run on one machine.

#![allow(clippy::print_stdout, reason = "a benchmark reports")]
#![allow(clippy::unwrap_used, reason = "a panic is how a benchmark fails")]

mod support;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use quick_xml::Reader;
use quick_xml::events::Event;
use serde::Deserialize;
use serde_json::{Map, Value};
use support::{Overview, VMS, envelope, json_body, measure, peak, xml_body};
use xapi_client::api::{Vm, VmRecord};
use xapi_client::{Client, Protocol, Ref, Request, Transport};

const RUNS: usize = 5;

type Records<R> = BTreeMap<Ref<Vm>, R>;

#[derive(Deserialize)]
struct Envelope<R> {
    result: R,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().position(|argument| argument == "--case") {
        Some(at) => child(&arguments[at + 1]),
        None => report(),
    }
}

fn report() {
    let json = json_body().len();
    let xml = xml_body().len();
    println!(
        "{VMS} VM records: {} MB of JSON, {} MB of XML; best of {RUNS} runs\n",
        json / 1_000_000,
        xml / 1_000_000
    );
    println!(
        "{:44} {:>8} {:>7} {:>20}",
        "", "time", "ratio", "memory over the body"
    );
    for (baseline, ours) in [
        ("all fields: plain serde_json", "all fields: client"),
        (
            "five fields: plain serde_json",
            "five fields: client, select",
        ),
        ("XML, no result: bare quick-xml", "XML, all fields: client"),
        (
            "XML, a tree: quick-xml pull parser",
            "XML, all fields: client",
        ),
        (
            "XML, no result: bare quick-xml",
            "XML, five fields: client, select",
        ),
    ] {
        let plain = measure(baseline);
        let client = measure(ours);
        for (name, (time, memory)) in [(baseline, plain), (ours, client)] {
            println!(
                "{name:44} {:>6.3} s {:>7.2} {:>17} MB",
                time.as_secs_f64(),
                time.as_secs_f64() / plain.0.as_secs_f64(),
                memory / 1_000
            );
        }
        println!();
    }
}

fn child(case: &str) {
    let is_xml = case.starts_with("XML");
    let body = if is_xml { xml_body() } else { json_body() };
    let protocol = if is_xml {
        Protocol::XmlRpc
    } else {
        Protocol::JsonRpc
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let client = Client::over(Arc::new(Canned(body.clone()))).protocol(protocol);
    let client = runtime.block_on(client.login()).unwrap();
    let run: Box<dyn Fn() -> usize> = match case {
        "all fields: plain serde_json" => Box::new(|| plain::<VmRecord>(&body)),
        "five fields: plain serde_json" => Box::new(|| plain::<Overview>(&body)),
        "all fields: client" | "XML, all fields: client" => Box::new(|| {
            let records = runtime.block_on(async { client.vm().get_all_records().await });
            black_box(records.unwrap()).len()
        }),
        "five fields: client, select" | "XML, five fields: client, select" => Box::new(|| {
            let records = runtime.block_on(async { client.vm().get_all_records().select().await });
            let records: Records<Overview> = records.unwrap();
            black_box(records).len()
        }),
        "XML, no result: bare quick-xml" => Box::new(|| pull(&body)),
        "XML, a tree: quick-xml pull parser" => Box::new(|| {
            let mut reader = Reader::from_str(std::str::from_utf8(&body).unwrap());
            let answer = black_box(tree(&mut reader));
            answer["Value"].as_object().unwrap().len()
        }),
        other => panic!("no case is named {other}"),
    };
    // Forgets the peak of making the body.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = peak();
    let mut memory = 0;
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        let start = Instant::now();
        let found = run();
        best = best.min(start.elapsed());
        assert_eq!(found, VMS);
        memory = memory.max(peak() - before);
    }
    println!("{} {memory}", best.as_micros());
}

fn plain<R: for<'de> Deserialize<'de>>(body: &[u8]) -> usize {
    let answer: Envelope<Records<R>> = serde_json::from_slice(body).unwrap();
    black_box(answer.result).len()
}

/// Reads every event, and counts the objects by their references.
fn pull(body: &[u8]) -> usize {
    let mut reader = Reader::from_str(std::str::from_utf8(body).unwrap());
    let mut objects = 0;
    let mut in_name = false;
    loop {
        match reader.read_event().unwrap() {
            Event::Start(start) => in_name = start.name().0 == "name",
            Event::Text(text) => {
                objects += usize::from(in_name && text.starts_with("OpaqueRef:"));
            }
            Event::Eof => return objects,
            _ => in_name = false,
        }
    }
}

/// Makes a tree of what is within a `<value>`, as a parser by hand would.
fn tree(reader: &mut Reader<&[u8]>) -> Value {
    let mut text = String::new();
    let mut inner = None;
    loop {
        match reader.read_event().unwrap() {
            Event::Start(tag) => match tag.name().0 {
                "struct" => inner = Some(members(reader)),
                "array" => inner = Some(items(reader)),
                _ => {}
            },
            Event::Text(more) => text.push_str(&more),
            Event::End(tag) if tag.name().0 == "value" => {
                return inner.unwrap_or(Value::String(text));
            }
            Event::Eof => panic!("the value does not end"),
            _ => {}
        }
    }
}

fn members(reader: &mut Reader<&[u8]>) -> Value {
    let mut members = Map::new();
    let mut name = String::new();
    loop {
        match reader.read_event().unwrap() {
            Event::Start(tag) if tag.name().0 == "value" => {
                members.insert(std::mem::take(&mut name), tree(reader));
            }
            Event::Text(text) => name.push_str(&text),
            Event::End(tag) if tag.name().0 == "struct" => return Value::Object(members),
            _ => {}
        }
    }
}

fn items(reader: &mut Reader<&[u8]>) -> Value {
    let mut items = Vec::new();
    loop {
        match reader.read_event().unwrap() {
            Event::Start(tag) if tag.name().0 == "value" => items.push(tree(reader)),
            Event::End(tag) if tag.name().0 == "array" => return Value::Array(items),
            _ => {}
        }
    }
}

/// Answers the login, and all else with one body.
#[derive(Debug)]
struct Canned(Bytes);

#[async_trait]
impl Transport for Canned {
    async fn send(&self, request: Request) -> xapi_client::Result<Bytes> {
        Ok(match (request.method.as_str(), request.protocol) {
            ("session.login_with_password", Protocol::XmlRpc) => {
                envelope("<value>s</value>").into()
            }
            ("session.login_with_password", _) => r#"{"result":"s"}"#.into(),
            _ => self.0.clone(),
        })
    }

    fn host(&self) -> &str {
        "canned"
    }
}
