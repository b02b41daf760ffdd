//! Disks.

use std::sync::Arc;

use super::operation::{self, Mark, Operation, of_disk};
use super::{Table, done, plain, power_of, sr};
use crate::backing::Disk;
use crate::dispatch::Handler::{Held, Later, Now};
use crate::dispatch::Pending;
use crate::failure::{Failure, Reply};
use crate::lifecycle::{self, Power};
use crate::value::{NULL_REF, Value};
use crate::world::{Call, Shared, World};

pub(crate) const TABLE: Table = &[
    (
        "VDI.create",
        Held(
            |_, call| Ok(vec![Mark::new("SR", call.field_text("SR"), "vdi_create")]),
            create,
        ),
    ),
    ("VDI.destroy", Later(destroy)),
    (
        "VDI.resize",
        Held(
            |world, call| of_disk(world, call.text(0), "resize", Some("vdi_resize")),
            resize,
        ),
    ),
    (
        "VDI.update",
        Held(
            |world, call| of_disk(world, call.text(0), "update", None),
            update,
        ),
    ),
    ("VDI.set_name_label", Now(rename)),
    ("VDI.set_name_description", Now(rename)),
    ("VDI.set_sharable", Now(sr::of_driver)),
    ("VDI.set_read_only", Now(sr::of_driver)),
    (
        "VDI.set_on_boot",
        Held(
            |world, call| of_disk(world, call.text(0), "set_on_boot", Some("vdi_set_on_boot")),
            set_on_boot,
        ),
    ),
    ("VDI.resize_online", Now(resize_online)),
    ("VDI.set_allow_caching", Now(set_allow_caching)),
    ("VDI.set_managed", Now(sr::of_driver)),
    ("VDI.set_missing", Now(sr::of_driver)),
    ("VDI.set_is_a_snapshot", Now(sr::of_driver)),
    ("VDI.set_snapshot_of", Now(sr::of_driver)),
    ("VDI.set_snapshot_time", Now(sr::of_driver)),
];

/// Lets the storage know of new names, which it does already.
fn update(world: &mut World, call: &Call) -> Reply {
    let vdi = call.text(0);
    check(world, vdi, "update")?;
    sr::assert_attached(world, &world.db.text("VDI", vdi, "SR")?)?;
    done()
}

/// The storage keeps the name of a disk, too.
fn rename(world: &mut World, call: &Call) -> Reply {
    sr::assert_attached(world, &world.db.text("VDI", call.text(0), "SR")?)?;
    plain(world, call)
}

/// Refuses a disk of a VM that is not halted, whether it has the disk attached or not.
fn assert_off(world: &World, vdi: &str) -> Result<(), Failure> {
    for vbd in world.db.list("VDI", vdi, "VBDs")? {
        let vm = world.db.text("VBD", &vbd, "VM")?;
        let power = power_of(world, &vm)?;
        if power != Power::Halted {
            return Err(lifecycle::bad_power_state(&vm, &[Power::Halted], power));
        }
    }
    Ok(())
}

fn set_allow_caching(world: &mut World, call: &Call) -> Reply {
    assert_off(world, call.text(0))?;
    plain(world, call)
}

/// Whether a disk forgets what was written to it when its VM starts.
fn set_on_boot(world: &mut World, call: &Call) -> Reply {
    let vdi = call.text(0);
    assert_off(world, vdi)?;
    check(world, vdi, "set_on_boot")?;
    sr::assert_attached(world, &world.db.text("VDI", vdi, "SR")?)?;
    plain(world, call)?;
    refresh(world, vdi);
    done()
}

/// No SR here can do this.
fn resize_online(world: &mut World, call: &Call) -> Reply {
    check(world, call.text(0), "resize_online")?;
    done()
}

fn create(world: &mut World, call: &Call) -> Reply {
    if call.field_text("type") == "cbt_metadata" {
        return Err(Failure::new("VDI_INCOMPATIBLE_TYPE", ["", "cbt_metadata"]));
    }
    let sr = call.field_text("SR");
    sr::check(world, &sr, "vdi_create")?;
    let size = call.field("virtual_size").as_int().unwrap_or_default();
    let mut values = call.fields.clone();
    // Where a disk lies is for the driver to say.
    values.retain(|(name, _)| *name != "location");
    add(world, values, size).map(Value::String)
}

/// Adds a disk of at least this size to the SR that the values name.
pub(crate) fn add(
    world: &mut World,
    mut values: Vec<(&str, Value)>,
    size: i64,
) -> Result<String, Failure> {
    let sr = values
        .iter()
        .find(|(name, _)| *name == "SR")
        .map(|(_, value)| value.clone());
    let sr = sr
        .as_ref()
        .and_then(Value::as_str)
        .unwrap_or(NULL_REF)
        .to_owned();
    world.db.require("SR", &sr)?;
    sr::assert_attached(world, &sr)?;
    let (virtual_size, space) = sr::layout(world, &sr, size)?;
    sr::assert_space(world, &sr, space)?;
    let uuid = world.seed.uuid();
    values.retain(|(name, _)| *name != "virtual_size");
    if !values.iter().any(|(name, _)| *name == "location") {
        values.push(("location", Value::from(uuid.as_str())));
    }
    values.extend([
        ("uuid", Value::String(uuid)),
        ("virtual_size", Value::Int(virtual_size)),
        ("physical_utilisation", Value::Int(space)),
        ("managed", Value::Bool(true)),
    ]);
    let vdi = world.create("VDI", values)?;
    refresh(world, &vdi);
    sr::grow(world, &sr, virtual_size, space)?;
    Ok(vdi)
}

