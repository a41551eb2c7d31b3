//! How whole blobs come in: files and streams that users add, and blobs fetched in one piece.
//!
//! An added blob is durable when the call returns: tmp → sync → rename → sync of the directory → index.
//! A fetched one is not synced; one of at most `inline_bytes_max` goes into the index. Bytes are hashed
//! in the same pass that writes them, and never touch a final name before the hash is known.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{BlobHasher, GroupList};

use super::catalog::Located;
use super::error::StoreError;
use super::files::{Class, set_class};
use super::index::{Home, Row};
use super::read::write_outboard;
use super::space::Reservation;
use super::temp::TempFile;
use super::{Added, Inner, Store, sys};

/// How much is read, hashed and written at a time.
const BUFFER_LEN: usize = 1 << 20;
/// How many buffers go round between the reading and the writing thread.
const BUFFERS: usize = 4;

impl Store {
    /// Adds a file; durable when it returns. Calls `on_progress` with the bytes done so far.
    ///
    /// Shares the file's bytes where the file system can (xfs, btrfs), copies them elsewhere.
    ///
    /// # Errors
    /// [`StoreError::NotAFile`], [`StoreError::FileChanged`] if it grew, shrank or was written to
    /// meanwhile, [`StoreError::TooLarge`], [`StoreError::NoSpace`], [`StoreError::DiskFull`] or
    /// [`StoreError::Io`]. Nothing is left behind.
    pub fn add_file(
        &self,
        path: &Path,
        on_progress: &mut dyn FnMut(u64),
    ) -> Result<Added, StoreError> {
        let source = Source::open(path)?;
        let (intake, list) = self.inner.take_in(&source, on_progress)?;
        self.inner.commit_temp(intake.temp, &list, Class::Durable, intake.reservation)
    }

    /// Begins to add a blob of unknown length, such as standard input.
    pub fn add_writer(&self) -> Result<AddWriter, StoreError> {
        Ok(AddWriter { intake: self.inner.intake(0)?, inner: Arc::clone(&self.inner) })
    }

    /// Begins to take in a whole blob from a source that gives no group list. It stays out of sight
    /// until its hash is known to be `expected`.
    pub fn quarantine(&self, expected: Hash) -> Result<Quarantine, StoreError> {
        let writer = self.add_writer()?;
        Ok(Quarantine { expected, writer })
    }

    /// Stores a small fetched blob that is in memory.
    ///
    /// # Errors
    /// [`StoreError::WrongHash`] if `bytes` are not the blob's, else as [`add_file`](Self::add_file).
    pub fn put_whole(&self, hash: &Hash, bytes: &[u8]) -> Result<Added, StoreError> {
        if bytes.len() > self.inner.config.inline_bytes_max || self.inner.pins.contains(hash) {
            return self.put_file(hash, bytes);
        }
        let found = Hash::of(bytes);
        if found != *hash {
            return Err(StoreError::WrongHash { expected: *hash, found });
        }
        let mut reservation = Some(self.inner.reserve(len_u64(bytes))?);
        if let Some(added) = self.inner.commit_inline(hash, bytes, &mut reservation)? {
            return Ok(added);
        }
        // The index is out of use: a file it is.
        drop(reservation);
        self.put_file(hash, bytes)
    }

    fn put_file(&self, hash: &Hash, bytes: &[u8]) -> Result<Added, StoreError> {
        let mut quarantine = self.quarantine(*hash)?;
        quarantine.write(bytes)?;
        quarantine.finish()
    }
}

/// Takes in the bytes of one blob that is added. Dropped before its end, it leaves nothing.
#[derive(Debug)]
pub struct AddWriter {
    inner: Arc<Inner>,
    intake: Intake,
}

impl AddWriter {
    /// Takes the next bytes; pieces of 64 KiB and more are hashed fastest.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] or [`StoreError::NoSpace`] as soon as a bound is met,
    /// [`StoreError::DiskFull`] or [`StoreError::Io`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let size = self.intake.size.saturating_add(len_u64(bytes));
        self.inner.check_size(size)?;
        self.intake.reservation.join(self.inner.reserve(len_u64(bytes))?);
        self.intake.write(bytes)
    }

    /// Ends the blob and makes it durable.
    pub fn finish(self) -> Result<Added, StoreError> {
        self.finish_as(Class::Durable, None)
    }

    fn finish_as(self, class: Class, expected: Option<Hash>) -> Result<Added, StoreError> {
        let list = self.intake.hasher.finish();
        if let Some(expected) = expected.filter(|expected| *expected != list.hash()) {
            return Err(StoreError::WrongHash { expected, found: list.hash() });
        }
        self.inner.commit_temp(self.intake.temp, &list, class, self.intake.reservation)
    }
}

