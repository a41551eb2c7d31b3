//! The pieces of one blob: what is held, what is on its way, and what to fetch next from whom.
//!
//! A blob is divided into *blocks* of a few groups: short enough that many sources share it evenly, long
//! enough that a request for one costs little. A source is asked for a block that it holds and that
//! nobody else is bringing. Which one decides how often a blob crosses the link of whoever had it first:
//!
//! - From a partner, who is fetching the blob like us: the block that the fewest partners hold
//!   (*rarest first*; Legout, Urvoy-Keller and Michiardi, *Rarest First and Choke Algorithms Are Enough*,
//!   IMC 2006).
//! - From a peer that holds all of it: the blocks that are ours among the partners, each block belonging
//!   to the one with the highest hash of peer and block (*rendezvous hashing*; Thaler and Ravishankar,
//!   1998). So partners bring different blocks without a word about it, and take the rest from each
//!   other. Of few blocks nobody owns more than a share: by chance one has twice as many as another, and
//!   all wait for what it sends. What is not ours is taken too when nothing else was left to do for a while.

use std::collections::BTreeSet;
use std::ops::{Range, RangeInclusive};

use crate::blob::{GROUP_LEN, GroupSet, group_count};
use crate::id::PeerId;

/// The fewest and the most groups of a block: 1 and 4 MiB.
const BLOCK_GROUPS: Range<u64> = 16..64;
/// A blob is divided into about so many blocks, as far as their bounds allow.
const BLOCKS_WANTED: u64 = 1_024;
/// Of how many blocks nobody owns more than a share. Of more chance makes shares that are even enough, and each partner that
/// comes or goes would cost a step for each block and each partner. Of fewer a share is one block or two, and who
/// knows of one owner more or less than others gives nearly all of them to somebody else.
const EVEN_BLOCKS: RangeInclusive<u64> = 16..=256;
/// How many fetches bring one block at once, the later ones because the earlier are slow.
const BRINGERS_MAX: u8 = 2;

/// Says which blocks a source holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Have {
    /// All of them.
    Whole,
    /// Those of this set, over the indexes of blocks.
    Blocks(GroupSet),
}

/// Says which blocks a source may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Whether blocks that belong to partners may be taken from one who holds all.
    pub(crate) others_too: bool,
    /// Whether a block may be fetched that a fetch brings already.
    pub(crate) doubled: bool,
    /// How many blocks in a row to take at most.
    pub(crate) blocks_max: u64,
}

/// Keeps what is known of the pieces of one blob.
#[derive(Clone, Debug)]
pub(crate) struct Pieces {
    me: PeerId,
    size: u64,
    /// Groups of a block.
    block_len: u64,
    held: GroupSet,
    /// The blocks that are held whole.
    whole: GroupSet,
    blocks: Vec<Block>,
    /// Blocks that are missing and that nobody brings.
    idle: usize,
    /// Blocks that a partner has or will bring.
    shared: usize,
    /// Those among whom the blocks are divided, beside us.
    divided: BTreeSet<PeerId>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// Groups that are not held.
    missing: u64,
    /// Fetches that bring it.
    bringers: u8,
    /// Partners that hold it.
    spread: u32,
    /// Partners that have more weight for it than we.
    heavier: u32,
    /// Whether it belongs to a partner.
    is_of_partner: bool,
    /// Our own weight for it.
    own_weight: u64,
}

