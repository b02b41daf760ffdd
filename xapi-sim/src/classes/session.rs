//! Sessions.

use std::sync::Arc;
use std::time::Duration;

use super::{Table, done, event};
use crate::db::Release;
use crate::dispatch::Handler::{Later, Now};
use crate::dispatch::Pending;
use crate::failure::{Failure, Reply};
use crate::rbac;
use crate::secret;
use crate::value::{NULL_REF, Value};
use crate::world::{Call, Login, Shared, User, World};

pub(crate) const TABLE: Table = &[
    ("session.login_with_password", Later(login)),
    ("session.slave_local_login_with_password", Later(login)),
    ("session.logout", Now(logout)),
    ("session.local_logout", Now(local_logout)),
    ("session.change_password", Now(change_password)),
    (
        "session.get_all_subject_identifiers",
        Now(get_all_subject_identifiers),
    ),
    (
        "session.logout_subject_identifier",
        Now(logout_subject_identifier),
    ),
];

/// How many sessions of one user, or of one originator of root, live side by side, and how many
/// of root without an originator.
const PER_CROWD: usize = 500;
const WITHOUT_ORIGINATOR: usize = 400;

fn login(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        let local = call.message.name != "login_with_password";
        let (name, password) = (call.text(0), call.text(1));
        let opened = shared.with(|world| try_login(world, name, password, local, call.text(3)));
        match opened {
            Ok(session) => Ok(Value::String(session)),
            Err((delay, failure)) => {
                tokio::time::sleep(delay).await;
                Err(failure)
            }
        }
    })
}

/// Opens a session, or tells how long the failure has to wait, and which it is.
pub(crate) fn try_login(
    world: &mut World,
    name: &str,
    password: &str,
    local: bool,
    originator: &str,
) -> Result<String, (Duration, Failure)> {
    let delay = world.rules.login_delay;
    let mut users = world.users.iter();
    // A host alone asks no directory.
    let user = users.find(|user| user.name == name && (!local || user.is_root()));
    let Some(user) = user.filter(|user| secret::same(&user.password, password)) else {
        let params = [name, "Authentication failure"];
        let failure = Failure::new("SESSION_AUTHENTICATION_FAILED", params);
        return Err((delay, failure));
    };
    let user = user.clone();
    let active = world.clock.seconds();
    let (role, subject) = if user.is_root() {
        ("pool-admin", NULL_REF.to_owned())
    } else {
        let subject = subject_of(world, &user.sid);
        let role = subject
            .as_deref()
            .and_then(|s| rbac::role_of_subject(world, s));
        match (role, subject) {
            (Some(role), Some(subject)) => (role, subject),
            _ => return Err((delay, not_admitted(world, &user))),
        }
    };
    let login = Login {
        superuser: user.is_root(),
        user: user.name,
        role: role.to_owned(),
        active,
        local,
    };
    open(world, login, &user.sid, subject, originator).map_err(|failure| (delay, failure))
}

fn subject_of(world: &World, sid: &str) -> Option<String> {
    let is_it = |subject: &String| {
        let known = world.db.text("subject", subject, "subject_identifier");
        known.is_ok_and(|known| known == sid)
    };
    world.db.references("subject").into_iter().find(is_it)
}

