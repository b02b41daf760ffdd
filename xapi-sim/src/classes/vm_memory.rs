//! Memory and VCPUs of VMs, with the order that their limits have to keep.

use super::{Table, check, done, power_of, refresh, vm_placement};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::lifecycle::Power;
use crate::value::Value;
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("VM.set_memory", Now(set_memory)),
    ("VM.set_memory_limits", Now(set_memory_limits)),
    ("VM.set_memory_static_range", Now(set_static_range)),
    ("VM.set_memory_static_min", Now(set_static_min)),
    ("VM.set_memory_static_max", Now(set_static_max)),
    ("VM.set_memory_dynamic_range", Now(set_dynamic_range)),
    ("VM.set_memory_dynamic_min", Now(set_dynamic_min)),
    ("VM.set_memory_dynamic_max", Now(set_dynamic_max)),
    ("VM.compute_memory_overhead", Now(compute_memory_overhead)),
    ("VM.set_VCPUs_max", Now(set_vcpus_max)),
    ("VM.set_VCPUs_at_startup", Now(set_vcpus_at_startup)),
    ("VM.set_VCPUs_number_live", Now(set_vcpus_number_live)),
    ("VM.set_HVM_shadow_multiplier", Now(set_shadow_multiplier)),
];

#[derive(Debug, Clone, Copy)]
struct Limits {
    static_min: i64,
    static_max: i64,
    dynamic_min: i64,
    dynamic_max: i64,
}

impl Limits {
    fn of(world: &World, vm: &str) -> Result<Limits, Failure> {
        let field = |name: &str| world.db.int("VM", vm, name);
        Ok(Limits {
            static_min: field("memory_static_min")?,
            static_max: field("memory_static_max")?,
            dynamic_min: field("memory_dynamic_min")?,
            dynamic_max: field("memory_dynamic_max")?,
        })
    }

    fn in_order(self) -> bool {
        self.static_min <= self.dynamic_min
            && self.dynamic_min <= self.dynamic_max
            && self.dynamic_max <= self.static_max
    }

    fn pinned(self) -> bool {
        self.static_min <= self.dynamic_min
            && self.dynamic_min == self.dynamic_max
            && self.dynamic_max == self.static_max
    }

    /// No more than the order is checked: zero and 4 EiB pass.
    fn check(self, world: &World, vm: &str) -> Result<(), Failure> {
        let nested = world.db.key("VM", vm, "platform", "nested-virt")?;
        let reason = if nested.is_some_and(|text| text == "1" || text == "true") {
            Some("VM requires memory to be pinned: nested virtualisation")
        } else if world.rules.dynamic_memory {
            None
        } else {
            Some("DMC disabled")
        };
        match reason {
            Some(reason) if !self.pinned() => {
                Err(Failure::new("MEMORY_CONSTRAINT_VIOLATION_MAXPIN", [reason]))
            }
            None if !self.in_order() => Err(Failure::code("MEMORY_CONSTRAINT_VIOLATION_ORDER")),
            _ => Ok(()),
        }
    }

    fn write(self, world: &mut World, vm: &str) -> Result<(), Failure> {
        self.check(world, vm)?;
        for (field, value) in [
            ("memory_static_min", self.static_min),
            ("memory_static_max", self.static_max),
            ("memory_dynamic_min", self.dynamic_min),
            ("memory_dynamic_max", self.dynamic_max),
        ] {
            world.db.set("VM", vm, field, value)?;
        }
        let overhead = overhead(self.static_max);
        world.db.set("VM", vm, "memory_overhead", overhead)
    }
}

/// What a domain of this size costs beside its own memory.
pub(crate) fn overhead(static_max: i64) -> i64 {
    const MIB: i64 = 1 << 20;
    // Shadow pages take about one part in 128, the rest is fixed.
    5 * MIB + (static_max / 128).max(0) / MIB * MIB
}

fn set_memory(world: &mut World, call: &Call) -> Reply {
    let (vm, value) = (call.text(0), call.int(1));
    check(world, vm, "changing_memory_limits")?;
    let static_min = Limits::of(world, vm)?.static_min;
    let limits = Limits {
        static_min,
        static_max: value,
        dynamic_min: value,
        dynamic_max: value,
    };
    write_halted(world, vm, limits)
}

/// The parameters come as minimum, maximum, minimum, maximum.
fn set_memory_limits(world: &mut World, call: &Call) -> Reply {
    let vm = call.text(0);
    check(world, vm, "changing_memory_limits")?;
    let limits = Limits {
        static_min: call.int(1),
        static_max: call.int(2),
        dynamic_min: call.int(3),
        dynamic_max: call.int(4),
    };
    write_halted(world, vm, limits)
}

fn write_halted(world: &mut World, vm: &str, limits: Limits) -> Reply {
    limits.write(world, vm)?;
    world
        .db
        .set("VM", vm, "memory_target", limits.dynamic_min)?;
    done()
}

