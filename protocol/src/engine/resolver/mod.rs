//! The resolver: where the missing groups of a want come from.
//!
//! A hash is resolved once for all who want it at the same time (single-flight). It goes through the
//! tiers in order: the local store, the LAN, the edge. On the LAN only those neighbours are asked
//! whose filter does not rule the blob out, best first; a provider search in the DHT runs beside the
//! questions when no filter makes a holder likely. The edge is started when the LAN has nothing left,
//! or when it has had the time that 95 of 100 answers took lately: the *hedge*.
//!
//! [`resolution`] holds the state of one hash and keeps its receipt; [`advance`] is the one place
//! that decides what happens next. This file takes in what happened.
//!
//! Source: Dean, Barroso, *The tail at scale* (CACM 2013), for requests hedged at the 95th percentile.

mod advance;
mod resolution;

use std::collections::BTreeMap;
use std::time::Duration;

use resolution::{EdgeState, Holder, Resolution, Search, Stage, Want};

use crate::blob::Hash;
use crate::engine::peers::{Lesson, Opinion, Peers};
use crate::engine::receipt::{AskedAnswer, Found, Note, Receipt};
use crate::engine::{
    DropReason, FetchOutcome, LookResult, Output, Shell, Source, Timer, WantError,
};
use crate::id::{FetchId, PeerId, QueryId, WantId};
use crate::wire::message::AskResult;

#[derive(Debug, Default)]
pub(crate) struct Resolver {
    resolutions: BTreeMap<Hash, Resolution>,
    wants: BTreeMap<WantId, Hash>,
    fetches: BTreeMap<FetchId, Hash>,
    queries: BTreeMap<QueryId, Hash>,
    /// Whether the node has looked for its neighbours long enough to say that a blob is nowhere.
    settled: bool,
}

impl Resolver {
    pub(crate) fn len(&self) -> usize {
        self.resolutions.len()
    }

    /// Takes in a want, and returns whether the store must be looked into for it.
    pub(crate) fn get(
        &mut self,
        id: WantId,
        hash: Hash,
        timeout: Option<Duration>,
        shell: &mut Shell,
    ) -> bool {
        shell.stats.gets += 1;
        let mut want = Want { id, started: shell.now, deadline: None };
        let full = self.resolutions.len() >= shell.config.resolutions_max;
        let refused = match self.resolutions.get(&hash) {
            Some(running) => running.wants.len() >= shell.config.wants_per_hash_max,
            None => full,
        };
        if refused {
            end_want(&want, Err(WantError::TooMany), Receipt::new(hash), shell);
            return false;
        }
        self.wants.insert(id, hash);
        want.deadline =
            timeout.map(|timeout| shell.start_timer(timeout, Timer::Deadline { want: id }));
        match self.resolutions.get_mut(&hash) {
            Some(running) => {
                shell.stats.gets_joined += 1;
                running.wants.push(want);
                false
            }
            None => {
                self.resolutions.insert(hash, Resolution::new(hash, want));
                true
            }
        }
    }

    /// Takes back a want, because of its user or its deadline.
    pub(crate) fn leave(&mut self, id: WantId, why: WantError, shell: &mut Shell) {
        let Some(hash) = self.wants.remove(&id) else { return };
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let Some(place) = running.wants.iter().position(|want| want.id == id) else { return };
        let want = running.wants.swap_remove(place);
        let receipt = running.receipt_for(&want, shell.now);
        let abandoned = running.wants.is_empty();
        end_want(&want, Err(why), receipt, shell);
        if abandoned {
            self.finish(hash, Err(why), shell);
        }
    }

