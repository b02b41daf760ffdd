mod cluster;
mod execution;
mod observe;
mod prometheus;
mod sessions;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::{Backend, Error, ErrorKind, LuaVm, Result, Session, VmFactory, VmId, VmInfo};

pub use cluster::gather;
pub use execution::{Execution, ExecutionStatus};
use observe::Observed;
pub use observe::{Happening, ManagerStats, Totals, VmEvent, VmEvents};

/// How many programs a broadcast runs at once, and how many VMs of a cluster are made at once,
/// unless the manager is told otherwise.
const MAX_WORKERS: usize = 10;

/// How long the end of a VM is awaited by `shutdown_all`, unless the manager is told otherwise.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(300);

/// Owns VMs of all types under their ids.
///
/// It opens one backend per type and configuration, when the first VM asks for it. Call
/// [`shutdown_all`](Self::shutdown_all) at the end: a dropped manager leaves its VMs to the
/// clean-up of their types.
#[derive(Debug)]
pub struct VmManager {
    factory: VmFactory,
    injected: HashMap<&'static str, Arc<dyn Backend>>,
    opened: Mutex<Vec<Opened>>,
    vms: Mutex<HashMap<VmId, Slot>>,
    sessions: Mutex<Vec<(VmId, Session)>>,
    observed: Arc<Observed>,
    max_workers: usize,
    shutdown_limit: Duration,
}

struct Opened {
    vm_type: String,
    config: Value,
    backend: Arc<dyn Backend>,
}

#[derive(Debug)]
enum Slot {
    /// The id is taken while the VM is being made.
    Creating,
    /// It was made and is being started, or its start was given up. Either way it has to be
    /// destroyed in the end.
    Starting(Arc<dyn LuaVm>),
    Ready(Arc<dyn LuaVm>),
    /// It outlives the manager.
    Kept(Arc<dyn LuaVm>),
}

impl VmManager {
    /// Makes a manager for the types of a factory.
    #[must_use]
    pub fn new(factory: VmFactory) -> Self {
        Self {
            factory,
            injected: HashMap::new(),
            opened: Mutex::default(),
            vms: Mutex::default(),
            sessions: Mutex::default(),
            observed: Arc::default(),
            max_workers: MAX_WORKERS,
            shutdown_limit: SHUTDOWN_LIMIT,
        }
    }

    /// Lets a broadcast run this many programs, and a cluster be made of this many VMs, at once; 10
    /// by default.
    #[must_use]
    pub fn with_max_workers(mut self, max_workers: usize) -> Self {
        self.max_workers = max_workers.max(1);
        self
    }

    /// Lets [`shutdown_all`](Self::shutdown_all) wait this long for the end of the VMs; 5 minutes by
    /// default.
    #[must_use]
    pub fn with_shutdown_limit(mut self, limit: Duration) -> Self {
        self.shutdown_limit = limit;
        self
    }

    /// Sees what happens to the VMs from now on.
    #[must_use]
    pub fn subscribe(&self) -> VmEvents {
        self.observed.subscribe()
    }

    /// Numbers of this moment.
    #[must_use]
    pub fn stats(&self) -> ManagerStats {
        let mut stats = ManagerStats::default();
        for vm in self.vms() {
            stats.total_vms += 1;
            *stats
                .vms_by_type
                .entry(vm.vm_type().to_owned())
                .or_default() += 1;
        }
        for (_, session) in self.living_sessions().iter() {
            stats.interactive_sessions += 1;
            stats.attached_sessions += usize::from(session.attached() > 0);
        }
        (stats.running_operations, stats.completed_operations) = self.observed.operations();
        stats.max_workers = self.max_workers;
        stats.totals = self.observed.totals();
        stats
    }

    /// What is known of a VM.
    ///
    /// # Errors
    /// As [`vm`](Self::vm) and [`LuaVm::info`].
    pub async fn info(&self, id: &str) -> Result<VmInfo> {
        self.vm(id)?.info().await
    }

