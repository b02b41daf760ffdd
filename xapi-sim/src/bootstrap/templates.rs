//! Templates and VMs of the first state.

use super::Trouble;
use crate::backing::Disk;
use crate::classes::{self, vbd, vdi, vif, vm, vm_memory};
use crate::db::Release;
use crate::model::TemplateSpec;
use crate::value::Value;
use crate::world::World;

/// What the built-in templates of systems have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Linux,
    Windows,
    Other,
}

impl Family {
    fn of(spec: &TemplateSpec) -> Self {
        if !spec.default {
            Family::Linux
        } else if spec.name.starts_with("Windows") {
            Family::Windows
        } else if spec.name == "Other install media" {
            Family::Other
        } else {
            Family::Linux
        }
    }

    fn install_methods(self) -> &'static str {
        match self {
            Family::Linux => "cdrom,nfs,http,ftp",
            Family::Windows | Family::Other => "cdrom",
        }
    }

    fn boot_order(self) -> &'static str {
        match self {
            Family::Linux => "cdn",
            Family::Windows => "cd",
            Family::Other => "dc",
        }
    }

    fn platform(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Family::Linux => &[
                ("vga", "std"),
                ("videoram", "8"),
                ("viridian", "false"),
                ("device_id", "0001"),
            ],
            Family::Windows => &[
                ("device_id", "0002"),
                ("viridian", "true"),
                ("viridian_time_ref_count", "true"),
                ("viridian_reference_tsc", "true"),
                ("viridian_hcall_remote_tlb_flush", "true"),
                ("viridian_apic_assist", "true"),
                ("viridian_crash_ctl", "true"),
                ("viridian_stimer", "true"),
            ],
            Family::Other => &[("viridian", "true")],
        }
    }

    /// The limits that graphical clients keep to.
    fn recommendations(self, spec: &TemplateSpec, release: Release) -> String {
        let memory: i64 = match self {
            Family::Linux | Family::Windows => 1536 << 30,
            Family::Other => 128 << 30,
        };
        let windows = self == Family::Windows;
        let word = |yes: bool| if yes { "yes" } else { "no" };
        // Windows 11 is for UEFI alone, and the installation media may be for anything.
        let bios = spec.name != WINDOWS_11;
        let uefi = is_uefi(spec, release) || self == Family::Other;
        let least = if windows {
            "<restriction field=\"vcpus-min\" min=\"2\"/>"
        } else {
            ""
        };
        let graphics = if self == Family::Linux {
            "<restriction field=\"allow-gpu-passthrough\" value=\"1\"/>\
             <restriction field=\"allow-vgpu\" value=\"1\"/>"
        } else {
            ""
        };
        format!(
            "<restrictions><restriction field=\"memory-static-max\" max=\"{memory}\"/>{least}\
             <restriction field=\"vcpus-max\" max=\"32\"/>\
             <restriction field=\"has-vendor-device\" value=\"{windows}\"/>{graphics}\
             <restriction field=\"supports-bios\" value=\"{}\"/>\
             <restriction field=\"supports-uefi\" value=\"{}\"/>\
             <restriction field=\"supports-secure-boot\" value=\"{}\"/>\
             <restriction max=\"255\" property=\"number-of-vbds\"/>\
             <restriction max=\"7\" property=\"number-of-vifs\"/></restrictions>",
            word(bios),
            word(uefi),
            word(uefi),
        )
    }

    fn describe(self, spec: &TemplateSpec) -> String {
        if !spec.default || !spec.description.is_empty() {
            return spec.description.clone();
        }
        match self {
            Family::Linux => {
                "To use this template from the CLI, install your VM using vm-install, then set \
                 other-config-install-repository to the path to your network repository, e.g. \
                 http://<server>/<path> or nfs:server:/<path>"
                    .to_owned()
            }
            Family::Windows => format!(
                "Clones of this template will automatically provision their storage when first \
                 booted and then reconfigure themselves with the optimal settings for {}.",
                spec.name
            ),
            Family::Other => "Template which allows VM installation from install media".to_owned(),
        }
    }
}

const WINDOWS_11: &str = "Windows 11";

