//! Blobs lent to a checkout: opened as they lie, without a look at the index and without a check.
//!
//! A tree is restored from thousands of blobs that were verified when they came in. To look each of them up and to
//! remember what of it was read takes as long as to copy it, so this asks the file system alone, and the index only for
//! what is no file. Whoever borrows checks as much as he wants to: [`BlobReader::recheck_group`] hashes what is there.
//! Only what a power cut may have emptied is hashed first (`doubt.rs`).

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use blobmesh_protocol::Hash;

use super::Store;
use super::error::StoreError;
use super::packs::Member;
use super::read::BlobReader;

/// Is where the bytes of a lent blob are.
#[derive(Debug)]
pub enum Lent {
    /// In its file. Nobody may write to it.
    File(File),
    /// Among others in a file.
    Packed(LentMember),
    /// In memory, where they were read from the index.
    Bytes(Vec<u8>),
}

/// Is a part of a file that holds other blobs, too, and does not change while this lives.
#[derive(Debug)]
pub struct LentMember(Member);

impl LentMember {
    /// Returns the file, to which nobody may write, and from which byte on the blob lies in it.
    pub fn place(&self) -> (&File, u64) {
        self.0.place()
    }
}

/// Says whether a blob can be lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lendable {
    /// It is there.
    Yes,
    /// It is not in the store.
    Absent,
    /// It is there, and has another length.
    OtherLength {
        /// Its length in bytes.
        found: u64,
    },
}

impl Store {
    /// Says whether a blob of `size` bytes is in the store. It is no access.
    ///
    /// # Errors
    /// [`StoreError::Io`] where the file system does not say.
    pub fn is_lendable(&self, hash: &Hash, size: u64) -> Result<Lendable, StoreError> {
        self.inner.ensure_open()?;
        let packs = self.inner.catalog.packs();
        if let Some((spot, len)) = packs.known(hash).filter(|(_, len)| *len == size)
            && packs.covers(spot, len).is_ok_and(|covers| covers)
        {
            packs.lent(true);
            return Ok(Lendable::Yes);
        }
        if self.is_sound_file(hash)? && self.is_file(hash, size) {
            return Ok(Lendable::Yes);
        }
        // In a pack or the index, cut short by a power cut, or not what a manifest says: who knows rows tells.
        Ok(match self.find(hash)? {
            Some(found) if found.size == size => Lendable::Yes,
            Some(found) => Lendable::OtherLength { found: found.size },
            None => Lendable::Absent,
        })
    }

    fn is_file(&self, hash: &Hash, size: u64) -> bool {
        fs::symlink_metadata(self.blob_path(hash))
            .is_ok_and(|meta| meta.is_file() && meta.len() == size)
    }

    /// Opens a blob of `size` bytes to be copied; none if there is none of that length. Its bytes are not checked but
    /// where they are in doubt.
    ///
    /// # Errors
    /// [`StoreError::Io`] where it cannot be opened.
    pub fn lend(&self, hash: &Hash, size: u64) -> Result<Option<Lent>, StoreError> {
        self.inner.ensure_open()?;
        let packs = self.inner.catalog.packs();
        // Others change it meanwhile.
        let packs_first = packs.lends();
        let mut lent = None;
        if packs_first {
            lent = self.lend_member(hash, size)?;
        }
        if lent.is_none() {
            lent = self.lend_file(hash, size)?;
        }
        if lent.is_none() && !packs_first {
            lent = self.lend_member(hash, size)?;
        }
        packs.lent(matches!(lent, Some(Lent::Packed(_))));
        if lent.is_some() {
            return Ok(lent);
        }
        let bytes = self.inner.catalog.inline(hash);
        let bytes = bytes.filter(|bytes| u64::try_from(bytes.len()) == Ok(size));
        Ok(bytes.map(Lent::Bytes))
    }

