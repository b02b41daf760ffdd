//! Disaster recovery: VMs and appliances whose records another pool keeps, and what they need.

use super::{Table, done};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::value::{NULL_REF, Value};
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("VM.get_SRs_required_for_recovery", Now(srs_of_vm)),
    ("VM.assert_can_be_recovered", Now(assert_vm)),
    ("VM.recover", Now(recover)),
    (
        "VM_appliance.get_SRs_required_for_recovery",
        Now(srs_of_appliance),
    ),
    (
        "VM_appliance.assert_can_be_recovered",
        Now(assert_appliance),
    ),
    ("VM_appliance.recover", Now(recover)),
    ("DR_task.create", Now(create)),
    ("DR_task.destroy", Now(destroy)),
];

/// The SRs that the disks of a VM are on.
fn needed(world: &World, vm: &str) -> Result<Vec<String>, Failure> {
    let db = &world.db;
    let mut srs = Vec::new();
    for vbd in db.list("VM", vm, "VBDs")? {
        let vdi = db.text("VBD", &vbd, "VDI")?;
        if db.text("VBD", &vbd, "type")? == "CD" || vdi == NULL_REF {
            continue;
        }
        let sr = db.text("VDI", &vdi, "SR")?;
        if !srs.contains(&sr) {
            srs.push(sr);
        }
    }
    Ok(srs)
}

/// Who recovers has a session with the pool that takes the VM: this one.
fn assert_session(world: &World, session: &str) -> Result<(), Failure> {
    if world.db.exists("session", session) {
        Ok(())
    } else {
        Err(Failure::session_invalid(session))
    }
}

/// Refuses a VM whose disks are on an SR that the pool has not attached.
fn assert_reachable(world: &World, vm: &str) -> Result<(), Failure> {
    for sr in needed(world, vm)? {
        if super::sr::assert_attached(world, &sr).is_err() {
            return Err(Failure::new("VM_REQUIRES_SR", [vm, &sr]));
        }
    }
    Ok(())
}

fn srs_of_vm(world: &mut World, call: &Call) -> Reply {
    let srs = needed(world, call.text(0))?;
    assert_session(world, call.text(1))?;
    Ok(Value::strings(srs))
}

fn assert_vm(world: &mut World, call: &Call) -> Reply {
    let vm = call.text(0);
    let appliance = world.db.text("VM", vm, "appliance")?;
    assert_session(world, call.text(1))?;
    if world.db.exists("VM_appliance", &appliance) {
        return Err(Failure::new("VM_IS_PART_OF_AN_APPLIANCE", [vm, &appliance]));
    }
    assert_reachable(world, vm)?;
    done()
}

fn srs_of_appliance(world: &mut World, call: &Call) -> Reply {
    let mut all: Vec<String> = Vec::new();
    for vm in world.db.list("VM_appliance", call.text(0), "VMs")? {
        for sr in needed(world, &vm)? {
            if !all.contains(&sr) {
                all.push(sr);
            }
        }
    }
    assert_session(world, call.text(1))?;
    Ok(Value::strings(all))
}

fn assert_appliance(world: &mut World, call: &Call) -> Reply {
    let vms = world.db.list("VM_appliance", call.text(0), "VMs")?;
    assert_session(world, call.text(1))?;
    for vm in vms {
        assert_reachable(world, &vm)?;
    }
    done()
}

/// What is recovered comes from the database of another pool, and this one is the pool's own.
fn recover(world: &mut World, call: &Call) -> Reply {
    world.db.require(call.class.name, call.text(0))?;
    assert_session(world, call.text(1))?;
    let text = "The session is not with a database on a VDI";
    Err(Failure::new("COULD_NOT_IMPORT_DATABASE", [text]))
}

/// `DR_task.create(type, device_config, whitelist)`: looks for SRs with a database for recovery on
/// them, of which there are none.
fn create(world: &mut World, call: &Call) -> Reply {
    let driver = super::sm::driver(&call.text(0).to_lowercase())?;
    if !driver.has("SR_PROBE") || !driver.has("SR_METADATA") {
        let text = format!(
            "Disaster recovery not supported on SRs of type {}",
            call.text(0)
        );
        return Err(Failure::not_allowed(&text));
    }
    world
        .create(
            "DR_task",
            vec![("introduced_SRs", Value::Array(Vec::new()))],
        )
        .map(Value::String)
}

fn destroy(world: &mut World, call: &Call) -> Reply {
    world.db.destroy("DR_task", call.text(0))?;
    done()
}
