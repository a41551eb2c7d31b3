//! Space: what is stored, what is promised, and who is using what.
//!
//! Every write first *reserves* its bytes, so that the bound holds at all times and not only
//! afterwards. Stored and promised bytes are counted under one lock, and a reservation becomes stored
//! bytes in one step.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use blobmesh_protocol::Hash;

use super::index::Totals;
use super::sys::lock;

/// Counts the bytes that are stored, and those promised to writers and to partial blobs.
#[derive(Debug)]
pub(super) struct Space {
    bytes_max: u64,
    ledger: Mutex<Ledger>,
}

#[derive(Debug)]
struct Ledger {
    stored: Totals,
    reserved: u64,
}

impl Ledger {
    fn used(&self) -> u64 {
        self.stored.bytes.saturating_add(self.reserved)
    }
}

impl Space {
    pub(super) fn new(bytes_max: u64, stored: Totals) -> Arc<Self> {
        Arc::new(Self { bytes_max, ledger: Mutex::new(Ledger { stored, reserved: 0 }) })
    }

    /// Returns the bound in bytes.
    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Returns how far evictions go: nine tenths of the bound.
    pub(super) fn low_water(&self) -> u64 {
        self.bytes_max / 10 * 9
    }

    /// Returns what is stored.
    pub(super) fn stored(&self) -> Totals {
        lock(&self.ledger).stored
    }

    /// Sets what is stored, where that was counted anew.
    pub(super) fn recount(&self, stored: Totals) {
        lock(&self.ledger).stored = stored;
    }

    /// Returns the bytes that are promised.
    pub(super) fn reserved(&self) -> u64 {
        lock(&self.ledger).reserved
    }

    /// Returns the bytes that are stored or promised.
    pub(super) fn used(&self) -> u64 {
        lock(&self.ledger).used()
    }

    /// Reserves `bytes` if they fit.
    pub(super) fn try_reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let mut ledger = lock(&self.ledger);
        if ledger.used().saturating_add(bytes) > self.bytes_max {
            return None;
        }
        ledger.reserved += bytes;
        Some(Reservation { space: Arc::clone(self), bytes })
    }

    /// Counts `bytes` that are on disk already, bound or no bound.
    pub(super) fn admit(self: &Arc<Self>, bytes: u64) -> Reservation {
        let mut ledger = lock(&self.ledger);
        ledger.reserved = ledger.reserved.saturating_add(bytes);
        Reservation { space: Arc::clone(self), bytes }
    }

    /// Counts that a blob of `old` bytes has become one of `new` bytes, either of which may be none,
    /// and gives back the reservation under which that was written.
    pub(super) fn settle(
        &self,
        old: Option<u64>,
        new: Option<u64>,
        reservation: Option<Reservation>,
    ) {
        let mut ledger = lock(&self.ledger);
        if let Some(old) = old {
            ledger.stored.blobs = ledger.stored.blobs.saturating_sub(1);
            ledger.stored.bytes = ledger.stored.bytes.saturating_sub(old);
        }
        if let Some(new) = new {
            ledger.stored.blobs += 1;
            ledger.stored.bytes = ledger.stored.bytes.saturating_add(new);
        }
        if let Some(mut reservation) = reservation {
            ledger.reserved = ledger.reserved.saturating_sub(reservation.bytes);
            reservation.bytes = 0;
            // Dropping it takes the lock again.
            drop(ledger);
        }
    }
}

/// Is a promise of bytes, given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    space: Arc<Space>,
    bytes: u64,
}

impl Reservation {
    /// Returns how many bytes are promised.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes a promise of `bytes` out of this one; all of it where it is less.
    pub(super) fn split(&mut self, bytes: u64) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { space: Arc::clone(&self.space), bytes }
    }

    /// Adds another promise to this one.
    pub(super) fn join(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let mut ledger = lock(&self.space.ledger);
            ledger.reserved = ledger.reserved.saturating_sub(self.bytes);
        }
    }
}

/// Counts who uses a blob, so that it is not evicted meanwhile.
#[derive(Debug, Default)]
pub(super) struct Leases {
    counts: Mutex<HashMap<Hash, u64>>,
    /// Told when a use ends.
    ended: Condvar,
}

impl Leases {
    /// Returns whether anybody uses the blob.
    pub(super) fn contains(&self, hash: &Hash) -> bool {
        lock(&self.counts).contains_key(hash)
    }

    /// Waits until nobody uses the blob, for some time at most.
    pub(super) fn await_end(&self, hash: &Hash, within: Duration) {
        let counts = lock(&self.counts);
        let waited =
            self.ended.wait_timeout_while(counts, within, |counts| counts.contains_key(hash));
        drop(waited);
    }

