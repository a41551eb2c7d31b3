//! How a blob gets out: to a file of the user's, whole and checked or not at all.
//!
//! What is fetched is in the kernel's memory when it comes, and copied to the output from there while the rest is on its
//! way: a copy of all of it behind the fetch took as long as the fetch.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{GroupSet, group_count, group_len, group_offset};

use super::error::StoreError;
use super::files::parent;
use super::output::Output;
use super::partial::Partial;
use super::read::BlobReader;
use super::space::HeldSet;
use super::{Store, sys};
use crate::stop::Stop;

/// How many groups are copied between two looks whether to stop: 32 MiB, some tens of milliseconds of work.
const PIECE_GROUPS: u64 = 512;
/// How long a blob is at least that is copied while it comes, in bytes: a shorter one is copied in a few milliseconds.
const FOLLOWED_BYTES_MIN: u64 = 8 << 20;

impl Store {
    /// Writes a blob to the file `dest` and returns its length in bytes.
    ///
    /// The bytes are shared with the store's where the file system can (xfs, btrfs), and copied
    /// elsewhere. They are checked before the file has its name; nothing is left behind by a failure.
    /// The mode is 0644 less the umask. Like `cp`, this does not sync.
    ///
    /// # Errors
    /// [`StoreError::Absent`], [`StoreError::OutputExists`] if `dest` exists and `force` is false (also
    /// when it appears meanwhile) or is a directory, [`StoreError::OutputDirectoryMissing`],
    /// [`StoreError::NotAFile`] if it is a pipe or a device, which no file replaces,
    /// [`StoreError::OutputInStore`], [`StoreError::Rot`], [`StoreError::DiskFull`] or
    /// [`StoreError::Io`].
    pub fn export(&self, hash: &Hash, dest: &Path, force: bool) -> Result<u64, StoreError> {
        self.begin_export(hash, dest, force)?.finish(&Stop::default())
    }

    /// Begins to do so, before the blob has come. Nothing is written by this.
    ///
    /// # Errors
    /// Those of [`export`](Self::export) that are of `dest`.
    pub(crate) fn begin_export(
        &self,
        hash: &Hash,
        dest: &Path,
        force: bool,
    ) -> Result<Export, StoreError> {
        let dest = self.check_output(dest, force)?;
        let (store, hash, held) = (self.clone(), *hash, Some(self.hold([*hash])));
        Ok(Export { store, hash, dest, force, held, begun: None, follows: true })
    }

    /// Checks where an output is to go, and returns its path with a canonical directory.
    fn check_output(&self, dest: &Path, force: bool) -> Result<PathBuf, StoreError> {
        let exists = || StoreError::OutputExists { path: dest.to_owned() };
        let Some(name) = dest.file_name() else { return Err(exists()) };
        let dir = dest.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = dir.unwrap_or(Path::new("."));
        let missing = || StoreError::OutputDirectoryMissing { path: dir.to_owned() };
        let dir = match dir.canonicalize() {
            Ok(canonical) if canonical.is_dir() => canonical,
            Ok(_) => return Err(missing()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(missing()),
            Err(error) => return Err(StoreError::io("open", dir)(error)),
        };
        if dir.starts_with(self.inner.catalog.files().root()) {
            return Err(StoreError::OutputInStore { path: dest.to_owned() });
        }
        let dest = dir.join(name);
        if fs::metadata(&dest).is_ok_and(|meta| !meta.is_file() && !meta.is_dir()) {
            return Err(StoreError::NotAFile { path: dest });
        }
        // A link is replaced as such, so it is not followed here.
        match fs::symlink_metadata(&dest) {
            Ok(meta) if meta.is_dir() || !force => Err(exists()),
            _ => Ok(dest),
        }
    }
}

/// Is a blob on its way to a file of the user's. Dropping it leaves nothing of the file.
#[derive(Debug)]
pub(crate) struct Export {
    pub(super) store: Store,
    pub(super) hash: Hash,
    pub(super) dest: PathBuf,
    pub(super) force: bool,
    /// Keeps the blob in the store once it is there.
    pub(super) held: Option<HeldSet>,
    pub(super) begun: Option<Begun>,
    /// Whether what comes is copied at once.
    follows: bool,
}

/// Is an output with what is copied so far.
#[derive(Debug)]
pub(super) struct Begun {
    output: Output,
    copied: GroupSet,
}

impl Export {
    /// Returns whether it is of use to [follow](Self::follow) what comes.
    pub(crate) fn follows(&self) -> bool {
        self.follows
    }

