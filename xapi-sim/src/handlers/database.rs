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

fn document(world: &World) -> String {
    let db = &world.db;
    let mut out = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<database><manifest>".to_owned();
    let host = world.coordinator();
    let schema = db.key("host", &host, "software_version", "db_schema");
    let schema = schema.ok().flatten().unwrap_or_default();
    let (major, minor) = schema.split_once('.').unwrap_or((&schema, "0"));
    let generation = db.generation().to_string();
    for (key, value) in [
        ("schema_major_vsn", major),
        ("schema_minor_vsn", minor),
        ("generation_count", &generation),
    ] {
        // Writing to a text never fails, here and below.
        let _ = write!(out, "<pair key=\"{key}\" value=\"{value}\"/>");
    }
    out.push_str("</manifest>");
    write_tables(&mut out, db);
    out.push_str("</database>\n");
    out
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
            for (field, text) in table.columns(row, db.release()) {
                if field.persist {
                    let _ = write!(out, " {}=\"{}\"", field.column, protected(&text));
                }
            }
            out.push_str("/>");
        }
        out.push_str("</table>");
    }
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
