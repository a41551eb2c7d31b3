//! The state of resolving one hash: everything that is under way for all who want it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use super::herd::Herd;
use super::sources::Sources;
use super::swarm::Swarm;
use crate::blob::{GROUP_LEN, Hash};
use crate::engine::peers::Opinion;
use crate::engine::receipt::{Asked, AskedAnswer, Fetched, Found, Note, Phases, Receipt, Searched};
use crate::engine::{Shell, Source, TimerKey, WantError};
use crate::id::{FetchId, PeerId, QueryId, WantId};
use crate::time::{Time, rate_of, time_for};

/// A range is slow when it takes so many times what an idle source would need for it, and this more.
const SLOW_FACTOR: u32 = 3;
const SLOW_GRACE: Duration = Duration::from_millis(50);
/// How long those of a herd may give nothing before they count as slow.
pub(super) const HERD_GRACE: Duration = Duration::from_millis(500);
/// How long a fetch must have run before it says anything of its source's rate.
const RATE_AGE: Duration = Duration::from_millis(250);
/// What a source is thought to need for a range before it gave any.
const UNKNOWN_NEEDS: Duration = Duration::from_millis(500);

/// A peer is silent that gave nothing for as long as so many of its groups take, within these bounds; within the
/// upper one before its rate is known.
const SILENT_GROUPS: u32 = 8;
const SILENCE: Range<Duration> = Duration::from_millis(50)..Duration::from_millis(100);
/// One that was silent for so long is not counted on for a while after it gave again: it may come and go.
const DOUBT_SILENCE: Duration = Duration::from_millis(500);
const DOUBT: Duration = Duration::from_secs(5);

/// The most notes of a receipt: a long blob from sources in trouble would have one for every range.
const NOTES_MAX: usize = 256;

