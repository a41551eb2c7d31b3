//! Partial blobs: what has been fetched of a blob so far, so that a get can go on where it stopped.
//!
//! A partial is a data file of the blob's full length with holes, the group list, and the set of groups
//! held (the *bits*). Every group is checked against the list before it is written, so the data holds
//! nothing unverified. The bits are saved every [`CHECKPOINT_BYTES`], so that no more is fetched again
//! after a crash of this process. A [checkpoint](Partial::checkpoint) syncs the data first, for power
//! cuts; what came since the last one may be lost, while the bits speak of it. So groups held before a
//! restart are checked before they are served, and before the blob gets its name.
//!
//! There is one [`Partial`] per hash; everybody who asks for it shares it, and writes at the same time.
//! While it lives its blob's full size is reserved. Who keeps track of them is in `partials.rs`.
//!
//! A list on disk is as provisional as a peer's: it is trusted again only if the last group is held.
//! So the group that proved the list should be the first that is written.

use std::fs::{self, File, OpenOptions};
use std::ops::{DerefMut, Range};
use std::path::Path;
use std::sync::{Arc, Mutex};

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{
    GROUP_LEN, GroupList, GroupSet, ProvisionalList, group_count, group_len, group_offset,
};

use super::error::StoreError;
use super::files::{Class, PartialFile, make_dir, parent, set_class};
use super::partials::Idle;
use super::read::{BlobReader, FileMark, Known};
use super::run::CheckedRun;
use super::space::{Lease, Reservation};
use super::sys::{self, lock};
use super::{Added, Inner, Store};

/// How many bytes of groups may be written before the bits are saved: half of the 64 MiB that may be fetched
/// twice after a crash. What was on its way when it came is fetched twice too.
pub const CHECKPOINT_BYTES: u64 = 32 << 20;

/// The mode of a partial's data.
const MODE_DATA: u32 = 0o600;

impl Store {
    /// Returns the partial blob of a proven list: the one that is being filled, the one on disk, or a
    /// new one.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::NoSpace`], [`StoreError::DiskFull`] or
    /// [`StoreError::Io`].
    pub fn partial(&self, list: GroupList) -> Result<Partial, StoreError> {
        self.inner.ensure_open()?;
        self.inner.check_size(list.size())?;
        let hash = list.hash();
        let shared = self.inner.partials.share(hash, |idle| {
            let resumed = idle.and_then(|idle| Shared::resume(&self.inner, hash, idle));
            match resumed {
                Some(shared) => Ok(Some(shared)),
                None => Shared::begin(&self.inner, list).map(Some),
            }
        })?;
        shared.map(Partial).ok_or(StoreError::Absent { hash })
    }

    /// Returns the partial blob of a hash, if one is being filled or lies on disk undamaged. Damaged
    /// ones are removed.
    pub fn find_partial(&self, hash: &Hash) -> Result<Option<Partial>, StoreError> {
        self.inner.ensure_open()?;
        let resume =
            |idle: Option<Idle>| Ok(idle.and_then(|idle| Shared::resume(&self.inner, *hash, idle)));
        Ok(self.inner.partials.share(*hash, resume)?.map(Partial))
    }
}

/// Is a blob that is being fetched. Clones share it.
///
/// Dropping the last clone saves the bits, and syncs the data written since the last checkpoint unless
/// that is more than [`CHECKPOINT_BYTES`]: do it where blocking is allowed. The partial then stays on disk
/// for a later get, and is evicted like a blob when space is needed.
#[derive(Clone, Debug)]
pub struct Partial(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    inner: Arc<Inner>,
    _work: Lease,
    list: Arc<GroupList>,
    file: File,
    state: Mutex<State>,
    /// Held while the bits are saved or the blob is finished, so that neither overtakes the other.
    saving: Mutex<Saved>,
}

/// Says how the list was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Saved {
    Nothing,
    List,
    ListSynced,
}

#[derive(Debug)]
struct State {
    held: GroupSet,
    /// Those of the held groups that this process has checked; after a resume the others are checked
    /// before the blob gets its name.
    checked: GroupSet,
    unsaved_bytes: u64,
    unsynced_bytes: u64,
    reservation: Option<Reservation>,
    /// Set once the blob has its name.
    finished: Option<Added>,
}

