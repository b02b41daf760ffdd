//! What has to be done to have the interfaces of VMs that are wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use xapi_client::Ref;
use xapi_client::api::{Network, Vif, VifRecord, Vm};

use crate::error::{Names, Place, Problems};
use crate::guests::Guest;
use crate::info::NetworkInfo;
use crate::inventory::Inventory;
use crate::marks::run_of_nic;
use crate::step::{Device, Step};
use crate::vif::{locking_of, rate_of};
use crate::{Locking, Mac, NetworkSelector, NetworkSpec, NicSpec, Subnet, Wanted};

/// The network of an interface that is wanted.
pub(crate) struct On<'a> {
    /// Absent while it is only planned.
    there: Option<&'a NetworkInfo>,
    name: String,
    selector: NetworkSelector,
    subnet: Option<Subnet>,
    gateway: Option<IpAddr>,
}

impl<'a> On<'a> {
    pub(crate) fn existing(network: &'a NetworkInfo) -> Self {
        Self {
            there: Some(network),
            name: network.to_string(),
            selector: NetworkSelector::Uuid(network.uuid.clone()),
            subnet: network.subnet,
            gateway: network.gateway,
        }
    }

    /// A network that is wanted as well, whether it is there or not, comes before others.
    fn find(nic: &NicSpec, wanted: &Wanted, networks: &'a [NetworkInfo]) -> Result<Self, String> {
        let name = match &nic.network {
            NetworkSelector::Any(name) | NetworkSelector::Name(name) => Some(name),
            _ => None,
        };
        let planned = wanted.networks.iter().find(|spec| Some(&spec.name) == name);
        let Some(spec) = planned else {
            let network = nic.network.choose(networks);
            return network
                .map(Self::existing)
                .map_err(|error| error.to_string());
        };
        let existing = networks
            .iter()
            .find(|network| network.ours && network.name == spec.name);
        Ok(Self {
            there: existing,
            name: spec.name.clone(),
            selector: NetworkSelector::Name(spec.name.clone()),
            subnet: spec.subnet,
            gateway: spec.gateway,
        })
    }

    fn is(&self, network: &Ref<Network>) -> bool {
        self.there.is_some_and(|there| there.reference == *network)
    }

    /// Why no machine on it can have an address.
    fn refuses(&self, address: IpAddr) -> Option<String> {
        // A network with IPv4 addresses on record may have others too; one with IPv6 has no IPv4.
        let counts = |subnet: &Subnet| subnet.is_ipv6() || address.is_ipv4();
        match self.subnet.filter(counts) {
            Some(subnet) if !subnet.has_host(address) => Some(format!(
                "the address {address} is none that a machine of {subnet} can have"
            )),
            _ => (self.gateway == Some(address))
                .then(|| format!("the address {address} is that of the gateway")),
        }
    }
}

/// What further interfaces that are wanted take already.
#[derive(Default)]
struct Claims {
    devices: BTreeSet<(Ref<Vm>, String)>,
    /// Those that some interface names: one that names none leaves them.
    named: BTreeSet<(Ref<Vm>, String)>,
    /// How many interfaces that name none are still to be looked at, on which network.
    nameless: BTreeMap<(Ref<Vm>, NetworkSelector), usize>,
    /// The MAC addresses that some interface asks for.
    asked: BTreeSet<Mac>,
    macs: BTreeSet<Mac>,
    /// On which network.
    addresses: BTreeSet<(NetworkSelector, IpAddr)>,
    /// Those that are there and get what is wanted: what they are locked to now does not count.
    vifs: BTreeSet<Ref<Vif>>,
}

