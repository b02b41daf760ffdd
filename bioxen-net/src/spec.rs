//! What networks and network interfaces should be like.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, NetworkSelector, Result, Subnet};

/// The MTU of a network unless another is asked for: 1500 bytes.
pub const DEFAULT_MTU: u16 = 1500;

/// What a pool should have: networks, and interfaces of VMs on these or others.
///
/// In a file it has the tables `[[network]]` and `[[nic]]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Wanted {
    /// The networks.
    #[serde(default, rename = "network")]
    pub networks: Vec<NetworkSpec>,
    /// The interfaces, each of which names its [`vm`](NicSpec::vm).
    #[serde(default, rename = "nic")]
    pub nics: Vec<NicSpec>,
}

impl Wanted {
    /// Nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a network.
    #[must_use]
    pub fn with_network(mut self, network: NetworkSpec) -> Self {
        self.networks.push(network);
        self
    }

    /// Adds an interface of a VM.
    #[must_use]
    pub fn with_nic(mut self, vm: impl Into<String>, nic: NicSpec) -> Self {
        let vm = Some(vm.into());
        self.nics.push(NicSpec { vm, ..nic });
        self
    }
}

impl<const N: usize> From<[NetworkSpec; N]> for Wanted {
    fn from(networks: [NetworkSpec; N]) -> Self {
        Self {
            networks: networks.into(),
            nics: Vec::new(),
        }
    }
}

/// A network as it should be: a private one, between VMs, or one that carries a VLAN.
///
/// What is not said (`None`) is the default for a network that is made, and stays as it is for one that
/// is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NetworkSpec {
    /// Its name, by which it is found again among the networks that this library made.
    pub name: String,
    /// What it is for, in a line; nothing by default.
    #[serde(default)]
    pub description: Option<String>,
    /// The largest packet in bytes; 1500 by default.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// Tags that it gets besides [`TAG`](crate::TAG).
    #[serde(default)]
    pub tags: Vec<String>,
    /// The VLAN that it carries. Without one it is private: it leads to no cable, and VMs reach each
    /// other on it only while they run on the same host.
    #[serde(default)]
    pub vlan: Option<VlanSpec>,
    /// The addresses that the machines on it have. The pool hands out none; that this is on record
    /// with the network keeps two networks from having the same.
    #[serde(default)]
    pub subnet: Option<Subnet>,
    /// Where everything else is reached through, an address of `subnet`.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// Hosts, by name or uuid, whose VMs must reach it.
    #[serde(default)]
    pub hosts: Vec<String>,
}

impl NetworkSpec {
    /// A private network.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            description: None,
            mtu: None,
            tags: Vec::new(),
            vlan: None,
            subnet: None,
            gateway: None,
            hosts: Vec::new(),
        }
    }

    /// Says what it is for.
    #[must_use]
    pub fn with_description(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// Sets the largest packet in bytes.
    #[must_use]
    pub fn with_mtu(mut self, bytes: u16) -> Self {
        self.mtu = Some(bytes);
        self
    }

    /// Adds a tag.
    #[must_use]
    pub fn with_tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Carries this VLAN of the interfaces of this name, `eth0` or `bond0`, on every host that has
    /// one.
    #[must_use]
    pub fn with_vlan(mut self, device: impl Into<String>, tag: u16) -> Self {
        self.vlan = Some(VlanSpec {
            device: device.into(),
            tag,
        });
        self
    }

    /// Says which addresses the machines on it have.
    #[must_use]
    pub fn with_subnet(mut self, subnet: Subnet) -> Self {
        self.subnet = Some(subnet);
        self
    }

    /// Says where everything else is reached through.
    #[must_use]
    pub fn with_gateway(mut self, gateway: IpAddr) -> Self {
        self.gateway = Some(gateway);
        self
    }

    /// Insists that VMs on this host, by name or uuid, reach it.
    #[must_use]
    pub fn with_host(mut self, host: impl Into<String>) -> Self {
        self.hosts.push(host.into());
        self
    }
}

/// A VLAN on the interfaces of one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VlanSpec {
    /// The interface that carries it on each host: `eth0`, `bond0`.
    pub device: String,
    /// Its number, 1 to 4094.
    pub tag: u16,
}

impl fmt::Display for VlanSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VLAN {} of {}", self.tag, self.device)
    }
}

/// A network interface of a VM as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NicSpec {
    /// The VM in a [`Wanted`]: its uuid, its name, the id that BioXen made it with, or `tag:NAME`.
    /// [`attach`](crate::Networks::attach) is told the VM itself.
    #[serde(default)]
    pub vm: Option<String>,
    /// The network that it is on.
    pub network: NetworkSelector,
    /// Its number in the VM. When `None`: that of the interface that the VM has on the network, or
    /// the first free one.
    #[serde(default)]
    pub device: Option<u8>,
    /// Its MAC address. When `None`, one that the pool derives from the VM and the number, so that
    /// it is the same whenever the interface is made again.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// What it may send, at most, in kilobytes per second; no limit when `None`. A
    /// running VM is held to it from the next time that the interface is plugged in.
    #[serde(default)]
    pub rate: Option<u32>,
    /// Which addresses it may use.
    #[serde(default)]
    pub locking: Locking,
}

impl NicSpec {
    /// An interface on this network.
    pub fn new(network: impl Into<NetworkSelector>) -> Self {
        Self {
            vm: None,
            network: network.into(),
            device: None,
            mac: None,
            rate: None,
            locking: Locking::default(),
        }
    }

    /// Sets its number in the VM.
    #[must_use]
    pub fn with_device(mut self, device: u8) -> Self {
        self.device = Some(device);
        self
    }

