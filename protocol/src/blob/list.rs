//! Group lists: the chaining values of a blob's groups, and what they prove.
//!
//! A list that merges to the hash proves less than it seems to. The inner nodes of a long blob's tree
//! can be passed off as the groups of a shorter one, and still merge. Only bytes settle it: the last
//! group, checked *at its offset*, proves the length, the shape of the tree and with it every entry,
//! because BLAKE3 mixes the chunk's number into its value. So a list that somebody sends is a
//! [`ProvisionalList`] until its last group has been verified, and only then a [`GroupList`].
//!
//! Source: the BLAKE3 paper (see [`blob`](super)), section 2.1, whose subtrees groups are.

use blake3::hazmat::{HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::{GROUP_LEN, Hash, group_count, group_len, group_offset};

/// The BLAKE3 chaining value of one group.
pub type ChainingValue = [u8; 32];

/// Computes the chaining value of group `index` with the given bytes, as a group of a longer blob.
///
/// # Panics
/// BLAKE3 does for no bytes, and may for more than [`GROUP_LEN`] or an `index` of 2^48 and more; the
/// value would be of no use. [`GroupList::verify`] checks length and index before.
pub fn group_value(index: u64, bytes: &[u8]) -> ChainingValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(group_offset(index));
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// Is the proven list of a blob's groups: hash, size and every chaining value belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupList {
    hash: Hash,
    size: u64,
    /// Empty for a blob of one group, whose hash says all.
    values: Vec<ChainingValue>,
}

impl GroupList {
    /// Names the blob.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Returns the blob's length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the chaining values in order; none for a blob of one group.
    pub fn values(&self) -> &[ChainingValue] {
        &self.values
    }

    /// Checks that `bytes` are group `index` of this blob.
    ///
    /// # Errors
    /// [`GroupError::Index`], [`GroupError::Len`] or [`GroupError::Hash`]; they blame whoever sent the
    /// group, never the list.
    pub fn verify(&self, index: u64, bytes: &[u8]) -> Result<(), GroupError> {
        verify_group(self.hash, self.size, &self.values, index, bytes)
    }

    /// Returns the list as the bytes of a `.groups` file (SPEC.md, "Edge layout"): 16 and 32 for each
    /// chaining value.
    pub fn to_file(&self) -> Vec<u8> {
        let mut file = Vec::with_capacity(FILE_HEADER_LEN + self.values.len() * 32);
        file.extend_from_slice(FILE_MAGIC);
        file.extend_from_slice(&self.size.to_le_bytes());
        file.extend(self.values.iter().flatten());
        file
    }
}

/// The first eight bytes of a `.groups` file; the last is the format's version.
const FILE_MAGIC: &[u8; 8] = b"bmgroup\x01";
const FILE_HEADER_LEN: usize = 16;

/// Is a list as somebody sent it: it merges to the hash, and proves nothing more yet.
#[derive(Clone, Debug)]
pub struct ProvisionalList(GroupList);

impl ProvisionalList {
    /// Checks that `values` fit a blob of `size` bytes and merge to `hash`.
    ///
    /// A blob of one group has an empty list. Merging takes about as long as hashing 64 bytes for each
    /// value, and no memory that grows with them.
    ///
    /// # Errors
    /// [`ListError::Count`] or [`ListError::Merge`]; both blame whoever sent the list.
    pub fn check(hash: Hash, size: u64, values: Vec<ChainingValue>) -> Result<Self, ListError> {
        let groups = group_count(size);
        let expected = if groups == 1 { 0 } else { groups };
        let found = u64::try_from(values.len()).unwrap_or(u64::MAX);
        if found != expected {
            return Err(ListError::Count { expected, found });
        }
        if groups > 1 && merge(&values) != Some(hash) {
            return Err(ListError::Merge);
        }
        Ok(Self(GroupList { hash, size, values }))
    }

