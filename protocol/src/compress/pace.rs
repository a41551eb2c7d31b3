//! How much work compression may be: as much as the link leaves time for.
//!
//! A provider encodes and sends in turns on one thread. While sending takes most of its time the link is the
//! limit, and more work on fewer bytes makes the transfer shorter; once encoding takes most of it, the
//! processor is. Which it is can only be measured, and changes with whatever else the two carry.
//!
//! Sending is bursty: a socket takes a megabyte or more at once while its buffer has room, and then none for
//! a tenth of a second. So times are compared over a span of groups and not one after another, and what the
//! provider waits for the next request counts too, since what was asked for before may be on its way still.
//! But that wait may as well be the requester's own, for its disk or its processor, and more work here
//! gives that one more to do as well: so a wait keeps an effort that was reached, and never raises it.

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

/// How many raw bytes make a window: 1 MiB. After each it is decided anew.
const WINDOW_BYTES: u64 = 1 << 20;
/// Over about how many windows times are summed, the older ones counting less. It is as long that an effort
/// is tried before it may be taken back: a buffer that was empty hides a slow link for several.
const SPAN_WINDOWS: u32 = 8;
/// How many windows must have passed at an effort before the next: one that was late by chance is not
/// enough.
const UP_WINDOWS: u32 = 2;
/// How many times as long as encoding must sending take for the next effort: that one takes about twice as
/// long, and must leave room.
const UP_RATIO: u32 = 4;
/// How many windows an effort that was too much is not tried again: with the trial, it is a third of the
/// bytes at most.
const HOLD_WINDOWS: u32 = 16;

/// How many bytes are left of 1,024, so that sizes can be compared.
const SHARE: u64 = 1_024;

/// Chooses the effort of the next group from the times of those before.
///
/// It tells of a link more than of a blob: hand it on to the [next blob](Self::next_blob) over the same.
#[derive(Clone, Debug)]
pub struct Pace {
    effort: Effort,
    most: Effort,
    /// What was left of [`SHARE`] bytes at the effort below.
    left_below: u64,
    /// What became of the groups of the span, all at this effort.
    recent: Sums,
    /// The raw bytes of the window that is not full yet.
    window_bytes: u64,
    /// How many windows there were at this effort.
    windows: u32,
    hold: u32,
}

/// Adds up what became of groups.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    raw_bytes: u64,
    encoded_bytes: u64,
    encoding: Duration,
    sending: Duration,
    waiting: Duration,
}

impl Sums {
    /// Lets everything count for as much less that it sums up to a span.
    fn fade(&mut self) {
        for bytes in [&mut self.raw_bytes, &mut self.encoded_bytes] {
            *bytes -= *bytes / u64::from(SPAN_WINDOWS);
        }
        for time in [&mut self.encoding, &mut self.sending, &mut self.waiting] {
            *time -= *time / SPAN_WINDOWS;
        }
    }

    /// Returns how many of [`SHARE`] bytes are left.
    fn left(&self) -> u64 {
        self.encoded_bytes.saturating_mul(SHARE) / self.raw_bytes.max(1)
    }
}

impl Default for Pace {
    /// Begins with the least work.
    fn default() -> Self {
        let (recent, window_bytes, windows, hold) = (Sums::default(), 0, 0, 0);
        let (effort, most, left_below) = (Effort::Lz4, Effort::Lz4, u64::MAX);
        Self { effort, most, left_below, recent, window_bytes, windows, hold }
    }
}

impl Pace {
    /// Goes on over the same link with another blob.
    ///
    /// How the bytes of the one shrank says nothing about the other's, so the most of work is tried anew.
    #[must_use]
    pub fn next_blob(self) -> Self {
        let recent = Sums { raw_bytes: 0, encoded_bytes: 0, ..self.recent };
        Self { effort: self.effort.min(Effort::Zstd1), left_below: u64::MAX, recent, ..self }
    }

    /// Goes up to `most` from now on.
    pub(super) fn up_to(self, most: Effort) -> Self {
        Self { effort: self.effort.min(most), most, ..self }
    }

    pub(super) fn most(&self) -> Effort {
        self.most
    }

    pub(super) fn effort(&self) -> Effort {
        self.effort
    }

