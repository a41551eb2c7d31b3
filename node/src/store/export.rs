//! How a blob gets out: to a file of the user's, whole and checked or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::group_count;

use super::error::StoreError;
use super::read::BlobReader;
use super::{Store, sys};
use crate::stop::Stop;

/// The bytes copied between two looks whether to stop: some tens of milliseconds of work.
const PIECE_LEN: u64 = 32 << 20;

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
        self.export_unless(&Stop::default(), hash, dest, force)
    }

    /// Does the same, unless it is stopped before its end.
    ///
    /// # Errors
    /// As [`export`](Self::export), and [`StoreError::Closed`] where it was stopped.
    pub(crate) fn export_unless(
        &self,
        stop: &Stop,
        hash: &Hash,
        dest: &Path,
        force: bool,
    ) -> Result<u64, StoreError> {
        let dest = self.check_output(dest, force)?;
        let reader = self.open_blob(hash)?.ok_or(StoreError::Absent { hash: *hash })?;
        let output = Output::create(&dest)?;
        copy(&reader, &output, stop)?;
        check(stop)?;
        output.publish(&dest, force)?;
        Ok(reader.size())
    }

    /// Checks where an output is to go, and returns its path with a canonical directory.
    ///
    /// # Errors
    /// `NotAFile` and the `Output…` errors of [`export`](Self::export); so a get can fail before it fetches.
    pub fn check_output(&self, dest: &Path, force: bool) -> Result<PathBuf, StoreError> {
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

/// Is a file beside the output that is removed unless it gets the output's name.
#[derive(Debug)]
struct Output {
    file: File,
    path: PathBuf,
    kept: bool,
}

impl Output {
    fn create(dest: &Path) -> Result<Self, StoreError> {
        // A random name of its own: the output's name may be as long as names can be.
        let mut random = [0; 8];
        getrandom::fill(&mut random)
            .map_err(|error| StoreError::io("name", dest)(io::Error::other(error)))?;
        let name = format!(".blobmesh-{:016x}.tmp", u64::from_le_bytes(random));
        let path = dest.with_file_name(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o644);
        let file = options.open(&path).map_err(StoreError::io("create", &path))?;
        Ok(Self { file, path, kept: false })
    }

    fn publish(mut self, dest: &Path, force: bool) -> Result<(), StoreError> {
        let named =
            if force { fs::rename(&self.path, dest) } else { sys::rename_new(&self.path, dest) };
        match named {
            Ok(()) => {
                self.kept = true;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(StoreError::OutputExists { path: dest.to_owned() })
            }
            Err(error) => Err(StoreError::io("rename", dest)(error)),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.kept {
            fs::remove_file(&self.path).ok();
        }
    }
}

fn copy(reader: &BlobReader, output: &Output, stop: &Stop) -> Result<(), StoreError> {
    if let Some(file) = reader.file() {
        if sys::reflink(&output.file, file) {
            reader.verify_while(|| check(stop).is_ok())?;
            return check(stop);
        }
        if reader.is_verified() {
            return copy_file(file, output, stop);
        }
    }
    copy_groups(reader, output, stop)
}

/// Copies a file that is known to be right; the kernel does it where it can.
fn copy_file(file: &File, output: &Output, stop: &Stop) -> Result<(), StoreError> {
    let failed = || StoreError::io("write", &output.path);
    let mut source = file.try_clone().map_err(failed())?;
    io::Seek::rewind(&mut source).map_err(failed())?;
    loop {
        check(stop)?;
        let mut piece = (&source).take(PIECE_LEN);
        if io::copy(&mut piece, &mut &output.file).map_err(failed())? == 0 {
            return Ok(());
        }
    }
}

fn check(stop: &Stop) -> Result<(), StoreError> {
    if stop.is_wanted() { Err(StoreError::Closed) } else { Ok(()) }
}

/// Copies group by group, each checked before it is written.
fn copy_groups(reader: &BlobReader, output: &Output, stop: &Stop) -> Result<(), StoreError> {
    let mut buf = Vec::new();
    for index in 0..group_count(reader.size()) {
        check(stop)?;
        reader.read_group(index, &mut buf)?;
        (&output.file).write_all(&buf).map_err(StoreError::io("write", &output.path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreConfig;

    #[test]
    fn export_that_is_stopped_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = StoreConfig::new(dir.path().join("store"), 1 << 24, 1 << 20);
        let (store, _) = Store::open(config).expect("open");
        let out = dir.path().join("out");
        for bytes in [b"small".to_vec(), vec![7; 200_000]] {
            let hash = Hash::of(&bytes);
            store.put_whole(&hash, &bytes).expect("put");
            fs::create_dir(&out).expect("a directory");
            let stop = Stop::default();
            stop.stop();
            let stopped = store.export_unless(&stop, &hash, &out.join("blob"), false);
            assert!(matches!(stopped, Err(StoreError::Closed)), "{stopped:?}");
            fs::remove_dir(&out).expect("it is empty");
        }
    }
}
