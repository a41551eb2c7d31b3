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

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use super::Resolver;
use super::resolution::{EdgeState, Holder, Resolution, Running};
use super::stop_fetch;
use super::swarm::{ranges, rate_of, time_for, weight};
use crate::blob::{GROUP_LEN, Hash};
use crate::config::Config;
use crate::engine::peers::Peers;
use crate::engine::receipt::{Found, Note};
use crate::engine::{FetchOutcome, Output, Shell, Source, Timer, TimerKey};
use crate::id::{FetchId, PeerId};
use crate::time::Time;
use crate::wire::message::{CLAIMS_MAX, Message};

/// A claim is overdue after so many times what a range takes us, and this more; and after this time where the list
/// is not proven here, so that there is nothing to do but wait.
const OVERDUE_FACTOR: u32 = 4;
const OVERDUE_GRACE: Duration = Duration::from_secs(1);
const OVERDUE_FIRST: Duration = Duration::from_secs(10);
/// After this time even one who brings everything, and has nothing to show before its end.
const OVERDUE_EVERYTHING: Duration = Duration::from_secs(600);
/// Claims are told again after this part of the time that they hold for.
const RENEW_PART: u32 = 2;
/// A claim that has held for long holds for as long again without a word, but no longer than this.
const LEASE_MOST: Duration = Duration::from_secs(20);
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

/// Holders that neighbours may name of one blob: of more, nobody tries all. Two are of use where the first has no room.
const NAMED_MAX: usize = 4;

/// How long a neighbour is not believed that named one who gave nothing, or nothing in time. It may have done so in good
/// faith: the holder cannot be reached from here, or has much to do.
const NAMES_REST: Duration = Duration::from_secs(60);
const NAMES_REST_LATE: Duration = Duration::from_secs(5);

/// Is what one resolution knows of the edge and of those who ask it.
#[derive(Debug, Default)]
pub(crate) struct Herd {
    /// What neighbours bring.
    claims: BTreeMap<PeerId, Vec<Claim>>,
    /// Neighbours that want the blob from the edge, too.
    seekers: BTreeSet<PeerId>,
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
    /// Whether there was nothing to ask the edge for, and nothing has changed since.
    dry: bool,
    /// What the edge takes for a range, lately.
    range_time: Option<Duration>,
    /// The next look at claims.
    planned: Option<(Time, TimerKey)>,
}

/// Is what a neighbour says that it brings from the edge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claimed<'a> {
    /// Whether it wants to hear who else does.
    pub(crate) seeks: bool,
    /// How many groups of the blob the edge gave it so far.
    pub(crate) done: u64,
    /// First group and number of groups of each run.
    pub(crate) runs: &'a [(u64, u64)],
}

/// Is a range that a neighbour brings from the edge.
#[derive(Clone, Debug)]
struct Claim {
    groups: Range<u64>,
    /// When it was claimed.
    since: Time,
    /// When its owner last showed that the edge gives it something.
    moved: Time,
    /// When its owner last said anything.
    heard: Time,
    /// What its owner had got from the edge by then.
    done: u64,
}

/// How long claims hold.
#[derive(Clone, Copy, Debug)]
struct Leases {
    /// Without a word.
    ttl: Duration,
    /// Without a sign of the edge.
    patience: Duration,
    /// In all.
    most: Duration,
}

impl Claim {
    /// Returns when it ends, unless its owner says or brings something before. One that brings everything has
    /// nothing to show before the end.
    fn ends_at(&self, leases: Leases) -> Time {
        let silent = self.heard + lease(leases.ttl, self.heard - self.since);
        if self.groups.end == u64::MAX {
            return silent.min(self.since + OVERDUE_EVERYTHING);
        }
        let idle = self.moved + lease(leases.patience, self.moved - self.since);
        silent.min(idle).min(self.since + leases.most)
    }
}