impl Pieces {
    /// Makes the pieces of a blob of which these groups are held; `None` if they are of another size.
    pub(crate) fn new(me: PeerId, size: u64, held: Option<GroupSet>) -> Option<Self> {
        let groups = group_count(size);
        let held = held.unwrap_or_else(|| GroupSet::new(groups));
        if held.groups() != groups {
            return None;
        }
        let block_len = block_len(groups);
        let count = usize::try_from(groups.div_ceil(block_len)).ok()?;
        let whole = GroupSet::new(groups.div_ceil(block_len));
        let blocks = vec![Block::default(); count];
        let (idle, shared, divided) = (0, 0, BTreeSet::new());
        let mut pieces = Self { me, size, block_len, held, whole, blocks, idle, shared, divided };
        for index in 0..groups.div_ceil(block_len) {
            let missing = pieces.held.missing_within(&pieces.groups_of(index));
            let missing = missing.into_iter().map(|run| run.end - run.start).sum();
            if missing == 0 {
                pieces.whole.insert(index);
            }
            pieces.change(index, |block| {
                (block.missing, block.own_weight) = (missing, weight(me, index));
            });
        }
        Some(pieces)
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Returns an empty set over the indexes of blocks.
    pub(crate) fn no_blocks(&self) -> GroupSet {
        GroupSet::new(u64::try_from(self.blocks.len()).unwrap_or(0))
    }

    /// Returns the blocks that are held whole.
    pub(crate) fn whole(&self) -> &GroupSet {
        &self.whole
    }

    /// Takes in that groups were stored, and returns whether a block became whole.
    pub(crate) fn stored(&mut self, groups: Range<u64>) -> bool {
        let before = self.whole.held();
        let groups = groups.start..groups.end.min(self.held.groups());
        for index in self.blocks_of(&groups) {
            let block = self.groups_of(index);
            let own = groups.start.max(block.start)..groups.end.min(block.end);
            let new = own.filter(|group| self.held.insert(*group)).count();
            if new == 0 {
                continue;
            }
            let left = self.change(index, |block| {
                block.missing =
                    block.missing.saturating_sub(u64::try_from(new).unwrap_or(u64::MAX));
                block.missing
            });
            if left == Some(0) {
                self.whole.insert(index);
            }
        }
        self.whole.held() > before
    }

    /// Returns whether all of these groups are held.
    pub(crate) fn holds(&self, groups: &Range<u64>) -> bool {
        self.held.missing_within(groups).is_empty()
    }

    /// Takes in that a fetch brings these groups, or no longer does.
    pub(crate) fn bring(&mut self, groups: &Range<u64>, more: bool) {
        for index in self.blocks_of(groups) {
            self.change(index, |block| {
                block.bringers = if more {
                    block.bringers.saturating_add(1)
                } else {
                    block.bringers.saturating_sub(1)
                };
            });
        }
    }

    /// Takes in that a partner holds a block, or that one who did is gone.
    pub(crate) fn spread(&mut self, index: u64, more: bool) {
        self.change(index, |block| {
            block.spread =
                if more { block.spread.saturating_add(1) } else { block.spread.saturating_sub(1) };
        });
    }

    /// Divides the blocks between us and our partners. Costs a step for each block and each partner that
    /// came or went since; of few blocks, one for each block and each partner where any did.
    pub(crate) fn divide(&mut self, partners: &BTreeSet<PeerId>) {
        let came: Vec<PeerId> = partners.difference(&self.divided).copied().collect();
        let went: Vec<PeerId> = self.divided.difference(partners).copied().collect();
        for (peer, came) in
            came.iter().map(|peer| (peer, true)).chain(went.iter().map(|peer| (peer, false)))
        {
            for index in 0..self.whole.groups() {
                self.change(index, |block| {
                    if weight(*peer, index) > block.own_weight {
                        block.heavier = if came {
                            block.heavier.saturating_add(1)
                        } else {
                            block.heavier.saturating_sub(1)
                        };
                    }
                });
            }
        }
        if !came.is_empty() || !went.is_empty() {
            self.divided.clone_from(partners);
            self.assign();
        }
    }

    /// Says of each block whether it belongs to a partner.
    fn assign(&mut self) {
        let blocks = self.whole.groups();
        let mut shares = EVEN_BLOCKS.contains(&blocks).then(|| self.shares(blocks));
        for index in 0..blocks {
            let owner = shares.as_mut().and_then(|shares| shares.give(index));
            let me = self.me;
            self.change(index, |block| {
                block.is_of_partner = owner.map_or(block.heavier > 0, |owner| owner != me);
            });
        }
    }

    fn shares(&self, blocks: u64) -> Shares {
        let owners = self.divided.iter().copied().chain([self.me]);
        let count = u64::try_from(self.divided.len()).unwrap_or(u64::MAX).saturating_add(1);
        let share = blocks.div_ceil(count);
        Shares(owners.map(|owner| (owner, share)).collect())
    }

    /// Returns whether everything that is missing is on its way: the end game.
    pub(crate) fn is_end(&self) -> bool {
        self.idle == 0
    }

    /// Returns whether a source has anything that is missing here.
    pub(crate) fn wants_of(&self, have: &Have) -> bool {
        match have {
            Have::Whole => !self.whole.is_full(),
            Have::Blocks(blocks) => blocks.beyond(&self.whole).next().is_some(),
        }
    }

    /// Chooses the groups to fetch next from a source.
    pub(crate) fn pick(&self, have: &Have, rules: Rules) -> Option<Range<u64>> {
        let best = match have {
            Have::Whole => self.best_of(self.whole.absent(), have, rules),
            Have::Blocks(blocks) => self.best_of(blocks.beyond(&self.whole), have, rules),
        }?;
        let mut range = self.first_gap(best)?;
        for index in best + 1..best.saturating_add(rules.blocks_max) {
            let next = self.block(index).filter(|block| {
                block.missing > 0 && have.contains(index) && block.is_eligible(have, rules)
            });
            let Some(gap) = next.and_then(|_| self.first_gap(index)) else { break };
            if gap.start != range.end {
                break;
            }
            range.end = gap.end;
        }
        Some(range)
    }

    /// Chooses the groups to ask the edge for next: of one range of `range_groups`, and of blocks that no
    /// partner has and nobody brings or claims; first of a range that is ours, then of one for which few partners have
    /// more weight. Returns how many have: no two of us come to the same number. `claimed` is in the order of its starts.
    pub(crate) fn pick_unclaimed(
        &self,
        range_groups: u64,
        claimed: &[Range<u64>],
    ) -> Option<(Range<u64>, u32)> {
        let range_blocks = (range_groups / self.block_len).max(1);
        let alone = self.divided.is_empty();
        let is_free = |index: u64| {
            let free = self.block(index).is_some_and(|block| block.is_idle() && block.spread == 0);
            free && !overlaps(claimed, &self.groups_of(index))
        };
        let order = |index: u64| {
            let first = self.block(index - index % range_blocks);
            let place = first.map_or(0, |block| if alone { index } else { block.own_weight });
            (first.map_or(0, |block| block.heavier), place, index)
        };
        let best = self
            .whole
            .absent()
            .filter(|index| is_free(*index))
            .min_by_key(|index| order(*index))?;
        let mut range = self.first_gap(best)?;
        let last = (best - best % range_blocks).saturating_add(range_blocks);
        for index in best + 1..last {
            let Some(gap) = self.first_gap(index).filter(|_| is_free(index)) else { break };
            if gap.start != range.end {
                break;
            }
            range.end = gap.end;
        }
        Some((range, order(best).0))
    }

    /// Returns the first groups that are missing and are `wanted`, where all that is missing is on its way: the end
    /// game. They are none of the `excluded`, which are in the order of their starts, and of one block, or of more with
    /// at most so many.
    pub(crate) fn end_gap(
        &self,
        most: u64,
        excluded: &[Range<u64>],
        wanted: impl Fn(&Range<u64>) -> bool,
    ) -> Option<Range<u64>> {
        if !self.is_end() {
            return None;
        }
        let gaps = self.whole.absent().filter_map(|index| self.first_gap(index));
        let mut gaps = gaps.filter(|gap| !overlaps(excluded, gap) && wanted(gap));
        let mut range = gaps.next()?;
        for gap in gaps {
            if gap.start != range.end || gap.end - range.start > most {
                break;
            }
            range.end = gap.end;
        }
        Some(range)
    }

    /// Returns whether all blocks of these groups are held, on their way, or with a partner.
    pub(crate) fn is_spread(&self, groups: &Range<u64>) -> bool {
        let within = groups.start..groups.end.min(self.held.groups());
        self.blocks_of(&within)
            .all(|index| self.block(index).is_none_or(|block| !block.is_idle() || block.spread > 0))
    }

    /// Returns the bytes that are missing, to a group.
    pub(crate) fn missing_bytes(&self) -> u64 {
        (self.held.groups() - self.held.held()).saturating_mul(GROUP_LEN)
    }

    /// Returns the block to fetch first of those that are missing here and not there.
    fn best_of(
        &self,
        indexes: impl Iterator<Item = u64>,
        have: &Have,
        rules: Rules,
    ) -> Option<u64> {
        let alone = self.shared == 0;
        indexes
            .filter_map(|index| Some((index, self.block(index)?)))
            .filter(|(_, block)| block.is_eligible(have, rules))
            .min_by_key(|(index, block)| block.order(have, *index, alone))
            .map(|(index, _)| index)
    }

    /// Returns the first run of groups of a block that are not held.
    fn first_gap(&self, index: u64) -> Option<Range<u64>> {
        let mut groups = self.groups_of(index);
        let start = groups.find(|group| !self.held.contains(*group))?;
        let end = groups.find(|group| self.held.contains(*group));
        Some(start..end.unwrap_or(self.groups_of(index).end))
    }

    /// Returns the blocks that these groups lie in.
    fn blocks_of(&self, groups: &Range<u64>) -> Range<u64> {
        groups.start / self.block_len..groups.end.div_ceil(self.block_len)
    }

    /// Returns the blocks that these groups cover to the last group.
    pub(crate) fn blocks_within(&self, groups: &Range<u64>) -> Range<u64> {
        let end = if groups.end >= self.held.groups() {
            u64::try_from(self.blocks.len()).unwrap_or(0)
        } else {
            groups.end / self.block_len
        };
        groups.start.div_ceil(self.block_len)..end
    }

    /// Returns the groups of a block.
    pub(crate) fn groups_of(&self, index: u64) -> Range<u64> {
        let start = index.saturating_mul(self.block_len).min(self.held.groups());
        start..start.saturating_add(self.block_len).min(self.held.groups())
    }

    /// Returns the bytes of a block, as good as those of the last one.
    pub(crate) fn block_bytes(&self) -> u64 {
        self.block_len * GROUP_LEN
    }

    fn block(&self, index: u64) -> Option<&Block> {
        self.blocks.get(usize::try_from(index).ok()?)
    }

    /// Changes a block, and counts anew what is counted of it.
    fn change<T>(&mut self, index: u64, change: impl FnOnce(&mut Block) -> T) -> Option<T> {
        let block = self.blocks.get_mut(usize::try_from(index).ok()?)?;
        let (idle, shared) = (block.is_idle(), block.is_for_others());
        let changed = change(block);
        self.idle = self.idle + usize::from(block.is_idle()) - usize::from(idle);
        self.shared = self.shared + usize::from(block.is_for_others()) - usize::from(shared);
        Some(changed)
    }
}

impl Block {
    /// Says which block goes first: not doubled, ours, rare; then as scattered by our own weight, or in
    /// order where there is nobody to differ from.
    fn order(&self, have: &Have, index: u64, alone: bool) -> (u8, bool, u32, u64) {
        let others = matches!(have, Have::Whole) && self.is_for_others();
        let place = if alone { index } else { self.own_weight };
        (self.bringers, others, self.spread, place)
    }

