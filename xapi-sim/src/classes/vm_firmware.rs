//! Firmware, device models and what else is asked of a VM's platform.

use super::{Table, check, done, power_of};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::lifecycle::{self, Power};
use crate::value::Value;
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("VM.set_NVRAM_EFI_variables", Now(set_variables)),
    ("VM.restart_device_models", Now(restart_device_models)),
    ("VM.set_uefi_mode", Now(set_uefi_mode)),
    ("VM.get_secureboot_readiness", Now(readiness)),
    (
        "pool.get_guest_secureboot_readiness",
        Now(readiness_of_pool),
    ),
    (
        "VM.update_secureboot_certificates_on_boot",
        Now(mark_certificates),
    ),
    ("VM.sysprep", Now(sysprep)),
    (
        "VM.s3_suspend",
        Now(|world, call| sleep_in_guest(world, call.text(0))),
    ),
    (
        "VM.s3_resume",
        Now(|world, call| sleep_in_guest(world, call.text(0))),
    ),
    ("VM.pool_migrate_complete", Now(complete)),
    ("VM.update_snapshot_metadata", Now(update_snapshot)),
    ("VTPM.get_contents", Now(contents)),
    ("VTPM.set_contents", Now(set_contents)),
    ("VBD.pause", Now(pause_vbd)),
    ("VBD.unpause", Now(unpause_vbd)),
    (
        "VBD.unplug_force_no_safety_check",
        Now(|_, _| Err(Failure::code("MESSAGE_DEPRECATED"))),
    ),
];

const VARIABLES: &str = "EFI-variables";

fn write_variable(world: &mut World, vm: &str, key: &str, value: &str) -> Result<(), Failure> {
    let mut nvram = world.db.get("VM", vm, "NVRAM")?.members().to_vec();
    nvram.retain(|(known, _)| known != key);
    nvram.insert(0, (key.to_owned(), Value::from(value)));
    world.db.set("VM", vm, "NVRAM", Value::Struct(nvram))
}

/// What the firmware of a running VM keeps: it may do so while the VM runs.
fn set_variables(world: &mut World, call: &Call) -> Reply {
    write_variable(world, call.text(0), VARIABLES, call.text(1))?;
    done()
}

fn restart_device_models(world: &mut World, call: &Call) -> Reply {
    let vm = call.text(0);
    check(world, vm, "pause")?;
    done()
}

fn is_uefi(world: &World, vm: &str) -> Result<bool, Failure> {
    let firmware = world.db.key("VM", vm, "HVM_boot_params", "firmware")?;
    Ok(firmware.as_deref() == Some("uefi"))
}

/// `VM.set_uefi_mode(self, mode)`: the variables are those of a machine that is set up, or none.
fn set_uefi_mode(world: &mut World, call: &Call) -> Reply {
    let vm = call.text(0);
    if !is_uefi(world, vm)? {
        return Err(Failure::new(
            "VM_INCOMPATIBLE_WITH_THIS_HOST",
            [vm, &world.coordinator(), "The VM does not boot with UEFI"],
        ));
    }
    check(world, vm, "changing_NVRAM")?;
    let variables = if call.text(1) == "setup" { "" } else { "user" };
    write_variable(world, vm, VARIABLES, variables)?;
    Ok(Value::void())
}

fn readiness(world: &mut World, call: &Call) -> Reply {
    let vm = call.text(0);
    if !is_uefi(world, vm)? {
        return Ok(Value::from("not_supported"));
    }
    let secure = world.db.key("VM", vm, "platform", "secureboot")?;
    if !matches!(secure.as_deref(), Some("true" | "auto")) {
        return Ok(Value::from("disabled"));
    }
    let variables = world.db.key("VM", vm, "NVRAM", VARIABLES)?;
    Ok(Value::from(match variables.as_deref() {
        None => "first_boot",
        Some("") => "setup_mode",
        Some(_) => "certs_incomplete",
    }))
}

/// No certificates for guests are installed on a fresh pool.
fn readiness_of_pool(world: &mut World, call: &Call) -> Reply {
    let custom = world
        .db
        .text("pool", call.text(0), "custom_uefi_certificates")?;
    Ok(Value::from(if custom.is_empty() {
        "not_ready"
    } else {
        "ready_no_dbx"
    }))
}

fn mark_certificates(world: &mut World, call: &Call) -> Reply {
    let (vm, mark) = (call.text(0), call.flag(1));
    world.db.require("VM", vm)?;
    write_variable(world, vm, "EFI-certs-update-on-boot", &mark.to_string())?;
    done()
}

/// It is for Windows, which no guest here is.
fn sysprep(world: &mut World, call: &Call) -> Reply {
    let vm = call.text(0);
    check(world, vm, "sysprep")?;
    let text = "The VM does not have the feature-xs-sysprep";
    Err(Failure::new("SYSPREP", [vm, text]))
}

/// The guest sleeps by itself, which nobody sees from outside.
fn sleep_in_guest(world: &mut World, vm: &str) -> Reply {
    let power = power_of(world, vm)?;
    if power != Power::Running {
        return Err(lifecycle::bad_power_state(vm, &[Power::Running], power));
    }
    if world.db.text("VM", vm, "domain_type")? == "pv" {
        return Err(Failure::new("VM_HVM_REQUIRED", [vm]));
    }
    done()
}

/// A host tells another that a VM has arrived.
fn complete(world: &mut World, call: &Call) -> Reply {
    world.db.require("VM", call.text(0))?;
    world.db.require("host", call.text(1))?;
    super::refresh(world, call.text(0));
    done()
}

fn update_snapshot(world: &mut World, call: &Call) -> Reply {
    let vm = call.text(0);
    let db = &mut world.db;
    db.set("VM", vm, "is_a_snapshot", true)?;
    db.set("VM", vm, "snapshot_time", call.arg(2))?;
    db.set("VM", vm, "snapshot_of", call.text(1))?;
    db.set("VM", vm, "transportable_snapshot_id", call.text(3))?;
    super::refresh(world, vm);
    done()
}

/// What a TPM holds is a secret.
fn contents(world: &mut World, call: &Call) -> Reply {
    let secret = world.db.text("VTPM", call.text(0), "contents")?;
    if !world.db.exists("secret", &secret) {
        return Ok(Value::void());
    }
    world.db.text("secret", &secret, "value").map(Value::String)
}

fn set_contents(world: &mut World, call: &Call) -> Reply {
    let vtpm = call.text(0);
    let old = world.db.text("VTPM", vtpm, "contents")?;
    let secret = world.create("secret", vec![("value", call.arg(1))])?;
    world.db.set("VTPM", vtpm, "contents", secret)?;
    if world.db.exists("secret", &old) {
        world.db.destroy("secret", &old)?;
    }
    done()
}

/// The token is the one that lets the disk go on.
fn pause_vbd(world: &mut World, call: &Call) -> Reply {
    super::vbd::check(world, call.text(0), "pause", false)?;
    Ok(Value::void())
}

fn unpause_vbd(world: &mut World, call: &Call) -> Reply {
    super::vbd::check(world, call.text(0), "unpause", false)?;
    done()
}
