//! The sweep: after an unclean end it makes index and files agree again.
//!
//! It runs in a thread of its own while the store already answers, because a lookup that misses the
//! index looks at the files anyway. Of files it reads names and lengths, never bytes; the members of packs that have
//! lost their rows are hashed, and found by nobody before. A clean start does not sweep.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::catalog::Catalog;
use super::doubt::{self, Doubt};
use super::error::StoreError;
use super::index::Home;
use super::sys::lock;

/// How many steps a sweep makes before it heeds a stop.
const STEPS_SURE: u32 = 1000;

/// Tells how far the sweep is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    stop: AtomicBool,
    undone: AtomicBool,
    running: Mutex<bool>,
    ended: Condvar,
}

impl Progress {
    /// Waits until no sweep runs; returns at once when none does.
    pub(super) fn wait(&self) {
        let running = lock(&self.running);
        let ended = self.ended.wait_while(running, |running| *running);
        drop(ended.unwrap_or_else(PoisonError::into_inner));
    }

    /// Has the sweep end soon; the next start sweeps again unless it came to its end.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Returns whether the sweep left something undone: it was stopped, or it failed.
    pub(super) fn is_undone(&self) -> bool {
        self.undone.load(Ordering::Acquire)
    }
}

/// Says that the sweep has ended, also when it panics.
struct Running(Arc<Progress>);

impl Drop for Running {
    fn drop(&mut self) {
        *lock(&self.0.running) = false;
        self.0.ended.notify_all();
    }
}

/// Starts a sweep.
pub(super) fn start(
    catalog: Arc<Catalog>,
    doubt: Arc<Doubt>,
    progress: &Arc<Progress>,
) -> io::Result<JoinHandle<()>> {
    *lock(&progress.running) = true;
    progress.undone.store(true, Ordering::Release);
    let running = Running(Arc::clone(progress));
    thread::Builder::new().name("store-sweep".to_owned()).spawn(move || {
        let mut stop = Stop { progress: &running.0, steps: 0 };
        match sweep(&catalog, &doubt, &mut stop) {
            Ok(true) => running.0.undone.store(false, Ordering::Release),
            Ok(false) => tracing::debug!("the sweep was stopped; the next start begins it again"),
            Err(error) => tracing::warn!(%error, "the store could not be swept"),
        }
    })
}

/// Makes index and files agree; false when it was stopped before it came to its end.
fn sweep(catalog: &Catalog, doubt: &Doubt, stop: &mut Stop<'_>) -> Result<bool, StoreError> {
    let (mut adopted, mut dropped, mut newest) = (0_u64, 0_u64, 0);
    let blobs = catalog.files().path("blobs");
    let walk = catalog.files().for_each_blob(|hash, entry| {
        newest = entry.metadata().map_or(newest, |meta| newest.max(doubt::written(&meta)));
        if catalog.row(&hash).is_none_or(|row| row.home != Home::File) {
            adopted += u64::from(catalog.adopt(&hash).is_ok());
        }
        !stop.is_due()
    });
    walk.map_err(StoreError::io("list", &blobs))?;
    let packs = catalog.files().path("packs");
    let walk = catalog.packs().for_each_earlier(|hash, spot, size| {
        adopted += u64::from(catalog.adopt_member(&hash, spot, size));
        !stop.is_due()
    });
    walk.map_err(StoreError::io("read", &packs))?;
    let mut outside = Vec::new();
    catalog.for_each(|hash, row| {
        if row.home != Home::Index {
            outside.push(hash);
        }
        !stop.is_due()
    })?;
    for hash in outside {
        if stop.is_due() {
            return Ok(false);
        }
        dropped += u64::from(catalog.drop_if_gone(&hash));
    }
    tracing::debug!(adopted, dropped, "index and files agree again");
    let is_through = !stop.is_due();
    if is_through {
        // A clock that was put back must not have older files pass for newer ones.
        doubt.settle(newest.max(catalog.now()));
    }
    Ok(is_through)
}

/// Looks whether the sweep shall end, but not during its first steps: a small store is swept to its
/// end in about 10 ms, and the next start is a clean one.
struct Stop<'a> {
    progress: &'a Progress,
    steps: u32,
}

impl Stop<'_> {
    fn is_due(&mut self) -> bool {
        self.steps = self.steps.saturating_add(1);
        self.steps > STEPS_SURE && self.progress.stop.load(Ordering::Relaxed)
    }
}
