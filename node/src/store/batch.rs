//! Many blobs that become durable together.
//!
//! An added blob costs two syncs of its own: its bytes before its name, and its name. For ten thousand files that
//! is minutes on a disk. A batch writes all of them to `tmp/`, syncs the file system once, gives
//! them their names, and syncs it once more; a few are synced one by one, but many at a time. It is the same order, and the
//! same promise when [`Batch::finish`] has returned. Until then nothing is promised; what a crash leaves is whole or in `tmp/`.
//!
//! Blobs of a batch, written or found in the store, are not evicted while it lives: a directory that does not
//! fit is refused, and does not drive out its own beginning.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{BlobHasher, GroupList};

use super::catalog::Located;
use super::error::StoreError;
use super::files::{Class, TempName, parent, set_class};
use super::import::Source;
use super::index::Row;
use super::space::{Lease, Reservation};
use super::sys::{self, lock};
use super::{Added, Inner, Store};

/// How many blobs wait for their names before some get them: their descriptions take some 300 bytes each.
const STAGED_MAX: usize = 16_384;
/// How many bytes may wait, so that the last sync does not have all the writing to do.
const STAGED_BYTES_MAX: u64 = 256 << 20;
/// On how many threads names are given at most.
const NAMING_THREADS_MAX: usize = 4;
/// Up to how many blobs are synced one by one. To sync the whole file system takes less for more of them, but waits for
/// whatever others have written to it: 200 MB of theirs make it 0.1 s, where a hundred blobs take 0.03 s.
const SYNCED_SINGLY_MAX: usize = 256;
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
    staged: Mutex<Staged>,
    leases: Mutex<HashMap<Hash, Lease>>,
    named: Mutex<Vec<Added>>,
}

/// Tells what a batch added.
#[derive(Debug)]
pub struct BatchAdded {
    /// The blobs that were not in the store before, or not durable.
    pub added: Vec<Added>,
    /// Keeps all blobs of the batch from eviction until it is dropped.
    leases: HashMap<Hash, Lease>,
}

impl BatchAdded {
    /// Returns all blobs of the batch, whether they were in the store before or not, in no order.
    pub fn hashes(&self) -> Vec<Hash> {
        self.leases.keys().copied().collect()
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
        Ok(Batch {
            inner,
            modes_hold,
            staged: Mutex::default(),
            leases: Mutex::default(),
            named: Mutex::default(),
        })
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
        if !self.is_needed(&hash)? {
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
        if self.is_needed(&hash)? {
            let temp = intake.temp;
            set_class(temp.file(), Class::Durable)
                .map_err(StoreError::io("change", temp.path()))?;
            let reservation = intake.reservation;
            self.stage(StagedBlob { temp: temp.close(), list, reservation })?;
        }
        Ok((hash, size))
    }

    /// Makes a blob one of this batch that may be in the store already; false if it is not there, or is not
    /// durable, or has another length.
    pub fn keep(&self, hash: &Hash, size: u64) -> Result<bool, StoreError> {
        let taken = self.lease(hash);
        if !taken {
            return Ok(true);
        }
        let found = self.find(hash)?.filter(|row| row.size == size);
        if found.is_none() {
            drop(lock(&self.leases).remove(hash));
        }
        Ok(found.is_some())
    }

    /// Makes all blobs durable and returns those that are new.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::DiskFull`]; what has a name by then is in the store, and maybe not
    /// durable.
    pub fn finish(self) -> Result<BatchAdded, StoreError> {
        self.name_staged()?;
        let added = std::mem::take(&mut *lock(&self.named));
        self.sync_names(&added)?;
        let leases = std::mem::take(&mut *lock(&self.leases));
        Ok(BatchAdded { added, leases })
    }

    /// Makes a blob one of this batch; false if it is one already.
    fn lease(&self, hash: &Hash) -> bool {
        let mut leases = lock(&self.leases);
        if leases.contains_key(hash) {
            return false;
        }
        leases.insert(*hash, Lease::take(&self.inner.leases, *hash));
        true
    }

    /// Makes a blob one of this batch, and returns whether it is to be written.
    fn is_needed(&self, hash: &Hash) -> Result<bool, StoreError> {
        if !self.lease(hash) {
            return Ok(false);
        }
        Ok(self.find(hash)?.is_none())
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
            // Of class cache: the directory is synced with all others.
            self.inner.catalog.files().rename(temp.path(), path, Class::Cache)?;
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

    /// Makes the names of blobs durable whose bytes are.
    fn sync_names(&self, added: &[Added]) -> Result<(), StoreError> {
        if added.is_empty() || (added.len() > SYNCED_SINGLY_MAX && self.sync_file_system()?) {
            return Ok(());
        }
        let files = self.inner.catalog.files();
        let shards: BTreeSet<PathBuf> =
            added.iter().map(|added| parent(&files.blob(&added.hash)).to_owned()).collect();
        let shards: Vec<&Path> = shards.iter().map(PathBuf::as_path).collect();
        sync_each(&shards, sys::sync_dir)
    }

    /// Makes all durable that anybody wrote to the store's file system; false where that cannot be done.
    fn sync_file_system(&self) -> Result<bool, StoreError> {
        let root = self.inner.catalog.files().root();
        let sync = || sys::sync_file_system(&File::open(root)?);
        sync().map_err(StoreError::io("sync", root))
    }
}

/// Syncs each of some paths, several at once: a journal writes those together that wait for it at the same time.
fn sync_each(
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
    use super::*;

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
