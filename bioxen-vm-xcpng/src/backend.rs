//! Makes VMs on a pool.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bioxen_vm_core::{Backend, BackendConfig, LuaVm, Result, VmId, VmInfo};
use tokio::sync::{OnceCell, broadcast};
use tokio_util::task::TaskTracker;
use xapi_client::api::Vm;
use xapi_client::{Client, Ref};

use crate::adopt;
use crate::config::{CloneMode, XcpngConfig};
use crate::deploy::{Found, Plan};
use crate::error::Error;
use crate::find::find;
use crate::first_contact::FirstContact;
use crate::gc;
use crate::ledger::{Entry, Ledger};
use crate::leftover::Leftover;
use crate::living::{Living, renew};
use crate::making::{deploy, plan};
use crate::marks::Run;
use crate::pool::Pool;
use crate::progress::{Progress, Reporter, Stage};
use crate::settings::{Settings, Wish};

/// For how long what was found on the pool is used for further VMs.
const FRESH: Duration = Duration::from_secs(60);

/// How many stages a watcher may be behind before it misses some.
const WATCHED: usize = 1024;

/// Makes VMs of type `xcpng` on one pool, from one template.
///
/// It logs in when it is first needed, once for all VMs. [`close`](Backend::close) logs out.
#[derive(Debug)]
pub struct XcpngBackend {
    shared: Arc<Shared>,
}

/// What a backend and its VMs have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    settings: Settings,
    pool: Pool,
    /// Tells the VMs of this backend from those of others, and keeps a record of them.
    ledger: OnceCell<Ledger>,
    /// That our session is on record.
    session: OnceCell<()>,
    pub(crate) progress: broadcast::Sender<Progress>,
    /// Deployments and clean-ups under way.
    pub(crate) work: TaskTracker,
    /// What the configuration names, as it was found on the pool not long ago.
    pub(crate) found: tokio::sync::Mutex<Option<(Instant, Found)>>,
    /// The VMs that belong to this run.
    pub(crate) living: Arc<Living>,
}

impl Shared {
    pub(crate) async fn client(&self) -> Result<&Client, Error> {
        let ledger = self.ledger().await?;
        let client = self.pool.client(&self.settings, ledger.run()).await?;
        // Whoever cleans up after us ends it.
        let note = async || {
            let session = client.session_ref().map_err(Error::pool("log in"))?;
            let session = Entry::Session(session.as_str().to_owned().into());
            ledger.note(session).await.map_err(Error::Ledger)
        };
        self.session.get_or_try_init(note).await?;
        Ok(client)
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The record of what this backend makes, begun when it is first needed.
    pub(crate) async fn ledger(&self) -> Result<&Ledger, Error> {
        self.ledger
            .get_or_try_init(async || {
                let (dir, hosts) = (self.settings.state_dir.clone(), self.settings.hosts.clone());
                let begin = move || Ledger::begin(random_name(), dir.as_deref(), &hosts);
                let begun = tokio::task::spawn_blocking(begin).await;
                begun.unwrap_or_else(|error| Err(io::Error::other(error)))
            })
            .await
            .map_err(Error::Ledger)
    }

    /// Says that a VM does not belong to this run any more.
    pub(crate) fn released(&self, vm: &Ref<Vm>) {
        self.living.remove(vm);
    }

    /// Puts off when a VM of this run expires.
    pub(crate) async fn renew(&self, client: &Client, vm: &Ref<Vm>) -> Result<(), Error> {
        match self.living.has(vm) {
            true => renew(client, vm, self.settings.expiry).await,
            false => Ok(()),
        }
        .map_err(Error::pool("renew the mark of the VM"))
    }

    /// What the configuration names. What was found a moment ago is used again, so that of many VMs
    /// only the first costs a look; those that come meanwhile wait for it.
    pub(crate) async fn find(
        &self,
        client: &Client,
        origin: &Origin,
        contact: &FirstContact,
    ) -> Result<Found, Error> {
        let (wish, handover) = (&self.settings.wish, contact.handover());
        let Origin::Template = origin else {
            return find(client, &as_it_is(wish), origin, handover).await;
        };
        let mut known = self.found.lock().await;
        if let Some((at, found)) = &*known
            && at.elapsed() < FRESH
        {
            return Ok(found.clone());
        }
        let found = find(client, wish, origin, handover).await?;
        *known = Some((Instant::now(), found.clone()));
        Ok(found)
    }
}

/// What a VM is made from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// The template of the configuration.
    Template,
    /// A VM with what it has on its disks.
    Vm {
        vm: Ref<Vm>,
        /// What that was made from.
        template: String,
    },
}

/// A clone of a VM is as that VM is.
pub(crate) fn as_it_is(wish: &Wish) -> Wish {
    Wish {
        memory: None,
        vcpus: None,
        cores_per_socket: None,
        disk_size: None,
        disks: Vec::new(),
        affinity: None,
        sr: None,
        networks: Vec::new(),
        name: None,
        tags: Vec::new(),
        clone: CloneMode::Fast,
        ..wish.clone()
    }
}

impl XcpngBackend {
    /// Makes a backend. It does no I/O.
    ///
    /// # Errors
    /// Fails when the configuration is wrong, and names all its problems.
    pub fn new(config: XcpngConfig) -> Result<Self> {
        config.build()
    }

