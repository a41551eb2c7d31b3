//! The data plane: the bytes of blobs, from a peer or the edge into the store, and from the store to
//! a peer.
//!
//! The engine decides who is fetched from and who is served; here it is done. [`requester`] speaks one
//! side of a blob stream and [`provider`] the other, [`edge`] reads from the edge; what they get goes
//! through one [`sink`], which verifies every group before the store sees it.
//!
//! Nothing here holds more than a few batches of groups in memory, whatever the size of the blob, and
//! no hashing, compression or file is touched on an async thread.

pub(crate) mod edge;
mod error;
mod frames;
mod holding;
mod meter;
pub(crate) mod provider;
pub(crate) mod requester;
mod sink;
#[cfg(test)]
mod tests;
mod upload;

use std::ops::Range;
use std::sync::Arc;

pub(crate) use error::FetchError;
pub(crate) use frames::{FrameIo, StreamError};
pub(crate) use holding::Holding;
pub(crate) use meter::{Carried, Meter};
pub(crate) use upload::UploadRate;

/// How many bytes of groups travel between a stream's task and the thread that reads or writes them.
/// One MiB is what the file system likes; three batches of it are the memory of one transfer.
const BATCH_BYTES: usize = 1 << 20;
/// How many groups make a batch that is received. They are counted, not weighed: a group may come
/// with no payload at all.
const BATCH_GROUPS: usize = 16;
/// How many batches wait between the two.
const BATCHES_MAX: usize = 2;

/// Is told how a fetch goes, but for [`arrived`](Self::arrived) on threads that may block.
///
/// These threads outlive a fetch that is dropped: what they had begun to store is stored and reported.
pub(crate) trait Report: Send + Sync + 'static {
    /// Says that these groups of a blob of `size` bytes were verified and stored, `bytes` of them new.
    fn progress(&self, bytes: u64, groups: Range<u64>, size: u64);
    /// Says that the source is alive: `bytes` more came of a blob that it claims to have `size` bytes,
    /// and are not verified yet. None are counted for a part of its list. Never waits, so it may be
    /// called on any thread, and is lost when too much is being told already.
    fn arrived(&self, bytes: u64, size: u64);
    /// Says that the edge has no group list of the blob, so that all of it comes at once or not at all.
    fn unlisted(&self);
    /// Says that the blob is whole and in the store.
    fn stored(&self);
    /// Counts where the time goes.
    fn meter(&self) -> &Arc<Meter>;
}
