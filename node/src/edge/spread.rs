//! Decides whether what is read at once shares one connection, or has a connection each.
//!
//! Over HTTP/2 and 3 it shares one: a single flow, which does not compete with itself and is never idle between two ranges.
//! Where packets get lost that flow is slow for what the link could carry, and several are several times as fast.
//! Loss cannot be told from a slow link here but by trying. So where the one connection brings less than
//! [`RATE_FAIR`] for a while, what is asked for from then on goes over connections of its own, beside what is read
//! already; if that brings not much more together, the link is slow, and reads share a connection again. An edge
//! whose HTTP/2 breaks is spoken to in HTTP/1.1, too.
//!
//! An answer that is let go has the link carry bytes for nothing: all that the edge has handed to its kernel by then,
//! megabytes where the link is slow. So answers are read to their end where they began, but for one whose end is
//! [`REST_MAX`] off: while several connections are tried one such answer leaves, and the others when it was right.
//!
//! Only what is read for [`WINDOW`] and longer is judged, and only while whoever reads waits for bytes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use super::error::causes;

/// Over how much time rates are taken: many round trips, and a small part of a get that takes long.
const WINDOW: Duration = Duration::from_secs(2);
/// Bytes a second from which one connection is good enough. At one lost packet in a hundred and 20 ms it brings a
/// quarter of that, at one in a thousand and 50 ms as well.
const RATE_FAIR: u64 = 4 << 20;
/// How many times as much several connections must bring to be kept, in percent.
const GAIN_PERCENT_MIN: u64 = 130;
/// An answer that takes no longer than this to its end is read where it began.
const REST_MAX: Duration = Duration::from_secs(30);
/// How long a decision holds. To try the other way costs a get a few round trips, and the edge a request a range.
const KEEP: Duration = Duration::from_secs(600);

/// Keeps how reads of one edge are spread over connections.
#[derive(Debug)]
pub(super) struct Spread {
    state: Mutex<State>,
}

/// Is one answer that is read; counts until it is dropped.
#[derive(Debug)]
pub(super) struct Reading {
    spread: Arc<Spread>,
    /// Whether it came over a connection that others may share.
    shared: bool,
    since: Instant,
}

impl Spread {
    /// Makes one that never leaves the connection that is shared, if `always` one is.
    pub(super) fn new(always: bool) -> Self {
        let choice = Choice { is_fixed: always, ..Choice::default() };
        Self { state: Mutex::new(State { choice, ..State::default() }) }
    }

    /// Returns whether what is asked for now gets a connection of its own.
    pub(super) fn is_apart(&self) -> bool {
        self.state().choice.is_apart(Instant::now())
    }

    /// Returns how many bytes of bodies the connection that is shared has brought; it starts again from 0 where there
    /// are more than can be counted.
    pub(super) fn shared_bytes(&self) -> u64 {
        self.state().shared_bytes
    }

    /// Begins to count an answer.
    pub(super) fn reading(this: &Arc<Self>, shared: bool) -> Reading {
        let since = Instant::now();
        this.state().began(shared, since);
        Reading { spread: Arc::clone(this), shared, since }
    }

    /// Takes in how an exchange broke: an edge that breaks the rules of HTTP/2, or says that we do, is spared it. That
    /// of a single answer says nothing of the others.
    pub(super) fn broken_by(&self, error: &reqwest::Error) {
        let mut causes = causes(error).filter_map(|cause| cause.downcast_ref::<h2::Error>());
        let broken = |error: &h2::Error| {
            let whole = error.is_go_away() || error.is_library();
            let plain = error.reason() == Some(h2::Reason::HTTP_1_1_REQUIRED);
            whole && error.reason() != Some(h2::Reason::NO_ERROR) || plain
        };
        if let Some(error) = causes.find(|error| broken(error)) {
            debug!(%error, "HTTP/2 of the edge broke: it is spoken to in HTTP/1.1");
            self.state().choice.set_apart(Instant::now());
        }
    }

