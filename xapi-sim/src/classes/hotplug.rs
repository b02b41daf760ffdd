//! What block devices and interfaces have in common: when they can be plugged and unplugged.

use super::{power_of, view};
use crate::failure::Failure;
use crate::lifecycle::{self, Power};
use crate::world::World;

/// Refuses to plug or unplug a device that is or is not attached, or whose VM is in no state for
/// it. Other operations pass.
pub(crate) fn check(
    world: &World,
    class: &str,
    device: &str,
    vm: &str,
    operation: &str,
) -> Result<(), Failure> {
    if !matches!(operation, "plug" | "unplug" | "unplug_force") {
        return Ok(());
    }
    let db = &world.db;
    let power = power_of(world, vm)?;
    if power != Power::Running {
        return Err(lifecycle::bad_power_state(vm, &[Power::Running], power));
    }
    match (operation, db.flag(class, device, "currently_attached")?) {
        ("plug", true) => return Err(Failure::new("DEVICE_ALREADY_ATTACHED", [device])),
        ("unplug" | "unplug_force", false) => {
            return Err(Failure::new("DEVICE_ALREADY_DETACHED", [device]));
        }
        _ => {}
    }
    let vm = view(world, vm)?;
    let in_the_way = vm.current.iter().find(|(_, other)| {
        let ends = matches!(
            other.as_str(),
            "clean_shutdown" | "hard_shutdown" | "suspend" | "pause"
        );
        ends && operation != "unplug_force"
    });
    if let Some((_, other)) = in_the_way {
        let text = format!("Current operation on VM:{} is {other}", vm.reference);
        return Err(Failure::not_allowed(&text));
    }
    if vm.is_paravirtual {
        return Ok(());
    }
    let claim = format!("can_use_hotplug_{}", class.to_lowercase());
    let agent = db.text("VM", &vm.reference, "guest_metrics")?;
    match db.text("VM_guest_metrics", &agent, &claim).as_deref() {
        Ok("yes") => Ok(()),
        Ok("no") => {
            let text = format!("VM states it does not support {class} hotplug.");
            Err(Failure::not_allowed(&text))
        }
        _ if vm.has_drivers => Ok(()),
        _ => Err(Failure::new("VM_MISSING_PV_DRIVERS", [vm.reference])),
    }
}
