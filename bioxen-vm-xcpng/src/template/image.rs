//! What a template is made from when there is only the image of a disk: a template of its own, for
//! as long as that takes.

use std::path::Path;

use bioxen_vm_core::{Backend as _, VmId};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use xapi_client::api::{Sr, VbdCreate, VdiCreate, VifCreate, Vm};
use xapi_client::{Client, DiskFormat, Ref};

use crate::backend::{Shared, XcpngBackend, random_name};
use crate::error::{COLLECTED, Error, Result, chain};
use crate::find;
use crate::ledger::Entry;
use crate::marks::Run;
use crate::remove::{remove, remove_disk};

/// The template of the pool for systems that it knows nothing of.
const BLANK: &str = "Other install media";

const SECTOR: u64 = 512;
/// Disks are whole multiples of this.
const BLOCK: u64 = 2 << 20;

/// A template of an image.
#[derive(Debug)]
pub(super) struct ImageBase {
    pub(super) uuid: String,
    vm: Ref<Vm>,
    name: String,
    /// Whose session and record it is of.
    keeper: Option<XcpngBackend>,
}

/// An image as a file has it.
struct Image {
    file: File,
    format: DiskFormat,
    /// How long the file is.
    length: u64,
    /// How large the disk is.
    size: u64,
}

impl Image {
    async fn open(path: &Path) -> Result<Self> {
        let read = async {
            let mut file = File::open(path).await?;
            let length = file.metadata().await?.len();
            let mut start = [0; 512];
            let read = file.read(&mut start).await?;
            let mut footer = [0; SECTOR as usize];
            if length >= SECTOR {
                file.seek(std::io::SeekFrom::Start(length - SECTOR)).await?;
                file.read_exact(&mut footer).await?;
            }
            file.rewind().await?;
            Ok::<_, std::io::Error>((file, length, start, read, footer))
        };
        let unusable = |reason: String| Error::Image {
            path: path.to_owned(),
            reason,
        };
        let (file, length, start, read, footer) =
            read.await.map_err(|error| unusable(error.to_string()))?;
        let (format, size) = judge(&start[..read], &footer, length).map_err(unusable)?;
        Ok(Self {
            file,
            format,
            length,
            size,
        })
    }
}

/// The form of an image and the size of its disk, from how it begins and ends.
fn judge(start: &[u8], footer: &[u8], length: u64) -> Result<(DiskFormat, u64), String> {
    if start.starts_with(b"QFI\xfb") {
        return Err("it is QCOW2; convert it with `qemu-img convert -O raw`".into());
    }
    if start.starts_with(&[0x1f, 0x8b]) || start.starts_with(b"\xfd7zXZ") {
        return Err("it is compressed; decompress it first".into());
    }
    if footer.starts_with(b"conectix") {
        let size = footer.get(48..56).and_then(|bytes| bytes.try_into().ok());
        let size = size.map(u64::from_be_bytes).unwrap_or_default();
        return Ok((DiskFormat::Vhd, size.next_multiple_of(BLOCK)));
    }
    // A disk that something boots from has a boot sector, also with GPT.
    if start.get(510..512) != Some(&[0x55, 0xaa]) {
        return Err(
            "it is neither VHD nor a raw disk with a boot sector; give a cloud image in one of \
             these forms"
                .into(),
        );
    }
    Ok((DiskFormat::Raw, length.next_multiple_of(BLOCK)))
}

/// Fails when there is no image that can be used in this file.
pub(super) async fn check(path: &Path) -> Result<()> {
    Image::open(path).await.map(drop)
}

impl ImageBase {
    /// Uploads an image and makes a template with it, or leaves nothing.
    pub(super) async fn make(shared: &Shared, path: &Path) -> Result<Self> {
        let image = Image::open(path).await?;
        let client = shared.client().await?;
        let ledger = shared.ledger().await?;
        let run = Run::now(ledger.run(), shared.settings().expiry);
        let (unique, id) = (random_name(), vm_id()?);
        let (name, disk_name) = (run.unfinished(&unique, &id), run.drive(&unique));
        ledger
            .note(Entry::Making(name.clone()))
            .await
            .map_err(Error::Ledger)?;
        let making = Making {
            shared,
            client,
            name: &name,
            disk_name: &disk_name,
        };
        match making.make(image).await {
            Ok((vm, uuid)) => Ok(Self {
                uuid,
                vm,
                name,
                keeper: None,
            }),
            Err(error) => {
                making
                    .take_back()
                    .await
                    .map_err(|source| Error::LeftBehind {
                        what: format!("{}, and something named {name:?}", chain(&error)),
                        remedy: COLLECTED,
                        source: Box::new(source),
                    })?;
                let removed = ledger.note(Entry::Removed(name.clone())).await;
                removed.map_err(Error::Ledger)?;
                Err(error)
            }
        }
    }

    /// Keeps the session that made it, to remove it with.
    pub(super) fn kept_by(mut self, backend: XcpngBackend) -> Self {
        self.keeper = Some(backend);
        self
    }

