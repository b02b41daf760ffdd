//! Disks that are there without a record, and records that come and go without the disk.

use std::sync::Arc;

use md5::{Digest as _, Md5};

use super::operation::{Mark, of_disk};
use super::{Table, done, sr, vdi};
use crate::backing::{self, Disk};
use crate::dispatch::Handler::{Held, Later, Now};
use crate::dispatch::Pending;
use crate::failure::{Failure, Reply};
use crate::value::Value;
use crate::world::{Call, Shared, World};

pub(crate) const TABLE: Table = &[
    (
        "VDI.introduce",
        Held(
            |_, call| Ok(vec![Mark::new("SR", call.text(3), "vdi_introduce")]),
            |world, call| {
                sr::check(world, call.text(3), "vdi_introduce")?;
                sr::assert_attached(world, call.text(3))?;
                introduce(world, call)
            },
        ),
    ),
    ("VDI.pool_introduce", Now(introduce)),
    (
        "VDI.db_introduce",
        Now(|world, call| {
            sr::assert_driver(world, call, call.text(3))?;
            introduce(world, call)
        }),
    ),
    (
        "VDI.forget",
        Held(
            |world, call| of_disk(world, call.text(0), "forget", None),
            |world, call| {
                vdi::check(world, call.text(0), "forget")?;
                forget(world, call.text(0))?;
                done()
            },
        ),
    ),
    (
        "VDI.db_forget",
        Now(|world, call| {
            let sr = world.db.text("VDI", call.text(0), "SR")?;
            sr::assert_driver(world, call, &sr)?;
            forget(world, call.text(0))?;
            done()
        }),
    ),
    (
        "VDI.force_unlock",
        Now(|_, _| Err(Failure::code("MESSAGE_DEPRECATED"))),
    ),
    ("VDI.generate_config", Now(generate_config)),
    ("VDI.checksum", Later(checksum)),
    ("VDI.open_database", Now(open_database)),
    (
        "VDI.read_database_pool_uuid",
        Now(|world, call| {
            world.db.require("VDI", call.text(0))?;
            Ok(Value::void())
        }),
    ),
    (
        "VDI.revert",
        Now(|world, call| {
            world.db.require("VDI", call.text(0))?;
            Err(Failure::new("UNIMPLEMENTED_IN_SM_BACKEND", ["VDI.revert"]))
        }),
    ),
];

/// A disk that lies on an SR and has no record.
#[derive(Debug)]
pub(crate) struct Forgotten {
    /// The uuid of its SR, which may have lost its own record.
    sr: String,
    record: Value,
    content: Option<Disk>,
}

/// `VDI.introduce(uuid, name, description, SR, type, sharable, read_only, other_config, location,
/// ...)` and its sisters.
fn introduce(world: &mut World, call: &Call) -> Reply {
    let (uuid, sr, location) = (call.text(0), call.text(3), call.text(8));
    world.db.require("SR", sr)?;
    for vdi in world.db.list("SR", sr, "VDIs")? {
        if world.db.text("VDI", &vdi, "location")? == location {
            return Err(Failure::new("LOCATION_NOT_UNIQUE", [sr, location]));
        }
    }
    if !is_uuid(uuid) {
        return Err(Failure::uuid_invalid("VDI", uuid));
    }
    if world.db.by_uuid("VDI", uuid).is_some() {
        let params = ["VDI", "uuid", uuid];
        return Err(Failure::new("DB_UNIQUENESS_CONSTRAINT_VIOLATION", params));
    }
    let params = call.message.params.iter().zip(&call.args);
    let values = params
        .map(|(param, value)| (param.name, value.clone()))
        .collect();
    let vdi = world.create("VDI", values)?;
    let home = world.db.text("SR", sr, "uuid")?;
    let known = |lost: &Forgotten| {
        let there = lost.record.get("location").and_then(Value::as_str);
        lost.sr == home && there == Some(location)
    };
    if let Some(at) = world.forgotten.iter().position(known)
        && let Some(content) = world.forgotten.remove(at).content
    {
        world.disks.insert(vdi.clone(), content);
    }
    vdi::refresh(world, &vdi);
    sr::account(world, sr)?;
    Ok(Value::String(vdi))
}

fn is_uuid(text: &str) -> bool {
    let lengths = text.split('-').map(str::len);
    lengths.eq([8, 4, 4, 4, 12]) && text.bytes().all(|c| c == b'-' || c.is_ascii_hexdigit())
}

/// Takes the record of a disk away. What is on it stays on the SR, where a scan finds it.
pub(crate) fn forget(world: &mut World, vdi: &str) -> Result<(), Failure> {
    let record = world.db.record("VDI", vdi)?;
    let sr = world.db.text("VDI", vdi, "SR")?;
    let home = world.db.text("SR", &sr, "uuid").unwrap_or_default();
    let content = vdi::remove(world, vdi)?;
    if world.db.exists("SR", &sr) {
        // It takes its space all the same.
        let used = record.get("physical_utilisation").and_then(Value::as_int);
        sr::grow(world, &sr, 0, used.unwrap_or_default())?;
    }
    world.forgotten.push(Forgotten {
        sr: home,
        record,
        content,
    });
    Ok(())
}

