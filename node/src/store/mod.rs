//! The store: the blobs of this node, on its disk.
//!
//! **Files are the truth.** A whole blob is one file under its hash, but for small fetched ones that came together and
//! share a pack (`packs`); the index (sled, in `index.rs` only)
//! is made again from files and packs whenever it is missing or ruined, and a lookup that misses it looks at
//! the files. Users' pins lie in a file of their own.
//!
//! **Two classes.** An added or pinned blob is *durable*: it survives a power cut once the call has
//! returned. A fetched one is *cache*: nothing is synced for it before the store is closed, because it
//! can be fetched again; after an unclean end its length is checked when it is first met, and its bytes
//! when they are first read, or before it is first lent (`doubt.rs`).
//!
//! **Nothing unverified leaves.** Bytes that come in are hashed before they get a name; bytes that go
//! out are checked group by group the first time after their file was opened or changed. A blob that has
//! rotted is taken out.
//!
//! **The bound holds at all times**: room is reserved before it is written, and made by evicting the
//! least recently used. Pinned blobs and blobs in use are never evicted.
//!
//! Everything here blocks: call it from threads that may. A [`Store`] is cheap to clone and shared by
//! all threads. Its own threads are the flusher (`flush.rs`) and, after an unclean end, the sweep
//! (`sweep.rs`). The store decides nothing about peers, and never fetches.

mod batch;
mod catalog;
mod doubt;
mod error;
mod evict;
mod export;
mod files;
mod flush;
mod format;
mod hot;
mod import;
mod index;
mod leave;
mod lend;
mod lock;
mod names;
mod output;
mod packs;
mod partial;
mod partials;
mod pinning;
mod pins;
mod read;
mod run;
mod small;
mod space;
mod sweep;
mod sys;
mod temp;
mod vouch;
mod writes;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use blobmesh_protocol::Hash;

pub use self::batch::{Batch, BatchAdded};
pub use self::error::StoreError;
pub(crate) use self::export::Export;
pub use self::import::{AddWriter, Quarantine};
pub use self::lend::{Lendable, Lent};
pub use self::partial::{CHECKPOINT_BYTES, Partial};
pub use self::read::BlobReader;
pub use self::run::CheckedRun;
pub use self::small::SmallRead;
pub(crate) use self::space::HeldSet;
pub(crate) use self::sys::read_exact_at;

use self::catalog::{Catalog, Located};
use self::doubt::Doubt;
use self::files::{Class, Files};
use self::index::{Home, Index, Row};
use self::lock::StoreLock;
use self::names::Names;
use self::packs::Packs;
use self::partials::Partials;
use self::pins::Pins;
use self::read::Recent;
use self::space::Leases;
use self::sys::lock;
use self::vouch::Vouches;
use self::writes::Writes;

/// Configures a store.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The directory of the store; made with mode 0700 if it is missing.
    pub dir: PathBuf,
    /// The bound of all blobs, whole and partial, in bytes. The index (about 0.3 KiB a blob) and the
    /// group lists (1/2048) come on top.
    pub bytes_max: u64,
    /// The bound of one blob in bytes.
    pub blob_bytes_max: u64,
    /// Up to how many bytes a fetched blob lies in the index and not in a file. Saves a block and an
    /// inode each, costs 1.6-2 times its size on disk. Of blobs that come together only those of at most 1 KiB do.
    pub inline_bytes_max: usize,
}

impl StoreConfig {
    /// The default of [`inline_bytes_max`](Self::inline_bytes_max): 4 KiB.
    pub const INLINE_BYTES_MAX_DEFAULT: usize = 4096;

    /// Makes the default configuration of a store in `dir` with the given bounds.
    pub fn new(dir: PathBuf, bytes_max: u64, blob_bytes_max: u64) -> Self {
        let inline_bytes_max = Self::INLINE_BYTES_MAX_DEFAULT;
        Self { dir, bytes_max, blob_bytes_max, inline_bytes_max }
    }
}

/// Tells how a store was found when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenReport {
    /// Whether the last run closed the store, or there was none.
    pub clean: bool,
    /// Why the index is made again from the files, if it is; that goes on in the background.
    pub rebuild: Option<RebuildReason>,
    /// Whether an index could be opened at all; without one the store works from its files.
    pub indexed: bool,
    /// How many temporary files were left behind and are removed.
    pub temps_removed: u64,
    /// How many partial blobs lie on disk, to be resumed.
    pub partials: u64,
}