/// Whether clones of a built-in template boot with UEFI. Their device model is left open: it is
/// the one that goes with the firmware when they start. Systems of Linux do since XCP-ng 8.3.
fn is_uefi(spec: &TemplateSpec, release: Release) -> bool {
    const LINUX: [&str; 9] = [
        "AlmaLinux 8",
        "AlmaLinux 9",
        "Debian Bookworm 12",
        "Generic Linux UEFI",
        "Red Hat Enterprise Linux 8",
        "Red Hat Enterprise Linux 9",
        "Rocky Linux 9",
        "Ubuntu Focal Fossa 20.04",
        "Ubuntu Jammy Jellyfish 22.04",
    ];
    const OLD_WINDOWS: [&str; 3] = [
        "Windows 7 (64-bit)",
        "Windows 8.1 (64-bit)",
        "Windows Server 2012 R2 (64-bit)",
    ];
    let name = spec.name.as_str();
    let windows = name.starts_with("Windows") && !OLD_WINDOWS.contains(&name);
    let linux = release != Release::Xcpng82 && LINUX.contains(&name);
    spec.default && (windows || linux)
}

/// What the platform of a template has beside that of its family.
fn peculiarities(spec: &TemplateSpec, release: Release) -> Vec<(&'static str, &'static str)> {
    let mut platform = Vec::new();
    if is_uefi(spec, release) {
        platform.push(("secureboot", "auto"));
    } else {
        platform.push(("device-model", "qemu-upstream-compat"));
    }
    let desktop = spec.name == WINDOWS_11 || spec.name.starts_with("Windows 10");
    if spec.default && desktop {
        platform.push(("acpi_laptop_slate", "1"));
    }
    if spec.default && spec.name == WINDOWS_11 {
        platform.push(("vtpm", "true"));
    }
    platform
}

/// Adds a template, with the system on its disk if it has one.
pub(crate) fn add(
    world: &mut World,
    spec: &TemplateSpec,
    disk: Option<Disk>,
) -> Result<(), Trouble> {
    add_machine(world, spec, disk).map(drop)
}

/// Adds a halted VM with an empty disk.
pub(crate) fn add_vm(
    world: &mut World,
    number: usize,
    network: Option<&str>,
) -> Result<(), Trouble> {
    let mut spec = TemplateSpec::with_empty_disk(format!("vm-{number:05}"));
    spec.vifs.extend(network.map(str::to_owned));
    let vm = add_machine(world, &spec, None)?;
    world.db.set("VM", &vm, "is_a_template", false)?;
    classes::refresh(world, &vm);
    Ok(())
}

fn add_machine(
    world: &mut World,
    spec: &TemplateSpec,
    disk: Option<Disk>,
) -> Result<String, Trouble> {
    let metrics = vm::new_metrics(world)?;
    let seed = world.seed.uuid();
    let mut other_config = vec![("mac_seed", seed)];
    let own = spec.other_config.iter();
    other_config.extend(own.map(|(key, value)| (key.as_str(), value.clone())));
    let family = Family::of(spec);
    let release = world.db.release();
    if spec.default {
        if let Some(size) = spec.disk {
            let bootable = family != Family::Windows;
            other_config.push((
                "disks",
                format!(
                    "<provision><disk bootable=\"{bootable}\" device=\"0\" size=\"{size}\" sr=\"\" \
                     type=\"system\"/></provision>"
                ),
            ));
        }
        other_config.push(("install-methods", family.install_methods().to_owned()));
        other_config.push(("default_template", "true".to_owned()));
        if family == Family::Linux {
            other_config.push(("linux_template", "true".to_owned()));
        }
    }
    let cores = spec
        .cores_per_socket
        .map(|cores| ("cores-per-socket", cores.to_string()));
    let platform = [
        ("acpi", "1"),
        ("apic", "true"),
        ("nx", "true"),
        ("pae", "true"),
        ("hpet", "true"),
    ];
    let platform = peculiarities(spec, release).into_iter().chain(platform);
    let platform = platform.chain(family.platform().iter().copied());
    let platform = platform
        .map(|(key, value)| (key, value.to_owned()))
        .chain(cores);
    let firmware = if is_uefi(spec, release) {
        "uefi"
    } else {
        "bios"
    };
    let limits = family.recommendations(spec, release);
    let template = world.create(
        "VM",
        vec![
            ("name_label", Value::from(spec.name.as_str())),
            ("name_description", Value::from(family.describe(spec))),
            ("power_state", Value::from("Halted")),
            ("user_version", Value::Int(1)),
            ("is_a_template", Value::Bool(true)),
            ("is_default_template", Value::Bool(spec.default)),
            ("domain_type", Value::from("hvm")),
            ("HVM_boot_policy", Value::from("BIOS order")),
            (
                "HVM_boot_params",
                Value::map([("order", family.boot_order()), ("firmware", firmware)]),
            ),
            ("platform", Value::map(platform)),
            ("other_config", Value::map(other_config)),
            ("memory_static_min", Value::Int(spec.memory_min)),
            ("memory_static_max", Value::Int(spec.memory_max)),
            ("memory_dynamic_min", Value::Int(spec.memory_max)),
            ("memory_dynamic_max", Value::Int(spec.memory_max)),
            ("memory_target", Value::Int(spec.memory_max)),
            (
                "memory_overhead",
                Value::Int(vm_memory::overhead(spec.memory_max)),
            ),
            ("VCPUs_max", Value::Int(spec.vcpus)),
            ("VCPUs_at_startup", Value::Int(spec.vcpus)),
            ("actions_after_shutdown", Value::from("destroy")),
            ("actions_after_reboot", Value::from("restart")),
            ("actions_after_crash", Value::from("restart")),
            ("actions_after_softreboot", Value::from("soft_reboot")),
            ("domid", Value::Int(-1)),
            ("metrics", Value::String(metrics)),
            ("recommendations", Value::from(limits)),
            ("generation_id", Value::void()),
            ("has_vendor_device", Value::Bool(false)),
        ],
    )?;
    if !spec.default {
        add_devices(world, &template, spec, disk)?;
    }
    classes::refresh(world, &template);
    Ok(template)
}

