//! How a fetched blob leaves the store for a file of the user's: under another name, without a copy.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use blobmesh_protocol::Hash;

use super::catalog::Located;
use super::error::StoreError;
use super::export::Export;
use super::files::{Class, set_class};
use super::index::{Home, Row};
use super::output::Output;
use super::{Inner, sys};
use crate::stop::Stop;

impl Export {
    /// Does as [`finish`](Self::finish), and leaves the blob in the store only where somebody else needs it: one that was
    /// added or is pinned stays. On one file system its file gets another name, which takes no time; else it is copied and removed.
    ///
    /// # Errors
    /// As [`finish`](Self::finish); the blob is in the store then.
    pub(crate) fn finish_and_leave(self, stop: &Stop) -> Result<u64, StoreError> {
        let inner = Arc::clone(&self.store.inner);
        let hash = self.hash;
        if self.begun.is_none()
            && let Some(size) = inner.move_out(&hash, &self.dest, self.force)?
        {
            inner.tell_gone(&hash);
            return Ok(size);
        }
        let size = self.finish(stop)?;
        inner.let_go(&hash);
        Ok(size)
    }
}

impl Inner {
    /// Gives the file of a blob a name outside of the store; none where the blob is to be copied. The caller tells that
    /// it has gone.
    fn move_out(
        self: &Arc<Self>,
        hash: &Hash,
        dest: &Path,
        force: bool,
    ) -> Result<Option<u64>, StoreError> {
        let Some(file) = self.verified_file(hash)? else { return Ok(None) };
        // As a new file of the user's would be.
        let mode = Output::create(dest)?.mode().map_err(StoreError::io("stat", dest))?;
        let _write = self.writes.begin();
        let _stripe = self.catalog.stripe(hash);
        let Some(row) = self.row_that_may_leave(hash)? else { return Ok(None) };
        let (path, away) = (self.catalog.files().blob(hash), self.catalog.files().temp_cache()?);
        let away = away.close();
        // ext4 writes what replaces a file to the disk at once.
        fs::remove_file(away.path()).map_err(StoreError::io("remove", away.path()))?;
        fs::rename(&path, away.path()).map_err(StoreError::io("rename", &path))?;
        // Nobody can open it now; who has before holds a lease, and what he reads must not change.
        let moved = match self.may_go(hash) && is_same(&file, away.path()) {
            true => {
                sys::set_mode(&file, mode).and_then(|()| sys::rename_to(away.path(), dest, force))
            }
            false => Err(io::ErrorKind::ResourceBusy.into()),
        };
        match moved {
            Ok(()) => {
                away.keep();
                self.delete(hash, &row)?;
                Ok(Some(row.size))
            }
            Err(error) => {
                set_class(&file, Class::Cache).map_err(StoreError::io("chmod", &path))?;
                fs::rename(away.path(), &path).map_err(StoreError::io("rename", &path))?;
                match error.kind() {
                    io::ErrorKind::AlreadyExists => {
                        Err(StoreError::OutputExists { path: dest.to_owned() })
                    }
                    // Another file system, or somebody who reads it; what else it is the copy will tell.
                    _ => Ok(None),
                }
            }
        }
    }

    /// Opens the file of a blob of which every byte has been checked by this process.
    fn verified_file(self: &Arc<Self>, hash: &Hash) -> Result<Option<File>, StoreError> {
        let reader = self.open_blob(hash)?.ok_or(StoreError::Absent { hash: *hash })?;
        let file = reader.file().filter(|_| reader.is_verified()).map(File::try_clone);
        file.transpose().map_err(StoreError::io("open", &self.catalog.files().blob(hash)))
    }

    /// Returns the row of a fetched blob with a file of its own that nobody uses. The caller holds the stripe.
    fn row_that_may_leave(&self, hash: &Hash) -> Result<Option<Row>, StoreError> {
        let Located::Here(row) = self.catalog.locate_held(hash)? else { return Ok(None) };
        let leaves = row.home == Home::File && row.class == Class::Cache && self.may_go(hash);
        Ok(leaves.then_some(row))
    }