/// Says why an index is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebuildReason {
    /// Somebody removed it.
    Missing,
    /// It failed in the last run.
    Broken,
    /// It gave an error when it was opened.
    Unreadable,
    /// It panicked when it was opened.
    Panicked,
    /// It did not open in time.
    TimedOut,
    /// It opened, but had lost everything.
    Emptied,
}

/// Says where a blob came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A user of this machine added or pinned it.
    Added,
    /// It was fetched from a peer or the edge.
    Fetched,
}

impl Origin {
    fn of(class: Class) -> Self {
        match class {
            Class::Durable => Self::Added,
            Class::Cache => Self::Fetched,
        }
    }
}

/// Tells of a blob that was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    /// The blob.
    pub hash: Hash,
    /// Its length in bytes.
    pub size: u64,
    /// Whether it was in the store before.
    pub existed: bool,
}

/// Describes a blob of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its length in bytes.
    pub size: u64,
    /// Where it came from.
    pub origin: Origin,
    /// Whether it is pinned.
    pub pinned: bool,
    /// When it was last used, in seconds since 1970.
    pub accessed: u64,
}

/// Counts what a store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreStats {
    /// How many whole blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The bound in bytes.
    pub bytes_max: u64,
    /// The bytes promised to blobs that are coming in, and to partial ones.
    pub reserved: u64,
    /// How many partial blobs there are, worked on or idle.
    pub partials: u64,
    /// How many pins there are.
    pub pins: u64,
    /// The bytes of the index on disk.
    pub index_bytes: u64,
    /// The bytes that are free on the store's device; none where that cannot be learned.
    pub disk_free: Option<u64>,
}

/// Tells what was evicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// How many whole blobs.
    pub blobs: u64,
    /// The bytes that became free.
    pub bytes: u64,
}

/// Is told of a blob that left the store without being asked to.
type GoneListener = Box<dyn Fn(Hash) + Send + Sync>;

/// Is the store of one node. Clones share it.
///
/// Close it with [`close`](Self::close) when the node ends; dropping the last clone does the same.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    config: StoreConfig,
    catalog: Arc<Catalog>,
    pins: Pins,
    /// Held by the one who adds pins, with no stripe.
    pinning: Mutex<()>,
    names: Names,
    writes: Writes,
    /// Held by the one who evicts, so that two writers in need do not evict twice.
    evicting: Mutex<()>,
    leases: Arc<Leases>,
    /// Counts who reads or writes the file of a blob as of a partial one, also once it is whole.
    workers: Arc<Leases>,
    vouches: Vouches,
    recent: Recent,
    partials: Partials,
    doubt: Arc<Doubt>,
    sweep: Arc<sweep::Progress>,
    gone: Mutex<Option<Arc<GoneListener>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    closed: AtomicBool,
    lock: Mutex<Option<StoreLock>>,
}

impl Store {
    /// Opens the store, or makes it.
    ///
    /// Takes milliseconds after a clean end, whatever the store holds. After an unclean one it reads the
    /// index, and a thread of its own then makes index and files agree.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another process holds it, [`StoreError::FormatNewer`] and
    /// [`StoreError::NotAStore`] (nothing was changed then), [`StoreError::PinsDamaged`] or
    /// [`StoreError::Io`].
    pub fn open(config: StoreConfig) -> Result<(Self, OpenReport), StoreError> {
        let (files, new) = Files::prepare(&config.dir)?;
        let lock = StoreLock::take(files.root())?;
        let temps_removed = files.furnish()?;
        let pins = Pins::load(&files)?;
        let (index, found) = Index::open(&files.path("index.sled"));
        let packs = files.path("packs");
        let packs = Packs::load(packs.clone(), found.totals.is_some())
            .map_err(StoreError::io("list", &packs))?;
        let catalog = Catalog::new(files, packs, index, found.totals, config.bytes_max);
        let catalog = Arc::new(catalog);
        let partials = Partials::load(catalog.files(), catalog.space())?;
        let report = OpenReport {
            clean: new || found.totals.is_some(),
            rebuild: found.rebuild.filter(|_| !new),
            indexed: catalog.index_is_good(),
            temps_removed,
            partials: partials.len(),
        };
        let doubt = Doubt::load(catalog.files(), report.clean, catalog.packs().first());
        let inner = Inner {
            config,
            catalog,
            pins,
            pinning: Mutex::default(),
            names: Names::new(report.clean),
            writes: Writes::default(),
            evicting: Mutex::default(),
            leases: Arc::default(),
            workers: Arc::default(),
            vouches: Vouches::default(),
            recent: Recent::default(),
            partials,
            doubt: Arc::new(doubt),
            sweep: Arc::default(),
            gone: Mutex::default(),
            threads: Mutex::default(),
            closed: AtomicBool::new(false),
            lock: Mutex::new(Some(lock)),
        };
        inner.catalog.unseal();
        inner.start_threads(!report.clean)?;
        Ok((Self { inner: Arc::new(inner) }, report))
    }

