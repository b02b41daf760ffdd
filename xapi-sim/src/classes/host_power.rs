//! Hosts that are emptied, restarted, or given another part in the pool.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::operation::{Mark, Operation};
use super::{Table, done, host, pool_member, power_of, vm_placement};
use crate::dispatch::Handler::{Later, Now};
use crate::dispatch::{Pending, Request, dispatch};
use crate::failure::{Failure, Reply};
use crate::lifecycle::Power;
use crate::outage;
use crate::value::Value;
use crate::world::{Call, Shared, World};

pub(crate) const TABLE: Table = &[
    ("host.restart_agent", Later(restart_agent)),
    (
        "host.reboot",
        Later(|shared, call| go_down(shared, call, true)),
    ),
    (
        "host.shutdown",
        Later(|shared, call| go_down(shared, call, false)),
    ),
    (
        "host.power_on",
        Later(|shared, call| {
            Box::pin(async move {
                let operation = begin(&shared, &call, "power_on").await?;
                operation.work().await?;
                outage::boot(&shared, call.text(0)).map(drop)?;
                drop(operation);
                done()
            })
        }),
    ),
    ("host.declare_dead", Now(declare_dead)),
    ("host.assert_can_evacuate", Now(assert_can_evacuate)),
    (
        "host.get_vms_which_prevent_evacuation",
        Now(get_vms_which_prevent_evacuation),
    ),
    (
        "host.get_uncooperative_resident_VMs",
        Now(|world, call| {
            world.db.require("host", call.text(0))?;
            Ok(Value::Array(Vec::new()))
        }),
    ),
    ("host.evacuate", Later(evacuate)),
    ("pool.designate_new_master", Later(designate)),
    ("pool.emergency_transition_to_master", Later(transition)),
    ("pool.emergency_reset_master", Later(follow)),
    ("host.shutdown_agent", Later(shutdown_agent)),
    (
        "pool.recover_slaves",
        Now(|_, _| Ok(Value::Array(Vec::new()))),
    ),
];

/// How long after the answer a host goes down, and how long it then takes to be back.
const PAUSE: Duration = Duration::from_secs(1);

/// Checks that the host that a call names allows an operation, and marks it.
async fn begin(
    shared: &Arc<Shared>,
    call: &Call,
    operation: &'static str,
) -> Result<Operation, Failure> {
    let attempt = |world: &mut World| {
        let marks = vec![Mark::new("host", call.text(0), operation)];
        Operation::begin_all(shared, world, &call.task, marks)
    };
    shared.patiently(attempt).await
}

/// Does something when the answer is on its way.
fn soon<F: Future<Output = ()> + Send + 'static>(
    shared: &Arc<Shared>,
    act: impl FnOnce(Arc<Shared>) -> F + Send + 'static,
) {
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        tokio::select! {
            () = shared.closed() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
        act(shared).await;
    });
}

/// The toolstack of the host that is asked stops, until somebody boots the host.
fn shutdown_agent(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        let host = call.host.clone();
        soon(&shared, |shared| async move {
            outage::stop_toolstack(&shared, &host);
        });
        done()
    })
}

fn restart_agent(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        let is_coordinator = shared.with(|world| {
            world.db.require("host", call.text(0))?;
            Ok(world.coordinator() == call.text(0))
        })?;
        // The pool notices nothing of a member.
        if is_coordinator {
            soon(&shared, |shared| async move {
                outage::restart_toolstack(&shared);
            });
        }
        done()
    })
}

/// Takes down a host that has been disabled and on which no VM runs.
fn go_down(shared: Arc<Shared>, call: Arc<Call>, comes_back: bool) -> Pending {
    Box::pin(async move {
        let host = call.text(0).to_owned();
        let name = if comes_back { "reboot" } else { "shutdown" };
        let operation = begin(&shared, &call, name).await?;
        operation.work().await?;
        operation.finish(|world| match residents(world, &host)?.first() {
            Some(vm) => Err(Failure::new("HOST_IN_USE", [host.as_str(), "vm", vm])),
            None => Ok(()),
        })?;
        soon(&shared, move |shared| async move {
            match outage::crash(&shared, &host) {
                Ok(()) if comes_back => outage::boot_after(&shared, host, PAUSE),
                Ok(()) => {}
                Err(failure) => tracing::warn!(%failure, "a host does not go down"),
            }
        });
        done()
    })
}

fn declare_dead(world: &mut World, call: &Call) -> Reply {
    let host = call.text(0);
    pool_member::assert_dead(world, host)?;
    outage::halt_all(world, host)?;
    world.db.set("host", host, "enabled", false)?;
    host::refresh(world, host)?;
    done()
}