    /// Takes in what became of some groups, `(raw, encoded)` bytes, and what it took.
    pub(super) fn note(&mut self, bytes: (u64, u64), encoding: Duration, sending: Duration) {
        let Sums { raw_bytes, encoded_bytes, .. } = &mut self.recent;
        *raw_bytes = raw_bytes.saturating_add(bytes.0);
        *encoded_bytes = encoded_bytes.saturating_add(bytes.1);
        self.recent.encoding = self.recent.encoding.saturating_add(encoding);
        self.recent.sending = self.recent.sending.saturating_add(sending);
        self.window_bytes = self.window_bytes.saturating_add(bytes.0);
        if self.window_bytes >= WINDOW_BYTES {
            self.window_bytes = 0;
            self.choose();
        }
    }

    /// Takes in how long the next request was waited for.
    pub(super) fn waited(&mut self, time: Duration) {
        self.recent.waiting = self.recent.waiting.saturating_add(time);
    }

    fn choose(&mut self) {
        self.hold = self.hold.saturating_sub(1);
        self.windows = self.windows.saturating_add(1);
        let Sums { encoding, sending, waiting, .. } = self.recent;
        let left = self.recent.left();
        let is_too_much = encoding > sending.saturating_add(waiting);
        let is_for_nothing = left >= self.left_below;
        if self.windows >= SPAN_WINDOWS && (is_too_much || is_for_nothing) {
            if self.effort > Effort::Lz4 {
                self.hold = HOLD_WINDOWS;
                self.turn_to(self.effort.less(), u64::MAX);
            }
        } else if self.windows >= UP_WINDOWS
            && self.hold == 0
            && !is_for_nothing
            && self.effort < self.most
            && sending > encoding.saturating_mul(UP_RATIO)
        {
            self.turn_to(self.effort.more().min(self.most), left);
        }
        self.recent.fade();
    }

