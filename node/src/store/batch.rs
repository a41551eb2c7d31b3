//! Many blobs that become durable together.
//!
//! An added blob costs two syncs of its own: its bytes before its name, and its name. For ten thousand files that
//! is minutes on a disk. A batch writes all of them to `tmp/`, syncs the file system once, gives
//! them their names, and syncs it once more; a few are synced one by one, but many at a time. It is the same order, and the
//! same promise when [`Batch::finish`] has returned. Until then nothing is promised; what a crash leaves is whole or in `tmp/`.
//!
//! Blobs of a batch, written or found in the store, are not evicted while it lives: a directory that does not
//! fit is refused, and does not drive out its own beginning.

use std::fs::File;
use std::io;
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{BlobHasher, GroupList};

use super::catalog::Located;
use super::error::StoreError;
use super::files::{Class, set_class};
use super::import::Source;
use super::index::Row;
use super::space::{HeldSet, Lease, Reservation};
use super::sys::{self, OpenDir, lock};
use super::temp::TempName;
use super::vouch::Vouch;
use super::{Added, Inner, Store};

/// How many blobs wait for their names before some get them: their descriptions take some 300 bytes each.
const STAGED_MAX: usize = 16_384;
/// How many bytes may wait, so that the last sync does not have all the writing to do.
const STAGED_BYTES_MAX: u64 = 256 << 20;
/// On how many threads names are given at most.
const NAMING_THREADS_MAX: usize = 4;
/// Up to how many blobs are synced one by one. To sync the whole file system takes less for more of them, but waits for
/// whatever others have written to it.
pub(super) const SYNCED_SINGLY_MAX: usize = 256;
/// How many syncs go on at once.
const SYNCING_THREADS: usize = 8;

/// How long a blob that was used need not be noted again: the order of eviction is that coarse for trees.
const NOTED_FOR_NANOS: u64 = 3_600_000_000_000;

/// Takes in blobs that become durable together; any thread may add to it. Dropped before
/// [`finish`](Self::finish), it leaves what it had given names so far as ordinary blobs.
#[derive(Debug)]
pub struct Batch {
    inner: Arc<Inner>,
    /// Whether files in `tmp/` have the right mode from the start: a umask may forbid it.
    modes_hold: bool,
    blobs: OpenDir,
    /// What may be said of all blobs of this batch when it has ended.
    vouch: Vouch,
    /// Whether those that are kept are of a list for which a batch before has vouched.
    relies: bool,
    staged: Mutex<Staged>,
    held: Mutex<HeldSet>,
    named: Mutex<Vec<Added>>,
}

/// Tells what a batch added.
#[derive(Debug)]
pub struct BatchAdded {
    /// The blobs that were not in the store before, or not durable.
    pub added: Vec<Added>,
    vouch: Vouch,
    /// Keeps all blobs of the batch from eviction until it is dropped.
    held: HeldSet,
}

impl BatchAdded {
    /// Returns all blobs of the batch, whether they were in the store before or not, in no order.
    pub fn hashes(&self) -> Vec<Hash> {
        self.held.hashes().copied().collect()
    }
}

#[derive(Debug, Default)]
struct Staged {
    blobs: Vec<StagedBlob>,
    bytes: u64,
}

/// Is a blob in `tmp/`.
#[derive(Debug)]
struct StagedBlob {
    temp: TempName,
    list: GroupList,
    reservation: Reservation,
}

impl Store {
    /// Begins a batch of blobs that become durable together.
    pub fn batch(&self) -> Result<Batch, StoreError> {
        let inner = Arc::clone(&self.inner);
        inner.ensure_open()?;
        let probe = inner.catalog.files().temp_durable()?;
        let meta = probe.file().metadata().map_err(StoreError::io("read", probe.path()))?;
        let modes_hold = super::files::class_of(&meta) == Class::Durable;
        let blobs = inner.catalog.files().open_blobs()?;
        // Before anything is looked up: what leaves from here on shows.
        let departures = inner.catalog.departures();
        let vouch = Vouch { departures, looked_up: inner.catalog.now() };
        let held = Mutex::new(HeldSet::new(&inner.leases));
        let (staged, named) = (Mutex::default(), Mutex::default());
        Ok(Batch { inner, modes_hold, blobs, vouch, relies: false, staged, held, named })
    }

    /// Remembers that all blobs of a list are blobs of this batch, which has ended.
    pub(crate) fn vouch_for(&self, list: Hash, batch: &BatchAdded) {
        self.inner.vouches.insert(list, batch.vouch);
    }
}