    pub(crate) fn looked(
        &mut self,
        hash: Hash,
        result: LookResult,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        if running.stage != Stage::Local {
            return;
        }
        running.local_done(shell.now);
        match result {
            LookResult::Whole { size } => {
                running.receipt.size = Some(size);
                running.receipt.bytes_local = size;
                running.receipt.found = Some(Found::Local);
                return self.finish(hash, Ok(()), shell);
            }
            LookResult::Part { size, held } => {
                running.receipt.size = Some(size);
                running.receipt.bytes_local = held;
            }
            LookResult::Absent => {}
        }
        self.open_lan(hash, peers, shell);
        self.advance(hash, peers, shell);
    }

    pub(crate) fn settle(&mut self, peers: &mut Peers, shell: &mut Shell) {
        self.settled = true;
        for hash in self.hashes() {
            if let Some(running) = self.resolutions.get_mut(&hash) {
                let found_none = running.receipt.search.is_some_and(|search| search.providers == 0);
                if running.search == Search::Ended && found_none {
                    running.search = Search::Idle;
                }
            }
            self.advance(hash, peers, shell);
        }
    }

    /// Takes in that a neighbour came, or that its filter changed.
    pub(crate) fn consider(&mut self, peer: PeerId, peers: &mut Peers, shell: &mut Shell) {
        for hash in self.hashes() {
            let opinion = peers.opinion(peer, &hash, shell.now, &shell.config);
            let Some(running) = self.resolutions.get_mut(&hash) else { continue };
            if running.stage == Stage::Local || opinion == Opinion::RuledOut {
                continue;
            }
            let was_skipped = running.receipt.skipped.contains(&peer);
            if running.consider(peer, opinion) {
                if was_skipped {
                    running.receipt.skipped.retain(|skipped| *skipped != peer);
                    running.note(Note::FilterChanged { peer });
                }
                self.advance(hash, peers, shell);
            }
        }
    }

    pub(crate) fn answered(
        &mut self,
        peer: PeerId,
        hash: Hash,
        result: AskResult,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let answer = match result {
            AskResult::Have { size } if size <= shell.config.blob_bytes_max => AskedAnswer::Have,
            AskResult::Have { .. } | AskResult::Absent => AskedAnswer::Absent,
            AskResult::Busy { .. } => AskedAnswer::Busy,
        };
        let Some(ask) = running.ask_ended(peer, answer, shell.now) else { return };
        let lesson = match (ask.opinion, answer) {
            (Opinion::Likely, AskedAnswer::Have) => Lesson::Truth,
            (Opinion::Likely, AskedAnswer::Absent) => Lesson::Lie,
            _ => Lesson::Nothing,
        };
        if lesson == Lesson::Lie {
            shell.stats.asks_wasted += 1;
        }
        peers.learn(peer, shell.now - ask.sent, lesson, shell.now, &shell.config);
        match result {
            AskResult::Have { size } if answer == AskedAnswer::Have => {
                running.receipt.size.get_or_insert(size);
                running.holders.push_back(Holder { peer, found: Found::Lan });
            }
            AskResult::Busy { .. } => running.troubles.unreachable = true,
            AskResult::Have { .. } | AskResult::Absent => {}
        }
        self.advance(hash, peers, shell);
    }

    /// Takes in that a neighbour will not answer about a hash: it is gone, or its time is over.
    pub(crate) fn unanswered(
        &mut self,
        peer: PeerId,
        hash: Hash,
        answer: AskedAnswer,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let Some(ask) = running.asks.get(&peer) else { return };
        let early = shell.now - ask.sent < shell.config.ask_timeout;
        if answer == AskedAnswer::Timeout && early {
            // The timer of an earlier question, before the neighbour went and came back.
            return;
        }
        running.ask_ended(peer, answer, shell.now);
        running.troubles.unreachable = true;
        if let Some(neighbour) = peers.get_mut(peer) {
            neighbour.forget_ask(hash);
        }
        self.advance(hash, peers, shell);
    }