/// Compares the interfaces that are wanted with those that are there.
pub(crate) fn plan(
    wanted: &Wanted,
    networks: &[NetworkInfo],
    there: &Inventory,
    steps: &mut Vec<Step>,
    problems: &mut Problems,
) {
    let mut claims = Claims::default();
    for nic in &wanted.nics {
        let Some(Ok(vm)) = nic.vm.as_ref().map(|name| there.guests.find(name)) else {
            continue;
        };
        let named = nic.device.map(|device| (vm.clone(), device.to_string()));
        claims.named.extend(named);
        claims.asked.extend(nic.mac);
        if let Ok(on) = On::find(nic, wanted, networks) {
            if nic.device.is_none() {
                let key = (vm.clone(), on.selector.clone());
                *claims.nameless.entry(key).or_default() += 1;
            }
            let meant = existing(nic, vm, &on, there);
            claims.vifs.extend(meant.map(|(vif, _)| vif.clone()));
        }
    }
    for (number, spec) in wanted.networks.iter().enumerate() {
        for problem in locked_out(spec, networks, there, &claims.vifs) {
            let text = format!("network {:?}: {problem}", spec.name);
            problems.tell(Place::Network(number), text);
        }
    }
    for (number, nic) in wanted.nics.iter().enumerate() {
        let place = Place::Nic(number);
        let Some(name) = &nic.vm else {
            let text = format!("an interface on {} names no vm", nic.network);
            problems.tell(place, text);
            continue;
        };
        let mut say = |problem: String| {
            let text = format!("interface of VM {name:?} on {}: {problem}", nic.network);
            problems.tell(place, text);
        };
        let found = there.guests.find(name).map_err(|error| error.to_string());
        let (vm, on) = match (found, On::find(nic, wanted, networks)) {
            (Ok(vm), Ok(on)) => (vm, on),
            (vm, on) => {
                let wrong = vm.err().into_iter().chain(on.err());
                wrong.for_each(say);
                continue;
            }
        };
        let told = one(nic, vm, &on, there, &mut claims, steps);
        told.into_iter().for_each(&mut say);
    }
}

/// The interfaces that are locked to an address, and stay so, which their network is to have no more.
fn locked_out(
    spec: &NetworkSpec,
    networks: &[NetworkInfo],
    there: &Inventory,
    changing: &BTreeSet<Ref<Vif>>,
) -> Vec<String> {
    let is_it = |network: &&NetworkInfo| network.ours && network.name == spec.name;
    let Some(network) = networks.iter().find(is_it) else {
        return Vec::new();
    };
    let mut on = On::existing(network);
    if (on.subnet, on.gateway) == (spec.subnet, spec.gateway) {
        return Vec::new();
    }
    (on.subnet, on.gateway) = (spec.subnet, spec.gateway);
    let mut problems = Vec::new();
    for (vif, record) in &there.guests.vifs {
        let stays = on.is(&record.network) && !changing.contains(vif);
        if !stays || there.guests.is_of_template(vif) {
            continue;
        }
        for address in addresses(&locking_of(record)) {
            problems.extend(on.refuses(address).map(|problem| {
                let (device, vm) = (&record.device, there.guests.name(&record.vm));
                format!("{problem}, and interface {device} of VM {vm} is locked to it")
            }));
        }
    }
    problems
}

/// The interfaces that may be meant by one that is wanted.
fn existing<'t>(
    nic: &'t NicSpec,
    vm: &'t Ref<Vm>,
    on: &'t On<'_>,
    there: &'t Inventory,
) -> impl Iterator<Item = (&'t Ref<Vif>, &'t VifRecord)> {
    let all = there.guests.vifs_of(vm);
    all.filter(|(_, vif)| match nic.device {
        Some(device) => vif.device == device.to_string(),
        None => on.is(&vif.network),
    })
}

