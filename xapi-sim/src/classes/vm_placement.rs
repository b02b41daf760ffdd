//! Where VMs can run.

use std::collections::BTreeSet;

use super::{Table, done};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::value::{NULL_REF, Value, parse_int};
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("VM.assert_can_boot_here", Now(assert_can_boot_here)),
    ("VM.get_possible_hosts", Now(get_possible_hosts)),
    ("VM.assert_agile", Now(assert_agile)),
    ("VM.maximise_memory", Now(maximise_memory)),
    ("host.compute_free_memory", Now(compute_free_memory)),
];

/// Refuses a VM that no host could build.
pub(crate) fn assert_configuration(world: &World, vm: &str) -> Result<(), Failure> {
    let db = &world.db;
    let platform = |key: &str| db.key("VM", vm, "platform", key);
    if let Some(text) = platform("cores-per-socket")? {
        let Some(cores) = parse_int(&text) else {
            return Err(Failure::invalid_value("platform:cores-per-socket", &text));
        };
        let vcpus = db.int("VM", vm, "VCPUs_max")?;
        if cores <= 0 || vcpus % cores != 0 {
            let params = [vcpus.to_string(), text];
            return Err(Failure::new(
                "VCPU_MAX_NOT_CORES_PER_SOCKET_MULTIPLE",
                params,
            ));
        }
    }
    let firmware = db.key("VM", vm, "HVM_boot_params", "firmware")?;
    let wanted = match firmware.as_deref() {
        None | Some("bios") => "qemu-upstream-compat",
        Some("uefi") => "qemu-upstream-uefi",
        Some(other) => return Err(Failure::invalid_value("HVM-boot-params['firmware']", other)),
    };
    match platform("device-model")? {
        Some(model) if model.starts_with("qemu-upstream-") && model != wanted => {
            let firmware = firmware.unwrap_or_else(|| "bios".to_owned());
            let text = format!("{model} cannot be used with {firmware} firmware");
            Err(Failure::invalid_value("platform:device-model", &text))
        }
        _ => Ok(()),
    }
}

/// The memory that a VM takes from its host, when that is short: memory between the dynamic limits
/// can be taken back.
pub(crate) fn footprint(world: &World, vm: &str) -> Result<i64, Failure> {
    let memory = world.db.int("VM", vm, "memory_dynamic_min")?;
    Ok(memory.saturating_add(world.db.int("VM", vm, "memory_overhead")?))
}

/// The memory that a VM has.
fn taken(world: &World, vm: &str) -> Result<i64, Failure> {
    let metrics = world.db.text("VM", vm, "metrics")?;
    let memory = world.db.int("VM_metrics", &metrics, "memory_actual")?;
    Ok(memory.saturating_add(world.db.int("VM", vm, "memory_overhead")?))
}

/// The memory that a host can give to further VMs.
pub(crate) fn free_memory(world: &World, host: &str) -> Result<i64, Failure> {
    remaining(world, host, footprint)
}

/// The memory of a host without what its VMs take.
fn remaining(
    world: &World,
    host: &str,
    share: fn(&World, &str) -> Result<i64, Failure>,
) -> Result<i64, Failure> {
    let db = &world.db;
    let metrics = db.text("host", host, "metrics")?;
    let mut free = db.int("host_metrics", &metrics, "memory_total")?;
    free = free.saturating_sub(db.int("host", host, "memory_overhead")?);
    for vm in coming(world, host)? {
        free = free.saturating_sub(footprint(world, &vm)?);
    }
    for vm in db.list("host", host, "resident_VMs")? {
        // A start that failed leaves its VM on the host, though without memory.
        if db.text("VM", &vm, "power_state")? != "Halted" {
            free = free.saturating_sub(share(world, &vm)?);
        }
    }
    Ok(free.max(0))
}

/// The VMs that a host is about to have: it has set memory aside for them.
fn coming(world: &World, host: &str) -> Result<Vec<String>, Failure> {
    let db = &world.db;
    let operations = db.get("host", host, "current_operations")?.members();
    let mut starts = operations
        .iter()
        .filter(|(_, operation)| operation.as_str() == Some("vm_start"))
        .map(|(task, _)| task)
        .peekable();
    if starts.peek().is_none() {
        return Ok(Vec::new());
    }
    let tasks: BTreeSet<_> = starts.collect();
    let here = db.list("host", host, "resident_VMs")?;
    let mut coming = Vec::new();
    for vm in db.references("VM") {
        let current = db.get("VM", &vm, "current_operations")?.members();
        let is_coming = current.iter().any(|(task, _)| tasks.contains(task));
        if is_coming && !here.contains(&vm) {
            coming.push(vm);
        }
    }
    Ok(coming)
}