    fn lend_file(&self, hash: &Hash, size: u64) -> Result<Option<Lent>, StoreError> {
        // Before it is opened: what is there afterwards was hashed, or came in this run.
        if !self.is_sound_file(hash)? {
            return Ok(None);
        }
        let path = self.blob_path(hash);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("open", &path)(error)),
        };
        let meta = file.metadata().map_err(StoreError::io("read", &path))?;
        Ok((meta.is_file() && meta.len() == size).then_some(Lent::File(file)))
    }

    fn lend_member(&self, hash: &Hash, size: u64) -> Result<Option<Lent>, StoreError> {
        let member = self.inner.open_member(hash)?;
        let Some(member) = member.filter(|member| member.len() == size) else { return Ok(None) };
        let doubt = &self.inner.doubt;
        if doubt.is_of_member(member.spot())
            && !doubt.is_right(hash)
            && !self.is_right(hash, false)?
        {
            return Ok(None);
        }
        Ok(Some(Lent::Packed(LentMember(member))))
    }

    /// Returns whether the file of a blob, if it has one, may be lent: one in doubt is hashed, once a run.
    fn is_sound_file(&self, hash: &Hash) -> Result<bool, StoreError> {
        let doubt = &self.inner.doubt;
        if !doubt.is_of_files() || doubt.is_right(hash) {
            return Ok(true);
        }
        match fs::symlink_metadata(self.blob_path(hash)) {
            Ok(meta) if doubt.is_of_file(&meta) => self.is_right(hash, true),
            // Whoever opens what is not there sees that.
            Ok(_) | Err(_) => Ok(true),
        }
    }

    /// Hashes what was not read yet of a blob in a file, or elsewhere; false where it is found in the other. Wrong bytes
    /// take it out of the store.
    fn is_right(&self, hash: &Hash, in_file: bool) -> Result<bool, StoreError> {
        let reader = self.inner.open_blob(hash)?;
        let reader = reader.filter(|reader| reader.file().is_some() == in_file);
        let Some(reader) = reader else { return Ok(false) };
        match reader.verify_all() {
            Ok(()) => self.inner.doubt.note_right(hash),
            Err(StoreError::Rot { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Returns where the file of a blob is, if it has one.
    pub fn blob_path(&self, hash: &Hash) -> PathBuf {
        self.inner.catalog.files().blob(hash)
    }
}

impl BlobReader {
    /// Reads group `index` into `buf` and checks it, whether it was checked before or not: disks rot.
    ///
    /// # Errors
    /// As [`read_group`](Self::read_group); a blob with wrong bytes is taken out of the store.
    pub fn recheck_group(&self, index: u64, buf: &mut Vec<u8>) -> Result<(), StoreError> {
        self.forget_check(index);
        self.read_group(index, buf)
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::{Class, set_class};
    use super::super::sys::fault;
    use super::*;
    use crate::store::StoreConfig;

    fn store(dir: &std::path::Path) -> Store {
        Store::open(StoreConfig::new(dir.join("store"), 1 << 20, 1 << 20)).expect("open").0
    }

    #[test]
    fn blob_is_lent_from_its_file_or_from_the_index() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(dir.path());
        let mut writer = store.add_writer().expect("writer");
        writer.write(b"added").expect("write");
        let added = writer.finish().expect("finish").hash;
        let fetched = Hash::of(b"fetched");
        store.put_whole(&fetched, b"fetched").expect("put");
        assert!(matches!(store.lend(&added, 5), Ok(Some(Lent::File(_)))));
        assert!(
            matches!(store.lend(&fetched, 7), Ok(Some(Lent::Bytes(bytes))) if bytes == b"fetched")
        );
        for (hash, size) in [(added, 5), (fetched, 7)] {
            assert_eq!(store.is_lendable(&hash, size).expect("said"), Lendable::Yes);
            let other = store.is_lendable(&hash, size + 1).expect("said");
            assert_eq!(other, Lendable::OtherLength { found: size });
            assert!(store.lend(&hash, size + 1).expect("said").is_none());
        }
        let absent = Hash::of(b"absent");
        assert_eq!(store.is_lendable(&absent, 6).expect("said"), Lendable::Absent);
        assert!(store.lend(&absent, 6).expect("said").is_none());
    }

    #[test]
    fn what_the_end_of_the_store_could_not_sync_is_hashed_before_it_is_lent() {
        for is_synced in [true, false] {
            let dir = tempfile::tempdir().expect("a directory");
            let store = store(dir.path());
            let hash = Hash::of(&[7; 5000]);
            store.put_whole(&hash, &[7; 5000]).expect("put");
            match is_synced {
                true => store.close(),
                false => fault::without_sync_file(|| store.close()),
            }
            let path = store.blob_path(&hash);
            drop(store);
            let times = fs::metadata(&path).expect("stat").modified().expect("time");
            fs::remove_file(&path).expect("remove");
            let file = File::create(&path).expect("create");
            file.set_len(5000).expect("a hole");
            set_class(&file, Class::Cache).expect("chmod");
            file.set_modified(times).expect("time");
            let (store, report) =
                Store::open(StoreConfig::new(dir.path().join("store"), 1 << 20, 1 << 20))
                    .expect("open");
            assert!(report.clean);
            assert_eq!(store.lend(&hash, 5000).expect("lend").is_some(), is_synced);
        }
    }

    #[test]
    fn blob_that_was_cut_short_is_absent() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(dir.path());
        let mut writer = store.add_writer().expect("writer");
        writer.write(&[7; 5000]).expect("write");
        let hash = writer.finish().expect("finish").hash;
        let path = store.blob_path(&hash);
        fs::remove_file(&path).expect("remove");
        fs::write(&path, [7; 4000]).expect("write");
        assert_eq!(store.is_lendable(&hash, 5000).expect("said"), Lendable::Absent);
    }

    #[test]
    fn group_that_rotted_after_it_was_checked_is_found_by_a_second_check() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(dir.path());
        let mut writer = store.add_writer().expect("writer");
        writer.write(&[7; 100_000]).expect("write");
        let hash = writer.finish().expect("finish").hash;
        let reader = store.open_blob(&hash).expect("open").expect("there");
        let mut buf = Vec::new();
        reader.recheck_group(1, &mut buf).expect("right");
        let path = store.blob_path(&hash);
        let times = fs::metadata(&path).expect("stat").modified().expect("time");
        let mut bytes = fs::read(&path).expect("read");
        bytes[99_999] ^= 1;
        let mut mode = fs::metadata(&path).expect("stat").permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o600);
        fs::set_permissions(&path, mode).expect("chmod");
        fs::write(&path, bytes).expect("write");
        File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_modified(times))
            .expect("time");
        reader.read_group(1, &mut buf).expect("it was checked before");
        assert!(matches!(reader.recheck_group(1, &mut buf), Err(StoreError::Rot { .. })));
        assert_eq!(store.is_lendable(&hash, 100_000).expect("said"), Lendable::Absent);
    }
}
