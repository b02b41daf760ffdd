//! Looking for storage, and what High Availability and disaster recovery ask of an SR.

use super::sm::{self, Driver};
use super::{Table, done, sr};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::value::Value;
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("SR.probe", Now(probe)),
    ("SR.probe_ext", Now(probe_ext)),
    (
        "SR.make",
        Now(|_, _| Err(Failure::code("MESSAGE_DEPRECATED"))),
    ),
    (
        "SR.assert_can_host_ha_statefile",
        Now(|world, call| {
            assert_can_host_statefile(world, call.text(0))?;
            done()
        }),
    ),
    (
        "SR.assert_supports_database_replication",
        Now(|world, call| {
            assert_can_replicate(world, call.text(0))?;
            done()
        }),
    ),
    ("SR.enable_database_replication", Now(enable_replication)),
    ("SR.disable_database_replication", Now(disable_replication)),
    (
        "LVHD.enable_thin_provisioning",
        Now(|world, call| {
            world.db.require("host", call.text(0))?;
            world.db.require("SR", call.text(1))?;
            Err(Failure::new("SR_OPERATION_NOT_SUPPORTED", [call.text(1)]))
        }),
    ),
];

/// Reads `(host, device_config, type, sm_config)` and gives the driver.
fn asked(world: &World, call: &Call) -> Result<&'static Driver, Failure> {
    world.db.require("host", call.text(0))?;
    let driver = sm::driver(&call.text(2).to_lowercase())?;
    if !driver.has("SR_PROBE") {
        let text = "The SR backend does not support probing";
        return Err(Failure::new("SR_BACKEND_FAILURE_1", ["", text, ""]));
    }
    driver.verify(&call.arg(1))?;
    Ok(driver)
}

/// The SRs of the pool that a device configuration leads to.
fn found(world: &World, call: &Call, driver: &Driver) -> Vec<String> {
    let db = &world.db;
    let given = call.arg(1);
    let leads_to = |sr: &String| {
        let kind = db.text("SR", sr, "type").unwrap_or_default();
        let pbds = db.list("SR", sr, "PBDs").unwrap_or_default();
        kind == driver.kind
            && pbds.iter().any(|pbd| {
                driver.required.iter().all(|key| {
                    let known = db.key("PBD", pbd, "device_config", key).ok().flatten();
                    known.as_deref() == given.get(key).and_then(Value::as_str)
                })
            })
    };
    db.references("SR").into_iter().filter(leads_to).collect()
}

/// The SRs as the older probe tells them: a document.
fn probe(world: &mut World, call: &Call) -> Reply {
    let driver = asked(world, call)?;
    let mut text = "<?xml version=\"1.0\" ?>\n<SRlist>\n".to_owned();
    for sr in found(world, call, driver) {
        let uuid = world.db.text("SR", &sr, "uuid")?;
        text.push_str(&format!(
            "\t<SR>\n\t\t<UUID>\n\t\t\t{uuid}\n\t\t</UUID>\n\t</SR>\n"
        ));
    }
    text.push_str("</SRlist>\n");
    Ok(Value::String(text))
}

fn probe_ext(world: &mut World, call: &Call) -> Reply {
    let driver = asked(world, call)?;
    let mut results = Vec::new();
    for sr in found(world, call, driver) {
        let (size, used) = (
            world.db.int("SR", &sr, "physical_size")?,
            world.db.int("SR", &sr, "physical_utilisation")?,
        );
        let stat = [
            ("uuid", Value::String(world.db.text("SR", &sr, "uuid")?)),
            (
                "name_label",
                Value::String(world.db.text("SR", &sr, "name_label")?),
            ),
            (
                "name_description",
                Value::String(world.db.text("SR", &sr, "name_description")?),
            ),
            ("free_space", Value::Int(size.saturating_sub(used).max(0))),
            ("total_space", Value::Int(size)),
            ("clustered", Value::Bool(false)),
            ("health", Value::from("healthy")),
        ];
        results.push(result(call.arg(1), Some(stat.to_vec())));
    }
    if results.is_empty() {
        // There is room for a new one.
        results.push(result(call.arg(1), None));
    }
    Ok(Value::Array(results))
}

fn result(configuration: Value, sr: Option<Vec<(&str, Value)>>) -> Value {
    let mut fields = vec![
        ("configuration".to_owned(), configuration),
        ("complete".to_owned(), Value::Bool(true)),
    ];
    if let Some(sr) = sr {
        let sr = sr.into_iter().map(|(name, value)| (name.to_owned(), value));
        fields.push(("sr".to_owned(), Value::Struct(sr.collect())));
    }
    fields.push(("extra_info".to_owned(), Value::Struct(Vec::new())));
    Value::Struct(fields)
}

/// Refuses an SR that not every host has attached, or that gives no raw device away.
pub(crate) fn assert_can_host_statefile(world: &World, sr: &str) -> Result<(), Failure> {
    let db = &world.db;
    let pbds = db.list("SR", sr, "PBDs")?;
    for host in db.references("host") {
        let attached = pbds.iter().any(|pbd| {
            db.text("PBD", pbd, "host").is_ok_and(|at| at == host)
                && db.flag("PBD", pbd, "currently_attached").unwrap_or(false)
        });
        if !attached {
            return Err(Failure::new("SR_HAS_NO_PBDS", [sr]));
        }
    }
    if !sm::can(db, sr, "VDI_GENERATE_CONFIG") && !sm::can(db, sr, "VDI_ATTACH_OFFLINE") {
        return Err(Failure::new("SR_OPERATION_NOT_SUPPORTED", [sr]));
    }
    let (_, space) = sr::layout(world, sr, STATEFILE)?;
    sr::assert_space(world, sr, space)
}

/// The size of the file that hosts beat their hearts into: 65 pages, rounded up to what SRs make.
pub(crate) const STATEFILE: i64 = 1 << 20;

/// Refuses an SR that cannot keep the database for another pool to recover.
fn assert_can_replicate(world: &World, sr: &str) -> Result<(), Failure> {
    sr::assert_attached(world, sr)?;
    if world.db.flag("SR", sr, "shared")? && sm::can(&world.db, sr, "SR_METADATA") {
        return Ok(());
    }
    Err(Failure::new("SR_OPERATION_NOT_SUPPORTED", [sr]))
}

fn enable_replication(world: &mut World, call: &Call) -> Reply {
    world.db.require("SR", call.text(0))?;
    assert_can_replicate(world, call.text(0))?;
    done()
}

/// There is none that could end.
fn disable_replication(world: &mut World, call: &Call) -> Reply {
    world.db.require("SR", call.text(0))?;
    done()
}