/// Brings the free memory of all hosts up to date.
pub(crate) fn account(world: &mut World) {
    for host in world.db.references("host") {
        let free = remaining(world, &host, taken);
        let metrics = world.db.text("host", &host, "metrics");
        if let (Ok(free), Ok(metrics)) = (free, metrics) {
            // The metrics of a host live as long as it does.
            let _ = world.db.set("host_metrics", &metrics, "memory_free", free);
        }
    }
}

/// Refuses a host that lacks something the VM needs.
pub(crate) fn assert_can_boot(
    world: &World,
    vm: &str,
    host: &str,
    with_memory: bool,
) -> Result<(), Failure> {
    assert_host(world, vm, host, with_memory, true)
}

/// The same for a VM that brings its disks along, and perhaps is there already.
pub(crate) fn assert_can_live(world: &World, vm: &str, host: &str) -> Result<(), Failure> {
    let moves = world.db.text("VM", vm, "resident_on")? != host;
    assert_host(world, vm, host, moves, false)
}

fn assert_host(
    world: &World,
    vm: &str,
    host: &str,
    with_memory: bool,
    with_storage: bool,
) -> Result<(), Failure> {
    assert_basics(world, vm)?;
    let db = &world.db;
    let metrics = db.text("host", host, "metrics")?;
    if !db.flag("host_metrics", &metrics, "live").unwrap_or(false) {
        return Err(Failure::code("HOST_NOT_LIVE"));
    }
    let stays =
        db.text("VM", vm, "power_state")? == "Running" && db.text("VM", vm, "resident_on")? == host;
    let exempt = stays || db.flag("VM", vm, "is_control_domain")?;
    if !exempt && !db.flag("host", host, "enabled")? {
        return Err(Failure::new("HOST_DISABLED", [host]));
    }
    if world.down.contains_key(host) {
        return Err(Failure::code("HOST_NOT_LIVE"));
    }
    for vbd in db.list("VM", vm, "VBDs")? {
        let vdi = db.text("VBD", &vbd, "VDI")?;
        if vdi == NULL_REF || !with_storage {
            continue;
        }
        let sr = db.text("VDI", &vdi, "SR")?;
        if !has_storage(world, &sr, host) {
            return Err(Failure::new("VM_REQUIRES_SR", [vm, sr.as_str()]));
        }
    }
    for vif in db.list("VM", vm, "VIFs")? {
        let network = db.text("VIF", &vif, "network")?;
        if !has_network(world, &network, host) {
            return Err(Failure::new("VM_REQUIRES_NETWORK", [vm, network.as_str()]));
        }
    }
    if with_memory {
        let (needed, available) = (footprint(world, vm)?, free_memory(world, host)?);
        if needed > available {
            let params = [needed.to_string(), available.to_string()];
            return Err(Failure::new("HOST_NOT_ENOUGH_FREE_MEMORY", params));
        }
    }
    let wanted = db.int("VM", vm, "VCPUs_max")?;
    let cpus = db.key("host", host, "cpu_info", "cpu_count")?;
    let cpus = cpus.as_deref().and_then(parse_int).unwrap_or(i64::MAX);
    let unrestricted = db.key("VM", vm, "platform", "vcpu-unrestricted")?;
    if wanted > cpus && !matches!(unrestricted.as_deref(), Some("1" | "true")) {
        let params = [wanted.to_string(), cpus.to_string()];
        return Err(Failure::new("HOST_NOT_ENOUGH_PCPUS", params));
    }
    Ok(())
}

/// Refuses a VM whose settings make no sense on any host. Nothing looks at them earlier.
fn assert_basics(world: &World, vm: &str) -> Result<(), Failure> {
    let int = |field: &str| world.db.int("VM", vm, field);
    let (most, first) = (int("VCPUs_max")?, int("VCPUs_at_startup")?);
    if most < 1 {
        return Err(Failure::invalid_value("VCPUs_max", &most.to_string()));
    }
    if first < 1 {
        let first = first.to_string();
        return Err(Failure::invalid_value("VCPUs-at-startup", &first));
    }
    if first > most {
        let first = first.to_string();
        let params = ["VCPUs-at-startup", &first, "value greater than VCPUs-max"];
        return Err(Failure::new("VALUE_NOT_SUPPORTED", params));
    }
    // Limits that can be bent into order are good enough.
    if int("memory_static_min")? > int("memory_static_max")? {
        return Err(Failure::code("MEMORY_CONSTRAINT_VIOLATION"));
    }
    let action = world.db.text("VM", vm, "actions_after_crash")?;
    let reason = match action.as_str() {
        "rename_restart" => {
            "option would leak a domain; VMs and not domains are managed by this API"
        }
        "coredump_and_destroy" | "coredump_and_restart"
            if world.db.text("VM", vm, "domain_type")? != "pv" =>
        {
            "cannot invoke a coredump of an HVM, PVH or PV-in-PVH domain"
        }
        _ => return Ok(()),
    };
    let params = ["VM.actions_after_crash", &action, reason];
    Err(Failure::new("VALUE_NOT_SUPPORTED", params))
}