/// The VMs that have a domain on a host, the control domain left out.
fn residents(world: &World, host: &str) -> Result<Vec<String>, Failure> {
    let db = &world.db;
    let mut found = Vec::new();
    for vm in db.list("host", host, "resident_VMs")? {
        let lives = matches!(power_of(world, &vm)?, Power::Running | Power::Paused);
        if lives && !db.flag("VM", &vm, "is_control_domain")? {
            found.push(vm);
        }
    }
    Ok(found)
}

/// The other host with the most free memory that can take a VM, or why none can.
fn refuge(world: &World, vm: &str, from: &str) -> Result<String, Failure> {
    super::check(world, vm, "pool_migrate")?;
    let mut reason = Failure::code("NO_HOSTS_AVAILABLE");
    let mut best: Option<(i64, String)> = None;
    for host in world.db.references("host") {
        if host == from {
            continue;
        }
        match vm_placement::assert_can_boot(world, vm, &host, true) {
            Ok(()) => {
                let metrics = world.db.text("host", &host, "metrics")?;
                let free = world.db.int("host_metrics", &metrics, "memory_free")?;
                best = best.max(Some((free, host)));
            }
            Err(failure) => reason = failure,
        }
    }
    best.map(|(_, host)| host).ok_or(reason)
}

fn get_vms_which_prevent_evacuation(world: &mut World, call: &Call) -> Reply {
    let host = call.text(0);
    let mut found = Vec::new();
    for vm in residents(world, host)? {
        if let Err(failure) = refuge(world, &vm, host) {
            found.push((vm, failure.to_value()));
        }
    }
    Ok(Value::Struct(found))
}

fn assert_can_evacuate(world: &mut World, call: &Call) -> Reply {
    let host = call.text(0);
    for vm in residents(world, host)? {
        if let Err(failure) = refuge(world, &vm, host) {
            let all = std::iter::once(failure.code).chain(failure.params);
            let reason = all.collect::<Vec<_>>().join(",");
            let text = [vm, reason].join(":");
            return Err(Failure::new("CANNOT_EVACUATE_HOST", [text]));
        }
    }
    done()
}

/// Moves all VMs of a host to others, one after the other.
fn evacuate(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        let host = call.text(0);
        shared.with(|world| assert_can_evacuate(world, &call))?;
        let operation = begin(&shared, &call, "evacuate").await?;
        let vms = shared.with(|world| residents(world, host))?;
        for vm in vms {
            let target = shared.with(|world| refuge(world, &vm, host))?;
            let params = vec![
                Value::from(call.session.as_str()),
                Value::String(vm),
                Value::String(target),
                Value::map([("live", "true")]),
            ];
            let request = Request {
                method: "VM.pool_migrate".to_owned(),
                params,
                tags: Vec::new(),
                host: call.host.clone(),
            };
            dispatch(&shared, request).await?;
        }
        drop(operation);
        done()
    })
}

fn designate(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        let host = call.text(0).to_owned();
        let attempt = |world: &mut World| {
            world.db.require("host", &host)?;
            outage::assert_up(world, &host)?;
            let marks = vec![Mark::new("pool", world.pool(), "designate_new_master")];
            Operation::begin_all(&shared, world, &call.task, marks)
        };
        let operation = shared.patiently(attempt).await?;
        operation.work().await?;
        drop(operation);
        soon(&shared, move |shared| async move {
            if let Err(failure) = outage::fail_over(&shared, &host) {
                tracing::warn!(%failure, "the pool keeps its coordinator");
            }
        });
        done()
    })
}

/// Makes the member that was asked the coordinator, when the old one is gone.
/// With High Availability it is not for people to say who leads.
fn assert_without_ha(shared: &Shared) -> Result<(), Failure> {
    let armed = shared.with(|world| world.db.flag("pool", &world.pool(), "ha_enabled"))?;
    if armed {
        return Err(Failure::code("HA_IS_ENABLED"));
    }
    Ok(())
}

fn transition(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        assert_without_ha(&shared)?;
        let host = call.host.clone();
        soon(&shared, move |shared| async move {
            if let Err(failure) = outage::fail_over(&shared, &host) {
                tracing::warn!(%failure, "the pool keeps its coordinator");
            }
        });
        done()
    })
}

/// `pool.emergency_reset_master(address)`: the host that is asked restarts its toolstack to follow
/// another coordinator. All of a pool follow the one that it has, so that it goes on as before.
fn follow(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        assert_without_ha(&shared)?;
        let host = call.host.clone();
        soon(&shared, move |shared| async move {
            shared.end_life(&[host]);
        });
        done()
    })
}
