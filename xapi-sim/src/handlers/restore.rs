//! `PUT /pool/xmldbdump`: takes back the database that `GET` has given. The coordinator then starts
//! from it, alone: whoever else is in the dump is forgotten, as on a host.

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use super::database;
use super::request::Request;
use super::{OK, Trouble, finish, pump};
use crate::db::Restored;
use crate::failure::Failure;
use crate::http::Connection;
use crate::outage;
use crate::value::Value;
use crate::world::World;

/// The longest dump; one of ten thousand VMs has some 100 MB.
const MAX_DUMP: u64 = 1 << 30;
/// How long after the answer the host starts anew.
const FUSE: Duration = Duration::from_secs(1);

pub(super) async fn restore(request: &Request, connection: &mut Connection) -> Result<(), Trouble> {
    let task = request.task("Reading database as XML")?;
    let task_header = task.header();
    let mut head = OK.to_vec();
    head.push(&task_header);
    let length = request.head.content_length;
    let length = length.and_then(|length| u64::try_from(length).ok());
    let result = async {
        connection.write_head(&head).await?;
        let read = pump::inflow(connection, length, |from| {
            let mut text = String::new();
            from.take(MAX_DUMP).read_to_string(&mut text).ok()?;
            parse(&text)
        });
        let dump = read.await?;
        let dump = dump.ok_or_else(|| Failure::internal("Db_xml.Unmarshall_error"))?;
        request.shared.with(|world| check(world, &dump))?;
        if request.query("dry_run") != Some("true") {
            start_from(request, dump);
        }
        Ok(())
    };
    let result = result.await;
    finish(task, result, &Value::void())
}

/// A dump as it was sent.
struct Dump {
    schema: (u32, u32),
    content: Restored,
}

impl Dump {
    /// The columns of the rows of a table.
    fn rows<'d>(&'d self, table: &'d str) -> impl Iterator<Item = &'d [(String, String)]> {
        let rows = self.content.rows.iter();
        let rows = rows.filter(move |row| row.table == table);
        rows.map(|row| row.columns.as_slice())
    }
}

fn column<'r>(row: &'r [(String, String)], name: &str) -> &'r str {
    let found = row.iter().find(|(known, _)| known == name);
    found.map_or("", |(_, text)| text)
}

/// `None` for what is no dump.
fn parse(text: &str) -> Option<Dump> {
    let mut reader = Reader::from_str(text);
    let mut manifest: Vec<(String, String)> = Vec::new();
    let mut content = Restored::default();
    let mut table = String::new();
    loop {
        let tag = match reader.read_event().ok()? {
            Event::Start(tag) | Event::Empty(tag) => tag,
            Event::Eof => break,
            _ => continue,
        };
        let attributes = attributes(&tag)?;
        match tag.local_name().as_ref() {
            "pair" => {
                let (key, value) = (column(&attributes, "key"), column(&attributes, "value"));
                manifest.push((key.to_owned(), value.to_owned()));
            }
            "table" => table = column(&attributes, "name").to_owned(),
            "row" => content.add(&table, attributes),
            _ => {}
        }
    }
    let number = |key| column(&manifest, key).parse().ok();
    content.generation = column(&manifest, "generation_count").parse().ok()?;
    Some(Dump {
        schema: (number("schema_major_vsn")?, number("schema_minor_vsn")?),
        content,
    })
}

fn attributes(tag: &BytesStart<'_>) -> Option<Vec<(String, String)>> {
    let attributes = tag.attributes().map(|attribute| {
        let attribute = attribute.ok()?;
        let name = attribute.key.as_ref().to_owned();
        let text = attribute.normalized_value(XmlVersion::Implicit1_0).ok()?;
        Some((name, database::unprotected(&text)))
    });
    attributes.collect()
}

/// Refuses what this host cannot start from.
fn check(world: &World, dump: &Dump) -> Result<(), Failure> {
    if Some(dump.schema) > database::schema(world) {
        return Err(Failure::code("RESTORE_INCOMPATIBLE_VERSION"));
    }
    let coordinator = world.coordinator();
    let master = dump.rows("pool").next().map(|row| column(row, "master"));
    let mut devices = Vec::new();
    let mut managing = None;
    for pif in world.db.list("host", &coordinator, "PIFs")? {
        let device = world.db.text("PIF", &pif, "device")?;
        if world.db.flag("PIF", &pif, "management")? {
            managing = Some(device.clone());
        }
        if world.db.flag("PIF", &pif, "physical")? {
            devices.push(device);
        }
    }
    let of_master = |row: &&[(String, String)]| Some(column(row, "host")) == master;
    let mut saved = Vec::new();
    for pif in dump.rows("PIF").filter(of_master) {
        let device = column(pif, "device").to_owned();
        if column(pif, "physical") == "true" && !devices.contains(&device) {
            return Err(Failure::new("RESTORE_TARGET_MISSING_DEVICE", [device]));
        }
        saved.push(device);
    }
    match managing {
        Some(device) if !saved.contains(&device) => {
            Err(Failure::new("RESTORE_TARGET_MGMT_IF_NOT_IN_BACKUP", saved))
        }
        _ => Ok(()),
    }
}

/// Lets the coordinator start from a dump, once the answer is on its way.
fn start_from(request: &Request, mut dump: Dump) {
    // The machine is this one, whichever has made the dump.
    let master = dump
        .rows("pool")
        .next()
        .map(|row| column(row, "master").to_owned());
    if let Some(master) = master.filter(|master| !master.is_empty()) {
        let coordinator = request.shared.with(|world| world.coordinator());
        dump.content.rename(&master, &coordinator);
    }
    let shared = Arc::clone(&request.shared);
    tokio::spawn(async move {
        tokio::select! {
            () = shared.closed() => {}
            () = tokio::time::sleep(FUSE) => {
                if let Err(failure) = outage::start_from(&shared, dump.content) {
                    tracing::warn!(%failure, "a host does not start from a restored database");
                }
            }
        }
    });
}
