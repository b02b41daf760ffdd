//! A plan as people read it.

use std::fmt;

use bioxen_vm_core::words::ByteSize;

use super::{CORES_PER_SOCKET, Disks, Plan, Setting, Template};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Template { name, uuid, .. } = &self.template;
        let what = match self.template.is_a_template {
            true => "template",
            false => "VM",
        };
        match &self.clone {
            Disks::CopyOnWrite => writeln!(f, "clone {what} {name:?} ({uuid}), copy on write")?,
            Disks::FullCopy(None) => {
                writeln!(
                    f,
                    "copy {what} {name:?} ({uuid}) in full, on its own storage"
                )?;
            }
            Disks::FullCopy(Some(sr)) => writeln!(
                f,
                "copy {what} {name:?} ({uuid}) in full, to storage {:?} ({})",
                sr.name, sr.uuid
            )?,
        }
        let marks: Vec<_> = self
            .marks
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        write!(f, "mark it as ours: {}", marks.join(" "))?;
        self.settings
            .iter()
            .try_for_each(|setting| write!(f, "\n{setting}"))
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Provision => f.write_str("make it a VM"),
            Self::Memory { memory, .. } => {
                write!(f, "set memory to {}", ByteSize(memory.unsigned_abs()))
            }
            Self::VcpusMax(count) => write!(f, "set the most vcpus to {count}"),
            Self::VcpusAtStartup(count) => write!(f, "set the vcpus at startup to {count}"),
            Self::Platform(platform) => write!(
                f,
                "set cores per socket to {}",
                platform.get(CORES_PER_SOCKET).map_or("", String::as_str)
            ),
            Self::Disk { device, size } => write!(
                f,
                "grow the disk {device} to {}",
                ByteSize(size.unsigned_abs())
            ),
            Self::AddDisk(disk) => write!(
                f,
                "give it the disk {:?} of {}",
                disk.name,
                ByteSize(disk.size.unsigned_abs())
            ),
            Self::Affinity(host) => {
                write!(f, "let it run on {:?} ({}) if it can", host.name, host.uuid)
            }
            Self::Interfaces(networks) => {
                f.write_str("replace its network interfaces:")?;
                networks
                    .iter()
                    .enumerate()
                    .try_for_each(|(device, network)| {
                        write!(f, " {device} on {:?} ({})", network.name, network.uuid)
                    })
            }
            Self::Keys => f.write_str("hand it its SSH keys"),
            Self::Drive(drive) => {
                for device in &drive.old {
                    writeln!(
                        f,
                        "remove the config drive that the template brings along as {device}"
                    )?;
                }
                f.write_str("give it a config drive with its SSH keys")?;
                for (number, fixed) in &drive.addresses {
                    write!(f, " and the address {}", fixed.address)?;
                    if *number > 0 {
                        write!(f, " for interface {number}")?;
                    }
                }
                match &drive.hosts {
                    Some(hosts) => write!(f, " and the names of {} VMs", hosts.lines().count()),
                    None => Ok(()),
                }
            }
            Self::Tags(tags) => write!(f, "tag it: {}", tags.join(" ")),
            Self::Name(name) => write!(f, "name it {name:?}"),
        }
    }
}
