//! `GET /pool/xmldbdump`: the database in the form in which a server keeps it on its disk, which is
//! what backups of a pool's metadata are made of.

use std::fmt::Write as _;

use super::request::Request;
use super::{OK, Trouble, finish};
use crate::db::Db;
use crate::http::Connection;
use crate::value::Value;
use crate::world::World;

pub(super) async fn dump(request: &Request, connection: &mut Connection) -> Result<(), Trouble> {
    let task = request.task("Dumping database as XML")?;
    let text = request.shared.with(|world| document(world));
    let task_header = task.header();
    let mut head = OK.to_vec();
    head.extend([
        task_header.as_str(),
        "content-type: application/octet-stream",
    ]);
    let sent = async {
        connection.write_head(&head).await?;
        connection.write(text.as_bytes()).await?;
        Ok(())
    };
    finish(task, sent.await, &Value::void())
}

pub(super) fn document(world: &World) -> String {
    let db = &world.db;
    let mut out = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<database><manifest>".to_owned();
    let (major, minor) = schema(world).unwrap_or_default();
    for (key, value) in [
        ("schema_major_vsn", i64::from(major)),
        ("schema_minor_vsn", i64::from(minor)),
        ("generation_count", db.generation()),
    ] {
        // Writing to a text never fails, here and below.
        let _ = write!(out, "<pair key=\"{key}\" value=\"{value}\"/>");
    }
    out.push_str("</manifest>");
    write_tables(&mut out, db);
    out.push_str("</database>\n");
    out
}

/// The version of the tables.
pub(super) fn schema(world: &World) -> Option<(u32, u32)> {
    let host = world.coordinator();
    let schema = world.db.key("host", &host, "software_version", "db_schema");
    let schema = schema.ok()??;
    let (major, minor) = schema.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// What outlives a restart: neither sessions nor tasks, and of other classes not every field.
fn write_tables(out: &mut String, db: &Db) {
    for table in db.tables().filter(|table| table.class.persist) {
        let _ = write!(out, "<table name=\"{}\">", table.class.name);
        for (reference, row) in &table.rows {
            let (created, modified) = (row.created, row.modified);
            let _ = write!(
                out,
                "<row ref=\"{reference}\" __ctime=\"{created}\" __mtime=\"{modified}\" \
                 _ref=\"{reference}\""
            );
            for (field, text) in table.columns(row) {
                if field.persist {
                    let _ = write!(out, " {}=\"{}\"", field.column, protected(&text));
                }
            }
            out.push_str("/>");
        }
        out.push_str("</table>");
    }
}

/// A text as it was before it was written down, without the escapes of XML.
pub(super) fn unprotected(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        let escaped = (character == '%').then(|| rest.next()).flatten();
        out.push(match escaped {
            Some('.') => ' ',
            Some('t') => '\t',
            Some('n') => '\n',
            Some('r') => '\r',
            Some(other) => other,
            None => character,
        });
    }
    out
}

/// Blanks are written in a way that no reader of XML changes.
fn protected(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            ' ' => out.push_str("%."),
            '\t' => out.push_str("%t"),
            '\n' => out.push_str("%n"),
            '\r' => out.push_str("%r"),
            '%' => out.push_str("%%"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            other => out.push(other),
        }
    }
    out
}