impl Herd {
    /// Returns the claims that hold, and when the first of them ends.
    fn live(&self, proven: bool, shell: &Shell) -> (Vec<Range<u64>>, Time) {
        let (now, config) = (shell.now, &shell.config);
        let known = self.range_time.map(|time| time.saturating_mul(OVERDUE_FACTOR) + OVERDUE_GRACE);
        let most = known.unwrap_or(if proven { Duration::MAX } else { OVERDUE_FIRST });
        let leases = Leases { ttl: config.claim_ttl, patience: config.claim_patience, most };
        let mut first = now + leases.ttl;
        let mut live = Vec::new();
        for claim in self.claims.values().flatten() {
            let ends_at = claim.ends_at(leases);
            if ends_at > now {
                first = first.min(ends_at);
                live.push(claim.groups.clone());
            }
        }
        (live, first)
    }

    /// Takes in that a neighbour brought something.
    pub(crate) fn brought(&mut self, peer: PeerId, now: Time) {
        for claim in self.claims.get_mut(&peer).into_iter().flatten() {
            claim.moved = now;
        }
    }

    /// Forgets a neighbour that is gone, and what it was to bring.
    pub(crate) fn forget(&mut self, peer: PeerId) {
        self.seekers.remove(&peer);
        self.dry &= self.claims.remove(&peer).is_none();
    }

    /// Has the edge be looked at again: something that is missing may be nobody's.
    pub(crate) fn moisten(&mut self) {
        self.dry = false;
    }

    /// Returns whether the edge is one of the sources of the swarm.
    pub(crate) fn has_joined(&self) -> bool {
        self.joined
    }

    /// Takes in what a neighbour brings that wants the blob, too.
    fn meet(&mut self, peer: PeerId, word: (Vec<Range<u64>>, u64), now: Time) {
        self.seekers.insert(peer);
        self.met = true;
        self.hear(peer, word, now);
    }

    /// Takes in a holder that a neighbour named, and returns whether it is welcome: it was asked for, and not too many
    /// came before.
    fn name(&mut self, holder: PeerId, by: PeerId) -> bool {
        let welcome = self.listens_until.is_some() && self.named.len() < NAMED_MAX;
        welcome && self.named.insert(holder, by).is_none()
    }

    /// Returns how long a source may take to its first group before the edge is asked beside it. One of whom nothing is
    /// known but its name has half of the time: a name is made up in no time.
    pub(super) fn first_group_time(&self, source: Source, config: &Config) -> Duration {
        let named = source.peer().is_some_and(|peer| self.named.contains_key(&peer));
        if named { config.first_group_hedge / 2 } else { config.first_group_hedge }
    }

    fn hear(&mut self, peer: PeerId, (runs, done): (Vec<Range<u64>>, u64), now: Time) {
        let before = self.claims.remove(&peer).unwrap_or_default();
        let moves = before.iter().any(|claim| claim.done < done);
        let claims = runs.into_iter().map(|groups| {
            // Told in other words it is still the same: else it could be told for ever.
            let overlaps =
                |claim: &&Claim| claim.groups.start < groups.end && groups.start < claim.groups.end;
            let same = before.iter().filter(overlaps).min_by_key(|claim| claim.since);
            let since = same.map_or(now, |claim| claim.since);
            let moved = same.filter(|_| !moves).map_or(now, |claim| claim.moved);
            Claim { groups, since, moved, heard: now, done }
        });
        let claims: Vec<Claim> = claims.collect();
        self.dry = false;
        if !claims.is_empty() {
            self.claims.insert(peer, claims);
        }
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
        if !live.is_empty() {
            self.plan_herd(hash, ends_at, shell);
        }
        live.is_empty()
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
        let alone = swarm.holders() == 0;
        let (asked, gives) = (running.asks_edge(), running.receipt.bytes_edge > 0);
        running.herd.joined |=
            asked && (alone || gives) || alone && !running.herd.claims.is_empty();
        // An edge that gives is not left for peers of whom nothing is known yet.
        let helps = || running.lan_slowness(shell.now).unwrap_or(gives);
        if !running.herd.joined || !(alone || helps()) {
            return;
        }
        // Many flows that begin together over one link cost each other packets, and the last of them time. So there
        // are more than two only where a range is over before the next request is answered.
        let quick = running.herd.range_time.is_some_and(|time| time < QUICK_RANGE);
        let at_once = match swarm.getters.len() {
            0 if quick => shell.config.edge_ranges_max,
            0 => shell.config.edge_ranges_max.min(2),
            1..=FEW => shell.config.edge_ranges_max.min(2),
            _ => 1,
        };
        // Ranges that end together, and short ones, would leave its link idle until the next is answered.
        let more = if swarm.getters.is_empty() { shell.config.edge_ranges_max } else { at_once };
        let range_bytes = shell.config.edge_range_bytes;
        let has_room = |this: &Self| {
            let (ranges, rest) = this.resolutions.get(&hash).map_or((0, 0), |of| of.rest_of_edge());
            ranges < at_once || ranges < more && rest < range_bytes
        };
        while has_room(self) && self.fetch_edge_range(hash, peers, shell) {}
    }

