//! What it takes to make a VM of a template, as a plan: pure, so that it can be shown and tested.

use std::collections::BTreeMap;

use bioxen_vm_core::VmId;
use bioxen_vm_core::words::ByteSize;
use xapi_client::api::{Host, Network, Sr, Vm, VmPowerState, VmRecord};
use xapi_client::{Class, Ref};

use crate::config::CloneMode;
use crate::config_drive::StaticAddress;
use crate::error::{Error, Result};
use crate::find::{BY_DRIVE, BY_VM_DATA, FIRST_CONTACT};
use crate::marks::Run;
use crate::peers::Peers;
use crate::settings::Wish;

mod told;

/// What templates made by the pool's own installer want done; ours are installed.
const DISKS_TO_MAKE: &str = "disks";
const CORES_PER_SOCKET: &str = "cores-per-socket";

/// Something on the pool that a configuration names.
#[derive(Debug)]
pub(crate) struct Named<T: Class> {
    pub(crate) reference: Ref<T>,
    pub(crate) uuid: String,
    pub(crate) name: String,
}

impl<T: Class> Clone for Named<T> {
    fn clone(&self) -> Self {
        Self {
            reference: self.reference.clone(),
            uuid: self.uuid.clone(),
            name: self.name.clone(),
        }
    }
}

/// Everything on the pool that a configuration names.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) template: Template,
    pub(crate) sr: Option<Named<Sr>>,
    pub(crate) networks: Vec<Named<Network>>,
    pub(crate) affinity: Option<Named<Host>>,
    /// The template's first disk, where its size matters.
    pub(crate) disk: Option<FirstDisk>,
    /// The storage of each further disk.
    pub(crate) places: Vec<Ref<Sr>>,
    pub(crate) told: Told,
}

/// The disk that a system boots from.
#[derive(Debug, Clone)]
pub(crate) struct FirstDisk {
    pub(crate) device: String,
    pub(crate) size: i64,
}

/// How the VM is told who it is.
#[derive(Debug, Clone)]
pub(crate) enum Told {
    /// Not at all: its template has the keys.
    Nothing,
    /// Through its xenstore data.
    VmData,
    /// On a config drive.
    Drive(Drive),
}

/// Where a config drive goes.
#[derive(Debug, Clone)]
pub(crate) struct Drive {
    /// The storage of the VM's first disk: whichever host can run the VM sees it.
    pub(crate) sr: Ref<Sr>,
    /// The devices of config drives that the template brings along. cloud-init might take one of
    /// them for ours.
    pub(crate) old: Vec<String>,
    /// The fixed addresses of the VM, by the number of the interface.
    pub(crate) addresses: BTreeMap<usize, StaticAddress>,
    /// What the VM is told of the names of others.
    pub(crate) hosts: Option<String>,
}

/// What a plan needs to know of a template.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    pub(crate) reference: Ref<Vm>,
    pub(crate) uuid: String,
    pub(crate) name: String,
    memory_static_min: i64,
    vcpus_max: i64,
    vcpus_at_startup: i64,
    platform: BTreeMap<String, String>,
    tags: Vec<String>,
    /// Where it is no template but a VM: whether it is stopped.
    pub(crate) is_halted: bool,
    is_a_template: bool,
    memory: [i64; 3],
    memory_overhead: i64,
}

impl Template {
    /// The least memory that a VM of it starts with.
    pub(crate) fn least_memory(&self) -> i64 {
        self.memory[0]
    }

    /// What the hypervisor needs besides for a VM with this much memory, from what it needs for the
    /// template: most of it is tables that grow with the memory.
    pub(crate) fn overhead(&self, memory: i64) -> i64 {
        let [.., of_template] = self.memory;
        let grown = i128::from(self.memory_overhead) * i128::from(memory);
        i64::try_from(grown / i128::from(of_template.max(1))).unwrap_or(i64::MAX)
    }

    /// The most vcpus that a VM of it has.
    pub(crate) fn vcpus(&self, wish: &Wish) -> i64 {
        wish.vcpus.map_or(self.vcpus_max, i64::from)
    }

    pub(crate) fn new(reference: Ref<Vm>, record: VmRecord) -> Self {
        Self {
            memory_overhead: record.memory_overhead,
            reference,
            uuid: record.uuid.as_str().to_owned(),
            name: record.name_label,
            memory_static_min: record.memory_static_min,
            vcpus_max: record.vcpus_max,
            vcpus_at_startup: record.vcpus_at_startup,
            platform: record.platform,
            tags: record.tags,
            is_halted: record.power_state == VmPowerState::Halted,
            is_a_template: record.is_a_template,
            memory: [
                record.memory_dynamic_min,
                record.memory_dynamic_max,
                record.memory_static_max,
            ],
        }
    }
}