impl Batch {
    /// Takes in a blob that is in memory, and returns its hash.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::NoSpace`], [`StoreError::DiskFull`] or [`StoreError::Io`].
    pub fn put(&self, bytes: &[u8]) -> Result<Hash, StoreError> {
        let mut hasher = BlobHasher::new();
        hasher.update(bytes);
        let list = hasher.finish();
        let hash = list.hash();
        if !self.is_needed(&hash, list.size())? {
            return Ok(hash);
        }
        self.inner.check_size(list.size())?;
        let reservation = self.inner.reserve(list.size())?;
        let temp = self.inner.catalog.files().temp_durable()?;
        temp.write(bytes)?;
        if !self.modes_hold {
            set_class(temp.file(), Class::Durable)
                .map_err(StoreError::io("change", temp.path()))?;
        }
        self.stage(StagedBlob { temp: temp.close(), list, reservation })?;
        Ok(hash)
    }

    /// Takes in an open file, by sharing its bytes where the file system can; `path` is what it is called in
    /// errors. Calls `on_progress` with the bytes done so far. Returns hash and size.
    ///
    /// # Errors
    /// As [`Store::add_file`].
    pub fn put_file(
        &self,
        path: &Path,
        file: File,
        on_progress: &mut dyn FnMut(u64),
    ) -> Result<(Hash, u64), StoreError> {
        let source = Source::of(path, file)?;
        let (intake, list) = self.inner.take_in(&source, on_progress)?;
        let (hash, size) = (list.hash(), list.size());
        if self.is_needed(&hash, size)? {
            let temp = intake.temp;
            set_class(temp.file(), Class::Durable)
                .map_err(StoreError::io("change", temp.path()))?;
            let reservation = intake.reservation;
            self.stage(StagedBlob { temp: temp.close(), list, reservation })?;
        }
        Ok((hash, size))
    }

    /// Has the batch take it that the blobs of a list are still here, if one [vouched](Store::vouch_for) for it and
    /// nothing has left the store since. From then on only blobs of that list may be [kept](Self::keep).
    pub(crate) fn rely_on(&mut self, list: &Hash) {
        let Vouch { departures, looked_up } = self.vouch;
        if let Some(known) = self.inner.vouches.find(list, looked_up, departures) {
            (self.relies, self.vouch) = (true, known);
        }
    }

    /// Makes a blob one of this batch that may be in the store already; false if it is not there, or is not
    /// durable, or has another length.
    ///
    /// # Errors
    /// [`StoreError::Io`] where the file system does not say.
    pub fn keep(&self, hash: &Hash, size: u64) -> Result<bool, StoreError> {
        if lock(&self.held).contains(hash) {
            return Ok(true);
        }
        // Not one of this batch before it is known to be here: another thread may bring the same one.
        let _lease = Lease::take(&self.inner.leases, *hash);
        // Who decided to evict it before that has done so when this is free.
        drop(self.inner.catalog.stripe(hash));
        let kept =
            self.is_listed(hash, size)? || self.find(hash)?.is_some_and(|row| row.size == size);
        if kept {
            lock(&self.held).insert(*hash);
        }
        Ok(kept)
    }

    /// Returns whether a blob that is held is one of the list that the batch relies on, and its file is there.
    fn is_listed(&self, hash: &Hash, size: u64) -> Result<bool, StoreError> {
        if !self.relies || self.inner.catalog.departures() != self.vouch.departures {
            return Ok(false);
        }
        let path = hash.sharded_path();
        let found = self.blobs.len_of(&path);
        let found = found.map_err(|error| {
            StoreError::io("read", &self.inner.catalog.files().blob(hash))(error)
        })?;
        Ok(found == Some(size))
    }

    /// Makes all blobs durable and returns those that are new.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::DiskFull`]; what has a name by then is in the store, and maybe not
    /// durable.
    pub fn finish(self) -> Result<BatchAdded, StoreError> {
        self.name_staged()?;
        let added = std::mem::take(&mut *lock(&self.named));
        self.sync_names(added.len())?;
        let held = self.held.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(BatchAdded { added, vouch: self.vouch, held })
    }

    /// Makes a blob one of this batch; false if it is one already.
    fn hold(&self, hash: &Hash) -> bool {
        let new = lock(&self.held).insert(*hash);
        if new {
            // Who decided to evict it before that has done so when this is free.
            drop(self.inner.catalog.stripe(hash));
        }
        new
    }

    /// Makes a blob one of this batch, and returns whether it is to be written.
    fn is_needed(&self, hash: &Hash, size: u64) -> Result<bool, StoreError> {
        if !self.hold(hash) {
            return Ok(false);
        }
        Ok(self.find(hash)?.is_none_or(|row| row.size != size))
    }

    /// Returns the row of a durable blob that is in the store, and notes that it was used, if that was not noted
    /// lately: a tree that is added again and again would be ten thousand notes each time.
    fn find(&self, hash: &Hash) -> Result<Option<Row>, StoreError> {
        let catalog = &self.inner.catalog;
        let row = match catalog.locate(hash)? {
            Located::Here(row) if row.class == Class::Durable => row,
            Located::Here(_) | Located::Lost(_) | Located::Absent => return Ok(None),
        };
        if row.accessed.saturating_add(NOTED_FOR_NANOS) < catalog.now() {
            catalog.touch(hash);
        }
        Ok(Some(row))
    }

