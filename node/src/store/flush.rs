//! The flusher: one thread that makes the index durable a moment after it changed.
//!
//! Only this thread flushes, because sled's flushes dead-lock beside each other. Nothing acknowledged
//! waits for it: durable blobs are durable by their files.

use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::catalog::Catalog;
use super::sys::lock;

/// How long changes are gathered before they are flushed.
const FLUSH_EVERY: Duration = Duration::from_millis(500);

/// Tells the flusher that there is work, or that it shall end.
#[derive(Debug, Default)]
pub(super) struct Signal {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    dirty: bool,
    closing: bool,
}

impl Signal {
    /// Says that the index has changed.
    pub(super) fn dirty(&self) {
        let mut state = lock(&self.state);
        if !state.dirty {
            state.dirty = true;
            self.wake.notify_one();
        }
    }

    /// Ends the flusher, at once.
    pub(super) fn close(&self) {
        lock(&self.state).closing = true;
        self.wake.notify_one();
    }

    /// Waits for a change and then for more of them; false at the end.
    fn wait(&self) -> bool {
        let state = lock(&self.state);
        let idle = self.wake.wait_while(state, |state| !state.dirty && !state.closing);
        let state = idle.unwrap_or_else(std::sync::PoisonError::into_inner);
        let gathered = self.wake.wait_timeout_while(state, FLUSH_EVERY, |state| !state.closing);
        let (mut state, _) = gathered.unwrap_or_else(std::sync::PoisonError::into_inner);
        state.dirty = false;
        !state.closing
    }
}

/// Starts the flusher; [`Signal::close`] ends it.
pub(super) fn start(catalog: Arc<Catalog>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("store-flush".to_owned()).spawn(move || {
        while catalog.signal.wait() {
            catalog.flush();
        }
    })
}
