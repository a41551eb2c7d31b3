//! The bytes of packs, of segments of their index, and of its head (SPEC.md, "Edge layout").
//!
//! Whatever is read here came from an edge: lengths are checked before anything is allocated by them, and a file
//! that is odd in any way is none. Packs and segments are named by their hashes, which whoever reads them checks.

use blobmesh_protocol::Hash;
use bytes::Bytes;

use super::{HEAD_SEGMENTS_MAX, MEMBER_BYTES_MAX, PACK_BYTES_MAX, SEGMENT_BLOBS_MAX};

/// Begin the files; the last byte is the format's version.
const PACK_MAGIC: [u8; 8] = *b"bmpacks\x01";
const SEGMENT_MAGIC: [u8; 8] = *b"bmindex\x01";
const HEAD_MAGIC: [u8; 8] = *b"bmheads\x01";

/// The length of every file before its table: magic, and two counts.
const HEADER_LEN: usize = 16;
/// The lengths of one row: of a pack's table, of a segment's packs and blobs, of the head.
const MEMBER_ROW_LEN: usize = 36;
const PACK_ROW_LEN: usize = 36;
const BLOB_ROW_LEN: usize = 48;
const SEGMENT_ROW_LEN: usize = 44;
/// The pack of a blob that lies alone.
const NO_PACK: u32 = u32::MAX;

/// Says why a file is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    /// It begins otherwise, or is of another version.
    #[error("it begins otherwise, or is of another version")]
    Magic,
    /// Its length is not what its counts say, or is above the bound.
    #[error("its length is wrong")]
    Length,
    /// Its rows are out of order, or one is there twice.
    #[error("its rows are out of order")]
    Order,
    /// A row leads out of a pack or is above a bound.
    #[error("a row of it is out of bounds")]
    Bounds,
}

/// Says where the edge has a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) hash: Hash,
    /// The blob's length in bytes.
    pub(crate) size: u64,
    pub(crate) place: Place,
}

impl Entry {
    /// Makes the entry of a blob that lies under its own name.
    pub(crate) fn alone(hash: Hash, size: u64) -> Self {
        Self { hash, size, place: Place::Alone }
    }

    /// Returns whether the blob lies in a pack.
    pub(crate) fn is_packed(&self) -> bool {
        self.place != Place::Alone
    }
}

/// Says where a blob lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Under its own name, with its group list where it has one.
    Alone,
    /// In a pack of `len` bytes, from `offset` on.
    Pack { pack: Hash, len: u32, offset: u32 },
}

/// Makes a pack of blobs, in their order, and returns its bytes.
pub(super) fn pack(members: &[(Hash, Bytes)]) -> Result<Vec<u8>, FormatError> {
    let bytes: usize = members.iter().map(|(_, bytes)| bytes.len()).sum();
    let len = HEADER_LEN + members.len() * MEMBER_ROW_LEN + bytes;
    if len > PACK_BYTES_MAX {
        return Err(FormatError::Length);
    }
    let mut file = Vec::with_capacity(len);
    file.extend_from_slice(&PACK_MAGIC);
    file.extend_from_slice(&u32_of(members.len())?.to_le_bytes());
    file.extend_from_slice(&[0; 4]);
    for (hash, bytes) in members {
        file.extend_from_slice(hash.as_bytes());
        file.extend_from_slice(&u32_of(bytes.len())?.to_le_bytes());
    }
    members.iter().for_each(|(_, bytes)| file.extend_from_slice(bytes));
    Ok(file)
}

/// Returns how many bytes a blob of `size` bytes adds to a pack.
pub(crate) fn packed_len(size: u64) -> u64 {
    size.saturating_add(MEMBER_ROW_LEN as u64)
}

/// Returns the members of a pack with the places of their bytes in the file: back to back, so that none overlap.
pub(super) fn members(file: &[u8]) -> Result<Vec<(Hash, std::ops::Range<usize>)>, FormatError> {
    if file.len() > PACK_BYTES_MAX {
        return Err(FormatError::Length);
    }
    let mut rest = Cursor(file);
    rest.magic(PACK_MAGIC)?;
    let (count, zero) = (rest.count()?, rest.u32()?);
    let table_len = count.checked_mul(MEMBER_ROW_LEN).ok_or(FormatError::Length)?;
    if zero != 0 || table_len > rest.0.len() {
        return Err(FormatError::Length);
    }
    let mut members = Vec::with_capacity(count);
    let mut at = HEADER_LEN + table_len;
    for _ in 0..count {
        let (hash, len) = (rest.hash()?, rest.count()?);
        let end = at.checked_add(len).filter(|end| *end <= file.len());
        let end = end.ok_or(FormatError::Bounds)?;
        members.push((hash, at..end));
        at = end;
    }
    if at == file.len() { Ok(members) } else { Err(FormatError::Length) }
}

