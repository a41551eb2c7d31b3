//! The index: what the store knows of its blobs without looking at their files. The only room that
//! knows sled.
//!
//! The index may be thrown away at any time: everything but small fetched blobs can be read from the
//! files again. sled 0.34.7 makes that necessary (measured): its `flush` does not survive a power cut,
//! it can panic inside `open` and on any later call, a truncated database opens as an empty one without
//! an error, and after one failed write it takes no more. So:
//!
//! * it is opened in a thread of its own, under `catch_unwind` and a deadline;
//! * every call is guarded against panics, and the first failure puts the index out of use for this
//!   run: a sled that could not write refuses all further writes, and rows that can be read but not
//!   changed would be lies. The store then works from its files, and the next start makes a new index;
//! * a *seal*, one row that is always there, tells a new database from an emptied one;
//! * [`Index::flush`] syncs sled's files itself after sled's own flush (150 of 150 power cuts survived,
//!   against 9 without); `flush_async` is never called, it dead-locks.
//!
//! This room decides nothing about blobs and keeps no totals; see `catalog.rs`.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use blobmesh_protocol::Hash;

use super::RebuildReason;
use super::files::Class;
use super::packs::Spot;
use super::sys;

/// The memory sled may use for its cache, in bytes; its resident size is 3 to 4 times this.
const CACHE_BYTES: u64 = 16 << 20;
/// How long an open may take before the index is given up. A million rows take 0.45 s.
const OPEN_DEADLINE: Duration = Duration::from_secs(30);
/// How long sled's own lock may linger after its last holder let go of it.
const LOCK_DEADLINE: Duration = Duration::from_secs(2);
/// Below how many bytes on disk an index is never compacted.
const COMPACT_MIN_BYTES: u64 = 64 << 20;
/// How many times its live bytes an index may take on disk. sled gives no space back: under churn
/// 353 MB for 51 MB were measured.
const COMPACT_FACTOR: u64 = 4;

/// Describes one blob of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// The length in bytes.
    pub(super) size: u64,
    /// When it was last used: nanoseconds since 1970, all different.
    pub(super) accessed: u64,
    /// What it is promised: durable if it was added or pinned.
    pub(super) class: Class,
    /// Where the bytes lie.
    pub(super) home: Home,
}

/// Says where the bytes of a blob lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    /// In a file of its own.
    File,
    /// In the index.
    Index,
    /// In a pack, with others.
    Pack(Spot),
}

const ROW_LEN: usize = 17;
const FLAG_DURABLE: u8 = 1;
const FLAG_INLINE: u8 = 2;
/// A [`Spot`] follows the row.
const FLAG_PACKED: u8 = 4;

