//! Small requests: a neighbour that probably holds a blob is asked for the blob itself.
//!
//! A blob of one group comes in the answer, so that neither a question nor a stream of its own is spent on it;
//! of a longer one the answer says how long it is, and its fetch goes the ordinary way. Who is asked is
//! decided by the filters alone: the *likely* neighbour that has least to answer. What the store does not
//! hold whole is asked for *ahead*, before the store is looked into for a part of it.
//!
//! A small request is a question as far as the LAN's time is concerned. While its neighbour answers others it
//! is waited for; when it has answered nobody for as long as the edge waits for the LAN, or for a source's first
//! group where it has many to answer, the request is *late*, and everything that is done after a question without
//! an answer is done beside it. So it is, too, where a neighbour goes on to answer others: one that never answers some would
//! keep who wants them from the edge for as long as others are asked for. A neighbour at which one failed gets none for a
//! while.

use std::time::Duration;

use super::resolution::{EdgeState, Holder, Resolution, Running, Search, Small, Stage};
use super::{Resolver, end_want, stop_fetch};
use crate::blob::Hash;
use crate::engine::peers::{Lesson, Opinion, Peers};
use crate::engine::receipt::{Asked, AskedAnswer, Found};
use crate::engine::{FetchOutcome, Output, Shell, Source, Timer, WantError};
use crate::id::{FetchId, PeerId};
use crate::time::Time;
use crate::wire::small::SMALL_BYTES_MAX;

/// The least time after which a neighbour's silence is looked at again.
const SILENCE_STEP: Duration = Duration::from_millis(1);