    /// Reads a `.groups` file of the blob `hash` whose size may be at most `size_max` bytes.
    ///
    /// # Errors
    /// [`ListFileError::Header`] and [`ListFileError::Size`] before anything is allocated, or what
    /// [`check`](Self::check) finds.
    pub fn from_file(hash: Hash, file: &[u8], size_max: u64) -> Result<Self, ListFileError> {
        let (header, body) = file.split_at_checked(FILE_HEADER_LEN).ok_or(ListFileError::Header)?;
        let (magic, size) = header.split_at(FILE_MAGIC.len());
        if magic != FILE_MAGIC {
            return Err(ListFileError::Header);
        }
        let size = size.try_into().map(u64::from_le_bytes).map_err(|_| ListFileError::Header)?;
        if size > size_max {
            return Err(ListFileError::Size { size, size_max });
        }
        let (values, rest) = body.as_chunks::<32>();
        if !rest.is_empty() {
            return Err(ListFileError::Header);
        }
        Ok(Self::check(hash, size, values.to_vec())?)
    }

    /// Returns the blob's length in bytes, as claimed.
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// Returns the number of the group that proves the list.
    pub fn last_group(&self) -> u64 {
        group_count(self.0.size) - 1
    }

    /// Proves the list with the bytes of the last group.
    ///
    /// # Errors
    /// As [`GroupList::verify`]; here it is the list's sender who is to blame, so take the last group
    /// from the same one.
    pub fn confirm(self, last_group: &[u8]) -> Result<GroupList, GroupError> {
        self.0.verify(self.last_group(), last_group)?;
        Ok(self.0)
    }
}

/// Says why a list cannot belong to a hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// The number of entries does not fit the size.
    #[error("the group list has {found} entries where the size asks for {expected}")]
    Count {
        /// What the size asks for.
        expected: u64,
        /// What there is.
        found: u64,
    },
    /// The entries do not merge to the hash.
    #[error("the group list does not merge to the hash")]
    Merge,
}

/// Says why the bytes of a `.groups` file are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListFileError {
    /// The file is too short, has another magic or version, or a cut entry.
    #[error("the group list file is malformed or of another version")]
    Header,
    /// The size it claims is above the bound.
    #[error("the group list file claims {size} bytes, more than the bound of {size_max}")]
    Size {
        /// The claim.
        size: u64,
        /// The bound.
        size_max: u64,
    },
    /// The entries do not belong to the hash.
    #[error(transparent)]
    List(#[from] ListError),
}

/// Says why bytes are not a group of a blob.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// There is no group of that number.
    #[error("group {index} is past the end of a blob of {groups} groups")]
    Index {
        /// The number asked for.
        index: u64,
        /// How many there are.
        groups: u64,
    },
    /// The length is wrong.
    #[error("group {index} has {found} bytes where the size asks for {expected}")]
    Len {
        /// The group.
        index: u64,
        /// What the blob's size asks for.
        expected: usize,
        /// What there is.
        found: usize,
    },
    /// The bytes are wrong.
    #[error("group {index} has a wrong hash")]
    Hash {
        /// The group.
        index: u64,
    },
}

fn verify_group(
    hash: Hash,
    size: u64,
    values: &[ChainingValue],
    index: u64,
    bytes: &[u8],
) -> Result<(), GroupError> {
    let groups = group_count(size);
    if index >= groups {
        return Err(GroupError::Index { index, groups });
    }
    let expected = group_len(size, index);
    if bytes.len() != expected {
        return Err(GroupError::Len { index, expected, found: bytes.len() });
    }
    let holds = if groups == 1 {
        Hash::of(bytes) == hash
    } else {
        let value = usize::try_from(index).ok().and_then(|index| values.get(index));
        value == Some(&group_value(index, bytes))
    };
    if holds { Ok(()) } else { Err(GroupError::Hash { index }) }
}

