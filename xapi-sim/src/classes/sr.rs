//! Storage repositories.

use super::operation::{self, Mark};
use super::{Table, done, plain, sm, sr_create, vdi, vdi_introduce};
use crate::dispatch::Handler::{Held, Now};
use crate::failure::{Failure, Reply};
use crate::value::Value;
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("SR.scan", Held(|_, call| this_sr(call, "scan"), touch)),
    ("SR.update", Held(|_, call| this_sr(call, "update"), touch)),
    ("SR.get_supported_types", Now(get_supported_types)),
    ("SR.set_name_label", Now(rename)),
    ("SR.set_name_description", Now(rename)),
    ("SR.set_shared", Now(set_shared)),
    ("SR.forget", Held(|_, call| this_sr(call, "forget"), forget)),
    ("SR.get_live_hosts", Now(get_live_hosts)),
    (
        "PBD.plug",
        Held(
            |world, call| of_pbd(world, call, "plug"),
            |world, call| attach(world, call, true),
        ),
    ),
    (
        "PBD.unplug",
        Held(
            |world, call| of_pbd(world, call, "unplug"),
            |world, call| attach(world, call, false),
        ),
    ),
];

/// The operations in the order in which a real server lists them, each with what the driver has to
/// be able to do for it.
const OPERATIONS: [(&str, &str); 20] = [
    ("vdi_enable_cbt", "VDI_CONFIG_CBT"),
    ("vdi_list_changed_blocks", "VDI_CONFIG_CBT"),
    ("vdi_introduce", "VDI_INTRODUCE"),
    ("destroy", ""),
    ("unplug", ""),
    ("plug", ""),
    ("pbd_create", ""),
    ("vdi_disable_cbt", "VDI_CONFIG_CBT"),
    ("update", "SR_UPDATE"),
    ("pbd_destroy", ""),
    ("vdi_resize", "VDI_RESIZE"),
    ("forget", ""),
    // The server copies where the driver cannot clone.
    ("vdi_clone", ""),
    ("vdi_data_destroy", "VDI_CONFIG_CBT"),
    ("scan", ""),
    ("vdi_snapshot", "VDI_SNAPSHOT"),
    ("vdi_mirror", "VDI_MIRROR"),
    ("vdi_create", "VDI_CREATE"),
    ("vdi_destroy", "VDI_DELETE"),
    ("vdi_set_on_boot", "VDI_RESET_ON_BOOT"),
];

/// Refuses an operation with the first failure that a real server would find.
pub(crate) fn check(world: &World, sr: &str, operation: &str) -> Result<(), Failure> {
    let db = &world.db;
    db.require("SR", sr)?;
    let needed = OPERATIONS.iter().find(|(known, _)| *known == operation);
    if let Some((_, feature)) = needed
        && !feature.is_empty()
        && !sm::can(db, sr, feature)
    {
        return Err(Failure::new("SR_OPERATION_NOT_SUPPORTED", [sr]));
    }
    if matches!(operation, "destroy" | "forget") && assert_attached(world, sr).is_ok() {
        return Err(Failure::new("SR_HAS_PBD", [sr]));
    }
    if operation == "destroy" {
        if db.list("SR", sr, "PBDs")?.is_empty() {
            return Err(Failure::new("SR_HAS_NO_PBDS", [sr]));
        }
        for vdi in db.list("SR", sr, "VDIs")? {
            if db.flag("VDI", &vdi, "managed")? {
                return Err(Failure::code("SR_NOT_EMPTY"));
            }
        }
    }
    // One at a time, but hosts may attach while others do.
    let current = db.get("SR", sr, "current_operations")?;
    let along = |other: &Value| operation == "plug" && other.as_str() == Some("plug");
    if current.members().iter().all(|(_, other)| along(other)) {
        return Ok(());
    }
    operation::assert_idle(world, "SR", sr)
}

/// Brings the allowed operations up to date, and those of the disks.
pub(crate) fn refresh(world: &mut World, sr: &str) -> Result<(), Failure> {
    refresh_own(world, sr)?;
    for vdi in world.db.list("SR", sr, "VDIs")? {
        vdi::refresh(world, &vdi);
    }
    Ok(())
}

/// Brings the allowed operations up to date, but not those of the disks.
pub(crate) fn refresh_own(world: &mut World, sr: &str) -> Result<(), Failure> {
    let operations = OPERATIONS.iter().map(|(operation, _)| *operation);
    let allowed: Vec<&str> = operations
        .filter(|operation| check(world, sr, operation).is_ok())
        .collect();
    let allowed = Value::strings(allowed);
    world.db.set("SR", sr, "allowed_operations", allowed)
}

fn this_sr(call: &Call, operation: &'static str) -> Result<Vec<Mark>, Failure> {
    Ok(vec![Mark::new("SR", call.text(0), operation)])
}

fn of_pbd(world: &World, call: &Call, operation: &'static str) -> Result<Vec<Mark>, Failure> {
    let sr = world.db.text("PBD", call.text(0), "SR")?;
    Ok(vec![Mark::new("SR", sr, operation)])
}