/// Is a segment of the index: which blobs there are and where they lie, by hash. Kept as the bytes that it came in.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// Its name.
    pub(super) hash: Hash,
    file: Bytes,
    packs: usize,
    blobs: usize,
}

impl Segment {
    /// Makes a segment of entries in any order; the first of those with one hash counts.
    pub(super) fn build(mut entries: Vec<Entry>) -> Result<Self, FormatError> {
        entries.sort_by(|a, b| a.hash.as_bytes().cmp(b.hash.as_bytes()));
        entries.dedup_by(|later, first| later.hash == first.hash);
        if entries.len() > SEGMENT_BLOBS_MAX {
            return Err(FormatError::Length);
        }
        let pack_of = |entry: &Entry| match entry.place {
            Place::Pack { pack, len, .. } => Some((pack, len)),
            Place::Alone => None,
        };
        let mut packs: Vec<(Hash, u32)> = entries.iter().filter_map(pack_of).collect();
        packs.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
        packs.dedup_by(|later, first| later.0 == first.0);
        let mut file = Vec::with_capacity(Self::len_of(packs.len(), entries.len())?);
        file.extend_from_slice(&SEGMENT_MAGIC);
        file.extend_from_slice(&u32_of(packs.len())?.to_le_bytes());
        file.extend_from_slice(&u32_of(entries.len())?.to_le_bytes());
        for (pack, len) in &packs {
            file.extend_from_slice(pack.as_bytes());
            file.extend_from_slice(&len.to_le_bytes());
        }
        for entry in &entries {
            let (pack, offset) = match entry.place {
                Place::Alone => (NO_PACK, 0),
                Place::Pack { pack, offset, .. } => {
                    let found = packs.binary_search_by(|row| row.0.as_bytes().cmp(pack.as_bytes()));
                    (u32_of(found.map_err(|_| FormatError::Order)?)?, offset)
                }
            };
            file.extend_from_slice(entry.hash.as_bytes());
            file.extend_from_slice(&pack.to_le_bytes());
            file.extend_from_slice(&offset.to_le_bytes());
            file.extend_from_slice(&entry.size.to_le_bytes());
        }
        let (packs, blobs) = (packs.len(), entries.len());
        Ok(Self { hash: Hash::of(&file), file: Bytes::from(file), packs, blobs })
    }

    /// Takes the bytes of a segment that is to have this name.
    pub(super) fn read(hash: Hash, file: Bytes) -> Result<Self, FormatError> {
        let mut rest = Cursor(&file);
        rest.magic(SEGMENT_MAGIC)?;
        let (packs, blobs) = (rest.count()?, rest.count()?);
        if blobs > SEGMENT_BLOBS_MAX || Self::len_of(packs, blobs)? != file.len() {
            return Err(FormatError::Length);
        }
        if Hash::of(&file) != hash {
            return Err(FormatError::Magic);
        }
        let segment = Self { hash, file, packs, blobs };
        segment.check()?;
        Ok(segment)
    }

    fn len_of(packs: usize, blobs: usize) -> Result<usize, FormatError> {
        let packs = packs.checked_mul(PACK_ROW_LEN).ok_or(FormatError::Length)?;
        let blobs = blobs.checked_mul(BLOB_ROW_LEN).ok_or(FormatError::Length)?;
        packs
            .checked_add(blobs)
            .and_then(|rows| rows.checked_add(HEADER_LEN))
            .ok_or(FormatError::Length)
    }

    fn check(&self) -> Result<(), FormatError> {
        let mut last: Option<Hash> = None;
        for at in 0..self.blobs {
            let entry = self.entry(at).ok_or(FormatError::Bounds)?;
            if last.is_some_and(|last| last.as_bytes() >= entry.hash.as_bytes()) {
                return Err(FormatError::Order);
            }
            last = Some(entry.hash);
        }
        Ok(())
    }

    /// Returns how many blobs it tells of.
    pub(super) fn blobs(&self) -> usize {
        self.blobs
    }

