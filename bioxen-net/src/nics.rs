//! The network interfaces of VMs.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;
use xapi_client::Ref;
use xapi_client::api::{Network, Vif, VifRecord, Vm};

use crate::error::{Names, Problems};
use crate::inventory::Inventory;
use crate::marks::{Marked, run_of_nic};
use crate::plan_nics::{On, check_lock, check_new, unreached};
use crate::vif::{self, locking_of, rate_of};
use crate::{Error, Locking, NetworkInfo, NetworkSelector, Networks, NicSpec, Result};

/// A network interface of a VM, or of a template or snapshot, which have them for the VMs that are made
/// of them.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct NicInfo {
    /// Its reference, good for this pool until it is detached.
    #[serde(skip)]
    pub reference: Ref<Vif>,
    /// The VM.
    #[serde(skip)]
    pub vm: Ref<Vm>,
    /// The name of the VM.
    #[serde(rename = "vm")]
    pub vm_name: String,
    /// The uuid of the VM.
    pub vm_uuid: String,
    /// Whether the VM is a template.
    pub template: bool,
    /// Of what, if the VM is in truth a snapshot. The interface goes with the snapshot.
    pub snapshot: Option<SnapshotOf>,
    /// Its uuid.
    pub uuid: String,
    /// Its number in the VM.
    pub device: String,
    /// Its MAC address.
    pub mac: String,
    /// Whether the pool derived the address.
    pub mac_generated: bool,
    /// The name of its network.
    pub network: String,
    #[serde(skip)]
    pub(crate) network_reference: Ref<Network>,
    /// Whether it is plugged in, as it is while the VM runs.
    pub attached: bool,
    /// The largest packet in bytes from the next time on that it is plugged in: that of its network.
    pub mtu: i64,
    /// Which addresses it may use.
    pub locking: Locking,
    /// What it may send, at most, in kilobytes per second.
    pub rate: Option<u32>,
    /// The run of a program that it belongs to for as long as it is not complete.
    pub run: Option<String>,
    /// What the pool would let be done to it now, in its own words: `plug`, `unplug`.
    pub allowed: Vec<String>,
}

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotOf {
    /// The uuid of the VM, unless it is gone.
    pub vm_uuid: Option<String>,
    /// The name of the VM.
    pub vm: Option<String>,
}

impl NicInfo {
    /// Which interface of which VM, template or snapshot it is, in words.
    #[must_use]
    pub fn place(&self) -> String {
        let (device, name) = (&self.device, &self.vm_name);
        match &self.snapshot {
            None if self.template => format!("interface {device} of template {name}"),
            None => format!("interface {device} of VM {name}"),
            Some(SnapshotOf { vm: Some(vm), .. }) => {
                format!("interface {device} of snapshot {name:?} of VM {vm}")
            }
            Some(_) => format!("interface {device} of snapshot {name:?} of a VM that is gone"),
        }
    }
}

impl fmt::Display for NicInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) on {}", self.place(), self.mac, self.network)
    }
}

impl Networks {
    /// The one VM that is meant: by uuid, name, the id that BioXen made it with, or `tag:NAME`.
    ///
    /// # Errors
    /// Fails with [`Error::NoVm`], with [`Error::AmbiguousVm`], which lists the candidates, and with
    /// [`Error::Pool`].
    pub async fn find_vm(&self, name: &str) -> Result<Ref<Vm>> {
        let there = Inventory::read_with_guests(&self.client).await?;
        there.guests.find(name).cloned()
    }

    /// The interfaces of a VM, by number.
    ///
    /// # Errors
    /// Fails with [`Error::Pool`].
    pub async fn nics(&self, vm: &Ref<Vm>) -> Result<Vec<NicInfo>> {
        let there = Inventory::read_with_guests(&self.client).await?;
        let nics = there.guests.vifs_of(vm);
        Ok(sorted(
            nics.map(|(vif, record)| describe(vif, record, &there)),
        ))
    }

    /// The one interface of a VM that has this number.
    ///
    /// # Errors
    /// Fails with [`Error::NoNic`], which lists those that there are, and with [`Error::Pool`].
    pub async fn nic(&self, vm: &Ref<Vm>, device: &str) -> Result<NicInfo> {
        let there = Inventory::read_with_guests(&self.client).await?;
        let nics = there.guests.vifs_of(vm);
        let nics = sorted(nics.map(|(vif, record)| describe(vif, record, &there)));
        let known = nics
            .iter()
            .map(|nic| format!("{} on {}", nic.device, nic.network));
        let none = Error::NoNic {
            vm: there.guests.name(vm),
            device: device.to_owned(),
            known: Names(known.collect()),
        };
        nics.into_iter()
            .find(|nic| nic.device == device)
            .ok_or(none)
    }

