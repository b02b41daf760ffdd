//! Certificates that hosts show and pools trust.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use xapi_client::{Fingerprint, meta};

use super::{Table, done, pool};
use crate::dispatch::Handler::{Later, Now};
use crate::dispatch::Pending;
use crate::failure::{Failure, Reply};
use crate::tls::{self, HostKey, Identity, Refusal};
use crate::value::Value;
use crate::world::{Call, Shared, World};

pub(crate) const TABLE: Table = &[
    ("host.get_server_certificate", Later(of_host)),
    ("host.install_server_certificate", Later(replace)),
    ("host.reset_server_certificate", Later(reset)),
    ("host.emergency_reset_server_certificate", Later(reset)),
    // That is the one which hosts show each other.
    ("host.refresh_server_certificate", Now(known_host)),
    ("pool.exchange_certificates_on_join", Later(exchange)),
    (
        "pool.exchange_ca_certificates_on_join",
        Now(exchange_authorities),
    ),
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

/// `host.install_server_certificate(host, certificate, private_key, certificate_chain)`
fn replace(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        let host = call.text(0);
        let now = shared.with(|world| {
            world.db.require("host", host)?;
            Ok(world.clock.now())
        })?;
        let made = Identity::given(call.text(1), call.text(2), call.text(3), &now);
        let identity = made.map_err(|refusal| refused(refusal, now))?;
        shared.replace_certificate(host, &identity);
        done()
    })
}

/// What a host says of a certificate that it does not take.
fn refused(refusal: Refusal, now: String) -> Failure {
    let (what, params) = match refusal {
        Refusal::Key => ("KEY_INVALID", vec![]),
        Refusal::KeyAlgorithm(oid) => ("KEY_ALGORITHM_NOT_SUPPORTED", vec![oid.to_owned()]),
        Refusal::KeyLength(bits) => ("KEY_RSA_LENGTH_NOT_SUPPORTED", vec![bits.to_string()]),
        Refusal::KeyMismatch => ("KEY_MISMATCH", vec![]),
        Refusal::Certificate => ("INVALID", vec![]),
        Refusal::NotYet(from) => ("NOT_VALID_YET", vec![now, from]),
        Refusal::Expired(until) => ("EXPIRED", vec![now, until]),
        Refusal::Signature => ("SIGNATURE_NOT_SUPPORTED", vec![]),
        Refusal::Chain => ("CHAIN_INVALID", vec![]),
    };
    Failure::new(format!("SERVER_CERTIFICATE_{what}"), params)
}

/// Lets a host, if none is named the one that is asked, show a fresh certificate with a key of its
/// own.
fn reset(shared: Arc<Shared>, call: Arc<Call>) -> Pending {
    Box::pin(async move {
        let host = match call.text(0) {
            "" => call.host.as_str(),
            host => host,
        };
        let address = shared.with(|world| world.db.text("host", host, "address"))?;
        let address = address.parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let key = HostKey::default();
        let made = Identity::new(&tls::Certificate::default(), &key, address).await;
        let identity = made.map_err(|error| Failure::internal_failure(&error.to_string()))?;
        shared.replace_certificate(host, &identity);
        done()
    })
}

/// The fingerprint of the coordinator's certificate, of the kind that a client asks for. None is no
/// failure: of an unknown kind, and from 8.2, which knows none.
pub(crate) async fn of_coordinator(shared: &Shared, kind: &str) -> Option<String> {
    let field = match kind {
        "sha-256:master" => "fingerprint_sha256",
        "sha-1:master" => "fingerprint_sha1",
        _ => return None,
    };
    let (release, coordinator) = shared.with(|world| (world.db.release(), world.coordinator()));
    let known = meta::class("Certificate").and_then(|class| class.field(field));
    if !known.is_some_and(|known| release.has(known.absent_in_xcpng)) {
        return None;
    }
    // One that nobody serves gets its certificate only now.
    if let Err(error) = shared.certificate_of(&coordinator).await {
        tracing::warn!(%error, "the coordinator has no certificate");
    }
    shared.with(|world| {
        let found = shown_by(world, &coordinator).ok()?;
        world.db.text("Certificate", &found?, field).ok()
    })
}

fn known_host(world: &mut World, call: &Call) -> Reply {
    world.db.require("host", call.text(0))?;
    done()
}

/// `pool.exchange_certificates_on_join(uuid, certificate)`: those of the pool for that of a host that
/// wants to join it.
fn exchange(shared: Arc<Shared>, _: Arc<Call>) -> Pending {
    Box::pin(async move {
        let mut certificates = Vec::new();
        for host in shared.with(|world| world.db.references("host")) {
            let uuid = shared.with(|world| world.db.text("host", &host, "uuid"))?;
            let pem = shared.certificate_of(&host).await;
            let pem = pem.map_err(|error| Failure::internal_failure(&error.to_string()))?;
            certificates.push((uuid, pem));
        }
        Ok(Value::map(certificates))
    })
}

