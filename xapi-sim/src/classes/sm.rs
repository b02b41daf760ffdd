//! The storage drivers of the hosts, and what each can do.

use crate::db::Db;
use crate::failure::Failure;
use crate::value::Value;
use crate::world::World;

/// A driver as every host has it.
pub(crate) struct Driver {
    /// The type of its SRs.
    pub(crate) kind: &'static str,
    name: &'static str,
    description: &'static str,
    /// What it can do, each with the version of that, in the order in which it says so.
    features: &'static [(&'static str, i64)],
    /// What a device configuration has to have for it.
    pub(crate) required: &'static [&'static str],
    /// What it asks the user for.
    configuration: &'static [(&'static str, &'static str)],
}

/// What drivers can do that keep disks in files.
const FILES: &[(&str, i64)] = &[
    ("SR_PROBE", 1),
    ("SR_UPDATE", 1),
    ("VDI_CREATE", 1),
    ("VDI_DELETE", 1),
    ("VDI_ATTACH", 1),
    ("VDI_DETACH", 1),
    ("VDI_UPDATE", 1),
    ("VDI_CLONE", 1),
    ("VDI_SNAPSHOT", 1),
    ("VDI_RESIZE", 1),
    ("VDI_MIRROR", 1),
    ("VDI_GENERATE_CONFIG", 1),
    ("VDI_RESET_ON_BOOT", 2),
    ("VDI_CONFIG_CBT", 1),
    ("VDI_ACTIVATE", 1),
    ("VDI_DEACTIVATE", 1),
    ("THIN_PROVISIONING", 1),
    ("VDI_READ_CACHING", 1),
];

/// What drivers can do that keep disks in logical volumes.
const VOLUMES: &[(&str, i64)] = &[
    ("SR_PROBE", 1),
    ("SR_UPDATE", 1),
    ("SR_TRIM", 1),
    ("VDI_CREATE", 1),
    ("VDI_DELETE", 1),
    ("VDI_ATTACH", 1),
    ("VDI_DETACH", 1),
    ("VDI_MIRROR", 1),
    ("VDI_CLONE", 1),
    ("VDI_SNAPSHOT", 1),
    ("VDI_RESIZE", 1),
    ("ATOMIC_PAUSE", 1),
    ("VDI_RESET_ON_BOOT", 2),
    ("VDI_UPDATE", 1),
    ("VDI_CONFIG_CBT", 1),
    ("VDI_ACTIVATE", 1),
    ("VDI_DEACTIVATE", 1),
];

/// What drivers can do that keep disks in logical volumes on a LUN.
const VOLUMES_ON_LUNS: &[(&str, i64)] = &[
    ("SR_PROBE", 1),
    ("SR_UPDATE", 1),
    ("SR_METADATA", 1),
    ("SR_TRIM", 1),
    ("VDI_CREATE", 1),
    ("VDI_DELETE", 1),
    ("VDI_ATTACH", 1),
    ("VDI_DETACH", 1),
    ("VDI_GENERATE_CONFIG", 1),
    ("VDI_CLONE", 1),
    ("VDI_SNAPSHOT", 1),
    ("VDI_RESIZE", 1),
    ("ATOMIC_PAUSE", 1),
    ("VDI_RESET_ON_BOOT", 2),
    ("VDI_UPDATE", 1),
    ("VDI_MIRROR", 1),
    ("VDI_CONFIG_CBT", 1),
    ("VDI_ACTIVATE", 1),
    ("VDI_DEACTIVATE", 1),
];

pub(crate) const DRIVERS: &[Driver] = &[
    Driver {
        kind: "ext",
        name: "Local EXT3 VHD",
        description: "SR plugin which represents disks as VHD files stored on a local EXT3 \
                      filesystem, created inside an LVM volume",
        features: FILES,
        required: &["device"],
        configuration: &[("device", "local device path (required) (e.g. /dev/sda3)")],
    },
    Driver {
        kind: "nfs",
        name: "NFS VHD",
        description: "SR plugin which stores disks as VHD files on a remote NFS filesystem",
        features: FILES,
        required: &["server", "serverpath"],
        configuration: &[
            ("server", "hostname or IP address of NFS server (required)"),
            ("serverpath", "path on remote server (required)"),
        ],
    },
    Driver {
        kind: "lvm",
        name: "Local VHD on LVM",
        description: "SR plugin which represents disks as VHD disks on Logical Volumes within a \
                      locally-attached Volume Group",
        features: VOLUMES,
        required: &["device"],
        configuration: &[("device", "local device path (required) (e.g. /dev/sda3)")],
    },
    Driver {
        kind: "lvmoiscsi",
        name: "LVHD over iSCSI",
        description: "SR plugin which represents disks as Logical Volumes within a Volume Group \
                      created on an iSCSI LUN",
        features: VOLUMES_ON_LUNS,
        required: &["target", "targetIQN", "SCSIid"],
        configuration: &[
            ("SCSIid", "The scsi_id of the destination LUN"),
            ("target", "IP address or hostname of the iSCSI target"),
            (
                "targetIQN",
                "The IQN of the target LUN group to be attached",
            ),
        ],
    },
    Driver {
        kind: "lvmohba",
        name: "LVHD over FC",
        description: "SR plugin which represents disks as VHDs on Logical Volumes within a Volume \
                      Group created on an HBA LUN, e.g. hardware-based iSCSI or FC support",
        features: VOLUMES_ON_LUNS,
        required: &["SCSIid"],
        configuration: &[("SCSIid", "The scsi_id of the destination LUN")],
    },
    Driver {
        kind: "iso",
        name: "ISO",
        description: "Handles CD images stored as files in iso format",
        features: &[
            ("VDI_CREATE", 1),
            ("VDI_DELETE", 1),
            ("VDI_ATTACH", 1),
            ("VDI_DETACH", 1),
            ("SR_SCAN", 1),
            ("SR_ATTACH", 1),
            ("SR_DETACH", 1),
        ],
        required: &["location"],
        configuration: &[("location", "path to mount (required) (e.g. server:/path)")],
    },
    Driver {
        kind: "udev",
        name: "udev",
        description: "SR plugin which represents devices plugged in via udev as VDIs",
        features: &[
            ("VDI_INTRODUCE", 1),
            ("VDI_ATTACH", 1),
            ("VDI_DETACH", 1),
            ("VDI_UPDATE", 1),
            ("SR_UPDATE", 1),
        ],
        required: &["location"],
        configuration: &[("location", "path to mount (required) (e.g. server:/path)")],
    },
    Driver {
        kind: "smb",
        name: "SMB VHD",
        description: "SR plugin which stores disks as VHD files on a remote SMB filesystem",
        features: FILES,
        required: &["server"],
        configuration: &[
            ("server", "Full path to share root on SMB server (required)"),
            (
                "username",
                "The username to be used during SMB authentication",
            ),
            (
                "password",
                "The password to be used during SMB authentication",
            ),
        ],
    },
];

