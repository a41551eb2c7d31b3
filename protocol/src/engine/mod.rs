//! The engine: everything a node decides, as one pure state machine.
//!
//! A driver tells it what happened with [`Engine::handle`], then takes what is to be done from
//! [`Engine::poll_output`] until it is empty, then waits for the next event or for the moment that
//! [`Engine::poll_timeout`] names, whichever comes first.
//!
//! > After every `handle`, drain `poll_output`.
//!
//! The engine has no clock, no socket, no file and no randomness of its own: the same inputs at the
//! same times, with the same seed, give the same outputs. The bytes of blobs never pass through it:
//! it grants fetches, the driver streams, verifies and stores, and tells of progress.
//!
//! Nothing a peer says can make it panic, grow beyond the bounds of its [`Config`], or believe that a
//! blob is held which is not.

mod adverts;
mod gossip;
mod input;
mod near;
mod output;
mod peers;
pub mod receipt;
mod resolver;
mod serving;
mod shell;

use std::collections::BTreeMap;
use std::time::Duration;

pub use input::{FetchOutcome, Input, LookResult};
pub use output::{DropReason, Output, ServeVerdict, Source, WantError};
pub use peers::NeighbourInfo;

use adverts::Adverts;
use gossip::Gossip;
use near::Near;
use peers::{Peers, Room};
use receipt::AskedAnswer;
use resolver::{Claimed, Resolver, Rumoured, Told};
use serving::Serving;
use shell::{Shell, Timer, TimerKey};

use crate::blob::Hash;
use crate::config::Config;
use crate::id::{FetchId, LookId, PeerId, WantId};
use crate::stats::Stats;
use crate::time::Time;
use crate::wire::delta::ANSWERS_DELTA;
use crate::wire::message::{AskResult, Message, TAKES_NAMES, TAKES_RUMOURS};
use crate::wire::small::{ANSWERS_SMALL, Packs};

/// Decides for one node. See the [module](self) for how to drive it.
#[derive(Debug)]
pub struct Engine {
    me: PeerId,
    shell: Shell,
    peers: Peers,
    gossip: Gossip,
    near: Near,
    resolver: Resolver,
    adverts: Adverts,
    serving: Serving,
    looks: BTreeMap<LookId, Look>,
}

/// Says who wants to know what the store holds.
#[derive(Clone, Copy, Debug)]
enum Look {
    /// The resolver.
    Want { hash: Hash },
    /// A neighbour that asked.
    Ask { peer: PeerId, id: u32 },
}

impl Engine {
    /// Makes the engine of the node `me`. `seed` decides its jitter and nothing else.
    pub fn new(config: Config, me: PeerId, seed: u64, now: Time) -> Self {
        let mut shell = Shell::new(config, seed, now);
        let gossip = Gossip::new();
        gossip.start(&mut shell);
        Self {
            me,
            shell,
            peers: Peers::new(me),
            gossip,
            near: Near::default(),
            resolver: Resolver::new(now),
            adverts: Adverts::default(),
            serving: Serving::default(),
            looks: BTreeMap::new(),
        }
    }

    /// Takes in what happened at `now`, which must not lie before an earlier one.
    pub fn handle(&mut self, now: Time, input: Input) {
        self.shell.now = self.shell.now.max(now);
        match input {
            Input::Get { want, hash, timeout } => self.handle_get(want, hash, (timeout, None)),
            Input::Read { want, hash, timeout, len_max } => {
                self.handle_get(want, hash, (timeout, Some(len_max)));
            }
            Input::Cancel { want } => {
                let (peers, shell) = (&mut self.peers, &mut self.shell);
                self.resolver.leave(want, WantError::Cancelled, peers, shell);
            }
            Input::Looked { look, result } => self.handle_looked(look, result),
            Input::Held { hash, advertise } => self.handle_held(hash, advertise),
            Input::Stored { fetch, hash } => self.handle_stored(fetch, hash),
            Input::Gone { hash } => self.handle_gone(hash),
            Input::Settled => self.resolver.settle(&mut self.peers, &mut self.shell),
            Input::EdgeApart { apart } => self.resolver.edge_apart = apart,
            Input::HeldUp => self.resolver.held_up(&mut self.shell),
            Input::Connected { peer } => self.handle_connected(peer),
            Input::Disconnected { peer } => self.handle_disconnected(peer),
            Input::Message { peer, message } => self.handle_message(peer, message),
            Input::Providers { query, peers } => {
                let (resolver, shell) = (&mut self.resolver, &mut self.shell);
                resolver.providers(query, &peers, self.me, &mut self.peers, shell);
            }
            Input::ProvidersEnded { query } => {
                self.resolver.search_ended(query, &mut self.peers, &mut self.shell);
            }
            Input::Progress { fetch, bytes, groups, size } => {
                let (peers, shell) = (&mut self.peers, &mut self.shell);
                self.resolver.progressed(fetch, (bytes, groups), size, peers, shell);
            }
            Input::Unlisted { fetch } => {
                self.resolver.unlisted(fetch, &self.peers, &mut self.shell)
            }
            Input::FetchEnded { fetch, outcome } => self.handle_fetch_ended(fetch, outcome),
            Input::ServeAsked { serve, peer } => {
                let welcome = !self.peers.is_banned(peer, self.shell.now);
                self.serving.ask(serve, peer, welcome, &mut self.shell);
            }
            Input::ServeEnded { serve } => self.serving.end(serve),
            Input::Timeout => {}
        }
        self.fire_timers();
        for hash in self.resolver.take_looks() {
            self.look(Look::Want { hash }, hash);
        }
    }