/// Merges the chaining values of two or more groups to the root hash.
///
/// The stack holds one subtree per set bit of the number of groups taken in so far, as in BLAKE3's
/// reference implementation, so that no recursion follows the length of a peer's list.
fn merge(values: &[ChainingValue]) -> Option<Hash> {
    let mut stack: Vec<ChainingValue> = Vec::with_capacity(64);
    for (taken, value) in values.iter().enumerate() {
        // Merging is put off until the next group is there: the last merge is the root's.
        let subtrees = usize::try_from(taken.count_ones()).unwrap_or(usize::MAX);
        while stack.len() > subtrees {
            merge_top(&mut stack)?;
        }
        stack.push(*value);
    }
    while stack.len() > 2 {
        merge_top(&mut stack)?;
    }
    let right = stack.pop()?;
    let left = stack.pop()?;
    Some(Hash::from_bytes(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()))
}

fn merge_top(stack: &mut Vec<ChainingValue>) -> Option<()> {
    let right = stack.pop()?;
    let left = stack.pop()?;
    stack.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
    Some(())
}

/// Hashes a blob of unknown length in one pass and keeps its group list.
///
/// Holds 32 bytes for each group so far. Feed pieces of 16 KiB or more: BLAKE3 needs them to fill its
/// lanes.
#[derive(Debug)]
pub struct BlobHasher {
    group: blake3::Hasher,
    group_filled: u64,
    values: Vec<ChainingValue>,
    size: u64,
}

impl BlobHasher {
    /// Starts with no bytes.
    pub fn new() -> Self {
        Self { group: blake3::Hasher::new(), group_filled: 0, values: Vec::new(), size: 0 }
    }

    /// Takes in the next bytes of the blob.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.group_filled == GROUP_LEN {
                self.close_group();
            }
            let room = usize::try_from(GROUP_LEN - self.group_filled).unwrap_or(usize::MAX);
            let (piece, rest) = bytes.split_at(room.min(bytes.len()));
            self.group.update(piece);
            self.group_filled += len_u64(piece);
            self.size += len_u64(piece);
            bytes = rest;
        }
    }

    /// Ends the blob and returns its proven list, with hash and size.
    pub fn finish(mut self) -> GroupList {
        if self.values.is_empty() {
            let hash = Hash::from_bytes(*self.group.finalize().as_bytes());
            return GroupList { hash, size: self.size, values: Vec::new() };
        }
        self.values.push(self.group.finalize_non_root());
        // Two or more values always merge; the fallback keeps this free of panics.
        let hash = merge(&self.values).unwrap_or(Hash::from_bytes([0; 32]));
        GroupList { hash, size: self.size, values: self.values }
    }

    fn close_group(&mut self) {
        self.values.push(self.group.finalize_non_root());
        self.group = blake3::Hasher::new();
        self.group.set_input_offset(group_offset(len_u64(&self.values)));
        self.group_filled = 0;
    }
}

impl Default for BlobHasher {
    fn default() -> Self {
        Self::new()
    }
}