    /// Removes a fetched blob that nobody uses.
    fn let_go(&self, hash: &Hash) {
        let is_cache = self.catalog.row(hash).is_some_and(|row| row.class == Class::Cache);
        if is_cache {
            self.evict_blob(hash);
        }
    }
}

fn is_same(file: &File, path: &Path) -> bool {
    let of_path = fs::metadata(path).map(|meta| sys::inode(&meta));
    let of_file = file.metadata().map(|meta| sys::inode(&meta));
    matches!((of_path, of_file), (Ok(one), Ok(other)) if one == other)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Mutex;

    use super::*;
    use crate::store::{Store, StoreConfig};

    struct Case {
        dir: tempfile::TempDir,
        store: Store,
        hash: Hash,
        bytes: Vec<u8>,
    }

    /// A store that has fetched one blob.
    fn fetched() -> Case {
        let dir = tempfile::tempdir().expect("a directory");
        let config = StoreConfig::new(dir.path().join("store"), 1 << 26, 1 << 25);
        let (store, _) = Store::open(config).expect("open");
        let bytes = vec![7; 200_000];
        let mut hasher = blobmesh_protocol::blob::BlobHasher::new();
        hasher.update(&bytes);
        let list = hasher.finish();
        let hash = list.hash();
        let partial = store.partial(list).expect("partial");
        for (index, group) in (0..).zip(bytes.chunks(64 << 10)) {
            partial.write_group(index, group).expect("right");
        }
        partial.finish().expect("whole");
        Case { dir, store, hash, bytes }
    }

    impl Case {
        fn out(&self) -> PathBuf {
            self.dir.path().join("out")
        }

        fn leave(&self) -> Result<u64, StoreError> {
            let export = self.store.begin_export(&self.hash, &self.out(), false)?;
            export.finish_and_leave(&Stop::default())
        }

        fn is_held(&self) -> bool {
            self.store.find(&self.hash).expect("a look").is_some()
        }
    }

    #[test]
    fn file_of_a_fetched_blob_is_moved_with_the_mode_of_a_new_one() {
        let case = fetched();
        let inode = |path: &Path| sys::inode(&fs::metadata(path).expect("there"));
        let before = inode(&case.store.inner.catalog.files().blob(&case.hash));
        let gone = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&gone);
        case.store.set_gone_listener(move |hash| heard.lock().expect("no panic").push(hash));
        assert_eq!(case.leave().expect("moved"), 200_000);
        assert_eq!(inode(&case.out()), before, "it is the same file");
        assert!(fs::read(case.out()).expect("read") == case.bytes);
        let fresh = Output::create(&case.dir.path().join("fresh")).expect("create");
        let mode = sys::mode(&fs::metadata(case.out()).expect("there"));
        assert_eq!(mode, fresh.mode().expect("stat"));
        assert!(!case.is_held());
        assert_eq!(*gone.lock().expect("no panic"), [case.hash]);
        assert_eq!(case.store.stats().bytes, 0);
    }

    #[test]
    fn blob_that_somebody_reads_or_that_is_pinned_is_copied_and_stays() {
        for pinned in [false, true] {
            let case = fetched();
            let reader = case.store.open_blob(&case.hash).expect("open").expect("there");
            if pinned {
                drop(reader);
                case.store.pin(&case.hash).expect("pinned");
            }
            case.leave().expect("copied");
            assert!(fs::read(case.out()).expect("read") == case.bytes);
            fs::write(case.out(), "mine now").expect("write");
            assert!(case.store.verify(&case.hash).expect("it is here"), "{pinned}");
        }
    }

    #[test]
    fn blob_stays_where_the_output_appears_meanwhile() {
        let case = fetched();
        let export = case.store.begin_export(&case.hash, &case.out(), false).expect("begun");
        fs::write(case.out(), "another's").expect("write");
        let refused = export.finish_and_leave(&Stop::default());
        assert!(matches!(refused, Err(StoreError::OutputExists { .. })), "{refused:?}");
        assert_eq!(fs::read(case.out()).expect("read"), b"another's");
        assert!(case.store.verify(&case.hash).expect("it is here"));
        assert_eq!(case.store.stats().bytes, 200_000);
    }
}
