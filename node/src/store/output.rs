//! Files of the user's that are written whole or not at all.
//!
//! Where the file system can, a file has no name before it is done (`O_TMPFILE`): whatever ends the process, nothing of it
//! is left. Elsewhere it has a name of its own beside the one it is to get.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::files::parent;
use super::sys;

/// Is a file in the directory of the output that goes unless it gets the output's name.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) file: File,
    /// Where it is to be; for what is told of failures.
    dest: PathBuf,
    /// The name it has meanwhile.
    named: Option<Named>,
}

/// Removes a name when it is dropped.
#[derive(Debug)]
struct Named(PathBuf);

impl Drop for Named {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

impl Output {
    /// Makes a file for the path `dest`, with mode 0644 less the umask.
    pub(super) fn create(dest: &Path) -> Result<Self, StoreError> {
        let dest = dest.to_owned();
        if let Some(file) = sys::create_unnamed(parent(&dest), 0o644) {
            return Ok(Self { file, dest, named: None });
        }
        let path = name_beside(&dest)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o644);
        let file = options.open(&path).map_err(StoreError::io("create", &path))?;
        Ok(Self { file, dest, named: Some(Named(path)) })
    }

    /// Returns the permission bits that it was made with.
    pub(super) fn mode(&self) -> io::Result<u32> {
        Ok(sys::mode(&self.file.metadata()?))
    }

    /// Returns what makes an error of one in writing.
    pub(super) fn failed(&self) -> impl FnOnce(io::Error) -> StoreError {
        StoreError::io("write", &self.dest)
    }

    /// Gives the file its name, in place of another one only with `force`.
    pub(super) fn publish(self, force: bool) -> Result<(), StoreError> {
        let Self { file, dest, named } = self;
        let done = match named {
            None if !force => sys::name_file(&file, &dest),
            named => rename(&file, named, &dest, force)?,
        };
        match done {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(StoreError::OutputExists { path: dest })
            }
            done => done.map_err(StoreError::io("rename", &dest)),
        }
    }
}

/// Renames a file to `dest`; one without a name gets one before, as a name cannot be given to two files at once.
fn rename(
    file: &File,
    named: Option<Named>,
    dest: &Path,
    force: bool,
) -> Result<io::Result<()>, StoreError> {
    let named = match named {
        Some(named) => named,
        None => {
            let path = name_beside(dest)?;
            sys::name_file(file, &path).map_err(StoreError::io("create", &path))?;
            Named(path)
        }
    };
    let renamed = sys::rename_to(&named.0, dest, force);
    if renamed.is_ok() {
        // The name is gone; another file of that name would not be ours.
        std::mem::forget(named);
    }
    Ok(renamed)
}

/// Returns a random name in the directory of a file: the file's own may be as long as names can be.
fn name_beside(dest: &Path) -> Result<PathBuf, StoreError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random)
        .map_err(|error| StoreError::io("name", dest)(io::Error::other(error)))?;
    Ok(dest.with_file_name(format!(".blobmesh-{:016x}.tmp", u64::from_le_bytes(random))))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn output_has_no_name_or_goes_with_it_and_replaces_only_when_told_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let dest = dir.path().join("output");
        let names = || {
            let entries = fs::read_dir(dir.path()).expect("list").flatten();
            entries.map(|entry| entry.file_name()).collect::<Vec<_>>()
        };
        for is_named in [false, true] {
            let output = |bytes: &[u8]| {
                let mut output = Output::create(&dest).expect("create");
                if is_named && output.named.is_none() {
                    let path = name_beside(&dest).expect("random");
                    sys::name_file(&output.file, &path).expect("named");
                    output.named = Some(Named(path));
                }
                output.file.write_all(bytes).expect("write");
                output
            };
            drop(output(b"dropped"));
            assert!(names().is_empty(), "{:?}", names());
            output(b"first").publish(false).expect("no file is there");
            let refused = output(b"second").publish(false);
            assert!(matches!(refused, Err(StoreError::OutputExists { .. })), "{refused:?}");
            assert_eq!(fs::read(&dest).expect("read"), b"first");
            output(b"third").publish(true).expect("replaced");
            assert_eq!(fs::read(&dest).expect("read"), b"third");
            assert_eq!(names(), ["output"]);
            fs::remove_file(&dest).expect("remove");
        }
    }
}
