//! What was learned a moment ago and holds for a while.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use blobmesh_protocol::Time;

/// Keeps values for a time, at most so many; where it is full the oldest goes.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    keep: Duration,
    entries_max: usize,
    values: HashMap<K, (Time, V)>,
    /// The keys by the time at which their values end. A key that was removed or set again leaves an old
    /// row behind until it is its turn.
    order: VecDeque<(Time, K)>,
}

impl<K: Copy + Eq + Hash, V> Recent<K, V> {
    pub(super) fn new(keep: Duration, entries_max: usize) -> Self {
        Self { keep, entries_max, values: HashMap::new(), order: VecDeque::new() }
    }

    /// Returns what holds for a key at this moment.
    pub(super) fn find(&self, key: &K, now: Time) -> Option<&V> {
        let (until, value) = self.values.get(key)?;
        (now < *until).then_some(value)
    }

    /// Sets what holds for a key from now on.
    pub(super) fn set(&mut self, key: K, value: V, now: Time) {
        while self.order.front().is_some_and(|(until, _)| *until <= now)
            || self.order.len() >= self.entries_max
        {
            if self.drop_oldest().is_none() {
                return;
            }
        }
        let until = now + self.keep;
        self.values.insert(key, (until, value));
        self.order.push_back((until, key));
    }

    pub(super) fn remove(&mut self, key: &K) {
        self.values.remove(key);
    }

    fn drop_oldest(&mut self) -> Option<()> {
        let (until, key) = self.order.pop_front()?;
        if let Entry::Occupied(entry) = self.values.entry(key)
            && entry.get().0 == until
        {
            entry.remove();
        }
        Some(())
    }

    #[cfg(test)]
    fn len(&self) -> (usize, usize) {
        (self.values.len(), self.order.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn value_holds_for_its_time_and_not_a_moment_longer() {
        let mut recent = Recent::new(KEEP, 8);
        recent.set(1, "a", at(0));
        assert_eq!(recent.find(&1, at(60)), None);
        assert_eq!(recent.find(&1, at(59)), Some(&"a"));
        recent.set(1, "b", at(30));
        assert_eq!(recent.find(&1, at(89)), Some(&"b"), "set again, it holds from then on");
        recent.remove(&1);
        assert_eq!(recent.find(&1, at(31)), None);
    }

    #[test]
    fn full_it_forgets_the_oldest() {
        let mut recent = Recent::new(KEEP, 3);
        (0..5).for_each(|key: u64| recent.set(key, key, at(key)));
        let held: Vec<_> = (0..5).filter(|key| recent.find(key, at(5)).is_some()).collect();
        assert_eq!(held, [2, 3, 4]);
    }

    #[test]
    fn rows_left_behind_do_not_take_a_newer_value_with_them() {
        let mut recent = Recent::new(KEEP, 3);
        recent.set(1, "old", at(0));
        recent.remove(&1);
        recent.set(1, "new", at(1));
        recent.set(2, "b", at(2));
        recent.set(3, "c", at(3));
        assert_eq!(recent.find(&1, at(4)), Some(&"new"), "the old row was the oldest");
    }

    #[test]
    fn nothing_grows_whatever_is_set() {
        let mut recent = Recent::new(KEEP, 100);
        for key in 0..10_000u64 {
            recent.set(key % 150, key, at(key / 50));
            if key % 3 == 0 {
                recent.remove(&(key % 150));
            }
            let (values, order) = recent.len();
            assert!(values <= order && order <= 100, "{values} values in {order} rows");
        }
        let mut none = Recent::new(KEEP, 0);
        none.set(1, 1, at(0));
        assert_eq!(none.len(), (0, 0));
    }
}