    /// Returns whether a partner has it or will bring it.
    fn is_for_others(&self) -> bool {
        self.is_foreign() || self.spread > 0
    }

    /// Returns whether it is missing and belongs to a partner.
    fn is_foreign(&self) -> bool {
        self.missing > 0 && self.is_of_partner
    }

    /// Returns whether it is missing and nobody brings it.
    fn is_idle(&self) -> bool {
        self.missing > 0 && self.bringers == 0
    }

    /// Returns whether a source that holds it may be asked for it.
    fn is_eligible(&self, have: &Have, rules: Rules) -> bool {
        let bringers_max = if rules.doubled { BRINGERS_MAX } else { 1 };
        self.bringers < bringers_max
            && (rules.others_too || !matches!(have, Have::Whole) || !self.is_for_others())
    }
}

impl Have {
    pub(crate) fn contains(&self, index: u64) -> bool {
        match self {
            Self::Whole => true,
            Self::Blocks(blocks) => blocks.contains(index),
        }
    }
}

/// Holds how many more blocks each of those who fetch a blob may own.
struct Shares(Vec<(PeerId, u64)>);

impl Shares {
    /// Gives the next block to the heaviest of those whose share is not full.
    fn give(&mut self, index: u64) -> Option<PeerId> {
        let free = self.0.iter_mut().filter(|(_, left)| *left > 0);
        let (owner, left) = free.max_by_key(|(peer, _)| (weight(*peer, index), *peer))?;
        *left -= 1;
        Some(*owner)
    }
}

/// Returns whether one of these ranges, in the order of their starts, overlaps another. They are few.
fn overlaps(ranges: &[Range<u64>], other: &Range<u64>) -> bool {
    ranges.iter().take_while(|range| range.start < other.end).any(|range| other.start < range.end)
}

fn block_len(groups: u64) -> u64 {
    let wanted = (groups / BLOCKS_WANTED).max(1).next_power_of_two();
    wanted.clamp(BLOCK_GROUPS.start, BLOCK_GROUPS.end)
}

/// Returns the weight of two peers for each other, the same on both sides.
pub(in crate::engine) fn pair_weight(a: PeerId, b: PeerId) -> u64 {
    scatter(weight(a, 0) ^ weight(b, 0))
}

/// Returns the weight of a peer for a block: all who ask get the same answer.
pub(in crate::engine::resolver) fn weight(peer: PeerId, index: u64) -> u64 {
    let (words, _) = peer.as_bytes().as_chunks::<8>();
    let seed = words.iter().fold(index, |seed, word| scatter(seed ^ u64::from_le_bytes(*word)));
    scatter(seed)
}

/// Spreads a number over all 64 bits (the finaliser of splitmix64; Steele, Lea and Flood, 2014).
fn scatter(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const PLAIN: Rules = Rules { others_too: false, doubled: false, blocks_max: 1 };

    fn peer(n: u8) -> PeerId {
        PeerId::from_bytes([n; 32])
    }

    fn pieces(mib: u64) -> Pieces {
        Pieces::new(peer(1), mib * MIB, None).expect("of its size")
    }

    /// Returns the block that a range of groups starts in, where blocks are of 16 groups.
    fn block_of(range: &Range<u64>) -> usize {
        usize::try_from(range.start / 16).expect("small")
    }

    #[test]
    fn blocks_grow_with_the_blob_within_their_bounds() {
        let lens = [(1, 16), (1 << 30, 16), (1 << 31, 32), (1 << 32, 64), (1 << 36, 64)];
        for (size, len) in lens {
            assert_eq!(block_len(group_count(size)), len, "{size}");
        }
    }

    #[test]
    fn a_lone_getter_takes_the_blocks_in_order_and_the_short_last_one() {
        let mut pieces = Pieces::new(peer(1), 2 * MIB + 1, None).expect("of its size");
        let mut ranges = Vec::new();
        while let Some(range) = pieces.pick(&Have::Whole, PLAIN) {
            pieces.bring(&range, true);
            ranges.push(range);
        }
        assert_eq!(ranges, [0..16, 16..32, 32..33]);
        for range in &ranges {
            pieces.stored(range.clone());
        }
        assert_eq!(pieces.whole().held(), 3);
    }

    #[test]
    fn a_fast_source_gets_several_blocks_in_a_row_up_to_one_that_is_held() {
        let mut pieces = pieces(8);
        pieces.stored(48..50);
        let rules = Rules { blocks_max: 8, ..PLAIN };
        assert_eq!(pieces.pick(&Have::Whole, rules), Some(0..48));
        pieces.bring(&(0..48), true);
        assert_eq!(pieces.pick(&Have::Whole, rules), Some(50..128));
    }

    #[test]
    fn partners_divide_the_blocks_of_one_who_holds_all_without_overlap() {
        let everybody: BTreeSet<PeerId> = (1..=8).map(peer).collect();
        let mut owners = vec![0_u32; 256];
        for me in &everybody {
            let mut pieces = Pieces::new(*me, 256 * MIB, None).expect("of its size");
            let others = everybody.iter().copied().filter(|other| other != me).collect();
            pieces.divide(&others);
            while let Some(range) = pieces.pick(&Have::Whole, PLAIN) {
                pieces.bring(&range, true);
                owners[block_of(&range)] += 1;
            }
        }
        assert!(owners.iter().all(|owners| *owners == 1), "{owners:?}");
    }

    #[test]
    fn few_blocks_are_divided_evenly_and_still_without_overlap() {
        let everybody: BTreeSet<PeerId> = (1..=7).map(peer).collect();
        let mut owners = vec![0_u32; 31];
        for me in &everybody {
            let mut pieces = Pieces::new(*me, 31 * MIB, None).expect("of its size");
            pieces.divide(&everybody.iter().copied().filter(|other| other != me).collect());
            let mut own = 0;
            while let Some(range) = pieces.pick(&Have::Whole, PLAIN) {
                pieces.bring(&range, true);
                owners[block_of(&range)] += 1;
                own += 1;
            }
            assert!((1..=5).contains(&own), "{own} of 31");
        }
        assert!(owners.iter().all(|owners| *owners == 1), "{owners:?}");
    }

    #[test]
    fn what_belongs_to_a_partner_is_taken_only_when_told_to_and_last() {
        let mut pieces = pieces(64);
        pieces.divide(&BTreeSet::from([peer(2)]));
        let rules = Rules { others_too: true, ..PLAIN };
        let mut foreign = Vec::new();
        while let Some(range) = pieces.pick(&Have::Whole, rules) {
            foreign.push(pieces.blocks[block_of(&range)].is_foreign());
            pieces.bring(&range, true);
        }
        assert_eq!(foreign.len(), 64);
        let first = foreign.iter().position(|foreign| *foreign).expect("some are");
        assert!(foreign[first..].iter().all(|foreign| *foreign), "{foreign:?}");
    }

    #[test]
    fn ranges_of_the_edge_come_in_an_order_in_which_each_of_us_has_a_place_of_its_own() {
        let everybody: BTreeSet<PeerId> = (1..=8).map(peer).collect();
        let mut places = vec![BTreeSet::new(); 4];
        for me in &everybody {
            let mut pieces = Pieces::new(*me, 64 * MIB, None).expect("of its size");
            pieces.divide(&everybody.iter().copied().filter(|other| other != me).collect());
            let (mut claimed, mut last) = (Vec::new(), 0);
            while let Some((range, before_us)) = pieces.pick_unclaimed(256, &claimed) {
                assert!(before_us >= last, "those before which few go are first");
                last = before_us;
                places[usize::try_from(range.start / 256).expect("small")].insert(before_us);
                claimed.push(range);
                claimed.sort_unstable_by_key(|groups| groups.start);
            }
        }
        assert!(places.iter().all(|places| places.len() == everybody.len()), "{places:?}");
    }

    #[test]
    fn partner_is_asked_for_the_rarest_block_that_it_holds() {
        let mut pieces = pieces(4);
        let mut blocks = pieces.no_blocks();
        for index in [1, 2, 3] {
            blocks.insert(index);
            pieces.spread(index, true);
        }
        [1, 3].into_iter().for_each(|index| pieces.spread(index, true));
        let have = Have::Blocks(blocks);
        assert_eq!(pieces.pick(&have, PLAIN), Some(32..48));
        pieces.stored(16..64);
        assert!(!pieces.wants_of(&have));
        assert_eq!(pieces.pick(&have, PLAIN), None);
    }

    #[test]
    fn block_on_its_way_is_fetched_again_only_when_told_to_and_not_a_third_time() {
        let mut pieces = pieces(1);
        pieces.bring(&(0..16), true);
        let doubled = Rules { doubled: true, ..PLAIN };
        assert_eq!(pieces.pick(&Have::Whole, PLAIN), None);
        assert_eq!(pieces.pick(&Have::Whole, doubled), Some(0..16));
        pieces.bring(&(0..16), true);
        assert_eq!(pieces.pick(&Have::Whole, doubled), None);
        pieces.bring(&(0..16), false);
        pieces.bring(&(0..16), false);
        assert_eq!(pieces.pick(&Have::Whole, PLAIN), Some(0..16));
    }

    #[test]
    fn groups_of_another_size_are_refused_and_those_past_the_end_ignored() {
        assert!(Pieces::new(peer(1), MIB, Some(GroupSet::new(3))).is_none());
        let mut pieces = pieces(1);
        pieces.stored(10..1_000_000);
        assert_eq!(pieces.pick(&Have::Whole, PLAIN), Some(0..10));
        assert_eq!(pieces.blocks_within(&(0..u64::MAX)), 0..1);
        assert!(pieces.blocks_within(&(1..15)).is_empty());
    }
}
