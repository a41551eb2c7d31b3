//! Who a blob is fetched from, and who fetches it from us.
//!
//! A [`Swarm`] is what one resolution knows of its members and neighbours beside the [`Pieces`] themselves:
//! rates, patience and hope are judged here, by the state alone. What grows with a peer's word is bounded:
//! members by the configuration, the rest by the number of neighbours. It starts no fetch and sends nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use super::pieces::{Have, Pieces, pair_weight};
use crate::blob::{GroupSet, Hash};
use crate::engine::Source;
use crate::engine::receipt::Found;
use crate::engine::resolver::resolution::Holder;
use crate::id::PeerId;
use crate::time::{Time, rate_of, time_for};
use crate::wire::message::{Message, RUNS_MAX};

/// How long a member that holds all may stay idle before it is asked for what belongs to partners.
const IDLE_PATIENCE: Duration = Duration::from_millis(150);
/// How many times its own need for a block a member that is slow may stay idle.
const PATIENCE_FACTOR: u32 = 4;
/// A range is as long as a member takes about this long to bring.
const RANGE_TIME: Duration = Duration::from_millis(100);
/// A member that brings a block within this time is asked for the next one meanwhile: what it is idle between
/// two ranges is worth more than a range that comes sooner.
const PIPELINED_TIME: Duration = Duration::from_millis(250);
/// The most blocks of one range.
const RANGE_BLOCKS_MAX: u64 = 4;
/// How long a neighbour counts as one that fetches the blob at least, since it last said so.
const GETTER_HOPE: Duration = Duration::from_secs(10);
/// How soon and how late all neighbours are told again that the blob is being fetched, and how long after the
/// last of them began: a quarter of that time. Who fetches for hours need not say so every few seconds.
const GREET_INTERVAL: Range<Duration> = Duration::from_secs(4)..Duration::from_secs(300);
const GREET_SHARE: u32 = 4;
/// How long a partner counts as one who may bring more, since it last told of a block.
pub(super) const PARTNER_HOPE: Duration = Duration::from_secs(3);

/// Blocks that became whole are told of when they are this part of those told before: the first ones at once, as
/// nobody has them, and later ones many in a word, as everybody knows of enough to do meanwhile.
const NEWS_SHARE: u64 = 32;
/// How long they wait at most, counted from the word before: this part of the time that the get has taken so far, so
/// that a short one is not held up, and no more than that.
const NEWS_AGE_SHARE: u32 = 100;
const NEWS_PATIENCE: Duration = Duration::from_millis(200);

/// Is a blob that is fetched from several peers.
#[derive(Clone, Debug)]
pub(crate) struct Swarm {
    pub(crate) pieces: Pieces,
    pub(super) members: BTreeMap<PeerId, Member>,
    /// How many of them hold all.
    wholes: usize,
    /// How many ranges each peer brings; none that brings none.
    bringing: BTreeMap<PeerId, usize>,
    /// Whether a member may be bringing everything in one fetch: false only where all fetches were seen to be of
    /// ranges.
    pub(crate) any_entire: bool,
    /// Whether one of them may have something to give: false only where all are dry.
    pub(super) any_wet: bool,
    /// Whether a group was verified, so that the size and the list are proven.
    pub(crate) proven: bool,
    /// The blocks that partners were told of.
    told: GroupSet,
    /// When they were told last.
    told_at: Time,
    /// Since when a member that holds all has had nothing to do that is ours.
    pub(super) idle_since: Option<Time>,
    /// When a partner last gave bytes.
    pub(super) helped: Time,
    /// When there was last reason to think that partners will have more: at the start, and when one told of
    /// a block that is missing here.
    pub(super) hoped: Time,
    opened_at: Time,
    /// When it looks at itself next, and when it did last.
    pub(super) looks_at: Option<Time>,
    pub(super) looked_at: Time,
    /// When it last looked for those who fell silent.
    pub(super) swept_at: Time,
    /// Neighbours that were told of this fetch, and when all of them are told again.
    pub(super) greeted: BTreeSet<PeerId>,
    pub(super) greets_at: Time,
    /// When the last of the neighbours that fetch the blob began.
    pub(super) joined_at: Time,
    /// Neighbours that said that they fetch the blob: more than are partners. They are who the blocks are
    /// divided among.
    pub(crate) getters: BTreeMap<PeerId, Getter>,
}

