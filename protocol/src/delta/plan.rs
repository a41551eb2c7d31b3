//! Plans: which ranges of a blob are copied from a base, and which are fetched.
//!
//! A plan covers the blob from its first byte to its last, in order and without overlaps. It is carried out in
//! batches, of which each takes a few megabytes of memory, whatever the size of the blob.

use std::iter::Peekable;
use std::ops::Range;

use super::{BaseMap, Edge, StretchMap};
use crate::blob::{GroupList, group_len, group_offset};

/// How many groups a batch makes at most: 16 MiB of them.
const BATCH_GROUPS_MAX: usize = 256;
/// How many bytes of a batch are fetched at most, in bytes; the last group may go past it.
const BATCH_FETCHED_MAX: u64 = 4 << 20;
/// How many ranges of a batch are fetched before it is closed; the last group may have some more.
const BATCH_RANGES_MAX: usize = 512;

/// Is a range of the blob, and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins in the blob.
    pub start: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Where it begins in the base; none where it is fetched.
    pub base: Option<u64>,
}

impl Piece {
    /// Returns where it ends in the blob.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    /// Returns the part of it that is in a range; none where there is nothing.
    fn within(&self, range: &Range<u64>) -> Option<Self> {
        let (start, end) = (self.start.max(range.start), self.end().min(range.end));
        let base = self.base.map(|base| base + start.saturating_sub(self.start));
        (start < end).then(|| Self { start, len: end - start, base })
    }
}

/// Says where each byte of a blob comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pieces: Vec<Piece>,
    size: u64,
}

impl Plan {
    /// Looks a blob's stretches up in a base. Of several places the one is taken that goes on where the stretch before
    /// it ended, so that what lies together in both is copied at once.
    pub fn new(map: &StretchMap, base: &BaseMap) -> Self {
        let mut plan = Self::default();
        let mut expected = Some(0);
        for stretch in map.stretches() {
            let len = u64::from(stretch.len);
            let found = base.find(*stretch, expected);
            plan.push(len, found);
            // Behind what was replaced the base is likely to go on as if it had not been.
            expected = found.or(expected).and_then(|at| at.checked_add(len));
        }
        plan
    }

    /// Returns the blob's length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns all pieces, in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Returns how many bytes are to be fetched.
    pub fn fetched(&self) -> u64 {
        self.pieces.iter().filter(|piece| piece.base.is_none()).map(|piece| piece.len).sum()
    }

    /// Returns the pieces of a range, cut at its ends.
    pub fn parts(&self, range: Range<u64>) -> impl Iterator<Item = Piece> + '_ {
        let first = self.pieces.partition_point(|piece| piece.end() <= range.start);
        let pieces = self.pieces.iter().skip(first);
        pieces.map_while(move |piece| piece.within(&range))
    }

    /// Returns the ranges to be fetched, with what the base has around them. Before the blob's first byte and behind
    /// its last that is the beginning and the end of the base, which has `base_size` bytes.
    pub fn edges(&self, base_size: u64) -> Vec<Edge> {
        let mut edges = Vec::new();
        for (at, piece) in self.pieces.iter().enumerate() {
            if piece.base.is_some() {
                continue;
            }
            let end_of = |before: &Piece| before.base.map(|base| base.saturating_add(before.len));
            let before = at.checked_sub(1).and_then(|at| self.pieces.get(at)).and_then(end_of);
            let behind = self.pieces.get(at + 1).and_then(|piece| piece.base);
            let (after, before) = (before.unwrap_or(0), behind.unwrap_or(base_size));
            edges.push(Edge { range: piece.start..piece.end(), after, before });
        }
        edges
    }

    /// Returns the plan in which the ends of ranges that were to be fetched are copied: of the range of each edge so
    /// many bytes at its beginning and at its end. The edges are those of this plan, in order; some may be missing.
    #[must_use]
    pub fn trimmed(&self, edges: &[(Edge, (u64, u64))]) -> Self {
        let mut plan = Self::default();
        let mut edges = edges.iter().peekable();
        for piece in &self.pieces {
            match edges.next_if(|(edge, _)| edge.range.start == piece.start) {
                Some((edge, (head, tail))) => {
                    let head = (*head).min(piece.len);
                    let tail = (*tail).min(piece.len - head);
                    plan.push(head, Some(edge.after));
                    plan.push(piece.len - head - tail, None);
                    plan.push(tail, edge.before.checked_sub(tail));
                }
                None => plan.push(piece.len, piece.base),
            }
        }
        plan
    }

    /// Divides the making of some groups, in rising order, into batches. A group of which the base has nothing is
    /// left out unless `whole` says that it is fetched in this way too.
    pub fn batches<G: Iterator<Item = u64>>(&self, groups: G, whole: bool) -> Batches<'_, G> {
        Batches { plan: self, groups: groups.peekable(), whole }
    }

    fn push(&mut self, len: u64, base: Option<u64>) {
        if len == 0 {
            return;
        }
        let start = self.size;
        self.size = start.saturating_add(len);
        if let Some(last) = self.pieces.last_mut()
            && last.base.map(|at| at.saturating_add(last.len)) == base
        {
            last.len += len;
            return;
        }
        self.pieces.push(Piece { start, len, base });
    }
}

/// Is what is done at once: some groups, and what must be fetched to make them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The groups, in rising order.
    pub groups: Vec<u64>,
    /// The ranges of the blob to be fetched, in rising order and apart from each other.
    pub fetched: Vec<Range<u64>>,
}

impl Batch {
    /// Returns how many bytes are to be fetched.
    pub fn bytes(&self) -> u64 {
        self.fetched.iter().map(|range| range.end - range.start).sum()
    }

    fn is_full(&self) -> bool {
        self.groups.len() >= BATCH_GROUPS_MAX
            || self.fetched.len() >= BATCH_RANGES_MAX
            || self.bytes() >= BATCH_FETCHED_MAX
    }

    /// Adds a range, which is not before the last one.
    fn fetch(&mut self, range: Range<u64>) {
        match self.fetched.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            Some(_) | None => self.fetched.push(range),
        }
    }
}

/// Gives the batches of a plan.
#[derive(Clone, Debug)]
pub struct Batches<'a, G: Iterator<Item = u64>> {
    plan: &'a Plan,
    groups: Peekable<G>,
    whole: bool,
}

impl<G: Iterator<Item = u64>> Iterator for Batches<'_, G> {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        let mut batch = Batch::default();
        while !batch.is_full()
            && let Some(group) = self.groups.next()
        {
            let range = range_of(self.plan.size, group);
            let is_copied = self.plan.parts(range.clone()).any(|part| part.base.is_some());
            if range.is_empty() || !(is_copied || self.whole) {
                continue;
            }
            let fetched = self.plan.parts(range).filter(|part| part.base.is_none());
            fetched.for_each(|part| batch.fetch(part.start..part.end()));
            batch.groups.push(group);
        }
        (!batch.groups.is_empty()).then_some(batch)
    }
}

/// Returns the bytes of a blob of `size` bytes that are group `index`; nothing past the end.
pub fn range_of(size: u64, index: u64) -> Range<u64> {
    let (start, len) = (group_offset(index), group_len(size, index));
    start..start.saturating_add(u64::try_from(len).unwrap_or(0))
}

/// Returns the runs of groups that two blobs have at the same place, as their lists prove.
pub fn same_groups(blob: &GroupList, base: &GroupList) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for (index, (one, other)) in (0u64..).zip(blob.values().iter().zip(base.values())) {
        if one != other {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.end == index => run.end += 1,
            Some(_) | None => runs.push(index..index + 1),
        }
    }
    runs
}
