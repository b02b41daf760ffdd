//! One thing to do in one VM: make it ready, run a program in it, keep what came out.

use std::fmt;
use std::io::{self, Read as _, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bioxen_curator::{Cache, Lock, LuaVmPackages as _, RockRequest, RocksServer};
use bioxen_vm_core::files::Files;
use bioxen_vm_core::{
    Error, ErrorKind, LuaValue, LuaVm, OutputSink, OutputStream, Result, Returned, Script, Status,
    Value, VmManager,
};
use bytes::Bytes;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{OnceCell, broadcast};

use super::crew::{Task, with_causes};
use super::events::{MapEvent, VmTimes};
use super::feed::{self, Fed, feed, left};
use super::folder::{Folder, unusable};
use super::split::{Table, unreadable};
use crate::sums::Sum;

/// How much of what a program writes on standard error is kept: the last 8 KiB.
const SAID: usize = 8 << 10;

/// Reads the results of the shards and runs the reduce program on them.
const REDUCE: &str = include_str!("reduce.lua");

/// What all VMs of a run share.
pub(super) struct Job {
    pub(super) manager: Arc<VmManager>,
    pub(super) vm_type: String,
    pub(super) config: Value,
    /// What the ids of the VMs begin with.
    pub(super) name: String,
    pub(super) rocks: Rocks,
    /// Files of this machine and where they go.
    pub(super) files: Vec<(PathBuf, String)>,
    pub(super) program: Script,
    pub(super) reduce: Option<Script>,
    pub(super) table: Arc<Table>,
    pub(super) folder: Arc<Folder>,
    pub(super) events: broadcast::Sender<MapEvent>,
    /// How many shards are done.
    pub(super) done: AtomicUsize,
}

/// The rocks of the VMs, the same in all.
pub(super) struct Rocks {
    pub(super) requests: Vec<RockRequest>,
    /// Given, or made by the first VM that is ready.
    pub(super) lock: OnceCell<Lock>,
    pub(super) servers: Vec<RocksServer>,
    pub(super) cache: Option<Cache>,
}

/// Why something was not done.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// The program failed; how, and what it said.
    Program(String),
    /// The VM failed, or nobody knows.
    Vm(Error),
    /// It would fail in any VM.
    Final(Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(reason) => f.write_str(reason),
            Self::Vm(error) | Self::Final(error) => f.write_str(&with_causes(error)),
        }
    }
}

impl Failure {
    /// The error of a run that ends with this.
    pub(super) fn into_error(self, task: Task, vms: &[String]) -> Error {
        let what = match task.shard() {
            Some(number) => format!("the program on shard {number}"),
            None => "the reduce program".to_owned(),
        };
        let tried = vms.join(", ");
        match self {
            Self::Program(reason) => Error::new(
                ErrorKind::Config,
                format!("{what} failed (tried in {tried}): {reason}"),
            ),
            Self::Vm(error) => Error::new(
                error.kind(),
                format!("{what} could not be run (tried in {tried})"),
            )
            .with_source(error),
            Self::Final(error) => error,
        }
    }
}

/// Something that went wrong on this machine goes wrong in every VM.
fn here(error: Error) -> Failure {
    Failure::Final(error)
}

impl Job {
    pub(super) fn tell(&self, event: MapEvent) {
        // Nobody may be listening.
        let _ = self.events.send(event);
    }

    pub(super) fn tell_finished(&self, shard: usize, vm: &str, took: Duration) {
        let done = self.done.fetch_add(1, Ordering::AcqRel) + 1;
        self.tell(MapEvent::Finished {
            shard,
            vm: vm.to_owned(),
            done,
            of: self.table.shards.len(),
            took,
        });
    }

