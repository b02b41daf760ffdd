//! Decoding the records of 10,000 VMs: the client against plain serde_json and a bare XML parser.
//!
//! `cargo bench -p xapi-client --features meta`. Every case runs in a process of its own, so that its memory
//! can be told; the ratios are of one run on one machine.

#![allow(clippy::print_stdout, reason = "a benchmark reports")]
#![allow(clippy::unwrap_used, reason = "a panic is how a benchmark fails")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use quick_xml::Reader;
use quick_xml::events::Event;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use xapi_client::api::{Vm, VmRecord};
use xapi_client::meta::{ENUMS, Type, class};
use xapi_client::{Client, Protocol, Ref, Request, Transport};

const VMS: usize = 10_000;
const RUNS: usize = 5;

/// What an overview shows.
#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "decoded, not looked at")]
struct Overview {
    uuid: String,
    name_label: String,
    power_state: String,
    is_a_template: bool,
    resident_on: Ref<xapi_client::api::Host>,
}

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

/// The time of a case, and the memory it needed at its peak, in kB.
fn measure(case: &str) -> (Duration, u64) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--case", case])
        .output()
        .unwrap();
    assert!(output.status.success(), "{case}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let (micros, memory) = text.trim().split_once(' ').unwrap();
    (
        Duration::from_micros(micros.parse().unwrap()),
        memory.parse().unwrap(),
    )
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

/// The most memory that this process had so far, in kB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
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

fn json_body() -> Bytes {
    let mut body = String::from(r#"{"jsonrpc":"2.0","result":{"#);
    for number in 0..VMS {
        let comma = if number > 0 { "," } else { "" };
        write!(body, "{comma}\"{}\":{}", reference(number), record(number)).unwrap();
    }
    body.push_str(r#"},"id":1}"#);
    body.into()
}

fn xml_body() -> Bytes {
    let mut body = String::from("<value><struct>");
    for number in 0..VMS {
        write!(body, "<member><name>{}</name>", reference(number)).unwrap();
        xml(&mut body, &record(number));
        body.push_str("</member>");
    }
    body.push_str("</struct></value>");
    envelope(&body).into()
}

fn envelope(value: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><methodResponse><params><param><value><struct><member><name>Status</name>\
         <value>Success</value></member><member><name>Value</name>{value}</member></struct></value></param>\
         </params></methodResponse>"
    )
}

/// As servers write it: integers and strings without a type.
fn xml(out: &mut String, value: &Value) {
    match value {
        Value::Bool(value) => {
            write!(
                out,
                "<value><boolean>{}</boolean></value>",
                u8::from(*value)
            )
            .unwrap();
        }
        Value::Number(number) if number.is_f64() => {
            write!(out, "<value><double>{number}</double></value>").unwrap();
        }
        Value::String(text) => write!(out, "<value>{text}</value>").unwrap(),
        Value::Array(items) => {
            out.push_str("<value><array><data>");
            items.iter().for_each(|item| xml(out, item));
            out.push_str("</data></array></value>");
        }
        Value::Object(members) => {
            out.push_str("<value><struct>");
            for (name, value) in members {
                write!(out, "<member><name>{name}</name>").unwrap();
                xml(out, value);
                out.push_str("</member>");
            }
            out.push_str("</struct></value>");
        }
        other => write!(out, "<value>{other}</value>").unwrap(),
    }
}

/// Every field that a record of class VM has, with values like those of a pool.
fn record(number: usize) -> Value {
    let fields = class("VM").unwrap().fields.iter();
    let fields = fields.filter(|field| !field.internal);
    fields
        .enumerate()
        .map(|(at, field)| (field.name.to_owned(), value(&field.ty, number * 131 + at)))
        .collect::<Map<_, _>>()
        .into()
}

fn value(ty: &Type, seed: usize) -> Value {
    match ty {
        Type::Int => json!((seed % 64) << 26),
        Type::Float => json!(1.5),
        Type::Bool => json!(seed & 1 == 0),
        Type::DateTime => json!("20250319T04:16:24Z"),
        Type::Enum(name) => {
            let values = ENUMS.iter().find(|item| item.name == *name).unwrap().values;
            json!(values[seed % values.len()])
        }
        Type::Ref(_) => json!(reference(seed)),
        Type::Set(inner) => (0..2).map(|item| value(inner, seed + item)).collect(),
        Type::Map(_, inner) => (0..3)
            .map(|item| (format!("key-{item}"), value(inner, seed + item)))
            .collect::<Map<_, _>>()
            .into(),
        _ => json!(format!("value {seed:07}")),
    }
}

fn reference(number: usize) -> String {
    format!("OpaqueRef:{number:08x}-7f3c-4c5e-9d1b-{number:012x}")
}
