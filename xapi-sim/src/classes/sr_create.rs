//! SRs and PBDs that come and go. What would lie below an SR is not modelled: a driver that is told
//! all that it has to know finds its storage.

use super::operation::Mark;
use super::{Table, done, sm, sr};
use crate::dispatch::Handler::{Held, Now};
use crate::failure::{Failure, Reply};
use crate::value::{NULL_REF, Value};
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("SR.create", Now(create)),
    ("SR.introduce", Now(introduce)),
    (
        "SR.destroy",
        Held(
            |_, call| Ok(vec![Mark::new("SR", call.text(0), "destroy")]),
            destroy,
        ),
    ),
    (
        "PBD.create",
        Held(
            |_, call| Ok(vec![Mark::new("SR", call.field_text("SR"), "pbd_create")]),
            create_pbd,
        ),
    ),
    (
        "PBD.destroy",
        Held(
            |world, call| {
                let sr = world.db.text("PBD", call.text(0), "SR")?;
                Ok(vec![Mark::new("SR", sr, "pbd_destroy")])
            },
            destroy_pbd,
        ),
    ),
];

/// The space on an SR whose creator does not say.
pub(super) const DEFAULT_SIZE: i64 = 1 << 40;

/// What a new SR is called and of what kind it is.
struct Description {
    uuid: Option<String>,
    label: Value,
    text: Value,
    kind: String,
    content: Value,
    shared: bool,
    config: Value,
    size: i64,
}

impl Description {
    /// Reads name, description, type, content type, sharing and configuration from a place on.
    fn read(call: &Call, at: usize, config: usize) -> Description {
        Description {
            uuid: None,
            label: call.arg(at),
            text: call.arg(at + 1),
            // Drivers are known by their names in lower case.
            kind: call.text(at + 2).to_lowercase(),
            content: call.arg(at + 3),
            shared: call.flag(at + 4),
            config: call.arg(config),
            size: 0,
        }
    }

    fn add(self, world: &mut World) -> Result<String, Failure> {
        sm::driver(&self.kind)?;
        let uuid = match self.uuid {
            Some(uuid) if world.db.by_uuid("SR", &uuid).is_some() => {
                return Err(Failure::new("SR_UUID_EXISTS", [uuid]));
            }
            Some(uuid) => uuid,
            None => world.seed.uuid(),
        };
        let values = vec![
            ("uuid", Value::String(uuid)),
            ("name_label", self.label),
            ("name_description", self.text),
            ("type", Value::String(self.kind)),
            ("content_type", self.content),
            ("shared", Value::Bool(self.shared)),
            ("sm_config", self.config),
            ("physical_size", Value::Int(self.size)),
            ("physical_utilisation", Value::Int(self.size.min(0))),
        ];
        let sr = world.create("SR", values)?;
        sr::refresh(world, &sr)?;
        Ok(sr)
    }
}

/// `SR.create(host, device_config, physical_size, name, description, type, content_type, shared,
/// sm_config)`: it is attached to the host, or to all of them if it is shared.
fn create(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    let mut description = Description::read(call, 3, 8);
    let driver = sm::driver(&description.kind)?;
    assert_no_coordinator(&call.arg(1))?;
    driver.verify(&call.arg(1))?;
    description.size = match call.int(2) {
        size if size > 0 => size,
        _ => DEFAULT_SIZE,
    };
    let shared = description.shared;
    let sr = description.add(world)?;
    let hosts = if shared {
        world.db.references("host")
    } else {
        vec![call.text(0).to_owned()]
    };
    for host in hosts {
        let values = vec![
            ("host", Value::String(host)),
            ("SR", Value::from(sr.as_str())),
            ("device_config", call.arg(1)),
            ("currently_attached", Value::Bool(true)),
        ];
        world.create("PBD", values)?;
    }
    sr::refresh(world, &sr)?;
    Ok(Value::String(sr))
}

/// `SR.introduce(uuid, name, description, type, content_type, shared, sm_config)`: a record without
/// PBDs, for an SR that is there.
fn introduce(world: &mut World, call: &Call) -> Reply {
    let mut description = Description::read(call, 1, 6);
    description.uuid = Some(call.text(0).to_owned()).filter(|uuid| !uuid.is_empty());
    // Nobody has looked at it yet.
    description.size = -1;
    description.add(world).map(Value::String)
}

/// Destroys an SR that is attached nowhere and holds no disks.
fn destroy(world: &mut World, call: &Call) -> Reply {
    let sr = call.text(0);
    sr::check(world, sr, "destroy")?;
    let spared = world.db.key("SR", sr, "other_config", "indestructible")?;
    if spared.as_deref() == Some("true") {
        return Err(Failure::new("SR_INDESTRUCTIBLE", [sr]));
    }
    for host in world.db.references("host") {
        if world.db.text("host", &host, "local_cache_sr")? == sr {
            return Err(Failure::new("SR_IS_CACHE_SR", [host]));
        }
    }
    let pbds = world.db.list("SR", sr, "PBDs")?;
    let vdis = world.db.list("SR", sr, "VDIs")?;
    for pbd in pbds {
        world.db.destroy("PBD", &pbd)?;
    }
    for vdi in vdis {
        world.db.destroy("VDI", &vdi)?;
    }
    let pool = world.pool();
    for field in ["default_SR", "suspend_image_SR", "crash_dump_SR"] {
        if world.db.text("pool", &pool, field)? == sr {
            world.db.set("pool", &pool, field, NULL_REF)?;
        }
    }
    world.db.destroy("SR", sr)?;
    done()
}

/// Refuses the key by which hosts tell a driver who of them leads.
pub(super) fn assert_no_coordinator(config: &Value) -> Result<(), Failure> {
    const KEY: &str = "SRmaster";
    match config.get(KEY).and_then(Value::as_str) {
        None => Ok(()),
        Some(value) => {
            let params = [KEY, value, "This key is for internal use only"];
            Err(Failure::new("VALUE_NOT_SUPPORTED", params))
        }
    }
}

/// A PBD is made detached, one for each pair of host and SR.
fn create_pbd(world: &mut World, call: &Call) -> Reply {
    let (host, sr) = (call.field_text("host"), call.field_text("SR"));
    for pbd in world.db.list("SR", &sr, "PBDs")? {
        if world.db.text("PBD", &pbd, "host")? == host {
            return Err(Failure::new("PBD_EXISTS", [sr, host, pbd]));
        }
    }
    world.db.require("host", &host)?;
    assert_no_coordinator(&call.field("device_config"))?;
    let mut values = call.fields.clone();
    values.push(("currently_attached", Value::Bool(false)));
    let pbd = world.create("PBD", values)?;
    sr::refresh(world, &sr)?;
    Ok(Value::String(pbd))
}

fn destroy_pbd(world: &mut World, call: &Call) -> Reply {
    let pbd = call.text(0);
    if world.db.flag("PBD", pbd, "currently_attached")? {
        return Err(Failure::not_allowed("PBD is currently attached"));
    }
    let sr = world.db.text("PBD", pbd, "SR")?;
    world.db.destroy("PBD", pbd)?;
    if world.db.exists("SR", &sr) {
        sr::refresh(world, &sr)?;
    }
    done()
}