    /// Uses this backend for its type, whatever configuration a VM is created with. The manager
    /// closes it in [`shutdown_all`](Self::shutdown_all).
    #[must_use]
    pub fn with_backend(mut self, backend: Arc<dyn Backend>) -> Self {
        self.injected.insert(backend.vm_type(), backend);
        self
    }

    /// Makes a VM and starts it.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::AlreadyExists`] when the id is taken, with
    /// [`ErrorKind::Unsupported`] when the type is unknown, and otherwise as
    /// [`Backend::create`] and [`LuaVm::start`]; then the VM is destroyed again.
    ///
    /// # Cancel safety
    /// Nothing of the VM is forgotten after a dropped future: until it was made, its backend removes
    /// what there is; a VM that was being started stays with the manager, which
    /// [`remove_vm`](Self::remove_vm) and [`shutdown_all`](Self::shutdown_all) destroy.
    pub async fn create_vm(
        &self,
        id: impl Into<String>,
        vm_type: &str,
        config: Value,
    ) -> Result<Arc<dyn LuaVm>> {
        let id = VmId::new(id)?;
        let mut reservation = self.reserve(&id)?;
        self.observed.tell(&id, Happening::Creating);
        let result = self.make(&id, vm_type, config, &mut reservation).await;
        self.tell_made(&id, &result);
        result
    }

    fn tell_made(&self, id: &VmId, made: &Result<Arc<dyn LuaVm>>) {
        self.observed.tell(
            id,
            match made {
                Ok(_) => Happening::Ready,
                Err(error) => Happening::Failed(error.to_string()),
            },
        );
    }

    /// Takes over a VM that exists and lets it be as it is: see [`Backend::adopt`]. It stays when
    /// the manager ends; only [`remove_vm`](Self::remove_vm) destroys it.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::AlreadyExists`] when the id is taken, and as [`Backend::adopt`].
    pub async fn adopt_vm(
        &self,
        id: impl Into<String>,
        vm_type: &str,
        which: &str,
        config: Value,
    ) -> Result<Arc<dyn LuaVm>> {
        let id = VmId::new(id)?;
        let mut reservation = self.reserve(&id)?;
        let backend = self.backend(vm_type, config)?;
        let adopted = backend.adopt(id.clone(), which).await;
        let vm = adopted.map_err(|error| error.with_operation("find it").with_vm(&id))?;
        reservation.keep(Slot::Kept(Arc::clone(&vm)));
        self.observed.tell(&id, Happening::Ready);
        Ok(vm)
    }

    /// Makes another VM that has on its disks what a VM has now, and starts it: see
    /// [`LuaVm::clone_vm`].
    ///
    /// # Errors
    /// Fails as [`vm`](Self::vm), with [`ErrorKind::AlreadyExists`] when the new id is taken, and
    /// as [`LuaVm::clone_vm`] and [`LuaVm::start`]; then the new VM is destroyed again.
    ///
    /// # Cancel safety
    /// As [`create_vm`](Self::create_vm).
    pub async fn clone_vm(&self, id: &str, new: impl Into<String>) -> Result<Arc<dyn LuaVm>> {
        let source = self.vm(id)?;
        let new = VmId::new(new)?;
        let mut reservation = self.reserve(&new)?;
        self.observed.tell(&new, Happening::Creating);
        let made = match source.clone_vm(new.clone()).await {
            Ok(vm) => self.start_made(&new, vm, &mut reservation).await,
            Err(error) => Err(error),
        };
        self.tell_made(&new, &made);
        made
    }

    /// Lets a VM outlive the manager: see [`LuaVm::keep`].
    ///
    /// # Errors
    /// As [`vm`](Self::vm) and [`LuaVm::keep`].
    pub async fn keep_vm(&self, id: &str) -> Result<()> {
        let vm = self.vm(id)?;
        vm.keep().await?;
        if let Some(slot) = lock(&self.vms).get_mut(vm.id()) {
            *slot = Slot::Kept(Arc::clone(&vm));
        }
        Ok(())
    }