/// Is a peer that a blob is fetched from.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) found: Found,
    pub(super) have: Have,
    /// Bytes a second that it gave lately; none before it gave any.
    pub(super) rate: Option<u64>,
    /// When it last told of a block, or gave one.
    pub(super) heard: Time,
    /// Whether it had nothing that is missing when it was last looked at, and nothing has changed since.
    pub(super) dry: bool,
    /// Its weight as a partner.
    weight: u64,
    /// Whether it is a partner that told nothing new for a while: it takes no place until it does.
    pub(super) rests: bool,
}

/// Is a neighbour that fetches the blob, too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Getter {
    /// When it first and when it last said so.
    since: Time,
    heard: Time,
    /// Whether it takes groups from us, and is told of new ones.
    follows: bool,
}

impl Getter {
    /// Returns when it counts no more, unless it says something before. It says so again after a quarter of
    /// the time since it knew of us, which is about as long as we know of it; two such words may fail.
    fn ends_at(&self) -> Time {
        let known = self.heard - self.since;
        self.heard + GETTER_HOPE.max(known.saturating_mul(5) / (2 * GREET_SHARE))
    }
}

impl Member {
    fn new(found: Found, have: Have, weight: u64, now: Time) -> Self {
        Self { found, have, rate: None, heard: now, dry: false, weight, rests: false }
    }

    /// Returns the blocks of a partner; none of one that holds all.
    pub(super) fn blocks(&self) -> Option<&GroupSet> {
        match &self.have {
            Have::Whole => None,
            Have::Blocks(blocks) => Some(blocks),
        }
    }
}

impl Swarm {
    pub(crate) fn new(pieces: Pieces, proven: bool, now: Time) -> Self {
        let told = pieces.no_blocks();
        Self {
            pieces,
            members: BTreeMap::new(),
            wholes: 0,
            bringing: BTreeMap::new(),
            any_entire: true,
            any_wet: false,
            proven,
            told,
            told_at: Time::ZERO,
            idle_since: None,
            helped: Time::ZERO,
            hoped: now,
            opened_at: now,
            looks_at: None,
            looked_at: now,
            swept_at: Time::ZERO,
            greeted: BTreeSet::new(),
            greets_at: now,
            joined_at: now,
            getters: BTreeMap::new(),
        }
    }

    /// Returns whether some member may bring something that is missing, now or soon. Partners that wait for
    /// each other do not keep each other waiting: only what is new gives hope.
    pub(crate) fn is_hopeful(&self, retries: &BTreeMap<Source, Found>, now: Time) -> bool {
        let fresh = now - self.hoped.max(self.helped) < PARTNER_HOPE;
        self.members.iter().filter(|(_, member)| !member.rests).any(|(peer, member)| {
            let soon = fresh && !matches!(member.have, Have::Whole);
            (soon || self.pieces.wants_of(&member.have))
                && !retries.contains_key(&Source::Peer(*peer))
        })
    }

    /// Returns when a member last gave something, or told of something that is missing here.
    pub(in crate::engine::resolver) fn heard_at(&self) -> Time {
        self.hoped.max(self.helped)
    }

    /// Forgets a member.
    pub(crate) fn forget(&mut self, peer: PeerId) {
        match self.members.remove(&peer).map(|member| member.have) {
            Some(Have::Whole) => self.wholes -= 1,
            Some(Have::Blocks(blocks)) => {
                for index in blocks.beyond(&self.pieces.no_blocks()) {
                    self.pieces.spread(index, false);
                }
            }
            None => {}
        }
    }

    /// Takes in that a peer brings one range more, or one less.
    pub(super) fn brings(&mut self, peer: PeerId, more: bool) {
        let count = self.bringing.entry(peer).or_default();
        *count = if more { count.saturating_add(1) } else { count.saturating_sub(1) };
        if *count == 0 {
            self.bringing.remove(&peer);
        }
    }

