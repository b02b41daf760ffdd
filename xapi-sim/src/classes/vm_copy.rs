//! VMs from templates: clone, copy and provision.

use std::sync::Arc;

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use super::operation::Operation;
use super::vdi::{self, CopyKind};
use super::{Table, check, done, refresh, vbd, vif, vm};
use crate::dispatch::Handler::{Later, Now};
use crate::failure::{Failure, Reply};
use crate::value::{NULL_REF, Value, parse_int};
use crate::world::{Call, Shared, World};

pub(crate) const TABLE: Table = &[
    (
        "VM.clone",
        Later(|shared, call| Box::pin(clone(shared, call))),
    ),
    (
        "VM.copy",
        Later(|shared, call| Box::pin(copy(shared, call))),
    ),
    ("VM.provision", Now(provision)),
];

/// `VM.clone(vm, new_name)`.
async fn clone(shared: Arc<Shared>, call: Arc<Call>) -> Reply {
    let operation = Operation::begin(&shared, &call, "clone").await?;
    operation.work().await;
    let purpose = Purpose {
        disks: CopyKind::Clone,
        snapshot: false,
    };
    duplicate(&shared, call.text(0), call.text(1), &purpose, None, &[])
        .await
        .map(Value::String)
}

/// `VM.copy(vm, new_name, sr)`. A reference to no SR is no failure: each disk then stays where
/// it is.
async fn copy(shared: Arc<Shared>, call: Arc<Call>) -> Reply {
    let operation = Operation::begin(&shared, &call, "copy").await?;
    operation.work().await;
    let sr = call.text(2);
    let target = shared.with(|world| world.db.exists("SR", sr)).then_some(sr);
    let purpose = Purpose {
        disks: CopyKind::Copy,
        snapshot: false,
    };
    duplicate(&shared, call.text(0), call.text(1), &purpose, target, &[])
        .await
        .map(Value::String)
}

/// What a duplicate of a VM is for.
#[derive(Debug)]
pub(crate) struct Purpose {
    pub(crate) disks: CopyKind,
    pub(crate) snapshot: bool,
}

/// A device and the disk that its copy refers to.
type CopiedDisk = (String, String, bool);

/// Makes a VM from another with its disks and devices. When something fails, what was made so far
/// goes again.
pub(crate) async fn duplicate(
    shared: &Shared,
    source: &str,
    name: &str,
    purpose: &Purpose,
    target: Option<&str>,
    ignored_disks: &[String],
) -> Result<String, Failure> {
    let vbds = shared.with(|world| {
        let mut vbds = Vec::new();
        for vbd in world.db.list("VM", source, "VBDs")? {
            let vdi = world.db.text("VBD", &vbd, "VDI")?;
            let kind = world.db.text("VBD", &vbd, "type")?;
            if !ignored_disks.contains(&vdi) {
                // Images in drives are shared, and empty drives stay empty.
                let shared = kind != "Disk" || vdi == NULL_REF;
                vbds.push((vbd, vdi, shared));
            }
        }
        Ok(vbds)
    })?;
    let mut copies: Vec<CopiedDisk> = Vec::new();
    for (vbd, vdi, shares) in vbds {
        if shares {
            copies.push((vbd, vdi, false));
            continue;
        }
        match vdi::copy(shared, &vdi, purpose.disks, target).await {
            Ok(copy) => copies.push((vbd, copy, true)),
            Err(failure) => {
                discard(shared, &copies).await;
                return Err(failure);
            }
        }
    }
    let made = shared.with(|world| record(world, source, name, purpose, &copies));
    if made.is_err() {
        discard(shared, &copies).await;
    }
    made
}

async fn discard(shared: &Shared, copies: &[CopiedDisk]) {
    for (_, vdi, _) in copies.iter().filter(|(.., made)| *made) {
        let disk = shared
            .with(|world| vdi::remove(world, vdi))
            .unwrap_or_default();
        vdi::release(disk).await;
    }
}

/// Fields that a copy starts afresh with, or that get values of their own below.
const NOT_COPIED: &[&str] = &[
    "uuid",
    "allowed_operations",
    "current_operations",
    "blocked_operations",
    "name_label",
    "power_state",
    "is_default_template",
    "suspend_VDI",
    "resident_on",
    "scheduled_to_be_resident_on",
    "consoles",
    "VIFs",
    "VBDs",
    "VUSBs",
    "VTPMs",
    "VGPUs",
    "crash_dumps",
    "attached_PCIs",
    "domid",
    "domarch",
    "metrics",
    "guest_metrics",
    "ha_always_run",
    "snapshots",
    "snapshot_of",
    "snapshot_time",
    "snapshot_info",
    "snapshot_metadata",
    "is_a_snapshot",
    "transportable_snapshot_id",
    "blobs",
    "parent",
    "children",
    "protection_policy",
    "is_snapshot_from_vmpp",
    "snapshot_schedule",
    "is_vmss_snapshot",
    "appliance",
    "start_delay",
    "shutdown_delay",
    "order",
    "suspend_SR",
    "version",
    "generation_id",
    "requires_reboot",
    "pending_guidances",
    "pending_guidances_recommended",
    "pending_guidances_full",
    "groups",
    "other_config",
    "is_a_template",
];