#[derive(Debug)]
pub(crate) struct Resolution {
    pub(crate) wants: Vec<Want>,
    pub(crate) stage: Stage,
    /// Neighbours that may hold the blob and were not asked yet, best first.
    pub(crate) candidates: VecDeque<(PeerId, Opinion)>,
    /// Questions out, by neighbour.
    pub(crate) asks: BTreeMap<PeerId, PendingAsk>,
    /// Everybody who was ever a candidate, so that nobody is asked twice for the same reason.
    pub(crate) considered: BTreeSet<PeerId>,
    /// Those who were asked once more because their filter changed.
    reconsidered: BTreeSet<PeerId>,
    /// Peers that hold the blob, as far as is known, and are not being fetched from.
    pub(crate) holders: VecDeque<Holder>,
    pub(crate) sources: Sources,
    /// Sources that wait for their next attempt.
    pub(crate) retries: BTreeMap<Source, Found>,
    pub(crate) fetches: BTreeMap<FetchId, Running>,
    /// The pieces and members of a long blob, once its size is known.
    pub(crate) swarm: Option<Swarm>,
    /// The swarm's next look at itself.
    pub(crate) ticker: Option<TimerKey>,
    pub(crate) search: Search,
    pub(crate) edge: EdgeState,
    /// Who brings what from the edge.
    pub(crate) herd: Herd,
    /// Whether those who are fetched from were late with their first byte, so that the edge is due beside them.
    pub(crate) late: bool,
    /// Until when peers are not counted on that were silent for long while they were to give something.
    doubts: BTreeMap<PeerId, Time>,
    /// Whether the LAN has had the time that the edge owes it.
    pub(crate) hedged: bool,
    /// Whether the neighbours were surveyed, which begins the LAN's time.
    pub(crate) surveyed: bool,
    /// Whether nothing is left but word of what neighbours added a moment before.
    pub(crate) awaits_word: bool,
    /// Whether a neighbour said that the blob is a long one: no more small requests, whatever others say, or
    /// two who contradict each other would be asked in turn for ever.
    pub(crate) is_large: bool,
    pub(crate) troubles: Troubles,
    /// Whether the last fetch that is over failed or was stopped: it would have said that all has come.
    pub(crate) end_lost: bool,
    /// The row of a fetch that was stopped and has stored the blob all the same.
    came_late: Option<usize>,
    /// The row of the last fetch that was stopped: it may have stored more than it told of.
    stopped_last: Option<usize>,
    /// Whether neighbours were asked before the store was looked into, as this node holds nothing that looks like the blob.
    went_ahead: bool,
    /// Every timer started for this hash but those of fetches, taken back at its end.
    pub(crate) timers: Vec<TimerKey>,
    pub(crate) clock: Clock,
    pub(crate) receipt: Receipt,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    pub(crate) id: WantId,
    pub(crate) started: Time,
    pub(crate) deadline: Option<TimerKey>,
    /// The longest blob that is of use to one who wants no more than its bytes; none for one who wants it
    /// in the store.
    pub(crate) len_max: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The store is being looked into.
    Local,
    /// Neighbours that probably hold it are asked for the blob itself; the store, which does not hold all of
    /// it, was not looked into.
    Ahead,
    /// The store does not have all of it.
    Remote,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingAsk {
    pub(crate) sent: Time,
    pub(crate) opinion: Opinion,
    /// Its row in the receipt.
    row: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder {
    pub(crate) peer: PeerId,
    pub(crate) found: Found,
}

#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) source: Source,
    pub(crate) found: Found,
    pub(crate) heard: Time,
    /// How much of its silence since its last word is no longer counted.
    pub(crate) excused: Duration,
    pub(crate) bytes: u64,
    /// Whether it took too long to its first byte, so that another may be started beside it.
    pub(crate) late: bool,
    /// Set for a small request.
    pub(crate) small: Option<Small>,
    /// The groups that it is to bring; none for all that are missing.
    pub(crate) groups: Option<Range<u64>>,
    /// Whether it was asked for more groups than these, and is to be stopped when they are there.
    pub(crate) is_cut: bool,
    pub(crate) started: Time,
    pub(crate) timers: FetchTimers,
    row: usize,
}

/// Is what is special to a small request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Small {
    /// What the neighbour's filter made of the blob, where nothing else spoke for it.
    pub(crate) opinion: Option<Opinion>,
    /// Whether the neighbour had no other to answer, so that the time it takes is its own.
    pub(crate) alone: bool,
    /// Its row among the questions of the receipt, where it was one.
    pub(crate) asked: Option<usize>,
    /// How many answers the neighbour has given when all before it are answered.
    pub(crate) turn: u64,
}

/// Is what a fetch waits for, taken back at its end: a long blob has many fetches.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FetchTimers {
    pub(crate) stall: Option<TimerKey>,
    pub(crate) first: Option<TimerKey>,
}

impl FetchTimers {
    pub(crate) fn stop(self, shell: &mut Shell) {
        [self.stall, self.first].into_iter().flatten().for_each(|timer| shell.stop_timer(timer));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Search {
    /// Not begun; or to be begun again, because the node had no peers when it ended.
    Idle,
    /// Under way.
    Running { query: QueryId, since: Time },
    /// At its end, or not to be had.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EdgeState {
    /// It may be asked.
    Ready,
    /// It is being fetched from, or waits for its next attempt.
    Busy,
    /// It has nothing more to give, or there is none.
    Spent,
}

/// What stood in the way, so that a failure can be named rightly.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Troubles {
    pub(crate) wrong_bytes: bool,
    pub(crate) refused: bool,
    pub(crate) unreachable: bool,
    /// A neighbour said that the blob is longer than anybody wants it.
    pub(crate) too_large: bool,
}

/// The moments between the phases of the receipt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    began: Time,
    local_done: Option<Time>,
    source_chosen: Option<Time>,
    first_byte: Option<Time>,
    last_byte: Option<Time>,
}

