//! The network interfaces of VMs.

use std::fmt;

use serde::Serialize;
use xapi_client::Ref;
use xapi_client::api::{
    Network, Vif, VifCreate, VifLockingMode, VifRecord, Vm, VmPowerState, VmRecord,
};

use crate::apply::{gone, is_unknown};
use crate::error::{Names, Problems};
use crate::inventory::Inventory;
use crate::{Error, Locking, NetworkInfo, NetworkSelector, Networks, NicSpec, Result};

/// A network interface of a VM.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct NicInfo {
    /// Its reference, good for this pool until it is detached.
    #[serde(skip)]
    pub reference: Ref<Vif>,
    /// The VM.
    #[serde(skip)]
    pub vm: Ref<Vm>,
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
    /// The largest packet in bytes.
    pub mtu: i64,
    /// How the hosts lock its addresses, in the pool's word.
    pub locking: String,
    /// The IPv4 addresses that it may use when it is locked.
    pub ipv4_allowed: Vec<String>,
    /// The IPv6 addresses that it may use when it is locked.
    pub ipv6_allowed: Vec<String>,
}

impl fmt::Display for NicInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "interface {} ({}) on {}",
            self.device, self.mac, self.network
        )
    }
}

impl Networks {
    /// The interfaces of a VM, by number.
    ///
    /// # Errors
    /// Fails with [`Error::Pool`].
    pub async fn nics(&self, vm: &Ref<Vm>) -> Result<Vec<NicInfo>> {
        let there = Inventory::read(&self.client).await?;
        let vifs = self
            .client
            .vm()
            .get_vifs(vm)
            .await
            .map_err(Error::pool("read the interfaces of the VM"))?;
        let mut nics = Vec::with_capacity(vifs.len());
        for vif in &vifs {
            nics.push(self.nic(vif, &there).await?);
        }
        nics.sort_by_key(|nic| {
            (
                nic.device.parse::<u32>().unwrap_or(u32::MAX),
                nic.device.clone(),
            )
        });
        Ok(nics)
    }

    /// Gives a VM an interface, and plugs it in when the VM runs.
    ///
    /// # Errors
    /// Fails with [`Error::Invalid`], which has all problems: a number that is taken, a MAC address
    /// that another interface of the pool has, a network that the VM's host does not reach. Fails
    /// with [`Error::NotFound`] and [`Error::Ambiguous`] for the network, with [`Error::Pool`] when
    /// the pool refuses, and with [`Error::LeftBehind`] when an interface that could not be plugged
    /// in could not be removed either.
    ///
    /// # Cancel safety
    /// A dropped future may leave the interface, plugged in or not.
    pub async fn attach(&self, vm: &Ref<Vm>, spec: &NicSpec) -> Result<NicInfo> {
        let there = Inventory::read(&self.client).await?;
        let networks = there.networks();
        let network = spec.network.choose(&networks)?;
        let record = self.vm(vm).await?;
        let free = self
            .client
            .vm()
            .get_allowed_vif_devices(vm)
            .await
            .map_err(Error::pool(format!(
                "read the free interfaces of VM {}",
                record.name_label
            )))?;
        let taken = self.owner_of(spec).await?;
        let device = check(spec, &record, network, &free, taken, &there)?;
        let operation = format!("attach VM {} to network {network}", record.name_label);
        let vif = self
            .create_vif(vm, network, &device, spec, &operation)
            .await?;
        if record.power_state == VmPowerState::Running
            && let Err(error) = self.client.vif().plug(&vif).await
        {
            let error = Error::pool(operation.clone())(error);
            return Err(match gone(self.client.vif().destroy(&vif).await) {
                Ok(()) => error,
                Err(left) => Error::LeftBehind {
                    operation,
                    left: Names(vec![format!("interface {device} ({left})")]),
                    source: Box::new(error),
                },
            });
        }
        tracing::info!(vm = record.name_label, network = %network, device, "interface attached");
        self.nic(&vif, &there).await
    }

