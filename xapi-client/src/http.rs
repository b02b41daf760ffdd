//! The transport over HTTPS. Only this file names reqwest.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use reqwest::Url;
use reqwest::header::{CONTENT_TYPE, HeaderValue};

use crate::error::{Error, Result};
use crate::retry::TaskTag;
use crate::session::LOGIN;
use crate::socket;
use crate::tls::{self, Fingerprint, Trust, Untrusted};
use crate::transport::{BodyStream, Connection, Protocol, Request, Transport};

/// The largest request head that servers read, in bytes: they keep 18 of their 1,024 for themselves.
pub(crate) const MAX_HEAD: usize = 1006;
/// The largest body of a call that servers read, in bytes.
const MAX_BODY: usize = 300 * 1024;

/// Asks a member that is no coordinator for the fingerprint of the coordinator's certificate, so that it is
/// known before anything is sent there.
const ASK_FOR_CERTIFICATE: (&str, &str) = (
    "x-xenapi-request-host-certificate-thumbprint",
    "sha-256:master",
);
/// What the name of a header starts with that the server marks the task of the call with.
const TASK_MARK: &str = "x-http-other-config-";
/// Where the answer has that fingerprint.
const CERTIFICATE: &str = "x-xenapi-response-host-certificate-thumbprint";

/// How connections are made.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) trust: Trust,
    /// Whether a certificate is trusted that a trusted member names as its coordinator's.
    pub(crate) trust_vouched: bool,
    pub(crate) user_agent: String,
    pub(crate) connect_timeout: Duration,
}

/// What a trusted member said about its coordinator.
#[derive(Debug, Clone)]
struct Voucher {
    member: String,
    fingerprint: Fingerprint,
}

/// Where connections come from.
#[derive(Clone)]
struct Connections {
    /// Those that are kept and used again.
    kept: reqwest::Client,
    /// For those of transfers. They trust whom the others trust.
    tls: Arc<rustls::ClientConfig>,
}

/// The transport over HTTPS, with connections that are kept and used again.
pub(crate) struct Http {
    connections: Connections,
    endpoint: Url,
    host: String,
    port: u16,
    settings: Settings,
    /// What the member that led here said about this host.
    voucher: Option<Voucher>,
    /// The certificate that this host, a member, named as its coordinator's.
    named: Mutex<Option<Fingerprint>>,
}

impl Http {
    /// A transport to this host: `host`, `host:port`, or a URL. IPv6 addresses may do without brackets.
    pub(crate) fn new(address: &str, settings: &Settings) -> Result<Self> {
        let endpoint = endpoint(address)?;
        let connections = connections(settings, tls::client_config(&settings.trust, None)?)?;
        Self::with(connections, endpoint, settings.clone(), None)
    }

    fn with(
        connections: Connections,
        endpoint: Url,
        settings: Settings,
        voucher: Option<Voucher>,
    ) -> Result<Self> {
        let in_the_clear = endpoint.scheme() == "http" && !is_loopback(&endpoint);
        if in_the_clear && settings.trust != Trust::Insecure {
            return Err(Error::Config(format!(
                "{endpoint} would send the password in the clear; use https, or trust anyone on purpose"
            )));
        }
        let chosen = matches!(
            settings.trust,
            Trust::Pinned(_) | Trust::PinnedAny(_) | Trust::Ca(_)
        );
        if endpoint.scheme() == "http" && chosen {
            return Err(Error::Config(format!(
                "{endpoint} has no certificate, but one was chosen to be trusted; use https"
            )));
        }
        Ok(Self {
            connections,
            host: endpoint.host_str().unwrap_or_default().to_owned(),
            port: endpoint.port_or_known_default().unwrap_or_default(),
            endpoint,
            settings,
            voucher,
            named: Mutex::new(None),
        })
    }

    /// Whether the request should ask for the certificate of the coordinator: a login may lead there, and
    /// without TLS anybody could give the answer.
    fn asks_for_certificate(&self, request: &Request) -> bool {
        request.method == LOGIN && self.endpoint.scheme() == "https"
    }

    /// An upper bound for the size of the head: what is sent, with room for the length of the body.
    fn head_size(&self, request: &Request) -> usize {
        let fixed = "POST /jsonrpc HTTP/1.1\r\ncontent-type: application/json\r\nuser-agent: \r\naccept: */*\r\n\
                     host: :65535\r\ncontent-length: 307200\r\n\r\n";
        let tag = request.task_tag.as_ref().map_or(0, |tag| {
            TaskTag::HEADER.len() + ": \r\n".len() + tag.as_str().len()
        });
        let mark = request.task_mark.as_ref().map_or(0, |(key, value)| {
            TASK_MARK.len() + key.len() + ": \r\n".len() + value.len()
        });
        let (name, value) = ASK_FOR_CERTIFICATE;
        let question = if self.asks_for_certificate(request) {
            name.len() + ": \r\n".len() + value.len()
        } else {
            0
        };
        fixed.len() + self.settings.user_agent.len() + self.host.len() + tag + mark + question
    }

