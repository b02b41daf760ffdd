//! What is served beside calls: files, consoles, statistics. None of that is simulated yet; the
//! paths are known, and who may not use them is told so as by a real server.

use std::sync::Arc;

use crate::http::{Head, Response, exception, forbidden, plain, unauthorised};
use crate::json;
use crate::value::Value;
use crate::world::Shared;

/// Method, path and the name that the server gives to the handler.
const HANDLERS: &[(&str, &str, &str)] = &[
    ("GET", "/export", "get_export"),
    ("GET", "/export_metadata", "get_export_metadata"),
    ("GET", "/export_raw_vdi", "get_export_raw_vdi"),
    ("GET", "/rrd_updates", "get_rrd_updates"),
    ("GET", "/vm_rrd", "get_vm_rrd"),
    ("GET", "/host_rrd", "get_host_rrd"),
    ("GET", "/sr_rrd", "get_sr_rrd"),
    ("GET", "/console", "get_console"),
    ("GET", "/host_backup", "get_host_backup"),
    ("GET", "/system-status", "get_system_status"),
    ("GET", "/blob", "get_blob"),
    ("PUT", "/import", "put_import"),
    ("PUT", "/import_metadata", "put_import_metadata"),
    ("PUT", "/import_raw_vdi", "put_import_raw_vdi"),
    ("PUT", "/host_restore", "put_host_restore"),
    ("PUT", "/blob", "put_blob"),
    ("CONNECT", "/console", "connect_console"),
];

/// What the simulator itself tells, which no real server has.
const ABOUT: &str = "/about";

/// Answers a request that is no call.
pub(crate) fn respond(shared: &Arc<Shared>, head: &Head) -> Response {
    if head.method == "GET" && head.path == ABOUT {
        return about(shared, head);
    }
    let found = HANDLERS
        .iter()
        .filter(|(method, path, _)| *method == head.method && head.path.starts_with(path))
        .max_by_key(|(_, path, _)| path.len());
    let Some((_, _, name)) = found else {
        return forbidden();
    };
    if is_authorised(shared, head) {
        exception(&format!(
            "Api_errors.Server_error(\"NOT_IMPLEMENTED\", [ \"{name}\" ])"
        ))
    } else {
        unauthorised(name)
    }
}

/// Whether the query or a cookie names a session that is alive.
fn is_authorised(shared: &Arc<Shared>, head: &Head) -> bool {
    let cookies = head.header("cookie").unwrap_or_default();
    let pairs = head
        .query
        .split('&')
        .chain(cookies.split(';'))
        .filter_map(|pair| {
            let (key, value) = pair.trim().split_once('=')?;
            (key == "session_id").then(|| value.replace("%3A", ":").replace("%3a", ":"))
        });
    let sessions: Vec<String> = pairs.collect();
    shared.with(|world| {
        sessions
            .iter()
            .any(|session| world.db.exists("session", session))
    })
}

fn about(shared: &Arc<Shared>, head: &Head) -> Response {
    let implemented = shared.registry.messages(true);
    let missing = shared.registry.messages(false);
    let known = i64::try_from(implemented.len() + missing.len()).unwrap_or(i64::MAX);
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
    ]);
    let mut body = String::new();
    json::write(&mut body, &document);
    plain(head, "application/json", body.into_bytes())
}
