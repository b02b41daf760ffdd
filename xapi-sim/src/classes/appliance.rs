//! Appliances: VMs that start and stop together.

use std::sync::Arc;

use super::{Table, done, power_of};
use crate::dispatch::Handler::Later;
use crate::dispatch::{Pending, Request, dispatch};
use crate::lifecycle::Power;
use crate::value::Value;
use crate::world::{Call, Shared};

pub(crate) const TABLE: Table = &[
    ("VM_appliance.start", Later(start)),
    (
        "VM_appliance.clean_shutdown",
        Later(|shared, call| stop(shared, call, "VM.clean_shutdown")),
    ),
    (
        "VM_appliance.hard_shutdown",
        Later(|shared, call| stop(shared, call, "VM.hard_shutdown")),
    ),
    (
        "VM_appliance.shutdown",
        Later(|shared, call| stop(shared, call, "VM.shutdown")),
    ),
];

/// `VM_appliance.start(appliance, paused)`: in the order of the VMs' `order`.
fn start(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    let options = vec![Value::Bool(call.flag(1)), Value::Bool(false)];
    each(shared, call, "VM.start", options, false)
}

fn stop(shared: Arc<Shared>, call: Arc<Call>, method: &'static str) -> Pending {
    each(shared, call, method, Vec::new(), true)
}

/// Calls a method for each VM of an appliance that is not yet as it would make it.
fn each(
    shared: Arc<Shared>,
    call: Arc<Call>,
    method: &'static str,
    options: Vec<Value>,
    backwards: bool,
) -> Pending {
    Box::pin(async move {
        let mut vms = shared.with(|world| {
            let vms = world.db.list("VM_appliance", call.text(0), "VMs")?;
            let mut found = Vec::new();
            for vm in vms {
                let halted = power_of(world, &vm)? == Power::Halted;
                if halted != backwards {
                    found.push((world.db.int("VM", &vm, "order")?, vm));
                }
            }
            Ok(found)
        })?;
        vms.sort();
        if backwards {
            vms.reverse();
        }
        for (_, vm) in vms {
            let session = Value::from(call.session.as_str());
            let params = [session, Value::String(vm)].into_iter();
            let request = Request {
                method: method.to_owned(),
                params: params.chain(options.clone()).collect(),
                tags: Vec::new(),
                host: call.host.clone(),
            };
            dispatch(&shared, request).await?;
        }
        done()
    })
}
