//! The rules in force, and what they have in store for calls and transfers.

use std::time::Duration;

use super::{FaultRule, Spoil};
use crate::db::Db;
use crate::failure::Failure;
use crate::seed::Seed;
use crate::value::Value;

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

/// What the rules have in store for a request to an HTTP handler.
#[derive(Debug, Default)]
pub(crate) struct TransferVerdict {
    pub(crate) delay: Duration,
    pub(crate) spoil: Option<Spoil>,
    /// Whether the handler is not run.
    pub(crate) skips: bool,
    /// How it fails at once, and how it fails in the end, after it has begun to answer.
    pub(crate) before: Option<Failure>,
    pub(crate) late: Option<Failure>,
    /// The host crashes, and is back after this time.
    pub(crate) crash: Option<Duration>,
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
            if !rule.acts(&mut self.seed, db, &[method], args) {
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
            if !rule.acts(&mut self.seed, db, &[method], params) {
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

    /// Counts a request to an HTTP handler against the rules, by its path, alone or behind its
    /// method: `/export` or `GET /export`.
    pub(crate) fn strike_transfer(
        &mut self,
        db: &Db,
        method: &str,
        path: &str,
        params: &[Value],
    ) -> TransferVerdict {
        let whole = format!("{method} {path}");
        let mut verdict = TransferVerdict::default();
        for rule in &mut self.rules {
            if !rule.acts(&mut self.seed, db, &[path, &whole], params) {
                continue;
            }
            verdict.delay += rule.delay;
            verdict.crash = verdict.crash.or(rule.crash);
            if let Some(spoil) = rule.on_the_way
                && verdict.spoil.is_none()
            {
                verdict.spoil = Some(spoil);
                verdict.skips = !rule.after_effect && !spoil.needs_answer();
            }
            let slot = if rule.after_effect || rule.on_the_way.is_some() {
                &mut verdict.late
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

impl FaultRule {
    /// Counts a call or transfer with these names, and tells whether the rule acts on it.
    fn acts(&mut self, seed: &mut Seed, db: &Db, names: &[&str], args: &[Value]) -> bool {
        if !names.iter().any(|name| self.is_about(name)) {
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