    /// Forgets a neighbour that went, as a candidate and as a holder that was not used yet. If it
    /// comes back it is considered anew.
    pub(crate) fn forget(&mut self, peer: PeerId, peers: &mut Peers, shell: &mut Shell) {
        for hash in self.hashes() {
            if let Some(running) = self.resolutions.get_mut(&hash) {
                running.candidates.retain(|(candidate, _)| *candidate != peer);
                running.holders.retain(|holder| holder.peer != peer);
                running.considered.remove(&peer);
            }
            self.advance(hash, peers, shell);
        }
    }

    pub(crate) fn providers(
        &mut self,
        query: QueryId,
        found: &[PeerId],
        me: PeerId,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        let Some(hash) = self.queries.get(&query).copied() else { return };
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let Search::Running { since, .. } = running.search else { return };
        let room = shell.config.providers_max;
        let mut taken = 0;
        for peer in found.iter().copied().filter(|peer| *peer != me).take(room) {
            if peers.is_banned(peer, shell.now) || running.holders.len() >= room {
                continue;
            }
            taken += 1;
            let known = running.holders.iter().any(|holder| holder.peer == peer)
                || running.attempts.contains_key(&Source::Peer(peer))
                || running.fetches.values().any(|fetch| fetch.source == Source::Peer(peer));
            if !known {
                running.holders.push_back(Holder { peer, found: Found::Dht });
            }
        }
        running.searched(taken, since, false, shell.now);
        self.advance(hash, peers, shell);
    }

    pub(crate) fn search_ended(&mut self, query: QueryId, peers: &mut Peers, shell: &mut Shell) {
        let Some(hash) = self.queries.remove(&query) else { return };
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let Search::Running { since, .. } = running.search else { return };
        running.search = Search::Ended;
        running.searched(0, since, true, shell.now);
        self.advance(hash, peers, shell);
    }

    pub(crate) fn progressed(&mut self, fetch: FetchId, bytes: u64, size: u64, shell: &mut Shell) {
        let Some(hash) = self.fetches.get(&fetch) else { return };
        let Some(running) = self.resolutions.get_mut(hash) else { return };
        running.receipt.size = Some(size);
        let Some(progressed) = running.progressed(fetch, bytes, shell.now) else { return };
        // The LAN is the cheaper tier: once it gives bytes, an edge that gave none is let go.
        if progressed.source != Source::Edge {
            let idle = running
                .fetches
                .iter()
                .find(|(_, other)| other.source == Source::Edge && other.bytes == 0);
            if let Some((edge, _)) = idle.map(|(id, other)| (*id, *other)) {
                running.fetch_ended(edge, "let go, the LAN was faster", shell.now);
                running.edge = EdgeState::Ready;
                self.fetches.remove(&edge);
                shell.emit(Output::StopFetch { fetch: edge });
            }
        }
    }

    pub(crate) fn fetch_ended(
        &mut self,
        fetch: FetchId,
        outcome: FetchOutcome,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        let Some(hash) = self.fetches.remove(&fetch) else { return };
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let Some(ended) = running.fetch_ended(fetch, outcome_text(&outcome), shell.now) else {
            return;
        };
        let source = ended.source;
        match outcome {
            FetchOutcome::Complete { size } => {
                running.receipt.size = Some(size);
                running.receipt.found = Some(ended.found);
                return self.finish(hash, Ok(()), shell);
            }
            FetchOutcome::StoreFailed { .. } => {
                return self.finish(hash, Err(WantError::StoreFailed), shell);
            }
            FetchOutcome::Absent => running.spend(source),
            FetchOutcome::Misbehaved { .. } => {
                running.troubles.unreachable = true;
                running.spend(source);
            }
            FetchOutcome::Refused { .. } => {
                running.troubles.refused = true;
                running.spend(source);
            }
            FetchOutcome::WrongBytes { .. } => {
                running.troubles.wrong_bytes = true;
                running.spend(source);
                self.punish(source, hash, peers, shell);
            }
            FetchOutcome::Busy { retry_after } => {
                self.retry(hash, source, ended.found, Some(retry_after), shell);
            }
            FetchOutcome::Failed { .. } => self.retry(hash, source, ended.found, None, shell),
        }
        self.advance(hash, peers, shell);
    }

