//! Blobs that are still on their way into the store while their tree is checked out.
//!
//! A pull need not wait for the last blob before it makes the first file. What is made lies in a stage until all is
//! there, as always; so it costs nothing but its removal when a blob does not come.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use blobmesh_protocol::Hash;

use crate::stop::Stop;

/// Says which blobs of a tree have not come yet; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Supply(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    missing: HashSet<Hash>,
    /// Set when no more will come.
    ended: bool,
    /// How many threads wait.
    waiting: usize,
}

impl Supply {
    /// Makes a supply of blobs, none of which is there yet. All others of the tree are, and are kept there.
    pub(crate) fn of(missing: HashSet<Hash>) -> Self {
        let state = State { missing, ended: false, waiting: 0 };
        Self(Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }))
    }

    /// Says that blobs are in the store.
    pub(crate) fn came(&self, hashes: &[Hash]) {
        let mut state = self.lock();
        for hash in hashes {
            state.missing.remove(hash);
        }
        let waiting = state.waiting > 0;
        drop(state);
        if waiting {
            self.0.changed.notify_all();
        }
    }

    /// Says that no more will come: who waits for one does so no longer.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.0.changed.notify_all();
    }

    /// Waits until some blobs are all in the store; false where one does not come, or nobody wants them any more.
    /// Whoever stops the work ends the supply, too.
    pub(super) fn wait<'a>(&self, hashes: impl Iterator<Item = &'a Hash>, stop: &Stop) -> bool {
        let mut state = self.lock();
        for hash in hashes {
            while state.missing.contains(hash) {
                if state.ended || stop.is_wanted() {
                    return false;
                }
                state.waiting += 1;
                state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.waiting -= 1;
            }
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    fn hashes() -> [Hash; 3] {
        [b"0", b"1", b"2"].map(|bytes| Hash::of(bytes))
    }

    /// Waits for the first two of three on another thread, and returns where it says what came of it.
    fn waiting(supply: &Supply, stop: &Stop) -> mpsc::Receiver<bool> {
        let (said, says) = mpsc::channel();
        let (supply, stop) = (supply.clone(), stop.clone());
        thread::spawn(move || said.send(supply.wait(hashes()[..2].iter(), &stop)));
        says
    }

    #[test]
    fn who_waits_goes_on_when_the_last_of_his_blobs_came() {
        let supply = Supply::of(hashes().into());
        let said = waiting(&supply, &Stop::default());
        supply.came(&[hashes()[0]]);
        assert!(said.try_recv().is_err());
        supply.came(&[hashes()[1]]);
        assert_eq!(said.recv(), Ok(true));
        assert!(supply.wait(hashes()[..2].iter(), &Stop::default()), "they are there now");
    }

    #[test]
    fn nobody_waits_for_what_does_not_come() {
        let supply = Supply::of(hashes().into());
        let said = waiting(&supply, &Stop::default());
        supply.came(&hashes()[..1]);
        supply.end();
        assert_eq!(said.recv(), Ok(false));
        assert!(supply.wait(hashes()[..1].iter(), &Stop::default()), "but for what came");
        let (supply, stop) = (Supply::of(hashes().into()), Stop::default());
        stop.stop();
        assert!(!supply.wait(hashes().iter(), &stop));
    }
}
