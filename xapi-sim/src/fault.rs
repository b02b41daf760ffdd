//! Failures and delays on demand, for the tests of those who talk to a pool.

use std::time::Duration;

use crate::failure::Failure;

/// Makes calls of a method fail or wait.
///
/// Rules of two kinds exist. Those for what happens on the way ([`disconnect`], [`http_status`],
/// [`truncate`] and [`slow_body`]) act on requests by the method that they carry. All others act
/// after the session has been checked and, for `Async.` calls, inside the task: where
/// failures of a real host come from. Nothing has been changed when an injected failure arrives,
/// unless [`after_effect`] says so.
///
/// [`disconnect`]: FaultRule::disconnect
/// [`http_status`]: FaultRule::http_status
/// [`truncate`]: FaultRule::truncate
/// [`slow_body`]: FaultRule::slow_body
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
    skip: u64,
    left: Option<u64>,
    delay: Duration,
    failure: Option<Failure>,
    /// Whether the call is carried out and only its reply replaced.
    after_effect: bool,
    on_the_way: Option<Spoil>,
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
}

impl Spoil {
    /// Whether there has to be an answer to be spoiled.
    fn needs_answer(self) -> bool {
        matches!(self, Spoil::Truncate(_) | Spoil::Slow(_))
    }
}

impl FaultRule {
    /// A rule for a method by its wire name, `VM.clone`; `*` is every method. It also holds for
    /// the `Async.` form.
    pub fn method(name: impl Into<String>) -> Self {
        FaultRule {
            method: name.into(),
            skip: 0,
            left: None,
            delay: Duration::ZERO,
            failure: None,
            after_effect: false,
            on_the_way: None,
        }
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
#[derive(Debug, Default)]
pub(crate) struct Faults {
    rules: Vec<FaultRule>,
}

impl Faults {
    pub(crate) fn add(&mut self, rule: FaultRule) {
        self.rules.push(rule);
    }

    pub(crate) fn clear(&mut self) {
        self.rules.clear();
    }

    /// Counts a call against the rules. Delays add up; of failures the first rule's counts.
    pub(crate) fn strike(&mut self, method: &str) -> Verdict {
        let mut verdict = Verdict::default();
        let rules = self.rules.iter_mut();
        for rule in rules.filter(|rule| rule.on_the_way.is_none()) {
            if !rule.hits(method) {
                continue;
            }
            verdict.delay += rule.delay;
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
    pub(crate) fn strike_on_the_way(&mut self, method: &str) -> WayVerdict {
        let method = method.strip_prefix("Async.").unwrap_or(method);
        let mut verdict = WayVerdict::default();
        for rule in &mut self.rules {
            let Some(spoil) = rule.on_the_way else {
                continue;
            };
            if !rule.hits(method) {
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
    fn hits(&mut self, method: &str) -> bool {
        if self.method != "*" && self.method != method {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        match &mut self.left {
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let mut faults = Faults::default();
        faults.add(
            FaultRule::method("VM.clone")
                .after(1)
                .times(2)
                .fail("X", ["1"]),
        );
        let hits: Vec<bool> = (0..5)
            .map(|_| faults.strike("VM.clone").before.is_some())
            .collect();
        assert_eq!(hits, [false, true, true, false, false]);
        assert!(faults.strike("VM.start").before.is_none());
    }
}