impl Resolution {
    pub(crate) fn new(hash: Hash, want: Want) -> Self {
        Self {
            wants: vec![want],
            stage: Stage::Local,
            candidates: VecDeque::new(),
            asks: BTreeMap::new(),
            considered: BTreeSet::new(),
            reconsidered: BTreeSet::new(),
            holders: VecDeque::new(),
            sources: Sources::default(),
            retries: BTreeMap::new(),
            fetches: BTreeMap::new(),
            swarm: None,
            ticker: None,
            search: Search::Idle,
            edge: EdgeState::Ready,
            herd: Herd::default(),
            late: false,
            doubts: BTreeMap::new(),
            hedged: false,
            surveyed: false,
            awaits_word: false,
            is_large: false,
            troubles: Troubles::default(),
            end_lost: false,
            came_late: None,
            stopped_last: None,
            went_ahead: false,
            timers: Vec::new(),
            clock: Clock::new(want.started),
            receipt: Receipt::new(hash),
        }
    }

    pub(crate) fn note(&mut self, note: Note) {
        if self.receipt.notes.len() < NOTES_MAX {
            self.receipt.notes.push(note);
        }
    }

    pub(crate) fn local_done(&mut self, now: Time) {
        self.stage = Stage::Remote;
        self.clock.local_done.get_or_insert(now);
    }

    /// Takes in that neighbours are asked before the store is looked into.
    pub(crate) fn go_ahead(&mut self, now: Time) {
        self.stage = Stage::Ahead;
        self.went_ahead = true;
        self.clock.local_done = Some(now);
    }

    /// Makes a neighbour a candidate, unless it was one before. One that was asked is asked once more
    /// when its filter says that it may have got the blob since.
    pub(crate) fn consider(&mut self, peer: PeerId, opinion: Opinion) -> bool {
        if !self.may_hold(peer) {
            return false;
        }
        let pending = self.asks.contains_key(&peer)
            || self.candidates.iter().any(|(candidate, _)| *candidate == peer);
        let first = self.considered.insert(peer);
        let likely = opinion == Opinion::Likely;
        let again = !first && likely && !pending && self.reconsidered.insert(peer);
        if first || again {
            let place = self.candidates.partition_point(|(_, other)| *other <= opinion);
            self.candidates.insert(place, (peer, opinion));
        }
        first || again
    }

    /// Returns whether a peer could still become a holder: it is none yet, and not spent.
    pub(crate) fn may_hold(&self, peer: PeerId) -> bool {
        let source = Source::Peer(peer);
        !self.sources.is_spent(source)
            && !self.retries.contains_key(&source)
            && !self.holders.iter().any(|holder| holder.peer == peer)
            && !self.fetches.values().any(|running| running.source == source)
    }

    /// Adds a holder that could still become one; a neighbour's word goes before a provide record.
    pub(crate) fn add_holder(&mut self, holder: Holder) {
        if !self.may_hold(holder.peer) {
            return;
        }
        match holder.found {
            Found::Lan => self.holders.push_front(holder),
            Found::Local | Found::Dht | Found::Edge => self.holders.push_back(holder),
        }
    }

    pub(crate) fn ask_sent(&mut self, peer: PeerId, opinion: Opinion, now: Time) {
        let row = self.receipt.asked.len();
        self.receipt.asked.push(Asked { peer, answer: None, after: Duration::ZERO });
        self.asks.insert(peer, PendingAsk { sent: now, opinion, row });
    }

    /// Ends the question to a neighbour, if one is out, and returns it.
    pub(crate) fn ask_ended(
        &mut self,
        peer: PeerId,
        answer: AskedAnswer,
        now: Time,
    ) -> Option<PendingAsk> {
        let ask = self.asks.remove(&peer)?;
        if let Some(row) = self.receipt.asked.get_mut(ask.row) {
            row.answer = Some(answer);
            row.after = now - ask.sent;
        }
        Some(ask)
    }

