//! Roles, subjects, and the directory service that subjects come from.
//!
//! Roles and permissions are no rows of the database: the server makes them up from its tables,
//! permissions being roles without subroles.

use super::{Table, done};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::rbac;
use crate::value::Value;
use crate::world::{Call, User, World};

pub(crate) const TABLE: Table = &[
    ("role.get_all", Now(get_all)),
    ("role.get_all_where", Now(get_all)),
    ("role.get_all_records", Now(get_all_records)),
    ("role.get_all_records_where", Now(get_all_records)),
    ("role.get_record", Now(get_record)),
    ("role.get_uuid", Now(get_field)),
    ("role.get_name_label", Now(get_field)),
    ("role.get_name_description", Now(get_field)),
    ("role.get_subroles", Now(get_field)),
    ("role.get_is_internal", Now(get_field)),
    ("role.get_by_uuid", Now(get_by_uuid)),
    ("role.get_by_name_label", Now(get_by_name_label)),
    ("role.get_permissions", Now(get_permissions)),
    ("role.get_permissions_name_label", Now(get_permission_names)),
    ("role.get_by_permission", Now(get_by_permission)),
    (
        "role.get_by_permission_name_label",
        Now(get_by_permission_name),
    ),
    ("subject.create", Now(create_subject)),
    ("subject.add_to_roles", Now(add_to_roles)),
    ("subject.remove_from_roles", Now(remove_from_roles)),
    (
        "subject.get_permissions_name_label",
        Now(get_permissions_of_subject),
    ),
    ("auth.get_subject_identifier", Now(get_subject_identifier)),
    (
        "auth.get_subject_information_from_identifier",
        Now(get_subject_information),
    ),
    ("auth.get_group_membership", Now(get_group_membership)),
];

/// A role or permission as clients see it.
struct Entry {
    reference: String,
    record: Value,
    /// What it takes to have it: that of a permission, or the role itself.
    rank: usize,
    is_role: bool,
}

/// Permissions first, then roles, as the server lists them.
fn entries(world: &World) -> Vec<Entry> {
    let release = world.db.release();
    let permissions = rbac::permissions(release);
    let marked = rbac::has_internal_roles(release);
    let entry = |name: &str, description: &str, subroles: Value, internal: bool, rank, is_role| {
        let mut record = vec![
            ("uuid".to_owned(), Value::String(rbac::uuid(name))),
            ("name_label".to_owned(), Value::String(name.to_lowercase())),
            ("name_description".to_owned(), Value::from(description)),
            ("subroles".to_owned(), subroles),
        ];
        if marked {
            record.push(("is_internal".to_owned(), Value::Bool(internal)));
        }
        Entry {
            reference: rbac::reference(name),
            record: Value::Struct(record),
            rank,
            is_role,
        }
    };
    let mut found: Vec<Entry> = permissions
        .iter()
        .map(|permission| {
            let nothing = Value::Array(Vec::new());
            let text = "A basic permission";
            entry(
                &permission.name,
                text,
                nothing,
                false,
                permission.rank,
                false,
            )
        })
        .collect();
    for role in rbac::roles(release) {
        let rank = rbac::rank(role.name).unwrap_or_default();
        let own = permissions
            .iter()
            .filter(|permission| permission.rank <= rank);
        let subroles = Value::strings(own.map(|permission| rbac::reference(&permission.name)));
        found.push(entry(
            role.name,
            role.description,
            subroles,
            role.internal,
            rank,
            true,
        ));
    }
    found
}

fn find(world: &World, reference: &str) -> Result<Entry, Failure> {
    entries(world)
        .into_iter()
        .find(|entry| entry.reference == reference)
        .ok_or_else(|| Failure::handle_invalid("role", reference))
}

fn text(entry: &Entry, field: &str) -> String {
    let value = entry.record.get(field).and_then(Value::as_str);
    value.unwrap_or_default().to_owned()
}

fn get_all(world: &mut World, _: &Call) -> Reply {
    let entries = entries(world).into_iter();
    Ok(Value::strings(entries.map(|entry| entry.reference)))
}

/// Whatever the expression, the server gives all.
fn get_all_records(world: &mut World, _: &Call) -> Reply {
    let entries = entries(world).into_iter();
    let records = entries.map(|entry| (entry.reference, entry.record));
    Ok(Value::Struct(records.collect()))
}

fn get_record(world: &mut World, call: &Call) -> Reply {
    find(world, call.text(0)).map(|entry| entry.record)
}

fn get_field(world: &mut World, call: &Call) -> Reply {
    let entry = find(world, call.text(0))?;
    let field = call.message.field.unwrap_or_default();
    Ok(entry.record.get(field).cloned().unwrap_or(Value::Nil))
}

fn get_by_uuid(world: &mut World, call: &Call) -> Reply {
    let uuid = call.text(0);
    let found = entries(world).into_iter();
    let found = found.map(|entry| (text(&entry, "uuid"), entry.reference));
    found
        .into_iter()
        .find(|(known, _)| known == uuid)
        .map(|(_, reference)| Value::String(reference))
        .ok_or_else(|| Failure::uuid_invalid("role", uuid))
}

fn get_by_name_label(world: &mut World, call: &Call) -> Reply {
    let entries = entries(world).into_iter();
    let named = entries.filter(|entry| text(entry, "name_label") == call.text(0));
    Ok(Value::strings(named.map(|entry| entry.reference)))
}

