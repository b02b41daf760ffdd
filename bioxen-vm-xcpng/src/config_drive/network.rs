//! A fixed address for a VM, in the words of cloud-init (network config, version 2).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// A fixed address for the first interface of a VM.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct StaticAddress {
    /// The address and the length of its network's prefix: `10.0.0.5/24`, `2001:db8::5/64`.
    pub address: Cidr,
    /// Where everything else is reached through.
    pub gateway: Option<IpAddr>,
    /// The name servers.
    #[serde(default)]
    pub nameservers: Vec<IpAddr>,
}

impl StaticAddress {
    /// The address itself.
    pub(crate) fn ip(&self) -> IpAddr {
        self.address.ip
    }

    /// What is wrong with it.
    pub(crate) fn problems(&self) -> Vec<String> {
        let (cidr, ip) = (self.address, self.address.ip);
        let mut problems = Vec::new();
        if let Some(what) = cidr.reserved() {
            problems.push(format!(
                "static_address.address {cidr} is {what} of its network; give one in between"
            ));
        }
        let Some(gateway) = self.gateway else {
            return problems;
        };
        if gateway.is_ipv4() != ip.is_ipv4() {
            problems.push(format!(
                "static_address.gateway {gateway} and static_address.address {cidr} are of different \
                 families"
            ));
        } else if gateway == ip {
            problems.push(format!(
                "static_address.gateway {gateway} is the VM's own address"
            ));
        } else if !cidr.has(gateway) && !cidr.is_single() && !is_of_link(gateway) {
            problems.push(format!(
                "static_address.gateway {gateway} is not in the network of \
                 static_address.address {cidr}, so the VM could not reach it"
            ));
        }
        problems
    }
}

/// Whether an address is in every network of a link, as the gateways of IPv6 usually are.
fn is_of_link(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

impl Cidr {
    /// An address with the length of the prefix of this one.
    pub(crate) fn with_ip(self, ip: IpAddr) -> Self {
        Self { ip, ..self }
    }

    /// Whether an address is of the same network.
    pub(crate) fn has(self, ip: IpAddr) -> bool {
        self.ip.is_ipv4() == ip.is_ipv4() && self.network(self.ip) == self.network(ip)
    }

    /// Whether its network is this address alone.
    fn is_single(self) -> bool {
        self.prefix == longest(self.ip)
    }

    /// What an address is that no machine can have: the first of its network, or, of IPv4, the last.
    fn reserved(self) -> Option<&'static str> {
        // In networks of two and of one, all are for machines (RFC 3021, RFC 6164).
        if self.prefix + 1 >= longest(self.ip) {
            return None;
        }
        let hosts = u128::MAX
            .checked_shr(self.prefix.into())
            .unwrap_or_default();
        let host = left_aligned(self.ip) & hosts;
        let last = match self.ip {
            IpAddr::V4(_) => hosts & !(u128::MAX >> 32),
            IpAddr::V6(_) => return (host == 0).then_some("the first address"),
        };
        match host {
            0 => Some("the first address, which stands for the network,"),
            host if host == last => Some("the last address, by which all are addressed,"),
            _ => None,
        }
    }

    /// Whether it is a network and not an address in one.
    pub(crate) fn is_network(self) -> bool {
        self.network(self.ip) == left_aligned(self.ip)
    }

    fn network(self, ip: IpAddr) -> u128 {
        let mask = !u128::MAX
            .checked_shr(self.prefix.into())
            .unwrap_or_default();
        left_aligned(ip) & mask
    }
}

fn longest(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn left_aligned(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)) << 96,
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// An address and the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    ip: IpAddr,
    prefix: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no address with the length of its prefix; give it as \"10.0.0.5/24\""
            )
        };
        let (ip, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        if prefix > longest(ip) {
            return Err(wrong());
        }
        Ok(Self { ip, prefix })
    }
}

/// The document `network-config`: the interfaces, found by their MAC addresses, those with fixed
/// addresses by number, and the others, which ask DHCP.
pub(crate) fn network_config(fixed: &BTreeMap<usize, StaticAddress>, macs: &[String]) -> Value {
    let interfaces = macs.iter().enumerate().map(|(number, mac)| {
        let mut interface = json!({
            "match": {"macaddress": mac},
            "set-name": format!("eth{number}"),
        });
        match fixed.get(&number) {
            Some(fixed) => write(fixed, &mut interface),
            None => interface["dhcp4"] = json!(true),
        }
        (format!("eth{number}"), interface)
    });
    json!({"version": 2, "ethernets": interfaces.collect::<serde_json::Map<_, _>>()})
}

