//! Files become blobs, or are known to be.

use std::fs::{File, Metadata};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::SystemTime;

use blobmesh_protocol::Hash;
use blobmesh_protocol::tree::Node;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::cache::{Cache, Memory, Stat};
use super::walk::{Chunk, FileStep, Step};
use super::{ScanError, ScanProgress, io_error};
use crate::store::{Batch, StoreError};

/// Up to how many bytes a file is read into memory, and not shared or copied by the kernel: for less than this,
/// to share a file's bytes takes longer than to write them.
const IN_MEMORY_MAX: u64 = 256 << 10;
/// How often a file is read that changes meanwhile.
const ATTEMPTS: usize = 2;

/// Makes blobs of files, on many threads.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    batch: Batch,
    cache: Cache,
    memory: Mutex<Memory>,
    unchanged: AtomicU64,
    progress: &'a ScanProgress,
}

/// Is a file that was scanned.
struct Scanned {
    node: Node,
    /// What to remember of it; none of one that may change without a sign of it.
    remembered: Option<(Stat, Hash)>,
}

/// Says why a file could not be read this time.
enum Unread {
    /// It was written to meanwhile.
    Changed,
    Failed(ScanError),
}

impl<'a> Scanner<'a> {
    pub(super) fn new(batch: Batch, cache: Cache, progress: &'a ScanProgress) -> Self {
        let (memory, unchanged) = (Mutex::default(), AtomicU64::new(0));
        Self { batch, cache, memory, unchanged, progress }
    }

    /// Returns where blobs go.
    pub(super) fn batch(&self) -> &Batch {
        &self.batch
    }

    /// Returns how many files were not read.
    pub(super) fn unchanged(&self) -> u64 {
        self.unchanged.load(Ordering::Relaxed)
    }

    /// Returns the batch, and what is to be remembered; none where that is written down already.
    pub(super) fn into_parts(self) -> (Batch, Option<Memory>) {
        let unchanged = self.unchanged();
        let memory = self.memory.into_inner().unwrap_or_else(PoisonError::into_inner);
        let known = self.cache.len() == memory.len()
            && u64::try_from(memory.len()).is_ok_and(|len| len == unchanged);
        (self.batch, (!known).then_some(memory))
    }

    /// Makes nodes of the files of a chunk, in their order.
    ///
    /// # Errors
    /// The first one in the order of the files, of those that were read.
    pub(super) fn scan_all(&self, chunk: &Chunk, threads: usize) -> Result<Vec<Node>, ScanError> {
        let files: Vec<&FileStep> = chunk.steps.iter().filter_map(Step::file).collect();
        let next = AtomicUsize::new(0);
        let work = || self.scan_some(&files, &next);
        let mut scanned: Vec<(usize, Result<Scanned, ScanError>)> = thread::scope(|scope| {
            let others: Vec<_> = (1..threads.min(files.len())).map(|_| scope.spawn(work)).collect();
            let mut scanned = work();
            for other in others {
                scanned
                    .extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            scanned
        });
        scanned.sort_unstable_by_key(|(index, _)| *index);
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let take = |(_, scanned): (usize, Result<Scanned, ScanError>)| {
            let Scanned { node, remembered } = scanned?;
            if let Some((stat, hash)) = remembered {
                memory.remember(stat, hash);
            }
            Ok(node)
        };
        scanned.into_iter().map(take).collect()
    }

    /// Scans files until there is none left or one failed.
    fn scan_some(
        &self,
        files: &[&FileStep],
        next: &AtomicUsize,
    ) -> Vec<(usize, Result<Scanned, ScanError>)> {
        let (mut buffer, mut scanned) = (Vec::new(), Vec::new());
        let mut last = LastDirectory::default();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = files.get(index) else { return scanned };
            let one = match self.progress.stop.is_wanted() {
                true => Err(ScanError::Canceled),
                false => self.scan(file, &mut last, &mut buffer),
            };
            if one.is_err() {
                // The others end, too.
                next.store(files.len(), Ordering::Relaxed);
            }
            scanned.push((index, one));
        }
    }

    fn scan(
        &self,
        file: &FileStep,
        last: &mut LastDirectory,
        buffer: &mut Vec<u8>,
    ) -> Result<Scanned, ScanError> {
        if let Some(known) = self.recall(file, last)? {
            return Ok(known);
        }
        let path = file.path();
        for _ in 0..ATTEMPTS {
            match self.read(&path, buffer) {
                Ok(scanned) => {
                    self.progress.files.fetch_add(1, Ordering::Relaxed);
                    return Ok(scanned);
                }
                Err(Unread::Changed) => {}
                Err(Unread::Failed(error)) => return Err(error),
            }
        }
        Err(ScanError::Changed { path })
    }