    /// Returns the bytes of the file.
    pub(super) fn file(&self) -> &Bytes {
        &self.file
    }

    /// Returns what it tells of a blob.
    pub(super) fn find(&self, hash: &Hash) -> Option<Entry> {
        let (mut low, mut high) = (0, self.blobs);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.hash_at(middle)?.cmp(hash.as_bytes()) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return self.entry(middle),
            }
        }
        None
    }

    /// Returns all that it tells, by hash.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        (0..self.blobs).filter_map(|at| self.entry(at))
    }

    fn row(&self, at: usize) -> Option<&[u8]> {
        let start = HEADER_LEN + self.packs * PACK_ROW_LEN + at * BLOB_ROW_LEN;
        self.file.get(start..start + BLOB_ROW_LEN)
    }

    fn hash_at(&self, at: usize) -> Option<&[u8]> {
        self.row(at)?.get(..32)
    }

    /// Returns one row; none where it is out of bounds.
    fn entry(&self, at: usize) -> Option<Entry> {
        let mut row = Cursor(self.row(at)?);
        let hash = row.hash().ok()?;
        let (pack, offset, size) = (row.u32().ok()?, row.u32().ok()?, row.u64().ok()?);
        if pack == NO_PACK {
            return (offset == 0).then_some(Entry { hash, size, place: Place::Alone });
        }
        let pack = usize::try_from(pack).ok().filter(|pack| *pack < self.packs)?;
        let start = HEADER_LEN + pack * PACK_ROW_LEN;
        let mut row = Cursor(self.file.get(start..start + PACK_ROW_LEN)?);
        let (pack, len) = (row.hash().ok()?, row.u32().ok()?);
        let fits = len as usize <= PACK_BYTES_MAX
            && size <= MEMBER_BYTES_MAX
            && u64::from(offset).checked_add(size)? <= u64::from(len);
        fits.then_some(Entry { hash, size, place: Place::Pack { pack, len, offset } })
    }
}

/// Names a segment in the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentName {
    pub(super) hash: Hash,
    /// How many blobs it tells of.
    pub(super) blobs: u32,
    /// The length of its file in bytes.
    pub(super) len: u64,
}

impl SegmentName {
    pub(super) fn of(segment: &Segment) -> Result<Self, FormatError> {
        let len = u64::try_from(segment.file.len()).map_err(|_| FormatError::Length)?;
        Ok(Self { hash: segment.hash, blobs: u32_of(segment.blobs)?, len })
    }
}

/// Makes the head's file of the names of all segments.
pub(super) fn head(segments: &[SegmentName]) -> Result<Vec<u8>, FormatError> {
    if segments.len() > HEAD_SEGMENTS_MAX {
        return Err(FormatError::Length);
    }
    let mut file = Vec::with_capacity(HEADER_LEN + segments.len() * SEGMENT_ROW_LEN);
    file.extend_from_slice(&HEAD_MAGIC);
    file.extend_from_slice(&u32_of(segments.len())?.to_le_bytes());
    file.extend_from_slice(&[0; 4]);
    for SegmentName { hash, blobs, len } in segments {
        file.extend_from_slice(hash.as_bytes());
        file.extend_from_slice(&blobs.to_le_bytes());
        file.extend_from_slice(&len.to_le_bytes());
    }
    Ok(file)
}

/// Returns the most bytes that a head has.
pub(super) const fn head_len_max() -> usize {
    HEADER_LEN + HEAD_SEGMENTS_MAX * SEGMENT_ROW_LEN
}

/// Returns the most bytes that a segment of so many blobs has: each in a pack of its own.
const fn segment_len_max(blobs: usize) -> usize {
    HEADER_LEN + blobs * (PACK_ROW_LEN + BLOB_ROW_LEN)
}

/// Reads the names of all segments out of the head's file.
pub(super) fn segments(file: &[u8]) -> Result<Vec<SegmentName>, FormatError> {
    let mut rest = Cursor(file);
    rest.magic(HEAD_MAGIC)?;
    let (count, zero) = (rest.count()?, rest.u32()?);
    if zero != 0 || count > HEAD_SEGMENTS_MAX || rest.0.len() != count * SEGMENT_ROW_LEN {
        return Err(FormatError::Length);
    }
    let mut segments = Vec::with_capacity(count);
    for _ in 0..count {
        let name = SegmentName { hash: rest.hash()?, blobs: rest.u32()?, len: rest.u64()? };
        let blobs = name.blobs as usize;
        if blobs > SEGMENT_BLOBS_MAX || name.len > segment_len_max(blobs) as u64 {
            return Err(FormatError::Bounds);
        }
        segments.push(name);
    }
    Ok(segments)
}

