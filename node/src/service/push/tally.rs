//! How far a push is.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio::time::interval;

use super::plan::{Job, Plan};
use crate::control::api::{Event, FileCount, Progress};
use crate::service::blobs::PROGRESS_INTERVAL;
use crate::service::len_u64;

/// Counts what is done, for whoever waits.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) blobs: u64,
    bytes: u64,
    done_blobs: AtomicU64,
    done_bytes: AtomicU64,
}

impl Tally {
    pub(super) fn new(plan: &Plan) -> Self {
        let of_job = |Job { files, levels }: &Job| {
            files.iter().chain(levels.iter().flatten()).map(|item| item.size).collect::<Vec<_>>()
        };
        let sizes: Vec<u64> = plan.jobs.iter().flat_map(of_job).collect();
        Self {
            blobs: len_u64(sizes.len()),
            bytes: sizes.iter().sum(),
            done_blobs: AtomicU64::new(0),
            done_bytes: AtomicU64::new(0),
        }
    }

    pub(super) fn blobs_done(&self, blobs: usize) {
        self.done_blobs.fetch_add(len_u64(blobs), Ordering::Relaxed);
    }

    pub(super) fn bytes_done(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Tells how far a push is until it is dropped.
pub(super) async fn tell(tally: &Tally, events: &mpsc::Sender<Event>) -> std::convert::Infallible {
    let mut pace = interval(PROGRESS_INTERVAL);
    loop {
        pace.tick().await;
        let done = tally.done_blobs.load(Ordering::Relaxed);
        let progress = Progress {
            phase: "push".to_owned(),
            done: tally.done_bytes.load(Ordering::Relaxed),
            total: Some(tally.bytes),
            peers: 0,
            files: (tally.blobs > 1).then_some(FileCount { done, total: Some(tally.blobs) }),
        };
        // A reader that is behind misses some: the next one says more.
        events.try_send(Event::Progress(progress)).ok();
    }
}