    /// Returns what the last scan made of a file, if it is the same, and its blob is still here.
    fn recall(
        &self,
        file: &FileStep,
        last: &mut LastDirectory,
    ) -> Result<Option<Scanned>, ScanError> {
        if self.cache.len() == 0 {
            return Ok(None);
        }
        // A file that is gone by now is told of by whoever opens it.
        let Ok(meta) = last.stat(file) else { return Ok(None) };
        let (stat, is_file) =
            (Stat::of_entry(&meta), FileType::from_raw_mode(meta.st_mode).is_file());
        let Some(hash) = self.cache.find(&stat).filter(|_| is_file) else { return Ok(None) };
        let size = stat.size();
        if !self.batch.keep(&hash, size)? {
            return Ok(None);
        }
        self.unchanged.fetch_add(1, Ordering::Relaxed);
        self.progress.files.fetch_add(1, Ordering::Relaxed);
        self.progress.bytes.fetch_add(size, Ordering::Relaxed);
        Ok(Some(Scanned { node: node(meta.st_mode, hash, size), remembered: Some((stat, hash)) }))
    }

    fn read(&self, path: &Path, buffer: &mut Vec<u8>) -> Result<Scanned, Unread> {
        let began = SystemTime::now();
        let file = open(path).map_err(|errno| match errno {
            // A link, or nothing, where the directory had a file.
            Errno::LOOP | Errno::NOENT => Unread::Changed,
            _ => Unread::Failed(io_error("open", path)(errno.into())),
        })?;
        let failed = |error| Unread::Failed(io_error("read", path)(error));
        let before = file.metadata().map_err(failed)?;
        if !before.is_file() {
            return Err(Unread::Changed);
        }
        let (hash, size, after) = match before.len() <= IN_MEMORY_MAX {
            true => self.read_small(path, &file, before.len(), buffer)?,
            false => self.read_large(path, file)?,
        };
        let stat = Stat::of(&before);
        if stat != Stat::of(&after) || size != before.len() {
            return Err(Unread::Changed);
        }
        let remembered = stat.is_settled(began).then_some((stat, hash));
        Ok(Scanned { node: node(before.mode(), hash, size), remembered })
    }

    fn read_small(
        &self,
        path: &Path,
        file: &File,
        len: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<(Hash, u64, Metadata), Unread> {
        let failed = |error| Unread::Failed(io_error("read", path)(error));
        let size = usize::try_from(len).map_err(|_| Unread::Changed)?;
        // One byte more than there should be, so that a file that grew shows. (A file is not read in parts.)
        buffer.resize(size + 1, 0);
        let read = file.read_at(buffer, 0).map_err(failed)?;
        let after = file.metadata().map_err(failed)?;
        if read != size {
            return Err(Unread::Changed);
        }
        buffer.truncate(size);
        let hash = self.batch.put(buffer)?;
        self.progress.bytes.fetch_add(len, Ordering::Relaxed);
        Ok((hash, len, after))
    }

    fn read_large(&self, path: &Path, file: File) -> Result<(Hash, u64, Metadata), Unread> {
        let failed = |error| Unread::Failed(io_error("read", path)(error));
        let again = file.try_clone().map_err(failed)?;
        let mut told = 0;
        let mut tell = |done: u64| {
            self.progress.bytes.fetch_add(done.saturating_sub(told), Ordering::Relaxed);
            told = done;
        };
        let (hash, size) = self.batch.put_file(path, file, &mut tell)?;
        let after = again.metadata().map_err(failed)?;
        Ok((hash, size, after))
    }
}

/// Keeps the directory open in which a thread looked last. Most files lie in the same one as the file before them, and
/// to look at a name in an open directory takes half as long as to walk down its whole path.
#[derive(Debug, Default)]
struct LastDirectory(Option<(Arc<Path>, OwnedFd)>);

impl LastDirectory {
    /// Looks at a file, or whatever lies there, and follows no link.
    fn stat(&mut self, file: &FileStep) -> Result<rustix::fs::Stat, Errno> {
        if self.0.as_ref().is_none_or(|(path, _)| !Arc::ptr_eq(path, &file.directory)) {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = rustix::fs::open(&*file.directory, flags, Mode::empty())?;
            self.0 = Some((Arc::clone(&file.directory), opened));
        }
        let (_, directory) = self.0.as_ref().ok_or(Errno::NOENT)?;
        rustix::fs::statat(directory, file.name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW)
    }
}

impl From<StoreError> for Unread {
    fn from(error: StoreError) -> Self {
        if matches!(error, StoreError::FileChanged { .. }) {
            return Self::Changed;
        }
        Self::Failed(error.into())
    }
}

fn node(mode: u32, hash: Hash, size: u64) -> Node {
    // As git reads it: what its owner may execute is executable.
    Node::File { hash, size, executable: mode & 0o100 != 0 }
}

/// Opens a file and nothing else: no link, and no pipe that would be waited for.
fn open(path: &Path) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}
