//! Packs: many small blobs in one object of the edge, and the index that says which lies where.
//!
//! A bucket bills requests, so ten thousand small blobs go up as a dozen packs and come down by two requests a pack.
//! Packs (`packs/HASH`) and segments of the index (`index/HASH`) never change and are named by their hashes; only
//! `index/head`, which names the segments, is ever written again, and only in the place of what its writer has read
//! ([`publish`](super::Edge::publish)). Where two write at once the later one is refused, and writes what holds both.
//!
//! A reader asks for the head after a miss, once a minute at most, and remembers what it names. A blob that the index
//! knows is read out of its pack: alone the first time, so that a single get moves no more than it wants, and from
//! then on the whole pack, once for all who want something of it. All this happens below [`Edge::read`]: who gets a
//! blob does not see where it lay.
//!
//! Nothing here is believed. Files are checked before they are used ([`format`]), and a blob leaves only after its own
//! hash was checked; an index that lies costs a request, and then the blob is looked for under its own name.
//!
//! Nothing is ever removed: a segment that was merged into another stays, for readers that hold an older head.
//!
//! [`Edge::read`]: super::Edge::read

mod format;
mod index;
mod reader;
mod shelf;
mod single;
mod survey;
mod writer;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use blobmesh_protocol::blob::GROUP_LEN;
use tokio::sync::Semaphore;

use super::error::EdgeError;
pub(crate) use format::{Entry, packed_len};
use index::Index;
use shelf::{Pack, Shelf};
use single::Single;
pub(crate) use survey::Presence;

/// Blobs up to this many bytes go into packs, where many are pushed: one group, which their hash alone verifies.
pub(crate) const PACKED_BYTES_MAX: u64 = GROUP_LEN;
/// Manifests do so up to this many bytes, which is what a reader takes in one request without a group list. No member
/// of a pack is longer.
pub(crate) const MEMBER_BYTES_MAX: u64 = 1 << 20;
/// The length of a pack at most, with its table: few requests, and little that is read for nothing.
pub(crate) const PACK_BYTES_MAX: usize = 8 << 20;
/// The blobs of one segment of the index at most: 12 MiB, in the worst of cases 22.
const SEGMENT_BLOBS_MAX: usize = 1 << 18;
/// The segments that one head names at most, in all for some 200 million blobs.
const HEAD_SEGMENTS_MAX: usize = 1024;
/// How many bytes of segments a node holds, the newest first: 1.4 million blobs.
const INDEX_BYTES_MAX: usize = 64 << 20;
/// How many bytes of packs a node holds, and how many packs, those used last.
const SHELF_BYTES_MAX: usize = 64 << 20;
const SHELF_PACKS_MAX: usize = 256;
/// How many whole packs are read at once.
const PACKS_AT_ONCE: usize = 4;
/// How often the head is asked for at most, by whoever misses a blob.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// The same after it could not be read.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Is what a node knows of the packs of its edge, and holds of them.
#[derive(Debug)]
pub(super) struct Packs {
    index: Mutex<Index>,
    shelf: Mutex<Shelf>,
    looking: Single<(), Result<(), EdgeError>>,
    fetching: Single<blobmesh_protocol::Hash, Result<Option<std::sync::Arc<Pack>>, EdgeError>>,
    /// Held by each whole pack that is on its way.
    ways: Semaphore,
}

impl Packs {
    pub(super) fn new() -> Self {
        Self {
            index: Mutex::default(),
            shelf: Mutex::default(),
            looking: Single::default(),
            fetching: Single::default(),
            ways: Semaphore::new(PACKS_AT_ONCE),
        }
    }

    /// Has the next one who misses a blob look at the index again.
    pub(super) fn is_old(&self) {
        self.index().is_old();
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns where a pack lies under the base of an edge.
fn pack_path(hash: &blobmesh_protocol::Hash) -> String {
    format!("packs/{}", hash.to_hex())
}

/// Returns where a segment of the index lies.
fn segment_path(hash: &blobmesh_protocol::Hash) -> String {
    format!("index/{}", hash.to_hex())
}

/// Says where the head of the index lies.
const HEAD_PATH: &str = "index/head";