    fn check_limits(&self, request: &Request) -> Result<()> {
        let too_large = |part, size, limit| {
            Err(Error::TooLarge {
                method: request.method.clone(),
                part,
                size,
                limit,
            })
        };
        let head = self.head_size(request);
        if head > MAX_HEAD {
            return too_large("head", head, MAX_HEAD);
        }
        if request.body.len() > MAX_BODY {
            return too_large("body", request.body.len(), MAX_BODY);
        }
        Ok(())
    }

    /// Which of our errors it is, and the cause below all layers of reqwest.
    fn classify(&self, error: reqwest::Error, request: &Request) -> Error {
        let cause = root(&error);
        if error.is_connect() || cause.is::<Untrusted>() {
            return self.unreachable(cause, error.is_timeout());
        }
        lost(&self.host, request, &error)
    }
}

impl Http {
    /// Why no connection came about.
    fn unreachable(&self, cause: &(dyn StdError + 'static), timed_out: bool) -> Error {
        if let Some(refusal) = cause.downcast_ref::<Untrusted>() {
            return self.untrusted(refusal.clone());
        }
        let (host, port) = (self.host.clone(), self.port);
        let source = if timed_out {
            "no answer in time".into()
        } else {
            own(cause)
        };
        if cause.is::<rustls::Error>() {
            Error::Tls { host, port, source }
        } else {
            Error::Connect { host, port, source }
        }
    }

    /// Posts a request, and returns the answer when its head has come.
    async fn post(&self, request: &Request) -> Result<reqwest::Response> {
        self.check_limits(request)?;
        let (path, content_type) = match request.protocol {
            Protocol::JsonRpc => ("/jsonrpc", "application/json"),
            Protocol::XmlRpc => ("/", "text/xml"),
        };
        let mut url = self.endpoint.clone();
        url.set_path(path);
        let mut post = self
            .connections
            .kept
            .post(url)
            .header(CONTENT_TYPE, content_type);
        if let Some(tag) = &request.task_tag {
            post = post.header(TaskTag::HEADER, tag.as_str());
        }
        if let Some((key, value)) = &request.task_mark {
            post = post.header(format!("{TASK_MARK}{key}"), value);
        }
        let asks = self.asks_for_certificate(request);
        if asks {
            let (name, value) = ASK_FOR_CERTIFICATE;
            post = post.header(name, value);
        }
        let response = post
            .timeout(request.timeout)
            .body(request.body.clone())
            .send()
            .await
            .map_err(|error| self.classify(error, request))?;
        let status = response.status();
        if status != reqwest::StatusCode::OK {
            return Err(Error::Http {
                method: request.method.clone(),
                host: self.host.clone(),
                status: status.as_u16(),
            });
        }
        if asks {
            let named = response.headers().get(CERTIFICATE);
            let named = named.and_then(|value| value.to_str().ok()?.parse().ok());
            *self.named.lock().unwrap_or_else(PoisonError::into_inner) = named;
        }
        Ok(response)
    }

    fn untrusted(&self, mut refusal: Untrusted) -> Error {
        let fingerprint = refusal.fingerprint;
        let mut vouched_by = None;
        if let Some(voucher) = &self.voucher {
            if voucher.fingerprint == fingerprint {
                vouched_by = Some(voucher.member.clone());
            } else {
                refusal.reason.push_str(&format!(
                    ", and the pool member {} names another as its coordinator's: {}",
                    voucher.member, voucher.fingerprint
                ));
            }
        }
        Error::Untrusted {
            host: self.host.clone(),
            fingerprint,
            vouched_by,
            source: Box::new(refusal),
        }
    }
}

#[async_trait]
impl Transport for Http {
    async fn send(&self, request: Request) -> Result<Bytes> {
        let response = self.post(&request).await?;
        let body = response.bytes().await;
        body.map_err(|error| self.classify(error, &request))
    }

    async fn stream(&self, request: Request) -> Result<BodyStream> {
        let response = self.post(&request).await?;
        Ok(Box::pin(Pieces {
            piece: piece(response),
            host: self.host.clone(),
            request,
        }))
    }