/// Takes in a blob that somebody else sends whole, out of sight until its hash is known. Dropped
/// before its end, it leaves nothing.
#[derive(Debug)]
pub struct Quarantine {
    expected: Hash,
    writer: AddWriter,
}

impl Quarantine {
    /// Takes the next bytes; errors as [`AddWriter::write`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.writer.write(bytes)
    }

    /// Ends the blob; it is stored if it is the one expected.
    ///
    /// # Errors
    /// [`StoreError::WrongHash`] if it is not; nothing is left of it then.
    pub fn finish(self) -> Result<Added, StoreError> {
        let class = self.writer.inner.class_of_fetched(&self.expected);
        self.writer.finish_as(class, Some(self.expected))
    }
}

/// Is a blob on its way in: its file in `tmp/`, its hash so far and its room.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) temp: TempFile,
    hasher: BlobHasher,
    size: u64,
    pub(super) reservation: Reservation,
}

impl Intake {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.temp.write(bytes)?;
        self.hasher.update(bytes);
        self.size += len_u64(bytes);
        Ok(())
    }
}

impl Inner {
    /// Takes the bytes of a file into `tmp/`, and hashes them.
    pub(super) fn take_in(
        &self,
        source: &Source<'_>,
        on_progress: &mut dyn FnMut(u64),
    ) -> Result<(Intake, GroupList), StoreError> {
        let mut intake = self.intake(source.before.len())?;
        let shared = sys::reflink(intake.temp.file(), &source.file);
        let list = if shared {
            hash_file(intake.temp.file(), on_progress)
                .map_err(StoreError::io("read", intake.temp.path()))?
        } else {
            copy_hashing(source, &mut intake, on_progress)?
        };
        // A shared copy was taken in one step, so it is whole even if the file was written to since.
        if !shared {
            source.check_unchanged(list.size())?;
        }
        Ok((intake, list))
    }

    fn intake(&self, size: u64) -> Result<Intake, StoreError> {
        self.check_size(size)?;
        self.intake_within(self.reserve(size)?)
    }

    fn intake_within(&self, reservation: Reservation) -> Result<Intake, StoreError> {
        let temp = self.catalog.files().temp()?;
        Ok(Intake { temp, hasher: BlobHasher::new(), size: 0, reservation })
    }

    /// Moves the bytes of a fetched blob from the index into a durable file.
    pub(super) fn store_durably(&self, bytes: &[u8]) -> Result<(), StoreError> {
        // Its bytes are counted already.
        let mut intake = self.intake_within(self.catalog.space().admit(0))?;
        intake.write(bytes)?;
        let (temp, list) = (intake.temp, intake.hasher.finish());
        self.commit_temp(temp, &list, Class::Durable, intake.reservation)?;
        Ok(())
    }

    /// Returns the class of a fetched blob: a pin may have outlived an earlier copy of it.
    pub(super) fn class_of_fetched(&self, hash: &Hash) -> Class {
        if self.pins.contains(hash) { Class::Durable } else { Class::Cache }
    }

    /// Checks a size against the bound of one blob.
    pub(super) fn check_size(&self, size: u64) -> Result<(), StoreError> {
        let blob_bytes_max = self.config.blob_bytes_max;
        if size > blob_bytes_max {
            return Err(StoreError::TooLarge { size, blob_bytes_max });
        }
        Ok(())
    }

    fn commit_temp(
        &self,
        temp: TempFile,
        list: &GroupList,
        class: Class,
        reservation: Reservation,
    ) -> Result<Added, StoreError> {
        set_class(temp.file(), class).map_err(StoreError::io("change", temp.path()))?;
        let ready = self.sync_ahead(temp.file(), temp.path(), &list.hash(), class)?;
        self.commit(list, class, &mut Some(reservation), |path, class| {
            if !ready {
                temp.sync()?;
            }
            self.catalog.files().publish(temp, path, class)
        })
    }

