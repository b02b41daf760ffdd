//! Messages (alerts): kept beside the database, so counts of live objects never show them.

use std::cmp::Ordering;

use super::{Table, done};
use crate::clock;
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::value::{Value, parse_int};
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("message.create", Now(create)),
    ("message.destroy", Now(destroy)),
    ("message.get_all", Now(get_all)),
    ("message.get_all_records", Now(get_all_records)),
    // The expression is not even read.
    ("message.get_all_records_where", Now(get_all_records)),
    ("message.destroy_many", Now(destroy_many)),
    ("message.destroy_all", Now(destroy_all)),
    ("message.get_record", Now(get_record)),
    ("message.get_by_uuid", Now(get_by_uuid)),
    ("message.get", Now(get)),
    ("message.get_since", Now(get_since)),
];

/// `message.create(name, priority, class, object uuid, body)`.
fn create(world: &mut World, call: &Call) -> Reply {
    let (class, object) = (call.text(2), call.text(3));
    if world.db.by_uuid(table_of(class), object).is_none() {
        return Err(Failure::uuid_invalid(class, object));
    }
    let body = call.arg(4);
    add(world, call.arg(0), call.int(1), class, object, body).map(Value::String)
}

/// The table of a class of messages.
fn table_of(class: &str) -> &str {
    match class {
        "Host" => "host",
        "Pool" => "pool",
        other => other,
    }
}

/// How many messages are kept; older ones go.
const MAX_MESSAGES: usize = 10_000;

fn add(
    world: &mut World,
    name: Value,
    priority: i64,
    class: &str,
    object: &str,
    body: Value,
) -> Result<String, Failure> {
    let reference = world.seed.reference();
    let record = Value::Struct(vec![
        ("uuid".to_owned(), world.seed.uuid_value()),
        ("name".to_owned(), name),
        ("priority".to_owned(), Value::Int(priority)),
        ("cls".to_owned(), Value::from(class)),
        ("obj_uuid".to_owned(), Value::from(object)),
        ("timestamp".to_owned(), Value::DateTime(world.clock.now())),
        ("body".to_owned(), body),
    ]);
    world
        .db
        .journal
        .add("add", "message", &reference, Some(record.clone()));
    let messages = &mut world.messages;
    messages.generation += 1;
    let generation = messages.generation;
    messages
        .live
        .insert(reference.clone(), (generation, record));
    if messages.live.len() > MAX_MESSAGES {
        let oldest = messages
            .live
            .iter()
            .min_by_key(|(_, (created, _))| *created);
        if let Some(oldest) = oldest.map(|(reference, _)| reference.clone()) {
            forget(world, &oldest);
        }
    }
    Ok(reference)
}

fn forget(world: &mut World, reference: &str) -> bool {
    let messages = &mut world.messages;
    let known = messages.live.remove(reference).is_some();
    if known {
        messages.generation += 1;
        messages
            .deleted
            .push((messages.generation, reference.to_owned()));
        world.db.journal.add("del", "message", reference, None);
    }
    known
}

/// Leaves a message of the server's own about a VM: its name and what happened to it.
pub(crate) fn tell(world: &mut World, name: &str, vm: &str, what: &str) -> Result<(), Failure> {
    let label = world.db.text("VM", vm, "name_label")?;
    let uuid = world.db.text("VM", vm, "uuid")?;
    let body = Value::String(format!("VM '{label}' {what}"));
    add(world, Value::from(name), 5, "VM", &uuid, body).map(drop)
}

fn destroy(world: &mut World, call: &Call) -> Reply {
    let reference = call.text(0);
    if !forget(world, reference) {
        return Err(Failure::handle_invalid("message", reference));
    }
    done()
}

/// Those that are there go, before the first that is not is complained of.
fn destroy_many(world: &mut World, call: &Call) -> Reply {
    for reference in call.arg(0).items().iter().filter_map(Value::as_str) {
        if !forget(world, reference) {
            return Err(Failure::handle_invalid("message", reference));
        }
    }
    done()
}

/// `message.destroy_all(filters)`: those that all filters fit.
fn destroy_all(world: &mut World, call: &Call) -> Reply {
    let filters = call.arg(0);
    let mut wanted: Vec<String> = world.messages.live.keys().cloned().collect();
    for (name, value) in filters.members() {
        let given = value.as_str().unwrap_or_default();
        let invalid = || Failure::new("INVALID_VALUE", [name.as_str(), given]);
        let fits: Box<dyn Fn(&Value) -> bool> = match name.as_str() {
            "before" | "after" => {
                let time = clock::normalise(given).ok_or_else(invalid)?;
                let wanted = if name == "before" {
                    Ordering::Less
                } else {
                    Ordering::Greater
                };
                Box::new(move |record| text(record, "timestamp").cmp(&time) == wanted)
            }
            "priority" => {
                let priority = Value::Int(parse_int(given).ok_or_else(invalid)?);
                Box::new(move |record| record.get("priority") == Some(&priority))
            }
            _ => return Err(invalid()),
        };
        wanted.retain(|reference| find(world, reference).is_ok_and(&fits));
    }
    for reference in wanted {
        forget(world, &reference);
    }
    done()
}

fn find<'w>(world: &'w World, reference: &str) -> Result<&'w Value, Failure> {
    let found = world.messages.live.get(reference);
    found
        .map(|(_, record)| record)
        .ok_or_else(|| Failure::handle_invalid("message", reference))
}

fn select(world: &World, wanted: impl Fn(&Value) -> bool) -> Value {
    let live = world.messages.live.iter();
    Value::Struct(
        live.filter(|(_, (_, record))| wanted(record))
            .map(|(reference, (_, record))| (reference.clone(), record.clone()))
            .collect(),
    )
}

fn text<'r>(record: &'r Value, field: &str) -> &'r str {
    record
        .get(field)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn get_all(world: &mut World, _: &Call) -> Reply {
    Ok(Value::strings(world.messages.live.keys().cloned()))
}

fn get_all_records(world: &mut World, _: &Call) -> Reply {
    Ok(select(world, |_| true))
}

fn get_record(world: &mut World, call: &Call) -> Reply {
    find(world, call.text(0)).cloned()
}

fn get_by_uuid(world: &mut World, call: &Call) -> Reply {
    let uuid = call.text(0);
    let mut live = world.messages.live.iter();
    let found = live.find(|(_, (_, record))| text(record, "uuid") == uuid);
    found
        .map(|(reference, _)| Value::from(reference.as_str()))
        .ok_or_else(|| Failure::uuid_invalid("message", uuid))
}

/// `message.get(class, object uuid, since)`. An object that is not there is not even named.
fn get(world: &mut World, call: &Call) -> Reply {
    let (class, object, since) = (call.text(0), call.text(1), call.text(2));
    if world.db.by_uuid(table_of(class), object).is_none() {
        return Err(Failure::code("UUID_INVALID"));
    }
    Ok(select(world, |record| {
        text(record, "cls") == class
            && text(record, "obj_uuid") == object
            && text(record, "timestamp") > since
    }))
}

fn get_since(world: &mut World, call: &Call) -> Reply {
    let since = call.text(0);
    Ok(select(world, |record| text(record, "timestamp") >= since))
}
