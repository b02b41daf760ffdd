//! Trust, against a server with the TLS settings of a XAPI host: TLS 1.2, curve secp384r1 alone.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::error::Error as _;
use std::sync::{Arc, Mutex};

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, version};
use xapi_client::{Client, ClientBuilder, Error, Fingerprint, SecretString, Trust};

struct Server {
    address: String,
    port: u16,
    fingerprint: Fingerprint,
    pem: String,
    /// All that was sent, without encryption.
    requests: Arc<Mutex<String>>,
}

impl Server {
    fn requests(&self) -> String {
        self.requests.lock().unwrap().clone()
    }
}

const SESSION: &str = r#"{"jsonrpc":"2.0","result":"OpaqueRef:s","id":0}"#;

/// A host that answers every request with a session.
async fn server(names: &[&str]) -> Server {
    serve("127.0.0.1:0", names, "", SESSION).await
}

/// A host that answers every request with these headers, each with a line break, and this body.
async fn serve(address: &str, names: &[&str], headers: &str, body: &str) -> Server {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let CertifiedKey { cert, signing_key }: CertifiedKey<KeyPair> =
        generate_simple_self_signed(names).unwrap();
    let mut provider = ring::default_provider();
    provider.kx_groups = vec![ring::kx_group::SECP384R1];
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(address).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = Arc::new(Mutex::new(String::new()));
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    let seen = requests.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, seen, answer) = (acceptor.clone(), seen.clone(), answer.clone());
            tokio::spawn(async move {
                // A client that refuses the certificate ends the handshake.
                let Ok(mut stream) = acceptor.accept(socket).await else {
                    return;
                };
                let mut request = vec![0; 4096];
                while let Ok(read) = stream.read(&mut request).await
                    && read > 0
                {
                    let text = String::from_utf8_lossy(&request[..read]);
                    seen.lock().unwrap().push_str(&text);
                    if text.ends_with("]}") {
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                }
            });
        }
    });
    Server {
        address: format!("localhost:{port}"),
        port,
        fingerprint: Fingerprint::of(cert.der()),
        pem: cert.pem(),
        requests,
    }
}

fn builder(server: &Server) -> ClientBuilder {
    Client::builder(&server.address).credentials("root", SecretString::from("p"))
}

#[tokio::test]
async fn a_pinned_certificate_is_trusted_under_any_name() {
    let server = server(&["xcp.example.org"]).await;
    let text = server.fingerprint.to_string();
    for text in [text.to_lowercase(), text.replace(':', ""), text] {
        let trust = Trust::Pinned(text.parse().unwrap());
        builder(&server).trust(trust).login().await.unwrap();
    }
}

#[tokio::test]
async fn any_of_the_pinned_certificates_is_trusted_and_no_other() {
    let server = server(&["xcp.example.org"]).await;
    let other = Fingerprint::of(b"another");
    let both = Trust::PinnedAny(vec![other, server.fingerprint]);
    builder(&server).trust(both).login().await.unwrap();
    let without = Trust::PinnedAny(vec![other]);
    let error = builder(&server).trust(without).login().await.unwrap_err();
    assert!(
        matches!(&error, Error::Untrusted { fingerprint, .. } if *fingerprint == server.fingerprint),
        "{error:?}"
    );
}

#[tokio::test]
async fn another_certificate_than_the_pinned_one_is_named() {
    let server = server(&["localhost"]).await;
    let other = Fingerprint::of(b"another certificate");
    let error = builder(&server)
        .trust(Trust::Pinned(other))
        .login()
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::Untrusted { fingerprint, .. } if *fingerprint == server.fingerprint),
        "{error:?}"
    );
    assert!(
        error.to_string().contains(&server.fingerprint.to_string()),
        "{error}"
    );
    assert_eq!(
        error.source().unwrap().to_string(),
        "it is not the pinned one"
    );
}

#[tokio::test]
async fn a_hosts_own_certificate_given_as_ca_is_trusted_under_any_name() {
    let server = server(&["xcp.example.org"]).await;
    let trust = Trust::Ca(format!("a comment\n{}", server.pem));
    builder(&server).trust(trust).login().await.unwrap();
}

#[tokio::test]
async fn a_ca_that_did_not_sign_is_no_help() {
    let (server, other) = (server(&["localhost"]).await, server(&["localhost"]).await);
    let error = builder(&server)
        .trust(Trust::Ca(other.pem))
        .login()
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Untrusted { .. }), "{error:?}");
}

#[tokio::test]
async fn insecure_trusts_anyone() {
    let server = server(&["xcp.example.org"]).await;
    builder(&server)
        .trust(Trust::Insecure)
        .login()
        .await
        .unwrap();
}

#[tokio::test]
async fn bad_trust_is_refused_before_anything_is_sent() {
    for pem in [
        "",
        "no certificate",
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----",
    ] {
        let error = Client::builder("xcp")
            .trust(Trust::Ca(pem.to_owned()))
            .login()
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Config(_)), "{pem}: {error:?}");
    }
    for text in ["", "abc", "zz", &"é".repeat(64)] {
        assert!(text.parse::<Fingerprint>().is_err(), "{text}");
    }
}

