//! What all parts of the engine share while an input is handled: the moment, the outputs, the timers
//! and the randomness.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::output::{Output, Source};
use crate::blob::Hash;
use crate::config::Config;
use crate::id::{FetchId, LookId, PeerId, QueryId, WantId};
use crate::stats::Stats;
use crate::time::Time;

/// Names a timer, so that it can be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerKey(Time, u64);

/// Names what a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    Ask { hash: Hash, peer: PeerId },
    Hedge { hash: Hash },
    Prepare { hash: Hash },
    FirstGroup { hash: Hash, fetch: FetchId },
    Stall { hash: Hash, fetch: FetchId },
    Retry { hash: Hash, source: Source },
    Search { hash: Hash, query: QueryId },
    Word { hash: Hash },
    Deadline { want: WantId },
    Swarm { hash: Hash },
    Herd { hash: Hash },
    Greeting { peer: PeerId },
    Gossip,
    Refresh,
    Advert,
}

impl Timer {
    fn reason(self) -> &'static str {
        match self {
            Self::Ask { .. } => "a question unanswered",
            Self::Hedge { .. } => "the edge's hedge",
            Self::Prepare { .. } => "a connection to the edge",
            Self::FirstGroup { .. } => "a first group late",
            Self::Stall { .. } => "a fetch stalled",
            Self::Retry { .. } => "a source tried again",
            Self::Search { .. } => "a provider search too long",
            Self::Word { .. } => "word of what neighbours added",
            Self::Deadline { .. } => "a want's deadline",
            Self::Swarm { .. } => "a swarm's next look",
            Self::Herd { .. } => "a claim on the edge",
            Self::Greeting { .. } => "a neighbour's greeting",
            Self::Gossip => "filter changes to gossip",
            Self::Refresh => "the filter's refresh",
            Self::Advert => "adverts due",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Shell {
    pub(crate) now: Time,
    pub(crate) config: Config,
    pub(crate) stats: Stats,
    outputs: VecDeque<Output>,
    timers: BTreeMap<(Time, u64), Timer>,
    /// When the first of them is due and what it is for: asked at every input.
    next_timer: Option<(Time, &'static str)>,
    /// Numbers timers, fetches, searches and looks, so that none is ever used twice.
    serial: u64,
    random: u64,
}

impl Shell {
    pub(crate) fn new(config: Config, seed: u64, now: Time) -> Self {
        Self {
            now,
            config,
            stats: Stats::default(),
            outputs: VecDeque::new(),
            timers: BTreeMap::new(),
            next_timer: None,
            serial: 0,
            random: seed,
        }
    }

    pub(crate) fn emit(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(crate) fn pop_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(crate) fn has_output(&self) -> bool {
        !self.outputs.is_empty()
    }

    pub(crate) fn outputs(&self) -> impl DoubleEndedIterator<Item = &Output> + ExactSizeIterator {
        self.outputs.iter()
    }

    pub(crate) fn start_timer(&mut self, after: Duration, timer: Timer) -> TimerKey {
        let key = TimerKey(self.now + after, self.next_serial());
        self.timers.insert((key.0, key.1), timer);
        if self.next_timer.is_none_or(|(next, _)| key.0 < next) {
            self.next_timer = Some((key.0, timer.reason()));
        }
        key
    }

    /// Takes a timer back; one that has fired is ignored.
    pub(crate) fn stop_timer(&mut self, key: TimerKey) {
        self.timers.remove(&(key.0, key.1));
        self.note_next(key.0);
    }

    /// Takes in that a timer is gone that was due at this moment.
    fn note_next(&mut self, gone: Time) {
        if self.next_timer.is_some_and(|(next, _)| next == gone) {
            let first = self.timers.first_key_value();
            self.next_timer = first.map(|((at, _), timer)| (*at, timer.reason()));
        }
    }

    /// Takes the next timer that is due.
    pub(crate) fn pop_timer(&mut self) -> Option<Timer> {
        self.next_timer.filter(|(at, _)| *at <= self.now)?;
        let ((at, _), timer) = self.timers.pop_first()?;
        self.note_next(at);
        Some(timer)
    }

    pub(crate) fn next_timeout(&self) -> Option<(Time, &'static str)> {
        self.next_timer
    }

    pub(crate) fn next_fetch(&mut self) -> FetchId {
        FetchId(self.next_serial())
    }

    pub(crate) fn next_query(&mut self) -> QueryId {
        QueryId(self.next_serial())
    }

    pub(crate) fn next_look(&mut self) -> LookId {
        LookId(self.next_serial())
    }

    /// Returns the delay before attempt number `attempts` (from 1) is repeated: exponential, capped,
    /// with full jitter, so that peers that failed together do not come back together (Brooker,
    /// *Exponential backoff and jitter*, AWS Architecture Blog 2015).
    pub(crate) fn backoff(&mut self, attempts: u32) -> Duration {
        let doubled = self.config.backoff_initial.saturating_mul(1 << (attempts.clamp(1, 16) - 1));
        let ceiling = doubled.min(self.config.backoff_max);
        self.jitter(ceiling)
    }

    /// Returns a moment drawn from between none and `most`.
    pub(crate) fn jitter(&mut self, most: Duration) -> Duration {
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.next_random() % nanos.max(1))
    }

    /// Draws one of so many places; 0 where there is none.
    pub(crate) fn pick(&mut self, places: usize) -> usize {
        let places = u64::try_from(places).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next_random() % places).unwrap_or(0)
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Steps SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): small, and good enough for jitter.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
