//! Who may do what: the roles, what they permit, and the users that have them.
//!
//! `root` may do everything. Everybody else comes from a directory service, as the server sees it,
//! and is a subject of the pool with roles.

use md5::{Digest as _, Md5};
use xapi_client::meta::{self, Class, Field, Message, State};

use crate::db::Release;
use crate::failure::Failure;
use crate::seed::uuid_text;
use crate::value::Value;
use crate::world::{Call, User, World};

/// A role: its name, what it is for, and whether it is only for the server's own use.
pub(crate) struct Role {
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    pub(crate) internal: bool,
}

const fn role(name: &'static str, description: &'static str) -> Role {
    Role {
        name,
        description,
        internal: false,
    }
}

/// The roles, the weakest first: each may do what those before it may.
const ROLES: [Role; 7] = [
    role(
        "read-only",
        "The Read-Only role can log in with basic read-only access",
    ),
    Role {
        internal: true,
        ..role(
            "client-cert",
            "The role assigned to sessions authenticated by a client certificate",
        )
    },
    role(
        "vm-operator",
        "The VM Operator role can use VMs and interact with VM consoles",
    ),
    role(
        "vm-admin",
        "The VM Administrator role can manage VMs and templates",
    ),
    role(
        "vm-power-admin",
        "The VM Power Administrator role has full access to VM and template management and can \
         choose where to start VMs and use the dynamic memory control and VM snapshot features",
    ),
    role(
        "pool-operator",
        "The Pool Operator role manages host- and pool-wide resources, including setting up \
         storage, creating resource pools and managing patches, high availability (HA) and \
         workload balancing (WLB)",
    ),
    role(
        "pool-admin",
        "The Pool Administrator role has full access to all features and settings, including \
         accessing Dom0 and managing subjects, roles and external authentication",
    ),
];

/// The order in which the server lists roles: that of its generated tables, not of their powers.
const LISTED: [&str; 7] = [
    "vm-power-admin",
    "vm-admin",
    "vm-operator",
    "client-cert",
    "read-only",
    "pool-admin",
    "pool-operator",
];

/// How much a role may do; `None` for one that does not exist.
pub(crate) fn rank(name: &str) -> Option<usize> {
    ROLES.iter().position(|role| role.name == name)
}

/// Whether a user can be given this role.
pub(crate) fn is_for_users(name: &str) -> bool {
    rank(name).is_some_and(|rank| !ROLES[rank].internal)
}

/// The names of the roles that users can have, the weakest first.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    let roles = ROLES.iter().filter(|role| !role.internal);
    roles.map(|role| role.name)
}

/// The roles of a release, in the server's order. Internal ones came with the flag that marks them.
pub(crate) fn roles(release: Release) -> impl Iterator<Item = &'static Role> {
    let marked = has_internal_roles(release);
    let listed = LISTED.iter().filter_map(|name| Some(&ROLES[rank(name)?]));
    listed.filter(move |role| marked || !role.internal)
}

/// Whether roles of a release say that they are internal.
pub(crate) fn has_internal_roles(release: Release) -> bool {
    let field = meta::class("role").and_then(|class| class.field("is_internal"));
    field.is_some_and(|field| release.has(field.absent_in_xcpng))
}

/// The uuid of a role or permission: the server derives it from the name.
pub(crate) fn uuid(name: &str) -> String {
    let digest: [u8; 16] = Md5::digest(name).into();
    uuid_text(u128::from_be_bytes(digest))
}

/// The reference of a role or permission.
pub(crate) fn reference(name: &str) -> String {
    format!("OpaqueRef:{}", uuid(name))
}

/// The right to call a message, or to write a key of a map with it.
pub(crate) struct Permission {
    /// `VM.add_to_other_config/key:folder`; the server shows it in lower case.
    pub(crate) name: String,
    /// The rank of the weakest role that has it.
    pub(crate) rank: usize,
}

/// All permissions of a release.
pub(crate) fn permissions(release: Release) -> Vec<Permission> {
    let classes = meta::CLASSES.iter();
    let classes = classes.filter(|class| release.has(class.absent_in_xcpng));
    let mut found = Vec::new();
    for class in classes {
        let messages = class.messages.iter();
        for message in messages.filter(|message| release.has(message.absent_in_xcpng)) {
            let Some(least) = rank(message.min_role) else {
                continue;
            };
            if message.state == State::Removed {
                continue;
            }
            found.push(Permission {
                name: message.wire_name.to_owned(),
                rank: least,
            });
            for (key, role) in guarded_keys(class, message) {
                found.push(Permission {
                    name: format!("{}/key:{key}", message.wire_name),
                    rank: rank(role).unwrap_or(least),
                });
            }
        }
    }
    found
}

/// The keys with a role of their own, for a message that adds or removes one key.
fn guarded_keys(
    class: &'static Class,
    message: &Message,
) -> &'static [(&'static str, &'static str)] {
    let name = ["add_to_", "remove_from_"]
        .iter()
        .find_map(|prefix| message.name.strip_prefix(prefix));
    let field: Option<&'static Field> = name.and_then(|name| class.field(name));
    field.map_or(&[], |field| field.map_keys_min_role)
}