    /// Makes a VM with its rocks and files.
    pub(super) async fn make(&self, id: &str, times: &mut VmTimes) -> Result<Arc<dyn LuaVm>> {
        let begun = Instant::now();
        let config = self.config.clone();
        let made = self.manager.create_vm(id, &self.vm_type, config).await;
        let made_in = begun.elapsed();
        times.make += made_in;
        let vm = made?;
        let staged = self.stage(&*vm).await;
        times.stage += begun.elapsed() - made_in;
        staged.map_err(|error| error.with_vm(id))?;
        self.tell(MapEvent::Ready {
            vm: id.to_owned(),
            took: begun.elapsed(),
        });
        Ok(vm)
    }

    async fn stage(&self, vm: &dyn LuaVm) -> Result<()> {
        self.rocks
            .install(vm, &self.folder)
            .await
            .map_err(|error| {
                let message = "the rocks of the run cannot be installed";
                Error::new(ErrorKind::Unavailable, message).with_source(error)
            })?;
        if !self.files.is_empty() {
            let files = Files::of(vm).await?;
            for (local, remote) in &self.files {
                files.put(local, remote.as_ref()).await?;
            }
        }
        Ok(())
    }

    /// Removes a VM, also one that was only half made. What cannot be removed stays with the manager.
    pub(super) async fn remove(&self, id: &str) {
        match self.manager.remove_vm(id).await {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(vm = id, %error, "a VM could not be removed yet");
            }
            _ => {}
        }
    }

    /// Runs a program and keeps its results in the folder.
    pub(super) async fn execute(
        &self,
        task: Task,
        vm: &dyn LuaVm,
        times: &mut VmTimes,
    ) -> Result<(), Failure> {
        let (script, fed) = self.script(task);
        let index = self.index(task);
        let mut store = Store::create(&self.folder, index).await.map_err(here)?;
        let begun = Instant::now();
        let (id, manager) = (vm.id().as_str(), &self.manager);
        let outcome = manager.execute_streaming(id, script, &mut store).await;
        let ran = begun.elapsed();
        // Tells first whether the program got what it should have.
        let feeding = fed.end().await.map_err(here)?;
        let (output, said, storing) = store.finish().await.map_err(here)?;
        let outcome = outcome.map_err(|error| match error.kind() {
            ErrorKind::Config | ErrorKind::Unsupported => Failure::Final(error),
            _ => Failure::Vm(error),
        })?;
        if outcome.status != Status::Exited(0) {
            let said = said.trim_end();
            let said = if said.is_empty() {
                "it said nothing"
            } else {
                said
            };
            return Err(Failure::Program(format!("{}: {said}", outcome.status)));
        }
        let value = match outcome.returned {
            Returned::Nothing => LuaValue::Nil,
            Returned::Values(values) => values.into_iter().next().unwrap_or(LuaValue::Nil),
            other => {
                let reason = match other {
                    Returned::NotData(reason) => reason,
                    _ => "something unknown".to_owned(),
                };
                let reason = format!("it returned {reason}, which is no data");
                return Err(Failure::Program(reason));
            }
        };
        if !said.is_empty() {
            self.tell(MapEvent::Said {
                shard: task.shard(),
                text: said,
            });
        }
        let vm = vm.id().as_str();
        let keeping = Instant::now();
        self.folder.keep(index, output, &value, vm).map_err(here)?;
        if task.shard().is_some() {
            times.run += ran;
            times.transfer += feeding + storing + keeping.elapsed();
        }
        Ok(())
    }

    /// The place of results in the folder. Those of the reduce program are behind all shards.
    fn index(&self, task: Task) -> usize {
        match task {
            Task::Shard(index) => index,
            Task::Reduce => self.table.shards.len(),
        }
    }

    fn script(&self, task: Task) -> (Script, Fed) {
        match task {
            Task::Reduce => self.reduce_script(),
            Task::Shard(index) => {
                let shard = &self.table.shards[index];
                let (stream, fed) = feed::shard(&self.table, index);
                let mut script = self.program.clone();
                let numbers = [
                    index as u64 + 1,
                    self.table.shards.len() as u64,
                    shard.first,
                ];
                let numbers = numbers.map(|number| Bytes::from(number.to_string()));
                script.args.splice(0..0, numbers);
                (
                    script.with_stdin(bioxen_vm_core::Input::stream(stream)),
                    fed,
                )
            }
        }
    }

    fn reduce_script(&self) -> (Script, Fed) {
        let (folder, shards) = (Arc::clone(&self.folder), self.table.shards.len());
        let (stream, fed) = feed(move |to| write_results(&folder, shards, to));
        // A run without one does not ask for it.
        let mut script = self.reduce.clone().unwrap_or_else(|| Script::new(""));
        let program = std::mem::replace(&mut script.code, Bytes::from_static(REDUCE.as_bytes()));
        let name = Bytes::from(script.name.clone());
        script.args.splice(0..0, [program, name]);
        (
            script.with_stdin(bioxen_vm_core::Input::stream(stream)),
            fed,
        )
    }
}

