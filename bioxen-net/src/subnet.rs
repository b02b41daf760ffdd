//! Ranges of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A range of addresses: `10.77.0.0/24`, `fd00:77::/64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    first: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// The range that an address is in, given the length of its prefix in bits.
    ///
    /// # Errors
    /// Fails with [`Error::Invalid`] when the prefix is longer than the address.
    pub fn of(address: IpAddr, prefix: u8) -> Result<Self> {
        let bits = bits(address);
        if prefix > bits {
            return Err(Error::invalid(format!(
                "a prefix of {prefix} bits is longer than the address {address}, which has {bits}"
            )));
        }
        let first = number(address) & mask(bits, prefix);
        Ok(Self {
            first: like(address, first),
            prefix,
        })
    }

    /// The length of the prefix in bits.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    pub(crate) fn is_ipv6(self) -> bool {
        self.first.is_ipv6()
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        Self::of(address, self.prefix).is_ok_and(|other| other == self)
    }

    /// Whether the two have addresses in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    /// The addresses that machines can have, in their order: neither that of the range itself nor, of
    /// IPv4, that of all its machines.
    pub fn hosts(self) -> impl Iterator<Item = IpAddr> {
        let size = bits(self.first) - self.prefix;
        let first = number(self.first);
        let last = first | !mask(128, 128 - size);
        let (low, high) = match (self.first, size) {
            // Two machines, or one, need no addresses for the range.
            (_, 0 | 1) => (first, last),
            (IpAddr::V4(_), _) => (first + 1, last - 1),
            (IpAddr::V6(_), _) => (first + 1, last),
        };
        let kind = self.first;
        (low..=high).map(move |number| like(kind, number))
    }

    /// Whether a machine can have this address.
    #[must_use]
    pub fn has_host(self, address: IpAddr) -> bool {
        let mut hosts = self.hosts();
        let first = hosts.next();
        let is_last = |last: IpAddr| {
            bits(last) - self.prefix > 1
                && last.is_ipv4()
                && number(last) == number(self.first) | !mask(128, 128 - (32 - self.prefix))
        };
        self.contains(address) && first.is_some_and(|first| address >= first) && !is_last(address)
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// The first `prefix` of the lowest `bits`.
fn mask(bits: u8, prefix: u8) -> u128 {
    let all = u128::MAX
        .checked_shr(128 - u32::from(bits))
        .unwrap_or_default();
    let rest = u128::MAX
        .checked_shr(128 - u32::from(bits - prefix))
        .unwrap_or_default();
    all & !rest
}

/// An address of the same family.
fn like(kind: IpAddr, number: u128) -> IpAddr {
    match kind {
        // No number comes here that is longer than the addresses of its family.
        IpAddr::V4(_) => Ipv4Addr::from(number as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from(number).into(),
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(format!(
                "{text:?} is no range of addresses; one looks like \"10.77.0.0/24\""
            ))
        };
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let prefix = prefix.parse().map_err(|_| wrong())?;
        let subnet = Self::of(address, prefix)?;
        if subnet.first != address {
            return Err(Error::invalid(format!(
                "{text:?} is an address in the range \"{subnet}\"; write the range"
            )));
        }
        Ok(subnet)
    }
}

impl TryFrom<String> for Subnet {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_are_read_as_they_are_written() {
        for text in [
            "10.77.0.0/24",
            "0.0.0.0/0",
            "10.0.0.7/32",
            "fd00:77::/64",
            "::/0",
        ] {
            assert_eq!(subnet(text).to_string(), text);
        }
        for (wrong, why) in [
            ("10.77.0.0", "no range"),
            ("10.77.0.0/33", "longer than the address"),
            ("10.77.0/24", "no range"),
            ("x/24", "no range"),
            ("10.77.0.5/24", "in the range \"10.77.0.0/24\""),
            ("fd00:77::1/64", "in the range \"fd00:77::/64\""),
        ] {
            let told = wrong.parse::<Subnet>().unwrap_err().to_string();
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn ranges_overlap_when_one_contains_the_other() {
        for (one, other, do_overlap) in [
            ("10.77.0.0/24", "10.77.0.0/16", true),
            ("10.77.0.0/24", "10.77.0.128/25", true),
            ("10.77.0.0/24", "10.77.1.0/24", false),
            ("0.0.0.0/0", "10.0.0.0/8", true),
            ("10.0.0.0/8", "fd00::/8", false),
            ("fd00:77::/64", "fd00:77::/48", true),
        ] {
            let (one, other) = (subnet(one), subnet(other));
            assert_eq!(one.overlaps(other), do_overlap, "{one} {other}");
            assert_eq!(other.overlaps(one), do_overlap, "{other} {one}");
        }
    }

    #[test]
    fn machines_have_all_addresses_but_those_of_the_range_and_of_all() {
        let hosts = |text: &str, count| -> Vec<String> {
            let hosts = subnet(text).hosts().take(count);
            hosts.map(|host| host.to_string()).collect()
        };
        assert_eq!(hosts("10.77.0.0/30", 9), ["10.77.0.1", "10.77.0.2"]);
        assert_eq!(hosts("10.77.0.0/31", 9), ["10.77.0.0", "10.77.0.1"]);
        assert_eq!(hosts("10.77.0.7/32", 9), ["10.77.0.7"]);
        assert_eq!(hosts("fd00::/64", 2), ["fd00::1", "fd00::2"]);
        assert_eq!(subnet("10.77.0.0/24").hosts().count(), 254);
        assert_eq!(hosts("0.0.0.0/0", 1), ["0.0.0.1"]);
        for (address, can_be) in [
            ("10.77.0.1", true),
            ("10.77.0.254", true),
            ("10.77.0.0", false),
            ("10.77.0.255", false),
            ("10.77.1.1", false),
            ("fd00::1", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(
                subnet("10.77.0.0/24").has_host(address),
                can_be,
                "{address}"
            );
        }
    }
}
