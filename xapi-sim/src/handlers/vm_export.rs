//! `GET /export` and `GET /export_metadata`.

use std::sync::Arc;

use super::Trouble;
use super::block::Attached;
use super::ova::{self, Description, Scope};
use super::request::{self, Request, Task};
use super::xva::{self, Broken, Compression, DiskFile};
use super::{finish, pump, redirect};
use crate::backing;
use crate::classes;
use crate::failure::Failure;
use crate::http::Connection;
use crate::value::Value;
use crate::world::{Shared, World};

/// The VM that the query names; references are taken as they are.
fn vm_of(request: &Request) -> Result<String, Trouble> {
    if let Some(vm) = request.query("ref") {
        return Ok(vm.to_owned());
    }
    let Some(uuid) = request.query("uuid") else {
        return Err(Trouble::Exception("Not_found".to_owned()));
    };
    let found = request.shared.with(|world| world.db.by_uuid("VM", uuid));
    Ok(found.ok_or_else(|| Failure::uuid_invalid("VM", uuid))?)
}

/// Notes on VMs that an operation is under way, until this is dropped.
struct Marked {
    shared: Arc<Shared>,
    task: String,
    vms: Vec<String>,
}

impl Marked {
    fn new(
        request: &Request,
        task: &Task,
        vms: &[String],
        operation: &str,
    ) -> Result<Marked, Failure> {
        let mut marked = Marked {
            shared: Arc::clone(&request.shared),
            task: task.reference.clone(),
            vms: Vec::new(),
        };
        for vm in vms {
            request.shared.with(|world| {
                classes::check(world, vm, operation)?;
                classes::mark(world, "VM", vm, &marked.task, operation)?;
                classes::refresh(world, vm);
                Ok(())
            })?;
            marked.vms.push(vm.clone());
        }
        Ok(marked)
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        self.shared.with(|world| {
            for vm in &self.vms {
                classes::unmark(world, "VM", vm, &self.task);
                classes::refresh(world, vm);
            }
        });
    }
}

pub(super) async fn export(request: &Request, connection: &mut Connection) -> Result<(), Trouble> {
    let vm = vm_of(request)?;
    let host = request
        .shared
        .with(|world| host_for_vm(world, request, &vm));
    match host {
        Ok(host) if host != request.host => return redirect(request, connection, &host).await,
        Ok(_) => {}
        Err(failure) => {
            // Nobody but us can end the task.
            request.fail_given_task(&failure);
            return Err(failure.into());
        }
    }
    let task = request.task("VM.export")?;
    let result = send(request, connection, &task, &vm).await;
    finish(task, result, &Value::void())
}

async fn send(
    request: &Request,
    connection: &mut Connection,
    task: &Task,
    vm: &str,
) -> Result<(), Trouble> {
    let compression = match request.query("use_compression") {
        Some("true" | "gzip") => Compression::Gzip,
        Some("zstd") => Compression::Zstd,
        _ => Compression::None,
    };
    let scope = Scope {
        snapshots: false,
        preserve_power_state: request.flag("preserve_power_state"),
        vifs: true,
        vbds: true,
    };
    let _marked = Marked::new(request, task, &[vm.to_owned()], "export")?;
    let head = head(request, task);
    connection.write_head(&head_lines(&head)).await?;
    let (description, disks) = request.shared.with(|world| {
        let description = ova::describe(world, &[vm.to_owned()], scope)?;
        let disks = disks_of(world, vm, scope, &description)?;
        Ok::<_, Failure>((description, disks))
    })?;
    let mut attached = Vec::new();
    let mut files = Vec::new();
    for (name, vdi) in disks {
        let device = Attached::new(request, &vdi, false)?;
        files.push(DiskFile {
            name,
            size: device.size,
            disk: backing::to_read(&request.shared, &vdi).await?,
        });
        attached.push(device);
    }
    let cancelled = task.cancelled.clone();
    let written = pump::outflow(connection, move |out| {
        xva::write(out, compression, &description.text, &files, &cancelled)
    });
    written.await?.map_err(|broken| trouble(task, broken))
}

pub(super) fn trouble(task: &Task, broken: Broken) -> Trouble {
    match broken {
        Broken::Gone => Trouble::Gone,
        Broken::Cancelled => Trouble::Failed(task.cancellation()),
        Broken::Failed(failure) => Trouble::Failed(failure),
    }
}

/// What both handlers say before their archive.
fn head(request: &Request, task: &Task) -> Vec<String> {
    let server = request.shared.with(|world| {
        let host = world.coordinator();
        let number = |field: &str| world.db.int("host", &host, field).unwrap_or_default();
        let (major, minor) = (number("API_version_major"), number("API_version_minor"));
        format!("Server: xapi/{major}.{minor}")
    });
    vec![
        "HTTP/1.0 200 OK".to_owned(),
        "Connection: close".to_owned(),
        "Cache-Control: no-cache, no-store".to_owned(),
        task.header(),
        server,
        "content-type: application/octet-stream".to_owned(),
        "Content-Disposition: attachment; filename=\"export.xva\"".to_owned(),
    ]
}

