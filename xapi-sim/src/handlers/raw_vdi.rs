//! Disks as bytes: `PUT /import_raw_vdi` and `GET /export_raw_vdi`.
//!
//! The answer to an import is a 200 that comes before the transfer; only the task tells how that
//! ended. What goes wrong later puts a whole page of HTTP 500 behind the head that was sent.

use std::sync::Arc;

use super::block::Attached;
use super::blocks::Base;
use super::request::{self, Request, Task};
use super::xva::{self, Broken, DiskFile};
use super::{BAD, MISSING_1_0 as MISSING, OK, Trouble, finish, pump, qcow2, redirect, vhd};
use crate::backing::{self, blocking};
use crate::classes::{sr, vdi};
use crate::db::Release;
use crate::failure::{Failure, Reply};
use crate::http::Connection;
use crate::storage::RawDisk;
use crate::value::Value;
use crate::world::World;

/// Bytes are read from the network and from disks in pieces of at most this many.
const PIECE: usize = 1 << 20;
/// How often a task learns of the progress of its transfer, in bytes.
const NEWS: u64 = 64 << 20;

/// How the bytes of a disk are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Raw,
    Vhd,
    Qcow2,
    /// The blocks of the disk as files of an archive.
    Tar,
}

impl Format {
    fn of(request: &Request) -> Result<Format, String> {
        let Some(name) = request.param("format") else {
            return Ok(Format::Raw);
        };
        match name.to_ascii_lowercase().as_str() {
            "raw" => Ok(Format::Raw),
            "vhd" => Ok(Format::Vhd),
            "tar" => Ok(Format::Tar),
            "qcow2" if request.shared.with(knows_qcow2) => Ok(Format::Qcow2),
            _ => Err(name.to_owned()),
        }
    }
}

/// The format is younger than 8.2.
fn knows_qcow2(world: &mut World) -> bool {
    world.db.release() != Release::Xcpng82
}

/// Refuses a request with a head and nothing else, after its task has failed.
async fn refuse(
    connection: &mut Connection,
    task: Task,
    text: String,
    head: &[&str],
) -> Result<(), Trouble> {
    task.finish(&Err(Failure::internal(text)));
    connection.write_head(head).await?;
    Ok(())
}

pub(super) async fn import(request: &Request, connection: &mut Connection) -> Result<(), Trouble> {
    let vdi = request.object("VDI", "vdi")?;
    // Whatever goes wrong until a host is found leaves two answers on the connection.
    let host = match find_sr(request, vdi.as_deref()) {
        Ok(Some(sr)) => request::host_for_sr(request, &sr),
        Ok(None) => {
            request.fail_given_task(&Failure::code("VDI_MISSING"));
            connection.write_head(&BAD).await?;
            return Ok(());
        }
        Err(failure) => Err(failure),
    };
    let host = match host {
        Ok(host) => host,
        Err(failure) => {
            request.fail_given_task(&failure);
            connection.write_head(&BAD).await?;
            return Err(failure.into());
        }
    };
    if host != request.host {
        return redirect(request, connection, &host).await;
    }
    let task = request.task("Importing raw VDI")?;
    let chunked = request.param("chunked").is_some();
    let format = match Format::of(request) {
        Ok(format) => format,
        Err(unknown) => {
            let text = format!("Unknown format {unknown}");
            return refuse(connection, task, text, &MISSING).await;
        }
    };
    if format != Format::Raw && chunked {
        let text = "Cannot handle chunked VHD".to_owned();
        return refuse(connection, task, text, &MISSING).await;
    }
    if let Some(encoding) = request.head.header("transfer-encoding") {
        let text = format!("Cannot handle encoding: {encoding}");
        return refuse(connection, task, text, &MISSING).await;
    }
    let vdi = match (vdi, format, request.head.content_length) {
        (Some(vdi), ..) => vdi,
        (None, Format::Raw, Some(length)) => match create(request, length) {
            Ok(vdi) => vdi,
            Err(failure) => {
                task.finish(&Err(failure.clone()));
                return Err(failure.into());
            }
        },
        (None, Format::Vhd | Format::Qcow2, _) => {
            let name = if format == Format::Vhd {
                "VHD"
            } else {
                "QCOW2"
            };
            let text = format!("Importing a {name} directly into an SR not yet supported");
            return refuse(connection, task, text, &BAD).await;
        }
        _ => {
            let text = "Not enough info supplied to import".to_owned();
            return refuse(connection, task, text, &BAD).await;
        }
    };
    let task_header = task.header();
    let mut head = OK.to_vec();
    head.extend([
        task_header.as_str(),
        "content-type: application/octet-stream",
    ]);
    connection.write_head(&head).await?;
    let result = receive(request, connection, &task, &vdi, format, chunked).await;
    let reply: Reply = result.map(|()| Value::String(vdi));
    task.finish(&reply);
    reply.map(drop).map_err(Trouble::Failed)
}

fn find_sr(request: &Request, vdi: Option<&str>) -> Result<Option<String>, Failure> {
    match vdi {
        Some(vdi) => request
            .shared
            .with(|world| world.db.text("VDI", vdi, "SR"))
            .map(Some),
        None => request.sr(),
    }
}

