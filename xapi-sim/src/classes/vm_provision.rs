//! Ordinary VMs of templates: provisioning, with the disks that a template asks for.

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use super::{Table, check, done, refresh, vbd, vdi, vm};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::value::{Value, parse_int};
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[("VM.provision", Now(provision))];

/// Makes an ordinary VM of a template, with the disks that its provision text asks for. When that
/// fails the disks go again, and yet the VM is no template any more: so does the real server.
fn provision(world: &mut World, call: &Call) -> Reply {
    let vm = call.text(0);
    check(world, vm, "provision")?;
    vm::make_ordinary(world, vm)?;
    let disks = match world.db.key("VM", vm, "other_config", "disks")? {
        Some(text) => Disk::parse_all(&text)
            .ok_or_else(|| Failure::internal("Xapi_templates.Parse_failure"))?,
        None => Vec::new(),
    };
    let mut made = Vec::new();
    for disk in &disks {
        if let Err(failure) = disk.make(world, vm, &mut made) {
            for vdi in made {
                // New disks are empty: there is nothing to release.
                let _ = vdi::remove(world, &vdi);
            }
            return Err(failure);
        }
    }
    let rest = world
        .db
        .get("VM", vm, "other_config")?
        .members()
        .iter()
        .filter(|(key, _)| !matches!(key.as_str(), "disks" | "postinstall"))
        .cloned()
        .collect();
    world
        .db
        .set("VM", vm, "other_config", Value::Struct(rest))?;
    refresh(world, vm);
    done()
}

/// A disk that a template asks for.
#[derive(Debug, PartialEq, Eq)]
struct Disk {
    device: String,
    size: i64,
    sr: String,
    bootable: bool,
    kind: String,
}

impl Disk {
    /// Reads `<provision><disk device= size= sr= bootable= type=/>...</provision>`, where all but
    /// the type are required. `None` for anything else.
    fn parse_all(text: &str) -> Option<Vec<Disk>> {
        let mut reader = Reader::from_str(text);
        let mut disks = Vec::new();
        let mut depth = 0;
        loop {
            match reader.read_event().ok()? {
                Event::Start(tag) => {
                    match (depth, tag.local_name().as_ref()) {
                        (0, "provision") if tag.attributes().next().is_none() => {}
                        (1, "disk") => disks.push(Disk::parse(&tag)?),
                        _ => return None,
                    }
                    depth += 1;
                }
                Event::Empty(tag) => match (depth, tag.local_name().as_ref()) {
                    (0, "provision") => return Some(disks),
                    (1, "disk") => disks.push(Disk::parse(&tag)?),
                    _ => return None,
                },
                Event::End(_) => {
                    depth -= 1;
                    if depth == 0 {
                        return Some(disks);
                    }
                }
                Event::Text(text) if text.xml10_content().trim().is_empty() => {}
                Event::Comment(_) | Event::Decl(_) => {}
                _ => return None,
            }
        }
    }

    fn parse(tag: &BytesStart<'_>) -> Option<Disk> {
        let attribute = |name: &str| -> Option<String> {
            let found = tag.try_get_attribute(name).ok()??;
            found
                .normalized_value(XmlVersion::Implicit1_0)
                .ok()
                .map(|value| value.into_owned())
        };
        let kind = attribute("type").filter(|kind| {
            matches!(
                kind.as_str(),
                "system" | "user" | "ephemeral" | "suspend" | "crashdump"
            )
        });
        Some(Disk {
            device: attribute("device")?,
            size: parse_int(&attribute("size")?)?,
            sr: attribute("sr")?,
            bootable: attribute("bootable")? == "true",
            kind: kind.unwrap_or_else(|| "system".to_owned()),
        })
    }

    fn make(&self, world: &mut World, vm: &str, made: &mut Vec<String>) -> Result<(), Failure> {
        let sr = world.db.by_uuid("SR", &self.sr);
        let sr = sr.ok_or_else(|| Failure::uuid_invalid("sr", &self.sr))?;
        let hint = world.db.text("VM", vm, "uuid")?;
        let values = vec![
            (
                "name_description",
                Value::from("Created by template provisioner"),
            ),
            ("SR", Value::String(sr)),
            ("type", Value::from(self.kind.as_str())),
            ("sm_config", Value::map([("vmhint", hint)])),
        ];
        let vdi = vdi::add(world, values, self.size)?;
        made.push(vdi.clone());
        if vbd::used_numbers(world, vm)?.contains(&vbd::disk_number(&self.device).unwrap_or(-1)) {
            return Err(Failure::new(
                "DEVICE_ALREADY_EXISTS",
                [self.device.as_str()],
            ));
        }
        let values = vec![
            ("VM", Value::from(vm)),
            ("VDI", Value::from(vdi.as_str())),
            ("userdevice", Value::from(self.device.as_str())),
            ("bootable", Value::Bool(self.bootable)),
            ("mode", Value::from("RW")),
            ("type", Value::from("Disk")),
            ("unpluggable", Value::Bool(self.kind != "system")),
            ("other_config", Value::map([("owner", "")])),
        ];
        vbd::add(world, values)?;
        world
            .db
            .set("VDI", &vdi, "name_label", self.device.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provision_texts() {
        assert_eq!(Disk::parse_all("<provision></provision>"), Some(vec![]));
        assert_eq!(Disk::parse_all("<provision/>"), Some(vec![]));
        let text = r#"<provision><disk device="0" size="8589934592" sr="abc" bootable="true" type="user"/></provision>"#;
        assert_eq!(
            Disk::parse_all(text),
            Some(vec![Disk {
                device: "0".to_owned(),
                size: 8 << 30,
                sr: "abc".to_owned(),
                bootable: true,
                kind: "user".to_owned(),
            }])
        );
        for text in [
            "",
            "<disks/>",
            r#"<provision><disk device="0" size="1" bootable="true"/></provision>"#,
            r#"<provision><disk device="0" size="x" sr="" bootable="true"/></provision>"#,
            "<provision>",
        ] {
            assert_eq!(Disk::parse_all(text), None, "{text}");
        }
    }
}
