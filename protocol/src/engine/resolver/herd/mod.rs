//! The herd: who of the neighbours brings what from the edge, so that a blob crosses their uplink once.
//!
//! Nobody leads. A node that is about to ask the edge says so to its neighbours and listens for a moment: who
//! brings something already says what. From then on each of them *claims* the range that it asks the edge for,
//! before it does, and takes what others claim from them as it comes. Ranges are chosen in the order of the
//! weights of their owners (rendezvous hashing; see [`pieces`](super::swarm)), so that two who choose at the
//! same moment rarely choose the same; where they do, the one with less weight lets go.
//!
//! A claim is a *lease* (Gray and Cheriton, *Leases: An Efficient Fault-Tolerant Mechanism for Distributed File
//! Cache Consistency*, SOSP 1989): it ends when its owner is gone, says nothing for `claim_ttl` or as long
//! as it has held, or brings nothing for much longer than the edge needs here. What a peer claims is believed for nothing else: a liar
//! costs the time of one lease.
//!
//! Until the edge's group list is proven there is one range only, the first; whoever has it gives the list with
//! it. Where the edge has no list, one brings everything, and the others wait for it.

mod claims;
mod contention;
mod links;
mod names;
mod rumours;
mod stream;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use claims::Claim;
pub(crate) use claims::Claimed;
use contention::Contention;
pub(crate) use rumours::Rumoured;
use rumours::Rumours;
use stream::Pace;

use super::Resolver;
use super::resolution::{EdgeState, Resolution};
use crate::blob::{GROUP_LEN, Hash};
use crate::engine::peers::Peers;
use crate::engine::receipt::Found;
use crate::engine::{Output, Shell, Source, Timer, TimerKey};
use crate::id::{FetchId, PeerId};
use crate::time::{Time, rate_of, time_for};
use crate::wire::message::Message;

/// The first request is for so many ranges. The list that the next ones wait for comes behind what the edge's kernel
/// has of the first, and a round trip later; one range may be over by then, and nothing under way.
const FIRST_RANGES: u64 = 2;
/// Up to so many neighbours that fetch the blob too, each asks for two ranges at once: with more the edge's
/// link is full anyhow.
const FEW: usize = 4;
/// A range that takes less than this leaves its connection idle for a good part of the time.
const QUICK_RANGE: Duration = Duration::from_millis(150);
/// How much longer than the edge partners may take for what they were to give, before the edge is asked for it:
/// that is a second copy.
const PARTNER_PATIENCE: u64 = 4;
/// How long a range that belongs to a neighbour is left to it before the next in the order of weights takes it, at
/// least, and that one to the next: words of claims take their time, and more of it where machines are busy.
const OWNER_PATIENCE: Duration = Duration::from_millis(30);
/// The part of the time of a range that it is left for, where that is more.
const OWNER_PATIENCE_PART: u32 = 32;
/// Those behind so many others wait no longer than these.
const OWNERS_MOST: u32 = 4;
/// Peers that give less than half of what the edge would, and that for longer than this, are slow.
const SLIP: Duration = Duration::from_millis(500);
/// Bytes a second that the edge is thought to give before it gave any.
const EDGE_RATE_UNKNOWN: u64 = 8 << 20;

/// Is what one resolution knows of the edge and of those who ask it.
#[derive(Debug, Default)]
pub(crate) struct Herd {
    /// What neighbours bring.
    claims: BTreeMap<PeerId, Vec<Claim>>,
    /// What those are said to bring who are no neighbours.
    rumours: Rumours,
    /// Neighbours that want the blob from the edge, too, and when they last said so.
    seekers: BTreeMap<PeerId, Time>,
    /// Whether there ever was one.
    met: bool,
    /// Until when neighbours are listened to before the edge is asked; none before they were told.
    listens_until: Option<Time>,
    /// Peers that neighbours named as holders meanwhile, and who did.
    named: BTreeMap<PeerId, PeerId>,
    /// What they were told last that we bring, and when they are told again.
    told: Vec<Range<u64>>,
    renews_at: Time,
    /// Ranges that came whole, and when. They stay claimed until word of what they brought has gone round.
    brought: Vec<(Range<u64>, Time)>,
    /// Whether the edge is one of the sources of the swarm.
    joined: bool,
    /// Whether the edge has no group list.
    unlisted: bool,
    /// Since when ranges that belong to neighbours are left to them; none while there are others.
    leaves_since: Option<Time>,
    /// When its turn comes to ask the edge among more than its neighbours; none before the list is proven.
    turn: Option<Time>,
    /// Whether there was nothing to ask the edge for, and nothing has changed since.
    dry: bool,
    contention: Contention,
    /// What the edge takes for a range, lately.
    range_time: Option<Duration>,
    /// How the one request of a lone node goes, where several would be several connections.
    pace: Option<Pace>,
    /// The next look at claims.
    planned: Option<(Time, TimerKey)>,
}

