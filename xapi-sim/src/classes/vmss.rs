//! Schedules by which a pool takes snapshots of VMs. Nothing takes any here: the plugin that does is
//! one of those that are not installed.

use super::{Table, done, plain};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::interp;
use crate::value::{EPOCH, Value};
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("VMSS.create", Now(create)),
    ("VMSS.destroy", Now(destroy)),
    ("VMSS.set_frequency", Now(set_frequency)),
    ("VMSS.set_schedule", Now(set_schedule)),
    ("VMSS.add_to_schedule", Now(add_to_schedule)),
    ("VMSS.remove_from_schedule", Now(plain)),
    ("VMSS.set_retained_snapshots", Now(set_retained_snapshots)),
    ("VMSS.set_last_run_time", Now(plain)),
    ("VMSS.set_type", Now(plain)),
];

const DAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];

/// The keys of a schedule, each with what it is where nobody says.
const KEYS: [(&str, &str); 3] = [("hour", "0"), ("min", "0"), ("days", "Monday")];

/// The keys that a frequency has.
fn keys_of(frequency: &str) -> &'static [(&'static str, &'static str)] {
    match frequency {
        "hourly" => &KEYS[1..2],
        "daily" => &KEYS[..2],
        _ => &KEYS,
    }
}

/// What a host makes of a key and its value, or its refusal.
fn checked(keys: &[(&str, &str)], key: &str, value: &str) -> Result<String, Failure> {
    let refused = |value: &str| Failure::invalid_value(&format!("schedule:{key}"), value);
    if !keys.iter().any(|(known, _)| *known == key) {
        return Err(refused(value));
    }
    match key {
        "hour" => match value.parse::<u8>() {
            Ok(0..=23) => Ok(value.to_owned()),
            _ => Err(refused(value)),
        },
        "min" if matches!(value, "0" | "15" | "30" | "45") => Ok(value.to_owned()),
        "min" => Err(refused(value)),
        _ => {
            let mut named = Vec::new();
            for day in value.split(',') {
                let known = DAYS.iter().find(|known| known.eq_ignore_ascii_case(day));
                match known {
                    None => return Err(refused(day)),
                    Some(known) if named.contains(known) => return Err(refused(value)),
                    Some(known) => named.push(*known),
                }
            }
            Ok(named.join(","))
        }
    }
}

/// A schedule in which every key is one of these and has a value that fits.
fn checked_all(keys: &[(&str, &str)], schedule: &Value) -> Result<Value, Failure> {
    let members = schedule.members().iter();
    let pairs = members.map(|(key, value)| {
        let value = checked(keys, key, value.as_str().unwrap_or_default())?;
        Ok((key.clone(), Value::String(value)))
    });
    Ok(Value::Struct(pairs.collect::<Result<_, Failure>>()?))
}

/// A schedule as a frequency needs it: keys of others go, those that lack come.
fn completed(frequency: &str, schedule: &Value) -> Result<Value, Failure> {
    let keys = keys_of(frequency);
    let pairs = keys.iter().map(|(key, default)| {
        let given = schedule.get(key).and_then(Value::as_str);
        (*key, given.unwrap_or(default).to_owned())
    });
    checked_all(keys, &Value::map(pairs))
}

/// Values over those that are there.
fn merged(new: &Value, old: &Value) -> Value {
    let kept = old
        .members()
        .iter()
        .filter(|(key, _)| new.get(key).is_none());
    Value::Struct(new.members().iter().chain(kept).cloned().collect())
}

fn assert_retained(count: i64) -> Result<(), Failure> {
    if (1..=10).contains(&count) {
        return Ok(());
    }
    Err(Failure::invalid_value(
        "retained_snapshots",
        &count.to_string(),
    ))
}

fn create(world: &mut World, call: &Call) -> Reply {
    let frequency = call.field_text("frequency");
    let schedule = checked_all(keys_of(&frequency), &call.field("schedule"))?;
    let schedule = completed(&frequency, &schedule)?;
    assert_retained(
        call.field("retained_snapshots")
            .as_int()
            .unwrap_or_default(),
    )?;
    let mut values = call.fields.clone();
    values.retain(|(name, _)| !matches!(*name, "schedule" | "last_run_time"));
    values.push(("schedule", schedule));
    values.push(("last_run_time", Value::DateTime(EPOCH.to_owned())));
    world.create("VMSS", values).map(Value::String)
}

fn destroy(world: &mut World, call: &Call) -> Reply {
    if !world.db.list("VMSS", call.text(0), "VMs")?.is_empty() {
        return Err(Failure::code("VMSS_HAS_VM"));
    }
    world.db.destroy("VMSS", call.text(0))?;
    done()
}

fn set_frequency(world: &mut World, call: &Call) -> Reply {
    let (vmss, frequency) = (call.text(0), call.text(1));
    let schedule = completed(frequency, world.db.get("VMSS", vmss, "schedule")?)?;
    world.db.set("VMSS", vmss, "frequency", frequency)?;
    world.db.set("VMSS", vmss, "schedule", schedule)?;
    done()
}

/// Keys that are not named stay, as on a host.
fn set_schedule(world: &mut World, call: &Call) -> Reply {
    let old = world.db.get("VMSS", call.text(0), "schedule")?;
    let schedule = checked_all(&KEYS, &merged(&call.arg(1), old))?;
    world.db.set("VMSS", call.text(0), "schedule", schedule)?;
    done()
}

fn add_to_schedule(world: &mut World, call: &Call) -> Reply {
    let (key, value) = (call.text(1), call.text(2));
    let value = checked(&KEYS, key, value)?;
    let Some(field) = call.class.field("schedule") else {
        return done();
    };
    let pair = [Value::from(key), Value::String(value)];
    interp::add(&mut world.db, call.class, field, call.text(0), &pair)
}

fn set_retained_snapshots(world: &mut World, call: &Call) -> Reply {
    assert_retained(call.int(1))?;
    plain(world, call)
}
