//! What a node knows of the index of its edge.

use std::sync::Arc;

use blobmesh_protocol::Hash;
use tokio::time::Instant;

use super::format::{Entry, Segment, SegmentName};
use super::{INDEX_BYTES_MAX, LOOK_AGAIN, LOOK_INTERVAL, SEGMENT_BLOBS_MAX};

/// Says what lies at the head's place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Head {
    /// Nobody has looked.
    #[default]
    Unknown,
    /// Nothing.
    Absent,
    /// A head, with the tag that its edge gave it, where it gives any.
    Known { tag: Option<String> },
    /// Something that is no head, or of a newer version; it must not be written over.
    Foreign,
}

/// Is the index as far as it is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    pub(super) head: Head,
    /// What the head names, the oldest first.
    pub(super) names: Vec<SegmentName>,
    /// Those that are held.
    pub(super) segments: Vec<Arc<Segment>>,
    /// Before this nobody looks again who only misses a blob.
    quiet_until: Option<Instant>,
}

impl Index {
    /// Returns where a blob lies, the newest word first.
    pub(super) fn find(&self, hash: &Hash) -> Option<Entry> {
        self.segments.iter().rev().find_map(|segment| segment.find(hash))
    }

    /// Returns whether whoever misses a blob is to look again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.quiet_until.is_none_or(|until| until <= now)
    }

    /// Has the next one who misses a blob look again.
    pub(super) fn is_old(&mut self) {
        self.quiet_until = None;
    }

    /// Takes in that nothing has changed.
    pub(super) fn is_as_before(&mut self, now: Instant) {
        self.quiet_until = Some(now + LOOK_INTERVAL);
    }

    /// Takes in that the edge could not tell.
    pub(super) fn is_silent(&mut self, now: Instant) {
        self.quiet_until = Some(now + LOOK_AGAIN);
    }

    /// Takes in what the head names and what of that is held; `all` where nothing was missed.
    pub(super) fn learn(
        &mut self,
        head: Head,
        (names, segments): (Vec<SegmentName>, Vec<Arc<Segment>>),
        all: bool,
        now: Instant,
    ) {
        let interval = if all { LOOK_INTERVAL } else { LOOK_AGAIN };
        *self = Self { head, names, segments, quiet_until: Some(now + interval) };
    }

    /// Returns the segment of that name, where it is held.
    pub(super) fn held(&self, name: &SegmentName) -> Option<Arc<Segment>> {
        self.segments.iter().find(|segment| segment.hash == name.hash).cloned()
    }
}

/// Returns those of the segments that there is room to hold, the newest of them, oldest first.
pub(super) fn worth_holding(names: &[SegmentName]) -> Vec<SegmentName> {
    let mut room = u64::try_from(INDEX_BYTES_MAX).unwrap_or(u64::MAX);
    let mut chosen = Vec::new();
    for name in names.iter().rev() {
        let Some(left) = room.checked_sub(name.len) else { break };
        room = left;
        chosen.push(*name);
    }
    chosen.reverse();
    chosen
}

/// Returns which segments go into a new one of `blobs` blobs: all that are not much longer than what is gathered so
/// far. So each next one is at least twice as long as all before, and there are as many as the logarithm of all blobs;
/// but for those that are full.
pub(super) fn to_merge(held: &[Arc<Segment>], blobs: usize) -> Vec<Arc<Segment>> {
    let mut short: Vec<_> = held.to_vec();
    short.sort_by_key(|segment| segment.blobs());
    let mut gathered = blobs;
    let mut merged = Vec::new();
    for segment in short {
        let together = gathered + segment.blobs();
        if segment.blobs() > gathered.saturating_mul(2) || together > SEGMENT_BLOBS_MAX {
            break;
        }
        gathered = together;
        merged.push(segment);
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::super::format::Place;
    use super::*;

    fn entry(of: u64) -> Entry {
        Entry { hash: Hash::of(&of.to_le_bytes()), size: of, place: Place::Alone }
    }

    fn segment(blobs: std::ops::Range<u64>) -> Arc<Segment> {
        Arc::new(Segment::build(blobs.map(entry).collect()).expect("a segment"))
    }

    #[test]
    fn segments_stay_few_however_many_are_written() {
        let mut held: Vec<Arc<Segment>> = Vec::new();
        let (mut written, step) = (0, 7);
        for round in 0..300 {
            let merged = to_merge(&held, 7);
            let mut entries: Vec<_> = (round * step..(round + 1) * step).map(entry).collect();
            entries.extend(merged.iter().flat_map(|segment| segment.entries()));
            held.retain(|segment| merged.iter().all(|gone| gone.hash != segment.hash));
            written += entries.len();
            held.push(Arc::new(Segment::build(entries).expect("a segment")));
        }
        let blobs: usize = held.iter().map(|segment| segment.blobs()).sum();
        assert_eq!(blobs, 2100, "nothing is lost");
        assert!(held.len() <= 10, "{} segments", held.len());
        assert!(written <= 2100 * 12, "each entry is written {} times", written / 2100);
    }

    #[test]
    fn long_segment_is_not_written_again_for_a_few_blobs() {
        let held = [segment(0..100), segment(100..102)];
        let merged = to_merge(&held, 4);
        assert_eq!(merged.iter().map(|segment| segment.blobs()).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn newest_segments_are_held_as_far_as_there_is_room() {
        let name = |len| SegmentName { hash: Hash::of(b"a"), blobs: 1, len };
        let mib = 1 << 20;
        let names = [name(40 * mib), name(30 * mib), name(34 * mib)];
        assert_eq!(worth_holding(&names), names[1..]);
        assert_eq!(worth_holding(&[name(65 * mib)]), []);
    }

    #[test]
    fn newest_word_of_a_blob_counts() {
        let old = segment(0..3);
        let place = Place::Pack { pack: Hash::of(b"pack"), len: 100, offset: 50 };
        let newer = Entry { place, ..entry(1) };
        let new = Arc::new(Segment::build(vec![newer]).expect("a segment"));
        let index = Index { segments: vec![old, new], ..Index::default() };
        assert_eq!(index.find(&newer.hash), Some(newer));
        assert_eq!(index.find(&entry(2).hash), Some(entry(2)));
        assert_eq!(index.find(&entry(3).hash), None);
    }

    #[test]
    fn head_is_looked_at_once_a_minute_and_sooner_after_a_failure() {
        let (mut index, now) = (Index::default(), Instant::now());
        assert!(index.is_due(now));
        index.is_as_before(now);
        assert!(!index.is_due(now + LOOK_INTERVAL / 2));
        assert!(index.is_due(now + LOOK_INTERVAL));
        index.is_silent(now);
        assert!(!index.is_due(now) && index.is_due(now + LOOK_AGAIN));
        index.is_old();
        assert!(index.is_due(now));
    }
}