    pub(crate) fn fetch_started(
        &mut self,
        fetch: FetchId,
        source: Source,
        (found, groups): (Found, Option<Range<u64>>),
        now: Time,
    ) {
        self.clock.source_chosen.get_or_insert(now);
        let row = self.row_of(fetch, source, groups.is_some());
        if let Some(swarm) = &mut self.swarm {
            swarm.any_entire |= groups.is_none();
        }
        let heard = now;
        let running = Running {
            source,
            found,
            heard,
            excused: Duration::ZERO,
            bytes: 0,
            late: false,
            small: None,
            groups,
            is_cut: false,
            started: now,
            timers: FetchTimers::default(),
            row,
        };
        self.fetches.insert(fetch, running);
    }

    /// Sets timers of a fetch.
    pub(crate) fn fetch_timed(&mut self, fetch: FetchId, set: impl FnOnce(&mut FetchTimers)) {
        if let Some(running) = self.fetches.get_mut(&fetch) {
            set(&mut running.timers);
        }
    }

    /// Returns the row of the receipt for a fetch; the ranges of one source share a row.
    fn row_of(&mut self, fetch: FetchId, source: Source, ranges: bool) -> usize {
        let rows = &mut self.receipt.fetches;
        if let Some(row) = rows.iter().position(|row| ranges && row.source == source) {
            return row;
        }
        let (outcome, took) = (String::new(), Duration::ZERO);
        rows.push(Fetched { fetch, source, bytes: 0, outcome, took });
        rows.len() - 1
    }

    /// Returns whether what is on its way from others takes much longer than a source would need that
    /// gives `rate` bytes a second.
    pub(crate) fn is_slow(&self, groups: &Range<u64>, rate: Option<u64>, now: Time) -> bool {
        let overlaps = |own: &Range<u64>| own.start < groups.end && groups.start < own.end;
        let bytes = (groups.end - groups.start).saturating_mul(GROUP_LEN);
        let known = rate.filter(|rate| *rate > 0);
        let needs = known.map_or(UNKNOWN_NEEDS, |rate| time_for(bytes, rate));
        let patience = needs.saturating_mul(SLOW_FACTOR) + SLOW_GRACE;
        let mut others =
            self.fetches.values().filter(|fetch| fetch.groups.as_ref().is_some_and(overlaps));
        // Partners are late together, where their machines are busy.
        let grace = if self.is_of_herd() { HERD_GRACE } else { Duration::ZERO };
        let is_late = |fetch: &Running| fetch.late && now - fetch.started >= grace;
        others.all(|fetch| is_late(fetch) || now - fetch.started > patience)
    }

    /// Returns whether what is on its way from peers takes longer than the edge, which needs so long for it.
    pub(crate) fn is_behind(&self, groups: &Range<u64>, needs: Duration, now: Time) -> bool {
        let overlaps = |own: &Range<u64>| own.start < groups.end && groups.start < own.end;
        // One without a range brings all that is missing.
        let mut others =
            self.fetches.values().filter(|fetch| fetch.groups.as_ref().is_none_or(overlaps));
        others.all(|fetch| {
            let rate = self.rate_to_count_on(fetch, now);
            let len = fetch.groups.as_ref().map(|own| (own.end - own.start) * GROUP_LEN);
            let rest =
                rate.zip(len).map(|(rate, len)| time_for(len.saturating_sub(fetch.bytes), rate));
            let age = now - fetch.started;
            rest.is_some_and(|rest| rest > needs + SLOW_GRACE)
                || age > needs.saturating_mul(SLOW_FACTOR) + SLOW_GRACE
        })
    }

