//! Many small blobs: stored in batches as they come, and read whole in one step.
//!
//! What is special here is what is left out. A small fetched blob is in memory when it comes, so it is hashed
//! once and written once: those that come together into a pack, one alone into a file; nothing is synced, as for
//! every fetched blob. One that is read is hashed
//! whole each time, which takes less than to remember that it was hashed before.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::GROUP_LEN;
use bytes::Bytes;

use super::catalog::Located;
use super::error::StoreError;
use super::files::Class;
use super::index::{Home, Row};
use super::packs::{MEMBERS_MAX, MEMBERS_MIN, Member, Spot};
use super::space::Reservation;
use super::sys::read_cached;
use super::{Added, Inner, Store};

/// Which blobs of those that come together lie in the index all the same: they would be mostly padding in a pack. Longer
/// ones cost the index up to twice their length on disk, and many of them more of the memory than it is given.
const IN_INDEX_MAX: usize = 1 << 10;

/// Says what came of reading a small blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmallRead {
    /// Its bytes were appended, and they are right.
    Whole,
    /// It is longer than was asked for.
    Large {
        /// Its length in bytes.
        size: u64,
    },
    /// It is not there, or its bytes are wrong.
    Absent,
}

impl Store {
    /// Stores small fetched blobs that are in memory; one result each, in their order.
    ///
    /// They are *cache*: nothing is synced, and after a crash each is either whole or absent, as far as it is
    /// not checked at its first use. A pinned one becomes durable at once.
    ///
    /// # Errors
    /// Of each blob [`StoreError::WrongHash`] if the bytes are not the blob's, else as
    /// [`put_whole`](Self::put_whole).
    pub fn put_batch(&self, blobs: &[(Hash, Bytes)]) -> Vec<Result<Added, StoreError>> {
        let bytes = blobs.iter().map(|(_, bytes)| len_u64(bytes)).sum();
        // All or none: where not all fit, each makes its own room.
        let mut room = self.inner.reserve(bytes).ok();
        let _write = self.inner.writes.begin();
        let mut packed = room.as_mut().map(|room| self.inner.pack(blobs, room)).unwrap_or_default();
        let put = |(at, (hash, bytes)): (usize, &(Hash, Bytes))| match packed.remove(&at) {
            Some(size) => Ok(Added { hash: *hash, size, existed: false }),
            None => self.put_small(hash, bytes, &mut room),
        };
        blobs.iter().enumerate().map(put).collect()
    }

    fn put_small(
        &self,
        hash: &Hash,
        bytes: &[u8],
        room: &mut Option<Reservation>,
    ) -> Result<Added, StoreError> {
        let inner = &self.inner;
        let Some(room) = room else { return self.put_whole(hash, bytes) };
        let in_index =
            bytes.len() <= inner.config.inline_bytes_max && inner.catalog.index_is_good();
        if in_index || inner.class_of_fetched(hash) == Class::Durable {
            return self.put_whole(hash, bytes);
        }
        inner.check_size(len_u64(bytes))?;
        let found = Hash::of(bytes);
        if found != *hash {
            return Err(StoreError::WrongHash { expected: *hash, found });
        }
        inner.commit_small(hash, bytes, room)
    }

    /// Reads a blob of at most `len_max` bytes as [`read_small`](Self::read_small) does, if it lies in memory; false
    /// where it does not. Never waits for a disk, so it may be called on any thread.
    pub fn read_hot(&self, hash: &Hash, len_max: u64, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let here =
            !self.inner.closed.load(Ordering::Acquire) && self.inner.recent.hot.read(hash, out);
        if here && len_u64(&out[start..]) > len_max {
            out.truncate(start);
            return false;
        }
        if here {
            self.inner.catalog.touch(hash);
        }
        here
    }

    /// Reads a blob of at most `len_max` bytes as [`read_small`](Self::read_small) does from its file, if the kernel
    /// has all of it in memory; false where it has not, or the bytes are wrong. Takes some system calls and a hash,
    /// but waits for no disk.
    pub fn read_cached(&self, hash: &Hash, len_max: u64, out: &mut Vec<u8>) -> bool {
        let (inner, start) = (&self.inner, out.len());
        let age = inner.recent.hot.age();
        let path = inner.catalog.files().blob(hash);
        if inner.ensure_open().is_err() || !read_cached(&path, len_max, out) {
            return false;
        }
        let right = Hash::of(&out[start..]) == *hash;
        if right {
            inner.catalog.touch(hash);
            inner.recent.hot.keep(hash, &out[start..], age);
        } else {
            // Whoever reads it the ordinary way takes it out.
            out.truncate(start);
        }
        right
    }