fn head_lines(head: &[String]) -> Vec<&str> {
    head.iter().map(String::as_str).collect()
}

/// The names and references of the disks that an archive carries: no images in drives.
fn disks_of(
    world: &World,
    vm: &str,
    scope: Scope,
    description: &Description,
) -> Result<Vec<(String, String)>, Failure> {
    let db = &world.db;
    let mut disks = Vec::new();
    for vbd in db.list("VM", vm, "VBDs")? {
        if db.text("VBD", &vbd, "type")? != "CD" {
            disks.push(db.text("VBD", &vbd, "VDI")?);
        }
    }
    if scope.preserve_power_state && db.text("VM", vm, "power_state")? == "Suspended" {
        disks.push(db.text("VM", vm, "suspend_VDI")?);
    }
    let mut named = Vec::new();
    for vdi in disks {
        let Some(name) = description.name(&vdi) else {
            continue;
        };
        let sr = db.text("VDI", &vdi, "SR")?;
        if db.text("SR", &sr, "content_type")? != "iso" {
            named.push((name.to_owned(), vdi));
        }
    }
    Ok(named)
}

/// The host that sees all SRs of a VM, the one that was asked if it does.
fn host_for_vm(world: &World, request: &Request, vm: &str) -> Result<String, Failure> {
    let db = &world.db;
    let mut able: Option<Vec<String>> = None;
    for vbd in db.list("VM", vm, "VBDs")? {
        let vdi = db.text("VBD", &vbd, "VDI")?;
        if !db.exists("VDI", &vdi) {
            continue;
        }
        let hosts = request::hosts_of_sr(world, &db.text("VDI", &vdi, "SR")?)?;
        able = Some(match able {
            Some(able) => able
                .into_iter()
                .filter(|host| hosts.contains(host))
                .collect(),
            None => hosts,
        });
    }
    match able {
        Some(able) => request::best_host(world, request, able),
        None => Ok(request.host.clone()),
    }
}

pub(super) async fn export_metadata(
    request: &Request,
    connection: &mut Connection,
) -> Result<(), Trouble> {
    let task = request.task("VM.export_metadata")?;
    let result = send_metadata(request, connection, &task).await;
    finish(task, result, &Value::void())
}

async fn send_metadata(
    request: &Request,
    connection: &mut Connection,
    task: &Task,
) -> Result<(), Trouble> {
    let flag = |name: &str, default: bool| {
        let given = request.query(name);
        given.map_or(default, |value| value == "true")
    };
    let vms = if flag("all", false) {
        let include_dom0 = flag("include_dom0", true);
        request.shared.with(|world| all_vms(world, include_dom0))?
    } else {
        let vm = vm_of(request)?;
        let flag = |world: &mut World| world.db.flag("VM", &vm, "is_a_snapshot");
        if request.shared.with(flag)? {
            let text = "Exporting metadata of a snapshot is not allowed";
            return Err(Failure::not_allowed(text).into());
        }
        vec![vm]
    };
    let excluded = request.query("excluded_device_types").unwrap_or_default();
    let wants = |kind: &str| {
        !excluded
            .split(',')
            .any(|out| out.eq_ignore_ascii_case(kind))
    };
    let scope = Scope {
        snapshots: flag("export_snapshots", true),
        preserve_power_state: true,
        vifs: wants("VIF"),
        vbds: wants("VBD"),
    };
    let marked = Marked::new(request, task, &vms, "metadata_export")?;
    let description = request
        .shared
        .with(|world| ova::describe(world, &vms, scope))?;
    drop(marked);
    let mut archive = Vec::new();
    xva::write(
        &mut archive,
        Compression::None,
        &description.text,
        &[],
        &task.cancelled,
    )
    .map_err(|broken| trouble(task, broken))?;
    let mut head = head(request, task);
    let length = format!("Content-Length: {}", archive.len());
    head.insert(head.len() - 1, length);
    connection.write_head(&head_lines(&head)).await?;
    connection.write(&archive).await?;
    Ok(())
}

/// All VMs but the templates that come with the server.
fn all_vms(world: &World, include_dom0: bool) -> Result<Vec<String>, Failure> {
    let db = &world.db;
    let mut vms = Vec::new();
    for vm in db.references("VM") {
        let default = db.key("VM", &vm, "other_config", "default_template")?;
        let default = db.flag("VM", &vm, "is_default_template")?
            || (db.flag("VM", &vm, "is_a_template")? && default.as_deref() == Some("true"));
        if !default && (include_dom0 || !db.flag("VM", &vm, "is_control_domain")?) {
            vms.push(vm);
        }
    }
    Ok(vms)
}
