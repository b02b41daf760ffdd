//! Operations on VMs that take time, and the marks that others see meanwhile.

use std::sync::Arc;

use super::{check, mark, refresh, unmark};
use crate::failure::Failure;
use crate::world::{Call, Shared, World};

/// An operation under way: the mark goes when this is dropped, however the operation ends.
pub(crate) struct Operation {
    shared: Arc<Shared>,
    vm: String,
    task: String,
}

impl Operation {
    /// Checks that the VM allows the operation and marks it, when others have ended.
    pub(crate) async fn begin(
        shared: &Arc<Shared>,
        call: &Call,
        operation: &'static str,
    ) -> Result<Operation, Failure> {
        shared
            .patiently(|world| Self::begin_with(shared, world, call, operation))
            .await
    }

    pub(crate) fn begin_with(
        shared: &Arc<Shared>,
        world: &mut World,
        call: &Call,
        operation: &'static str,
    ) -> Result<Operation, Failure> {
        Self::begin_for(shared, world, call, call.text(0), operation)
    }

    /// The same for a VM that the call does not name first.
    pub(crate) fn begin_for(
        shared: &Arc<Shared>,
        world: &mut World,
        call: &Call,
        vm: &str,
        operation: &'static str,
    ) -> Result<Operation, Failure> {
        check(world, vm, operation)?;
        mark(world, "VM", vm, &call.task, operation)?;
        refresh(world, vm);
        Ok(Operation {
            shared: Arc::clone(shared),
            vm: vm.to_owned(),
            task: call.task.clone(),
        })
    }

    /// Cancels other operations on the VM that this one does not wait for.
    pub(crate) fn overtake(&self, others: &[&str]) {
        self.shared.with(|world| {
            let Ok(current) = world.db.get("VM", &self.vm, "current_operations") else {
                return;
            };
            for (task, operation) in current.members() {
                let overtaken = operation.as_str().is_some_and(|o| others.contains(&o));
                if overtaken
                    && *task != self.task
                    && let Some(cancel) = world.cancels.get(task)
                {
                    cancel.send_replace(true);
                }
            }
        });
    }

    /// Waits as long as operations on domains take here.
    pub(crate) async fn work(&self) {
        let latency = self.shared.with(|world| world.rules.latency);
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
    }

    /// Makes the last changes and ends the operation in the same moment, so that nobody sees the
    /// new state with the old mark.
    pub(crate) fn finish<R>(
        self,
        change: impl FnOnce(&mut World) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let shared = Arc::clone(&self.shared);
        shared.with(|world| {
            let result = change(world)?;
            unmark(world, "VM", &self.vm, &self.task);
            refresh(world, &self.vm);
            Ok(result)
        })
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        self.shared.with(|world| {
            unmark(world, "VM", &self.vm, &self.task);
            refresh(world, &self.vm);
        });
    }
}