    /// Begins to measure another effort.
    fn turn_to(&mut self, effort: Effort, left_below: u64) {
        (self.effort, self.left_below) = (effort, left_below);
        (self.recent, self.windows) = (Sums::default(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn pace(most: Effort) -> Pace {
        Pace::default().up_to(most)
    }

    /// Notes a window in which a group was encoded for `encoding` and sent for `sending` milliseconds.
    fn window(pace: &mut Pace, encoding: u32, sending: u32) -> Effort {
        // Each effort leaves a little less than the one before.
        let left = WINDOW_BYTES / (2 + pace.effort() as u64);
        pace.note((WINDOW_BYTES, left), MS * encoding, MS * sending);
        pace.effort()
    }

    /// Notes as many windows as a decision to go up takes, and returns the effort after them.
    fn up(pace: &mut Pace, encoding: u32, sending: u32) -> Effort {
        (0..UP_WINDOWS).map(|_| window(pace, encoding, sending)).last().expect("some")
    }

    #[test]
    fn slow_link_gets_more_work_and_a_fast_one_none() {
        let mut slow = pace(Effort::Zstd3);
        assert_eq!(up(&mut slow, 1, 4), Effort::Lz4, "the next would take half of the time");
        assert_eq!(up(&mut slow, 1, 5), Effort::Zstd1);
        assert_eq!(up(&mut slow, 2, 9), Effort::Zstd3);
        assert!((0..100).all(|_| window(&mut slow, 3, 90) == Effort::Zstd3));
        let mut fast = pace(Effort::Zstd3);
        assert!((0..100).all(|_| window(&mut fast, 2, 1) == Effort::Lz4));
    }

    #[test]
    fn link_that_takes_bytes_in_bursts_is_slow_all_the_same() {
        let mut pace = pace(Effort::Zstd1);
        let mut efforts = (0..1_000).map(|number| {
            // A buffer of several windows, and then the time that they all take on the wire.
            window(&mut pace, 2, if number % 5 == 4 { 60 } else { 0 })
        });
        assert!(efforts.by_ref().take(16).any(|effort| effort == Effort::Zstd1));
        assert!(efforts.all(|effort| effort == Effort::Zstd1));
    }

    #[test]
    fn fast_link_that_stumbles_once_loses_little() {
        let mut pace = pace(Effort::Zstd3);
        let efforts: Vec<Effort> = (0..1_000)
            .map(|number| window(&mut pace, 2, if number % 100 == 50 { 40 } else { 1 }))
            .collect();
        let worked = efforts.iter().filter(|effort| **effort > Effort::Lz4).count();
        assert!(worked <= 10 * SPAN_WINDOWS as usize, "{worked}");
    }

    #[test]
    fn waits_for_requests_keep_an_effort_and_never_raise_it() {
        let mut pace = pace(Effort::Zstd3);
        for _ in 0..100 {
            pace.waited(MS * 50);
            assert_eq!(window(&mut pace, 2, 0), Effort::Lz4, "slow for reasons of its own");
        }
        while window(&mut pace, 2, 50) == Effort::Lz4 {}
        for _ in 0..100 {
            pace.waited(MS * 50);
            assert_eq!(window(&mut pace, 2, 0), Effort::Zstd1);
        }
        while window(&mut pace, 2, 0) > Effort::Lz4 {}
    }

    #[test]
    fn work_that_was_too_much_is_taken_back_and_not_tried_again_at_once() {
        let mut pace = pace(Effort::Zstd3);
        up(&mut pace, 1, 5);
        assert!((0..20).all(|_| window(&mut pace, 5, 5) == Effort::Zstd1), "even");
        let longer = (0..).take_while(|_| window(&mut pace, 6, 5) == Effort::Zstd1).count();
        assert_eq!(longer, 0);
        for _ in 1..HOLD_WINDOWS {
            assert_eq!(window(&mut pace, 1, 9), Effort::Lz4);
        }
        assert_eq!(window(&mut pace, 1, 9), Effort::Zstd1);
        for _ in 1..SPAN_WINDOWS {
            assert_eq!(window(&mut pace, 6, 5), Effort::Zstd1, "a trial lasts a span");
        }
        assert_eq!(window(&mut pace, 6, 5), Effort::Lz4);
    }

    #[test]
    fn work_that_makes_no_fewer_bytes_is_not_done() {
        let mut pace = pace(Effort::Zstd3);
        let mut note = |left| {
            pace.note((WINDOW_BYTES, WINDOW_BYTES / left), MS, MS * 9);
            pace.effort()
        };
        assert_eq!((note(3), note(3)), (Effort::Lz4, Effort::Zstd1));
        assert_eq!((note(4), note(4)), (Effort::Zstd1, Effort::Zstd3));
        // The most work makes as many bytes of them.
        let trial: Vec<Effort> = (0..SPAN_WINDOWS).map(|_| note(4)).collect();
        assert!(trial.iter().rev().skip(1).all(|effort| *effort == Effort::Zstd3), "{trial:?}");
        assert_eq!(trial.last(), Some(&Effort::Zstd1));
        assert!((1..HOLD_WINDOWS).all(|_| note(4) == Effort::Zstd1), "not again at once");
    }

    #[test]
    fn nothing_is_decided_on_less_than_a_window() {
        let mut pace = pace(Effort::Zstd3);
        window(&mut pace, 1, 100);
        pace.note((WINDOW_BYTES - 1, 7), MS, MS * 100);
        assert_eq!(pace.effort(), Effort::Lz4);
        pace.note((1, 1), Duration::ZERO, Duration::ZERO);
        assert_eq!(pace.effort(), Effort::Zstd1);
    }

    #[test]
    fn next_blob_goes_on_at_the_pace_of_the_link() {
        let mut pace = pace(Effort::Zstd3);
        up(&mut pace, 1, 9);
        let mut next = pace.clone().next_blob().up_to(Effort::Zstd1);
        assert_eq!(next.effort(), Effort::Zstd1);
        // It shrinks by less than the one before, and that is no fault of the effort.
        for _ in 0..100 {
            next.note((WINDOW_BYTES, WINDOW_BYTES / 10 * 9), MS, MS * 9);
            assert_eq!(next.effort(), Effort::Zstd1);
        }
        assert_eq!(pace.clone().up_to(Effort::Lz4).effort(), Effort::Lz4);
        assert_eq!(up(&mut pace, 1, 9), Effort::Zstd3);
        assert_eq!(pace.next_blob().effort(), Effort::Zstd1, "the most is worth it, or not");
    }

    #[test]
    fn requester_without_zstd_gets_lz4_and_absurd_times_do_no_harm() {
        let mut pace = pace(Effort::Lz4);
        for _ in 0..20 {
            pace.note((u64::MAX, u64::MAX), Duration::MAX, Duration::MAX);
            pace.waited(Duration::MAX);
            pace.note((u64::MAX, 0), Duration::ZERO, Duration::MAX);
            assert_eq!(pace.effort(), Effort::Lz4);
        }
    }
}
