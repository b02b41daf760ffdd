//! Systems that run: what a VM boots from, and what becomes of it until it ends.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use tokio::sync::watch;

use super::bytes::{self, AttachedBytes};
use super::{Disk, Installed, Running};
use crate::classes;
use crate::failure::Failure;
use crate::guest::freeze::{Freezer, Frozen};
use crate::guest::{BootConfig, ConfigDrive, Guest};
use crate::image::Firmware;
use crate::report::{self, GuestReport};
use crate::world::{Shared, World};

/// The disks that a VM could boot from, with what is on them: bootable ones first, then in the
/// order of its devices.
fn boot_disks(world: &World, vm: &str) -> Vec<(String, Disk)> {
    let db = &world.db;
    let vbds = db.list("VM", vm, "VBDs").unwrap_or_default();
    let mut disks: Vec<(bool, i64, String, Disk)> = vbds
        .into_iter()
        .filter_map(|vbd| {
            let vdi = db.text("VBD", &vbd, "VDI").ok()?;
            let disk = world.disks.get(&vdi)?.clone();
            let device = db.text("VBD", &vbd, "userdevice").ok()?;
            let bootable = db.flag("VBD", &vbd, "bootable").ok()?;
            let number = classes::vbd::disk_number(&device).unwrap_or(i64::MAX);
            Some((!bootable, number, vdi, disk))
        })
        .collect();
    disks.sort_by_key(|(not_bootable, device, ..)| (*not_bootable, *device));
    let disks = disks.into_iter();
    disks.map(|(.., vdi, disk)| (vdi, disk)).collect()
}

/// The interfaces of a VM in the order of their numbers, with their MAC addresses.
fn interfaces(world: &World, vm: &str) -> Result<Vec<(String, String)>, Failure> {
    let mut all = Vec::new();
    for vif in world.db.list("VM", vm, "VIFs")? {
        let device = world.db.text("VIF", &vif, "device")?;
        all.push((device, world.db.text("VIF", &vif, "MAC")?));
    }
    all.sort_by_key(|(device, _)| (device.len(), device.clone()));
    Ok(all)
}

/// The fixed addresses that a config drive gives the interfaces of a VM, each with the number of the
/// interface. What names no MAC address is meant for the interface in its place.
fn fixed_addresses(drive: &ConfigDrive, interfaces: &[(String, String)]) -> Vec<(String, IpAddr)> {
    let said = drive.interfaces().into_iter().enumerate();
    let fixed = said.filter_map(|(place, said)| {
        let (device, _) = match &said.mac {
            Some(mac) => interfaces
                .iter()
                .find(|(_, own)| own.eq_ignore_ascii_case(mac)),
            None => interfaces.get(place),
        }?;
        Some((device.clone(), said.address?))
    });
    fixed.collect()
}

/// Everything that has to be known to boot what is on a VM's disk.
#[derive(Debug)]
pub(crate) struct BootPlan {
    /// The disks with something on them, in the order in which the firmware looks at them.
    disks: Vec<(String, Disk)>,
    firmware: Firmware,
    config: BootConfig,
    /// Where a system with cloud-init looks for its config drive.
    attached: Vec<AttachedBytes>,
    /// The interfaces that are to be plugged in, by number, with their MAC addresses.
    interfaces: Vec<(String, String)>,
    pretended: Ipv4Addr,
}

impl BootPlan {
    /// `None` for a VM whose disks are empty: its domain runs and nothing ever reports from it.
    pub(crate) fn of(world: &mut World, vm: &str) -> Result<Option<BootPlan>, Failure> {
        let disks = boot_disks(world, vm);
        if disks.is_empty() {
            return Ok(None);
        }
        let firmware = world.db.key("VM", vm, "HVM_boot_params", "firmware")?;
        let firmware = match firmware.as_deref() {
            Some("uefi") => Firmware::Uefi,
            _ => Firmware::Bios,
        };
        let name = world.db.text("VM", vm, "name_label")?;
        let data = world.db.get("VM", vm, "xenstore_data")?.members();
        let vm_data: BTreeMap<String, String> = data
            .iter()
            .filter_map(|(key, value)| {
                // Other keys never reach the guest.
                let key = key.strip_prefix("vm-data/")?;
                Some((key.to_owned(), value.as_str()?.to_owned()))
            })
            .collect();
        let mut config = BootConfig::new(name);
        config.vm_data = vm_data;
        config.uuid = Some(world.db.text("VM", vm, "uuid")?);
        config.address = world.leases.get(vm).copied();
        world.counters.addresses += 1;
        let host = 10 + world.counters.addresses % 240;
        // Documentation addresses: nobody answers there.
        let pretended = Ipv4Addr::from(u32::from(Ipv4Addr::new(192, 0, 2, 0)) + host);
        Ok(Some(BootPlan {
            disks,
            firmware,
            config,
            attached: bytes::attached_bytes(world, vm),
            interfaces: interfaces(world, vm)?,
            pretended,
        }))
    }
}

