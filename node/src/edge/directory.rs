//! The edge in a plain directory: a shared folder, or the edge of a demonstration.
//!
//! A blob gets its name only when all its bytes are on the disk: temporary file, fsync, rename, fsync
//! of the directory. A directory that is not there counts as unreachable, not as empty: a share that is
//! not mounted has lost no blob.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::Hash;
use bytes::Bytes;
use tokio::time::timeout;

use super::answer::Promise;
use super::body::EdgeBody;
use super::diagnose::{self, Finding};
use super::error::{Action, Breach, EdgeError, Reach, Task};
use super::files;
use super::object::{Object, Wanted};
use super::options::EdgeOptions;
use super::{EdgeBackend, Push, Pushed, blob_path, groups_path};

/// How much of a blob is copied at a time.
const COPY_LEN: u64 = 1 << 20;
/// After how many bytes they are brought to the disk, so that no sync takes longer than a write may.
const SYNC_LEN: usize = 64 << 20;

/// Reads and writes a directory.
#[derive(Clone, Debug)]
pub struct DirectoryEdge {
    base: PathBuf,
    /// How long one look or read may take: a share can hang.
    wait_max: Duration,
    /// How long one write may take, with the time until it is on the disk.
    write_wait_max: Duration,
    blob_bytes_max: u64,
}

impl DirectoryEdge {
    pub(super) fn new(base: &Path, options: EdgeOptions) -> Self {
        let EdgeOptions { first_byte_timeout, write_timeout, blob_bytes_max, .. } = options;
        Self {
            base: base.to_owned(),
            wait_max: first_byte_timeout,
            write_wait_max: write_timeout,
            blob_bytes_max,
        }
    }

    /// Runs file work, gives up waiting for it after a while, and says what its failure means.
    async fn work<T: Send + 'static>(
        &self,
        task: Task,
        path: &Path,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, EdgeError> {
        let waited = if task.action == Action::Push { self.write_wait_max } else { self.wait_max };
        let Ok(done) = timeout(waited, files::blocking(work)).await else {
            return Err(EdgeError::Stalled { task, waited, got: 0 });
        };
        match done {
            Ok(done) => Ok(done),
            Err(error) => Err(self.error(task, path, error).await),
        }
    }

    async fn error(&self, task: Task, path: &Path, error: io::Error) -> EdgeError {
        if error.kind() == io::ErrorKind::IsADirectory {
            let breach = Breach::NotAFile { path: path.to_owned() };
            return EdgeError::Protocol { task, breach };
        }
        let absent = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
        if !absent {
            return EdgeError::io(task, Some(path.to_owned()), error);
        }
        let base = self.base.clone();
        let there = timeout(self.wait_max, files::blocking(move || Ok(base.is_dir()))).await;
        match there {
            Ok(Ok(true)) => EdgeError::NotFound { task },
            _ => EdgeError::Unreachable { task, reach: Reach::Directory, source: Arc::new(error) },
        }
    }

    async fn open(&self, task: Task, path: PathBuf) -> Result<(File, u64), EdgeError> {
        let target = path.clone();
        self.work(task, &path, move || {
            let length = regular_len(&target)?;
            Ok((File::open(&target)?, length))
        })
        .await
    }

    /// Reads an object that is no blob: what a bucket was mirrored with.
    pub(super) async fn object(
        &self,
        task: Task,
        wanted: &Wanted<'_>,
    ) -> Result<Option<Object>, EdgeError> {
        let path = self.base.join(wanted.path);
        let (file, size) = self.open(task, path.clone()).await?;
        let range = wanted.range.clone().unwrap_or(0..size);
        let (len, size_max) = (range.end.saturating_sub(range.start), wanted.len_max);
        let Some(fits) = usize::try_from(len).ok().filter(|_| len <= size_max) else {
            let breach = Breach::TooLarge { size: len, size_max };
            return Err(EdgeError::Protocol { task, breach });
        };
        if range.end > size {
            let (start, end) = (range.start, range.end);
            return Err(EdgeError::Range { task, start, end, size: Some(size) });
        }
        let read = move || {
            let mut bytes = vec![0; fits];
            let got = files::read_at(&file, &mut bytes, range.start)?;
            bytes.truncate(got);
            Ok(bytes)
        };
        let bytes = Bytes::from(self.work(task, &path, read).await?);
        if bytes.len() < fits {
            let got = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            return Err(EdgeError::Cut { task, got, expected: len, source: None });
        }
        Ok(Some(Object { bytes, tag: None }))
    }