    /// The interfaces that VMs have on a network, by VM and number.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub async fn nics_on(&self, network: impl Into<NetworkSelector>) -> Result<Vec<NicInfo>> {
        let there = Inventory::read_with_guests(&self.client).await?;
        let networks = there.networks();
        let network = network.into().choose(&networks)?;
        Ok(on(network, &there))
    }

    /// Gives a VM an interface, and plugs it in when the VM runs. A VM that is paused or suspended
    /// has it when it starts the next time.
    ///
    /// # Errors
    /// Fails with [`Error::Invalid`], which has all problems: a number that is taken, a MAC address
    /// that another interface of the pool has, an address that is none of the network's, a network
    /// that the VM's host does not reach. Fails with [`Error::NotHot`] when the VM runs and cannot
    /// take it, with [`Error::NotFound`] and [`Error::Ambiguous`] for the network, with
    /// [`Error::Pool`] when the pool refuses, and with [`Error::LeftBehind`] when an interface that
    /// could not be plugged in could not be removed either.
    ///
    /// # Cancel safety
    /// A dropped future may leave the interface, plugged in or not.
    pub async fn attach(&self, vm: &Ref<Vm>, spec: &NicSpec) -> Result<NicInfo> {
        let mut there = Inventory::read_with_guests(&self.client).await?;
        there.guests.ask_for_room(&self.client, vm).await?;
        let networks = there.networks();
        let network = spec.network.choose(&networks)?;
        let device = check_new(spec, vm, &On::existing(network), &there)?;
        let operation = format!("attach VM {} to network {network}", there.guests.name(vm));
        let wanted = vif::New {
            vm,
            network: &network.reference,
            mtu: network.mtu,
            device: &device,
            spec,
            marks: &self.marks,
        };
        let vif = vif::attach(&self.client, &there, wanted, &operation).await?;
        if self.marks.are_passing
            && let Err(error) = Marked::Nic(vif.clone()).keep(&self.client).await
        {
            let error = Error::pool(operation.as_str())(error);
            let what = format!("interface {device}");
            return Err(match vif::detach(&self.client, &vif, &what).await {
                Ok(()) => error,
                Err(left) => Error::LeftBehind {
                    operation,
                    left: Names(vec![format!("{what} ({left})")]),
                    source: Box::new(error),
                },
            });
        }
        tracing::info!(%network, device, "interface attached");
        self.described(&vif, there).await
    }

    /// Takes an interface from its VM, also while the VM runs. Does nothing when it is gone.
    ///
    /// # Errors
    /// Fails with [`Error::NotHot`] when the state of the VM does not allow it, and with
    /// [`Error::Pool`] when the pool refuses; an interface that was unplugged but could not be
    /// removed is plugged in again.
    ///
    /// # Cancel safety
    /// A dropped future may leave the interface unplugged; detaching again completes it.
    pub async fn detach(&self, nic: &NicInfo) -> Result<()> {
        vif::detach(&self.client, &nic.reference, &nic.to_string()).await
    }

    /// Moves an interface to another network, also while the VM runs. Its number and its address
    /// stay. Does nothing when it is there already.
    ///
    /// # Errors
    /// Fails with [`Error::Invalid`] when the VM's host does not reach the network, or the interface is
    /// locked to an address that it cannot have there, with [`Error::NotFound`] and [`Error::Ambiguous`] for the network, and with [`Error::Pool`].
    ///
    /// # Cancel safety
    /// One call of the pool: after a dropped future it may have been done.
    pub async fn move_nic(
        &self,
        nic: &NicInfo,
        network: impl Into<NetworkSelector>,
    ) -> Result<NicInfo> {
        let there = Inventory::read_with_guests(&self.client).await?;
        let networks = there.networks();
        let network = network.into().choose(&networks)?;
        if nic.network_reference != network.reference {
            let guest = there.guests.vms.get(&nic.vm);
            let unreached = guest.and_then(|guest| unreached(guest, network, &there));
            let record = there.guests.vifs.get(&nic.reference);
            let locking = record.map_or(Locking::NetworkDefault, locking_of);
            let on = On::existing(network);
            let locked = check_lock(&locking, &on, &there, &BTreeSet::new());
            let problems: Vec<_> = unreached.into_iter().chain(locked).collect();
            Problems::from(problems).into_result()?;
            self.client
                .vif()
                .move_(&nic.reference, &network.reference)
                .await
                .map_err(Error::pool(format!("move {nic} to network {network}")))?;
        }
        self.described(&nic.reference, there).await
    }

    /// Changes which addresses an interface may use, also while the VM runs.
    ///
    /// # Errors
    /// Fails with [`Error::Invalid`] for addresses that it cannot have on its network or that another
    /// interface there is locked to, and with [`Error::Pool`].
    ///
    /// # Cancel safety
    /// A dropped future may leave it locked to fewer addresses; setting it again completes that.
    pub async fn set_locking(&self, nic: &NicInfo, locking: &Locking) -> Result<()> {
        let there = Inventory::read_with_guests(&self.client).await?;
        let networks = there.networks();
        let record = there.guests.vifs.get(&nic.reference);
        let on = record.and_then(|record| {
            let is_its_own = |network: &&NetworkInfo| network.reference == record.network;
            networks.iter().find(is_its_own)
        });
        // One that is gone is the pool's to tell of.
        if let Some(network) = on {
            let changing = [nic.reference.clone()].into();
            let locked = check_lock(locking, &On::existing(network), &there, &changing);
            Problems::from(locked).into_result()?;
        }
        vif::lock(&self.client, &nic.reference, locking)
            .await
            .map_err(Error::pool(format!("change the locking of {nic}")))
    }

    async fn described(&self, vif: &Ref<Vif>, there: Inventory) -> Result<NicInfo> {
        let record = self.client.vif().get_record(vif).await;
        let record = record.map_err(Error::pool("read an interface"))?;
        Ok(describe(vif, &record, &there))
    }
}