impl Partial {
    /// Joins those who work on a partial.
    pub(super) fn of(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Returns the file of its data.
    pub(super) fn file(&self) -> &File {
        &self.0.file
    }

    /// Returns which groups this process has checked.
    pub(super) fn checked(&self) -> GroupSet {
        lock(&self.0.state).checked.clone()
    }

    /// Returns the blob's group list.
    pub fn list(&self) -> Arc<GroupList> {
        Arc::clone(&self.0.list)
    }

    /// Returns which groups are held.
    pub fn held(&self) -> GroupSet {
        lock(&self.0.state).held.clone()
    }

    /// Checks a group against the list and writes it; false when it was held already.
    ///
    /// Every [`CHECKPOINT_BYTES`] one call saves the bits.
    ///
    /// # Errors
    /// [`StoreError::BadGroup`] if the bytes are wrong, and nothing is written;
    /// [`StoreError::DiskFull`], [`StoreError::Io`] or [`StoreError::Closed`].
    pub fn write_group(&self, index: u64, bytes: &[u8]) -> Result<bool, StoreError> {
        let shared = &self.0;
        shared.inner.ensure_open()?;
        let _write = shared.inner.writes.begin();
        if lock(&shared.state).held.contains(index) {
            return Ok(false);
        }
        let refused = |source| StoreError::BadGroup { hash: shared.list.hash(), source };
        shared.list.verify(index, bytes).map_err(refused)?;
        sys::write_all_at(&shared.file, bytes, group_offset(index))
            .map_err(StoreError::io("write", &shared.data_path()))?;
        let (new, due) = shared.mark(index);
        if due {
            shared.save(Class::Cache)?;
        }
        Ok(new)
    }

    /// Writes a run of checked groups at once, and returns how many new bytes that made.
    ///
    /// Every [`CHECKPOINT_BYTES`] one call saves the bits, without a sync: a fast fetch writes several
    /// times what a disk takes.
    ///
    /// # Errors
    /// [`StoreError::Absent`] for a run of another blob, and nothing is written;
    /// [`StoreError::DiskFull`], [`StoreError::Io`] or [`StoreError::Closed`].
    pub fn write_run<B: DerefMut<Target = [u8]>>(
        &self,
        run: &CheckedRun<B>,
    ) -> Result<u64, StoreError> {
        let shared = &self.0;
        shared.inner.ensure_open()?;
        let _write = shared.inner.writes.begin();
        if run.hash() != shared.list.hash() {
            return Err(StoreError::Absent { hash: run.hash() });
        }
        let is_held = {
            let state = lock(&shared.state);
            run.groups().all(|index| state.held.contains(index))
        };
        if is_held {
            return Ok(0);
        }
        sys::write_all_at(&shared.file, run.bytes(), group_offset(run.groups().start))
            .map_err(StoreError::io("write", &shared.data_path()))?;
        let (mut stored, mut is_due) = (0, false);
        for index in run.groups() {
            let (new, due) = shared.mark(index);
            let len = u64::try_from(group_len(shared.list.size(), index)).unwrap_or(0);
            stored += if new { len } else { 0 };
            is_due |= due;
        }
        if is_due {
            shared.save(Class::Cache)?;
        }
        Ok(stored)
    }

    /// Takes groups over from a blob that has them at the same place, and returns how many new bytes that made. Both then
    /// share their blocks where the file system can. Each group is checked as by [`write_group`](Self::write_group); those
    /// that are held, and those that are wrong, are left as they are.
    ///
    /// # Errors
    /// As of reading the blob, and as of [`write_group`](Self::write_group).
    pub(crate) fn take_over(
        &self,
        from: &BlobReader,
        groups: Range<u64>,
    ) -> Result<u64, StoreError> {
        let (shared, mut new, mut buf) = (&self.0, 0, Vec::new());
        let mut run = groups.start..groups.start;
        for index in groups {
            if lock(&shared.state).held.contains(index) {
                continue;
            }
            buf.resize(group_len(shared.list.size(), index), 0);
            from.read_unchecked_at(group_offset(index), &mut buf)?;
            if shared.list.verify(index, &buf).is_err() {
                continue;
            }
            if run.end != index {
                new += shared.copy_run(from, run)?;
                run = index..index;
            }
            run.end += 1;
        }
        Ok(new + shared.copy_run(from, run)?)
    }

    /// Reads a held group into `buf`; false when it is not held, and `buf` is empty then.
    ///
    /// A group that was written before a restart is checked at its first read; one that has rotted is
    /// no longer held.
    pub fn read_group(&self, index: u64, buf: &mut Vec<u8>) -> Result<bool, StoreError> {
        let shared = &self.0;
        buf.clear();
        if !lock(&shared.state).held.contains(index) {
            return Ok(false);
        }
        buf.resize(group_len(shared.list.size(), index), 0);
        sys::read_exact_at(&shared.file, buf, group_offset(index))
            .map_err(StoreError::io("read", &shared.data_path()))?;
        let held = shared.check(index, buf);
        if !held {
            buf.clear();
        }
        Ok(held)
    }

    /// Reads groups in a row, the first of them `first`, into `buf`, which is exactly as long as they are;
    /// false when one of them is not held, and `buf` may hold anything then.
    ///
    /// Groups that were written before a restart are checked as by [`read_group`](Self::read_group).
    pub fn read_run(&self, first: u64, buf: &mut [u8]) -> Result<bool, StoreError> {
        let shared = &self.0;
        let group = usize::try_from(GROUP_LEN).unwrap_or(usize::MAX);
        let count = u64::try_from(buf.len().div_ceil(group)).unwrap_or(u64::MAX);
        let groups = first..first.saturating_add(count);
        let is_held = groups.end <= group_count(shared.list.size()) && {
            let state = lock(&shared.state);
            groups.clone().all(|index| state.held.contains(index))
        };
        let len = |index| group_len(shared.list.size(), index);
        if !is_held || groups.clone().map(len).sum::<usize>() != buf.len() {
            return Ok(false);
        }
        sys::read_exact_at(&shared.file, buf, group_offset(first))
            .map_err(StoreError::io("read", &shared.data_path()))?;
        Ok(groups.zip(buf.chunks(group)).all(|(index, part)| shared.check(index, part)))
    }

    /// Syncs what was written and saves which groups are held, so that a restart finds them. Call it
    /// every few seconds; it does nothing when nothing was written.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        self.0.inner.ensure_open()?;
        self.0.checkpoint()
    }