fn add_devices(
    world: &mut World,
    template: &str,
    spec: &TemplateSpec,
    disk: Option<Disk>,
) -> Result<(), Trouble> {
    if let Some(size) = spec.disk {
        let pool = world.pool();
        let sr = world.db.text("pool", &pool, "default_SR")?;
        if !world.db.exists("SR", &sr) {
            let text = format!(
                "template {} has a disk and the pool has no SR for it",
                spec.name
            );
            return Err(Trouble::Model(text));
        }
        let values = vec![
            ("name_label", Value::String(format!("{} disk 0", spec.name))),
            ("SR", Value::String(sr)),
            ("type", Value::from("user")),
        ];
        let vdi = vdi::add(world, values, size)?;
        if let Some(disk) = disk {
            world.disks.insert(vdi.clone(), disk);
        }
        let values = vec![
            ("VM", Value::from(template)),
            ("VDI", Value::String(vdi)),
            ("userdevice", Value::from("0")),
            ("bootable", Value::Bool(true)),
            ("mode", Value::from("RW")),
            ("type", Value::from("Disk")),
            ("unpluggable", Value::Bool(true)),
            ("other_config", Value::map([("owner", "")])),
        ];
        vbd::add(world, values)?;
    }
    let drive = vec![
        ("VM", Value::from(template)),
        ("VDI", Value::null_ref()),
        ("userdevice", Value::from("3")),
        ("mode", Value::from("RO")),
        ("type", Value::from("CD")),
        ("empty", Value::Bool(true)),
    ];
    vbd::add(world, drive)?;
    let seed = world
        .db
        .key("VM", template, "other_config", "mac_seed")?
        .unwrap_or_default();
    for (index, name) in spec.vifs.iter().enumerate() {
        let network = world.db.references("network").into_iter().find(|network| {
            world
                .db
                .text("network", network, "name_label")
                .is_ok_and(|label| label == *name)
        });
        let Some(network) = network else {
            let text = format!(
                "template {} is on network {name}, which the model lacks",
                spec.name
            );
            return Err(Trouble::Model(text));
        };
        let device = i64::try_from(index).unwrap_or_default();
        let values = vec![
            ("VM", Value::from(template)),
            ("device", Value::String(index.to_string())),
            ("network", Value::String(network)),
            ("MAC", Value::String(vif::derived_mac(&seed, device))),
            ("MAC_autogenerated", Value::Bool(true)),
            ("MTU", Value::Int(1500)),
        ];
        vif::add(world, values)?;
    }
    Ok(())
}