    /// Returns the bytes a second that a fetch from a peer may be counted on to bring: outside of a herd none of one that
    /// fell silent, now or a moment ago. `None` where that cannot be said yet.
    pub(crate) fn rate_to_count_on(&self, fetch: &Running, now: Time) -> Option<u64> {
        let peer = fetch.source.peer()?;
        let known = self.swarm.as_ref().and_then(|swarm| swarm.rate_of_member(peer));
        // The rate is that of one range among those that it brings, and any of them is a sign of life.
        let ranges = self.swarm.as_ref().map_or(1, |swarm| swarm.ranges_of(peer).max(1));
        let ranges = u64::try_from(ranges).unwrap_or(1);
        let of_groups = known.map(|rate| {
            time_for(GROUP_LEN, rate.saturating_mul(ranges)).saturating_mul(SILENT_GROUPS)
        });
        let silence = of_groups.map_or(SILENCE.end, |time| time.clamp(SILENCE.start, SILENCE.end));
        let doubted = self.doubts.get(&peer).is_some_and(|until| now < *until);
        let age = now - fetch.started;
        let silent = !self.is_of_herd() && (doubted || now - fetch.heard >= silence);
        if fetch.late && fetch.bytes == 0 || silent {
            Some(0)
        } else if age >= RATE_AGE {
            Some(rate_of(fetch.bytes, age))
        } else {
            // One that has just begun, or is about to, says nothing, but may have given before.
            known
        }
    }

    /// Returns whether peers are fetched from of which all have given nothing for so long.
    pub(crate) fn is_paused(&self, pause: Duration, now: Time) -> bool {
        let of_peers = || self.fetches.values().filter(|fetch| fetch.source != Source::Edge);
        of_peers().next().is_some() && of_peers().all(|fetch| now - fetch.heard >= pause)
    }

    pub(crate) fn progressed(&mut self, fetch: FetchId, bytes: u64, now: Time) -> Option<Running> {
        let before = self.fetches.get(&fetch)?;
        let source = before.source;
        if let Source::Peer(peer) = source
            && now - before.heard >= DOUBT_SILENCE
        {
            self.doubts.insert(peer, now + DOUBT);
        }
        // A source that gives one range is alive, though another one waits behind it.
        for other in self.fetches.values_mut().filter(|other| other.source == source) {
            (other.heard, other.excused) = (now, Duration::ZERO);
        }
        let running = self.fetches.get_mut(&fetch)?;
        if bytes == 0 {
            // A sign of life, such as a piece of a long group list.
            return Some(running.clone());
        }
        running.bytes += bytes;
        let running = running.clone();
        self.sources.gave(source);
        if let Some(row) = self.receipt.fetches.get_mut(running.row) {
            row.bytes += bytes;
        }
        match running.source {
            Source::Peer(_) => self.receipt.bytes_lan += bytes,
            Source::Edge => self.receipt.bytes_edge += bytes,
        }
        self.clock.first_byte.get_or_insert(now);
        self.clock.last_byte = Some(now);
        Some(running)
    }

    pub(crate) fn fetch_ended(
        &mut self,
        fetch: FetchId,
        outcome: &str,
        now: Time,
    ) -> Option<Running> {
        let running = self.fetches.remove(&fetch)?;
        if let Some(row) = self.receipt.fetches.get_mut(running.row) {
            outcome.clone_into(&mut row.outcome);
            row.took = row.took.max(now - running.started);
        }
        Some(running)
    }

    /// Takes in that a fetch has stored the blob after it was stopped, and returns its source.
    pub(crate) fn stored_late(&mut self, fetch: FetchId) -> Option<Source> {
        let row = self.receipt.fetches.iter().position(|row| row.fetch == fetch);
        self.came_late = row.or(self.came_late);
        Some(self.receipt.fetches.get(row?)?.source)
    }

    /// Takes in that the store holds all of the blob. What no fetch has told of was there before, unless one that was
    /// stopped has brought it; returns its source then. Where neighbours were asked ahead that is the last of them: what they
    /// brought is in the store some time before anybody is told.
    pub(crate) fn found_whole(&mut self, size: u64) -> Option<Source> {
        let receipt = &mut self.receipt;
        receipt.size = Some(size);
        let asked_last = || receipt.fetches.len().checked_sub(1).filter(|_| self.went_ahead);
        let late = self.came_late.or_else(asked_last);
        let credited = late.and_then(|row| self.credit(row, size));
        if credited.is_none() {
            let receipt = &mut self.receipt;
            let fetched = receipt.bytes_lan.saturating_add(receipt.bytes_edge);
            receipt.bytes_local = size.saturating_sub(fetched);
        }
        credited
    }

