//! The session of a client: logging in, logging in again, logging out.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::error::{Error, ErrorCode, Result};
use crate::failover::Members;
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

/// How to log in.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    pub(crate) credentials: Credentials,
    /// `None`: what the server speaks.
    pub(crate) protocol: Option<Protocol>,
    pub(crate) timeout: Duration,
}

/// How long a logout may take that nobody waits for.
const FAREWELL: Duration = Duration::from_secs(10);

/// A session and the server that knows it. Where it is dropped without having been ended, and there is a
/// runtime to do it, it is logged out.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) protocol: Protocol,
    pub(crate) timeout: Duration,
    session: SecretString,
    /// Whether there is nothing to log out of any more, or nobody to tell.
    ended: AtomicBool,
}

impl Live {
    pub(crate) fn session(&self) -> &str {
        self.session.expose_secret()
    }

    /// Says that the session is gone, or that its server is.
    fn is_gone(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if *self.ended.get_mut() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            tracing::debug!("no runtime to log out in; the server forgets the session after a day");
            return;
        };
        let left = Self {
            transport: self.transport.clone(),
            protocol: self.protocol,
            timeout: self.timeout.min(FAREWELL),
            session: self.session.clone(),
            ended: AtomicBool::new(true),
        };
        runtime.spawn(async move {
            let timeout = left.timeout;
            if let Err(error) = log_out(&left, timeout).await {
                tracing::debug!(%error, "cannot log out of a session that was dropped");
            }
        });
    }
}

/// The one session that all clones of a client share.
#[derive(Debug)]
pub(crate) struct Session {
    login: Login,
    /// `None` where the client was told of one host only.
    members: Option<Members>,
    /// `None` once closed.
    live: RwLock<Option<Arc<Live>>>,
    /// Held while logging in, so that many calls that find the session dead log in once. Holds why the
    /// server refused the last time: asking again with the same password would get the same answer,
    /// late, and might lock the account.
    renewal: Mutex<Option<Failure>>,
    /// How often all hosts were asked for the coordinator, in vain or not.
    searches: AtomicU64,
    /// How many sessions there were before this one.
    renewals: AtomicU64,
}

impl Session {
    /// Logs in, following the server to the coordinator of its pool.
    pub(crate) async fn open(
        transport: Arc<dyn Transport>,
        members: Option<Members>,
        login: Login,
    ) -> Result<Self> {
        let live = match &members {
            Some(members) => members.log_in(&login).await?,
            None => login.at(transport).await?,
        };
        Ok(Self {
            login,
            members,
            live: RwLock::new(Some(Arc::new(live))),
            renewal: Mutex::new(None),
            searches: AtomicU64::new(0),
            renewals: AtomicU64::new(0),
        })
    }

    /// How many sessions there were before this one. A new one may be with another coordinator, or with a
    /// server that has restarted.
    pub(crate) fn renewals(&self) -> u64 {
        self.renewals.load(Ordering::SeqCst)
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
        now.is_gone();
        match self.log_in_again(&now).await {
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

    async fn log_in_again(&self, now: &Live) -> Result<Live> {
        let login = Login {
            protocol: Some(now.protocol),
            ..self.login.clone()
        };
        let live = login.at(now.transport.clone()).await?;
        if let Some(members) = &self.members {
            members.check(&live).await?;
        }
        Ok(live)
    }

    /// A session with whichever host is the coordinator now, in place of one that cannot be reached; `None`
    /// where the client knows no other host, or another caller has just looked for one in vain.
    pub(crate) async fn fail_over(
        &self,
        dead: &Arc<Live>,
        method: &str,
    ) -> Result<Option<Arc<Live>>> {
        let Some(members) = &self.members else {
            return Ok(None);
        };
        let searches = self.searches.load(Ordering::SeqCst);
        let _renewal = self.renewal.lock().await;
        let now = self.live(method)?;
        if !Arc::ptr_eq(&now, dead) {
            return Ok(Some(now));
        }
        if self.searches.load(Ordering::SeqCst) != searches {
            return Ok(None);
        }
        tracing::debug!(
            host = now.transport.host(),
            "the coordinator is gone, looking for another"
        );
        let found = members.log_in(&self.login).await;
        self.searches.fetch_add(1, Ordering::SeqCst);
        let found = Arc::new(found?);
        now.is_gone();
        self.install(found, method).await.map(Some)
    }

    /// Makes a new session the current one, unless the client was closed meanwhile.
    async fn install(&self, fresh: Arc<Live>, method: &str) -> Result<Arc<Live>> {
        let closed = {
            let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
            match &mut *live {
                Some(live) => {
                    self.renewals.fetch_add(1, Ordering::SeqCst);
                    *live = fresh.clone();
                    false
                }
                None => true,
            }
        };
        if closed {
            log_out(&fresh, self.login.timeout).await?;
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
            Some(live) => log_out(&live, self.login.timeout).await,
            None => Ok(()),
        }
    }
}

pub(crate) const LOGIN: &str = "session.login_with_password";

impl Login {
    /// Logs in, following the server to the coordinator of its pool.
    pub(crate) async fn at(&self, transport: Arc<dyn Transport>) -> Result<Live> {
        match self.once(transport.clone()).await {
            // Once: two hosts that name each other must not send us to and fro.
            Err(Error::Api(failure)) if failure.code == ErrorCode::HostIsSlave => {
                tracing::debug!(
                    host = transport.host(),
                    coordinator = failure.param(0),
                    "following to the coordinator of the pool"
                );
                self.once(transport.redirect(failure.param(0))?).await
            }
            outcome => outcome,
        }
    }

    /// Logs in to this host and no other.
    pub(crate) async fn once(&self, transport: Arc<dyn Transport>) -> Result<Live> {
        let first = self.speaking(self.protocol.unwrap_or_default(), &transport);
        let refused = match first.await {
            Err(error) if self.protocol.is_none() && speaks_no_json(&error) => error,
            outcome => return outcome,
        };
        tracing::debug!(host = transport.host(), error = %refused, "no JSON-RPC here, trying XML-RPC");
        match self.speaking(Protocol::XmlRpc, &transport).await {
            outcome @ (Ok(_) | Err(Error::Api(_))) => outcome,
            // A server that speaks neither is told by its first answer.
            Err(_) => Err(refused),
        }
    }

    async fn speaking(&self, protocol: Protocol, transport: &Arc<dyn Transport>) -> Result<Live> {
        let credentials = &self.credentials;
        let params = [
            Value::from(credentials.user.as_str()),
            Value::from(credentials.password.expose_secret()),
            // The server ignores the version that a client claims.
            Value::from("1.0"),
            Value::from(credentials.originator.as_str()),
        ];
        let body = protocol.encode(0, LOGIN, None, &params)?;
        let request = Request::new(LOGIN, body, self.timeout);
        let reply = exchange(&**transport, protocol, request).await?;
        let session = SecretString::from(reply.decode::<String>()?);
        tracing::debug!(
            host = transport.host(),
            user = credentials.user,
            "logged in"
        );
        Ok(Live {
            transport: transport.clone(),
            protocol,
            timeout: self.timeout,
            session,
            ended: AtomicBool::new(false),
        })
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

pub(crate) async fn log_out(live: &Live, timeout: Duration) -> Result<()> {
    let method = "session.logout";
    live.is_gone();
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
