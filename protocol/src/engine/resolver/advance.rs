//! What happens next for a hash: the one place where the resolver decides.
//!
//! It is run after anything happened, looks at the state alone, and may be run again at no cost.

use std::ops::Range;

use super::Resolver;
use super::fetching::stall_timeout;
use super::resolution::{EdgeState, Holder, Search};
use crate::blob::Hash;
use crate::engine::peers::{Opinion, Peers};
use crate::engine::receipt::{Found, Note};
use crate::engine::resolver::resolution::Stage;
use crate::engine::{Output, Shell, Source, Timer};
use crate::wire::message::Message;
use crate::wire::small::SMALL_BYTES_MAX;

/// How many sources of one hash are fetched from at once, when those before gave no byte in time.
const FETCHES_AT_ONCE_MAX: usize = 4;

impl Resolver {
    pub(crate) fn advance(&mut self, hash: Hash, peers: &mut Peers, shell: &mut Shell) {
        match self.resolutions.get(&hash).map(|running| running.stage) {
            Some(Stage::Remote) => {}
            Some(Stage::Ahead) => return self.go_on_ahead(hash, peers, shell),
            Some(Stage::Local) | None => return,
        }
        if self.resolutions.get(&hash).is_some_and(|running| running.swarm.is_some()) {
            self.fetch_from_members(hash, shell);
        } else {
            self.fetch_from_holder(hash, peers, shell);
        }
        if !self.ask_for_small(hash, peers, shell) {
            self.ask_candidates(hash, peers, shell);
        }
        self.search_if_uncertain(hash, shell);
        self.start_edge_if_due(hash, peers, shell);
        self.fetch_from_edge(hash, peers, shell);
        self.tell_claims(hash, peers, shell);
        self.give_up_if_over(hash, peers, shell);
        self.give_freed_room(peers, shell);
    }

