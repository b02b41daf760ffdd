//! The certificate of a simulated host, and TLS as XAPI hosts have it: version 1.2, an RSA key,
//! forward secrecy, AES-GCM, key exchange over secp384r1 and nothing else.

use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rsa::pkcs1::DecodeRsaPrivateKey as _;
use rsa::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _};
use rsa::rand_core::UnwrapErr;
use rsa::traits::PublicKeyParts as _;
use rustls::crypto::{CryptoProvider, ring as provider};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SignatureAlgorithm};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::OnceCell;
use xapi_client::Fingerprint;

/// Chooses the certificate that a server shows.
///
/// The default is what a fresh host has: signed by its own key, for its names and addresses.
#[derive(Debug, Clone, Default)]
pub struct Certificate {
    kind: Kind,
}

#[derive(Debug, Clone, Default)]
enum Kind {
    #[default]
    Fresh,
    Named(Vec<String>),
    Given {
        chain: String,
        key: SecretString,
    },
}

impl Certificate {
    /// A fresh certificate for these names and addresses only. Without the one that a client uses,
    /// it is what a host behind NAT shows: good for a client that pins it, for others not.
    #[must_use]
    pub fn for_names<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Certificate {
            kind: Kind::Named(names.into_iter().map(Into::into).collect()),
        }
    }

    /// A certificate of one's own, with those that lead to its authority behind it, and its key, both
    /// as PEM. The key has to be RSA, as hosts demand.
    #[must_use]
    pub fn from_pem(chain: impl Into<String>, key: SecretString) -> Self {
        Certificate {
            kind: Kind::Given {
                chain: chain.into(),
                key,
            },
        }
    }
}

/// The RSA key of a simulator, made when it is first needed: that takes longer than everything else.
#[derive(Debug, Default)]
pub(crate) struct HostKey(OnceCell<Vec<u8>>);

impl HostKey {
    async fn pkcs8(&self) -> Result<&[u8], TlsError> {
        let made = self.0.get_or_try_init(|| async {
            let task = tokio::task::spawn_blocking(|| {
                let mut random = UnwrapErr(getrandom::SysRng);
                let key = rsa::PrivateKey::new(&mut random, 2048).map_err(TlsError::key)?;
                let document = key.to_pkcs8_der().map_err(TlsError::key)?;
                Ok(document.as_bytes().to_vec())
            });
            task.await.map_err(TlsError::key)?
        });
        made.await.map(Vec::as_slice)
    }
}

/// A certificate and what serves with it.
pub(crate) struct Identity {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) pem: String,
    pub(crate) fingerprint: Fingerprint,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("no RSA key can be made")]
    Key(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the certificate cannot be made")]
    Certificate(#[from] rcgen::Error),
    #[error("the PEM text cannot be read")]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("the PEM text has no certificate in it")]
    NoCertificate,
    #[error("the key is not RSA; hosts take no other")]
    NotRsa,
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
}

/// Why a host does not take a certificate and key that it is to show.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Key,
    /// With the number of its kind.
    KeyAlgorithm(&'static str),
    /// With the length in bits.
    KeyLength(usize),
    KeyMismatch,
    Certificate,
    /// With the point in time from which it holds.
    NotYet(String),
    /// With the point in time until which it has held.
    Expired(String),
    Signature,
    Chain,
}

impl TlsError {
    fn key(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        TlsError::Key(source.into())
    }
}

impl Identity {
    /// The identity of a host that is served on an address.
    pub(crate) async fn new(
        certificate: &Certificate,
        key: &HostKey,
        address: IpAddr,
    ) -> Result<Identity, TlsError> {
        match &certificate.kind {
            Kind::Fresh => {
                let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
                names.push(address.to_string());
                names.dedup();
                Identity::self_signed(names, key.pkcs8().await?)
            }
            Kind::Named(names) => Identity::self_signed(names.clone(), key.pkcs8().await?),
            Kind::Given { chain, key } => {
                let pem = chain.clone();
                let chain = CertificateDer::pem_slice_iter(chain.as_bytes());
                let chain = chain.collect::<Result<Vec<_>, _>>()?;
                let key = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes())?;
                Identity::of(chain, key, pem)
            }
        }
    }

    /// The identity of a certificate, a key and the certificates between that and an authority, all
    /// PEM, looked at in a host's order. `now` is in the form of [`validity`].
    pub(crate) fn given(
        certificate: &str,
        key: &str,
        chain: &str,
        now: &str,
    ) -> Result<Identity, Refusal> {
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| Refusal::Key)?;
        check_key(&key)?;
        let first = CertificateDer::from_pem_slice(certificate.as_bytes());
        let first = first.map_err(|_| Refusal::Certificate)?;
        let (from, until) = validity(&first).ok_or(Refusal::Certificate)?;
        if from.as_str() > now {
            return Err(Refusal::NotYet(from));
        }
        if until.as_str() < now {
            return Err(Refusal::Expired(until));
        }
        let signer = provider::sign::any_supported_type(&key).map_err(|_| Refusal::Key)?;
        match CertifiedKey::new(vec![first.clone()], signer).keys_match() {
            Ok(()) => {}
            Err(rustls::Error::InconsistentKeys(_)) => return Err(Refusal::KeyMismatch),
            Err(_) => return Err(Refusal::Certificate),
        }
        if !is_signed_with_sha256(&first) {
            return Err(Refusal::Signature);
        }
        let mut certificates = vec![first];
        if !chain.is_empty() {
            let further = CertificateDer::pem_slice_iter(chain.as_bytes());
            let further = further.collect::<Result<Vec<_>, _>>();
            certificates.extend(further.map_err(|_| Refusal::Chain)?);
        }
        Identity::of(certificates, key, certificate.to_owned()).map_err(|_| Refusal::Certificate)
    }

    fn self_signed(names: Vec<String>, key: &[u8]) -> Result<Identity, TlsError> {
        let pkcs8 = PrivatePkcs8KeyDer::from(key.to_vec());
        let key = KeyPair::try_from(&pkcs8)?;
        let mut params = CertificateParams::new(names)?;
        params
            .distinguished_name
            .push(DnType::CommonName, "xapi-sim");
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.self_signed(&key)?;
        let pem = certificate.pem();
        Identity::of(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(pkcs8),
            pem,
        )
    }

    fn of(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        pem: String,
    ) -> Result<Identity, TlsError> {
        let first = chain.first().ok_or(TlsError::NoCertificate)?;
        let fingerprint = Fingerprint::of(first);
        if provider::sign::any_supported_type(&key)?.algorithm() != SignatureAlgorithm::RSA {
            return Err(TlsError::NotRsa);
        }
        let config = ServerConfig::builder_with_provider(Arc::new(crypto()))
            .with_protocol_versions(&[&rustls::version::TLS12])?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Ok(Identity {
            config: Arc::new(config),
            pem,
            fingerprint,
        })
    }
}