    /// Asks the edge for one range more, and returns whether there was one.
    fn fetch_edge_range(&mut self, hash: Hash, peers: &Peers, shell: &mut Shell) -> bool {
        let Some(running) = self.resolutions.get_mut(&hash) else { return false };
        let Some(swarm) = &running.swarm else { return false };
        if running.fetches.len() >= shell.config.fetches_per_hash_max {
            return false;
        }
        let (mut claimed, ends_at) = running.herd.live(true, shell);
        claimed.sort_unstable_by_key(|groups| groups.start);
        let free = swarm.pieces.pick_unclaimed(range_groups(shell), &claimed);
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

    /// Tells those who want the blob too what we bring from the edge, if that has changed or they might forget.
    pub(super) fn tell_claims(&mut self, hash: Hash, peers: &Peers, shell: &mut Shell) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let says_nothing = running.herd.told.is_empty() && !running.asks_edge();
        if says_nothing || !shell.config.shares_parts {
            return;
        }
        running.herd.brought.retain(|(_, at)| shell.now - *at < shell.config.claim_ttl);
        let (claims, told) = (running.claims(), &running.herd.told);
        let renews = shell.now >= running.herd.renews_at && running.asks_edge();
        let new = claims.iter().any(|groups| !told.contains(groups));
        let failed = |groups: &Range<u64>| !claims.contains(groups) && !running.holds(groups);
        if !new && !renews && !told.iter().any(failed) {
            return;
        }
        for peer in running.herd_of(peers) {
            shell.emit(Output::Send { peer, message: running.word(hash, &claims) });
        }
        let lease = running.lease_of_claims(shell.now, shell.config.claim_ttl);
        let renews_at = shell.now + lease / RENEW_PART;
        (running.herd.told, running.herd.renews_at) = (claims, renews_at);
        if running.asks_edge() {
            self.plan_herd(hash, renews_at, shell);
        }
    }

    /// Tells a neighbour what we bring from the edge, if anything.
    pub(super) fn tell_claims_to(&self, hash: Hash, peer: PeerId, shell: &mut Shell) {
        let Some(running) = self.resolutions.get(&hash) else { return };
        let claims = running.claims();
        if !claims.is_empty() && shell.config.shares_parts {
            shell.emit(Output::Send { peer, message: running.word(hash, &claims) });
        }
    }

    /// Tells that we bring nothing any more.
    pub(super) fn release_claims(&self, hash: Hash, peers: &Peers, shell: &mut Shell) {
        let running = self.resolutions.get(&hash);
        if let Some(running) = running.filter(|running| !running.herd.told.is_empty()) {
            for peer in running.herd_of(peers) {
                shell.emit(Output::Send { peer, message: running.word(hash, &[]) });
            }
        }
    }

