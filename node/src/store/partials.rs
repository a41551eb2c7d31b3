//! Who works on which partial blob: one [`Shared`] per hash, and the idle ones on disk.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::UNIX_EPOCH;

use blobmesh_protocol::Hash;

use super::error::StoreError;
use super::files::{Files, PartialFile};
use super::partial::Shared;
use super::space::{Reservation, Space};
use super::sys::lock;

/// How many partial blobs may lie idle on disk; the oldest goes when there is one more.
const IDLE_MAX: usize = 256;

/// Keeps track of the partial blobs of a store.
#[derive(Debug, Default)]
pub(super) struct Partials {
    slots: Mutex<HashMap<Hash, Slot>>,
    /// Signalled whenever a slot ceases to be in transition.
    settled: Condvar,
}

#[derive(Debug)]
enum Slot {
    /// Somebody is opening or making it.
    Opening,
    /// Somebody works on it; a dead reference is one whose last holder is just saving it.
    Live(Weak<Shared>),
    /// It lies on disk.
    Idle(Idle),
}

/// Is a partial blob that nobody works on.
#[derive(Debug)]
pub(super) struct Idle {
    /// Keeps the room for its whole size.
    pub(super) reservation: Reservation,
    pub(super) size: u64,
    /// When its last holder let go, in nanoseconds since 1970.
    pub(super) since: u64,
}

/// Clears an `Opening` slot whatever happens to the opener.
struct Opening<'a> {
    partials: &'a Partials,
    hash: Hash,
    opened: Option<Weak<Shared>>,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let mut slots = lock(&self.partials.slots);
        match self.opened.take() {
            Some(shared) => slots.insert(self.hash, Slot::Live(shared)),
            None => slots.remove(&self.hash),
        };
        self.partials.settled.notify_all();
    }
}

impl Partials {
    /// Finds the partial blobs on disk; removes the remains that can never be resumed.
    pub(super) fn load(files: &Files, space: &Arc<Space>) -> Result<Self, StoreError> {
        let names = files.partials().map_err(StoreError::io("list", &files.path("partial")))?;
        let partials = Self::default();
        for hash in names.into_iter().collect::<HashSet<_>>() {
            let data = fs::metadata(files.partial(&hash, PartialFile::Data));
            match data {
                Ok(meta) if files.partial(&hash, PartialFile::Bits).exists() => {
                    let since =
                        meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
                    let since = u64::try_from(since.unwrap_or_default().as_nanos());
                    let (size, since) = (meta.len(), since.unwrap_or(0));
                    let idle = Idle { reservation: space.admit(size), size, since };
                    partials.park(files, hash, Some(idle));
                }
                _ => files.remove_partial(&hash),
            }
        }
        Ok(partials)
    }

    /// Returns the one that is worked on, or has `open` take up the idle one or make a new one.
    /// Others who ask meanwhile wait for it.
    pub(super) fn share(
        &self,
        hash: Hash,
        open: impl FnOnce(Option<Idle>) -> Result<Option<Arc<Shared>>, StoreError>,
    ) -> Result<Option<Arc<Shared>>, StoreError> {
        let (mut slots, idle) = loop {
            let mut slots = self.await_settled(&hash);
            match slots.remove(&hash) {
                Some(Slot::Live(weak)) => {
                    let shared = weak.upgrade();
                    slots.insert(hash, Slot::Live(weak));
                    // Its last holder may have let go just now; then wait for him to save it.
                    if shared.is_some() {
                        return Ok(shared);
                    }
                }
                Some(Slot::Idle(idle)) => break (slots, Some(idle)),
                Some(Slot::Opening) | None => break (slots, None),
            }
        };
        slots.insert(hash, Slot::Opening);
        drop(slots);
        let mut opening = Opening { partials: self, hash, opened: None };
        let shared = open(idle)?;
        opening.opened = shared.as_ref().map(Arc::downgrade);
        Ok(shared)
    }

    /// Notes that nobody works on a partial any more; without `idle` nothing of it is kept.
    pub(super) fn park(&self, files: &Files, hash: Hash, idle: Option<Idle>) {
        let mut slots = lock(&self.slots);
        match idle {
            Some(idle) => {
                slots.insert(hash, Slot::Idle(idle));
            }
            None => {
                files.remove_partial(&hash);
                slots.remove(&hash);
            }
        }
        thin_out(&mut slots, files);
        self.settled.notify_all();
    }

    /// Notes that a partial has become a blob, so that another one may begin.
    pub(super) fn release(&self, hash: &Hash) {
        lock(&self.slots).remove(hash);
        self.settled.notify_all();
    }

    /// Returns the one of a blob, if it is worked on.
    pub(super) fn working(&self, hash: &Hash) -> Option<Arc<Shared>> {
        match lock(&self.slots).get(hash) {
            Some(Slot::Live(weak)) => weak.upgrade(),
            Some(Slot::Opening | Slot::Idle(_)) | None => None,
        }
    }

    /// Returns those that are worked on.
    pub(super) fn live(&self) -> Vec<Arc<Shared>> {
        let live = |slot: &Slot| match slot {
            Slot::Live(weak) => weak.upgrade(),
            Slot::Opening | Slot::Idle(_) => None,
        };
        lock(&self.slots).values().filter_map(live).collect()
    }

    /// Returns how many there are, worked on or idle.
    pub(super) fn len(&self) -> u64 {
        u64::try_from(lock(&self.slots).len()).unwrap_or(u64::MAX)
    }

    /// Calls `visit` with hash, size and age of each idle one.
    pub(super) fn for_each_idle(&self, mut visit: impl FnMut(Hash, u64, u64)) {
        for (hash, slot) in lock(&self.slots).iter() {
            if let Slot::Idle(idle) = slot {
                visit(*hash, idle.size, idle.since);
            }
        }
    }

    /// Removes an idle one; false when somebody has taken it up.
    pub(super) fn evict(&self, files: &Files, hash: &Hash) -> bool {
        let mut slots = lock(&self.slots);
        let idle = matches!(slots.get(hash), Some(Slot::Idle(_)));
        if idle {
            files.remove_partial(hash);
            slots.remove(hash);
        }
        idle
    }

    /// Waits until nobody is opening or saving the partial.
    fn await_settled(&self, hash: &Hash) -> MutexGuard<'_, HashMap<Hash, Slot>> {
        let in_transition = |slots: &mut HashMap<Hash, Slot>| match slots.get(hash) {
            Some(Slot::Opening) => true,
            Some(Slot::Live(weak)) => weak.strong_count() == 0,
            Some(Slot::Idle(_)) | None => false,
        };
        let settled = self.settled.wait_while(lock(&self.slots), in_transition);
        settled.unwrap_or_else(PoisonError::into_inner)
    }
}

fn thin_out(slots: &mut HashMap<Hash, Slot>, files: &Files) {
    let age = |(hash, slot): (&Hash, &Slot)| match slot {
        Slot::Idle(idle) => Some((idle.since, *hash)),
        Slot::Opening | Slot::Live(_) => None,
    };
    let mut idle: Vec<_> = slots.iter().filter_map(age).collect();
    if idle.len() > IDLE_MAX {
        idle.sort_unstable();
        for (_, hash) in idle.drain(..idle.len() - IDLE_MAX) {
            files.remove_partial(&hash);
            slots.remove(&hash);
        }
    }
}