impl BootPlan {
    /// The first system that is found.
    async fn system(&self, shared: &Shared) -> Result<Option<Installed>, Failure> {
        for (vdi, disk) in &self.disks {
            let found = match disk {
                Disk::System(installed) => Some(installed.clone()),
                Disk::Raw(raw) => bytes::system_in(shared, vdi, raw, self.firmware).await?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

/// What has been booted.
#[derive(Debug)]
pub(crate) struct Booted {
    address: IpAddr,
    guest: Option<Guest>,
    /// Addresses of interfaces other than the first, by number.
    further: Vec<(String, IpAddr)>,
    report: GuestReport,
}

/// Boots what is on a VM's disk, and gives where it can be reached.
pub(crate) async fn boot(
    shared: &Shared,
    plan: Option<BootPlan>,
) -> Result<Option<Booted>, Failure> {
    let Some(mut plan) = plan else {
        return Ok(None);
    };
    let Some(system) = plan.system(shared).await? else {
        return Ok(None);
    };
    let mut fixed = None;
    let mut further = Vec::new();
    if system.cloud_init {
        let drives = bytes::config_drives(plan.attached).await?;
        let first = plan.interfaces.first().map(|(device, _)| device.as_str());
        for (device, address) in drives
            .last()
            .map(|drive| fixed_addresses(drive, &plan.interfaces))
            .unwrap_or_default()
        {
            match Some(device.as_str()) == first {
                true => fixed = Some(address),
                false => further.push((device, address)),
            }
        }
        if let Some(IpAddr::V4(address)) = fixed {
            plan.config.address = Some(address);
        }
        plan.config.config_drives = Some(drives);
    }
    let guest = shared.guests.boot(&system, plan.config).await?;
    let address = guest
        .as_ref()
        .map_or(IpAddr::V4(plan.pretended), |guest| guest.address().ip());
    // The guest reports what it was told, whether or not this machine can route it there.
    let address = fixed.unwrap_or(address);
    Ok(Some(Booted {
        address,
        guest,
        further,
        report: system.report,
    }))
}

/// Notes that a system runs in a VM and follows it: its report appears in the guest metrics later,
/// and the VM halts when the guest ends by itself.
pub(crate) fn follow(
    shared: &Arc<Shared>,
    world: &mut World,
    vm: &str,
    domain: i64,
    booted: Option<Booted>,
) {
    let Some(booted) = booted else { return };
    let Booted {
        address,
        guest,
        further,
        report,
    } = booted;
    if shared.is_closed() {
        // Too late: nobody would end this guest.
        return;
    }
    if let (Some(_), IpAddr::V4(address)) = (&guest, address) {
        world.leases.insert(vm.to_owned(), address);
    }
    let exited = guest.as_ref().map(Guest::exited);
    let agent_delay = world.rules.agent_delay;
    let asleep = watch::Sender::new(false);
    let mut sleeps = asleep.subscribe();
    world.running.insert(
        vm.to_owned(),
        Running {
            domain,
            address,
            further,
            guest,
            asleep,
        },
    );
    let (shared, vm) = (Arc::clone(shared), vm.to_owned());
    tokio::spawn(async move {
        let reports = async {
            if report == GuestReport::NoTools {
                return;
            }
            tokio::time::sleep(agent_delay).await;
            // An end of the channel is the end of the run, which is looked for below.
            let _ = sleeps.wait_for(|asleep| !asleep).await;
            shared.with(|world| {
                tell(world, &vm, domain, |world, address| {
                    report::write(world, &vm, report.first(), address)
                });
            });
            let Some(delay) = report.second_after() else {
                return;
            };
            tokio::time::sleep(delay).await;
            let _ = sleeps.wait_for(|asleep| !asleep).await;
            shared.with(|world| {
                tell(world, &vm, domain, |world, address| {
                    report::update(world, &vm, report.last(), address)
                });
            });
        };
        let Some(exited) = exited else {
            tokio::select! {
                () = shared.closed() => {}
                () = reports => {}
            }
            return;
        };
        let reports_and_then_nothing = async {
            reports.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = shared.closed() => {}
            () = reports_and_then_nothing => {}
            () = exited => shared.with(|world| {
                if world.running.get(&vm).is_some_and(|running| running.domain == domain) {
                    tracing::info!(%vm, "the guest has ended by itself");
                    let _ = classes::vm_power::halt(world, &vm);
                }
            }),
        }
    });
}

/// Writes something that the guest's agent reports, unless that run of the VM has ended.
fn tell(
    world: &mut World,
    vm: &str,
    domain: i64,
    write: impl FnOnce(&mut World, IpAddr) -> Result<(), Failure>,
) {
    let running = world.running.get(vm);
    let Some(running) = running.filter(|running| running.domain == domain) else {
        return;
    };
    let address = running.address;
    if let Err(failure) = write(world, address) {
        tracing::warn!(%failure, "guest metrics are not written");
    }
}

/// Lets what runs in a VM stand still: its processes stop where they are. Returns when they have.
pub(crate) async fn sleep(shared: &Shared, vm: &str) {
    if let Some(freezer) = set_asleep(shared, vm, true) {
        // Only a runtime that shuts down refuses, and the guest with it.
        let _ = tokio::task::spawn_blocking(move || freezer.freeze()).await;
    }
}

/// Lets what stands still in a VM go on.
pub(crate) fn wake(shared: &Shared, vm: &str) {
    if let Some(freezer) = set_asleep(shared, vm, false) {
        freezer.thaw();
    }
}

/// Notes whether a VM sleeps. Gives what stops its guest if that has to be done.
fn set_asleep(shared: &Shared, vm: &str, sleeps: bool) -> Option<Arc<Freezer>> {
    shared.with(|world| {
        let running = world.running.get(vm)?;
        if running.asleep.send_replace(sleeps) == sleeps {
            return None;
        }
        running.guest.as_ref().map(Guest::freezer)
    })
}

/// Keeps the guest of a VM still until the result is dropped, if it has one.
pub(crate) async fn freeze(shared: &Shared, vm: &str) -> Option<Frozen> {
    let freezer = shared.with(|world| {
        let guest = world.running.get(vm)?.guest.as_ref()?;
        Some(guest.freezer())
    })?;
    let frozen = tokio::task::spawn_blocking(move || Frozen::new(freezer));
    frozen.await.ok()
}

/// Stops what runs in a VM: politely or by cutting its power. Returns when all its processes have
/// ended, also when somebody else is stopping them.
pub(crate) async fn stop(shared: &Shared, vm: &str, clean: bool) {
    let (guest, others) = shared.with(|world| {
        let guest = world.running.remove(vm).and_then(|running| running.guest);
        let others = world.stopping.get(vm).map(watch::Sender::subscribe);
        if guest.is_some() {
            world.stopping.insert(vm.to_owned(), watch::Sender::new(()));
        }
        (guest, others)
    });
    match (guest, others) {
        (Some(guest), _) => {
            let _end = Stopping { shared, vm };
            if clean {
                guest.shutdown().await;
            } else {
                guest.power_off().await;
            }
        }
        // Nothing is ever sent: the end of the channel is the end of the guest.
        (None, Some(mut others)) => drop(others.changed().await),
        (None, None) => {}
    }
}

/// Tells those who wait that a guest has ended, or that nobody is ending it any more.
struct Stopping<'s> {
    shared: &'s Shared,
    vm: &'s str,
}

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.shared.with(|world| world.stopping.remove(self.vm));
    }
}
