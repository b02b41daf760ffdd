//! Failures and delays on demand, for the tests of those who talk to a pool.

use std::fmt;
use std::time::Duration;

use crate::db::Db;
use crate::failure::Failure;
use crate::seed::Seed;
use crate::value::Value;

/// Makes calls of a method fail or wait.
///
/// Rules of two kinds exist. Those for what happens on the way ([`disconnect`], [`http_status`],
/// [`truncate`], [`slow_body`] and [`expire_session`]) act on requests by the method that they
/// carry. All others act after the session has been checked and, for `Async.` calls, inside the
/// task: where failures of a real host come from. Nothing has been changed when an injected failure
/// arrives, unless [`after_effect`] says so.
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
    /// A rule for a method by its wire name, `VM.clone`; `VM.*` is every method of a class, `*`
    /// every method. It also holds for the `Async.` form.
    pub fn method(name: impl Into<String>) -> Self {
        FaultRule {
            method: name.into(),
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

/// What the rules have in store for a call.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) delay: Duration,
    pub(crate) before: Option<Failure>,
    pub(crate) after: Option<Failure>,
    /// The host crashes, and is back after this time.
    pub(crate) crash: Option<Duration>,
}

/// What the rules have in store for a request.
#[derive(Debug, Default)]
pub(crate) struct WayVerdict {
    pub(crate) delay: Duration,
    pub(crate) spoil: Option<Spoil>,
    /// Whether the call that the request carries is made.
    pub(crate) skips: bool,
}

/// The rules in force.
#[derive(Debug)]
pub(crate) struct Faults {
    rules: Vec<FaultRule>,
    seed: Seed,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Self {
        Faults {
            rules: Vec::new(),
            seed: Seed::new(seed),
        }
    }

    pub(crate) fn add(&mut self, rule: FaultRule) {
        self.rules.push(rule);
    }

    pub(crate) fn clear(&mut self) {
        self.rules.clear();
    }

    pub(crate) fn rules(&self) -> &[FaultRule] {
        &self.rules
    }

    /// Counts a call against the rules. Delays add up; of failures the first rule's counts.
    pub(crate) fn strike(&mut self, db: &Db, method: &str, args: &[Value]) -> Verdict {
        let mut verdict = Verdict::default();
        let rules = self.rules.iter_mut();
        for rule in rules.filter(|rule| rule.on_the_way.is_none()) {
            if !rule.acts(&mut self.seed, db, method, args) {
                continue;
            }
            verdict.delay += rule.delay;
            verdict.crash = verdict.crash.or(rule.crash);
            let slot = if rule.after_effect {
                &mut verdict.after
            } else {
                &mut verdict.before
            };
            if slot.is_none() {
                slot.clone_from(&rule.failure);
            }
        }
        verdict
    }

    /// Counts a request against the rules for what happens on the way, by the method as the client
    /// wrote it. The first rule's mischief counts.
    pub(crate) fn strike_on_the_way(
        &mut self,
        db: &Db,
        method: &str,
        params: &[Value],
    ) -> WayVerdict {
        let method = method.strip_prefix("Async.").unwrap_or(method);
        let mut verdict = WayVerdict::default();
        for rule in &mut self.rules {
            let Some(spoil) = rule.on_the_way else {
                continue;
            };
            if !rule.acts(&mut self.seed, db, method, params) {
                continue;
            }
            verdict.delay += rule.delay;
            if verdict.spoil.is_none() {
                verdict.spoil = Some(spoil);
                verdict.skips = !rule.after_effect && !spoil.needs_answer();
            }
        }
        verdict
    }
}

impl FaultRule {
    /// Counts a call, and tells whether the rule acts on it.
    fn acts(&mut self, seed: &mut Seed, db: &Db, method: &str, args: &[Value]) -> bool {
        if !self.is_about(method) {
            return false;
        }
        if let Some(object) = &self.object {
            let mut texts = args.iter().filter_map(Value::as_str);
            if !texts.any(|text| text == object || db.is_called(text, object)) {
                return false;
            }
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if self.left == Some(0) || (self.probability < 1.0 && seed.share() >= self.probability) {
            return false;
        }
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        self.hits += 1;
        true
    }

    fn is_about(&self, method: &str) -> bool {
        match self.method.strip_suffix('*') {
            Some(beginning) => method.starts_with(beginning),
            None => self.method == method,
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Release;

    fn struck(rule: FaultRule, seed: u64, calls: usize) -> Vec<bool> {
        let db = Db::new(Release::Newest);
        let mut faults = Faults::new(seed);
        faults.add(rule.fail("X", ["1"]));
        (0..calls)
            .map(|_| faults.strike(&db, "VM.clone", &[]).before.is_some())
            .collect()
    }

    #[test]
    fn counts() {
        let rule = FaultRule::method("VM.clone").after(1).times(2);
        assert_eq!(struck(rule, 1, 5), [false, true, true, false, false]);
        assert_eq!(struck(FaultRule::method("VM.start"), 1, 1), [false]);
        assert_eq!(struck(FaultRule::class("VM"), 1, 1), [true]);
        assert_eq!(struck(FaultRule::class("V"), 1, 1), [false]);
    }

    #[test]
    fn chances_are_those_of_the_seed() {
        let rule = FaultRule::method("*").probability(0.25);
        let hits = struck(rule.clone(), 7, 1000);
        assert_eq!(struck(rule.clone(), 7, 1000), hits);
        assert_ne!(struck(rule, 8, 1000), hits);
        let count = hits.iter().filter(|hit| **hit).count();
        assert!((200..300).contains(&count), "{count}");
    }

    #[test]
    fn objects_are_known_by_reference_uuid_or_name() {
        let mut db = Db::new(Release::Newest);
        let fields = vec![("uuid", Value::from("u")), ("name_label", Value::from("n"))];
        db.create("VM", "ref", fields).unwrap();
        for (object, hit) in [("ref", true), ("u", true), ("n", true), ("other", false)] {
            let mut faults = Faults::new(1);
            let rule = FaultRule::method("VM.start").object(object);
            faults.add(rule.fail("X", ["1"]));
            let verdict = faults.strike(&db, "VM.start", &["ref".into()]);
            assert_eq!(verdict.before.is_some(), hit, "{object}");
        }
    }
}
