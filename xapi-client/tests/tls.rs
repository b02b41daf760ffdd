//! Trust, against a server with the TLS settings of a XAPI host: TLS 1.2, curve secp384r1 alone.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::error::Error as _;
use std::sync::Arc;

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
    fingerprint: Fingerprint,
    pem: String,
}

/// A host that answers every request with a session.
async fn server(names: &[&str]) -> Server {
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
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that refuses the certificate ends the handshake.
                let Ok(mut stream) = acceptor.accept(socket).await else {
                    return;
                };
                let mut request = vec![0; 4096];
                while let Ok(read) = stream.read(&mut request).await
                    && read > 0
                {
                    let body = r#"{"jsonrpc":"2.0","result":"OpaqueRef:s","id":0}"#;
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    Server {
        address,
        fingerprint: Fingerprint::of(cert.der()),
        pem: cert.pem(),
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