    /// Gives a full blob its name. A second call, by another holder, gives the same answer.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`] if groups are missing, or were found rotten after a restart: fetch
    /// [`held`](Self::held)'s missing ones again.
    pub fn finish(&self) -> Result<Added, StoreError> {
        self.0.inner.ensure_open()?;
        let _write = self.0.inner.writes.begin();
        self.0.finish()
    }
}

impl Shared {
    /// Makes the partial of a blob of which nothing is held.
    fn begin(inner: &Arc<Inner>, list: GroupList) -> Result<Arc<Self>, StoreError> {
        let (hash, files) = (list.hash(), inner.catalog.files());
        let reservation = inner.reserve(list.size())?;
        files.remove_partial(&hash);
        let path = files.partial(&hash, PartialFile::Data);
        let made = make_data(&path, list.size());
        let file = made.inspect_err(|_| files.remove_partial(&hash))?;
        let held = GroupSet::new(group_count(list.size()));
        Ok(Self::new(inner, list, file, held, reservation))
    }

    /// Takes up a partial from disk; removes it and gives none if it is damaged.
    fn resume(inner: &Arc<Inner>, hash: Hash, idle: Idle) -> Option<Arc<Self>> {
        let loaded = load(inner, &hash);
        if loaded.is_none() {
            tracing::debug!(blob = %hash.fmt_short(), "a damaged partial is removed");
            inner.catalog.files().remove_partial(&hash);
        }
        let (list, file, held) = loaded?;
        Some(Self::new(inner, list, file, held, idle.reservation))
    }

    fn new(
        inner: &Arc<Inner>,
        list: GroupList,
        file: File,
        held: GroupSet,
        reservation: Reservation,
    ) -> Arc<Self> {
        // Where groups are held they were read from disk, and so was the list.
        let saved = if held.held() > 0 { Saved::List } else { Saved::Nothing };
        let state = State {
            checked: GroupSet::new(held.groups()),
            held,
            unsaved_bytes: 0,
            unsynced_bytes: 0,
            reservation: Some(reservation),
            finished: None,
        };
        Arc::new(Self {
            _work: Lease::take(&inner.workers, list.hash()),
            inner: Arc::clone(inner),
            list: Arc::new(list),
            file,
            state: Mutex::new(state),
            saving: Mutex::new(saved),
        })
    }

