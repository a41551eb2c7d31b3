//! What the store holds: rows from the index, or from the files where the index has none.
//!
//! The catalog owns the count of bytes, the access times and the locks by hash. The files are the truth: a row
//! without its file is dropped when it is met, a file without its row gets one (*adoption*), and an
//! index that fails takes nothing away but speed. So no method here returns an index's error.
//!
//! Whoever changes what is stored under a hash holds its [`stripe`](Catalog::stripe) while he does,
//! and never two of them.

use std::collections::{HashMap, HashSet};
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use blobmesh_protocol::Hash;

use super::batch::{SYNCED_SINGLY_MAX, sync_each};
use super::error::StoreError;
use super::files::{Class, Files, class_of};
use super::flush::Signal;
use super::index::{Home, Index, Row, Totals};
use super::packs::{Packs, Spot};
use super::space::{Reservation, Space};
use super::sys::{self, lock};

/// How long the end of a store waits for what was fetched to be durable.
const SYNC_WITHIN: Duration = Duration::from_secs(3);
/// How many locks the hashes share. Two blobs share one with a chance of 1/64; they then wait for
/// each other's rename, about a millisecond.
const STRIPES: usize = 64;
/// How many access times wait to be written, at 50 bytes each; others are not noted. To write them takes some 10 µs
/// each, which whoever serves a tree should not have to do meanwhile.
const ACCESSES_MAX: usize = 65_536;
/// How many rows of packs wait to be written, at 100 bytes each; above, each is written at once.
const LATE_MAX: usize = 16_384;
/// How long an access time may wait to be written. It costs nothing but order when it is lost.
const ACCESSES_EVERY: Duration = Duration::from_secs(60);

/// Is the catalog of one store.
#[derive(Debug)]
pub(super) struct Catalog {
    files: Files,
    packs: Arc<Packs>,
    index: Index,
    space: Arc<Space>,
    accesses: Mutex<Accesses>,
    /// Rows of blobs in packs that the index does not have yet: the flusher writes them. Without them what is in packs
    /// is found by the tables, as after any unclean end.
    late: Mutex<HashMap<Hash, Row>>,
    stripes: [Mutex<()>; STRIPES],
    /// The last moment given out, in nanoseconds since 1970.
    clock: AtomicU64,
    /// Counts blobs that left.
    departures: AtomicU64,
    /// Fetched blobs of this run that have files, none of them synced; at most one more than are synced one by one.
    unsynced: Mutex<HashSet<Hash>>,
    /// Whether the totals are of the files alone, as they are to be once the index has failed.
    counts_files: Mutex<bool>,
    /// Wakes the flusher.
    pub(super) signal: Signal,
}

/// Holds the access times that are not in the index yet.
#[derive(Debug)]
struct Accesses {
    pending: HashMap<Hash, u64>,
    written: Instant,
}

impl Catalog {
    /// Makes the catalog of an open index for a store of at most `bytes_max` bytes; the totals are
    /// counted when they are not known.
    pub(super) fn new(
        files: Files,
        packs: Arc<Packs>,
        index: Index,
        totals: Option<Totals>,
        bytes_max: u64,
    ) -> Self {
        let totals = totals.unwrap_or_else(|| {
            let mut counted = Totals::default();
            let walk = index.for_each_row(|_, row| {
                counted.blobs += 1;
                counted.bytes = counted.bytes.saturating_add(row.size);
                true
            });
            walk.map_or_else(|_| Totals::default(), |()| counted)
        });
        Self {
            files,
            packs,
            index,
            space: Space::new(bytes_max, totals),
            accesses: Mutex::new(Accesses { pending: HashMap::new(), written: Instant::now() }),
            late: Mutex::default(),
            stripes: std::array::from_fn(|_| Mutex::default()),
            clock: AtomicU64::new(0),
            departures: AtomicU64::new(0),
            unsynced: Mutex::default(),
            counts_files: Mutex::default(),
            signal: Signal::default(),
        }
    }

    /// Returns the files of the store.
    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// Returns the packs of the store.
    pub(super) fn packs(&self) -> &Arc<Packs> {
        &self.packs
    }

