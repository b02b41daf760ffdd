//! The client.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::sync::Semaphore;
use tracing::{Instrument as _, Span, field};

use crate::api::Task;
use crate::call::{Call, Prepared, SyncOnly};
use crate::error::{Error, ErrorCode, Result};
use crate::event::Watch;
use crate::failover::Members;
use crate::filter::Filter;
use crate::http::{Http, Settings};
use crate::reference::{Recorded, Ref};
use crate::reply::Reply;
use crate::retry::{PAUSES, Replay, TaskTag, replay};
use crate::session::{Credentials, Live, Login, Session, exchange};
use crate::task::TaskHandle;
use crate::tls::Trust;
use crate::transport::{Protocol, Request, Transport};

/// How long a call may take, unless the builder says otherwise.
const TIMEOUT: Duration = Duration::from_secs(300);
/// How long a connection may take to come about, unless the builder says otherwise.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How many calls may be under way at once, unless the builder says otherwise. Servers use one thread a
/// connection, and are slowest when busiest.
const MAX_CONCURRENT_CALLS: usize = 20;
/// What this crate is called on the wire.
const NAME: &str = concat!("rust-xapi-client/", env!("CARGO_PKG_VERSION"));

/// A client that is logged in to a pool.
///
/// Clones are cheap and share one session. A session that the server has dropped is replaced, once for
/// all calls that need it. [`close`](Self::close) logs out and says whether that worked. When the last clone
/// is dropped within a tokio runtime, it logs out in the background; a program that ends right away, or a
/// drop outside of a runtime, leaves the session to the server, which forgets it after a day.
///
/// The messages of each class are behind the method of its name: `client.vm().get_all()`.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    session: Session,
    /// How many calls may be under way at once.
    limit: Semaphore,
    timeout: Duration,
    next_id: AtomicU64,
    task_mark: Option<(String, String)>,
}

