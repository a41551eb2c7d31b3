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
use crate::time::Time;
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
/// How long a neighbour counts as one that fetches the blob, since it last said so.
const GETTER_HOPE: Duration = Duration::from_secs(10);
/// How long a partner counts as one who may bring more, since it last told of a block.
const PARTNER_HOPE: Duration = Duration::from_secs(3);

/// Is a blob that is fetched from several peers.
#[derive(Clone, Debug)]
pub(crate) struct Swarm {
    pub(crate) pieces: Pieces,
    pub(super) members: BTreeMap<PeerId, Member>,
    /// Whether a group was verified, so that the size and the list are proven.
    pub(crate) proven: bool,
    /// The blocks that partners were told of.
    pub(super) told: GroupSet,
    /// Since when a member that holds all has had nothing to do that is ours.
    pub(super) idle_since: Option<Time>,
    /// When a partner last gave bytes.
    pub(super) helped: Time,
    /// When there was last reason to think that partners will have more: at the start, and when one told of
    /// a block that is missing here.
    pub(super) hoped: Time,
    pub(super) ticking: bool,
    /// Neighbours that were told of this fetch, and when all of them were.
    pub(super) greeted: BTreeSet<PeerId>,
    pub(super) greeted_at: Time,
    /// Neighbours that said that they fetch the blob, and when: more than are partners. They are who the
    /// blocks are divided among.
    pub(crate) getters: BTreeMap<PeerId, Time>,
    /// Neighbours that take groups from us, and are told of new ones.
    pub(super) followers: BTreeSet<PeerId>,
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
}