/// The disk that takes a suspended VM's memory: on the SR of the VM, else of the pool, else of the
/// host on which it runs.
pub(crate) fn suspend_image(world: &mut World, vm: &str) -> Result<String, Failure> {
    let pool = world.pool();
    let host = world.db.text("VM", vm, "resident_on")?;
    let of_host = world.db.text("host", &host, "suspend_image_sr");
    let wanted = [
        world.db.text("VM", vm, "suspend_SR")?,
        world.db.text("pool", &pool, "suspend_image_SR")?,
        of_host.unwrap_or_default(),
    ];
    let found = wanted.into_iter().find(|sr| world.db.exists("SR", sr));
    let Some(sr) = found else {
        return Err(Failure::new("VM_NO_SUSPEND_SR", [vm]));
    };
    let size = world.db.int("VM", vm, "memory_static_max")?.max(1 << 20);
    let values = vec![
        ("name_label", Value::from("Suspend image")),
        ("name_description", Value::from("Suspend image")),
        ("SR", Value::String(sr)),
        ("type", Value::from("suspend")),
    ];
    add(world, values, size)
}

const OPERATIONS: &[&str] = &[
    "copy", "clone", "forget", "update", "resize", "snapshot", "destroy",
];

/// Brings the allowed operations up to date. A reference to no disk is ignored.
pub(crate) fn refresh(world: &mut World, vdi: &str) {
    if !world.db.exists("VDI", vdi) {
        return;
    }
    let allowed: Vec<&str> = OPERATIONS
        .iter()
        .filter(|operation| check(world, vdi, operation).is_ok())
        .copied()
        .collect();
    // The disk exists, see above.
    let _ = world
        .db
        .set("VDI", vdi, "allowed_operations", Value::strings(allowed));
}

/// Refuses an operation with the first failure that a real server would find.
pub(crate) fn check(world: &World, vdi: &str, operation: &str) -> Result<(), Failure> {
    let db = &world.db;
    let sr = db.text("VDI", vdi, "SR")?;
    if operation == "resize" {
        sr::assert_attached(world, &sr)?;
    }
    operation::assert_idle(world, "VDI", vdi)?;
    let (mut read, mut written) = (false, false);
    for vbd in db.list("VDI", vdi, "VBDs")? {
        if db.flag("VBD", &vbd, "currently_attached")? {
            read = true;
            written |= db.text("VBD", &vbd, "mode")? == "RW";
        }
        if let Some((task, other)) = db.get("VBD", &vbd, "current_operations")?.members().first() {
            let other = other.as_str().unwrap_or_default();
            let params = ["VDI", vdi, other, task];
            return Err(Failure::new("OTHER_OPERATION_IN_PROGRESS", params));
        }
    }
    let blocked = match operation {
        "snapshot" | "clone" | "resize_online" | "enable_cbt" | "disable_cbt" | "data_destroy" => {
            false
        }
        "copy" => written,
        _ => read,
    };
    if blocked {
        return Err(Failure::new("VDI_IN_USE", [vdi, operation]));
    }
    // Images of CDs are files that somebody else puts there.
    let iso = db.exists("SR", &sr) && db.text("SR", &sr, "content_type")? == "iso";
    let on_images = matches!(operation, "copy" | "forget" | "destroy");
    let lacks = iso && !on_images
        || operation == "resize_online"
        || operation == "destroy" && db.flag("SR", &sr, "is_tools_sr")?;
    if lacks {
        return Err(Failure::new("SR_OPERATION_NOT_SUPPORTED", [sr]));
    }
    let kind = db.text("VDI", vdi, "type")?;
    let data = matches!(
        operation,
        "clone" | "copy" | "enable_cbt" | "disable_cbt" | "resize" | "snapshot" | "set_on_boot"
    );
    if kind == "cbt_metadata" && data {
        return Err(Failure::new("VDI_INCOMPATIBLE_TYPE", [vdi, &kind]));
    }
    let tracked = db.flag("VDI", vdi, "cbt_enabled")?;
    if tracked && operation == "set_on_boot" {
        return Err(Failure::new("VDI_CBT_ENABLED", [vdi]));
    }
    let snapshot = db.flag("VDI", vdi, "is_a_snapshot")?;
    if operation == "data_destroy" {
        if !snapshot {
            let text = format!("VDI is not a snapshot: {vdi}");
            return Err(Failure::not_allowed(&text));
        }
        if !tracked {
            return Err(Failure::new("VDI_NO_CBT_METADATA", [vdi]));
        }
    }
    if matches!(operation, "enable_cbt" | "disable_cbt") {
        if snapshot {
            let text = format!("VDI is a snapshot: {vdi}");
            return Err(Failure::not_allowed(&text));
        }
        if !matches!(kind.as_str(), "user" | "system") {
            return Err(Failure::new("VDI_INCOMPATIBLE_TYPE", [vdi, &kind]));
        }
    }
    let of_ha = matches!(kind.as_str(), "ha_statefile" | "redo_log");
    if of_ha && operation == "copy" {
        let text = "VDI containing HA statefile or redo log cannot be copied (check the VDI's \
                    allowed operations).";
        return Err(Failure::not_allowed(text));
    }
    let changes = matches!(operation, "destroy" | "resize" | "resize_online" | "forget");
    if of_ha && changes && db.flag("pool", &world.pool(), "ha_enabled")? {
        return Err(Failure::code("HA_IS_ENABLED"));
    }
    if operation == "destroy" && db.text("SR", &sr, "type")? == "udev" {
        return Err(Failure::new("VDI_IS_A_PHYSICAL_DEVICE", [vdi]));
    }
    if operation == "snapshot" && db.flag("VDI", vdi, "sharable")? {
        return Err(Failure::new("VDI_IS_SHARABLE", [vdi]));
    }
    let resets = db.text("VDI", vdi, "on_boot")? == "reset";
    let needs_data = matches!(
        operation,
        "snapshot" | "copy" | "enable_cbt" | "disable_cbt"
    );
    if resets && needs_data {
        return Err(Failure::code(
            "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION",
        ));
    }
    Ok(())
}