    /// Takes in what a neighbour says that it brings from the edge.
    pub(crate) fn claims_told(
        &mut self,
        peer: PeerId,
        hash: Hash,
        claimed: Claimed<'_>,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        let Some(runs) = ranges(claimed.runs, u64::MAX, CLAIMS_MAX) else { return };
        let Some(running) = self.resolutions.get_mut(&hash) else {
            self.overheard.hear(peer, hash, (runs, claimed.done), shell.now);
            return;
        };
        running.herd.meet(peer, (runs.clone(), claimed.done), shell.now);
        if claimed.seeks {
            self.tell_claims_to(hash, peer, shell);
            // It may have been told before it wanted the blob.
            self.tell_groups(hash, peer, shell);
        }
        self.yield_to(hash, (peer, claimed.done), &runs, peers.me(), shell);
        if !runs.is_empty() {
            self.plan_herd(hash, shell.now + shell.config.claim_ttl, shell);
        }
        self.advance(hash, peers, shell);
    }

    /// Takes in a peer that holds a blob and is no neighbour, named by one before the edge was asked.
    pub(crate) fn named(
        &mut self,
        by: PeerId,
        hash: Hash,
        holder: PeerId,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let known = holder == peers.me() || peers.is_banned(holder, shell.now);
        if known || !peers.believes_names_of(by, shell.now) || !running.herd.name(holder, by) {
            return;
        }
        running.note(Note::Named { holder, by });
        running.add_holder(Holder { peer: holder, found: Found::Lan });
        self.advance(hash, peers, shell);
    }

