//! The address of a VM, from what its guest tools report.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use xapi_client::api::{Vm, VmGuestMetrics};
use xapi_client::{Client, Ref, Watch};

use crate::config_drive::Cidr;
use crate::error::{Error, Result};
use crate::life::{self, subject};
use crate::no_address::NoAddress;

/// Waits until a running VM has an address, and gives a watch that tells what becomes of it then. A watch
/// that has seen it made needs no look at it.
pub(crate) async fn wait(
    client: &Client,
    vm: &Ref<Vm>,
    watched: Option<Watch>,
    within: &[Cidr],
    limit: Duration,
) -> Result<(IpAddr, Watch)> {
    let mut seen = Seen::default();
    let mut events = watched.unwrap_or_else(|| client.watch(&[&subject(vm)]));
    let watching = watch(client, vm, &mut events, within, &mut seen);
    match timeout_at(Instant::now() + limit, watching).await {
        Ok(address) => Ok((address?, events)),
        Err(_) => Err(Error::NoAddress {
            seconds: limit.as_secs(),
            why: NoAddress::find(client, vm, &seen).await,
        }),
    }
}

/// What has been seen of a VM that boots.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) interfaces: usize,
    pub(crate) tools: bool,
    pub(crate) networks: BTreeMap<String, String>,
}

async fn watch(
    client: &Client,
    vm: &Ref<Vm>,
    watch: &mut Watch,
    within: &[Cidr],
    seen: &mut Seen,
) -> Result<IpAddr> {
    let failed = || Error::pool("tell the address of the VM");
    // The tools' report is a new object after each start.
    let mut report: Ref<VmGuestMetrics> = Ref::null();
    loop {
        let batch = watch.next().await.map_err(failed())?;
        Box::pin(life::ended(client, vm, watch, &batch)).await?;
        let mut newer = None;
        for event in &batch.events {
            if let Some(record) = event.record::<Vm>().map_err(failed())? {
                seen.interfaces = record.vifs.len();
                newer = Some(record.guest_metrics);
            }
            if let Some(record) = event.record::<VmGuestMetrics>().map_err(failed())? {
                seen.tools = true;
                if let Some(address) = choose(&record.networks, within) {
                    return Ok(address);
                }
                seen.networks = record.networks;
            }
        }
        if let Some(newer) = newer.filter(|newer| *newer != report && !newer.is_null()) {
            // What a watch saw first is told in full.
            let tools = format!("vm_guest_metrics/{}", newer.as_str());
            if batch.is_complete || !report.is_null() {
                *watch = client.watch(&[&subject(vm), &tools]);
            } else {
                watch.also(&tools);
            }
            report = newer;
        }
    }
}

/// The best of the reported addresses: IPv4 before IPv6, the first interface first. Addresses that
/// are good for one link only are left out: we are elsewhere. So are those outside of the networks that
/// they may be in, if any are given.
pub(crate) fn choose(networks: &BTreeMap<String, String>, within: &[Cidr]) -> Option<IpAddr> {
    networks
        .iter()
        .filter_map(|(key, value)| {
            let (place, address) = (place(key)?, value.trim().parse::<IpAddr>().ok()?);
            let is_within = within.is_empty() || within.iter().any(|cidr| cidr.has(address));
            (is_usable(address) && is_within).then_some((address.is_ipv6(), place, address))
        })
        .min()
        .map(|(_, _, address)| address)
}

/// Interface and position of a key: `0/ip`, `1/ipv4/0`, `160/ipv6/2`.
fn place(key: &str) -> Option<(u32, u32)> {
    let mut parts = key.split('/');
    let interface = parts.next()?.parse().ok()?;
    let position = match (parts.next()?, parts.next()) {
        ("ip", None) => 0,
        ("ipv4" | "ipv6", Some(position)) => position.parse().ok()?,
        _ => return None,
    };
    Some((interface, position))
}

pub(crate) fn is_usable(address: IpAddr) -> bool {
    !address.is_unspecified() && !is_link_local(address)
}

pub(crate) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn the_address_is_found_in_every_form_that_tools_report() {
        type Row = (
            &'static [(&'static str, &'static str)],
            Option<&'static str>,
        );
        let table: [Row; 11] = [
            (&[("0/ip", "10.0.0.5")], Some("10.0.0.5")),
            (&[("0/ipv4/0", "10.0.0.5")], Some("10.0.0.5")),
            (&[("1/ip", "10.0.0.5")], Some("10.0.0.5")),
            (&[("160/ip", "10.0.0.5")], Some("10.0.0.5")),
            (
                &[("10/ip", "10.0.0.10"), ("2/ip", "10.0.0.2")],
                Some("10.0.0.2"),
            ),
            (
                &[("0/ipv6/0", "2001:db8::5"), ("1/ipv4/0", "10.0.0.5")],
                Some("10.0.0.5"),
            ),
            (
                &[("0/ipv6/0", "fe80::1"), ("0/ipv6/1", "2001:db8::5")],
                Some("2001:db8::5"),
            ),
            (&[("0/ip", "169.254.3.4"), ("0/ipv6/0", "fe80::1")], None),
            (&[("0/ip", ""), ("0/ipv4/0", "0.0.0.0")], None),
            (
                &[
                    ("0/ip", "10.0.0.5 "),
                    ("error", "10.0.0.6"),
                    ("0/mac", "10.0.0.7"),
                ],
                Some("10.0.0.5"),
            ),
            (&[], None),
        ];
        for (pairs, expected) in table {
            let chosen = choose(&networks(pairs), &[]).map(|address| address.to_string());
            assert_eq!(chosen.as_deref(), expected, "{pairs:?}");
        }
    }

    #[test]
    fn only_addresses_in_the_wanted_networks_are_taken() {
        let reported = networks(&[
            ("0/ip", "192.168.0.7"),
            ("1/ip", "10.9.0.7"),
            ("1/ipv6/0", "2001:db8::7"),
        ]);
        for (within, expected) in [
            (&["10.0.0.0/8"][..], Some("10.9.0.7")),
            (&["172.16.0.0/12", "192.168.0.0/16"], Some("192.168.0.7")),
            (&["2001:db8::/32"], Some("2001:db8::7")),
            (&["0.0.0.0/0"], Some("192.168.0.7")),
            (&["10.8.0.0/16"], None),
        ] {
            let within: Vec<Cidr> = within.iter().map(|text| text.parse().unwrap()).collect();
            let chosen = choose(&reported, &within).map(|address| address.to_string());
            assert_eq!(chosen.as_deref(), expected, "{within:?}");
        }
    }
}
