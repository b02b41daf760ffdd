//! Updates: patches and ISO updates of older times, repositories of newer ones. There are no
//! packages, so that nothing is ever to be applied.

use super::{Table, done, nothing, plain, pool};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::value::{NULL_REF, Value};
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("pool_update.introduce", Now(introduce_update)),
    ("pool_update.precheck", Now(nothing)),
    ("pool_update.apply", Now(nothing)),
    ("pool_update.pool_apply", Now(nothing)),
    ("pool_update.pool_clean", Now(nothing)),
    ("pool_update.destroy", Now(destroy)),
    ("pool_update.attach", Now(nothing)),
    ("pool_update.detach", Now(nothing)),
    (
        "pool_update.resync_host",
        Now(|world, call| {
            world.db.require("host", call.text(0))?;
            done()
        }),
    ),
    ("pool_patch.apply", Now(nothing)),
    ("pool_patch.pool_apply", Now(nothing)),
    ("pool_patch.precheck", Now(nothing)),
    ("pool_patch.clean", Now(nothing)),
    ("pool_patch.pool_clean", Now(nothing)),
    ("pool_patch.destroy", Now(destroy)),
    ("pool_patch.clean_on_host", Now(nothing)),
    ("host_patch.destroy", Now(destroy)),
    ("host_patch.apply", Now(nothing)),
    ("Repository.introduce", Now(introduce)),
    ("Repository.introduce_bundle", Now(introduce_bundle)),
    ("Repository.introduce_remote_pool", Now(introduce_remote)),
    ("Repository.forget", Now(forget)),
    ("Repository.set_gpgkey_path", Now(set_key_path)),
    ("pool.set_repositories", Now(set_repositories)),
    ("pool.add_repository", Now(add_repository)),
    ("pool.remove_repository", Now(remove_repository)),
    ("pool.sync_updates", Now(sync)),
    ("pool.check_update_readiness", Now(readiness)),
    ("pool.configure_repository_proxy", Now(configure_proxy)),
    ("pool.disable_repository_proxy", Now(disable_proxy)),
    ("host.apply_updates", Now(apply_updates)),
];

fn destroy(world: &mut World, call: &Call) -> Reply {
    world.db.destroy(call.class.name, call.text(0))?;
    done()
}

/// Looks for an update on a disk, where there is none.
fn introduce_update(world: &mut World, call: &Call) -> Reply {
    let vdi = call.text(0);
    world.db.require("VDI", vdi)?;
    let text = "Missing update.xml";
    Err(Failure::new("INVALID_UPDATE", [text]))
}

fn names(call: &Call) -> Vec<(&'static str, Value)> {
    vec![
        ("name_label", call.arg(0)),
        ("name_description", call.arg(1)),
    ]
}

/// A repository with the same name, or the same address, is there once.
fn assert_new(world: &World, label: &str, url: &str) -> Result<(), Failure> {
    for repository in world.db.references("Repository") {
        let text = |field| world.db.text("Repository", &repository, field);
        if text("name_label")? == label || (!url.is_empty() && text("binary_url")? == url) {
            return Err(Failure::new("REPOSITORY_ALREADY_EXISTS", [repository]));
        }
    }
    Ok(())
}

fn assert_url(url: &str) -> Result<(), Failure> {
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"));
    match rest {
        Some(rest) if !rest.is_empty() => Ok(()),
        _ => Err(Failure::new("INVALID_BASE_URL", [url])),
    }
}

fn assert_key_path(path: &str) -> Result<(), Failure> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if path.starts_with('.') || !path.chars().all(fits) {
        return Err(Failure::new("INVALID_GPGKEY_PATH", [path]));
    }
    Ok(())
}

/// `Repository.introduce(name, description, binary_url, source_url, update, gpgkey_path)`.
fn introduce(world: &mut World, call: &Call) -> Reply {
    assert_url(call.text(2))?;
    assert_url(call.text(3))?;
    assert_key_path(call.text(5))?;
    assert_new(world, call.text(0), call.text(2))?;
    let mut values = names(call);
    values.extend([
        ("binary_url", call.arg(2)),
        ("source_url", call.arg(3)),
        ("update", call.arg(4)),
        ("gpgkey_path", call.arg(5)),
        ("origin", Value::from("remote")),
    ]);
    world.create("Repository", values).map(Value::String)
}

fn introduce_bundle(world: &mut World, call: &Call) -> Reply {
    for repository in world.db.references("Repository") {
        if world.db.text("Repository", &repository, "origin")? == "bundle" {
            let code = "BUNDLE_REPOSITORY_ALREADY_EXISTS";
            return Err(Failure::new(code, [repository]));
        }
    }
    assert_new(world, call.text(0), "")?;
    let mut values = names(call);
    values.extend([
        ("update", Value::Bool(true)),
        ("origin", Value::from("bundle")),
    ]);
    world.create("Repository", values).map(Value::String)
}

fn introduce_remote(world: &mut World, call: &Call) -> Reply {
    assert_url(call.text(2))?;
    assert_new(world, call.text(0), call.text(2))?;
    let mut values = names(call);
    values.extend([
        ("binary_url", call.arg(2)),
        ("certificate", call.arg(3)),
        ("update", Value::Bool(true)),
        ("origin", Value::from("remote_pool")),
    ]);
    world.create("Repository", values).map(Value::String)
}

