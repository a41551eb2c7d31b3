//! What can go wrong with a checkout, and whose trouble it is.

use std::io;
use std::path::{Path, PathBuf};

use blobmesh_protocol::Hash;
use blobmesh_protocol::tree::{CheckError, DiffError, LoadError, ManifestError, UnsafeEntry};

use super::Recovered;
use super::load::SourceError;
use crate::control::api::Trouble;
use crate::store::StoreError;

/// Says why a tree was not checked out. Unless a variant says otherwise nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// The operating system refused; the cause is the source.
    #[error("failed to {action} {}", shown(path))]
    Io {
        /// What was being done, such as `create`.
        action: &'static str,
        /// To what, below the directory of the checkout.
        path: Vec<u8>,
        /// What the operating system said.
        source: io::Error,
    },
    /// The device is full.
    #[error("no space is left for {}", shown(path))]
    DiskFull {
        /// What could not be written.
        path: Vec<u8>,
    },
    /// The store failed, or a blob of the tree has rotted.
    #[error("failed to read {} out of the store", shown(path))]
    Blob {
        /// The file of the tree.
        path: Vec<u8>,
        /// What the store said.
        source: StoreError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An entry of the tree must not be written.
    #[error(transparent)]
    Unsafe(#[from] UnsafeEntry),
    /// The blob that was named is no tree at all.
    #[error("blob {} is no tree", hash.fmt_short())]
    NotATree {
        /// The blob.
        hash: Hash,
    },
    /// A blob is no manifest that can be used.
    #[error("blob {} is no manifest that can be used", hash.fmt_short())]
    Manifest {
        /// The blob.
        hash: Hash,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// The tree lies about the length of a blob.
    #[error("unsafe tree entry \"{}\": blob {} has {found} bytes, and not {size}", shown(path), hash.fmt_short())]
    Length {
        /// The file of the tree.
        path: Vec<u8>,
        /// Its blob.
        hash: Hash,
        /// What the tree says.
        size: u64,
        /// The blob's length in bytes.
        found: u64,
    },
    /// A manifest of the tree is not in the store, so that nobody knows what else is missing.
    #[error("manifest {} of the tree is not in the store", hash.fmt_short())]
    ManifestMissing {
        /// The manifest.
        hash: Hash,
    },
    /// Blobs of the tree are not in the store.
    #[error("{blobs} of the tree's blobs are not in the store, of {bytes} bytes")]
    Missing {
        /// How many.
        blobs: u64,
        /// Their bytes together.
        bytes: u64,
    },
    /// The directory cannot be one of a checkout.
    #[error("cannot check out into {}: {reason}", path.display())]
    Refused {
        /// The directory.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// The directory's own directory does not exist.
    #[error("the directory {} does not exist", path.display())]
    ParentMissing {
        /// The directory that should hold that of the checkout.
        path: PathBuf,
    },
    /// The directory holds something that is no checkout.
    #[error("{} is not empty, and no checkout", path.display())]
    NotACheckout {
        /// The directory.
        path: PathBuf,
    },
    /// Somebody else works on the directory.
    #[error("another checkout into {} is under way", path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// What the directory remembers of its last checkout cannot be read.
    #[error("what {} remembers of its last checkout is damaged", path.display())]
    StateDamaged {
        /// The directory.
        path: PathBuf,
    },
    /// Files were changed, or are not of the checkout, that would be replaced or removed.
    #[error("{count} paths in {} were changed since they were checked out, or are not of the checkout", path.display())]
    InTheWay {
        /// The directory.
        path: PathBuf,
        /// How many there are.
        count: u64,
        /// Up to [`IN_THE_WAY_MAX`](super::IN_THE_WAY_MAX) of them.
        paths: Vec<Vec<u8>>,
    },
    /// Another error, after an interrupted checkout was finished or cleared away.
    #[error("{error}")]
    AfterRecovery {
        /// What was found of it.
        recovered: Recovered,
        /// The error.
        error: Box<CheckoutError>,
    },
    /// The work was stopped.
    #[error("the checkout was stopped")]
    Stopped,
    /// A thread was lost.
    #[error("a worker thread was lost")]
    Worker,
}

impl CheckoutError {
    /// Says what kind of trouble it is, for exit codes and hints.
    pub fn kind(&self) -> Trouble {
        match self {
            Self::Io { .. } | Self::Busy { .. } | Self::StateDamaged { .. } => Trouble::File,
            Self::DiskFull { .. } => Trouble::NoSpace,
            Self::Blob { source, .. } | Self::Store(source) => source.kind(),
            Self::Unsafe(_) | Self::Manifest { .. } | Self::Length { .. } => Trouble::UnsafeTree,
            Self::NotATree { .. } => Trouble::NotATree,
            Self::ManifestMissing { .. } | Self::Missing { .. } => Trouble::TreeIncomplete,
            Self::Refused { .. } => Trouble::Usage,
            Self::NotACheckout { .. } => Trouble::NotACheckout,
            Self::ParentMissing { .. } => Trouble::OutputDirectoryMissing,
            Self::InTheWay { .. } => Trouble::LocalChanges,
            Self::AfterRecovery { error, .. } => error.kind(),
            Self::Stopped => Trouble::Interrupted,
            Self::Worker => Trouble::Other,
        }
    }

    /// Says the same where it is about the root of a tree: a user named that, and a file is named by mistake.
    pub(super) fn of_root(self, root: &Hash) -> Self {
        use ManifestError::{NotManifest, TooLong};
        if let Self::Manifest { hash, source: NotManifest | TooLong { .. } } = &self
            && hash == root
        {
            return Self::NotATree { hash: *root };
        }
        self
    }

    /// Returns the lines that say more: the paths that are in the way.
    pub fn details(&self) -> Vec<String> {
        let Self::InTheWay { count, paths, .. } = self else { return Vec::new() };
        let mut lines: Vec<String> = paths.iter().map(|path| shown(path)).collect();
        let more = count.saturating_sub(u64::try_from(paths.len()).unwrap_or(u64::MAX));
        if more > 0 {
            lines.push(format!("and {more} more"));
        }
        lines
    }

    /// Returns the adapter that names `action` and `path` in an I/O error.
    pub(super) fn io(action: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_vec();
        move |source| {
            let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
            if full.contains(&source.kind()) {
                return Self::DiskFull { path };
            }
            Self::Io { action, path, source }
        }
    }

    /// Does the same for a path outside of the tree.
    pub(super) fn io_at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::io(action, std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))
    }
}

impl From<LoadError<SourceError>> for CheckoutError {
    fn from(error: LoadError<SourceError>) -> Self {
        match error {
            LoadError::Manifest { hash, source } => Self::Manifest { hash, source },
            LoadError::Source { hash, source: SourceError::Absent } => {
                Self::ManifestMissing { hash }
            }
            LoadError::Source { hash, source: SourceError::TooLong { size } } => {
                Self::Manifest { hash, source: ManifestError::TooLong { len: size } }
            }
            LoadError::Source { source: SourceError::Store(source), .. } => Self::Store(source),
        }
    }
}

impl From<CheckError<SourceError>> for CheckoutError {
    fn from(error: CheckError<SourceError>) -> Self {
        match error {
            CheckError::Load(error) => error.into(),
            CheckError::Unsafe(error) => Self::Unsafe(error),
        }
    }
}

impl From<DiffError<SourceError>> for CheckoutError {
    fn from(error: DiffError<SourceError>) -> Self {
        let too_large = |reason| Self::Unsafe(UnsafeEntry { path: Box::default(), reason });
        match error {
            DiffError::Load(error) => error.into(),
            // A check has found it before.
            DiffError::Depth => too_large(blobmesh_protocol::tree::Reason::Depth),
            DiffError::Path => {
                let len = blobmesh_protocol::tree::TREE_PATH_MAX + 1;
                too_large(blobmesh_protocol::tree::Reason::Path { len })
            }
        }
    }
}

/// Writes a path for people: what would upset a terminal is escaped.
pub(crate) fn shown(path: &[u8]) -> String {
    let escape = |chunk: std::str::Utf8Chunk<'_>| {
        let bytes = chunk.invalid().escape_ascii().to_string();
        chunk.valid().escape_debug().to_string().replace("\\'", "'").replace("\\\"", "\"") + &bytes
    };
    path.utf8_chunks().map(escape).collect()
}
