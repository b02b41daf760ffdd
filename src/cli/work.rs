//! A program run in a VM, with its rocks and files: what `bioxen run`, `exec`, `shell` and `replay` have in
//! common.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bioxen_curator::{Lock, PackageInstaller, RockRequest, RocksServer};
use bioxen_vm_core::{LuaVm, Returned, Script, Status, VmInfo};

use super::copies::Copies;
use super::ground::Ground;
use super::library::Library;
use super::streams::{Streams, exit_code};
use super::waiting::installing;
use super::{hints, servers};

/// What is to be done.
pub(super) struct Work {
    pub(super) script: Script,
    pub(super) stage: Stage,
}

/// What a VM is given before programs run in it, and what is taken out of it after them.
#[derive(Debug, clap::Args)]
pub(super) struct Needs {
    /// Install this rock first
    #[arg(
        long = "package",
        visible_alias = "rocks",
        short = 'p',
        value_name = "ROCK"
    )]
    packages: Vec<String>,

    /// Where rocks come from: a URL, a directory, a bundle, or `bioxen` for the rocks of this
    /// program, in order
    #[arg(long = "server", value_name = "SERVER", default_values = servers::DEFAULT)]
    servers: Vec<String>,

    #[command(flatten)]
    library: Library,

    /// Copy this file or folder into the VM first; programs start in the folder that relative paths
    /// are meant from
    #[arg(long, value_name = "LOCAL[:REMOTE]")]
    pub(super) put: Vec<String>,

    /// Copy this file or folder out of the VM in the end, when all went well
    #[arg(long, value_name = "REMOTE[:LOCAL]")]
    pub(super) get: Vec<String>,
}

impl Needs {
    pub(super) fn stage(self) -> Stage {
        Stage {
            rocks: Rocks::Named(self.packages),
            servers: self.servers,
            library: self.library,
            put: self.put,
            get: self.get,
        }
    }
}

/// The same, from the command line or from a record.
pub(super) struct Stage {
    pub(super) rocks: Rocks,
    /// Where rocks come from, as the user writes it.
    pub(super) servers: Vec<String>,
    /// The rocks that programs find.
    pub(super) library: Library,
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

impl Rocks {
    fn names(&self) -> Vec<&str> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        match self {
            // A request is a name and versions.
            Self::Named(requests) => requests
                .iter()
                .filter_map(|text| text.split(|c| !is_part(c)).find(|part| !part.is_empty()))
                .collect(),
            Self::Locked(lock) => lock.rocks.iter().map(|rock| rock.name.as_str()).collect(),
        }
    }
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
        let servers = self.stage.servers()?;
        let begun = Instant::now();
        let vm = ground.enter("run").await?;
        if let Some(trace) = &mut trace {
            trace.times.vm = begun.elapsed();
            trace.vm = Some(vm.info().await?);
        }
        let begun = Instant::now();
        let locks = trace.is_some();
        let lock = self.stage.install(ground, &*vm, servers, locks).await?;
        if let Some(trace) = &mut trace {
            trace.times.rocks = begun.elapsed();
            trace.lock = lock;
        }
        let copies = self.stage.copies(&*vm).await?;
        copies.put().await?;
        let mut script = self.script;
        for (name, value) in self.stage.library.variables(ground, &*vm).await? {
            script = script.with_env(name, value);
        }
        if let Some(trace) = &mut trace {
            trace.program_began = Some(Instant::now());
        }
        let (id, manager) = (vm.id().as_str(), &ground.manager);
        let arguments = script.args.clone();
        let outcome = manager.execute_streaming(id, script, streams).await?;
        if let Some(end) = streams.failure() {
            return end;
        }
        let (place, said) = (self.stage.place(ground), streams.last_errors());
        hints::after(&*vm, &place, &arguments, outcome.status, said).await;
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
}

impl Stage {
    /// Where rocks come from, for whoever wants to know before a VM is made for nothing.
    pub(super) fn servers(&self) -> anyhow::Result<Vec<RocksServer>> {
        match self.installs() {
            true => servers::servers(&self.servers),
            false => Ok(Vec::new()),
        }
    }

    pub(super) async fn copies(&self, vm: &dyn LuaVm) -> anyhow::Result<Copies<'_>> {
        Copies::new(&self.put, &self.get, vm).await
    }

    pub(super) fn place<'a>(&'a self, ground: &'a Ground) -> hints::Place<'a> {
        hints::Place {
            rocks: self.rocks.names(),
            existing: ground.existing.as_deref(),
        }
    }

    /// Installs the rocks, and gives their lock where they have one or it is asked for.
    pub(super) async fn install(
        &self,
        ground: &Ground,
        vm: &dyn LuaVm,
        servers: Vec<RocksServer>,
        locks: bool,
    ) -> anyhow::Result<Option<Lock>> {
        if !self.installs() {
            return Ok(None);
        }
        let installer = PackageInstaller::new(Arc::clone(&ground.manager)).with_servers(servers);
        let (id, vm_type) = (vm.id().as_str(), ground.vm_type.as_str());
        let curator = self
            .library
            .curator(installer.curator(id, vm_type).await?)?;
        let install = async {
            Ok(match &self.rocks {
                Rocks::Named(names) if locks => {
                    let requests: Vec<RockRequest> = names
                        .iter()
                        .map(|name| name.parse())
                        .collect::<Result<_, _>>()?;
                    let lock = curator.lock(&requests).await?;
                    curator.install_locked(&lock).await?;
                    Some(lock)
                }
                Rocks::Named(names) => {
                    for name in names {
                        curator.install_package(name).await?;
                    }
                    None
                }
                Rocks::Locked(lock) => {
                    curator.install_locked(lock).await?;
                    Some((**lock).clone())
                }
            })
        };
        installing(&curator, install).await
    }

    /// Whether rocks are to be installed in the VM.
    pub(super) fn installs(&self) -> bool {
        !matches!(&self.rocks, Rocks::Named(names) if names.is_empty())
    }
}
