//! A wish to stop: how work on a thread learns that nobody waits for it any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Is a wish to stop that somebody else may have; its clones are the same wish.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Has the work stop soon.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Returns whether the work is to stop.
    pub(crate) fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Has work stop when it is dropped: whoever waits for the work holds it.
#[derive(Debug, Default)]
pub(crate) struct StopOnDrop(Stop);

impl StopOnDrop {
    /// Has a wish be there once the guard is not.
    pub(crate) fn of(wish: Stop) -> Self {
        Self(wish)
    }

    /// Returns what the work looks at.
    pub(crate) fn wish(&self) -> Stop {
        self.0.clone()
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}
