//! A tree becomes a directory.
//!
//! The whole tree is loaded and checked first, and every blob that is needed must be in the store, or on its way
//! ([`supply`]); before that nothing is written. Where nothing is yet, the tree is made beside its place and renamed there ([`fresh`]). Where another one is,
//! only what differs is touched ([`switch`]). Nothing here fetches, and nothing is synced: a checkout can be made again.
//!
//! **Invariant:** whatever a manifest says, and whatever others do to the directory meanwhile, nothing outside of it is
//! changed, but for the stage beside it while it is made. **Invariant:** what somebody changed or put there is never lost
//! unless that is forced. **Invariant:** the directory holds the old tree or the new one; between them only while a
//! journal lies in it, which the next checkout carries out.

mod error;
mod fresh;
mod journal;
mod load;
mod plan;
mod pool;
mod stage;
mod state;
mod supply;
mod switch;
mod target;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use blobmesh_protocol::Hash;
use blobmesh_protocol::tree::{Change, Item};

use self::load::Manifests;
use self::stage::{Maker, size_of};
use self::state::State;
use self::target::{Found, Target};
use super::beneath::Dir;
use super::ways::{WayCounts, Ways};
use crate::stop::Stop;
use crate::store::Store;

pub use self::error::CheckoutError;
pub(crate) use self::error::shown;
pub use self::load::SourceError;
pub(crate) use self::load::each_file;
pub(crate) use self::supply::Supply;

/// How many paths are named at most that are in the way.
pub const IN_THE_WAY_MAX: usize = 20;

/// Says how a tree is to be checked out.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What is in the way is replaced, and everything made again that is not as it was checked out.
    pub force: bool,
    /// Files become names of the store's own: nothing is copied, and nobody may write to them.
    pub hard_link: bool,
    /// Every byte is hashed while it is written.
    pub verify: bool,
    /// Patterns of files that share no block with the store: see `pattern.rs`.
    pub copy: Vec<String>,
}

/// Tells how far a checkout is.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

/// Is what a checkout came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckedOut {
    /// Files and symbolic links that are new.
    pub added: u64,
    /// Those that were replaced.
    pub changed: u64,
    /// Those that went.
    pub removed: u64,
    /// The bytes of the files that were made.
    pub bytes: u64,
    /// How they were made.
    pub ways: WayCounts,
    /// What an earlier checkout had left behind.
    pub recovered: Option<Recovered>,
    /// What changed while this went on, and was left alone.
    pub left: Vec<Vec<u8>>,
}

/// Says what was found of a checkout that was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// It had begun to change the directory, and was finished.
    Finished {
        /// Its tree.
        root: Hash,
        /// How many paths were left alone, because somebody had changed them since.
        left: usize,
    },
    /// It had changed nothing, and what it had made was removed.
    Undone,
}

impl Progress {
    /// Returns the bytes that are written, and those that are to be.
    pub fn bytes(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    fn begin(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }

    fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Makes the directory `dir`, an absolute path, hold the tree `root`.
///
/// # Errors
/// [`CheckoutError`]; but for what an earlier checkout had begun, the directory is then as it was.
pub fn checkout(
    store: &Store,
    root: &Hash,
    dir: &Path,
    options: &Options,
    progress: &Progress,
    stop: &Stop,
) -> Result<CheckedOut, CheckoutError> {
    check_out(root, dir, &Maker::new(store, &Ways::default(), options, progress, stop))
}

/// Does the same while blobs of the tree are still on their way; who checked that the store has or gets all of them has
/// them kept there. Where one does not come, it ends as if it had been stopped.
///
/// # Errors
/// As [`checkout`].
pub(crate) fn checkout_meanwhile(
    store: &Store,
    root: &Hash,
    dir: &Path,
    options: &Options,
    progress: &Progress,
    stop: &Stop,
    supply: &Supply,
) -> Result<CheckedOut, CheckoutError> {
    let ways = Ways::default();
    let mut maker = Maker::new(store, &ways, options, progress, stop);
    maker.supply = Some(supply);
    check_out(root, dir, &maker)
}

fn check_out(root: &Hash, dir: &Path, maker: &Maker<'_>) -> Result<CheckedOut, CheckoutError> {
    let target = Target::at(dir, maker.store.dir())?;
    let mut manifests = Manifests::of(maker.store);
    let totals = manifests.check(root)?;
    let ((counts, bytes), recovered, left) = match &target.found {
        Found::Nothing => {
            maker.check_tree(root, &mut manifests)?;
            maker.progress.begin(totals.bytes);
            let made = fresh::make(&target, root, &mut manifests, maker)?;
            let recovered = made.cleared.then_some(Recovered::Undone);
            (((made.leaves, 0, 0), totals.bytes), recovered, Vec::new())
        }
        Found::Dir(dir) => {
            let manifest = manifests.load_root(root)?;
            let done = switch::switch(&target, dir, root, manifest, &mut manifests, maker)?;
            let sums = (switch::count(&done.changes), bytes_of(&done.changes));
            (sums, done.recovered, done.left)
        }
    };
    let (added, changed, removed) = counts;
    Ok(CheckedOut {
        added,
        changed,
        removed,
        bytes,
        ways: maker.ways.counts(),
        recovered,
        left: left.into_iter().map(<[u8]>::into_vec).collect(),
    })
}

/// Checks that a tree may be checked out into the directory `dir`, as far as can be told without the tree.
///
/// # Errors
/// [`CheckoutError`] as [`checkout`] gives it.
pub(crate) fn check_target(store: &Store, dir: &Path) -> Result<(), CheckoutError> {
    Target::at(dir, store.dir()).map(drop)
}

/// Returns what the checkout in `dir` has at each of some paths: blob and length of a file, as it was checked out. None
/// where it has none, or the directory holds no checkout; whether the file is still that, nobody looks.
pub(crate) fn older_versions(dir: &Path, paths: &[&[u8]]) -> Vec<Option<(Hash, u64)>> {
    let state = Dir::open(dir).and_then(|dir| dir.open_below(state::DIR));
    let state = state.and_then(|own| State::load(&own)).ok().flatten();
    let older = |path: &&[u8]| match state.as_ref()?.row(path)?.item {
        Item::File { hash, size, .. } => Some((hash, size)),
        Item::Dir | Item::Symlink { .. } => None,
    };
    paths.iter().map(older).collect()
}

/// Opens a file of a checkout, never by way of a symbolic link.
pub(crate) fn open_older(dir: &Path, path: &[u8]) -> io::Result<File> {
    let (above, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&b""[..], path),
    };
    Dir::open(dir)?.open_below(above)?.open_file(name)
}

fn bytes_of(changes: &[Change]) -> u64 {
    let new = changes.iter().filter_map(|change| change.new.as_ref());
    new.fold(0, |sum, item| sum.saturating_add(size_of(item)))
}

/// Returns the moment, in nanoseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