/// Destroys a disk and the devices of halted VMs that refer to it. Its files are gone when the
/// answer comes.
fn destroy(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        let vdi = call.text(0);
        let begin = |world: &mut World| {
            check(world, vdi, "destroy")?;
            sr::assert_attached(world, &world.db.text("VDI", vdi, "SR")?)?;
            let marks = of_disk(world, vdi, "destroy", Some("vdi_destroy"))?;
            Operation::begin_all(&shared, world, &call.task, marks)
        };
        let operation = shared.patiently(begin).await?;
        operation.work().await?;
        let disk = operation.finish(|world| remove(world, vdi))?;
        release(disk).await;
        done()
    })
}

/// Removes the records of a disk and gives what was on it. The caller has to [`release`] that
/// where nobody waits for the lock.
pub(crate) fn remove(world: &mut World, vdi: &str) -> Result<Option<Disk>, Failure> {
    for vbd in world.db.list("VDI", vdi, "VBDs")? {
        let vm = world.db.text("VBD", &vbd, "VM")?;
        super::vbd::remove(&mut world.db, &vbd)?;
        super::refresh(world, &vm);
    }
    let sr = world.db.text("VDI", vdi, "SR")?;
    let size = world.db.int("VDI", vdi, "virtual_size")?;
    let used = world.db.int("VDI", vdi, "physical_utilisation")?;
    if world.db.text("VDI", vdi, "type")? == "suspend" {
        for vm in world.db.references("VM") {
            if world.db.text("VM", &vm, "suspend_VDI")? == vdi {
                world.db.set("VM", &vm, "suspend_VDI", NULL_REF)?;
            }
        }
    }
    world.db.destroy("VDI", vdi)?;
    world.blocks.remove(vdi);
    if world.db.exists("SR", &sr) {
        // Adding up what is left would make large pools slow.
        sr::grow(world, &sr, -size, -used)?;
    }
    Ok(world.disks.remove(vdi))
}

/// Removes the files of a disk.
pub(crate) async fn release(disk: Option<Disk>) {
    let Some(disk) = disk else { return };
    // Only a runtime that shuts down refuses, and then dropping the closure does the same.
    let _ = tokio::task::spawn_blocking(move || drop(disk)).await;
}

fn resize(world: &mut World, call: &Call) -> Reply {
    let (vdi, size) = (call.text(0), call.int(1));
    check(world, vdi, "resize")?;
    let sr = world.db.text("VDI", vdi, "SR")?;
    let current = world.db.int("VDI", vdi, "virtual_size")?;
    let (rounded, space) = sr::layout(world, &sr, size)?;
    if rounded < current {
        let text = "VDI Invalid size [opterr=shrinking not allowed]";
        return Err(Failure::new("SR_BACKEND_FAILURE_79", ["", text, ""]));
    }
    let used = world.db.int("VDI", vdi, "physical_utilisation")?;
    sr::assert_space(world, &sr, (space - used).max(0))?;
    world.db.set("VDI", vdi, "virtual_size", rounded)?;
    world
        .db
        .set("VDI", vdi, "physical_utilisation", used.max(space))?;
    sr::account(world, &sr)?;
    done()
}
