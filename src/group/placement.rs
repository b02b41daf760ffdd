//! VMs of a private network run on one host: those of different hosts do not reach each other.

use std::collections::BTreeMap;

use bioxen_net::Networks;
use bioxen_vm_core::{Error, ErrorKind, Result};

use super::{State, VmGroup};

impl VmGroup {
    /// Whether the network leads to no cable, so that VMs of different hosts do not reach each other.
    pub(super) fn is_private(&self) -> bool {
        self.network
            .as_ref()
            .is_some_and(|spec| spec.vlan.is_none())
    }

    /// Lets all VMs run on one host if they can: of those that can run the first of them, the one with
    /// the most free memory.
    pub(super) async fn bring_together(&self, state: &State) -> Result<()> {
        let client = self.backend.client().await?;
        let networks = Networks::new(&client);
        let doing = |error| failed_on_pool("choose a host for the VMs", error);
        let mut chosen = None;
        for vm in state.vms.values() {
            let vm = self.on_pool(&networks, &**vm).await?;
            if chosen.is_none() {
                let possible = client.vm().get_possible_hosts(&vm).await.map_err(doing)?;
                let mut most = 0;
                for host in possible {
                    let free = client.host().compute_free_memory(&host).await;
                    let free = free.map_err(doing)?;
                    if free > most {
                        (most, chosen) = (free, Some(host));
                    }
                }
            }
            if let Some(host) = &chosen {
                client.vm().set_affinity(&vm, host).await.map_err(doing)?;
            }
        }
        Ok(())
    }

    /// Says so when VMs of a private network run on different hosts.
    pub(super) async fn check_together(&self, state: &State) -> Result<()> {
        let client = self.backend.client().await?;
        let networks = Networks::new(&client);
        let doing = |error| failed_on_pool("tell where the VMs run", error);
        let mut hosts = BTreeMap::new();
        for (id, vm) in &state.vms {
            let vm = self.on_pool(&networks, &**vm).await?;
            let host = client.vm().get_resident_on(&vm).await.map_err(doing)?;
            let name = client.host().get_name_label(&host).await.map_err(doing)?;
            hosts
                .entry(name)
                .or_insert_with(Vec::new)
                .push(id.to_string());
        }
        if hosts.len() < 2 {
            return Ok(());
        }
        let told = hosts
            .iter()
            .map(|(host, vms)| format!("{} on {host}", vms.join(", ")));
        Err(Error::new(
            ErrorKind::Exhausted,
            format!(
                "no host has room for all VMs of the group ({}), and on a private network those of \
                 different hosts do not reach each other; free memory on one, or use a VLAN",
                told.collect::<Vec<_>>().join("; ")
            ),
        ))
    }
}

fn failed_on_pool(what: &str, error: xapi_client::Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("cannot {what}")).with_source(error)
}
