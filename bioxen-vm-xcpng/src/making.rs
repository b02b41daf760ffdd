//! How a VM is made: found, planned, deployed, and handed to its owner or destroyed.

use std::sync::Arc;

use bioxen_vm_core::{LuaVm as _, VmId};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use xapi_client::api::Vm;
use xapi_client::{Client, Ref};

use crate::backend::{Origin, Shared, as_it_is, random_name};
use crate::calls::carry_out;
use crate::deploy::Plan;
use crate::error::{Error, Result, chain};
use crate::execute::Deployment;
use crate::first_contact::FirstContact;
use crate::ledger::{Entry, Ledger};
use crate::marks::Run;
use crate::progress::{Reporter, Stage};
use crate::remove::remove_snapshot;
use crate::vm::{Names, XcpngVm};

/// Makes a VM. When the future is dropped, what there is of it is removed in the background.
pub(crate) async fn deploy(shared: Arc<Shared>, id: VmId, origin: Origin) -> Result<Arc<XcpngVm>> {
    let cancel = CancellationToken::new();
    // Cancels when this future is dropped; after the end there is nothing to cancel.
    let _guard = cancel.clone().drop_guard();
    let (done, result) = oneshot::channel();
    let reporter = Reporter::new(id.clone(), shared.progress.clone());
    let work = shared.work.clone();
    work.spawn(async move {
        let made = create(&shared, &id, &origin, &reporter, &cancel).await;
        // Whoever is gone by now lets the VM go with the unread message.
        if let Err(Err(error @ Error::LeftBehind { .. })) = done.send(made) {
            tracing::warn!(vm = %id, error = %chain(&error), "nobody waited for the deployment");
        }
    });
    match result.await {
        Ok(made) => Ok(made?.keep()),
        Err(_) => Err(Error::Cancelled),
    }
}

async fn create(
    shared: &Arc<Shared>,
    id: &VmId,
    origin: &Origin,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Made> {
    let mut contact = FirstContact::new(&shared.settings().login)?;
    let ledger = shared.ledger().await?;
    // A login is not cancelled half-way: its session would be lost.
    let client = reporter.stage(Stage::Connect, shared.client()).await?;
    let calls = client.calls_sent();
    // Nothing is made before there is a plan, so this much can simply be dropped.
    let plan = tokio::select! {
        plan = plan(shared, client, id, origin, &contact, reporter) => plan?,
        () = cancel.cancelled() => return Err(Error::Cancelled),
    };
    tracing::debug!(vm = %id, "the plan:\n{plan}");
    contact.decide(plan.has_drive());
    let mut plan = plan;
    // What runs cannot be cloned, but what its disks hold now can.
    let standing = match origin {
        Origin::Vm { vm, .. } if !plan.template.is_halted => {
            let snapshot = stand_still(client, ledger, vm, &plan).await?;
            plan.template.reference = snapshot.clone();
            Some(snapshot)
        }
        _ => None,
    };
    let deployment = Deployment {
        client,
        id,
        plan: &plan,
        contact: &contact,
        reporter,
        ledger,
        cancel,
    };
    let deployed = deployment.run().await;
    if let Some(snapshot) = standing {
        let what = "remove the snapshot that the clone was made from";
        let removed = remove_snapshot(client, &snapshot).await;
        let settled = Entry::Removed(plan.source_name.clone());
        match removed {
            Ok(()) => ledger.note(settled).await.map_err(Error::Ledger)?,
            // A later clean-up finds it by its name; the clone is as good.
            Err(error) => tracing::warn!(vm = %id, %error, "could not {what}"),
        }
    }
    let deployed = match deployed {
        Err(error) => {
            // It may be that what the plan is about has changed.
            *shared.found.lock().await = None;
            return Err(error);
        }
        deployed => deployed?,
    };
    // Those of deployments at the same time are among them.
    tracing::info!(vm = %id, calls = client.calls_sent() - calls, "the VM is made");
    let (run, expiry) = (shared.ledger().await?.run(), shared.settings().expiry);
    shared.living.add(&deployed.reference, client, run, expiry);
    let template = match origin {
        Origin::Template => plan.template.name,
        Origin::Vm { template, .. } => template.clone(),
    };
    let vm = XcpngVm::new(
        id.clone(),
        Arc::clone(shared),
        deployed,
        Names {
            name: plan.name,
            working_name: plan.working_name,
            template,
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

/// Makes the snapshot of a VM that a clone is made from.
async fn stand_still(
    client: &Client,
    ledger: &Ledger,
    vm: &Ref<Vm>,
    plan: &Plan,
) -> Result<Ref<Vm>> {
    const DOING: &str = "take a snapshot of the VM";
    let name = &plan.source_name;
    let making = Entry::Making(name.clone());
    ledger.note(making).await.map_err(Error::Ledger)?;
    let call = || client.vm().snapshot(vm, name, None).into_task();
    let error = match carry_out(client, call, DOING).await {
        Err(error) => error,
        taken => return taken,
    };
    // It may be there all the same.
    let found = client.vm().get_by_name_label(name).await;
    for snapshot in found.map_err(Error::pool(DOING))? {
        remove_snapshot(client, &snapshot)
            .await
            .map_err(Error::pool(DOING))?;
    }
    let gone = Entry::Removed(name.clone());
    ledger.note(gone).await.map_err(Error::Ledger)?;
    Err(error)
}

pub(crate) async fn plan(
    shared: &Shared,
    client: &Client,
    id: &VmId,
    origin: &Origin,
    contact: &FirstContact,
    reporter: &Reporter,
) -> Result<Plan> {
    let find_and_plan = async {
        let found = shared.find(client, origin, contact).await?;
        let run = Run::now(shared.ledger().await?.run(), shared.settings().expiry);
        let wish = match origin {
            Origin::Template => &shared.settings().wish,
            Origin::Vm { .. } => &as_it_is(&shared.settings().wish),
        };
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
