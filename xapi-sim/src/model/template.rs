//! Templates of a model, and those that come with a pool.

use super::GIB;
use crate::report::GuestReport;

/// Describes a template.
#[derive(Debug, Clone)]
pub struct TemplateSpec {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) default: bool,
    /// Size of the disk: of its own, or the one that a built-in template asks for.
    pub(crate) disk: Option<i64>,
    pub(crate) guest: bool,
    pub(crate) report: GuestReport,
    pub(crate) cloud_init: bool,
    pub(crate) other_config: Vec<(String, String)>,
    pub(crate) vifs: Vec<String>,
    pub(crate) memory_min: i64,
    pub(crate) memory_max: i64,
    pub(crate) vcpus: i64,
    pub(crate) cores_per_socket: Option<i64>,
    /// Which releases have it, of those that come with the pool.
    pub(crate) built_in_since: Option<Since>,
}

/// Which releases bring a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    Xcpng82,
    Xcpng83,
    OnlyXcpng82,
}

impl TemplateSpec {
    /// Whether it has a disk of its own.
    pub(crate) fn needs_storage(&self) -> bool {
        !self.default && self.disk.is_some()
    }

    /// Whether its VCPUs fill its sockets, without which none of its VMs starts.
    pub(crate) fn has_whole_sockets(&self) -> bool {
        let cores = self.cores_per_socket.unwrap_or(1);
        self.vcpus > 0 && cores > 0 && self.vcpus % cores == 0
    }

    /// A built-in template: no disk of its own, but a provision text that asks for one of so many
    /// bytes (0: for none) on an SR that whoever deploys it has to fill in.
    pub fn built_in(name: impl Into<String>, disk: i64) -> Self {
        TemplateSpec {
            name: name.into(),
            description: String::new(),
            default: true,
            disk: (disk > 0).then_some(disk),
            guest: false,
            report: GuestReport::default(),
            cloud_init: false,
            other_config: Vec::new(),
            vifs: Vec::new(),
            memory_min: GIB,
            memory_max: 2 * GIB,
            vcpus: 1,
            cores_per_socket: None,
            built_in_since: None,
        }
    }

    /// A custom template with a disk of its own on which a system with guest tools is installed:
    /// its VMs run as guests that are reached over SSH.
    pub fn with_guest(name: impl Into<String>) -> Self {
        TemplateSpec {
            default: false,
            disk: Some(8 * GIB),
            guest: true,
            memory_min: GIB / 2,
            memory_max: GIB,
            ..TemplateSpec::built_in(name, 0)
        }
    }

    /// A custom template with an empty disk: its VMs start, but nothing ever reports from them.
    pub fn with_empty_disk(name: impl Into<String>) -> Self {
        TemplateSpec {
            guest: false,
            ..TemplateSpec::with_guest(name)
        }
    }

    /// Describes it.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = text.into();
        self
    }

    /// Makes its disk so many bytes large.
    #[must_use]
    pub fn disk(mut self, bytes: i64) -> Self {
        self.disk = Some(bytes);
        self
    }

    /// Lets its guests report something else than their address.
    #[must_use]
    pub fn report(mut self, report: GuestReport) -> Self {
        self.report = report;
        self
    }

    /// Gives its system cloud-init in place of a boot script of ours: its VMs take users, keys, name
    /// and the rest from a config drive (a disk with a FAT volume `cidata`: `meta-data`,
    /// `user-data`, `network-config`) and read nothing from xenstore. Without a drive nobody can
    /// log in to them.
    #[must_use]
    pub fn cloud_init(mut self) -> Self {
        self.cloud_init = true;
        self
    }

    /// Adds a key to its `other_config`.
    #[must_use]
    pub fn other_config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.other_config.push((key.into(), value.into()));
        self
    }

    /// Adds an interface on the network of this name.
    #[must_use]
    pub fn vif(mut self, network: impl Into<String>) -> Self {
        self.vifs.push(network.into());
        self
    }

    /// Sets the smallest memory that the system can do with, and what it has, in bytes.
    #[must_use]
    pub fn memory(mut self, min: i64, max: i64) -> Self {
        self.memory_min = min;
        self.memory_max = max;
        self
    }

    /// Gives it so many VCPUs.
    #[must_use]
    pub fn vcpus(mut self, count: i64) -> Self {
        self.vcpus = count;
        self
    }

    /// Sets `platform:cores-per-socket`, of which the number of VCPUs has to be a multiple.
    #[must_use]
    pub fn cores_per_socket(mut self, count: i64) -> Self {
        self.cores_per_socket = Some(count);
        self
    }
}

