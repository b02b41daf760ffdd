//! Packages of VMs, by the id of the VM.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bioxen_vm_core::{LuaVm, VmId, VmManager};
use tokio::sync::Mutex;

use crate::curator::DEFAULT_TIMEOUT;
use crate::{Builds, Cache, Curator, Error, InstallReport, Result, RocksServer};

/// Installs packages in the VMs of a manager.
///
/// The manager is given by reference or as an `Arc<VmManager>`.
pub struct PackageInstaller<M> {
    manager: M,
    servers: Vec<RocksServer>,
    timeout: Duration,
    cache: Option<Cache>,
    builds: Option<Builds>,
    turns: std::sync::Mutex<HashMap<VmId, Arc<Mutex<()>>>>,
}

impl<M: Borrow<VmManager>> PackageInstaller<M> {
    /// Makes an installer that asks the servers that each VM's LuaRocks is set up with.
    pub fn new(manager: M) -> Self {
        Self {
            manager,
            servers: Vec::new(),
            timeout: DEFAULT_TIMEOUT,
            cache: None,
            builds: None,
            turns: std::sync::Mutex::default(),
        }
    }

    /// Asks these servers, in this order, and no others.
    #[must_use]
    pub fn with_servers(mut self, servers: impl IntoIterator<Item = RocksServer>) -> Self {
        self.servers = servers.into_iter().collect();
        self
    }

    /// Limits the time of each installation; 10 minutes by default.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Downloads on this machine, once for all VMs, and keeps what was downloaded.
    #[must_use]
    pub fn with_cache(mut self, cache: Cache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Lets VMs of one kind build a set of rocks once; see [`Builds`] for whom that trusts.
    #[must_use]
    pub fn with_builds(mut self, builds: Builds) -> Self {
        self.builds = Some(builds);
        self
    }

    /// Installs a package, written as in a rockspec (`lpeg`, `lpeg >= 1.0`), in the VM of this id,
    /// which has to be of this type.
    ///
    /// # Errors
    /// Fails with [`Error::Vm`] when there is no such VM or it has no packages, with
    /// [`Error::VmType`] when it is of another type, and as [`Curator::install`].
    ///
    /// # Cancel safety
    /// As [`Curator::install`].
    pub async fn install_package_in_vm(
        &self,
        name: &str,
        vm_id: &str,
        vm_type: &str,
    ) -> Result<InstallReport> {
        self.curator(vm_id, vm_type)
            .await?
            .install_package(name)
            .await
    }

    /// The curator of the VM of this id, which has to be of this type.
    ///
    /// # Errors
    /// Fails with [`Error::Vm`] and [`Error::VmType`].
    pub async fn curator(&self, vm_id: &str, vm_type: &str) -> Result<Curator> {
        let manager: &VmManager = self.manager.borrow();
        let vm = manager.vm(vm_id).map_err(|source| Error::Vm {
            vm: vm_id.to_owned(),
            source: Box::new(source),
        })?;
        if vm.vm_type() != vm_type {
            return Err(Error::VmType {
                vm: vm_id.to_owned(),
                wanted: vm_type.to_owned(),
                actual: vm.vm_type().to_owned(),
            });
        }
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(vm.id().clone()).or_default())
        };
        let mut curator = vm
            .curator()
            .await?
            .with_servers(self.servers.clone())
            .with_timeout(self.timeout)
            .with_turn(turn);
        curator.cache.clone_from(&self.cache);
        curator.builds.clone_from(&self.builds);
        Ok(curator)
    }
}

impl<M> fmt::Debug for PackageInstaller<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackageInstaller")
            .field("servers", &self.servers)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Packages of a VM: `vm.install_package("lpeg")`.
#[async_trait]
pub trait LuaVmPackages {
    /// The curator of this VM's packages, to which servers and a time can be given.
    ///
    /// # Errors
    /// Fails with [`Error::Vm`] when the VM has no packages or cannot be reached.
    async fn curator(&self) -> Result<Curator>;

    /// Installs a package, written as in a rockspec, from the servers that the VM's LuaRocks is
    /// set up with.
    ///
    /// # Errors
    /// As [`curator`](Self::curator) and [`Curator::install`].
    ///
    /// # Cancel safety
    /// As [`Curator::install`].
    async fn install_package(&self, request: &str) -> Result<InstallReport>;
}

#[async_trait]
impl<V: LuaVm + ?Sized> LuaVmPackages for V {
    async fn curator(&self) -> Result<Curator> {
        let site = self.package_site().await.map_err(|source| Error::Vm {
            vm: self.id().to_string(),
            source: Box::new(source),
        })?;
        Ok(Curator::new(site))
    }

    async fn install_package(&self, request: &str) -> Result<InstallReport> {
        self.curator().await?.install_package(request).await
    }
}
