//! Failures and delays on demand, for the tests of those who talk to a pool.

use std::time::Duration;

use crate::failure::Failure;

/// Makes calls of a method fail or wait.
///
/// A rule acts after the session has been checked and, for `Async.` calls, inside the task: where
/// failures of a real host come from. Nothing has been changed when an injected failure arrives.
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
        for rule in &mut self.rules {
            if rule.method != "*" && rule.method != method {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            match &mut rule.left {
                Some(0) => continue,
                Some(left) => *left -= 1,
                None => {}
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
