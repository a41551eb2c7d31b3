//! Why a directory could not be added.

use std::io;
use std::path::PathBuf;

use blobmesh_protocol::tree::ManifestError;

use crate::control::api::Trouble;
use crate::store::StoreError;

/// Says why a directory could not be added.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScanError {
    /// The operating system refused; the cause is the source.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// There is no directory of this name.
    #[error("{} is not a directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The directory is the store's, or lies in it.
    #[error("{} belongs to the store", path.display())]
    InStore {
        /// The directory.
        path: PathBuf,
    },
    /// A file was written to while it was read, and when it was read again.
    #[error("{} changed while it was read, twice", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A directory is larger or deeper than a tree may be.
    #[error("{} does not fit into a tree", path.display())]
    Tree {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: ManifestError,
    },
    /// The store could not take it in.
    #[error(transparent)]
    Store(StoreError),
    /// Nobody waits for it.
    #[error("nobody waits for the directory to be added")]
    Canceled,
}

impl ScanError {
    /// Says what kind of trouble it is, for exit codes and hints.
    pub(crate) fn kind(&self) -> Trouble {
        match self {
            Self::Io { .. } => Trouble::File,
            Self::NotADirectory { .. } | Self::InStore { .. } | Self::Tree { .. } => Trouble::Usage,
            Self::Changed { .. } => Trouble::FileChanged,
            Self::Store(error) => error.kind(),
            Self::Canceled => Trouble::Interrupted,
        }
    }
}