fn write(fixed: &StaticAddress, interface: &mut Value) {
    interface["addresses"] = json!([fixed.address.to_string()]);
    if let Some(gateway) = fixed.gateway {
        let key = if gateway.is_ipv4() {
            "gateway4"
        } else {
            "gateway6"
        };
        interface[key] = json!(gateway);
    }
    if !fixed.nameservers.is_empty() {
        interface["nameservers"] = json!({"addresses": fixed.nameservers});
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(address: &str, gateway: Option<&str>) -> StaticAddress {
        StaticAddress {
            address: address.parse().unwrap(),
            gateway: gateway.map(|text| text.parse().unwrap()),
            nameservers: vec!["10.0.0.53".parse().unwrap()],
        }
    }

    #[test]
    fn an_address_has_a_prefix_length_and_its_gateway_is_of_its_family() {
        for (address, gateway) in [
            ("10.0.0.5/24", Some("10.0.0.1")),
            ("10.0.0.4/31", Some("10.0.0.5")),
            ("10.0.0.5/32", Some("10.9.0.1")),
            ("2001:db8::5/64", None),
            ("2001:db8::5/64", Some("fe80::1")),
            ("2001:db8::ffff:ffff:ffff:ffff/64", Some("2001:db8::1")),
        ] {
            let problems = fixed(address, gateway).problems();
            assert_eq!(problems, Vec::<String>::new(), "{address}");
        }
        for (address, gateway, told) in [
            ("10.0.0.0/24", None, "stands for the network"),
            ("10.0.0.255/24", None, "all are addressed"),
            ("2001:db8::/64", None, "the first address"),
            ("10.0.0.5/24", Some("10.0.0.5"), "the VM's own"),
            ("10.0.0.5/24", Some("10.0.1.1"), "is not in the network"),
            (
                "2001:db8::5/64",
                Some("2001:db9::1"),
                "is not in the network",
            ),
            ("2001:db8::5/64", Some("10.0.0.1"), "different families"),
        ] {
            let problems = fixed(address, gateway).problems();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].contains(told), "{problems:?}");
        }
        for wrong in ["10.0.0.5", "10.0.0.5/33", "x/24", "10.0.0.5/", ""] {
            let problem = wrong.parse::<Cidr>().unwrap_err();
            assert!(problem.contains("\"10.0.0.5/24\""), "{problem}");
        }
    }

    #[test]
    fn an_address_is_of_a_network_or_not() {
        for (network, address, is_of_it) in [
            ("10.0.0.0/24", "10.0.0.255", true),
            ("10.0.0.0/24", "10.0.1.0", false),
            ("10.0.0.0/24", "::a00:0", false),
            ("0.0.0.0/0", "10.0.1.0", true),
            ("2001:db8::/64", "2001:db8::5", true),
            ("2001:db8::/64", "2001:db9::5", false),
        ] {
            let network: Cidr = network.parse().unwrap();
            assert!(network.is_network());
            assert_eq!(network.has(address.parse().unwrap()), is_of_it, "{address}");
        }
        assert!(!"10.0.0.1/24".parse::<Cidr>().unwrap().is_network());
        assert!("10.0.0.1/32".parse::<Cidr>().unwrap().is_network());
    }

    #[test]
    fn the_first_interface_has_the_address_and_the_others_ask() {
        let macs = ["02:00:00:00:00:01", "02:00:00:00:00:02"].map(String::from);
        assert_eq!(
            network_config(&[(0, fixed("10.0.0.5/24", Some("10.0.0.1")))].into(), &macs),
            json!({"version": 2, "ethernets": {
                "eth0": {
                    "match": {"macaddress": "02:00:00:00:00:01"},
                    "set-name": "eth0",
                    "addresses": ["10.0.0.5/24"],
                    "gateway4": "10.0.0.1",
                    "nameservers": {"addresses": ["10.0.0.53"]},
                },
                "eth1": {
                    "match": {"macaddress": "02:00:00:00:00:02"},
                    "set-name": "eth1",
                    "dhcp4": true,
                },
            }})
        );
    }
}
