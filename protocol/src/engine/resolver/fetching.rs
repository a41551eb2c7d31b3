//! What comes of fetches: progress, ends, silence, and another attempt.

use std::ops::Range;
use std::time::Duration;

use super::resolution::{EdgeState, HERD_GRACE, Holder, Resolution, Running};
use super::{Resolver, stop_fetch};
use crate::blob::Hash;
use crate::engine::peers::Peers;
use crate::engine::receipt::{AskedAnswer, Found, Note};
use crate::engine::{DropReason, FetchOutcome, Output, Shell, Source, Timer, WantError};
use crate::id::{FetchId, PeerId};

/// Returns whether an end says that the source is alive.
fn speaks(outcome: &FetchOutcome) -> bool {
    matches!(
        outcome,
        FetchOutcome::Complete { .. }
            | FetchOutcome::Read { .. }
            | FetchOutcome::Large { .. }
            | FetchOutcome::Part
            | FetchOutcome::Absent
            | FetchOutcome::Busy { .. }
    )
}

/// Says whether a source had what it was asked for.
fn gives(outcome: &FetchOutcome) -> bool {
    matches!(outcome, FetchOutcome::Complete { .. } | FetchOutcome::Read { .. })
}

/// How many times as long as a peer the edge may give nothing.
const EDGE_STALL_FACTOR: u32 = 4;
/// How many times as long as it may be silent a neighbour may pass a small request over: many of 64 KiB that were asked for
/// together are long on a slow way, and single ones overtake them.
const PASSED_OVER_FACTOR: u32 = 10;
/// A connection to the edge is made ahead this often at most: a LAN that is always late needs none, or has one.
const PREPARE_INTERVAL: Duration = Duration::from_secs(10);
/// Peers that give nothing for this long, all of them, pause.
const PAUSE: Duration = Duration::from_millis(30);

impl Resolver {
    pub(crate) fn progressed(
        &mut self,
        fetch: FetchId,
        (bytes, groups): (u64, Range<u64>),
        size: u64,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        let Some(hash) = self.fetches.get(&fetch).copied() else { return };
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        running.receipt.size = Some(size);
        let Some(progressed) = running.progressed(fetch, bytes, shell.now) else { return };
        if progressed.source != Source::Edge && progressed.bytes > 0 {
            self.let_go_of_idle_edge(hash, shell);
        }
        if bytes == 0 {
            return;
        }
        let mut freed = self.correct_size(hash, size, shell);
        self.open_swarm(hash, size, None, peers, shell);
        let (stopped, changed) = self.swarm_stored(hash, fetch, &groups, shell);
        freed.extend(stopped);
        let mut joined = false;
        if let (None, Source::Peer(peer)) = (&progressed.groups, progressed.source) {
            joined = self.make_member(hash, peer, progressed.found, shell);
        }
        // More of the same changes nothing, and most progress of a long blob is that. That a range of many begins to
        // come is of no consequence either.
        let begins = progressed.bytes == bytes
            && (progressed.groups.is_none() || progressed.source == Source::Edge);
        let ends = progressed.source == Source::Edge && self.edge_ends(hash, bytes, shell);
        if changed || joined || begins || ends || !freed.is_empty() {
            self.advance(hash, peers, shell);
        }
        freed.into_iter().for_each(|peer| self.fetch_freed(Source::Peer(peer), peers, shell));
    }

    /// Returns whether less than a range is still to come of what the edge was asked for, since these bytes came.
    fn edge_ends(&self, hash: Hash, bytes: u64, shell: &Shell) -> bool {
        let Some(running) = self.resolutions.get(&hash) else { return false };
        let (rest, range_bytes) = (running.rest_of_edge().1, shell.config.edge_range_bytes);
        rest < range_bytes && rest.saturating_add(bytes) >= range_bytes
    }

