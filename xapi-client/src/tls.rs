//! Whom to trust.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};

use crate::error::{Error, Result};

/// Which server certificates are trusted. Hosts come with self-signed ones, so most pools need a
/// [`Pinned`](Self::Pinned) fingerprint or a [`Ca`](Self::Ca).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trust {
    /// The certificate authorities of this machine. The default.
    #[default]
    SystemRoots,
    /// These certificates, as PEM text. A CA vouches for what it signed; a host's own certificate, for
    /// that host under any address.
    Ca(String),
    /// The one certificate with this fingerprint, under any address.
    Pinned(Fingerprint),
    /// The certificates with these fingerprints, under any address: every host of a pool has its own.
    PinnedAny(Vec<Fingerprint>),
    /// Any certificate. Whoever sits between can read and change everything, the password included.
    Insecure,
}

impl Trust {
    /// Whether the certificate that a host presents now is trusted, for whoever wants to know before
    /// there is anything to say to the host: nothing is sent.
    ///
    /// # Errors
    ///
    /// [`Error::Untrusted`] when it is not; [`Error::Connect`] and [`Error::Tls`] when there is no host
    /// at this address, or none that speaks TLS; [`Error::Config`] when it is no address, or one
    /// without TLS, or when this trust cannot be used.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn accepts(&self, address: &str) -> Result<()> {
        crate::http::shake_hands(address, self.clone()).await
    }
}

/// The SHA-256 fingerprint of a certificate.
///
/// It reads 64 hex digits, with or without colons, and prints them as `openssl x509 -fingerprint` does.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate in DER form.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }

    /// The fingerprint of the certificate that a host presents now, for a first decision whom to trust:
    /// show it to somebody who can compare it with what the host's console shows. Nothing is sent, and
    /// whoever sits between may have presented a certificate of their own.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] and [`Error::Tls`] when there is no host at this address, or none that speaks
    /// TLS; [`Error::Config`] when it is no address, or one without TLS.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn of_host(address: &str) -> Result<Self> {
        crate::http::presented_by(address).await
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, byte) in self.0.iter().enumerate() {
            let colon = if position > 0 { ":" } else { "" };
            write!(f, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits: Vec<u8> = text
            .trim()
            .chars()
            .filter(|&c| c != ':')
            .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect::<Option<_>>()
            .filter(|digits: &Vec<u8>| digits.len() == 64)
            .ok_or_else(|| {
                Error::Config(format!(
                    "`{text}` is no SHA-256 fingerprint; give 64 hex digits, with or without colons"
                ))
            })?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Ok(Self(bytes))
    }
}

/// The TLS settings for this trust, and for one certificate that somebody trusted has vouched for. They
/// carry their own cryptography, so no process-wide choice is made or needed.
pub(crate) fn client_config(trust: &Trust, vouched: Option<Fingerprint>) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let judge = Judge::new(trust, &provider)?;
    config(provider, judge, vouched)
}

/// TLS settings that trust nobody: a handshake ends with the refusal of the certificate that was shown.
pub(crate) fn refusing_config() -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    config(provider, Judge::Pinned(Vec::new()), None)
}

fn config(
    provider: Arc<CryptoProvider>,
    judge: Judge,
    vouched: Option<Fingerprint>,
) -> Result<ClientConfig> {
    let verifier = Arc::new(Verifier {
        judge,
        vouched,
        algorithms: provider.signature_verification_algorithms,
    });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Config(format!("TLS is not available: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(config)
}

/// Judges certificates, and says in its refusals which certificate it was.
#[derive(Debug)]
struct Verifier {
    judge: Judge,
    vouched: Option<Fingerprint>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
enum Judge {
    Roots {
        known: Vec<CertificateDer<'static>>,
        verifier: Arc<WebPkiServerVerifier>,
    },
    Pinned(Vec<Fingerprint>),
    Anyone,
}

impl Judge {
    fn new(trust: &Trust, provider: &Arc<CryptoProvider>) -> Result<Self> {
        let known = match trust {
            Trust::Insecure => return Ok(Self::Anyone),
            Trust::Pinned(fingerprint) => return Ok(Self::Pinned(vec![*fingerprint])),
            Trust::PinnedAny(fingerprints) => {
                if fingerprints.is_empty() {
                    return Err(Error::Config(
                        "no certificate is pinned; give the fingerprint of each host".to_owned(),
                    ));
                }
                return Ok(Self::Pinned(fingerprints.clone()));
            }
            Trust::SystemRoots => rustls_native_certs::load_native_certs().certs,
            Trust::Ca(pem) => CertificateDer::pem_slice_iter(pem.as_bytes())
                .collect::<std::result::Result<Vec<_>, _>>()
                .map_err(|error| {
                    Error::Config(format!("the CA certificate is no PEM text: {error}"))
                })?,
        };
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(known.iter().cloned());
        if added == 0 {
            return Err(Error::Config(match trust {
                Trust::Ca(_) => "the CA text holds no certificate; give it in PEM form".to_owned(),
                _ => "this machine has no CA certificates; install them (package \
                      ca-certificates), or pin the certificate of the host"
                    .to_owned(),
            }));
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone())
            .build()
            .map_err(|error| Error::Config(format!("the CA certificate is unusable: {error}")))?;
        // Roots of the system vouch for others only; what the user names is trusted itself too.
        let known = if matches!(trust, Trust::Ca(_)) {
            known
        } else {
            Vec::new()
        };
        Ok(Self::Roots { known, verifier })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let fingerprint = Fingerprint::of(end_entity);
        let verdict = match &self.judge {
            Judge::Anyone => Ok(()),
            _ if self.vouched == Some(fingerprint) => Ok(()),
            Judge::Pinned(pinned) if pinned.contains(&fingerprint) => Ok(()),
            Judge::Pinned(_) => Err("it is not the pinned one".to_owned()),
            Judge::Roots { known, .. } if known.iter().any(|root| root == end_entity) => Ok(()),
            Judge::Roots { verifier, .. } => verifier
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                .map(|_| ())
                .map_err(|error| error.to_string()),
        };
        verdict
            .map(|()| ServerCertVerified::assertion())
            .map_err(|reason| {
                let refusal = Arc::new(Untrusted {
                    fingerprint,
                    reason,
                });
                rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(refusal)))
            })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A refusal; it travels inside the TLS error up to where an [`Error`] is made of it.
#[derive(Debug, Clone)]
pub(crate) struct Untrusted {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) reason: String,
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Untrusted {}