    /// Reads a blob of at most `len_max` bytes, which are checked, to the end of `out`, and notes the access.
    ///
    /// # Errors
    /// [`StoreError::Io`] where the file cannot be read; `out` is then as long as before.
    pub fn read_small(
        &self,
        hash: &Hash,
        len_max: u64,
        out: &mut Vec<u8>,
    ) -> Result<SmallRead, StoreError> {
        if self.read_hot(hash, len_max, out) {
            return Ok(SmallRead::Whole);
        }
        let (start, age) = (out.len(), self.inner.recent.hot.age());
        let read = self.read_passing(hash, len_max, out);
        if matches!(read, Ok(SmallRead::Whole)) {
            self.inner.recent.hot.keep(hash, &out[start..], age);
        }
        read
    }

    /// Does the same for one of many that are read once: it drives nothing out of memory.
    ///
    /// # Errors
    /// As [`read_small`](Self::read_small).
    pub fn read_passing(
        &self,
        hash: &Hash,
        len_max: u64,
        out: &mut Vec<u8>,
    ) -> Result<SmallRead, StoreError> {
        self.inner.ensure_open()?;
        let start = out.len();
        let read = self.inner.read_raw(hash, len_max, out);
        let right = matches!(read, Ok(SmallRead::Whole)) && Hash::of(&out[start..]) == *hash;
        if right {
            self.inner.catalog.touch(hash);
            return read;
        }
        out.truncate(start);
        match read? {
            SmallRead::Whole => {
                // Rot, or a file that changed under us: the ordinary way finds out, and takes it out.
                match self.verify(hash) {
                    Ok(_) | Err(StoreError::Absent { .. }) => Ok(SmallRead::Absent),
                    Err(error) => Err(error),
                }
            }
            other @ (SmallRead::Large { .. } | SmallRead::Absent) => Ok(other),
        }
    }
}

impl Inner {
    /// Puts those of many blobs into packs that are new, right, and of a size for it; returns which they are, with
    /// their lengths. The others go their own ways.
    fn pack(&self, blobs: &[(Hash, Bytes)], room: &mut Reservation) -> HashMap<usize, u64> {
        let mut packed = HashMap::new();
        if blobs.len() < MEMBERS_MIN || !self.catalog.index_is_good() {
            return packed;
        }
        let fits = |(_, (hash, bytes)): &(usize, &(Hash, Bytes))| self.is_to_be_packed(hash, bytes);
        let members: Vec<_> = blobs.iter().enumerate().filter(fits).collect();
        if members.len() < MEMBERS_MIN {
            return packed;
        }
        for some in members.chunks(MEMBERS_MAX) {
            let bytes: Vec<_> = some.iter().map(|(_, (hash, bytes))| (*hash, &bytes[..])).collect();
            let spots = match self.catalog.packs().append(&bytes) {
                Ok(spots) => spots,
                Err(error) => {
                    tracing::debug!(%error, "small blobs get files of their own");
                    break;
                }
            };
            for ((at, (hash, bytes)), spot) in some.iter().zip(spots) {
                let size = len_u64(bytes);
                if self.commit_member(hash, spot, room.split(size)) {
                    packed.insert(*at, size);
                }
            }
        }
        packed
    }

    fn is_to_be_packed(&self, hash: &Hash, bytes: &[u8]) -> bool {
        let of_size = bytes.len() > self.config.inline_bytes_max.min(IN_INDEX_MAX)
            && len_u64(bytes) <= GROUP_LEN.min(self.config.blob_bytes_max);
        of_size
            && self.class_of_fetched(hash) == Class::Cache
            && self.may_be_new(hash)
            && Hash::of(bytes) == *hash
    }

    /// Returns whether a blob may be new. One that has a row does not get another; only after an unclean end there are
    /// files without rows, and to look for ten thousand files that are not there takes as long as to write their bytes.
    fn may_be_new(&self, hash: &Hash) -> bool {
        !self.sweep.is_undone() || matches!(self.catalog.locate(hash), Ok(Located::Absent))
    }

    /// Gives a member of a pack its row; false, and it is given up, where somebody else has stored the blob, or the
    /// index does not take it.
    fn commit_member(&self, hash: &Hash, spot: Spot, room: Reservation) -> bool {
        let catalog = &self.catalog;
        let size = room.bytes();
        let row =
            Row { size, accessed: catalog.now(), class: Class::Cache, home: Home::Pack(spot) };
        let _stripe = catalog.stripe(hash);
        let put = self.ensure_open().is_ok() && catalog.put_member(hash, &row, room);
        match put {
            true => catalog.packs().learn(hash, spot, size),
            false => catalog.packs().free(hash, spot, size),
        }
        put
    }

    /// Writes a verified blob of the cache class under its name, and its row. Its bytes are taken out of
    /// `room`.
    fn commit_small(
        &self,
        hash: &Hash,
        bytes: &[u8],
        room: &mut Reservation,
    ) -> Result<Added, StoreError> {
        self.ensure_open()?;
        let size = len_u64(bytes);
        let (files, catalog) = (self.catalog.files(), &self.catalog);
        // A file without a row is found out by its name, below.
        if catalog.row(hash).is_some()
            && let Located::Here(_) = catalog.locate(hash)?
        {
            catalog.touch(hash);
            return Ok(Added { hash: *hash, size, existed: true });
        }
        let temp = files.temp_cache()?;
        temp.write(bytes)?;
        let _stripe = catalog.stripe(hash);
        if !files.publish_new(temp, &files.blob(hash))? {
            // It came by another way meanwhile, and may be a durable one.
            return Ok(Added { hash: *hash, size, existed: true });
        }
        let row = Row { size, accessed: catalog.now(), class: Class::Cache, home: Home::File };
        catalog.put(hash, &row, Some(room.split(size)));
        // A medium one may have been begun by groups.
        self.partials.evict(files, hash);
        Ok(Added { hash: *hash, size, existed: false })
    }

