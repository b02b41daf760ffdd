//! What the agent in a guest tells of itself: the guest metrics.

use std::net::IpAddr;
use std::time::Duration;

use crate::classes;
use crate::failure::Failure;
use crate::value::{NULL_REF, Value};
use crate::world::World;

/// What the agent of a template's guests reports, for the tests of those who look for addresses.
///
/// It belongs to the system on the disk, so clones and snapshots report alike. It changes what
/// clients are told, not where a real guest can be reached.
///
/// ```
/// use xapi_sim::{GuestReport, Model, NetworkSpec, SrSpec, TemplateSpec};
///
/// let model = Model::new()
///     .sr(SrSpec::local("Local storage"))
///     .network(NetworkSpec::external("LAN", "eth0"))
///     .template(TemplateSpec::with_guest("mute").vif("LAN").report(GuestReport::NoTools));
/// # let _ = model;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum GuestReport {
    /// `0/ip` and `0/ipv4/0` with the address of the guest, as current tools do. The default.
    #[default]
    Address,
    /// No tools are installed: nothing ever reports, and what needs an agent is refused.
    NoTools,
    /// Tools, but no address.
    NoAddress,
    /// Only link-local addresses, as before DHCP answers: `0/ip`, `0/ipv4/0` and `0/ipv6/0`.
    LinkLocal,
    /// Only `<number>/ip`, as old tools do, which count interfaces by their names in the guest:
    /// 1 for `eth1`, 160 for `ens160`. The number need not be that of a VIF.
    NumberedByName(u32),
    /// A link-local `0/ipv6/0` and a global `0/ipv6/1` from the documentation range, at which
    /// nobody answers; no IPv4.
    Ipv6,
    /// First no address, and after this time that of [`GuestReport::Address`].
    LateAddress(Duration),
}

impl GuestReport {
    /// What is written on a disk in form of bytes.
    pub(crate) fn to_text(self) -> String {
        match self {
            GuestReport::Address => "address".to_owned(),
            GuestReport::NoTools => "no tools".to_owned(),
            GuestReport::NoAddress => "no address".to_owned(),
            GuestReport::LinkLocal => "link-local".to_owned(),
            GuestReport::NumberedByName(number) => format!("number {number}"),
            GuestReport::Ipv6 => "ipv6".to_owned(),
            GuestReport::LateAddress(delay) => format!("late {}", delay.as_millis()),
        }
    }

    /// Undoes [`to_text`](Self::to_text).
    pub(crate) fn from_text(text: &str) -> Option<GuestReport> {
        let number = |prefix| text.strip_prefix(prefix)?.parse().ok();
        Some(match text {
            "address" => GuestReport::Address,
            "no tools" => GuestReport::NoTools,
            "no address" => GuestReport::NoAddress,
            "link-local" => GuestReport::LinkLocal,
            "ipv6" => GuestReport::Ipv6,
            _ => match (number("number "), number("late ")) {
                (Some(number), _) => GuestReport::NumberedByName(number),
                (None, Some(delay)) => {
                    GuestReport::LateAddress(Duration::from_millis(u64::from(delay)))
                }
                _ => return None,
            },
        })
    }

    /// How long after the first report a second one follows, if one does.
    pub(crate) fn second_after(self) -> Option<Duration> {
        match self {
            GuestReport::LateAddress(delay) => Some(delay),
            _ => None,
        }
    }

    /// What is reported first.
    pub(crate) fn first(self) -> GuestReport {
        match self {
            GuestReport::LateAddress(_) => GuestReport::NoAddress,
            other => other,
        }
    }

    /// What is reported in the end.
    pub(crate) fn last(self) -> GuestReport {
        match self {
            GuestReport::LateAddress(_) => GuestReport::Address,
            other => other,
        }
    }