    /// Returns the directory of the store, canonical.
    pub fn dir(&self) -> &Path {
        self.inner.catalog.files().root()
    }

    /// Returns the bound of one blob in bytes.
    pub(crate) fn blob_bytes_max(&self) -> u64 {
        self.inner.config.blob_bytes_max
    }

    /// Returns what is pinned, whether it is in the store or not, by hash.
    pub fn pins(&self) -> Vec<Hash> {
        self.inner.pins.all()
    }

    /// Names who is told of every blob that leaves without being asked to: evicted, rotten, or found
    /// missing. Replaces an earlier one. It is called from whichever thread noticed, and must not block.
    pub fn set_gone_listener(&self, listener: impl Fn(Hash) + Send + Sync + 'static) {
        *lock(&self.inner.gone) = Some(Arc::new(Box::new(listener)));
    }

    /// Returns what is known of a blob; none if it is not in the store. It is no access.
    pub fn find(&self, hash: &Hash) -> Result<Option<BlobInfo>, StoreError> {
        self.inner.ensure_open()?;
        Ok(self.inner.find_row(hash)?.map(|row| self.inner.info(hash, &row)))
    }

    /// Returns a set of blobs that are kept from eviction until it is dropped, whether they are in the store yet or come
    /// later.
    pub(crate) fn hold(&self, hashes: impl IntoIterator<Item = Hash>) -> HeldSet {
        let mut held = HeldSet::new(&self.inner.leases);
        held.extend(hashes);
        // Who decided to evict one of them before that has done so when these are free.
        held.hashes().for_each(|hash| drop(self.inner.catalog.stripe(hash)));
        held
    }

    /// Returns whether a write of what was fetched has taken at least so long, as on a disk that is busy.
    pub(crate) fn is_behind(&self, long: Duration) -> bool {
        self.inner.writes.take(long)
    }

    /// Returns the lengths of blobs in their order, as [`find`](Self::find) does; none of one that is not in
    /// the store, and maybe of one that the index has lost: whoever asks for many does not look for the file
    /// of each. Whoever has them held before he asks finds none that is just being evicted.
    pub fn sizes(&self, hashes: &[Hash]) -> Result<Vec<Option<u64>>, StoreError> {
        self.inner.ensure_open()?;
        let indexed = self.inner.catalog.index_is_good();
        let size = |hash| {
            drop(self.inner.catalog.stripe(hash));
            match indexed && self.inner.catalog.row(hash).is_none() {
                true => Ok(None),
                false => Ok(self.inner.find_row(hash)?.map(|row| row.size)),
            }
        };
        hashes.iter().map(size).collect()
    }

    /// Removes a blob, with its pin if `force`; returns its length, or none if it was not there.
    ///
    /// Who reads it at the moment goes on to read it.
    ///
    /// # Errors
    /// [`StoreError::Pinned`] without `force`.
    pub fn remove(&self, hash: &Hash, force: bool) -> Result<Option<u64>, StoreError> {
        let inner = &self.inner;
        inner.ensure_open()?;
        // Before the look at the pins: whoever has pinned it looks afterwards whether it is still there.
        let _stripe = inner.catalog.stripe(hash);
        if inner.pins.contains(hash) {
            if !force {
                return Err(StoreError::Pinned { hash: *hash });
            }
            inner.pins.remove(inner.catalog.files(), hash)?;
        }
        match inner.catalog.locate_held(hash)? {
            Located::Here(row) => {
                inner.delete(hash, &row)?;
                Ok(Some(row.size))
            }
            Located::Lost(row) => {
                inner.delete(hash, &row)?;
                Ok(None)
            }
            Located::Absent => Ok(None),
        }
    }

    /// Returns all whole blobs, by hash. Waits for a sweep, so that none is missing.
    pub fn list(&self) -> Result<Vec<(Hash, BlobInfo)>, StoreError> {
        let inner = &self.inner;
        inner.ensure_open()?;
        inner.sweep.wait();
        let mut blobs = Vec::new();
        inner.catalog.for_each(|hash, row| {
            blobs.push((hash, inner.info(&hash, &row)));
            true
        })?;
        blobs.sort_unstable_by_key(|(hash, _)| *hash);
        blobs.dedup_by_key(|(hash, _)| *hash);
        Ok(blobs)
    }