    /// Takes in that the edge speaks nothing but HTTP/2.
    pub(super) fn has_no_other(&self) {
        self.state().choice.set_together(Instant::now());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reading {
    /// Takes in that bytes came, and how long they were waited for.
    pub(super) fn moved(&self, bytes: u64, waited: Duration) {
        let mut state = self.spread.state();
        if self.shared {
            state.shared_bytes = state.shared_bytes.wrapping_add(bytes);
        }
        state.moved(bytes, waited, Instant::now());
    }

    /// Decides whether the `left` bytes to come, after `got`, are to be asked for anew, which gives them a connection of
    /// their own.
    pub(super) fn leaves(&self, got: u64, left: u64) -> bool {
        let now = Instant::now();
        let took = (now - self.since).as_millis();
        let takes_long = u128::from(left) * took > u128::from(got) * REST_MAX.as_millis();
        self.shared && takes_long && self.spread.state().leaves(now)
    }

    /// See [`Spread::broken_by`].
    pub(super) fn broken_by(&self, error: &reqwest::Error) {
        self.spread.broken_by(error);
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.spread.state().ended(self.shared, Instant::now());
    }
}

#[derive(Debug)]
struct State {
    choice: Choice,
    /// Answers that are read now over the shared connection, and over one of their own.
    sharing: usize,
    single: usize,
    /// What the connection that is shared has brought in all.
    shared_bytes: u64,
    /// What came since the way that is chosen can be judged.
    since: Instant,
    bytes: u64,
    waited: Duration,
}

impl Default for State {
    fn default() -> Self {
        let (bytes, waited) = (0, Duration::ZERO);
        Self {
            choice: Choice::default(),
            sharing: 0,
            single: 0,
            shared_bytes: 0,
            since: Instant::now(),
            bytes,
            waited,
        }
    }
}

impl State {
    fn began(&mut self, shared: bool, now: Instant) {
        let before = self.can_be_judged(now);
        *self.of(shared) += 1;
        if before != self.can_be_judged(now) {
            self.restart(now);
        }
    }

    fn ended(&mut self, shared: bool, now: Instant) {
        let before = self.can_be_judged(now);
        let count = self.of(shared);
        *count = count.saturating_sub(1);
        if before != self.can_be_judged(now) {
            self.restart(now);
        }
    }

    fn moved(&mut self, bytes: u64, waited: Duration, now: Instant) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.waited = self.waited.saturating_add(waited);
        let took = now - self.since;
        if took < WINDOW {
            return;
        }
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let rate = self.bytes.saturating_mul(1000) / millis.max(1);
        // A reader with other things to do says nothing of the edge.
        let is_edges = self.waited >= took / 2;
        if is_edges && self.can_be_judged(now) {
            self.choice.judge(rate, now);
        }
        self.restart(now);
    }

    /// Returns whether what comes says how good the way is that was chosen: nothing but the connection that is shared,
    /// or others, beside which it may have answers to end.
    fn can_be_judged(&self, now: Instant) -> bool {
        if self.choice.is_apart(now) {
            self.single > 0
        } else {
            self.single == 0 && self.sharing > 0
        }
    }

    /// Decides whether an answer whose end is far leaves the connection that is shared: one to try others, all once
    /// these are better.
    fn leaves(&mut self, now: Instant) -> bool {
        let is_needed = !self.choice.is_trial() || !self.choice.has_left && self.single == 0;
        let leaves = self.choice.is_apart(now) && is_needed;
        self.choice.has_left |= leaves;
        leaves
    }

    fn of(&mut self, shared: bool) -> &mut usize {
        if shared { &mut self.sharing } else { &mut self.single }
    }

    fn restart(&mut self, now: Instant) {
        (self.since, self.bytes, self.waited) = (now, 0, Duration::ZERO);
    }
}

/// Is what was decided, and until when.
#[derive(Debug, Default)]
struct Choice {
    /// None while reads share a connection.
    apart_until: Option<Instant>,
    /// What the shared connection brought a second, while others are tried against it.
    against: Option<u64>,
    /// Whether an answer has left the connection that is shared to try them.
    has_left: bool,
    /// Until when the other way is not tried again.
    rests_until: Option<Instant>,
    /// Whether somebody else decided, for what is shared.
    is_fixed: bool,
}

impl Choice {
    fn is_apart(&self, now: Instant) -> bool {
        self.apart_until.is_some_and(|until| now < until)
    }

    /// Returns whether connections of their own have yet to show that they bring more.
    fn is_trial(&self) -> bool {
        self.against.is_some()
    }

    fn set_apart(&mut self, now: Instant) {
        if self.is_fixed {
            return;
        }
        (self.apart_until, self.against, self.has_left) = (Some(now + KEEP), None, false);
    }

    fn set_together(&mut self, now: Instant) {
        let is_fixed = self.is_fixed;
        *self = Self { rests_until: Some(now + KEEP), is_fixed, ..Self::default() };
    }

