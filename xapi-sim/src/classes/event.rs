//! Events: `event.from` with the server's rules of coalescing, tokens and waiting.

use std::sync::Arc;
use std::time::Duration;

use md5::{Digest, Md5};
use tokio::time::Instant;
use xapi_client::meta;

use super::Table;
use crate::db::{Row, Snapshot, Table as Rows};
use crate::dispatch::Handler::{Later, Now};
use crate::dispatch::Pending;
use crate::failure::{Failure, Reply};
use crate::value::{Value, parse_int};
use crate::world::{Call, Shared, World};

pub(crate) const TABLE: Table = &[
    ("event.from", Later(from)),
    ("event.register", Now(register)),
    ("event.unregister", Now(unregister)),
    ("event.next", Later(next)),
    ("event.inject", Now(inject)),
    (
        "event.get_current_id",
        Now(|world, _| Ok(Value::Int(world.db.generation()))),
    ),
];

/// A place in the history: of the database, and of messages, which count apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Token {
    database: i64,
    messages: i64,
}

impl Token {
    fn parse(text: &str) -> Result<Token, Failure> {
        if text.is_empty() {
            return Ok(Token {
                database: 0,
                messages: 0,
            });
        }
        let halves = text
            .split_once(',')
            .and_then(|(database, messages)| Some((parse_int(database)?, parse_int(messages)?)));
        match halves {
            Some((database, messages)) => Ok(Token { database, messages }),
            None => Err(Failure::new("EVENT_FROM_TOKEN_PARSE_FAILURE", [text])),
        }
    }

    fn text(self) -> String {
        format!("{:020},{:020}", self.database, self.messages)
    }
}

/// What a client wants to hear of. Nothing that a client can write here is a failure; it may
/// match nothing, though.
#[derive(Debug, PartialEq, Eq)]
enum Subscription {
    All,
    Class(String),
    Object(String, String),
}

impl Subscription {
    fn parse(text: &str) -> Subscription {
        match text.split_once('/') {
            _ if text == "*" => Subscription::All,
            Some((class, object)) => Subscription::Object(class.to_lowercase(), object.to_owned()),
            None => Subscription::Class(text.to_lowercase()),
        }
    }

    fn covers_class(&self, name: &str) -> bool {
        match self {
            Subscription::All => true,
            Subscription::Class(class) | Subscription::Object(class, _) => class == name,
        }
    }

    fn covers(&self, name: &str, reference: &str) -> bool {
        match self {
            Subscription::Object(class, object) => class == name && object == reference,
            _ => self.covers_class(name),
        }
    }
}

/// Timeouts that the server cannot convert mean this.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

fn from(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        let token = Token::parse(call.text(1))?;
        let subscriptions = subscriptions(&call);
        let seconds = match call.args.get(2) {
            Some(Value::Float(seconds)) => *seconds,
            _ => 0.0,
        };
        let timeout = Duration::try_from_secs_f64(seconds)
            .unwrap_or(FOREVER)
            .min(FOREVER);
        let deadline = Instant::now() + timeout;
        // Task-only subscriptions are for those who wait for an end, so they need no gathering.
        let tasks_only = subscriptions.iter().all(|subscription| match subscription {
            Subscription::All => false,
            Subscription::Class(class) | Subscription::Object(class, _) => class == "task",
        });
        let delay = if tasks_only {
            Duration::ZERO
        } else {
            shared.with(|world| world.rules.event_delay)
        };
        let mut changes = shared.changes();
        loop {
            if !delay.is_zero() {
                tokio::time::sleep_until((Instant::now() + delay).min(deadline)).await;
            }
            changes.borrow_and_update();
            let expired = Instant::now() >= deadline;
            let batch = shared.with(|world| {
                // A session that has ended wakes its waiters with this.
                if !world.db.exists("session", &call.session) {
                    return Err(Failure::session_invalid(&call.session));
                }
                Ok(collect(world, &subscriptions, token))
            })?;
            if expired || !batch.events.is_empty() {
                // Of a large pool it is large, and nobody else waits for it.
                return Ok(batch.into_value());
            }
            // Whichever comes first; both lead back to the look above.
            let _ = tokio::time::timeout_at(deadline, changes.changed()).await;
        }
    })
}

/// What is to be told.
struct Batch {
    events: Vec<Event>,
    counts: Vec<(String, Value)>,
    token: Token,
}

/// A change of an object.
struct Event {
    class: &'static str,
    operation: &'static str,
    reference: String,
    id: i64,
    snapshot: Option<Content>,
}

/// What an object is.
enum Content {
    Row(Snapshot),
    /// A message, which is in no table.
    Record(Value),
}