/// The driver of a type of SRs.
pub(crate) fn driver(kind: &str) -> Result<&'static Driver, Failure> {
    let found = DRIVERS.iter().find(|driver| driver.kind == kind);
    found.ok_or_else(|| Failure::new("SR_UNKNOWN_DRIVER", [kind]))
}

impl Driver {
    pub(crate) fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|(name, _)| *name == feature)
    }

    /// Refuses a device configuration with which the driver cannot find its storage.
    pub(crate) fn verify(&self, config: &Value) -> Result<(), Failure> {
        let lacks = |key: &&&str| {
            let text = config.get(key).and_then(Value::as_str);
            text.unwrap_or_default().is_empty()
        };
        match self.required.iter().find(lacks) {
            None => Ok(()),
            Some(key) => Err(missing(key)),
        }
    }
}

/// What drivers say when they lack a key of the device configuration.
fn missing(key: &str) -> Failure {
    let parameter = format!("The request is missing the {key} parameter");
    let (code, text) = match key {
        "location" => (94, parameter),
        "target" => (95, parameter),
        "targetIQN" => {
            let text = "The request is missing or has an incorrect target IQN parameter";
            (96, text.to_owned())
        }
        "serverpath" => (101, parameter),
        "server" => (102, parameter),
        "SCSIid" => {
            let text = "The SCSIid parameter is missing or incorrect";
            (107, text.to_owned())
        }
        _ => (90, parameter),
    };
    Failure::new(format!("SR_BACKEND_FAILURE_{code}"), ["", &text, ""])
}

/// Refuses a device configuration that the driver of an SR cannot do anything with.
pub(crate) fn verify(kind: &str, config: &Value) -> Result<(), Failure> {
    match driver(kind) {
        Ok(driver) => driver.verify(config),
        // What only a model can have asks for nothing.
        Err(_) => Ok(()),
    }
}

/// Whether the driver of an SR can do something. The SR of the guest tools takes and loses nothing.
pub(crate) fn can(db: &Db, sr: &str, feature: &str) -> bool {
    let tools = db.flag("SR", sr, "is_tools_sr").unwrap_or(false);
    if tools && matches!(feature, "VDI_CREATE" | "VDI_DELETE") {
        return false;
    }
    let kind = db.text("SR", sr, "type").unwrap_or_default();
    // What only a model can have behaves as the most ordinary one.
    driver(&kind).map_or(true, |driver| driver.has(feature))
}

/// Adds the records that tell clients of the drivers.
pub(crate) fn add_records(world: &mut World) -> Result<(), Failure> {
    for driver in DRIVERS {
        let names = driver.features.iter().map(|(name, _)| *name);
        let features = driver.features.iter();
        let features = features.map(|(name, version)| ((*name).to_owned(), Value::Int(*version)));
        let values = vec![
            ("name_label", Value::from(driver.name)),
            ("name_description", Value::from(driver.description)),
            ("type", Value::from(driver.kind)),
            ("vendor", Value::from("Citrix Systems Inc")),
            ("copyright", Value::from("(C) 2008 Citrix Systems Inc")),
            ("version", Value::from("1.0")),
            ("required_api_version", Value::from("1.0")),
            ("configuration", Value::map(driver.configuration.to_vec())),
            ("capabilities", Value::strings(names)),
            ("features", Value::Struct(features.collect())),
            (
                "driver_filename",
                Value::String(format!(
                    "/opt/xensource/sm/{}SR",
                    driver.kind.to_uppercase()
                )),
            ),
            ("supported_image_formats", Value::strings(["vhd"])),
        ];
        world.create("SM", values)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_driver_needs_it_also_asks_for() {
        for driver in DRIVERS {
            for key in driver.required {
                let asked = driver.configuration.iter().any(|(known, _)| known == key);
                assert!(asked, "{} needs {key}", driver.kind);
            }
        }
    }
}