    async fn connect(&self) -> Result<Box<dyn Connection>> {
        let is_tls = self.endpoint.scheme() == "https";
        let tls = is_tls.then(|| self.connections.tls.clone());
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let opening = socket::open(host, self.port, tls);
        match tokio::time::timeout(self.settings.connect_timeout, opening).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(self.unreachable(root(&error), false)),
            Err(elapsed) => Err(self.unreachable(&elapsed, true)),
        }
    }

    fn host(&self) -> &str {
        &self.host
    }

    fn redirect(&self, address: &str) -> Result<Arc<dyn Transport>> {
        let mut endpoint = endpoint(address)?;
        // Servers name hosts by their address alone; scheme and port are those of the pool.
        let port = endpoint.port().or(self.endpoint.port());
        let kept = endpoint
            .set_scheme(self.endpoint.scheme())
            .and_then(|()| endpoint.set_port(port));
        kept.map_err(|()| not_an_address(address))?;
        let named = *self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let voucher = named.map(|fingerprint| Voucher {
            member: self.host.clone(),
            fingerprint,
        });
        let settings = self.settings.clone();
        let connections = match &voucher {
            Some(voucher) if settings.trust_vouched => connections(
                &settings,
                tls::client_config(&settings.trust, Some(voucher.fingerprint))?,
            )?,
            _ => self.connections.clone(),
        };
        let http = Self::with(connections, endpoint, settings, voucher)?;
        Ok(Arc::new(http))
    }
}

/// No whole answer came over a connection that stood.
fn lost(host: &str, request: &Request, error: &reqwest::Error) -> Error {
    let (method, host) = (request.method.clone(), host.to_owned());
    if error.is_timeout() {
        let after = request.timeout;
        return Error::Timeout {
            method,
            host,
            after,
        };
    }
    let source = own(root(error));
    Error::Transport {
        method,
        host,
        source,
    }
}

/// The body of an answer, as it comes.
struct Pieces {
    piece: Piece,
    host: String,
    request: Request,
}

/// The rest of an answer, and its next piece.
type Piece =
    Pin<Box<dyn Future<Output = (reqwest::Response, reqwest::Result<Option<Bytes>>)> + Send>>;

fn piece(mut response: reqwest::Response) -> Piece {
    Box::pin(async move {
        let piece = response.chunk().await;
        (response, piece)
    })
}

impl Stream for Pieces {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let (response, next) = ready!(self.piece.as_mut().poll(context));
        self.piece = piece(response);
        let next = next.map_err(|error| lost(&self.host, &self.request, &error));
        Poll::Ready(next.transpose())
    }
}

fn connections(settings: &Settings, tls: rustls::ClientConfig) -> Result<Connections> {
    let user_agent = HeaderValue::from_str(&settings.user_agent).map_err(|_| {
        Error::Config(format!(
            "`{}` cannot be a User-Agent; use printable ASCII",
            settings.user_agent
        ))
    })?;
    let kept = reqwest::Client::builder()
        .tls_backend_preconfigured(tls.clone())
        .user_agent(user_agent)
        .connect_timeout(settings.connect_timeout)
        .http1_only()
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::none())
        // Proxies would come from the environment, which a library does not read.
        .no_proxy()
        .build()
        .map_err(|error| Error::Config(format!("cannot set up HTTPS: {}", root(&error))))?;
    let tls = Arc::new(tls);
    Ok(Connections { kept, tls })
}

/// The fingerprint of the certificate that a host presents.
pub(crate) async fn presented_by(address: &str) -> Result<Fingerprint> {
    match handshake(address, Trust::Insecure, tls::refusing_config()?).await {
        Err(Error::Untrusted { fingerprint, .. }) => Ok(fingerprint),
        Err(error) => Err(error),
        Ok(()) => Err(Error::Config(format!("{address} has no certificate"))),
    }
}

/// Whether a host presents a certificate that is trusted.
pub(crate) async fn shake_hands(address: &str, trust: Trust) -> Result<()> {
    let tls = tls::client_config(&trust, None)?;
    handshake(address, trust, tls).await
}

/// Connects to a host, and says nothing there.
async fn handshake(address: &str, trust: Trust, tls: rustls::ClientConfig) -> Result<()> {
    let settings = Settings {
        trust,
        trust_vouched: false,
        user_agent: String::new(),
        connect_timeout: crate::client::CONNECT_TIMEOUT,
    };
    let endpoint = endpoint(address)?;
    if endpoint.scheme() == "http" {
        return Err(Error::Config(format!(
            "{endpoint} has no certificate; use https"
        )));
    }
    let connections = connections(&settings, tls)?;
    let http = Http::with(connections, endpoint, settings, None)?;
    http.connect().await.map(drop)
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("endpoint", &self.endpoint.as_str())
            .finish_non_exhaustive()
    }
}

