//! What the benches of decoding share: answers with the records of 10,000 VMs, and cases in processes of their
//! own.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use xapi_client::Ref;
use xapi_client::meta::{ENUMS, Type, class};

pub(crate) const VMS: usize = 10_000;

/// What an overview shows.
#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "decoded, not looked at")]
pub(crate) struct Overview {
    uuid: String,
    name_label: String,
    power_state: String,
    is_a_template: bool,
    resident_on: Ref<xapi_client::api::Host>,
}

/// The time of a case, and the memory it needed at its peak, in kB.
pub(crate) fn measure(case: &str) -> (Duration, u64) {
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

/// The most memory that this process had so far, in kB.
pub(crate) fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

pub(crate) fn json_body() -> Bytes {
    let mut body = String::from(r#"{"jsonrpc":"2.0","result":{"#);
    for number in 0..VMS {
        let comma = if number > 0 { "," } else { "" };
        write!(body, "{comma}\"{}\":{}", reference(number), record(number)).unwrap();
    }
    body.push_str(r#"},"id":1}"#);
    body.into()
}

pub(crate) fn xml_body() -> Bytes {
    let mut body = String::from("<value><struct>");
    for number in 0..VMS {
        write!(body, "<member><name>{}</name>", reference(number)).unwrap();
        xml(&mut body, &record(number));
        body.push_str("</member>");
    }
    body.push_str("</struct></value>");
    envelope(&body).into()
}

pub(crate) fn envelope(value: &str) -> String {
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

pub(crate) fn reference(number: usize) -> String {
    format!("OpaqueRef:{number:08x}-7f3c-4c5e-9d1b-{number:012x}")
}
