//! What does not travel as calls: disks, virtual machines, logs, performance data. Servers have an HTTP
//! handler for each.

mod download;
mod exchange;
mod own_task;
mod refusal;
mod request;
mod upload;

use std::time::Duration;

use crate::api::{Sr, Vdi, Vm};
use crate::client::Client;
use crate::reference::Ref;

pub use self::download::{Download, Incoming};
pub use self::request::Progress;
pub use self::upload::Upload;

/// How many bytes are passed on at a time.
const CHUNK: usize = 256 * 1024;
/// How long a task may take to say why a connection broke.
const GRACE: Duration = Duration::from_secs(10);

/// How the content of a disk is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskFormat {
    /// Every byte of the disk.
    Raw,
    /// What is in use, for disks of up to 2,040 GiB.
    Vhd,
    /// What is in use. Servers before XCP-ng 8.3 do not know it.
    Qcow2,
    /// The blocks in use, with their checksums, in a tar archive. Servers before XCP-ng 8.3 do not know it.
    Tar,
}

impl DiskFormat {
    fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Vhd => "vhd",
            Self::Qcow2 => "qcow2",
            Self::Tar => "tar",
        }
    }
}

/// How the server compresses an exported VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all. The default: compressing costs the host more than most networks gain.
    #[default]
    None,
    /// With gzip, slowly.
    Gzip,
    /// With zstd, where the server knows it.
    Zstd,
}

impl Compression {
    fn as_str(self) -> &'static str {
        match self {
            Self::None => "false",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// Transfers. The server tells their true end through a task, which the client makes, awaits and removes.
/// Memory stays the same at any size. They do not count as calls under way.
impl Client {
    /// Downloads the content of a disk.
    ///
    /// ```no_run
    /// # use xapi_client::{Client, DiskFormat, Ref, Result, api::Vdi};
    /// # async fn example(client: &Client, vdi: &Ref<Vdi>, file: &mut tokio::io::DuplexStream) -> Result<()> {
    /// let bytes = client.export_raw_vdi(vdi, DiskFormat::Vhd).to(file).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn export_raw_vdi(&self, vdi: &Ref<Vdi>, format: DiskFormat) -> Download {
        self.download("/export_raw_vdi")
            .query("vdi", vdi.as_str())
            .query("format", format.as_str())
    }

    /// Downloads what of the content of a disk differs from another, an earlier snapshot of it for example.
    pub fn export_raw_vdi_since(
        &self,
        vdi: &Ref<Vdi>,
        base: &Ref<Vdi>,
        format: DiskFormat,
    ) -> Download {
        self.export_raw_vdi(vdi, format)
            .query("base", base.as_str())
    }

    /// Uploads the content of a disk, which must be large enough.
    ///
    /// ```no_run
    /// # use xapi_client::{Client, DiskFormat, Ref, Result, api::Vdi};
    /// # async fn example(client: &Client, vdi: &Ref<Vdi>, image: Vec<u8>) -> Result<()> {
    /// let length = image.len() as u64;
    /// client
    ///     .import_raw_vdi(vdi, DiskFormat::Raw)
    ///     .progress(|now| println!("{} bytes sent", now.bytes))
    ///     .send(image.as_slice(), length)
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn import_raw_vdi(&self, vdi: &Ref<Vdi>, format: DiskFormat) -> Upload<()> {
        self.upload("/import_raw_vdi")
            .query("vdi", vdi.as_str())
            .query("format", format.as_str())
    }

    /// Downloads a VM with its disks, as an XVA archive. It must be halted or suspended, or a snapshot.
    pub fn export_vm(&self, vm: &Ref<Vm>, compression: Compression) -> Download {
        self.download("/export")
            .query("ref", vm.as_str())
            .query("use_compression", compression.as_str())
    }

    /// Uploads VMs with their disks, an XVA archive, to this storage or to the default one of the pool, and
    /// tells which VMs came of it. The length of the archive may be left open.
    ///
    /// The query `restore` = `true` keeps MAC addresses and UUIDs, `force` = `true` goes on where checksums
    /// are wrong.
    pub fn import_vm(&self, storage: Option<&Ref<Sr>>) -> Upload<Vec<Ref<Vm>>> {
        let upload = self.upload("/import").of_any_length();
        match storage {
            Some(storage) => upload.query("sr_id", storage.as_str()),
            None => upload,
        }
    }

    /// Downloads the description of a VM, without disks.
    pub fn export_metadata(&self, vm: &Ref<Vm>) -> Download {
        self.download("/export_metadata").query("ref", vm.as_str())
    }

    /// Uploads descriptions of VMs whose disks are there already, and tells which VMs came of it. The query
    /// `dry_run` = `true` only tries.
    pub fn import_metadata(&self) -> Upload<Vec<Ref<Vm>>> {
        self.upload("/import_metadata")
    }

    /// Downloads from any handler: `/host_backup`, `/audit_log`, `/system-status` for example.
    ///
    /// ```no_run
    /// # use xapi_client::{Client, Ref, Result, api::Host};
    /// # async fn example(client: &Client, host: &Ref<Host>) -> Result<()> {
    /// let mut log = Vec::new();
    /// let logs = client.download("/host_logs_download").at(host);
    /// logs.to(&mut log).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn download(&self, path: &str) -> Download {
        Download::new(self, path)
    }

    /// Uploads to any handler: `/blob`, `/pool_patch_upload`, `/bundle` for example. `R` is the result of
    /// the task, `()` for most.
    pub fn upload<R>(&self, path: &str) -> Upload<R> {
        Upload::new(self, path)
    }
}
