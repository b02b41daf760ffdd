//! Changed block tracking of disks, and what becomes of the data of tracked snapshots.

use std::sync::Arc;

use super::vdi::{check, release};
use super::{Table, done, sr, vdi};
use crate::dispatch::Handler::{Later, Now};
use crate::dispatch::Pending;
use crate::failure::{Failure, Reply};
use crate::world::{Call, Shared, World};

pub(crate) const TABLE: Table = &[
    (
        "VDI.enable_cbt",
        Now(|world, call| track(world, call, true)),
    ),
    (
        "VDI.disable_cbt",
        Now(|world, call| track(world, call, false)),
    ),
    ("VDI.data_destroy", Later(data_destroy)),
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
        let data = shared.with(|world| {
            let vdi = call.text(0);
            check(world, vdi, "data_destroy")?;
            sr::assert_attached(world, &world.db.text("VDI", vdi, "SR")?)?;
            if !world.db.list("VDI", vdi, "VBDs")?.is_empty() {
                return Err(Failure::new("VDI_IN_USE", [vdi, "data_destroy"]));
            }
            world.db.set("VDI", vdi, "type", "cbt_metadata")?;
            vdi::refresh(world, vdi);
            Ok(world.disks.remove(vdi))
        })?;
        release(data).await;
        done()
    })
}
