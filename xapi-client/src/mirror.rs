//! A copy of the server's objects that follows them.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::event::{Event, EventBatch, Watch};
use crate::reference::{Recorded, Ref};

/// How long to wait before everything is read anew once more, after doing so did not help; twice as long
/// after each further time, up to [`MAX_PATIENCE`].
const PATIENCE: Duration = Duration::from_secs(30);
const MAX_PATIENCE: Duration = Duration::from_secs(600);

/// Classes that servers tell no events of, or do not count: they cannot be mirrored.
const UNTOLD: [&str; 4] = ["message", "secret", "session", "user"];

/// A copy of all objects of some classes that stays equal to the server's database.
///
/// Reading it asks nobody: records are decoded when they arrive, and shared. It is made of the server's
/// events, so it follows within a fraction of a second. Deletions that the server forgot to tell are found by
/// comparing how many objects each class should have; after a lost connection it goes on where it stood, and
/// with a new session, another coordinator for example, it begins anew. Meanwhile it holds what was last
/// known, and [`trouble`](Self::trouble) says so.
///
/// Clones share the copy; it is kept up until the last one is dropped or the client is closed.
///
/// ```no_run
/// # use xapi_client::{Client, Ref, Result, api::{Vm, VmGuestMetrics, VmPowerState}};
/// # async fn example(client: &Client, vm: Ref<Vm>) -> Result<()> {
/// let mirror = client.mirror().class::<Vm>().class::<VmGuestMetrics>().start().await?;
/// let networks = mirror
///     .wait_for(|objects| {
///         let record = objects.get(&vm)?;
///         let guest = objects.get(&record.guest_metrics)?;
///         (record.power_state == VmPowerState::Running).then(|| guest.networks.clone())
///     })
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Mirror {
    state: watch::Receiver<Objects>,
    _follower: Arc<Follower>,
}

/// The task that keeps the copy up.
#[derive(Debug)]
struct Follower(AbortHandle);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Describes a [`Mirror`]: made by [`Client::mirror`], started by [`start`](Self::start).
#[derive(Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct MirrorBuilder {
    client: Client,
    objects: Objects,
}

impl Client {
    /// Starts to describe a local copy of some classes that stays equal to the server's database.
    pub fn mirror(&self) -> MirrorBuilder {
        MirrorBuilder {
            client: self.clone(),
            objects: Objects::default(),
        }
    }
}

impl MirrorBuilder {
    /// Adds a class.
    pub fn class<T: Recorded>(mut self) -> Self {
        let table: Table<T> = BTreeMap::new();
        self.objects.tables.insert(T::EVENT_NAME, Box::new(table));
        self
    }

    /// Reads all objects, and follows them from then on.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for no class, or one that servers do not tell all of (messages, secrets, sessions, users); and
    /// those of any call.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends it all.
    pub async fn start(self) -> Result<Mirror> {
        let mut objects = self.objects;
        let classes: Vec<_> = objects.tables.keys().copied().collect();
        if classes.is_empty() {
            return Err(Error::Config(
                "a mirror of no class shows nothing; add one".to_owned(),
            ));
        }
        if let Some(class) = classes.iter().find(|class| UNTOLD.contains(class)) {
            return Err(Error::Config(format!(
                "servers do not tell all that happens to objects of class {class}; read them instead"
            )));
        }
        let mut watch = self.client.watch(&classes);
        objects.take(&watch.next().await?)?;
        let (sender, state) = watch::channel(objects);
        let follower = tokio::spawn(follow(watch, sender));
        Ok(Mirror {
            state,
            _follower: Arc::new(Follower(follower.abort_handle())),
        })
    }
}

impl Mirror {
    /// The record of an object; `None` where there is no such object, or its class is not mirrored.
    #[must_use]
    pub fn get<T: Recorded>(&self, object: &Ref<T>) -> Option<Arc<T::Record>> {
        self.state.borrow().get(object)
    }

    /// All objects of a class, in the order of their references.
    #[must_use]
    pub fn all<T: Recorded>(&self) -> BTreeMap<Ref<T>, Arc<T::Record>> {
        let objects = self.state.borrow();
        objects
            .iter::<T>()
            .map(|(reference, record)| (reference.clone(), record.clone()))
            .collect()
    }

    /// Looks at several objects at one point in time. The copy does not change meanwhile, so be brief.
    pub fn read<R>(&self, look: impl FnOnce(&Objects) -> R) -> R {
        look(&self.state.borrow())
    }

    /// Waits until something holds: `look` is called at once and after each change, until it gives a value.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] when the client was closed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn wait_for<R>(
        &self,
        mut look: impl FnMut(&Objects) -> Option<R> + Send,
    ) -> Result<R> {
        let mut state = self.state.clone();
        loop {
            let found = look(&state.borrow_and_update());
            if let Some(found) = found {
                return Ok(found);
            }
            state.changed().await.map_err(|_| closed())?;
        }
    }

    /// Waits until a condition holds: see [`wait_for`](Self::wait_for).
    ///
    /// # Errors
    ///
    /// As [`wait_for`](Self::wait_for).
    ///
    /// # Cancel safety
    ///
    /// As [`wait_for`](Self::wait_for).
    pub async fn wait_until(
        &self,
        mut condition: impl FnMut(&Objects) -> bool + Send,
    ) -> Result<()> {
        self.wait_for(|objects| condition(objects).then_some(()))
            .await
    }

    /// Waits for the next change since this clone was made or last waited here. Several changes may be told
    /// as one; none is missed.
    ///
    /// # Errors
    ///
    /// As [`wait_for`](Self::wait_for).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the change to the next call.
    pub async fn changed(&mut self) -> Result<()> {
        self.state.changed().await.map_err(|_| closed())
    }

    /// Why the copy may be behind: the last attempt to follow failed for this reason. It is tried again,
    /// first after a quarter of a second, later every half minute.
    #[must_use]
    pub fn trouble(&self) -> Option<Arc<Error>> {
        self.state.borrow().trouble.clone()
    }
}