    fn stage(&self, blob: StagedBlob) -> Result<(), StoreError> {
        let full = {
            let mut staged = lock(&self.staged);
            staged.bytes = staged.bytes.saturating_add(blob.list.size());
            staged.blobs.push(blob);
            staged.blobs.len() >= STAGED_MAX || staged.bytes >= STAGED_BYTES_MAX
        };
        if full { self.name_staged() } else { Ok(()) }
    }

    /// Gives what waits its names, once its bytes are durable.
    fn name_staged(&self) -> Result<(), StoreError> {
        let mut blobs = std::mem::take(&mut *lock(&self.staged)).blobs;
        if blobs.is_empty() {
            return Ok(());
        }
        self.sync_blobs(&blobs)?;
        // Threads that rename into the same directory wait for each other.
        blobs.sort_unstable_by_key(|blob| blob.list.hash());
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let share = blobs.len().div_ceil(threads.min(NAMING_THREADS_MAX)).max(64);
        let mut shares = Vec::new();
        while !blobs.is_empty() {
            shares.push(blobs.split_off(blobs.len().saturating_sub(share)));
        }
        let named: Result<Vec<_>, StoreError> = thread::scope(|scope| {
            let threads: Vec<_> =
                shares.into_iter().map(|share| scope.spawn(|| self.name_all(share))).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            // All are waited for before the first error is returned.
            let ended: Vec<_> = threads.into_iter().map(join).collect();
            ended.into_iter().collect()
        });
        lock(&self.named).extend(named?.into_iter().flatten());
        Ok(())
    }

    fn name_all(&self, blobs: Vec<StagedBlob>) -> Result<Vec<Added>, StoreError> {
        blobs.into_iter().map(|blob| self.name(blob)).collect()
    }

    fn name(&self, blob: StagedBlob) -> Result<Added, StoreError> {
        let StagedBlob { temp, list, reservation } = blob;
        self.inner.commit(&list, Class::Durable, &mut Some(reservation), |path, _| {
            // The directory is synced with all others.
            self.inner.catalog.files().rename(temp.path(), path)?;
            self.inner.names.note(&list.hash());
            temp.keep();
            Ok(())
        })
    }

    /// Makes the bytes of blobs durable that have no names yet.
    fn sync_blobs(&self, blobs: &[StagedBlob]) -> Result<(), StoreError> {
        if blobs.len() > SYNCED_SINGLY_MAX && self.sync_file_system()? {
            return Ok(());
        }
        let paths: Vec<&Path> = blobs.iter().map(|blob| blob.temp.path()).collect();
        sync_each(&paths, |path| File::open(path)?.sync_all())
    }

    /// Makes the names of all blobs of the batch durable, of which some were written by it; others may have been found,
    /// and be of a batch that has not ended.
    fn sync_names(&self, added: usize) -> Result<(), StoreError> {
        let names = &self.inner.names;
        let moment = names.moment();
        if added > SYNCED_SINGLY_MAX && self.sync_file_system()? {
            names.synced(moment);
            return Ok(());
        }
        names.sync(self.inner.catalog.files(), lock(&self.held).hashes())
    }

    /// Makes all durable that anybody wrote to the store's file system; false where that cannot be done.
    fn sync_file_system(&self) -> Result<bool, StoreError> {
        let root = self.inner.catalog.files().root();
        let sync = || sys::sync_file_system(&File::open(root)?);
        sync().map_err(StoreError::io("sync", root))
    }
}