fn len_u64<T>(slice: &[T]) -> u64 {
    u64::try_from(slice.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small values of the tests' own making")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GROUP: usize = 65_536;

    fn bytes_of(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8 ^ (i / 251 % 256) as u8).collect()
    }

    fn list_of(bytes: &[u8]) -> GroupList {
        let mut hasher = BlobHasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    fn group_of(bytes: &[u8], index: u64) -> &[u8] {
        let from = group_offset(index) as usize;
        &bytes[from..from + group_len(bytes.len() as u64, index)]
    }

    #[test]
    fn hash_equals_blake3_at_every_boundary() {
        let sizes = [0, 1, 1023, 1024, 1025, GROUP - 1, GROUP, GROUP + 1];
        let multiples = [2, 3, 4, 5, 7, 8, 9, 16, 17].map(|n| n * GROUP);
        for size in sizes.into_iter().chain(multiples.iter().flat_map(|m| [m - 1, *m, m + 1])) {
            let bytes = bytes_of(size);
            let list = list_of(&bytes);
            assert_eq!(list.hash(), Hash::of(&bytes), "size {size}");
            assert_eq!(list.size(), size as u64);
            for index in 0..group_count(size as u64) {
                assert_eq!(list.verify(index, group_of(&bytes, index)), Ok(()), "size {size}");
            }
        }
    }

    #[test]
    fn list_is_proven_by_its_last_group_only() {
        let bytes = bytes_of(3 * GROUP + 100);
        let list = list_of(&bytes);
        let again = ProvisionalList::check(list.hash(), list.size(), list.values().to_vec());
        let provisional = again.expect("it merges");
        assert!(provisional.clone().confirm(&bytes[..GROUP]).is_err());
        assert_eq!(provisional.confirm(&bytes[3 * GROUP..]), Ok(list));
    }

    /// The attack that makes a list provisional: the two inner nodes of a blob of four groups merge
    /// to its hash, as if it had two groups.
    #[test]
    fn inner_nodes_passed_off_as_groups_merge_but_cannot_be_confirmed() {
        let bytes = bytes_of(4 * GROUP);
        let list = list_of(&bytes);
        let inner = |i: usize| {
            merge_subtrees_non_root(&list.values()[i], &list.values()[i + 1], Mode::Hash)
        };
        let forged = ProvisionalList::check(list.hash(), 2 * GROUP_LEN, vec![inner(0), inner(2)]);
        let forged = forged.expect("the forgery merges");
        for from in [0, GROUP, 2 * GROUP, 3 * GROUP] {
            let attempt = forged.clone().confirm(&bytes[from..from + GROUP]);
            assert_eq!(attempt, Err(GroupError::Hash { index: 1 }));
        }
    }

    #[test]
    fn lists_of_wrong_count_or_content_are_refused() {
        let list = list_of(&bytes_of(3 * GROUP));
        let check = |size, values| ProvisionalList::check(list.hash(), size, values).map(|_| ());
        let mut values = list.values().to_vec();
        let short = values[..2].to_vec();
        let count = Err(ListError::Count { expected: 3, found: 2 });
        assert_eq!(check(list.size(), short), count);
        assert!(check(u64::MAX, Vec::new()).is_err());
        values[1][0] ^= 1;
        assert_eq!(check(list.size(), values), Err(ListError::Merge));
    }

    #[test]
    fn list_file_survives_a_round_trip_and_refuses_damage() {
        let bytes = bytes_of(2 * GROUP + 7);
        let list = list_of(&bytes);
        let file = list.to_file();
        let read = |file: &[u8], size_max| ProvisionalList::from_file(list.hash(), file, size_max);
        let confirmed = read(&file, u64::MAX).expect("read").confirm(&bytes[2 * GROUP..]);
        assert_eq!(confirmed.as_ref(), Ok(&list));
        assert!(matches!(read(&file, 9), Err(ListFileError::Size { .. })));
        for cut in [0, 7, 15, 16, file.len() - 1] {
            assert!(read(&file[..cut], u64::MAX).is_err(), "cut at {cut}");
        }
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 0x40;
            let accepted = read(&damaged, u64::MAX).ok();
            let proven = accepted.and_then(|list| list.confirm(&bytes[2 * GROUP..]).ok());
            assert_eq!(proven, None, "flip at {at}");
        }
    }

    proptest! {
        #[test]
        fn hash_does_not_depend_on_how_the_bytes_come(
            len in 0usize..5 * GROUP, piece in 1usize..200_000,
        ) {
            let bytes = bytes_of(len);
            let mut hasher = BlobHasher::new();
            bytes.chunks(piece).for_each(|piece| hasher.update(piece));
            prop_assert_eq!(hasher.finish().hash(), Hash::of(&bytes));
        }

        #[test]
        fn one_flipped_bit_never_verifies(len in 1usize..3 * GROUP, at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = bytes_of(len);
            let list = list_of(&bytes);
            let at = at.index(len);
            bytes[at] ^= 1 << bit;
            let index = (at / GROUP) as u64;
            prop_assert_eq!(list.verify(index, group_of(&bytes, index)), Err(GroupError::Hash { index }));
        }
    }
}
