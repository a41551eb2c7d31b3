//! The event queue: what happens next, in virtual time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use blobmesh_protocol::Time;

use super::NodeIndex;

/// Holds what will happen. Of two events of one moment the one that was planned first comes first, so
/// the order is the same in every run.
///
/// The first few may have been *seen*: looked at before they happen ([`super::foresight`]). They lie in order
/// in a list of their own, and whatever is planned to happen among them is among them.
#[derive(Debug)]
pub(super) struct Queue<E> {
    seen: VecDeque<Seen>,
    /// The order of the others. The heap moves only the places of events.
    heap: BinaryHeap<Reverse<(Time, u64, usize)>>,
    slots: Vec<Option<E>>,
    free: Vec<usize>,
    serial: u64,
}

/// Is the place of an event that was looked at.
#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Time,
    slot: usize,
    /// Whom it keeps waiting, if anybody.
    of: Option<NodeIndex>,
}

impl<E> Queue<E> {
    pub(super) fn new() -> Self {
        Self {
            seen: VecDeque::new(),
            heap: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            serial: 0,
        }
    }

    /// Plans an event of a node, and returns whether it is among those that were seen.
    pub(super) fn push(&mut self, at: Time, of: NodeIndex, event: E) -> bool {
        self.serial += 1;
        let slot = self.free.pop().unwrap_or(self.slots.len());
        match self.slots.get_mut(slot) {
            Some(place) => *place = Some(event),
            None => self.slots.push(Some(event)),
        }
        let among = self.seen.back().is_some_and(|last| at < last.at);
        if among {
            let place = self.seen.partition_point(|seen| seen.at <= at);
            self.seen.insert(place, Seen { at, slot, of: Some(of) });
        } else {
            self.heap.push(Reverse((at, self.serial, slot)));
        }
        among
    }

    /// Returns when the next event is due.
    pub(super) fn next_at(&self) -> Option<Time> {
        match self.seen.front() {
            Some(seen) => Some(seen.at),
            None => self.unseen().map(|(at, _)| at),
        }
    }

    /// Takes the next event, and whom it kept waiting.
    pub(super) fn pop(&mut self) -> Option<(Time, E, Option<NodeIndex>)> {
        let (at, slot, of) = match self.seen.pop_front() {
            Some(Seen { at, slot, of }) => (at, slot, of),
            None => self.heap.pop().map(|Reverse((at, _, slot))| (at, slot, None))?,
        };
        self.free.push(slot);
        let event = self.slots.get_mut(slot)?.take()?;
        Some((at, event, of))
    }

    /// Returns how many events were seen before they happen.
    pub(super) fn count_seen(&self) -> usize {
        self.seen.len()
    }

    /// Returns the next event that was not seen.
    pub(super) fn peek_unseen(&self) -> Option<(Time, &E)> {
        let (at, slot) = self.unseen()?;
        Some((at, self.slots.get(slot)?.as_ref()?))
    }

    /// Takes in that the next event was seen, and keeps a node waiting or nobody.
    pub(super) fn see(&mut self, of: Option<NodeIndex>) {
        if let Some(Reverse((at, _, slot))) = self.heap.pop() {
            self.seen.push_back(Seen { at, slot, of });
        }
    }

    fn unseen(&self) -> Option<(Time, usize)> {
        self.heap.peek().map(|Reverse((at, _, slot))| (*at, *slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Time {
        Time::from_nanos(nanos)
    }

    fn rest(queue: &mut Queue<char>) -> String {
        std::iter::from_fn(|| queue.pop().map(|(_, event, _)| event)).collect()
    }

    #[test]
    fn events_come_by_time_and_then_in_the_order_planned() {
        let mut queue = Queue::new();
        for (nanos, event) in [(5, 'c'), (1, 'a'), (5, 'd'), (3, 'b')] {
            queue.push(at(nanos), 0, event);
        }
        assert_eq!(queue.next_at(), Some(at(1)));
        assert_eq!(queue.pop().map(|(_, event, _)| event), Some('a'));
        queue.push(at(5), 0, 'e');
        assert_eq!(rest(&mut queue), "bcde");
    }

    #[test]
    fn events_that_were_seen_come_in_the_same_order() {
        let mut queue = Queue::new();
        for (nanos, event) in [(1, 'a'), (3, 'c'), (5, 'e'), (5, 'f'), (9, 'i')] {
            queue.push(at(nanos), 0, event);
        }
        for node in 0..3 {
            queue.see(Some(node));
        }
        assert_eq!(queue.peek_unseen(), Some((at(5), &'f')));
        assert!(queue.push(at(3), 7, 'd') && queue.push(at(1), 7, 'b'));
        assert!(!queue.push(at(5), 7, 'g') && !queue.push(at(6), 7, 'h'));
        assert_eq!(queue.next_at(), Some(at(1)));
        let of: Vec<_> = (0..5).map(|_| queue.pop().map(|(_, event, of)| (event, of))).collect();
        let waiting = [('a', 0), ('b', 7), ('c', 1), ('d', 7), ('e', 2)];
        assert_eq!(of, waiting.map(|(event, node)| Some((event, Some(node)))));
        assert_eq!(rest(&mut queue), "fghi");
    }
}