    /// Returns the bytes the index takes on disk.
    pub(super) fn index_bytes(&self) -> u64 {
        self.index.size_on_disk()
    }

    /// Returns whether the index works.
    pub(super) fn index_is_good(&self) -> bool {
        self.index.is_good()
    }

    /// Returns the index, to break it.
    #[cfg(test)]
    pub(super) fn index(&self) -> &Index {
        &self.index
    }

    /// Returns what counts the bytes.
    pub(super) fn space(&self) -> &Arc<Space> {
        &self.space
    }

    /// Takes the lock of a hash.
    pub(super) fn stripe(&self, hash: &Hash) -> MutexGuard<'_, ()> {
        lock(&self.stripes[usize::from(hash.as_bytes()[0]) % STRIPES])
    }

    /// Returns a moment later than all before, in nanoseconds since 1970.
    pub(super) fn now(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let later = |last: u64| now.max(last.saturating_add(1));
        let last =
            self.clock.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(later(last)));
        later(last.unwrap_or_else(|last| last))
    }

    /// Returns the row of a blob as it is in the index, or is to be, without a look at its file.
    pub(super) fn row(&self, hash: &Hash) -> Option<Row> {
        let late = lock(&self.late).get(hash).copied();
        match late.filter(|_| self.index_is_good()) {
            Some(row) => Some(row),
            None => self.index.row(hash).ok().flatten(),
        }
    }

    /// Returns the row of a blob that is really there.
    ///
    /// A file without a row is adopted. A row whose file is gone or has another length, as after a
    /// power cut, is [`Located::Lost`]: the caller drops it.
    pub(super) fn locate(&self, hash: &Hash) -> Result<Located, StoreError> {
        match self.look(hash)? {
            (Located::Here(_), Source::File) => self.adopt(hash),
            (located, _) => Ok(located),
        }
    }

    /// Does the same without adopting, for whoever holds the stripe.
    pub(super) fn locate_held(&self, hash: &Hash) -> Result<Located, StoreError> {
        self.look(hash).map(|(located, _)| located)
    }

    fn look(&self, hash: &Hash) -> Result<(Located, Source), StoreError> {
        let row = self.row(hash);
        match row.map(|row| (row, row.home)) {
            Some((row, Home::Index)) => return Ok((Located::Here(row), Source::Index)),
            Some((row, Home::Pack(spot))) => {
                let covers = self.packs.covers(spot, row.size);
                let covers = covers.map_err(StoreError::io("read", &self.files.path("packs")))?;
                let located = if covers { Located::Here(row) } else { Located::Lost(row) };
                return Ok((located, Source::Index));
            }
            Some((_, Home::File)) | None => {}
        }
        Ok(match (row, self.file_meta(hash)?) {
            (Some(row), Some(meta)) if meta.len() == row.size => {
                (Located::Here(row), Source::Index)
            }
            (Some(row), _) => (Located::Lost(row), Source::Index),
            (None, Some(meta)) => (Located::Here(self.row_of_file(&meta)), Source::File),
            (None, None) => (Located::Absent, Source::File),
        })
    }

    /// Writes a row, in the index as far as it works, and counts it instead of what was reserved for
    /// it. What lay in a pack and now lies elsewhere is given up there. The caller holds the stripe.
    pub(super) fn put(&self, hash: &Hash, row: &Row, reservation: Option<Reservation>) {
        let old = self.row(hash);
        self.index.put_row(hash, row).ok();
        lock(&self.late).remove(hash);
        self.space.settle(old.map(|old| old.size), Some(row.size), reservation);
        if let Some(old) = old.filter(|old| old.home != row.home) {
            self.leave_pack(hash, &old);
        }
        if row.class == Class::Cache && row.home == Home::File {
            self.note_unsynced(hash);
        }
        self.signal.dirty();
    }

    fn note_unsynced(&self, hash: &Hash) {
        let mut unsynced = lock(&self.unsynced);
        if unsynced.len() <= SYNCED_SINGLY_MAX {
            unsynced.insert(*hash);
        }
    }

    /// Notes the row of a blob in a pack, counts it, and says whether it did: not where the blob has a row elsewhere, or
    /// the index takes none, without which nobody would find it. The row is written later: who waits for ten thousand
    /// small blobs does not wait for as many writes. The caller holds the stripe.
    pub(super) fn put_member(&self, hash: &Hash, row: &Row, reservation: Reservation) -> bool {
        let waits = lock(&self.late).len() < LATE_MAX;
        let noted = match self.row(hash) {
            // Somebody has found it in the tables, and counted it.
            Some(old) if old.home == row.home => return true,
            Some(_) => false,
            None if waits && self.index_is_good() => {
                lock(&self.late).insert(*hash, *row);
                true
            }
            None => matches!(self.index.put_new_row(hash, row), Ok(true)),
        };
        if !noted {
            return false;
        }
        self.space.settle(None, Some(row.size), Some(reservation));
        self.signal.dirty();
        true
    }

    fn leave_pack(&self, hash: &Hash, row: &Row) {
        if let Home::Pack(spot) = row.home {
            self.packs.free(hash, spot, row.size);
        }
    }

    /// Returns how many blobs have left so far. Whoever knew a blob to be here, and finds the same number after it has
    /// kept the blob from eviction and its [`stripe`](Self::stripe) was free, knows that it still is.
    pub(super) fn departures(&self) -> u64 {
        self.departures.load(Ordering::Acquire)
    }

    /// Drops a row, which may be in the index or not, and with it the bytes that lie there or in a pack. The
    /// caller holds the stripe.
    pub(super) fn forget(&self, hash: &Hash, row: &Row) {
        self.departures.fetch_add(1, Ordering::AcqRel);
        lock(&self.late).remove(hash);
        self.index.remove(hash).ok();
        lock(&self.accesses).pending.remove(hash);
        self.space.settle(Some(row.size), None, None);
        self.leave_pack(hash, row);
        self.signal.dirty();
    }

    /// Returns the bytes of a blob that lie in the index.
    pub(super) fn inline(&self, hash: &Hash) -> Option<Vec<u8>> {
        self.index.inline(hash).ok().flatten()
    }

    /// Puts the bytes of a small blob into the index, before its row; false when it does not work.
    pub(super) fn put_inline(&self, hash: &Hash, bytes: &[u8]) -> bool {
        self.index.put_inline(hash, bytes).is_ok()
    }

    /// Removes the bytes of a blob that has become a file.
    pub(super) fn remove_inline(&self, hash: &Hash) {
        self.index.remove_inline(hash).ok();
    }

    /// Notes that a blob was used. The time is written later, or never when there are too many.
    pub(super) fn touch(&self, hash: &Hash) {
        let now = self.now();
        let mut accesses = lock(&self.accesses);
        if accesses.pending.len() < ACCESSES_MAX {
            accesses.pending.insert(*hash, now);
        } else {
            drop(accesses);
            self.signal.dirty();
        }
    }

    /// Returns when a blob was last used, in nanoseconds since 1970.
    pub(super) fn accessed(&self, hash: &Hash, row: &Row) -> u64 {
        lock(&self.accesses).pending.get(hash).map_or(row.accessed, |time| row.accessed.max(*time))
    }

    /// Calls `visit` with every row until it returns false; from the files if the index is out of use. The caller holds
    /// no stripe.
    pub(super) fn for_each(
        &self,
        mut visit: impl FnMut(Hash, Row) -> bool,
    ) -> Result<(), StoreError> {
        self.write_late();
        if self.index.is_good() && self.index.for_each_row(&mut visit).is_ok() {
            return Ok(());
        }
        let walk = self.files.for_each_blob(|hash, entry| match entry.metadata() {
            Ok(meta) => visit(hash, self.row_of_file(&meta)),
            Err(_) => true,
        });
        walk.map_err(StoreError::io("list", &self.files.path("blobs")))
    }

    /// Gives a file without a row its row, if it is there.
    pub(super) fn adopt(&self, hash: &Hash) -> Result<Located, StoreError> {
        let _stripe = self.stripe(hash);
        let old = self.row(hash);
        if let Some(row) = old.filter(|row| row.home == Home::File) {
            return Ok(Located::Here(row));
        }
        // A file beside a blob that lies in a pack or in the index is the later one: of an add that was cut short.
        let Some(meta) = self.file_meta(hash)? else {
            return Ok(old.map_or(Located::Absent, Located::Here));
        };
        let row = self.row_of_file(&meta);
        // An index that takes no rows must not count the same blob again and again.
        if self.index_is_good() {
            self.put(hash, &row, None);
            if old.is_some_and(|old| old.home == Home::Index) {
                self.remove_inline(hash);
            }
        }
        Ok(Located::Here(row))
    }

    /// Gives a member of a pack without a row its row, if its bytes are right, and gives up one whose blob lies
    /// elsewhere. Returns whether it was adopted.
    pub(super) fn adopt_member(&self, hash: &Hash, spot: Spot, size: u64) -> bool {
        let _stripe = self.stripe(hash);
        let home = Home::Pack(spot);
        match self.row(hash) {
            Some(row) if row.home == home => false,
            None if self.packs.is_right(hash, spot, size) => {
                let accessed = self.now();
                self.put(hash, &Row { size, accessed, class: Class::Cache, home }, None);
                true
            }
            Some(_) | None => {
                self.packs.free(hash, spot, size);
                false
            }
        }
    }

    /// Drops a row whose bytes are gone. Returns whether it did.
    pub(super) fn drop_if_gone(&self, hash: &Hash) -> bool {
        let _stripe = self.stripe(hash);
        let Some(row) = self.row(hash) else { return false };
        let gone = match row.home {
            Home::Index => false,
            Home::File => matches!(self.file_meta(hash), Ok(None)),
            Home::Pack(spot) => matches!(self.packs.names(hash, spot, row.size), Ok(false)),
        };
        if gone {
            self.forget(hash, &row);
        }
        gone
    }

    /// Marks the index as open, durably, so that an end without [`close`](Self::close) shows.
    pub(super) fn unseal(&self) {
        if let Err(error) = self.index.seal(None).and_then(|()| self.index.flush()) {
            tracing::debug!(%error, "the index could not be marked as open");
            // It would pass for one of a clean end after a power cut. The flusher sees to what follows from that.
            self.index.fail();
            self.signal.dirty();
        }
    }

    /// Writes what waits and makes the index durable. Only the flusher calls this.
    pub(super) fn flush(&self) {
        let due = {
            let accesses = lock(&self.accesses);
            accesses.pending.len() >= ACCESSES_MAX || accesses.written.elapsed() >= ACCESSES_EVERY
        };
        self.write_late();
        if due {
            self.write_accesses();
        }
        if let Err(error) = self.index.flush() {
            tracing::debug!(%error, "the index was not flushed");
            self.after_failed_flush();
        }
    }

    fn after_failed_flush(&self) {
        if self.index_is_good() {
            return self.signal.dirty();
        }
        let mut counted = lock(&self.counts_files);
        if !*counted && let Err(error) = self.count_files() {
            tracing::warn!(%error, "the blobs were not counted anew");
        }
        *counted = true;
    }

    /// Counts anew what is stored: with the index all went out of sight that has no file of its own, and no eviction
    /// could make room for what is still counted of it.
    fn count_files(&self) -> Result<(), StoreError> {
        // Nothing comes or goes meanwhile. Nobody who holds one of these waits for another.
        let _stripes: Vec<_> = self.stripes.iter().map(lock).collect();
        let mut totals = Totals::default();
        let walk = self.files.for_each_blob(|_, entry| {
            if let Some(meta) = entry.metadata().ok().filter(Metadata::is_file) {
                totals.blobs += 1;
                totals.bytes = totals.bytes.saturating_add(meta.len());
            }
            true
        });
        walk.map_err(StoreError::io("list", &self.files.path("blobs")))?;
        self.space.recount(totals);
        Ok(())
    }

    /// Makes the index compact if it has grown far beyond what it holds.
    pub(super) fn compact_index(&self) {
        match self.index.compact_if_bloated() {
            Ok(compacted) => tracing::debug!(compacted, "looked at the size of the index"),
            Err(error) => tracing::debug!(%error, "the index was not compacted"),
        }
    }

    /// Makes the bytes durable that were fetched in this run. It is the store's end, for which users wait: where it takes
    /// more than some seconds, as on a slow disk, that is a failure, and it goes on while the process does.
    ///
    /// # Errors
    /// [`StoreError::Io`] also where there are many, and the platform cannot sync all of them at once.
    pub(super) fn sync_fetched(&self) -> Result<(), StoreError> {
        let root = self.files.root().to_owned();
        let failed = |error| StoreError::io("sync", self.files.root())(error);
        #[cfg(test)]
        sys::fault::of_sync_file().map_err(failed)?;
        let unsynced = std::mem::take(&mut *lock(&self.unsynced));
        let packs = self.packs.of_this_run();
        let packs = packs.map_err(StoreError::io("list", &self.files.path("packs")))?;
        if unsynced.is_empty() && packs.is_empty() {
            return Ok(());
        }
        let many = unsynced.len() > SYNCED_SINGLY_MAX;
        let paths: Vec<PathBuf> =
            unsynced.iter().map(|hash| self.files.blob(hash)).chain(packs).collect();
        let (done, ended) = mpsc::channel();
        let sync = move || {
            let synced = if many { sync_all(&root) } else { sync_paths(&paths) };
            // Nobody may wait any more.
            done.send(synced).ok();
        };
        thread::Builder::new().name("store-sync".to_owned()).spawn(sync).map_err(failed)?;
        let ended = ended.recv_timeout(SYNC_WITHIN);
        ended.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
    }

    /// Writes everything, seals the index with the totals and closes it.
    ///
    /// An end that is not `clean` makes the next start count and sweep.
    pub(super) fn close(&self, clean: bool) {
        self.write_late();
        self.write_accesses();
        let totals = clean.then(|| self.space.stored());
        // The seal vouches for rows, so it comes after them.
        let flushed = self.index.flush().and_then(|()| self.index.seal(totals));
        if let Err(error) = flushed.and_then(|()| self.index.flush()) {
            tracing::debug!(%error, "the index was not sealed; the next start checks it");
        }
        self.index.close();
    }

    /// Writes the rows that wait for it.
    fn write_late(&self) {
        let mut hashes: Vec<Hash> = lock(&self.late).keys().copied().collect();
        // Neighbours in the index are written for less than others.
        hashes.sort_unstable();
        for hash in hashes {
            let _stripe = self.stripe(&hash);
            let Some(row) = lock(&self.late).get(&hash).copied() else { continue };
            // First the row, then away with the note: between them it must be found.
            self.index.put_row(&hash, &row).ok();
            lock(&self.late).remove(&hash);
        }
    }

    fn write_accesses(&self) {
        let pending = {
            let mut accesses = lock(&self.accesses);
            accesses.written = Instant::now();
            std::mem::take(&mut accesses.pending)
        };
        for (hash, accessed) in pending {
            let _stripe = self.stripe(&hash);
            if let Some(row) = self.row(&hash) {
                self.index.put_row(&hash, &Row { accessed, ..row }).ok();
                lock(&self.late).remove(&hash);
            }
        }
    }

    /// Returns what the file system knows of a blob's file; none if there is none, or something else.
    fn file_meta(&self, hash: &Hash) -> Result<Option<Metadata>, StoreError> {
        let path = self.files.blob(hash);
        match fs::symlink_metadata(&path) {
            Ok(meta) => Ok(Some(meta).filter(Metadata::is_file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read", &path)(error)),
        }
    }

    /// Makes the row of a file that has none: its class is in its mode, its age in its modification
    /// time, and whether its bytes are right is checked when they are read.
    fn row_of_file(&self, meta: &Metadata) -> Row {
        let modified = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified = u64::try_from(modified.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX);
        Row {
            size: meta.len(),
            // A time in the future would protect the blob from eviction until then.
            accessed: modified.min(self.now()),
            class: class_of(meta),
            home: Home::File,
        }
    }
}

/// Says where a row comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Index,
    File,
}