fn change_static(world: &mut World, vm: &str, change: impl FnOnce(&mut Limits)) -> Reply {
    check(world, vm, "changing_static_range")?;
    let mut limits = Limits::of(world, vm)?;
    change(&mut limits);
    limits.write(world, vm)?;
    done()
}

fn set_static_range(world: &mut World, call: &Call) -> Reply {
    change_static(world, call.text(0), |limits| {
        limits.static_min = call.int(1);
        limits.static_max = call.int(2);
    })
}

fn set_static_min(world: &mut World, call: &Call) -> Reply {
    change_static(world, call.text(0), |limits| {
        limits.static_min = call.int(1)
    })
}

fn set_static_max(world: &mut World, call: &Call) -> Reply {
    change_static(world, call.text(0), |limits| {
        limits.static_max = call.int(1)
    })
}

fn change_dynamic(world: &mut World, vm: &str, change: impl FnOnce(&mut Limits)) -> Reply {
    check(world, vm, "changing_dynamic_range")?;
    let mut limits = Limits::of(world, vm)?;
    change(&mut limits);
    limits.write(world, vm)?;
    world
        .db
        .set("VM", vm, "memory_target", limits.dynamic_min)?;
    if power_of(world, vm)? == Power::Running {
        let metrics = world.db.text("VM", vm, "metrics")?;
        world
            .db
            .set("VM_metrics", &metrics, "memory_actual", limits.dynamic_max)?;
        vm_placement::account(world);
    }
    done()
}

fn set_dynamic_range(world: &mut World, call: &Call) -> Reply {
    change_dynamic(world, call.text(0), |limits| {
        limits.dynamic_min = call.int(1);
        limits.dynamic_max = call.int(2);
    })
}

fn set_dynamic_min(world: &mut World, call: &Call) -> Reply {
    change_dynamic(world, call.text(0), |limits| {
        limits.dynamic_min = call.int(1)
    })
}

fn set_dynamic_max(world: &mut World, call: &Call) -> Reply {
    change_dynamic(world, call.text(0), |limits| {
        limits.dynamic_max = call.int(1)
    })
}

fn compute_memory_overhead(world: &mut World, call: &Call) -> Reply {
    Ok(Value::Int(overhead(world.db.int(
        "VM",
        call.text(0),
        "memory_static_max",
    )?)))
}

fn check_vcpus(at_startup: i64, max: i64, offending: i64) -> Result<(), Failure> {
    if 0 < at_startup && at_startup <= max {
        return Ok(());
    }
    let rule = "VCPU values must satisfy: 0 < VCPUs_at_startup \u{2264} VCPUs_max";
    Err(Failure::invalid_value(rule, &offending.to_string()))
}

fn set_vcpus_max(world: &mut World, call: &Call) -> Reply {
    let (vm, max) = (call.text(0), call.int(1));
    check(world, vm, "changing_VCPUs")?;
    check_vcpus(world.db.int("VM", vm, "VCPUs_at_startup")?, max, max)?;
    world.db.set("VM", vm, "VCPUs_max", max)?;
    done()
}

/// Allowed in any power state; it counts from the next start.
fn set_vcpus_at_startup(world: &mut World, call: &Call) -> Reply {
    let (vm, value) = (call.text(0), call.int(1));
    if world.db.flag("VM", vm, "is_control_domain")? {
        let text = "set_VCPUs_at_startup is not allowed on dom0";
        return Err(Failure::not_allowed(text));
    }
    check_vcpus(value, world.db.int("VM", vm, "VCPUs_max")?, value)?;
    world.db.set("VM", vm, "VCPUs_at_startup", value)?;
    done()
}

fn set_vcpus_number_live(world: &mut World, call: &Call) -> Reply {
    let (vm, value) = (call.text(0), call.int(1));
    check(world, vm, "changing_VCPUs_live")?;
    check_vcpus(value, world.db.int("VM", vm, "VCPUs_max")?, value)?;
    let metrics = world.db.text("VM", vm, "metrics")?;
    world.db.set("VM", vm, "VCPUs_at_startup", value)?;
    world
        .db
        .set("VM_metrics", &metrics, "VCPUs_number", value)?;
    refresh(world, vm);
    done()
}

fn set_shadow_multiplier(world: &mut World, call: &Call) -> Reply {
    let vm = call.text(0);
    check(world, vm, "changing_shadow_memory")?;
    assert_multiplier(&call.arg(1))?;
    world
        .db
        .set("VM", vm, "HVM_shadow_multiplier", call.arg(1))?;
    done()
}

pub(crate) fn assert_multiplier(value: &Value) -> Result<(), Failure> {
    let Value::Float(value) = *value else {
        return Ok(());
    };
    if value >= 1.0 {
        return Ok(());
    }
    // Whole numbers keep their point.
    let mut text = crate::value::general(value, 12);
    if text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'-')) {
        text.push('.');
    }
    Err(Failure::invalid_value("multiplier", &text))
}
