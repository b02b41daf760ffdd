//! `GET /blob` and `PUT /blob`: bytes of a client's own that hang on objects.

use std::sync::Arc;

use super::request::Request;
use super::{BAD, MISSING, Trouble, pump};
use crate::backing::blocking;
use crate::failure::Failure;
use crate::http::Connection;
use crate::value::Value;

/// Bytes are read from the disk in pieces of at most this many.
const PIECE: u64 = 1 << 20;

/// The blob that a request names.
enum Named {
    Blob(String),
    Unknown,
    Nothing,
}

fn named(request: &Request) -> Named {
    request.shared.with(
        |world| match (request.query("ref"), request.query("uuid")) {
            (Some(reference), _) if world.db.exists("blob", reference) => {
                Named::Blob(reference.to_owned())
            }
            (None, Some(uuid)) => match world.db.by_uuid("blob", uuid) {
                Some(blob) => Named::Blob(blob),
                None => Named::Unknown,
            },
            (Some(_), _) => Named::Unknown,
            (None, None) => Named::Nothing,
        },
    )
}

/// Whether a request names a blob that anybody may read.
pub(super) fn is_public(request: &Request) -> bool {
    let Named::Blob(blob) = named(request) else {
        return false;
    };
    let shared = &request.shared;
    shared.with(|world| world.db.flag("blob", &blob, "public").unwrap_or(false))
}

/// The blob that a request names; the others are answered here.
async fn find(request: &Request, connection: &mut Connection) -> Result<Option<String>, Trouble> {
    match named(request) {
        Named::Blob(blob) => return Ok(Some(blob)),
        Named::Unknown => connection.write_head(&MISSING).await?,
        Named::Nothing => connection.write_head(&BAD).await?,
    }
    Ok(None)
}

pub(super) async fn get(request: &Request, connection: &mut Connection) -> Result<(), Trouble> {
    let Some(blob) = find(request, connection).await? else {
        return Ok(());
    };
    let (bytes, size, kind) = request.shared.with(|world| {
        let bytes = world.blobs.get(&blob).map(Arc::clone);
        let size = world.db.int("blob", &blob, "size")?;
        let kind = world.db.text("blob", &blob, "mime_type")?;
        Ok::<_, Failure>((bytes, u64::try_from(size).unwrap_or(0), kind))
    })?;
    let Some(bytes) = bytes else {
        // Nobody has put anything there.
        connection.write_head(&MISSING).await?;
        return Ok(());
    };
    let head = [
        "HTTP/1.1 200 OK".to_owned(),
        "Connection: close".to_owned(),
        "Cache-Control: no-cache, no-store".to_owned(),
        format!("Content-Length: {size}"),
        format!("content-type: {kind}"),
    ];
    connection
        .write_head(&head.each_ref().map(String::as_str))
        .await?;
    let mut offset = 0;
    while offset < size {
        let mut piece = vec![0; usize::try_from(PIECE.min(size - offset)).unwrap_or(0)];
        let bytes = Arc::clone(&bytes);
        let read = blocking(move || bytes.read(offset, &mut piece).map(|()| piece)).await;
        let piece = read.map_err(|_| Trouble::Gone)?;
        connection.write(&piece).await?;
        offset += piece.len() as u64;
    }
    Ok(())
}

pub(super) async fn put(request: &Request, connection: &mut Connection) -> Result<(), Trouble> {
    let Some(blob) = find(request, connection).await? else {
        return Ok(());
    };
    let length = request.head.content_length;
    let Some(length) = length.and_then(|length| u64::try_from(length).ok()) else {
        return Err(Trouble::Exception(
            "Failure(\"Need content length\")".to_owned(),
        ));
    };
    let head = [
        "HTTP/1.1 200 OK",
        "Connection: keep-alive",
        "Cache-Control: no-cache, no-store",
        "Access-Control-Allow-Origin: *",
    ];
    connection.write_head(&head).await?;
    let shared = Arc::clone(&request.shared);
    let stored = pump::inflow(connection, Some(length), move |mut from| {
        let bytes = shared.storage.create()?;
        let size = std::io::copy(&mut from, &mut bytes.file_at(0)?)?;
        Ok::<_, std::io::Error>((bytes, size))
    });
    let (bytes, size) = stored.await??;
    request.shared.with(|world| {
        world.blobs.insert(blob.clone(), Arc::new(bytes));
        let now = Value::DateTime(world.clock.now());
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        world.db.set("blob", &blob, "size", size)?;
        world.db.set("blob", &blob, "last_updated", now)
    })?;
    Ok(())
}
