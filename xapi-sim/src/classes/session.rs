//! Sessions.

use std::sync::Arc;

use super::{Table, done, event};
use crate::dispatch::Handler::{Later, Now};
use crate::dispatch::Pending;
use crate::failure::{Failure, Reply};
use crate::secret;
use crate::value::{NULL_REF, Value};
use crate::world::{Call, Login, Shared, World};

pub(crate) const TABLE: Table = &[
    ("session.login_with_password", Later(login)),
    ("session.slave_local_login_with_password", Later(login)),
    ("session.logout", Now(logout)),
    ("session.local_logout", Now(local_logout)),
    ("session.change_password", Now(change_password)),
    (
        "session.get_all_subject_identifiers",
        Now(|_, _| Ok(Value::Array(Vec::new()))),
    ),
    ("session.logout_subject_identifier", Now(|_, _| done())),
];

/// How many sessions of one originator live side by side, and how many without one.
const PER_ORIGINATOR: usize = 500;
const WITHOUT_ORIGINATOR: usize = 400;

fn login(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        let opened = shared.with(|world| {
            let (name, password) = (call.text(0), call.text(1));
            let user = world.users.iter().find(|user| user.name == name);
            match user.filter(|user| secret::same(&user.password, password)) {
                Some(user) => {
                    let login = Login {
                        user: user.name.clone(),
                        role: user.role.clone(),
                        active: world.clock.seconds(),
                        local: call.message.name != "login_with_password",
                    };
                    Ok(open(world, login, call.text(3)))
                }
                None => Err(world.rules.login_delay),
            }
        });
        match opened {
            Ok(reply) => reply,
            Err(delay) => {
                tokio::time::sleep(delay).await;
                let params = [call.text(0), "Authentication failure"];
                Err(Failure::new("SESSION_AUTHENTICATION_FAILED", params))
            }
        }
    })
}

/// A session that does nothing for so long, in seconds, ends.
const EXPIRY: u64 = 24 * 3600;
/// Activity is noted no more often than this.
const NOTED_EVERY: u64 = 600;

/// Notes that a session is in use, or ends it because it has not been for too long.
///
/// # Errors
///
/// `SESSION_INVALID` for a session that has ended.
pub(crate) fn touch(world: &mut World, session: &str) -> Result<(), Failure> {
    let now = world.clock.seconds();
    let idle = world
        .sessions
        .get(session)
        .map(|login| now.saturating_sub(login.active));
    match idle {
        Some(idle) if idle <= EXPIRY => {
            if idle > NOTED_EVERY
                && let Some(login) = world.sessions.get_mut(session)
            {
                login.active = now;
                let now = Value::DateTime(world.clock.now());
                world.db.set("session", session, "last_active", now)?;
            }
            Ok(())
        }
        _ => {
            close(world, session);
            Err(Failure::session_invalid(session))
        }
    }
}

/// Opens a session. Its reference is a secret, so it does not come from the seed.
pub(crate) fn open(world: &mut World, login: Login, originator: &str) -> Reply {
    let session = secret::reference();
    let now = Value::DateTime(world.clock.now());
    let values = vec![
        ("uuid", world.seed.uuid_value()),
        ("this_host", Value::String(world.coordinator())),
        ("last_active", now.clone()),
        (
            "is_local_superuser",
            Value::Bool(login.role == "pool-admin"),
        ),
        ("validation_time", now),
        ("auth_user_name", Value::from(login.user.as_str())),
        ("originator", Value::from(originator)),
        ("this_user", Value::null_ref()),
    ];
    world.db.create("session", &session, values)?;
    world.sessions.insert(session.clone(), login);
    trim(world, originator);
    Ok(Value::String(session))
}

/// Ends the oldest sessions of an originator that has too many.
fn trim(world: &mut World, originator: &str) {
    let limit = if originator.is_empty() {
        WITHOUT_ORIGINATOR
    } else {
        PER_ORIGINATOR
    };
    let Some(table) = world.db.table("session") else {
        return;
    };
    let mut mine: Vec<(i64, String)> = table
        .rows
        .iter()
        .filter(|(session, _)| {
            let found = world.db.get("session", session, "originator");
            found.is_ok_and(|value| value.as_str() == Some(originator))
        })
        .map(|(session, row)| (row.created, session.clone()))
        .collect();
    mine.sort_unstable();
    let excess = mine.len().saturating_sub(limit);
    for (_, session) in mine.into_iter().take(excess) {
        close(world, &session);
    }
}

/// Ends a session; calls that wait in it wake up and fail.
fn close(world: &mut World, session: &str) {
    world.sessions.remove(session);
    event::forget(world, session);
    // Ending what has ended is no failure.
    let _ = world.db.destroy("session", session);
}

fn logout(world: &mut World, call: &Call) -> Reply {
    close(world, &call.session);
    done()
}

/// Ends a host-local session; with an ordinary one the server says success and ends nothing.
fn local_logout(world: &mut World, call: &Call) -> Reply {
    if world
        .sessions
        .get(&call.session)
        .is_some_and(|login| login.local)
    {
        close(world, &call.session);
    }
    done()
}

fn change_password(world: &mut World, call: &Call) -> Reply {
    let login = world.sessions.get(&call.session).cloned();
    let user = login.and_then(|login| world.users.iter_mut().find(|user| user.name == login.user));
    match user {
        Some(user) if secret::same(&user.password, call.text(0)) => {
            call.text(1).clone_into(&mut user.password);
            done()
        }
        Some(user) => {
            let params = [user.name.as_str(), "Authentication failure"];
            Err(Failure::new("SESSION_AUTHENTICATION_FAILED", params))
        }
        None => Err(Failure::session_invalid(NULL_REF)),
    }
}
