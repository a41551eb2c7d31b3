//! The packs that a node holds in memory, those used last.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use blobmesh_protocol::Hash;
use bytes::Bytes;

use super::format::{self, FormatError};
use super::{SHELF_BYTES_MAX, SHELF_PACKS_MAX};

/// How many packs are remembered of which one blob was read; a second one is a reason to read all.
const ASKED_MAX: usize = 64;
/// How many packs are remembered that are not there or not what the index says, until the index changes.
const USELESS_MAX: usize = 1024;
/// What a member of a pack takes beside its bytes, about.
const MEMBER_COST: usize = 64;

/// Is a pack with the members that are what their names say.
#[derive(Debug)]
pub(super) struct Pack {
    file: Bytes,
    members: HashMap<Hash, Range<usize>>,
}

impl Pack {
    /// Takes the bytes of a pack; a member with wrong bytes is left out. Hashes all of it.
    pub(super) fn read(file: Bytes) -> Result<Self, FormatError> {
        let members = format::members(&file)?;
        let right = |(hash, range): &(Hash, Range<usize>)| {
            file.get(range.clone()).is_some_and(|bytes| Hash::of(bytes) == *hash)
        };
        let members = members.into_iter().filter(right).collect();
        Ok(Self { file, members })
    }

    /// Returns the bytes of a member.
    pub(super) fn member(&self, hash: &Hash) -> Option<Bytes> {
        let range = self.members.get(hash)?.clone();
        (range.end <= self.file.len()).then(|| self.file.slice(range))
    }

    fn cost(&self) -> usize {
        self.file.len() + self.members.len() * MEMBER_COST
    }
}

/// Says how a member of a pack is to be read.
#[derive(Debug)]
pub(super) enum Way {
    /// From here.
    Held(Arc<Pack>),
    /// By itself: nothing else of the pack was wanted lately.
    Alone,
    /// With all of its pack.
    Whole,
    /// Not at all: the pack was no use before.
    Useless,
}

/// Holds packs.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    /// Those used last are at the end.
    packs: VecDeque<(Hash, Arc<Pack>)>,
    bytes: usize,
    /// Packs of which one member was read, the last of them at the end.
    asked: VecDeque<Hash>,
    useless: HashSet<Hash>,
}

impl Shelf {
    /// Says how to read a member of a pack, and remembers that it was asked for.
    pub(super) fn way(&mut self, pack: &Hash) -> Way {
        if self.useless.contains(pack) {
            return Way::Useless;
        }
        if let Some(at) = self.packs.iter().position(|(hash, _)| hash == pack)
            && let Some((hash, held)) = self.packs.remove(at)
        {
            self.packs.push_back((hash, Arc::clone(&held)));
            return Way::Held(held);
        }
        if self.asked.contains(pack) {
            return Way::Whole;
        }
        if self.asked.len() >= ASKED_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back(*pack);
        Way::Alone
    }

    /// Keeps a pack, and drops those used longest ago where there is no room.
    pub(super) fn keep(&mut self, hash: Hash, pack: Arc<Pack>) {
        if self.packs.iter().any(|(held, _)| *held == hash) {
            return;
        }
        self.bytes += pack.cost();
        self.packs.push_back((hash, pack));
        while self.bytes > SHELF_BYTES_MAX || self.packs.len() > SHELF_PACKS_MAX {
            let Some((_, old)) = self.packs.pop_front() else { break };
            self.bytes -= old.cost();
        }
    }

    /// Remembers that a pack is no use.
    pub(super) fn is_useless(&mut self, pack: Hash) {
        if self.useless.len() < USELESS_MAX {
            self.useless.insert(pack);
        }
    }

    /// Forgets what was no use: the index has changed.
    pub(super) fn forgive(&mut self) {
        self.useless.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack_of(seed: u8, len: usize) -> (Hash, Arc<Pack>) {
        let bytes = vec![seed; len];
        let file = format::pack(&[(Hash::of(&bytes), Bytes::from(bytes))]).expect("a pack");
        let hash = Hash::of(&file);
        (hash, Arc::new(Pack::read(Bytes::from(file)).expect("read")))
    }

    #[test]
    fn member_with_wrong_bytes_is_left_out_and_the_others_stay() {
        let (good, bad) = (b"good".as_slice(), b"bad".as_slice());
        let named = |bytes: &'static [u8], name: &[u8]| (Hash::of(name), Bytes::from_static(bytes));
        let file = format::pack(&[named(good, good), named(bad, b"other")]).expect("a pack");
        let pack = Pack::read(Bytes::from(file)).expect("read");
        assert_eq!(pack.member(&Hash::of(good)).as_deref(), Some(good));
        assert_eq!(pack.member(&Hash::of(b"other")), None);
        assert_eq!(pack.member(&Hash::of(bad)), None);
    }

    #[test]
    fn first_want_of_a_pack_is_read_alone_and_the_second_with_all_of_it() {
        let mut shelf = Shelf::default();
        let (hash, pack) = pack_of(1, 10);
        assert!(matches!(shelf.way(&hash), Way::Alone));
        assert!(matches!(shelf.way(&hash), Way::Whole));
        shelf.keep(hash, pack);
        assert!(matches!(shelf.way(&hash), Way::Held(_)));
        // Of many packs one blob each: none is worth being read whole, and the first is forgotten.
        let mut shelf = Shelf::default();
        for seed in 0..=ASKED_MAX {
            assert!(matches!(shelf.way(&Hash::of(&seed.to_le_bytes())), Way::Alone), "{seed}");
        }
        assert!(matches!(shelf.way(&Hash::of(&0_usize.to_le_bytes())), Way::Alone));
    }

    #[test]
    fn shelf_holds_what_was_used_last_within_its_bound() {
        let mut shelf = Shelf::default();
        let packs: Vec<_> = (0..9).map(|seed| pack_of(seed, 8_000_000)).collect();
        for (hash, pack) in &packs[..8] {
            shelf.keep(*hash, Arc::clone(pack));
        }
        assert!(matches!(shelf.way(&packs[0].0), Way::Held(_)), "used now");
        shelf.keep(packs[8].0, Arc::clone(&packs[8].1));
        assert!(shelf.bytes <= SHELF_BYTES_MAX);
        assert!(matches!(shelf.way(&packs[0].0), Way::Held(_)));
        assert!(matches!(shelf.way(&packs[1].0), Way::Alone), "the one used longest ago went");
    }

    #[test]
    fn pack_that_was_no_use_is_not_asked_for_until_the_index_changes() {
        let mut shelf = Shelf::default();
        let hash = Hash::of(b"gone");
        shelf.is_useless(hash);
        assert!(matches!(shelf.way(&hash), Way::Useless));
        shelf.forgive();
        assert!(matches!(shelf.way(&hash), Way::Alone));
    }
}