    /// Appends what the file or the index holds under a hash, unchecked.
    fn read_raw(
        self: &Arc<Self>,
        hash: &Hash,
        len_max: u64,
        out: &mut Vec<u8>,
    ) -> Result<SmallRead, StoreError> {
        let path = self.catalog.files().blob(hash);
        match File::open(&path) {
            Ok(file) => read_file(&file, len_max, out).map_err(StoreError::io("read", &path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match self.open_member(hash)? {
                    Some(member) => read_member(&member, len_max, out)
                        .map_err(StoreError::io("read", &self.catalog.files().path("packs"))),
                    None => Ok(self.read_inline(hash, len_max, out)),
                }
            }
            Err(error) => Err(StoreError::io("open", &path)(error)),
        }
    }

    fn read_inline(&self, hash: &Hash, len_max: u64, out: &mut Vec<u8>) -> SmallRead {
        let Some(bytes) = self.catalog.inline(hash) else { return SmallRead::Absent };
        let size = len_u64(&bytes);
        if size > len_max {
            return SmallRead::Large { size };
        }
        out.extend_from_slice(&bytes);
        SmallRead::Whole
    }
}

fn read_file(file: &File, len_max: u64, out: &mut Vec<u8>) -> io::Result<SmallRead> {
    let size = file.metadata()?.len();
    if size > len_max {
        return Ok(SmallRead::Large { size });
    }
    let (start, len) = (out.len(), usize::try_from(size).unwrap_or(usize::MAX));
    out.resize(start + len, 0);
    let mut reader = file;
    reader.read_exact(&mut out[start..])?;
    Ok(SmallRead::Whole)
}

fn read_member(member: &Member, len_max: u64, out: &mut Vec<u8>) -> io::Result<SmallRead> {
    let size = member.len();
    if size > len_max {
        return Ok(SmallRead::Large { size });
    }
    let start = out.len();
    out.resize(start + usize::try_from(size).unwrap_or(usize::MAX), 0);
    member.read_exact_at(&mut out[start..], 0)?;
    Ok(SmallRead::Whole)
}

fn len_u64(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{StoreConfig, sweep};

    fn open(dir: &std::path::Path) -> Store {
        Store::open(StoreConfig::new(dir.join("store"), 1 << 30, 1 << 20)).expect("open").0
    }

    /// Writes blobs into a pack as a batch does, and gives them no rows yet.
    fn append(store: &Store) -> Vec<(Vec<u8>, Hash, Spot)> {
        let blobs = [1, 2, 3, 4].map(|byte| vec![byte; 5_000]);
        let members: Vec<_> = blobs.iter().map(|bytes| (Hash::of(bytes), &bytes[..])).collect();
        let spots = store.inner.catalog.packs().append(&members).expect("append");
        let hashes = blobs.iter().map(|bytes| Hash::of(bytes)).zip(spots);
        blobs.clone().into_iter().zip(hashes).map(|(bytes, (hash, at))| (bytes, hash, at)).collect()
    }

    fn commit_and_read(store: &Store, members: &[(Vec<u8>, Hash, Spot)]) {
        for (bytes, hash, spot) in members {
            let room = store.inner.reserve(len_u64(bytes)).expect("room");
            assert!(store.inner.commit_member(hash, *spot, room));
            let mut read = Vec::new();
            assert_eq!(store.read_small(hash, 5_000, &mut read).expect("read"), SmallRead::Whole);
            assert!(read == *bytes);
        }
        let stats = store.stats();
        assert_eq!((stats.blobs, stats.bytes, stats.reserved), (4, 20_000, 0));
    }

    #[test]
    fn sweep_leaves_members_alone_that_are_just_being_stored() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = open(dir.path());
        let members = append(&store);
        let inner = &store.inner;
        let (catalog, doubt) = (Arc::clone(&inner.catalog), Arc::clone(&inner.doubt));
        let sweep = sweep::start(catalog, doubt, &inner.sweep);
        sweep.expect("a thread").join().expect("swept");
        assert_eq!(store.stats().blobs, 0, "they have no rows yet");
        commit_and_read(&store, &members);
    }

    #[test]
    fn member_that_was_found_in_the_tables_before_it_got_its_row_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = open(dir.path());
        let members = append(&store);
        for (_, hash, spot) in &members {
            assert!(store.inner.catalog.adopt_member(hash, *spot, 5_000));
        }
        commit_and_read(&store, &members);
    }
}