    /// Returns how many bytes a second a member gave lately, if any.
    pub(crate) fn rate_of_member(&self, peer: PeerId) -> Option<u64> {
        self.members.get(&peer).and_then(|member| member.rate)
    }

    /// Returns how many ranges a peer brings.
    pub(crate) fn ranges_of(&self, peer: PeerId) -> usize {
        self.bringing.get(&peer).copied().unwrap_or(0)
    }

    /// Returns whether a peer is a member.
    pub(crate) fn contains(&self, peer: PeerId) -> bool {
        self.members.contains_key(&peer)
    }

    /// Returns how many members hold all of it.
    pub(crate) fn holders(&self) -> usize {
        self.wholes
    }

    /// Takes in a peer that holds all.
    pub(super) fn join(&mut self, holder: Holder, now: Time) {
        let rate = self.members.get(&holder.peer).and_then(|member| member.rate);
        self.forget(holder.peer);
        let member = Member { rate, ..Member::new(holder.found, Have::Whole, 0, now) };
        self.members.insert(holder.peer, member);
        self.wholes += 1;
        self.any_wet = true;
    }

    /// Returns what a neighbour is told: these groups, and whether we take from it.
    pub(super) fn word_to(&self, hash: Hash, peer: PeerId, runs: &[Range<u64>]) -> Message {
        let follows = self.members.contains_key(&peer);
        let runs = runs.iter().map(|run| (run.start, run.end - run.start)).collect();
        Message::Groups { hash, size: self.pieces.size(), follows, runs }
    }

    /// Returns whether a neighbour that says that it holds these groups is to be a partner, and who has to go
    /// for it. Of more than fit those stay whose names weigh most together with ours, so that nobody is
    /// everybody's choice; but one that rests goes for one that has what is missing.
    pub(super) fn admit(
        &self,
        (peer, me): (PeerId, PeerId),
        groups: &[Range<u64>],
        partners_max: usize,
    ) -> (bool, Option<PeerId>) {
        if self.contains(peer) {
            return (true, None);
        }
        let partners =
            self.members.iter().filter(|(_, member)| !matches!(member.have, Have::Whole));
        if partners.clone().count() < partners_max {
            return (true, None);
        }
        let lightest = partners.clone().map(|(other, member)| (member.weight, *other)).min();
        let resting = partners.filter(|(_, member)| member.rests);
        let resting = resting.map(|(other, member)| (member.weight, *other)).min();
        let missing = |index| !self.pieces.whole().contains(index);
        match (lightest, resting) {
            (Some((weight, other)), _) if weight < pair_weight(me, peer) => (true, Some(other)),
            (_, Some((_, other)))
                if groups.iter().flat_map(|run| self.pieces.blocks_within(run)).any(missing) =>
            {
                (true, Some(other))
            }
            (_, _) => (false, None),
        }
    }

    /// Takes in what a partner holds, and returns whether any of it is new and missing here.
    pub(super) fn hear(
        &mut self,
        (peer, me): (PeerId, PeerId),
        groups: &[Range<u64>],
        now: Time,
    ) -> bool {
        let pieces = &self.pieces;
        let member = self.members.entry(peer).or_insert_with(|| {
            let weight = pair_weight(me, peer);
            Member::new(Found::Lan, Have::Blocks(pieces.no_blocks()), weight, now)
        });
        let Have::Blocks(blocks) = &mut member.have else { return false };
        let mut missing = false;
        for run in groups {
            for index in self.pieces.blocks_within(run) {
                if blocks.insert(index) {
                    (member.heard, member.rests) = (now, false);
                    self.pieces.spread(index, true);
                    missing |= !self.pieces.whole().contains(index);
                }
            }
        }
        if missing {
            (member.dry, self.any_wet, self.hoped) = (false, true, now);
        }
        missing
    }