/// Plans one interface, and gives all that is wrong with it.
fn one(
    nic: &NicSpec,
    vm: &Ref<Vm>,
    on: &On<'_>,
    there: &Inventory,
    claims: &mut Claims,
    steps: &mut Vec<Step>,
) -> Vec<String> {
    let Some(guest) = there.guests.vms.get(vm) else {
        return Vec::new();
    };
    let others = |vif: &VifRecord| {
        let mut others = claims.asked.iter().filter(|asked| nic.mac != Some(**asked));
        others.any(|asked| is_mac(vif, *asked))
    };
    let is_free = |vif: &VifRecord| {
        let device = (vm.clone(), vif.device.clone());
        let is_taken = claims.devices.contains(&device) || claims.named.contains(&device);
        nic.device.is_some() || !(is_taken || others(vif))
    };
    let has = existing(nic, vm, on, there).filter(|(_, vif)| is_free(vif));
    let mut has: Vec<_> = has.collect();
    // The one that has the address which is wanted comes first.
    let has_mac = |vif: &VifRecord| nic.mac.is_some_and(|mac| is_mac(vif, mac));
    has.sort_by_key(|(_, vif)| (!has_mac(vif), vif.device.parse::<u32>().ok()));
    let nameless = claims.nameless.get_mut(&(vm.clone(), on.selector.clone()));
    let wanted = match (nic.device, nameless) {
        (None, Some(count)) => std::mem::replace(count, count.saturating_sub(1)),
        _ => 1,
    };
    if has.len() > wanted {
        return vec!["the VM has several there; say which by device".to_owned()];
    }
    let first = has.first().copied();
    let mut problems = Vec::new();
    let device = match first {
        Some((_, vif)) => vif.device.clone(),
        None => match choose_device(nic, vm, guest, there, claims) {
            Ok(device) => device,
            Err(problem) => {
                problems.push(problem);
                String::new()
            }
        },
    };
    if !device.is_empty() && !claims.devices.insert((vm.clone(), device.clone())) {
        problems.push(format!("interface {device} is asked for twice"));
    }
    if let Some(mac) = nic.mac
        && !claims.macs.insert(mac)
    {
        problems.push(format!("another one is to have the MAC address {mac} too"));
    }
    for address in addresses(&nic.locking) {
        if !claims.addresses.insert((on.selector.clone(), address)) {
            problems.push(format!("another one may use the address {address} too"));
        }
    }
    let record = first.map(|(_, vif)| vif);
    problems.extend(check(nic, record, guest, on, there, &claims.vifs));
    match record {
        Some(vif) => adapt(nic, vif, guest, on, there, steps),
        None => {
            let mut spec = nic.clone();
            spec.vm = Some(guest.uuid.clone());
            spec.network = on.selector.clone();
            steps.push(Step::Attach {
                vm: guest.name_label.clone(),
                device,
                network: on.name.clone(),
                nic: spec,
            });
        }
    }
    problems
}

/// The number that a new interface gets.
fn choose_device(
    nic: &NicSpec,
    vm: &Ref<Vm>,
    guest: &Guest,
    there: &Inventory,
    claims: &Claims,
) -> Result<String, String> {
    let name = &guest.name_label;
    let free = there.guests.free.get(vm).map_or(&[][..], Vec::as_slice);
    match nic.device {
        Some(device) if free.contains(&device.to_string()) => Ok(device.to_string()),
        Some(device) => Err(format!(
            "number {device} of VM {name} is taken or too high; free are: {}",
            Names(free.to_vec())
        )),
        None => {
            let is_free = |device: &&String| {
                let device = (vm.clone(), (*device).clone());
                !claims.devices.contains(&device) && !claims.named.contains(&device)
            };
            let device = free.iter().find(is_free).cloned();
            device.ok_or_else(|| format!("VM {name} has no room for another interface"))
        }
    }
}

/// Checks an interface that is to be made, and gives its number.
pub(crate) fn check_new(
    nic: &NicSpec,
    vm: &Ref<Vm>,
    on: &On<'_>,
    there: &Inventory,
) -> crate::Result<String> {
    let Some(guest) = there.guests.vms.get(vm) else {
        return Err(there.guests.no_vm(vm.as_str()));
    };
    let device = choose_device(nic, vm, guest, there, &Claims::default());
    let mut problems = Vec::from_iter(device.as_ref().err().cloned());
    problems.extend(check(nic, None, guest, on, there, &BTreeSet::new()));
    Problems::from(problems).into_result()?;
    Ok(device.unwrap_or_default())
}

/// What is wrong with an interface, which is there already or not.
fn check(
    nic: &NicSpec,
    existing: Option<&VifRecord>,
    guest: &Guest,
    on: &On<'_>,
    there: &Inventory,
    changing: &BTreeSet<Ref<Vif>>,
) -> Vec<String> {
    let wrong_mac = nic.mac.and_then(|mac| check_mac(mac, existing, there));
    let mut problems = Vec::from_iter(wrong_mac);
    if nic.rate == Some(0) {
        problems.push("a rate of 0 lets nothing through; leave it out for no limit".to_owned());
    }
    problems.extend(check_lock(&nic.locking, on, there, changing));
    if let Some(network) = on.there {
        problems.extend(unreached(guest, network, there));
    }
    problems
}