    /// Copies groups that were checked just now from the same place of a blob, whose file nobody writes to, and returns how
    /// many new bytes that made.
    fn copy_run(&self, from: &BlobReader, run: Range<u64>) -> Result<u64, StoreError> {
        self.inner.ensure_open()?;
        let bytes = group_offset(run.start)..group_offset(run.end).min(self.list.size());
        let is_copied = from.file().is_some_and(|file| sys::copy_range(file, &self.file, &bytes));
        let (mut new, mut is_due, mut buf) = (0, false, Vec::new());
        for index in run {
            if !is_copied {
                buf.resize(group_len(self.list.size(), index), 0);
                from.read_unchecked_at(group_offset(index), &mut buf)?;
                if self.list.verify(index, &buf).is_err() {
                    continue;
                }
                sys::write_all_at(&self.file, &buf, group_offset(index))
                    .map_err(StoreError::io("write", &self.data_path()))?;
            }
            let (is_new, due) = self.mark(index);
            let len = u64::try_from(group_len(self.list.size(), index)).unwrap_or(0);
            new += if is_new { len } else { 0 };
            is_due |= due;
        }
        if is_due {
            self.save(Class::Cache)?;
        }
        Ok(new)
    }

    fn data_path(&self) -> std::path::PathBuf {
        self.inner.catalog.files().partial(&self.list.hash(), PartialFile::Data)
    }

    /// Marks a group as written; says whether it is new, and whether this caller saves the bits.
    fn mark(&self, index: u64) -> (bool, bool) {
        let len = group_len(self.list.size(), index);
        let mut state = lock(&self.state);
        state.checked.insert(index);
        let new = state.held.insert(index);
        if new {
            let len = u64::try_from(len).unwrap_or(u64::MAX);
            state.unsaved_bytes += len;
            state.unsynced_bytes += len;
        }
        (new, new && state.unsaved_bytes >= CHECKPOINT_BYTES)
    }

    /// Checks a group that was read, if this process has not yet; a wrong one is no longer held.
    fn check(&self, index: u64, bytes: &[u8]) -> bool {
        if lock(&self.state).checked.contains(index) {
            return true;
        }
        let right = self.list.verify(index, bytes).is_ok();
        let mut state = lock(&self.state);
        if right {
            state.checked.insert(index);
        } else {
            tracing::warn!(blob = %self.list.hash().fmt_short(), index, "a group has rotted");
            state.held.remove(index);
        }
        right
    }

    pub(super) fn checkpoint(&self) -> Result<(), StoreError> {
        {
            let mut state = lock(&self.state);
            if state.unsynced_bytes == 0 || state.finished.is_some() {
                return Ok(());
            }
            state.unsynced_bytes = 0;
        }
        // First the data, then what speaks of it. Nobody waits for the sync but who asked for it.
        self.file.sync_data().map_err(StoreError::io("sync", &self.data_path()))?;
        self.save(Class::Durable)
    }

    /// Saves the list and which groups are held now.
    fn save(&self, class: Class) -> Result<(), StoreError> {
        let mut saved = lock(&self.saving);
        let bits = {
            let mut state = lock(&self.state);
            if state.finished.is_some() {
                return Ok(());
            }
            state.unsaved_bytes = 0;
            encode_bits(&self.list.hash(), &state.held)
        };
        let (files, hash) = (self.inner.catalog.files(), self.list.hash());
        let as_saved = if class == Class::Durable { Saved::ListSynced } else { Saved::List };
        if *saved < as_saved {
            let groups = files.partial(&hash, PartialFile::Groups);
            files.replace(&groups, &self.list.to_file(), class)?;
            *saved = as_saved;
        }
        files.replace(&files.partial(&hash, PartialFile::Bits), &bits, class)
    }

    fn finish(&self) -> Result<Added, StoreError> {
        let _saving = lock(&self.saving);
        if let Some(added) = lock(&self.state).finished {
            return Ok(added);
        }
        self.check_rest()?;
        let mut reservation = lock(&self.state).reservation.take();
        let stored = self.store(&mut reservation);
        let mut state = lock(&self.state);
        state.reservation = reservation;
        let added = stored?;
        state.finished = Some(added);
        drop(state);
        let hash = self.list.hash();
        self.inner.catalog.files().remove_partial(&hash);
        self.inner.partials.release(&hash);
        Ok(added)
    }

