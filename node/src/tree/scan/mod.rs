//! A directory becomes a tree.
//!
//! ```text
//! walk (a thread)          lists directories in the order of names, leaves out what is ignored
//!   │ chunks of steps      a queue of names and no bytes
//! files (several threads)  asks the memory of the last scan, else reads, hashes and writes to a batch
//!   │ nodes, in order
//! assemble                 makes manifests of directories, from the bottom up
//! ```
//!
//! Nothing grows with the tree but the queue of names, the memory of the scan and the batch's list of
//! what it holds: some 300 bytes a file. What is durable when, the batch says (`store/batch.rs`).
//!
//! The same directory gives the same tree wherever it lies: rules above it, of the user or of a
//! repository's private configuration have no say.

mod assemble;
mod cache;
mod error;
mod files;
mod rules;
#[cfg(test)]
mod tests;
mod walk;

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

use blobmesh_protocol::Hash;
use blobmesh_protocol::tree::{Totals, UnsafeEntry};

pub(crate) use self::error::ScanError;

use self::assemble::{Assembler, Root};
use self::cache::Cache;
use self::files::Scanner;
use self::walk::{Chunk, Walk};
use crate::stop::Stop;
use crate::store::{BatchAdded, Store, StoreError};

/// How many chunks of up to a thousand names wait to be read.
const CHUNKS_MAX: usize = 64;
/// On how many threads files are read at most; two at least, since reading may wait for a disk.
const THREADS_MAX: usize = 8;

/// Says what to add, and how.
#[derive(Clone, Debug)]
pub(crate) struct ScanOptions {
    /// The directory.
    pub(crate) root: PathBuf,
    /// Whether `.gitignore` and `.blobmeshignore` say what is left out.
    pub(crate) ignore: bool,
    /// A directory that is never added: the store's own.
    pub(crate) store_dir: PathBuf,
    /// Where scans are remembered.
    pub(crate) memory: PathBuf,
}

/// Tells how far a scan is, and ends it; shared with whoever watches.
#[derive(Debug, Default)]
pub(crate) struct ScanProgress {
    /// Files that are done.
    pub(crate) files: AtomicU64,
    /// Their bytes.
    pub(crate) bytes: AtomicU64,
    /// Files that were found so far.
    pub(crate) found: AtomicU64,
    /// Whether all were found.
    pub(crate) all_found: AtomicBool,
    /// Wanted when nobody waits for it any more.
    pub(crate) stop: Stop,
}

/// Tells what was left out of a tree, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeftOut {
    /// Entries that ignore rules name.
    pub(crate) ignored: u64,
    /// Entries named `.git`.
    pub(crate) git: u64,
    /// Sockets, pipes and devices.
    pub(crate) special: u64,
    /// What to tell of these, and of rules that make no sense; a hundred at most.
    pub(crate) warnings: Vec<String>,
}

/// Tells what came of a scan.
#[derive(Debug)]
pub(crate) struct Scanned {
    /// The tree's hash.
    pub(crate) hash: Hash,
    /// What is in it.
    pub(crate) totals: Totals,
    /// How many files were not read, because they are what they were at the last scan.
    pub(crate) unchanged: u64,
    /// The manifests that were made, the root's the last.
    pub(crate) manifests: u64,
    /// What was left out.
    pub(crate) left_out: LeftOut,
    /// The first entry that a checkout would refuse.
    pub(crate) refused: Option<UnsafeEntry>,
    /// The blobs, durable, and not evicted while this lives.
    pub(crate) blobs: BatchAdded,
}

/// Adds a directory; all of it is durable when this returns.
///
/// # Errors
/// [`ScanError`], which names the path. What was added by then stays as ordinary blobs.
pub(crate) fn scan(
    store: &Store,
    options: &ScanOptions,
    progress: &ScanProgress,
) -> Result<Scanned, ScanError> {
    let walk = Walk::begin(options)?;
    let cache = Cache::load(&options.memory, &options.root);
    let (mut batch, list) = (store.batch()?, cache.hash());
    list.iter().for_each(|list| batch.rely_on(list));
    let scanner = Scanner::new(batch, cache, progress);
    let (chunks, queue) = mpsc::sync_channel(CHUNKS_MAX);
    let (tree, left_out) = thread::scope(|scope| {
        let walker = scope.spawn(move || find_all(walk, &chunks, progress));
        // Dropping the queue on an error ends the walker.
        let tree = take_all(queue, &scanner);
        let left_out = walker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        tree.map(|tree| (tree, left_out))
    })?;
    let unchanged = scanner.unchanged();
    let (batch, memory) = scanner.into_parts();
    let Root { hash, totals, manifests, refused } = tree.finish(&batch)?;
    let blobs = batch.finish()?;
    let save = |memory: cache::Memory| memory.save(&options.memory, &options.root).map(Some);
    match memory.map_or(Ok(list), save) {
        Ok(list) => list.into_iter().for_each(|list| store.vouch_for(list, &blobs)),
        Err(error) => tracing::debug!(%error, "the scan is not remembered"),
    }
    Ok(Scanned { hash, totals, unchanged, manifests, left_out, refused, blobs })
}

/// Sends all steps of a walk, and returns what was left out.
fn find_all(
    mut walk: Walk,
    chunks: &SyncSender<Result<Chunk, ScanError>>,
    progress: &ScanProgress,
) -> LeftOut {
    loop {
        let chunk = walk.next_chunk();
        let ended = chunk.as_ref().map_or(true, Chunk::is_empty);
        if let Ok(chunk) = &chunk {
            progress.found.fetch_add(chunk.files(), Ordering::Relaxed);
        }
        if ended {
            progress.all_found.store(true, Ordering::Relaxed);
        }
        // The last one, empty or an error, tells the other side that this is the end.
        if chunks.send(chunk).is_err() || ended {
            return walk.into_left_out();
        }
    }
}

/// Makes nodes of all that a walk finds.
fn take_all(
    queue: Receiver<Result<Chunk, ScanError>>,
    scanner: &Scanner<'_>,
) -> Result<Assembler, ScanError> {
    let threads = thread::available_parallelism().map_or(2, NonZero::get).clamp(2, THREADS_MAX);
    let mut tree = Assembler::default();
    for chunk in queue {
        let chunk = chunk?;
        let nodes = scanner.scan_all(&chunk, threads)?;
        tree.take(chunk, nodes, scanner.batch())?;
    }
    Ok(tree)
}

/// Makes the error of something that could not be done to `path`.
fn io_error(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ScanError {
    let path = path.to_owned();
    move |source| ScanError::Io { action, path, source }
}

impl From<StoreError> for ScanError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
