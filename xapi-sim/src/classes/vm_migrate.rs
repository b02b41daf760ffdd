//! VMs and disks that move: to another host with or without their disks, and disks to another SR
//! under a VM that goes on.

use std::sync::Arc;

use super::operation::{Mark, Operation};
use super::{Table, check, done, power_of, refresh, session, sr, vbd, vdi, vm_placement};
use crate::dispatch::Handler::{Later, Now};
use crate::dispatch::Pending;
use crate::failure::{Failure, Reply};
use crate::lifecycle::{self, Power};
use crate::value::{NULL_REF, Value};
use crate::world::{Call, Shared, World};

pub(crate) const TABLE: Table = &[
    ("host.migrate_receive", Now(migrate_receive)),
    (
        "VM.migrate_send",
        Later(|shared, call| Box::pin(migrate_send(shared, call))),
    ),
    (
        "VM.assert_can_migrate",
        Now(|world, call| {
            Journey::of_call(world, call, 5).and_then(|journey| journey.check(world))?;
            done()
        }),
    ),
    // The same with the last two parameters exchanged.
    (
        "VM.assert_can_migrate_sender",
        Now(|world, call| {
            Journey::of_call(world, call, 6).and_then(|journey| journey.check(world))?;
            done()
        }),
    ),
    ("VDI.pool_migrate", Later(move_disk)),
];

/// `host.migrate_receive(host, network, options)`: what the sender has to know of the receiver,
/// with a session of its own.
fn migrate_receive(world: &mut World, call: &Call) -> Reply {
    let (host, network) = (call.text(0), call.text(1));
    world.db.require("host", host)?;
    let pifs = world.db.list("network", network, "PIFs")?;
    let db = &world.db;
    let here = |pif: &&String| db.text("PIF", pif, "host").is_ok_and(|at| at == host);
    let Some(pif) = pifs.iter().find(here) else {
        let params = [host, network];
        return Err(Failure::new("HOST_CANNOT_ATTACH_NETWORK", params));
    };
    let address = db.text("PIF", pif, "IP")?;
    if address.is_empty() {
        let configured = db.text("PIF", pif, "ip_configuration_mode")? != "None";
        let code = if configured {
            "INTERFACE_HAS_NO_IP"
        } else {
            "PIF_HAS_NO_NETWORK_CONFIGURATION"
        };
        return Err(Failure::new(code, [pif]));
    }
    let master = db.text("host", &world.coordinator(), "address")?;
    let session = session::another(world, &call.session)?;
    let service = |name: &str| format!("http://{address}/services/{name}?session_id={session}");
    Ok(Value::map([
        ("SM", service("SM")),
        ("host", host.to_owned()),
        ("xenops", service("xenops")),
        ("session_id", session.clone()),
        ("master", format!("http://{master}/")),
    ]))
}

/// Where a VM goes, and where its disks go.
struct Journey {
    vm: String,
    host: String,
    live: bool,
    /// Disk → SR, where they differ.
    disks: Vec<(String, String)>,
    renames_networks: bool,
    copies: bool,
}

impl Journey {
    /// Reads `(vm, dest, live, vdi_map, vif_map, ...)`, with the options at a place.
    fn of_call(world: &World, call: &Call, options: usize) -> Result<Journey, Failure> {
        let dest = call.arg(1);
        for key in ["master", "xenops", "session_id", "host"] {
            if dest.get(key).is_none() {
                return Err(Failure::internal("Not_found"));
            }
        }
        let text = |key: &str| dest.get(key).and_then(Value::as_str).unwrap_or_default();
        let host = text("host").to_owned();
        world.db.require("VM", call.text(0))?;
        if !world.db.exists("host", &host) {
            // The other pool is somewhere that nobody answers.
            let address = text("master").trim_start_matches("http://");
            let address = address.trim_end_matches('/');
            return Err(Failure::new("CANNOT_CONTACT_HOST", [address]));
        }
        let mut disks = Vec::new();
        for (vdi, sr) in call.arg(3).members() {
            let sr = sr.as_str().unwrap_or_default();
            world.db.require("SR", sr)?;
            if world.db.text("VDI", vdi, "SR")? != sr {
                disks.push((vdi.clone(), sr.to_owned()));
            }
        }
        let copies = call.arg(options);
        let copies = copies.get("copy").and_then(Value::as_str) == Some("true");
        Ok(Journey {
            vm: call.text(0).to_owned(),
            host,
            live: call.flag(2),
            disks,
            renames_networks: !call.arg(4).members().is_empty(),
            copies,
        })
    }

