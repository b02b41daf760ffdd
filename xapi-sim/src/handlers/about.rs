//! What the simulator tells of itself, which no real server does.

use std::sync::Arc;

use super::table::HANDLERS;
use crate::http::{Head, Response, plain};
use crate::json;
use crate::value::Value;
use crate::world::Shared;

pub(super) const PATH: &str = "/about";

pub(super) fn respond(shared: &Arc<Shared>, head: &Head) -> Response {
    let implemented = shared.registry.messages(true);
    let missing = shared.registry.messages(false);
    let known = i64::try_from(implemented.len() + missing.len()).unwrap_or(i64::MAX);
    let handlers = HANDLERS.iter().map(|handler| {
        let name = format!("{} {}", handler.method, handler.path);
        (name, Value::Bool(handler.is_simulated))
    });
    let document = Value::Struct(vec![
        (
            "product".to_owned(),
            Value::from(concat!("xapi-sim ", env!("CARGO_PKG_VERSION"))),
        ),
        ("messages_known".to_owned(), Value::Int(known)),
        (
            "messages_implemented".to_owned(),
            Value::strings(implemented),
        ),
        ("messages_missing".to_owned(), Value::strings(missing)),
        (
            "http_handlers".to_owned(),
            Value::Struct(handlers.collect()),
        ),
    ]);
    let mut body = String::new();
    json::write(&mut body, &document);
    plain(head, "application/json", body.into_bytes())
}