fn create(request: &Request, length: i64) -> Result<String, Failure> {
    let sr = request.sr()?.unwrap_or_default();
    let values = vec![
        ("name_label", Value::from("Imported VDI")),
        ("SR", Value::String(sr)),
        ("type", Value::from("user")),
        ("sharable", Value::Bool(false)),
        ("read_only", Value::Bool(false)),
    ];
    request.shared.with(|world| vdi::add(world, values, length))
}

/// A disk that travels without the description of a VM.
fn alone(size: u64, disk: Option<&Arc<RawDisk>>) -> DiskFile {
    DiskFile {
        name: String::new(),
        size,
        disk: disk.cloned(),
    }
}

/// What the server says when the tool that copies disks fails.
fn broken() -> Failure {
    Failure::new("VDI_IO_ERROR", ["Device I/O errors"])
}

async fn receive(
    request: &Request,
    connection: &mut Connection,
    task: &Task,
    vdi: &str,
    format: Format,
    chunked: bool,
) -> Result<(), Failure> {
    let attached = Attached::new(request, vdi, true)?;
    let disk = backing::to_write(&request.shared, vdi).await?;
    let mut sink = Sink {
        disk,
        size: attached.size,
        written: 0,
        told: 0,
        task,
    };
    let length = request
        .head
        .content_length
        .and_then(|length| u64::try_from(length).ok());
    match format {
        Format::Raw if chunked => receive_chunks(connection, &mut sink).await?,
        Format::Raw => {
            // The transfer has the length of the request, else that of the disk.
            receive_raw(connection, &mut sink, length.unwrap_or(attached.size)).await?;
        }
        Format::Vhd | Format::Qcow2 => {
            let (disk, size) = (Arc::clone(&sink.disk), attached.size);
            let cancelled = task.cancelled.clone();
            let shared = Arc::clone(&request.shared);
            let read = pump::inflow(connection, length, move |from| {
                if format == Format::Vhd {
                    return vhd::read(from, &disk, size, &cancelled);
                }
                let whole = shared.storage.create()?;
                qcow2::read(from, &whole, &disk, size, &cancelled)
            });
            let read = read.await.map_err(|_| broken())?;
            read.map_err(|reason| failure(task, reason))?;
        }
        Format::Tar => {
            let (file, cancelled) = (
                alone(attached.size, Some(&sink.disk)),
                task.cancelled.clone(),
            );
            let read = pump::inflow(connection, length, move |from| {
                xva::read_alone(from, file, &cancelled)
            });
            let read = read.await.map_err(|_| broken())?;
            read.map_err(|reason| failure(task, reason))?;
        }
    }
    request
        .shared
        .with(|world| settle(world, vdi, sink.disk.allocated()))
}

/// Notes the space that a disk takes on an SR which gives space as it is needed.
fn settle(world: &mut World, vdi: &str, allocated: u64) -> Result<(), Failure> {
    let used = world.db.int("VDI", vdi, "physical_utilisation")?;
    let allocated = i64::try_from(allocated).unwrap_or(i64::MAX);
    if allocated > used {
        world
            .db
            .set("VDI", vdi, "physical_utilisation", allocated)?;
        let sr = world.db.text("VDI", vdi, "SR")?;
        sr::account(world, &sr)?;
    }
    Ok(())
}

/// Where the bytes of a transfer go.
struct Sink<'t> {
    disk: Arc<RawDisk>,
    size: u64,
    written: u64,
    told: u64,
    task: &'t Task,
}

impl Sink<'_> {
    async fn write(&mut self, offset: u64, bytes: Vec<u8>) -> Result<(), Failure> {
        self.task.go_on()?;
        let length = bytes.len() as u64;
        let end = offset.checked_add(length).ok_or_else(broken)?;
        // A write beyond the end of the device fails, and what fits has been written.
        let fits = end.min(self.size).saturating_sub(offset);
        let disk = Arc::clone(&self.disk);
        let written = blocking(move || {
            let fits = usize::try_from(fits).unwrap_or(usize::MAX);
            disk.write(offset, &bytes[..fits.min(bytes.len())])
        });
        written.await.map_err(|error| {
            tracing::error!(%error, "a disk cannot be written");
            broken()
        })?;
        if end > self.size {
            return Err(broken());
        }
        self.written += length;
        if self.written - self.told >= NEWS {
            self.told = self.written;
            // No rounding matters here.
            let part = self.written as f64 / self.size.max(1) as f64;
            self.task.progress(part.min(0.99));
        }
        Ok(())
    }
}

/// How a transfer fails that does not come to its end.
fn failure(task: &Task, reason: Broken) -> Failure {
    match reason {
        Broken::Gone => Failure::new("CLIENT_ERROR", ["the client has gone"]),
        Broken::Cancelled => task.cancellation(),
        Broken::Failed(failure) => failure,
    }
}