/// Says what was found of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Located {
    /// It is there.
    Here(Row),
    /// The index has it, its file is gone or has another length.
    Lost(Row),
    /// It is not there.
    Absent,
}

/// Makes all durable that anybody wrote to the file system of a directory.
fn sync_all(root: &Path) -> Result<(), StoreError> {
    let synced = fs::File::open(root).and_then(|root| sys::sync_file_system(&root));
    let synced = synced.and_then(|done| match done {
        true => Ok(()),
        false => Err(io::ErrorKind::Unsupported.into()),
    });
    synced.map_err(StoreError::io("sync", root))
}

fn sync_paths(paths: &[PathBuf]) -> Result<(), StoreError> {
    let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
    sync_each(&paths, sys::sync_if_there)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog(dir: &Path) -> Catalog {
        let (files, _) = Files::prepare(dir).expect("prepare");
        files.furnish().expect("furnish");
        let (index, found) = Index::open(&dir.join("index.sled"));
        let packs = Packs::load(files.path("packs"), true).expect("packs");
        Catalog::new(files, packs, index, found.totals, 100)
    }

    #[test]
    fn index_that_cannot_be_made_durable_is_not_sealed_as_of_a_clean_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let blobs = dir.path().join("index.sled/blobs");
        for is_away in [true, false] {
            let catalog = catalog(dir.path());
            catalog.unseal();
            if is_away {
                fs::rename(&blobs, dir.path().join("away")).expect("rename");
            }
            catalog.close(true);
            if is_away {
                fs::rename(dir.path().join("away"), &blobs).expect("rename");
            }
            let (index, found) = Index::open(&dir.path().join("index.sled"));
            index.close();
            assert_eq!((found.totals.is_none(), found.rebuild), (is_away, None));
        }
    }

    #[test]
    fn index_that_cannot_be_marked_as_open_is_not_used() {
        let dir = tempfile::tempdir().expect("a directory");
        let catalog = catalog(dir.path());
        let blobs = dir.path().join("index.sled/blobs");
        fs::rename(&blobs, dir.path().join("away")).expect("rename");
        catalog.unseal();
        fs::rename(dir.path().join("away"), &blobs).expect("rename");
        assert!(!catalog.index_is_good(), "after a power cut it would pass for one of a clean end");
    }

    #[test]
    fn file_of_the_future_is_not_the_last_to_be_evicted_for_ever() {
        let dir = tempfile::tempdir().expect("a directory");
        let (files, _) = Files::prepare(dir.path()).expect("prepare");
        files.furnish().expect("furnish");
        let hash = Hash::of(b"x");
        files.replace(&files.blob(&hash), b"x", Class::Cache).expect("write");
        let file = fs::File::open(files.blob(&hash)).expect("open");
        file.set_modified(SystemTime::now() + Duration::from_secs(1 << 30)).expect("time");
        let (index, _) = Index::open(&dir.path().join("index.sled"));
        let packs = Packs::load(files.path("packs"), true).expect("packs");
        let catalog = Catalog::new(files, packs, index, None, 100);
        let Located::Here(row) = catalog.locate(&hash).expect("locate") else {
            panic!("it is there")
        };
        assert!(row.accessed < catalog.now());
    }

    #[test]
    fn moments_are_all_different_and_rise() {
        let dir = tempfile::tempdir().expect("a directory");
        let (files, _) = Files::prepare(dir.path()).expect("prepare");
        files.furnish().expect("furnish");
        let (index, _) = Index::open(&dir.path().join("index.sled"));
        let packs = Packs::load(files.path("packs"), true).expect("packs");
        let catalog = Catalog::new(files, packs, index, None, 100);
        let moments: Vec<u64> = (0..1000).map(|_| catalog.now()).collect();
        assert!(moments.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