impl Event {
    fn into_value(self) -> Value {
        let snapshot = self.snapshot.map(|snapshot| match snapshot {
            Content::Row(row) => row.record(),
            Content::Record(record) => record,
        });
        event_value(
            self.class,
            self.operation,
            &self.reference,
            self.id,
            snapshot,
        )
    }
}

impl Batch {
    fn into_value(self) -> Value {
        let events = self.events.into_iter().map(Event::into_value);
        Value::Struct(vec![
            ("events".to_owned(), Value::Array(events.collect())),
            ("valid_ref_counts".to_owned(), Value::Struct(self.counts)),
            ("token".to_owned(), Value::String(self.token.text())),
        ])
    }
}

/// How many objects each table has.
fn counts(world: &World) -> Vec<(String, Value)> {
    let tables = world.db.tables().rev();
    let counts = tables.map(|table| {
        let count = i32::try_from(table.rows.len()).unwrap_or(i32::MAX);
        (table.class.event_name.to_owned(), Value::Int32(count))
    });
    counts.collect()
}

/// Everything since `token` that the subscriptions cover, in the server's order: messages, then
/// all adds, all changes, all deletions.
fn collect(world: &World, subscriptions: &[Subscription], token: Token) -> Batch {
    let since = token.database;
    let mut token = token;
    let (mut adds, mut mods, mut dels) = (Vec::new(), Vec::new(), Vec::new());
    let covered = meta::CLASSES.iter().filter(|class| class.events);
    for table in covered.filter_map(|class| world.db.table(class.name)) {
        let name = table.class.event_name;
        if !subscriptions
            .iter()
            .any(|subscription| subscription.covers_class(name))
        {
            continue;
        }
        let matches = |reference: &str| subscriptions.iter().any(|s| s.covers(name, reference));
        for (reference, row) in &table.rows {
            if row.modified <= since || !matches(reference) {
                continue;
            }
            token.database = token.database.max(row.modified);
            if row.created > since {
                adds.push(event(table, "add", reference, row.created, Some(row)));
            } else {
                mods.push(event(table, "mod", reference, row.modified, Some(row)));
            }
        }
        for gone in &table.deleted {
            // Made and deleted since the last look: not worth an event. The token does not count it
            // either, so that the next look may tell of the deletion of what nobody has heard of.
            if gone.deleted <= since || gone.created > since || !matches(&gone.reference) {
                continue;
            }
            token.database = token.database.max(gone.deleted);
            dels.push(event(table, "del", &gone.reference, gone.deleted, None));
        }
    }
    let mut events = Vec::new();
    if subscriptions
        .iter()
        .any(|subscription| subscription.covers_class("message"))
    {
        events = message_events(world, subscriptions, &mut token);
    }
    events.extend(adds.into_iter().chain(mods).chain(dels));
    Batch {
        events,
        counts: counts(world),
        token,
    }
}

fn event(
    table: &Rows,
    operation: &'static str,
    reference: &str,
    id: i64,
    row: Option<&Row>,
) -> Event {
    Event {
        class: table.class.event_name,
        operation,
        reference: reference.to_owned(),
        id,
        snapshot: row.map(|row| Content::Row(table.snapshot(row))),
    }
}

fn event_value(
    class: &str,
    operation: &str,
    reference: &str,
    id: i64,
    snapshot: Option<Value>,
) -> Value {
    let mut members = vec![
        ("id".to_owned(), Value::String(id.to_string())),
        // Declared a point in time, and yet always this text.
        ("timestamp".to_owned(), Value::from("0.0")),
        ("class".to_owned(), Value::from(class)),
        ("operation".to_owned(), Value::from(operation)),
        ("ref".to_owned(), Value::from(reference)),
    ];
    members.extend(snapshot.map(|snapshot| ("snapshot".to_owned(), snapshot)));
    Value::Struct(members)
}

fn message_events(world: &World, subscriptions: &[Subscription], token: &mut Token) -> Vec<Event> {
    let since = token.messages;
    let covered = |reference: &str| subscriptions.iter().any(|s| s.covers("message", reference));
    let event = |operation, reference: &str, snapshot| Event {
        class: "message",
        operation,
        reference: reference.to_owned(),
        id: 0,
        snapshot,
    };
    let mut events = Vec::new();
    for (reference, (created, record)) in &world.messages.live {
        if *created > since && covered(reference) {
            token.messages = token.messages.max(*created);
            let record = Content::Record(record.clone());
            events.push(event("add", reference, Some(record)));
        }
    }
    for (deleted, reference) in &world.messages.deleted {
        if *deleted > since && covered(reference) {
            token.messages = token.messages.max(*deleted);
            events.push(event("del", reference, None));
        }
    }
    events
}