/// Gives records to the disks of an SR that have none.
pub(crate) fn find_again(world: &mut World, sr: &str) -> Result<(), Failure> {
    const KEPT: [&str; 13] = [
        "uuid",
        "location",
        "name_label",
        "name_description",
        "type",
        "virtual_size",
        "physical_utilisation",
        "read_only",
        "managed",
        "is_a_snapshot",
        "snapshot_of",
        "snapshot_time",
        "cbt_enabled",
    ];
    let home = world.db.text("SR", sr, "uuid")?;
    let lost = std::mem::take(&mut world.forgotten);
    let (here, elsewhere) = lost.into_iter().partition(|lost| lost.sr == home);
    world.forgotten = elsewhere;
    for Forgotten {
        record, content, ..
    } in here
    {
        let members = record.members().iter();
        let kept = members.filter(|(name, _)| KEPT.contains(&name.as_str()));
        let mut values: Vec<(&str, Value)> = kept
            .map(|(name, value)| (name.as_str(), value.clone()))
            .collect();
        values.push(("SR", Value::from(sr)));
        let vdi = world.create("VDI", values)?;
        if let Some(content) = content {
            world.disks.insert(vdi.clone(), content);
        }
        vdi::refresh(world, &vdi);
    }
    sr::account(world, sr)
}

/// What a host would need to attach a disk while there is no pool.
fn generate_config(world: &mut World, call: &Call) -> Reply {
    let (host, vdi) = (call.text(0), call.text(1));
    world.db.require("host", host)?;
    vdi::check(world, vdi, "generate_config")?;
    let sr = world.db.text("VDI", vdi, "SR")?;
    sr::assert_attached(world, &sr)?;
    if !super::sm::can(&world.db, &sr, "VDI_GENERATE_CONFIG") {
        return Err(Failure::new("SR_OPERATION_NOT_SUPPORTED", [sr]));
    }
    let (sr_uuid, vdi_uuid) = (
        world.db.text("SR", &sr, "uuid")?,
        world.db.text("VDI", vdi, "uuid")?,
    );
    Ok(Value::String(format!(
        "<?xml version='1.0'?>\n<methodCall>\n<methodName>vdi_attach_from_config</methodName>\n\
         <params>\n<param>\n<value><struct>\n<member>\n<name>command</name>\n\
         <value><string>vdi_attach_from_config</string></value>\n</member>\n<member>\n\
         <name>sr_uuid</name>\n<value><string>{sr_uuid}</string></value>\n</member>\n<member>\n\
         <name>vdi_uuid</name>\n<value><string>{vdi_uuid}</string></value>\n</member>\n\
         </struct></value>\n</param>\n</params>\n</methodCall>\n"
    )))
}

/// `VDI.checksum(self)`: MD5 over all bytes of a disk.
fn checksum(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        let vdi = call.text(0);
        let size = shared.with(|world| {
            sr::assert_attached(world, &world.db.text("VDI", vdi, "SR")?)?;
            world.db.int("VDI", vdi, "virtual_size")
        })?;
        let disk = backing::to_read(&shared, vdi).await?;
        let size = u64::try_from(size).unwrap_or_default();
        let work = tokio::task::spawn_blocking(move || {
            let mut digest = Md5::new();
            let mut buffer = vec![0; 1 << 20];
            let mut at = 0;
            while at < size {
                let length = usize::try_from(size - at).unwrap_or(usize::MAX);
                let piece = &mut buffer[..length.min(1 << 20)];
                match &disk {
                    Some(disk) => disk.read(at, piece)?,
                    None => piece.fill(0),
                }
                digest.update(&*piece);
                at += piece.len() as u64;
            }
            let digest: [u8; 16] = digest.finalize().into();
            let digits = digest.iter().map(|byte| format!("{byte:02x}"));
            Ok::<String, std::io::Error>(digits.collect())
        });
        let read = work
            .await
            .unwrap_or_else(|gone| Err(std::io::Error::other(gone)));
        read.map(Value::String)
            .map_err(|_| Failure::new("VDI_IO_ERROR", ["Device I/O errors"]))
    })
}

/// Only a disk with a database on it can be opened as one, and no disk here has one.
fn open_database(world: &mut World, call: &Call) -> Reply {
    let kind = world.db.text("VDI", call.text(0), "type")?;
    if kind != "metadata" {
        return Err(Failure::new("VDI_INCOMPATIBLE_TYPE", [call.text(0), &kind]));
    }
    let text = "There is no database on the VDI.";
    Err(Failure::new("COULD_NOT_IMPORT_DATABASE", [text]))
}