/// Hosts take RSA keys of 2,048 to 4,096 bits.
fn check_key(key: &PrivateKeyDer<'_>) -> Result<(), Refusal> {
    const ELLIPTIC_CURVE: &str = "1.2.840.10045.2.1";
    let parsed = match key {
        PrivateKeyDer::Pkcs1(key) => rsa::PrivateKey::from_pkcs1_der(key.secret_pkcs1_der()).ok(),
        PrivateKeyDer::Pkcs8(key) => rsa::PrivateKey::from_pkcs8_der(key.secret_pkcs8_der()).ok(),
        _ => return Err(Refusal::KeyAlgorithm(ELLIPTIC_CURVE)),
    };
    let Some(parsed) = parsed else {
        let other = provider::sign::any_ecdsa_type(key);
        return Err(other.map_or(Refusal::Key, |_| Refusal::KeyAlgorithm(ELLIPTIC_CURVE)));
    };
    match parsed.size() * 8 {
        2048..=4096 => Ok(()),
        length => Err(Refusal::KeyLength(length)),
    }
}

/// Whether the algorithm of a certificate's signature, RSA or ECDSA, is over SHA-256.
fn is_signed_with_sha256(der: &[u8]) -> bool {
    const RSA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b";
    const ECDSA: &[u8] = b"\x2a\x86\x48\xce\x3d\x04\x03\x02";
    // Certificate: TBSCertificate, algorithm, signature.
    let algorithm = || {
        let (_, certificate, _) = element(der)?;
        let (_, _, rest) = element(certificate)?;
        let (_, algorithm, _) = element(rest)?;
        Some(element(algorithm)?.1)
    };
    matches!(algorithm(), Some(RSA | ECDSA))
}

/// From when and until when a certificate holds, as the server writes points in time.
pub(crate) fn validity(der: &[u8]) -> Option<(String, String)> {
    // Certificate > TBSCertificate: version, serial number, algorithm, issuer, validity.
    let (_, certificate, _) = element(der)?;
    let (_, mut rest, _) = element(certificate)?;
    // The version has a default and may be missing.
    const VERSION: u8 = 0xa0;
    if let Some((VERSION, _, after)) = element(rest) {
        rest = after;
    }
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (_, validity, _) = element(rest)?;
    times(validity)
}

fn times(content: &[u8]) -> Option<(String, String)> {
    let (from_kind, from, after) = element(content)?;
    let (until_kind, until, _) = element(after)?;
    Some((time(from_kind, from)?, time(until_kind, until)?))
}

/// The tag of a DER element, what is in it, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        let length = digits.iter().try_fold(0_usize, |length, digit| {
            length.checked_mul(256)?.checked_add(usize::from(*digit))
        })?;
        (length, rest)
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` in the server's form.
fn time(tag: u8, text: &[u8]) -> Option<String> {
    const UTC_TIME: u8 = 0x17;
    let text = std::str::from_utf8(text).ok()?;
    let text = match (tag, text.get(..2)?.parse::<u8>().ok()?) {
        (UTC_TIME, year) if year < 50 => format!("20{text}"),
        (UTC_TIME, _) => format!("19{text}"),
        _ => text.to_owned(),
    };
    let (day, clock) = (text.get(..8)?, text.get(8..14)?);
    let (hour, rest) = clock.split_at(2);
    let (minute, second) = rest.split_at(2);
    Some(format!("{day}T{hour}:{minute}:{second}Z"))
}

fn crypto() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            provider::cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            provider::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ],
        kx_groups: vec![provider::kx_group::SECP384R1],
        ..provider::default_provider()
    }
}