    /// Lets go what a neighbour claims at the same moment, unless some of it came. Whom the edge has given something goes
    /// before whom it has not, and then weight.
    fn yield_to(
        &mut self,
        hash: Hash,
        (peer, done): (PeerId, u64),
        runs: &[Range<u64>],
        me: PeerId,
        shell: &mut Shell,
    ) {
        let Some(running) = self.resolutions.get(&hash) else { return };
        // What one brings that has no list counts at its end only, and may be nearly there: it is left to nobody but
        // to one who brings everything too, and began at about the same time.
        let (now, fresh) = (shell.now, shell.config.claim_ttl);
        let everything = runs.iter().any(|run| run.end == u64::MAX);
        let may_yield =
            |fetch: &Running| !running.herd.unlisted || everything && now - fetch.started < fresh;
        // What one was told is never more than what is so: of two, one at most lets go.
        let gave = (done > 0).cmp(&(running.groups_of_edge() > 0));
        let overlaps = |own: &Range<u64>| {
            let same = runs.iter().any(|run| own.start < run.end && run.start < own.end);
            same && gave.then_with(|| order(peer, me, own)).is_gt()
        };
        let yielded: Vec<FetchId> = running
            .fetches
            .iter()
            .filter(|(_, fetch)| fetch.source == Source::Edge && fetch.bytes == 0)
            .filter(|(_, fetch)| may_yield(fetch))
            .filter(|(_, fetch)| overlaps(&fetch.groups.clone().unwrap_or(0..u64::MAX)))
            .map(|(id, _)| *id)
            .collect();
        for fetch in yielded {
            self.range_over(hash, fetch, shell);
            if let Some(running) = self.resolutions.get_mut(&hash) {
                running.edge = EdgeState::Ready;
                running.note(Note::Yielded { peer });
                stop_fetch(running, fetch, "left to a neighbour", &mut self.fetches, shell);
            }
        }
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
        if bytes > GROUP_LEN {
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

    /// Returns the claims of neighbours that hold, and when the first of them ends.
    fn live_claims(&self, shell: &Shell) -> (Vec<Range<u64>>, Time) {
        let proven = self.swarm.as_ref().is_some_and(|swarm| swarm.proven);
        self.herd.live(proven, shell)
    }

    /// Returns what neighbours are told that we bring.
    fn word(&self, hash: Hash, claims: &[Range<u64>]) -> Message {
        let run = |run: &Range<u64>| (run.start, run.end - run.start);
        let runs = claims.iter().take(CLAIMS_MAX).map(run).collect();
        let done = self.groups_of_edge();
        Message::Claims { hash, seeks: false, done, runs }
    }

    /// Returns how many groups the edge gave so far.
    fn groups_of_edge(&self) -> u64 {
        self.receipt.bytes_edge / GROUP_LEN
    }

    /// Returns whether the edge is one of the sources of the swarm, which is asked range by range.
    pub(super) fn is_fed_by_edge(&self) -> bool {
        let proven = self.swarm.as_ref().is_some_and(|swarm| swarm.proven);
        proven && self.herd.joined && !self.herd.unlisted
    }

    /// Believes a neighbour's names no more for a while where the holder that it named gave nothing: until its fetch
    /// ended so, or, without an outcome, in time.
    pub(super) fn judge_name(
        &self,
        fetch: &Running,
        outcome: Option<&FetchOutcome>,
        peers: &mut Peers,
        shell: &Shell,
    ) {
        let excused = matches!(
            outcome,
            Some(
                FetchOutcome::Complete { .. }
                    | FetchOutcome::Busy { .. }
                    | FetchOutcome::StoreFailed { .. }
            )
        );
        let by = fetch.source.peer().and_then(|peer| self.herd.named.get(&peer));
        if let Some(by) = by.filter(|_| fetch.bytes == 0 && !excused) {
            let rest = if outcome.is_some() { NAMES_REST } else { NAMES_REST_LATE };
            peers.rest_names(*by, shell.now + rest);
        }
    }

    /// Takes back the timer of the herd, at the end of the resolution.
    pub(super) fn part_from_herd(&mut self, shell: &mut Shell) {
        if let Some((_, timer)) = self.herd.planned.take() {
            shell.stop_timer(timer);
        }
    }

    /// Returns for how long what we tell now holds: as long as the youngest of our claims is old.
    fn lease_of_claims(&self, now: Time, ttl: Duration) -> Duration {
        let of_edge = self.fetches.values().filter(|fetch| fetch.source == Source::Edge);
        let youngest = of_edge.map(|fetch| now - fetch.started).min();
        lease(ttl, youngest.unwrap_or_default())
    }

    fn asks_edge(&self) -> bool {
        self.fetches.values().any(|fetch| fetch.source == Source::Edge)
    }

    fn holds(&self, groups: &Range<u64>) -> bool {
        self.swarm.as_ref().is_some_and(|swarm| swarm.pieces.holds(groups))
    }

    /// Returns the runs of groups that the edge is asked for here, or was just now.
    fn claims(&self) -> Vec<Range<u64>> {
        let mut claims = self.ranges_of_edge();
        let brought = self.herd.brought.iter().rev().map(|(groups, _)| groups.clone());
        let room = CLAIMS_MAX.saturating_sub(claims.len());
        claims.extend(brought.take(room));
        claims.sort_unstable_by_key(|groups| groups.start);
        claims.dedup_by(|next, last| next.start < last.end);
        claims
    }

    /// Returns the neighbours that want the blob too, as far as is known: before its size is, all of them may.
    fn herd_of(&self, peers: &Peers) -> Vec<PeerId> {
        if self.swarm.is_none() {
            return peers.ids();
        }
        let mut herd = self.herd.seekers.clone();
        herd.extend(self.swarm.iter().flat_map(|swarm| swarm.getters.keys()));
        herd.into_iter().filter(|peer| peers.contains(*peer)).collect()
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

/// Returns for how long a claim holds that has held for `held`: for `least`, or for as long again. So a claim of any
/// length is renewed a few times, and a dead owner of one costs no more than it took before.
fn lease(least: Duration, held: Duration) -> Duration {
    least.max(held.min(LEASE_MOST))
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

/// Returns who of two goes first where both claim a range: each range has its own order.
fn order(peer: PeerId, me: PeerId, groups: &Range<u64>) -> Ordering {
    (weight(peer, groups.start), peer).cmp(&(weight(me, groups.start), me))
}
