//! The older version of a blob, and the cutting of bytes that lie on a disk.

use std::fs::File;
use std::io;
use std::path::Path;

use blobmesh_protocol::delta::{BaseMap, Cutter, Stretch};

use crate::store::{BlobReader, StoreError, read_exact_at};

/// How much is read and cut at once, at least; of long stretches four times the longest.
const PIECE_LEN: usize = 1 << 20;

/// Is bytes that may resemble a blob. What they are need not be known, and they may change meanwhile.
#[derive(Debug)]
pub(crate) enum Base {
    /// A blob of the store, which is kept from eviction.
    Blob(BlobReader),
    /// Any file.
    File {
        /// The file.
        file: File,
        /// How long it was when it was opened, in bytes.
        size: u64,
    },
}

impl Base {
    /// Opens a regular file.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        // A pipe would be waited for.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        Self::of_file(File::open(path)?)
    }

    /// Takes an open file.
    pub(crate) fn of_file(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self::File { file, size })
    }

    /// Returns its length in bytes.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Blob(reader) => reader.size(),
            Self::File { size, .. } => *size,
        }
    }

    /// Returns the blob that it is; none for a file.
    pub(crate) fn blob(&self) -> Option<&BlobReader> {
        match self {
            Self::Blob(reader) => Some(reader),
            Self::File { .. } => None,
        }
    }

    /// Fills `buf` from `offset` on. Nothing is checked: who reads checks what comes of it.
    ///
    /// # Errors
    /// When the base ends before, or cannot be read.
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Blob(reader) => reader.read_unchecked_at(offset, buf).map_err(io::Error::other),
            Self::File { file, .. } => read_exact_at(file, buf, offset),
        }
    }

    /// Cuts it as a blob of `size` bytes is cut.
    pub(crate) fn map(&self, size: u64) -> io::Result<BaseMap> {
        let mut map = BaseMap::default();
        let read = |offset, buf: &mut [u8]| self.read(offset, buf);
        cut(Cutter::of(size), self.size(), read, |stretch| map.push(stretch))?;
        Ok(map.sorted())
    }
}

/// Cuts a blob of the store into its stretches.
pub(super) fn cut_blob(reader: &BlobReader, take: impl FnMut(Stretch)) -> Result<(), StoreError> {
    let read = |offset, buf: &mut [u8]| reader.read_unchecked_at(offset, buf);
    cut(Cutter::of(reader.size()), reader.size(), read, take)
}

/// Cuts `size` bytes that `read` gives.
fn cut<E>(
    cutter: Cutter,
    size: u64,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    mut take: impl FnMut(Stretch),
) -> Result<(), E> {
    let longest = usize::try_from(cutter.max()).unwrap_or(PIECE_LEN);
    let mut buffer = vec![0; PIECE_LEN.max(4 * longest)];
    let (mut filled, mut offset) = (0_usize, 0);
    while offset < size {
        let left = usize::try_from(size - offset).unwrap_or(usize::MAX);
        let end = filled.saturating_add(left).min(buffer.len());
        let piece = &mut buffer[filled..end];
        read(offset, piece)?;
        offset += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        filled += piece.len();
        let done = cutter.cut(&buffer[..filled], offset == size, &mut take);
        buffer.copy_within(done..filled, 0);
        filled -= done;
    }
    Ok(())
}