/// Returns how long bytes take at a rate.
pub(crate) fn time_for(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

impl Member {
    pub(super) fn new(found: Found, have: Have, now: Time) -> Self {
        Self { found, have, rate: None, heard: now, dry: false }
    }
}

impl Swarm {
    pub(crate) fn new(pieces: Pieces, proven: bool, now: Time) -> Self {
        let told = pieces.no_blocks();
        Self {
            pieces,
            members: BTreeMap::new(),
            proven,
            told,
            idle_since: None,
            helped: Time::ZERO,
            hoped: now,
            ticking: false,
            greeted: BTreeSet::new(),
            greeted_at: Time::ZERO,
            getters: BTreeMap::new(),
            followers: BTreeSet::new(),
        }
    }

    /// Returns whether some member may bring something that is missing, now or soon. Partners that wait for
    /// each other do not keep each other waiting: only what is new gives hope.
    pub(crate) fn is_hopeful(&self, retries: &BTreeMap<Source, Found>, now: Time) -> bool {
        let fresh = now - self.hoped.max(self.helped) < PARTNER_HOPE;
        self.members.iter().any(|(peer, member)| {
            let waits = retries.contains_key(&Source::Peer(*peer));
            let soon = fresh && !matches!(member.have, Have::Whole);
            !waits && (soon || self.pieces.wants_of(&member.have))
        })
    }

    /// Forgets a member.
    pub(crate) fn forget(&mut self, peer: PeerId) {
        if let Some(Member { have: Have::Blocks(blocks), .. }) = self.members.remove(&peer) {
            for index in (0..blocks.groups()).filter(|index| blocks.contains(*index)) {
                self.pieces.spread(index, false);
            }
        }
    }

    /// Returns whether a peer is a member.
    pub(crate) fn contains(&self, peer: PeerId) -> bool {
        self.members.contains_key(&peer)
    }

    /// Returns how many members hold all of it.
    pub(crate) fn holders(&self) -> usize {
        self.members.values().filter(|member| matches!(member.have, Have::Whole)).count()
    }

    /// Takes in a peer that holds all.
    pub(super) fn join(&mut self, holder: Holder, now: Time) {
        let rate = self.members.get(&holder.peer).and_then(|member| member.rate);
        self.forget(holder.peer);
        let member = Member { rate, ..Member::new(holder.found, Have::Whole, now) };
        self.members.insert(holder.peer, member);
    }

    /// Returns what a neighbour is told: these groups, and whether we take from it.
    pub(super) fn word_to(&self, hash: Hash, peer: PeerId, runs: Vec<(u64, u64)>) -> Message {
        let follows = self.members.contains_key(&peer);
        Message::Groups { hash, size: self.pieces.size(), follows, runs }
    }

    /// Takes in whether a neighbour takes groups from us. Twice as many may as we take from: they choose
    /// among us as we do among them.
    pub(super) fn set_follower(&mut self, peer: PeerId, follows: bool, partners_max: usize) {
        if !follows {
            self.followers.remove(&peer);
        } else if self.followers.len() < partners_max.saturating_mul(2) {
            self.followers.insert(peer);
        }
    }

    /// Returns whether a neighbour is to be a partner, and who has to go for it. Of more than fit those
    /// stay whose names weigh most together with ours, so that nobody is everybody's choice.
    pub(super) fn admit(
        &self,
        peer: PeerId,
        me: PeerId,
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
        let lightest = partners.map(|(other, _)| (pair_weight(me, *other), *other)).min();
        match lightest {
            Some((weight, other)) if weight < pair_weight(me, peer) => (true, Some(other)),
            Some(_) | None => (false, None),
        }
    }

    /// Takes in what a partner holds.
    pub(super) fn hear(&mut self, peer: PeerId, groups: &[Range<u64>], now: Time) {
        let nothing = self.pieces.no_blocks();
        let member = self
            .members
            .entry(peer)
            .or_insert_with(|| Member::new(Found::Lan, Have::Blocks(nothing), now));
        let Have::Blocks(blocks) = &mut member.have else { return };
        for index in
            groups.iter().flat_map(|run| self.pieces.blocks_within(run)).collect::<BTreeSet<_>>()
        {
            if blocks.insert(index) {
                (member.heard, member.dry) = (now, false);
                self.pieces.spread(index, true);
                if !self.pieces.holds(&self.pieces.groups_of(index)) {
                    self.hoped = now;
                }
            }
        }
    }

    /// Returns whether a source is a partner.
    pub(super) fn is_partner(&self, source: Source) -> bool {
        let Source::Peer(peer) = source else { return false };
        self.members.get(&peer).is_some_and(|member| !matches!(member.have, Have::Whole))
    }

    /// Forgets partners that have long said nothing and have nothing that is missing: their get is over.
    /// Returns whether there were any.
    pub(super) fn part_from_silent(&mut self, busy: &BTreeSet<PeerId>, now: Time) -> bool {
        let silent = |peer: &PeerId, member: &Member| {
            !busy.contains(peer)
                && !matches!(member.have, Have::Whole)
                && now - member.heard >= PARTNER_HOPE
                && !self.pieces.wants_of(&member.have)
        };
        let members = self.members.iter();
        let gone: Vec<PeerId> =
            members.filter(|(peer, member)| silent(peer, member)).map(|(peer, _)| *peer).collect();
        for peer in &gone {
            self.forget(*peer);
        }
        let before = self.getters.len();
        self.getters.retain(|_, heard| now - *heard < GETTER_HOPE);
        self.followers.retain(|peer| self.getters.contains_key(peer));
        !gone.is_empty() || self.getters.len() < before
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
        let nanos = took.as_nanos().max(1);
        let rate = u128::from(bytes) * 1_000_000_000 / nanos;
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        // Half of the old and half of the new: four ranges later the old counts little.
        member.rate = Some(member.rate.map_or(rate, |old| old / 2 + rate / 2));
    }

    /// Has all members be looked at again.
    pub(super) fn moisten(&mut self) {
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

    /// Returns the blocks that became whole since partners were told, as runs of groups.
    pub(super) fn news(&mut self) -> Vec<(u64, u64)> {
        let runs = self.runs_beyond(&self.told);
        for index in runs.iter().flat_map(|run| self.pieces.blocks_within(run)) {
            self.told.insert(index);
        }
        runs.into_iter().map(|run| (run.start, run.end - run.start)).collect()
    }

    /// Returns what is held, as runs of groups, for one who knows nothing yet.
    pub(super) fn everything(&self) -> Vec<(u64, u64)> {
        let runs = self.runs_beyond(&self.pieces.no_blocks());
        runs.into_iter().map(|run| (run.start, run.end - run.start)).collect()
    }

    /// Returns the blocks that are held beyond these, as runs of groups. What does not fit into one message
    /// is left for the next.
    pub(super) fn runs_beyond(&self, told: &GroupSet) -> Vec<Range<u64>> {
        let held = self.pieces.held_blocks();
        let mut runs: Vec<Range<u64>> = Vec::new();
        for index in (0..held.groups()).filter(|n| held.contains(*n) && !told.contains(*n)) {
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
