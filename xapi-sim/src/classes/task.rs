//! Tasks.

use super::{Table, done, plain};
use crate::clock;
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::rbac;
use crate::value::{EPOCH, NULL_REF, Value};
use crate::world::{Call, World};
use crate::xmlrpc;

pub(crate) const TABLE: Table = &[
    ("task.create", Now(create)),
    ("task.destroy", Now(destroy)),
    ("task.cancel", Now(cancel)),
    // Writes the status and nothing else: also when it is final, `finished` stays as it was.
    ("task.set_status", Now(plain)),
    ("task.set_progress", Now(plain)),
    ("task.set_result", Now(plain)),
    ("task.set_error_info", Now(plain)),
    ("task.set_other_config", Now(plain)),
    ("task.add_to_other_config", Now(plain)),
    ("task.remove_from_other_config", Now(plain)),
];

/// Makes a pending task. `tags` are the pairs that a client put into headers.
pub(crate) fn open(
    world: &mut World,
    label: &str,
    session: &str,
    tags: &[(String, String)],
) -> Result<String, Failure> {
    let tags = tags
        .iter()
        .map(|(key, value)| (format!("http:{key}"), value.clone()));
    let values = vec![
        ("name_label", Value::from(label)),
        ("created", Value::DateTime(world.clock.now())),
        ("finished", Value::DateTime(EPOCH.to_owned())),
        ("status", Value::from("pending")),
        (
            "session",
            Value::from(if session.is_empty() {
                NULL_REF
            } else {
                session
            }),
        ),
        ("resident_on", Value::String(world.coordinator())),
        ("type", Value::from("<none/>")),
        ("other_config", Value::map(tags)),
    ];
    let task = world.create("task", values)?;
    trim(world);
    Ok(task)
}

/// Removes the oldest ended tasks when there are too many: a client may never see them end.
fn trim(world: &mut World) {
    const MAX_TASKS: usize = 200;
    let Some(table) = world.db.table("task") else {
        return;
    };
    let excess = table.rows.len().saturating_sub(MAX_TASKS);
    if excess == 0 {
        return;
    }
    let mut ended: Vec<(i64, String)> = table
        .rows
        .iter()
        .filter(|(task, _)| {
            world
                .db
                .text("task", task, "status")
                .is_ok_and(|s| is_final(&s))
        })
        .map(|(task, row)| (row.created, task.clone()))
        .collect();
    ended.sort_unstable();
    for (_, task) in ended.into_iter().take(excess) {
        // They are there, see above.
        let _ = world.db.destroy("task", &task);
    }
}

/// Removes old tasks, when it is time to look for them: those that ended over 65 minutes ago, and
/// those that have been pending for a day.
pub(crate) fn collect(world: &mut World) {
    const EVERY: u64 = 30;
    const ENDED: u64 = 65 * 60;
    const PENDING: u64 = 24 * 3600;
    let now = world.clock.seconds();
    if now < world.next_collection {
        return;
    }
    world.next_collection = now + EVERY;
    // All points in time have one form and one zone, so text tells which is earlier.
    let before = |age| clock::stamp(now.saturating_sub(age));
    let (ended, pending) = (before(ENDED), before(PENDING));
    for task in world.db.references("task") {
        let text = |field| world.db.text("task", &task, field).unwrap_or_default();
        let old = if is_final(&text("status")) {
            text("finished") < ended
        } else {
            text("created") < pending
        };
        if old {
            world.cancels.remove(&task);
            // It is there, see above.
            let _ = world.db.destroy("task", &task);
        }
    }
}

/// Writes the outcome of a task. Its result is XML-RPC whatever protocol the client speaks.
pub(crate) fn finish(world: &mut World, task: &str, reply: &Reply) {
    // The client may have destroyed the task in the meantime; then nobody asks.
    let _ = try_finish(world, task, reply);
}

