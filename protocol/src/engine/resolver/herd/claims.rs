//! What each brings from the edge: claims, their leases, and who of two lets go.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use super::Herd;
use crate::blob::Hash;
use crate::config::Config;
use crate::engine::peers::Peers;
use crate::engine::receipt::Note;
use crate::engine::resolver::Resolver;
use crate::engine::resolver::resolution::{EdgeState, Resolution, Running};
use crate::engine::resolver::stop_fetch;
use crate::engine::resolver::swarm::{ranges, weight};
use crate::engine::{Output, Shell, Source};
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
/// A neighbour that wanted the blob from the edge counts for so long after it last said anything of that: one whose get is over
/// says nothing, and one that still fetches tells what it has.
const SEEKER_TTL: Duration = Duration::from_secs(30);
/// A claim that has held for long holds for as long again without a word, but no longer than this.
const LEASE_MOST: Duration = Duration::from_secs(20);

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
pub(super) struct Claim {
    groups: Range<u64>,
    /// When it was claimed.
    since: Time,
    /// When its owner last showed that the edge gives it something.
    pub(super) moved: Time,
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
    /// Returns how long claims hold.
    fn leases(&self, proven: bool, config: &Config) -> Leases {
        let known = self.range_time.map(|time| time.saturating_mul(OVERDUE_FACTOR) + OVERDUE_GRACE);
        let most = known.unwrap_or(if proven { Duration::MAX } else { OVERDUE_FIRST });
        Leases { ttl: config.claim_ttl, patience: config.claim_patience, most }
    }

    /// Forgets rumours of what neighbours do not bring after all: their leases have ended.
    pub(super) fn lapse(&mut self, proven: bool, shell: &Shell) {
        let leases = self.leases(proven, &shell.config);
        for (owner, claims) in &self.claims {
            for claim in claims.iter().filter(|claim| claim.ends_at(leases) <= shell.now) {
                self.rumours.drop_claim(*owner, claim.groups.start);
            }
        }
    }

    /// Returns the claims that hold, and when the first of them ends.
    pub(super) fn live(&self, proven: bool, shell: &Shell) -> (Vec<Range<u64>>, Time) {
        let (now, leases) = (shell.now, self.leases(proven, &shell.config));
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
        self.rumours.forget(peer);
        self.dry &= self.claims.remove(&peer).is_none();
    }

    /// Takes in what a neighbour brings that wants the blob, too.
    pub(super) fn meet(&mut self, peer: PeerId, word: (Vec<Range<u64>>, u64), now: Time) {
        self.seekers.insert(peer, now);
        self.met = true;
        self.hear(peer, word, now);
    }

    /// Returns who wants the blob from the edge, too, as far as is known.
    pub(super) fn seekers(&self, now: Time) -> impl Iterator<Item = PeerId> + '_ {
        let seeks = move |said: &Time| now - *said < SEEKER_TTL;
        self.seekers.iter().filter(move |(_, said)| seeks(said)).map(|(peer, _)| *peer)
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
}

impl Resolver {
    /// Tells those who want the blob too what we bring from the edge, if that has changed or they might forget.
    pub(in crate::engine::resolver) fn tell_claims(
        &mut self,
        hash: Hash,
        peers: &Peers,
        shell: &mut Shell,
    ) {
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
        for peer in running.herd_of(peers, shell.now) {
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
    pub(in crate::engine::resolver) fn tell_claims_to(
        &self,
        hash: Hash,
        peer: PeerId,
        shell: &mut Shell,
    ) {
        let Some(running) = self.resolutions.get(&hash) else { return };
        let claims = running.claims();
        if !claims.is_empty() && shell.config.shares_parts {
            shell.emit(Output::Send { peer, message: running.word(hash, &claims) });
        }
    }

    /// Tells that we bring nothing any more.
    pub(in crate::engine::resolver) fn release_claims(
        &self,
        hash: Hash,
        peers: &Peers,
        shell: &mut Shell,
    ) {
        let running = self.resolutions.get(&hash);
        if let Some(running) = running.filter(|running| !running.herd.told.is_empty()) {
            for peer in running.herd_of(peers, shell.now) {
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
        for run in &runs {
            self.pass_on(hash, (peer, peer), (run.clone(), claimed.done), peers, shell);
        }
        if claimed.seeks {
            self.tell_claims_to(hash, peer, shell);
            self.tell_rumours_to(hash, peer, peers, shell);
            // It may have been told before it wanted the blob.
            self.tell_groups(hash, peer, shell);
        }
        self.yield_to(hash, (peer, claimed.done), &runs, peers.me(), shell);
        if !runs.is_empty() {
            self.plan_herd(hash, shell.now + shell.config.claim_ttl, shell);
        }
        self.advance(hash, peers, shell);
    }

    /// Lets go what a neighbour claims at the same moment, unless some of it came. Whom the edge has given something goes
    /// before whom it has not, and then weight.
    pub(super) fn yield_to(
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
                running.herd.contention.yielded(running.receipt.bytes_edge, shell);
                running.note(Note::Yielded { peer });
                stop_fetch(running, fetch, "left to a neighbour", &mut self.fetches, shell);
            }
        }
    }
}

impl Resolution {
    /// Returns the claims of neighbours that hold, and when the first of them ends.
    pub(super) fn live_claims(&self, shell: &Shell) -> (Vec<Range<u64>>, Time) {
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

    /// Returns for how long what we tell now holds: as long as the youngest of our claims is old.
    fn lease_of_claims(&self, now: Time, ttl: Duration) -> Duration {
        let of_edge = self.fetches.values().filter(|fetch| fetch.source == Source::Edge);
        let youngest = of_edge.map(|fetch| now - fetch.started).min();
        lease(ttl, youngest.unwrap_or_default())
    }

    /// Returns the runs of groups that the edge is asked for here, or was just now.
    pub(super) fn claims(&self) -> Vec<Range<u64>> {
        let mut claims = self.ranges_of_edge();
        let brought = self.herd.brought.iter().rev().map(|(groups, _)| groups.clone());
        let room = CLAIMS_MAX.saturating_sub(claims.len());
        claims.extend(brought.take(room));
        claims.sort_unstable_by_key(|groups| groups.start);
        claims.dedup_by(|next, last| next.start < last.end);
        claims
    }

    /// Returns the neighbours that want the blob too, as far as is known: before its size is, all of them may.
    pub(super) fn herd_of(&self, peers: &Peers, now: Time) -> Vec<PeerId> {
        if self.swarm.is_none() {
            return peers.ids();
        }
        let mut herd: BTreeSet<_> = self.herd.seekers(now).collect();
        herd.extend(self.swarm.iter().flat_map(|swarm| swarm.getters.keys()));
        herd.into_iter().filter(|peer| peers.contains(*peer)).collect()
    }
}

/// Returns for how long a claim holds that has held for `held`: for `least`, or for as long again. So a claim of any
/// length is renewed a few times, and a dead owner of one costs no more than it took before.
fn lease(least: Duration, held: Duration) -> Duration {
    least.max(held.min(LEASE_MOST))
}

/// Returns who of two goes first where both claim a range: each range has its own order.
fn order(peer: PeerId, me: PeerId, groups: &Range<u64>) -> Ordering {
    (weight(peer, groups.start), peer).cmp(&(weight(me, groups.start), me))
}