impl Herd {
    /// Has the edge be looked at again: something that is missing may be nobody's.
    pub(crate) fn moisten(&mut self) {
        self.dry = false;
    }

    /// Returns whether the edge is one of the sources of the swarm.
    pub(crate) fn has_joined(&self) -> bool {
        self.joined
    }

    /// Returns for how long a range is left to those who go before us.
    fn patience_with(&self, before_us: u32) -> Duration {
        let part = self.range_time.unwrap_or_default() / OWNER_PATIENCE_PART;
        part.max(OWNER_PATIENCE) * before_us.min(OWNERS_MOST)
    }

    fn took(&mut self, time: Duration) {
        self.range_time = Some(self.range_time.map_or(time, |old| old / 2 + time / 2));
    }
}

impl Resolver {
    /// Returns whether nobody is known to bring the blob from the edge, so that it may be asked now. Neighbours
    /// are told first, and listened to for a moment.
    pub(super) fn may_ask_edge(&mut self, hash: Hash, peers: &Peers, shell: &mut Shell) -> bool {
        let neighbours = peers.ids();
        if neighbours.is_empty() || !shell.config.shares_parts {
            return true;
        }
        let Some(running) = self.resolutions.get_mut(&hash) else { return false };
        if running.herd.listens_until.is_none() {
            let overheard = self.overheard.take(hash, shell.config.claim_ttl, shell.now);
            for (peer, word) in overheard {
                running.herd.meet(peer, (word.runs, word.done), word.at);
            }
            for peer in neighbours {
                let message = Message::Claims { hash, seeks: true, done: 0, runs: Vec::new() };
                shell.emit(Output::Send { peer, message });
            }
        }
        if let Some(until) = running.herd.contention.rests_until(shell.now) {
            self.plan_herd(hash, until, shell);
            return false;
        }
        let pause = shell.config.edge_pause / 2;
        let until = *running
            .herd
            .listens_until
            .get_or_insert_with(|| shell.now + pause + shell.jitter(pause));
        if shell.now < until {
            self.plan_herd(hash, until, shell);
            return false;
        }
        let (live, ends_at) = running.live_claims(shell);
        let ends_at = match running.herd.rumours.begun(shell.now) {
            _ if !live.is_empty() => ends_at,
            Some(until) => until,
            None => return true,
        };
        self.plan_herd(hash, ends_at, shell);
        false
    }

    /// Makes the edge one of the sources of a swarm whose list is proven, and returns whether it is.
    pub(super) fn join_edge(&mut self, hash: Hash) -> bool {
        let Some(running) = self.resolutions.get_mut(&hash) else { return false };
        let proven = running.swarm.as_ref().is_some_and(|swarm| swarm.proven);
        running.herd.joined |= proven;
        proven && !running.herd.unlisted
    }

    /// Returns the range that the edge is asked for first, before anything is known of the blob; none for all
    /// that is missing of one whose length is known to be no swarm's.
    pub(super) fn first_of_edge(&self, hash: Hash, shell: &Shell) -> Option<Range<u64>> {
        let running = self.resolutions.get(&hash)?;
        let whole = running.swarm.is_none() && running.receipt.size.is_some();
        (!whole && !running.herd.unlisted).then(|| 0..FIRST_RANGES * range_groups(shell))
    }