    /// Checks the groups that were held before a restart; those that are wrong are missing then.
    fn check_rest(&self) -> Result<(), StoreError> {
        let unchecked = {
            let state = lock(&self.state);
            if state.held.is_full() { state.checked.missing() } else { Vec::new() }
        };
        let mut buf = Vec::new();
        for index in unchecked.into_iter().flatten() {
            buf.resize(group_len(self.list.size(), index), 0);
            sys::read_exact_at(&self.file, &mut buf, group_offset(index))
                .map_err(StoreError::io("read", &self.data_path()))?;
            self.check(index, &buf);
        }
        let state = lock(&self.state);
        let missing = state.held.groups() - state.held.held();
        if missing > 0 {
            return Err(StoreError::Incomplete { hash: self.list.hash(), missing });
        }
        Ok(())
    }

    fn store(&self, reservation: &mut Option<Reservation>) -> Result<Added, StoreError> {
        let (inner, hash) = (&self.inner, self.list.hash());
        let class = inner.class_of_fetched(&hash);
        let size = usize::try_from(self.list.size()).unwrap_or(usize::MAX);
        if class == Class::Cache && size <= inner.config.inline_bytes_max {
            let mut bytes = vec![0; size];
            sys::read_exact_at(&self.file, &mut bytes, 0)
                .map_err(StoreError::io("read", &self.data_path()))?;
            if let Some(added) = inner.commit_inline(&hash, &bytes, reservation)? {
                return Ok(added);
            }
        }
        self.store_file(class, reservation)
    }

    fn store_file(
        &self,
        class: Class,
        reservation: &mut Option<Reservation>,
    ) -> Result<Added, StoreError> {
        let (inner, data) = (&self.inner, self.data_path());
        inner.sync_ahead(&self.file, &data, &self.list.hash(), class)?;
        let added = inner.commit(&self.list, class, reservation, |path, class| {
            // Not before: as long as it is a partial it is to be opened and written to, after a restart too.
            set_class(&self.file, class).map_err(StoreError::io("change", &data))?;
            if class == Class::Durable {
                self.file.sync_all().map_err(StoreError::io("sync", &data))?;
            }
            inner.catalog.files().name_blob(&data, path, class)
        })?;
        if let Ok(meta) = self.file.metadata() {
            // Every group was checked while it came in, so a first reader need not do it again.
            let checked = lock(&self.state).checked.clone();
            let known = Known::checked(FileMark::of(&meta), Arc::clone(&self.list), checked);
            inner.recent.insert(self.list.hash(), known);
        }
        Ok(added)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let hash = self.list.hash();
        let (finished, held, reservation) = {
            let mut state = lock(&self.state);
            (state.finished.is_some(), state.held.held(), state.reservation.take())
        };
        if finished {
            return;
        }
        if self.inner.ensure_open().is_err() {
            // The files belong to the next holder of the lock; `close` has saved what we had.
            self.inner.partials.release(&hash);
            return;
        }
        // Whoever stops a fast fetch does not wait for the disk to take all of it.
        let unsynced = lock(&self.state).unsynced_bytes;
        let keep = || match unsynced > CHECKPOINT_BYTES {
            true => self.save(Class::Cache),
            false => self.checkpoint(),
        };
        if held > 0
            && let Err(error) = keep()
        {
            tracing::debug!(%error, blob = %hash.fmt_short(), "a partial was not saved");
        }
        let idle = reservation.filter(|_| held > 0).map(|reservation| Idle {
            reservation,
            size: self.list.size(),
            since: self.inner.catalog.now(),
        });
        self.inner.partials.park(self.inner.catalog.files(), hash, idle);
    }
}