    /// Returns the next thing to be done. `None` until the next [`handle`](Self::handle).
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.shell.pop_output()
    }

    /// Returns whether [`poll_output`](Self::poll_output) has something.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.shell.has_output()
    }

    /// Returns what [`poll_output`](Self::poll_output) will give, in its order.
    pub fn outputs(&self) -> impl DoubleEndedIterator<Item = &Output> + ExactSizeIterator {
        self.shell.outputs()
    }

    /// Returns when the engine wants to hear [`Input::Timeout`] if nothing else happens before, and
    /// why, for the log.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Time, &'static str)> {
        self.shell.next_timeout()
    }

    /// Returns what was counted since the start.
    pub fn stats(&self) -> Stats {
        self.shell.stats
    }

    /// Describes the neighbours, by peer id.
    pub fn neighbours(&self) -> Vec<NeighbourInfo> {
        self.peers.infos()
    }

    /// Returns the neighbours that may hold a blob and answer delta requests, best first: a fresh filter that rules it
    /// out is believed.
    pub fn delta_holders(&self, hash: &Hash) -> Vec<PeerId> {
        self.peers.delta_holders(hash, self.shell.now, &self.shell.config)
    }

    /// Returns how many neighbours have said hello: of the others it is not known yet whether they answer delta requests.
    pub fn greeted_neighbours(&self) -> usize {
        self.peers.greeted()
    }

    /// Returns whether a peer would become a neighbour if it connected now.
    pub fn has_room_for(&self, peer: PeerId) -> bool {
        let banned = self.peers.is_banned(peer, self.shell.now);
        !banned && self.peers.room_for(peer, &self.shell.config) != Room::None
    }

    /// Returns as what a neighbour takes many small requests.
    pub fn takes_packs(&self, peer: PeerId) -> Packs {
        self.peers.takes_packs(peer)
    }

    /// Returns how many hashes are being resolved.
    pub fn resolutions(&self) -> usize {
        self.resolver.len()
    }

    fn handle_get(
        &mut self,
        want: WantId,
        hash: Hash,
        (timeout, len_max): (Option<Duration>, Option<u64>),
    ) {
        if !self.resolver.get(want, hash, (timeout, len_max), &mut self.shell) {
            return;
        }
        // What is not held whole need not be looked for before a neighbour is asked for it: the store
        // could only have a part of it, and then the blob is no small one.
        if self.gossip.may_hold(&hash) {
            self.look(Look::Want { hash }, hash);
        } else {
            self.resolver.ask_ahead(hash, &mut self.peers, &mut self.shell);
        }
    }

    fn handle_looked(&mut self, look: LookId, result: LookResult) {
        match self.looks.remove(&look) {
            Some(Look::Want { hash }) => {
                self.resolver.looked(hash, result, &mut self.peers, &mut self.shell);
            }
            Some(Look::Ask { peer, id }) => {
                let result = match result {
                    LookResult::Whole { size } => AskResult::Have { size },
                    LookResult::Part { .. } | LookResult::Absent => AskResult::Absent,
                };
                self.send(peer, Message::Answer { id, result });
            }
            None => {}
        }
    }

    fn handle_held(&mut self, hash: Hash, advertise: bool) {
        self.gossip.hold(&hash, &mut self.shell);
        self.look_again(hash);
        if advertise {
            self.adverts.add(hash, &mut self.shell);
        }
    }

    /// Takes in that a fetch stored a blob. One that runs reports its end next; one that was stopped
    /// meanwhile does not, and its blob is as good as any other.
    fn handle_stored(&mut self, fetch: FetchId, hash: Hash) {
        self.gossip.hold(&hash, &mut self.shell);
        if self.resolver.hash_of(fetch).is_none() {
            self.resolver.stored_late(hash, fetch, &mut self.peers);
            self.look_again(hash);
        }
    }

    /// Looks into the store for those who still wait for a blob that may have come.
    fn look_again(&mut self, hash: Hash) {
        if self.resolver.held(hash) {
            self.look(Look::Want { hash }, hash);
        }
    }

    fn handle_gone(&mut self, hash: Hash) {
        self.gossip.release(&hash, &mut self.shell);
        self.adverts.remove(&hash, &mut self.shell);
    }

    fn handle_connected(&mut self, peer: PeerId) {
        if peer == self.me || self.peers.contains(peer) {
            return;
        }
        if self.peers.is_banned(peer, self.shell.now) {
            return self.shell.emit(Output::Drop { peer, reason: DropReason::Banned });
        }
        match self.peers.room_for(peer, &self.shell.config) {
            Room::Free => {}
            Room::InsteadOf(other) => {
                self.shell.emit(Output::Drop { peer: other, reason: DropReason::Full });
                self.handle_disconnected(other);
            }
            Room::None => return self.shell.emit(Output::Drop { peer, reason: DropReason::Full }),
        }
        // The others first: what they are told next must continue what the newcomer is told now.
        self.gossip.flush(&self.peers.ids(), &mut self.shell);
        self.peers.insert(peer);
        self.gossip.greet(peer, &mut self.shell);
        self.shell.start_timer(self.shell.config.hello_timeout, Timer::Greeting { peer });
        self.resolver.consider(peer, &mut self.peers, &mut self.shell);
    }

    fn handle_disconnected(&mut self, peer: PeerId) {
        for hash in self.peers.remove(peer) {
            let (peers, shell) = (&mut self.peers, &mut self.shell);
            self.resolver.unanswered(peer, hash, AskedAnswer::Gone, peers, shell);
        }
        self.near.forget(peer);
        self.looks
            .retain(|_, look| !matches!(look, Look::Ask { peer: asker, .. } if *asker == peer));
        self.resolver.forget(peer, &mut self.peers, &mut self.shell);
    }

    fn handle_message(&mut self, peer: PeerId, message: Message) {
        let Some(neighbour) = self.peers.get_mut(peer) else { return };
        if let Message::Hello(hello) = &message {
            neighbour.greeted = true;
            neighbour.answers_small = hello.features & ANSWERS_SMALL != 0;
            neighbour.answers_delta = hello.features & ANSWERS_DELTA != 0;
            neighbour.packs = Packs::of(hello.features);
            neighbour.takes_names = hello.features & TAKES_NAMES != 0;
            neighbour.takes_rumours = hello.features & TAKES_RUMOURS != 0;
            if hello.common_version().is_none() {
                self.shell.emit(Output::Drop { peer, reason: DropReason::Version });
            }
            return;
        }
        if !neighbour.greeted {
            return self.shell.emit(Output::Drop { peer, reason: DropReason::Malformed });
        }
        match message {
            Message::Filter(frame) => {
                let accepted = neighbour.accept(frame, self.shell.now);
                self.filter_changed(peer, accepted.is_ok());
            }
            Message::FilterDelta(delta) => {
                let changed = !delta.prefixes.is_empty();
                if !neighbour.apply(&delta, self.shell.now) {
                    self.shell.stats.filters_refused += 1;
                    self.send(peer, Message::FilterRequest);
                } else if changed {
                    self.filter_changed(peer, true);
                }
            }
            Message::FilterRequest => {
                let interval = self.shell.config.filter_interval;
                if neighbour.may_ask_for_filter(self.shell.now, interval) {
                    // First what all are owed, so that the next delta continues what it is told now.
                    self.gossip.flush(&self.peers.ids(), &mut self.shell);
                    self.gossip.send_whole(peer, &mut self.shell);
                }
            }
            Message::Ask { id, hash } => self.handle_ask(peer, id, hash),
            Message::Answer { id, result } => {
                let (peers, shell) = (&mut self.peers, &mut self.shell);
                if self.near.answered(peer, id, result, peers, shell) {
                    return;
                }
                if let Some(hash) = self.peers.answered(peer, id) {
                    let (peers, shell) = (&mut self.peers, &mut self.shell);
                    self.resolver.answered(peer, hash, result, peers, shell);
                }
            }
            Message::Groups { hash, size, follows, runs } => {
                let (peers, shell) = (&mut self.peers, &mut self.shell);
                let told = Told { size, follows, runs: &runs };
                self.resolver.groups_told(peer, hash, told, peers, shell);
            }
            Message::Claims { hash, seeks, done, runs } => {
                let (peers, shell) = (&mut self.peers, &mut self.shell);
                let claimed = Claimed { seeks, done, runs: &runs };
                self.resolver.claims_told(peer, hash, claimed, peers, shell);
                if seeks {
                    self.handle_seeker(peer, hash);
                }
            }
            Message::Near { hash, holder } => {
                let (peers, shell) = (&mut self.peers, &mut self.shell);
                self.resolver.named(peer, hash, holder, peers, shell);
            }
            Message::Rumour { hash, owner, done, run } => {
                let (peers, shell) = (&mut self.peers, &mut self.shell);
                let rumoured = Rumoured { owner, done, run };
                self.resolver.rumour_told(peer, hash, rumoured, peers, shell);
            }
            Message::Goodbye => self.handle_disconnected(peer),
            Message::Hello(_) => {}
        }
    }

    /// Names to a neighbour that is about to ask the edge who else holds the blob.
    fn handle_seeker(&mut self, peer: PeerId, hash: Hash) {
        let held = self.gossip.may_hold(&hash);
        self.near.sought(peer, hash, held, &mut self.peers, &mut self.shell);
    }

    /// Answers a question at once where the blob cannot be held, and looks into the store where it
    /// may be: a neighbour's false positives cost us nothing.
    fn handle_ask(&mut self, peer: PeerId, id: u32, hash: Hash) {
        self.shell.stats.asks_received += 1;
        if !self.gossip.may_hold(&hash) {
            return self.send(peer, Message::Answer { id, result: AskResult::Absent });
        }
        if self.looks.len() >= self.shell.config.resolutions_max {
            let retry_after = self.shell.config.busy_retry_after.as_millis();
            let retry_after_ms = u32::try_from(retry_after).unwrap_or(u32::MAX);
            return self
                .send(peer, Message::Answer { id, result: AskResult::Busy { retry_after_ms } });
        }
        self.look(Look::Ask { peer, id }, hash);
    }

    fn handle_fetch_ended(&mut self, fetch: FetchId, outcome: FetchOutcome) {
        if matches!(outcome, FetchOutcome::Complete { .. })
            && let Some(hash) = self.resolver.hash_of(fetch)
        {
            self.gossip.hold(&hash, &mut self.shell);
        }
        self.resolver.fetch_ended(fetch, outcome, &mut self.peers, &mut self.shell);
    }

    fn filter_changed(&mut self, peer: PeerId, usable: bool) {
        if !usable {
            self.shell.stats.filters_refused += 1;
        }
        self.resolver.consider(peer, &mut self.peers, &mut self.shell);
    }

    fn look(&mut self, look: Look, hash: Hash) {
        let id = self.shell.next_look();
        self.looks.insert(id, look);
        self.shell.emit(Output::Look { look: id, hash });
    }

    fn send(&mut self, peer: PeerId, message: Message) {
        self.shell.emit(Output::Send { peer, message });
    }

    fn fire_timers(&mut self) {
        while let Some(timer) = self.shell.pop_timer() {
            let (resolver, peers, shell) = (&mut self.resolver, &mut self.peers, &mut self.shell);
            match timer {
                Timer::Ask { hash, peer } => {
                    resolver.unanswered(peer, hash, AskedAnswer::Timeout, peers, shell);
                }
                Timer::Hedge { hash } => resolver.hedge(hash, peers, shell),
                Timer::Prepare { hash } => resolver.prepare_edge(hash, peers, shell),
                Timer::FirstGroup { hash, fetch } => {
                    resolver.check_first_group(hash, fetch, peers, shell);
                }
                Timer::Stall { hash, fetch } => resolver.check_stall(hash, fetch, peers, shell),
                Timer::Retry { hash, source } => resolver.retry_due(hash, source, peers, shell),
                Timer::Search { hash, query } => {
                    resolver.search_timed_out(hash, query, peers, shell);
                }
                Timer::Word { hash } => resolver.advance(hash, peers, shell),
                Timer::Deadline { want } => {
                    resolver.leave(want, WantError::TimedOut, peers, shell);
                }
                Timer::Swarm { hash } => resolver.tick(hash, peers, shell),
                Timer::Herd { hash } => resolver.herd_due(hash, peers, shell),
                Timer::Greeting { peer } => {
                    if peers.get_mut(peer).is_some_and(|neighbour| !neighbour.greeted) {
                        shell.emit(Output::Drop { peer, reason: DropReason::Malformed });
                    }
                }
                Timer::Gossip => self.gossip.flush(&peers.ids(), shell),
                Timer::Refresh => self.gossip.refresh(&peers.ids(), shell),
                Timer::Advert => self.adverts.fire(shell),
            }
        }
    }
}