    /// Refuses a journey with the first failure that a real server would find.
    fn check(&self, world: &World) -> Result<(), Failure> {
        let (vm, host) = (self.vm.as_str(), self.host.as_str());
        check(world, vm, "migrate_send")?;
        let power = power_of(world, vm)?;
        if power == Power::Running && !self.live {
            let expected = [Power::Halted, Power::Suspended];
            return Err(lifecycle::bad_power_state(vm, &expected, power));
        }
        vm_placement::assert_can_live(world, vm, host)?;
        if self.renames_networks {
            let text = "VIF mapping is not supported for intra-pool migration";
            return Err(Failure::new("NOT_IMPLEMENTED", [text]));
        }
        if self.copies {
            let text = "Copy mode is only supported for cross-pool migration";
            return Err(Failure::not_allowed(text));
        }
        for vdi in disks_of(world, vm)? {
            self.check_disk(world, &vdi)?;
        }
        Ok(())
    }

    fn check_disk(&self, world: &World, vdi: &str) -> Result<(), Failure> {
        let from = world.db.text("VDI", vdi, "SR")?;
        let to = self.disks.iter().find(|(moved, _)| moved == vdi);
        let Some((_, to)) = to else {
            if vm_placement::has_storage(world, &from, &self.host) {
                return Ok(());
            }
            return Err(Failure::new("VDI_NOT_IN_MAP", [vdi]));
        };
        if !vm_placement::has_storage(world, to, &self.host) {
            let params = [self.vm.as_str(), to.as_str()];
            return Err(Failure::new("VM_REQUIRES_SR", params));
        }
        assert_mirrors(world, &from)?;
        assert_mirrors(world, to)?;
        if world.db.text("VDI", vdi, "on_boot")? == "reset" {
            let code = "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION";
            return Err(Failure::code(code));
        }
        if world.db.flag("VDI", vdi, "cbt_enabled")? {
            return Err(Failure::new("VDI_CBT_ENABLED", [vdi]));
        }
        let (_, space) = sr::layout(world, to, world.db.int("VDI", vdi, "virtual_size")?)?;
        sr::assert_space(world, to, space)
    }
}

/// Refuses an SR from or to which no disk in use can move.
fn assert_mirrors(world: &World, sr: &str) -> Result<(), Failure> {
    if super::sm::can(&world.db, sr, "VDI_MIRROR") {
        return Ok(());
    }
    let params = [sr, "VDI_MIRROR"];
    Err(Failure::new("SR_DOES_NOT_SUPPORT_MIGRATION", params))
}

/// The disks in the drives of a VM, ISO images left out.
fn disks_of(world: &World, vm: &str) -> Result<Vec<String>, Failure> {
    let db = &world.db;
    let mut disks = Vec::new();
    for vbd in db.list("VM", vm, "VBDs")? {
        let vdi = db.text("VBD", &vbd, "VDI")?;
        if vdi != NULL_REF && db.text("VBD", &vbd, "type")? == "Disk" {
            disks.push(vdi);
        }
    }
    Ok(disks)
}

/// `VM.migrate_send(vm, dest, live, vdi_map, vif_map, options, vgpu_map)` within the pool: the VM
/// keeps its reference, its moved disks get new ones.
async fn migrate_send(shared: Arc<Shared>, call: Arc<Call>) -> Reply {
    let begin = |world: &mut World| {
        let journey = Journey::of_call(world, &call, 5)?;
        journey.check(world)?;
        let operation = start(&shared, world, &call, &journey)?;
        Ok((operation, journey))
    };
    let (operation, journey) = shared.patiently(begin).await?;
    operation.work().await?;
    operation.finish(|world| arrive(world, &journey))?;
    Ok(Value::String(journey.vm))
}