    /// Takes in that a fetch may have been silent for too long.
    pub(crate) fn check_stall(
        &mut self,
        hash: Hash,
        fetch: FetchId,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let Some(silent) = running.fetches.get(&fetch).copied() else { return };
        let silence = shell.now - silent.heard;
        if silence < shell.config.stall_timeout {
            let rest = shell.config.stall_timeout - silence;
            running.timers.push(shell.start_timer(rest, Timer::Stall { hash, fetch }));
            return;
        }
        running.fetch_ended(fetch, "stalled", shell.now);
        running.note(Note::Stalled { source: silent.source });
        self.fetches.remove(&fetch);
        shell.stats.stalls += 1;
        shell.emit(Output::StopFetch { fetch });
        self.retry(hash, silent.source, silent.found, None, shell);
        self.advance(hash, peers, shell);
    }

    /// Takes in that a source had its time to a first byte: if it gave none, the LAN has had its turn.
    pub(crate) fn check_first_group(
        &mut self,
        hash: Hash,
        fetch: FetchId,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let late = running.fetches.get(&fetch).is_some_and(|fetch| fetch.bytes == 0);
        if late && running.edge == EdgeState::Ready && shell.config.edge {
            running.note(Note::FirstGroupLate);
            shell.stats.hedges += 1;
            self.start_edge(hash, shell);
            self.advance(hash, peers, shell);
        }
    }

    pub(crate) fn hedge(&mut self, hash: Hash, peers: &mut Peers, shell: &mut Shell) {
        if let Some(running) = self.resolutions.get_mut(&hash) {
            running.hedged = true;
            self.advance(hash, peers, shell);
        }
    }

    pub(crate) fn retry_due(
        &mut self,
        hash: Hash,
        source: Source,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let Some(found) = running.retries.remove(&source) else { return };
        match source {
            Source::Peer(peer) => running.holders.push_back(Holder { peer, found }),
            Source::Edge => running.edge = EdgeState::Ready,
        }
        self.advance(hash, peers, shell);
    }

    pub(crate) fn search_timed_out(
        &mut self,
        hash: Hash,
        query: QueryId,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        if self.queries.remove(&query).is_none() {
            return;
        }
        shell.emit(Output::StopFindProviders { query });
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        if let Search::Running { since, .. } = running.search {
            running.search = Search::Ended;
            running.searched(0, since, false, shell.now);
        }
        self.advance(hash, peers, shell);
    }

    /// Returns which blob a running fetch is for.
    pub(crate) fn hash_of(&self, fetch: FetchId) -> Option<Hash> {
        self.fetches.get(&fetch).copied()
    }

    fn hashes(&self) -> Vec<Hash> {
        self.resolutions.keys().copied().collect()
    }

