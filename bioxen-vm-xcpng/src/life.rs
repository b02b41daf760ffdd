//! Whether a VM that boots is still there to be waited for.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;
use xapi_client::api::{Cls, EventOperation, Vm, VmPowerState};
use xapi_client::{Client, DateTime, EventBatch, Ref, Watch};

use crate::error::{Error, Result};

/// Whoever destroys a VM that runs switches it off first. So long after that its removal is still the
/// news, and not that it is off.
const REMOVAL: Duration = Duration::from_millis(500);

/// What to watch to learn of a VM's end.
pub(crate) fn subject(vm: &Ref<Vm>) -> String {
    format!("vm/{}", vm.as_str())
}

/// Does what needs a VM that runs. When the VM ends before that is done, the answer is how it ended.
pub(crate) async fn while_it_runs<T>(
    client: &Client,
    vm: &Ref<Vm>,
    mut watch: Watch,
    work: impl Future<Output = Result<T>> + Unpin,
) -> Result<T> {
    tokio::select! {
        biased;
        done = work => done,
        ended = Box::pin(end(client, vm, &mut watch)) => Err(ended),
    }
}

async fn end(client: &Client, vm: &Ref<Vm>, watch: &mut Watch) -> Error {
    loop {
        let news = match watch.next().await {
            Ok(batch) => ended(client, vm, watch, &batch).await,
            Err(error) => Err(Error::pool("tell about the VM")(error)),
        };
        match news {
            Ok(()) => {}
            Err(error @ (Error::Ended { .. } | Error::Gone)) => return error,
            // A pool that tells nothing for a while is no reason to give up. The watch pauses by itself.
            Err(error) => tracing::debug!(%error, "whether the VM still runs is not known"),
        }
    }
}

/// Fails when a batch of events says that the VM has ended.
pub(crate) async fn ended(
    client: &Client,
    vm: &Ref<Vm>,
    watch: &mut Watch,
    batch: &EventBatch,
) -> Result<()> {
    if is_gone(vm, batch) {
        return Err(Error::Gone);
    }
    for event in &batch.events {
        let record = event.record::<Vm>();
        if let Some(record) = record.map_err(Error::pool("tell about the VM"))?
            && record.power_state == VmPowerState::Halted
        {
            let removed = timeout(REMOVAL, removal(vm, watch));
            let (removed, crashed) = tokio::join!(removed, has_crashed(client, &record.uuid));
            return Err(match (crashed, removed) {
                (false, Ok(())) => Error::Gone,
                (crashed, _) => Error::Ended { crashed },
            });
        }
    }
    Ok(())
}

/// Waits until the VM is gone, or nobody can tell any more.
async fn removal(vm: &Ref<Vm>, watch: &mut Watch) {
    loop {
        match watch.next().await {
            Ok(batch) if is_gone(vm, &batch) => return,
            Ok(_) => {}
            Err(_) => std::future::pending().await,
        }
    }
}

fn is_gone(vm: &Ref<Vm>, batch: &EventBatch) -> bool {
    let of_vm = |event: &&xapi_client::Event| event.reference_of::<Vm>().as_ref() == Some(vm);
    match batch.events.iter().rfind(of_vm) {
        Some(event) => event.operation == EventOperation::Del,
        None => batch.is_complete,
    }
}

/// Tells a VM that crashed from one that was switched off.
async fn has_crashed(client: &Client, uuid: &xapi_client::Uuid) -> bool {
    let messages = client.message();
    let about = messages.get(Cls::Vm, uuid.as_str(), DateTime::default());
    // Without an answer it is only known to have ended.
    let about = about.await.unwrap_or_default();
    about.values().any(|message| message.name == "VM_CRASHED")
}