async fn receive_raw(
    connection: &mut Connection,
    sink: &mut Sink<'_>,
    length: u64,
) -> Result<(), Failure> {
    let mut offset = 0;
    while offset < length {
        let most = usize::try_from(length - offset).unwrap_or(PIECE).min(PIECE);
        let piece = connection.read_some(most).await;
        if piece.is_empty() {
            return Err(broken());
        }
        let next = offset + piece.len() as u64;
        sink.write(offset, piece).await?;
        offset = next;
    }
    Ok(())
}

/// Pieces with their places, each behind a head of 12 bytes: offset and length, the least
/// significant byte first. A piece of no bytes is the last.
async fn receive_chunks(connection: &mut Connection, sink: &mut Sink<'_>) -> Result<(), Failure> {
    loop {
        let head = connection.read(12).await.ok_or_else(broken)?;
        let (offset, length) = head.split_at(8);
        let mut offset = offset.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        let mut left = length.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
        if left == 0 {
            return Ok(());
        }
        while left > 0 {
            let piece = connection.read_some(left.min(PIECE)).await;
            if piece.is_empty() {
                return Err(broken());
            }
            left -= piece.len();
            let next = offset.saturating_add(piece.len() as u64);
            sink.write(offset, piece).await?;
            offset = next;
        }
    }
}

pub(super) async fn export(request: &Request, connection: &mut Connection) -> Result<(), Trouble> {
    let Some(vdi) = request.object("VDI", "vdi")? else {
        let text = "Failure(\"Missing vdi query parameter\")".to_owned();
        return Err(Trouble::Exception(text));
    };
    let sr = find_sr(request, Some(&vdi))?.unwrap_or_default();
    let host = request::host_for_sr(request, &sr)?;
    if host != request.host {
        return redirect(request, connection, &host).await;
    }
    let task = request.task("Exporting raw VDI")?;
    let format = match Format::of(request) {
        Ok(format) => format,
        Err(unknown) => {
            let text = format!("Unknown format {unknown}");
            return refuse(connection, task, text, &MISSING).await;
        }
    };
    let result = send(request, connection, &task, &vdi, format).await;
    finish(task, result, &Value::void())
}

async fn send(
    request: &Request,
    connection: &mut Connection,
    task: &Task,
    vdi: &str,
    format: Format,
) -> Result<(), Trouble> {
    let attached = Attached::new(request, vdi, false)?;
    let (kind, extension) = match format {
        Format::Raw => ("application/octet-stream", "raw"),
        Format::Vhd if attached.size > vhd::MAX_SIZE => {
            let params = [vdi.to_owned(), vhd::MAX_SIZE.to_string()];
            return Err(Failure::new("VDI_TOO_LARGE", params).into());
        }
        Format::Vhd => ("application/vhd", "vhd"),
        Format::Qcow2 => ("application/x-qemu-disk", "qcow2"),
        Format::Tar => ("application/x-tar", "tar"),
    };
    let disk = backing::to_read(&request.shared, vdi).await?;
    let uuid_of = |vdi: &str| {
        request
            .shared
            .with(|world| world.db.text("VDI", vdi, "uuid"))
    };
    let uuid = uuid_of(vdi)?;
    // Attached until the end, as the disk itself is.
    let (mut base, mut _base_attached) = (None, None);
    let compared = matches!(format, Format::Vhd | Format::Qcow2);
    if let (true, Some(vdi)) = (compared, request.object("VDI", "base")?) {
        let attached = Attached::new(request, &vdi, false)?;
        base = Some(Base {
            disk: backing::to_read(&request.shared, &vdi).await?,
            size: attached.size,
            uuid: uuid_of(&vdi)?,
        });
        _base_attached = Some(attached);
    }
    let task_header = task.header();
    let name = format!("content-disposition: attachment; filename=\"{uuid}.{extension}\"");
    let kind = format!("content-type: {kind}");
    let mut head = OK.to_vec();
    head.extend([task_header.as_str(), &kind, &name]);
    connection.write_head(&head).await?;
    if format != Format::Raw {
        let (size, cancelled) = (attached.size, task.cancelled.clone());
        let written = pump::outflow(connection, move |out| {
            let (bytes, base) = (disk.as_deref(), base.as_ref());
            match format {
                Format::Vhd => vhd::write(out, bytes, size, &uuid, base, &cancelled),
                Format::Qcow2 => qcow2::write(out, bytes, size, base, &cancelled),
                _ => xva::write_alone(out, &alone(size, disk.as_ref()), &cancelled),
            }
        });
        return written.await?.map_err(|reason| match reason {
            Broken::Gone => Trouble::Gone,
            other => Trouble::Failed(failure(task, other)),
        });
    }
    let mut offset = 0;
    let mut told = 0;
    while offset < attached.size {
        task.go_on()?;
        let left = usize::try_from(attached.size - offset).unwrap_or(PIECE);
        let mut piece = vec![0; left.min(PIECE)];
        if let Some(disk) = disk.clone() {
            piece = blocking(move || disk.read(offset, &mut piece).map(|()| piece))
                .await
                .map_err(|_| broken())?;
        }
        connection.write(&piece).await?;
        offset += piece.len() as u64;
        if offset - told >= NEWS {
            told = offset;
            task.progress((offset as f64 / attached.size as f64).min(0.99));
        }
    }
    Ok(())
}