/// Takes fixed-width fields from the front of some bytes.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(FormatError::Length)?;
        self.0 = rest;
        Ok(*field)
    }

    fn magic(&mut self, magic: [u8; 8]) -> Result<(), FormatError> {
        if self.take::<8>()? == magic { Ok(()) } else { Err(FormatError::Magic) }
    }

    fn hash(&mut self) -> Result<Hash, FormatError> {
        self.take().map(Hash::from_bytes)
    }

    fn u32(&mut self) -> Result<u32, FormatError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, FormatError> {
        self.take().map(u64::from_le_bytes)
    }

    fn count(&mut self) -> Result<usize, FormatError> {
        usize::try_from(self.u32()?).map_err(|_| FormatError::Length)
    }
}

fn u32_of(count: usize) -> Result<u32, FormatError> {
    u32::try_from(count).map_err(|_| FormatError::Length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blob(of: u64, len: usize) -> (Hash, Bytes) {
        let bytes: Vec<u8> = of.to_le_bytes().into_iter().cycle().take(len).collect();
        (Hash::of(&bytes), Bytes::from(bytes))
    }

    fn entry(of: u64, place: Place) -> Entry {
        Entry { hash: Hash::of(&of.to_le_bytes()), size: of, place }
    }

    /// Entries in some packs, and some alone.
    fn entries(count: u64) -> Vec<Entry> {
        let place = |of: u64| match of % 3 {
            0 => Place::Alone,
            pack => Place::Pack {
                pack: Hash::of(&[u8::try_from(pack).expect("small")]),
                len: 1 << 20,
                offset: u32::try_from(of).expect("small"),
            },
        };
        (0..count).map(|of| entry(of, place(of))).collect()
    }

    #[test]
    fn pack_gives_its_members_back_in_their_order() {
        let blobs = [blob(1, 10), blob(2, 0), blob(3, 70_000)];
        let file = pack(&blobs).expect("a pack");
        let found = members(&file).expect("members");
        assert_eq!(found.len(), blobs.len());
        for ((hash, range), (blob, bytes)) in found.into_iter().zip(&blobs) {
            assert_eq!((hash, &file[range]), (*blob, &bytes[..]));
        }
        assert_eq!(members(&pack(&[]).expect("empty")), Ok(Vec::new()));
        let total: u64 = blobs.iter().map(|(_, bytes)| packed_len(bytes.len() as u64)).sum();
        assert_eq!(file.len() as u64, HEADER_LEN as u64 + total);
    }

    #[test]
    fn pack_that_is_cut_longer_or_lies_about_its_table_is_none() {
        let file = pack(&[blob(1, 10), blob(2, 20)]).expect("a pack");
        for len in 0..file.len() {
            assert!(members(&file[..len]).is_err(), "cut at {len}");
        }
        assert_eq!(members(&[&file[..], &[0]].concat()), Err(FormatError::Length));
        let with = |at: usize, value: u32| {
            let mut file = file.clone();
            file[at..at + 4].copy_from_slice(&value.to_le_bytes());
            members(&file)
        };
        // The count, the word that is zero, and the first length.
        for (at, value) in [(8, 3), (8, 1), (8, u32::MAX), (12, 1), (48, 11), (48, u32::MAX)] {
            assert!(with(at, value).is_err(), "{value} at {at}");
        }
        let mut newer = file.clone();
        newer[7] = 2;
        assert_eq!(members(&newer), Err(FormatError::Magic));
        let bytes = vec![0; PACK_BYTES_MAX];
        assert_eq!(pack(&[(Hash::of(&bytes), Bytes::from(bytes))]), Err(FormatError::Length));
    }

    #[test]
    fn segment_finds_what_it_was_made_of_and_nothing_else() {
        for count in [0, 1, 2, 3, 100] {
            let all = entries(count);
            let mut shuffled = all.clone();
            shuffled.reverse();
            let built = Segment::build(shuffled).expect("a segment");
            let read = Segment::read(built.hash, built.file.clone()).expect("read");
            assert_eq!(read.blobs() as u64, count);
            for entry in &all {
                assert_eq!(read.find(&entry.hash), Some(*entry));
            }
            assert_eq!(read.find(&Hash::of(b"nobody has this")), None);
            assert_eq!(read.entries().count() as u64, count);
        }
    }

    #[test]
    fn first_of_two_entries_of_one_blob_counts() {
        let (here, there) = (entry(1, Place::Alone), entries(2)[1]);
        assert_eq!(here.hash, there.hash);
        let segment = Segment::build(vec![here, there]).expect("a segment");
        assert_eq!((segment.blobs(), segment.find(&here.hash)), (1, Some(here)));
    }

    #[test]
    fn segment_has_no_more_blobs_than_readers_take() {
        let blobs = u64::try_from(SEGMENT_BLOBS_MAX).expect("small");
        let all: Vec<_> = (0..=blobs).map(|of| entry(of, Place::Alone)).collect();
        assert_eq!(Segment::build(all.clone()).map(drop), Err(FormatError::Length));
        let full = Segment::build(all[1..].to_vec()).expect("a segment");
        assert!(Segment::read(full.hash, full.file.clone()).is_ok());
        assert!(
            SegmentName::of(&full)
                .and_then(|name| head(&[name]))
                .is_ok_and(|file| { segments(&file).is_ok() })
        );
    }

    #[test]
    fn segment_that_is_not_its_name_or_leads_out_of_a_pack_is_none() {
        let good = Segment::build(entries(9)).expect("a segment");
        assert!(Segment::read(Hash::of(b"another"), good.file.clone()).is_err());
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut file = good.file.to_vec();
            change(&mut file);
            // Under its right name: the edge may have made it so.
            Segment::read(Hash::of(&file), Bytes::from(file)).map(drop)
        };
        assert_eq!(with(&|_| {}), Ok(()));
        let first = HEADER_LEN + 2 * PACK_ROW_LEN;
        let put = |at: usize, value: u32| {
            move |file: &mut Vec<u8>| file[at..at + 4].copy_from_slice(&value.to_le_bytes())
        };
        assert!(with(&put(8, 1)).is_err(), "too few packs");
        assert!(with(&put(12, u32::MAX)).is_err(), "more blobs than there are");
        assert!(with(&put(first + 32, 2)).is_err(), "no such pack");
        for row in 0..9 {
            let at = first + row * BLOB_ROW_LEN;
            assert!(with(&put(at + 36, 1 << 20)).is_err(), "past the end of its pack: {row}");
        }
        assert!(with(&put(HEADER_LEN + 32, u32::MAX)).is_err(), "a pack above the bound");
        assert_eq!(with(&|file| file.swap(first, first + BLOB_ROW_LEN)), Err(FormatError::Order));
        assert!(with(&|file| file.truncate(first)).is_err());
        assert!(with(&|file| file.push(0)).is_err());
    }

    #[test]
    fn head_names_its_segments_within_bounds() {
        let names: Vec<_> = (0..3)
            .map(|count| SegmentName::of(&Segment::build(entries(count * 7)).expect("built")))
            .collect::<Result<_, _>>()
            .expect("names");
        let file = head(&names).expect("a head");
        assert_eq!(segments(&file), Ok(names.clone()));
        assert_eq!(segments(&head(&[]).expect("empty")), Ok(Vec::new()));
        for len in 0..file.len() {
            assert!(segments(&file[..len]).is_err(), "cut at {len}");
        }
        let huge = SegmentName { len: u64::MAX, ..names[0] };
        assert_eq!(segments(&head(&[huge]).expect("a head")), Err(FormatError::Bounds));
        let many = SegmentName { blobs: u32::MAX, ..names[0] };
        assert_eq!(segments(&head(&[many]).expect("a head")), Err(FormatError::Bounds));
        assert_eq!(head(&vec![names[0]; HEAD_SEGMENTS_MAX + 1]), Err(FormatError::Length));
        assert_eq!(
            head(&vec![names[0]; HEAD_SEGMENTS_MAX]).map(|file| file.len()),
            Ok(head_len_max())
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, kind in 0..3usize) {
            let magic = [PACK_MAGIC, SEGMENT_MAGIC, HEAD_MAGIC][kind];
            let file = [&magic[..], &bytes].concat();
            let _members = members(&file);
            let _segments = segments(&file);
            let _segment = Segment::read(Hash::of(&file), Bytes::from(file));
        }
    }
}