fn record(
    world: &mut World,
    source: &str,
    name: &str,
    purpose: &Purpose,
    copies: &[CopiedDisk],
) -> Result<String, Failure> {
    let original = world.db.record("VM", source)?;
    let metrics = vm::new_metrics(world)?;
    let report = copy_report(world, &original)?;
    let mut values: Vec<(&str, Value)> = original
        .members()
        .iter()
        .filter(|(field, _)| !NOT_COPIED.contains(&field.as_str()))
        .map(|(field, value)| (field.as_str(), value.clone()))
        .collect();
    let template = original
        .get("is_a_template")
        .and_then(Value::as_bool)
        .unwrap_or_default();
    let other_config = other_config(world, &original, purpose.snapshot, template);
    values.extend([
        ("name_label", Value::from(name)),
        ("power_state", Value::from("Halted")),
        ("is_a_template", Value::Bool(purpose.snapshot || template)),
        ("domid", Value::Int(-1)),
        ("metrics", Value::String(metrics)),
        ("guest_metrics", Value::String(report)),
        ("generation_id", Value::void()),
        ("other_config", other_config),
    ]);
    if purpose.snapshot {
        let power = original
            .get("power_state")
            .and_then(Value::as_str)
            .unwrap_or("Halted");
        values.extend([
            ("is_a_snapshot", Value::Bool(true)),
            ("snapshot_of", Value::from(source)),
            ("snapshot_time", Value::DateTime(world.clock.now())),
            (
                "parent",
                original
                    .get("parent")
                    .cloned()
                    .unwrap_or_else(Value::null_ref),
            ),
            (
                "snapshot_info",
                Value::map([
                    ("disk-snapshot-type", "crash_consistent"),
                    ("power-state-at-snapshot", power),
                ]),
            ),
        ]);
    }
    let copy = world.create("VM", values)?;
    for (device, disk, made) in copies {
        copy_vbd(world, device, &copy, disk, *made)?;
    }
    for device in world.db.list("VM", source, "VIFs")? {
        vif::copy(world, &device, &copy, purpose.snapshot)?;
    }
    if !purpose.snapshot && original.get("power_state").and_then(Value::as_str) == Some("Suspended")
    {
        // The copy of one that sleeps sleeps too.
        let image = vdi::suspend_image(world, &copy)?;
        world.db.set("VM", &copy, "suspend_VDI", image)?;
        world.db.set("VM", &copy, "power_state", "Suspended")?;
    }
    refresh(world, &copy);
    Ok(copy)
}

/// What the original's guest last reported, stale or not, under a reference of the copy's own.
fn copy_report(world: &mut World, original: &Value) -> Result<String, Failure> {
    let source = original.get("guest_metrics").and_then(Value::as_str);
    let source = source.unwrap_or(NULL_REF);
    if !world.db.exists("VM_guest_metrics", source) {
        return Ok(NULL_REF.to_owned());
    }
    let report = world.db.record("VM_guest_metrics", source)?;
    let values = report.members().iter();
    let values = values.filter(|(field, _)| field != "uuid");
    let values = values.map(|(field, value)| (field.as_str(), value.clone()));
    world.create("VM_guest_metrics", values.collect())
}

/// A copy gets a seed of its own, so that its interfaces get addresses of their own, and
/// remembers which template it came from.
fn other_config(world: &mut World, original: &Value, snapshot: bool, template: bool) -> Value {
    let source = original
        .get("other_config")
        .map(|map| map.members().to_vec());
    let mut members = source.unwrap_or_default();
    if !snapshot {
        let seed = world.seed.uuid_value();
        match members.iter_mut().find(|(key, _)| key == "mac_seed") {
            Some((_, value)) => *value = seed,
            None => members.insert(0, ("mac_seed".to_owned(), seed)),
        }
    }
    members.retain(|(key, _)| !matches!(key.as_str(), "default_template" | "xensource_internal"));
    if template && !members.iter().any(|(key, _)| key == "base_template_name") {
        let label = original
            .get("name_label")
            .cloned()
            .unwrap_or_else(Value::void);
        members.insert(0, ("base_template_name".to_owned(), label));
    }
    Value::Struct(members)
}

/// Copies a block device to another VM. The copy owns its disk, whoever owned the original's.
pub(crate) fn copy_vbd(
    world: &mut World,
    device: &str,
    vm: &str,
    disk: &str,
    owns: bool,
) -> Result<(), Failure> {
    let original = world.db.record("VBD", device)?;
    let mut values: Vec<(&str, Value)> = original
        .members()
        .iter()
        .filter(|(field, _)| {
            matches!(
                field.as_str(),
                "userdevice"
                    | "bootable"
                    | "mode"
                    | "type"
                    | "unpluggable"
                    | "empty"
                    | "qos_algorithm_type"
                    | "qos_algorithm_params"
            )
        })
        .map(|(field, value)| (field.as_str(), value.clone()))
        .collect();
    let mut config = original
        .get("other_config")
        .map(|c| c.members().to_vec())
        .unwrap_or_default();
    if owns && !config.iter().any(|(key, _)| key == "owner") {
        config.insert(0, ("owner".to_owned(), Value::void()));
    }
    values.push(("other_config", Value::Struct(config)));
    values.push(("VM", Value::from(vm)));
    values.push(("VDI", Value::from(disk)));
    vbd::add(world, values).map(drop)
}

/// Makes an ordinary VM of a template, with the disks that its provision text asks for. When that
/// fails the disks go again, and yet the VM is no template any more: so does the real server.
fn provision(world: &mut World, call: &Call) -> Reply {
    let vm = call.text(0);
    check(world, vm, "provision")?;
    world.db.set("VM", vm, "is_a_template", false)?;
    refresh(world, vm);
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
    let metrics = world.db.text("VM", vm, "metrics")?;
    if world.db.exists("VM_metrics", &metrics) {
        let now = Value::DateTime(world.clock.now());
        world.db.set("VM_metrics", &metrics, "install_time", now)?;
    }
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
