//! Files in `tmp/`, where every file begins.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::error::StoreError;

/// Is a file in `tmp/` that is removed unless it gets its final name.
#[derive(Debug)]
pub(super) struct TempFile {
    file: File,
    name: TempName,
}

impl TempFile {
    /// Makes an empty file of a mode that keeps others out.
    pub(super) fn create(path: PathBuf, mode: u32) -> Result<Self, StoreError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
        let file = options.open(&path).map_err(StoreError::io("create", &path))?;
        Ok(Self { file, name: TempName { path, kept: false } })
    }

    /// Returns the open file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Returns where it lies now.
    pub(super) fn path(&self) -> &Path {
        self.name.path()
    }

    /// Appends `bytes`.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<(), StoreError> {
        (&self.file).write_all(bytes).map_err(StoreError::io("write", self.path()))
    }

    /// Syncs bytes, length and mode to the device.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_all().map_err(StoreError::io("sync", self.path()))
    }

    /// Closes the file, which stays in `tmp/` as long as what is returned.
    pub(super) fn close(self) -> TempName {
        self.name
    }

    /// Says that it has its final name.
    pub(super) fn keep(self) {
        self.name.keep();
    }
}

/// Is a closed file in `tmp/` that is removed unless it gets its final name.
#[derive(Debug)]
pub(super) struct TempName {
    path: PathBuf,
    kept: bool,
}

impl TempName {
    /// Returns where it lies now.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Says that it has its final name.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for TempName {
    fn drop(&mut self) {
        if !self.kept {
            fs::remove_file(&self.path).ok();
        }
    }
}
