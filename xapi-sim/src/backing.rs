//! What stands behind the records: disks that hold a system or bytes, and the guests that run from
//! them.
//!
//! The files of a guest belong to the VDI and not to the VM, as on a real host: `VM.destroy`
//! leaves them, `VDI.destroy` removes them, cloning a VDI copies them. A VM runs a guest when its
//! boot disk holds one.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use tokio::sync::watch;

use crate::classes;
use crate::failure::Failure;
use crate::guest::cloud_init::LARGEST as LARGEST_DRIVE;
use crate::guest::{BootConfig, ConfigDrive, Guest, GuestDisk, GuestError, Guests};
use crate::report::{self, GuestReport};
use crate::storage::RawDisk;
use crate::world::{Shared, World};

/// What is on a VDI.
#[derive(Debug, Clone)]
pub(crate) enum Disk {
    /// A system, whose files have no form as bytes of a disk.
    System(Installed),
    /// Bytes that a client has written.
    Raw(Arc<RawDisk>),
}

/// A system on a VDI.
#[derive(Debug, Clone)]
pub(crate) struct Installed {
    system: System,
    /// Whether it takes keys and name from a config drive, and from nothing else.
    cloud_init: bool,
    /// What its agent will tell.
    report: GuestReport,
}

#[derive(Debug, Clone)]
enum System {
    /// A system with a guest agent that only pretends to run.
    Simulated,
    /// The files of a real guest.
    Guest(Arc<BackedDisk>),
}

/// The files of a guest.
#[derive(Debug)]
pub(crate) struct BackedDisk {
    disk: GuestDisk,
    /// One copy at a time: copying needs the disk for itself, as running does.
    copying: tokio::sync::Mutex<()>,
}

/// A system that runs in a VM.
#[derive(Debug)]
pub(crate) struct Running {
    /// The domain in which it booted, which tells this run from earlier and later ones.
    pub(crate) domain: i64,
    /// Where the guest says it can be reached.
    pub(crate) address: IpAddr,
    pub(crate) guest: Option<Guest>,
}

/// Where guests are booted, if anywhere.
#[derive(Debug)]
pub(crate) struct GuestHost {
    pub(crate) guests: Option<Guests>,
}

impl GuestHost {
    /// An empty disk with a system on it: a real one where guests are real.
    pub(crate) async fn install(
        &self,
        name: &str,
        report: GuestReport,
        cloud_init: bool,
    ) -> Result<Disk, GuestError> {
        let system = match &self.guests {
            Some(guests) if cloud_init => backed(guests.create_with_cloud_init(name).await?),
            Some(guests) => backed(guests.create(name).await?),
            None => System::Simulated,
        };
        Ok(Disk::System(Installed {
            system,
            cloud_init,
            report,
        }))
    }

    /// A disk with the same content.
    async fn copy(&self, of: &Installed, name: &str) -> Result<Installed, Failure> {
        match (&of.system, &self.guests) {
            (System::Guest(source), Some(guests)) => {
                let _turn = source.copying.lock().await;
                let copy = guests.copy(&source.disk, name).await;
                let copy = copy.map_err(|error| storage_failure(&error))?;
                Ok(Installed {
                    system: backed(copy),
                    cloud_init: of.cloud_init,
                    report: of.report,
                })
            }
            _ => Ok(of.clone()),
        }
    }

    async fn boot(&self, disk: &Installed, config: BootConfig) -> Result<Option<Guest>, Failure> {
        let (System::Guest(backed), Some(guests)) = (&disk.system, &self.guests) else {
            return Ok(None);
        };
        // A copy under way would make the boot fail; it does not last long.
        let _turn = backed.copying.lock().await;
        let mut result = guests.boot(&backed.disk, config.clone()).await;
        if matches!(result, Err(GuestError::AddressTaken { .. })) {
            // As with any lease: the old address if it is to be had, else a new one.
            let mut config = config;
            config.address = None;
            result = guests.boot(&backed.disk, config).await;
        }
        result.map(Some).map_err(|error| {
            let text = whole(&error);
            tracing::error!(%text, "guest does not boot");
            Failure::internal(format!("xenopsd internal error: {text}"))
        })
    }
}

/// A disk with the same content as another.
pub(crate) async fn copy(shared: &Shared, of: &Disk, name: &str) -> Result<Disk, Failure> {
    match of {
        Disk::System(installed) => {
            let copy = shared.guests.copy(installed, name).await?;
            Ok(Disk::System(copy))
        }
        Disk::Raw(source) => {
            let (source, storage) = (Arc::clone(source), Arc::clone(&shared.storage));
            let copy = blocking(move || {
                let copy = storage.create()?;
                copy.copy_from(&source)?;
                Ok(copy)
            });
            let copy = copy.await.map_err(|error| storage_failure(&error))?;
            Ok(Disk::Raw(Arc::new(copy)))
        }
    }
}