/// Refuses a call that the session's role does not reach.
pub(crate) fn permit(world: &World, call: &Call) -> Result<(), Failure> {
    let key = guarded_keys(call.class, call.message)
        .iter()
        .find(|(key, _)| match key.strip_suffix('*') {
            Some(beginning) => call.text(1).starts_with(beginning),
            None => call.text(1) == *key,
        });
    let (permission, role) = match key {
        Some((key, role)) => (format!("{}/key:{key}", call.message.wire_name), *role),
        None => (call.message.wire_name.to_owned(), call.message.min_role),
    };
    reach(world, &call.session, &permission, role)
}

/// Refuses what the role of a session does not reach. Without a session nothing is refused.
pub(crate) fn reach(
    world: &World,
    session: &str,
    permission: &str,
    role: &str,
) -> Result<(), Failure> {
    let Some(login) = world.sessions.get(session) else {
        return Ok(());
    };
    if login.superuser {
        return Ok(());
    }
    // A role that nobody knows is one that nobody has: only root gets through.
    let needed = rank(role).unwrap_or(ROLES.len());
    if rank(&login.role).is_some_and(|rank| rank >= needed) {
        return Ok(());
    }
    let able = roles(world.db.release()).filter(|role| rank(role.name) >= Some(needed));
    let able: Vec<&str> = able.map(|role| role.name).collect();
    let text = format!(
        "No permission in user session. (Roles with this permission: {})",
        able.join(", ")
    );
    Err(Failure::new(
        "RBAC_PERMISSION_DENIED",
        [permission.to_lowercase(), text],
    ))
}

/// The strongest of a subject's roles, if it has any.
pub(crate) fn role_of_subject(world: &World, subject: &str) -> Option<&'static str> {
    let references = world.db.list("subject", subject, "roles").ok()?;
    let has = |role: &&Role| references.contains(&reference(role.name));
    let strongest = ROLES.iter().rev().find(has)?;
    Some(strongest.name)
}

/// The name of the directory service that users come from.
const DOMAIN: &str = "simulator.example";

/// Adds a user to the directory and, with a role, to the subjects of the pool.
pub(crate) fn admit(
    world: &mut World,
    name: &str,
    password: &str,
    role: Option<&str>,
) -> Result<(), Failure> {
    let number = 1104 + world.users.len();
    let sid = format!("S-1-5-21-397955417-626881126-188441444-{number}");
    world.users.push(User {
        name: name.to_owned(),
        password: password.to_owned(),
        sid: sid.clone(),
    });
    for host in world.db.references("host") {
        let db = &mut world.db;
        db.set("host", &host, "external_auth_type", "AD")?;
        db.set("host", &host, "external_auth_service_name", DOMAIN)?;
    }
    if let Some(role) = role {
        let values = vec![
            ("subject_identifier", Value::from(sid.as_str())),
            ("other_config", information(name, &sid)),
            ("roles", Value::strings([reference(role)])),
        ];
        world.create("subject", values)?;
    }
    Ok(())
}

/// What the directory knows of a user.
pub(crate) fn information(name: &str, sid: &str) -> Value {
    Value::map([
        ("subject-name", format!("{DOMAIN}\\{name}")),
        ("subject-upn", format!("{name}@{DOMAIN}")),
        ("subject-sid", sid.to_owned()),
        ("subject-gecos", name.to_owned()),
        ("subject-displayname", name.to_owned()),
        ("subject-is-group", "false".to_owned()),
        ("subject-account-disabled", "false".to_owned()),
        ("subject-account-expired", "false".to_owned()),
        ("subject-account-locked", "false".to_owned()),
        ("subject-password-expired", "false".to_owned()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_the_servers() {
        assert_eq!(uuid("pool-admin"), "0165f154-ba3e-034e-6b27-5d271af109ba");
        assert_eq!(uuid("read-only"), "7233b8e3-eacb-d7da-2c95-f2e581cdbf4e");
    }

    #[test]
    fn stronger_roles_have_all_that_weaker_ones_have() {
        let permissions = permissions(Release::Xcpng83);
        let may = |role: &str, name: &str| {
            let found = permissions.iter().find(|p| p.name == name).unwrap();
            rank(role).unwrap() >= found.rank
        };
        assert!(may("vm-operator", "VM.start"));
        assert!(!may("vm-operator", "VM.destroy"));
        assert!(may("pool-admin", "VM.destroy"));
        assert!(may("vm-operator", "VM.add_to_other_config/key:folder"));
        assert!(!may("pool-operator", "VM.add_to_other_config/key:pci"));
    }

    #[test]
    fn the_internal_role_came_with_its_mark() {
        let names = |release| roles(release).map(|role| role.name).collect::<Vec<_>>();
        assert_eq!(names(Release::Xcpng82).len(), 6);
        assert!(names(Release::Xcpng83).contains(&"client-cert"));
    }
}
