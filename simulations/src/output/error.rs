//! What goes wrong with a directory of results.

use std::io;
use std::path::{Path, PathBuf};

/// Says why a directory could not be written or read. All are the user's or the disk's to mend;
/// trying again helps with none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried, as `write`.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is in the place of the results was not written by this program.
    #[error("{} stays as it is: {reason}; name another place with --out", path.display())]
    NotOurs {
        /// The place.
        path: PathBuf,
        /// How that shows.
        reason: String,
    },
    /// A file is larger than any that this program reads.
    #[error("{} has {bytes} bytes, more than the {bytes_max} that are read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The bound.
        bytes_max: u64,
    },
    /// A JSON file is not what it must be.
    #[error("{} is not what blobmesh-sim writes", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// A directory is of another program, or of a newer one of ours.
    #[error("{}: schema {found} is not {known}, which this program reads", path.display())]
    Schema {
        /// The manifest.
        path: PathBuf,
        /// What it says.
        found: u32,
        /// What we read.
        known: u32,
    },
    /// A CSV file is malformed.
    #[error("{} is malformed", path.display())]
    Csv {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line.
        source: csv::Error,
    },
    /// A value or a header of a file is not what it must be.
    #[error("{}:{line}: {problem}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong, with the column's name.
        problem: String,
    },
    /// The parts of a directory do not fit together.
    #[error("{}: {problem}", path.display())]
    Mismatch {
        /// The directory or file.
        path: PathBuf,
        /// How.
        problem: String,
    },
}

impl Error {
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File { action, path, source }
    }

    pub(super) fn value(path: &Path, line: u64, problem: String) -> Self {
        Self::Value { path: path.to_path_buf(), line, problem }
    }

    pub(super) fn mismatch(path: &Path, problem: String) -> Self {
        Self::Mismatch { path: path.to_path_buf(), problem }
    }
}