/// The repositories that the pool takes updates from.
fn enabled(world: &World) -> Result<Vec<String>, Failure> {
    world.db.list("pool", &world.pool(), "repositories")
}

fn forget(world: &mut World, call: &Call) -> Reply {
    let repository = call.text(0);
    world.db.require("Repository", repository)?;
    if enabled(world)?.iter().any(|known| known == repository) {
        return Err(Failure::code("REPOSITORY_IS_IN_USE"));
    }
    world.db.destroy("Repository", repository)?;
    done()
}

fn set_key_path(world: &mut World, call: &Call) -> Reply {
    assert_key_path(call.text(1))?;
    plain(world, call)
}

/// A bundle and a remote pool go with no other repository.
fn assert_together(world: &World, repositories: &[String]) -> Result<(), Failure> {
    for repository in repositories {
        let origin = world.db.text("Repository", repository, "origin")?;
        if origin != "remote" && repositories.len() > 1 {
            return Err(Failure::code("REPO_SHOULD_BE_SINGLE_ONE_ENABLED"));
        }
    }
    Ok(())
}

fn write(world: &mut World, pool: &str, repositories: Vec<String>) -> Reply {
    pool::check(world, pool, "configure_repositories")?;
    assert_together(world, &repositories)?;
    let repositories = Value::strings(repositories);
    world.db.set("pool", pool, "repositories", repositories)?;
    done()
}

fn set_repositories(world: &mut World, call: &Call) -> Reply {
    let given = call.arg(1);
    let given = given.items().iter().filter_map(Value::as_str);
    write(world, call.text(0), given.map(str::to_owned).collect())
}

fn add_repository(world: &mut World, call: &Call) -> Reply {
    let mut repositories = world.db.list("pool", call.text(0), "repositories")?;
    world.db.require("Repository", call.text(1))?;
    if !repositories.iter().any(|known| known == call.text(1)) {
        repositories.insert(0, call.text(1).to_owned());
    }
    write(world, call.text(0), repositories)
}

fn remove_repository(world: &mut World, call: &Call) -> Reply {
    let mut repositories = world.db.list("pool", call.text(0), "repositories")?;
    repositories.retain(|known| known != call.text(1));
    write(world, call.text(0), repositories)
}

/// No repository can be reached from here.
fn sync(world: &mut World, call: &Call) -> Reply {
    pool::check(world, call.text(0), "sync_updates")?;
    if enabled(world)?.is_empty() {
        return Err(Failure::code("NO_REPOSITORY_ENABLED"));
    }
    Err(Failure::code("REPOSYNC_FAILED"))
}

fn readiness(world: &mut World, call: &Call) -> Reply {
    world.db.require("pool", call.text(0))?;
    let mut problems = Vec::new();
    for host in world.db.references("host") {
        let metrics = world.db.text("host", &host, "metrics")?;
        if !world.db.flag("host_metrics", &metrics, "live")? {
            problems.push(Value::strings(["HOST_NOT_LIVE".to_owned(), host]));
        }
    }
    Ok(Value::Array(problems))
}

fn configure_proxy(world: &mut World, call: &Call) -> Reply {
    let (pool, url, user, password) = (call.text(0), call.text(1), call.text(2), call.text(3));
    world.db.require("pool", pool)?;
    if assert_url(url).is_err() {
        return Err(Failure::new("INVALID_REPOSITORY_PROXY_URL", [url]));
    }
    if user.is_empty() != password.is_empty() {
        return Err(Failure::code("INVALID_REPOSITORY_PROXY_CREDENTIAL"));
    }
    disable(world, pool)?;
    if !password.is_empty() {
        let secret = world.create("secret", vec![("value", Value::from(password))])?;
        world
            .db
            .set("pool", pool, "repository_proxy_password", secret)?;
    }
    world.db.set("pool", pool, "repository_proxy_url", url)?;
    world
        .db
        .set("pool", pool, "repository_proxy_username", user)?;
    done()
}

fn disable_proxy(world: &mut World, call: &Call) -> Reply {
    disable(world, call.text(0))?;
    done()
}

fn disable(world: &mut World, pool: &str) -> Result<(), Failure> {
    let secret = world.db.text("pool", pool, "repository_proxy_password")?;
    if world.db.exists("secret", &secret) {
        world.db.destroy("secret", &secret)?;
    }
    let db = &mut world.db;
    db.set("pool", pool, "repository_proxy_password", NULL_REF)?;
    db.set("pool", pool, "repository_proxy_url", "")?;
    db.set("pool", pool, "repository_proxy_username", "")
}

/// `host.apply_updates(self, hash)`: the hash is that of the newest synchronisation, of which there
/// has been none.
fn apply_updates(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    if enabled(world)?.is_empty() {
        return Err(Failure::code("NO_REPOSITORY_ENABLED"));
    }
    Err(Failure::code("UPDATEINFO_HASH_MISMATCH"))
}