impl Resolver {
    /// Begins to resolve a hash by asking neighbours for the blob itself, before the store is looked into.
    pub(crate) fn ask_ahead(&mut self, hash: Hash, peers: &mut Peers, shell: &mut Shell) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        running.go_ahead(shell.now);
        self.open_lan(hash, peers, shell);
        self.advance(hash, peers, shell);
    }

    /// Asks the next neighbour ahead, or has the store looked into when there is none.
    pub(super) fn go_on_ahead(&mut self, hash: Hash, peers: &mut Peers, shell: &mut Shell) {
        let Some(running) = self.resolutions.get(&hash) else { return };
        if !running.fetches.is_empty() {
            return;
        }
        let asks = running.holders.is_empty() && self.request_small(hash, peers, shell);
        if !asks {
            self.fall_back(hash);
        }
    }

    /// Asks a likely neighbour for the blob itself, while nobody was asked and nothing better is known; returns
    /// whether it does, or waits for room to. A neighbour without room is busy, and a question would not be
    /// answered sooner.
    pub(super) fn ask_for_small(
        &mut self,
        hash: Hash,
        peers: &mut Peers,
        shell: &mut Shell,
    ) -> bool {
        let Some(running) = self.resolutions.get(&hash) else { return false };
        let open = running.asks.is_empty()
            && running.holders.is_empty()
            && running.receipt.size.is_none()
            && !running.is_large
            && !running.fetches.values().any(|of| matches!(of.source, Source::Peer(_)));
        open && self.request_small(hash, peers, shell)
    }

    /// Has the store looked into, and the hash resolved in the ordinary way.
    fn fall_back(&mut self, hash: Hash) {
        if let Some(running) = self.resolutions.get_mut(&hash) {
            running.stage = Stage::Local;
            self.looks.push(hash);
        }
    }

    /// Sends a small request to the likely neighbour that has least to answer, or waits for its room; false
    /// when there is none.
    fn request_small(&mut self, hash: Hash, peers: &mut Peers, shell: &mut Shell) -> bool {
        let Some(running) = self.resolutions.get_mut(&hash) else { return false };
        let (now, config) = (shell.now, &shell.config);
        let likely =
            running.candidates.iter().take_while(|(_, opinion)| *opinion == Opinion::Likely);
        let takers = likely.map(|(peer, _)| *peer);
        let takers = takers.filter(|peer| peers.takes_small(*peer, now, config));
        let Some(peer) = takers.min_by_key(|peer| self.small.len(*peer)) else { return false };
        if self.small.has_room(peer, config.small_per_peer_max) {
            running.candidates.retain(|(candidate, _)| *candidate != peer);
            let holder = Holder { peer, found: Found::Lan };
            self.start_small(hash, holder, Some(Opinion::Likely), peers, shell);
        } else {
            self.small.wait(peer, hash);
        }
        true
    }

    /// Sends a small request. `opinion` is what the filter made of the blob, where nothing else spoke for it.
    pub(super) fn start_small(
        &mut self,
        hash: Hash,
        Holder { peer, found }: Holder,
        opinion: Option<Opinion>,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let (fetch, now) = (shell.next_fetch(), shell.now);
        let before = self.small.len(peer);
        let alone = before == 0;
        if alone {
            peers.small_heard(peer, now);
        }
        let turn = peers.small_answers(peer) + u64::try_from(before).unwrap_or(u64::MAX);
        self.small.begin(peer);
        self.fetches.insert(fetch, hash);
        running.fetch_started(fetch, Source::Peer(peer), (found, None), now);
        shell.stats.small_sent += 1;
        let asked = opinion.map(|_| {
            shell.stats.asks_sent += 1;
            running.receipt.asked.push(Asked { peer, answer: None, after: Duration::ZERO });
            running.receipt.asked.len() - 1
        });
        if let Some(fetch) = running.fetches.get_mut(&fetch) {
            fetch.small = Some(Small { opinion, alone, asked, turn });
        }
        let (stall, late) = (shell.config.stall_timeout, shell.config.first_group_hedge);
        let hedged = running.hedged;
        running.fetch_timed(fetch, |timers| {
            timers.stall = Some(shell.start_timer(stall, Timer::Stall { hash, fetch }));
            // The hedge looks at those that were out when it fired.
            if hedged {
                timers.first = Some(shell.start_timer(late, Timer::FirstGroup { hash, fetch }));
            }
        });
        let keep = running.is_to_be_kept();
        shell.emit(Output::FetchSmall { fetch, hash, peer, keep });
    }

    /// Takes in what the end of a fetch says of its neighbour, before the fetch is forgotten; nothing for
    /// one that was no small request.
    pub(super) fn small_answered(
        &mut self,
        hash: Hash,
        fetch: FetchId,
        outcome: &FetchOutcome,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let Some(of) = running.fetches.get(&fetch) else { return };
        let (Some(small), Source::Peer(peer)) = (of.small, of.source) else { return };
        let (took, now) = (shell.now - of.started, shell.now);
        if let FetchOutcome::Complete { size } | FetchOutcome::Read { size } = outcome {
            running.progressed(fetch, *size, now);
        }
        let answer = answer_of(outcome);
        running.small_ended(small, answer, took);
        if answer.is_none_or(|answer| answer == AskedAnswer::Gone) {
            return peers.rest_small(peer, now + shell.config.small_rest);
        }
        peers.small_answered(peer, now);
        let lesson = match (small.opinion, answer) {
            (Some(Opinion::Likely), Some(AskedAnswer::Have)) => Lesson::Truth,
            (Some(Opinion::Likely), Some(AskedAnswer::Absent)) => Lesson::Lie,
            _ => Lesson::Nothing,
        };
        if lesson == Lesson::Lie {
            shell.stats.asks_wasted += 1;
        }
        if small.alone {
            peers.learn(peer, took, lesson, now, &shell.config);
        } else {
            peers.judge(peer, lesson, now, &shell.config);
        }
    }

    /// Takes in that a blob was read and not stored: it is what some wanted, and asked for again where
    /// others, who came later, want it in the store.
    pub(super) fn end_reads(
        &mut self,
        hash: Hash,
        ended: &Running,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let size = running.receipt.size.unwrap_or(0);
        let reads = running.wants.extract_if(.., |want| want.len_max.is_some());
        let reads: Vec<_> = reads.collect();
        for want in &reads {
            self.wants.remove(&want.id);
            let fits = want.len_max.is_some_and(|len_max| size <= len_max);
            let result = if fits { Ok(()) } else { Err(WantError::TooLarge) };
            end_want(want, result, running.receipt_for(want, shell.now), shell);
        }
        if running.wants.is_empty() {
            return self.finish(hash, Ok(()), peers, shell);
        }
        running.receipt.found = None;
        if let Source::Peer(peer) = ended.source {
            running.add_holder(Holder { peer, found: ended.found });
        }
    }

    /// Takes in that a neighbour holds the blob, and that it is a long one.
    pub(super) fn small_is_large(
        &mut self,
        hash: Hash,
        ended: &Running,
        size: u64,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let Source::Peer(peer) = ended.source else { return };
        if size <= SMALL_BYTES_MAX || size > shell.config.blob_bytes_max {
            return running.spend(ended.source);
        }
        if !running.is_of_use(size) {
            // Another neighbour may say otherwise: this is a claim. It is not worth more than that.
            running.troubles.too_large = true;
            running.edge = EdgeState::Spent;
            if running.search == Search::Idle {
                running.search = Search::Ended;
            }
            return running.spend(ended.source);
        }
        running.is_large = true;
        // What was claimed before, if anything, is no better than this.
        running.receipt.size = Some(size);
        running.add_holder(Holder { peer, found: ended.found });
        if running.stage == Stage::Ahead {
            return self.fall_back(hash);
        }
        let freed = self.doubt_size(hash, size, shell);
        self.open_swarm(hash, size, None, peers, shell);
        freed.into_iter().for_each(|peer| self.fetch_freed(Source::Peer(peer), peers, shell));
    }

    /// Ends small requests for a blob that is known to be long by another word. Whoever has not answered
    /// them is asked whether it holds the blob.
    pub(super) fn end_small_of_large(
        &mut self,
        hash: Hash,
        size: u64,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        let Some(running) = self.resolutions.get_mut(&hash).filter(|_| size > SMALL_BYTES_MAX)
        else {
            return;
        };
        let small = |(id, of): (&FetchId, &Running)| {
            Some((*id, Holder { peer: of.source.peer()?, found: of.found }, of.small?))
        };
        let late: Vec<_> = running.fetches.iter().filter_map(small).collect();
        for (fetch, holder, small) in &late {
            stop_fetch(running, *fetch, "the blob is a long one", &mut self.fetches, shell);
            match small.opinion {
                Some(opinion) => running.candidates.push_front((holder.peer, opinion)),
                // Something else than a filter spoke for it, perhaps its own answer to a question just now.
                None => running.add_holder(*holder),
            }
        }
        late.into_iter().for_each(|(_, holder, _)| self.small_freed(holder.peer, peers, shell));
    }

    /// Gives small requests more time whose neighbour answers others; returns whether there are any.
    pub(super) fn small_has_time(
        &mut self,
        hash: Hash,
        peers: &mut Peers,
        shell: &mut Shell,
    ) -> bool {
        let Some(running) = self.resolutions.get_mut(&hash) else { return false };
        let (now, passed) = (shell.now, shell.config.stall_timeout);
        let delay = peers.hedge_delay(&shell.config);
        let asked = running.fetches.values().filter(|of| of.small.is_some() && !of.late);
        let asked = asked.filter(|of| !of.is_passed_over(passed, peers, now));
        let asked = asked.filter_map(|of| of.source.peer());
        let waits = running.stage == Stage::Ahead && running.fetches.is_empty();
        let next = running.candidates.iter().filter(|_| waits).map(|(peer, _)| *peer);
        let busy = asked.chain(next).filter(|peer| self.small.len(*peer) > 0);
        let rest = busy.filter_map(|peer| {
            // One that has many to answer is a source and no longer a question.
            let patience = match self.small.len(peer) {
                1 => delay,
                _ => delay.max(shell.config.first_group_hedge),
            };
            patience.checked_sub(peers.small_silence(peer, now)?)
        });
        let Some(rest) = rest.max().filter(|rest| !rest.is_zero()) else { return false };
        let rest = rest.max(SILENCE_STEP);
        running.timers.push(shell.start_timer(rest, Timer::Hedge { hash }));
        true
    }

    /// Takes in that the LAN has had its time.
    pub(super) fn small_is_late(&mut self, hash: Hash) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        running.fetches.values_mut().filter(|of| of.small.is_some()).for_each(|of| of.late = true);
        if running.stage == Stage::Ahead {
            self.fall_back(hash);
        }
    }

    /// Lets the next hashes that wait for a neighbour ask it for their blobs.
    pub(super) fn small_freed(&mut self, peer: PeerId, peers: &mut Peers, shell: &mut Shell) {
        self.small.end(peer);
        while self.small.has_room(peer, shell.config.small_per_peer_max) {
            let Some(next) = self.small.next(peer) else { break };
            self.advance(next, peers, shell);
        }
    }
}

