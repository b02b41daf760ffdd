//! Certificates that hosts show and pools trust.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use xapi_client::Fingerprint;

use super::{Table, done, pool};
use crate::dispatch::Handler::{Later, Now};
use crate::dispatch::Pending;
use crate::failure::{Failure, Reply};
use crate::value::Value;
use crate::world::{Call, Shared, World};

pub(crate) const TABLE: Table = &[
    ("host.get_server_certificate", Later(of_host)),
    (
        "pool.install_ca_certificate",
        Now(|world, call| install(world, call.text(0), call.text(1))),
    ),
    (
        "pool.certificate_install",
        Now(|world, call| install(world, call.text(0), call.text(1))),
    ),
    (
        "pool.uninstall_ca_certificate",
        Now(|world, call| uninstall(world, call.text(0), call.flag(1))),
    ),
    (
        "pool.certificate_uninstall",
        Now(|world, call| uninstall(world, call.text(0), false)),
    ),
    ("pool.certificate_list", Now(list)),
    ("pool.crl_install", Now(install_crl)),
    ("pool.crl_uninstall", Now(uninstall_crl)),
    (
        "pool.crl_list",
        Now(|world, _| Ok(Value::strings(world.crls.iter().cloned()))),
    ),
    ("pool.enable_tls_verification", Now(enable_verification)),
    (
        "host.emergency_disable_tls_verification",
        Now(|world, call| set_verification(world, call, false)),
    ),
    (
        "host.emergency_reenable_tls_verification",
        Now(|world, call| set_verification(world, call, true)),
    ),
    (
        "pool.enable_client_certificate_auth",
        Now(enable_client_auth),
    ),
    (
        "pool.disable_client_certificate_auth",
        Now(disable_client_auth),
    ),
];

/// The certificate that a host shows, or would show if it were served.
fn of_host(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        let host = call.text(0);
        shared.with(|world| world.db.require("host", host))?;
        let pem = shared.certificate_of(host).await;
        pem.map(Value::String)
            .map_err(|error| Failure::internal_failure(&error.to_string()))
    })
}

/// Notes which certificate a host shows.
pub(crate) fn note(world: &mut World, host: &str, pem: &str) -> Result<(), Failure> {
    for old in world.db.references("Certificate") {
        let text = |field| world.db.text("Certificate", &old, field);
        if text("host")? == host && text("type")? == "host" {
            world.db.destroy("Certificate", &old)?;
        }
    }
    add(world, "", "host", host, pem)
}

fn add(world: &mut World, name: &str, kind: &str, host: &str, pem: &str) -> Result<(), Failure> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes());
    let der = der.map_err(|_| Failure::new("CERTIFICATE_CORRUPT", [name]))?;
    let (from, until) =
        crate::tls::validity(&der).ok_or_else(|| Failure::new("CERTIFICATE_CORRUPT", [name]))?;
    let fingerprint = Fingerprint::of(&der).to_string();
    let values = vec![
        ("name", Value::from(name)),
        ("type", Value::from(kind)),
        ("host", Value::from(host)),
        ("not_before", Value::DateTime(from)),
        ("not_after", Value::DateTime(until)),
        ("fingerprint", Value::String(fingerprint.clone())),
        ("fingerprint_sha256", Value::String(fingerprint)),
    ];
    world.create("Certificate", values).map(drop)
}

/// Names become names of files.
fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && !name.starts_with('.') && name.chars().all(fits)
}

/// The certificates of authorities that the pool trusts.
fn authorities(world: &World) -> Vec<(String, String)> {
    let text = |it: &String, field| world.db.text("Certificate", it, field).unwrap_or_default();
    let all = world.db.references("Certificate").into_iter();
    all.filter(|it| text(it, "type") == "ca")
        .map(|it| (text(&it, "name"), it))
        .collect()
}

fn install(world: &mut World, name: &str, pem: &str) -> Reply {
    if !is_name(name) {
        return Err(Failure::new("CERTIFICATE_NAME_INVALID", [name]));
    }
    if authorities(world).iter().any(|(known, _)| known == name) {
        return Err(Failure::new("CERTIFICATE_ALREADY_EXISTS", [name]));
    }
    add(world, name, "ca", crate::value::NULL_REF, pem)?;
    done()
}

fn uninstall(world: &mut World, name: &str, force: bool) -> Reply {
    if !is_name(name) {
        return Err(Failure::new("CERTIFICATE_NAME_INVALID", [name]));
    }
    let known = authorities(world);
    match known.into_iter().find(|(known, _)| known == name) {
        Some((_, certificate)) => world.db.destroy("Certificate", &certificate)?,
        None if force => {}
        None => return Err(Failure::new("CERTIFICATE_DOES_NOT_EXIST", [name])),
    }
    done()
}

fn list(world: &mut World, _: &Call) -> Reply {
    let names = authorities(world).into_iter().map(|(name, _)| name);
    Ok(Value::strings(names))
}

fn install_crl(world: &mut World, call: &Call) -> Reply {
    let (name, text) = (call.text(0), call.text(1));
    if !is_name(name) {
        return Err(Failure::new("CRL_NAME_INVALID", [name]));
    }
    if world.crls.contains(name) {
        return Err(Failure::new("CRL_ALREADY_EXISTS", [name]));
    }
    if !text.contains("-----BEGIN X509 CRL-----") {
        return Err(Failure::new("CRL_CORRUPT", [name]));
    }
    world.crls.insert(name.to_owned());
    done()
}

fn uninstall_crl(world: &mut World, call: &Call) -> Reply {
    if world.crls.remove(call.text(0)) {
        done()
    } else {
        Err(Failure::new("CRL_DOES_NOT_EXIST", [call.text(0)]))
    }
}

fn enable_verification(world: &mut World, _: &Call) -> Reply {
    let pool = world.pool();
    pool::check(world, &pool, "tls_verification_enable")?;
    world
        .db
        .set("pool", &pool, "tls_verification_enabled", true)?;
    for host in world.db.references("host") {
        world
            .db
            .set("host", &host, "tls_verification_enabled", true)?;
    }
    done()
}

/// Only for the host that is asked.
fn set_verification(world: &mut World, call: &Call, enabled: bool) -> Reply {
    if enabled
        && !world
            .db
            .flag("pool", &world.pool(), "tls_verification_enabled")?
    {
        return Err(Failure::code("TLS_VERIFICATION_NOT_ENABLED_IN_POOL"));
    }
    world
        .db
        .set("host", &call.host, "tls_verification_enabled", enabled)?;
    done()
}

fn enable_client_auth(world: &mut World, call: &Call) -> Reply {
    let (pool, name) = (call.text(0), call.text(1));
    let db = &mut world.db;
    db.set("pool", pool, "client_certificate_auth_enabled", true)?;
    db.set("pool", pool, "client_certificate_auth_name", name)?;
    done()
}

fn disable_client_auth(world: &mut World, call: &Call) -> Reply {
    let pool = call.text(0);
    let db = &mut world.db;
    db.set("pool", pool, "client_certificate_auth_enabled", false)?;
    db.set("pool", pool, "client_certificate_auth_name", "")?;
    done()
}