    /// Takes in that a neighbour fetches the blob and whether it takes groups from us, and returns whether it is
    /// new that it fetches. Twice as many may follow as we take from: they choose among us as we do among them.
    pub(super) fn hear_getter(
        &mut self,
        peer: PeerId,
        follows: bool,
        partners_max: usize,
        now: Time,
    ) -> bool {
        let follows = follows && (self.follows(peer) || self.has_room(partners_max));
        if let Some(getter) = self.getters.get_mut(&peer) {
            (getter.heard, getter.follows) = (now, follows);
            return false;
        }
        self.getters.insert(peer, Getter { since: now, heard: now, follows });
        // It is told soon that we do, too.
        self.joined_at = now;
        self.greets_at = self.greets_at.min(now + GREET_INTERVAL.start);
        true
    }

    fn follows(&self, peer: PeerId) -> bool {
        self.getters.get(&peer).is_some_and(|getter| getter.follows)
    }

    fn has_room(&self, partners_max: usize) -> bool {
        self.followers().count() < partners_max.saturating_mul(2)
    }

    /// Returns the neighbours that take groups from us, and are told of new ones.
    pub(super) fn followers(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.getters.iter().filter(|(_, getter)| getter.follows).map(|(peer, _)| *peer)
    }

    /// Takes in that all neighbours are told now.
    pub(super) fn greeting(&mut self, now: Time) {
        let since = (now - self.joined_at) / GREET_SHARE;
        self.greets_at = now + since.clamp(GREET_INTERVAL.start, GREET_INTERVAL.end);
    }

    /// Returns whether a source is a partner.
    pub(super) fn is_partner(&self, source: Source) -> bool {
        let Source::Peer(peer) = source else { return false };
        self.members.get(&peer).is_some_and(|member| !matches!(member.have, Have::Whole))
    }

    /// Lets partners rest that have long said nothing and have nothing that is missing, and forgets those
    /// that never told of anything and getters that fell silent: their get is over. Returns whether the
    /// blocks are to be divided anew.
    pub(super) fn part_from_silent(&mut self, busy: &BTreeSet<PeerId>, now: Time) -> bool {
        let silent = |peer: &PeerId, member: &Member| {
            !busy.contains(peer)
                && !matches!(member.have, Have::Whole)
                && now - member.heard >= PARTNER_HOPE
                && !self.pieces.wants_of(&member.have)
        };
        let members = self.members.iter().filter(|(_, member)| !member.rests);
        let gone: Vec<PeerId> =
            members.filter(|(peer, member)| silent(peer, member)).map(|(peer, _)| *peer).collect();
        for peer in &gone {
            match self.members.get_mut(peer) {
                Some(member) if member.blocks().is_some_and(|blocks| blocks.held() > 0) => {
                    member.rests = true;
                }
                Some(_) | None => self.forget(*peer),
            }
        }
        let before = self.getters.len();
        self.getters.retain(|_, getter| now < getter.ends_at());
        if self.getters.len() < before {
            let known =
                |peer: &PeerId, member: &Member| !member.rests || self.getters.contains_key(peer);
            let rested: Vec<PeerId> = self
                .members
                .iter()
                .filter(|(peer, member)| !known(peer, member))
                .map(|(peer, _)| *peer)
                .collect();
            rested.into_iter().for_each(|peer| self.forget(peer));
        }
        !gone.is_empty() || self.getters.len() < before
    }

    /// Returns when time alone makes a difference next, where nothing is on its way.
    pub(super) fn next_look(&self, now: Time) -> Time {
        let partners = self
            .members
            .values()
            .filter(|member| !member.rests && !matches!(member.have, Have::Whole));
        let silences = partners.map(|member| member.heard + PARTNER_HOPE);
        let ends = self.getters.values().map(Getter::ends_at);
        let hope = self.hoped.max(self.helped) + PARTNER_HOPE;
        let moments = silences.chain(ends).chain([hope]).filter(|at| *at > now);
        moments.fold(self.greets_at, Time::min)
    }

