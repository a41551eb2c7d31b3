//! Where the bytes of a push come from.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::error::{EdgeError, Task};
use super::files;

type ReadAt = Box<dyn FnMut(u64, usize) -> io::Result<Bytes> + Send>;

/// Reads pieces of the blob that is pushed, on threads that may block.
pub(super) struct Source {
    /// None only while a read that was dropped half-way still has it.
    read_at: Option<ReadAt>,
    size: u64,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Source {
    pub(super) fn new(
        size: u64,
        read_at: impl FnMut(u64, usize) -> io::Result<Bytes> + Send + 'static,
    ) -> Self {
        Self { read_at: Some(Box::new(read_at)), size }
    }

    /// Returns the length of the blob in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Reads the bytes from `offset` on, `len_max` of them or up to the end of the blob.
    ///
    /// Not cancel safe: after a dropped call every further one fails.
    pub(super) async fn read(
        &mut self,
        offset: u64,
        len_max: u64,
        task: Task,
    ) -> Result<Bytes, EdgeError> {
        let fail = |error| EdgeError::io(task, None, error);
        let rest = self.size.saturating_sub(offset).min(len_max);
        let len = usize::try_from(rest).map_err(|error| fail(io::Error::other(error)))?;
        let gone = || io::Error::other("an earlier read was abandoned");
        let mut read_at = self.read_at.take().ok_or_else(|| fail(gone()))?;
        let (read_at, bytes) = files::blocking(move || {
            let bytes = read_at(offset, len);
            Ok((read_at, bytes))
        })
        .await
        .map_err(fail)?;
        self.read_at = Some(read_at);
        let bytes = bytes.map_err(fail)?;
        if bytes.len() != len {
            return Err(fail(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{len} bytes at {offset} were asked for and {} came", bytes.len()),
            )));
        }
        Ok(bytes)
    }
}

/// Makes a source out of a file, which is opened when the first byte is read.
pub fn file_source(path: PathBuf) -> impl FnMut(u64, usize) -> io::Result<Bytes> + Send + 'static {
    let mut open: Option<Arc<File>> = None;
    move |offset, len| {
        let file = match &open {
            Some(file) => Arc::clone(file),
            None => Arc::clone(open.insert(Arc::new(File::open(&path)?))),
        };
        let mut bytes = vec![0; len];
        let got = files::read_at(&file, &mut bytes, offset)?;
        bytes.truncate(got);
        Ok(Bytes::from(bytes))
    }
}