    /// Fetches from the first holder with room, one peer at a time unless those before are late; waits
    /// for room where there is none.
    fn fetch_from_holder(&mut self, hash: Hash, peers: &mut Peers, shell: &mut Shell) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        if running.is_served() || running.fetches.len() >= FETCHES_AT_ONCE_MAX {
            return;
        }
        let may_be_small =
            !running.is_large && running.receipt.size.is_none_or(|size| size <= SMALL_BYTES_MAX);
        let (now, config) = (shell.now, &shell.config);
        let by_small = |peer| may_be_small && peers.takes_small(peer, now, config);
        let has_room = |holder: &Holder| match by_small(holder.peer) {
            true => self.small.has_room(holder.peer, config.small_per_peer_max),
            false => self.fetching.has_room(holder.peer, config.fetches_per_peer_max),
        };
        let place = running.holders.iter().position(has_room);
        if let Some(holder) = place.and_then(|place| running.holders.remove(place)) {
            if by_small(holder.peer) {
                return self.start_small(hash, holder, None, peers, shell);
            }
            self.start_fetch(hash, Source::Peer(holder.peer), (holder.found, None), shell);
        } else if let Some(holder) = running.holders.front() {
            let queue = if by_small(holder.peer) { &mut self.small } else { &mut self.fetching };
            queue.wait(holder.peer, hash);
        }
    }

    /// Asks candidates, as many at once as the bound allows, while no holder is known.
    fn ask_candidates(&mut self, hash: Hash, peers: &mut Peers, shell: &mut Shell) {
        let running = self.resolutions.get_mut(&hash);
        let Some(running) = running.filter(|running| !running.candidates.is_empty()) else {
            return;
        };
        let swarm =
            running.swarm.as_ref().filter(|swarm| swarm.holders() < shell.config.partners_max);
        let found = running.fetches_from_peers() || !running.holders.is_empty();
        // One holder is enough for a short blob; a swarm takes in all who say that they have it.
        if found && swarm.is_none() {
            return;
        }
        let max = shell.config.asks_per_neighbour_max;
        while running.asks.len() < shell.config.asks_parallel_max {
            let Some((peer, opinion)) = running.candidates.front().copied() else { break };
            if found && opinion != Opinion::Likely {
                break;
            }
            // A filter that lied is asked only when nobody better is left to answer.
            if opinion == Opinion::Doubtful && !running.asks.is_empty() {
                break;
            }
            if !self.asking.has_room(peer, max) {
                self.asking.wait(peer, hash);
                break;
            }
            running.candidates.pop_front();
            let Some(neighbour) = peers.get_mut(peer) else { continue };
            self.asking.begin(peer);
            let id = neighbour.ask(hash);
            running.ask_sent(peer, opinion, shell.now);
            shell.stats.asks_sent += 1;
            let timeout = shell.config.ask_timeout;
            running.timers.push(shell.start_timer(timeout, Timer::Ask { hash, peer }));
            shell.emit(Output::Send { peer, message: Message::Ask { id, hash } });
        }
    }

    /// Searches the DHT when nobody is thought to hold the blob on good grounds, or when those who
    /// were have kept us waiting.
    fn search_if_uncertain(&mut self, hash: Hash, shell: &mut Shell) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let uncertain = !running.is_hopeful() || (running.hedged && running.fetches_nothing());
        if running.search != Search::Idle || !uncertain || running.has_bytes() {
            return;
        }
        let query = shell.next_query();
        running.search = Search::Running { query, since: shell.now };
        self.queries.insert(query, hash);
        let timeout = shell.config.provider_search_timeout;
        running.timers.push(shell.start_timer(timeout, Timer::Search { hash, query }));
        shell.emit(Output::FindProviders { query, hash });
    }

    /// Starts the edge when the LAN and the DHT have nothing left, or have had their time.
    fn start_edge_if_due(&mut self, hash: Hash, peers: &Peers, shell: &mut Shell) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        // Partners that hold all there is among them wait for each other in vain; claims divide the rest.
        let parts =
            running.swarm.as_ref().is_some_and(|swarm| swarm.proven && swarm.holders() == 0);
        let swarm = running.is_swarm_hopeful(shell.now) && !parts;
        // A holder without room is as good as one that serves: the edge would not be sooner. One that waits for the
        // answer to a question of another is not, once the LAN has had its time.
        let peers_serve = running.is_served_beyond_questions() && !parts;
        let holders = !running.holders.is_empty() && !running.is_questioning();
        let served = peers_serve || holders || swarm;
        if running.edge != EdgeState::Ready || running.is_fed_by_edge() {
            return;
        }
        let slips = running.late || running.is_lan_slow(shell.now);
        if served && !slips {
            return;
        }
        let nothing_left = running.lan_is_over(shell.now) && running.search == Search::Ended;
        // A node that still looks for its neighbours has not heard what the LAN has.
        let over = nothing_left && self.settled;
        if !over && !running.hedged && !slips || !self.may_ask_edge(hash, peers, shell) {
            return;
        }
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        if !nothing_left && !running.sources.was_tried(Source::Edge) {
            let after = running.waited(shell.now);
            running.note(Note::HedgeFired { after });
            shell.stats.hedges += 1;
        }
        if !self.join_edge(hash) {
            self.start_edge(hash, shell);
        }
    }

    /// Asks the edge for the first range, and with it for the list.
    fn start_edge(&mut self, hash: Hash, shell: &mut Shell) {
        let groups = self.first_of_edge(hash, shell);
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        running.edge = EdgeState::Busy;
        if let (Some(swarm), Some(groups)) = (&mut running.swarm, &groups) {
            swarm.pieces.bring(groups, true);
        }
        self.start_fetch(hash, Source::Edge, (Found::Edge, groups), shell);
    }

    /// Starts a fetch of some groups, or of all that are missing.
    pub(super) fn start_fetch(
        &mut self,
        hash: Hash,
        source: Source,
        (found, groups): (Found, Option<Range<u64>>),
        shell: &mut Shell,
    ) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let fetch = shell.next_fetch();
        running.fetch_started(fetch, source, (found, groups.clone()), shell.now);
        if let Source::Peer(peer) = source {
            self.fetching.begin(peer);
        }
        self.fetches.insert(fetch, hash);
        let stall = stall_timeout(source, shell);
        let late = running.herd.first_group_time(source, &shell.config);
        running.fetch_timed(fetch, |timers| {
            timers.stall = Some(shell.start_timer(stall, Timer::Stall { hash, fetch }));
            if source != Source::Edge {
                timers.first = Some(shell.start_timer(late, Timer::FirstGroup { hash, fetch }));
            }
        });
        shell.emit(Output::Fetch { fetch, hash, source, groups });
    }

    fn give_up_if_over(&mut self, hash: Hash, peers: &mut Peers, shell: &mut Shell) {
        let Some(running) = self.resolutions.get(&hash) else { return };
        let over = self.settled
            && running.lan_is_over(shell.now)
            && running.fetches.is_empty()
            && running.retries.is_empty()
            && running.search == Search::Ended
            && running.edge == EdgeState::Spent
            && !running.is_in_herd(shell);
        if over && !self.waits_for_word(hash, shell) && !self.turn_to_silent(hash, peers, shell) {
            let Some(running) = self.resolutions.get(&hash) else { return };
            let failure = running.failure();
            self.finish(hash, Err(failure), peers, shell);
        }
    }

    /// Returns whether a neighbour that rules the blob out may have added it so lately that word of that is on its way.
    fn waits_for_word(&mut self, hash: Hash, shell: &mut Shell) -> bool {
        let Some(running) = self.resolutions.get_mut(&hash) else { return false };
        let rest = shell.config.word_time.saturating_sub(running.waited(shell.now));
        if running.receipt.skipped.is_empty() || rest.is_zero() {
            return false;
        }
        if !std::mem::replace(&mut running.awaits_word, true) {
            running.timers.push(shell.start_timer(rest, Timer::Word { hash }));
        }
        true
    }
}