    /// Asks the edge for ranges that nobody else brings, as many at once as are of use.
    pub(super) fn fetch_from_edge(&mut self, hash: Hash, peers: &Peers, shell: &mut Shell) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let ready =
            running.edge != EdgeState::Spent && !running.retries.contains_key(&Source::Edge);
        let Some(swarm) = running.swarm.as_ref().filter(|swarm| swarm.proven) else { return };
        if !ready || running.herd.unlisted || running.herd.dry || swarm.pieces.whole().is_full() {
            return;
        }
        if let Some(until) = running.herd.contention.rests_until(shell.now) {
            return self.plan_herd(hash, until, shell);
        }
        let alone = swarm.holders() == 0;
        let (asked, gives) = (running.asks_edge(), running.receipt.bytes_edge > 0);
        running.herd.joined |=
            asked && (alone || gives) || alone && !running.herd.claims.is_empty();
        let streams = self.streams_from_edge(hash, shell);
        let Some(running) = self.resolutions.get(&hash) else { return };
        let Some(swarm) = &running.swarm else { return };
        // An edge that gives is not left for peers of whom nothing is known yet.
        let helps = || running.lan_slowness(shell.now).unwrap_or(gives);
        if !running.herd.joined || !(alone || helps()) {
            return;
        }
        // Many flows that begin together over one link cost each other packets, and the last of them time. So there
        // are more than two only where a range is over before the next request is answered.
        let quick = running.herd.range_time.is_some_and(|time| time < QUICK_RANGE);
        let lone_max =
            shell.config.edge_ranges_max.min(if self.edge_apart { 2 } else { usize::MAX });
        let at_once = match swarm.getters.len() {
            0 if streams => 1,
            0 if quick => lone_max,
            0 => lone_max.min(2),
            1..=FEW => shell.config.edge_ranges_max.min(2),
            _ => 1,
        };
        // Ranges that end together, and short ones, would leave its link idle until the next is answered.
        let more = if swarm.getters.is_empty() && !streams { lone_max } else { at_once };
        let range_bytes = shell.config.edge_range_bytes;
        let has_room = |this: &Self| {
            let (ranges, rest) = this.resolutions.get(&hash).map_or((0, 0), |of| of.rest_of_edge());
            ranges < at_once || ranges < more && rest < range_bytes
        };
        let range = if streams { u64::MAX } else { range_groups(shell) };
        while has_room(self) && self.fetch_edge_range(hash, range, peers, shell) {}
    }

    /// Asks the edge for one range more of at most so many groups, and returns whether there was one.
    fn fetch_edge_range(
        &mut self,
        hash: Hash,
        groups_max: u64,
        peers: &Peers,
        shell: &mut Shell,
    ) -> bool {
        let Some(running) = self.resolutions.get_mut(&hash) else { return false };
        if running.fetches.len() >= shell.config.fetches_per_hash_max {
            return false;
        }
        let (mut claimed, mut ends_at) = running.herd.live(true, shell);
        claimed.sort_unstable_by_key(|groups| groups.start);
        // What a crowd is said to bring that brings nothing.
        let mut doubtful = Vec::new();
        if peers.is_crowded(&shell.config) {
            let crowd = running.crowd(shell);
            if let Some(at) = running.waits_for_crowd(&crowd, shell) {
                running.herd.dry = true;
                self.plan_herd(hash, at, shell);
                return false;
            }
            if crowd.is_believed(shell.now) {
                ends_at = ends_at.min(crowd.believed_until);
                claimed = united(&claimed, &crowd.brings);
            } else {
                doubtful = crowd.brings;
            }
        }
        let Some(swarm) = &running.swarm else { return false };
        let free = swarm.pieces.pick_unclaimed(groups_max, &united(&claimed, &doubtful));
        let free = match free {
            None if !doubtful.is_empty() => swarm.pieces.pick_unclaimed(groups_max, &claimed),
            free => free,
        };
        let before_us = free.as_ref().map_or(0, |(_, before_us)| *before_us);
        let since = *running.herd.leaves_since.get_or_insert(shell.now);
        let until = since + running.herd.patience_with(before_us);
        if shell.now < until {
            running.herd.dry = true;
            self.plan_herd(hash, until, shell);
            return false;
        }
        running.herd.leaves_since = None;
        let picked = free.map(|(groups, _)| groups).or_else(|| {
            let by_edge = running.ranges_of_edge();
            let range_bytes = shell.config.edge_range_bytes;
            let rate = running.herd.range_time.map(|time| rate_of(range_bytes, time));
            if swarm.holders() > 0 && !running.is_of_herd() {
                let behind = |gap: &Range<u64>| {
                    let bytes = (gap.end - gap.start).saturating_mul(GROUP_LEN);
                    let needs = time_for(bytes, rate.unwrap_or(EDGE_RATE_UNKNOWN));
                    running.is_behind(gap, needs, shell.now)
                };
                return swarm.pieces.end_gap(range_groups(shell), &by_edge, behind);
            }
            // What partners bring costs the edge a second time, and they are slow together: a block has to do.
            let alone = swarm.holders() == 0;
            let (most, patience) =
                if alone { (1, PARTNER_PATIENCE) } else { (range_groups(shell), 1) };
            // Leases say how long one is waited for that brings it.
            let excluded = united(&by_edge, &claimed);
            let slow = swarm.pieces.end_gap(most, &excluded, |_| true)?;
            let waits = alone && !by_edge.is_empty();
            let rate = rate.map(|rate| rate / patience);
            (!waits && running.is_slow(&slow, rate, shell.now)).then_some(slow)
        });
        let Some(groups) = picked else {
            running.herd.dry = !swarm.pieces.is_end();
            self.plan_herd(hash, ends_at, shell);
            return false;
        };
        if let Some(swarm) = &mut running.swarm {
            swarm.pieces.bring(&groups, true);
        }
        // The claim goes out with the request: whoever hears it does not ask for the same.
        self.start_fetch(hash, Source::Edge, (Found::Edge, Some(groups)), shell);
        self.tell_claims(hash, peers, shell);
        true
    }

    /// Takes in that the edge has no group list: one fetch brings everything.
    pub(crate) fn unlisted(&mut self, fetch: FetchId, peers: &Peers, shell: &mut Shell) {
        let Some(hash) = self.fetches.get(&fetch).copied() else { return };
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        running.herd.unlisted = true;
        self.range_over(hash, fetch, shell);
        if let Some(running) = self.resolutions.get_mut(&hash)
            && let Some(fetch) = running.fetches.get_mut(&fetch)
        {
            fetch.groups = None;
        }
        self.tell_claims(hash, peers, shell);
    }

    /// Takes in that a claim may be over, or ours is to be told again.
    pub(crate) fn herd_due(&mut self, hash: Hash, peers: &mut Peers, shell: &mut Shell) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        (running.herd.planned, running.herd.dry) = (None, false);
        let (live, ends_at) = running.live_claims(shell);
        let renews_at = running.asks_edge().then_some(running.herd.renews_at);
        if !live.is_empty() {
            self.plan_herd(hash, ends_at, shell);
        }
        if let Some(renews_at) = renews_at.filter(|at| *at > shell.now) {
            self.plan_herd(hash, renews_at, shell);
        }
        self.advance(hash, peers, shell);
    }

    /// Takes in that a range of the edge is at its end.
    pub(super) fn edge_range_over(
        &mut self,
        hash: Hash,
        groups: Range<u64>,
        (bytes, took): (u64, Duration),
        now: Time,
    ) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        running.herd.dry = false;
        if bytes > GROUP_LEN && running.herd.pace.take().is_none() {
            running.herd.took(took);
        }
        if running.holds(&groups) {
            running.herd.brought.push((groups, now));
        }
    }

    fn plan_herd(&mut self, hash: Hash, at: Time, shell: &mut Shell) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        if running.herd.planned.is_some_and(|(planned, _)| planned <= at && planned > shell.now) {
            return;
        }
        let at = at.max(shell.now + Duration::from_nanos(1));
        let key = shell.start_timer(at - shell.now, Timer::Herd { hash });
        if let Some((_, old)) = running.herd.planned.replace((at, key)) {
            shell.stop_timer(old);
        }
    }
}