    async fn make(
        &self,
        id: &VmId,
        vm_type: &str,
        config: Value,
        reservation: &mut Reservation<'_>,
    ) -> Result<Arc<dyn LuaVm>> {
        let backend = self.backend(vm_type, config)?;
        let vm = backend
            .create(id.clone())
            .await
            .map_err(|error| error.with_operation("create").with_vm(id))?;
        self.start_made(id, vm, reservation).await
    }

    /// Starts a VM that was just made, and destroys it again when that fails.
    async fn start_made(
        &self,
        id: &VmId,
        vm: Arc<dyn LuaVm>,
        reservation: &mut Reservation<'_>,
    ) -> Result<Arc<dyn LuaVm>> {
        reservation.keep(Slot::Starting(Arc::clone(&vm)));
        if let Err(error) = vm.start().await {
            match vm.destroy().await {
                Ok(()) => reservation.kept = false,
                Err(left) => {
                    tracing::warn!(vm = %id, error = %left, "a VM that did not start is left behind");
                }
            }
            return Err(error.with_operation("start").with_vm(id));
        }
        reservation.keep(Slot::Ready(Arc::clone(&vm)));
        Ok(vm)
    }

    /// The VM of this id.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::NotFound`] when there is none, or when it is still being made.
    pub fn vm(&self, id: &str) -> Result<Arc<dyn LuaVm>> {
        let vms = lock(&self.vms);
        let slot = VmId::new(id).ok().and_then(|id| vms.get(&id));
        match slot {
            Some(Slot::Ready(vm) | Slot::Kept(vm)) => Ok(Arc::clone(vm)),
            Some(Slot::Creating | Slot::Starting(_)) => {
                Err(Error::new(ErrorKind::NotFound, "it is still being made").with_vm(id))
            }
            None => {
                let known = names(&vms);
                Err(Error::new(
                    ErrorKind::NotFound,
                    format!("VM {id:?} not found; this manager has: {known}"),
                ))
            }
        }
    }

    /// All VMs that are ready, sorted by id.
    #[must_use]
    pub fn vms(&self) -> Vec<Arc<dyn LuaVm>> {
        let mut all: Vec<_> = lock(&self.vms)
            .values()
            .filter_map(|slot| match slot {
                Slot::Ready(vm) | Slot::Kept(vm) => Some(Arc::clone(vm)),
                Slot::Creating | Slot::Starting(_) => None,
            })
            .collect();
        all.sort_by(|a, b| a.id().cmp(b.id()));
        all
    }

    /// Destroys a VM and frees its id.
    ///
    /// # Errors
    /// As [`vm`](Self::vm) and [`LuaVm::destroy`]; after a failed destroy the manager keeps the VM.
    pub async fn remove_vm(&self, id: &str) -> Result<()> {
        let mut made = self.made(true).into_iter();
        let vm = match made.find(|vm| vm.id().as_str() == id) {
            Some(vm) => vm,
            None => self.vm(id)?,
        };
        vm.destroy().await?;
        self.forget(vm.id());
        Ok(())
    }

    /// Destroys all VMs but those that were kept or adopted, all at once, and closes the backends. Waits no longer than
    /// [`with_shutdown_limit`](Self::with_shutdown_limit) says, whatever runs in the VMs.
    ///
    /// # Errors
    /// Returns the first failure, after everything has been tried; the others are logged. What
    /// could not be destroyed stays with the manager, so that it can be tried again.
    pub async fn shutdown_all(&self) -> Result<()> {
        let limit = self.shutdown_limit;
        let destroying: Vec<_> = self
            .made(false)
            .into_iter()
            .map(|vm| {
                tokio::spawn(async move {
                    let end = tokio::time::timeout(limit, vm.destroy()).await;
                    (
                        vm.id().clone(),
                        end.unwrap_or_else(|_| Err(too_slow(limit))),
                    )
                })
            })
            .collect();
        let mut failures = Vec::new();
        for task in destroying {
            match task.await {
                Ok((id, Ok(()))) => self.forget(&id),
                Ok((id, Err(error))) => {
                    failures.push(error.with_operation("destroy").with_vm(id));
                }
                Err(error) => failures.push(
                    Error::new(ErrorKind::Internal, "a clean-up task ended early")
                        .with_source(error),
                ),
            }
        }
        let backends: Vec<_> = if failures.is_empty() {
            // What was kept lives on without us.
            lock(&self.vms).retain(|_, slot| !matches!(slot, Slot::Kept(_)));
            let opened = lock(&self.opened).drain(..).collect::<Vec<_>>();
            let opened = opened.into_iter().map(|opened| opened.backend);
            opened.chain(self.injected.values().cloned()).collect()
        } else {
            Vec::new()
        };
        for backend in backends {
            if let Err(error) = backend.close().await {
                failures.push(error);
            }
        }
        let mut failures = failures.into_iter();
        let first = failures.next();
        for error in failures {
            tracing::warn!(%error, "more went wrong while shutting down");
        }
        first.map_or(Ok(()), Err)
    }