/// The bytes of a VDI for somebody who is about to write them. A system on it is lost, as on a
/// real disk that is written over.
pub(crate) async fn raw(shared: &Shared, vdi: &str) -> io::Result<Arc<RawDisk>> {
    let found = shared.with(|world| match world.disks.get(vdi) {
        Some(Disk::Raw(disk)) => Some(Arc::clone(disk)),
        _ => None,
    });
    if let Some(disk) = found {
        return Ok(disk);
    }
    let storage = Arc::clone(&shared.storage);
    let disk = Arc::new(blocking(move || storage.create()).await?);
    let made = Disk::Raw(Arc::clone(&disk));
    let old = shared.with(|world| world.disks.insert(vdi.to_owned(), made));
    classes::vdi::release(old).await;
    Ok(disk)
}

/// What the bytes of a disk with a system begin with; behind it is what its agent reports.
const SYSTEM: &[u8] = b"xapi-sim system\n";

/// The bytes of a VDI for somebody who reads them; `None` for zeros from end to end. A system has
/// a form as bytes of its own, which [`settle`] knows again.
pub(crate) async fn bytes_of(shared: &Shared, vdi: &str) -> Result<Option<Arc<RawDisk>>, Failure> {
    let found = shared.with(|world| world.disks.get(vdi).cloned());
    let Installed {
        system,
        report,
        cloud_init,
    } = match found {
        None => return Ok(None),
        Some(Disk::Raw(disk)) => return Ok(Some(disk)),
        Some(Disk::System(installed)) => installed,
    };
    let System::Simulated = system else {
        tracing::error!(
            vdi,
            "the files of a real guest have no form as bytes of a disk"
        );
        return Err(Failure::new("VDI_IO_ERROR", ["Device I/O errors"]));
    };
    let storage = Arc::clone(&shared.storage);
    let written = blocking(move || {
        let disk = storage.create()?;
        let reads = if cloud_init { "cloud-init" } else { "nothing" };
        let text = format!("{}\n{reads}\n", report.to_text());
        disk.write(0, &[SYSTEM, text.as_bytes()].concat())?;
        Ok(Arc::new(disk))
    });
    let written = written.await.map_err(|error| storage_failure(&error))?;
    Ok(Some(written))
}

/// Finds out what somebody has written to a VDI: bytes of a system become one.
pub(crate) async fn settle(shared: &Shared, vdi: &str) -> Result<(), Failure> {
    let disk = match shared.with(|world| world.disks.get(vdi).cloned()) {
        Some(Disk::Raw(disk)) => disk,
        _ => return Ok(()),
    };
    let start = blocking(move || {
        let mut start = [0; 64];
        disk.read(0, &mut start)?;
        Ok(start)
    });
    let start = start.await.map_err(|error| storage_failure(&error))?;
    let system = start.strip_prefix(SYSTEM).and_then(|rest| {
        let mut lines = rest.split(|byte| *byte == b'\n');
        let report = std::str::from_utf8(lines.next()?).ok()?;
        let cloud_init = lines.next()? == b"cloud-init";
        Some((GuestReport::from_text(report)?, cloud_init))
    });
    let Some((report, cloud_init)) = system else {
        return Ok(());
    };
    let installed = shared.guests.install(vdi, report, cloud_init).await;
    let installed = installed.map_err(|error| storage_failure(&error))?;
    let bytes = shared.with(|world| world.disks.insert(vdi.to_owned(), installed));
    classes::vdi::release(bytes).await;
    Ok(())
}

/// A disk with bytes as a VM has it.
#[allow(dead_code, reason = "for guests that read configuration drives")]
#[derive(Debug)]
pub(crate) struct AttachedBytes {
    /// `0`, `xvdb`: whatever the client called the device.
    pub(crate) userdevice: String,
    pub(crate) disk: Arc<RawDisk>,
    /// How many bytes the disk has; the file may have fewer.
    pub(crate) size: u64,
}

/// The disks of a VM on which clients have written bytes, in the order of its devices.
pub(crate) fn attached_bytes(world: &World, vm: &str) -> Vec<AttachedBytes> {
    let db = &world.db;
    let vbds = db.list("VM", vm, "VBDs").unwrap_or_default();
    let mut attached: Vec<_> = vbds
        .iter()
        .filter_map(|vbd| {
            let vdi = db.text("VBD", vbd, "VDI").ok()?;
            let Some(Disk::Raw(disk)) = world.disks.get(&vdi) else {
                return None;
            };
            let size = db.int("VDI", &vdi, "virtual_size").ok()?;
            Some(AttachedBytes {
                userdevice: db.text("VBD", vbd, "userdevice").ok()?,
                disk: Arc::clone(disk),
                size: u64::try_from(size).ok()?,
            })
        })
        .collect();
    attached.sort_by_key(|bytes| classes::vbd::disk_number(&bytes.userdevice));
    attached
}

