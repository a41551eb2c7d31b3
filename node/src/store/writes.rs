//! Since when bytes are being written.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::sys::lock;

/// Knows the writes that are under way.
#[derive(Debug, Default)]
pub(super) struct Writes(Mutex<Begun>);

#[derive(Debug, Default)]
struct Begun {
    /// Each with a number of its own: two may begin at once.
    writes: BTreeSet<(Instant, u64)>,
    next: u64,
}

/// Is a write, until it is dropped.
#[derive(Debug)]
pub(super) struct Write<'a> {
    writes: &'a Writes,
    key: (Instant, u64),
}

impl Writes {
    pub(super) fn begin(&self) -> Write<'_> {
        let mut begun = lock(&self.0);
        let key = (Instant::now(), begun.next);
        begun.next += 1;
        begun.writes.insert(key);
        Write { writes: self, key }
    }

    /// Returns whether one of them has taken at least so long.
    pub(super) fn take(&self, long: Duration) -> bool {
        let first = lock(&self.0).writes.first().copied();
        first.is_some_and(|(since, _)| since.elapsed() >= long)
    }
}

impl Drop for Write<'_> {
    fn drop(&mut self) {
        lock(&self.writes.0).writes.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_of_the_writes_under_way_counts() {
        let writes = Writes::default();
        assert!(!writes.take(Duration::ZERO), "there is none");
        let (first, second) = (writes.begin(), writes.begin());
        assert!(writes.take(Duration::ZERO) && !writes.take(Duration::MAX));
        drop(first);
        assert!(writes.take(Duration::ZERO), "the other one");
        drop(second);
        assert!(!writes.take(Duration::ZERO));
    }
}