impl Running {
    /// Returns for how long nothing was heard of it. A neighbour that answers others first is alive, but not for ever: of a
    /// request that was passed over and is at least `passed` old its own silence counts.
    pub(super) fn silence(&self, passed: Duration, peers: &Peers, now: Time) -> Duration {
        let own = now - self.heard;
        let (Some(_), Source::Peer(peer)) = (self.small, self.source) else { return own };
        match peers.small_silence(peer, now) {
            Some(silence) if !self.is_passed_over(passed, peers, now) => own.min(silence),
            Some(_) | None => own,
        }
    }

    /// Returns whether it is a small request of at least this age whose neighbour has answered more than were before it.
    fn is_passed_over(&self, age: Duration, peers: &Peers, now: Time) -> bool {
        let (Some(small), Source::Peer(peer)) = (self.small, self.source) else { return false };
        now - self.started >= age && peers.small_answers(peer) > small.turn
    }
}

impl Resolution {
    /// Writes into the receipt what became of a small request.
    pub(super) fn small_ended(
        &mut self,
        small: Small,
        answer: Option<AskedAnswer>,
        took: Duration,
    ) {
        if let Some(row) = small.asked.and_then(|row| self.receipt.asked.get_mut(row)) {
            (row.answer, row.after) = (answer, took);
        }
    }

    /// Returns whether a blob of `size` bytes is of use to anybody.
    fn is_of_use(&self, size: u64) -> bool {
        self.wants.iter().any(|want| want.len_max.is_none_or(|len_max| size <= len_max))
    }
}

/// Returns what the end of a small request is as an answer; none for one that breaks the rules.
fn answer_of(outcome: &FetchOutcome) -> Option<AskedAnswer> {
    match outcome {
        FetchOutcome::Complete { .. }
        | FetchOutcome::Read { .. }
        | FetchOutcome::Large { .. }
        | FetchOutcome::WrongBytes { .. }
        | FetchOutcome::StoreFailed { .. }
        | FetchOutcome::Part => Some(AskedAnswer::Have),
        FetchOutcome::Absent => Some(AskedAnswer::Absent),
        FetchOutcome::Busy { .. } => Some(AskedAnswer::Busy),
        FetchOutcome::Failed { .. } => Some(AskedAnswer::Gone),
        FetchOutcome::Misbehaved { .. } | FetchOutcome::Refused { .. } => None,
    }
}
