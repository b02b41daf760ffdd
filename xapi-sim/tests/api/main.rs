//! What messages do, class by class.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

#[path = "../common/mod.rs"]
mod common;
mod groups;
mod ha;
mod hardware;
mod members;
mod migration;
mod networks;
mod operations;
mod repositories;
mod settings;
mod storage;
mod tasks;

use common::{Pool, text};
use xapi_sim::Value;

fn map(pairs: &[(&str, &str)]) -> Value {
    Value::map(pairs.iter().copied())
}

fn this(reference: &str) -> Vec<Value> {
    vec![reference.into()]
}

/// The struct that a constructor takes.
fn record(fields: &[(&str, Value)]) -> Vec<Value> {
    let fields = fields.iter();
    let fields = fields.map(|(name, value)| ((*name).to_owned(), value.clone()));
    vec![Value::Struct(fields.collect())]
}

async fn network(pool: &Pool, name: &str) -> String {
    let args = record(&[("name_label", name.into()), ("other_config", map(&[]))]);
    text(&pool.call("network.create", args).await)
}