/// Writes the results of all shards in the form that `reduce.lua` reads.
fn write_results(folder: &Folder, shards: usize, to: &mut dyn Write) -> Result<()> {
    for shard in 0..shards {
        let value = folder.encoded(shard)?;
        let path = folder.output(shard);
        let cannot = |error| unreadable(&path, error);
        let output = std::fs::File::open(&path).map_err(cannot)?;
        let length = output.metadata().map_err(cannot)?.len();
        let header = format!("{} {} {length}\n", shard + 1, value.len());
        to.write_all(header.as_bytes()).map_err(left)?;
        to.write_all(&value).map_err(left)?;
        io::copy(&mut output.take(length), to).map_err(left)?;
    }
    Ok(())
}

impl Rocks {
    async fn install(&self, vm: &dyn LuaVm, folder: &Folder) -> bioxen_curator::Result<()> {
        if self.requests.is_empty() && !self.lock.initialized() {
            return Ok(());
        }
        let mut curator = vm.curator().await?.with_servers(self.servers.clone());
        if let Some(cache) = &self.cache {
            curator = curator.with_cache(cache.clone());
        }
        let decide = || async {
            let lock = curator.lock(&self.requests).await?;
            lock.write(folder.path().join(super::LOCK))?;
            Ok(lock)
        };
        let lock: bioxen_curator::Result<&Lock> = self.lock.get_or_try_init(decide).await;
        curator.install_locked(lock?).await.map(drop)
    }
}

/// Writes what a program writes to a file, and keeps the end of what it says.
struct Store {
    path: PathBuf,
    file: File,
    sum: Sum,
    said: Vec<u8>,
    took: Duration,
    failed: Option<io::Error>,
}

impl Store {
    async fn create(folder: &Folder, index: usize) -> Result<Self> {
        let path = folder.part(index);
        match File::create(&path).await {
            Ok(file) => Ok(Self {
                path,
                file,
                sum: Sum::default(),
                said: Vec::new(),
                took: Duration::ZERO,
                failed: None,
            }),
            Err(error) => Err(unusable(&path, error)),
        }
    }

    /// The SHA-256 of the output, what was said, and the time that writing took.
    async fn finish(mut self) -> Result<(String, String, Duration)> {
        let failed = match self.failed.take() {
            Some(error) => Some(error),
            None => self.file.sync_all().await.err(),
        };
        match failed {
            Some(error) => Err(unusable(&self.path, error)),
            None => Ok((
                self.sum.sha256(),
                String::from_utf8_lossy(&self.said).into_owned(),
                self.took,
            )),
        }
    }
}

#[async_trait]
impl OutputSink for Store {
    async fn write(&mut self, stream: OutputStream, piece: Bytes) -> ControlFlow<()> {
        if stream == OutputStream::Stderr {
            self.said.extend_from_slice(&piece);
            let extra = self.said.len().saturating_sub(SAID);
            self.said.drain(..extra);
            return ControlFlow::Continue(());
        }
        let begun = Instant::now();
        self.sum.add(&piece);
        let written = self.file.write_all(&piece).await;
        self.took += begun.elapsed();
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }
}
