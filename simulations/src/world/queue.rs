//! The event queue: what happens next, in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use blobmesh_protocol::Time;

/// Holds what will happen. Of two events of one moment the one that was planned first comes first, so
/// the order is the same in every run.
#[derive(Debug)]
pub(super) struct Queue<E> {
    heap: BinaryHeap<Reverse<(Time, u64, usize)>>,
    /// The events themselves; the heap moves only their places.
    slots: Vec<Option<E>>,
    free: Vec<usize>,
    serial: u64,
}

impl<E> Queue<E> {
    pub(super) fn new() -> Self {
        Self { heap: BinaryHeap::new(), slots: Vec::new(), free: Vec::new(), serial: 0 }
    }

    pub(super) fn push(&mut self, at: Time, event: E) {
        self.serial += 1;
        let slot = self.free.pop().unwrap_or(self.slots.len());
        match self.slots.get_mut(slot) {
            Some(place) => *place = Some(event),
            None => self.slots.push(Some(event)),
        }
        self.heap.push(Reverse((at, self.serial, slot)));
    }

    /// Returns when the next event is due.
    pub(super) fn next_at(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse((at, _, _))| *at)
    }

    pub(super) fn pop(&mut self) -> Option<(Time, E)> {
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        let event = self.slots.get_mut(slot)?.take()?;
        Some((at, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_the_order_planned() {
        let mut queue = Queue::new();
        for (at, event) in [(5, 'c'), (1, 'a'), (5, 'd'), (3, 'b')] {
            queue.push(Time::from_nanos(at), event);
        }
        assert_eq!(queue.next_at(), Some(Time::from_nanos(1)));
        assert_eq!(queue.pop().map(|(_, event)| event), Some('a'));
        queue.push(Time::from_nanos(5), 'e');
        let rest: String = std::iter::from_fn(|| queue.pop().map(|(_, event)| event)).collect();
        assert_eq!(rest, "bcde");
    }
}
