//! The moments at which flows reach their marks.
//!
//! Rates change far more often than marks are reached, and each change moves a mark. So only the marks of
//! the nearest few moments are kept in order; later ones lie in a heap for each slice of time, and an entry
//! that was moved meanwhile is found out when its slice comes.

use std::collections::{BTreeMap, BTreeSet};

use blobmesh_protocol::Time;

/// The length of a slice of time.
const SLICE_NANOS: u64 = 1_000_000;

/// Holds when each flow reaches its mark, by the flow's slot.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// The marks up to the end of slice `open_to`, in order.
    open: BTreeSet<(Time, usize)>,
    open_to: u64,
    /// The later ones by slice; some of them are of old.
    later: BTreeMap<u64, Vec<usize>>,
}

impl Marks {
    /// Returns the next mark, if [`open`](Self::open) was called after the last change.
    pub(super) fn next_at(&self) -> Option<Time> {
        self.open.first().map(|(at, _)| *at)
    }

    /// Returns until when all marks are known exactly, if not for ever.
    pub(super) fn known_until(&self) -> Option<Time> {
        let (slice, _) = self.later.first_key_value()?;
        Some(Time::from_nanos(slice.saturating_mul(SLICE_NANOS)))
    }

    /// Opens slices that begin before a moment.
    pub(super) fn open_before(&mut self, until: Time, mark_of: impl Fn(usize) -> Option<Time>) {
        while self.known_until().is_some_and(|known| known < until) {
            self.open_next(&mark_of);
        }
    }

    /// Returns the known marks before a moment, in order.
    pub(super) fn before(&self, until: Time) -> impl Iterator<Item = (Time, usize)> + '_ {
        self.open.iter().copied().take_while(move |(at, _)| *at < until)
    }

    /// Moves a flow's mark; a later one is left where it is and counts no more, as its flow has another.
    pub(super) fn replace(&mut self, old: Option<Time>, new: Option<Time>, slot: usize) {
        let (old_slice, new_slice) = (old.map(slice_of), new.map(slice_of));
        if let (Some(at), Some(slice)) = (old, old_slice)
            && slice <= self.open_to
        {
            self.open.remove(&(at, slot));
        }
        let (Some(at), Some(slice)) = (new, new_slice) else { return };
        if slice <= self.open_to {
            self.open.insert((at, slot));
        } else if old_slice != Some(slice) {
            self.later.entry(slice).or_default().push(slot);
        }
    }

    /// Takes the next mark if it is due.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<usize> {
        let (_, slot) = self.open.first().copied().filter(|(at, _)| *at <= now)?;
        self.open.pop_first();
        Some(slot)
    }

    /// Opens slices until one has a mark that still counts: `mark_of` says where that of a slot is.
    pub(super) fn open(&mut self, mark_of: impl Fn(usize) -> Option<Time>) {
        while self.open.is_empty() && !self.later.is_empty() {
            self.open_next(&mark_of);
        }
    }

    fn open_next(&mut self, mark_of: &impl Fn(usize) -> Option<Time>) {
        let Some((slice, slots)) = self.later.pop_first() else { return };
        self.open_to = slice;
        let marks = slots.into_iter().filter_map(|slot| Some((mark_of(slot)?, slot)));
        self.open.extend(marks.filter(|(at, _)| slice_of(*at) == slice));
    }
}

fn slice_of(at: Time) -> u64 {
    at.as_nanos() / SLICE_NANOS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_come_in_order_wherever_they_were_moved_to() {
        use crate::random::Random;
        let mut random = Random::new(7);
        let (mut marks, mut of) = (Marks::default(), vec![None; 50]);
        let (mut now, mut reached) = (0, 0);
        for _ in 0..20_000 {
            let slot = random.index(50);
            if random.chance(0.7) {
                let at = Time::from_nanos(now + random.between(0, 20 * SLICE_NANOS));
                let old = of[slot].replace(at);
                marks.replace(old, Some(at), slot);
            } else {
                marks.replace(of[slot].take(), None, slot);
            }
            marks.open(|slot| of[slot]);
            assert_eq!(marks.next_at(), of.iter().flatten().min().copied());
            if random.chance(0.1) {
                let until = Time::from_nanos(now + random.between(0, 3 * SLICE_NANOS));
                marks.open_before(until, |slot| of[slot]);
                let known = marks.known_until().map_or(until, |known| known.min(until));
                let mut due: Vec<_> = of.iter().flatten().filter(|at| **at < known).collect();
                due.sort();
                assert!(marks.before(known).map(|(at, _)| at).eq(due.into_iter().copied()));
                assert_eq!(known, until);
            }
            if random.chance(0.2)
                && let Some(at) = marks.next_at()
            {
                let slot = marks.pop_due(at).expect("due");
                assert_eq!(of[slot].take(), Some(at));
                marks.open(|slot| of[slot]);
                (now, reached) = (at.as_nanos(), reached + 1);
            }
        }
        assert!(reached > 1_000, "{reached}");
    }
}