    /// Returns the peers that fetch the blob like us and have not got all of it.
    pub(super) fn partners(&self) -> BTreeSet<PeerId> {
        let partners = self.members.iter().filter(|(_, member)| match &member.have {
            Have::Whole => false,
            Have::Blocks(blocks) => !blocks.is_full(),
        });
        partners.map(|(peer, _)| *peer).collect()
    }

    /// Divides the blocks among us and all who fetch them.
    pub(crate) fn divide(&mut self) {
        let mut getters = self.partners();
        getters.extend(self.getters.keys().copied());
        self.pieces.divide(&getters);
    }

    /// Takes in that a member gave bytes in a time.
    pub(super) fn gave(&mut self, peer: PeerId, bytes: u64, took: Duration, now: Time) {
        let Some(member) = self.members.get_mut(&peer) else { return };
        member.heard = now;
        let rate = rate_of(bytes, took);
        // Half of the old and half of the new: four ranges later the old counts little.
        member.rate = Some(member.rate.map_or(rate, |old| old / 2 + rate / 2));
    }

    /// Returns whether time makes a difference at once: patience with a holder may end, or a range be slow
    /// whose blocks may be fetched twice.
    pub(super) fn is_pressed_for_time(&self) -> bool {
        self.wholes > 0 || self.pieces.is_end()
    }

    /// Returns the first of its regular moments from `at` on.
    pub(super) fn look_after(&self, at: Time, every: Duration) -> Time {
        let every = every.as_nanos().max(1);
        let count = (at - self.opened_at).as_nanos().div_ceil(every);
        let nanos = u64::try_from(count.saturating_mul(every)).unwrap_or(u64::MAX);
        self.opened_at + Duration::from_nanos(nanos)
    }

    /// Has those members be looked at again for whom time makes a difference: patience with holders ends,
    /// and in the end ranges become slow.
    pub(super) fn time_passed(&mut self) {
        if !self.is_pressed_for_time() {
            return;
        }
        let end = self.pieces.is_end();
        self.any_wet = true;
        for member in self.members.values_mut() {
            member.dry &= !end && !matches!(member.have, Have::Whole);
        }
    }

    /// Has all members be looked at again.
    pub(crate) fn moisten(&mut self) {
        self.any_wet = true;
        self.members.values_mut().for_each(|member| member.dry = false);
    }

    /// Returns how many blocks a member is asked for at once.
    pub(super) fn range_blocks(&self, member: &Member) -> u64 {
        let millis = u64::try_from(RANGE_TIME.as_millis()).unwrap_or(u64::MAX);
        let bytes = member.rate.unwrap_or(0).saturating_mul(millis) / 1_000;
        (bytes / self.pieces.block_bytes()).clamp(1, RANGE_BLOCKS_MAX)
    }

    /// Returns whether a member brings a block in the time of a range.
    fn is_quick(&self, member: &Member) -> bool {
        self.brings_a_block(member, RANGE_TIME)
    }

    /// Returns whether a member brings a block so quickly that it would be idle, for a good part of that
    /// time, before the next request reaches it. A slow one has its link full with one range, and many ranges
    /// at once only make each of them late.
    ///
    /// The rate is that of one range among those which come at once, so the bound lies well below what one
    /// range makes of a member that is to have two.
    pub(super) fn is_pipelined(&self, member: &Member) -> bool {
        self.brings_a_block(member, PIPELINED_TIME)
    }

    fn brings_a_block(&self, member: &Member, time: Duration) -> bool {
        let needs = member.rate.map(|rate| time_for(self.pieces.block_bytes(), rate));
        needs.is_some_and(|needs| needs <= time)
    }

    /// Returns whether a member that holds all is not to be asked for what belongs to partners. Where it
    /// is slow others wait for it, too: a partner needs as long as we do for each of its blocks, and as
    /// long as some come from partners the others will.
    pub(super) fn is_patient(&self, member: &Member, now: Time) -> bool {
        let Some(since) = self.idle_since else { return true };
        if self.is_quick(member) {
            return now - since < IDLE_PATIENCE;
        }
        let needs =
            member.rate.map_or(Duration::ZERO, |rate| time_for(self.pieces.block_bytes(), rate));
        now - since.max(self.helped) < IDLE_PATIENCE.max(needs.saturating_mul(PATIENCE_FACTOR))
    }