    /// Copies nothing ahead.
    pub(crate) fn wait_for_all(&mut self) {
        self.follows = false;
    }

    /// Copies of what has come and is checked as much as is some tens of milliseconds of work; returns whether it was anything.
    /// A failure is left to [`finish`](Self::finish) to meet.
    pub(crate) fn follow(&mut self) -> bool {
        let Some(partial) = self.store.inner.partials.working(&self.hash).filter(|_| self.follows)
        else {
            return false;
        };
        let copied = self.copy_some(&Partial::of(partial));
        copied.unwrap_or_else(|error| {
            tracing::debug!(%error, "an output is written once its blob is whole");
            (self.begun, self.follows) = (None, false);
            false
        })
    }

    fn copy_some(&mut self, partial: &Partial) -> Result<bool, StoreError> {
        let size = partial.list().size();
        if size < FOLLOWED_BYTES_MIN {
            self.follows = false;
            return Ok(false);
        }
        let begun = match self.begun.take() {
            Some(begun) => begun,
            None => {
                // What there is room for once is the store's.
                let missing = size.saturating_sub(group_offset(partial.held().held()));
                if sys::disk_free(parent(&self.dest)).is_some_and(|free| free < size + missing) {
                    self.follows = false;
                    return Ok(false);
                }
                let begun = Begun::new(&self.dest, size)?;
                // Then all of it is shared in no time, once it is whole.
                self.follows = !sys::reflink(&begun.output.file, partial.file());
                if !self.follows {
                    return Ok(false);
                }
                begun
            }
        };
        let begun = self.begun.insert(begun);
        let (checked, most) = (partial.checked(), usize::try_from(PIECE_GROUPS).unwrap_or(1));
        let some: Vec<u64> = checked.beyond(&begun.copied).take(most).collect();
        for run in some.chunk_by(|one, next| one + 1 == *next) {
            if let (Some(first), Some(last)) = (run.first(), run.last()) {
                begun.copy(partial.file(), size, *first..last + 1)?;
            }
        }
        Ok(!some.is_empty())
    }

    /// Writes what is left of the blob, which is in the store now, and gives the file its name, unless it is stopped
    /// before. Returns the blob's length in bytes.
    ///
    /// # Errors
    /// As [`Store::export`], and [`StoreError::Closed`] where it was stopped.
    pub(crate) fn finish(self, stop: &Stop) -> Result<u64, StoreError> {
        let Self { store, hash, dest, force, begun, .. } = self;
        let reader = store.open_blob(&hash)?.ok_or(StoreError::Absent { hash })?;
        let mut begun = match begun {
            Some(begun) => begun,
            None => Begun::new(&dest, reader.size())?,
        };
        begun.copy_rest(&reader, stop)?;
        check(stop)?;
        begun.output.publish(force)?;
        Ok(reader.size())
    }
}

impl Begun {
    fn new(dest: &Path, size: u64) -> Result<Self, StoreError> {
        Ok(Self { output: Output::create(dest)?, copied: GroupSet::new(group_count(size)) })
    }

    fn copy_rest(&mut self, reader: &BlobReader, stop: &Stop) -> Result<(), StoreError> {
        if let Some(file) = reader.file() {
            if self.copied.held() == 0 && sys::reflink(&self.output.file, file) {
                reader.verify_while(|| check(stop).is_ok())?;
                return check(stop);
            }
            if reader.is_verified() {
                return self.copy_file(file, reader.size(), stop);
            }
        }
        self.copy_groups(reader, stop)
    }