    fn open_lan(&mut self, hash: Hash, peers: &Peers, shell: &mut Shell) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let (candidates, skipped) = peers.sort_for(&hash, shell.now, &shell.config);
        shell.stats.asks_skipped += u64::try_from(skipped.len()).unwrap_or(u64::MAX);
        running.receipt.neighbours = peers.len();
        running.receipt.skipped = skipped;
        for (peer, opinion) in candidates {
            running.consider(peer, opinion);
        }
        if !shell.config.edge {
            running.edge = EdgeState::Spent;
        }
        if !shell.config.provider_search {
            running.search = Search::Ended;
        }
        let delay = peers.hedge_delay(&shell.config);
        let delay = if self.settled { delay } else { delay.max(shell.config.hedge_unsettled) };
        running.timers.push(shell.start_timer(delay, Timer::Hedge { hash }));
    }

    /// Plans another attempt at a source that may do better, as long as attempts are left.
    fn retry(
        &mut self,
        hash: Hash,
        source: Source,
        found: Found,
        retry_after: Option<Duration>,
        shell: &mut Shell,
    ) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let attempts = running.attempts.entry(source).or_default();
        *attempts += 1;
        if *attempts >= shell.config.attempts_max {
            running.troubles.unreachable = true;
            return running.spend(source);
        }
        let after = match retry_after {
            Some(asked) => asked.min(shell.config.backoff_max),
            None => shell.backoff(*attempts),
        };
        running.retries.insert(source, found);
        if source == Source::Edge {
            running.edge = EdgeState::Busy;
        }
        running.note(Note::Retry { source, after });
        running.timers.push(shell.start_timer(after, Timer::Retry { hash, source }));
    }

    /// Bans a peer that sent wrong bytes. The edge is not banned: it has many blobs.
    fn punish(&mut self, source: Source, hash: Hash, peers: &mut Peers, shell: &mut Shell) {
        let Source::Peer(peer) = source else { return };
        peers.ban(peer, shell.now + shell.config.ban, shell.config.bans_max);
        shell.stats.bans += 1;
        shell.emit(Output::Drop { peer, reason: DropReason::WrongBytes });
        if let Some(running) = self.resolutions.get_mut(&hash) {
            running.note(Note::Banned { peer });
        }
        for running in self.resolutions.values_mut() {
            running.holders.retain(|holder| holder.peer != peer);
            running.candidates.retain(|(candidate, _)| *candidate != peer);
        }
    }

    /// Ends a resolution for everybody who waits for it, and everything that runs for it.
    fn finish(&mut self, hash: Hash, result: Result<(), WantError>, shell: &mut Shell) {
        let Some(mut running) = self.resolutions.remove(&hash) else { return };
        running.timers.drain(..).for_each(|timer| shell.stop_timer(timer));
        for fetch in running.fetches.keys().copied().collect::<Vec<_>>() {
            running.fetch_ended(fetch, "let go", shell.now);
            self.fetches.remove(&fetch);
            shell.emit(Output::StopFetch { fetch });
        }
        if let Search::Running { query, since } = running.search {
            running.searched(0, since, false, shell.now);
            self.queries.remove(&query);
            shell.emit(Output::StopFindProviders { query });
        }
        for want in &running.wants {
            self.wants.remove(&want.id);
            end_want(want, result, running.receipt_for(want, shell.now), shell);
        }
    }
}

impl Resolution {
    fn spend(&mut self, source: Source) {
        self.attempts.insert(source, u32::MAX);
        if source == Source::Edge {
            self.edge = EdgeState::Spent;
        }
    }
}

fn end_want(want: &Want, result: Result<(), WantError>, receipt: Receipt, shell: &mut Shell) {
    if let Some(deadline) = want.deadline {
        shell.stop_timer(deadline);
    }
    let stats = &mut shell.stats;
    match (result, receipt.found) {
        (Ok(()), Some(Found::Local)) => stats.found_local += 1,
        (Ok(()), Some(Found::Lan)) => stats.found_lan += 1,
        (Ok(()), Some(Found::Dht)) => stats.found_dht += 1,
        (Ok(()), Some(Found::Edge)) => stats.found_edge += 1,
        (Ok(()), None) | (Err(_), _) => stats.failed += 1,
    }
    shell.emit(Output::Ended { want: want.id, result, receipt: Box::new(receipt) });
}

fn outcome_text(outcome: &FetchOutcome) -> &str {
    match outcome {
        FetchOutcome::Complete { .. } => "complete",
        FetchOutcome::Absent => "absent",
        FetchOutcome::Busy { .. } => "busy",
        FetchOutcome::Failed { detail }
        | FetchOutcome::WrongBytes { detail }
        | FetchOutcome::Misbehaved { detail }
        | FetchOutcome::Refused { detail }
        | FetchOutcome::StoreFailed { detail } => detail,
    }
}