/// `pool.exchange_ca_certificates_on_join(import, export)`: takes the authorities that the pool does
/// not know yet, and gives those that are asked for.
fn exchange_authorities(world: &mut World, call: &Call) -> Reply {
    let mut given = Vec::new();
    for certificate in call.arg(1).items() {
        let certificate = certificate.as_str().unwrap_or_default();
        let name = world.db.text("Certificate", certificate, "name")?;
        let pem = world.authorities.get(&name).cloned().unwrap_or_default();
        given.push((name, pem));
    }
    for (name, pem) in call.arg(0).members() {
        if !world.authorities.contains_key(name) {
            install(world, name, pem.as_str().unwrap_or_default())?;
        }
    }
    Ok(Value::map(given))
}

/// Notes which certificate a host shows.
pub(crate) fn note(world: &mut World, host: &str, pem: &str) -> Result<(), Failure> {
    if let Some(old) = shown_by(world, host)? {
        world.db.destroy("Certificate", &old)?;
    }
    add(world, "", "host", host, pem)
}

/// The record of the certificate that a host shows.
fn shown_by(world: &World, host: &str) -> Result<Option<String>, Failure> {
    for found in world.db.references("Certificate") {
        let text = |field| world.db.text("Certificate", &found, field);
        if text("host")? == host && text("type")? == "host" {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn add(world: &mut World, name: &str, kind: &str, host: &str, pem: &str) -> Result<(), Failure> {
    let read = Read::from_pem(pem).ok_or_else(|| Failure::new("CERTIFICATE_CORRUPT", [name]))?;
    let mut values = read.fields();
    values.extend([
        ("name", Value::from(name)),
        ("type", Value::from(kind)),
        ("host", Value::from(host)),
    ]);
    world.create("Certificate", values).map(drop)
}

/// What a certificate tells of itself.
pub(super) struct Read {
    pub(super) not_before: String,
    pub(super) not_after: String,
    pub(super) sha256: String,
    sha1: String,
}

impl Read {
    /// `None` for a text that is no certificate.
    pub(super) fn from_pem(pem: &str) -> Option<Read> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        let (not_before, not_after) = tls::validity(&der)?;
        let sha1 = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &der);
        let octets: Vec<String> = sha1.as_ref().iter().map(|b| format!("{b:02X}")).collect();
        Some(Read {
            not_before,
            not_after,
            sha256: Fingerprint::of(&der).to_string(),
            sha1: octets.join(":"),
        })
    }

    /// As fields of a record.
    pub(super) fn fields(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("not_before", Value::DateTime(self.not_before.clone())),
            ("not_after", Value::DateTime(self.not_after.clone())),
            ("fingerprint", Value::from(self.sha256.as_str())),
            ("fingerprint_sha256", Value::from(self.sha256.as_str())),
            ("fingerprint_sha1", Value::from(self.sha1.as_str())),
        ]
    }
}

/// Names become names of files.
pub(super) fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && !name.starts_with('.') && name.chars().all(fits)
}

/// The record of an authority that the pool trusts.
fn authority(world: &World, name: &str) -> Option<String> {
    let is = |it: &String, field, value: &str| {
        world
            .db
            .text("Certificate", it, field)
            .is_ok_and(|text| text == value)
    };
    let all = world.db.references("Certificate").into_iter();
    all.into_iter()
        .find(|it| is(it, "type", "ca") && is(it, "name", name))
}

fn install(world: &mut World, name: &str, pem: &str) -> Reply {
    if !is_name(name) {
        return Err(Failure::new("CERTIFICATE_NAME_INVALID", [name]));
    }
    if world.authorities.contains_key(name) {
        return Err(Failure::new("CERTIFICATE_ALREADY_EXISTS", [name]));
    }
    add(world, name, "ca", crate::value::NULL_REF, pem)?;
    world.authorities.insert(name.to_owned(), pem.to_owned());
    done()
}

fn uninstall(world: &mut World, name: &str, force: bool) -> Reply {
    if !is_name(name) {
        return Err(Failure::new("CERTIFICATE_NAME_INVALID", [name]));
    }
    if world.authorities.remove(name).is_none() && !force {
        return Err(Failure::new("CERTIFICATE_DOES_NOT_EXIST", [name]));
    }
    if let Some(record) = authority(world, name) {
        world.db.destroy("Certificate", &record)?;
    }
    done()
}

fn list(world: &mut World, _: &Call) -> Reply {
    Ok(Value::strings(world.authorities.keys().cloned()))
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