/// Some built-in templates of XCP-ng, with the disk that each asks for, the least memory (a clone
/// begins with twice as much) and the releases that have it.
#[rustfmt::skip] // One to a line.
pub(super) const BUILT_IN: &[(&str, i64, i64, Since)] = &[
    ("AlmaLinux 8", 10 * GIB, 2 * GIB, Since::Xcpng82),
    ("AlmaLinux 9", 15 * GIB, 2 * GIB, Since::Xcpng83),
    ("CentOS 6 (64-bit)", 8 * GIB, GIB, Since::OnlyXcpng82),
    ("CentOS 7", 10 * GIB, 2 * GIB, Since::Xcpng82),
    ("CentOS 8", 10 * GIB, 2 * GIB, Since::OnlyXcpng82),
    ("CoreOS", 5 * GIB, GIB, Since::OnlyXcpng82),
    ("Debian Bookworm 12", 10 * GIB, GIB, Since::Xcpng83),
    ("Debian Bullseye 11", 10 * GIB, GIB, Since::Xcpng82),
    ("Debian Buster 10", 10 * GIB, GIB, Since::OnlyXcpng82),
    ("Debian Jessie 8.0", 8 * GIB, GIB / 8, Since::OnlyXcpng82),
    ("Debian Stretch 9.0", 10 * GIB, GIB / 4, Since::OnlyXcpng82),
    ("Generic Linux BIOS", 10 * GIB, GIB, Since::Xcpng83),
    ("Generic Linux UEFI", 10 * GIB, GIB, Since::Xcpng83),
    ("Oracle Linux 8", 10 * GIB, 2 * GIB, Since::Xcpng82),
    ("Other install media", 0, GIB / 8, Since::Xcpng82),
    ("Red Hat Enterprise Linux 8", 10 * GIB, 2 * GIB, Since::Xcpng82),
    ("Red Hat Enterprise Linux 9", 15 * GIB, 2 * GIB, Since::Xcpng83),
    ("Rocky Linux 8", 10 * GIB, 2 * GIB, Since::Xcpng82),
    ("Rocky Linux 9", 15 * GIB, 2 * GIB, Since::Xcpng83),
    ("SUSE Linux Enterprise 15 (64-bit)", 8 * GIB, GIB, Since::Xcpng82),
    ("Ubuntu Bionic Beaver 18.04", 10 * GIB, GIB, Since::OnlyXcpng82),
    ("Ubuntu Focal Fossa 20.04", 10 * GIB, GIB, Since::Xcpng82),
    ("Ubuntu Jammy Jellyfish 22.04", 10 * GIB, GIB, Since::Xcpng83),
    ("Ubuntu Noble Numbat 24.04", 10 * GIB, GIB, Since::Xcpng83),
    ("Ubuntu Xenial Xerus 16.04", 8 * GIB, GIB / 2, Since::OnlyXcpng82),
    ("Windows 7 (64-bit)", 32 * GIB, 2 * GIB, Since::OnlyXcpng82),
    ("Windows 8.1 (64-bit)", 32 * GIB, 2 * GIB, Since::OnlyXcpng82),
    ("Windows 10 (64-bit)", 32 * GIB, 2 * GIB, Since::Xcpng82),
    ("Windows 11", 64 * GIB, 4 * GIB, Since::Xcpng83),
    ("Windows Server 2012 R2 (64-bit)", 32 * GIB, GIB, Since::OnlyXcpng82),
    ("Windows Server 2016 (64-bit)", 32 * GIB, GIB, Since::Xcpng82),
    ("Windows Server 2019 (64-bit)", 32 * GIB, GIB, Since::Xcpng82),
    ("Windows Server 2022 (64-bit)", 32 * GIB, GIB, Since::Xcpng83),
];