    /// Returns whether `path` is a file of exactly `len` bytes.
    async fn has(&self, task: Task, path: PathBuf, len: u64) -> Result<bool, EdgeError> {
        let target = path.clone();
        match self.work(task, &path, move || regular_len(&target)).await {
            Ok(found) => Ok(found == len),
            Err(EdgeError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn put_blob(&self, task: Task, push: &mut Push<'_>) -> Result<(), EdgeError> {
        let target = self.base.join(blob_path(&push.hash));
        let mut file = self.stage(task, &target).await?;
        let mut offset = 0;
        while offset < push.source.size() {
            let bytes = push.source.read(offset, COPY_LEN, task).await?;
            offset += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            file = self.work(task, &target, move || file.append(&bytes)).await?;
            (push.progress)(offset);
        }
        self.work(task, &target, move || file.publish()).await
    }

    async fn put_list(&self, task: Task, bytes: Bytes) -> Result<(), EdgeError> {
        let target = self.base.join(groups_path(&task.hash));
        let file = self.stage(task, &target).await?;
        self.work(task, &target, move || file.append(&bytes)?.publish()).await
    }

    async fn stage(&self, task: Task, target: &Path) -> Result<Staged, EdgeError> {
        let (base, path) = (self.base.clone(), target.to_owned());
        self.work(task, target, move || Staged::new(&base, path)).await
    }
}

impl EdgeBackend for DirectoryEdge {
    fn describe(&self) -> String {
        format!("dir:{}", self.base.display())
    }

    async fn size(&self, hash: &Hash) -> Result<u64, EdgeError> {
        let task = Task { action: Action::Size, hash: *hash };
        let path = self.base.join(blob_path(hash));
        let target = path.clone();
        self.work(task, &path, move || regular_len(&target)).await
    }

    async fn group_file(&self, hash: &Hash, len_max: u64) -> Result<Option<Bytes>, EdgeError> {
        let task = Task { action: Action::GroupList, hash: *hash };
        let path = self.base.join(groups_path(hash));
        let (file, len) = match self.open(task, path.clone()).await {
            Ok(opened) => opened,
            Err(EdgeError::Protocol { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(len) = usize::try_from(len).ok().filter(|_| len <= len_max) else {
            return Ok(None);
        };
        let read = move || {
            let mut bytes = vec![0; len];
            let got = files::read_at(&file, &mut bytes, 0)?;
            bytes.truncate(got);
            Ok(bytes)
        };
        Ok(Some(Bytes::from(self.work(task, &path, read).await?)))
    }

    async fn read(&self, hash: &Hash, range: Option<Range<u64>>) -> Result<EdgeBody, EdgeError> {
        let task = Task { action: Action::Read, hash: *hash };
        let path = self.base.join(blob_path(hash));
        let (file, size) = self.open(task, path.clone()).await?;
        if size > self.blob_bytes_max {
            let breach = Breach::TooLarge { size, size_max: self.blob_bytes_max };
            return Err(EdgeError::Protocol { task, breach });
        }
        let promise = Promise::of(range, size, task)?;
        Ok(EdgeBody::file(promise, file, path, self.wait_max, task))
    }

    async fn push(&self, mut push: Push<'_>) -> Result<Pushed, EdgeError> {
        let task = Task { action: Action::Push, hash: push.hash };
        let blob = self.base.join(blob_path(&push.hash));
        let existed = !push.absent && self.has(task, blob, push.source.size()).await?;
        if !existed {
            self.put_blob(task, &mut push).await?;
        }
        if let Some(file) = push.group_file {
            let len = u64::try_from(file.len()).unwrap_or(u64::MAX);
            let list = self.base.join(groups_path(&push.hash));
            if !existed || !self.has(task, list, len).await? {
                self.put_list(task, file).await?;
            }
        }
        Ok(Pushed { existed })
    }

    async fn diagnose(&self) -> Vec<Finding> {
        diagnose::directory(&self.base, self.wait_max).await
    }
}

/// Returns the length of a regular file. Anything else, such as a pipe that would block whoever opens
/// it, gives the error that a directory does.
fn regular_len(path: &Path) -> io::Result<u64> {
    let metadata = fs::metadata(path)?;
    if metadata.is_file() { Ok(metadata.len()) } else { Err(io::ErrorKind::IsADirectory.into()) }
}

/// Is a file on its way to its name; removed when it is dropped before.
#[derive(Debug)]
struct Staged {
    file: File,
    /// Where it is now; none once it has its name.
    path: Option<PathBuf>,
    target: PathBuf,
    /// How many bytes were written since the last sync.
    unsynced: usize,
}

impl Staged {
    /// Makes an empty file beside `target`, and what directories are missing below `base`.
    fn new(base: &Path, target: PathBuf) -> io::Result<Self> {
        let shard = target.parent().unwrap_or(base);
        make_directories(base, shard)?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::from)?;
        let name = format!(".push-{:016x}", u64::from_le_bytes(random));
        let path = shard.join(name);
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(Self { file, path: Some(path), target, unsynced: 0 })
    }

    fn append(mut self, bytes: &[u8]) -> io::Result<Self> {
        self.file.write_all(bytes)?;
        self.unsynced += bytes.len();
        if self.unsynced >= SYNC_LEN {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(self)
    }

    /// Gives the file its name, durably.
    fn publish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        if let Some(path) = &self.path {
            fs::rename(path, &self.target)?;
        }
        self.path = None;
        self.target.parent().map_or(Ok(()), files::sync_directory)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // A file that cannot be removed does no harm: no hash leads to its name.
            let _removed = fs::remove_file(path);
        }
    }
}

/// Makes `base/blobs/ab` where missing, never `base` itself, and makes each new name durable.
fn make_directories(base: &Path, shard: &Path) -> io::Result<()> {
    for directory in [&base.join("blobs"), shard] {
        match fs::create_dir(directory) {
            Ok(()) => directory.parent().map_or(Ok(()), files::sync_directory)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_never_got_its_name_leaves_nothing_behind() {
        let base = tempfile::tempdir().expect("a directory");
        let target = base.path().join("blobs/ab/cdef");
        let staged = Staged::new(base.path(), target.clone()).expect("staged");
        let staged = staged.append(b"half").expect("written");
        let shard = target.parent().expect("a parent");
        assert_eq!(fs::read_dir(shard).expect("listed").count(), 1);
        drop(staged);
        assert_eq!(fs::read_dir(shard).expect("listed").count(), 0);
    }

    #[test]
    fn missing_base_is_not_made() {
        let base = tempfile::tempdir().expect("a directory");
        let gone = base.path().join("not mounted");
        assert!(Staged::new(&gone, gone.join("blobs/ab/cd")).is_err());
        assert!(!gone.exists());
    }
}