impl Row {
    fn encode(&self) -> Vec<u8> {
        let home = match self.home {
            Home::File => 0,
            Home::Index => FLAG_INLINE,
            Home::Pack(_) => FLAG_PACKED,
        };
        let mut bytes = Vec::with_capacity(ROW_LEN + Spot::LEN);
        bytes.push(flag(FLAG_DURABLE, self.class == Class::Durable) | home);
        bytes.extend_from_slice(&self.size.to_le_bytes());
        bytes.extend_from_slice(&self.accessed.to_le_bytes());
        if let Home::Pack(spot) = &self.home {
            bytes.extend_from_slice(&spot.encode());
        }
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` for anything else.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&flags, rest) = bytes.split_first()?;
        let (size, rest) = rest.split_at_checked(8)?;
        let (accessed, spot) = rest.split_at_checked(8)?;
        let home = match (flags & !FLAG_DURABLE, spot) {
            (0, []) => Home::File,
            (FLAG_INLINE, []) => Home::Index,
            (FLAG_PACKED, spot) => Home::Pack(Spot::decode(spot)?),
            _ => return None,
        };
        Some(Self {
            size: u64::from_le_bytes(size.try_into().ok()?),
            accessed: u64::from_le_bytes(accessed.try_into().ok()?),
            class: if flags & FLAG_DURABLE == 0 { Class::Cache } else { Class::Durable },
            home,
        })
    }
}

fn flag(bit: u8, set: bool) -> u8 {
    if set { bit } else { 0 }
}

/// Counts the blobs of the store and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// How many blobs.
    pub(super) blobs: u64,
    /// Their bytes.
    pub(super) bytes: u64,
}

/// Is the row that is always there: it tells an emptied database from a new one, and a clean end from
/// an unclean one.
const SEAL_KEY: &[u8] = b"seal";
const SEAL_VERSION: u8 = 1;
const SEAL_LEN: usize = 18;

/// Writes the seal: with totals at a clean end, without while the store is open.
fn encode_seal(totals: Option<Totals>) -> [u8; SEAL_LEN] {
    let mut bytes = [0; SEAL_LEN];
    bytes[0] = SEAL_VERSION;
    if let Some(totals) = totals {
        bytes[1] = 1;
        bytes[2..10].copy_from_slice(&totals.blobs.to_le_bytes());
        bytes[10..].copy_from_slice(&totals.bytes.to_le_bytes());
    }
    bytes
}

/// Reads a seal; the outer `None` is none at all, or one of another version.
fn decode_seal(bytes: &[u8]) -> Option<Option<Totals>> {
    let (&[version, clean], rest) = bytes.split_first_chunk()?;
    let (blobs, bytes) = rest.split_at_checked(8)?;
    let totals = Totals {
        blobs: u64::from_le_bytes(blobs.try_into().ok()?),
        bytes: u64::from_le_bytes(bytes.try_into().ok()?),
    };
    (version == SEAL_VERSION).then_some((clean == 1).then_some(totals))
}

/// Says that the index could not do what it was asked; the store goes on without it.
#[derive(Debug, thiserror::Error)]
pub(super) enum IndexFault {
    /// It failed before, and takes no more of this.
    #[error("the index is out of use")]
    OutOfUse,
    /// sled gave an error.
    #[error("the index failed")]
    Sled(#[from] sled::Error),
    /// sled panicked.
    #[error("the index panicked")]
    Panicked,
    /// sled did not come back in time.
    #[error("the index did not open in time")]
    TimedOut,
    /// Its files could not be synced or moved.
    #[error("the files of the index could not be handled")]
    Io(#[from] io::Error),
    /// Its files could not be opened to be synced; another try may do it.
    #[error("the files of the index could not be opened")]
    Unopened(#[source] io::Error),
}

/// Tells how the index was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// The totals, if the last run ended cleanly.
    pub(super) totals: Option<Totals>,
    /// Why rows must be made from the files again, if they must.
    pub(super) rebuild: Option<RebuildReason>,
}

/// Is the open index.
#[derive(Debug)]
pub(super) struct Index {
    dir: PathBuf,
    /// Taken out by `close`, so that sled's lock goes even while clones of the store live on.
    trees: RwLock<Option<Trees>>,
    good: AtomicBool,
}

#[derive(Debug)]
struct Trees {
    db: sled::Db,
    /// hash → [`Row`].
    rows: sled::Tree,
    /// hash → the bytes of a small fetched blob; apart, so that a walk over the rows stays small.
    inline: sled::Tree,
}

impl Index {
    /// Opens the index in `dir`, which only the holder of the store's lock may do.
    ///
    /// One that cannot be used is moved aside to `index.bad` and a new one is made; when even that
    /// fails, the index is out of use from the start. So this always returns an index.
    pub(super) fn open(dir: &Path) -> (Self, Found) {
        let existed = dir.join("db").exists();
        let mut rebuild = (!existed).then_some(RebuildReason::Missing);
        if marker(dir).exists() {
            rebuild = Some(RebuildReason::Broken);
            move_aside(dir);
        }
        let mut opened = open_with_repair(dir);
        if let Err(fault) = &opened {
            rebuild = Some(fault.reason());
            move_aside(dir);
            opened = open_guarded(dir);
        }
        let good = AtomicBool::new(opened.is_ok());
        let index = Self { dir: dir.to_owned(), trees: RwLock::new(opened.ok()), good };
        let seal = index.call(|trees| trees.db.get(SEAL_KEY)).ok().flatten();
        let seal = seal.and_then(|bytes| decode_seal(&bytes));
        if seal.is_none() && rebuild.is_none() {
            rebuild = Some(RebuildReason::Emptied);
        }
        (index, Found { totals: seal.flatten().filter(|_| rebuild.is_none()), rebuild })
    }

    /// Returns whether the index is in use: it opened, and nothing has failed since.
    pub(super) fn is_good(&self) -> bool {
        self.good.load(Ordering::Acquire)
    }

    /// Returns the row of a blob.
    pub(super) fn row(&self, hash: &Hash) -> Result<Option<Row>, IndexFault> {
        let bytes = self.call(|trees| trees.rows.get(hash.as_bytes()))?;
        Ok(bytes.and_then(|bytes| Row::decode(&bytes)))
    }

    /// Writes the row of a blob over any other.
    pub(super) fn put_row(&self, hash: &Hash, row: &Row) -> Result<(), IndexFault> {
        self.call(|trees| trees.rows.insert(hash.as_bytes(), row.encode()).map(drop))
    }

    /// Writes the row of a blob that has none; false if it has one.
    pub(super) fn put_new_row(&self, hash: &Hash, row: &Row) -> Result<bool, IndexFault> {
        let none: Option<&[u8]> = None;
        let put =
            |trees: &Trees| trees.rows.compare_and_swap(hash.as_bytes(), none, Some(row.encode()));
        Ok(self.call(put)?.is_ok())
    }

    /// Removes the row of a blob, and its bytes if they lie here.
    pub(super) fn remove(&self, hash: &Hash) -> Result<(), IndexFault> {
        self.call(|trees| {
            trees.rows.remove(hash.as_bytes())?;
            trees.inline.remove(hash.as_bytes()).map(drop)
        })
    }

    /// Returns the bytes of a blob that lie here.
    pub(super) fn inline(&self, hash: &Hash) -> Result<Option<Vec<u8>>, IndexFault> {
        let bytes = self.call(|trees| trees.inline.get(hash.as_bytes()))?;
        Ok(bytes.map(|bytes| bytes.to_vec()))
    }

    /// Writes the bytes of a small blob.
    pub(super) fn put_inline(&self, hash: &Hash, bytes: &[u8]) -> Result<(), IndexFault> {
        self.call(|trees| trees.inline.insert(hash.as_bytes(), bytes).map(drop))
    }

    /// Removes the bytes of a blob that has become a file.
    pub(super) fn remove_inline(&self, hash: &Hash) -> Result<(), IndexFault> {
        self.call(|trees| trees.inline.remove(hash.as_bytes()).map(drop))
    }

    /// Calls `visit` with every row, by rising hash, until it returns false.
    pub(super) fn for_each_row(
        &self,
        mut visit: impl FnMut(Hash, Row) -> bool,
    ) -> Result<(), IndexFault> {
        self.call(|trees| {
            for entry in &trees.rows {
                let (key, value) = entry?;
                let hash = key.as_ref().try_into().map(Hash::from_bytes);
                if let (Ok(hash), Some(row)) = (hash, Row::decode(&value))
                    && !visit(hash, row)
                {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Writes the seal: with totals at a clean end, without at a start.
    pub(super) fn seal(&self, totals: Option<Totals>) -> Result<(), IndexFault> {
        self.call(|trees| trees.db.insert(SEAL_KEY, &encode_seal(totals)).map(drop))
    }

    /// Makes all writes so far durable. Only one thread calls this.
    ///
    /// # Errors
    /// After [`IndexFault::Unopened`], as where too many files are open, the index is as good as before, and to flush it
    /// again makes durable what this call did not.
    pub(super) fn flush(&self) -> Result<(), IndexFault> {
        // Held over both: a compact copy must not take the place of the files between them.
        let trees = self.trees();
        self.call_on(trees.as_ref(), |trees| trees.db.flush().map(drop))?;
        sync_files(&self.dir).inspect_err(|fault| {
            if !matches!(fault, IndexFault::Unopened(_)) {
                self.fail();
            }
        })
    }

    /// Writes a compact index if this one has grown far beyond what it holds; says whether it did.
    pub(super) fn compact_if_bloated(&self) -> Result<bool, IndexFault> {
        let on_disk = self.size_on_disk();
        if on_disk <= COMPACT_MIN_BYTES || on_disk / COMPACT_FACTOR <= self.call(live_bytes)? {
            return Ok(false);
        }
        self.compact()?;
        Ok(true)
    }

    /// Copies everything into a new database and takes that; all other calls wait meanwhile, about
    /// 15 s for a million rows.
    ///
    /// A crash before the copy has the index's name leaves no index, which costs no more than small fetched blobs.
    fn compact(&self) -> Result<(), IndexFault> {
        let mut slot = self.trees.write().unwrap_or_else(PoisonError::into_inner);
        let old = slot.as_ref().ok_or(IndexFault::OutOfUse)?;
        let new_dir = self.dir.with_extension("new");
        fill_copy(old, &new_dir).inspect_err(|_| drop(fs::remove_dir_all(&new_dir)))?;
        discard(slot.take());
        *slot = Some(take_over(&new_dir, &self.dir).inspect_err(|_| self.fail())?);
        Ok(())
    }

    /// Returns the bytes the index takes on disk; 0 where that cannot be learned at the moment, which is no fault of the
    /// index: sled asks the file system.
    pub(super) fn size_on_disk(&self) -> u64 {
        let trees = self.trees();
        let Some(trees) = trees.as_ref().filter(|_| self.is_good()) else { return 0 };
        let size = catch_unwind(AssertUnwindSafe(|| trees.db.size_on_disk()));
        size.ok().and_then(Result::ok).unwrap_or(0)
    }

    /// Lets go of sled and its lock; the index is out of use from here on.
    pub(super) fn close(&self) {
        discard(self.trees.write().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Has a call fail, as on a full disk.
    #[cfg(test)]
    pub(super) fn break_down(&self) {
        let full = || sled::Error::Io(io::ErrorKind::StorageFull.into());
        self.call(|_| Err::<(), _>(full())).expect_err("it fails");
    }

    fn trees(&self) -> RwLockReadGuard<'_, Option<Trees>> {
        self.trees.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a call into sled; the first one that fails puts the index out of use.
    fn call<T>(&self, call: impl FnOnce(&Trees) -> sled::Result<T>) -> Result<T, IndexFault> {
        self.call_on(self.trees().as_ref(), call)
    }

    fn call_on<T>(
        &self,
        trees: Option<&Trees>,
        call: impl FnOnce(&Trees) -> sled::Result<T>,
    ) -> Result<T, IndexFault> {
        let trees = trees.filter(|_| self.is_good()).ok_or(IndexFault::OutOfUse)?;
        match catch_unwind(AssertUnwindSafe(|| call(trees))) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                self.fail();
                Err(error.into())
            }
            Err(_) => {
                self.fail();
                Err(IndexFault::Panicked)
            }
        }
    }

    /// Puts the index out of use, and leaves a mark so that the next start makes a new one.
    /// Puts the index out of use until the next start, which makes it anew.
    pub(super) fn fail(&self) {
        if self.good.swap(false, Ordering::AcqRel) {
            tracing::warn!("the index failed; the store works from its files until the next start");
            if let Err(error) = File::create(marker(&self.dir)) {
                tracing::debug!(%error, "the index could not be marked as broken");
            }
        }
    }
}

impl IndexFault {
    /// Says why a new index must be made after this.
    fn reason(&self) -> RebuildReason {
        match self {
            Self::Panicked => RebuildReason::Panicked,
            Self::TimedOut => RebuildReason::TimedOut,
            Self::Sled(_) | Self::Io(_) | Self::Unopened(_) | Self::OutOfUse => {
                RebuildReason::Unreadable
            }
        }
    }
}

/// Counts the bytes of all keys and values.
fn live_bytes(trees: &Trees) -> sled::Result<u64> {
    let mut live = 0;
    for entry in trees.rows.iter().chain(trees.inline.iter()) {
        let (key, value) = entry?;
        live += u64::try_from(key.len() + value.len()).unwrap_or(u64::MAX);
    }
    Ok(live)
}

/// Copies a database into a new one in `dir`, which is durable and closed afterwards.
fn fill_copy(old: &Trees, dir: &Path) -> Result<(), IndexFault> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    let new = open_guarded(dir)?;
    let copy = || -> sled::Result<()> {
        for (from, to) in [(&old.rows, &new.rows), (&old.inline, &new.inline)] {
            for entry in from {
                let (key, value) = entry?;
                to.insert(key, value)?;
            }
        }
        if let Some(seal) = old.db.get(SEAL_KEY)? {
            new.db.insert(SEAL_KEY, seal)?;
        }
        new.db.flush().map(drop)
    };
    catch_unwind(AssertUnwindSafe(copy)).map_err(|_| IndexFault::Panicked)??;
    discard(Some(new));
    sync_files(dir)
}

/// Replaces the closed database in `dir` by the one in `new_dir`, and opens it.
fn take_over(new_dir: &Path, dir: &Path) -> Result<Trees, IndexFault> {
    fs::remove_dir_all(dir)?;
    fs::rename(new_dir, dir)?;
    sys::sync_dir(dir.parent().unwrap_or(dir))?;
    open_guarded(dir)
}

/// Closes a database. sled flushes on drop, and may panic there as anywhere.
fn discard(trees: Option<Trees>) {
    catch_unwind(AssertUnwindSafe(|| drop(trees))).ok();
}

/// Returns the path of the mark that an index has failed.
fn marker(dir: &Path) -> PathBuf {
    dir.with_extension("broken")
}

/// Moves an index aside to where a maintainer finds it, over an earlier one.
fn move_aside(dir: &Path) {
    let bad = dir.with_extension("bad");
    fs::remove_dir_all(&bad).ok();
    if fs::rename(dir, &bad).is_err() {
        fs::remove_dir_all(dir).ok();
    }
    fs::remove_file(marker(dir)).ok();
}

/// Opens a database. One whose snapshot is damaged opens without it: sled makes a new one from its
/// log, and all 40,000 rows were there when this was measured.
fn open_with_repair(dir: &Path) -> Result<Trees, IndexFault> {
    let opened = open_guarded(dir);
    if !matches!(opened, Err(IndexFault::Sled(sled::Error::Corruption { .. }))) {
        return opened;
    }
    for entry in fs::read_dir(dir)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            fs::remove_file(entry.path())?;
        }
    }
    open_guarded(dir)
}

/// Opens a database in a thread of its own, which is left behind when it does not come back.
fn open_guarded(dir: &Path) -> Result<Trees, IndexFault> {
    await_lock(&dir.join("db"));
    let (sender, receiver) = mpsc::sync_channel(1);
    let path = dir.to_owned();
    let open = move || {
        // The receiver is gone when the deadline has passed: nobody wants the database then.
        sender.send(catch_unwind(AssertUnwindSafe(|| open_trees(&path)))).ok();
    };
    thread::Builder::new().name("store-index-open".to_owned()).spawn(open)?;
    match receiver.recv_timeout(OPEN_DEADLINE) {
        Ok(Ok(opened)) => Ok(opened?),
        Ok(Err(_)) | Err(mpsc::RecvTimeoutError::Disconnected) => Err(IndexFault::Panicked),
        Err(mpsc::RecvTimeoutError::Timeout) => Err(IndexFault::TimedOut),
    }
}

fn open_trees(dir: &Path) -> sled::Result<Trees> {
    // No flusher of sled's own: ours syncs the files too.
    let config = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    let db = config.open()?;
    let (rows, inline) = (db.open_tree("rows")?, db.open_tree("inline")?);
    Ok(Trees { db, rows, inline })
}

/// Waits until nobody holds sled's lock: it is released late after a drop, and sled itself fails at
/// once with an error that looks like any other.
fn await_lock(db: &Path) {
    let Ok(file) = File::open(db) else { return };
    let deadline = Instant::now() + LOCK_DEADLINE;
    while matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)) && Instant::now() < deadline
    {
        thread::park_timeout(Duration::from_millis(10));
    }
    // Not left to the drop: a child that another thread is just starting holds a copy of the file.
    file.unlock().ok();
}

/// Syncs every file of a database and its directories.
fn sync_files(dir: &Path) -> Result<(), IndexFault> {
    let sync = |path: &Path| -> Result<(), IndexFault> {
        // After a sync that failed the kernel takes for written what is not, and a second one says nothing.
        Ok(File::open(path).map_err(IndexFault::Unopened)?.sync_all()?)
    };
    for name in ["db", "conf"] {
        sync(&dir.join(name))?;
    }
    let blobs = dir.join("blobs");
    for entry in fs::read_dir(&blobs).map_err(IndexFault::Unopened)? {
        sync(&entry.map_err(IndexFault::Unopened)?.path())?;
    }
    if cfg!(unix) {
        sync(&blobs)?;
        sync(dir)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: Row = Row { size: 7, accessed: 9, class: Class::Durable, home: Home::File };

    fn filled(dir: &Path, rows: u8) {
        let (index, found) = Index::open(dir);
        assert_eq!(found.rebuild, Some(RebuildReason::Missing));
        (0..rows).for_each(|n| index.put_row(&Hash::of(&[n]), &ROW).expect("put"));
        index.seal(Some(Totals { blobs: rows.into(), bytes: 7 })).expect("seal");
        index.flush().expect("flush");
        index.close();
    }

    fn rows(index: &Index) -> usize {
        let mut rows = 0;
        index.for_each_row(|_, _| (rows += 1, true).1).expect("walk");
        rows
    }

    #[test]
    fn rows_and_seals_survive_a_round_trip_and_refuse_damage() {
        let inline = Row { class: Class::Cache, home: Home::Index, ..ROW };
        let spot = Spot { pack: 1 << 30, head: 513, entry: 99, block: 65_535 };
        let packed = Row { home: Home::Pack(spot), ..inline };
        for row in [ROW, inline, packed] {
            let bytes = row.encode();
            assert_eq!(Row::decode(&bytes), Some(row));
            assert_eq!(Row::decode(&bytes[..bytes.len() - 1]), None);
            assert_eq!(Row::decode(&[&bytes[..], &[0]].concat()), None);
        }
        assert_eq!(Row::decode(&[8; ROW_LEN]), None, "an unknown flag");
        let totals = Totals { blobs: 3, bytes: 5 };
        assert_eq!(decode_seal(&encode_seal(Some(totals))), Some(Some(totals)));
        assert_eq!(decode_seal(&encode_seal(None)), Some(None));
        assert_eq!(decode_seal(&[2; SEAL_LEN]), None, "another version");
    }

    #[test]
    fn clean_end_hands_rows_and_totals_to_the_next_start() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("index.sled");
        filled(&dir, 5);
        let (index, found) = Index::open(&dir);
        assert_eq!(found.rebuild, None);
        assert_eq!(found.totals, Some(Totals { blobs: 5, bytes: 7 }));
        assert_eq!(index.row(&Hash::of(&[3])).expect("get"), Some(ROW));
        index.remove(&Hash::of(&[3])).expect("remove");
        assert_eq!(rows(&index), 4);
    }

    /// What sled does with each of these differs (an error, a panic, an empty database); what we do
    /// must not.
    #[test]
    fn ruined_databases_are_replaced_by_a_working_one() {
        type Ruin = (&'static str, fn(&Path));
        let ruins: [Ruin; 5] = [
            ("emptied", |dir| fs::write(dir.join("db"), "").expect("write")),
            ("overwritten", |dir| fs::write(dir.join("db"), [0xa5; 9_000]).expect("write")),
            ("bad configuration", |dir| fs::write(dir.join("conf"), [7; 40]).expect("write")),
            ("a directory for a file", |dir| {
                fs::remove_file(dir.join("db")).expect("remove");
                fs::create_dir(dir.join("db")).expect("create");
            }),
            ("gone", |dir| fs::remove_dir_all(dir).expect("remove")),
        ];
        for (name, ruin) in ruins {
            let dir = tempfile::tempdir().expect("a directory");
            let dir = dir.path().join("index.sled");
            filled(&dir, 40);
            ruin(&dir);
            let (index, found) = Index::open(&dir);
            assert!(found.rebuild.is_some(), "{name}");
            assert_eq!(found.totals, None, "{name}");
            assert!(index.is_good(), "{name}");
            index.put_row(&Hash::of(b"new"), &ROW).expect(name);
            assert_eq!(index.row(&Hash::of(b"new")).expect(name), Some(ROW));
        }
    }

    #[test]
    fn emptied_snapshot_costs_no_row() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("index.sled");
        filled(&dir, 40);
        for entry in fs::read_dir(&dir).expect("list").flatten() {
            if entry.file_name().to_string_lossy().starts_with("snap.") {
                fs::write(entry.path(), "").expect("write");
            }
        }
        let (index, found) = Index::open(&dir);
        assert_eq!(found.rebuild, None);
        assert_eq!(rows(&index), 40);
    }

    #[test]
    fn panic_inside_a_call_puts_the_index_out_of_use_and_marks_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("index.sled");
        filled(&dir, 1);
        let (index, _) = Index::open(&dir);
        let panicked: Result<(), _> = index.call(|_| std::panic::resume_unwind(Box::new(())));
        assert!(matches!(panicked, Err(IndexFault::Panicked)));
        assert!(matches!(index.row(&Hash::of(&[0])), Err(IndexFault::OutOfUse)));
        index.close();
        let (index, found) = Index::open(&dir);
        assert_eq!(found.rebuild, Some(RebuildReason::Broken));
        assert_eq!(rows(&index), 0);
        assert!(!marker(&dir).exists());
    }

    #[test]
    fn compact_copy_holds_the_same_and_goes_on_working() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("index.sled");
        filled(&dir, 40);
        let (index, _) = Index::open(&dir);
        index.put_inline(&Hash::of(&[1]), b"small").expect("put");
        assert!(!index.compact_if_bloated().expect("look"), "a small one is left alone");
        index.compact().expect("compact");
        assert_eq!(rows(&index), 40);
        assert_eq!(index.inline(&Hash::of(&[1])).expect("get"), Some(b"small".to_vec()));
        index.put_row(&Hash::of(b"new"), &ROW).expect("put");
        index.flush().expect("flush");
        index.close();
        let (index, found) = Index::open(&dir);
        assert_eq!((found.rebuild, rows(&index)), (None, 41));
        assert!(found.totals.is_some(), "the seal was copied");
    }

    #[test]
    fn files_that_cannot_be_opened_for_a_moment_leave_the_index_in_use() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("index.sled");
        filled(&dir, 3);
        let (index, _) = Index::open(&dir);
        fs::rename(dir.join("blobs"), dir.join("away")).expect("rename");
        index.put_row(&Hash::of(b"new"), &ROW).expect("put");
        assert_eq!(index.size_on_disk(), 0, "it cannot be learned");
        assert!(!index.compact_if_bloated().expect("nor is it said to be bloated"));
        assert!(matches!(index.flush(), Err(IndexFault::Unopened(_))));
        assert!(index.is_good() && !marker(&dir).exists());
        fs::rename(dir.join("away"), dir.join("blobs")).expect("rename");
        index.flush().expect("another try");
        assert!(index.size_on_disk() > 0);
        assert_eq!(rows(&index), 4);
    }

    #[test]
    fn failed_call_puts_the_index_out_of_use() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("index.sled");
        filled(&dir, 1);
        let (index, _) = Index::open(&dir);
        index.break_down();
        assert!(!index.is_good());
        assert!(matches!(index.put_row(&Hash::of(&[9]), &ROW), Err(IndexFault::OutOfUse)));
    }
}
