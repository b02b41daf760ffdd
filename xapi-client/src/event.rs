//! Events: what changed, as it changes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::api::EventOperation;
use crate::call::Prepared;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::reference::{Recorded, Ref};
use crate::wire::ToWire as _;

/// How long the server may hold back an answer when nothing happens.
const POLL: Duration = Duration::from_secs(30);
/// How much longer than that the client waits.
const GRACE: Duration = Duration::from_secs(30);

/// What `event.from` returns.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct EventBatch {
    /// What changed, at most once per object: messages, then additions, changes and deletions.
    pub events: Vec<Event>,
    /// How many objects each class has now, by lower-case class name.
    pub valid_ref_counts: BTreeMap<String, i64>,
    /// Whether [`Watch`] began anew with this batch: it adds every object there is, and what it does not
    /// hold is gone. So is the first batch, the first after [`Watch::restart`], and the first from another
    /// coordinator.
    #[serde(skip)]
    pub is_complete: bool,
    /// Where the next batch begins. It is good for the same subscriptions only.
    pub token: String,
}

/// One change.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Event {
    /// The class in lower case, `vm`.
    pub class: String,
    /// What happened. Treat `add` and `mod` alike: after a loss the first word of an object may be
    /// `mod`.
    pub operation: EventOperation,
    /// The reference of the object.
    #[serde(rename = "ref")]
    pub reference: String,
    /// The record as it is now; absent where the object is gone. [`record`](Self::record) decodes it.
    pub snapshot: Option<Box<RawValue>>,
}

impl Event {
    /// The reference, if the event is about an object of class `T`.
    #[must_use]
    pub fn reference_of<T: Recorded>(&self) -> Option<Ref<T>> {
        self.class
            .eq_ignore_ascii_case(T::EVENT_NAME)
            .then(|| Ref::new(&self.reference))
    }

    /// The record as it is now; `None` where the object is gone or is not of class `T`.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`] when it is no record of the class.
    pub fn record<T: Recorded>(&self) -> Result<Option<T::Record>> {
        let Some(snapshot) = &self.snapshot else {
            return Ok(None);
        };
        if !self.class.eq_ignore_ascii_case(T::EVENT_NAME) {
            return Ok(None);
        }
        crate::wire::decode(snapshot.get())
            .map(Some)
            .map_err(|source| Error::Decode {
                method: format!("event.from ({})", T::NAME),
                source: source.into(),
            })
    }
}

impl fmt::Debug for Event {
    /// Leaves the record out: it is long, and may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.operation, self.class, self.reference)
    }
}

/// Watches classes or objects, one batch of changes after another.
///
/// The first batch adds every object there is. Later ones hold what changed since. Several changes of an
/// object become one, and a server that has seen more than a few hundred deletions between two batches
/// forgets some: compare [`valid_ref_counts`](EventBatch::valid_ref_counts) with what you hold, and
/// [`restart`](Self::restart) when they differ.
#[derive(Debug, Clone)]
pub struct Watch {
    client: Client,
    subscriptions: Vec<String>,
    token: String,
    /// How often the coordinator had changed when the token was made.
    moves: u64,
}

impl Watch {
    pub(crate) fn new(client: Client, subscriptions: &[&str]) -> Self {
        let subscriptions = subscriptions.iter().map(|&text| text.to_owned()).collect();
        Self {
            moves: client.moves(),
            client,
            subscriptions,
            token: String::new(),
        }
    }

    /// Waits for changes, and returns them all. It returns an empty batch when nothing happens for half
    /// a minute.
    ///
    /// # Errors
    ///
    /// As any call. The next call goes on where this one failed.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost by dropping the future: the next call returns the same changes.
    pub async fn next(&mut self) -> Result<EventBatch> {
        loop {
            let moves = self.client.moves();
            if self.moves != moves {
                // Another coordinator may count from elsewhere: its token would be in the future.
                self.moves = moves;
                self.restart();
            }
            let mut batch = self.poll(POLL).await?;
            if self.client.moves() == moves {
                batch.is_complete = self.token.is_empty();
                self.token.clone_from(&batch.token);
                return Ok(batch);
            }
        }
    }

    /// Begins again: the next batch adds every object there is.
    pub fn restart(&mut self) {
        self.token.clear();
    }

    async fn poll(&self, wait: Duration) -> Result<EventBatch> {
        let prepared = Prepared {
            method: "event.from".to_owned(),
            params: vec![
                self.subscriptions.to_wire(),
                self.token.to_wire(),
                wait.as_secs_f64().to_wire(),
            ],
            needs_session: true,
            tag: None,
        };
        // No byte flows while the server waits, so the client has to wait longer than it.
        self.client
            .execute_within(prepared, wait + GRACE)
            .await?
            .decode()
    }
}
