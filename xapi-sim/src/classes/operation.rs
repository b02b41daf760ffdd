//! Operations that take time, and the marks that others see meanwhile.

use std::sync::Arc;

use super::{appliance, check, host, mark, pool, refresh, sr, unmark, vbd, vdi, vif};
use crate::failure::{Failure, Reply};
use crate::value::{NULL_REF, Value};
use crate::world::{Call, Life, Shared, World};

/// An object, and what is done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    class: &'static str,
    reference: String,
    operation: &'static str,
}

impl Mark {
    pub(crate) fn new(
        class: &'static str,
        reference: impl Into<String>,
        operation: &'static str,
    ) -> Mark {
        Mark {
            class,
            reference: reference.into(),
            operation,
        }
    }

    /// Refuses an operation that the object does not allow now.
    fn check(&self, world: &World) -> Result<(), Failure> {
        let (reference, operation) = (self.reference.as_str(), self.operation);
        match self.class {
            "VM" => check(world, reference, operation),
            "VDI" => vdi::check(world, reference, operation),
            "VBD" => vbd::check(world, reference, operation, false),
            "VIF" => vif::check(world, reference, operation),
            "SR" => sr::check(world, reference, operation),
            "host" => host::check(world, reference, operation),
            "pool" => pool::check(world, reference, operation),
            "VM_appliance" => appliance::check(world, reference, operation),
            _ => Ok(()),
        }
    }

    /// The host that does what the object is marked for, where that is known: of a VM the one that
    /// it runs on, and one that a VM comes to.
    fn host(&self, world: &World) -> Option<String> {
        match self.class {
            "VM" => {
                let host = world.db.text("VM", &self.reference, "resident_on").ok()?;
                (host != NULL_REF).then_some(host)
            }
            "host" if self.operation.starts_with("vm_") => Some(self.reference.clone()),
            _ => None,
        }
    }

    /// Brings the allowed operations of the object up to date. What is gone needs none.
    fn refresh(&self, world: &mut World) {
        let reference = self.reference.as_str();
        let _ = match self.class {
            "VM" => {
                refresh(world, reference);
                Ok(())
            }
            "VDI" => {
                vdi::refresh(world, reference);
                Ok(())
            }
            "VBD" => vbd::refresh(world, reference).and_then(|()| {
                let vdi = world.db.text("VBD", reference, "VDI")?;
                vdi::refresh(world, &vdi);
                Ok(())
            }),
            "VIF" => vif::refresh(world, reference),
            "SR" => sr::refresh_own(world, reference),
            "host" => host::refresh(world, reference),
            "pool" => pool::refresh(world, reference),
            "VM_appliance" => {
                appliance::refresh(world, reference);
                Ok(())
            }
            _ => Ok(()),
        };
    }
}

/// What a disk and its SR are marked with while something is done to the disk.
pub(crate) fn of_disk(
    world: &World,
    vdi: &str,
    operation: &'static str,
    on_sr: Option<&'static str>,
) -> Result<Vec<Mark>, Failure> {
    let sr = world.db.text("VDI", vdi, "SR")?;
    let mut marks = vec![Mark::new("VDI", vdi, operation)];
    marks.extend(on_sr.map(|operation| Mark::new("SR", sr, operation)));
    Ok(marks)
}

/// `OTHER_OPERATION_IN_PROGRESS`, if something is under way on an object.
pub(crate) fn assert_idle(world: &World, class: &str, reference: &str) -> Result<(), Failure> {
    let current = world.db.get(class, reference, "current_operations")?;
    match current.members().first() {
        None => Ok(()),
        Some((task, operation)) => {
            let operation = operation.as_str().unwrap_or_default();
            let params = [class, reference, operation, task];
            Err(Failure::new("OTHER_OPERATION_IN_PROGRESS", params))
        }
    }
}

/// An operation under way: its marks go when this is dropped, however the operation ends. Nobody
/// may hold the lock then.
#[derive(Debug)]
pub(crate) struct Operation {
    shared: Arc<Shared>,
    /// What it is about comes first.
    marks: Vec<Mark>,
    task: String,
    /// Of the hosts without which it cannot go on.
    lives: Vec<Life>,
}