impl Client {
    /// Starts to describe a client of this host: a name, an IP address, or a URL, with or without a port.
    /// Plain `http` is refused unless it stays on this machine or [`Trust::Insecure`] was chosen.
    pub fn builder(host: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            target: Target::Address(host.into()),
            members: Vec::new(),
            credentials: Credentials {
                user: String::new(),
                password: SecretString::default(),
                originator: originator(),
            },
            trust: Trust::default(),
            trust_vouched: false,
            protocol: None,
            max_concurrent_calls: MAX_CONCURRENT_CALLS,
            timeout: TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
            user_agent: NAME.to_owned(),
            task_mark: None,
        }
    }

    /// Starts to describe a client over a transport of one's own.
    pub fn over(transport: Arc<dyn Transport>) -> ClientBuilder {
        ClientBuilder {
            target: Target::Transport(transport),
            ..Self::builder("")
        }
    }

    /// Calls a method by name: for methods newer than this crate. The session is put in front of the
    /// parameters.
    pub fn call(&self, method: &str, params: Vec<Value>) -> Call<'_, Value> {
        Call::new(self, method, params)
    }

    /// Reads the records of the objects that a filter matches.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] when the server's grammar cannot express the filter; and those of any call.
    pub async fn find<T: Recorded>(
        &self,
        filter: &Filter<T>,
    ) -> Result<BTreeMap<Ref<T>, T::Record>> {
        let method = format!("{}.get_all_records_where", T::NAME);
        let params = vec![Value::from(filter.expression()?)];
        Call::<_, SyncOnly>::new(self, &method, params).await
    }

    /// Looks for the task of a call whose answer was lost, by the tag that
    /// [`Error::UnknownOutcome`] or [`TaskCall::tag`](crate::TaskCall::tag) gave. Its handle then tells, or
    /// waits for, what became of the work; `R` is what the method returns.
    ///
    /// `None`: the server has no such task. It never got the call (or, right after the loss, not yet), or it
    /// has restarted, or cleared the finished task away, which it does after an hour or when there are more
    /// than 200. Then only the objects themselves can tell.
    ///
    /// # Errors
    ///
    /// As any call.
    pub async fn reconcile<R>(&self, tag: &TaskTag) -> Result<Option<TaskHandle<R>>> {
        let tasks = self.task().get_all_records().await?;
        let ours = tasks.into_iter().find(|(_, record)| {
            record.other_config.get(TaskTag::KEY).map(String::as_str) == Some(tag.as_str())
        });
        Ok(ours.map(|(task, _)| TaskHandle::new(self.clone(), tag.method().to_owned(), task)))
    }

    /// A handle of a task that is known by its reference. `R` is what its method returns.
    #[must_use]
    pub fn attach<R>(&self, method: &str, task: Ref<Task>) -> TaskHandle<R> {
        TaskHandle::new(self.clone(), method.to_owned(), task)
    }

    /// Watches classes, or single objects: see [`Watch`]. A subscription is a class (`vm`), one object
    /// (`vm/OpaqueRef:…`), or `*`.
    #[must_use]
    pub fn watch(&self, subscriptions: &[&str]) -> Watch {
        Watch::new(self.clone(), subscriptions)
    }

    /// The host that calls go to: the coordinator of the pool.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] after [`close`](Self::close).
    pub fn host_name(&self) -> Result<String> {
        Ok(self
            .inner
            .session
            .live("host_name")?
            .transport
            .host()
            .to_owned())
    }

    /// How many calls this client has sent so far, repeated ones included, but no logins, and no transfers
    /// of HTTP handlers.
    #[must_use]
    pub fn calls_sent(&self) -> u64 {
        // Ids count from 1.
        self.inner.next_id.load(Ordering::Relaxed) - 1
    }

    /// The session, for HTTP handlers. It is as good as the password, and may be replaced by any call.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] after [`close`](Self::close).
    pub fn session_ref(&self) -> Result<Ref<crate::api::Session>> {
        Ok(Ref::new(self.inner.session.live("session_ref")?.session()))
    }

    /// Ends a session that is not this client's: one that a killed program has left. Whether there was
    /// such a session: one that is gone is as good as ended.
    ///
    /// # Errors
    ///
    /// As any call.
    pub async fn end_session(&self, session: &SecretString) -> Result<bool> {
        let params = vec![Value::from(session.expose_secret())];
        let logout: Call<'_, ()> = Call::without_session(self, "session.logout", params);
        match logout.await {
            Err(Error::Api(failure)) if failure.is_session_invalid() => Ok(false),
            ended => ended.map(|()| true),
        }
    }

    /// The session to use now, and the host that knows it.
    pub(crate) fn live(&self, method: &str) -> Result<Arc<Live>> {
        self.inner.session.live(method)
    }

    /// A session in place of one that the server has dropped.
    pub(crate) async fn renew(&self, dead: &Arc<Live>, method: &str) -> Result<Arc<Live>> {
        self.inner.session.renew(dead, method).await
    }

    /// How many sessions there were before this one.
    pub(crate) fn renewals(&self) -> u64 {
        self.inner.session.renewals()
    }

    /// Logs out. Calls through any clone then fail with [`Error::Closed`]; a second close does nothing.
    ///
    /// # Errors
    ///
    /// When the server cannot be told; it forgets the session after a day.
    ///
    /// # Cancel safety
    ///
    /// The client is closed at once; dropping the future may leave the session to the server.
    pub async fn close(&self) -> Result<()> {
        self.inner.session.close().await
    }

    /// Sends a call and gives its result undecoded. Not generic: this is compiled once.
    ///
    /// Each call has a span. It tells nothing that may be secret: neither parameters nor what failures
    /// repeat of them.
    pub(crate) fn execute(
        &self,
        prepared: Prepared,
    ) -> impl Future<Output = Result<Reply>> + Send + use<> {
        self.execute_as(prepared)
    }

    /// As [`execute`](Self::execute), for answers that are taken in another way.
    pub(crate) fn execute_as<A: Answer>(
        &self,
        prepared: Prepared,
    ) -> impl Future<Output = Result<A>> + Send + use<A> {
        let inner = self.inner.clone();
        let span = tracing::debug_span!(
            "xapi",
            method = prepared.method,
            host = field::Empty,
            duration_ms = field::Empty,
            outcome = field::Empty
        );
        async move {
            let start = Instant::now();
            let result = inner.execute(&prepared).await;
            let span = Span::current();
            if let Ok(live) = inner.session.live(&prepared.method) {
                span.record("host", live.transport.host());
            }
            span.record("duration_ms", start.elapsed().as_secs_f64() * 1000.0);
            span.record(
                "outcome",
                result.as_ref().map_or_else(Error::kind, |_| "ok"),
            );
            tracing::debug!("finished");
            result
        }
        .instrument(span)
    }
}