/// What will be done to make a VM, in order. `Display` prints it, one step to a line.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(crate) template: Template,
    /// The name until the VM is complete: ours alone, so that it can be found if its reference is
    /// lost.
    pub(crate) working_name: String,
    /// The same for its config drive.
    pub(crate) drive_name: String,
    /// The same for the snapshot that a clone of a running VM is made from.
    pub(crate) source_name: String,
    pub(crate) name: String,
    pub(crate) clone: Disks,
    pub(crate) marks: BTreeMap<String, String>,
    pub(crate) settings: Vec<Setting>,
}

/// How the template's disks are reproduced.
#[derive(Debug, Clone)]
pub(crate) enum Disks {
    CopyOnWrite,
    FullCopy(Option<Named<Sr>>),
}

/// One change to the VM after it was cloned and marked.
#[derive(Debug, Clone)]
pub(crate) enum Setting {
    /// From here on it is no template any more.
    Provision,
    Memory {
        static_min: i64,
        memory: i64,
    },
    VcpusMax(i64),
    VcpusAtStartup(i64),
    Platform(BTreeMap<String, String>),
    /// Grows the disk of this device.
    Disk {
        device: String,
        size: i64,
    },
    /// Gives it a further disk.
    AddDisk(NewDisk),
    /// Where it runs if it can.
    Affinity(Named<Host>),
    /// Replaces all interfaces.
    Interfaces(Vec<Named<Network>>),
    /// Hands the VM its keys through its xenstore data.
    Keys,
    /// Gives it a config drive.
    Drive(Drive),
    Tags(Vec<String>),
    Name(String),
}

/// A disk that is empty.
#[derive(Debug, Clone)]
pub(crate) struct NewDisk {
    pub(crate) size: i64,
    pub(crate) sr: Ref<Sr>,
    pub(crate) name: String,
    /// The name until the VM has it: ours alone, as that of a config drive is.
    pub(crate) working_name: String,
}

impl Plan {
    /// Works out the plan for a VM.
    pub(crate) fn new(
        vm: &VmId,
        run: &Run,
        unique: &str,
        wish: &Wish,
        found: Found,
    ) -> Result<Self> {
        let Found {
            template,
            sr,
            networks,
            affinity,
            disk,
            places,
            told,
        } = found;
        let name = wish
            .name
            .clone()
            .unwrap_or_else(|| format!("{}{vm}", wish.name_prefix));
        let mut settings = Vec::new();
        // A clone of a snapshot, which stands in for what runs, is a template too.
        if template.is_a_template || !template.is_halted {
            settings.push(Setting::Provision);
        }
        settings.extend(memory(&template, wish.memory)?);
        settings.extend(processors(&template, wish)?);
        settings.extend(first_disk(&template, wish.disk_size, disk)?);
        for (number, (disk, sr)) in (1..).zip(wish.disks.iter().zip(places)) {
            settings.push(Setting::AddDisk(NewDisk {
                size: i64::try_from(disk.size.0).unwrap_or(i64::MAX),
                sr,
                name: match &disk.name {
                    Some(name) => name.clone(),
                    None => format!("{name} disk {number}"),
                },
                working_name: run.drive(&format!("{unique}-{number}")),
            }));
        }
        settings.extend(affinity.map(Setting::Affinity));
        if !networks.is_empty() {
            settings.push(Setting::Interfaces(networks));
        }
        match told {
            Told::Nothing => {}
            Told::VmData => settings.push(Setting::Keys),
            Told::Drive(drive) => settings.push(Setting::Drive(Drive {
                addresses: wish.addresses(vm),
                hosts: wish.peers.as_deref().map(Peers::hosts),
                ..drive
            })),
        }
        if !wish.tags.is_empty() {
            let mut tags = template.tags.clone();
            tags.extend(wish.tags.iter().cloned());
            tags.sort_unstable();
            tags.dedup();
            settings.push(Setting::Tags(tags));
        }
        settings.push(Setting::Name(name.clone()));
        Ok(Self {
            working_name: run.unfinished(unique, vm),
            drive_name: run.drive(unique),
            source_name: run.unfinished(&format!("{unique}s"), vm),
            name,
            clone: match wish.clone {
                CloneMode::Fast => Disks::CopyOnWrite,
                CloneMode::Copy => Disks::FullCopy(sr),
            },
            marks: run.marks(vm),
            settings,
            template,
        })
    }

