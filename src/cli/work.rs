//! A program run in a VM, with its rocks and files: what `bioxen run`, `exec` and `replay` have in common.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bioxen_curator::{Lock, PackageInstaller, RockRequest, RocksServer};
use bioxen_vm_core::{LuaVm, Returned, Script, Status, VmInfo};

use super::copies::Copies;
use super::ground::Ground;
use super::streams::{Streams, exit_code};
use super::{hints, servers};

/// What is to be done.
pub(super) struct Work {
    pub(super) script: Script,
    pub(super) rocks: Rocks,
    /// Where rocks come from, as the user writes it.
    pub(super) servers: Vec<String>,
    pub(super) put: Vec<String>,
    pub(super) get: Vec<String>,
}

/// The rocks that a program needs.
pub(super) enum Rocks {
    /// Any that answer these requests.
    Named(Vec<String>),
    /// Exactly these.
    Locked(Box<Lock>),
}

/// What was done so far, for a record.
#[derive(Debug, Default)]
pub(super) struct Trace {
    pub(super) vm: Option<VmInfo>,
    pub(super) lock: Option<Lock>,
    /// How the program ended.
    pub(super) status: Option<Status>,
    pub(super) returned: Returned,
    /// When it began, if it did.
    pub(super) program_began: Option<Instant>,
    pub(super) times: Times,
}

/// How long each part took.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// Until the VM could run Lua.
    pub(super) vm: Duration,
    pub(super) rocks: Duration,
    pub(super) program: Duration,
}

impl Work {
    /// Does it. With a trace, rocks are locked before they are installed.
    pub(super) async fn perform(
        self,
        ground: &Ground,
        streams: &mut Streams,
        mut trace: Option<&mut Trace>,
    ) -> anyhow::Result<ExitCode> {
        let servers = match &self.rocks {
            Rocks::Named(names) if names.is_empty() => Vec::new(),
            // Before a VM is made for nothing.
            _ => servers::servers(&self.servers)?,
        };
        let begun = Instant::now();
        let vm = ground.enter("run").await?;
        if let Some(trace) = &mut trace {
            trace.times.vm = begun.elapsed();
            trace.vm = Some(vm.info().await?);
        }
        let begun = Instant::now();
        let lock = self.install(ground, &*vm, servers, trace.is_some()).await?;
        if let Some(trace) = &mut trace {
            trace.times.rocks = begun.elapsed();
            trace.lock = lock;
        }
        let copies = Copies::new(&self.put, &self.get, &*vm).await?;
        copies.put().await?;
        if let Some(trace) = &mut trace {
            trace.program_began = Some(Instant::now());
        }
        let (id, manager) = (vm.id().as_str(), &ground.manager);
        let arguments = self.script.args.clone();
        let outcome = manager.execute_streaming(id, self.script, streams).await?;
        if let Some(end) = streams.failure() {
            return end;
        }
        hints::after(&*vm, &arguments, outcome.status, streams.last_errors()).await;
        if let Some(trace) = &mut trace {
            trace.times.program = outcome.duration;
            trace.status = Some(outcome.status);
            trace.returned.clone_from(&outcome.returned);
        }
        if outcome.success() {
            copies.get().await?;
        }
        Ok(exit_code(outcome.status))
    }

    /// Installs the rocks, and gives their lock where they have one or it is asked for.
    async fn install(
        &self,
        ground: &Ground,
        vm: &dyn LuaVm,
        servers: Vec<RocksServer>,
        locks: bool,
    ) -> anyhow::Result<Option<Lock>> {
        let installer = PackageInstaller::new(Arc::clone(&ground.manager)).with_servers(servers);
        let (id, vm_type) = (vm.id().as_str(), ground.vm_type.as_str());
        Ok(match &self.rocks {
            Rocks::Named(names) if names.is_empty() => None,
            Rocks::Named(names) if locks => {
                let requests: Vec<RockRequest> = names
                    .iter()
                    .map(|name| name.parse())
                    .collect::<Result<_, _>>()?;
                let curator = installer.curator(id, vm_type).await?;
                let lock = curator.lock(&requests).await?;
                curator.install_locked(&lock).await?;
                Some(lock)
            }
            Rocks::Named(names) => {
                for name in names {
                    installer.install_package_in_vm(name, id, vm_type).await?;
                }
                None
            }
            Rocks::Locked(lock) => {
                let curator = installer.curator(id, vm_type).await?;
                curator.install_locked(lock).await?;
                Some((**lock).clone())
            }
        })
    }
}