    /// Lets go an edge that gave nothing yet, once the LAN, the cheaper tier, does, and not slowly. Where nobody on
    /// the LAN holds all, what is asked of the edge comes from nowhere else.
    fn let_go_of_idle_edge(&mut self, hash: Hash, shell: &mut Shell) {
        let Some(running) = self.resolutions.get(&hash) else { return };
        let parts = running.swarm.as_ref().is_some_and(|swarm| swarm.holders() == 0);
        if parts || running.needs_edge(shell.now) {
            return;
        }
        let idle: Vec<FetchId> = running
            .fetches
            .iter()
            .filter(|(_, other)| other.source == Source::Edge && other.bytes == 0)
            .map(|(id, _)| *id)
            .collect();
        for fetch in idle {
            self.range_over(hash, fetch, shell);
            let Some(running) = self.resolutions.get_mut(&hash) else { return };
            (running.edge, running.late) = (EdgeState::Ready, false);
            let why = "let go, the LAN was faster";
            stop_fetch(running, fetch, why, &mut self.fetches, shell);
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
        self.range_over(hash, fetch, shell);
        self.small_answered(hash, fetch, &outcome, peers, shell);
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let Some(ended) = running.fetch_ended(fetch, outcome_text(&outcome), shell.now) else {
            return;
        };
        ended.timers.stop(shell);
        running.end_lost = !matches!(outcome, FetchOutcome::Part);
        let source = ended.source;
        let mut behind = None;
        if let (Source::Peer(peer), true) = (source, speaks(&outcome)) {
            peers.spoke(peer);
            let news = gives(&outcome) && peers.gave(peer, &hash, shell.now, &shell.config);
            behind = news.then_some(peer);
        }
        running.judge_name(&ended, Some(&outcome), peers, shell);
        match outcome {
            FetchOutcome::Complete { size } => {
                running.came_whole(size);
                running.receipt.found = Some(running.found_by(&ended));
                self.finish(hash, Ok(()), peers, shell);
            }
            FetchOutcome::StoreFailed { .. } => {
                self.finish(hash, Err(WantError::StoreFailed), peers, shell);
            }
            FetchOutcome::Read { size } => {
                running.receipt.size = Some(size);
                running.receipt.found = Some(ended.found);
                self.end_reads(hash, &ended, peers, shell);
            }
            FetchOutcome::Large { size } => self.small_is_large(hash, &ended, size, peers, shell),
            FetchOutcome::Part => {
                if source == Source::Edge {
                    running.edge = EdgeState::Ready;
                }
                self.swarm_range_stored(hash, ended.groups.as_ref(), shell);
            }
            // A filter that was wrong may be right later, as after a question.
            FetchOutcome::Absent if ended.small.is_some_and(|small| small.opinion.is_some()) => {}
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
            // What a member failed at that was let go is for others to bring.
            FetchOutcome::Busy { .. } | FetchOutcome::Failed { .. } if running.let_go(&ended) => {}
            FetchOutcome::Failed { .. } if running.parts_from_gone(source, peers) => {}
            FetchOutcome::Busy { retry_after } => {
                self.retry_busy(hash, source, ended.found, retry_after, shell);
            }
            FetchOutcome::Failed { .. } => self.retry_failed(hash, source, ended.found, shell),
        }
        self.advance(hash, peers, shell);
        self.freed(source, ended.small.is_some(), peers, shell);
        if let Some(peer) = behind {
            self.consider(peer, peers, shell);
        }
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
        let Some(silent) = running.fetches.get(&fetch).cloned() else { return };
        let most = stall_timeout(silent.source, shell);
        let passed = most.saturating_mul(PASSED_OVER_FACTOR);
        let silence = silent.silence(passed, peers, shell.now);
        if silence < most {
            let rest = most - silence;
            running.fetch_timed(fetch, |timers| {
                timers.stall = Some(shell.start_timer(rest, Timer::Stall { hash, fetch }));
            });
            return;
        }
        running.note(Note::Stalled { source: silent.source });
        shell.stats.stalls += 1;
        self.range_over(hash, fetch, shell);
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        stop_fetch(running, fetch, "stalled", &mut self.fetches, shell);
        if let (Some(small), Source::Peer(peer)) = (silent.small, silent.source) {
            running.small_ended(small, Some(AskedAnswer::Timeout), shell.now - silent.started);
            peers.rest_small(peer, shell.now + shell.config.small_rest);
        } else if let Source::Peer(peer) = silent.source {
            peers.stalled(peer);
        }
        if !running.let_go(&silent) && !running.parts_from_gone(silent.source, peers) {
            self.retry_failed(hash, silent.source, silent.found, shell);
        }
        self.advance(hash, peers, shell);
        self.freed(silent.source, silent.small.is_some(), peers, shell);
    }

    /// Takes in that a source had its time to a first byte: if it gave none, the next holder and the
    /// edge are started beside it.
    pub(crate) fn check_first_group(
        &mut self,
        hash: Hash,
        fetch: FetchId,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let Some(late) = running.fetches.get_mut(&fetch).filter(|fetch| fetch.bytes == 0) else {
            return;
        };
        // Its source gives another range, or another blob, first: it is not late yet.
        let silence = late.silence(shell.config.stall_timeout, peers, shell.now);
        let patience = running.herd.first_group_time(late.source, &shell.config);
        if silence < patience {
            let rest = patience - silence;
            running.fetch_timed(fetch, |timers| {
                timers.first = Some(shell.start_timer(rest, Timer::FirstGroup { hash, fetch }));
            });
            return;
        }
        let (first, age) = (!late.late, shell.now - late.started);
        late.late = true;
        let silent = late.clone();
        if first {
            running.judge_name(&silent, None, peers, shell);
        }
        if running.is_of_herd() && age < HERD_GRACE {
            running.fetch_timed(fetch, |timers| {
                let rest = HERD_GRACE - age;
                timers.first = Some(shell.start_timer(rest, Timer::FirstGroup { hash, fetch }));
            });
        }
        // A range that is late says nothing of the others.
        if first && running.edge == EdgeState::Ready && shell.config.edge && !running.is_served() {
            running.note(Note::FirstGroupLate);
            shell.stats.hedges += 1;
            running.late = true;
        }
        self.advance(hash, peers, shell);
    }

    /// Has a connection to the edge be made where the LAN has given nothing in the least time that the edge waits for
    /// it. That takes round trips, and a request that follows saves them; none is paid for.
    pub(crate) fn prepare_edge(&mut self, hash: Hash, peers: &Peers, shell: &mut Shell) {
        let Some(running) = self.resolutions.get(&hash) else { return };
        let ready = running.edge == EdgeState::Ready && running.receipt.bytes_lan == 0;
        // A neighbour that answers others first is alive.
        let answers = running.fetches.values().filter(|fetch| fetch.small.is_some()).any(|fetch| {
            let silence = fetch.source.peer().and_then(|peer| peers.small_silence(peer, shell.now));
            silence.is_some_and(|silence| silence < shell.config.hedge_min)
        });
        if ready && !answers {
            self.prepare_now(shell);
        }
    }

    /// The same where all peers that were giving something pause: they may have fallen silent.
    pub(super) fn prepare_if_paused(&mut self, hash: Hash, shell: &mut Shell) {
        let Some(running) = self.resolutions.get(&hash) else { return };
        if running.edge == EdgeState::Ready && running.is_paused(PAUSE, shell.now) {
            self.prepare_now(shell);
        }
    }

    fn prepare_now(&mut self, shell: &mut Shell) {
        if self.prepared.is_none_or(|at| shell.now - at >= PREPARE_INTERVAL) {
            self.prepared = Some(shell.now);
            shell.emit(Output::PrepareEdge);
        }
    }

    pub(crate) fn hedge(&mut self, hash: Hash, peers: &mut Peers, shell: &mut Shell) {
        if self.small_has_time(hash, peers, shell) {
            return;
        }
        if let Some(running) = self.resolutions.get_mut(&hash) {
            running.hedged = true;
            self.small_is_late(hash);
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
            Source::Peer(peer) if peers.is_banned(peer, shell.now) => running.spend(source),
            // A member of a swarm stays one.
            Source::Peer(peer) if running.is_member(peer) => {}
            Source::Peer(peer) => running.add_holder(Holder { peer, found }),
            Source::Edge => running.edge = EdgeState::Ready,
        }
        self.advance(hash, peers, shell);
    }

    /// Has those who let a question pass, though they probably hold the blob, be fetched from, where nothing else is left;
    /// returns whether there are any. A neighbour that is short of processor time for a moment is not gone, and a fetch is
    /// given more time than a question.
    pub(super) fn turn_to_silent(&mut self, hash: Hash, peers: &Peers, shell: &mut Shell) -> bool {
        let Some(running) = self.resolutions.get_mut(&hash) else { return false };
        let alive = |source: &Source| source.peer().is_some_and(|peer| !peers.is_mute(peer));
        for source in
            running.sources.take_silent(|places| shell.pick(places)).into_iter().filter(alive)
        {
            self.retry_failed(hash, source, Found::Lan, shell);
        }
        self.resolutions.get(&hash).is_some_and(|running| !running.retries.is_empty())
    }

    /// Plans another attempt at a source that failed, as long as attempts are left.
    fn retry_failed(&mut self, hash: Hash, source: Source, found: Found, shell: &mut Shell) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        // The ranges of one source fail together, and count once.
        if running.retries.contains_key(&source) {
            return;
        }
        let failures = running.sources.fail(source);
        if failures >= shell.config.attempts_max {
            running.troubles.unreachable = true;
            return running.spend(source);
        }
        let after = shell.backoff(failures);
        self.retry(hash, source, found, after, shell);
    }

