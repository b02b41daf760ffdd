//! What messages mean, class by class. Each file begins with the table of what it answers.

pub(crate) mod appliance;
pub(crate) mod bond;
pub(crate) mod caller;
pub(crate) mod certificate;
pub(crate) mod cluster;
pub(crate) mod data_source;
pub(crate) mod event;
pub(crate) mod external_auth;
pub(crate) mod hardware;
pub(crate) mod host;
pub(crate) mod host_power;
pub(crate) mod host_service;
pub(crate) mod hotplug;
pub(crate) mod message;
pub(crate) mod network;
pub(crate) mod operation;
pub(crate) mod pif;
pub(crate) mod pif_record;
pub(crate) mod pool;
pub(crate) mod pool_ha;
pub(crate) mod pool_member;
pub(crate) mod pvs;
pub(crate) mod recovery;
pub(crate) mod role;
pub(crate) mod session;
pub(crate) mod settings;
pub(crate) mod sm;
pub(crate) mod sr;
pub(crate) mod sr_create;
pub(crate) mod sr_probe;
pub(crate) mod task;
pub(crate) mod trusted;
pub(crate) mod tunnel;
pub(crate) mod update;
pub(crate) mod vbd;
pub(crate) mod vdi;
pub(crate) mod vdi_cbt;
pub(crate) mod vdi_copy;
pub(crate) mod vdi_introduce;
pub(crate) mod vif;
pub(crate) mod vlan;
pub(crate) mod vm;
pub(crate) mod vm_copy;
pub(crate) mod vm_firmware;
pub(crate) mod vm_live;
pub(crate) mod vm_memory;
pub(crate) mod vm_migrate;
pub(crate) mod vm_placement;
pub(crate) mod vm_power;
pub(crate) mod vm_provision;
pub(crate) mod vm_revert;
pub(crate) mod vm_sleep;
pub(crate) mod vm_snapshot;
pub(crate) mod vmss;

use crate::db::Release;
use crate::dispatch::Handler;
use crate::failure::{Failure, Reply};
use crate::interp;
use crate::lifecycle::{self, Power};
use crate::value::{NULL_REF, Value};
use crate::world::{Call, World};

/// A table of handlers by wire name.
pub(crate) type Table = &'static [(&'static str, Handler)];

/// Every handler.
pub(crate) fn handlers() -> impl Iterator<Item = (&'static str, Handler)> {
    let tables: &[Table] = &[
        appliance::TABLE,
        bond::TABLE,
        caller::TABLE,
        certificate::TABLE,
        trusted::TABLE,
        cluster::TABLE,
        data_source::TABLE,
        event::TABLE,
        external_auth::TABLE,
        hardware::TABLE,
        host::TABLE,
        host_power::TABLE,
        host_service::TABLE,
        message::TABLE,
        network::TABLE,
        pif::TABLE,
        pif_record::TABLE,
        pool::TABLE,
        pool_ha::TABLE,
        pool_member::TABLE,
        pvs::TABLE,
        recovery::TABLE,
        role::TABLE,
        session::TABLE,
        settings::TABLE,
        sr::TABLE,
        sr_create::TABLE,
        sr_probe::TABLE,
        task::TABLE,
        tunnel::TABLE,
        update::TABLE,
        vbd::TABLE,
        vdi::TABLE,
        vdi_cbt::TABLE,
        vdi_copy::TABLE,
        vdi_introduce::TABLE,
        vif::TABLE,
        vlan::TABLE,
        vm::TABLE,
        vm_copy::TABLE,
        vm_firmware::TABLE,
        vm_live::TABLE,
        vm_memory::TABLE,
        vm_migrate::TABLE,
        vm_placement::TABLE,
        vm_power::TABLE,
        vm_provision::TABLE,
        vm_revert::TABLE,
        vm_sleep::TABLE,
        vm_snapshot::TABLE,
        vmss::TABLE,
    ];
    tables.iter().copied().flatten().copied()
}

/// Success without a result.
pub(crate) fn done() -> Reply {
    Ok(Value::void())
}

/// Makes a record of the parameters of a call.
pub(crate) fn introduce(world: &mut World, call: &Call) -> Reply {
    let params = call.message.params.iter().zip(&call.args);
    let values = params
        .map(|(param, value)| (param.name, value.clone()))
        .collect();
    world.create(call.class.name, values).map(Value::String)
}

/// Answers a message that is custom in the datamodel and yet does nothing but write the field it
/// is named after: `set_x`, `add_to_x`, `remove_from_x`, `add_x`, `remove_x`.
pub(crate) fn plain(world: &mut World, call: &Call) -> Reply {
    let name = call.message.name;
    let db = &mut world.db;
    for (prefix, adds) in [
        ("add_to_", true),
        ("remove_from_", false),
        ("add_", true),
        ("remove_", false),
    ] {
        let Some(field) = name
            .strip_prefix(prefix)
            .and_then(|name| call.class.field(name))
        else {
            continue;
        };
        return if adds {
            interp::add(db, call.class, field, call.text(0), &call.args[1..])
        } else {
            interp::remove(db, call.class, field, call.text(0), call.args.get(1))
        };
    }
    let field = name.strip_prefix("set_").unwrap_or(name);
    db.set(call.class.name, call.text(0), field, call.arg(1))?;
    done()
}

/// Checks the reference and does nothing: for messages whose effect lies outside the model.
pub(crate) fn nothing(world: &mut World, call: &Call) -> Reply {
    if !call.args.is_empty() {
        world.db.require(call.class.name, call.text(0))?;
    }
    done()
}

