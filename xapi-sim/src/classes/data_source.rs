//! What is measured of VMs, hosts and SRs, as calls tell it. The numbers are those of the HTTP
//! handlers for statistics.

use super::{Table, done, power_of};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::handlers::measured::{self, Measured, Source};
use crate::value::Value;
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("VM.get_data_sources", Now(list)),
    ("VM.record_data_source", Now(record)),
    ("VM.query_data_source", Now(query)),
    ("VM.forget_data_source_archives", Now(forget)),
    ("host.get_data_sources", Now(list)),
    ("host.record_data_source", Now(record)),
    ("host.query_data_source", Now(query)),
    ("host.forget_data_source_archives", Now(forget)),
    ("SR.get_data_sources", Now(list)),
    ("SR.record_data_source", Now(record)),
    ("SR.query_data_source", Now(query)),
    ("SR.forget_data_source_archives", Now(forget)),
];

/// What is measured of the object that a call names: nothing of a VM without a domain.
fn measured(world: &World, call: &Call) -> Result<Measured, Failure> {
    let (class, object) = (call.class.name, call.text(0));
    world.db.require(class, object)?;
    let mut measured = measured::measured(world, class, object)?;
    if class == "VM" && !power_of(world, object)?.is_live() {
        measured.sources.clear();
    }
    Ok(measured)
}

fn find<'m>(measured: &'m Measured, name: &str) -> Result<&'m Source, Failure> {
    let mut sources = measured.sources.iter();
    sources
        .find(|source| source.name == name)
        .ok_or_else(|| Failure::internal_failure(&format!("Unknown data source: {name}")))
}

fn list(world: &mut World, call: &Call) -> Reply {
    let measured = measured(world, call)?;
    let now = now(world);
    let records = measured.sources.iter().map(|source| {
        let key = (call.text(0).to_owned(), source.name.clone());
        let fields = [
            ("name_label", Value::from(source.name.as_str())),
            ("name_description", Value::from(source.name.as_str())),
            ("enabled", Value::Bool(!world.unrecorded.contains(&key))),
            ("standard", Value::Bool(true)),
            ("units", Value::from(units(&source.name))),
            ("min", Value::Float(0.0)),
            ("max", Value::Float(f64::INFINITY)),
            ("value", Value::Float(measured.at(source, now))),
        ];
        let fields = fields.map(|(name, value)| (name.to_owned(), value));
        Value::Struct(fields.to_vec())
    });
    Ok(Value::Array(records.collect()))
}

fn units(source: &str) -> &'static str {
    let has = |part: &str| source.contains(part);
    if has("_kib") || source == "memory_internal_free" {
        "KiB"
    } else if source.starts_with("cpu") || source == "loadavg" {
        "(fraction)"
    } else if has("_rx") || has("_tx") || has("_read") || has("_write") {
        "B/s"
    } else {
        "B"
    }
}

fn now(world: &World) -> i64 {
    i64::try_from(world.clock.seconds()).unwrap_or_default()
}

fn query(world: &mut World, call: &Call) -> Reply {
    if call.class.name == "VM" {
        let power = power_of(world, call.text(0))?;
        if !power.is_live() {
            // The two states in a form of its own.
            let params = [call.text(0), "running;paused", &power.lowercase()];
            return Err(Failure::new("VM_BAD_POWER_STATE", params));
        }
    }
    let measured = measured(world, call)?;
    let source = find(&measured, call.text(1))?;
    Ok(Value::Float(measured.at(source, now(world))))
}

fn record(world: &mut World, call: &Call) -> Reply {
    let measured = measured(world, call)?;
    find(&measured, call.text(1))?;
    let key = (call.text(0).to_owned(), call.text(1).to_owned());
    world.unrecorded.remove(&key);
    done()
}

/// What has no archives is not recorded any more, until it is asked for.
fn forget(world: &mut World, call: &Call) -> Reply {
    world.db.require(call.class.name, call.text(0))?;
    let key = (call.text(0).to_owned(), call.text(1).to_owned());
    world.unrecorded.insert(key);
    done()
}
