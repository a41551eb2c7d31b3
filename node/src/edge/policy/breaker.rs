//! When the edge is left alone, and when it is tried again.
//!
//! A circuit breaker (Nygard, *Release It!*, 2007). Closed, everything passes. Open, nothing does until
//! its time is over; then exactly one request is let through, the probe, and what becomes of it closes
//! the breaker or opens it for longer. It opens for two reasons: the edge keeps failing, or it refuses
//! whoever asks.

use std::collections::VecDeque;
use std::time::Duration;

use blobmesh_protocol::Time;

use super::super::options::PolicyOptions;

/// Over how much time the share of failures is taken.
const WINDOW: Duration = Duration::from_secs(10);
/// One slot of the window; slots are dropped whole.
const SLOT: Duration = Duration::from_secs(1);

/// Lets requests through or not.
#[derive(Debug)]
pub(super) struct Breaker {
    row_max: u32,
    window_min: u32,
    share_percent: u32,
    pause_first: Duration,
    pause_max: Duration,
    state: State,
    /// Failures with no success between them.
    row: u32,
    /// When the last of them was counted. What began before belongs to the same failure: the ranges of
    /// a blob that fail together count once.
    row_at: Time,
    window: VecDeque<Slot>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Time, pause: Duration },
    Probing { pause: Duration },
}

/// Counts what ended within one second.
#[derive(Debug)]
struct Slot {
    since: Time,
    all: u32,
    failed: u32,
}

/// Says how a request may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// As any other.
    Free,
    /// As the one that finds out whether the edge is back.
    Probe,
    /// Not at all, for so long; for none, while the probe is under way.
    Not(Duration),
}

impl Breaker {
    pub(super) fn new(options: &PolicyOptions) -> Self {
        Self {
            row_max: options.breaker_row,
            window_min: options.breaker_window_min,
            share_percent: options.breaker_share_percent,
            pause_first: options.breaker_pause,
            pause_max: options.breaker_pause_max,
            state: State::Closed,
            row: 0,
            row_at: Time::ZERO,
            window: VecDeque::new(),
        }
    }

