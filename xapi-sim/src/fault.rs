//! Failures and delays on demand, for the tests of those who talk to a pool.

mod force;

use std::fmt;
use std::time::Duration;

use crate::failure::Failure;
pub(crate) use force::{Faults, TransferVerdict};

/// Makes calls of a method, or transfers of an HTTP handler, fail or wait.
///
/// Rules of two kinds exist for calls. Those for what happens on the way ([`disconnect`], [`http_status`],
/// [`truncate`], [`slow_body`] and [`expire_session`]) act on requests by the method that they
/// carry. All others act after the session has been checked and, for `Async.` calls, inside the
/// task: where failures of a real host come from. Nothing has been changed when an injected failure
/// arrives, unless [`after_effect`] says so.
///
/// For HTTP handlers, named by their path (`/export`, or `GET /blob` where only one method is meant),
/// both kinds go together. A failure is answered in place of the transfer, and fails the task that
/// was given with it; [`after_effect`] lets the transfer begin with its 200 and fail behind it, as a
/// real server does that meets an error late. [`truncate`] ends the connection after so many bytes of
/// what is sent, up or down, and with a failure lets the server end it; [`slow_body`] lets them pause.
///
/// [`disconnect`]: FaultRule::disconnect
/// [`http_status`]: FaultRule::http_status
/// [`truncate`]: FaultRule::truncate
/// [`slow_body`]: FaultRule::slow_body
/// [`expire_session`]: FaultRule::expire_session
/// [`after_effect`]: FaultRule::after_effect
///
/// ```
/// use xapi_sim::FaultRule;
///
/// // The third clone fails, later ones succeed.
/// let rule = FaultRule::method("VM.clone").after(2).times(1).fail(
///     "SR_BACKEND_FAILURE_44",
///     ["", "There is insufficient space", ""],
/// );
/// # let _ = rule;
/// ```
#[derive(Debug, Clone)]
pub struct FaultRule {
    method: String,
    /// Reference, uuid or name of an object that the call has to name.
    object: Option<String>,
    skip: u64,
    left: Option<u64>,
    /// From 0 to 1.
    probability: f64,
    delay: Duration,
    failure: Option<Failure>,
    /// After which time a host that crashes is back.
    crash: Option<Duration>,
    /// Whether the call is carried out and only its reply replaced.
    after_effect: bool,
    on_the_way: Option<Spoil>,
    hits: u64,
}

/// What becomes of an answer on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoil {
    /// None comes, and the connection ends.
    Disconnect,
    /// A page with this status comes instead.
    Status(u16),
    /// Only so many bytes of the body come, and the connection ends.
    Truncate(usize),
    /// The second half of the body comes this much later.
    Slow(Duration),
    /// The session ends before the call is looked at.
    Expire,
}

impl Spoil {
    /// Whether there has to be an answer to be spoiled.
    fn needs_answer(self) -> bool {
        matches!(self, Spoil::Truncate(_) | Spoil::Slow(_) | Spoil::Expire)
    }
}

impl FaultRule {
    /// A rule for a method by its wire name, `VM.clone`, or for an HTTP handler by its path,
    /// `/export`; `VM.*` is every method of a class, `*` every method and handler. It holds for the
    /// `Async.` form too, by whichever of the two it is named.
    pub fn method(name: impl Into<String>) -> Self {
        let name = name.into();
        FaultRule {
            method: name.strip_prefix("Async.").unwrap_or(&name).to_owned(),
            object: None,
            skip: 0,
            left: None,
            probability: 1.0,
            delay: Duration::ZERO,
            failure: None,
            crash: None,
            after_effect: false,
            on_the_way: None,
            hits: 0,
        }
    }

    /// A rule for every method of a class, `VM` for example.
    pub fn class(name: &str) -> Self {
        FaultRule::method(format!("{name}.*"))
    }

    /// Acts only on calls that name this object among their parameters: its reference, its uuid
    /// or its name.
    #[must_use]
    pub fn object(mut self, object: impl Into<String>) -> Self {
        self.object = Some(object.into());
        self
    }

    /// Acts on this share of the calls only, from 0 to 1. Which ones, the model's seed decides.
    #[must_use]
    pub fn probability(mut self, share: f64) -> Self {
        self.probability = share;
        self
    }

