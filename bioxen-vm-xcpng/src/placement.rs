//! On which hosts of a pool a VM can run, and why not on the others.

use std::collections::{BTreeMap, BTreeSet};

use bioxen_vm_core::words::ByteSize;
use serde::Deserialize;
use xapi_client::api::{Host, HostMetrics, Pbd, Sr, Vm};
use xapi_client::{Client, Error as CallError, ErrorCode, Ref};

use crate::error::{Error, Result};

#[derive(Deserialize)]
struct KnownHost {
    name_label: String,
    enabled: bool,
    metrics: Ref<HostMetrics>,
}

#[derive(Deserialize)]
struct Metrics {
    live: bool,
}

#[derive(Deserialize)]
struct KnownPbd {
    host: Ref<Host>,
    #[serde(rename = "SR")]
    sr: Ref<Sr>,
    currently_attached: bool,
}

/// What a host has for a VM.
#[derive(Debug)]
struct Offer {
    host: String,
    enabled: bool,
    live: bool,
    memory: i64,
    storage: BTreeSet<Ref<Sr>>,
}

/// Fails when no host of the pool can have a VM with this much memory and disks on this storage, and
/// says of each why. Only the start settles it: others start VMs meanwhile.
pub(crate) async fn check(client: &Client, memory: i64, storage: &BTreeSet<Ref<Sr>>) -> Result<()> {
    const DOING: &str = "tell what its hosts have to offer";
    let failed = || Error::pool(DOING);
    let hosts = client.host().get_all_records().select().await;
    let hosts: BTreeMap<Ref<Host>, KnownHost> = hosts.map_err(failed())?;
    let metrics = client.host_metrics().get_all_records().select().await;
    let metrics: BTreeMap<Ref<HostMetrics>, Metrics> = metrics.map_err(failed())?;
    let pbds = client.pbd().get_all_records().select().await;
    let pbds: BTreeMap<Ref<Pbd>, KnownPbd> = pbds.map_err(failed())?;
    let mut reasons = Vec::new();
    for (host, known) in hosts {
        let attached = pbds.values().filter(|pbd| pbd.host == host);
        let mut offer = Offer {
            host: known.name_label,
            enabled: known.enabled,
            live: metrics.get(&known.metrics).is_some_and(|host| host.live),
            memory: i64::MAX,
            storage: attached
                .filter(|pbd| pbd.currently_attached)
                .map(|pbd| pbd.sr.clone())
                .collect(),
        };
        if offer.lacks(memory, storage).is_none() {
            // What its running VMs could give back is part of it.
            offer.memory = client
                .host()
                .compute_free_memory(&host)
                .await
                .map_err(failed())?;
        }
        match offer.lacks(memory, storage) {
            None => return Ok(()),
            Some(lack) => reasons.push(format!("{}: {lack}", offer.host)),
        }
    }
    reasons.sort_unstable();
    Err(Error::NoPlace {
        reasons,
        source: None,
    })
}

impl Offer {
    /// What a VM would lack on this host.
    fn lacks(&self, memory: i64, storage: &BTreeSet<Ref<Sr>>) -> Option<String> {
        if !self.live {
            Some("it does not answer; switch it on".into())
        } else if !self.enabled {
            Some("it is disabled, for maintenance for example; enable it".into())
        } else if !storage.is_subset(&self.storage) {
            Some("the storage of the template is not attached to it".into())
        } else if self.memory < memory {
            Some(format!(
                "{} of memory are free and {} are needed; stop VMs on it, or ask for less",
                ByteSize(self.memory.max(0).unsigned_abs()),
                ByteSize(memory.unsigned_abs())
            ))
        } else {
            None
        }
    }
}

#[derive(Deserialize)]
struct Known {
    name_label: String,
}

/// Whether a VM could not be started because no host will have it.
pub(crate) fn is_no_place(error: &CallError) -> bool {
    error.failure().is_some_and(|failure| {
        matches!(
            failure.code,
            ErrorCode::NoHostsAvailable
                | ErrorCode::HostNotEnoughFreeMemory
                | ErrorCode::HostDisabled
                | ErrorCode::HostNotLive
                | ErrorCode::VmRequiresSr
                | ErrorCode::VmRequiresNetwork
        )
    })
}

/// Asks each host why it will not have the VM.
pub(crate) async fn explain(client: &Client, vm: &Ref<Vm>, source: CallError) -> Error {
    let hosts = client.host().get_all_records().select().await;
    // Without them, there still is what the pool said.
    let hosts: BTreeMap<Ref<Host>, Known> = hosts.unwrap_or_default();
    let mut reasons = Vec::new();
    for (host, Known { name_label }) in hosts {
        let reason = match client.vm().assert_can_boot_here(vm, &host).await {
            Ok(()) => "it can now; try again".to_owned(),
            Err(error) => error.to_string(),
        };
        reasons.push(format!("{name_label}: {reason}"));
    }
    reasons.sort_unstable();
    Error::NoPlace {
        reasons,
        source: Some(Box::new(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_thing_that_a_host_lacks_is_told_with_a_remedy() {
        let sr = |name: &str| Ref::<Sr>::new(name);
        let wanted = BTreeSet::from([sr("a")]);
        let mut offer = Offer {
            host: "h".into(),
            enabled: true,
            live: true,
            memory: 4 << 30,
            storage: BTreeSet::from([sr("a"), sr("b")]),
        };
        assert_eq!(offer.lacks(4 << 30, &wanted), None);
        assert_eq!(
            offer.lacks(5 << 30, &wanted).unwrap(),
            "4 GiB of memory are free and 5 GiB are needed; stop VMs on it, or ask for less"
        );
        offer.storage.remove(&sr("a"));
        assert!(offer.lacks(1, &wanted).unwrap().contains("storage"));
        offer.enabled = false;
        assert!(offer.lacks(1, &wanted).unwrap().contains("disabled"));
        offer.live = false;
        assert!(offer.lacks(1, &wanted).unwrap().contains("switch it on"));
    }
}
