//! How a fetched blob leaves the store for a file of the user's: under another name, without a copy.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::Hash;

use super::catalog::Located;
use super::error::StoreError;
use super::export::Export;
use super::files::{Class, set_class};
use super::index::{Home, Row};
use super::output::Output;
use super::{Inner, sys};
use crate::stop::Stop;

/// How long it is waited for those who brought a blob, or serve it, before it is copied.
const WORKERS_TIME: Duration = Duration::from_millis(200);

impl Export {
    /// Does as [`finish`](Self::finish), and leaves the blob in the store only where somebody else needs it: one that was
    /// added or is pinned stays, and so does one that is in use. On one file system its file gets another name, which takes no
    /// time; else it is copied and removed.
    ///
    /// # Errors
    /// As [`finish`](Self::finish); the blob is in the store then.
    pub(crate) fn finish_and_leave(mut self, stop: &Stop) -> Result<u64, StoreError> {
        let (inner, hash) = (Arc::clone(&self.store.inner), self.hash);
        // Those who brought it hear of its end when the get does.
        inner.workers.await_end(&hash, WORKERS_TIME);
        if self.begun.is_none()
            && let Some(size) = inner.move_out(&hash, (&self.dest, self.force), stop)?
        {
            inner.tell_gone(&hash);
            return Ok(size);
        }
        let held = self.held.take();
        let size = self.finish(stop)?;
        drop(held);
        inner.let_go(&hash);
        Ok(size)
    }
}

impl Inner {
    /// Gives the file of a blob that only one holds a name outside of the store; none where it is to be copied. The caller
    /// tells that it has gone.
    fn move_out(
        self: &Arc<Self>,
        hash: &Hash,
        (dest, force): (&Path, bool),
        stop: &Stop,
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
        // Nobody can open it now; who has before is counted, and what he reads must not change.
        let leaves = self.is_held_once(hash) && is_only_name(&file, away.path());
        let moved = match leaves && !stop.is_wanted() {
            true => {
                sys::set_mode(&file, mode).and_then(|()| sys::rename_to(away.path(), dest, force))
            }
            false => Err(io::ErrorKind::ResourceBusy.into()),
        };
        let Err(error) = moved else {
            away.keep();
            self.delete(hash, &row)?;
            return Ok(Some(row.size));
        };
        if let Err(error) = set_class(&file, Class::Cache) {
            tracing::debug!(%error, "the mode of a blob was not set back");
        }
        if let Err(error) = fs::rename(away.path(), &path) {
            // Whatever it is called, it is not removed.
            away.keep();
            return Err(StoreError::io("rename", &path)(error));
        }
        if error.kind() == io::ErrorKind::AlreadyExists {
            return Err(StoreError::OutputExists { path: dest.to_owned() });
        }
        // Another file system, or somebody who reads it; what else it is the copy will tell.
        Ok(None)
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
        let leaves = row.home == Home::File && row.class == Class::Cache;
        Ok((leaves && self.is_held_once(hash) && !self.pins.contains(hash)).then_some(row))
    }

    /// Returns whether nobody uses a blob but for one who holds it, which is who asks.
    fn is_held_once(&self, hash: &Hash) -> bool {
        self.leases.count(hash) <= 1 && !self.workers.contains(hash)
    }

    /// Removes a fetched blob that nobody uses.
    fn let_go(&self, hash: &Hash) {
        let is_cache = self.catalog.row(hash).is_some_and(|row| row.class == Class::Cache);
        if is_cache {
            self.evict_blob(hash);
        }
    }
}

/// Returns whether a path leads to a file, and nothing else does: a tree may share it, by `checkout --hard-link`.
fn is_only_name(file: &File, path: &Path) -> bool {
    let (Ok(of_path), Ok(of_file)) = (fs::metadata(path), file.metadata()) else { return false };
    sys::inode(&of_path) == sys::inode(&of_file) && sys::links(&of_file) == 1
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
    fn blob_that_somebody_reads_or_holds_or_that_is_pinned_is_copied_and_stays() {
        for use_of_it in 0..3 {
            let case = fetched();
            let (mut reader, mut held) = (None, None);
            match use_of_it {
                0 => reader = case.store.open_blob(&case.hash).expect("open"),
                1 => held = Some(case.store.hold([case.hash])),
                _ => case.store.pin(&case.hash).expect("pinned"),
            }
            case.leave().expect("copied");
            assert!(fs::read(case.out()).expect("read") == case.bytes);
            fs::write(case.out(), "mine now").expect("write");
            assert!(case.store.verify(&case.hash).expect("it is here"), "{use_of_it}");
            drop((reader, held));
        }
    }

    #[test]
    fn file_that_is_still_read_as_a_partial_one_or_has_another_name_is_not_moved() {
        let case = fetched();
        let other = case.dir.path().join("of a tree");
        fs::hard_link(case.store.inner.catalog.files().blob(&case.hash), &other).expect("linked");
        case.leave().expect("copied");
        fs::write(case.out(), "mine now").expect("write");
        assert!(fs::read(&other).expect("read") == case.bytes);
        let mut hasher = blobmesh_protocol::blob::BlobHasher::new();
        hasher.update(b"served meanwhile");
        let partial = case.store.partial(hasher.finish()).expect("partial");
        partial.write_group(0, b"served meanwhile").expect("right");
        partial.finish().expect("whole");
        let hash = partial.list().hash();
        let dest = case.dir.path().join("other");
        let export = case.store.begin_export(&hash, &dest, false).expect("begun");
        export.finish_and_leave(&Stop::default()).expect("copied");
        fs::write(&dest, "mine now").expect("write");
        let mut read = Vec::new();
        assert!(partial.read_group(0, &mut read).expect("read"));
        assert_eq!(read, b"served meanwhile");
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