/// The permissions of a role; of a permission, itself.
fn permissions_of(world: &World, role: &str) -> Result<Vec<Entry>, Failure> {
    let role = find(world, role)?;
    let mut permissions = entries(world);
    permissions.retain(|entry| {
        if role.is_role {
            !entry.is_role && entry.rank <= role.rank
        } else {
            entry.reference == role.reference
        }
    });
    Ok(permissions)
}

fn get_permissions(world: &mut World, call: &Call) -> Reply {
    let permissions = permissions_of(world, call.text(0))?.into_iter();
    Ok(Value::strings(permissions.map(|entry| entry.reference)))
}

fn get_permission_names(world: &mut World, call: &Call) -> Reply {
    let permissions = permissions_of(world, call.text(0))?;
    let names = permissions.iter().map(|entry| text(entry, "name_label"));
    Ok(Value::strings(names))
}

/// The roles that have a permission; none for what is no permission.
fn roles_with(world: &World, wanted: impl Fn(&Entry) -> bool) -> Value {
    let entries = entries(world);
    let permission = entries.iter().find(|entry| !entry.is_role && wanted(entry));
    let Some(rank) = permission.map(|permission| permission.rank) else {
        return Value::Array(Vec::new());
    };
    let able = entries
        .iter()
        .filter(|entry| entry.is_role && entry.rank >= rank);
    Value::strings(able.map(|entry| entry.reference.clone()))
}

fn get_by_permission(world: &mut World, call: &Call) -> Reply {
    Ok(roles_with(world, |entry| entry.reference == call.text(0)))
}

fn get_by_permission_name(world: &mut World, call: &Call) -> Reply {
    Ok(roles_with(world, |entry| {
        text(entry, "name_label") == call.text(0)
    }))
}

/// Makes somebody of the directory a subject, without any role yet.
fn create_subject(world: &mut World, call: &Call) -> Reply {
    let sid = call.field_text("subject_identifier");
    for subject in world.db.references("subject") {
        if world.db.text("subject", &subject, "subject_identifier")? == sid {
            return Err(Failure::code("SUBJECT_ALREADY_EXISTS"));
        }
    }
    let information = of_directory(world, |user| user.sid == sid)?.1;
    let values = vec![
        ("subject_identifier", Value::String(sid)),
        ("other_config", information),
        ("roles", Value::Array(Vec::new())),
    ];
    world.create("subject", values).map(Value::String)
}

fn add_to_roles(world: &mut World, call: &Call) -> Reply {
    let (subject, role) = (call.text(0), call.text(1));
    let mut roles = world.db.list("subject", subject, "roles")?;
    find(world, role).map_err(|_| Failure::code("ROLE_NOT_FOUND"))?;
    if roles.iter().any(|known| known == role) {
        return Err(Failure::code("ROLE_ALREADY_EXISTS"));
    }
    roles.insert(0, role.to_owned());
    let db = &mut world.db;
    db.set("subject", subject, "roles", Value::strings(roles))?;
    done()
}

fn remove_from_roles(world: &mut World, call: &Call) -> Reply {
    let (subject, role) = (call.text(0), call.text(1));
    let mut roles = world.db.list("subject", subject, "roles")?;
    let before = roles.len();
    roles.retain(|known| known != role);
    if roles.len() == before {
        return Err(Failure::code("ROLE_NOT_FOUND"));
    }
    let db = &mut world.db;
    db.set("subject", subject, "roles", Value::strings(roles))?;
    done()
}

fn get_permissions_of_subject(world: &mut World, call: &Call) -> Reply {
    world.db.require("subject", call.text(0))?;
    let Some(role) = rbac::role_of_subject(world, call.text(0)) else {
        return Ok(Value::Array(Vec::new()));
    };
    let permissions = permissions_of(world, &rbac::reference(role))?;
    let names = permissions.iter().map(|entry| text(entry, "name_label"));
    Ok(Value::strings(names))
}

/// The sid of somebody in the directory, and what else is known of them.
fn of_directory(world: &World, wanted: impl Fn(&User) -> bool) -> Result<(String, Value), Failure> {
    let mut users = world.users.iter().filter(|user| !user.is_root()).peekable();
    if users.peek().is_none() {
        return Err(Failure::code("AUTH_IS_DISABLED"));
    }
    let user = users
        .find(|user| wanted(user))
        .ok_or_else(|| Failure::code("SUBJECT_CANNOT_BE_RESOLVED"))?;
    Ok((user.sid.clone(), rbac::information(&user.name, &user.sid)))
}

fn get_subject_identifier(world: &mut World, call: &Call) -> Reply {
    let name = call.text(0);
    // With or without the domain, as the directory service takes it.
    let name = name.rsplit_once('\\').map_or(name, |(_, name)| name);
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    of_directory(world, |user| user.name == name).map(|(sid, _)| Value::String(sid))
}

fn get_subject_information(world: &mut World, call: &Call) -> Reply {
    of_directory(world, |user| user.sid == call.text(0)).map(|(_, information)| information)
}

/// Nobody is in a group here.
fn get_group_membership(world: &mut World, call: &Call) -> Reply {
    of_directory(world, |user| user.sid == call.text(0))?;
    Ok(Value::Array(Vec::new()))
}