    /// Syncs the file of a whole blob, not yet under its name, if its class asks for it and it will be
    /// needed. No stripe is held: a sync may take long. False if it was not synced because the blob
    /// seems to be there already; whoever publishes it all the same syncs it then.
    pub(super) fn sync_ahead(
        &self,
        file: &File,
        path: &Path,
        hash: &Hash,
        class: Class,
    ) -> Result<bool, StoreError> {
        if class == Class::Cache {
            return Ok(true);
        }
        let needed = !self.holds_as_well(hash, class)?;
        if needed {
            file.sync_all().map_err(StoreError::io("sync", path))?;
        }
        Ok(needed)
    }

    /// Gives a prepared blob its name by `publish`, and its row. The reservation is taken when the
    /// totals count the blob.
    pub(super) fn commit(
        &self,
        list: &GroupList,
        class: Class,
        reservation: &mut Option<Reservation>,
        publish: impl FnOnce(&Path, Class) -> Result<(), StoreError>,
    ) -> Result<Added, StoreError> {
        self.ensure_open()?;
        let (hash, size) = (list.hash(), list.size());
        let _stripe = self.catalog.stripe(&hash);
        let old = match self.catalog.locate_held(&hash)? {
            Located::Here(row) if row.size == size => Some(row),
            // A file that had no row tells no more than how long it is.
            Located::Here(_) | Located::Lost(_) | Located::Absent => None,
        };
        if keeps(old, class) {
            if class == Class::Durable {
                self.names.sync(self.catalog.files(), [&hash])?;
            }
            self.catalog.touch(&hash);
            return Ok(Added { hash, size, existed: true });
        }
        write_outboard(self.catalog.files(), list)?;
        publish(&self.catalog.files().blob(&hash), class)?;
        self.recent.forget(&hash);
        let row = Row { size, accessed: self.catalog.now(), class, home: Home::File };
        self.catalog.put(&hash, &row, reservation.take());
        if old.is_some_and(|old| old.home == Home::Index) {
            self.catalog.remove_inline(&hash);
        }
        Ok(Added { hash, size, existed: old.is_some() })
    }

    fn holds_as_well(&self, hash: &Hash, class: Class) -> Result<bool, StoreError> {
        Ok(match self.catalog.locate(hash)? {
            Located::Here(row) => keeps(Some(row), class),
            Located::Lost(_) | Located::Absent => false,
        })
    }

    /// Stores a small blob in the index; none when the index does not take it.
    pub(super) fn commit_inline(
        &self,
        hash: &Hash,
        bytes: &[u8],
        reservation: &mut Option<Reservation>,
    ) -> Result<Option<Added>, StoreError> {
        self.ensure_open()?;
        let (hash, size) = (*hash, len_u64(bytes));
        let _stripe = self.catalog.stripe(&hash);
        if let Located::Here(_) = self.catalog.locate_held(&hash)? {
            self.catalog.touch(&hash);
            return Ok(Some(Added { hash, size, existed: true }));
        }
        if !self.catalog.put_inline(&hash, bytes) {
            return Ok(None);
        }
        let row =
            Row { size, accessed: self.catalog.now(), class: Class::Cache, home: Home::Index };
        self.catalog.put(&hash, &row, reservation.take());
        Ok(Some(Added { hash, size, existed: false }))
    }
}

/// Says whether a blob that is there need not be replaced by the same one of class `class`.
fn keeps(old: Option<Row>, class: Class) -> bool {
    old.is_some_and(|old| old.class == Class::Durable || class == Class::Cache)
}

/// Is a file that is being added.
#[derive(Debug)]
pub(super) struct Source<'a> {
    path: &'a Path,
    file: File,
    before: fs::Metadata,
}

impl<'a> Source<'a> {
    fn open(path: &'a Path) -> Result<Self, StoreError> {
        // Looked at before it is opened: opening a pipe would wait for its writer.
        let is_file = |meta: &fs::Metadata| {
            let not = || StoreError::NotAFile { path: path.to_owned() };
            meta.is_file().then_some(()).ok_or_else(not)
        };
        is_file(&fs::metadata(path).map_err(StoreError::io("read", path))?)?;
        let file = File::open(path).map_err(StoreError::io("open", path))?;
        Self::of(path, file)
    }

    /// Takes a file that is open already.
    pub(super) fn of(path: &'a Path, file: File) -> Result<Self, StoreError> {
        let before = file.metadata().map_err(StoreError::io("read", path))?;
        if !before.is_file() {
            return Err(StoreError::NotAFile { path: path.to_owned() });
        }
        Ok(Self { path, file, before })
    }