    /// Sets its address.
    #[must_use]
    pub fn with_mac(mut self, mac: Mac) -> Self {
        self.mac = Some(mac);
        self
    }

    /// Limits what it may send, in kilobytes per second.
    #[must_use]
    pub fn with_rate(mut self, kilobytes_per_second: u32) -> Self {
        self.rate = Some(kilobytes_per_second);
        self
    }

    /// Says which addresses it may use.
    #[must_use]
    pub fn with_locking(mut self, locking: Locking) -> Self {
        self.locking = locking;
        self
    }
}

/// Which addresses a network interface may use. The hosts drop all other traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Locking {
    /// As its network says.
    #[default]
    NetworkDefault,
    /// Any.
    Unlocked,
    /// Its own MAC address and these; with none it can send nothing.
    Locked {
        /// IPv4 addresses.
        #[serde(default)]
        ipv4: Vec<Ipv4Addr>,
        /// IPv6 addresses.
        #[serde(default)]
        ipv6: Vec<Ipv6Addr>,
    },
    /// None: it drops everything.
    Disabled,
}

impl fmt::Display for Locking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NetworkDefault => f.write_str("as the network"),
            Self::Unlocked => f.write_str("unlocked"),
            Self::Disabled => f.write_str("disabled"),
            Self::Locked { ipv4, ipv6 } if ipv4.is_empty() && ipv6.is_empty() => {
                f.write_str("locked to no address")
            }
            Self::Locked { ipv4, ipv6 } => {
                let ipv4 = ipv4.iter().map(ToString::to_string);
                let all = ipv4.chain(ipv6.iter().map(ToString::to_string));
                write!(f, "locked to {}", all.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// The MAC address of one interface: six bytes, not of a group and not all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    /// Checks the bytes of an address.
    ///
    /// # Errors
    /// Fails with [`Error::Invalid`] for the address of a group, which no interface can have, and
    /// for all zeros. The pool itself would take both.
    pub fn new(bytes: [u8; 6]) -> Result<Self> {
        let shown = Self(bytes);
        if bytes == [0; 6] {
            return Err(Error::invalid(format!(
                "{shown} is the MAC address of nobody; leave it out for one from the pool"
            )));
        }
        if bytes[0] & 1 == 1 {
            return Err(Error::invalid(format!(
                "{shown} is the MAC address of a group; the first byte of an interface's is even"
            )));
        }
        Ok(shown)
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }

    /// An address for an interface of a VM, the same each time: of those that nobody is sold, made
    /// from the uuid of the VM and the number.
    pub(crate) fn derived(vm: &str, device: &str) -> Self {
        // FNV-1a, which spreads short texts well.
        let hash = (vm.bytes().chain([b'/']).chain(device.bytes()))
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        let [first, second, third, fourth, fifth, sixth, _, _] = hash.to_be_bytes();
        Self([first & 0xfc | 0x02, second, third, fourth, fifth, sixth])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = Error;

    /// Reads `02:16:3e:00:00:01`, also in capitals and with `-`.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(format!(
                "{text:?} is no MAC address; one looks like \"02:16:3e:00:00:01\""
            ))
        };
        let mut bytes = [0; 6];
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut parts = text.split(separator);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| {
                part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit())
            });
            *byte = u8::from_str_radix(part.ok_or_else(wrong)?, 16).map_err(|_| wrong())?;
        }
        match parts.next() {
            None => Self::new(bytes),
            Some(_) => Err(wrong()),
        }
    }
}

impl TryFrom<String> for Mac {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_are_of_one_interface() {
        for (text, shown) in [
            ("02:16:3e:00:00:01", "02:16:3e:00:00:01"),
            ("02-16-3E-0A-0b-FF", "02:16:3e:0a:0b:ff"),
        ] {
            assert_eq!(text.parse::<Mac>().unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "zz",
            "02:16",
            "02:16:3e:00:00:01:02",
            "02:16:3e:00:00:1",
            "02:16-3e:00:00:01",
            "0x:16:3e:00:00:01",
            "+2:16:3e:00:00:01",
            "01:16:3e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn derived_addresses_are_stable_local_and_of_one_interface() {
        let derived = Mac::derived("9f1c", "0");
        assert_eq!(derived, Mac::derived("9f1c", "0"));
        assert_ne!(derived, Mac::derived("9f1c", "1"));
        assert_ne!(derived, Mac::derived("9f1d", "0"));
        assert_eq!(derived.bytes()[0] & 3, 2);
        assert!(Mac::new(derived.bytes()).is_ok());
    }

    #[test]
    fn specs_are_read_from_json_with_unknown_keys_refused() {
        let spec: NetworkSpec =
            serde_json::from_str(r#"{"name": "lab", "vlan": {"device": "eth0", "tag": 7}}"#)
                .unwrap();
        assert_eq!(spec, NetworkSpec::new("lab").with_vlan("eth0", 7));
        let nic: NicSpec = serde_json::from_str(
            r#"{"network": "bridge:xenbr0", "mac": "02:16:3e:00:00:01",
                "locking": {"locked": {"ipv4": ["10.0.0.1"], "ipv6": []}}}"#,
        )
        .unwrap();
        assert_eq!(nic.mac.unwrap().to_string(), "02:16:3e:00:00:01");
        assert!(serde_json::from_str::<NetworkSpec>(r#"{"name": "x", "vlans": 1}"#).is_err());
        assert!(serde_json::from_str::<NicSpec>(r#"{"network": "x", "mac": "no"}"#).is_err());
    }
}
