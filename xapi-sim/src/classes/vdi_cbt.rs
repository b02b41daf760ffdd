//! Changed block tracking of disks, and what becomes of the data of tracked snapshots.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher as _};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::operation::{Operation, of_disk};
use super::vdi::{check, release};
use super::{Table, done, sm, sr};
use crate::backing;
use crate::dispatch::Handler::{Held, Later};
use crate::dispatch::Pending;
use crate::failure::{Failure, Reply};
use crate::storage::RawDisk;
use crate::value::{NULL_REF, Value};
use crate::world::{Call, Shared, World};

pub(crate) const TABLE: Table = &[
    (
        "VDI.enable_cbt",
        Held(
            |world, call| of_disk(world, call.text(0), "enable_cbt", Some("vdi_enable_cbt")),
            |world, call| track(world, call, true),
        ),
    ),
    (
        "VDI.disable_cbt",
        Held(
            |world, call| of_disk(world, call.text(0), "disable_cbt", Some("vdi_disable_cbt")),
            |world, call| track(world, call, false),
        ),
    ),
    ("VDI.data_destroy", Later(data_destroy)),
    ("VDI.list_changed_blocks", Later(list_changed_blocks)),
];

fn track(world: &mut World, call: &Call, tracked: bool) -> Reply {
    let vdi = call.text(0);
    check(world, vdi, call.message.name)?;
    sr::assert_attached(world, &world.db.text("VDI", vdi, "SR")?)?;
    world.db.set("VDI", vdi, "cbt_enabled", tracked)?;
    done()
}

/// Drops what is on a tracked snapshot and keeps the list of its blocks.
fn data_destroy(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        let vdi = call.text(0);
        shared.with(|world| check_data_destroy(world, vdi))?;
        let blocks = blocks_of(&shared, vdi).await?;
        let begin = |world: &mut World| {
            check_data_destroy(world, vdi)?;
            let marks = of_disk(world, vdi, "data_destroy", Some("vdi_data_destroy"))?;
            Operation::begin_all(&shared, world, &call.task, marks)
        };
        let operation = shared.patiently(begin).await?;
        operation.work().await?;
        let data = operation.finish(|world| {
            world.db.set("VDI", vdi, "type", "cbt_metadata")?;
            world.blocks.insert(vdi.to_owned(), blocks);
            Ok(world.disks.remove(vdi))
        })?;
        release(data).await;
        done()
    })
}

fn check_data_destroy(world: &World, vdi: &str) -> Result<(), Failure> {
    check(world, vdi, "data_destroy")?;
    sr::assert_attached(world, &world.db.text("VDI", vdi, "SR")?)?;
    if !world.db.list("VDI", vdi, "VBDs")?.is_empty() {
        return Err(Failure::new("VDI_IN_USE", [vdi, "data_destroy"]));
    }
    Ok(())
}

/// Changes are tracked in blocks of so many bytes.
const BLOCK: u64 = 64 * 1024;

/// Blocks of a disk that are not zeros, by their numbers, with what tells them apart.
pub(crate) type Blocks = BTreeMap<u64, u64>;

/// The blocks of a disk, also of one whose data are gone.
async fn blocks_of(shared: &Arc<Shared>, vdi: &str) -> Result<Blocks, Failure> {
    if let Some(blocks) = shared.with(|world| world.blocks.get(vdi).cloned()) {
        return Ok(blocks);
    }
    let Some(disk) = backing::to_read(shared, vdi).await? else {
        return Ok(Blocks::new());
    };
    let work = tokio::task::spawn_blocking(move || read_blocks(&disk));
    let read = work
        .await
        .unwrap_or_else(|gone| Err(std::io::Error::other(gone)));
    read.map_err(|_| Failure::new("VDI_IO_ERROR", ["Device I/O errors"]))
}

fn read_blocks(disk: &RawDisk) -> std::io::Result<Blocks> {
    const LENGTH: usize = BLOCK as usize;
    let mut blocks = Blocks::new();
    let mut buffer = vec![0; LENGTH];
    let mut at = 0;
    while let Some(data) = disk.data_after(at)? {
        for block in data.start / BLOCK..data.end.div_ceil(BLOCK) {
            disk.read(block * BLOCK, &mut buffer)?;
            if buffer.iter().any(|byte| *byte != 0) {
                let mut hasher = DefaultHasher::new();
                hasher.write(&buffer);
                blocks.insert(block, hasher.finish());
            }
        }
        at = data.end;
    }
    Ok(blocks)
}

/// `VDI.list_changed_blocks(vdi_from, vdi_to)`: a bit for each block, the first block in the
/// highest bit of the first byte, in base64.
fn list_changed_blocks(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        let (from, to) = (call.text(0), call.text(1));
        let size = shared.with(|world| {
            world.db.require("VDI", from)?;
            check(world, to, "list_changed_blocks")?;
            let sr = world.db.text("VDI", to, "SR")?;
            if !sm::can(&world.db, &sr, "VDI_CONFIG_CBT") {
                return Err(Failure::new("SR_OPERATION_NOT_SUPPORTED", [sr]));
            }
            sr::assert_attached(world, &sr)?;
            assert_related(world, from, to)?;
            world.db.int("VDI", to, "virtual_size")
        })?;
        let (old, new) = (
            blocks_of(&shared, from).await?,
            blocks_of(&shared, to).await?,
        );
        let count = u64::try_from(size).unwrap_or_default().div_ceil(BLOCK);
        let mut bits = vec![0_u8; usize::try_from(count.div_ceil(8)).unwrap_or_default()];
        for block in old.keys().chain(new.keys()) {
            let place = usize::try_from(block / 8).unwrap_or(usize::MAX);
            if old.get(block) != new.get(block)
                && let Some(byte) = bits.get_mut(place)
            {
                *byte |= 0x80 >> (block % 8);
            }
        }
        Ok(Value::String(STANDARD.encode(bits)))
    })
}

/// Refuses two disks of which neither is a version of the other, or that nobody has tracked.
fn assert_related(world: &World, from: &str, to: &str) -> Result<(), Failure> {
    let trunk = |vdi: &str| {
        let of = world.db.text("VDI", vdi, "snapshot_of")?;
        Ok::<String, Failure>(if of == NULL_REF { vdi.to_owned() } else { of })
    };
    let related = trunk(from)? == trunk(to)?;
    let tracked =
        world.db.flag("VDI", from, "cbt_enabled")? && world.db.flag("VDI", to, "cbt_enabled")?;
    if related && tracked {
        return Ok(());
    }
    let reason = if related {
        "Changed block tracking is disabled"
    } else {
        "Source and target VDI are unrelated"
    };
    let text = format!("Failed to calculate changed blocks for given VDIs. [opterr={reason}]");
    Err(Failure::new("SR_BACKEND_FAILURE_460", ["", &text, ""]))
}
