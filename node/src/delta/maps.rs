//! The maps of blobs that this node holds: made once, and kept on disk.
//!
//! One map is made at a time, since it keeps a processor busy; whoever else wants one waits for it, and who wants the
//! same one finds it made. A map that is kept is worth reading one gigabyte a second or two: losing it costs nothing
//! else, so nothing is synced, and the oldest go when there are too many.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use blobmesh_protocol::Hash;
use blobmesh_protocol::delta::map::push_entry;

use super::base::cut_blob;
use crate::store::{BlobReader, StoreError};

/// The first eight bytes of the file of a map; the last is the format's version.
const MAGIC: &[u8; 8] = b"bmmap\0\0\x01";
const SUM_LEN: usize = 32;
/// How many bytes of maps are kept: those of about 100 GiB of blobs.
const BYTES_MAX: u64 = 64 << 20;

/// Gives the maps of blobs, from a directory of its own within the store's.
#[derive(Debug)]
pub(crate) struct Maps {
    dir: PathBuf,
    /// Held by the one who makes a map.
    making: Mutex<()>,
}

impl Maps {
    /// Keeps maps in the directory of a store.
    pub(crate) fn new(store: &Path) -> Self {
        Self { dir: store.join("maps"), making: Mutex::new(()) }
    }

    /// Returns the bytes of a blob's map. Blocks for as long as it takes to read the blob, where it is not kept.
    pub(crate) fn of(&self, reader: &BlobReader) -> Result<Vec<u8>, StoreError> {
        let hash = reader.hash();
        if let Some(map) = self.kept(&hash) {
            return Ok(map);
        }
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have made it while we waited.
        if let Some(map) = self.kept(&hash) {
            return Ok(map);
        }
        let mut map = Vec::new();
        cut_blob(reader, |stretch| push_entry(stretch, &mut map))?;
        if let Err(error) = self.keep(&hash, &map) {
            tracing::debug!(%error, "a map was not kept; it is made again when it is needed");
        }
        Ok(map)
    }

    /// Reads a map that is kept; none where it is not, or is damaged.
    fn kept(&self, hash: &Hash) -> Option<Vec<u8>> {
        let file = fs::read(self.path(hash)).ok()?;
        let (body, sum) = file.split_at_checked(file.len().checked_sub(SUM_LEN)?)?;
        let map = body.strip_prefix(MAGIC)?;
        (sum_of(hash, map).as_bytes() == sum).then(|| map.to_vec())
    }

    /// Keeps a map, and removes the oldest ones where there are too many. Called by one at a time.
    fn keep(&self, hash: &Hash, map: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        self.thin_out(u64::try_from(map.len()).unwrap_or(u64::MAX))?;
        let begun = self.dir.join("begun");
        let mut file = fs::File::create(&begun)?;
        file.write_all(MAGIC)?;
        file.write_all(map)?;
        file.write_all(sum_of(hash, map).as_bytes())?;
        fs::rename(&begun, self.path(hash))
    }

    /// Makes room for some bytes.
    fn thin_out(&self, bytes: u64) -> io::Result<()> {
        let mut kept: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let (entry, meta) =
                (entry.as_ref(), entry.as_ref().ok().and_then(|e| e.metadata().ok()));
            if let (Ok(entry), Some(meta)) = (entry, meta) {
                let since = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                kept.push((since, meta.len(), entry.path()));
            }
        }
        kept.sort_unstable();
        let mut sum = kept.iter().fold(bytes, |sum, (_, len, _)| sum.saturating_add(*len));
        for (_, len, path) in kept {
            if sum <= BYTES_MAX {
                break;
            }
            fs::remove_file(path)?;
            sum = sum.saturating_sub(len);
        }
        Ok(())
    }

    fn path(&self, hash: &Hash) -> PathBuf {
        self.dir.join(hash.to_hex())
    }
}

fn sum_of(hash: &Hash, map: &[u8]) -> blake3::Hash {
    blake3::Hasher::new().update(hash.as_bytes()).update(map).finalize()
}
