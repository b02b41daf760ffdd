//! VMs and their interfaces, as the pool has them.

use std::collections::BTreeMap;

use bioxen_vm_core::words::nearest_first;
use serde::Deserialize;
use xapi_client::api::{Host, Vif, VifRecord, Vm, VmPowerState};
use xapi_client::{Client, Ref};

use crate::error::Names;
use crate::marks::OWNER;
use crate::{Error, Result};

/// What BioXen calls the VMs that it makes, in their `other_config`.
const VM_ID: &str = "bioxen:vm-id";
/// The VM's own uuid there: what copies a VM copies its marks, and the copy is not ours.
const UUID: &str = "bioxen:uuid";
/// From which the pool derives the MAC addresses of a VM.
const MAC_SEED: &str = "mac_seed";

/// The VMs of a pool, and the interfaces of all that counts as a VM to the pool: templates and
/// snapshots have MAC addresses too.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    pub(crate) vms: BTreeMap<Ref<Vm>, Guest>,
    pub(crate) vifs: BTreeMap<Ref<Vif>, VifRecord>,
    /// The numbers that further interfaces can have, for those VMs that were asked about.
    pub(crate) free: BTreeMap<Ref<Vm>, Vec<String>>,
}

/// What matters here of a VM; whole records of a large pool are many megabytes.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Guest {
    pub(crate) uuid: String,
    pub(crate) name_label: String,
    pub(crate) power_state: VmPowerState,
    pub(crate) resident_on: Ref<Host>,
    /// A template, or a snapshot, which counts as one to the pool.
    #[serde(default)]
    pub(crate) is_a_template: bool,
    #[serde(default)]
    pub(crate) is_a_snapshot: bool,
    /// The VM that it is a snapshot of, which may be gone.
    #[serde(default)]
    pub(crate) snapshot_of: Ref<Vm>,
    #[serde(default)]
    is_control_domain: bool,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    other_config: BTreeMap<String, String>,
}

impl Guest {
    /// Whether the pool can derive MAC addresses for it.
    pub(crate) fn has_mac_seed(&self) -> bool {
        self.other_config.contains_key(MAC_SEED)
    }

    /// Whether BioXen made it, and it is no copy of such a one.
    pub(crate) fn is_ours(&self) -> bool {
        let is = |key, value: &str| self.other_config.get(key).is_some_and(|has| has == value);
        is(OWNER.0, OWNER.1) && is(UUID, &self.uuid)
    }

    /// The id that BioXen made it with.
    fn id(&self) -> Option<&String> {
        self.other_config.get(VM_ID).filter(|_| self.is_ours())
    }

    pub(crate) fn runs(&self) -> bool {
        self.power_state == VmPowerState::Running
    }

    fn is_called(&self, name: &str) -> bool {
        if self.is_a_snapshot || self.is_control_domain {
            return false;
        }
        match name.strip_prefix("tag:") {
            Some(tag) => self.tags.iter().any(|has| has == tag),
            None => {
                self.uuid == name
                    || self.name_label == name
                    || self.id().is_some_and(|id| id == name)
            }
        }
    }
}

impl Guests {
    pub(crate) async fn read(client: &Client) -> Result<Self> {
        let failed = || Error::pool("read the VMs of the pool and their interfaces");
        let vms = client.vm().get_all_records().select().await;
        let vifs = client.vif().get_all_records().await;
        Ok(Self {
            vms: vms.map_err(failed())?,
            vifs: vifs.map_err(failed())?,
            free: BTreeMap::new(),
        })
    }

    /// Asks which numbers further interfaces of a VM can have.
    pub(crate) async fn ask_for_room(&mut self, client: &Client, vm: &Ref<Vm>) -> Result<()> {
        if !self.free.contains_key(vm) {
            let free = client.vm().get_allowed_vif_devices(vm).await;
            let failed = Error::pool("read the free interfaces of the VM");
            self.free.insert(vm.clone(), free.map_err(failed)?);
        }
        Ok(())
    }

    /// The one VM that is meant: by uuid, name, the id that BioXen made it with, or `tag:NAME`.
    pub(crate) fn find(&self, name: &str) -> Result<&Ref<Vm>> {
        let found: Vec<_> = self
            .vms
            .iter()
            .filter(|(_, vm)| vm.is_called(name))
            .collect();
        match found.as_slice() {
            [(vm, _)] => Ok(vm),
            [] => Err(self.no_vm(name)),
            several => {
                let candidates = several
                    .iter()
                    .map(|(_, vm)| format!("{} (uuid {})", vm.name_label, vm.uuid));
                Err(Error::AmbiguousVm {
                    name: name.to_owned(),
                    candidates: Names(candidates.collect()),
                })
            }
        }
    }

    /// Says that there is no such VM, and which there are instead.
    pub(crate) fn no_vm(&self, name: &str) -> Error {
        let is_vm = |vm: &&Guest| !vm.is_a_template && !vm.is_control_domain;
        let vms = self.vms.values().filter(is_vm);
        let names = vms.map(|vm| vm.id().unwrap_or(&vm.name_label).as_str());
        let known = match nearest_first(name, names) {
            none if none.is_empty() => "the pool has none".to_owned(),
            names => format!("there are: {names}"),
        };
        let name = name.to_owned();
        Error::NoVm { name, known }
    }

    /// The interfaces of a VM.
    pub(crate) fn vifs_of<'g>(
        &'g self,
        vm: &'g Ref<Vm>,
    ) -> impl Iterator<Item = (&'g Ref<Vif>, &'g VifRecord)> {
        self.vifs.iter().filter(move |(_, vif)| vif.vm == *vm)
    }

    /// Whether an interface is of no VM but of a template or a snapshot.
    pub(crate) fn is_of_template(&self, vif: &Ref<Vif>) -> bool {
        let vm = self.vifs.get(vif).and_then(|vif| self.vms.get(&vif.vm));
        vm.is_some_and(|vm| vm.is_a_template)
    }

    /// Whether BioXen made a VM, or that of which it is a snapshot.
    pub(crate) fn is_of_ours(&self, vm: &Ref<Vm>) -> bool {
        let Some(guest) = self.vms.get(vm) else {
            return false;
        };
        match guest.is_a_snapshot {
            true => self.vms.get(&guest.snapshot_of).is_some_and(Guest::is_ours),
            false => guest.is_ours(),
        }
    }

    pub(crate) fn uuid(&self, vm: &Ref<Vm>) -> String {
        let guest = self.vms.get(vm);
        guest.map(|guest| guest.uuid.clone()).unwrap_or_default()
    }

    pub(crate) fn name(&self, vm: &Ref<Vm>) -> String {
        match self.vms.get(vm) {
            Some(guest) => guest.name_label.clone(),
            None => vm.as_str().to_owned(),
        }
    }
}
