//! The certificate of a simulated host, and TLS as XAPI hosts have it: version 1.2, an RSA key,
//! forward secrecy, AES-GCM, key exchange over secp384r1 and nothing else.

use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rsa::pkcs8::EncodePrivateKey as _;
use rsa::rand_core::UnwrapErr;
use rustls::crypto::{CryptoProvider, ring as provider};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
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