    /// Takes in what the way that is chosen brought a second.
    fn judge(&mut self, rate: u64, now: Instant) {
        if !self.is_apart(now) {
            let rests = self.is_fixed || self.rests_until.is_some_and(|until| now < until);
            if rate < RATE_FAIR && !rests {
                debug!(rate, "one connection to the edge is slow: several are tried");
                self.set_apart(now);
                self.against = Some(rate);
            }
        } else if let Some(before) = self.against.take()
            && rate.saturating_mul(100) < before.saturating_mul(GAIN_PERCENT_MIN)
        {
            debug!(rate, before, "several connections to the edge bring no more than one");
            self.set_together(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Reads at a rate for so many seconds, and returns when that ends.
    fn read(state: &mut State, from: Instant, rate: u64, seconds: u32) -> Instant {
        (1..=seconds).fold(from, |_, second| {
            let now = from + SECOND * second;
            state.moved(rate, SECOND, now);
            now
        })
    }

    #[test]
    fn fast_connection_is_shared_for_ever() {
        let (mut state, start) = (State::default(), Instant::now());
        state.began(true, start);
        let now = read(&mut state, start, RATE_FAIR, 100);
        assert!(!state.choice.is_apart(now));
    }

    #[test]
    fn slow_connection_has_others_tried_which_stay_when_they_bring_more() {
        let (mut state, start) = (State::default(), Instant::now());
        state.began(true, start);
        let now = read(&mut state, start, RATE_FAIR - 1, 1);
        assert!(!state.choice.is_apart(now), "it is early to say");
        let now = read(&mut state, now, RATE_FAIR - 1, 1);
        assert!(state.choice.is_apart(now));
        // As long as there is no other the slow one says nothing.
        let now = read(&mut state, now, 0, 5);
        assert!(state.choice.is_apart(now));
        state.began(false, now);
        let now = read(&mut state, now, RATE_FAIR * 13 / 10, 20);
        assert!(state.choice.is_apart(now));
        assert!(!state.choice.is_apart(now + KEEP), "the link may have changed");
    }

    /// Begins to read over a connection that is slow, until others are tried.
    fn on_trial(state: &mut State, start: Instant, readers: usize) -> Instant {
        (0..readers).for_each(|_| state.began(true, start));
        let now = read(state, start, 1_000, 2);
        assert!(state.choice.is_trial());
        now
    }

    #[test]
    fn one_answer_leaves_a_slow_connection_and_the_others_once_that_was_right() {
        let (mut state, start) = (State::default(), Instant::now());
        let now = on_trial(&mut state, start, 3);
        assert_eq!([(); 3].map(|()| state.leaves(now)), [true, false, false]);
        state.ended(true, now);
        state.began(false, now);
        let now = read(&mut state, now, 1_300, 2);
        assert_eq!([(); 2].map(|()| state.leaves(now)), [true, true]);
    }

    #[test]
    fn no_answer_leaves_where_it_does_no_good_or_a_new_one_tries_it() {
        let (mut state, start) = (State::default(), Instant::now());
        let now = on_trial(&mut state, start, 3);
        state.began(false, now);
        assert!(!state.leaves(now), "one that was asked for meanwhile tries it");
        let now = read(&mut state, now, 1_299, 2);
        assert!(!state.choice.is_apart(now));
        assert!(!state.leaves(now));
    }

    #[tokio::test(start_paused = true)]
    async fn answer_is_read_where_it_began_unless_its_end_is_far() {
        let spread = Arc::new(Spread::new(false));
        let reading = Spread::reading(&spread, true);
        tokio::time::advance(WINDOW).await;
        reading.moved(2_000, WINDOW);
        assert!(spread.state().choice.is_trial());
        assert!(!reading.leaves(2_000, 30_000), "1,000 a second bring that in time");
        assert!(reading.leaves(2_000, 30_001));
        let alone = Spread::reading(&spread, false);
        assert!(!alone.leaves(0, u64::MAX), "it has a connection of its own");
    }

    #[test]
    fn others_that_bring_no_more_are_given_up_and_not_tried_again_soon() {
        let (mut state, start) = (State::default(), Instant::now());
        state.began(true, start);
        let now = read(&mut state, start, 1_000, 2);
        state.ended(true, now);
        state.began(false, now);
        let now = read(&mut state, now, 1_299, 2);
        assert!(!state.choice.is_apart(now));
        state.ended(false, now);
        state.began(true, now);
        let now = read(&mut state, now, 1_000, 300);
        assert!(!state.choice.is_apart(now));
        assert!(!state.choice.is_trial());
        let now = read(&mut state, now, 1_000, 310);
        assert!(state.choice.is_apart(now), "the link may have changed");
    }

    #[test]
    fn reader_that_is_busy_and_a_pause_are_not_the_connections_fault() {
        let (mut state, start) = (State::default(), Instant::now());
        state.began(true, start);
        state.moved(1, SECOND, start + SECOND * 4);
        assert!(!state.choice.is_apart(start + SECOND * 4), "three seconds went elsewhere");
        state.ended(true, start + SECOND * 4);
        state.began(true, start + SECOND * 60);
        state.moved(RATE_FAIR, SECOND, start + SECOND * 61);
        assert!(!state.choice.is_apart(start + SECOND * 61), "nothing was read meanwhile");
    }

    #[test]
    fn connection_that_is_to_be_shared_is_shared_however_slow() {
        let (spread, start) = (Spread::new(true), Instant::now());
        let mut state = spread.state();
        state.began(true, start);
        let now = read(&mut state, start, 1, 10);
        assert!(!state.choice.is_apart(now));
        state.choice.set_together(now);
        state.choice.set_apart(now);
        assert!(!state.choice.is_apart(now));
    }

    #[test]
    fn edge_without_http_2_is_not_judged() {
        let (mut state, start) = (State::default(), Instant::now());
        state.began(false, start);
        let now = read(&mut state, start, 1_000, 10);
        assert!(!state.choice.is_apart(now));
    }
}
