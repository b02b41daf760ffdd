//! Programs over many records: an input is split by records, its shards run in several VMs of any
//! type, and the results are gathered in the order of the input.
//!
//! A program gets the records of its shard on standard input. Its arguments are the number of the
//! shard, how many shards there are, the number of the shard's first record (all from 1), and then
//! those that it was given. What it writes and the first value that it returns are its result.
//!
//! ```no_run
//! use std::sync::Arc;
//! use bioxen::map::{Format, Input, Map};
//! use bioxen::{Script, Value, VmManager};
//!
//! # async fn example() -> bioxen::Result<()> {
//! let manager = Arc::new(VmManager::new(bioxen::factory()));
//! let count = "local n = 0 for _ in io.lines() do n = n + 1 end return n";
//! let sum = "local results = ... local sum = 0
//!     for shard, value, output in results do sum = sum + value end
//!     return sum";
//! let map = Map::new(Script::new(count), Input::new(["reads.txt"], Format::Lines))
//!     .on("basic", Value::Null, 4)
//!     .with_reduce(Script::new(sum));
//! let result = map.run(&manager).await;
//! manager.shutdown_all().await?;
//! println!("{} lines", result?.value);
//! # Ok(())
//! # }
//! ```
//!
//! Nothing of the input or the results is held in memory but some pieces that are on their way: inputs
//! are read where the shards begin, outputs are written to the folder of the run. After a crash a run
//! in the same folder goes on where the last one was.

mod crew;
mod events;
mod feed;
mod folder;
mod gather;
mod job;
mod records;
mod split;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use bioxen_curator::{Cache, Lock, RockRequest, RocksServer};
use bioxen_vm_core::{Error, ErrorKind, LuaValue, Result, Script, Value, VmManager};
use tokio::sync::{OnceCell, broadcast};

use crate::sums::Sum;
use crew::{Crew, Task};
use folder::{Folder, Plan, Summed};
use job::{Job, Rocks};
use split::{Table, split, sum_of, unreadable};

pub use events::{MapEvent, Times, VmTimes};
pub use records::Format;
pub use split::{Input, Shards};

/// How many events may be told before a slow subscriber misses the oldest.
const EVENTS_KEPT: usize = 1024;

/// How many shards each VM gets unless their number or size is given: several, so that VMs that are
/// faster than others do more.
const SHARDS_FOR_EACH: u64 = 4;

/// Where the rocks of a run are recorded once they are decided.
const LOCK: &str = "rocks.lock";

/// A program that is to run over the records of an input.
#[derive(Debug, Clone)]
pub struct Map {
    program: Script,
    input: Input,
    shards: Option<Shards>,
    vm_type: String,
    config: Value,
    vms: usize,
    name: String,
    requests: Vec<RockRequest>,
    lock: Option<Lock>,
    servers: Vec<RocksServer>,
    cache: Option<Cache>,
    files: Vec<(PathBuf, String)>,
    reduce: Option<Script>,
    folder: Option<PathBuf>,
    resume: bool,
    events: broadcast::Sender<MapEvent>,
}

impl Map {
    /// Runs this program over these records, in one VM of type `basic` unless told otherwise. The
    /// script's own input is not used.
    #[must_use]
    pub fn new(program: Script, input: Input) -> Self {
        Self {
            program,
            input,
            shards: None,
            vm_type: "basic".to_owned(),
            config: Value::Null,
            vms: 1,
            name: "map".to_owned(),
            requests: Vec::new(),
            lock: None,
            servers: Vec::new(),
            cache: None,
            files: Vec::new(),
            reduce: None,
            folder: None,
            resume: false,
            events: broadcast::channel(EVENTS_KEPT).0,
        }
    }

    /// Uses so many VMs of this type and configuration. They are made for the run and removed after
    /// it; no more than there are shards.
    #[must_use]
    pub fn on(mut self, vm_type: impl Into<String>, config: Value, vms: usize) -> Self {
        self.vm_type = vm_type.into();
        self.config = config;
        self.vms = vms.max(1);
        self
    }

    /// Lets the ids of the VMs begin with this, `map` by default: `map-1`, and `map-1.2` for one that
    /// replaces it. Runs of one manager at the same time need different names.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Cuts the input like this. By default there are four shards for each VM, or, when a run goes
    /// on, those that it was begun with.
    #[must_use]
    pub fn with_shards(mut self, shards: Shards) -> Self {
        self.shards = Some(shards);
        self
    }

    /// Installs these rocks, and what they need, in every VM, from these servers. Which versions they
    /// are is decided once, and recorded in the folder as `rocks.lock`.
    #[must_use]
    pub fn with_rocks(
        mut self,
        requests: impl IntoIterator<Item = RockRequest>,
        servers: impl IntoIterator<Item = RocksServer>,
    ) -> Self {
        self.requests = requests.into_iter().collect();
        self.servers = servers.into_iter().collect();
        self
    }

