//! Certificates that the pool trusts for what they are meant for, and lists of revoked ones.

use super::certificate::{Read, is_name};
use super::{Table, done};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::value::Value;
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    ("pool.install_trusted_certificate", Now(install_one)),
    ("pool.uninstall_trusted_certificate", Now(uninstall)),
    ("pool.sync_trusted_certificates_from", Now(sync_from)),
    ("pool.exchange_trusted_certificates_on_join", Now(exchange)),
    ("pool.exchange_crls_on_join", Now(exchange_crls)),
    (
        "pool.crl_install",
        Now(|world, call| install_crl(world, call.text(0), call.text(1))),
    ),
    ("pool.crl_uninstall", Now(uninstall_crl)),
    (
        "pool.crl_list",
        Now(|world, _| Ok(Value::strings(world.crls.keys().cloned()))),
    ),
];

/// `pool.install_trusted_certificate(pool, ca, cert, purpose)`
fn install_one(world: &mut World, call: &Call) -> Reply {
    world.db.require("pool", call.text(0))?;
    install(world, call.flag(1), call.text(2), &call.arg(3))
}

/// One that is pinned is for one server, and so for a purpose; an authority may be for any.
fn install(world: &mut World, ca: bool, pem: &str, purposes: &Value) -> Reply {
    if !ca && purposes.items().is_empty() {
        return Err(Failure::code("CERTIFICATE_LACKS_PURPOSE"));
    }
    let read = Read::from_pem(pem);
    let read = read.ok_or_else(|| Failure::code("TRUSTED_CERTIFICATE_INVALID"))?;
    let now = world.clock.now();
    for (outside, what, bound) in [
        (now < read.not_before, "NOT_VALID_YET", &read.not_before),
        (now > read.not_after, "EXPIRED", &read.not_after),
    ] {
        if outside {
            let code = format!("TRUSTED_CERTIFICATE_{what}");
            return Err(Failure::new(code, [&now, bound]));
        }
    }
    let kind = if ca { "ca" } else { "pinned" };
    if is_installed(world, kind, &read.sha256, purposes)? {
        return Err(Failure::new(
            "TRUSTED_CERTIFICATE_ALREADY_EXISTS",
            [read.sha256],
        ));
    }
    let mut values = read.fields();
    values.extend([("type", Value::from(kind)), ("purpose", purposes.clone())]);
    let record = world.create("Certificate", values)?;
    world.trusted.insert(record, pem.to_owned());
    done()
}

/// Whether the pool trusts a certificate already for one of these purposes, or for all.
fn is_installed(
    world: &World,
    kind: &str,
    fingerprint: &str,
    purposes: &Value,
) -> Result<bool, Failure> {
    for known in world.trusted.keys() {
        let text = |field| world.db.text("Certificate", known, field);
        if text("type")? != kind || text("fingerprint_sha256")? != fingerprint {
            continue;
        }
        let others = world.db.get("Certificate", known, "purpose")?.items();
        let wanted = purposes.items();
        let both_for_all = others.is_empty() && wanted.is_empty();
        if both_for_all || wanted.iter().any(|purpose| others.contains(purpose)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `pool.uninstall_trusted_certificate(pool, certificate)`
fn uninstall(world: &mut World, call: &Call) -> Reply {
    world.db.require("pool", call.text(0))?;
    let record = call.text(1);
    world.db.require("Certificate", record)?;
    if world.trusted.remove(record).is_none() {
        // That of a host, or one that was installed by name.
        return Err(Failure::new("NOT_TRUSTED_CERTIFICATE", [record]));
    }
    world.db.destroy("Certificate", record)?;
    done()
}

/// `pool.sync_trusted_certificates_from(pool, remote pool, ...)`: there is no other pool to reach.
fn sync_from(world: &mut World, call: &Call) -> Reply {
    world.db.require("pool", call.text(0))?;
    Err(Failure::new("CANNOT_CONTACT_HOST", [call.text(1)]))
}

/// `pool.exchange_trusted_certificates_on_join(pool, ca, import, export)`: takes those that the pool
/// does not trust yet, and gives those that are asked for, each with its purposes.
fn exchange(world: &mut World, call: &Call) -> Reply {
    world.db.require("pool", call.text(0))?;
    let mut given = Vec::new();
    for record in call.arg(3).items().iter().filter_map(Value::as_str) {
        let purposes = world.db.get("Certificate", record, "purpose")?.clone();
        let pem = world.trusted.get(record);
        let pem = pem.ok_or_else(|| Failure::new("NOT_TRUSTED_CERTIFICATE", [record]))?;
        given.push((pem.clone(), purposes));
    }
    for (pem, purposes) in call.arg(2).members() {
        match install(world, call.flag(1), pem, purposes) {
            Err(failure) if failure.code == "TRUSTED_CERTIFICATE_ALREADY_EXISTS" => {}
            installed => drop(installed?),
        }
    }
    Ok(Value::Struct(given))
}

/// `pool.exchange_crls_on_join(pool, import, export)`
fn exchange_crls(world: &mut World, call: &Call) -> Reply {
    world.db.require("pool", call.text(0))?;
    let mut given = Vec::new();
    for name in call.arg(2).items().iter().filter_map(Value::as_str) {
        let text = world.crls.get(name);
        let text = text.ok_or_else(|| Failure::new("CRL_DOES_NOT_EXIST", [name]))?;
        given.push((name.to_owned(), Value::from(text.as_str())));
    }
    for (name, text) in call.arg(1).members() {
        if !world.crls.contains_key(name) {
            install_crl(world, name, text.as_str().unwrap_or_default())?;
        }
    }
    Ok(Value::Struct(given))
}

fn install_crl(world: &mut World, name: &str, text: &str) -> Reply {
    if !is_name(name) {
        return Err(Failure::new("CRL_NAME_INVALID", [name]));
    }
    if world.crls.contains_key(name) {
        return Err(Failure::new("CRL_ALREADY_EXISTS", [name]));
    }
    if !text.contains("-----BEGIN X509 CRL-----") {
        return Err(Failure::new("CRL_CORRUPT", [name]));
    }
    world.crls.insert(name.to_owned(), text.to_owned());
    done()
}

fn uninstall_crl(world: &mut World, call: &Call) -> Reply {
    if world.crls.remove(call.text(0)).is_some() {
        done()
    } else {
        Err(Failure::new("CRL_DOES_NOT_EXIST", [call.text(0)]))
    }
}
