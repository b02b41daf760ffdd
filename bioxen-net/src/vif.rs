//! What is asked of the pool to make, plug, change and remove an interface of a VM.

use std::collections::BTreeMap;

use xapi_client::api::{
    Network, Vif, VifCreate, VifLockingMode, VifOperations, VifRecord, Vm, VmPowerState,
};
use xapi_client::{Client, Ref};

use crate::error::Names;
use crate::inventory::Inventory;
use crate::marks::Marks;
use crate::{Error, Locking, Mac, NicSpec, Result};

/// How the pool calls a limit of what an interface may send.
pub(crate) const RATE_LIMIT: &str = "ratelimit";
/// The limit itself, in kilobytes per second.
pub(crate) const RATE: &str = "kbps";

/// An interface that is to be made.
pub(crate) struct New<'a> {
    pub(crate) vm: &'a Ref<Vm>,
    pub(crate) network: &'a Ref<Network>,
    pub(crate) mtu: i64,
    pub(crate) device: &'a str,
    pub(crate) spec: &'a NicSpec,
    pub(crate) marks: &'a Marks,
}

/// Makes an interface, and plugs it in when the VM runs; or leaves nothing.
pub(crate) async fn attach(
    client: &Client,
    there: &Inventory,
    new: New<'_>,
    operation: &str,
) -> Result<Ref<Vif>> {
    let (vm, device) = (new.vm, new.device);
    let vif = create(client, there, &new, operation).await?;
    let power_state = client.vm().get_power_state(vm).await;
    let plugged = match power_state.map_err(Error::pool(operation)) {
        Ok(VmPowerState::Running) => plug(client, &vif, operation).await,
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    };
    let Err(error) = plugged else { return Ok(vif) };
    Err(match gone(client.vif().destroy(&vif).await) {
        Ok(()) => error,
        Err(left) => Error::LeftBehind {
            operation: operation.to_owned(),
            left: Names(vec![format!("interface {device} ({left})")]),
            source: Box::new(error),
        },
    })
}

async fn plug(client: &Client, vif: &Ref<Vif>, operation: &str) -> Result<()> {
    let record = record(client, vif, operation).await?;
    assert_hot(&record, &VifOperations::Plug, operation)?;
    let plugged = client.vif().plug(vif).await;
    plugged.map_err(Error::pool(operation))
}

async fn record(client: &Client, vif: &Ref<Vif>, operation: &str) -> Result<VifRecord> {
    let record = client.vif().get_record(vif).await;
    record.map_err(Error::pool(operation))
}

/// The pool says beforehand whether a running VM can have its interfaces plugged in and out.
fn assert_hot(vif: &VifRecord, what: &VifOperations, operation: &str) -> Result<()> {
    if vif.allowed_operations.contains(what) {
        return Ok(());
    }
    Err(Error::NotHot {
        operation: operation.to_owned(),
        reason: "the VM runs, and no interface can be plugged in or out of it: its guest tools have \
                 not reported, or something else is done to it; wait until it has booted, or stop it \
                 first"
            .to_owned(),
    })
}

async fn create(
    client: &Client,
    there: &Inventory,
    new: &New<'_>,
    operation: &str,
) -> Result<Ref<Vif>> {
    let New {
        vm, device, spec, ..
    } = new;
    let mut wanted = VifCreate::new((*vm).clone(), new.network.clone(), *device);
    wanted.mtu = new.mtu;
    wanted.other_config = new.marks.of_nic(&there.guests.uuid(vm));
    wanted.mac = match (spec.mac, there.guests.vms.get(vm)) {
        (Some(mac), _) => mac.to_string(),
        // A VM that has lost what the pool derives addresses from.
        (None, Some(guest)) if !guest.has_mac_seed() => {
            Mac::derived(&guest.uuid, device).to_string()
        }
        (None, _) => String::new(),
    };
    if let Some(rate) = spec.rate {
        wanted.qos_algorithm_type = RATE_LIMIT.to_owned();
        wanted.qos_algorithm_params = rate_params(rate);
    }
    let (mode, ipv4, ipv6) = in_the_pools_words(&spec.locking);
    wanted.locking_mode = Some(mode);
    wanted.ipv4_allowed = Some(ipv4);
    wanted.ipv6_allowed = Some(ipv6);
    match client.vif().create(&wanted).await {
        Ok(vif) => Ok(vif),
        Err(error) if is_unknown(&error) => {
            // The number was free before, so that an interface there now is the one.
            match at(client, vm, device).await {
                Some(vif) => Ok(vif),
                None => Err(Error::pool(operation)(error)),
            }
        }
        Err(error) => Err(Error::pool(operation)(error)),
    }
}

async fn at(client: &Client, vm: &Ref<Vm>, device: &str) -> Option<Ref<Vif>> {
    for vif in client.vm().get_vifs(vm).await.ok()? {
        if client.vif().get_device(&vif).await.ok()? == device {
            return Some(vif);
        }
    }
    None
}

