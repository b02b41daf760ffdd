//! Changes of a pool that are to last. Until one is complete, what it has made belongs to this run, so that
//! `bioxen gc` removes it when the program is killed.

use bioxen_net::{Error, Networks, NicInfo, NicSpec, Plan, Step, Wanted};
use bioxen_vm_xcpng::XcpngBackend;
use xapi_client::Ref;
use xapi_client::api::Vm;

/// Makes the pool have these networks and interfaces.
pub(super) async fn apply(
    networks: &Networks,
    pool: &XcpngBackend,
    wanted: &Wanted,
) -> anyhow::Result<Plan> {
    let plan = networks.plan(wanted).await?;
    let made = plan.steps.iter().filter_map(|step| match step {
        Step::Create { spec } => Some(format!("network {}", spec.name)),
        Step::Attach { vm, device, .. } => Some(format!("interface {device} of VM {vm}")),
        _ => None,
    });
    let work = async |networks: Networks| networks.apply(wanted).await;
    recorded(networks, pool, made.collect(), work).await
}

/// Gives a VM an interface.
pub(super) async fn attach(
    networks: &Networks,
    pool: &XcpngBackend,
    vm: &Ref<Vm>,
    spec: &NicSpec,
) -> anyhow::Result<NicInfo> {
    let made = vec![format!("interface of VM {}", vm.as_str())];
    let work = async |networks: Networks| networks.attach(vm, spec).await;
    recorded(networks, pool, made, work).await
}

/// Does work that makes these things, which are on record meanwhile.
async fn recorded<T>(
    networks: &Networks,
    pool: &XcpngBackend,
    made: Vec<String>,
    work: impl AsyncFnOnce(Networks) -> Result<T, Error>,
) -> anyhow::Result<T> {
    let mut networks = networks.clone();
    for what in &made {
        networks = networks.with_passing_marks(pool.begin_making(what).await?);
    }
    let done = work(networks).await;
    // Something of it may be there, or come into being yet.
    let is_open = match &done {
        Err(Error::LeftBehind { .. }) => true,
        Err(Error::Pool { source, .. }) => source.is_outcome_unknown(),
        _ => false,
    };
    if !is_open {
        for what in &made {
            pool.end_making(what).await?;
        }
    }
    Ok(done?)
}
