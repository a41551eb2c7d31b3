//! What neighbours that fetch the same blob tell each other.
//!
//! A word is believed for whom to ask, and for nothing else; one that breaks the rules of its runs changes
//! nothing. Each node says once that it fetches, to all, and then what is new, to those that follow it.

use std::ops::Range;

use super::members::{PARTNER_HOPE, Swarm};
use crate::blob::{Hash, group_count};
use crate::engine::peers::Peers;
use crate::engine::resolver::Resolver;
use crate::engine::resolver::resolution::Stage;
use crate::engine::{Output, Shell, Source};
use crate::id::PeerId;
use crate::wire::message::RUNS_MAX;

/// Is what a neighbour says of a blob that it fetches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told<'a> {
    /// The length that it knows.
    pub(crate) size: u64,
    /// Whether it takes groups from us.
    pub(crate) follows: bool,
    /// First group and number of groups of each run that it holds.
    pub(crate) runs: &'a [(u64, u64)],
}

impl Told<'_> {
    /// Returns the runs as ranges, if each lies within the blob and behind the one before it. So what a
    /// peer says costs no more than there are groups.
    fn ranges(&self) -> Option<Vec<Range<u64>>> {
        ranges(self.runs, group_count(self.size), RUNS_MAX)
    }
}

/// Returns the runs of a peer as ranges, if they are at most so many, none is empty, each begins behind the one
/// before it, and all end within `groups`.
pub(in crate::engine::resolver) fn ranges(
    runs: &[(u64, u64)],
    groups: u64,
    runs_max: usize,
) -> Option<Vec<Range<u64>>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for (start, len) in runs {
        let end = start.checked_add(*len).filter(|end| *end <= groups && *len > 0)?;
        if ranges.len() >= runs_max || ranges.last().is_some_and(|last| *start < last.end) {
            return None;
        }
        ranges.push(*start..end);
    }
    Some(ranges)
}

impl Resolver {
    /// Tells all neighbours that a blob is being fetched here.
    pub(super) fn greet_all(&mut self, hash: Hash, peers: &Peers, shell: &mut Shell) {
        let shares = shell.config.shares_parts;
        let Some(swarm) = self.swarm_mut(hash) else { return };
        swarm.greeting(shell.now);
        let runs = swarm.everything();
        for peer in peers.ids() {
            if swarm.greeted.insert(peer) && shares {
                let message = swarm.word_to(hash, peer, &runs);
                shell.emit(Output::Send { peer, message });
            }
        }
    }

    /// Tells a neighbour once that a blob is being fetched here.
    pub(crate) fn greet_partner(&mut self, hash: Hash, peer: PeerId, shell: &mut Shell) {
        let Some(swarm) = self.swarm_mut(hash) else { return };
        if swarm.greeted.insert(peer) {
            self.tell_groups(hash, peer, shell);
        }
    }

    /// Tells one neighbour what is held of a blob that is being fetched.
    pub(in crate::engine::resolver) fn tell_groups(
        &self,
        hash: Hash,
        peer: PeerId,
        shell: &mut Shell,
    ) {
        let swarm = self.resolutions.get(&hash).and_then(|running| running.swarm.as_ref());
        if let Some(swarm) = swarm.filter(|_| shell.config.shares_parts) {
            let message = swarm.word_to(hash, peer, &swarm.everything());
            shell.emit(Output::Send { peer, message });
        }
    }

    /// Takes in what a neighbour says of a blob that it is fetching.
    pub(crate) fn groups_told(
        &mut self,
        peer: PeerId,
        hash: Hash,
        told: Told<'_>,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        let (Some(running), Some(runs)) = (self.resolutions.get(&hash), told.ranges()) else {
            return;
        };
        if running.stage != Stage::Remote || running.sources.is_spent(Source::Peer(peer)) {
            return;
        }
        self.open_swarm(hash, told.size, None, peers, shell);
        let (partners_max, now) = (shell.config.partners_max, shell.now);
        let swarm = self.swarm_mut(hash).filter(|swarm| swarm.pieces.size() == told.size);
        let Some(swarm) = swarm else { return };
        let news = swarm.hear_getter(peer, told.follows, partners_max, now);
        let known = swarm.contains(peer);
        let (admitted, instead_of) = swarm.admit((peer, peers.me()), &runs, partners_max);
        if let (Some(other), Some(running)) = (instead_of, self.resolutions.get_mut(&hash)) {
            running.forget_partner(other);
        }
        if let Some(running) = self.resolutions.get_mut(&hash) {
            running.herd.brought(peer, now);
        }
        let swarm = self.swarm_mut(hash).filter(|_| admitted);
        let offers = swarm.is_some_and(|swarm| swarm.hear((peer, peers.me()), &runs, now));
        if news {
            self.divide(hash);
            self.tell_claims_to(hash, peer, shell);
        }
        let joins = admitted && !known;
        for other in instead_of.into_iter().chain(joins.then_some(peer)) {
            self.tell_groups(hash, other, shell);
        }
        // What is known already changes nothing, and most words of a herd are such.
        if news || joins || offers || instead_of.is_some() {
            self.look_by(hash, now + PARTNER_HOPE, shell);
        }
        if news || joins || instead_of.is_some() {
            self.advance(hash, peers, shell);
        } else if offers {
            self.take_offer(hash, peer, peers, shell);
        }
    }

    /// Divides the blocks anew, because a partner came, went or has all.
    pub(crate) fn divide(&mut self, hash: Hash) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        if let Some(swarm) = &mut running.swarm {
            swarm.divide();
        }
    }

    /// Tells followers of the blocks that became whole since they were told, if that is due, but for those
    /// that told us of them.
    pub(crate) fn tell_followers(&mut self, hash: Hash, shell: &mut Shell) {
        let (now, shares) = (shell.now, shell.config.shares_parts);
        let due = |swarm: &Swarm| swarm.news_due_at(now).is_some_and(|at| at <= now);
        let Some(swarm) = self.swarm_mut(hash).filter(|swarm| shares && due(swarm)) else { return };
        let runs = swarm.news(now);
        let swarm = &*swarm;
        for peer in swarm.followers().filter(|peer| !swarm.knows(*peer, &runs)) {
            let message = swarm.word_to(hash, peer, &runs);
            shell.emit(Output::Send { peer, message });
        }
    }
}