    /// Copies what is left of a file that is known to be right.
    fn copy_file(&mut self, file: &File, size: u64, stop: &Stop) -> Result<(), StoreError> {
        for mut run in self.copied.missing() {
            while !run.is_empty() {
                check(stop)?;
                let end = run.end.min(run.start + PIECE_GROUPS);
                self.copy(file, size, run.start..end)?;
                run.start = end;
            }
        }
        Ok(())
    }

    /// Copies groups of a file that are known to be right; the kernel does it where it can.
    fn copy(&mut self, file: &File, size: u64, groups: Range<u64>) -> Result<(), StoreError> {
        let bytes = group_offset(groups.start)..group_offset(groups.end).min(size);
        if !sys::copy_range(file, &self.output.file, &bytes) {
            let mut buf = Vec::new();
            for index in groups.clone() {
                buf.resize(group_len(size, index), 0);
                let at = group_offset(index);
                let copied = sys::read_exact_at(file, &mut buf, at);
                let copied = copied.and_then(|()| sys::write_all_at(&self.output.file, &buf, at));
                copied.map_err(self.output.failed())?;
            }
        }
        groups.for_each(|index| {
            self.copied.insert(index);
        });
        Ok(())
    }

    /// Copies what is left group by group, each checked before it is written.
    fn copy_groups(&mut self, reader: &BlobReader, stop: &Stop) -> Result<(), StoreError> {
        let mut buf = Vec::new();
        for index in self.copied.missing().into_iter().flatten() {
            check(stop)?;
            reader.read_group(index, &mut buf)?;
            sys::write_all_at(&self.output.file, &buf, group_offset(index))
                .map_err(self.output.failed())?;
        }
        Ok(())
    }
}

fn check(stop: &Stop) -> Result<(), StoreError> {
    if stop.is_wanted() { Err(StoreError::Closed) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use blobmesh_protocol::blob::{BlobHasher, GROUP_LEN};

    use super::*;
    use crate::store::StoreConfig;

    fn store(dir: &Path) -> Store {
        let config = StoreConfig::new(dir.join("store"), 1 << 26, 1 << 25);
        Store::open(config).expect("open").0
    }

    #[test]
    fn export_that_is_stopped_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(dir.path());
        let out = dir.path().join("out");
        for bytes in [b"small".to_vec(), vec![7; 200_000]] {
            let hash = Hash::of(&bytes);
            store.put_whole(&hash, &bytes).expect("put");
            fs::create_dir(&out).expect("a directory");
            let stop = Stop::default();
            stop.stop();
            let export = store.begin_export(&hash, &out.join("blob"), false).expect("begun");
            let stopped = export.finish(&stop);
            assert!(matches!(stopped, Err(StoreError::Closed)), "{stopped:?}");
            fs::remove_dir(&out).expect("it is empty");
        }
    }

    #[test]
    fn what_comes_is_copied_at_once_and_the_rest_once_it_is_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(dir.path());
        let mut bytes = vec![0; usize::try_from(FOLLOWED_BYTES_MIN).expect("small") + 9];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let mut hasher = BlobHasher::new();
        hasher.update(&bytes);
        let list = hasher.finish();
        let (hash, groups) = (list.hash(), group_count(list.size()));
        let out = dir.path().join("out");
        let mut export = store.begin_export(&hash, &out, false).expect("begun");
        assert!(!export.follow(), "nobody fetches it");
        let partial = store.partial(list).expect("partial");
        let group = |index: u64| {
            let start = usize::try_from(group_offset(index)).expect("small");
            let end = (start + usize::try_from(GROUP_LEN).expect("small")).min(bytes.len());
            partial.write_group(index, &bytes[start..end]).expect("right");
        };
        group(groups - 1);
        (3..50).for_each(group);
        export.follow();
        if export.follows() {
            let begun = export.begun.as_ref().expect("an output");
            assert_eq!((begun.copied.held(), export.follow()), (48, false));
        }
        assert!(fs::metadata(&out).is_err(), "it has no name yet");
        (0..groups - 1).for_each(group);
        partial.finish().expect("whole");
        assert_eq!(export.finish(&Stop::default()).expect("written"), bytes.len() as u64);
        assert!(fs::read(&out).expect("read") == bytes);
    }
}
