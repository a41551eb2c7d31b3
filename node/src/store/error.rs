//! What can go wrong in the store, and whose trouble it is.

use std::io;
use std::path::{Path, PathBuf};

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::GroupError;

use crate::control::api::Trouble;

/// Says what the store was doing and why it could not.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused; the cause is the source.
    #[error("failed to {action} {path}")]
    Io {
        /// What was being done, such as `write` or `rename`.
        action: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The device is full. Nothing was lost and nothing was left behind.
    #[error("no space is left on the device of {path}")]
    DiskFull {
        /// The file that could not be written.
        path: PathBuf,
    },
    /// The bytes do not fit under the store's bound, even if all that may be evicted were.
    #[error("no room for {need} bytes under the store's bound of {bytes_max}")]
    NoSpace {
        /// The bytes asked for.
        need: u64,
        /// The bound in bytes.
        bytes_max: u64,
    },
    /// A blob is larger than one blob may be.
    #[error("a blob of {size} bytes or more is above the bound of {blob_bytes_max}")]
    TooLarge {
        /// The size, or as much of it as was seen.
        size: u64,
        /// The bound in bytes.
        blob_bytes_max: u64,
    },
    /// Another process holds the store.
    #[error("the store {path} is held by {}", Holder(*.pid))]
    Locked {
        /// The directory of the store.
        path: PathBuf,
        /// The holder, where it could be learned.
        pid: Option<u32>,
    },
    /// A newer program wrote the store. Nothing was changed.
    #[error("the store {path} has format {found}, this program reads up to {supported}")]
    FormatNewer {
        /// The directory of the store.
        path: PathBuf,
        /// The format it has.
        found: u64,
        /// The newest format this program reads.
        supported: u64,
    },
    /// The directory holds something that is not a store. Nothing was changed.
    #[error("the directory {path} is not a store: it is not empty and has no valid FORMAT file")]
    NotAStore {
        /// The directory.
        path: PathBuf,
    },
    /// The list of pins cannot be read; opening without it could evict what it protects.
    #[error("the list of pins {path} is damaged")]
    PinsDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
    /// The blob is not in the store.
    #[error("blob {} is not in the store", .hash.fmt_short())]
    Absent {
        /// The blob.
        hash: Hash,
    },
    /// The blob is pinned, and force was not asked for.
    #[error("blob {} is pinned", .hash.fmt_short())]
    Pinned {
        /// The blob.
        hash: Hash,
    },
    /// The stored bytes are no longer the blob's. They have been taken out of the store.
    #[error("stored bytes of blob {} have rotted and were taken out of the store", .hash.fmt_short())]
    Rot {
        /// The blob.
        hash: Hash,
    },
    /// Bytes that were handed in are not the blob's.
    #[error("bytes given for blob {} have the hash {}", .expected.fmt_short(), .found.fmt_short())]
    WrongHash {
        /// The blob they were given for.
        expected: Hash,
        /// What they hash to.
        found: Hash,
    },
    /// A group that was handed in, or asked for, is not one of the blob's.
    #[error("a group of blob {} was refused", .hash.fmt_short())]
    BadGroup {
        /// The blob.
        hash: Hash,
        /// What is wrong with the group.
        source: GroupError,
    },
    /// A partial blob was finished before all its groups were there, or some had rotted.
    #[error("blob {} still misses {missing} groups", .hash.fmt_short())]
    Incomplete {
        /// The blob.
        hash: Hash,
        /// How many groups it misses.
        missing: u64,
    },
    /// A file changed while it was being added.
    #[error("the file {path} changed while it was read")]
    FileChanged {
        /// The file.
        path: PathBuf,
    },
    /// A directory, pipe, socket or device cannot be added.
    #[error("{path} is not a regular file")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The output exists, and force was not asked for.
    #[error("the output {path} exists")]
    OutputExists {
        /// The output.
        path: PathBuf,
    },
    /// The directory that should hold the output does not exist.
    #[error("the directory {path} of the output does not exist")]
    OutputDirectoryMissing {
        /// The directory.
        path: PathBuf,
    },
    /// The output lies inside the store.
    #[error("the output {path} lies inside the store")]
    OutputInStore {
        /// The output.
        path: PathBuf,
    },
}

impl StoreError {
    /// Says what kind of trouble it is, for exit codes and hints.
    pub fn kind(&self) -> Trouble {
        match self {
            Self::Io { .. } | Self::NotAFile { .. } => Trouble::File,
            Self::DiskFull { .. } | Self::NoSpace { .. } => Trouble::NoSpace,
            Self::TooLarge { .. } => Trouble::TooLarge,
            Self::Locked { .. } => Trouble::StoreLocked,
            Self::FormatNewer { .. } => Trouble::FormatNewer,
            Self::NotAStore { .. } | Self::PinsDamaged { .. } => Trouble::StoreDamaged,
            Self::Closed => Trouble::Interrupted,
            Self::Absent { .. } => Trouble::NotFound,
            Self::Pinned { .. } => Trouble::Pinned,
            Self::Rot { .. } | Self::WrongHash { .. } | Self::BadGroup { .. } => {
                Trouble::WrongBytes
            }
            Self::Incomplete { .. } => Trouble::Partial,
            Self::FileChanged { .. } => Trouble::FileChanged,
            Self::OutputExists { .. } => Trouble::OutputExists,
            Self::OutputDirectoryMissing { .. } => Trouble::OutputDirectoryMissing,
            Self::OutputInStore { .. } => Trouble::Usage,
        }
    }

    /// Returns the adapter that names `action` and `path` in an I/O error.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| {
            let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
            if full.contains(&source.kind()) {
                return Self::DiskFull { path };
            }
            Self::Io { action, path, source }
        }
    }
}

/// Names the holder of a lock in a sentence.
struct Holder(Option<u32>);

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("another process"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disk_is_told_apart_from_other_io_trouble() {
        let path = Path::new("/store/tmp/1");
        let full = StoreError::io("write", path)(io::ErrorKind::StorageFull.into());
        assert_eq!(full.kind(), Trouble::NoSpace);
        let denied = StoreError::io("write", path)(io::ErrorKind::PermissionDenied.into());
        assert_eq!(denied.kind(), Trouble::File);
        assert_eq!(denied.to_string(), "failed to write /store/tmp/1");
    }

    #[test]
    fn lock_error_names_the_holder() {
        let locked = |pid| StoreError::Locked { path: "/store".into(), pid }.to_string();
        assert_eq!(locked(Some(42)), "the store /store is held by process 42");
        assert_eq!(locked(None), "the store /store is held by another process");
    }
}