impl Resolution {
    /// Returns whether neighbours bring the blob from the edge.
    pub(super) fn is_in_herd(&self, shell: &Shell) -> bool {
        !self.live_claims(shell).0.is_empty()
    }

    /// Returns how many groups the edge gave so far.
    pub(super) fn groups_of_edge(&self) -> u64 {
        self.receipt.bytes_edge / GROUP_LEN
    }

    /// Returns whether the edge is one of the sources of the swarm, which is asked range by range.
    pub(super) fn is_fed_by_edge(&self) -> bool {
        let proven = self.swarm.as_ref().is_some_and(|swarm| swarm.proven);
        proven && self.herd.joined && !self.herd.unlisted
    }

    /// Takes back the timer of the herd, at the end of the resolution.
    pub(super) fn part_from_herd(&mut self, shell: &mut Shell) {
        if let Some((_, timer)) = self.herd.planned.take() {
            shell.stop_timer(timer);
        }
    }

    fn asks_edge(&self) -> bool {
        self.fetches.values().any(|fetch| fetch.source == Source::Edge)
    }

    fn holds(&self, groups: &Range<u64>) -> bool {
        self.swarm.as_ref().is_some_and(|swarm| swarm.pieces.holds(groups))
    }

    /// Returns whether others want the blob too, or did: what each of them asks the edge for besides, because a peer
    /// was silent for a moment, adds up.
    pub(super) fn is_of_herd(&self) -> bool {
        self.herd.met || self.swarm.as_ref().is_some_and(|swarm| !swarm.getters.is_empty())
    }

