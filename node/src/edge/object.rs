//! Objects of an edge that are no blobs: packs, and the index of what lies in them.

use std::ops::Range;

use bytes::Bytes;

/// Says what of an object is wanted.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'a> {
    /// Where it lies under the base.
    pub(super) path: &'a str,
    /// Which bytes; all without one. No fewer will do.
    pub(super) range: Option<Range<u64>>,
    /// How many bytes are taken at most; more are a breach.
    pub(super) len_max: u64,
    /// The tag of the object that is here already.
    pub(super) unless: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    /// Wants all of an object.
    pub(super) fn whole(path: &'a str, len_max: u64) -> Self {
        Self { path, range: None, len_max, unless: None }
    }

    /// Wants these bytes of an object, at least one.
    pub(super) fn part(path: &'a str, range: Range<u64>) -> Self {
        let len_max = range.end.saturating_sub(range.start);
        Self { path, range: Some(range), len_max, unless: None }
    }
}

/// Is what was read of an object.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) bytes: Bytes,
    /// What the edge calls this version of it, where it does.
    pub(super) tag: Option<String>,
}