    fn check_unchanged(&self, read: u64) -> Result<(), StoreError> {
        let after = self.file.metadata().map_err(StoreError::io("read", self.path))?;
        let same_time = match (self.before.modified(), after.modified()) {
            (Ok(before), Ok(after)) => before == after,
            _ => true,
        };
        let len = self.before.len();
        if read == len && after.len() == len && same_time {
            return Ok(());
        }
        Err(StoreError::FileChanged { path: self.path.to_owned() })
    }
}

/// Copies a file into an intake; this thread reads and hashes, another writes.
fn copy_hashing(
    source: &Source<'_>,
    intake: &mut Intake,
    on_progress: &mut dyn FnMut(u64),
) -> Result<GroupList, StoreError> {
    let expected = source.before.len();
    // One byte more than expected, so that a file that grows shows and an endless one ends.
    let reader = (&source.file).take(expected.saturating_add(1));
    if expected <= len_of(BUFFER_LEN) {
        copy_small(source, reader, intake)?;
    } else {
        copy_large(source, reader, intake, on_progress)?;
    }
    on_progress(intake.size);
    Ok(std::mem::take(&mut intake.hasher).finish())
}

fn copy_small(
    source: &Source<'_>,
    mut reader: impl Read,
    intake: &mut Intake,
) -> Result<(), StoreError> {
    let mut bytes = Vec::with_capacity(usize::try_from(source.before.len()).unwrap_or(0) + 1);
    reader.read_to_end(&mut bytes).map_err(StoreError::io("read", source.path))?;
    intake.write(&bytes)
}

fn copy_large(
    source: &Source<'_>,
    mut reader: impl Read,
    intake: &mut Intake,
    on_progress: &mut dyn FnMut(u64),
) -> Result<(), StoreError> {
    let (temp, hasher, size) = (&intake.temp, &mut intake.hasher, &mut intake.size);
    thread::scope(|scope| {
        let (full_sender, full) = mpsc::sync_channel(BUFFERS);
        let (empty_sender, empty) = mpsc::sync_channel(BUFFERS);
        for _ in 0..BUFFERS {
            // There is room for all of them, here and whenever the writer hands one back.
            empty_sender.send(Vec::new()).ok();
        }
        let writer = scope.spawn(move || write_buffers(temp, &full, &empty_sender));
        // The writer ends early when it fails, and the empty buffers with it.
        while let Ok(buffer) = empty.recv() {
            let ended = read_buffer(&mut reader, buffer, hasher, size, &full_sender);
            on_progress(*size);
            if ended.map_err(StoreError::io("read", source.path))? {
                break;
            }
        }
        drop(full_sender);
        writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Fills a buffer, hashes it and hands it to the writer; true at the end of the file.
fn read_buffer(
    reader: &mut impl Read,
    mut buffer: Vec<u8>,
    hasher: &mut BlobHasher,
    size: &mut u64,
    full: &SyncSender<Vec<u8>>,
) -> io::Result<bool> {
    buffer.resize(BUFFER_LEN, 0);
    let filled = read_full(reader, &mut buffer)?;
    buffer.truncate(filled);
    hasher.update(&buffer);
    *size += len_u64(&buffer);
    let ended = filled < BUFFER_LEN;
    Ok(full.send(buffer).is_err() || ended)
}

fn write_buffers(
    temp: &TempFile,
    full: &Receiver<Vec<u8>>,
    empty: &SyncSender<Vec<u8>>,
) -> Result<(), StoreError> {
    for buffer in full {
        temp.write(&buffer)?;
        // The reader is gone when it has met the end.
        empty.send(buffer).ok();
    }
    Ok(())
}

/// Reads until the buffer is full or the file ends.
fn read_full(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn hash_file(file: &File, on_progress: &mut dyn FnMut(u64)) -> io::Result<GroupList> {
    let mut hasher = BlobHasher::new();
    let mut buffer = vec![0; BUFFER_LEN];
    let mut done = 0;
    let mut reader = file;
    loop {
        let filled = read_full(&mut reader, &mut buffer)?;
        hasher.update(&buffer[..filled]);
        done += len_of(filled);
        on_progress(done);
        if filled < BUFFER_LEN {
            return Ok(hasher.finish());
        }
    }
}

fn len_u64(bytes: &[u8]) -> u64 {
    len_of(bytes.len())
}

fn len_of(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
