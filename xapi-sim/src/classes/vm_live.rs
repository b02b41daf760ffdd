//! What is asked of running VMs beside their power, and what is left of older ways to ask it.

use super::{Table, check, done, plain, power_of};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::lifecycle::{self, Power};
use crate::value::Value;
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("VM.call_plugin", Now(call_plugin)),
    ("VM.query_services", Now(query_services)),
    ("VM.get_boot_record", Now(get_boot_record)),
    ("VM.get_cooperative", Now(get_cooperative)),
    (
        "VM.add_to_VCPUs_params_live",
        Now(|world, call| refuse(world, call, "changing_VCPUs_live")),
    ),
    (
        "VM.send_sysrq",
        Now(|world, call| refuse(world, call, "send_sysrq")),
    ),
    (
        "VM.send_trigger",
        Now(|world, call| refuse(world, call, "send_trigger")),
    ),
    (
        "VM.set_memory_target_live",
        Now(|world, call| agree(world, call, "changing_memory_live")),
    ),
    (
        "VM.wait_memory_target_live",
        Now(|world, call| agree(world, call, "awaiting_memory_live")),
    ),
    (
        "VM.set_shadow_multiplier_live",
        Now(set_shadow_multiplier_live),
    ),
    ("VM.set_suspend_VDI", Now(set_suspend_vdi)),
];

/// Messages that no server carries out, on VMs for which they would make sense.
fn refuse(world: &mut World, call: &Call, operation: &str) -> Reply {
    check(world, call.text(0), operation)?;
    Err(Failure::new("NOT_IMPLEMENTED", [call.message.name]))
}

/// Messages that have nothing to do any more.
fn agree(world: &mut World, call: &Call, operation: &str) -> Reply {
    check(world, call.text(0), operation)?;
    done()
}

/// `VM.call_plugin(vm, plugin, fn, args)`: there is one plugin, and the guests here do nothing
/// that it can ask for.
fn call_plugin(world: &mut World, call: &Call) -> Reply {
    check(world, call.text(0), "call_plugin")?;
    let (plugin, function) = (call.text(1), call.text(2));
    if plugin != "guest-agent-operation" {
        return Err(Failure::new("XENAPI_MISSING_PLUGIN", [plugin]));
    }
    if function == "run-script" {
        return Err(Failure::code("FEATURE_RESTRICTED"));
    }
    let text =
        format!("The requested fn \"{function}\" could not be found in plugin \"{plugin}\".");
    let params = ["failed to find fn", &text, &text];
    Err(Failure::new("XENAPI_PLUGIN_FAILURE", params))
}

fn query_services(world: &mut World, call: &Call) -> Reply {
    check(world, call.text(0), "query_services")?;
    Ok(Value::Struct(Vec::new()))
}

/// The record that a VM was started with, which is its record.
fn get_boot_record(world: &mut World, call: &Call) -> Reply {
    check(world, call.text(0), "get_boot_record")?;
    world.db.record("VM", call.text(0))
}

fn get_cooperative(world: &mut World, call: &Call) -> Reply {
    world.db.require("VM", call.text(0))?;
    Ok(Value::Bool(true))
}

fn set_shadow_multiplier_live(world: &mut World, call: &Call) -> Reply {
    let vm = call.text(0);
    check(world, vm, "changing_shadow_memory_live")?;
    super::vm_memory::assert_multiplier(&call.arg(1))?;
    world
        .db
        .set("VM", vm, "HVM_shadow_multiplier", call.arg(1))?;
    done()
}

/// Only a VM that sleeps has an image to exchange.
fn set_suspend_vdi(world: &mut World, call: &Call) -> Reply {
    let vm = call.text(0);
    let power = power_of(world, vm)?;
    if power != Power::Suspended {
        return Err(lifecycle::bad_power_state(vm, &[Power::Suspended], power));
    }
    world.db.require("VDI", call.text(1))?;
    plain(world, call)
}
