//! Makes VMs on a pool.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use async_trait::async_trait;
use bioxen_vm_core::{Backend, BackendConfig, LuaVm, Result, VmId};
use tokio::runtime::Handle;
use tokio::sync::{broadcast, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use xapi_client::Client;

use crate::config::XcpngConfig;
use crate::deploy::Plan;
use crate::error::Error;
use crate::execute::Deployment;
use crate::find::find;
use crate::first_contact::FirstContact;
use crate::pool::Pool;
use crate::progress::{Progress, Reporter, Stage};
use crate::settings::Settings;
use crate::vm::XcpngVm;

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
    /// Tells the VMs of this backend from those of others.
    run: String,
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
                run: random_name(),
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
    let contact = FirstContact::new(&shared.settings.login)?;
    // A login is not cancelled half-way: its session would be lost.
    let client = reporter.stage(Stage::Connect, shared.client()).await?;
    // Nothing is made before there is a plan, so this much can simply be dropped.
    let plan = tokio::select! {
        plan = plan(shared, client, id, &contact, reporter) => plan?,
        () = cancel.cancelled() => return Err(Error::Cancelled),
    };
    tracing::debug!(vm = %id, "the plan:\n{plan}");
    let deployment = Deployment {
        client,
        id,
        plan: &plan,
        contact: &contact,
        reporter,
        cancel,
    };
    let deployed = deployment.run().await?;
    let vm = XcpngVm::new(
        id.clone(),
        Arc::clone(shared),
        deployed,
        (plan.name, plan.template.name),
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
        let found = find(client, wish).await?;
        let unique = random_name();
        Plan::new(id, &shared.run, &unique, wish, found, contact.hands_over())
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
fn random_name() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}
