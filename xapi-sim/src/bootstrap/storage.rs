//! The SRs of the first state.

use crate::classes::{sr, vdi};
use crate::failure::Failure;
use crate::model::SrSpec;
use crate::value::Value;
use crate::world::World;

/// Adds the SRs of a description: one, or one of each host.
pub(super) fn add(
    world: &mut World,
    hosts: &[String],
    spec: &SrSpec,
) -> Result<Vec<String>, Failure> {
    let mut made = Vec::new();
    let groups: Vec<&[String]> = if spec.shared {
        vec![hosts]
    } else {
        hosts.iter().map(std::slice::from_ref).collect()
    };
    let manners = Manners::of(spec);
    for group in groups {
        let tools = spec.content == "iso" && spec.shared;
        let reference = world.create(
            "SR",
            vec![
                ("name_label", Value::from(spec.name.as_str())),
                ("name_description", Value::from(manners.description)),
                ("physical_size", Value::Int(spec.size)),
                ("type", Value::from(spec.kind.as_str())),
                ("content_type", Value::from(spec.content.as_str())),
                ("shared", Value::Bool(spec.shared)),
                ("is_tools_sr", Value::Bool(tools)),
                ("other_config", manners.other_config.clone()),
                ("sm_config", manners.sm_config.clone()),
            ],
        )?;
        for host in group {
            world.create(
                "PBD",
                vec![
                    ("host", Value::from(host.as_str())),
                    ("SR", Value::from(reference.as_str())),
                    ("currently_attached", Value::Bool(true)),
                    ("device_config", manners.device_config.clone()),
                ],
            )?;
        }
        sr::refresh_own(world, &reference)?;
        made.push(reference.clone());
        if tools {
            let values = vec![
                ("name_label", Value::from("guest-tools.iso")),
                // Images of CDs are known by the names of their files.
                ("location", Value::from("guest-tools.iso")),
                ("SR", Value::from(reference.as_str())),
                ("type", Value::from("user")),
                ("read_only", Value::Bool(true)),
                ("is_tools_iso", Value::Bool(true)),
            ];
            vdi::add(world, values, 64 << 20)?;
        }
        if spec.content != "user" {
            continue;
        }
        if let ([host], false) = (group, spec.shared) {
            // What the installer makes of a host's first disk.
            for field in ["suspend_image_sr", "crash_dump_sr"] {
                if !world.db.exists("SR", &world.db.text("host", host, field)?) {
                    world.db.set("host", host, field, reference.as_str())?;
                }
            }
        }
        let pool = world.pool();
        if !world
            .db
            .exists("SR", &world.db.text("pool", &pool, "default_SR")?)
        {
            world
                .db
                .set("pool", &pool, "default_SR", reference.as_str())?;
            world
                .db
                .set("pool", &pool, "suspend_image_SR", reference.as_str())?;
        }
    }
    Ok(made)
}

/// What SRs of a kind have in common on a freshly installed host.
struct Manners {
    description: &'static str,
    other_config: Value,
    sm_config: Value,
    device_config: Value,
}

impl Manners {
    fn of(spec: &SrSpec) -> Self {
        const NONE: [(&str, &str); 0] = [];
        let kind = (spec.kind.as_str(), spec.content.as_str());
        let (description, key, drives, device) = match kind {
            ("udev", "iso") => (
                "Physical DVD drives",
                "local-hotplug-cd",
                "cd",
                vec![("location", "/dev/xapi/cd")],
            ),
            ("udev", _) => (
                "Physical removable storage",
                "local-hotplug-disk",
                "block",
                vec![("location", "/dev/xapi/block")],
            ),
            ("iso", _) => (
                "XCP-ng Tools ISOs",
                "xenserver-tools",
                "",
                vec![
                    ("location", "/opt/xensource/packages/iso"),
                    ("legacy_mode", "true"),
                ],
            ),
            ("nfs", _) => (
                "",
                "",
                "",
                vec![("server", "192.0.2.100"), ("serverpath", "/export")],
            ),
            ("smb", _) => ("", "", "", vec![("server", r"\\192.0.2.100\export")]),
            ("lvmoiscsi", _) => (
                "",
                "",
                "",
                vec![
                    ("target", "192.0.2.100"),
                    ("targetIQN", "iqn.2001-05.com.example:simulated"),
                    ("SCSIid", "3600140500000000000000000000000001"),
                ],
            ),
            ("lvmohba", _) => (
                "",
                "",
                "",
                vec![("SCSIid", "3600140500000000000000000000000001")],
            ),
            _ => (
                "",
                "local-storage",
                "",
                vec![("device", "/dev/disk/by-id/simulated-part3")],
            ),
        };
        let mut other_config = Vec::new();
        if !key.is_empty() {
            other_config.push(("i18n-key", key));
            other_config.push(("i18n-original-value-name_label", spec.name.as_str()));
        }
        if !description.is_empty() {
            other_config.push(("i18n-original-value-name_description", description));
        }
        if spec.kind == "iso" {
            other_config.push(("xenserver_tools_sr", "true"));
        }
        Manners {
            description,
            other_config: Value::map(other_config),
            sm_config: if drives.is_empty() {
                Value::map(NONE)
            } else {
                Value::map([("type", drives)])
            },
            device_config: Value::map(device),
        }
    }
}
