//! Disks as bytes: those that clients have written, and those that a system has in that form.
//!
//! Bytes stay bytes until a VM boots from them. A system whose bytes somebody writes becomes bytes.

use std::io;
use std::sync::Arc;

use super::{Disk, GuestHost, Installed, System, blocking, storage_failure, whole};
use crate::classes;
use crate::failure::Failure;
use crate::guest::cloud_init::LARGEST as LARGEST_DRIVE;
use crate::guest::{ConfigDrive, GuestError};
use crate::image::{self, FILES_AT, Firmware, LOOKED_AT, Label};
use crate::storage::RawDisk;
use crate::world::{Shared, World};

/// The bytes of a VDI for somebody who is about to write them.
pub(crate) async fn to_write(shared: &Shared, vdi: &str) -> Result<Arc<RawDisk>, Failure> {
    let disk = match to_read(shared, vdi).await? {
        Some(disk) => disk,
        None => Arc::new(empty(shared).await?),
    };
    let old = shared.with(|world| match world.disks.get(vdi) {
        Some(Disk::Raw(known)) if Arc::ptr_eq(known, &disk) => None,
        _ => {
            let made = Disk::Raw(Arc::clone(&disk));
            world.disks.insert(vdi.to_owned(), made)
        }
    });
    classes::vdi::release(old).await;
    Ok(disk)
}

/// The bytes of a VDI for somebody who reads them; `None` for zeros from end to end.
///
/// A system has a form as bytes of its own, in which other simulators and this one know it again:
/// a label, and behind it the files of its guest, which stands still meanwhile if it runs.
pub(crate) async fn to_read(shared: &Shared, vdi: &str) -> Result<Option<Arc<RawDisk>>, Failure> {
    let (found, size) = shared.with(|world| {
        let size = world.db.int("VDI", vdi, "virtual_size");
        (world.disks.get(vdi).cloned(), size)
    });
    let installed = match found {
        None => return Ok(None),
        Some(Disk::Raw(disk)) => return Ok(Some(disk)),
        Some(Disk::System(installed)) => installed,
    };
    let size = u64::try_from(size?).unwrap_or(0);
    let disk = empty(shared).await?;
    let mut label = Label {
        report: installed.report,
        cloud_init: installed.cloud_init,
        files_of: None,
    };
    if let (System::Guest(backed), Some(guests)) = (&installed.system, &shared.guests.guests) {
        label.files_of = Some(guests.rung());
        let into = disk.file_at(FILES_AT).map_err(|error| broken(&error))?;
        let _turn = backed.copying.lock().await;
        let packed = guests.pack(&backed.disk, into).await;
        packed.map_err(|error| broken(&error))?;
    }
    let disk = blocking(move || {
        disk.write(0, &label.to_sector(size))?;
        let used = disk.len()?;
        if used > size {
            let text = format!("the files of a guest take {used} bytes, its disk has {size}");
            return Err(io::Error::other(text));
        }
        Ok(disk)
    });
    Ok(Some(Arc::new(disk.await.map_err(|error| broken(&error))?)))
}

async fn empty(shared: &Shared) -> Result<RawDisk, Failure> {
    let storage = Arc::clone(&shared.storage);
    let made = blocking(move || storage.create()).await;
    made.map_err(|error| broken(&error))
}

/// What the server says when the tool that copies disks fails.
fn broken(error: &(dyn std::error::Error + 'static)) -> Failure {
    let text = whole(error);
    tracing::error!(%text, "a disk cannot be read or written");
    Failure::new("VDI_IO_ERROR", ["Device I/O errors"])
}

/// The system that this firmware finds in bytes, if it finds one.
///
/// Where guests are real it takes the place of the bytes, as it is going to change them. Otherwise
/// they stay.
pub(super) async fn system_in(
    shared: &Shared,
    vdi: &str,
    bytes: &Arc<RawDisk>,
    firmware: Firmware,
) -> Result<Option<Installed>, Failure> {
    let disk = Arc::clone(bytes);
    let start = blocking(move || {
        let mut start = vec![0; LOOKED_AT];
        disk.read(0, &mut start)?;
        Ok(start)
    });
    let start = start.await.map_err(|error| broken(&error))?;
    let label = match Label::read(&start) {
        Some(label) => label,
        None if image::boots(&start, firmware) => Label {
            report: shared.origin.options.image_report,
            cloud_init: true,
            files_of: None,
        },
        None => return Ok(None),
    };
    let installed = unpacked(&shared.guests, label, vdi, bytes).await;
    let installed = installed.map_err(|error| storage_failure(&error))?;
    if matches!(installed.system, System::Simulated) {
        return Ok(Some(installed));
    }
    let made = Disk::System(installed.clone());
    let old = shared.with(|world| world.disks.insert(vdi.to_owned(), made));
    classes::vdi::release(old).await;
    Ok(Some(installed))
}

/// A system as its label says.
async fn unpacked(
    host: &GuestHost,
    label: Label,
    name: &str,
    bytes: &Arc<RawDisk>,
) -> Result<Installed, GuestError> {
    let (Some(rung), Some(guests)) = (label.files_of, &host.guests) else {
        return host.install(name, label.report, label.cloud_init).await;
    };
    if rung != guests.rung() {
        let own = guests.rung();
        return Err(GuestError::Image {
            name: name.to_owned(),
            reason: format!("its files are of a guest on the {rung} rung, those here are on {own}"),
        });
    }
    let bytes = Arc::clone(bytes);
    let disk = guests.unpack(name, move || bytes.file_at(FILES_AT)).await?;
    Ok(Installed {
        system: super::backed(disk),
        cloud_init: label.cloud_init,
        report: label.report,
    })
}

/// A disk with bytes as a VM has it.
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
pub(super) async fn config_drives(
    attached: Vec<AttachedBytes>,
) -> Result<Vec<ConfigDrive>, Failure> {
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