    /// Whether the VM gets a config drive.
    pub(crate) fn has_drive(&self) -> bool {
        let is_drive = |setting: &Setting| matches!(setting, Setting::Drive(_));
        self.settings.iter().any(is_drive)
    }

    /// The names of disks that belong to nobody until the VM has them.
    pub(crate) fn loose_disks(&self) -> impl Iterator<Item = &str> {
        self.settings.iter().filter_map(|setting| match setting {
            Setting::Drive(_) => Some(&*self.drive_name),
            Setting::AddDisk(disk) => Some(&*disk.working_name),
            _ => None,
        })
    }

    /// The `other_config` of the VM, given what cloning put there.
    pub(crate) fn other_config(
        &self,
        mut cloned: BTreeMap<String, String>,
        uuid: &str,
    ) -> BTreeMap<String, String> {
        cloned.remove(DISKS_TO_MAKE);
        // What is cloned of it gets its keys as it did, whatever its template says.
        let contact = self.settings.iter().find_map(|setting| match setting {
            Setting::Drive(_) => Some(BY_DRIVE),
            Setting::Keys => Some(BY_VM_DATA),
            _ => None,
        });
        cloned.extend(contact.map(|contact| (FIRST_CONTACT.to_owned(), contact.to_owned())));
        cloned.extend(Run::own_marks(self.marks.clone(), uuid));
        cloned
    }
}

/// All limits in one call: the order of single ones depends on what was there before. The three
/// upper ones are equal, as pools without dynamic memory control demand.
fn memory(template: &Template, wish: Option<ByteSize>) -> Result<Option<Setting>> {
    let Some(memory) = wish else {
        return Ok(None);
    };
    let static_min = template.memory_static_min;
    match i64::try_from(memory.0) {
        Ok(bytes) if template.memory == [bytes; 3] => Ok(None),
        Ok(bytes) if bytes >= static_min => Ok(Some(Setting::Memory {
            static_min,
            memory: bytes,
        })),
        _ => Err(Error::MemoryTooSmall {
            memory,
            minimum: ByteSize(static_min.unsigned_abs()),
            template: template.name.clone(),
        }),
    }
}

/// Disks grow only: what stands at their end would be lost.
fn first_disk(
    template: &Template,
    wish: Option<ByteSize>,
    disk: Option<FirstDisk>,
) -> Result<Option<Setting>> {
    let (Some(wish), Some(FirstDisk { device, size })) = (wish, disk) else {
        return Ok(None);
    };
    match i64::try_from(wish.0) {
        Ok(wished) if wished == size => Ok(None),
        Ok(wished) if wished > size => Ok(Some(Setting::Disk {
            device,
            size: wished,
        })),
        _ => Err(Error::DiskTooSmall {
            size: wish,
            minimum: ByteSize(size.unsigned_abs()),
            template: template.name.clone(),
        }),
    }
}

fn processors(template: &Template, wish: &Wish) -> Result<Vec<Setting>> {
    let mut settings = Vec::new();
    let vcpus = wish.vcpus.map_or(template.vcpus_max, i64::from);
    if vcpus > template.vcpus_max {
        // At no moment may more processors start than there can be.
        settings.push(Setting::VcpusMax(vcpus));
        settings.push(Setting::VcpusAtStartup(vcpus));
    } else if wish.vcpus.is_some() {
        if vcpus != template.vcpus_at_startup {
            settings.push(Setting::VcpusAtStartup(vcpus));
        }
        if vcpus != template.vcpus_max {
            settings.push(Setting::VcpusMax(vcpus));
        }
    }
    let of_template = template.platform.get(CORES_PER_SOCKET);
    let cores = match (wish.cores_per_socket, of_template) {
        (Some(cores), _) if vcpus % i64::from(cores) != 0 => {
            return Err(Error::Topology {
                vcpus,
                cores: i64::from(cores),
                template: template.name.clone(),
            });
        }
        (Some(cores), _) => i64::from(cores),
        (None, None) => return Ok(settings),
        (None, Some(text)) => match text.parse() {
            Ok(cores @ 1..) if vcpus % cores == 0 => cores,
            // The VM would not start with what the template has.
            _ => vcpus,
        },
    };
    if of_template != Some(&cores.to_string()) {
        let mut platform = template.platform.clone();
        platform.insert(CORES_PER_SOCKET.to_owned(), cores.to_string());
        settings.push(Setting::Platform(platform));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests;
