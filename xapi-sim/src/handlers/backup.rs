//! Backups of a host: `GET /host_backup` and `PUT /host_restore`. A real one has the whole disk of the
//! control domain; here it has the database and what the host knows of itself.

use std::io::{self, Read as _};

use super::database;
use super::request::Request;
use super::{Trouble, finish, pump};
use crate::failure::Failure;
use crate::http::Connection;
use crate::value::Value;
use crate::world::World;

/// Where a host keeps its database.
const DATABASE: &str = "var/xapi/state.db";
const INVENTORY: &str = "etc/xensource-inventory";

pub(super) async fn backup(request: &Request, connection: &mut Connection) -> Result<(), Trouble> {
    let task = request.task("Downloading host backup")?;
    let files = request.shared.with(|world| {
        vec![
            (INVENTORY, inventory(world, &request.host)),
            (DATABASE, database::document(world)),
        ]
    });
    let result = send_archive(request, connection, &task.header(), files).await;
    finish(task, result, &Value::void())
}

fn inventory(world: &World, host: &str) -> String {
    let text = |field| world.db.text("host", host, field).unwrap_or_default();
    let brand = world
        .db
        .key("host", host, "software_version", "product_brand");
    let version = world
        .db
        .key("host", host, "software_version", "product_version");
    let or_empty =
        |found: Result<Option<String>, Failure>| found.ok().flatten().unwrap_or_default();
    format!(
        "INSTALLATION_UUID='{}'\nPRODUCT_BRAND='{}'\nPRODUCT_VERSION='{}'\n",
        text("uuid"),
        or_empty(brand),
        or_empty(version)
    )
}

/// Sends files as a compressed archive, which ends with the connection.
pub(super) async fn send_archive(
    request: &Request,
    connection: &mut Connection,
    task: &str,
    files: Vec<(&'static str, String)>,
) -> Result<(), Trouble> {
    let now = request.shared.with(|world| world.clock.seconds());
    // The connection ends all the same.
    let head = [
        "HTTP/1.1 200 OK",
        "Connection: keep-alive",
        "Cache-Control: no-cache, no-store",
        task,
    ];
    connection.write_head(&head).await?;
    let written = pump::outflow(connection, move |out| {
        let out = flate2::write::GzEncoder::new(out, flate2::Compression::fast());
        let mut archive = tar::Builder::new(out);
        for (name, text) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(now);
            archive.append_data(&mut header, name, text.as_bytes())?;
        }
        let mut out = archive.into_inner()?.finish()?;
        io::Write::flush(&mut out)
    });
    written.await?.map_err(Trouble::from)
}

/// Takes a backup back. The host would start from it at its next boot; nothing of it is seen before.
pub(super) async fn restore(request: &Request, connection: &mut Connection) -> Result<(), Trouble> {
    let task = request.task("Uploading host backup")?;
    let task_header = task.header();
    let head = [
        "HTTP/1.1 200 OK",
        "Connection: keep-alive",
        "Cache-Control: no-cache, no-store",
        &task_header,
    ];
    let length = request.head.content_length;
    let length = length.and_then(|length| u64::try_from(length).ok());
    let result = async {
        connection.write_head(&head).await?;
        let read = pump::inflow(connection, length, is_backup).await?;
        if read.unwrap_or(false) {
            return Ok(());
        }
        let log = "the archive is no backup of a host";
        Err(Failure::new("RESTORE_SCRIPT_FAILED", [log]).into())
    };
    let result = result.await;
    finish(task, result, &Value::void())
}

/// Reads an archive to its end, and tells whether a host has made it.
fn is_backup(from: pump::Inflow) -> io::Result<bool> {
    let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(from));
    let mut found = false;
    for entry in archive.entries()? {
        let mut entry = entry?;
        found |= entry.path_bytes().as_ref() == INVENTORY.as_bytes();
        let mut rest = [0; 4096];
        while entry.read(&mut rest)? > 0 {}
    }
    Ok(found)
}