    /// Plans another attempt at a source that is busy, as long as patience lasts: not before it said,
    /// and not together with the others that it told the same.
    pub(super) fn retry_busy(
        &mut self,
        hash: Hash,
        source: Source,
        found: Found,
        retry_after: Duration,
        shell: &mut Shell,
    ) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        if running.sources.busy(source, shell.now) >= shell.config.busy_patience {
            running.troubles.unreachable = true;
            return running.spend(source);
        }
        let after = retry_after.min(shell.config.backoff_max) + shell.backoff(1);
        self.retry(hash, source, found, after, shell);
    }

    fn retry(
        &mut self,
        hash: Hash,
        source: Source,
        found: Found,
        after: Duration,
        shell: &mut Shell,
    ) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        running.retries.insert(source, found);
        if source == Source::Edge {
            running.edge = EdgeState::Busy;
        }
        running.note(Note::Retry { source, after });
        running.timers.push(shell.start_timer(after, Timer::Retry { hash, source }));
    }

    /// Bans a peer that sent wrong bytes, for every hash. The edge is not banned: it has many blobs.
    fn punish(&mut self, source: Source, hash: Hash, peers: &mut Peers, shell: &mut Shell) {
        let Source::Peer(peer) = source else { return };
        peers.ban(peer, shell.now + shell.config.ban, shell.config.bans_max);
        shell.stats.bans += 1;
        shell.emit(Output::Drop { peer, reason: DropReason::WrongBytes });
        if let Some(running) = self.resolutions.get_mut(&hash) {
            running.note(Note::Banned { peer });
        }
        for other in self.hashes() {
            self.shun(other, peer, shell);
            if other != hash {
                self.advance(other, peers, shell);
            }
        }
    }

    /// Has a hash do without a banned peer, whatever was expected of it.
    fn shun(&mut self, hash: Hash, peer: PeerId, shell: &mut Shell) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let source = Source::Peer(peer);
        running.holders.retain(|holder| holder.peer != peer);
        running.candidates.retain(|(candidate, _)| *candidate != peer);
        running.retries.remove(&source);
        running.spend(source);
        for (fetch, of) in running.sources_of_fetches() {
            if of == source {
                self.range_over(hash, fetch, shell);
                let Some(running) = self.resolutions.get_mut(&hash) else { return };
                let small = running.is_small(fetch);
                stop_fetch(running, fetch, "banned", &mut self.fetches, shell);
                (if small { &mut self.small } else { &mut self.fetching }).end(peer);
            }
        }
    }
}