/// Under which name servers count the sessions of this program, unless the builder says otherwise.
fn originator() -> String {
    let program = std::env::current_exe().ok();
    let program = program.as_deref().and_then(|path| path.file_name());
    match program.and_then(|name| name.to_str()) {
        Some(program) => format!("{program} ({NAME})"),
        None => NAME.to_owned(),
    }
}

/// How an answer is taken: whole, or as it comes.
pub(crate) trait Answer: Send + Sized {
    /// What stands for the answer of a call that is known to be done, and that returns nothing.
    fn void(method: &str) -> Result<Self>;

    /// One request and its answer.
    fn exchange(
        transport: &dyn Transport,
        protocol: Protocol,
        request: Request,
    ) -> impl Future<Output = Result<Self>> + Send;
}

impl Answer for Reply {
    fn void(method: &str) -> Result<Self> {
        Ok(Self::void(method))
    }

    async fn exchange(
        transport: &dyn Transport,
        protocol: Protocol,
        request: Request,
    ) -> Result<Self> {
        exchange(transport, protocol, request).await
    }
}

impl Inner {
    async fn execute<A: Answer>(&self, prepared: &Prepared) -> Result<A> {
        let timeout = prepared.timeout.unwrap_or(self.timeout);
        let method = prepared.method.as_str();
        let _permit = match prepared.counts {
            false => None,
            // Nobody closes the semaphore.
            true => self.limit.acquire().await.ok(),
        };
        let replay = replay(method, &prepared.params);
        let mut live = self.session.live(method)?;
        let (mut renewed, mut failed_over) = (false, false);
        let mut pauses = PAUSES.iter();
        // Why the answer to the first attempt was lost.
        let mut lost = None;
        loop {
            match self.attempt(&live, prepared, timeout).await {
                // In both cases nothing was executed, and a new login, which follows the server to the
                // coordinator, may help. Once: a call must end.
                Err(Error::Api(failure))
                    if prepared.needs_session
                        && !renewed
                        && (failure.is_session_invalid()
                            || failure.code == ErrorCode::HostIsSlave) =>
                {
                    live = self.session.renew(&live, method).await?;
                    renewed = true;
                }
                Err(Error::Api(failure))
                    if lost.is_some() && replay.is_done(&prepared.params, &failure) =>
                {
                    tracing::debug!(%failure, "the call whose answer was lost did its work");
                    return A::void(method);
                }
                Err(error @ (Error::Transport { .. } | Error::Timeout { .. }))
                    if replay == Replay::Harmful =>
                {
                    return Err(unknown_outcome(error, prepared.tag.clone()));
                }
                // Nothing was executed this time; another host may be the coordinator now.
                Err(error @ Error::Connect { .. }) if !failed_over => {
                    failed_over = true;
                    match self.session.fail_over(&live, method).await {
                        Ok(Some(other)) => live = other,
                        // The same host again, if an answer of it was lost: it may be restarting.
                        Ok(None) if lost.is_some() => {}
                        Ok(None) => return Err(error),
                        Err(error) => return Err(lost.unwrap_or(error)),
                    }
                }
                // Nothing but a lost answer is worth a replay; a server that restarts then refuses
                // connections for a while.
                Err(error)
                    if matches!(error, Error::Transport { .. })
                        || lost.is_some() && matches!(error, Error::Connect { .. }) =>
                {
                    tracing::debug!(%error, "the answer was lost");
                    let first = lost.unwrap_or(error);
                    let Some(pause) = pauses.next() else {
                        return Err(first);
                    };
                    lost = Some(first);
                    tokio::time::sleep(*pause).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn attempt<A: Answer>(
        &self,
        live: &Live,
        prepared: &Prepared,
        timeout: Duration,
    ) -> Result<A> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let session = prepared.needs_session.then(|| live.session());
        let body = live
            .protocol
            .encode(id, &prepared.method, session, &prepared.params)?;
        let mut request = Request::new(&prepared.method, body, timeout);
        request.task_tag.clone_from(&prepared.tag);
        request.task_mark.clone_from(&self.task_mark);
        A::exchange(&*live.transport, live.protocol, request).await
    }
}

/// A lost answer to a call that must not be sent again.
fn unknown_outcome(lost: Error, tag: Option<TaskTag>) -> Error {
    match lost {
        Error::Transport {
            method,
            host,
            source,
        } => Error::UnknownOutcome {
            method,
            host,
            tag,
            source,
        },
        Error::Timeout {
            method,
            host,
            after,
        } => Error::UnknownOutcome {
            method,
            host,
            tag,
            source: format!("no answer within {} s", after.as_secs_f64()).into(),
        },
        other => other,
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("host", &self.host_name().ok())
            .finish_non_exhaustive()
    }
}

/// Describes a [`Client`]; [`login`](Self::login) makes it.
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it logs in"]
pub struct ClientBuilder {
    target: Target,
    members: Vec<String>,
    credentials: Credentials,
    trust: Trust,
    trust_vouched: bool,
    /// `None`: what the server speaks.
    protocol: Option<Protocol>,
    max_concurrent_calls: usize,
    timeout: Duration,
    connect_timeout: Duration,
    user_agent: String,
    task_mark: Option<(String, String)>,
}

#[derive(Debug, Clone)]
enum Target {
    Address(String),
    Transport(Arc<dyn Transport>),
}

impl ClientBuilder {
    /// Who logs in. The role of this user decides what may be called.
    pub fn credentials(mut self, user: impl Into<String>, password: SecretString) -> Self {
        self.credentials.user = user.into();
        self.credentials.password = password;
        self
    }

    /// Under which name the server counts the session. Servers drop the oldest sessions of a name that
    /// has too many, so a program needs a name of its own. Default: the file name of the program and the
    /// version of this crate, `my-program (rust-xapi-client/0.1.0)`.
    pub fn originator(mut self, originator: impl Into<String>) -> Self {
        self.credentials.originator = originator.into();
        self
    }

    /// Which certificates are trusted. Default: those that the CAs of this machine vouch for.
    pub fn trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// Whether a certificate is trusted too that a trusted member of the pool names as its coordinator's.
    /// A member answers a login with the address of the coordinator and the fingerprint of its certificate;
    /// who trusts the member's word needs to pin one host only. Default: no, and then [`Error::Untrusted`]
    /// says whether a member vouches for the certificate.
    pub fn trust_vouched(mut self, trust_vouched: bool) -> Self {
        self.trust_vouched = trust_vouched;
        self
    }

    /// Other hosts of the pool, as for [`Client::builder`]. At login, and when the coordinator cannot be
    /// reached, all known hosts are asked side by side which of them is the coordinator now; one that has
    /// left the pool since is not used. Calls that were not sent, or that may be sent again, then go there.
    /// Default: none, and then an unreachable host is an error at once.
    ///
    /// Every host has a certificate of its own: trust them with [`Trust::PinnedAny`] or a
    /// [`Trust::Ca`] text that holds all.
    pub fn members(mut self, hosts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.members = hosts.into_iter().map(Into::into).collect();
        self
    }

    /// Which protocol is spoken. Default: JSON-RPC, or XML-RPC with a server whose first answer is not
    /// JSON.
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = Some(protocol);
        self
    }

    /// How many calls may be under way at once; others wait for their turn, which their timeout does not
    /// count. Waiting for events does not count either. Default: 20.
    pub fn max_concurrent_calls(mut self, calls: usize) -> Self {
        self.max_concurrent_calls = calls;
        self
    }

    /// How long a call may take, unless [`Call::timeout`] says otherwise. Default: 5 minutes. Operations that may take longer are better sent as
    /// tasks, each step of which is short.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long a connection may take to come about. Default: 10 seconds.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The `User-Agent`, in printable ASCII. Default: `rust-xapi-client/<version>`. Keep it short: the head of a request
    /// must not exceed 1,006 bytes.
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = user_agent.into();
        self
    }

    /// Has the server mark the tasks of this client's calls, so that they can be told from those of others,
    /// also after this program was killed: their field `other_config` has the value under the key `http:`
    /// and this one. Not every call has a task; those that take long do, for as long as they take, also
    /// where they are not sent as one. The key may have small letters, digits and `-`, the value printable
    /// ASCII. Keep both short: the head of a request must not exceed 1,006 bytes.
    pub fn task_mark(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.task_mark = Some((key.into(), value.into()));
        self
    }

    /// Logs in. A member of a pool names the coordinator, and the client follows it there.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`], [`Error::Untrusted`] and [`Error::Tls`] when the host cannot be reached or not
    /// be trusted; [`Error::Api`] with `SESSION_AUTHENTICATION_FAILED` when it refuses the credentials;
    /// [`Error::Config`] when the description makes no sense.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before the server has answered may leave a session to it, which it forgets after
    /// a day.
    pub async fn login(self) -> Result<Client> {
        if self.max_concurrent_calls == 0 {
            return Err(Error::Config(
                "a client that may send 0 calls at once can send none; give at least 1".to_owned(),
            ));
        }
        if let Some((key, value)) = &self.task_mark {
            check_mark(key, value)?;
        }
        let settings = Settings {
            trust: self.trust,
            trust_vouched: self.trust_vouched,
            user_agent: self.user_agent,
            connect_timeout: self.connect_timeout,
        };
        let connect = |address: &str| -> Result<Arc<dyn Transport>> {
            Ok(Arc::new(Http::new(address, &settings)?))
        };
        let transport = match &self.target {
            Target::Transport(transport) => transport.clone(),
            Target::Address(address) => connect(address)?,
        };
        let members = if self.members.is_empty() {
            None
        } else {
            let others = self.members.iter().map(|address| connect(address));
            let known = std::iter::once(Ok(transport.clone())).chain(others);
            Some(Members::new(known.collect::<Result<_>>()?))
        };
        let login = Login {
            credentials: self.credentials,
            protocol: self.protocol,
            timeout: self.timeout,
        };
        let session = Session::open(transport, members, login).await?;
        let inner = Inner {
            session,
            limit: Semaphore::new(self.max_concurrent_calls.min(Semaphore::MAX_PERMITS)),
            timeout: self.timeout,
            next_id: AtomicU64::new(1),
            task_mark: self.task_mark,
        };
        Ok(Client {
            inner: Arc::new(inner),
        })
    }
}

/// Fails where a mark of tasks cannot be a header.
fn check_mark(key: &str, value: &str) -> Result<()> {
    let is_key = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_value = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    if key.is_empty() || !key.bytes().all(is_key) {
        return Err(Error::Config(format!(
            "tasks cannot be marked under the key `{key}`; use small letters, digits and `-`"
        )));
    }
    if value.is_empty() || value.trim() != value || !value.bytes().all(is_value) {
        return Err(Error::Config(format!(
            "tasks cannot be marked with `{value}`; use printable ASCII"
        )));
    }
    Ok(())
}
