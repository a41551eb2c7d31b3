//! The table before the members of a pack: one block that says what lies in the blocks behind it.
//!
//! ```text
//!    0  "blobpack"
//!    8  BLAKE3 of the bytes from 40 to 3644
//!   40  number of members, u16; then two zero bytes
//!   44  for each of 100 members: its hash, and its length in bytes, u32
//! 3644  for each of 100 members: 0, or 1 once it is gone
//! ```
//!
//! Numbers are little-endian, what is not used is zero. Only the last part is ever written to again, so it is not
//! under the checksum: a member that is taken for gone is fetched anew, and one that is not is checked by its hash.

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::GROUP_LEN;

/// The length of a table, and what every member begins at a multiple of: file systems share whole blocks, and
/// give them back.
pub(super) const BLOCK_LEN: u64 = 4096;
/// How many members one table names.
pub(in crate::store) const MEMBERS_MAX: usize = 100;

/// The same, of a buffer.
pub(super) const TABLE_LEN: usize = 4096;
const MAGIC: &[u8; 8] = b"blobpack";
const SUM_AT: usize = 8;
const COUNT_AT: usize = 40;
const ENTRIES_AT: usize = 44;
const ENTRY_LEN: usize = 36;
const GONE_AT: usize = ENTRIES_AT + MEMBERS_MAX * ENTRY_LEN;

/// Is what a table says of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) hash: Hash,
    /// The length in bytes: of 1 to a group's.
    pub(super) len: u32,
    pub(super) gone: bool,
}

/// Returns how many blocks a member takes.
pub(super) fn blocks_of(len: u64) -> u64 {
    len.div_ceil(BLOCK_LEN)
}

/// Returns where in a table lies the hash of a member.
pub(super) fn hash_at(entry: u8) -> u64 {
    u64::try_from(ENTRIES_AT + usize::from(entry) * ENTRY_LEN).unwrap_or(0)
}

/// Returns where in a table lies whether a member is gone.
pub(super) fn gone_at(entry: u8) -> u64 {
    u64::try_from(GONE_AT).unwrap_or(0) + u64::from(entry)
}

/// Makes the table of at most [`MEMBERS_MAX`] members; those beyond are left out.
pub(super) fn encode(members: impl Iterator<Item = (Hash, u32)>) -> Vec<u8> {
    let mut table = MAGIC.to_vec();
    table.resize(ENTRIES_AT, 0);
    let mut count: u16 = 0;
    for (hash, len) in members.take(MEMBERS_MAX) {
        table.extend_from_slice(hash.as_bytes());
        table.extend_from_slice(&len.to_le_bytes());
        count += 1;
    }
    table[COUNT_AT..COUNT_AT + 2].copy_from_slice(&count.to_le_bytes());
    table.resize(TABLE_LEN, 0);
    let sum = blake3::hash(&table[COUNT_AT..GONE_AT]);
    table[SUM_AT..COUNT_AT].copy_from_slice(sum.as_bytes());
    table
}

/// Reads a table; none for a block that is none, or was not written whole.
pub(super) fn decode(block: &[u8]) -> Option<Vec<Entry>> {
    let block: &[u8; TABLE_LEN] = block.try_into().ok()?;
    let sum = blake3::hash(&block[COUNT_AT..GONE_AT]);
    if block[..SUM_AT] != MAGIC[..] || block[SUM_AT..COUNT_AT] != sum.as_bytes()[..] {
        return None;
    }
    let count = usize::from(u16::from_le_bytes([block[COUNT_AT], block[COUNT_AT + 1]]));
    if !(1..=MEMBERS_MAX).contains(&count) {
        return None;
    }
    let entries = block[ENTRIES_AT..GONE_AT].chunks_exact(ENTRY_LEN).take(count);
    entries.zip(&block[GONE_AT..]).map(|(bytes, gone)| entry(bytes, *gone)).collect()
}

fn entry(bytes: &[u8], gone: u8) -> Option<Entry> {
    let (hash, len) = bytes.split_at_checked(32)?;
    let hash = Hash::from_bytes(hash.try_into().ok()?);
    let len = u32::from_le_bytes(len.try_into().ok()?);
    let fits = len > 0 && u64::from(len) <= GROUP_LEN;
    fits.then_some(Entry { hash, len, gone: gone != 0 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(count: u32) -> Vec<(Hash, u32)> {
        (1..=count).map(|len| (Hash::of(&len.to_le_bytes()), len)).collect()
    }

    #[test]
    fn table_survives_a_round_trip_and_no_byte_of_it_may_change() {
        for count in [1, 2, 100] {
            let members = members(count);
            let table = encode(members.iter().copied());
            assert_eq!(u64::try_from(table.len()), Ok(BLOCK_LEN));
            let read = decode(&table).expect("a table");
            assert!(read.iter().all(|entry| !entry.gone));
            let read: Vec<_> = read.iter().map(|entry| (entry.hash, entry.len)).collect();
            assert_eq!(read, members);
            for at in 0..GONE_AT {
                let mut bad = table.clone();
                bad[at] ^= 1;
                assert_eq!(decode(&bad), None, "{at}");
            }
            for len in 0..table.len() {
                assert_eq!(decode(&table[..len]), None, "{len}");
            }
        }
    }

    #[test]
    fn member_that_is_gone_says_so_and_the_others_stay() {
        let members = members(3);
        let mut table = encode(members.iter().copied());
        table[usize::try_from(gone_at(1)).expect("in a block")] = 1;
        let gone: Vec<bool> = decode(&table).expect("a table").iter().map(|it| it.gone).collect();
        assert_eq!(gone, [false, true, false]);
    }

    #[test]
    fn absurd_lengths_and_counts_are_refused() {
        let hash = Hash::of(b"x");
        assert_eq!(decode(&encode(std::iter::empty())), None, "no member");
        assert_eq!(decode(&encode([(hash, 0)].into_iter())), None);
        assert!(decode(&encode([(hash, 65_536)].into_iter())).is_some());
        assert_eq!(decode(&encode([(hash, 65_537)].into_iter())), None);
        let mut many = encode([(hash, 1)].into_iter());
        many[COUNT_AT] = 101;
        let sum = blake3::hash(&many[COUNT_AT..GONE_AT]);
        many[SUM_AT..COUNT_AT].copy_from_slice(sum.as_bytes());
        assert_eq!(decode(&many), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(block in prop::collection::vec(any::<u8>(), 0..5000)) {
            prop_assert_eq!(decode(&block), None);
        }
    }
}