    /// Lets a request through or not. A probe must come back by [`good`](Self::good),
    /// [`bad`](Self::bad), [`open_for`](Self::open_for) or [`gone`](Self::gone).
    pub(super) fn pass(&mut self, now: Time) -> Pass {
        match self.state {
            State::Closed => Pass::Free,
            State::Open { until, .. } if now < until => Pass::Not(until - now),
            State::Open { pause, .. } => {
                self.state = State::Probing { pause };
                Pass::Probe
            }
            State::Probing { .. } => Pass::Not(Duration::ZERO),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.state != State::Closed
    }

    /// Counts a success; that of a probe closes.
    pub(super) fn good(&mut self, now: Time, probe: bool) {
        if probe {
            self.close();
        }
        if self.state == State::Closed {
            self.row = 0;
            self.count(now, false);
        }
    }

    /// Counts a failure of what `began` then, and returns how long nothing passes where that opens it.
    pub(super) fn bad(&mut self, now: Time, began: Time, probe: bool) -> Option<Duration> {
        match self.state {
            State::Probing { pause } if probe => {
                let pause = pause.saturating_mul(2).min(self.pause_max);
                self.open_for(now, pause);
                Some(pause)
            }
            State::Closed => {
                self.count(now, true);
                if self.row == 0 || began >= self.row_at {
                    self.row += 1;
                    self.row_at = now;
                }
                if self.row < self.row_max && !self.is_mostly_failing() {
                    return None;
                }
                self.open_for(now, self.pause_first);
                Some(self.pause_first)
            }
            // What was under way when it opened says nothing new.
            State::Open { .. } | State::Probing { .. } => None,
        }
    }

    /// Lets nothing pass for so long.
    pub(super) fn open_for(&mut self, now: Time, pause: Duration) {
        self.state = State::Open { until: now + pause, pause };
    }

    /// Takes in that a probe was given up before it could tell anything: the next request is one.
    pub(super) fn gone(&mut self, now: Time) {
        if let State::Probing { pause } = self.state {
            self.state = State::Open { until: now, pause };
        }
    }

    fn close(&mut self) {
        self.state = State::Closed;
        self.row = 0;
        self.window.clear();
    }

    fn count(&mut self, now: Time, failed: bool) {
        while self.window.front().is_some_and(|slot| now - slot.since >= WINDOW) {
            self.window.pop_front();
        }
        if self.window.back().is_none_or(|slot| now - slot.since >= SLOT) {
            self.window.push_back(Slot { since: now, all: 0, failed: 0 });
        }
        if let Some(slot) = self.window.back_mut() {
            slot.all = slot.all.saturating_add(1);
            slot.failed = slot.failed.saturating_add(u32::from(failed));
        }
    }

    fn is_mostly_failing(&self) -> bool {
        let sum = |of: fn(&Slot) -> u32| self.window.iter().map(|slot| u64::from(of(slot))).sum();
        let (all, failed): (u64, u64) = (sum(|slot| slot.all), sum(|slot| slot.failed));
        all >= u64::from(self.window_min) && failed * 100 >= all * u64::from(self.share_percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(5);

    fn breaker() -> Breaker {
        let options = PolicyOptions {
            breaker_row: 5,
            breaker_window_min: 20,
            breaker_share_percent: 50,
            breaker_pause: PAUSE,
            breaker_pause_max: Duration::from_secs(60),
            ..PolicyOptions::default()
        };
        Breaker::new(&options)
    }

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    /// Opens by five failures, one a millisecond, and returns the moment after the last.
    fn opened() -> (Breaker, Time) {
        let mut breaker = breaker();
        let opens: Vec<_> = (1..=5).map(|ms| breaker.bad(at(ms), at(ms), false)).collect();
        assert_eq!(opens, [None, None, None, None, Some(PAUSE)]);
        (breaker, at(5))
    }

    #[test]
    fn five_failures_in_a_row_open_it_and_a_success_between_does_not_let_them() {
        let (mut breaker, now) = opened();
        assert_eq!(breaker.pass(now), Pass::Not(PAUSE));
        assert_eq!(
            breaker.pass(now + (PAUSE - Duration::from_nanos(1))),
            Pass::Not(Duration::from_nanos(1))
        );
        let mut mixed = self::breaker();
        for round in 0..4 {
            for ms in 0..4 {
                let now = at(round * 20_000 + ms);
                assert_eq!(mixed.bad(now, now, false), None);
            }
            mixed.good(at(round * 20_000 + 4), false);
        }
        assert_eq!(mixed.pass(at(100_000)), Pass::Free);
    }

    #[test]
    fn failures_of_one_moment_count_once_in_the_row() {
        let mut breaker = breaker();
        // Eight ranges that began together and failed together, four times over: four in the row.
        for wave in 0..4 {
            let began = at(wave * 100);
            (1..=4).for_each(|ms| assert_eq!(breaker.bad(at(wave * 100 + ms), began, false), None));
        }
        assert_eq!(breaker.bad(at(500), at(499), false), Some(PAUSE));
    }

    #[test]
    fn half_of_twenty_open_it_where_no_row_does() {
        let mut breaker = breaker();
        let mut opened_after = None;
        for request in 0..40u64 {
            let now = at(request * 10);
            if request % 2 == 0 {
                breaker.good(now, false);
            } else if breaker.bad(now, now, false).is_some() {
                opened_after = Some(request + 1);
                break;
            }
        }
        assert_eq!(opened_after, Some(20));
        let mut slow = self::breaker();
        for request in 0..200u64 {
            let now = at(request * 1100);
            if request % 2 == 0 {
                slow.good(now, false);
            } else {
                assert_eq!(
                    slow.bad(now, now, false),
                    None,
                    "ten seconds hold fewer than twenty of these"
                );
            }
        }
    }

    #[test]
    fn exactly_one_probe_goes_and_its_success_closes() {
        let (mut breaker, opened) = opened();
        let now = opened + PAUSE;
        assert_eq!(breaker.pass(now), Pass::Probe);
        (0..10).for_each(|_| assert_eq!(breaker.pass(now), Pass::Not(Duration::ZERO)));
        breaker.good(now, false);
        assert_eq!(breaker.pass(now), Pass::Not(Duration::ZERO), "another's success is no probe's");
        breaker.good(now, true);
        assert_eq!(breaker.pass(now), Pass::Free);
        assert_eq!(breaker.bad(now, now, false), None, "it begins from nothing");
    }

    #[test]
    fn failed_probes_double_the_pause_up_to_a_minute() {
        let (mut breaker, mut now) = opened();
        now = now + PAUSE;
        for pause in [10, 20, 40, 60, 60] {
            assert_eq!(breaker.pass(now), Pass::Probe);
            let pause = Duration::from_secs(pause);
            assert_eq!(breaker.bad(now, now, true), Some(pause));
            assert_eq!(breaker.pass(now), Pass::Not(pause));
            now = now + pause;
        }
    }

    #[test]
    fn probe_that_was_given_up_lets_the_next_one_go() {
        let (mut breaker, opened) = opened();
        let now = opened + PAUSE;
        assert_eq!(breaker.pass(now), Pass::Probe);
        breaker.gone(now);
        assert_eq!(breaker.pass(now), Pass::Probe);
        assert_eq!(breaker.pass(now), Pass::Not(Duration::ZERO));
    }

    #[test]
    fn late_failures_do_not_keep_it_open() {
        let (mut breaker, opened) = opened();
        assert_eq!(breaker.bad(opened + PAUSE / 2, Time::ZERO, false), None);
        assert_eq!(breaker.pass(opened + PAUSE), Pass::Probe);
        assert_eq!(breaker.bad(opened + PAUSE, Time::ZERO, false), None);
        assert_eq!(
            breaker.pass(opened + PAUSE),
            Pass::Not(Duration::ZERO),
            "the probe is out still"
        );
    }
}