fn closed() -> Error {
    Error::Closed {
        method: "event.from".to_owned(),
    }
}

/// Keeps a copy up until it is stopped, or the client is closed.
async fn follow(mut watch: Watch, sender: watch::Sender<Objects>) {
    let mut resync = Resync::default();
    loop {
        let batch = match watch.next().await {
            Ok(batch) => batch,
            Err(Error::Closed { .. }) => return,
            // The watch pauses before it goes on.
            Err(error) => {
                tracing::debug!(error = error.kind(), "a mirror may be behind");
                sender.send_modify(|objects| objects.trouble = Some(Arc::new(error)));
                continue;
            }
        };
        sender.send_if_modified(|objects| {
            let was_in_trouble = objects.trouble.take().is_some();
            if let Err(error) = objects.take(&batch) {
                objects.trouble = Some(Arc::new(error));
            }
            was_in_trouble || !batch.events.is_empty() || batch.is_complete
        });
        let difference = sender.borrow().difference(&batch);
        if resync.is_due(difference, &batch) {
            tracing::debug!(class = difference, "a mirror has lost events, reading anew");
            watch.restart();
        }
    }
}

/// Decides when everything is read anew.
#[derive(Default)]
struct Resync {
    /// When it may be done again, and for how long it was forbidden, after it did not help.
    pause: Option<(Instant, Duration)>,
}

impl Resync {
    fn is_due(&mut self, difference: Option<&str>, batch: &EventBatch) -> bool {
        if difference.is_none() {
            self.pause = None;
            return false;
        }
        let now = Instant::now();
        if batch.is_complete {
            let pause = self
                .pause
                .map_or(PATIENCE, |(_, last)| (last * 2).min(MAX_PATIENCE));
            self.pause = Some((now + pause, pause));
            return false;
        }
        self.pause.is_none_or(|(end, _)| end <= now)
    }
}

/// What a [`Mirror`] holds at one point in time.
#[derive(Default)]
pub struct Objects {
    /// By the name of the class in events.
    tables: BTreeMap<&'static str, Box<dyn AnyTable>>,
    trouble: Option<Arc<Error>>,
}

type Table<T> = BTreeMap<Ref<T>, Arc<<T as Recorded>::Record>>;

impl Objects {
    /// The record of an object; `None` where there is no such object, or its class is not mirrored.
    #[must_use]
    pub fn get<T: Recorded>(&self, object: &Ref<T>) -> Option<Arc<T::Record>> {
        self.table::<T>()?.get(object).cloned()
    }

    /// All objects of a class, in the order of their references.
    pub fn iter<T: Recorded>(&self) -> impl Iterator<Item = (&Ref<T>, &Arc<T::Record>)> {
        self.table::<T>().into_iter().flatten()
    }

    fn table<T: Recorded>(&self) -> Option<&Table<T>> {
        self.tables.get(T::EVENT_NAME)?.as_any().downcast_ref()
    }

    /// Makes the changes of a batch. Goes on after a record that cannot be decoded.
    fn take(&mut self, batch: &EventBatch) -> Result<()> {
        if batch.is_complete {
            self.tables.values_mut().for_each(|table| table.clear());
        }
        let mut outcome = Ok(());
        for event in &batch.events {
            if let Some(table) = self
                .tables
                .get_mut(event.class.to_ascii_lowercase().as_str())
                && let Err(error) = table.take(event)
            {
                outcome = Err(error);
            }
        }
        outcome
    }

    /// A class that has another number of objects here than on the server.
    fn difference(&self, batch: &EventBatch) -> Option<&'static str> {
        let mut tables = self.tables.iter();
        let differs = tables.find(|(class, table)| {
            // What the server does not count cannot be compared.
            let count = batch.valid_ref_counts.get(**class);
            count.is_some_and(|count| usize::try_from(*count) != Ok(table.len()))
        });
        differs.map(|(class, _)| *class)
    }
}

impl fmt::Debug for Objects {
    /// Leaves the records out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(
                self.tables
                    .iter()
                    .map(|(class, table)| (class, table.len())),
            )
            .finish()
    }
}

/// The objects of a class, whichever it is.
trait AnyTable: Send + Sync {
    fn take(&mut self, event: &Event) -> Result<()>;
    fn clear(&mut self);
    fn len(&self) -> usize;
    fn as_any(&self) -> &dyn Any;
}

impl<T: Recorded> AnyTable for Table<T> {
    fn take(&mut self, event: &Event) -> Result<()> {
        let reference = Ref::new(&event.reference);
        // Whether an object was added or changed is the same: after a loss, a change may be its first word.
        match event.record::<T>()? {
            Some(record) => self.insert(reference, Arc::new(record)),
            None => self.remove(&reference),
        };
        Ok(())
    }

    fn clear(&mut self) {
        Self::clear(self);
    }

    fn len(&self) -> usize {
        Self::len(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(all(test, feature = "meta"))]
mod tests {
    use super::*;

    #[test]
    fn every_class_in_the_database_whose_events_are_told_can_be_mirrored() {
        let mut untold: Vec<_> = crate::meta::CLASSES
            .iter()
            .filter(|class| class.in_database && !class.events)
            .map(|class| class.event_name)
            .collect();
        // Messages are told, but not counted.
        untold.push("message");
        untold.sort_unstable();
        assert_eq!(untold, UNTOLD);
    }
}
