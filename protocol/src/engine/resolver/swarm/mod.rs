//! The swarm: one blob from all who hold it, and from those who are fetching it, too.
//!
//! A blob of at least [`Config::swarm_bytes_min`](crate::Config::swarm_bytes_min) is fetched in pieces
//! from several peers at once, its *members*: those that hold all of it, and *partners*, who are fetching
//! it like us. Partners find each other by the word that each sends its neighbours when it begins, and
//! tell each other of the blocks that they hold as these come. [`pieces`] says what to fetch next from
//! whom, [`members`] judges who they are, [`words`] is what they tell each other; this file keeps the members
//! busy, with a few ranges each so that none waits for its next request, and sees that no range is left with one
//! who is slow.
//!
//! Until a first group has proven the size and the list of groups there is one fetch at a time.

mod members;
mod pieces;
mod words;

use std::ops::Range;
use std::time::Duration;

use members::Member;
pub(crate) use members::Swarm;
pub(in crate::engine) use pieces::pair_weight;
pub(super) use pieces::weight;
use pieces::{Have, Pieces, Rules};
pub(crate) use words::Told;
pub(super) use words::ranges;

use super::resolution::{EdgeState, Holder, Resolution, Running, Stage};
use super::{Resolver, stop_fetch};
use crate::blob::{GROUP_LEN, GroupSet, Hash, group_count};
use crate::engine::peers::Peers;
use crate::engine::receipt::Found;
use crate::engine::{Shell, Source, Timer};
use crate::id::{FetchId, PeerId};
use crate::time::Time;

/// How often a swarm tells its partners what is new, and looks for members that are slow, at most.
const TICK: Duration = Duration::from_millis(50);
/// How often it looks for members that fell silent, at most.
const SWEEP: Duration = Duration::from_millis(500);
/// Ranges that one member brings at once: while one is on its way the next is asked for already.
const RANGES_PER_MEMBER: usize = 2;

impl Resolver {
    /// Makes a blob a swarm once its size is known, if it is long enough for one.
    pub(super) fn open_swarm(
        &mut self,
        hash: Hash,
        size: u64,
        held: Option<GroupSet>,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        let Some(running) = self.resolutions.get(&hash) else { return };
        let long = size >= shell.config.swarm_bytes_min && size <= shell.config.blob_bytes_max;
        if running.swarm.is_some() || running.stage != Stage::Remote || !long {
            return;
        }
        // Whoever has not answered a small request yet is a member as any other.
        self.end_small_of_large(hash, size, peers, shell);
        let proven = held.is_some();
        let Some(pieces) = Pieces::new(peers.me(), size, held) else { return };
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let mut swarm = Swarm::new(pieces, proven, shell.now);
        let ranges = running.fetches.values().filter_map(|fetch| fetch.groups.as_ref());
        ranges.for_each(|groups| swarm.pieces.bring(groups, true));
        running.swarm = Some(swarm);
        // The word goes to all neighbours: who fetches the blob too answers, the others ignore it.
        self.greet_all(hash, peers, shell);
        self.look_soon(hash, shell);
    }

    /// Keeps the members of a swarm busy.
    pub(super) fn fetch_from_members(&mut self, hash: Hash, shell: &mut Shell) {
        self.take_in_holders(hash, shell);
        if self.is_left_whole(hash) {
            return self.have_end_told(hash, shell);
        }
        if self.goes_on_alone(hash, shell) {
            return;
        }
        let Some(running) = self.resolutions.get(&hash) else { return };
        let Some(swarm) = &running.swarm else { return };
        let mut idle = false;
        let mut order: Vec<(usize, PeerId)> = Vec::new();
        if !swarm.any_wet && swarm.holders() == 0 {
            return self.set_idle(hash, false, shell.now);
        }
        let full = running.fetches.len() >= shell.config.fetches_per_hash_max;
        if full && swarm.holders() == 0 {
            return self.set_idle(hash, false, shell.now);
        }
        for (peer, member) in swarm.members.iter().filter(|(_, member)| !member.rests) {
            if !member.dry {
                order.push((swarm.ranges_of(*peer), *peer));
            } else if matches!(member.have, Have::Whole) {
                idle |= swarm.ranges_of(*peer) == 0;
            }
        }
        // Whoever has least to do goes first, so that a few blocks are spread over many members.
        order.sort_unstable();
        for round in 0..RANGES_PER_MEMBER {
            for (_, peer) in &order {
                idle |= self.fetch_range(hash, *peer, round, shell);
            }
        }
        if let Some(swarm) = self.swarm_mut(hash) {
            let members = order.iter().filter_map(|(_, peer)| swarm.members.get(peer));
            swarm.any_wet = members.fold(false, |wet, member| wet | !member.dry);
        }
        self.set_idle(hash, idle, shell.now);
    }