    /// Removes it with its disk, and ends its session.
    pub(super) async fn remove(self) -> Result<()> {
        let Some(backend) = self.keeper else {
            return Ok(());
        };
        let shared = backend.shared();
        let removed = async {
            let client = shared.client().await?;
            remove(client, &self.vm)
                .await
                .map_err(|source| Error::LeftBehind {
                    what: format!("something named {:?}", self.name),
                    remedy: COLLECTED,
                    source: Box::new(source),
                })?;
            let removed = Entry::Removed(self.name.clone());
            let ledger = shared.ledger().await?;
            ledger.note(removed).await.map_err(Error::Ledger)
        };
        let removed = removed.await;
        if let Err(error) = backend.close().await {
            tracing::debug!(%error, "the session is left to the pool");
        }
        removed
    }
}

fn vm_id() -> Result<VmId> {
    VmId::new("image").map_err(|error| Error::Guest(Box::new(error)))
}

struct Making<'m> {
    shared: &'m Shared,
    client: &'m Client,
    name: &'m str,
    disk_name: &'m str,
}

impl Making<'_> {
    async fn make(&self, image: Image) -> Result<(Ref<Vm>, String)> {
        let wish = &self.shared.settings().wish;
        let client = self.client;
        let sr = self.storage().await?;
        let networks = find::networks(client, wish).await?;
        if networks.is_empty() {
            return Err(Error::ImageNetwork);
        }
        let (blank, _) = find::template(client, BLANK).await?;

        let mut disk = VdiCreate::new(sr, i64::try_from(image.size).unwrap_or(i64::MAX));
        // The name is all that marks it: copies of disks, unlike those of VMs, would keep the rest.
        disk.name_label = Some(self.disk_name.to_owned());
        let disk = client
            .vdi()
            .create(&disk)
            .await
            .map_err(Error::pool("make a disk for the image"))?;
        client
            .import_raw_vdi(&disk, image.format)
            .task_name(self.disk_name)
            .send(image.file, image.length)
            .await
            .map_err(Error::pool("write the image to its disk"))?;

        let failed = || Error::pool("make a template of the image");
        let api = client.vm();
        let vm = api.clone(&blank, self.name).await.map_err(failed())?;
        // Disks that the pool's own installer would make are not wanted, and from here on it is none
        // of the pool's templates.
        let record = api.get_record(&vm).await.map_err(failed())?;
        let mut config = record.other_config;
        config.remove("disks");
        config.remove("default_template");
        api.set_other_config(&vm, &config).await.map_err(failed())?;
        let mut drive = VbdCreate::new(vm.clone(), disk.clone());
        drive.userdevice = "0".into();
        drive.bootable = true;
        client.vbd().create(&drive).await.map_err(failed())?;
        for (device, network) in networks.iter().enumerate() {
            let network = network.reference.clone();
            let vif = VifCreate::new(vm.clone(), network, device.to_string());
            client.vif().create(&vif).await.map_err(failed())?;
        }
        // It goes with the template now, and is no drive of ours to anybody who clones that.
        let name = self.name.replace("bioxen-unfinished-", "disk-of-");
        client
            .vdi()
            .set_name_label(&disk, &name)
            .await
            .map_err(failed())?;
        Ok((vm, record.uuid.as_str().to_owned()))
    }

    async fn storage(&self) -> Result<Ref<Sr>> {
        let failed = || Error::pool("tell its default storage");
        if let Some(name) = &self.shared.settings().wish.sr {
            return Ok(find::sr(self.client, name).await?.reference);
        }
        let pools = self.client.pool().get_all_records().await;
        let pools = pools.map_err(failed())?;
        let sr = pools.into_values().next().map(|pool| pool.default_sr);
        match sr {
            Some(sr) if !sr.is_null() => Ok(sr),
            _ => Err(Error::NoDefaultStorage),
        }
    }

    async fn take_back(&self) -> xapi_client::Result<()> {
        for vm in self.client.vm().get_by_name_label(self.name).await? {
            remove(self.client, &vm).await?;
        }
        for disk in self.client.vdi().get_by_name_label(self.disk_name).await? {
            remove_disk(self.client, &disk).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_known_by_how_they_begin_and_end() {
        let mut boot = vec![0; 512];
        boot[510..].copy_from_slice(&[0x55, 0xaa]);
        let mut footer = vec![0; 512];
        footer[..8].copy_from_slice(b"conectix");
        footer[48..56].copy_from_slice(&(3_u64 << 20).to_be_bytes());
        let none = vec![0; 512];
        assert_eq!(
            judge(&boot, &none, 3 << 20).unwrap(),
            (DiskFormat::Raw, 4 << 20)
        );
        assert_eq!(
            judge(&none, &footer, 1 << 20).unwrap(),
            (DiskFormat::Vhd, 4 << 20)
        );
        for (start, word) in [
            (&b"QFI\xfb"[..], "qemu-img convert"),
            (&b"\xfd7zXZ\0"[..], "compressed"),
            (&none[..], "boot sector"),
            (&[][..], "boot sector"),
        ] {
            let reason = judge(start, &none, 512).unwrap_err();
            assert!(reason.contains(word), "{reason}");
        }
    }
}
