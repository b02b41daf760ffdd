//! Graphics cards, USB devices, PCI devices and SR-IOV. The hosts of a model have none, so that
//! groups of them are empty and what needs a device is refused.

use super::{Table, done, plain, power_of};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::lifecycle::{self, Power};
use crate::value::Value;
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("GPU_group.create", Now(create_group)),
    (
        "GPU_group.destroy",
        Now(|world, call| {
            assert_empty(world, call, "PGPUs", "GPU_GROUP_CONTAINS_PGPU")?;
            assert_empty(world, call, "VGPUs", "GPU_GROUP_CONTAINS_VGPU")?;
            destroy(world, call)
        }),
    ),
    ("GPU_group.update_enabled_VGPU_types", Now(refreshed)),
    ("GPU_group.update_supported_VGPU_types", Now(refreshed)),
    (
        "GPU_group.get_remaining_capacity",
        Now(|world, call| {
            world.db.require("GPU_group", call.text(0))?;
            world.db.require("VGPU_type", call.text(1))?;
            Ok(Value::Int(0))
        }),
    ),
    ("VGPU.create", Now(create_vgpu)),
    ("VGPU.destroy", Now(destroy_of_vm)),
    ("PGPU.add_enabled_VGPU_types", Now(plain)),
    ("PGPU.remove_enabled_VGPU_types", Now(plain)),
    ("PGPU.set_enabled_VGPU_types", Now(plain)),
    ("PGPU.set_GPU_group", Now(plain)),
    (
        "PGPU.get_remaining_capacity",
        Now(|world, call| {
            world.db.require("PGPU", call.text(0))?;
            Ok(Value::Int(0))
        }),
    ),
    (
        "PGPU.enable_dom0_access",
        Now(|world, call| set_access(world, call, "enabled")),
    ),
    (
        "PGPU.disable_dom0_access",
        Now(|world, call| set_access(world, call, "disable_on_reboot")),
    ),
    ("PCI.disable_dom0_access", Now(refreshed)),
    ("PCI.enable_dom0_access", Now(refreshed)),
    ("PCI.get_dom0_access_status", Now(refreshed)),
    ("USB_group.create", Now(create_group)),
    (
        "USB_group.destroy",
        Now(|world, call| {
            assert_empty(world, call, "PUSBs", "USB_GROUP_CONTAINS_PUSB")?;
            assert_empty(world, call, "VUSBs", "USB_GROUP_CONTAINS_VUSB")?;
            destroy(world, call)
        }),
    ),
    (
        "PUSB.scan",
        Now(|world, call| {
            world.db.require("host", call.text(0))?;
            done()
        }),
    ),
    ("PUSB.set_passthrough_enabled", Now(plain)),
    ("VUSB.create", Now(create_vusb)),
    ("VUSB.unplug", Now(unplug_vusb)),
    ("VUSB.destroy", Now(destroy_of_vm)),
    ("network_sriov.create", Now(create_sriov)),
    ("network_sriov.destroy", Now(destroy)),
    (
        "network_sriov.get_remaining_capacity",
        Now(|world, call| {
            world.db.require("network_sriov", call.text(0))?;
            Ok(Value::Int(0))
        }),
    ),
];

/// `X.create(name_label, name_description, other_config)`: a group without members.
fn create_group(world: &mut World, call: &Call) -> Reply {
    let values = vec![
        ("name_label", call.arg(0)),
        ("name_description", call.arg(1)),
        ("other_config", call.arg(2)),
    ];
    world.create(call.class.name, values).map(Value::String)
}

fn destroy(world: &mut World, call: &Call) -> Reply {
    world.db.destroy(call.class.name, call.text(0))?;
    done()
}

fn assert_empty(world: &World, call: &Call, field: &str, code: &str) -> Result<(), Failure> {
    let members = world.db.list(call.class.name, call.text(0), field)?;
    if members.is_empty() {
        return Ok(());
    }
    Err(Failure::new(code, [members.join(", ")]))
}

/// Looks whether the object exists, of which nothing is left to do.
fn refreshed(world: &mut World, call: &Call) -> Reply {
    world.db.require(call.class.name, call.text(0))?;
    done()
}