    /// Returns whether all groups came and no fetch is left that would say so: the one that was about to stalled or broke
    /// at something that had come from another.
    fn is_left_whole(&self, hash: Hash) -> bool {
        self.resolutions.get(&hash).is_some_and(|running| {
            let whole = running.swarm.as_ref().is_some_and(|swarm| swarm.pieces.whole().is_full());
            whole && running.end_lost && running.fetches.is_empty()
        })
    }

    /// Asks who has all for the last group, which is here: so that whoever stores it sees that the blob is whole.
    fn have_end_told(&mut self, hash: Hash, shell: &mut Shell) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let Some(swarm) = &mut running.swarm else { return };
        let max = shell.config.fetches_per_peer_max;
        let waits = |source| running.retries.contains_key(&source);
        let member = swarm.members.iter().find(|(peer, member)| {
            let can = matches!(member.have, Have::Whole) && self.fetching.has_room(**peer, max);
            can && !waits(Source::Peer(**peer))
        });
        let member = member.map(|(peer, member)| (*peer, member.found));
        let count = group_count(swarm.pieces.size());
        let last = count.saturating_sub(1)..count;
        let (source, found) = match member {
            Some((peer, found)) => {
                swarm.brings(peer, true);
                (Source::Peer(peer), found)
            }
            None if running.edge == EdgeState::Ready && !waits(Source::Edge) => {
                running.edge = EdgeState::Busy;
                (Source::Edge, Found::Edge)
            }
            None => return,
        };
        swarm.pieces.bring(&last, true);
        running.end_lost = false;
        self.start_fetch(hash, source, (found, Some(last)), shell);
    }

    /// Asks a partner for what it just told of. For all others it is as it was when they were last looked at, so
    /// that nobody else has to be.
    pub(super) fn take_offer(
        &mut self,
        hash: Hash,
        peer: PeerId,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        let ranges_only = |swarm: &Swarm| swarm.proven && !swarm.any_entire && swarm.holders() == 0;
        if !self.swarm_mut(hash).is_some_and(|swarm| ranges_only(swarm)) {
            return self.advance(hash, peers, shell);
        }
        for round in 0..RANGES_PER_MEMBER {
            self.fetch_range(hash, peer, round, shell);
        }
    }

    /// Takes in whether a member that holds all has nothing to do.
    fn set_idle(&mut self, hash: Hash, idle: bool, now: Time) {
        if let Some(swarm) = self.swarm_mut(hash) {
            swarm.idle_since = if idle { swarm.idle_since.or(Some(now)) } else { None };
        }
    }

    /// Asks a member that has at most `ranges` ranges for one more, and returns whether it holds all and
    /// yet stays idle.
    fn fetch_range(&mut self, hash: Hash, peer: PeerId, ranges: usize, shell: &mut Shell) -> bool {
        let Some(running) = self.resolutions.get(&hash) else { return false };
        let Some(swarm) = &running.swarm else { return false };
        let brings = swarm.ranges_of(peer);
        let Some(member) = swarm.members.get(&peer).filter(|_| brings <= ranges) else {
            return false;
        };
        let whole = matches!(member.have, Have::Whole);
        if member.dry || (ranges > 0 && !swarm.is_pipelined(member)) {
            return member.dry && whole && ranges == 0;
        }
        let source = Source::Peer(peer);
        // One that is late with everything is not asked for parts of it, too.
        let waits = running.retries.contains_key(&source)
            || (swarm.any_entire && running.gives_everything(source));
        let proving = !swarm.proven && running.is_served();
        if waits || proving || running.fetches.len() >= shell.config.fetches_per_hash_max {
            return false;
        }
        if !self.fetching.has_room(peer, shell.config.fetches_per_peer_max) {
            self.fetching.wait(peer, hash);
            return false;
        }
        let patient = swarm.is_patient(member, shell.now);
        let blocks_max = swarm.range_blocks(member);
        let rules = Rules { others_too: !patient, doubled: false, blocks_max };
        let fresh = swarm.pieces.pick(&member.have, rules);
        let picked = fresh.or_else(|| {
            let idle = brings == 0 && swarm.pieces.is_end();
            let doubled = Rules { doubled: true, others_too: true, blocks_max: 1 };
            let range = idle.then(|| swarm.pieces.pick(&member.have, doubled)).flatten()?;
            running.is_slow(&range, member.rate, shell.now).then_some(range)
        });
        let found = member.found;
        let Some(groups) = picked else {
            if let Some(member) = self.member_mut(hash, peer) {
                member.dry = true;
            }
            return whole && ranges == 0;
        };
        if let Some(swarm) = self.swarm_mut(hash) {
            swarm.pieces.bring(&groups, true);
            swarm.brings(peer, true);
        }
        self.start_fetch(hash, Source::Peer(peer), (found, Some(groups)), shell);
        if self.swarm_mut(hash).is_some_and(|swarm| swarm.is_pressed_for_time()) {
            self.look_soon(hash, shell);
        }
        false
    }

    /// Makes members of the holders that were found, as many as the bound allows.
    fn take_in_holders(&mut self, hash: Hash, shell: &mut Shell) {
        let (now, members_max) = (shell.now, shell.config.partners_max);
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        if running.holders.is_empty() {
            return;
        }
        let before = running.swarm.as_ref().map_or(0, Swarm::holders);
        for holder in std::mem::take(&mut running.holders) {
            let Some(swarm) = &mut running.swarm else { return };
            if swarm.contains(holder.peer) || swarm.holders() < members_max {
                swarm.join(holder, now);
            } else {
                running.holders.push_back(holder);
            }
        }
        if running.swarm.as_ref().is_some_and(|swarm| swarm.holders() != before) {
            self.divide(hash);
            self.look_soon(hash, shell);
        }
    }

    /// Takes in that groups were stored, whoever brought them; fetches that bring nothing else end, and
    /// those whose peers have room again are returned. Returns besides whether that may change what is
    /// fetched next: a block became whole, or the first groups proved the list.
    pub(super) fn swarm_stored(
        &mut self,
        hash: Hash,
        by: FetchId,
        groups: &Range<u64>,
        shell: &mut Shell,
    ) -> (Vec<PeerId>, bool) {
        let nothing = (Vec::new(), true);
        let Some(running) = self.resolutions.get_mut(&hash) else { return nothing };
        let Some(swarm) = &mut running.swarm else { return nothing };
        let first = !std::mem::replace(&mut swarm.proven, true);
        let whole = swarm.pieces.stored(groups.clone());
        if running.fetches.get(&by).is_some_and(|fetch| swarm.is_partner(fetch.source)) {
            swarm.helped = shell.now;
        }
        let needless: Vec<(FetchId, Source)> = running
            .fetches
            .iter()
            .filter(|(id, fetch)| {
                let overlaps = |own: &Range<u64>| own.start < groups.end && groups.start < own.end;
                // The one that brought the last group is about to say so itself. One that was cut would go on, and is
                // stopped, but not where all has come: nobody else would tell that the blob is whole.
                let says_so = **id == by && (!fetch.is_cut || swarm.pieces.whole().is_full());
                let own = fetch.groups.as_ref().filter(|own| !says_so && overlaps(own));
                own.is_some_and(|own| swarm.pieces.holds(own))
            })
            .map(|(id, fetch)| (*id, fetch.source))
            .collect();
        let (mut freed, mut is_cut) = (Vec::new(), false);
        for (fetch, source) in needless {
            self.range_over(hash, fetch, shell);
            if let Some(running) = self.resolutions.get_mut(&hash) {
                let why = if fetch == by { "goes on in ranges" } else { "another was faster" };
                is_cut |= fetch == by;
                stop_fetch(running, fetch, why, &mut self.fetches, shell);
            }
            if let Source::Peer(peer) = source {
                freed.push(peer);
            }
        }
        if whole {
            self.look_at_news(hash, shell);
        }
        // The end of a range that is there follows at once, and then there is room for the next.
        let of_range = self.resolutions.get(&hash).and_then(|running| running.range_of(by));
        let swarm = self.resolutions.get(&hash).and_then(|running| running.swarm.as_ref());
        let over = of_range.zip(swarm).is_some_and(|(range, swarm)| swarm.pieces.holds(range));
        let changed = first || (whole && !over) || is_cut || !freed.is_empty();
        (freed, changed)
    }

    /// Takes in that a range was stored to its end: what came of it after another fetch of it was stopped
    /// was never told of.
    pub(super) fn swarm_range_stored(
        &mut self,
        hash: Hash,
        groups: Option<&Range<u64>>,
        shell: &mut Shell,
    ) {
        if let (Some(swarm), Some(groups)) = (self.swarm_mut(hash), groups) {
            swarm.proven = true;
            swarm.pieces.stored(groups.clone());
        }
        self.look_soon(hash, shell);
    }

    /// Takes in that a range is no longer on its way, before its fetch is forgotten.
    pub(super) fn range_over(&mut self, hash: Hash, fetch: FetchId, shell: &Shell) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let Some(ended) = running.fetches.get(&fetch) else { return };
        let (source, bytes, took) = (ended.source, ended.bytes, shell.now - ended.started);
        let (Some(swarm), Some(groups)) = (&mut running.swarm, ended.groups.clone()) else {
            return;
        };
        swarm.pieces.bring(&groups, false);
        if !swarm.pieces.holds(&groups) {
            // Somebody else may bring the rest.
            swarm.moisten();
        }
        if source == Source::Edge {
            return self.edge_range_over(hash, groups, (bytes, took), shell.now);
        }
        if let Source::Peer(peer) = source {
            swarm.brings(peer, false);
            if let Some(member) = swarm.members.get_mut(&peer) {
                (member.dry, swarm.any_wet) = (false, true);
            }
            if bytes >= GROUP_LEN {
                swarm.gave(peer, bytes, took, shell.now);
            }
        }
    }

    /// Tells partners what is new, and looks again at who is idle or slow.
    pub(crate) fn tick(&mut self, hash: Hash, peers: &mut Peers, shell: &mut Shell) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let Some(swarm) = &mut running.swarm else { return };
        (swarm.looks_at, swarm.looked_at) = (None, shell.now);
        swarm.time_passed();
        let mut parted = false;
        if shell.now - swarm.swept_at >= SWEEP {
            swarm.swept_at = shell.now;
            running.herd.moisten();
            let busy = running.fetches.values().filter_map(|fetch| fetch.source.peer()).collect();
            parted = swarm.part_from_silent(&busy, shell.now);
        }
        if swarm.greets_at <= shell.now {
            swarm.greeted.clear();
            self.greet_all(hash, peers, shell);
        }
        if parted {
            self.divide(hash);
        }
        self.tell_followers(hash, shell);
        let shares = shell.config.shares_parts;
        let Some(swarm) = self.swarm_mut(hash) else { return };
        if swarm.is_pressed_for_time() {
            self.look_soon(hash, shell);
        } else {
            let at = swarm.next_look(shell.now).max(swarm.swept_at + SWEEP);
            let news = swarm.news_due_at(shell.now).filter(|_| shares);
            self.look_by(hash, news.map_or(at, |news| news.min(at)), shell);
        }
        self.prepare_if_paused(hash, shell);
        self.advance(hash, peers, shell);
    }

    /// Has a swarm look at itself when partners are to be told of what is new.
    fn look_at_news(&mut self, hash: Hash, shell: &mut Shell) {
        let swarm = self.swarm_mut(hash);
        if let Some(at) = swarm.and_then(|swarm| swarm.news_due_at(shell.now)) {
            self.look_by(hash, at, shell);
        }
    }

    /// Has a swarm look at itself as soon as it may, again and again while anything is on its way.
    fn look_soon(&mut self, hash: Hash, shell: &mut Shell) {
        self.look_by(hash, shell.now, shell);
    }

    /// Has a swarm look at itself at a moment, unless it does before: at the first of its own regular moments
    /// from then on. As those of partners differ, of two that came by a block together one tells the other.
    pub(super) fn look_by(&mut self, hash: Hash, at: Time, shell: &mut Shell) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let Some(swarm) = &mut running.swarm else { return };
        let at = swarm.look_after(at.max(swarm.looked_at + Duration::from_nanos(1)), TICK);
        if swarm.looks_at.is_some_and(|planned| planned <= at) {
            return;
        }
        swarm.looks_at = Some(at);
        let timer = shell.start_timer(at - shell.now, Timer::Swarm { hash });
        if let Some(old) = running.ticker.replace(timer) {
            shell.stop_timer(old);
        }
    }

    fn member_mut(&mut self, hash: Hash, peer: PeerId) -> Option<&mut Member> {
        self.swarm_mut(hash)?.members.get_mut(&peer)
    }

    fn swarm_mut(&mut self, hash: Hash) -> Option<&mut Swarm> {
        self.resolutions.get_mut(&hash)?.swarm.as_mut()
    }

    /// Has one fetch bring everything as long as nobody else has anything to give or to take: one request
    /// costs less than many. Returns whether it is so.
    fn goes_on_alone(&mut self, hash: Hash, shell: &mut Shell) -> bool {
        let Some(running) = self.resolutions.get_mut(&hash) else { return true };
        let among_others = running.herd.has_joined() || !shell.config.asks_one_for_all;
        let Some(swarm) = &mut running.swarm else { return true };
        let among_others = among_others || !swarm.getters.is_empty();
        // Which is nearly always so, and told by two words where looking through all fetches takes many.
        if among_others && !swarm.any_entire {
            return false;
        }
        let of_peer = |running: &Running| match running.source {
            Source::Peer(peer) if running.groups.is_none() => Some(peer),
            Source::Peer(_) | Source::Edge => None,
        };
        let whole = running.fetches.iter().find_map(|(id, running)| Some((*id, of_peer(running)?)));
        swarm.any_entire = whole.is_some();
        let swarm = &*swarm;
        let useful = swarm.members.iter().filter(|(_, member)| swarm.pieces.wants_of(&member.have));
        let mut useful = useful.map(|(peer, member)| (*peer, member.found, &member.have));
        match whole {
            // Until it has proven the size and the list nobody else could be believed.
            Some(_) if !swarm.proven => running.is_served(),
            // All has come, and its end is on the way: who else would tell that the blob is whole?
            Some(_) if swarm.pieces.whole().is_full() => true,
            Some((_, from)) if !among_others && useful.all(|(peer, _, _)| peer == from) => true,
            Some((fetch, from)) => {
                self.divide_fetch(hash, fetch, from, shell);
                false
            }
            None if among_others => false,
            None => {
                let first = useful.next().map(|(peer, found, have)| (peer, found, have.clone()));
                let Some((peer, found, Have::Whole)) = first.filter(|_| useful.next().is_none())
                else {
                    return false;
                };
                let source = Source::Peer(peer);
                let idle = !running.fetches_from_peers() && !running.retries.contains_key(&source);
                let room = self.fetching.has_room(peer, shell.config.fetches_per_peer_max);
                if idle && room {
                    self.start_fetch(hash, source, (found, None), shell);
                }
                idle && room
            }
        }
    }

    /// Makes a member of a holder that is fetched from already, and returns whether it was none.
    pub(super) fn make_member(
        &mut self,
        hash: Hash,
        peer: PeerId,
        found: Found,
        shell: &mut Shell,
    ) -> bool {
        let swarm = self.swarm_mut(hash).filter(|swarm| !swarm.contains(peer));
        let Some(swarm) = swarm else { return false };
        swarm.join(Holder { peer, found }, shell.now);
        self.look_soon(hash, shell);
        true
    }

    /// Turns a fetch of everything into ranges.
    fn divide_fetch(&mut self, hash: Hash, fetch: FetchId, from: PeerId, shell: &mut Shell) {
        if let Some(running) = self.resolutions.get_mut(&hash) {
            stop_fetch(running, fetch, "goes on in ranges", &mut self.fetches, shell);
            self.fetching.end(from);
            self.freed.push(from);
        }
    }

    /// Ends a swarm that was made for a length that no group has proven, when a holder says another.
    pub(super) fn doubt_size(&mut self, hash: Hash, size: u64, shell: &mut Shell) -> Vec<PeerId> {
        match self.swarm_mut(hash) {
            Some(swarm) if !swarm.proven => self.correct_size(hash, size, shell),
            Some(_) | None => Vec::new(),
        }
    }

    /// Ends a swarm that was made for another length than the blob turned out to have, and returns the peers
    /// that have room again. Those who hold all are asked anew; who told of groups of the wrong blob is not.
    pub(super) fn correct_size(&mut self, hash: Hash, size: u64, shell: &mut Shell) -> Vec<PeerId> {
        let mut freed = Vec::new();
        let Some(running) = self.resolutions.get_mut(&hash) else { return freed };
        let wrong = running.swarm.take_if(|swarm| swarm.pieces.size() != size);
        let Some(wrong) = wrong else { return freed };
        for (fetch, source) in running.sources_of_fetches() {
            if let (Source::Peer(peer), Some(_)) = (source, running.range_of(fetch)) {
                stop_fetch(running, fetch, "of another length", &mut self.fetches, shell);
                freed.push(peer);
            }
        }
        for (peer, member) in wrong.members {
            match member.have {
                // One that is asked for everything goes on, and one that just said that it holds the blob is
                // a holder already.
                Have::Whole => running.add_holder(Holder { peer, found: member.found }),
                Have::Blocks(_) => drop(running.retries.remove(&Source::Peer(peer))),
            }
        }
        freed
    }
}