/// The config drives among these disks.
async fn config_drives(attached: Vec<AttachedBytes>) -> Result<Vec<ConfigDrive>, Failure> {
    let read = blocking(move || {
        let small = attached.iter().filter(|bytes| bytes.size <= LARGEST_DRIVE);
        small
            .map(|bytes| {
                let mut content = vec![0; usize::try_from(bytes.size).unwrap_or(0)];
                bytes.disk.read(0, &mut content)?;
                Ok(ConfigDrive::read(content))
            })
            .collect::<io::Result<Vec<_>>>()
    });
    let drives = read.await.map_err(|error| {
        let text = whole(&error);
        tracing::error!(%text, "a disk cannot be read");
        Failure::internal(format!("xenopsd internal error: {text}"))
    })?;
    Ok(drives.into_iter().flatten().collect())
}

/// Runs file work where it holds nobody up.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    // Only a panic and a runtime that shuts down are errors here.
    let result = tokio::task::spawn_blocking(work).await;
    result.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn backed(disk: GuestDisk) -> System {
    System::Guest(Arc::new(BackedDisk {
        disk,
        copying: tokio::sync::Mutex::new(()),
    }))
}

fn storage_failure(error: &(dyn std::error::Error + 'static)) -> Failure {
    let text = whole(error);
    tracing::error!(%text, "a disk cannot be copied");
    Failure::new(
        "SR_BACKEND_FAILURE_81",
        [String::new(), text, String::new()],
    )
}

/// An error with its causes on one line.
pub(crate) fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The disk that a VM boots from, if a system is on it: the bootable one, else the first.
fn boot_disk(world: &World, vm: &str) -> Option<Installed> {
    let db = &world.db;
    let mut disks: Vec<(bool, i64, Installed)> = db
        .list("VM", vm, "VBDs")
        .ok()?
        .into_iter()
        .filter_map(|vbd| {
            let vdi = db.text("VBD", &vbd, "VDI").ok()?;
            let Disk::System(disk) = world.disks.get(&vdi)?.clone() else {
                return None;
            };
            let device = db.text("VBD", &vbd, "userdevice").ok()?;
            let bootable = db.flag("VBD", &vbd, "bootable").ok()?;
            Some((
                !bootable,
                classes::vbd::disk_number(&device).unwrap_or(i64::MAX),
                disk,
            ))
        })
        .collect();
    disks.sort_by_key(|(not_bootable, device, _)| (*not_bootable, *device));
    disks.into_iter().next().map(|(.., disk)| disk)
}

/// Everything that has to be known to boot what is on a VM's disk.
#[derive(Debug)]
pub(crate) struct BootPlan {
    disk: Installed,
    config: BootConfig,
    /// Where a system with cloud-init looks for its config drive.
    attached: Vec<AttachedBytes>,
    pretended: Ipv4Addr,
}

impl BootPlan {
    /// `None` for a VM without a system: its domain runs and nothing ever reports from it.
    pub(crate) fn of(world: &mut World, vm: &str) -> Result<Option<BootPlan>, Failure> {
        let Some(disk) = boot_disk(world, vm) else {
            return Ok(None);
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
        config.address = world.leases.get(vm).copied();
        world.counters.addresses += 1;
        let host = 10 + world.counters.addresses % 240;
        // Documentation addresses: nobody answers there.
        let pretended = Ipv4Addr::from(u32::from(Ipv4Addr::new(192, 0, 2, 0)) + host);
        let attached = if disk.cloud_init {
            attached_bytes(world, vm)
        } else {
            Vec::new()
        };
        Ok(Some(BootPlan {
            disk,
            config,
            attached,
            pretended,
        }))
    }
}

/// What has been booted.
#[derive(Debug)]
pub(crate) struct Booted {
    address: IpAddr,
    guest: Option<Guest>,
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
    let mut fixed = None;
    if plan.disk.cloud_init {
        let drives = config_drives(plan.attached).await?;
        fixed = drives.last().and_then(ConfigDrive::fixed_address);
        if let Some(IpAddr::V4(address)) = fixed {
            plan.config.address = Some(address);
        }
        plan.config.config_drives = Some(drives);
    }
    let guest = shared.guests.boot(&plan.disk, plan.config).await?;
    let address = guest
        .as_ref()
        .map_or(IpAddr::V4(plan.pretended), |guest| guest.address().ip());
    // The guest reports what it was told, whether or not this machine can route it there.
    let address = fixed.unwrap_or(address);
    Ok(Some(Booted {
        address,
        guest,
        report: plan.disk.report,
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
    world.running.insert(
        vm.to_owned(),
        Running {
            domain,
            address,
            guest,
        },
    );
    let (shared, vm) = (Arc::clone(shared), vm.to_owned());
    tokio::spawn(async move {
        let reports = async {
            if report == GuestReport::NoTools {
                return;
            }
            tokio::time::sleep(agent_delay).await;
            shared.with(|world| {
                tell(world, &vm, domain, |world, address| {
                    report::write(world, &vm, report.first(), address)
                });
            });
            let Some(delay) = report.second_after() else {
                return;
            };
            tokio::time::sleep(delay).await;
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
