//! When the blobs this node provides are announced in the DHT, and announced again.
//!
//! One announcement costs all nodes of a mesh together about 42 requests and 8.5 ms of processor
//! (measured with 50 nodes), so a token bucket stands before every one of them. Announcements are made
//! again when their records are about to expire, and when the mesh grew: a record put while no peer was
//! there is known to nobody, and in a mesh of fewer nodes than a record has replicas each newcomer has
//! to be told everything.
//!
//! This is a plain state machine: the time comes in as an argument and it starts nothing itself.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use blobmesh_protocol::Hash;

/// How many blobs this node announces; the same bound as that of its own provider records.
pub(super) const KEYS_MAX: usize = 1_024;
/// How many announcements run at once.
const IN_FLIGHT_MAX: usize = 8;
/// How many announcements may be made at once after a quiet time.
const BURST: u32 = 64;
/// The time that earns one announcement: eight a second.
const TOKEN_INTERVAL: Duration = Duration::from_millis(125);
/// Half of a record's life, so that one lost renewal loses no record.
const RENEW_INTERVAL: Duration = Duration::from_secs(30 * 60);
/// When an announcement that reached nobody is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);
/// How long newcomers are gathered before all is announced again for them.
const JOIN_DELAY: Duration = Duration::from_secs(1);

/// Decides which blob is announced next.
#[derive(Debug)]
pub(super) struct Announcer {
    keys: HashMap<Hash, State>,
    /// Blobs never announced yet, in the order they came; they go before all others.
    fresh: VecDeque<Hash>,
    /// Blobs to be announced again, each at its time.
    due: BTreeSet<(Instant, Hash)>,
    in_flight: usize,
    tokens: TokenBucket,
    /// When all is announced again for peers that joined.
    join_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Fresh,
    /// In `due` at this time; `told` once an announcement reached somebody.
    Due {
        at: Instant,
        told: bool,
    },
    InFlight {
        told: bool,
    },
}

/// Says what came of [`Announcer::insert`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    /// The blob will be announced.
    New,
    /// The blob is announced already.
    Known,
    /// There is no place: [`KEYS_MAX`] blobs are announced.
    Full,
}

impl Announcer {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            keys: HashMap::new(),
            fresh: VecDeque::new(),
            due: BTreeSet::new(),
            in_flight: 0,
            tokens: TokenBucket { spent_until: now },
            join_at: None,
        }
    }

    /// Adds a blob to those that are announced.
    pub(super) fn insert(&mut self, hash: Hash) -> Inserted {
        if self.keys.contains_key(&hash) {
            return Inserted::Known;
        }
        if self.keys.len() >= KEYS_MAX {
            return Inserted::Full;
        }
        self.keys.insert(hash, State::Fresh);
        self.fresh.push_back(hash);
        Inserted::New
    }

    /// Takes a blob from those that are announced; its records elsewhere expire within the hour.
    pub(super) fn remove(&mut self, hash: &Hash) {
        match self.keys.remove(hash) {
            Some(State::Fresh) => self.fresh.retain(|other| other != hash),
            Some(State::Due { at, .. }) => {
                self.due.remove(&(at, *hash));
            }
            Some(State::InFlight { .. }) | None => {}
        }
    }

    /// Returns whether anything is announced.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns all blobs that are announced, in no order.
    pub(super) fn hashes(&self) -> Vec<Hash> {
        self.keys.keys().copied().collect()
    }

    /// Notes that the mesh has a new peer, who has to be told.
    pub(super) fn peer_joined(&mut self, now: Instant) {
        self.join_at.get_or_insert(now + JOIN_DELAY);
    }

    /// Returns a blob to announce now; [`finished`](Self::finished) must follow.
    pub(super) fn next(&mut self, now: Instant) -> Option<Hash> {
        if self.join_at.is_some_and(|at| at <= now) {
            self.join_at = None;
            self.renew_all(now);
        }
        if self.in_flight >= IN_FLIGHT_MAX || !self.has_due(now) || !self.tokens.take(now) {
            return None;
        }
        let hash = match self.fresh.pop_front() {
            Some(hash) => hash,
            None => self.due.pop_first()?.1,
        };
        let told = matches!(self.keys.get(&hash), Some(State::Due { told: true, .. }));
        self.keys.insert(hash, State::InFlight { told });
        self.in_flight += 1;
        Some(hash)
    }

    /// Notes how an announcement ended. Returns whether it is the first one that reached somebody.
    pub(super) fn finished(&mut self, hash: &Hash, reached: bool, now: Instant) -> bool {
        self.in_flight = self.in_flight.saturating_sub(1);
        // A blob that was removed and added again while this ran has its own announcement ahead.
        let Some(State::InFlight { told }) = self.keys.get(hash).copied() else { return false };
        let at = now + if reached { RENEW_INTERVAL } else { RETRY_INTERVAL };
        self.keys.insert(*hash, State::Due { at, told: told || reached });
        self.due.insert((at, *hash));
        reached && !told
    }

    /// Returns when [`next`](Self::next) may have something; none while only other events change that.
    pub(super) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        let mut at = self.join_at.filter(|_| !self.keys.is_empty());
        if self.in_flight < IN_FLIGHT_MAX {
            let first =
                if self.fresh.is_empty() { self.due.first().map(|(at, _)| *at) } else { Some(now) };
            let first = first.map(|due| due.max(self.tokens.next_at()));
            at = at.into_iter().chain(first).min();
        }
        at
    }

    fn has_due(&self, now: Instant) -> bool {
        !self.fresh.is_empty() || self.due.first().is_some_and(|(at, _)| *at <= now)
    }

    /// Makes everything due; what is due already keeps its place, so that the last ones get their turn.
    fn renew_all(&mut self, now: Instant) {
        for (hash, state) in &mut self.keys {
            if let State::Due { at, .. } = state
                && *at > now
            {
                self.due.remove(&(*at, *hash));
                self.due.insert((now, *hash));
                *at = now;
            }
        }
    }
}