/// A session that listens with the deprecated `event.next`.
#[derive(Debug)]
pub(crate) struct Listener {
    subscriptions: Vec<Subscription>,
    /// The first change that it has not been told of.
    next: i64,
}

/// The listener of a session. Asking for one is enough to become one.
fn listener<'w>(world: &'w mut World, session: &str) -> &'w mut Listener {
    world.db.journal.want(true);
    let next = world.db.journal.next();
    let listener = world.listeners.entry(session.to_owned());
    listener.or_insert_with(|| Listener {
        subscriptions: Vec::new(),
        next,
    })
}

/// Ends the listening of a session that ends.
pub(crate) fn forget(world: &mut World, session: &str) {
    world.listeners.remove(session);
    if world.listeners.is_empty() {
        world.db.journal.want(false);
    }
}

fn subscriptions(call: &Call) -> Vec<Subscription> {
    let classes = call.arg(0);
    let names = classes.items().iter();
    names
        .map(|name| Subscription::parse(name.as_str().unwrap_or_default()))
        .collect()
}

fn register(world: &mut World, call: &Call) -> Reply {
    let wanted = subscriptions(call);
    listener(world, &call.session).subscriptions.extend(wanted);
    Ok(Value::void())
}

fn unregister(world: &mut World, call: &Call) -> Reply {
    let unwanted = subscriptions(call);
    listener(world, &call.session)
        .subscriptions
        .retain(|subscription| !unwanted.contains(subscription));
    Ok(Value::void())
}

/// Waits, as long as it takes, for a change that the session has registered for. Unlike
/// `event.from` it tells of each change by itself, in the order in which they happened.
fn next(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        let mut changes = shared.changes();
        shared.with(|world| {
            if world.listeners.contains_key(&call.session) {
                return Ok(());
            }
            let digest = Md5::digest(call.session.as_bytes());
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            Err(Failure::new(
                "SESSION_NOT_REGISTERED",
                [format!("trackid={digest}")],
            ))
        })?;
        loop {
            changes.borrow_and_update();
            let news = shared.with(|world| heard(world, &call.session))?;
            if !news.is_empty() {
                return Ok(Value::Array(news));
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = shared.closed() => return Err(Failure::session_invalid(&call.session)),
            }
        }
    })
}

fn heard(world: &mut World, session: &str) -> Result<Vec<Value>, Failure> {
    let Some(listener) = world.listeners.get_mut(session) else {
        return Err(Failure::session_invalid(session));
    };
    let journal = &world.db.journal;
    let since = std::mem::replace(&mut listener.next, journal.next());
    let Some(changes) = journal.since(since) else {
        return Err(Failure::code("EVENTS_LOST"));
    };
    let wanted = changes.filter(|change| {
        let mut subscriptions = listener.subscriptions.iter();
        subscriptions.any(|wanted| wanted.covers(change.class, &change.reference))
    });
    Ok(wanted
        .map(|change| {
            event_value(
                change.class,
                change.operation,
                &change.reference,
                change.number,
                change.record.clone(),
            )
        })
        .collect())
}

/// Touches an object and gives a token from just before.
fn inject(world: &mut World, call: &Call) -> Reply {
    let before = world.db.touch(call.text(0), call.text(1))?;
    Ok(Value::String(
        Token {
            database: before,
            messages: 0,
        }
        .text(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let text = "00000000000000000411,00000000000000000000";
        assert_eq!(Token::parse(text).unwrap().text(), text);
        assert_eq!(Token::parse("").unwrap().database, 0);
        assert_eq!(
            Token::parse("0,0").unwrap(),
            Token {
                database: 0,
                messages: 0
            }
        );
        assert_eq!(Token::parse("-1,-1").unwrap().database, -1);
        for text in ["garbage", "1", "1,2,3", " ", "9223372036854775808,0"] {
            assert_eq!(
                Token::parse(text),
                Err(Failure::new("EVENT_FROM_TOKEN_PARSE_FAILURE", [text]))
            );
        }
    }

    #[test]
    fn subscriptions() {
        assert_eq!(Subscription::parse("*"), Subscription::All);
        assert_eq!(
            Subscription::parse("VM"),
            Subscription::Class("vm".to_owned())
        );
        assert_eq!(
            Subscription::parse("Task/OpaqueRef:A/b"),
            Subscription::Object("task".to_owned(), "OpaqueRef:A/b".to_owned())
        );
        assert!(!Subscription::parse("*/x").covers("vm", "x"));
        assert!(!Subscription::parse("").covers_class("vm"));
    }
}