fn try_finish(world: &mut World, task: &str, reply: &Reply) -> Result<(), Failure> {
    let now = Value::DateTime(world.clock.now());
    let trace = backtrace(world)?;
    let db = &mut world.db;
    db.set("task", task, "allowed_operations", Value::Array(Vec::new()))?;
    db.set(
        "task",
        task,
        "current_operations",
        Value::Struct(Vec::new()),
    )?;
    let status = match reply {
        Ok(value) => {
            db.set("task", task, "result", xmlrpc::value_text(value))?;
            "success"
        }
        Err(failure) => {
            db.set("task", task, "error_info", failure.to_value())?;
            db.set("task", task, "backtrace", trace)?;
            if failure.code == "TASK_CANCELLED" {
                "cancelled"
            } else {
                "failure"
            }
        }
    };
    db.set("task", task, "progress", 1.0)?;
    db.set("task", task, "finished", now)?;
    // The status comes last: whoever sees it final finds everything else in place.
    db.set("task", task, "status", status)
}

/// Where a call failed, in the form in which a server writes it. There is one frame, that in which
/// every call of a server runs: what is below it is no business of a client's.
fn backtrace(world: &World) -> Result<String, Failure> {
    let host = world.db.text("host", &world.coordinator(), "hostname")?;
    Ok(format!(
        "(((process\"/opt/xensource/bin/xapi @ {host}\")\
         (filename xen-api/ocaml/xapi/server_helpers.ml)(line 78)(chars_start 14)(chars_end 44)\
         (name Server_helpers.exec_with_context.exec)(is_inline false)(is_raise false)))"
    ))
}

/// Notes on a task how often the work on a domain looked whether it is cancelled.
pub(crate) fn note_cancel_points(world: &mut World, task: &str, seen: u32) {
    const KEY: &str = "debug_info:cancel_points_seen";
    let Ok(config) = world.db.get("task", task, "other_config") else {
        return;
    };
    let mut members = config.members().to_vec();
    members.retain(|(key, _)| key != KEY);
    members.insert(0, (KEY.to_owned(), Value::String(seen.to_string())));
    // It was there a moment ago, under the same lock.
    let _ = world
        .db
        .set("task", task, "other_config", Value::Struct(members));
}

fn is_final(status: &str) -> bool {
    matches!(status, "success" | "failure" | "cancelled")
}

fn create(world: &mut World, call: &Call) -> Reply {
    let task = open(world, call.text(0), &call.session, &[])?;
    world
        .db
        .set("task", &task, "name_description", call.arg(1))?;
    Ok(Value::String(task))
}

/// Tasks are their owner's; those of others take a right of its own.
fn assert_owner(world: &World, call: &Call) -> Result<(), Failure> {
    let session = world.db.text("task", call.text(0), "session")?;
    let user = |session: &str| world.sessions.get(session).map(|login| &login.user);
    if user(&session).is_some() && user(&session) == user(&call.session) {
        return Ok(());
    }
    rbac::reach(world, &call.session, "task.destroy/any", "pool-operator")
}

fn destroy(world: &mut World, call: &Call) -> Reply {
    let task = call.text(0);
    assert_owner(world, call)?;
    if is_final(&world.db.text("task", task, "status")?) {
        world.db.destroy("task", task)?;
        return done();
    }
    // A pending task stays; the key is the server's and no reference.
    let mut operations = world
        .db
        .get("task", task, "current_operations")?
        .members()
        .to_vec();
    if operations.iter().any(|(key, _)| key == "task") {
        let params = ["task", "current_operations", task, "task"];
        return Err(Failure::new("MAP_DUPLICATE_KEY", params));
    }
    operations.insert(0, ("task".to_owned(), Value::from("destroy")));
    let operations = Value::Struct(operations);
    world
        .db
        .set("task", task, "current_operations", operations)?;
    done()
}

fn cancel(world: &mut World, call: &Call) -> Reply {
    let task = call.text(0);
    assert_owner(world, call)?;
    if is_final(&world.db.text("task", task, "status")?) {
        return done();
    }
    let operations = Value::map([(call.task.as_str(), "cancel")]);
    world
        .db
        .set("task", task, "current_operations", operations)?;
    if let Some(cancel) = world.cancels.get(task) {
        cancel.send_replace(true);
    }
    done()
}