    /// Gives back the id of a VM that was destroyed.
    fn forget(&self, id: &VmId) {
        lock(&self.vms).remove(id);
        lock(&self.sessions).retain(|(vm, _)| vm != id);
        self.observed.tell(id, Happening::Destroyed);
    }

    /// The ids of all VMs, in words.
    fn known(&self) -> String {
        names(&lock(&self.vms))
    }

    /// All VMs that exist, those that are not ready included, or of those the ones that end with the
    /// manager.
    fn made(&self, with_kept: bool) -> Vec<Arc<dyn LuaVm>> {
        let vms = lock(&self.vms);
        vms.values()
            .filter_map(|slot| match slot {
                Slot::Ready(vm) | Slot::Starting(vm) => Some(Arc::clone(vm)),
                Slot::Kept(vm) if with_kept => Some(Arc::clone(vm)),
                Slot::Kept(_) | Slot::Creating => None,
            })
            .collect()
    }

    fn reserve(&self, id: &VmId) -> Result<Reservation<'_>> {
        let mut vms = lock(&self.vms);
        if vms.contains_key(id) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                "a VM of this id exists already; remove it or choose another id",
            )
            .with_operation("create")
            .with_vm(id));
        }
        vms.insert(id.clone(), Slot::Creating);
        Ok(Reservation {
            manager: self,
            id: id.clone(),
            kept: false,
        })
    }

    fn backend(&self, vm_type: &str, config: Value) -> Result<Arc<dyn Backend>> {
        if let Some(backend) = self.injected.get(vm_type) {
            return Ok(Arc::clone(backend));
        }
        let mut all = lock(&self.opened);
        if let Some(known) = all
            .iter()
            .find(|o| o.vm_type == vm_type && o.config == config)
        {
            return Ok(Arc::clone(&known.backend));
        }
        let backend = self.factory.open(vm_type, config.clone())?;
        let opened = Opened {
            vm_type: vm_type.to_owned(),
            config,
            backend: Arc::clone(&backend),
        };
        all.push(opened);
        Ok(backend)
    }
}

/// Holds an id while its VM is being made, and gives it back unless a VM is kept under it.
struct Reservation<'m> {
    manager: &'m VmManager,
    id: VmId,
    kept: bool,
}

impl Reservation<'_> {
    fn keep(&mut self, slot: Slot) {
        lock(&self.manager.vms).insert(self.id.clone(), slot);
        self.kept = true;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.kept {
            lock(&self.manager.vms).remove(&self.id);
        }
    }
}

impl fmt::Debug for Opened {
    /// Leaves out the configuration, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("vm_type", &self.vm_type)
            .finish_non_exhaustive()
    }
}

fn names(vms: &HashMap<VmId, Slot>) -> String {
    let mut known: Vec<_> = vms.keys().map(VmId::as_str).collect();
    known.sort_unstable();
    if known.is_empty() {
        "none".into()
    } else {
        known.join(", ")
    }
}

fn too_slow(limit: Duration) -> Error {
    let message = format!("it was not gone within {} s; try again", limit.as_secs());
    Error::new(ErrorKind::Timeout, message)
}

/// Locks a mutex whose data stays valid wherever a holder panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
