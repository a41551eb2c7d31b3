//! Tells a slow body from a stalled one.
//!
//! A body must move at least so many bytes in each window of *waiting*. Time that the caller spends
//! elsewhere (hashing, writing, holding back) is not the edge's fault and does not count; so the
//! window is of time awaited, not of time passed.

use std::time::Duration;

use tokio::time::Instant;

/// Measures one body against its least rate.
#[derive(Debug)]
pub(super) struct Pace {
    window: Duration,
    bytes_min: u64,
    waited: Duration,
    bytes: u64,
}

/// Says that a window passed with too few bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooSlow {
    pub(super) waited: Duration,
}

impl Pace {
    /// Starts a first window that asks for `rate_min` bytes per second.
    pub(super) fn new(rate_min: u64, window: Duration) -> Self {
        let millis = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        // At least one byte: a rate that rounds to none would let silence pass.
        let bytes_min = (rate_min.saturating_mul(millis) / 1000).max(1);
        Self { window, bytes_min, waited: Duration::ZERO, bytes: 0 }
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
        let fast_enough = self.bytes >= self.bytes_min;
        self.waited = Duration::ZERO;
        self.bytes = 0;
        if fast_enough { Ok(()) } else { Err(TooSlow { waited }) }
    }

    /// Begins to wait; the time until the guard is dropped counts, also when the wait is cancelled.
    pub(super) fn wait(&mut self) -> Waiting<'_> {
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

    fn after(pace: &mut Pace, waited: Duration, bytes: u64) -> Result<(), TooSlow> {
        pace.waited += waited;
        pace.moved(bytes);
        pace.judge()
    }

    #[test]
    fn body_at_the_least_rate_passes_and_one_byte_less_does_not() {
        let mut pace = Pace::new(100, WINDOW);
        assert_eq!(after(&mut pace, WINDOW, 1000), Ok(()));
        assert_eq!(after(&mut pace, WINDOW / 2, 0), Ok(()), "half a window is not judged");
        assert_eq!(after(&mut pace, WINDOW / 2, 999), Err(TooSlow { waited: WINDOW }));
    }

    #[test]
    fn burst_of_one_window_does_not_pay_for_the_next() {
        let mut pace = Pace::new(100, WINDOW);
        assert_eq!(after(&mut pace, WINDOW, 1 << 30), Ok(()));
        assert!(after(&mut pace, WINDOW, 10).is_err());
    }

    #[test]
    fn silence_is_a_stall_even_at_a_rate_of_nothing() {
        let mut pace = Pace::new(0, WINDOW);
        assert!(after(&mut pace, WINDOW, 0).is_err());
    }

    #[test]
    fn room_shrinks_with_waiting_only() {
        let mut pace = Pace::new(1, WINDOW);
        pace.moved(5);
        assert_eq!(pace.room(), WINDOW);
        pace.waited += WINDOW * 2;
        assert_eq!(pace.room(), Duration::ZERO);
    }
}
