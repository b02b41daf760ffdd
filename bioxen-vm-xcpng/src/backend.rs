//! Makes VMs on a pool.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bioxen_vm_core::{Backend, BackendConfig, LuaVm, Result, VmId};
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, broadcast, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use xapi_client::Client;

use crate::config::XcpngConfig;
use crate::deploy::Plan;
use crate::error::Error;
use crate::execute::Deployment;
use crate::find::find;
use crate::first_contact::FirstContact;
use crate::gc::{self, Leftover};
use crate::ledger::Ledger;
use crate::marks::Run;
use crate::pool::Pool;
use crate::progress::{Progress, Reporter, Stage};
use crate::settings::Settings;
use crate::vm::{Names, XcpngVm};

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
    progress: broadcast::Sender<Progress>,
    /// Deployments and clean-ups under way.
    work: TaskTracker,
}

impl Shared {
    pub(crate) async fn client(&self) -> Result<&Client, Error> {
        self.pool.client(&self.settings).await
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
                progress: broadcast::Sender::new(WATCHED),
                work: TaskTracker::new(),
            }),
        }
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
    /// their disks and snapshots, config drives, tasks), and removes it, or, on a dry run, only
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

    async fn try_to_plan(&self, id: &VmId) -> Result<Plan, Error> {
        let reporter = self.reporter(id);
        let contact = FirstContact::new(&self.shared.settings.login)?;
        let client = reporter.stage(Stage::Connect, self.shared.client()).await?;
        plan(&self.shared, client, id, &contact, &reporter).await
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
        let cancel = CancellationToken::new();
        // Cancels when this future is dropped; after the end there is nothing to cancel.
        let _guard = cancel.clone().drop_guard();
        let (done, result) = oneshot::channel();
        let (shared, reporter) = (Arc::clone(&self.shared), self.reporter(&id));
        let of_vm = id.clone();
        self.shared.work.spawn(async move {
            let made = create(&shared, &id, &reporter, &cancel).await;
            // Whoever is gone by now lets the VM go with the unread message.
            let _ = done.send(made);
        });
        match result.await {
            Ok(Ok(made)) => Ok(made.keep()),
            Ok(Err(error)) => Err(bioxen_vm_core::Error::from(error)
                .with_operation("create")
                .with_vm(&of_vm)),
            Err(_) => Err(bioxen_vm_core::Error::from(Error::Cancelled).with_vm(&of_vm)),
        }
    }

    async fn close(&self) -> Result<()> {
        self.shared.work.close();
        self.shared.work.wait().await;
        Ok(self.shared.pool.close().await?)
    }
}

async fn create(
    shared: &Arc<Shared>,
    id: &VmId,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Made, Error> {
    let mut contact = FirstContact::new(&shared.settings.login)?;
    let ledger = shared.ledger().await?;
    // A login is not cancelled half-way: its session would be lost.
    let client = reporter.stage(Stage::Connect, shared.client()).await?;
    // Nothing is made before there is a plan, so this much can simply be dropped.
    let plan = tokio::select! {
        plan = plan(shared, client, id, &contact, reporter) => plan?,
        () = cancel.cancelled() => return Err(Error::Cancelled),
    };
    tracing::debug!(vm = %id, "the plan:\n{plan}");
    contact.decide(plan.has_drive());
    let deployment = Deployment {
        client,
        id,
        plan: &plan,
        contact: &contact,
        reporter,
        ledger,
        cancel,
    };
    let deployed = deployment.run().await?;
    let vm = XcpngVm::new(
        id.clone(),
        Arc::clone(shared),
        deployed,
        Names {
            name: plan.name,
            working_name: plan.working_name,
            template: plan.template.name,
        },
        contact,
        reporter.clone(),
    );
    Ok(Made {
        vm: Arc::new(vm),
        shared: Arc::clone(shared),
        runtime: Handle::current(),
        kept: false,
    })
}

async fn plan(
    shared: &Shared,
    client: &Client,
    id: &VmId,
    contact: &FirstContact,
    reporter: &Reporter,
) -> Result<Plan, Error> {
    let wish = &shared.settings.wish;
    let find_and_plan = async {
        let found = find(client, wish, contact.handover()).await?;
        let run = Run::now(shared.ledger().await?.run(), shared.settings.expiry);
        Plan::new(id, &run, &random_name(), wish, found)
    };
    reporter.stage(Stage::Plan, find_and_plan).await
}

/// A VM on its way to its owner. It is destroyed when it never gets there.
struct Made {
    vm: Arc<XcpngVm>,
    shared: Arc<Shared>,
    runtime: Handle,
    kept: bool,
}

impl Made {
    fn keep(mut self) -> Arc<XcpngVm> {
        self.kept = true;
        Arc::clone(&self.vm)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let vm = Arc::clone(&self.vm);
        let destroy = async move {
            if let Err(error) = vm.destroy().await {
                tracing::warn!(%error, "a VM that nobody waited for is left behind");
            }
        };
        self.shared.work.spawn_on(destroy, &self.runtime);
    }
}

/// A name that no other run or VM has.
pub(crate) fn random_name() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}
