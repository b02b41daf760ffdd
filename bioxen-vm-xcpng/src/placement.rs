//! On which hosts of a pool a VM can run, and why not on the others.

use std::collections::{BTreeMap, BTreeSet};

use bioxen_vm_core::words::ByteSize;
use serde::Deserialize;
use xapi_client::api::{Host, HostMetrics, Network, Pbd, Pif, Sr, Vm};
use xapi_client::{Client, Error as CallError, ErrorCode, Ref};

use crate::error::{Error, Result};

const DEAD: &str = "it does not answer; switch it on";
const DISABLED: &str = "it is disabled, for maintenance for example; enable it";

#[derive(Deserialize)]
struct KnownHost {
    name_label: String,
    enabled: bool,
    metrics: Ref<HostMetrics>,
    cpu_info: BTreeMap<String, String>,
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

#[derive(Deserialize)]
struct KnownPif {
    host: Ref<Host>,
    network: Ref<Network>,
}

/// What a VM needs of the host that it runs on.
#[derive(Debug)]
pub(crate) struct Need {
    /// With what the hypervisor needs for it besides.
    pub(crate) memory: i64,
    pub(crate) vcpus: i64,
    pub(crate) storage: BTreeSet<Ref<Sr>>,
    pub(crate) networks: Networks,
}

/// Which networks a VM is on, each with its name.
#[derive(Debug)]
pub(crate) enum Networks {
    Named(BTreeMap<Ref<Network>, String>),
    /// Those of the template, which are looked up where hosts may differ in them.
    OfTemplate(Ref<Vm>),
}

/// What a host has for a VM.
#[derive(Debug)]
struct Offer {
    host: String,
    enabled: bool,
    live: bool,
    memory: i64,
    /// Of processors; a host that does not tell has enough.
    processors: i64,
    storage: BTreeSet<Ref<Sr>>,
    /// The networks that other hosts reach and this one does not. One that no host has an interface to is
    /// made wherever a VM wants it.
    out_of_reach: BTreeSet<Ref<Network>>,
}

/// Fails when no host of the pool has what a VM needs, and says of each why. Only the start settles
/// it: others start VMs meanwhile.
pub(crate) async fn check(client: &Client, need: &Need) -> Result<()> {
    const DOING: &str = "tell what its hosts have to offer";
    let failed = || Error::pool(DOING);
    let hosts = client.host().get_all_records().select().await;
    let hosts: BTreeMap<Ref<Host>, KnownHost> = hosts.map_err(failed())?;
    let metrics = client.host_metrics().get_all_records().select().await;
    let metrics: BTreeMap<Ref<HostMetrics>, Metrics> = metrics.map_err(failed())?;
    let pbds = client.pbd().get_all_records().select().await;
    let pbds: BTreeMap<Ref<Pbd>, KnownPbd> = pbds.map_err(failed())?;
    // The only host reaches whatever is reached.
    let (pifs, networks) = match hosts.len() {
        0 | 1 => Default::default(),
        _ => {
            let pifs = client.pif().get_all_records().select().await;
            let pifs: BTreeMap<Ref<Pif>, KnownPif> = pifs.map_err(failed())?;
            let networks = match &need.networks {
                Networks::Named(networks) => networks.clone(),
                Networks::OfTemplate(template) => networks_of(client, template).await?,
            };
            (pifs, networks)
        }
    };
    let reached: BTreeSet<_> = pifs.values().map(|pif| &pif.network).collect();
    let mut reasons = Vec::new();
    for (host, known) in hosts {
        let attached = pbds.values().filter(|pbd| pbd.host == host);
        let here = pifs.values().filter(|pif| pif.host == host);
        let here: BTreeSet<_> = here.map(|pif| &pif.network).collect();
        let mut offer = Offer {
            host: known.name_label,
            enabled: known.enabled,
            live: metrics.get(&known.metrics).is_some_and(|host| host.live),
            memory: i64::MAX,
            processors: processors(&known.cpu_info),
            storage: attached
                .filter(|pbd| pbd.currently_attached)
                .map(|pbd| pbd.sr.clone())
                .collect(),
            out_of_reach: reached.difference(&here).copied().cloned().collect(),
        };
        if offer.lacks(need, &networks).is_none() {
            // What its running VMs could give back is part of it.
            offer.memory = client
                .host()
                .compute_free_memory(&host)
                .await
                .map_err(failed())?;
        }
        match offer.lacks(need, &networks) {
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

/// The networks that a VM or a template has interfaces to, each with its name.
async fn networks_of(client: &Client, vm: &Ref<Vm>) -> Result<BTreeMap<Ref<Network>, String>> {
    let failed = || Error::pool("tell about the interfaces of the template");
    let vifs = client.vm().get_vifs(vm).await.map_err(failed())?;
    let mut networks = BTreeMap::new();
    for vif in vifs {
        let network = client.vif().get_network(&vif).await.map_err(failed())?;
        let name = client.network().get_name_label(&network).await;
        networks.insert(network, name.map_err(failed())?);
    }
    Ok(networks)
}

impl Offer {
    /// What a VM would lack on this host.
    fn lacks(&self, need: &Need, networks: &BTreeMap<Ref<Network>, String>) -> Option<String> {
        let mut networks = networks.iter();
        if !self.live {
            Some(DEAD.into())
        } else if !self.enabled {
            Some(DISABLED.into())
        } else if !need.storage.is_subset(&self.storage) {
            Some("the storage of the template is not attached to it".into())
        } else if let Some((_, network)) = networks.find(|(one, _)| self.out_of_reach.contains(one))
        {
            Some(format!("it has no interface to the network {network:?}"))
        } else if self.processors < need.vcpus {
            Some(too_few_processors(self.processors, need.vcpus))
        } else if self.memory < need.memory {
            Some(too_little_memory(self.memory, need.memory))
        } else {
            None
        }
    }
}

fn processors(cpu_info: &BTreeMap<String, String>) -> i64 {
    let count = cpu_info.get("cpu_count");
    count
        .and_then(|count| count.parse().ok())
        .unwrap_or(i64::MAX)
}

fn too_few_processors(there: i64, wanted: i64) -> String {
    format!("it has {there} processors, and the VM is to have {wanted} vcpus; ask for fewer")
}

fn too_little_memory(free: i64, needed: i64) -> String {
    format!(
        "{} of memory are free and {} are needed; stop VMs on it, or ask for less",
        ByteSize(free.max(0).unsigned_abs()),
        ByteSize(needed.max(0).unsigned_abs())
    )
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
                | ErrorCode::HostNotEnoughPcpus
        )
    })
}

/// Why no host would have a VM.
pub(crate) struct Refused {
    pub(crate) error: Error,
    /// Whether one would by now.
    pub(crate) is_over: bool,
}

/// Asks each host why it will not have the VM.
pub(crate) async fn explain(client: &Client, vm: &Ref<Vm>, source: CallError) -> Refused {
    let hosts = client.host().get_all_records().select().await;
    // Without them, there still is what the pool said.
    let hosts: BTreeMap<Ref<Host>, Known> = hosts.unwrap_or_default();
    let (mut reasons, mut is_over) = (Vec::new(), false);
    for (host, Known { name_label }) in hosts {
        let reason = match client.vm().assert_can_boot_here(vm, &host).await {
            Ok(()) => {
                is_over = true;
                "it can now; try again".to_owned()
            }
            Err(error) => refusal(&error),
        };
        reasons.push(format!("{name_label}: {reason}"));
    }
    reasons.sort_unstable();
    let error = Error::NoPlace {
        reasons,
        source: Some(Box::new(source)),
    };
    Refused { error, is_over }
}

/// Why a host will not have a VM, in words where the pool gives numbers.
fn refusal(error: &CallError) -> String {
    let Some(failure) = error.failure() else {
        return error.to_string();
    };
    let number = |at| failure.param(at).parse();
    match (&failure.code, number(0), number(1)) {
        (ErrorCode::HostNotEnoughFreeMemory, Ok(needed), Ok(free)) => {
            too_little_memory(free, needed)
        }
        (ErrorCode::HostNotEnoughPcpus, Ok(wanted), Ok(there)) => too_few_processors(there, wanted),
        (ErrorCode::HostDisabled, ..) => DISABLED.to_owned(),
        (ErrorCode::HostNotLive, ..) => DEAD.to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_thing_that_a_host_lacks_is_told_with_a_remedy() {
        let sr = |name: &str| Ref::<Sr>::new(name);
        let lan = Ref::<Network>::new("lan");
        let need = |memory| Need {
            memory,
            vcpus: 8,
            storage: BTreeSet::from([sr("a")]),
            networks: Networks::Named(BTreeMap::new()),
        };
        let networks = BTreeMap::from([(lan.clone(), "LAN".to_owned())]);
        let lacks = |offer: &Offer, memory| offer.lacks(&need(memory), &networks);
        let mut offer = Offer {
            host: "h".into(),
            enabled: true,
            live: true,
            memory: 4 << 30,
            processors: 8,
            storage: BTreeSet::from([sr("a"), sr("b")]),
            out_of_reach: BTreeSet::from([Ref::new("dmz")]),
        };
        assert_eq!(lacks(&offer, 4 << 30), None);
        assert_eq!(
            lacks(&offer, 5 << 30).unwrap(),
            "4 GiB of memory are free and 5 GiB are needed; stop VMs on it, or ask for less"
        );
        offer.processors = 4;
        let lack = lacks(&offer, 5 << 30).unwrap();
        assert_eq!(
            lack,
            "it has 4 processors, and the VM is to have 8 vcpus; ask for fewer"
        );
        offer.out_of_reach.insert(lan.clone());
        let lack = lacks(&offer, 1).unwrap();
        assert_eq!(lack, "it has no interface to the network \"LAN\"");
        offer.storage.remove(&sr("a"));
        assert!(lacks(&offer, 1).unwrap().contains("storage"));
        offer.enabled = false;
        assert!(lacks(&offer, 1).unwrap().contains("disabled"));
        offer.live = false;
        assert!(lacks(&offer, 1).unwrap().contains("switch it on"));
    }
}