/// Syncs each of some paths, several at once: a journal writes those together that wait for it at the same time.
pub(super) fn sync_each(
    paths: &[&Path],
    sync: impl Fn(&Path) -> io::Result<()> + Sync,
) -> Result<(), StoreError> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), StoreError> {
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            sync(path).map_err(StoreError::io("sync", path))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads = SYNCING_THREADS.min(paths.len());
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut ended = work();
        for other in others {
            let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            ended = ended.and(other);
        }
        ended
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::PathBuf;

    use super::super::sys::fault;
    use super::*;
    use crate::store::StoreConfig;

    fn open() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("a directory");
        let config = StoreConfig::new(dir.path().join("store"), 1 << 30, 1 << 28);
        let (store, _) = Store::open(config).expect("open");
        (dir, store)
    }

    /// Adds blobs by a batch that vouches for their list.
    fn add_listed(store: &Store, list: Hash, blobs: &[&[u8]]) -> Vec<Hash> {
        let batch = store.batch().expect("batch");
        let hashes = blobs.iter().map(|bytes| batch.put(bytes).expect("put")).collect();
        store.vouch_for(list, &batch.finish().expect("finish"));
        hashes
    }

    fn relying(store: &Store, list: &Hash) -> Batch {
        let mut batch = store.batch().expect("batch");
        batch.rely_on(list);
        batch
    }

    #[test]
    fn blobs_of_a_list_are_kept_without_a_look_at_the_index() {
        let (_dir, store) = open();
        let list = Hash::of(b"list");
        let [one, other] = add_listed(&store, list, &[b"one", b"other"])[..] else { panic!() };
        assert!(!relying(&store, &Hash::of(b"another list")).relies);
        // Only an index that is not asked has the blob.
        store.inner.catalog.index().remove(&one).expect("remove");
        fs::set_permissions(
            store.inner.catalog.files().blob(&one),
            std::os::unix::fs::PermissionsExt::from_mode(0o400),
        )
        .expect("a file that is not durable by its looks");
        let batch = relying(&store, &list);
        assert!(batch.keep(&one, 3).expect("look"));
        assert!(batch.keep(&other, 5).expect("look"));
        assert!(!relying(&store, &list).keep(&other, 4).expect("look"), "of another length");
    }

    #[test]
    fn blob_of_a_list_that_is_gone_is_not_kept() {
        let (_dir, store) = open();
        let list = Hash::of(b"list");
        let long = vec![7; 5_000];
        let hashes = add_listed(&store, list, &[b"by hand", &long, b"stays"]);
        fs::remove_file(store.inner.catalog.files().blob(&hashes[0])).expect("remove");
        let batch = relying(&store, &list);
        assert!(batch.relies);
        assert!(!batch.keep(&hashes[0], 7).expect("look"), "its file is gone");
        // From here on each is looked up.
        store.remove(&hashes[1], false).expect("remove");
        store.put_whole(&hashes[1], &long).expect("fetched again");
        assert!(!batch.keep(&hashes[1], 5_000).expect("look"), "not durable any more");
        assert!(batch.keep(&hashes[2], 5).expect("look"));
        store.vouch_for(list, &batch.finish().expect("finish"));
        assert!(!relying(&store, &list).relies, "something left while the batch lived");
    }

    #[test]
    fn blob_that_is_only_looked_for_is_none_of_the_batch_yet() {
        let (_dir, store) = open();
        let batch = store.batch().expect("batch");
        let hash = Hash::of(b"one that another thread may bring meanwhile");
        let inner = &store.inner;
        thread::scope(|scope| {
            let looking = inner.catalog.stripe(&hash);
            let keeping = scope.spawn(|| batch.keep(&hash, 43));
            while !inner.leases.contains(&hash) {
                thread::yield_now();
            }
            let is_held = lock(&batch.held).contains(&hash);
            drop(looking);
            assert!(!is_held, "whoever brought it would be told that it is here");
            assert!(!keeping.join().expect("no panic").expect("look"));
        });
        assert!(!inner.leases.contains(&hash));
    }

    #[test]
    fn blob_that_another_batch_has_named_is_durable_for_nobody_before_its_name_is() {
        let (_dir, store) = open();
        let bytes = b"named by a batch that does not end";
        let first = store.batch().expect("batch");
        let hash = first.put(bytes).expect("put");
        first.name_staged().expect("named");
        let second = store.batch().expect("batch");
        second.put(bytes).expect("put");
        let add = || {
            let mut writer = store.add_writer().expect("writer");
            writer.write(bytes).expect("write");
            writer.finish()
        };
        fault::without_sync_dir(|| {
            add().expect_err("it is there, and not durable");
            store.pin(&hash).expect_err("nor for one who pins it");
            second.finish().expect_err("nor for another batch");
        });
        assert_eq!(store.pins(), []);
        drop(first);
        assert!(add().expect("now it is").existed);
        fault::without_sync_dir(add).expect("once is enough");
    }

    #[test]
    fn each_path_is_synced_and_a_failure_is_told() {
        let paths: Vec<PathBuf> = (0..50).map(|n| PathBuf::from(format!("{n:02}"))).collect();
        let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
        let synced = Mutex::new(BTreeSet::new());
        let sync = |path: &Path| {
            lock(&synced).insert(path.to_owned());
            Ok(())
        };
        sync_each(&paths, sync).expect("synced");
        assert_eq!(lock(&synced).len(), 50);
        for bad in [paths[0], paths[49]] {
            let sync = |path: &Path| match path == bad {
                true => Err(io::ErrorKind::StorageFull.into()),
                false => Ok(()),
            };
            assert!(sync_each(&paths, sync).is_err(), "{}", bad.display());
        }
        sync_each(&[], |_| Err(io::ErrorKind::Other.into())).expect("nothing to be done");
    }
}
