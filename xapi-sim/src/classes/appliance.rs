//! Appliances: VMs that start and stop together.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::operation::{Mark, Operation, assert_idle};
use super::{Table, power_of};
use crate::dispatch::Handler::{Later, Now};
use crate::dispatch::{Pending, Request, dispatch};
use crate::failure::{Failure, Reply};
use crate::lifecycle::Power;
use crate::value::Value;
use crate::world::{Call, Shared, World};

pub(crate) const TABLE: Table = &[
    ("VM_appliance.create", Now(create)),
    ("VM_appliance.start", Later(start)),
    (
        "VM_appliance.clean_shutdown",
        Later(|shared, call| stop(shared, call, "clean_shutdown")),
    ),
    (
        "VM_appliance.hard_shutdown",
        Later(|shared, call| stop(shared, call, "hard_shutdown")),
    ),
    (
        "VM_appliance.shutdown",
        Later(|shared, call| stop(shared, call, "shutdown")),
    ),
];

const OPERATIONS: [&str; 4] = ["start", "clean_shutdown", "hard_shutdown", "shutdown"];

fn create(world: &mut World, call: &Call) -> Reply {
    let appliance = world.create("VM_appliance", call.fields.clone())?;
    refresh(world, &appliance);
    Ok(Value::String(appliance))
}

/// Refuses an operation while another is under way, or that no VM of the appliance needs.
pub(crate) fn check(world: &World, appliance: &str, operation: &str) -> Result<(), Failure> {
    assert_idle(world, "VM_appliance", appliance)?;
    let vms = world.db.list("VM_appliance", appliance, "VMs")?;
    if vms.is_empty() {
        return Err(Failure::not_allowed("Appliance has no VMs."));
    }
    let (needs, reason): (fn(Power) -> bool, _) = match operation {
        "start" => (
            |power| power == Power::Halted,
            "There are no halted VMs in this appliance.",
        ),
        "clean_shutdown" => (
            |power| power == Power::Running,
            "There are no running VMs in this appliance.",
        ),
        _ => (
            |power| power != Power::Halted,
            "All VMs in this appliance are halted.",
        ),
    };
    for vm in vms {
        if needs(power_of(world, &vm)?) {
            return Ok(());
        }
    }
    Err(Failure::not_allowed(reason))
}

/// Brings the allowed operations up to date. A reference to no appliance is ignored.
pub(crate) fn refresh(world: &mut World, appliance: &str) {
    if !world.db.exists("VM_appliance", appliance) {
        return;
    }
    let allowed = OPERATIONS.into_iter();
    let allowed = allowed.filter(|operation| check(world, appliance, operation).is_ok());
    let allowed = Value::strings(allowed);
    // The appliance exists, see above.
    let _ = world
        .db
        .set("VM_appliance", appliance, "allowed_operations", allowed);
}

/// `VM_appliance.start(appliance, paused)`.
fn start(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    let paused = call.flag(1);
    let options = vec![Value::Bool(paused), Value::Bool(false)];
    let wanted = if paused {
        Power::Paused
    } else {
        Power::Running
    };
    each(shared, call, "start", options, wanted)
}

fn stop(shared: Arc<Shared>, call: Arc<Call>, operation: &'static str) -> Pending {
    each(shared, call, operation, Vec::new(), Power::Halted)
}

/// Does something to each VM of an appliance that is not yet as it would make it: in the order of
/// the VMs' `order`, or against it when they stop, those with the same at once. Of those that are
/// not so in the end it tells, when the others are.
fn each(
    shared: Arc<Shared>,
    call: Arc<Call>,
    operation: &'static str,
    options: Vec<Value>,
    wanted: Power,
) -> Pending {
    Box::pin(async move {
        let appliance = call.text(0);
        let begin = |world: &mut World| {
            let marks = vec![Mark::new("VM_appliance", appliance, operation)];
            Operation::begin_all(&shared, world, &call.task, marks)
        };
        let under_way = shared.patiently(begin).await?;
        let groups = shared.with(|world| ordered(world, appliance, wanted))?;
        let stops = wanted == Power::Halted;
        let ways: Vec<&Vec<String>> = if stops {
            groups.values().rev().collect()
        } else {
            groups.values().collect()
        };
        for group in ways {
            let mut calls = JoinSet::new();
            for vm in group {
                let session = Value::from(call.session.as_str());
                let params = [session, Value::from(vm.as_str())].into_iter();
                let request = Request {
                    method: format!("VM.{operation}"),
                    params: params.chain(options.clone()).collect(),
                    tags: Vec::new(),
                    host: call.host.clone(),
                };
                let shared = Arc::clone(&shared);
                calls.spawn(async move { dispatch(&shared, request).await });
            }
            // What counts is how the VMs are in the end.
            calls.join_all().await;
        }
        under_way.finish(|world| {
            let all = groups.into_values().flatten();
            let mut failed = vec![format!("VM_appliance.{operation}")];
            for vm in all {
                if power_of(world, &vm)? != wanted {
                    failed.push(vm);
                }
            }
            if failed.len() > 1 {
                return Err(Failure::new("OPERATION_PARTIALLY_FAILED", failed));
            }
            Ok(Value::void())
        })
    })
}

/// The VMs that are not as they are wanted, by their order.
fn ordered(
    world: &World,
    appliance: &str,
    wanted: Power,
) -> Result<BTreeMap<i64, Vec<String>>, Failure> {
    let mut groups: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for vm in world.db.list("VM_appliance", appliance, "VMs")? {
        if power_of(world, &vm)? != wanted {
            let order = world.db.int("VM", &vm, "order")?;
            groups.entry(order).or_default().push(vm);
        }
    }
    Ok(groups)
}
