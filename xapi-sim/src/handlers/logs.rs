//! What is logged: `GET /audit_log`, `GET /host_logs_download` and `GET /system-status`.

use std::io;

use super::request::Request;
use super::{Trouble, backup, finish};
use crate::failure::Failure;
use crate::http::Connection;
use crate::value::Value;
use crate::world::World;

pub(super) async fn audit(request: &Request, connection: &mut Connection) -> Result<(), Trouble> {
    let task = request.task("audit_log_get request")?;
    let since = request.param("since").unwrap_or_default();
    let lines = request.shared.with(|world| world.audit.since(since));
    let task_header = task.header();
    let head = [
        "HTTP/1.1 200 OK",
        "Connection: keep-alive",
        "Cache-Control: no-cache, no-store",
        &task_header,
        "Content-Type: text/plain",
    ];
    let sent = send(connection, &head, lines.as_bytes()).await;
    finish(task, sent, &Value::void())
}

/// The archive that a host makes of its logs and of what it knows of itself. Here it has the audit log,
/// the database's records of hosts, and nothing else.
pub(super) async fn status(request: &Request, connection: &mut Connection) -> Result<(), Trouble> {
    let task = request.task("Retrieving system status")?;
    let result = send_status(request, connection).await;
    finish(task, result, &Value::void())
}

async fn send_status(request: &Request, connection: &mut Connection) -> Result<(), Trouble> {
    let output = request.query("output").unwrap_or_default();
    if output != "tar" {
        // What others are made with is not there.
        let text = format!("xen-bugtool failed: there is no output {output:?}");
        return Err(Failure::new("SYSTEM_STATUS_RETRIEVAL_FAILED", [text]).into());
    }
    let archive = request.shared.with(|world| archive(world));
    let head = [
        "HTTP/1.0 200 OK",
        "Connection: close",
        "Cache-Control: no-cache, no-store",
        "Server: xapi/0.2",
        "content-type: application/data",
        "Content-Disposition: attachment; filename=\"system_status.tgz\"",
    ];
    send(connection, &head, &archive?).await
}

/// `GET /host_logs_download`: what is logged, as an archive.
pub(super) async fn download(
    request: &Request,
    connection: &mut Connection,
) -> Result<(), Trouble> {
    let task = request.task("Downloading host logs")?;
    let files = vec![(
        "var/log/audit.log",
        request.shared.with(|world| world.audit.since("")),
    )];
    let result = backup::send_archive(request, connection, &task.header(), files).await;
    finish(task, result, &Value::void())
}

async fn send(connection: &mut Connection, head: &[&str], content: &[u8]) -> Result<(), Trouble> {
    connection.write_head(head).await?;
    connection.write(content).await?;
    Ok(())
}

fn archive(world: &World) -> io::Result<Vec<u8>> {
    let stamp = world.clock.local().replace([':', 'T'], "-");
    let folder = format!("bug-report-{stamp}");
    let mut hosts = String::new();
    for host in world.db.references("host") {
        let text = |field| world.db.text("host", &host, field).unwrap_or_default();
        hosts.push_str(&format!(
            "{} {} {}\n",
            text("uuid"),
            text("hostname"),
            text("address")
        ));
    }
    let mut archive = tar::Builder::new(Vec::new());
    for (name, text) in [
        ("var/log/audit.log", world.audit.since("")),
        ("hosts.txt", hosts),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(world.clock.seconds());
        archive.append_data(&mut header, format!("{folder}/{name}"), text.as_bytes())?;
    }
    archive.into_inner()
}