/// The URL of the host at an address.
fn endpoint(address: &str) -> Result<Url> {
    let address = address.trim();
    let bare_ipv6 = address.parse::<std::net::Ipv6Addr>().is_ok();
    let text = if bare_ipv6 {
        format!("https://[{address}]")
    } else if address.contains("://") {
        address.to_owned()
    } else {
        format!("https://{address}")
    };
    let mut url = Url::parse(&text).map_err(|_| not_an_address(address))?;
    if !matches!(url.scheme(), "https" | "http") || url.host_str().is_none_or(str::is_empty) {
        return Err(not_an_address(address));
    }
    // Credentials in an address would end up in messages and in a header.
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::Config(
            "the address holds a user name or a password; give them as credentials".to_owned(),
        ));
    }
    url.set_path("/");
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

/// Whether requests to it stay on this machine.
fn is_loopback(url: &Url) -> bool {
    let host = url
        .host_str()
        .unwrap_or_default()
        .trim_start_matches('[')
        .trim_end_matches(']');
    host.parse::<std::net::IpAddr>()
        .is_ok_and(|address| address.is_loopback())
}

fn not_an_address(address: &str) -> Error {
    Error::Config(format!(
        "`{address}` is no address of a host; give a name, an IP address or a URL such as \
         https://xcp.example.org"
    ))
}

/// The cause that lies deepest: it says why, the layers above say only what they were doing.
fn root<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    let mut deepest = error;
    loop {
        if deepest.is::<Untrusted>() {
            return deepest;
        }
        let below = match deepest.downcast_ref::<io::Error>() {
            // What an io::Error wraps is not its source but itself.
            Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
            None => match deepest.downcast_ref::<rustls::Error>() {
                Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))) => {
                    Some(&*other.0 as &(dyn StdError + 'static))
                }
                _ => deepest.source(),
            },
        };
        match below {
            Some(below) => deepest = below,
            None => return deepest,
        }
    }
}

/// The cause as a value of its own: those below reqwest cannot be taken out, so their text is.
fn own(cause: &(dyn StdError + 'static)) -> Box<dyn StdError + Send + Sync> {
    if let Some(error) = cause.downcast_ref::<rustls::Error>() {
        return Box::new(error.clone());
    }
    if let Some(error) = cause.downcast_ref::<io::Error>() {
        return Box::new(io::Error::new(error.kind(), error.to_string()));
    }
    cause.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(trust: Trust) -> Settings {
        Settings {
            trust,
            trust_vouched: false,
            user_agent: "test".to_owned(),
            connect_timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn addresses_come_in_many_forms() {
        for (address, expected) in [
            ("xcp.example.org", "https://xcp.example.org/"),
            ("xcp:8443", "https://xcp:8443/"),
            ("https://xcp/", "https://xcp/"),
            ("10.0.0.1", "https://10.0.0.1/"),
            ("2001:db8::1", "https://[2001:db8::1]/"),
            ("[2001:db8::1]:444", "https://[2001:db8::1]:444/"),
            ("http://127.0.0.1:80", "http://127.0.0.1/"),
        ] {
            assert_eq!(endpoint(address).unwrap().as_str(), expected, "{address}");
        }
        for address in [
            "",
            "https://",
            "ftp://xcp",
            "a b",
            "root:pw@xcp",
            "https://root@xcp",
        ] {
            assert!(endpoint(address).is_err(), "{address}");
        }
    }

    #[test]
    fn the_password_does_not_travel_in_the_clear_by_accident() {
        let open = |address, trust| Http::new(address, &settings(trust));
        let error = open("http://xcp", Trust::SystemRoots).unwrap_err();
        assert!(error.to_string().contains("in the clear"), "{error}");
        open("http://xcp", Trust::Insecure).unwrap();
        let pinned = Trust::Pinned(crate::Fingerprint::of(b"any"));
        let error = open("http://[::1]:80", pinned).unwrap_err();
        assert!(error.to_string().contains("no certificate"), "{error}");
        let here = open("http://[::1]:80", Trust::SystemRoots).unwrap();
        let error = here.redirect("10.0.0.2").unwrap_err();
        assert!(error.to_string().contains("in the clear"), "{error}");
    }

    #[test]
    fn a_redirect_keeps_scheme_and_port() {
        let http = Http::new("https://a:8443", &settings(Trust::Insecure)).unwrap();
        let moved = http.redirect("2001:db8::2").unwrap();
        assert_eq!(
            format!("{moved:?}"),
            r#"Http { endpoint: "https://[2001:db8::2]:8443/", .. }"#
        );
    }
}