    /// Returns how often the blob is used.
    pub(super) fn count(&self, hash: &Hash) -> u64 {
        lock(&self.counts).get(hash).copied().unwrap_or(0)
    }
}

/// Is one use of a blob, ended when dropped.
#[derive(Debug)]
pub(super) struct Lease {
    leases: Arc<Leases>,
    hash: Hash,
}

impl Lease {
    pub(super) fn take(leases: &Arc<Leases>, hash: Hash) -> Self {
        *lock(&leases.counts).entry(hash).or_default() += 1;
        Self { leases: Arc::clone(leases), hash }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        end_use(&mut lock(&self.leases.counts), &self.hash);
        self.leases.ended.notify_all();
    }
}

fn end_use(counts: &mut HashMap<Hash, u64>, hash: &Hash) {
    if let Some(count) = counts.get_mut(hash) {
        *count -= 1;
        if *count == 0 {
            counts.remove(hash);
        }
    }
}

/// Is one use of each of a growing set of blobs, all ended when it is dropped.
#[derive(Debug)]
pub(crate) struct HeldSet {
    leases: Arc<Leases>,
    hashes: HashSet<Hash>,
}

impl HeldSet {
    pub(super) fn new(leases: &Arc<Leases>) -> Self {
        Self { leases: Arc::clone(leases), hashes: HashSet::new() }
    }

    /// Takes a blob in; false if it was in before.
    pub(crate) fn insert(&mut self, hash: Hash) -> bool {
        let new = self.hashes.insert(hash);
        if new {
            *lock(&self.leases.counts).entry(hash).or_default() += 1;
        }
        new
    }

    /// Takes blobs in.
    pub(super) fn extend(&mut self, hashes: impl IntoIterator<Item = Hash>) {
        for hash in hashes {
            self.insert(hash);
        }
    }

    /// Returns whether a blob is in.
    pub(super) fn contains(&self, hash: &Hash) -> bool {
        self.hashes.contains(hash)
    }

    /// Returns the blobs, in no order.
    pub(super) fn hashes(&self) -> impl Iterator<Item = &Hash> {
        self.hashes.iter()
    }
}

impl Drop for HeldSet {
    fn drop(&mut self) {
        let mut counts = lock(&self.leases.counts);
        self.hashes.iter().for_each(|hash| end_use(&mut counts, hash));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(stored: u64) -> Arc<Space> {
        Space::new(100, Totals { blobs: 1, bytes: stored })
    }

    #[test]
    fn reservations_are_given_back_and_never_exceed_the_bound() {
        let space = space(40);
        let held = space.try_reserve(60).expect("exactly full");
        assert!(space.try_reserve(1).is_none());
        drop(held);
        assert_eq!(space.reserved(), 0);
        assert!(space.try_reserve(u64::MAX).is_none(), "an absurd need does not overflow");
        let over = space.admit(500);
        assert_eq!(space.reserved(), 500, "what is on disk counts, bound or no bound");
        drop(over);
        assert_eq!(space.reserved(), 0);
    }

    #[test]
    fn reservation_becomes_stored_bytes_in_one_step() {
        let space = space(40);
        let mut held = space.try_reserve(10).expect("fits");
        held.join(space.try_reserve(20).expect("fits"));
        space.settle(None, Some(30), Some(held));
        assert_eq!((space.used(), space.reserved()), (70, 0));
        space.settle(Some(40), Some(5), None);
        assert_eq!(space.stored(), Totals { blobs: 2, bytes: 35 });
        space.settle(Some(30), None, None);
        assert_eq!(space.stored(), Totals { blobs: 1, bytes: 5 });
    }

    #[test]
    fn lease_ends_with_its_last_holder() {
        let (leases, hash) = (Arc::default(), Hash::of(b"x"));
        let (first, second) = (Lease::take(&leases, hash), Lease::take(&leases, hash));
        drop(first);
        assert!(leases.contains(&hash));
        drop(second);
        assert!(!leases.contains(&hash));
    }

    #[test]
    fn set_uses_each_blob_once_and_lets_go_of_all() {
        let (leases, hashes) = (Arc::default(), [Hash::of(b"x"), Hash::of(b"y"), Hash::of(b"z")]);
        let mut set = HeldSet::new(&leases);
        assert!(hashes.iter().all(|hash| set.insert(*hash)));
        assert!(!set.insert(hashes[0]));
        let other = Lease::take(&leases, hashes[2]);
        assert!(hashes.iter().all(|hash| set.contains(hash) && leases.contains(hash)));
        assert!(!set.contains(&Hash::of(b"none of the set")));
        drop(set);
        assert!(hashes[..2].iter().all(|hash| !leases.contains(hash)), "it used each once");
        assert!(leases.contains(&hashes[2]), "somebody else uses it");
        drop(other);
        assert!(!leases.contains(&hashes[2]));
    }
}