fn is_mac(vif: &VifRecord, mac: Mac) -> bool {
    vif.mac.eq_ignore_ascii_case(&mac.to_string())
}

/// What is wrong with the MAC address of an interface.
fn check_mac(mac: Mac, existing: Option<&VifRecord>, there: &Inventory) -> Option<String> {
    let is_it = |vif: &VifRecord| is_mac(vif, mac);
    match existing {
        Some(vif) if is_it(vif) => None,
        Some(vif) => Some(format!(
            "interface {} has the MAC address {}, which cannot be changed; detach it first",
            vif.device, vif.mac
        )),
        None => {
            // The pool does not look for it. Those of snapshots have that of their VM, and are never
            // plugged in.
            let is_of_snapshot = |vif: &VifRecord| {
                let vm = there.guests.vms.get(&vif.vm);
                vm.is_some_and(|vm| vm.is_a_snapshot)
            };
            let mut all = there.guests.vifs.values();
            let owner = all.find(|vif| is_it(vif) && !is_of_snapshot(vif))?;
            let (device, vm) = (&owner.device, there.guests.name(&owner.vm));
            Some(format!(
                "interface {device} of VM {vm} has the MAC address {mac} already"
            ))
        }
    }
}

/// What is wrong with the addresses that an interface on a network is locked to, beside those that
/// others are locked to and stay so.
pub(crate) fn check_lock(
    locking: &Locking,
    on: &On<'_>,
    there: &Inventory,
    changing: &BTreeSet<Ref<Vif>>,
) -> Vec<String> {
    let mut problems = Vec::new();
    for address in addresses(locking) {
        problems.extend(on.refuses(address));
        let mut others = there.guests.vifs.iter().filter(|(vif, record)| {
            on.is(&record.network) && !changing.contains(*vif) && !there.guests.is_of_template(vif)
        });
        let other = others.find(|(_, vif)| addresses(&locking_of(vif)).contains(&address));
        if let Some((_, other)) = other {
            problems.push(format!(
                "interface {} of VM {} is locked to the address {address} already",
                other.device,
                there.guests.name(&other.vm)
            ));
        }
    }
    problems
}

/// The addresses that an interface is locked to, but for those that say nothing beyond its cable.
fn addresses(locking: &Locking) -> Vec<IpAddr> {
    let Locking::Locked { ipv4, ipv6 } = locking else {
        return Vec::new();
    };
    let ipv4 = ipv4.iter().copied().map(IpAddr::from);
    let all = ipv4.chain(ipv6.iter().copied().map(IpAddr::from));
    all.filter(|address| !is_link_local(*address)).collect()
}

/// Every IPv6 machine has such an address, whatever range its network has.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// Says so if the host of a running VM does not reach a network.
pub(crate) fn unreached(vm: &Guest, network: &NetworkInfo, there: &Inventory) -> Option<String> {
    (vm.runs() && !network.reaches(&vm.resident_on)).then(|| {
        format!(
            "VM {} runs on host {}, which does not reach network {network}; move the VM or choose \
             another network",
            vm.name_label,
            there.host_name(&vm.resident_on)
        )
    })
}

fn adapt(
    nic: &NicSpec,
    vif: &VifRecord,
    guest: &Guest,
    on: &On<'_>,
    there: &Inventory,
    steps: &mut Vec<Step>,
) {
    let device = || Device {
        vm: guest.name_label.clone(),
        device: vif.device.clone(),
        uuid: vif.uuid.to_string(),
    };
    if !on.is(&vif.network) {
        steps.push(Step::Move {
            nic: device(),
            from: there.network_name(&vif.network),
            to: on.name.clone(),
            network: on.selector.clone(),
        });
    }
    let (from, to) = (locking_of(vif), &nic.locking);
    if from != *to {
        steps.push(Step::SetLocking {
            nic: device(),
            from,
            to: to.clone(),
        });
    }
    let (from, to) = (rate_of(vif), nic.rate);
    if from != to {
        let nic = device();
        steps.push(Step::SetRate { nic, from, to });
    }
    if run_of_nic(&vif.other_config, &guest.uuid).is_some() {
        steps.push(Step::KeepNic { nic: device() });
    }
}
