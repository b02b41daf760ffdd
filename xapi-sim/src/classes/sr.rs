//! Storage repositories.

use super::{Table, done, nothing, plain};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::value::Value;
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("SR.scan", Now(nothing)),
    ("SR.update", Now(nothing)),
    ("SR.get_supported_types", Now(get_supported_types)),
    ("SR.set_name_label", Now(plain)),
    ("SR.set_name_description", Now(plain)),
    ("SR.set_shared", Now(plain)),
    ("SR.forget", Now(forget)),
    ("SR.get_live_hosts", Now(get_live_hosts)),
    ("PBD.plug", Now(|world, call| attach(world, call, true))),
    ("PBD.unplug", Now(|world, call| attach(world, call, false))),
];

/// What an SR allows, in the order in which a real server lists it.
pub(crate) const OPERATIONS: [&str; 12] = [
    "vdi_introduce",
    "unplug",
    "plug",
    "pbd_create",
    "update",
    "pbd_destroy",
    "vdi_resize",
    "vdi_clone",
    "scan",
    "vdi_snapshot",
    "vdi_create",
    "vdi_destroy",
];

/// SR types whose disks take all their space at once.
fn is_thick(kind: &str) -> bool {
    matches!(kind, "lvm" | "lvmoiscsi" | "lvmohba" | "lvmofcoe")
}

/// How a disk of this size is laid out: `(virtual size, space on the SR)`.
pub(crate) fn layout(world: &World, sr: &str, size: i64) -> Result<(i64, i64), Failure> {
    const MIB: i64 = 1 << 20;
    const MAX: i64 = 2_088_960 * MIB;
    if !(MIB..=MAX).contains(&size) {
        let text = "VDI Invalid size [opterr=VDI size must be between 1 MB and 2088960 MB]";
        return Err(Failure::new("SR_BACKEND_FAILURE_79", ["", text, ""]));
    }
    // Blocks of a VHD are 2 MiB.
    let rounded = (size + 2 * MIB - 1) / (2 * MIB) * (2 * MIB);
    let kind = world.db.text("SR", sr, "type")?;
    Ok((rounded, if is_thick(&kind) { rounded } else { MIB }))
}

/// Refuses what no longer fits.
pub(crate) fn assert_space(world: &World, sr: &str, needed: i64) -> Result<(), Failure> {
    let size = world.db.int("SR", sr, "physical_size")?;
    let used = world.db.int("SR", sr, "physical_utilisation")?;
    if world.full.contains(sr) || used.saturating_add(needed) > size {
        let text = "There is insufficient space";
        return Err(Failure::new("SR_BACKEND_FAILURE_44", ["", text, ""]));
    }
    Ok(())
}

/// Refuses an SR that no host has attached.
pub(crate) fn assert_attached(world: &World, sr: &str) -> Result<(), Failure> {
    let db = &world.db;
    let attached = db
        .list("SR", sr, "PBDs")?
        .iter()
        .any(|pbd| db.flag("PBD", pbd, "currently_attached").unwrap_or(false));
    if attached {
        Ok(())
    } else {
        Err(Failure::new("SR_HAS_NO_PBDS", [sr]))
    }
}

/// Counts a new disk of an SR. Adding all of them up would make large pools slow to build.
pub(crate) fn grow(world: &mut World, sr: &str, size: i64, space: i64) -> Result<(), Failure> {
    let db = &mut world.db;
    let allocated = db.int("SR", sr, "virtual_allocation")?.saturating_add(size);
    let used = db
        .int("SR", sr, "physical_utilisation")?
        .saturating_add(space);
    db.set("SR", sr, "virtual_allocation", allocated)?;
    db.set("SR", sr, "physical_utilisation", used)
}

/// Adds up what the disks of an SR take.
pub(crate) fn account(world: &mut World, sr: &str) -> Result<(), Failure> {
    let db = &mut world.db;
    let (mut allocated, mut used) = (0_i64, 0_i64);
    for vdi in db.list("SR", sr, "VDIs")? {
        allocated = allocated.saturating_add(db.int("VDI", &vdi, "virtual_size")?);
        used = used.saturating_add(db.int("VDI", &vdi, "physical_utilisation")?);
    }
    db.set("SR", sr, "virtual_allocation", allocated)?;
    db.set("SR", sr, "physical_utilisation", used)
}

fn get_supported_types(_: &mut World, _: &Call) -> Reply {
    Ok(Value::strings([
        "ext",
        "nfs",
        "lvm",
        "lvmoiscsi",
        "lvmohba",
        "iso",
        "udev",
        "smb",
    ]))
}

fn get_live_hosts(world: &mut World, call: &Call) -> Reply {
    let db = &world.db;
    let mut hosts = Vec::new();
    for pbd in db.list("SR", call.text(0), "PBDs")? {
        if db.flag("PBD", &pbd, "currently_attached")? {
            hosts.push(db.text("PBD", &pbd, "host")?);
        }
    }
    Ok(Value::strings(hosts))
}

/// Forgets an SR that is attached nowhere: its records go, its data are not touched.
fn forget(world: &mut World, call: &Call) -> Reply {
    let sr = call.text(0);
    let db = &mut world.db;
    let pbds = db.list("SR", sr, "PBDs")?;
    if let Some(pbd) = pbds
        .iter()
        .find(|pbd| db.flag("PBD", pbd, "currently_attached").unwrap_or(false))
    {
        return Err(Failure::new("SR_HAS_PBD", [sr, pbd]));
    }
    for (class, items) in [("PBD", pbds), ("VDI", db.list("SR", sr, "VDIs")?)] {
        for item in items {
            db.destroy(class, &item)?;
        }
    }
    db.destroy("SR", sr)?;
    done()
}

fn attach(world: &mut World, call: &Call, attached: bool) -> Reply {
    let pbd = call.text(0);
    let db = &mut world.db;
    let sr = db.text("PBD", pbd, "SR")?;
    if !attached {
        for vdi in db.list("SR", &sr, "VDIs")? {
            for vbd in db.list("VDI", &vdi, "VBDs")? {
                if db.flag("VBD", &vbd, "currently_attached")? {
                    return Err(Failure::new("VDI_IN_USE", [vdi, "unplug".to_owned()]));
                }
            }
        }
    }
    db.set("PBD", pbd, "currently_attached", attached)?;
    done()
}