/// Takes an interface from its VM. One that is gone already is as good as taken.
pub(crate) async fn detach(client: &Client, vif: &Ref<Vif>, what: &str) -> Result<()> {
    let operation = format!("detach {what}");
    let record = match client.vif().get_record(vif).await {
        Err(error) if error.failure().is_some_and(xapi_client::Failure::is_gone) => {
            return Ok(());
        }
        answer => answer.map_err(Error::pool(operation.clone()))?,
    };
    let state = client.vm().get_power_state(&record.vm).await;
    let state = state.map_err(Error::pool(operation.clone()))?;
    let is_live = record.currently_attached
        && match state {
            VmPowerState::Running => true,
            VmPowerState::Paused | VmPowerState::Suspended => {
                let (state, remedy) = match state {
                    VmPowerState::Paused => ("paused", "unpause"),
                    _ => ("suspended", "resume"),
                };
                let reason = format!("the VM is {state}; {remedy} or stop it first");
                return Err(Error::NotHot { operation, reason });
            }
            _ => false,
        };
    if is_live {
        assert_hot(&record, &VifOperations::Unplug, &operation)?;
        let unplugged = client.vif().unplug(vif).await;
        unplugged.map_err(Error::pool(operation.clone()))?;
    }
    let Err(error) = gone(client.vif().destroy(vif).await) else {
        return Ok(());
    };
    let error = Error::pool(operation.clone())(error);
    if !is_live {
        return Err(error);
    }
    Err(match client.vif().plug(vif).await {
        Ok(()) => error,
        Err(left) => Error::LeftBehind {
            operation,
            left: Names(vec![format!("{what}, unplugged ({left})")]),
            source: Box::new(error),
        },
    })
}

/// Changes which addresses an interface may use. At no moment may it use any that is in neither the
/// old nor the new set.
pub(crate) async fn lock(
    client: &Client,
    vif: &Ref<Vif>,
    locking: &Locking,
) -> xapi_client::Result<()> {
    let api = client.vif();
    let (mode, ipv4, ipv6) = in_the_pools_words(locking);
    let texts = |all: &[String]| -> Vec<String> { all.to_vec() };
    let (ipv4, ipv6) = (texts(&ipv4), texts(&ipv6));
    let set = async || {
        let ipv4: Vec<&str> = ipv4.iter().map(String::as_str).collect();
        api.set_ipv4_allowed(vif, &ipv4).await?;
        let ipv6: Vec<&str> = ipv6.iter().map(String::as_str).collect();
        api.set_ipv6_allowed(vif, &ipv6).await
    };
    if mode == VifLockingMode::Locked {
        set().await?;
        return api.set_locking_mode(vif, mode).await;
    }
    api.set_locking_mode(vif, mode).await?;
    set().await
}

fn in_the_pools_words(locking: &Locking) -> (VifLockingMode, Vec<String>, Vec<String>) {
    match locking {
        Locking::NetworkDefault => (VifLockingMode::NetworkDefault, Vec::new(), Vec::new()),
        Locking::Unlocked => (VifLockingMode::Unlocked, Vec::new(), Vec::new()),
        Locking::Disabled => (VifLockingMode::Disabled, Vec::new(), Vec::new()),
        Locking::Locked { ipv4, ipv6 } => (
            VifLockingMode::Locked,
            ipv4.iter().map(ToString::to_string).collect(),
            ipv6.iter().map(ToString::to_string).collect(),
        ),
    }
}

fn rate_params(rate: u32) -> BTreeMap<String, String> {
    [(RATE.to_owned(), rate.to_string())].into()
}

/// Changes what an interface may send, at most.
pub(crate) async fn limit(
    client: &Client,
    vif: &Ref<Vif>,
    rate: Option<u32>,
) -> xapi_client::Result<()> {
    let api = client.vif();
    let params = rate.map(rate_params).unwrap_or_default();
    api.set_qos_algorithm_params(vif, &params).await?;
    let kind = rate.map_or("", |_| RATE_LIMIT);
    api.set_qos_algorithm_type(vif, kind).await
}

/// How an interface is locked. The pool keeps the addresses while it is not.
pub(crate) fn locking_of(vif: &VifRecord) -> Locking {
    match vif.locking_mode {
        VifLockingMode::Unlocked => Locking::Unlocked,
        VifLockingMode::Disabled => Locking::Disabled,
        VifLockingMode::Locked => Locking::Locked {
            ipv4: vif
                .ipv4_allowed
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect(),
            ipv6: vif
                .ipv6_allowed
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect(),
        },
        _ => Locking::NetworkDefault,
    }
}

/// What an interface may send, at most.
pub(crate) fn rate_of(vif: &VifRecord) -> Option<u32> {
    if vif.qos_algorithm_type != RATE_LIMIT {
        return None;
    }
    vif.qos_algorithm_params.get(RATE)?.parse().ok()
}

/// Takes what is gone already for removed.
pub(crate) fn gone(destroyed: xapi_client::Result<()>) -> xapi_client::Result<()> {
    match destroyed {
        Err(error) if error.failure().is_some_and(xapi_client::Failure::is_gone) => Ok(()),
        other => other,
    }
}

/// Whether the pool may have done what it was asked for.
pub(crate) fn is_unknown(error: &xapi_client::Error) -> bool {
    error.is_outcome_unknown()
}