    /// Takes an interface from its VM, also while the VM runs. Does nothing when it is gone.
    ///
    /// # Errors
    /// Fails with [`Error::Pool`] when the pool refuses; an interface that was unplugged but could
    /// not be removed is plugged in again.
    ///
    /// # Cancel safety
    /// A dropped future may leave the interface unplugged; detaching again completes it.
    pub async fn detach(&self, nic: &NicInfo) -> Result<()> {
        let operation = format!("detach {nic}");
        let vif = &nic.reference;
        let attached = match self.client.vif().get_currently_attached(vif).await {
            Err(error) if error.failure().is_some_and(xapi_client::Failure::is_gone) => {
                return Ok(());
            }
            answer => answer.map_err(Error::pool(operation.clone()))?,
        };
        let running = self.vm(&nic.vm).await?.power_state == VmPowerState::Running;
        if attached && running {
            self.client
                .vif()
                .unplug(vif)
                .await
                .map_err(Error::pool(operation.clone()))?;
        }
        let Err(error) = gone(self.client.vif().destroy(vif).await) else {
            return Ok(());
        };
        let error = Error::pool(operation.clone())(error);
        if !(attached && running) {
            return Err(error);
        }
        Err(match self.client.vif().plug(vif).await {
            Ok(()) => error,
            Err(left) => Error::LeftBehind {
                operation,
                left: Names(vec![format!("{nic}, unplugged ({left})")]),
                source: Box::new(error),
            },
        })
    }

    /// Moves an interface to another network, also while the VM runs. Its number and its address
    /// stay. Does nothing when it is there already.
    ///
    /// # Errors
    /// Fails with [`Error::Invalid`] when the VM's host does not reach the network, with
    /// [`Error::NotFound`] and [`Error::Ambiguous`] for the network, and with [`Error::Pool`].
    ///
    /// # Cancel safety
    /// One call of the pool: after a dropped future it may have been done.
    pub async fn move_nic(
        &self,
        nic: &NicInfo,
        network: impl Into<NetworkSelector>,
    ) -> Result<NicInfo> {
        let there = Inventory::read(&self.client).await?;
        let networks = there.networks();
        let network = network.into().choose(&networks)?;
        if nic.network_reference != network.reference {
            let record = self.vm(&nic.vm).await?;
            Problems(unreached(&record, network, &there).into_iter().collect()).into_result()?;
            self.client
                .vif()
                .move_(&nic.reference, &network.reference)
                .await
                .map_err(Error::pool(format!("move {nic} to network {network}")))?;
        }
        self.nic(&nic.reference, &there).await
    }

    async fn vm(&self, vm: &Ref<Vm>) -> Result<VmRecord> {
        self.client
            .vm()
            .get_record(vm)
            .await
            .map_err(Error::pool("read the VM"))
    }

    async fn nic(&self, vif: &Ref<Vif>, there: &Inventory) -> Result<NicInfo> {
        let record = self
            .client
            .vif()
            .get_record(vif)
            .await
            .map_err(Error::pool("read an interface"))?;
        Ok(describe(vif, record, there))
    }

    /// The interface that has the wanted MAC address already. The pool does not look for it.
    async fn owner_of(&self, spec: &NicSpec) -> Result<Option<VifRecord>> {
        let Some(mac) = spec.mac else {
            return Ok(None);
        };
        let mac = mac.to_string();
        let all = self
            .client
            .vif()
            .get_all_records()
            .await
            .map_err(Error::pool("read the MAC addresses of the pool"))?;
        Ok(all
            .into_values()
            .find(|record| record.mac.eq_ignore_ascii_case(&mac)))
    }