impl Operation {
    /// Checks that the VM that a call names first allows the operation and marks it, when others
    /// have ended.
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
        let marks = vec![Mark::new("VM", vm, operation)];
        Self::begin_all(shared, world, &call.task, marks)
    }

    /// Checks that all objects allow what is to be done to them, and marks them.
    pub(crate) fn begin_all(
        shared: &Arc<Shared>,
        world: &mut World,
        task: &str,
        marks: Vec<Mark>,
    ) -> Result<Operation, Failure> {
        marks.iter().try_for_each(|mark| mark.check(world))?;
        for it in &marks {
            // They exist, or the checks had failed.
            let _ = mark(world, it.class, &it.reference, task, it.operation);
        }
        marks.iter().for_each(|mark| mark.refresh(world));
        let hosts = marks.iter().filter_map(|mark| mark.host(world));
        Ok(Operation {
            lives: hosts.map(|host| shared.life_of(&host)).collect(),
            shared: Arc::clone(shared),
            marks,
            task: task.to_owned(),
        })
    }

    /// Marks something else that the operation is about, without a check.
    pub(crate) fn also(&mut self, world: &mut World, it: Mark) {
        if mark(world, it.class, &it.reference, &self.task, it.operation).is_ok() {
            it.refresh(world);
            let host = it.host(world);
            self.lives
                .extend(host.map(|host| self.shared.life_of(&host)));
            self.marks.push(it);
        }
    }

    /// Marks what the start of a VM is about beside the VM: its devices and its host.
    pub(crate) fn also_start(&mut self, world: &mut World, vm: &str, host: &str) {
        for (class, field) in [("VBD", "VBDs"), ("VIF", "VIFs")] {
            for device in world.db.list("VM", vm, field).unwrap_or_default() {
                self.also(world, Mark::new(class, device, "attach"));
            }
        }
        self.also(world, Mark::new("host", host, "vm_start"));
    }

    /// Cancels other operations on the VM that this one does not wait for.
    pub(crate) fn overtake(&self, others: &[&str]) {
        self.shared.with(|world| {
            let Some(mark) = self.marks.first() else {
                return;
            };
            let current = world
                .db
                .get(mark.class, &mark.reference, "current_operations");
            for (task, operation) in current.map(Value::members).unwrap_or_default() {
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

    /// Waits as long as operations on domains and disks take here.
    ///
    /// # Errors
    ///
    /// `CANNOT_CONTACT_HOST`, at once, when one of its hosts goes meanwhile.
    pub(crate) async fn work(&self) -> Result<(), Failure> {
        let latency = self.shared.with(|world| world.rules.latency);
        if !latency.is_zero() {
            let mut ends: Vec<_> = self
                .lives
                .iter()
                .cloned()
                .map(|life| Box::pin(self.shared.end_of(life)))
                .collect();
            let any_end = std::future::poll_fn(|context| {
                if ends
                    .iter_mut()
                    .any(|end| end.as_mut().poll(context).is_ready())
                {
                    std::task::Poll::Ready(())
                } else {
                    std::task::Poll::Pending
                }
            });
            tokio::select! {
                () = any_end => {}
                () = tokio::time::sleep(latency) => {}
            }
        }
        self.shared.with(|world| self.assert_hosts(world))
    }

    /// Refuses to go on without a host: whether it is back or not, it has forgotten what it did.
    fn assert_hosts(&self, world: &World) -> Result<(), Failure> {
        let mut lives = self.lives.iter();
        let gone =
            lives.find(|life| self.shared.is_over(life) || world.down.contains_key(&life.host));
        gone.map_or(Ok(()), |life| {
            Err(Failure::new("CANNOT_CONTACT_HOST", [life.host.as_str()]))
        })
    }

    /// Makes the last changes and ends the operation in the same moment, so that nobody sees the
    /// new state with the old mark.
    ///
    /// # Errors
    ///
    /// `CANNOT_CONTACT_HOST`, without a change, when one of its hosts has gone since it began; else
    /// those of the change.
    pub(crate) fn finish<R>(
        mut self,
        change: impl FnOnce(&mut World) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let marks = std::mem::take(&mut self.marks);
        let ended = self.shared.with(|world| {
            take_away(world, &marks, &self.task);
            let ended = match self.assert_hosts(world) {
                Ok(()) => Ok(change(world)),
                Err(failure) => Err((failure, change)),
            };
            marks.iter().for_each(|mark| mark.refresh(world));
            ended
        });
        // A guest that has booted in vain takes time to end, and nobody needs the world for it.
        ended.unwrap_or_else(|(failure, _)| Err(failure))
    }
}

fn take_away(world: &mut World, marks: &[Mark], task: &str) {
    for mark in marks {
        unmark(world, mark.class, &mark.reference, task);
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if self.marks.is_empty() {
            return;
        }
        self.shared.with(|world| {
            take_away(world, &self.marks, &self.task);
            self.marks.iter().for_each(|mark| mark.refresh(world));
        });
    }
}

/// What a call marks while it is carried out.
pub(crate) type Marks = fn(&World, &Call) -> Result<Vec<Mark>, Failure>;

/// Carries out something that is done in a moment and yet takes time on a host. Where it takes
/// none here, nobody could see the marks, and there are none.
pub(crate) async fn hold(
    shared: &Arc<Shared>,
    call: &Call,
    marks: Marks,
    run: fn(&mut World, &Call) -> Reply,
) -> Reply {
    if shared.with(|world| world.rules.latency.is_zero()) {
        return shared.patiently(|world| run(world, call)).await;
    }
    let begin = |world: &mut World| {
        let marks = marks(world, call)?;
        Operation::begin_all(shared, world, &call.task, marks)
    };
    let operation = shared.patiently(begin).await?;
    operation.work().await?;
    operation.finish(|world| run(world, call))
}