    /// Counts what nobody told of as brought by the fetch of a row, and returns its source.
    fn credit(&mut self, row: usize, size: u64) -> Option<Source> {
        let receipt = &mut self.receipt;
        let told = [receipt.bytes_local, receipt.bytes_lan, receipt.bytes_edge];
        let brought = size.saturating_sub(told.into_iter().fold(0, u64::saturating_add));
        let row = receipt.fetches.get_mut(row)?;
        row.bytes += brought;
        match row.source {
            Source::Peer(_) => receipt.bytes_lan += brought,
            Source::Edge => receipt.bytes_edge += brought,
        }
        Some(row.source)
    }

    /// Takes in that a fetch has ended with all of the blob. It may have found the bytes in the store that one brought which
    /// was stopped, and told nobody of them.
    pub(crate) fn came_whole(&mut self, size: u64) {
        self.receipt.size = Some(size);
        if let Some(row) = self.came_late.or(self.stopped_last) {
            self.credit(row, size);
        }
    }

    /// Takes in that a fetch was stopped.
    pub(crate) fn was_stopped(&mut self, stopped: &Running) {
        self.stopped_last = Some(stopped.row);
    }

    /// Returns the fetches under way, and where each takes its bytes from.
    pub(crate) fn sources_of_fetches(&self) -> Vec<(FetchId, Source)> {
        self.fetches.iter().map(|(fetch, running)| (*fetch, running.source)).collect()
    }

    pub(crate) fn searched(&mut self, providers: usize, since: Time, ended: bool, now: Time) {
        let before = self.receipt.search.map_or(0, |search| search.providers);
        let providers = providers + before;
        self.receipt.search = Some(Searched { providers, took: now - since, ended });
    }

    /// Returns how long a source has been looked for.
    pub(crate) fn waited(&self, now: Time) -> Duration {
        now - self.clock.local_done.unwrap_or(now)
    }

    /// Returns whether a peer is fetched from. A small request that is late is no more than a question.
    pub(crate) fn fetches_from_peers(&self) -> bool {
        let counts = |running: &Running| running.small.is_none() || !running.late;
        self.fetches
            .values()
            .any(|running| matches!(running.source, Source::Peer(_)) && counts(running))
    }

    /// Returns whether a peer is fetched from, and not only asked by a small request after the LAN has had its time.
    pub(crate) fn is_served_beyond_questions(&self) -> bool {
        let of_peer = |fetch: &&Running| matches!(fetch.source, Source::Peer(_));
        self.fetches.values().filter(of_peer).any(|fetch| !self.is_question(fetch))
    }

    /// Returns whether a small request is out that is no more than a question.
    pub(crate) fn is_questioning(&self) -> bool {
        self.fetches.values().any(|fetch| self.is_question(fetch))
    }

    /// Returns whether a fetch is a small request that is late, or that came after the LAN has had its time. That of a
    /// neighbour which has others to answer is waited for.
    fn is_question(&self, fetch: &Running) -> bool {
        fetch.small.is_some_and(|small| fetch.late || self.hedged && small.alone)
    }

    /// Returns whether nothing is fetched, but for small requests that are late.
    pub(crate) fn fetches_nothing(&self) -> bool {
        self.fetches.values().all(|running| running.small.is_some() && running.late)
    }

    /// Returns whether a fetch is a small request.
    pub(crate) fn is_small(&self, fetch: FetchId) -> bool {
        self.fetches.get(&fetch).is_some_and(|running| running.small.is_some())
    }

    /// Returns whether anybody wants the blob in the store.
    pub(crate) fn is_to_be_kept(&self) -> bool {
        self.wants.iter().any(|want| want.len_max.is_none())
    }

