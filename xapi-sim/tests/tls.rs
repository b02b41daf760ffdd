//! TLS as hosts have it, and the certificates that they show.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

mod common;

use std::sync::Arc;

use common::{pool_of, text};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, ring as provider};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedCipherSuite,
    SupportedProtocolVersion,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use xapi_client::{Client, Trust};
use xapi_sim::{Certificate, Model, SecretString, Server, Sim, SimOptions, Value};

/// Takes any certificate: what is looked at here is what the server can do.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

async fn agrees(
    server: &Server,
    version: &'static SupportedProtocolVersion,
    suite: SupportedCipherSuite,
    group: &'static dyn SupportedKxGroup,
) -> bool {
    let crypto = CryptoProvider {
        cipher_suites: vec![suite],
        kx_groups: vec![group],
        ..provider::default_provider()
    };
    let config = ClientConfig::builder_with_provider(Arc::new(crypto))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.is_ok()
}

#[tokio::test]
async fn a_host_speaks_what_hosts_speak_and_nothing_else() {
    use provider::cipher_suite::{
        TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        TLS13_AES_256_GCM_SHA384,
    };
    use provider::kx_group::{SECP256R1, SECP384R1, X25519};
    use rustls::version::{TLS12, TLS13};
    let pool = pool_of(Model::single_host(), SimOptions::default()).await;
    let server = pool.sim.serve(([127, 0, 0, 1], 0).into()).await.unwrap();
    for suite in [
        TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ] {
        assert!(agrees(&server, &TLS12, suite, SECP384R1).await, "{suite:?}");
    }
    for suite in [
        TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ] {
        assert!(
            !agrees(&server, &TLS12, suite, SECP384R1).await,
            "{suite:?}"
        );
    }
    assert!(!agrees(&server, &TLS13, TLS13_AES_256_GCM_SHA384, SECP384R1).await);
    for group in [X25519, SECP256R1] {
        let suite = TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384;
        assert!(!agrees(&server, &TLS12, suite, group).await, "{group:?}");
    }
}

async fn served(options: SimOptions) -> (Sim, Server) {
    let pool = pool_of(Model::new(), options).await;
    let server = pool.sim.serve(([127, 0, 0, 1], 0).into()).await.unwrap();
    (pool.sim, server)
}

/// What a client says that knows the certificate as an authority and looks at the name.
async fn checked(server: &Server, name: &'static str) -> Result<(), std::io::Error> {
    let pem = server.certificate_pem().unwrap();
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
        .unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(server.address()).await?;
    let name = ServerName::try_from(name).unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.map(drop)
}

#[tokio::test]
async fn a_certificate_is_for_its_names_and_good_for_those_who_pin_it() {
    let (_sim, server) = served(SimOptions::default()).await;
    for name in ["localhost", "127.0.0.1"] {
        checked(&server, name).await.unwrap();
    }

    let certificate = Certificate::for_names(["xcp.example"]);
    let (sim, server) = served(SimOptions::default().with_certificate(certificate)).await;
    checked(&server, "xcp.example").await.unwrap();
    let error = checked(&server, "127.0.0.1").await.unwrap_err().to_string();
    assert!(error.contains("not valid for name"), "{error}");
    let credentials = sim.credentials();
    let client = Client::builder(server.url())
        .credentials(credentials.user(), credentials.password().clone())
        .trust(Trust::Pinned(server.fingerprint().unwrap()))
        .login()
        .await
        .unwrap();
    client.close().await.unwrap();
}

#[tokio::test]
async fn who_pins_a_member_learns_from_it_whom_else_to_trust() {
    let pool = pool_of(Model::new().hosts(2), SimOptions::default()).await;
    let coordinator = pool.sim.serve(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = ([127, 0, 0, 2], coordinator.address().port());
    let member = pool.sim.serve_host(1, address.into()).await.unwrap();
    let pinned = member.fingerprint().unwrap();
    assert_ne!(Some(pinned), coordinator.fingerprint());
    let client = Client::builder(member.url())
        .credentials("root", pool.sim.credentials().password().clone())
        .trust(Trust::Pinned(pinned))
        .trust_vouched(true)
        .login()
        .await
        .unwrap();
    assert_eq!(client.host_name().unwrap(), "127.0.0.1");
    client.close().await.unwrap();
}

#[tokio::test]
async fn a_certificate_of_ones_own_needs_an_rsa_key() {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let chain = params.self_signed(&key).unwrap().pem();
    let certificate = Certificate::from_pem(chain, SecretString::from(key.serialize_pem()));
    let options = SimOptions::default().with_certificate(certificate);
    let pool = pool_of(Model::new(), options).await;
    let error = pool
        .sim
        .serve(([127, 0, 0, 1], 0).into())
        .await
        .unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "the key is not RSA; hosts take no other");
}