/// The interfaces that VMs have on a network.
pub(crate) fn on(network: &NetworkInfo, there: &Inventory) -> Vec<NicInfo> {
    let all = there.guests.vifs.iter();
    let there_on = all.filter(|(_, vif)| vif.network == network.reference);
    sorted(there_on.map(|(vif, record)| describe(vif, record, there)))
}

fn sorted(all: impl Iterator<Item = NicInfo>) -> Vec<NicInfo> {
    let mut all: Vec<_> = all.collect();
    all.sort_by_key(|nic| {
        let number = nic.device.parse().unwrap_or(u32::MAX);
        (nic.vm_name.clone(), number, nic.device.clone())
    });
    all
}

fn describe(vif: &Ref<Vif>, record: &VifRecord, there: &Inventory) -> NicInfo {
    let allowed = record.allowed_operations.iter();
    let vm = there.guests.vms.get(&record.vm);
    let snapshot = vm.filter(|vm| vm.is_a_snapshot).map(|snapshot| {
        let of = there.guests.vms.get(&snapshot.snapshot_of);
        SnapshotOf {
            vm_uuid: of.map(|of| of.uuid.clone()),
            vm: of.map(|of| of.name_label.clone()),
        }
    });
    NicInfo {
        reference: vif.clone(),
        vm: record.vm.clone(),
        vm_name: there.guests.name(&record.vm),
        vm_uuid: there.guests.uuid(&record.vm),
        template: vm.is_some_and(|vm| vm.is_a_template && !vm.is_a_snapshot),
        snapshot,
        uuid: record.uuid.to_string(),
        device: record.device.clone(),
        mac: record.mac.clone(),
        mac_generated: record.mac_autogenerated,
        network: there.network_name(&record.network),
        network_reference: record.network.clone(),
        attached: record.currently_attached,
        mtu: mtu_of(record, there),
        locking: locking_of(record),
        rate: rate_of(record),
        run: run_of_nic(&record.other_config, &there.guests.uuid(&record.vm)),
        allowed: allowed
            .map(|operation| operation.as_str().to_owned())
            .collect(),
    }
}

/// The largest packet of an interface. Hosts take what its network says, or the key `mtu` of its
/// `other_config`; the field of that name they leave as it was made.
fn mtu_of(vif: &VifRecord, there: &Inventory) -> i64 {
    let own = vif.other_config.get("mtu").and_then(|mtu| mtu.parse().ok());
    let of_network = || there.networks.get(&vif.network).map(|network| network.mtu);
    own.or_else(of_network).unwrap_or(vif.mtu)
}
