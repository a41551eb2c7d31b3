//! Tells a slow body from a stalled one.
//!
//! A body must move at least so many bytes in each window of *waiting*. Time that the caller spends
//! elsewhere (hashing, writing, holding back) is not the edge's fault and does not count; so the
//! window is of time awaited, not of time passed.
//!
//! Bodies that move at the same time share one uplink, and no rate of one of them says whether the edge serves: the least
//! rate is that of all of them together ([`Sharers`]), of which each must move its share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A share is no smaller than that of so many bodies.
const SHARERS_MAX: u64 = 64;

/// Counts the bodies that move at the same time; clones count together.
#[derive(Clone, Debug, Default)]
pub(super) struct Sharers(Arc<AtomicU64>);

impl Sharers {
    /// Counts one more until what is returned is dropped.
    pub(super) fn join(&self) -> Sharer {
        self.0.fetch_add(1, Ordering::Relaxed);
        Sharer(Arc::clone(&self.0))
    }
}

/// Is one of the bodies that are counted.
#[derive(Debug)]
pub(super) struct Sharer(Arc<AtomicU64>);

impl Sharer {
    /// Returns how many there are, this one among them.
    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Sharer {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Measures one body against its share of the least rate.
#[derive(Debug)]
pub(super) struct Pace {
    window: Duration,
    bytes_min: u64,
    sharer: Sharer,
    /// The most sharers that there were in this window.
    sharers: u64,
    waited: Duration,
    bytes: u64,
}

/// Says that a window passed with too few bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooSlow {
    pub(super) waited: Duration,
}

impl Pace {
    /// Starts a first window that asks for `rate_min` bytes per second of all sharers.
    pub(super) fn new(rate_min: u64, window: Duration, sharer: Sharer) -> Self {
        let millis = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        // At least one byte: a rate that rounds to none would let silence pass.
        let bytes_min = (rate_min.saturating_mul(millis) / 1000).max(1);
        Self { window, bytes_min, sharer, sharers: 1, waited: Duration::ZERO, bytes: 0 }
    }

    /// Returns how much more may be waited in this window.
    pub(super) fn room(&self) -> Duration {
        self.window.saturating_sub(self.waited)
    }

    /// Counts bytes that moved.
    pub(super) fn moved(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Judges the window if it has passed, and begins the next one.
    pub(super) fn judge(&mut self) -> Result<(), TooSlow> {
        if self.waited < self.window {
            return Ok(());
        }
        let waited = self.waited;
        let share = (self.bytes_min / self.sharers.min(SHARERS_MAX)).max(1);
        let fast_enough = self.bytes >= share;
        (self.waited, self.bytes, self.sharers) = (Duration::ZERO, 0, 1);
        if fast_enough { Ok(()) } else { Err(TooSlow { waited }) }
    }

    /// Counts those who share the rate now.
    fn look(&mut self) {
        self.sharers = self.sharers.max(self.sharer.count());
    }

    /// Begins to wait; the time until the guard is dropped counts, also when the wait is cancelled.
    pub(super) fn wait(&mut self) -> Waiting<'_> {
        self.look();
        Waiting { pace: self, since: Instant::now() }
    }
}

/// Counts the time of one wait when it is dropped.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    pace: &'a mut Pace,
    since: Instant,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pace.waited = self.pace.waited.saturating_add(self.since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn pace(rate_min: u64) -> Pace {
        Pace::new(rate_min, WINDOW, Sharers::default().join())
    }

    fn after(pace: &mut Pace, waited: Duration, bytes: u64) -> Result<(), TooSlow> {
        pace.look();
        pace.waited += waited;
        pace.moved(bytes);
        pace.judge()
    }

    #[test]
    fn body_at_the_least_rate_passes_and_one_byte_less_does_not() {
        let mut pace = pace(100);
        assert_eq!(after(&mut pace, WINDOW, 1000), Ok(()));
        assert_eq!(after(&mut pace, WINDOW / 2, 0), Ok(()), "half a window is not judged");
        assert_eq!(after(&mut pace, WINDOW / 2, 999), Err(TooSlow { waited: WINDOW }));
    }

    #[test]
    fn burst_of_one_window_does_not_pay_for_the_next() {
        let mut pace = pace(100);
        assert_eq!(after(&mut pace, WINDOW, 1 << 30), Ok(()));
        assert!(after(&mut pace, WINDOW, 10).is_err());
    }

    #[test]
    fn bodies_that_move_at_once_share_the_least_rate_also_of_those_that_have_just_ended() {
        let sharers = Sharers::default();
        let mut pace = Pace::new(100, WINDOW, sharers.join());
        let others: Vec<Sharer> = (0..3).map(|_| sharers.join()).collect();
        assert_eq!(after(&mut pace, WINDOW / 2, 249), Ok(()));
        drop(others);
        assert_eq!(after(&mut pace, WINDOW / 2, 1), Ok(()));
        assert_eq!(after(&mut pace, WINDOW, 999), Err(TooSlow { waited: WINDOW }), "it is alone");
        let _others: Vec<Sharer> = (0..10_000).map(|_| sharers.join()).collect();
        assert!(after(&mut pace, WINDOW, 0).is_err(), "silence");
        assert_eq!(after(&mut pace, WINDOW, 1000 / SHARERS_MAX), Ok(()));
        assert!(after(&mut pace, WINDOW, 1000 / SHARERS_MAX - 1).is_err());
    }

    #[test]
    fn silence_is_a_stall_even_at_a_rate_of_nothing() {
        let mut pace = pace(0);
        assert!(after(&mut pace, WINDOW, 0).is_err());
    }

    #[test]
    fn room_shrinks_with_waiting_only() {
        let mut pace = pace(1);
        pace.moved(5);
        assert_eq!(pace.room(), WINDOW);
        pace.waited += WINDOW * 2;
        assert_eq!(pace.room(), Duration::ZERO);
    }
}
