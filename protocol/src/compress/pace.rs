//! How much work compression may be: as much as the link leaves time for.
//!
//! A provider encodes and sends in turns on one thread. While sending takes most of its time the link is the
//! limit, and more work on fewer bytes makes the transfer shorter; once encoding takes most of it, the
//! processor is. Which it is can only be measured, and changes with whatever else the two carry.

use std::time::Duration;

/// How much work goes into one group, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Effort {
    /// LZ4: about 0.7 GB/s on one core.
    Lz4,
    /// zstd at level 1: 0.5 GB/s, and two thirds of the bytes.
    Zstd1,
    /// zstd at level 3: 0.35 GB/s, and three quarters of those.
    Zstd3,
}

impl Effort {
    fn more(self) -> Self {
        match self {
            Self::Lz4 => Self::Zstd1,
            Self::Zstd1 | Self::Zstd3 => Self::Zstd3,
        }
    }

    fn less(self) -> Self {
        match self {
            Self::Lz4 | Self::Zstd1 => Self::Lz4,
            Self::Zstd3 => Self::Zstd1,
        }
    }
}

/// Over how many raw bytes encoding and sending are compared: 1 MiB. Less is a matter of luck.
const WINDOW_BYTES: u64 = 1 << 20;
/// How many times as long as encoding must sending take for the next effort: that one takes about twice as
/// long, and must leave room.
const UP_RATIO: u32 = 4;
/// How many windows an effort that was too much is not tried again.
const HOLD_WINDOWS: u32 = 32;

/// How many bytes are left of 1,024, so that sizes of windows can be compared.
const SHARE: u64 = 1_024;

/// Chooses the effort of the next group from the times of those before.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    effort: Effort,
    most: Effort,
    /// What was left of [`SHARE`] bytes at the effort below, in its last window.
    left_below: u64,
    raw_bytes: u64,
    encoded_bytes: u64,
    encoding: Duration,
    sending: Duration,
    hold: u32,
}

impl Pace {
    /// Begins with the least work, and goes up to `most`.
    pub(super) fn new(most: Effort) -> Self {
        let (encoding, sending) = (Duration::ZERO, Duration::ZERO);
        let (left_below, raw_bytes, encoded_bytes) = (u64::MAX, 0, 0);
        let effort = Effort::Lz4;
        Self { effort, most, left_below, raw_bytes, encoded_bytes, encoding, sending, hold: 0 }
    }

    pub(super) fn effort(&self) -> Effort {
        self.effort
    }

    /// Takes in what became of some groups, `(raw, encoded)` bytes, and what it took.
    pub(super) fn note(&mut self, bytes: (u64, u64), encoding: Duration, sending: Duration) {
        self.raw_bytes = self.raw_bytes.saturating_add(bytes.0);
        self.encoded_bytes = self.encoded_bytes.saturating_add(bytes.1);
        self.encoding = self.encoding.saturating_add(encoding);
        self.sending = self.sending.saturating_add(sending);
        if self.raw_bytes >= WINDOW_BYTES {
            self.choose();
            (self.raw_bytes, self.encoded_bytes) = (0, 0);
            (self.encoding, self.sending) = (Duration::ZERO, Duration::ZERO);
        }
    }

    fn choose(&mut self) {
        self.hold = self.hold.saturating_sub(1);
        let left = self.encoded_bytes.saturating_mul(SHARE) / self.raw_bytes;
        if self.encoding > self.sending || left >= self.left_below {
            // More work than there is time for, or for nothing.
            if self.effort > Effort::Lz4 {
                self.effort = self.effort.less();
                self.left_below = u64::MAX;
                self.hold = HOLD_WINDOWS;
            }
        } else if self.hold == 0 && self.sending > self.encoding.saturating_mul(UP_RATIO) {
            let more = self.effort.more().min(self.most);
            if more != self.effort {
                (self.effort, self.left_below) = (more, left);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Notes a window in which a group was encoded for `encoding` and sent for `sending` milliseconds.
    fn window(pace: &mut Pace, encoding: u32, sending: u32) -> Effort {
        // Each effort leaves a little less than the one before.
        let left = WINDOW_BYTES / (2 + pace.effort() as u64);
        pace.note((WINDOW_BYTES, left), MS * encoding, MS * sending);
        pace.effort()
    }

    #[test]
    fn slow_link_gets_more_work_and_a_fast_one_none() {
        let mut pace = Pace::new(Effort::Zstd3);
        assert_eq!(window(&mut pace, 1, 4), Effort::Lz4, "the next would take half of the time");
        assert_eq!(window(&mut pace, 1, 5), Effort::Zstd1);
        assert_eq!(window(&mut pace, 2, 9), Effort::Zstd3);
        assert_eq!(window(&mut pace, 3, 90), Effort::Zstd3);
        let mut fast = Pace::new(Effort::Zstd3);
        assert!((0..100).all(|_| window(&mut fast, 2, 1) == Effort::Lz4));
    }

    #[test]
    fn work_that_was_too_much_is_taken_back_and_not_tried_again_at_once() {
        let mut pace = Pace::new(Effort::Zstd3);
        window(&mut pace, 1, 5);
        assert_eq!(window(&mut pace, 5, 5), Effort::Zstd1, "even");
        assert_eq!(window(&mut pace, 6, 5), Effort::Lz4);
        for _ in 1..HOLD_WINDOWS {
            assert_eq!(window(&mut pace, 1, 9), Effort::Lz4);
        }
        assert_eq!(window(&mut pace, 1, 9), Effort::Zstd1);
    }

    #[test]
    fn work_that_makes_no_fewer_bytes_is_not_done() {
        let mut pace = Pace::new(Effort::Zstd3);
        for effort in [Effort::Zstd1, Effort::Lz4] {
            pace.note((WINDOW_BYTES, WINDOW_BYTES / 3), MS, MS * 9);
            assert_eq!(pace.effort(), effort);
        }
        pace.note((WINDOW_BYTES, WINDOW_BYTES / 3), MS, MS * 9);
        assert_eq!(pace.effort(), Effort::Lz4, "not again at once");
    }

    #[test]
    fn nothing_is_decided_on_less_than_a_window() {
        let mut pace = Pace::new(Effort::Zstd3);
        pace.note((WINDOW_BYTES - 1, 7), MS, MS * 100);
        assert_eq!(pace.effort(), Effort::Lz4);
        pace.note((1, 1), Duration::ZERO, Duration::ZERO);
        assert_eq!(pace.effort(), Effort::Zstd1);
    }

    #[test]
    fn requester_without_zstd_gets_lz4_and_absurd_times_do_no_harm() {
        let mut pace = Pace::new(Effort::Lz4);
        pace.note((u64::MAX, u64::MAX), Duration::MAX, Duration::MAX);
        pace.note((u64::MAX, 0), Duration::ZERO, Duration::MAX);
        assert_eq!(pace.effort(), Effort::Lz4);
    }
}