    pub(crate) fn from_settings(settings: Settings) -> Self {
        Self {
            shared: Arc::new(Shared {
                settings,
                pool: Pool::default(),
                ledger: OnceCell::new(),
                session: OnceCell::new(),
                progress: broadcast::Sender::new(WATCHED),
                work: TaskTracker::new(),
                found: tokio::sync::Mutex::default(),
                living: Arc::default(),
            }),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Tells of every stage of every VM from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Progress> {
        self.shared.progress.subscribe()
    }

    /// Works out what [`create`](Backend::create) would do for a VM of this id, and changes nothing.
    ///
    /// # Errors
    /// Fails when the pool cannot be reached, or has not what the configuration names.
    pub async fn plan(&self, id: &VmId) -> Result<Plan> {
        self.try_to_plan(id)
            .await
            .map_err(|error| bioxen_vm_core::Error::from(error).with_vm(id))
    }

    /// Finds what runs of this program that ended before they could have left on the pool (VMs with
    /// their disks and snapshots, config drives, networks, tasks), and removes it, or, on a dry run, only
    /// tells. What could not be removed comes back with the reason.
    ///
    /// A run that is recorded in [`state_dir`](XcpngConfig::state_dir) has ended when its process
    /// has. Everything else of ours is left alone until it has expired, since another machine may
    /// use it; and what is not ours, always.
    ///
    /// # Errors
    /// Fails when the pool cannot be reached or asked, or the record cannot be read.
    ///
    /// # Cancel safety
    /// What was not removed yet is found by the next call.
    pub async fn collect(&self, dry_run: bool) -> Result<Vec<Leftover>> {
        let collect = async {
            let client = self.shared.client().await?;
            gc::collect(client, &self.shared.settings, dry_run).await
        };
        Ok(collect.await?)
    }

    /// The client that this backend is logged in with, for what else a program does on the pool. It
    /// ends with [`close`](Backend::close).
    ///
    /// # Errors
    /// Fails when the pool cannot be reached or does not let us in.
    pub async fn client(&self) -> Result<Client> {
        Ok(self.shared.client().await?.clone())
    }

    /// Puts on record that this run is about to make something besides VMs (`network lab`), and gives
    /// what to mark it with in its `other_config`: then [`collect`](Self::collect) removes it when
    /// the program is killed: networks, once no VM is on them, and interfaces of VMs, which carry the
    /// UUID of their VM as `bioxen:vm` besides. While this run lives the marks of networks do not
    /// expire.
    ///
    /// # Errors
    /// Fails when the record cannot be written, or the pool does not let us in.
    pub async fn begin_making(&self, what: &str) -> Result<BTreeMap<String, String>> {
        let (client, ledger) = (self.shared.client().await?, self.shared.ledger().await?);
        let making = Entry::Making(entry(what));
        ledger.note(making).await.map_err(Error::Ledger)?;
        let expiry = self.shared.settings.expiry;
        self.shared.living.begin(client, ledger.run(), expiry);
        Ok(Run::now(ledger.run(), expiry).marks_of_all())
    }

    /// Puts on record that it is gone again, or that it is complete and without marks.
    ///
    /// # Errors
    /// Fails when the record cannot be written.
    pub async fn end_making(&self, what: &str) -> Result<()> {
        let ledger = self.shared.ledger().await?;
        let ended = Entry::Removed(entry(what));
        Ok(ledger.note(ended).await.map_err(Error::Ledger)?)
    }

    async fn try_to_plan(&self, id: &VmId) -> Result<Plan, Error> {
        let reporter = self.reporter(id);
        let contact = FirstContact::new(&self.shared.settings.login)?;
        let client = reporter.stage(Stage::Connect, self.shared.client()).await?;
        // Whoever asks wants to know how it is now.
        *self.shared.found.lock().await = None;
        let template = Origin::Template;
        plan(&self.shared, client, id, &template, &contact, &reporter).await
    }

    fn reporter(&self, id: &VmId) -> Reporter {
        Reporter::new(id.clone(), self.shared.progress.clone())
    }
}

#[async_trait]
impl Backend for XcpngBackend {
    fn vm_type(&self) -> &'static str {
        XcpngConfig::VM_TYPE
    }

    async fn create(&self, id: VmId) -> Result<Arc<dyn LuaVm>> {
        let of_vm = id.clone();
        match deploy(Arc::clone(&self.shared), id, Origin::Template).await {
            Ok(vm) => Ok(vm),
            Err(error) => Err(bioxen_vm_core::Error::from(error)
                .with_operation("create")
                .with_vm(&of_vm)),
        }
    }

    async fn adopt(&self, id: VmId, which: &str) -> Result<Arc<dyn LuaVm>> {
        let reporter = self.reporter(&id);
        match adopt::adopt(&self.shared, id.clone(), which, reporter).await {
            Ok(vm) => Ok(Arc::new(vm)),
            Err(error) => Err(bioxen_vm_core::Error::from(error)
                .with_operation("find it")
                // As whoever asks calls it.
                .with_vm(which)),
        }
    }

    async fn list(&self) -> Result<Vec<VmInfo>> {
        Ok(adopt::list(&self.shared).await?)
    }

    async fn close(&self) -> Result<()> {
        self.shared.living.end();
        self.shared.work.close();
        self.shared.work.wait().await;
        self.shared.pool.close().await;
        Ok(())
    }
}

/// How something is called in the record, where the names of VMs are too.
fn entry(what: &str) -> String {
    format!("made/{what}")
}

/// A name that no other run or VM has.
pub(crate) fn random_name() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}