/// What a connection to a server shows now.
async fn shown(server: &Server) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").unwrap();
    let stream = connector.connect(name, stream).await.unwrap();
    let (_, connection) = stream.get_ref();
    connection.peer_certificates().unwrap()[0].to_vec()
}

fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .unwrap()
        .to_vec()
}

/// A key of so many bits, PEM.
fn rsa_key(bits: usize) -> String {
    use rsa::pkcs8::EncodePrivateKey as _;
    let mut random = rsa::rand_core::UnwrapErr(getrandom::SysRng);
    let key = rsa::PrivateKey::new(&mut random, bits).unwrap();
    key.to_pkcs8_pem(rsa::pkcs8::LineEnding::LF)
        .unwrap()
        .to_string()
}

/// A certificate for a key, which holds between these years.
fn certificate(key: &str, from: i32, until: i32) -> String {
    let key = rcgen::KeyPair::from_pem(key).unwrap();
    let mut params = rcgen::CertificateParams::new(["xcp.example".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    params.self_signed(&key).unwrap().pem()
}

#[tokio::test]
async fn a_host_shows_another_certificate_once_it_has_been_given_one() {
    let pool = pool_of(Model::new(), SimOptions::default()).await;
    let server = pool.sim.serve(([127, 0, 0, 1], 0).into()).await.unwrap();
    let first = der(server.certificate_pem().unwrap());
    assert_eq!(shown(&server).await, first);
    let host = pool.call("host.get_all", vec![]).await.items()[0].clone();
    let install = |certificate: &str, key: &str, chain: &str| {
        let texts = [certificate, key, chain].map(Value::from);
        std::iter::once(host.clone()).chain(texts).collect()
    };

    let key = rsa_key(2048);
    let good = certificate(&key, 2020, 2120);
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    for (certificate, key, chain, failure) in [
        (&*good, "", "", "SERVER_CERTIFICATE_KEY_INVALID"),
        (
            &good,
            &other,
            "",
            "SERVER_CERTIFICATE_KEY_ALGORITHM_NOT_SUPPORTED|1.2.840.10045.2.1",
        ),
        ("no PEM", &key, "", "SERVER_CERTIFICATE_INVALID"),
        (
            &certificate(&other, 2020, 2120),
            &key,
            "",
            "SERVER_CERTIFICATE_KEY_MISMATCH",
        ),
        (
            &good,
            &key,
            "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n",
            "SERVER_CERTIFICATE_CHAIN_INVALID",
        ),
    ] {
        let told = pool
            .fails(
                "host.install_server_certificate",
                install(certificate, key, chain),
            )
            .await;
        assert_eq!(told, failure);
    }
    for (from, until, failure, year) in [
        (
            2000,
            2010,
            "SERVER_CERTIFICATE_EXPIRED|",
            "|20100101T00:00:00Z",
        ),
        (
            2100,
            2120,
            "SERVER_CERTIFICATE_NOT_VALID_YET|",
            "|21000101T00:00:00Z",
        ),
    ] {
        let params = install(&certificate(&key, from, until), &key, "");
        let told = pool.fails("host.install_server_certificate", params).await;
        assert!(told.starts_with(failure) && told.ends_with(year), "{told}");
    }
    assert_eq!(shown(&server).await, first);

    pool.call("host.install_server_certificate", install(&good, &key, ""))
        .await;
    assert_eq!(shown(&server).await, der(&good));
    let told = pool.call("host.get_server_certificate", vec![host.clone()]);
    assert_eq!(text(&told.await), good);
    let records = pool.call("Certificate.get_all_records", vec![]).await;
    let [(_, record)] = records.members() else {
        panic!("one for one host")
    };
    let until = record.get("not_after").unwrap();
    assert_eq!(text(until), "21200101T00:00:00Z");

    pool.call("host.reset_server_certificate", vec![host]).await;
    let fresh = shown(&server).await;
    assert!(fresh != first && fresh != der(&good));
    pool.sim.reset().await.unwrap();
    assert_eq!(shown(&server).await, first);
}
