//! Storage repositories.

use super::{Table, done, plain, vdi};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::value::Value;
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("SR.scan", Now(touch)),
    ("SR.update", Now(touch)),
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

/// What an SR that is attached nowhere allows besides, in the places where a real server lists it.
const ALL_OPERATIONS: [&str; 14] = [
    "vdi_introduce",
    "destroy",
    "unplug",
    "plug",
    "pbd_create",
    "update",
    "pbd_destroy",
    "vdi_resize",
    "forget",
    "vdi_clone",
    "scan",
    "vdi_snapshot",
    "vdi_create",
    "vdi_destroy",
];

/// Brings the allowed operations up to date with where the SR is attached.
pub(crate) fn refresh(world: &mut World, sr: &str) -> Result<(), Failure> {
    let db = &world.db;
    let before = db.list("SR", sr, "allowed_operations")?;
    let attached = assert_attached(world, sr).is_ok();
    let mut holds_disks = false;
    for vdi in db.list("SR", sr, "VDIs")? {
        holds_disks |= db.flag("VDI", &vdi, "managed")?;
    }
    let bare = db.list("SR", sr, "PBDs")?.is_empty();
    let allowed = ALL_OPERATIONS.iter().filter(|operation| match **operation {
        "forget" => !attached,
        "destroy" => !attached && !bare && !holds_disks,
        other => before.iter().any(|known| known == other),
    });
    let allowed = Value::strings(allowed.copied());
    let vdis = db.list("SR", sr, "VDIs")?;
    world.db.set("SR", sr, "allowed_operations", allowed)?;
    for vdi in vdis {
        vdi::refresh(world, &vdi);
    }
    Ok(())
}

/// Asks the storage for news, of which there are none.
fn touch(world: &mut World, call: &Call) -> Reply {
    world.db.require("SR", call.text(0))?;
    assert_attached(world, call.text(0))?;
    done()
}

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

/// The drivers of the hosts.
pub(crate) const DRIVERS: [&str; 8] = [
    "ext",
    "nfs",
    "lvm",
    "lvmoiscsi",
    "lvmohba",
    "iso",
    "udev",
    "smb",
];

fn get_supported_types(_: &mut World, _: &Call) -> Reply {
    Ok(Value::strings(DRIVERS))
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
    let attached = |pbd: &String| db.flag("PBD", pbd, "currently_attached").unwrap_or(false);
    if pbds.iter().any(attached) {
        return Err(Failure::new("SR_HAS_PBD", [sr]));
    }
    for (class, items) in [("PBD", pbds), ("VDI", db.list("SR", sr, "VDIs")?)] {
        for item in items {
            db.destroy(class, &item)?;
        }
    }
    db.destroy("SR", sr)?;
    done()
}

/// `PBD.plug(self)` and `PBD.unplug(self)`. Doing what is done already is no failure.
fn attach(world: &mut World, call: &Call, attached: bool) -> Reply {
    let pbd = call.text(0);
    let db = &mut world.db;
    let sr = db.text("PBD", pbd, "SR")?;
    if db.flag("PBD", pbd, "currently_attached")? == attached {
        return done();
    }
    if !attached {
        let used = disks_in_use(world, &sr, &world.db.text("PBD", pbd, "host")?)?;
        if !used.is_empty() {
            return Err(Failure::new("VDI_IN_USE", used));
        }
    }
    world.db.set("PBD", pbd, "currently_attached", attached)?;
    refresh(world, &sr)?;
    done()
}

/// The disks of an SR that VMs on a host have attached.
fn disks_in_use(world: &World, sr: &str, host: &str) -> Result<Vec<String>, Failure> {
    let db = &world.db;
    let mut used = Vec::new();
    for vdi in db.list("SR", sr, "VDIs")? {
        for vbd in db.list("VDI", &vdi, "VBDs")? {
            let vm = db.text("VBD", &vbd, "VM")?;
            let here = db.text("VM", &vm, "resident_on")? == host;
            if here && db.flag("VBD", &vbd, "currently_attached")? {
                used.push(vdi.clone());
                break;
            }
        }
    }
    Ok(used)
}
