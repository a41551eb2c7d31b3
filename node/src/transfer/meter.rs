//! Where the time of one fetch went, counted by all threads that work for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts the bytes and the time of one fetch. Times of threads that work side by side add up.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    connect_ns: AtomicU64,
    request_ns: AtomicU64,
    dial_ns: AtomicU64,
    verify_ns: AtomicU64,
    write_ns: AtomicU64,
    stream_bytes: AtomicU64,
    lane_bytes: AtomicU64,
    lanes: AtomicU64,
}

/// Says where the time of a fetch went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    /// How many lanes were opened.
    pub(crate) lanes: u64,
    /// Bytes that came over lanes, and were new.
    pub(crate) lane_bytes: u64,
    /// Bytes that came over blob streams, and were new.
    pub(crate) stream_bytes: u64,
    /// To a connection with the peer and a blob stream on it.
    pub(crate) connect: Duration,
    /// From the request to its answer.
    pub(crate) answer: Duration,
    /// To open lanes.
    pub(crate) dial: Duration,
    /// To decode and verify groups.
    pub(crate) verify: Duration,
    /// To write them.
    pub(crate) write: Duration,
}

impl Carried {
    /// Adds what another fetch carried.
    pub(crate) fn add(&mut self, other: &Self) {
        self.lanes += other.lanes;
        self.lane_bytes += other.lane_bytes;
        self.stream_bytes += other.stream_bytes;
        self.connect += other.connect;
        self.answer += other.answer;
        self.dial += other.dial;
        self.verify += other.verify;
        self.write += other.write;
    }
}

impl Meter {
    pub(crate) fn connected(&self, took: Duration) {
        add(&self.connect_ns, took);
    }

    pub(crate) fn answered(&self, took: Duration) {
        add(&self.request_ns, took);
    }

    pub(crate) fn lane_opened(&self, took: Duration) {
        self.lanes.fetch_add(1, Ordering::Relaxed);
        add(&self.dial_ns, took);
    }

    pub(crate) fn verified(&self, took: Duration) {
        add(&self.verify_ns, took);
    }

    pub(crate) fn written(&self, took: Duration, lane_bytes: u64, stream_bytes: u64) {
        add(&self.write_ns, took);
        self.lane_bytes.fetch_add(lane_bytes, Ordering::Relaxed);
        self.stream_bytes.fetch_add(stream_bytes, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Carried {
        let time = |ns: &AtomicU64| Duration::from_nanos(ns.load(Ordering::Relaxed));
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Carried {
            lanes: count(&self.lanes),
            lane_bytes: count(&self.lane_bytes),
            stream_bytes: count(&self.stream_bytes),
            connect: time(&self.connect_ns),
            answer: time(&self.request_ns),
            dial: time(&self.dial_ns),
            verify: time(&self.verify_ns),
            write: time(&self.write_ns),
        }
    }
}

fn add(ns: &AtomicU64, took: Duration) {
    ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
}