/// Reads list, data and bits of a partial from disk; none if anything is missing or wrong.
fn load(inner: &Inner, hash: &Hash) -> Option<(GroupList, File, GroupSet)> {
    let path = |file| inner.catalog.files().partial(hash, file);
    let groups = fs::read(path(PartialFile::Groups)).ok()?;
    let size_max = inner.config.blob_bytes_max;
    let provisional = ProvisionalList::from_file(*hash, &groups, size_max).ok()?;
    let file = reopen_data(&path(PartialFile::Data)).ok()?;
    if file.metadata().ok()?.len() != provisional.size() {
        return None;
    }
    let bits = fs::read(path(PartialFile::Bits)).ok()?;
    let held = decode_bits(hash, group_count(provisional.size()), &bits)?;
    let last = provisional.last_group();
    let mut buf = vec![0; group_len(provisional.size(), last)];
    sys::read_exact_at(&file, &mut buf, group_offset(last)).ok()?;
    Some((provisional.confirm(&buf).ok()?, file, held))
}

fn make_data(path: &Path, size: u64) -> Result<File, StoreError> {
    make_dir(parent(path)).map_err(StoreError::io("create", parent(path)))?;
    let file = open_data(path, true).map_err(StoreError::io("create", path))?;
    file.set_len(size).map_err(StoreError::io("write", path))?;
    Ok(file)
}

/// Opens data that was written before. A finish that was stopped just before the blob had its name has left it with
/// the mode of a blob.
fn reopen_data(path: &Path) -> std::io::Result<File> {
    sys::set_mode(&File::open(path)?, MODE_DATA)?;
    open_data(path, false)
}

fn open_data(path: &Path, create: bool) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(create);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, MODE_DATA);
    options.open(path)
}

/// The first eight bytes of a bits file; the last is the format's version.
const BITS_MAGIC: &[u8; 8] = b"bmbits\0\x01";
const BITS_SUM_LEN: usize = 32;

/// Writes a bits file: magic, the set's bytes, and a sum over the blob's hash and both.
fn encode_bits(hash: &Hash, held: &GroupSet) -> Vec<u8> {
    let mut bytes = BITS_MAGIC.to_vec();
    bytes.extend(held.to_bytes());
    let sum = bits_sum(hash, &bytes);
    bytes.extend(sum.as_bytes());
    bytes
}

fn decode_bits(hash: &Hash, groups: u64, bytes: &[u8]) -> Option<GroupSet> {
    let body_len = bytes.len().checked_sub(BITS_SUM_LEN)?;
    let (body, sum) = bytes.split_at_checked(body_len)?;
    if bits_sum(hash, body).as_bytes() != sum {
        return None;
    }
    GroupSet::from_bytes(groups, body.strip_prefix(BITS_MAGIC)?)
}

fn bits_sum(hash: &Hash, body: &[u8]) -> blake3::Hash {
    blake3::Hasher::new().update(hash.as_bytes()).update(body).finalize()
}

#[cfg(test)]
mod tests {
    use super::super::sys::fault;
    use super::*;
    use crate::store::StoreConfig;

    #[test]
    fn pinned_blob_whose_name_cannot_be_made_durable_is_finished_by_another_try() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = StoreConfig::new(dir.path().join("store"), 1 << 20, 1 << 20);
        let (store, _) = Store::open(config).expect("open");
        let bytes = b"fetched again after its pin outlived it";
        let mut hasher = blobmesh_protocol::blob::BlobHasher::new();
        hasher.update(bytes);
        let list = hasher.finish();
        let (hash, files) = (list.hash(), store.inner.catalog.files());
        store.inner.pins.insert_all(files, &[hash]).expect("pin");
        let partial = store.partial(list).expect("partial");
        partial.write_group(0, bytes).expect("write");
        fault::without_sync_dir(|| partial.finish()).expect_err("not durable");
        assert_eq!(store.find(&hash).expect("find"), None);
        partial.finish().expect("now it is");
        assert!(store.verify(&hash).expect("verify"));
    }

    #[test]
    fn bits_survive_a_round_trip_and_every_damage_is_seen() {
        let hash = Hash::of(b"x");
        let mut held = GroupSet::new(19);
        [0, 7, 8, 18].iter().for_each(|index| assert!(held.insert(*index)));
        let bytes = encode_bits(&hash, &held);
        assert_eq!(decode_bits(&hash, 19, &bytes), Some(held));
        assert_eq!(decode_bits(&Hash::of(b"y"), 19, &bytes), None, "another blob's");
        assert_eq!(decode_bits(&hash, 20, &bytes[..bytes.len() - 1]), None, "cut");
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(decode_bits(&hash, 19, &damaged), None, "flip at {at}");
        }
    }
}