/// The power state of a VM.
pub(crate) fn power_of(world: &World, vm: &str) -> Result<Power, Failure> {
    Ok(Power::parse(&world.db.text("VM", vm, "power_state")?))
}

/// What the tables of [`lifecycle`] want to know of a VM.
pub(crate) fn view(world: &World, vm: &str) -> Result<lifecycle::Vm, Failure> {
    let db = &world.db;
    let pairs = |field: &str| -> Result<Vec<(String, String)>, Failure> {
        let map = db.get("VM", vm, field)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(map
            .members()
            .iter()
            .map(|(key, value)| (key.clone(), text(value)))
            .collect())
    };
    let is_true = |text: Option<String>| {
        text.is_some_and(|text| text == "1" || text.eq_ignore_ascii_case("true"))
    };
    let agent = db.text("VM", vm, "guest_metrics")?;
    let metrics = db.text("VM", vm, "metrics")?;
    let appliance = db.text("VM", vm, "appliance")?;
    // What a VM was started with counts, as long as its metrics tell.
    let started_with = |field: &str, key: &str| match db.flag("VM_metrics", &metrics, field) {
        Ok(flag) => Ok(flag),
        Err(_) => db.key("VM", vm, "platform", key).map(is_true),
    };
    let current_type = db.text("VM_metrics", &metrics, "current_domain_type");
    Ok(lifecycle::Vm {
        reference: vm.to_owned(),
        power: power_of(world, vm)?,
        is_template: db.flag("VM", vm, "is_a_template")?,
        is_default_template: db.flag("VM", vm, "is_default_template")?
            || is_true(db.key("VM", vm, "other_config", "default_template")?),
        is_snapshot: db.flag("VM", vm, "is_a_snapshot")?,
        is_control_domain: db.flag("VM", vm, "is_control_domain")?,
        is_system_domain: is_true(db.key("VM", vm, "other_config", "is_system_domain")?),
        is_paravirtual: matches!(current_type.as_deref(), Ok("pv" | "pvh" | "pv_in_pvh")),
        in_appliance: db.exists("VM_appliance", &appliance).then_some(appliance),
        nested_virt: started_with("nested_virt", "nested-virt")?,
        nomigrate: started_with("nomigrate", "nomigrate")?,
        current: pairs("current_operations")?,
        blocked: pairs("blocked_operations")?,
        has_drivers: db
            .flag("VM_guest_metrics", &agent, "PV_drivers_detected")
            .unwrap_or(false)
            || db
                .get("VM_guest_metrics", &agent, "PV_drivers_version")
                .is_ok_and(|version| !version.members().is_empty()),
        agent: db
            .get("VM_guest_metrics", &agent, "other")
            .map(|other| other.members().to_vec())
            .unwrap_or_default(),
        vtpms: db.list("VM", vm, "VTPMs")?.len(),
    })
}

/// Refuses an operation that the VM does not allow now.
pub(crate) fn check(world: &World, vm: &str, operation: &str) -> Result<(), Failure> {
    lifecycle::check(&view(world, vm)?, operation)
}

/// Brings the allowed operations of a VM and of its devices up to date.
pub(crate) fn refresh(world: &mut World, vm: &str) {
    // What is gone needs no refreshing.
    let _ = try_refresh(world, vm);
}

fn try_refresh(world: &mut World, vm: &str) -> Result<(), Failure> {
    for vbd in world.db.list("VM", vm, "VBDs")? {
        vbd::refresh(world, &vbd)?;
        let vdi = world.db.text("VBD", &vbd, "VDI")?;
        if vdi != NULL_REF {
            vdi::refresh(world, &vdi);
        }
    }
    for vif in world.db.list("VM", vm, "VIFs")? {
        vif::refresh(world, &vif)?;
    }
    let appliance = world.db.text("VM", vm, "appliance")?;
    appliance::refresh(world, &appliance);
    let mut allowed = lifecycle::allowed_operations(&view(world, vm)?);
    if world.db.release() == Release::Xcpng82 {
        allowed.retain(|operation| !matches!(*operation, "create_vtpm" | "sysprep"));
    }
    world
        .db
        .set("VM", vm, "allowed_operations", Value::strings(allowed))
}

/// Notes that an operation on an object is under way.
pub(crate) fn mark(
    world: &mut World,
    class: &'static str,
    reference: &str,
    task: &str,
    operation: &str,
) -> Result<(), Failure> {
    let current = world.db.get(class, reference, "current_operations")?;
    let mut members = current.members().to_vec();
    members.insert(0, (task.to_owned(), Value::from(operation)));
    world.db.set(
        class,
        reference,
        "current_operations",
        Value::Struct(members),
    )
}

/// Takes the note of [`mark`] away.
pub(crate) fn unmark(world: &mut World, class: &'static str, reference: &str, task: &str) {
    if let Ok(current) = world.db.get(class, reference, "current_operations") {
        let rest = current
            .members()
            .iter()
            .filter(|(key, _)| key != task)
            .cloned()
            .collect();
        // The object was there a moment ago, under the same lock.
        let _ = world
            .db
            .set(class, reference, "current_operations", Value::Struct(rest));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use xapi_client::meta;

    #[test]
    fn every_handler_answers_a_message_of_the_datamodel() {
        let known: HashSet<&str> = meta::CLASSES
            .iter()
            .flat_map(|class| class.messages)
            .map(|m| m.wire_name)
            .collect();
        let mut seen = HashSet::new();
        for (name, _) in super::handlers() {
            assert!(known.contains(name), "{name} is not in the datamodel");
            assert!(seen.insert(name), "{name} has two handlers");
        }
    }
}
