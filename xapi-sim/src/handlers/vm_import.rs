//! `PUT /import` and `PUT /import_metadata`.

use std::collections::HashMap;
use std::sync::Arc;

use super::Trouble;
use super::block::Attached;
use super::ova_import::{self, Import, Imported};
use super::request::{self, Request, Task};
use super::vm_export::trouble;
use super::xva::{self, Broken, DiskFile};
use super::{BAD, OK, finish, pump, redirect};
use crate::backing::Disk;
use crate::classes::{self, vdi};
use crate::failure::Failure;
use crate::http::Connection;
use crate::value::Value;
use crate::world::Shared;

const FORBIDDEN: [&str; 3] = [
    "HTTP/1.1 403 Forbidden",
    "Connection: close",
    "Cache-Control: no-cache, no-store",
];

pub(super) async fn import(request: &Request, connection: &mut Connection) -> Result<(), Trouble> {
    let sr = match request.sr()? {
        Some(sr) => sr,
        None => default_sr(&request.shared)?,
    };
    let host = request::host_for_sr(request, &sr)?;
    if host != request.host {
        return redirect(request, connection, &host).await;
    }
    let task = request.task("VM.import")?;
    let result = receive(request, connection, &task, sr).await;
    end(task, result)
}

/// Ends the task with the VMs that were made.
fn end(task: Task, result: Result<Vec<String>, Trouble>) -> Result<(), Trouble> {
    match result {
        Ok(vms) => finish(task, Ok(()), &Value::strings(vms)),
        Err(trouble) => finish(task, Err(trouble), &Value::void()),
    }
}

fn default_sr(shared: &Shared) -> Result<String, Failure> {
    shared.with(|world| {
        let sr = world.db.text("pool", &world.pool(), "default_SR")?;
        if world.db.exists("SR", &sr) {
            Ok(sr)
        } else {
            Err(Failure::new("DEFAULT_SR_NOT_FOUND", [sr]))
        }
    })
}

async fn receive(
    request: &Request,
    connection: &mut Connection,
    task: &Task,
    sr: String,
) -> Result<Vec<String>, Trouble> {
    let content = request
        .shared
        .with(|world| world.db.text("SR", &sr, "content_type"))?;
    if content == "iso" {
        connection.write_head(&BAD).await?;
        return Err(Failure::code("SR_OPERATION_NOT_SUPPORTED").into());
    }
    if request.head.header("transfer-encoding").is_some() {
        connection.write_head(&FORBIDDEN).await?;
        return Err(Failure::code("IMPORT_ERROR_CANNOT_HANDLE_CHUNKED").into());
    }
    begin(connection, task).await?;
    let how = Import {
        sr: Some(sr),
        disks: HashMap::new(),
        restore: request.query("restore") == Some("true"),
        force: request.query("force") == Some("true"),
        dry_run: false,
    };
    let force = how.force;
    let shared = Arc::clone(&request.shared);
    let host = request.host.clone();
    let cancelled = task.cancelled.clone();
    let reference = task.reference.clone();
    let read = pump::inflow(connection, length(request), move |from| {
        let mut making = None;
        let result = xva::read(from, how.force, &cancelled, |text| {
            let imported = shared.with(|world| {
                let imported = ova_import::import(world, text, &how)?;
                for vm in &imported.vms {
                    classes::mark(world, "VM", vm, &reference, "import")?;
                    classes::refresh(world, vm);
                }
                Ok::<_, Failure>(imported)
            })?;
            let disks = imported.disks.clone();
            let (_, devices) = making.insert((imported, Vec::new()));
            let mut files = Vec::new();
            for (name, vdi) in disks {
                let device = Attached::to_host(&shared, &host, &vdi, true)?;
                files.push(DiskFile {
                    name,
                    size: device.size,
                    disk: Some(empty_disk(&shared, &vdi)?),
                });
                devices.push(device);
            }
            Ok(files)
        });
        (result, making)
    });
    let (result, making) = read.await?;
    let Some((imported, devices)) = making else {
        return match result {
            Ok(()) => Err(Failure::code("IMPORT_ERROR_PREMATURE_EOF").into()),
            Err(broken) => Err(trouble(task, broken)),
        };
    };
    drop(devices);
    let shared = &request.shared;
    shared.with(|world| {
        for vm in &imported.vms {
            classes::unmark(world, "VM", vm, &task.reference);
            classes::refresh(world, vm);
        }
    });
    match result {
        Ok(()) => Ok(imported.vms),
        Err(broken) => {
            if !force {
                undo(shared, imported).await;
            }
            Err(trouble(task, broken))
        }
    }
}

async fn undo(shared: &Shared, imported: Imported) {
    for disk in shared.with(|world| imported.undo(world)) {
        vdi::release(Some(disk)).await;
    }
}

/// Gives a new VDI a place for its bytes. Blocks.
fn empty_disk(shared: &Shared, vdi: &str) -> Result<Arc<crate::storage::RawDisk>, Failure> {
    let disk = shared.storage.create().map_err(|error| {
        tracing::error!(%error, "a disk has no place for its bytes");
        Failure::new("VDI_IO_ERROR", ["Device I/O errors"])
    })?;
    let disk = Arc::new(disk);
    let content = Disk::Raw(Arc::clone(&disk));
    shared.with(|world| world.disks.insert(vdi.to_owned(), content));
    Ok(disk)
}

fn length(request: &Request) -> Option<u64> {
    let length = request.head.content_length?;
    u64::try_from(length).ok()
}

/// The 200 that comes before everything else.
async fn begin(connection: &mut Connection, task: &Task) -> Result<(), Trouble> {
    let task_header = task.header();
    let mut head = OK.to_vec();
    head.extend([
        task_header.as_str(),
        "content-type: application/octet-stream",
    ]);
    connection.write_head(&head).await?;
    Ok(())
}

pub(super) async fn import_metadata(
    request: &Request,
    connection: &mut Connection,
) -> Result<(), Trouble> {
    let task = request.task("VM.metadata_import")?;
    let result = receive_metadata(request, connection, &task).await;
    end(task, result)
}

async fn receive_metadata(
    request: &Request,
    connection: &mut Connection,
    task: &Task,
) -> Result<Vec<String>, Trouble> {
    begin(connection, task).await?;
    let dry_run = request.query("dry_run") == Some("true");
    let how = Import {
        sr: None,
        disks: request.query_map("vdi:"),
        restore: request.query("restore") == Some("true"),
        force: request.query("force") == Some("true"),
        dry_run,
    };
    let cancelled = task.cancelled.clone();
    let shared = Arc::clone(&request.shared);
    let read = pump::inflow(connection, length(request), move |from| {
        let mut imported = None;
        let result = xva::read(from, how.force, &cancelled, |text| {
            let made = shared.with(|world| ova_import::import(world, text, &how))?;
            imported = Some(made);
            Ok(Vec::new())
        });
        (result, imported)
    });
    let (result, imported) = read.await?;
    let failed = match (result, imported) {
        (Ok(()), Some(imported)) if !dry_run => return Ok(imported.vms),
        (Ok(()), Some(imported)) => {
            // What would be made is all that is asked for.
            let vms = imported.vms.clone();
            undo(&request.shared, imported).await;
            return Ok(vms);
        }
        (Err(broken), Some(imported)) => {
            undo(&request.shared, imported).await;
            broken
        }
        (Ok(()), None) => Broken::Failed(Failure::code("IMPORT_ERROR_PREMATURE_EOF")),
        (Err(broken), None) => broken,
    };
    Err(trouble(task, failed))
}