    /// Spares the first `count` calls.
    #[must_use]
    pub fn after(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// Acts on `count` calls, then no more. Without this the rule holds for ever.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.left = Some(count);
        self
    }

    /// Lets the call wait this long before anything else happens.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Answers with this failure instead of carrying the call out.
    #[must_use]
    pub fn fail<S: Into<String>>(
        mut self,
        code: impl Into<String>,
        params: impl IntoIterator<Item = S>,
    ) -> Self {
        self.failure = Some(Failure::new(code, params));
        self
    }

    /// Ends the connection instead of answering. The call is not carried out, unless
    /// [`after_effect`](FaultRule::after_effect) says so.
    #[must_use]
    pub fn disconnect(self) -> Self {
        self.on_the_way(Spoil::Disconnect)
    }

    /// Answers with a page of this HTTP status, 503 for example. The call is not carried out,
    /// unless [`after_effect`](FaultRule::after_effect) says so.
    #[must_use]
    pub fn http_status(self, status: u16) -> Self {
        self.on_the_way(Spoil::Status(status))
    }

    /// Carries the call out, sends only so many bytes of the answer's body, and ends the
    /// connection.
    #[must_use]
    pub fn truncate(self, bytes: usize) -> Self {
        self.on_the_way(Spoil::Truncate(bytes))
    }

    /// Carries the call out, sends half of the answer's body, and the rest this much later.
    #[must_use]
    pub fn slow_body(self, pause: Duration) -> Self {
        self.on_the_way(Spoil::Slow(pause))
    }

    /// Ends the session of the call before anything else happens, as if it had expired.
    #[must_use]
    pub fn expire_session(self) -> Self {
        self.on_the_way(Spoil::Expire)
    }

    /// Lets the host crash that carries the call out, in the middle of it: after the
    /// [`delay`](FaultRule::delay) if the call takes that long. It is back after `reboot`.
    ///
    /// That is the host that the call or its VM is bound to, else the coordinator. The client of a
    /// coordinator that crashes loses its connection, session and tasks; that of another host gets
    /// `CANNOT_CONTACT_HOST`.
    #[must_use]
    pub fn crash_host(mut self, reboot: Duration) -> Self {
        self.crash = Some(reboot);
        self
    }

    fn on_the_way(mut self, spoil: Spoil) -> Self {
        self.on_the_way = Some(spoil);
        self
    }

    /// Carries the call out all the same, so that the failure is a lie: what a client sees when a
    /// host dies between the work and its reply.
    #[must_use]
    pub fn after_effect(mut self) -> Self {
        self.after_effect = true;
        self
    }
}

impl FaultRule {
    /// How many calls the rule has acted on, for the rules of [`Sim::faults`](crate::Sim::faults).
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits
    }
}

impl fmt::Display for FaultRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.method)?;
        if let Some(object) = &self.object {
            write!(f, " of {object}")?;
        }
        if self.skip > 0 {
            write!(f, ", after {} more", self.skip)?;
        }
        if let Some(left) = self.left {
            write!(f, ", {left} times more")?;
        }
        if self.probability < 1.0 {
            write!(f, ", with probability {}", self.probability)?;
        }
        f.write_str(":")?;
        if !self.delay.is_zero() {
            write!(f, " wait {:?}", self.delay)?;
        }
        if let Some(failure) = &self.failure {
            write!(f, " fail with {failure}")?;
        }
        match self.on_the_way {
            None => {}
            Some(Spoil::Disconnect) => f.write_str(" disconnect")?,
            Some(Spoil::Status(status)) => write!(f, " answer with HTTP status {status}")?,
            Some(Spoil::Truncate(bytes)) => write!(f, " cut the answer after {bytes} bytes")?,
            Some(Spoil::Slow(pause)) => write!(f, " hold half of the answer for {pause:?}")?,
            Some(Spoil::Expire) => f.write_str(" end the session")?,
        }
        if let Some(reboot) = self.crash {
            write!(f, " crash the host for {reboot:?}")?;
        }
        if self.after_effect {
            f.write_str(" after the effect")?;
        }
        write!(f, " (acted {} times)", self.hits)
    }
}
