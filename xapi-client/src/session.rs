//! The session of a client: logging in, logging in again, logging out.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::error::{Error, ErrorCode, Result};
use crate::failure::Failure;
use crate::jsonrpc::NotJson;
use crate::reply::Reply;
use crate::transport::{Protocol, Request, Transport};

/// Who logs in.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: SecretString,
    /// Under which name the server counts the session.
    pub(crate) originator: String,
}

/// A session and the server that knows it.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) protocol: Protocol,
    session: SecretString,
}

impl Live {
    pub(crate) fn session(&self) -> &str {
        self.session.expose_secret()
    }
}

/// The one session that all clones of a client share.
#[derive(Debug)]
pub(crate) struct Session {
    credentials: Credentials,
    timeout: Duration,
    /// `None` once closed.
    live: RwLock<Option<Arc<Live>>>,
    /// Held while logging in, so that many calls that find the session dead log in once. Holds why the
    /// server refused the last time: asking again with the same password would get the same answer,
    /// late, and might lock the account.
    renewal: Mutex<Option<Failure>>,
}

impl Session {
    /// Logs in, following the server to the coordinator of its pool. Without a protocol, it is what the
    /// server speaks.
    pub(crate) async fn open(
        transport: Arc<dyn Transport>,
        protocol: Option<Protocol>,
        credentials: Credentials,
        timeout: Duration,
    ) -> Result<Self> {
        let live = log_in(transport, protocol, &credentials, timeout).await?;
        Ok(Self {
            credentials,
            timeout,
            live: RwLock::new(Some(Arc::new(live))),
            renewal: Mutex::new(None),
        })
    }

    /// The session to use now.
    pub(crate) fn live(&self, method: &str) -> Result<Arc<Live>> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.clone().ok_or_else(|| Error::Closed {
            method: method.to_owned(),
        })
    }

    /// A session in place of a dead one. Of many callers with the same dead session, one logs in.
    pub(crate) async fn renew(&self, dead: &Arc<Live>, method: &str) -> Result<Arc<Live>> {
        let mut refusal = self.renewal.lock().await;
        let now = self.live(method)?;
        if !Arc::ptr_eq(&now, dead) {
            return Ok(now);
        }
        if let Some(failure) = &*refusal {
            return Err(Error::Api(failure.clone()));
        }
        tracing::debug!(
            host = now.transport.host(),
            "the session is gone, logging in again"
        );
        let transport = now.transport.clone();
        match log_in(
            transport,
            Some(now.protocol),
            &self.credentials,
            self.timeout,
        )
        .await
        {
            Ok(fresh) => Ok(self.install(Arc::new(fresh), method).await?),
            Err(error) => {
                if let Error::Api(failure) = &error
                    && failure.code == ErrorCode::SessionAuthenticationFailed
                {
                    *refusal = Some(failure.clone());
                }
                Err(error)
            }
        }
    }

    /// Makes a new session the current one, unless the client was closed meanwhile.
    async fn install(&self, fresh: Arc<Live>, method: &str) -> Result<Arc<Live>> {
        let closed = {
            let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
            match &mut *live {
                Some(live) => {
                    *live = fresh.clone();
                    false
                }
                None => true,
            }
        };
        if closed {
            log_out(&fresh, self.timeout).await?;
            return Err(Error::Closed {
                method: method.to_owned(),
            });
        }
        Ok(fresh)
    }

    /// Logs out. Later calls fail with [`Error::Closed`]; a second close does nothing.
    pub(crate) async fn close(&self) -> Result<()> {
        let live = self
            .live
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match live {
            Some(live) => log_out(&live, self.timeout).await,
            None => Ok(()),
        }
    }
}

const LOGIN: &str = "session.login_with_password";

async fn log_in(
    mut transport: Arc<dyn Transport>,
    chosen: Option<Protocol>,
    credentials: &Credentials,
    timeout: Duration,
) -> Result<Live> {
    let mut protocol = chosen.unwrap_or_default();
    // Why the server seems not to speak JSON-RPC.
    let mut refused = None;
    let params = [
        Value::from(credentials.user.as_str()),
        Value::from(credentials.password.expose_secret()),
        // The server ignores the version that a client claims.
        Value::from("1.0"),
        Value::from(credentials.originator.as_str()),
    ];
    let mut redirected = false;
    loop {
        let body = protocol.encode(0, LOGIN, None, &params)?;
        let request = Request::new(LOGIN, body, timeout);
        match exchange(&*transport, protocol, request).await {
            Ok(reply) => {
                let session = SecretString::from(reply.decode::<String>()?);
                tracing::debug!(
                    host = transport.host(),
                    user = credentials.user,
                    "logged in"
                );
                return Ok(Live {
                    transport,
                    protocol,
                    session,
                });
            }
            // Once: two hosts that name each other must not send us to and fro.
            Err(Error::Api(failure)) if failure.code == ErrorCode::HostIsSlave && !redirected => {
                tracing::debug!(
                    host = transport.host(),
                    coordinator = failure.param(0),
                    "following to the coordinator of the pool"
                );
                transport = transport.redirect(failure.param(0))?;
                redirected = true;
            }
            Err(error) if chosen.is_none() && refused.is_none() && speaks_no_json(&error) => {
                tracing::debug!(host = transport.host(), %error, "no JSON-RPC here, trying XML-RPC");
                protocol = Protocol::XmlRpc;
                refused = Some(error);
            }
            Err(error @ Error::Api(_)) => return Err(error),
            // A server that speaks neither is told by its first answer.
            Err(error) => return Err(refused.unwrap_or(error)),
        }
    }
}

/// Whether a server may have said this because it speaks XML-RPC only.
fn speaks_no_json(error: &Error) -> bool {
    match error {
        // Servers without `/jsonrpc` take the request for XML-RPC, and fail to parse it.
        Error::Http { .. } => true,
        Error::Decode { source, .. } => source.is::<NotJson>(),
        _ => false,
    }
}

async fn log_out(live: &Live, timeout: Duration) -> Result<()> {
    let method = "session.logout";
    let body = live.protocol.encode(0, method, Some(live.session()), &[])?;
    let request = Request::new(method, body, timeout);
    match exchange(&*live.transport, live.protocol, request).await {
        Ok(_) => Ok(()),
        Err(Error::Api(failure)) if failure.is_session_invalid() => Ok(()),
        Err(error) => Err(error),
    }
}

/// One request and its answer.
pub(crate) async fn exchange(
    transport: &dyn Transport,
    protocol: Protocol,
    mut request: Request,
) -> Result<Reply> {
    request.protocol = protocol;
    let method = request.method.clone();
    let answer = transport.send(request).await?;
    protocol.open(&method, answer)
}
