//! `GET /services`: what daemons of a host can do, of which a simulated one has the storage drivers.

use super::request::Request;
use super::{MISSING_1_0, Trouble};
use crate::classes::sm;
use crate::http::Connection;
use crate::json;
use crate::value::Value;
use crate::world::World;

/// Answers as JSON, in an older version of HTTP.
pub(super) async fn list(request: &Request, connection: &mut Connection) -> Result<(), Trouble> {
    let path: Vec<&str> = request.head.path.split('/').collect();
    let found = request.shared.with(|world| match path[..] {
        ["", "services"] => Some(multiplexer()),
        ["", "services", "SM"] => {
            let drivers = sm::DRIVERS
                .iter()
                .map(|driver| describe(world, driver.kind));
            Some(Value::Array(drivers.flatten().collect()))
        }
        ["", "services", "SM", driver] => describe(world, driver),
        _ => None,
    });
    let Some(found) = found else {
        return missing(connection).await;
    };
    let mut text = String::new();
    json::write(&mut text, &found);
    let head = [
        "HTTP/1.0 200 OK",
        "Connection: close",
        "Cache-Control: no-cache, no-store",
    ];
    connection.write_head(&head).await?;
    connection.write(text.as_bytes()).await?;
    Ok(())
}

/// Nobody is behind this path.
pub(super) async fn missing(connection: &mut Connection) -> Result<(), Trouble> {
    connection.write_head(&MISSING_1_0).await?;
    Ok(())
}

/// What stands before the drivers and passes calls on to them.
fn multiplexer() -> Value {
    let texts = [
        ("driver", "mux"),
        ("name", "storage multiplexor"),
        ("description", "forwards calls to other plugins"),
        ("vendor", "XCP"),
        ("copyright", "see the source code"),
        ("version", "2.0"),
        ("required_api_version", "2.0"),
        ("smapi_version", "SMAPIv2"),
    ];
    service(
        texts,
        Value::strings(["services/SM"]),
        Value::Struct(Vec::new()),
    )
}

/// A driver, from its record; `None` for one that the pool lacks.
fn describe(world: &World, kind: &str) -> Option<Value> {
    let db = &world.db;
    let mut all = db.references("SM").into_iter();
    let record = all.find(|found| {
        db.text("SM", found, "type")
            .is_ok_and(|known| known == kind)
    })?;
    let text = |field| db.text("SM", &record, field).unwrap_or_default();
    let (name, description) = (text("name_label"), text("name_description"));
    let (vendor, copyright) = (text("vendor"), text("copyright"));
    let (version, required) = (text("version"), text("required_api_version"));
    let texts = [
        ("driver", kind),
        ("name", name.as_str()),
        ("description", description.as_str()),
        ("vendor", vendor.as_str()),
        ("copyright", copyright.as_str()),
        ("version", version.as_str()),
        ("required_api_version", required.as_str()),
        ("smapi_version", "SMAPIv1"),
    ];
    let features = db.get("SM", &record, "capabilities").ok()?.clone();
    let configuration = db.get("SM", &record, "configuration").ok()?.clone();
    Some(service(texts, features, configuration))
}

fn service(texts: [(&str, &str); 8], features: Value, configuration: Value) -> Value {
    let texts = texts.into_iter();
    let mut members: Vec<(String, Value)> = texts
        .map(|(name, text)| (name.to_owned(), Value::from(text)))
        .collect();
    members.push(("features".to_owned(), features));
    members.push(("configuration".to_owned(), configuration));
    members.push((
        "required_cluster_stack".to_owned(),
        Value::Array(Vec::new()),
    ));
    Value::Struct(members)
}