    /// Returns when partners are to be told of the blocks that became whole since they were told; none where
    /// there are none. In the end game, where others wait for the same few blocks, that is at once.
    pub(super) fn news_due_at(&self, now: Time) -> Option<Time> {
        let (told, whole) = (self.told.held(), self.pieces.whole().held());
        let few = whole - told < (told / NEWS_SHARE).max(1) && !self.pieces.is_end();
        let patience = ((now - self.opened_at) / NEWS_AGE_SHARE).min(NEWS_PATIENCE);
        let due = if few { now.max(self.told_at + patience) } else { now };
        (told < whole).then_some(due)
    }

    /// Returns the blocks that became whole since partners were told, as runs of groups.
    pub(super) fn news(&mut self, now: Time) -> Vec<Range<u64>> {
        let runs = self.runs_beyond(&self.told);
        for index in runs.iter().flat_map(|run| self.pieces.blocks_within(run)) {
            self.told.insert(index);
        }
        self.told_at = now;
        runs
    }

    /// Returns whether a neighbour is known to hold all of these groups.
    pub(super) fn knows(&self, peer: PeerId, runs: &[Range<u64>]) -> bool {
        self.members.get(&peer).is_some_and(|member| {
            let mut indexes = runs.iter().flat_map(|run| self.pieces.blocks_within(run));
            indexes.all(|index| member.have.contains(index))
        })
    }

    /// Returns what is held, as runs of groups, for one who knows nothing yet.
    pub(super) fn everything(&self) -> Vec<Range<u64>> {
        self.runs_beyond(&self.pieces.no_blocks())
    }

    /// Returns the blocks that are held beyond these, as runs of groups. What does not fit into one message
    /// is left for the next.
    pub(super) fn runs_beyond(&self, told: &GroupSet) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for index in self.pieces.whole().beyond(told) {
            let (groups, full) = (self.pieces.groups_of(index), runs.len() >= RUNS_MAX);
            match runs.last_mut() {
                Some(run) if run.end == groups.start => run.end = groups.end,
                Some(_) if full => break,
                Some(_) | None => runs.push(groups),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_blocks_are_told_of_at_once_and_later_ones_together_or_after_a_while() {
        let block = |index: u64| index * 16..(index + 1) * 16;
        let at = |millis| Time::ZERO + Duration::from_millis(millis);
        let pieces =
            Pieces::new(PeerId::from_bytes([1; 32]), 128 << 20, None).expect("of its size");
        let mut swarm = Swarm::new(pieces, true, at(0));
        assert_eq!(swarm.news_due_at(at(0)), None, "nothing is new");
        for index in 0..2 * NEWS_SHARE {
            swarm.pieces.stored(block(index));
            assert_eq!(swarm.news_due_at(at(1_000)), Some(at(1_000)), "one of few");
            assert_eq!(swarm.news(at(1_000)), [block(index)]);
        }
        swarm.pieces.stored(block(100));
        assert_eq!(swarm.news_due_at(at(1_000)), Some(at(1_010)), "one of many, of a young get");
        assert_eq!(swarm.news(at(60_000)), [block(100)]);
        swarm.pieces.stored(block(101));
        let late = at(60_000) + NEWS_PATIENCE;
        assert_eq!(swarm.news_due_at(at(60_001)), Some(late), "of an old one");
        assert_eq!(swarm.news_due_at(late), Some(late));
        swarm.pieces.stored(block(103));
        assert_eq!(swarm.news_due_at(at(60_001)), Some(at(60_001)), "two of them are enough");
        assert_eq!(swarm.news(at(60_001)), [block(101), block(103)]);
        swarm.pieces.stored(block(105));
        swarm.pieces.bring(&(0..128 * 16), true);
        assert_eq!(swarm.news_due_at(at(60_002)), Some(at(60_002)), "the end game");
    }
}