fn set_access(world: &mut World, call: &Call, access: &str) -> Reply {
    let pgpu = call.text(0);
    world.db.set("PGPU", pgpu, "dom0_access", access)?;
    Ok(Value::from(access))
}

/// `VGPU.create(VM, GPU_group, device, other_config, type)`: it needs a card in the group only when
/// its type says which, and when its VM starts.
fn create_vgpu(world: &mut World, call: &Call) -> Reply {
    let (vm, group, device) = (call.text(0), call.text(1), call.text(2));
    let power = power_of(world, vm)?;
    world.db.require("GPU_group", group)?;
    if device.is_empty() || !device.bytes().all(|c| c.is_ascii_digit()) {
        return Err(Failure::new("INVALID_DEVICE", [device]));
    }
    if power != Power::Halted {
        return Err(lifecycle::bad_power_state(vm, &[Power::Halted], power));
    }
    for vgpu in world.db.list("VM", vm, "VGPUs")? {
        if world.db.text("VGPU", &vgpu, "device")? == device {
            return Err(Failure::new("DEVICE_ALREADY_EXISTS", [device]));
        }
    }
    if world.db.list("GPU_group", group, "PGPUs")?.is_empty() {
        return Err(Failure::new("GPU_GROUP_CONTAINS_NO_PGPUS", [group]));
    }
    let values = vec![
        ("VM", call.arg(0)),
        ("GPU_group", call.arg(1)),
        ("device", call.arg(2)),
        ("other_config", call.arg(3)),
        ("type", call.arg(4)),
    ];
    world.create("VGPU", values).map(Value::String)
}

/// Destroys a device of a VM that does not run.
fn destroy_of_vm(world: &mut World, call: &Call) -> Reply {
    let class = call.class.name;
    let vm = world.db.text(class, call.text(0), "VM")?;
    let power = power_of(world, &vm)?;
    if power != Power::Halted {
        return Err(lifecycle::bad_power_state(&vm, &[Power::Halted], power));
    }
    destroy(world, call)
}

/// `VUSB.create(VM, USB_group, other_config)`.
fn create_vusb(world: &mut World, call: &Call) -> Reply {
    const MOST: usize = 6;
    let (vm, group) = (call.text(0), call.text(1));
    world.db.require("VM", vm)?;
    let others = world.db.list("USB_group", group, "VUSBs")?;
    if !others.is_empty() {
        return Err(Failure::new("USB_GROUP_CONFLICT", [group]));
    }
    if world.db.list("USB_group", group, "PUSBs")?.is_empty() {
        return Err(Failure::new("USB_GROUP_CONTAINS_NO_PUSBS", [group]));
    }
    if world.db.list("VM", vm, "VUSBs")?.len() >= MOST {
        return Err(Failure::new("TOO_MANY_VUSBS", [MOST.to_string()]));
    }
    let values = vec![
        ("VM", call.arg(0)),
        ("USB_group", call.arg(1)),
        ("other_config", call.arg(2)),
    ];
    world.create("VUSB", values).map(Value::String)
}

fn unplug_vusb(world: &mut World, call: &Call) -> Reply {
    let vusb = call.text(0);
    if !world.db.flag("VUSB", vusb, "currently_attached")? {
        return Err(Failure::new("DEVICE_ALREADY_DETACHED", [vusb]));
    }
    world.db.set("VUSB", vusb, "currently_attached", false)?;
    done()
}

/// `network_sriov.create(pif, network)`: no card of a model can do it.
fn create_sriov(world: &mut World, call: &Call) -> Reply {
    let (pif, network) = (call.text(0), call.text(1));
    world.db.require("network", network)?;
    if !world.db.flag("PIF", pif, "physical")? {
        return Err(Failure::new("PIF_IS_NOT_PHYSICAL", [pif]));
    }
    if !world
        .db
        .list("PIF", pif, "sriov_physical_PIF_of")?
        .is_empty()
    {
        return Err(Failure::new("NETWORK_SRIOV_ALREADY_ENABLED", [pif]));
    }
    Err(Failure::new("PIF_IS_NOT_SRIOV_CAPABLE", [pif]))
}