#[tokio::test]
async fn a_host_without_tls_is_told_from_one_that_is_not_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            socket.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
        }
    });
    let error = Client::builder(address)
        .trust(Trust::Insecure)
        .login()
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
}

/// A pool of two: a member at 127.0.0.1 that names this certificate as its coordinator's, and the
/// coordinator at 127.0.0.2.
async fn pool(named: Option<Fingerprint>) -> (Server, Server) {
    let coordinator = serve("127.0.0.2:0", &["pool"], "", SESSION).await;
    let named = named.unwrap_or(coordinator.fingerprint);
    let header = format!("x-xenapi-response-host-certificate-thumbprint: {named}\r\n");
    let body = r#"{"jsonrpc":"2.0","error":{"code":1,"message":"HOST_IS_SLAVE","data":["127.0.0.2"]},"id":0}"#;
    let address = format!("127.0.0.1:{}", coordinator.port);
    let member = serve(&address, &["pool"], &header, body).await;
    (member, coordinator)
}

#[tokio::test]
async fn a_member_says_whether_it_vouches_for_its_coordinator() {
    let (member, coordinator) = pool(None).await;
    let trust = Trust::Pinned(member.fingerprint);
    let error = builder(&member).trust(trust).login().await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("the trusted member localhost vouches"),
        "{text}"
    );
    let Error::Untrusted {
        host,
        fingerprint,
        vouched_by,
        ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(host, "127.0.0.2");
    assert_eq!(fingerprint, coordinator.fingerprint);
    assert_eq!(vouched_by.as_deref(), Some("localhost"));
    assert_eq!(coordinator.requests(), "", "nothing is sent there");
}

#[tokio::test]
async fn the_word_of_a_trusted_member_is_enough_where_it_was_said_to_be() {
    let (member, coordinator) = pool(None).await;
    let trust = Trust::Pinned(member.fingerprint);
    let builder = builder(&member).trust(trust).trust_vouched(true);
    let client = builder.login().await.unwrap();
    assert_eq!(client.host_name().unwrap(), "127.0.0.2");
    let asked = "x-xenapi-request-host-certificate-thumbprint: sha-256:master";
    assert!(member.requests().contains(asked));
    client.vm().get_all().raw().await.unwrap();
    client.close().await.unwrap();
    // With each login, and with nothing else.
    assert_eq!(coordinator.requests().matches(asked).count(), 1);
}

#[tokio::test]
async fn a_certificate_that_is_not_the_vouched_one_is_not_trusted() {
    let other = Fingerprint::of(b"another");
    let (member, coordinator) = pool(Some(other)).await;
    let trust = Trust::Pinned(member.fingerprint);
    let builder = builder(&member).trust(trust).trust_vouched(true);
    let error = builder.login().await.unwrap_err();
    let reason = error.source().unwrap().to_string();
    assert!(
        reason.contains(&format!("names another as its coordinator's: {other}")),
        "{reason}"
    );
    assert!(
        matches!(&error, Error::Untrusted { fingerprint, vouched_by: None, .. }
            if *fingerprint == coordinator.fingerprint),
        "{error:?}"
    );
    assert_eq!(coordinator.requests(), "");
}

#[tokio::test]
async fn a_member_that_is_not_trusted_cannot_vouch() {
    let (member, coordinator) = pool(None).await;
    let trust = Trust::Pinned(coordinator.fingerprint);
    let builder = builder(&member).trust(trust).trust_vouched(true);
    let error = builder.login().await.unwrap_err();
    assert!(
        matches!(&error, Error::Untrusted { fingerprint, .. } if *fingerprint == member.fingerprint),
        "{error:?}"
    );
    assert_eq!(member.requests() + &coordinator.requests(), "");
}

#[tokio::test]
async fn the_fingerprint_of_a_host_is_had_without_sending_anything() {
    let server = server(&["xcp.example.org"]).await;
    let fingerprint = Fingerprint::of_host(&server.address).await.unwrap();
    assert_eq!(fingerprint, server.fingerprint);
    assert_eq!(server.requests(), "");
    let error = Fingerprint::of_host("http://127.0.0.1").await.unwrap_err();
    assert!(error.to_string().contains("use https"), "{error}");
    let error = Fingerprint::of_host("127.0.0.1:1").await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
}

#[tokio::test]
async fn whether_a_host_is_trusted_is_had_without_sending_anything() {
    let server = server(&["localhost"]).await;
    for trust in [
        Trust::Ca(server.pem.clone()),
        Trust::Pinned(server.fingerprint),
        Trust::Insecure,
    ] {
        trust.accepts(&server.address).await.unwrap();
    }
    let other = Trust::Pinned(Fingerprint::of(b"another"));
    let error = other.accepts(&server.address).await.unwrap_err();
    assert!(
        matches!(&error, Error::Untrusted { fingerprint, .. } if *fingerprint == server.fingerprint),
        "{error:?}"
    );
    assert_eq!(server.requests(), "");
}