    /// Returns the hashes of all whole blobs, sorted: what a filter is made of. Waits for a sweep.
    pub fn hashes(&self) -> Result<Vec<Hash>, StoreError> {
        let inner = &self.inner;
        inner.ensure_open()?;
        inner.sweep.wait();
        let mut hashes = Vec::new();
        inner.catalog.for_each(|hash, _| {
            hashes.push(hash);
            true
        })?;
        hashes.sort_unstable();
        hashes.dedup();
        Ok(hashes)
    }

    /// Counts what the store holds. While a sweep runs, that is what it has found so far.
    pub fn stats(&self) -> StoreStats {
        let inner = &self.inner;
        let (space, stored) = (inner.catalog.space(), inner.catalog.space().stored());
        StoreStats {
            blobs: stored.blobs,
            bytes: stored.bytes,
            bytes_max: space.bytes_max(),
            reserved: space.reserved(),
            partials: inner.partials.len(),
            pins: inner.pins.len(),
            index_bytes: inner.catalog.index_bytes(),
            disk_free: sys::disk_free(inner.catalog.files().root()),
        }
    }

    /// Evicts down to the bound, after a sweep that may still run, and makes a bloated index compact.
    /// (Left-over temporary files were removed when the store was opened.)
    pub fn gc(&self) -> Result<Collected, StoreError> {
        self.inner.ensure_open()?;
        self.inner.sweep.wait();
        let collected = self.inner.trim()?;
        let packs = self.inner.catalog.packs();
        packs
            .remove_empty()
            .map_err(StoreError::io("list", &self.inner.catalog.files().path("packs")))?;
        self.inner.catalog.compact_index();
        Ok(collected)
    }

    /// Saves everything, releases the lock and ends the store's threads. Later calls fail with
    /// [`StoreError::Closed`]; a second close does nothing.
    pub fn close(&self) {
        self.inner.close();
    }
}

impl Inner {
    fn start_threads(&self, sweep: bool) -> Result<(), StoreError> {
        let root = self.catalog.files().root();
        let mut threads = lock(&self.threads);
        let flusher = flush::start(Arc::clone(&self.catalog));
        threads.push(flusher.map_err(StoreError::io("start a thread for", root))?);
        if sweep {
            let (catalog, doubt) = (Arc::clone(&self.catalog), Arc::clone(&self.doubt));
            let sweep = sweep::start(catalog, doubt, &self.sweep);
            threads.push(sweep.map_err(StoreError::io("start a thread for", root))?);
        }
        Ok(())
    }

    fn ensure_open(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Acquire) { Err(StoreError::Closed) } else { Ok(()) }
    }

    fn info(&self, hash: &Hash, row: &Row) -> BlobInfo {
        BlobInfo {
            size: row.size,
            origin: Origin::of(row.class),
            pinned: self.pins.contains(hash),
            accessed: self.catalog.accessed(hash, row) / 1_000_000_000,
        }
    }

    /// Removes a blob: first its row, then its files, so that a row never outlives its file. The caller
    /// holds the stripe.
    fn delete(&self, hash: &Hash, row: &Row) -> Result<(), StoreError> {
        let files = self.catalog.files();
        self.catalog.forget(hash, row);
        self.recent.forget(hash);
        if row.home == Home::File {
            fs::remove_file(files.outboard(hash)).ok();
            remove_if_there(&files.blob(hash))?;
        }
        // Somebody may have read it up to now.
        self.recent.forget(hash);
        Ok(())
    }

    fn tell_gone(&self, hash: &Hash) {
        let listener = lock(&self.gone).clone();
        if let Some(listener) = listener {
            listener(*hash);
        }
    }

    fn close(&self) {
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        for partial in self.partials.live() {
            if let Err(error) = partial.checkpoint() {
                tracing::debug!(%error, "a partial was not saved");
            }
        }
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.sweep.stop();
        self.catalog.signal.close();
        for thread in lock(&self.threads).drain(..) {
            // A thread that panicked has said so; what it left undone the next start does.
            thread.join().ok();
        }
        self.catalog.close(!self.sweep.is_undone() && self.settle_doubt());
        *lock(&self.lock) = None;
    }

    /// Makes durable what was fetched, as far as that can be done, and tells the next start of the rest. False where it
    /// cannot be told: then the end is no clean one.
    fn settle_doubt(&self) -> bool {
        let catalog = &self.catalog;
        if let Err(error) = catalog.sync_fetched() {
            tracing::debug!(%error, "what was fetched is not synced, and hashed when it is lent");
            self.doubt.raise(catalog.now(), catalog.packs().next());
        }
        let told = self.names.sync_all(catalog.files()).and(self.doubt.save(catalog.files()));
        if let Err(error) = &told {
            tracing::debug!(%error, "the next start cannot be told what is not durable");
        }
        told.is_ok()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("dir", &self.config.dir).finish_non_exhaustive()
    }
}

fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path, bytes_max: u64) -> (Store, OpenReport) {
        Store::open(StoreConfig::new(dir.join("store"), bytes_max, 1000)).expect("open")
    }

    fn add(store: &Store, bytes: &[u8]) -> Hash {
        let mut writer = store.add_writer().expect("writer");
        writer.write(bytes).expect("write");
        writer.finish().expect("finish").hash
    }

    #[test]
    fn store_goes_on_without_its_index_and_makes_a_new_one_at_the_next_start() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, _) = open(dir.path(), 50);
        let before = add(&store, &[1; 10]);
        store.inner.catalog.index().break_down();
        let after = add(&store, &[2; 10]);
        // What would go into the index becomes a file.
        let fetched = Hash::of(&[3; 10]);
        store.put_whole(&fetched, &[3; 10]).expect("put");
        for hash in [before, after, fetched] {
            let info = store.find(&hash).expect("find").expect("there");
            assert_eq!(info.origin == Origin::Fetched, hash == fetched);
            assert!(store.verify(&hash).expect("verify"));
        }
        assert_eq!(store.list().expect("list").len(), 3);
        store.pin(&before).expect("pin");
        assert_eq!(store.remove(&after, false).expect("remove"), Some(10));
        add(&store, &[4; 40]);
        assert!(store.find(&before).expect("find").is_some(), "pinned");
        assert!(store.find(&fetched).expect("find").is_none(), "evicted");
        assert_eq!(store.stats().bytes, 50);
        store.close();
        drop(store);
        let (store, report) = open(dir.path(), 50);
        assert_eq!(report.rebuild, Some(RebuildReason::Broken));
        assert_eq!(store.list().expect("list").len(), 2);
        assert_eq!(store.stats().bytes, 50);
    }

    #[test]
    fn what_goes_out_of_sight_with_the_index_takes_no_room() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, _) = open(dir.path(), 50);
        let inline = Hash::of(&[1; 30]);
        store.put_whole(&inline, &[1; 30]).expect("put");
        let file = add(&store, &[2; 10]);
        store.pin(&file).expect("pin");
        store.inner.catalog.index().break_down();
        store.inner.catalog.flush();
        let stats = store.stats();
        assert_eq!((stats.blobs, stats.bytes), (1, 10));
        add(&store, &[3; 40]);
        assert_eq!(store.stats().bytes, 50);
        assert!(store.find(&inline).expect("find").is_none());
    }

    #[test]
    fn whoever_takes_hold_of_blobs_sees_those_go_that_were_to_be_evicted_before() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, _) = open(dir.path(), 50);
        let hash = add(&store, &[1; 10]);
        let (inner, one) = (&store.inner, [hash]);
        std::thread::scope(|scope| {
            let evicting = inner.catalog.stripe(&hash);
            let holding = scope.spawn(|| {
                let _held = store.hold(one);
                inner.catalog.row(&hash)
            });
            while !inner.leases.contains(&hash) {
                std::thread::yield_now();
            }
            // Whoever does not wait is through by now.
            (0..1_000).for_each(|_| std::thread::yield_now());
            let row = inner.catalog.row(&hash).expect("there");
            inner.delete(&hash, &row).expect("delete");
            drop(evicting);
            assert_eq!(holding.join().expect("no panic"), None);
        });
    }

    #[test]
    fn held_blobs_are_not_evicted_whether_they_were_there_before_or_come_later() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, _) = open(dir.path(), 50);
        let (before, later) = (add(&store, &[1; 10]), Hash::of(&[2; 10]));
        let hold = store.hold([before, later]);
        add(&store, &[2; 10]);
        add(&store, &[3; 30]);
        assert!(
            store.add_writer().expect("writer").write(&[4; 40]).is_err(),
            "there is room for 30"
        );
        let evicted = add(&store, &[5; 30]);
        assert_eq!(store.sizes(&[before, later]).expect("sizes"), [Some(10), Some(10)]);
        drop(hold);
        add(&store, &[6; 50]);
        assert_eq!(store.sizes(&[before, later, evicted]).expect("sizes"), [None; 3]);
    }
}