pub(crate) fn has_storage(world: &World, sr: &str, host: &str) -> bool {
    let db = &world.db;
    db.list("SR", sr, "PBDs")
        .unwrap_or_default()
        .iter()
        .any(|pbd| {
            db.text("PBD", pbd, "host").is_ok_and(|at| at == host)
                && db.flag("PBD", pbd, "currently_attached").unwrap_or(false)
        })
}

/// A network without interfaces is internal: it is wherever the first VM that uses it runs.
pub(crate) fn has_network(world: &World, network: &str, host: &str) -> bool {
    let db = &world.db;
    let pifs = db.list("network", network, "PIFs").unwrap_or_default();
    let is_here = |class: &str, reference: &str, field: &str| {
        db.text(class, reference, field).is_ok_and(|at| at == host)
    };
    if !pifs.is_empty() {
        return pifs.iter().any(|pif| is_here("PIF", pif, "host"));
    }
    let vifs = db.list("network", network, "VIFs").unwrap_or_default();
    vifs.iter().all(|vif| {
        let attached = db.flag("VIF", vif, "currently_attached").unwrap_or(false);
        let vm = db.text("VIF", vif, "VM").unwrap_or_default();
        let at = db.text("VM", &vm, "resident_on").unwrap_or_default();
        !attached || at == NULL_REF || at == host
    })
}

/// Picks a host: the one that the VM prefers, else the one with most free memory.
pub(crate) fn choose(world: &World, vm: &str) -> Result<String, Failure> {
    let mut hosts: Vec<(bool, i64, String)> = Vec::new();
    let affinity = world.db.text("VM", vm, "affinity")?;
    for host in world.db.references("host") {
        hosts.push((host == affinity, free_memory(world, &host)?, host));
    }
    hosts.sort();
    let mut shortage = None;
    for (_, _, host) in hosts.into_iter().rev() {
        match assert_can_boot(world, vm, &host, true) {
            Ok(()) => return Ok(host),
            Err(failure) if failure.code == "HOST_NOT_ENOUGH_FREE_MEMORY" => {
                shortage.get_or_insert(failure);
            }
            Err(_) => {}
        }
    }
    Err(shortage.unwrap_or_else(|| Failure::code("NO_HOSTS_AVAILABLE")))
}

fn assert_can_boot_here(world: &mut World, call: &Call) -> Reply {
    let (vm, host) = (call.text(0), call.text(1));
    world.db.require("VM", vm)?;
    assert_can_boot(world, vm, host, true)?;
    done()
}

fn get_possible_hosts(world: &mut World, call: &Call) -> Reply {
    world.db.require("VM", call.text(0))?;
    Ok(Value::strings(possible_hosts(world, call.text(0))))
}

/// The hosts that could boot a VM now.
pub(crate) fn possible_hosts(world: &World, vm: &str) -> Vec<String> {
    let hosts = world.db.references("host").into_iter();
    hosts
        .filter(|host| assert_can_boot(world, vm, host, true).is_ok())
        .collect()
}

fn assert_agile(world: &mut World, call: &Call) -> Reply {
    check_agile(world, call.text(0))?;
    done()
}

/// Whether a VM can run on any host.
pub(crate) fn is_agile(world: &World, vm: &str) -> Result<bool, Failure> {
    world.db.require("VM", vm)?;
    Ok(check_agile(world, vm).is_ok())
}

fn check_agile(world: &World, vm: &str) -> Result<(), Failure> {
    let db = &world.db;
    for vbd in db.list("VM", vm, "VBDs")? {
        let vdi = db.text("VBD", &vbd, "VDI")?;
        if vdi == NULL_REF {
            continue;
        }
        let sr = db.text("VDI", &vdi, "SR")?;
        if !db.flag("SR", &sr, "shared")? {
            return Err(Failure::new("HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", [sr]));
        }
    }
    for vif in db.list("VM", vm, "VIFs")? {
        let network = db.text("VIF", &vif, "network")?;
        let here = |host: &String| has_network(world, &network, host);
        if !db.references("host").iter().all(here) {
            let code = "HA_CONSTRAINT_VIOLATION_NETWORK_NOT_SHARED";
            return Err(Failure::new(code, [network]));
        }
    }
    Ok(())
}

/// `VM.maximise_memory(vm, total, approximate)`: how much memory a VM can have of so much.
fn maximise_memory(world: &mut World, call: &Call) -> Reply {
    let overhead = world.db.int("VM", call.text(0), "memory_overhead")?;
    Ok(Value::Int(call.int(1).saturating_sub(overhead).max(0)))
}

fn compute_free_memory(world: &mut World, call: &Call) -> Reply {
    free_memory(world, call.text(0)).map(Value::Int)
}