    /// Installs exactly the rocks of this lock in every VM, in place of requested ones.
    #[must_use]
    pub fn with_lock(mut self, lock: Lock) -> Self {
        self.lock = Some(lock);
        self
    }

    /// Downloads rocks on this machine, once for all VMs.
    #[must_use]
    pub fn with_cache(mut self, cache: Cache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Copies a file of this machine into every VM before programs run there; a relative path is
    /// meant from where programs start. The folder that it goes to has to be there.
    #[must_use]
    pub fn with_file(mut self, local: impl Into<PathBuf>, remote: impl Into<String>) -> Self {
        self.files.push((local.into(), remote.into()));
        self
    }

    /// Gathers the results with this program, in one of the VMs. It gets an iterator before its
    /// arguments, which gives for every shard, in order, its number, the value that it returned and
    /// what it wrote: `for shard, value, output in results do ... end`. What it writes and returns
    /// is the result of the run.
    ///
    /// Without one, the result is what the shards wrote, each followed by a line of JSON when it
    /// returned a value, in order.
    #[must_use]
    pub fn with_reduce(mut self, program: Script) -> Self {
        self.reduce = Some(program);
        self
    }

    /// Keeps results in this folder, which is made if need be; with `resume` a run that was ended
    /// there goes on. By default results go with the [`Mapped`].
    #[must_use]
    pub fn in_folder(mut self, folder: impl Into<PathBuf>, resume: bool) -> Self {
        self.folder = Some(folder.into());
        self.resume = resume;
        self
    }

    /// Hears what goes on from now on. Whoever listens too slowly misses the oldest of 1024 events.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<MapEvent> {
        self.events.subscribe()
    }

    /// Does it all. VMs belong to the manager until the run removes them.
    ///
    /// A shard that fails is tried in another VM: three times where a VM broke, twice where the
    /// program ended with a failure. When it was tried in all VMs that there are, one of them is
    /// replaced for it. A VM that breaks is replaced, twice at most; one that cannot be made is left
    /// out.
    ///
    /// # Errors
    /// Fails before any VM is made when the input has no records, or one that is not whole (with
    /// file, record and line), and when the folder was begun with something else. Fails later when
    /// a shard failed too often or no VM is left; then all that is done stays in the folder.
    ///
    /// # Cancel safety
    /// Dropping the future ends all programs. The VMs stay with the manager, whose
    /// [`shutdown_all`](VmManager::shutdown_all) removes them; what is done stays in the folder.
    pub async fn run(&self, manager: &Arc<VmManager>) -> Result<Mapped> {
        let begun = Instant::now();
        self.program.validate()?;
        self.reduce.as_ref().map_or(Ok(()), Script::validate)?;
        let (map, tracing) = (self.clone(), tracing::Span::current());
        let preparing = tokio::task::spawn_blocking(move || tracing.in_scope(|| map.prepare()));
        let Prepared {
            mut folder,
            table,
            lock,
            waiting,
        } = joined(preparing.await)?;
        let _no_other_run = folder.take_lock();
        let mut times = Times {
            split: begun.elapsed(),
            ..Times::default()
        };
        let (shards, open) = (table.shards.len(), waiting.len());
        let job = Arc::new(Job {
            manager: Arc::clone(manager),
            vm_type: self.vm_type.clone(),
            config: self.config.clone(),
            name: self.name.clone(),
            rocks: Rocks {
                requests: self.requests.clone(),
                lock: OnceCell::new_with(lock),
                servers: self.servers.clone(),
                cache: self.cache.clone(),
            },
            files: self.files.clone(),
            program: self.program.clone(),
            reduce: self.reduce.clone(),
            table: Arc::new(table),
            folder: Arc::new(folder),
            events: self.events.clone(),
            done: AtomicUsize::new(shards - open),
        });
        job.tell(MapEvent::Split {
            shards,
            done: shards - open,
            records: job.table.records(),
            bytes: job.table.bytes(),
        });
        let wanted = open.max(usize::from(self.reduce.is_some()));
        let mut crew = Crew::start(&job, self.vms.min(wanted));
        let result = Box::pin(self.work(&mut crew, &job, waiting, begun, &mut times)).await;
        times.vms = crew.end().await;
        let value = result?;
        times.total = begun.elapsed();
        let table = serde_json::to_vec_pretty(&times).unwrap_or_default();
        job.folder.write_times(&table)?;
        Ok(Mapped {
            shards,
            resumed: shards - open,
            records: job.table.records(),
            result: job.folder.path().join(gather::RESULT),
            value,
            times,
            folder: Arc::clone(&job.folder),
        })
    }

