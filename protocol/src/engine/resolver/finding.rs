//! What is learned of who holds a blob: neighbours that come, change or answer, and provide records.

use std::time::Duration;

use super::Resolver;
use super::resolution::{EdgeState, Holder, Search, Stage};
use crate::blob::Hash;
use crate::engine::peers::{Lesson, Opinion, Peers};
use crate::engine::receipt::{AskedAnswer, Found, Note};
use crate::engine::{Output, Shell, Source, Timer};
use crate::id::{PeerId, QueryId};
use crate::wire::message::AskResult;

impl Resolver {
    /// Surveys the neighbours, and begins the time that the LAN has.
    pub(super) fn open_lan(&mut self, hash: Hash, peers: &mut Peers, shell: &mut Shell) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let (candidates, skipped) = peers.sort_for(&hash, shell.now, &shell.config);
        if std::mem::replace(&mut running.surveyed, true) {
            // Those who came while the store was looked into.
            for (peer, opinion) in candidates {
                if !running.considered.contains(&peer) {
                    running.consider(peer, opinion);
                }
            }
            return;
        }
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
        let delay = self.time_of_lan(peers, shell);
        if let Some(running) = self.resolutions.get_mut(&hash) {
            running.timers.push(shell.start_timer(delay, Timer::Hedge { hash }));
            let ahead = shell.config.hedge_min;
            if running.edge == EdgeState::Ready && ahead < delay {
                running.timers.push(shell.start_timer(ahead, Timer::Prepare { hash }));
            }
        }
    }

    /// Returns how long the edge waits for the LAN: for the answers of neighbours, where there are any, and for
    /// neighbours, where the node began to look for them a moment ago.
    fn time_of_lan(&self, peers: &mut Peers, shell: &Shell) -> Duration {
        let config = &shell.config;
        let answers = if peers.len() == 0 { config.hedge_min } else { peers.hedge_delay(config) };
        let looks = config.hedge_unsettled.saturating_sub(shell.now - self.born);
        if self.settled { answers } else { answers.max(looks) }
    }

    /// Takes in that a neighbour came, or that its filter changed.
    pub(crate) fn consider(&mut self, peer: PeerId, peers: &mut Peers, shell: &mut Shell) {
        for hash in self.hashes() {
            let opinion = peers.opinion(peer, &hash, shell.now, &shell.config);
            let Some(running) = self.resolutions.get_mut(&hash) else { continue };
            if running.stage == Stage::Local {
                continue;
            }
            self.greet_partner(hash, peer, shell);
            let Some(running) = self.resolutions.get_mut(&hash) else { continue };
            if opinion == Opinion::RuledOut {
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
        let banned = peers.is_banned(peer, shell.now);
        let lesson = match (ask.opinion, answer) {
            (Opinion::Likely, AskedAnswer::Have) => Lesson::Truth,
            (Opinion::Likely, AskedAnswer::Absent) => Lesson::Lie,
            _ => Lesson::Nothing,
        };
        if lesson == Lesson::Lie {
            shell.stats.asks_wasted += 1;
        }
        peers.learn(peer, shell.now - ask.sent, lesson, shell.now, &shell.config);
        let mut freed = Vec::new();
        match result {
            AskResult::Have { size } if answer == AskedAnswer::Have => {
                running.receipt.size.get_or_insert(size);
                if !banned {
                    running.add_holder(Holder { peer, found: Found::Lan });
                }
                freed = self.doubt_size(hash, size, shell);
                self.end_small_of_large(hash, size, peers, shell);
                self.open_swarm(hash, size, None, peers, shell);
            }
            AskResult::Busy { retry_after_ms } => {
                let after = Duration::from_millis(u64::from(retry_after_ms));
                self.retry_busy(hash, Source::Peer(peer), Found::Lan, after, shell);
            }
            AskResult::Have { .. } | AskResult::Absent => {}
        }
        self.advance(hash, peers, shell);
        freed.into_iter().for_each(|peer| self.fetch_freed(Source::Peer(peer), peers, shell));
        self.ask_freed(peer, peers, shell);
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
        if answer == AskedAnswer::Timeout && ask.opinion == Opinion::Likely {
            running.sources.was_silent(Source::Peer(peer));
        }
        running.ask_ended(peer, answer, shell.now);
        running.troubles.unreachable = true;
        if let Some(neighbour) = peers.get_mut(peer) {
            neighbour.forget_ask(hash);
        }
        self.advance(hash, peers, shell);
        self.ask_freed(peer, peers, shell);
    }

    /// Forgets a neighbour that went, as a candidate and as a holder that was not used yet. If it
    /// comes back it is considered anew.
    pub(crate) fn forget(&mut self, peer: PeerId, peers: &mut Peers, shell: &mut Shell) {
        self.overheard.forget(peer);
        for hash in self.hashes() {
            if let Some(running) = self.resolutions.get_mut(&hash) {
                running.candidates.retain(|(candidate, _)| *candidate != peer);
                running.holders.retain(|holder| holder.peer != peer);
                running.considered.remove(&peer);
                running.sources.went(Source::Peer(peer));
                running.part_from(peer);
            }
            self.divide(hash);
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
        let before = running.receipt.search.map_or(0, |search| search.providers);
        let room = shell.config.providers_max.saturating_sub(before);
        let welcome = |peer: &PeerId| *peer != me && !peers.is_banned(*peer, shell.now);
        let mut taken = 0;
        for peer in found.iter().copied().filter(welcome).take(room) {
            taken += 1;
            running.add_holder(Holder { peer, found: Found::Dht });
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
}