    /// The addresses of a guest whose first attached interface is `device`.
    fn networks(self, device: &str, address: IpAddr) -> Vec<(String, String)> {
        // Something that tells guests apart in made-up addresses.
        let number = match address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(address) => address.octets()[15],
        };
        let address = address.to_string();
        let link_local6 = format!("fe80::216:3eff:fe00:{number:x}");
        let named = |pairs: &[(&str, String)]| -> Vec<(String, String)> {
            let pairs = pairs.iter();
            pairs
                .map(|(form, address)| (format!("{device}/{form}"), address.clone()))
                .collect()
        };
        match self {
            GuestReport::Address => named(&[("ip", address.clone()), ("ipv4/0", address)]),
            GuestReport::NoTools | GuestReport::NoAddress | GuestReport::LateAddress(_) => {
                Vec::new()
            }
            GuestReport::LinkLocal => {
                let link_local = format!("169.254.77.{number}");
                named(&[
                    ("ip", link_local.clone()),
                    ("ipv4/0", link_local),
                    ("ipv6/0", link_local6),
                ])
            }
            GuestReport::NumberedByName(name) => vec![(format!("{name}/ip"), address)],
            GuestReport::Ipv6 => named(&[
                ("ipv6/0", link_local6),
                ("ipv6/1", format!("2001:db8::{number:x}")),
            ]),
        }
    }
}

const FEATURES: [&str; 6] = [
    "feature-poweroff",
    "feature-shutdown",
    "feature-reboot",
    "feature-suspend",
    "feature-balloon",
    "feature-vcpu-hotplug",
];

/// Writes the first report of a run: an object with a new reference.
pub(crate) fn write(
    world: &mut World,
    vm: &str,
    report: GuestReport,
    address: IpAddr,
) -> Result<(), Failure> {
    let networks = networks(world, vm, report, address)?;
    let values = vec![
        (
            "os_version",
            Value::map([
                ("name", "Debian GNU/Linux 12 (bookworm)"),
                ("uname", "6.1.0-18-amd64"),
                ("distro", "debian"),
                ("major", "12"),
                ("minor", "0"),
            ]),
        ),
        (
            "PV_drivers_version",
            Value::map([
                ("major", "7"),
                ("minor", "30"),
                ("micro", "0"),
                ("build", "17"),
            ]),
        ),
        ("PV_drivers_up_to_date", Value::Bool(true)),
        ("PV_drivers_detected", Value::Bool(true)),
        ("networks", networks),
        ("other", Value::map(FEATURES.map(|feature| (feature, "1")))),
        ("last_updated", Value::DateTime(world.clock.now())),
        ("live", Value::Bool(true)),
    ];
    forget(world, vm)?;
    let metrics = world.create("VM_guest_metrics", values)?;
    world.db.set("VM", vm, "guest_metrics", metrics)?;
    classes::refresh(world, vm);
    Ok(())
}

/// Writes a later report of the same run into the same object.
pub(crate) fn update(
    world: &mut World,
    vm: &str,
    report: GuestReport,
    address: IpAddr,
) -> Result<(), Failure> {
    let networks = networks(world, vm, report, address)?;
    let metrics = world.db.text("VM", vm, "guest_metrics")?;
    let now = Value::DateTime(world.clock.now());
    let db = &mut world.db;
    db.set("VM_guest_metrics", &metrics, "networks", networks)?;
    db.set("VM_guest_metrics", &metrics, "last_updated", now)
}

fn networks(
    world: &World,
    vm: &str,
    report: GuestReport,
    address: IpAddr,
) -> Result<Value, Failure> {
    let mut devices = Vec::new();
    for vif in world.db.list("VM", vm, "VIFs")? {
        if world.db.flag("VIF", &vif, "currently_attached")? {
            devices.push(world.db.text("VIF", &vif, "device")?);
        }
    }
    devices.sort();
    // The one address at which a guest is reached shows on its first interface.
    let networks = devices
        .first()
        .map(|device| report.networks(device, address));
    let mut networks = networks.unwrap_or_default();
    if let (GuestReport::Address, Some(running)) = (report, world.running.get(vm)) {
        for (device, address) in &running.further {
            if devices.contains(device) {
                networks.extend(report.networks(device, *address));
            }
        }
    }
    Ok(Value::map(networks))
}

/// Removes the report of an earlier run.
pub(crate) fn forget(world: &mut World, vm: &str) -> Result<(), Failure> {
    let old = world.db.text("VM", vm, "guest_metrics")?;
    if old != NULL_REF {
        world.db.set("VM", vm, "guest_metrics", NULL_REF)?;
        // It may have gone with a snapshot or by hand.
        let _ = world.db.destroy("VM_guest_metrics", &old);
    }
    Ok(())
}