    /// Returns whether the peers that give the blob are known to take much longer for the rest than the edge would.
    pub(super) fn is_lan_slow(&self, now: Time) -> bool {
        self.lan_slowness(now) == Some(true)
    }

    /// Returns whether the edge, asked because peers were slow, is to stay.
    pub(super) fn needs_edge(&self, now: Time) -> bool {
        self.lan_slowness(now).unwrap_or(self.herd.joined)
    }

    /// Returns whether the peers that give the blob take much longer for the rest than the edge would; none where
    /// that cannot be said yet.
    fn lan_slowness(&self, now: Time) -> Option<bool> {
        let swarm = self.swarm.as_ref()?;
        let mut rate = None;
        for fetch in self.fetches.values() {
            if fetch.source != Source::Edge {
                let own = self.rate_to_count_on(fetch, now)?;
                rate = Some(own.saturating_add(rate.unwrap_or(0)));
            }
        }
        let missing = swarm.pieces.missing_bytes();
        let by_edge = time_for(missing, EDGE_RATE_UNKNOWN);
        Some(time_for(missing, rate?) > by_edge * 2 + SLIP)
    }

    /// Returns how many ranges the edge is asked for, and how many bytes of them are still to come.
    pub(super) fn rest_of_edge(&self) -> (usize, u64) {
        let of_edge = self.fetches.values().filter(|fetch| fetch.source == Source::Edge);
        of_edge.fold((0, 0), |(ranges, rest), fetch| {
            let groups = fetch.groups.as_ref().map_or(u64::MAX, |own| own.end - own.start);
            let own = groups.saturating_mul(GROUP_LEN).saturating_sub(fetch.bytes);
            (ranges + 1, own.saturating_add(rest))
        })
    }

    /// Returns the ranges that the edge is asked for, in the order of their starts.
    fn ranges_of_edge(&self) -> Vec<Range<u64>> {
        let of_edge = self.fetches.values().filter(|fetch| fetch.source == Source::Edge);
        let mut ranges: Vec<Range<u64>> =
            of_edge.map(|fetch| fetch.groups.clone().unwrap_or(0..u64::MAX)).collect();
        ranges.sort_unstable_by_key(|groups| groups.start);
        ranges
    }
}

/// Returns the ranges of both, in the order of their starts.
fn united(some: &[Range<u64>], more: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut all = [some, more].concat();
    all.sort_unstable_by_key(|groups| groups.start);
    all
}

fn range_groups(shell: &Shell) -> u64 {
    (shell.config.edge_range_bytes / GROUP_LEN).max(1)
}
