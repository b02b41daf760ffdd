//! Why a VM has no address, as far as the pool can tell.

use std::fmt;
use std::net::IpAddr;

use xapi_client::api::Vm;
use xapi_client::{Client, Ref};

use crate::address::{Seen, is_link_local, is_usable};
use crate::doctor::Check;

/// Why a running VM has no address. `Display` says what was seen and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoAddress {
    /// It has no network interface.
    NoInterface,
    /// None of its interfaces is plugged in.
    Unplugged {
        /// What the pool says of the first, or nothing.
        said: String,
    },
    /// The cards behind its networks have no link.
    NoCarrier {
        /// The network of its first interface.
        network: String,
    },
    /// Nothing has ever reported from it.
    NoTools,
    /// It has no address but those that are good for its own link.
    LinkLocal(IpAddr),
    /// It has no address in one of the networks of `address_cidr`, but this one.
    Elsewhere(IpAddr),
    /// Its guest tools run and report no address.
    Silent,
}

impl NoAddress {
    /// Looks where the way to an address ends. What the pool does not answer is left out.
    pub(crate) async fn find(client: &Client, vm: &Ref<Vm>, seen: &Seen) -> Self {
        if seen.interfaces == 0 {
            return Self::NoInterface;
        }
        match interfaces(client, vm).await {
            Ok(Some(why)) => return why,
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "the VM's interfaces cannot be looked at"),
        }
        let addresses = seen
            .networks
            .values()
            .filter_map(|text| text.trim().parse().ok());
        let addresses: Vec<IpAddr> = addresses.collect();
        if !seen.tools {
            return Self::NoTools;
        }
        // One that is good for us would have been taken.
        if let Some(address) = addresses.iter().find(|address| is_usable(**address)) {
            return Self::Elsewhere(*address);
        }
        match addresses.iter().find(|address| is_link_local(**address)) {
            Some(address) => Self::LinkLocal(*address),
            None => Self::Silent,
        }
    }

    /// The check of the doctor that this would fail.
    #[must_use]
    pub fn check(&self) -> Check {
        match self {
            Self::NoInterface | Self::Unplugged { .. } | Self::NoCarrier { .. } => Check::Network,
            Self::NoTools => Check::GuestTools,
            Self::LinkLocal(_) | Self::Elsewhere(_) | Self::Silent => Check::Address,
        }
    }
}

/// What is wrong between the VM and its networks.
async fn interfaces(client: &Client, vm: &Ref<Vm>) -> xapi_client::Result<Option<NoAddress>> {
    let vifs = client
        .vif()
        .get_all_records_where(&format!("field \"VM\" = \"{}\"", vm.as_str()))
        .await?;
    let mut vifs: Vec<_> = vifs.into_values().collect();
    vifs.sort_by_key(|vif| (vif.device.len(), vif.device.clone()));
    let Some(first) = vifs.first() else {
        return Ok(Some(NoAddress::NoInterface));
    };
    if !vifs.iter().any(|vif| vif.currently_attached) {
        let said = first.status_detail.clone();
        return Ok(Some(NoAddress::Unplugged { said }));
    }
    let host = client.vm().get_resident_on(vm).await?;
    let mut network_of_first = None;
    for vif in vifs.iter().filter(|vif| vif.currently_attached) {
        let network = client.network().get_record(&vif.network).await?;
        let mut cards = 0;
        for pif in &network.pifs {
            let pif = client.pif().get_record(pif).await?;
            if pif.host != host {
                continue;
            }
            cards += 1;
            let carrier = match pif.metrics.non_null() {
                Some(metrics) => client.pif_metrics().get_carrier(metrics).await?,
                None => true,
            };
            if pif.currently_attached && carrier {
                return Ok(None);
            }
        }
        // A network without cards is internal, and needs none.
        if cards == 0 {
            return Ok(None);
        }
        network_of_first.get_or_insert(network.name_label);
    }
    Ok(network_of_first.map(|network| NoAddress::NoCarrier { network }))
}

impl fmt::Display for NoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoInterface => f.write_str("it has no network interface"),
            Self::Unplugged { said } if said.is_empty() => {
                f.write_str("its network interface is not plugged in")
            }
            Self::Unplugged { said } => {
                write!(f, "its network interface is not plugged in ({said})")
            }
            Self::NoCarrier { network } => {
                write!(f, "the network {network:?} has no carrier on the VM's host")
            }
            Self::NoTools => f.write_str("its guest tools have not reported"),
            Self::LinkLocal(address) => write!(
                f,
                "its guest tools report only {address}, which is good for its own link"
            ),
            Self::Elsewhere(address) => write!(
                f,
                "its guest tools report {address}, which is in none of the networks of address_cidr"
            ),
            Self::Silent => f.write_str("its guest tools run but report no address"),
        }?;
        write!(f, "; {}", self.remedy())
    }
}

impl NoAddress {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoInterface => "set network to the name of one of the pool's networks",
            Self::Unplugged { .. } => "look at it with `xe vif-list`, and plug it",
            Self::NoCarrier { .. } => {
                "check the cable and the port of the switch, or set network to another one"
            }
            Self::NoTools => {
                "look at the VM's console for whether it boots, and install the guest tools in the \
                 template; boot_timeout sets how long to wait"
            }
            Self::LinkLocal(_) => {
                "check that a DHCP server answers on its network, or set static_address"
            }
            Self::Elsewhere(_) => "correct that, or put the VM on another network",
            Self::Silent => {
                "check that a DHCP server answers on its network, and that the VM's system configures \
                 its interface"
            }
        }
    }
}