impl Resolution {
    pub(super) fn spend(&mut self, source: Source) {
        self.sources.spend(source);
        match (source, &mut self.swarm) {
            (Source::Edge, _) => self.edge = EdgeState::Spent,
            (Source::Peer(peer), Some(swarm)) => {
                swarm.getters.remove(&peer);
                swarm.forget(peer);
                // What was for it to bring is for others.
                swarm.divide();
            }
            (Source::Peer(_), None) => {}
        }
    }

    /// Returns what found the blob whose last fetch ended well. One that gave nothing itself, as another
    /// had brought everything just before, has found nothing.
    fn found_by(&self, last: &Running) -> Found {
        let (lan, edge) = (self.receipt.bytes_lan, self.receipt.bytes_edge);
        if last.bytes == 0 && edge > lan { Found::Edge } else { last.found }
    }

    /// Returns whether a range was of a member that is none any more.
    fn let_go(&self, ended: &Running) -> bool {
        let Source::Peer(peer) = ended.source else { return false };
        ended.groups.is_some() && !self.is_member(peer)
    }

    fn is_member(&self, peer: PeerId) -> bool {
        self.swarm.as_ref().is_some_and(|swarm| swarm.contains(peer))
    }
}

/// Returns how long a source may give nothing. The edge has deadlines of its own for each of its connections, which
/// know a byte from silence; many of them over one uplink are uneven, and to begin anew costs what is in its buffers.
pub(super) fn stall_timeout(source: Source, shell: &Shell) -> Duration {
    match source {
        Source::Peer(_) => shell.config.stall_timeout,
        Source::Edge => shell.config.stall_timeout.saturating_mul(EDGE_STALL_FACTOR),
    }
}

fn outcome_text(outcome: &FetchOutcome) -> &str {
    match outcome {
        FetchOutcome::Complete { .. } => "complete",
        FetchOutcome::Read { .. } => "read",
        FetchOutcome::Large { .. } => "large",
        FetchOutcome::Part => "part",
        FetchOutcome::Absent => "absent",
        FetchOutcome::Busy { .. } => "busy",
        FetchOutcome::Failed { detail }
        | FetchOutcome::WrongBytes { detail }
        | FetchOutcome::Misbehaved { detail }
        | FetchOutcome::Refused { detail }
        | FetchOutcome::StoreFailed { detail } => detail,
    }
}