fn start(
    shared: &Arc<Shared>,
    world: &mut World,
    call: &Call,
    journey: &Journey,
) -> Result<Operation, Failure> {
    let mut operation = Operation::begin_for(shared, world, call, &journey.vm, "migrate_send")?;
    for (vdi, sr) in &journey.disks {
        operation.also(world, Mark::new("VDI", vdi.as_str(), "mirror"));
        operation.also(world, Mark::new("SR", sr.as_str(), "vdi_mirror"));
    }
    if power_of(world, &journey.vm)?.is_live() {
        operation.also(
            world,
            Mark::new("host", journey.host.as_str(), "vm_migrate"),
        );
    }
    Ok(operation)
}

/// Makes a VM and its disks be where they were sent to.
fn arrive(world: &mut World, journey: &Journey) -> Result<(), Failure> {
    for (vdi, sr) in &journey.disks {
        relocate(world, vdi, sr)?;
    }
    if power_of(world, &journey.vm)?.is_live() {
        world.counters.domains += 1;
        let domain = world.counters.domains;
        world.db.set("VM", &journey.vm, "domid", domain)?;
        let host = journey.host.as_str();
        world.db.set("VM", &journey.vm, "resident_on", host)?;
        if let Some(running) = world.running.get_mut(&journey.vm) {
            running.domain = domain;
        }
        vm_placement::account(world);
    }
    refresh(world, &journey.vm);
    Ok(())
}

/// Moves a disk and its snapshots to another SR, where they are new disks, and gives the new one.
/// What refers to them refers to the new ones then.
fn relocate(world: &mut World, vdi: &str, sr: &str) -> Result<String, Failure> {
    let moved = relocate_one(world, vdi, sr)?;
    for snapshot in world.db.references("VDI") {
        if world.db.text("VDI", &snapshot, "snapshot_of")? == vdi {
            let version = relocate_one(world, &snapshot, sr)?;
            world
                .db
                .set("VDI", &version, "snapshot_of", moved.as_str())?;
        }
    }
    Ok(moved)
}

fn relocate_one(world: &mut World, vdi: &str, sr: &str) -> Result<String, Failure> {
    const OWN: [&str; 9] = [
        "uuid",
        "SR",
        "location",
        "VBDs",
        "crash_dumps",
        "allowed_operations",
        "current_operations",
        "snapshots",
        "physical_utilisation",
    ];
    let record = world.db.record("VDI", vdi)?;
    let members = record.members().iter();
    let kept = members.filter(|(field, _)| !OWN.contains(&field.as_str()));
    let mut values: Vec<(&str, Value)> = kept
        .map(|(field, value)| (field.as_str(), value.clone()))
        .collect();
    values.push(("SR", Value::from(sr)));
    let size = world.db.int("VDI", vdi, "virtual_size")?;
    let moved = vdi::add(world, values, size)?;
    for device in world.db.list("VDI", vdi, "VBDs")? {
        world.db.set("VBD", &device, "VDI", moved.as_str())?;
        vbd::refresh(world, &device)?;
    }
    if let Some(disk) = vdi::remove(world, vdi)? {
        world.disks.insert(moved.clone(), disk);
    }
    vdi::refresh(world, &moved);
    Ok(moved)
}

/// `VDI.pool_migrate(vdi, sr, options)`: moves a disk under its VM, which has to have one.
fn move_disk(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        let (vdi, sr) = (call.text(0), call.text(1));
        let begin = |world: &mut World| {
            world.db.require("SR", sr)?;
            let devices = world.db.list("VDI", vdi, "VBDs")?;
            let Some(device) = devices.first() else {
                return Err(Failure::new("VDI_NEEDS_VM_FOR_MIGRATE", [vdi]));
            };
            let vm = world.db.text("VBD", device, "VM")?;
            let host = match power_of(world, &vm)? {
                Power::Halted => world.coordinator(),
                _ => world.db.text("VM", &vm, "resident_on")?,
            };
            let journey = Journey {
                vm,
                host,
                live: true,
                disks: vec![(vdi.to_owned(), sr.to_owned())],
                renames_networks: false,
                copies: false,
            };
            journey.check(world)?;
            let operation = start(&shared, world, &call, &journey)?;
            Ok(operation)
        };
        if shared.with(|world| world.db.text("VDI", vdi, "SR").is_ok_and(|at| at == sr)) {
            return Ok(Value::from(vdi));
        }
        let operation = shared.patiently(begin).await?;
        operation.work().await?;
        operation
            .finish(|world| relocate(world, vdi, sr))
            .map(Value::String)
    })
}