    /// Everything that VMs are needed for, and the gathering.
    async fn work(
        &self,
        crew: &mut Crew,
        job: &Arc<Job>,
        waiting: BTreeSet<Task>,
        begun: Instant,
        times: &mut Times,
    ) -> Result<LuaValue> {
        crew.run(waiting).await?;
        let done = begun.elapsed();
        times.shards = done - times.split;
        job.tell(MapEvent::Gathering);
        let shards = job.table.shards.len();
        let results = match &self.reduce {
            Some(_) => {
                crew.run(BTreeSet::from([Task::Reduce])).await?;
                gather::Results::Reduced(shards)
            }
            None => gather::Results::OfShards(shards),
        };
        let folder = Arc::clone(&job.folder);
        let merging = tokio::task::spawn_blocking(move || {
            gather::merge(&folder, &results)?;
            Ok(folder)
        });
        let folder = joined(merging.await)?;
        times.gather = begun.elapsed() - done;
        match &self.reduce {
            Some(_) => folder.value(shards),
            None => Ok(LuaValue::Nil),
        }
    }

    /// What is done before any VM is made. Blocks.
    fn prepare(&self) -> Result<Prepared> {
        let folder = Folder::open(self.folder.as_deref())?;
        let mut before = folder.plan()?;
        match folder.done()? {
            // There is nothing that a run with another program could spoil.
            0 if !self.resume && before.take().is_some() => folder.forget()?,
            done if before.is_some() && !self.resume => {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!(
                        "{} has what a run has done ({done} shards); go on with it (--resume), or take \
                         another folder",
                        folder.path().display()
                    ),
                ));
            }
            _ => {}
        }
        let shards = self
            .shards
            .or_else(|| before.as_ref().map(|plan| plan.shards))
            .unwrap_or(Shards::Count(self.vms as u64 * SHARDS_FOR_EACH));
        let table = split(&self.input, shards, folder.path())?;
        let lock = match &self.lock {
            Some(lock) => Some(lock.clone()),
            None => recorded_lock(&folder)?,
        };
        folder.begin(&self.plan(&table, shards)?)?;
        let all = 0..table.shards.len();
        let waiting = all.filter(|index| !folder.is_done(*index));
        let waiting = waiting.map(Task::Shard).collect();
        Ok(Prepared {
            folder,
            table,
            lock,
            waiting,
        })
    }

    fn plan(&self, table: &Table, shards: Shards) -> Result<Plan> {
        let program = Summed {
            name: self.program.name.clone(),
            sha256: Sum::of(&self.program.code).sha256(),
        };
        let mut plan = Plan::new(program, table.format, table.paired, shards);
        let arguments = self.program.args.iter();
        plan.arguments = arguments
            .map(|arg| arg.escape_ascii().to_string())
            .collect();
        plan.inputs = table
            .sources
            .iter()
            .map(|source| Summed {
                name: source.name.display().to_string(),
                sha256: source.sha256.clone(),
            })
            .collect();
        for (local, remote) in &self.files {
            plan.files.push(Summed {
                name: remote.clone(),
                sha256: sum_of(local)?,
            });
        }
        plan.rocks = match &self.lock {
            Some(lock) => vec![Sum::of(lock.to_string().as_bytes()).sha256()],
            None => self.requests.iter().map(ToString::to_string).collect(),
        };
        Ok(plan)
    }
}

/// What is known before any VM is made.
struct Prepared {
    folder: Folder,
    table: Table,
    lock: Option<Lock>,
    waiting: BTreeSet<Task>,
}

/// The result of a run. Its folder is in use until this is dropped.
#[derive(Debug)]
#[non_exhaustive]
pub struct Mapped {
    /// How many shards there were.
    pub shards: usize,
    /// Those of them that an earlier run had done.
    pub resumed: usize,
    /// How many records, or pairs, there were.
    pub records: u64,
    /// The file with the result. It goes with this, unless a folder was given.
    pub result: PathBuf,
    /// What the reduce program returned; `Nil` without one.
    pub value: LuaValue,
    /// Where the time went.
    pub times: Times,
    folder: Arc<Folder>,
}

impl Mapped {
    /// What the program returned for each shard, in order; `Nil` where it returned nothing. Values
    /// are read from the folder one by one.
    ///
    /// # Errors
    /// An item fails when its file cannot be read.
    pub fn values(&self) -> impl Iterator<Item = Result<LuaValue>> + '_ {
        (0..self.shards).map(|shard| self.folder.value(shard))
    }

    /// Opens the result.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    pub fn open(&self) -> Result<File> {
        File::open(&self.result).map_err(|error| unreadable(&self.result, error))
    }
}

/// The lock that an earlier run in this folder made.
fn recorded_lock(folder: &Folder) -> Result<Option<Lock>> {
    let path = folder.path().join(LOCK);
    if !path.exists() {
        return Ok(None);
    }
    let lock = Lock::read(&path).map_err(|error| {
        let message = format!("{} cannot be used; remove it", path.display());
        Error::new(ErrorKind::Config, message).with_source(error)
    })?;
    Ok(Some(lock))
}

fn joined<T>(ended: Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    ended.unwrap_or_else(|error| {
        let message = "a thread of the run ended early";
        Err(Error::new(ErrorKind::Internal, message).with_source(error))
    })
}