    /// Returns whether a peer is being fetched from that is not late.
    pub(crate) fn is_served(&self) -> bool {
        let of_peer = |running: &&Running| matches!(running.source, Source::Peer(_));
        self.fetches.values().filter(of_peer).any(|running| !running.late)
    }

    pub(crate) fn has_bytes(&self) -> bool {
        self.fetches.values().any(|running| running.bytes > 0)
    }

    /// Returns whether a member of the swarm may bring something. One that waits for its next attempt is
    /// nobody to wait for.
    pub(crate) fn is_swarm_hopeful(&self, now: Time) -> bool {
        self.swarm.as_ref().is_some_and(|swarm| swarm.is_hopeful(&self.retries, now))
    }

    /// Returns whether a source is being asked for all that is missing.
    pub(crate) fn gives_everything(&self, source: Source) -> bool {
        self.fetches.values().any(|fetch| fetch.source == source && fetch.groups.is_none())
    }

    /// Returns how many ranges a peer brings.
    pub(crate) fn ranges_of(&self, peer: PeerId) -> usize {
        let of_peer =
            |fetch: &&Running| fetch.source == Source::Peer(peer) && fetch.groups.is_some();
        self.fetches.values().filter(of_peer).count()
    }

    /// Returns whether the LAN has nothing left that could give the blob, as far as is known now.
    pub(crate) fn lan_is_over(&self, now: Time) -> bool {
        self.candidates.is_empty()
            && !self.is_swarm_hopeful(now)
            && self.asks.is_empty()
            && self.holders.is_empty()
            && !self.fetches.values().any(|running| matches!(running.source, Source::Peer(_)))
            && !self.retries.keys().any(|source| matches!(source, Source::Peer(_)))
    }

    /// Returns whether anybody is thought to hold the blob on good grounds.
    pub(crate) fn is_hopeful(&self) -> bool {
        let likely = |opinion: &Opinion| *opinion == Opinion::Likely;
        !self.holders.is_empty()
            || self.fetches_from_peers()
            || self.candidates.iter().any(|(_, opinion)| likely(opinion))
            || self.asks.values().any(|ask| likely(&ask.opinion))
    }

    /// Names the failure of a resolution that has nothing left to try: first what the user can change,
    /// then what may pass. Wrong bytes are the last word only where nobody else could have helped.
    pub(crate) fn failure(&self) -> WantError {
        match self.troubles {
            Troubles { too_large: true, .. } => WantError::TooLarge,
            Troubles { refused: true, .. } => WantError::Refused,
            Troubles { unreachable: true, .. } => WantError::Unreachable,
            Troubles { wrong_bytes: true, .. } => WantError::WrongBytes,
            Troubles { .. } => WantError::NotFound,
        }
    }

    /// Returns the receipt of one want, as it stands now.
    pub(crate) fn receipt_for(&self, want: &Want, now: Time) -> Receipt {
        let mut receipt = self.receipt.clone();
        receipt.took = now - want.started;
        receipt.phases = self.clock.phases(now);
        if want.started > self.clock.began {
            receipt.notes.push(Note::Joined);
        }
        receipt
    }
}

impl Clock {
    fn new(began: Time) -> Self {
        Self { began, local_done: None, source_chosen: None, first_byte: None, last_byte: None }
    }

    fn phases(&self, now: Time) -> Phases {
        let local_done = self.local_done.unwrap_or(now);
        let mut phases = Phases { local: local_done - self.began, ..Phases::default() };
        phases.find = self.source_chosen.unwrap_or(now) - local_done;
        let Some(source_chosen) = self.source_chosen else { return phases };
        phases.first_group = self.first_byte.unwrap_or(now) - source_chosen;
        let (Some(first_byte), Some(last_byte)) = (self.first_byte, self.last_byte) else {
            return phases;
        };
        phases.transfer = last_byte - first_byte;
        phases.store = now - last_byte;
        phases
    }
}
