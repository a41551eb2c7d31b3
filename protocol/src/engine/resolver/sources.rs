//! What became of the sources of one hash: who failed how often, and who has nothing more to give.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::engine::Source;
use crate::time::Time;

#[derive(Debug, Default)]
pub(crate) struct Sources(BTreeMap<Source, Record>);

#[derive(Debug, Default)]
struct Record {
    failures: u32,
    /// Since when it has said nothing but busy.
    busy_since: Option<Time>,
    spent: bool,
}

impl Sources {
    /// Returns whether a source has nothing more to give for this hash.
    pub(crate) fn is_spent(&self, source: Source) -> bool {
        self.0.get(&source).is_some_and(|record| record.spent)
    }

    /// Returns whether an attempt at a source came to nothing before.
    pub(crate) fn was_tried(&self, source: Source) -> bool {
        self.0.contains_key(&source)
    }

    /// Takes in that a source has nothing more to give.
    pub(crate) fn spend(&mut self, source: Source) {
        self.0.entry(source).or_default().spent = true;
    }

    /// Counts a failure of a source and returns how many there were.
    pub(crate) fn fail(&mut self, source: Source) -> u32 {
        let record = self.0.entry(source).or_default();
        record.failures = record.failures.saturating_add(1);
        record.failures
    }

    /// Takes in that a source was busy, and returns for how long it has been nothing else. Being busy
    /// is no failure: a holder that many want serves them one after another.
    pub(crate) fn busy(&mut self, source: Source, now: Time) -> Duration {
        let record = self.0.entry(source).or_default();
        now - *record.busy_since.get_or_insert(now)
    }

    /// Takes in that a source gave something.
    pub(crate) fn gave(&mut self, source: Source) {
        if let Some(record) = self.0.get_mut(&source) {
            record.busy_since = None;
        }
    }
}
