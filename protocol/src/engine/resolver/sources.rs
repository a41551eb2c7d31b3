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
    /// Whether it let a question pass, though it probably has the blob, and is still there.
    silent: bool,
}

/// How many that let a question pass are fetched from all the same: each that is dead costs the time of its attempts.
const SILENT_MAX: usize = 4;

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

    /// Takes in that a source which probably has the blob let a question pass.
    pub(crate) fn was_silent(&mut self, source: Source) {
        self.0.entry(source).or_default().silent = true;
    }

    /// Takes in that a source went.
    pub(crate) fn went(&mut self, source: Source) {
        if let Some(record) = self.0.get_mut(&source) {
            record.silent = false;
        }
    }

    /// Returns some of those that let a question pass and have nothing else against them, and forgets that of all. `pick`
    /// chooses one of so many: nobody is among them for the sake of its name.
    pub(crate) fn take_silent(&mut self, pick: impl FnOnce(usize) -> usize) -> Vec<Source> {
        let silent = self.0.iter_mut().filter_map(|(source, record)| {
            let willing = std::mem::take(&mut record.silent) && !record.spent;
            willing.then_some(*source)
        });
        let mut silent: Vec<_> = silent.collect();
        if silent.len() > SILENT_MAX {
            let first = pick(silent.len()) % silent.len();
            silent.rotate_left(first);
            silent.truncate(SILENT_MAX);
        }
        silent
    }

    /// Takes in that a source gave something.
    pub(crate) fn gave(&mut self, source: Source) {
        if let Some(record) = self.0.get_mut(&source) {
            record.busy_since = None;
        }
    }
}
