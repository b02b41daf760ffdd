//! Events: what changed, as it changes.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::api::EventOperation;
use crate::call::Prepared;
use crate::client::Client;
use crate::error::{Error, ErrorCode, Result};
use crate::reference::{Recorded, Ref};
use crate::wire::ToWire as _;

/// How long the server may hold back an answer when nothing happens.
const POLL: Duration = Duration::from_secs(30);
/// How much longer than that the client waits.
const GRACE: Duration = Duration::from_secs(30);
/// How long to wait after a failure; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

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
    /// hold is gone. So is the first batch, the first after [`Watch::restart`], and the first of a new
    /// session, which may be with another coordinator.
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
/// [`restart`](Self::restart) when they differ; or let a [`Mirror`](crate::Mirror) do all that.
///
/// It is also a [`Stream`], which ends when the client is closed.
#[derive(Debug)]
pub struct Watch {
    position: Position,
    /// What the stream waits for.
    pending: Option<Pending>,
}

/// The lock is never contended: it makes the watch `Sync`.
struct Pending(Mutex<Advance>);

type Advance = Pin<Box<dyn Future<Output = (Position, Result<EventBatch>)> + Send>>;

impl Watch {
    pub(crate) fn new(client: Client, subscriptions: &[&str]) -> Self {
        let subscriptions = subscriptions.iter().map(|&text| text.to_owned()).collect();
        Self {
            position: Position {
                renewals: client.renewals(),
                client,
                subscriptions,
                token: String::new(),
                first: String::new(),
                failures: 0,
            },
            pending: None,
        }
    }

    /// Waits for changes, and returns them all. It returns an empty batch when nothing happens for half
    /// a minute; the first batch never waits.
    ///
    /// # Errors
    ///
    /// As any call. The next call goes on where this one failed, after a pause that doubles with each
    /// failure, from a quarter of a second to half a minute.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost by dropping the future: the next call returns the same changes.
    pub async fn next(&mut self) -> Result<EventBatch> {
        self.pending = None;
        self.position.advance().await
    }

    /// Watches this too from now on: a class, or an object. The next batch holds what has been made or
    /// changed since the first batch, of everything that is watched; so an object that came into being
    /// after that is told whole, and an older one that has not changed since is not told.
    pub fn also(&mut self, subscription: &str) {
        self.pending = None;
        let Position {
            subscriptions,
            token,
            first,
            ..
        } = &mut self.position;
        if !subscriptions.iter().any(|known| known == subscription) {
            subscriptions.push(subscription.to_owned());
            // What led to this object may be newer than the object.
            token.clone_from(first);
        }
    }

    /// Begins again: the next batch adds every object there is.
    pub fn restart(&mut self) {
        self.pending = None;
        self.position.token.clear();
    }
}

impl Stream for Watch {
    type Item = Result<EventBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let pending = this.pending.get_or_insert_with(|| {
            let mut position = this.position.clone();
            let advance: Advance = Box::pin(async move {
                let batch = position.advance().await;
                (position, batch)
            });
            Pending(Mutex::new(advance))
        });
        let advance = pending.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        let (position, batch) = ready!(advance.as_mut().poll(context));
        this.pending = None;
        this.position = position;
        Poll::Ready(match batch {
            Err(Error::Closed { .. }) => None,
            batch => Some(batch),
        })
    }
}

impl Clone for Watch {
    /// A watch that goes on from the same batch.
    fn clone(&self) -> Self {
        Self {
            position: self.position.clone(),
            pending: None,
        }
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pending")
    }
}

/// Up to where the events are known.
#[derive(Debug, Clone)]
struct Position {
    client: Client,
    subscriptions: Vec<String>,
    token: String,
    /// The token of the first batch.
    first: String,
    /// How many sessions there had been when the token was made.
    renewals: u64,
    /// How many batches could not be had since the last one that could.
    failures: u32,
}

impl Position {
    async fn advance(&mut self) -> Result<EventBatch> {
        if self.failures > 0 {
            tokio::time::sleep(pause(self.failures)).await;
        }
        let batch = self.batch().await;
        self.failures = match &batch {
            Ok(_) => 0,
            Err(_) => self.failures.saturating_add(1),
        };
        batch
    }

    async fn batch(&mut self) -> Result<EventBatch> {
        loop {
            let renewals = self.client.renewals();
            if self.renewals != renewals {
                // Another coordinator, or the same one from a backup, may count from elsewhere: the token
                // would be in its future, and nothing would ever happen.
                self.renewals = renewals;
                self.token.clear();
            }
            let batch = match self.poll().await {
                Err(Error::Api(failure))
                    if failure.code == ErrorCode::EventFromTokenParseFailure
                        && !self.token.is_empty() =>
                {
                    self.token.clear();
                    continue;
                }
                outcome => outcome,
            };
            if self.client.renewals() == renewals {
                let mut batch = batch?;
                batch.is_complete = self.token.is_empty();
                self.token.clone_from(&batch.token);
                if batch.is_complete {
                    self.first.clone_from(&batch.token);
                }
                return Ok(batch);
            }
            // What a new session has to tell is asked for anew; what kept it away is an error.
            batch?;
        }
    }

    async fn poll(&self) -> Result<EventBatch> {
        // With nothing to tell, the server would keep even the first answer back.
        let wait = if self.token.is_empty() {
            Duration::ZERO
        } else {
            POLL
        };
        let prepared = Prepared {
            method: "event.from".to_owned(),
            params: vec![
                self.subscriptions.to_wire(),
                self.token.to_wire(),
                wait.as_secs_f64().to_wire(),
            ],
            needs_session: true,
            tag: None,
            // No byte flows while the server waits, so the client has to wait longer than it.
            timeout: Some(POLL + GRACE),
            // Waiting for events loads no server, and must not keep other calls from being sent.
            counts: false,
        };
        self.client.execute(prepared).await?.decode()
    }
}

/// How long to wait after so many failures in a row.
fn pause(failures: u32) -> Duration {
    FIRST_PAUSE
        .saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX))
        .min(POLL)
}