impl Resolution {
    fn range_of(&self, fetch: FetchId) -> Option<&Range<u64>> {
        self.fetches.get(&fetch)?.groups.as_ref()
    }

    /// Forgets a partner, and that it was to be tried again.
    fn forget_partner(&mut self, peer: PeerId) {
        self.retries.remove(&Source::Peer(peer));
        if let Some(swarm) = &mut self.swarm {
            swarm.forget(peer);
        }
    }

    /// Takes in that a source failed. A partner that is no neighbour any more has ended: it is forgotten, and
    /// not tried again before it says that it is back. Returns whether it was one.
    pub(super) fn parts_from_gone(&mut self, source: Source, peers: &Peers) -> bool {
        let (Source::Peer(peer), Some(swarm)) = (source, &self.swarm) else { return false };
        if peers.contains(peer) || !swarm.is_partner(source) {
            return false;
        }
        self.forget_partner(peer);
        if let Some(swarm) = &mut self.swarm {
            swarm.divide();
        }
        true
    }

    /// Takes in that the control connection with a peer is gone: what it brings may still come.
    pub(super) fn part_from(&mut self, peer: PeerId) {
        self.herd.forget(peer);
        let ranges = self.ranges_of(peer);
        let Some(swarm) = &mut self.swarm else { return };
        swarm.greeted.remove(&peer);
        swarm.getters.remove(&peer);
        if ranges == 0 && swarm.is_partner(Source::Peer(peer)) {
            self.forget_partner(peer);
        } else if ranges == 0 {
            swarm.forget(peer);
        }
    }
}