/// Lets [`BURST`] through at once and one each [`TOKEN_INTERVAL`] after that.
#[derive(Debug)]
struct TokenBucket {
    /// The tokens taken so far are earned by this time; it may lie a burst ahead of now.
    spent_until: Instant,
}

impl TokenBucket {
    fn take(&mut self, now: Instant) -> bool {
        if self.next_at() > now {
            return false;
        }
        self.spent_until = self.spent_until.max(now) + TOKEN_INTERVAL;
        true
    }

    fn next_at(&self) -> Instant {
        let credit = TOKEN_INTERVAL * (BURST - 1);
        self.spent_until.checked_sub(credit).unwrap_or(self.spent_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: usize) -> Hash {
        Hash::of(&number.to_le_bytes())
    }

    /// Lets announcements succeed at once, from `now` until `until`; returns them with their times.
    fn run(announcer: &mut Announcer, mut now: Instant, until: Instant) -> Vec<(Instant, Hash)> {
        let mut made = Vec::new();
        loop {
            while let Some(hash) = announcer.next(now) {
                made.push((now, hash));
                announcer.finished(&hash, true, now);
            }
            match announcer.wakes_at(now) {
                Some(at) if at <= until => {
                    assert!(at > now, "it must not ask to be woken in vain");
                    now = at;
                }
                _ => return made,
            }
        }
    }

    #[test]
    fn a_new_blob_is_announced_at_once_and_again_before_its_record_expires() {
        let start = Instant::now();
        let mut announcer = Announcer::new(start);
        assert_eq!(announcer.wakes_at(start), None);
        assert_eq!(announcer.insert(hash(1)), Inserted::New);
        assert_eq!(announcer.insert(hash(1)), Inserted::Known);
        let made = run(&mut announcer, start, start + super::super::records::RECORD_TTL);
        assert_eq!(
            made,
            [
                (start, hash(1)),
                (start + RENEW_INTERVAL, hash(1)),
                (start + 2 * RENEW_INTERVAL, hash(1))
            ]
        );
    }

    #[test]
    fn a_burst_is_let_through_and_the_rest_is_spread() {
        let start = Instant::now();
        let mut announcer = Announcer::new(start);
        (0..KEYS_MAX).for_each(|number| assert_eq!(announcer.insert(hash(number)), Inserted::New));
        assert_eq!(announcer.insert(hash(KEYS_MAX)), Inserted::Full);
        let made = run(&mut announcer, start, start + Duration::from_secs(600));
        assert_eq!(made.len(), KEYS_MAX);
        let at_once = made.iter().filter(|(at, _)| *at == start).count();
        assert_eq!(at_once, BURST as usize);
        let spread = u32::try_from(KEYS_MAX).unwrap() - BURST;
        assert_eq!(made.last().unwrap().0, start + spread * TOKEN_INTERVAL);
    }

    #[test]
    fn few_announcements_run_at_once() {
        let start = Instant::now();
        let mut announcer = Announcer::new(start);
        (0..20).for_each(|number| assert_eq!(announcer.insert(hash(number)), Inserted::New));
        let running: Vec<_> = std::iter::from_fn(|| announcer.next(start)).collect();
        assert_eq!(running.len(), IN_FLIGHT_MAX);
        assert_eq!(announcer.wakes_at(start), None, "only the end of one lets the next begin");
        announcer.finished(&running[0], true, start);
        assert!(announcer.next(start).is_some());
    }

    #[test]
    fn a_newcomer_is_told_everything_once_the_wave_of_newcomers_is_over() {
        let start = Instant::now();
        let mut announcer = Announcer::new(start);
        (0..10).for_each(|number| assert_eq!(announcer.insert(hash(number)), Inserted::New));
        assert_eq!(run(&mut announcer, start, start).len(), 10);
        let joined = start + Duration::from_secs(60);
        announcer.peer_joined(joined);
        announcer.peer_joined(joined + JOIN_DELAY / 2);
        let told = run(&mut announcer, joined, joined + Duration::from_secs(60));
        assert_eq!(told.len(), 10, "one wave makes one announcement of each blob");
        assert!(told.iter().all(|(at, _)| *at == joined + JOIN_DELAY));
    }

    #[test]
    fn endless_newcomers_neither_starve_a_blob_nor_break_the_budget() {
        let start = Instant::now();
        let mut announcer = Announcer::new(start);
        (0..500).for_each(|number| assert_eq!(announcer.insert(hash(number)), Inserted::New));
        let mut counts: HashMap<Hash, usize> = HashMap::new();
        let mut total = 0;
        for second in 0..300 {
            let now = start + Duration::from_secs(second);
            announcer.peer_joined(now);
            let made = run(&mut announcer, now, now + Duration::from_millis(999));
            total += made.len();
            made.iter().for_each(|(_, hash)| *counts.entry(*hash).or_default() += 1);
        }
        assert!(total <= 64 + 300 * 8, "{total}");
        let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
        assert_eq!(counts.len(), 500);
        assert!(most - least <= 1, "{least} {most}");
    }

    #[test]
    fn new_blobs_go_before_renewals() {
        let start = Instant::now();
        let mut announcer = Announcer::new(start);
        (0..200).for_each(|number| assert_eq!(announcer.insert(hash(number)), Inserted::New));
        run(&mut announcer, start, start + Duration::from_secs(60));
        let now = start + Duration::from_secs(61);
        announcer.peer_joined(now - JOIN_DELAY);
        assert_eq!(announcer.insert(hash(999)), Inserted::New);
        assert_eq!(announcer.next(now), Some(hash(999)));
    }

    #[test]
    fn the_first_success_is_reported_once_and_failures_are_tried_again_soon() {
        let start = Instant::now();
        let mut announcer = Announcer::new(start);
        announcer.insert(hash(1));
        assert_eq!(announcer.next(start), Some(hash(1)));
        assert!(!announcer.finished(&hash(1), false, start));
        let retry = start + RETRY_INTERVAL;
        assert_eq!(announcer.wakes_at(start), Some(retry));
        assert_eq!(announcer.next(retry), Some(hash(1)));
        assert!(announcer.finished(&hash(1), true, retry));
        let renewal = retry + RENEW_INTERVAL;
        assert_eq!(announcer.next(renewal), Some(hash(1)));
        assert!(!announcer.finished(&hash(1), true, renewal));
    }

    #[test]
    fn a_removed_blob_is_announced_no_more() {
        let start = Instant::now();
        let mut announcer = Announcer::new(start);
        (0..3).for_each(|number| assert_eq!(announcer.insert(hash(number)), Inserted::New));
        announcer.remove(&hash(1));
        assert_eq!(announcer.next(start), Some(hash(0)));
        announcer.remove(&hash(0));
        assert!(!announcer.finished(&hash(0), true, start), "it is gone, whoever was reached");
        let left = run(&mut announcer, start, start + 2 * RENEW_INTERVAL);
        assert!(left.iter().all(|(_, made)| *made == hash(2)));
        announcer.remove(&hash(2));
        assert!(announcer.is_empty() && announcer.wakes_at(start).is_none());
        announcer.peer_joined(start);
        assert_eq!(announcer.wakes_at(start), None, "there is nothing to tell");
    }

    #[test]
    fn adding_again_while_an_announcement_runs_makes_one_of_its_own() {
        let start = Instant::now();
        let mut announcer = Announcer::new(start);
        announcer.insert(hash(1));
        announcer.next(start);
        announcer.remove(&hash(1));
        assert_eq!(announcer.insert(hash(1)), Inserted::New);
        assert!(!announcer.finished(&hash(1), true, start));
        assert_eq!(announcer.next(start), Some(hash(1)));
        assert!(announcer.finished(&hash(1), true, start));
    }
}