    async fn create_vif(
        &self,
        vm: &Ref<Vm>,
        network: &NetworkInfo,
        device: &str,
        spec: &NicSpec,
        operation: &str,
    ) -> Result<Ref<Vif>> {
        let mut wanted = VifCreate::new(vm.clone(), network.reference.clone(), device);
        wanted.mtu = network.mtu;
        wanted.mac = spec.mac.map(|mac| mac.to_string()).unwrap_or_default();
        if let Some(rate) = spec.rate {
            wanted.qos_algorithm_type = "ratelimit".to_owned();
            wanted
                .qos_algorithm_params
                .insert("kbps".to_owned(), rate.to_string());
        }
        let (mode, ipv4, ipv6) = match &spec.locking {
            Locking::NetworkDefault => (None, Vec::new(), Vec::new()),
            Locking::Unlocked => (Some(VifLockingMode::Unlocked), Vec::new(), Vec::new()),
            Locking::Disabled => (Some(VifLockingMode::Disabled), Vec::new(), Vec::new()),
            Locking::Locked { ipv4, ipv6 } => (
                Some(VifLockingMode::Locked),
                ipv4.iter().map(ToString::to_string).collect(),
                ipv6.iter().map(ToString::to_string).collect(),
            ),
        };
        wanted.locking_mode = mode;
        wanted.ipv4_allowed = Some(ipv4);
        wanted.ipv6_allowed = Some(ipv6);
        match self.client.vif().create(&wanted).await {
            Ok(vif) => Ok(vif),
            Err(error) if is_unknown(&error) => {
                // The number was free before, so that an interface there now is the one.
                match self.vif_at(vm, device).await {
                    Some(vif) => Ok(vif),
                    None => Err(Error::pool(operation)(error)),
                }
            }
            Err(error) => Err(Error::pool(operation)(error)),
        }
    }

    async fn vif_at(&self, vm: &Ref<Vm>, device: &str) -> Option<Ref<Vif>> {
        for vif in self.client.vm().get_vifs(vm).await.ok()? {
            if self.client.vif().get_device(&vif).await.ok()? == device {
                return Some(vif);
            }
        }
        None
    }
}

fn describe(vif: &Ref<Vif>, record: VifRecord, there: &Inventory) -> NicInfo {
    let network = there
        .networks
        .get(&record.network)
        .map_or_else(String::new, |network| {
            if network.name_label.is_empty() {
                network.bridge.clone()
            } else {
                network.name_label.clone()
            }
        });
    NicInfo {
        reference: vif.clone(),
        vm: record.vm,
        uuid: record.uuid.to_string(),
        device: record.device,
        mac: record.mac,
        mac_generated: record.mac_autogenerated,
        network,
        network_reference: record.network,
        attached: record.currently_attached,
        mtu: record.mtu,
        locking: record.locking_mode.as_str().to_owned(),
        ipv4_allowed: record.ipv4_allowed,
        ipv6_allowed: record.ipv6_allowed,
    }
}

/// Checks everything at once and gives the number that the interface gets.
fn check(
    spec: &NicSpec,
    vm: &VmRecord,
    network: &NetworkInfo,
    free: &[String],
    taken: Option<VifRecord>,
    there: &Inventory,
) -> Result<String> {
    let mut problems = Problems(Vec::new());
    let name = &vm.name_label;
    let device = match spec.device {
        Some(device) => Some(device.to_string()),
        None => free.first().cloned(),
    };
    match &device {
        None => problems
            .0
            .push(format!("VM {name} has no room for another interface")),
        Some(device) if !free.contains(device) => problems.0.push(format!(
            "number {device} of VM {name} is taken or too high; free are: {}",
            free.join(", ")
        )),
        Some(_) => {}
    }
    if let Some(owner) = taken {
        problems.0.push(format!(
            "interface {} of another VM or this one has the MAC address {} already",
            owner.device, owner.mac
        ));
    }
    if spec.rate == Some(0) {
        problems
            .0
            .push("a rate of 0 lets nothing through; leave it out for no limit".into());
    }
    problems.0.extend(unreached(vm, network, there));
    problems.into_result()?;
    Ok(device.unwrap_or_default())
}

/// Says so if the host of a running VM does not reach a network.
fn unreached(vm: &VmRecord, network: &NetworkInfo, there: &Inventory) -> Option<String> {
    let running = vm.power_state == VmPowerState::Running;
    (running && !network.reaches(&vm.resident_on)).then(|| {
        format!(
            "VM {} runs on host {}, which does not reach network {network}; move the VM or choose \
             another network",
            vm.name_label,
            there.host_name(&vm.resident_on)
        )
    })
}
