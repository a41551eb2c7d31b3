//! Eviction: who goes when there is not enough room.
//!
//! When a reservation does not fit, the least recently used go until 90 % of the bound are left: whole
//! blobs, and partial ones that nobody works on. Pinned blobs and blobs in use (open for reading, or a
//! partial that is being filled) never go. What cannot fit evicts nothing.

use std::collections::BinaryHeap;

use blobmesh_protocol::Hash;

use super::catalog::Located;
use super::error::StoreError;
use super::space::Reservation;
use super::sys::lock;
use super::{Collected, Inner};

/// Is somebody who may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Victim {
    /// When it was last used; the heap keeps the oldest.
    accessed: u64,
    size: u64,
    hash: Hash,
    partial: bool,
}

/// Gathers the oldest victims that together have the bytes wanted, and no more of them.
#[derive(Debug)]
struct Gathering {
    wanted: u64,
    gathered: u64,
    /// The bytes of all who may go, gathered or not.
    evictable: u64,
    oldest: BinaryHeap<Victim>,
}

impl Gathering {
    fn new(wanted: u64) -> Self {
        Self { wanted, gathered: 0, evictable: 0, oldest: BinaryHeap::new() }
    }

    /// Memory stays at what a tenth of the store needs, however many blobs are offered.
    fn offer(&mut self, victim: Victim) {
        self.evictable = self.evictable.saturating_add(victim.size);
        self.gathered = self.gathered.saturating_add(victim.size);
        self.oldest.push(victim);
        while let Some(youngest) = self.oldest.peek()
            && self.gathered.saturating_sub(youngest.size) >= self.wanted
        {
            self.gathered = self.gathered.saturating_sub(youngest.size);
            self.oldest.pop();
        }
    }
}

impl Inner {
    /// Reserves `bytes`, and evicts for them if it must. The caller holds no stripe.
    pub(super) fn reserve(&self, bytes: u64) -> Result<Reservation, StoreError> {
        self.ensure_open()?;
        let space = self.catalog.space();
        if let Some(reservation) = space.try_reserve(bytes) {
            return Ok(reservation);
        }
        let _evicting = lock(&self.evicting);
        // Somebody else may have made room meanwhile, or take what we make.
        for _ in 0..3 {
            if let Some(reservation) = space.try_reserve(bytes) {
                return Ok(reservation);
            }
            self.make_room(bytes)?;
        }
        space.try_reserve(bytes).ok_or_else(|| self.no_space(bytes))
    }

    /// Evicts until the bound holds; down to the low water if it did not.
    pub(super) fn trim(&self) -> Result<Collected, StoreError> {
        let _evicting = lock(&self.evicting);
        let (used, space) = (self.catalog.space().used(), self.catalog.space());
        if used <= space.bytes_max() {
            return Ok(Collected::default());
        }
        let gathering = self.gather(used - space.low_water())?;
        Ok(self.evict(gathering))
    }

    /// Evicts so that `bytes` more fit, or fails and evicts nothing.
    fn make_room(&self, bytes: u64) -> Result<(), StoreError> {
        let space = self.catalog.space();
        let used = space.used().saturating_add(bytes);
        let Some(excess) = used.checked_sub(space.bytes_max()) else { return Ok(()) };
        if bytes > space.bytes_max() {
            return Err(self.no_space(bytes));
        }
        let gathering = self.gather(used.saturating_sub(space.low_water()))?;
        if gathering.evictable < excess {
            return Err(self.no_space(bytes));
        }
        self.evict(gathering);
        Ok(())
    }

    fn no_space(&self, need: u64) -> StoreError {
        StoreError::NoSpace { need, bytes_max: self.catalog.space().bytes_max() }
    }

    pub(super) fn may_go(&self, hash: &Hash) -> bool {
        !self.leases.contains(hash) && !self.pins.contains(hash)
    }

    fn gather(&self, wanted: u64) -> Result<Gathering, StoreError> {
        let mut gathering = Gathering::new(wanted);
        self.catalog.for_each(|hash, row| {
            if self.may_go(&hash) {
                let accessed = self.catalog.accessed(&hash, &row);
                gathering.offer(Victim { accessed, size: row.size, hash, partial: false });
            }
            true
        })?;
        self.partials.for_each_idle(|hash, size, accessed| {
            gathering.offer(Victim { accessed, size, hash, partial: true });
        });
        Ok(gathering)
    }

    fn evict(&self, gathering: Gathering) -> Collected {
        let mut collected = Collected::default();
        for victim in gathering.oldest.into_sorted_vec() {
            let gone = if victim.partial {
                self.partials.evict(self.catalog.files(), &victim.hash)
            } else {
                self.evict_blob(&victim.hash)
            };
            if gone {
                collected.blobs += u64::from(!victim.partial);
                collected.bytes += victim.size;
            }
        }
        let Collected { blobs, bytes } = collected;
        tracing::debug!(blobs, bytes, "evicted the least recently used");
        collected
    }

    pub(super) fn evict_blob(&self, hash: &Hash) -> bool {
        let stripe = self.catalog.stripe(hash);
        let gone = match self.catalog.locate_held(hash) {
            Ok(Located::Here(row) | Located::Lost(row)) if self.may_go(hash) => {
                self.delete(hash, &row).is_ok()
            }
            Ok(_) | Err(_) => false,
        };
        drop(stripe);
        if gone {
            self.tell_gone(hash);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn victim(accessed: u64, size: u64) -> Victim {
        let hash = Hash::of(&accessed.to_le_bytes());
        Victim { accessed, size, hash, partial: false }
    }

    #[test]
    fn oldest_are_gathered_in_whatever_order_they_come() {
        let orders = [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [3, 5, 1, 4, 2]];
        for order in orders {
            let mut gathering = Gathering::new(25);
            order.iter().for_each(|age| gathering.offer(victim(*age, 10)));
            let gone: Vec<u64> =
                gathering.oldest.into_sorted_vec().iter().map(|victim| victim.accessed).collect();
            assert_eq!(gone, [1, 2, 3], "{order:?}");
            assert_eq!(gathering.evictable, 50);
        }
    }
}
