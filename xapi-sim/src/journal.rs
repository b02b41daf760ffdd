//! Every single change, kept while somebody listens in the deprecated way of `event.next`.

use std::collections::VecDeque;

use crate::value::Value;

/// How many changes are kept. Listeners that are further behind have lost events.
const KEPT: usize = 10_000;

/// A change as it happened.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) number: i64,
    /// The class in the spelling of events.
    pub(crate) class: &'static str,
    pub(crate) operation: &'static str,
    pub(crate) reference: String,
    pub(crate) record: Option<Value>,
}

/// The changes, the oldest first. Keeping them costs a copy of each record, so nothing is kept
/// as long as it is not wanted.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    wanted: bool,
    next: i64,
    changes: VecDeque<Change>,
}

impl Journal {
    /// Says whether anybody listens; what nobody listens to is forgotten.
    pub(crate) fn want(&mut self, wanted: bool) {
        self.wanted = wanted;
        if !wanted {
            self.changes.clear();
        }
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// The number that the next change will have.
    pub(crate) fn next(&self) -> i64 {
        self.next
    }

    pub(crate) fn add(
        &mut self,
        operation: &'static str,
        class: &'static str,
        reference: &str,
        record: Option<Value>,
    ) {
        if !self.wanted {
            return;
        }
        self.changes.push_back(Change {
            number: self.next,
            class,
            operation,
            reference: reference.to_owned(),
            record,
        });
        self.next += 1;
        if self.changes.len() > KEPT {
            self.changes.pop_front();
        }
    }

    /// The changes from a number on, or `None` when some of them are forgotten.
    pub(crate) fn since(&self, number: i64) -> Option<impl Iterator<Item = &Change>> {
        let first = self.changes.front().map_or(self.next, |c| c.number);
        let skip = usize::try_from(number - first).ok()?;
        Some(self.changes.iter().skip(skip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_is_lost() {
        let mut journal = Journal::default();
        journal.add("add", "vm", "a", None);
        assert_eq!(journal.since(0).unwrap().count(), 0);
        journal.want(true);
        for _ in 0..KEPT {
            journal.add("mod", "vm", "a", None);
        }
        assert_eq!(journal.since(0).unwrap().count(), KEPT);
        journal.add("del", "vm", "a", None);
        assert!(journal.since(0).is_none());
        assert_eq!(journal.since(journal.next() - 1).unwrap().count(), 1);
        assert_eq!(journal.since(journal.next()).unwrap().count(), 0);
    }
}
