//! What hosts ask each other for, as it looks to somebody who is no host.

use super::request::Request;
use super::{BAD, MISSING, OK, Trouble, finish, redirect, refuse};
use crate::failure::Failure;
use crate::http::Connection;
use crate::json;
use crate::value::Value;

/// Bytes of a request that nobody keeps are read in pieces of at most this many.
const PIECE: usize = 64 * 1024;

/// `CONNECT /remotecmd`: a program for another host of the pool, which clients are not.
pub(super) fn remote_command(request: &Request) -> Result<(), Trouble> {
    let text = "Failure(\"Not a pool session\")";
    // The task ends with it, the page has the exception itself.
    let _ = refuse(request, Failure::internal(text));
    Err(Trouble::Exception(text.to_owned()))
}

/// `GET /sync_config_files`: the password of root for the members, in its newer form or as the file
/// of accounts. No account here has one that is written down.
pub(super) async fn config_files(
    request: &Request,
    connection: &mut Connection,
) -> Result<(), Trouble> {
    const VERSION: u32 = 2;
    let task = request.task("Syncing dom0 config files over HTTP")?;
    let version = request.head.path.trim_matches('/').split_once('/');
    let version = version.and_then(|(_, version)| version.parse::<u32>().ok());
    let text = if version.is_some_and(|version| version >= VERSION) {
        let mut text = String::new();
        json::write(&mut text, &Value::map([("password", "*")]));
        text
    } else {
        "root:*:0:0:root:/root:/bin/bash\n".to_owned()
    };
    let sent = async {
        connection.write_head(&OK).await?;
        connection.write(text.as_bytes()).await?;
        Ok(())
    };
    let sent = sent.await;
    finish(task, sent, &Value::void())
}

/// `PUT /rrd`: statistics of a VM that comes to this host, or that are to be kept. Those of a host
/// can only be kept. What is told here is made up, and so nothing comes of what is sent.
pub(super) async fn put_statistics(
    request: &Request,
    connection: &mut Connection,
) -> Result<(), Trouble> {
    let Some(uuid) = request.query("uuid") else {
        connection.write_head(&BAD).await?;
        return Ok(());
    };
    let keeps = request.query("archive").is_some();
    let (coordinator, vm, host) = request.shared.with(|world| {
        let vm = world.db.by_uuid("VM", uuid).is_some();
        let host = world.db.by_uuid("host", uuid).is_some();
        (world.coordinator(), vm, host)
    });
    if keeps && request.host != coordinator {
        return redirect(request, connection, &coordinator).await;
    }
    if !vm && !host {
        connection.write_head(&MISSING).await?;
        return Ok(());
    }
    if host && !keeps {
        connection.write_head(&BAD).await?;
        return Ok(());
    }
    connection.write_head(&OK).await?;
    let length = request.head.content_length.unwrap_or_default();
    let mut left = usize::try_from(length).unwrap_or_default();
    while left > 0 {
        let piece = connection.read_some(left.min(PIECE)).await;
        if piece.is_empty() {
            break;
        }
        left -= piece.len();
    }
    Ok(())
}