/// The failure of somebody whom the directory knows and the pool does not.
fn not_admitted(world: &World, user: &User) -> Failure {
    let code = if world.db.release() == Release::Xcpng82 {
        "SESSION_AUTHENTICATION_FAILED"
    } else {
        "SESSION_AUTHORIZATION_FAILED"
    };
    let text = format!(
        "Subject {} (identifier {}) has no access rights in this pool",
        user.name, user.sid
    );
    Failure::new(code, [user.name.clone(), text])
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
/// Another session of whoever has this one.
pub(crate) fn another(world: &mut World, session: &str) -> Result<String, Failure> {
    let login = world.sessions.get(session).cloned();
    let login = login.ok_or_else(|| Failure::session_invalid(session))?;
    let sid = world.db.text("session", session, "auth_user_sid")?;
    let subject = world.db.text("session", session, "subject")?;
    open(world, login, &sid, subject, "")
}

fn open(
    world: &mut World,
    login: Login,
    sid: &str,
    subject: String,
    originator: &str,
) -> Result<String, Failure> {
    let session = secret::reference();
    let now = Value::DateTime(world.clock.now());
    let permissions = if login.superuser {
        Vec::new()
    } else {
        rbac::permissions(world.db.release())
    };
    let rank = rbac::rank(&login.role).unwrap_or_default();
    let permissions = permissions
        .iter()
        .filter(|permission| permission.rank <= rank)
        .map(|permission| permission.name.to_lowercase());
    let values = vec![
        ("uuid", world.seed.uuid_value()),
        ("this_host", Value::String(world.coordinator())),
        ("last_active", now.clone()),
        ("is_local_superuser", Value::Bool(login.superuser)),
        ("validation_time", now),
        ("auth_user_name", Value::from(login.user.as_str())),
        ("auth_user_sid", Value::from(sid)),
        ("subject", Value::String(subject)),
        ("rbac_permissions", Value::strings(permissions)),
        ("originator", Value::from(originator)),
        ("this_user", Value::null_ref()),
    ];
    world.db.create("session", &session, values)?;
    let crowd = Crowd::of(&login, originator);
    world.sessions.insert(session.clone(), login);
    trim(world, &crowd);
    Ok(session)
}

/// Sessions that are counted together: those of a user, or of a program of root.
#[derive(Debug, PartialEq, Eq)]
enum Crowd {
    Originator(String),
    User(String),
}

impl Crowd {
    fn of(login: &Login, originator: &str) -> Self {
        if login.superuser {
            Crowd::Originator(originator.to_owned())
        } else {
            Crowd::User(login.user.clone())
        }
    }

    fn limit(&self) -> usize {
        match self {
            Crowd::Originator(originator) if originator.is_empty() => WITHOUT_ORIGINATOR,
            _ => PER_CROWD,
        }
    }
}

/// Ends the oldest sessions of a crowd that has too many. Those whose tasks run are spared.
fn trim(world: &mut World, crowd: &Crowd) {
    let Some(table) = world.db.table("session") else {
        return;
    };
    let mut mine: Vec<(i64, String)> = table
        .rows
        .iter()
        .filter(|(session, _)| {
            let originator = world.db.text("session", session, "originator");
            let login = world.sessions.get(*session);
            login.is_some_and(|login| Crowd::of(login, &originator.unwrap_or_default()) == *crowd)
        })
        .map(|(session, row)| (row.created, session.clone()))
        .collect();
    let excess = mine.len().saturating_sub(crowd.limit());
    if excess == 0 {
        return;
    }
    mine.sort_unstable();
    let idle = mine
        .into_iter()
        .filter(|(_, session)| !is_busy(world, session));
    let old: Vec<String> = idle.take(excess).map(|(_, session)| session).collect();
    for session in old {
        close(world, &session);
    }
}

/// Whether tasks of a session have not ended yet.
fn is_busy(world: &World, session: &str) -> bool {
    let db = &world.db;
    let tasks = db.list("session", session, "tasks").unwrap_or_default();
    tasks.iter().any(|task| {
        let status = db.text("task", task, "status");
        status.is_ok_and(|status| status == "pending" || status == "cancelling")
    })
}

/// Ends a session; calls that wait in it wake up and fail.
pub(crate) fn close(world: &mut World, session: &str) {
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

/// Only sessions of root get here. The server does not ask for the old password.
fn change_password(world: &mut World, call: &Call) -> Reply {
    for root in world.users.iter_mut().filter(|user| user.is_root()) {
        call.text(1).clone_into(&mut root.password);
    }
    done()
}

/// Who of the directory is logged in.
fn get_all_subject_identifiers(world: &mut World, _: &Call) -> Reply {
    let db = &world.db;
    let mut sids = Vec::new();
    for session in db.references("session") {
        let sid = db.text("session", &session, "auth_user_sid")?;
        if !sid.is_empty() && !sids.contains(&sid) {
            sids.push(sid);
        }
    }
    Ok(Value::strings(sids))
}

/// Ends all sessions of somebody, except the one that asks for it.
fn logout_subject_identifier(world: &mut World, call: &Call) -> Reply {
    let sid = call.text(0);
    for session in world.db.references("session") {
        let theirs = world.db.text("session", &session, "auth_user_sid")? == sid;
        if theirs && !sid.is_empty() && session != call.session {
            close(world, &session);
        }
    }
    done()
}