/// Asks the storage for news.
fn touch(world: &mut World, call: &Call) -> Reply {
    check(world, call.text(0), call.message.name)?;
    assert_attached(world, call.text(0))?;
    if call.message.name == "scan" {
        vdi_introduce::find_again(world, call.text(0))?;
    }
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
    if !(0..=MAX).contains(&size) {
        let text = "VDI Invalid size [opterr=VDI size must be between 1 MB and 2088960 MB]";
        return Err(Failure::new("SR_BACKEND_FAILURE_79", ["", text, ""]));
    }
    // Blocks of a VHD are 2 MiB, and it has one at least.
    let rounded = (size.max(1) + 2 * MIB - 1) / (2 * MIB) * (2 * MIB);
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

/// Adds up what the disks of an SR take; in one that is full, others than disks have the rest.
pub(crate) fn account(world: &mut World, sr: &str) -> Result<(), Failure> {
    let db = &mut world.db;
    let (mut allocated, mut used) = (0_i64, 0_i64);
    for vdi in db.list("SR", sr, "VDIs")? {
        allocated = allocated.saturating_add(db.int("VDI", &vdi, "virtual_size")?);
        used = used.saturating_add(db.int("VDI", &vdi, "physical_utilisation")?);
    }
    if world.full.contains(sr) {
        used = used.max(db.int("SR", sr, "physical_size")?);
    }
    db.set("SR", sr, "virtual_allocation", allocated)?;
    db.set("SR", sr, "physical_utilisation", used)
}

fn get_supported_types(_: &mut World, _: &Call) -> Reply {
    Ok(Value::strings(sm::DRIVERS.iter().map(|driver| driver.kind)))
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

/// The storage keeps the name of an SR, too.
fn rename(world: &mut World, call: &Call) -> Reply {
    world.db.require("SR", call.text(0))?;
    assert_attached(world, call.text(0))?;
    plain(world, call)
}

/// Writes down what only the driver of an SR may say.
pub(crate) fn of_driver(world: &mut World, call: &Call) -> Reply {
    let sr = match call.class.name {
        "SR" => call.text(0).to_owned(),
        class => world.db.text(class, call.text(0), "SR")?,
    };
    world.db.require("SR", &sr)?;
    assert_driver(world, call, &sr)?;
    plain(world, call)
}

/// Refuses a session that is not one of the driver of an SR.
pub(crate) fn assert_driver(world: &World, call: &Call, sr: &str) -> Result<(), Failure> {
    let session = call.session.as_str();
    let drives = world
        .db
        .key("session", session, "other_config", "_sm_session")?;
    if drives.as_deref() == Some(sr) {
        return Ok(());
    }
    Err(Failure::new("PERMISSION_DENIED", [""]))
}

/// An SR that several hosts are to have stays shared.
fn set_shared(world: &mut World, call: &Call) -> Reply {
    let pbds = world.db.list("SR", call.text(0), "PBDs")?;
    if !call.flag(1) && pbds.len() > 1 {
        return Err(Failure::new("SR_HAS_MULTIPLE_PBDS", pbds));
    }
    plain(world, call)
}

/// Refuses a second host for an SR that is not shared.
fn assert_sharable(world: &World, sr: &str) -> Result<(), Failure> {
    let db = &world.db;
    if db.flag("SR", sr, "shared")? {
        return Ok(());
    }
    for pbd in db.list("SR", sr, "PBDs")? {
        if db.flag("PBD", &pbd, "currently_attached")? {
            let host = db.text("PBD", &pbd, "host")?;
            return Err(Failure::new("SR_NOT_SHARABLE", [sr, &host]));
        }
    }
    Ok(())
}

/// Forgets an SR that is attached nowhere: its records go, its data are not touched.
fn forget(world: &mut World, call: &Call) -> Reply {
    let sr = call.text(0);
    check(world, sr, "forget")?;
    for vdi in world.db.list("SR", sr, "VDIs")? {
        vdi_introduce::forget(world, &vdi)?;
    }
    for pbd in world.db.list("SR", sr, "PBDs")? {
        world.db.destroy("PBD", &pbd)?;
    }
    world.db.destroy("SR", sr)?;
    done()
}

/// `PBD.plug(self)` and `PBD.unplug(self)`. Doing what is done already is no failure.
fn attach(world: &mut World, call: &Call, attached: bool) -> Reply {
    let pbd = call.text(0);
    let db = &world.db;
    let sr = db.text("PBD", pbd, "SR")?;
    if db.flag("PBD", pbd, "currently_attached")? == attached {
        return done();
    }
    check(world, &sr, call.message.name)?;
    if attached {
        assert_sharable(world, &sr)?;
        let kind = world.db.text("SR", &sr, "type")?;
        sm::verify(&kind, world.db.get("PBD", pbd, "device_config")?)?;
        if world.db.int("SR", &sr, "physical_size")? < 0 {
            world
                .db
                .set("SR", &sr, "physical_size", sr_create::DEFAULT_SIZE)?;
            account(world, &sr)?;
        }
    } else {
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
