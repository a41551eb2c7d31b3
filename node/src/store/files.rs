//! The files of the store: where everything lies, and how a file gets its final name.
//!
//! ```text
//! FORMAT               blobmesh-store 1; see `format.rs`
//! lock                 held by one process, with its pid inside
//! blobs/ab/cdef…       whole blobs, raw; the path below `blobs/` is the edge's too
//! outboard/ab/cdef…    group lists of blobs of more than one group; rebuilt when missing
//! partial/ab/cdef….*   data, bits and groups of blobs that are still being fetched
//! packs/0000002a       small fetched blobs that came together; see `packs`
//! rotten/cdef…         blobs whose bytes were found wrong, kept for a look, a few at most
//! tmp/                 everything begins here, see `temp.rs`; emptied when the store is opened
//! pins.json            what users protect from eviction
//! doubt                which fetched blobs a power cut may have emptied; there after one, see `doubt.rs`
//! index.sled/          disposable: see `index.rs`
//! ```
//!
//! Nothing is ever written under a final name: a file is filled in `tmp/` and renamed. The mode of a
//! blob says its durability class even when the index is lost: 0444 for a *durable* blob (added or
//! pinned, fsynced before its name), 0400 for a *cache* one (fetched, can be fetched again).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use blobmesh_protocol::Hash;

use super::error::StoreError;
use super::temp::TempFile;
use super::{format, sys};

/// The mode of a durable blob.
const MODE_DURABLE: u32 = 0o444;
/// The mode of a cache blob: without the reading bits of group and others.
const MODE_CACHE: u32 = 0o400;
/// How many rotten blobs are kept for a look.
const ROTTEN_MAX: usize = 16;
/// How many bytes they may take together, but for one alone. They come on top of the store's bound.
const ROTTEN_BYTES_MAX: u64 = 256 << 20;

/// Knows the paths of one store.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    temps: AtomicU64,
}

/// Says what of a partial blob a file holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum PartialFile {
    /// The groups, each at its offset.
    Data,
    /// Which of them are held.
    Bits,
    /// The group list.
    Groups,
}

/// Says what a blob or another file is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// It survives a power cut: bytes and name are synced before it is reported as done.
    Durable,
    /// It can be had again: it is synced when the store is closed, and checked when it is read.
    Cache,
}

impl Files {
    /// Checks or makes the directory of a store, as [`format::prepare`] says. Says whether the store is new.
    pub(super) fn prepare(root: &Path) -> Result<(Self, bool), StoreError> {
        let (root, new) = format::prepare(root)?;
        Ok((Self { root, temps: AtomicU64::new(0) }, new))
    }

    /// Makes the directories of a locked store, and empties `tmp/`; returns how many files it had.
    pub(super) fn furnish(&self) -> Result<u64, StoreError> {
        for name in ["blobs", "outboard", "packs", "partial", "rotten", "tmp"] {
            let path = self.root.join(name);
            make_dir(&path).map_err(StoreError::io("create", &path))?;
        }
        sys::sync_dir(&self.root).map_err(StoreError::io("sync", &self.root))?;
        self.make_shards("blobs")?;
        self.make_shards("outboard")?;
        self.empty_tmp()
    }

    /// Makes the shards of a directory, all at once: made one by one each would cost a sync of its own, a
    /// second for the first few hundred blobs of a store.
    fn make_shards(&self, of: &str) -> Result<(), StoreError> {
        let of = self.root.join(of);
        let mut made = false;
        for shard in 0..=u8::MAX {
            let path = of.join(format!("{shard:02x}"));
            match fs::create_dir(&path) {
                Ok(()) => made = true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(StoreError::io("create", &path)(error)),
            }
        }
        if made {
            sys::sync_dir(&of).map_err(StoreError::io("sync", &of))?;
        }
        Ok(())
    }

    /// Returns the directory of the store, canonical.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the path of a file or directory directly under the store's.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Returns the path of a whole blob.
    pub(super) fn blob(&self, hash: &Hash) -> PathBuf {
        self.root.join("blobs").join(hash.sharded_path())
    }

    /// Opens the directory of whole blobs, for whoever looks at many of them.
    pub(super) fn open_blobs(&self) -> Result<sys::OpenDir, StoreError> {
        let path = self.root.join("blobs");
        sys::OpenDir::open(&path).map_err(StoreError::io("open", &path))
    }

    /// Returns the path of a blob's group list.
    pub(super) fn outboard(&self, hash: &Hash) -> PathBuf {
        self.root.join("outboard").join(hash.sharded_path())
    }

    /// Returns the path of one file of a partial blob.
    pub(super) fn partial(&self, hash: &Hash, file: PartialFile) -> PathBuf {
        let extension = match file {
            PartialFile::Data => "data",
            PartialFile::Bits => "bits",
            PartialFile::Groups => "groups",
        };
        self.root.join("partial").join(hash.sharded_path()).with_extension(extension)
    }

    /// Makes an empty file in `tmp/`.
    pub(super) fn temp(&self) -> Result<TempFile, StoreError> {
        let number = self.temps.fetch_add(1, Ordering::Relaxed);
        TempFile::create(self.root.join("tmp").join(number.to_string()), 0o600)
    }

    /// Makes an empty file in `tmp/` that has the mode of a cache blob already.
    pub(super) fn temp_cache(&self) -> Result<TempFile, StoreError> {
        let number = self.temps.fetch_add(1, Ordering::Relaxed);
        TempFile::create(self.root.join("tmp").join(number.to_string()), MODE_CACHE)
    }

    /// Makes an empty file in `tmp/` that has the mode of a durable blob already, as far as the umask of this
    /// process lets it.
    pub(super) fn temp_durable(&self) -> Result<TempFile, StoreError> {
        let number = self.temps.fetch_add(1, Ordering::Relaxed);
        TempFile::create(self.root.join("tmp").join(number.to_string()), MODE_DURABLE)
    }

    /// Gives `temp` its final name `path` under the store, if nothing has that name; says whether it did.
    /// Nothing is synced.
    pub(super) fn publish_new(&self, temp: TempFile, path: &Path) -> Result<bool, StoreError> {
        let named = match sys::rename_new(temp.path(), path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_shard(parent(path))?;
                sys::rename_new(temp.path(), path)
            }
            named => named,
        };
        match named {
            Ok(()) => {
                temp.keep();
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(StoreError::io("rename", path)(error)),
        }
    }

    /// Makes a shard. Its own name is made durable whatever the class of the blob that needs it, because a
    /// durable one may follow.
    fn make_shard(&self, shard: &Path) -> Result<(), StoreError> {
        make_dir(shard).map_err(StoreError::io("create", shard))?;
        sys::sync_dir(parent(shard)).map_err(StoreError::io("sync", parent(shard)))
    }

    /// Gives `temp`, a blob, its final name `path`; else as [`name_blob`](Self::name_blob).
    pub(super) fn publish(
        &self,
        temp: TempFile,
        path: &Path,
        class: Class,
    ) -> Result<(), StoreError> {
        self.name_blob(temp.path(), path, class)?;
        temp.keep();
        Ok(())
    }

    /// Gives the file of a blob its final name `path`, and makes that durable if asked. Where that fails, the file has the
    /// name it had before.
    ///
    /// The caller has synced the bytes before, because that may take long and needs no lock, and holds the stripe.
    pub(super) fn name_blob(
        &self,
        from: &Path,
        path: &Path,
        class: Class,
    ) -> Result<(), StoreError> {
        let replaces = class == Class::Durable && path.exists();
        self.rename(from, path)?;
        if class == Class::Cache {
            return Ok(());
        }
        let synced = sync_name(path);
        if synced.is_err() {
            withdraw(from, path, replaces);
        }
        synced
    }

    /// Renames a file of the store to its final name `path`. Nothing is synced.
    pub(super) fn rename(&self, from: &Path, path: &Path) -> Result<(), StoreError> {
        match fs::rename(from, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Somebody removed the shard, or it is none of `blobs/`.
                self.make_shard(parent(path))?;
                fs::rename(from, path)
            }
            renamed => renamed,
        }
        .map_err(StoreError::io("rename", path))
    }

    /// Replaces the file `path` by `bytes` in one step.
    ///
    /// # Errors
    /// After one there is the old file or the new one, and a power cut may bring the old one back.
    pub(super) fn replace(
        &self,
        path: &Path,
        bytes: &[u8],
        class: Class,
    ) -> Result<(), StoreError> {
        let temp = self.temp()?;
        temp.write(bytes)?;
        if class == Class::Durable {
            temp.sync()?;
        }
        self.rename(temp.path(), path)?;
        temp.keep();
        if class == Class::Durable { sync_name(path) } else { Ok(()) }
    }

    /// Calls `visit` with every blob file, shard by shard, until it returns false. Names that are not
    /// hashes are passed over.
    pub(super) fn for_each_blob(
        &self,
        mut visit: impl FnMut(Hash, &fs::DirEntry) -> bool,
    ) -> io::Result<()> {
        for_each_sharded(&self.root.join("blobs"), |name, entry| {
            name.parse().map_or(true, |hash| visit(hash, entry))
        })
    }

    /// Returns the blobs that have files in `partial/`, some of them more than once.
    pub(super) fn partials(&self) -> io::Result<Vec<Hash>> {
        let mut partials = Vec::new();
        for_each_sharded(&self.root.join("partial"), |name, _| {
            let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
            partials.extend(stem.parse::<Hash>());
            true
        })?;
        Ok(partials)
    }

    /// Removes all files of a partial blob.
    pub(super) fn remove_partial(&self, hash: &Hash) {
        // The bits go first: data without bits is nothing, bits without data would be a lie.
        for file in [PartialFile::Bits, PartialFile::Groups, PartialFile::Data] {
            fs::remove_file(self.partial(hash, file)).ok();
        }
    }

    /// Takes the file of a rotten blob out of `blobs/` and keeps it apart, or removes it.
    pub(super) fn set_aside(&self, hash: &Hash, keep: bool) {
        let path = self.blob(hash);
        let aside = self.root.join("rotten").join(hash.to_hex());
        if !keep || fs::rename(&path, &aside).is_err() {
            fs::remove_file(&path).ok();
        }
        fs::remove_file(self.outboard(hash)).ok();
        self.thin_out_rotten(&aside);
    }

    /// Removes rotten blobs beyond their bounds, those that were written first before others. The `newest` stays however
    /// long it is: most of a user's own blob may be right.
    fn thin_out_rotten(&self, newest: &Path) {
        let Ok(entries) = fs::read_dir(self.root.join("rotten")) else { return };
        let others = entries.flatten().filter(|entry| entry.path() != newest);
        let mut others: Vec<_> = others
            .filter_map(|entry| {
                let meta = entry.metadata().ok()?;
                Some((meta.modified().ok()?, entry.path(), meta.len()))
            })
            .collect();
        others.sort();
        let newest = fs::symlink_metadata(newest).ok();
        let (mut kept, mut bytes) = newest.map_or((0, 0), |meta| (1, meta.len()));
        for (_, path, len) in others.into_iter().rev() {
            if kept < ROTTEN_MAX && bytes.saturating_add(len) <= ROTTEN_BYTES_MAX {
                (kept, bytes) = (kept + 1, bytes + len);
            } else {
                fs::remove_file(path).ok();
            }
        }
    }

    fn empty_tmp(&self) -> Result<u64, StoreError> {
        let tmp = self.root.join("tmp");
        let mut removed = 0;
        for entry in fs::read_dir(&tmp).map_err(StoreError::io("list", &tmp))?.flatten() {
            removed += u64::from(fs::remove_file(entry.path()).is_ok());
        }
        Ok(removed)
    }
}

/// Makes the name of a file of the store durable.
fn sync_name(path: &Path) -> Result<(), StoreError> {
    let dir = parent(path);
    sys::sync_dir(dir).map_err(StoreError::io("sync", dir))
}

/// Takes back a blob's name that could not be made durable: it is not added, and must not pass for an acknowledged one
/// later. Where it replaces a fetched one it stays in its place, with the same bytes.
fn withdraw(from: &Path, path: &Path, replaces: bool) {
    let withdrawn = match replaces {
        true => File::open(path).and_then(|file| set_class(&file, Class::Cache)),
        false => fs::rename(path, from),
    };
    if let Err(error) = withdrawn {
        tracing::debug!(%error, "the name of a blob that is not durable was not taken back");
    }
}

/// Sets the mode of a blob's file to its durability class.
pub(super) fn set_class(file: &File, class: Class) -> io::Result<()> {
    let mode = match class {
        Class::Durable => MODE_DURABLE,
        Class::Cache => MODE_CACHE,
    };
    sys::set_mode(file, mode)
}

/// Reads the durability class from a blob's mode; cache where the platform has no modes.
pub(super) fn class_of(meta: &fs::Metadata) -> Class {
    let durable = sys::mode(meta) & (MODE_DURABLE & !MODE_CACHE) != 0;
    if durable { Class::Durable } else { Class::Cache }
}

/// Returns the directory of a path below the store, all of which have one.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// Makes a directory and returns without an error if it exists.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Calls `visit` with the shard and name joined to one word of every file in a sharded directory.
fn for_each_sharded(
    root: &Path,
    mut visit: impl FnMut(&str, &fs::DirEntry) -> bool,
) -> io::Result<()> {
    for shard in fs::read_dir(root)? {
        let shard = shard?;
        // A file where a shard is expected, or a shard that goes away meanwhile, is passed over.
        let Ok(entries) = fs::read_dir(shard.path()) else { continue };
        for entry in entries.flatten() {
            let (shard, name) = (shard.file_name(), entry.file_name());
            let (Some(shard), Some(name)) = (shard.to_str(), name.to_str()) else { continue };
            if shard.len() == 2 && !visit(&format!("{shard}{name}"), &entry) {
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::sys::fault;
    use super::*;

    fn files() -> (tempfile::TempDir, Files) {
        let dir = tempfile::tempdir().expect("a directory");
        let (files, new) = Files::prepare(&dir.path().join("store")).expect("prepare");
        assert!(new);
        files.furnish().expect("furnish");
        (dir, files)
    }

    #[test]
    fn temporary_file_vanishes_unless_it_is_published() {
        let (_dir, files) = files();
        let hash = Hash::of(b"x");
        drop(files.temp().expect("temp"));
        let temp = files.temp().expect("temp");
        temp.write(b"x").expect("write");
        files.publish(temp, &files.blob(&hash), Class::Durable).expect("publish");
        assert_eq!(fs::read(files.blob(&hash)).expect("read"), b"x");
        assert_eq!(fs::read_dir(files.path("tmp")).expect("list").count(), 0);
    }

    #[test]
    fn name_that_cannot_be_made_durable_is_taken_back_and_nothing_is_lost() {
        let (_dir, files) = files();
        let path = files.blob(&Hash::of(b"x"));
        let name = |class| {
            let temp = files.temp().expect("temp");
            temp.write(b"x").expect("write");
            set_class(temp.file(), class).expect("chmod");
            let named = fault::without_sync_dir(|| files.name_blob(temp.path(), &path, class));
            (named.is_ok(), temp.path().exists())
        };
        assert_eq!(name(Class::Durable), (false, true), "it has its old name");
        assert!(!path.exists());
        assert_eq!(name(Class::Cache), (true, false));
        assert_eq!(name(Class::Durable), (false, false), "it stays in the place of the other");
        assert_eq!(fs::read(&path).expect("read"), b"x");
        let meta = fs::metadata(&path).expect("stat");
        assert!(cfg!(not(unix)) || class_of(&meta) == Class::Cache, "it is not durable");
    }

    #[test]
    fn left_over_temporary_files_are_removed() {
        let (_dir, files) = files();
        fs::write(files.path("tmp").join("9-left"), "half a blob").expect("write");
        assert_eq!(files.furnish().expect("furnish"), 1);
        assert_eq!(fs::read_dir(files.path("tmp")).expect("list").count(), 0);
    }

    #[test]
    fn walk_passes_over_names_that_are_not_hashes() {
        let (_dir, files) = files();
        let hash = Hash::of(b"x");
        files.replace(&files.blob(&hash), b"x", Class::Cache).expect("replace");
        fs::write(files.path("blobs").join("stray"), "").expect("write");
        fs::create_dir(files.path("blobs").join("zz")).expect("create");
        fs::write(files.path("blobs").join("zz").join("stray"), "").expect("write");
        let mut seen = Vec::new();
        files.for_each_blob(|hash, _| (seen.push(hash), true).1).expect("walk");
        assert_eq!(seen, [hash]);
    }

    #[cfg(unix)]
    #[test]
    fn mode_tells_the_class() {
        let (_dir, files) = files();
        for class in [Class::Durable, Class::Cache] {
            let temp = files.temp().expect("temp");
            set_class(temp.file(), class).expect("chmod");
            assert_eq!(class_of(&temp.file().metadata().expect("stat")), class);
        }
    }

    #[test]
    fn rotten_blobs_are_kept_up_to_a_bound() {
        let (_dir, files) = files();
        for number in 0..ROTTEN_MAX + 3 {
            let hash = Hash::of(&[u8::try_from(number).expect("small")]);
            files.replace(&files.blob(&hash), b"bad", Class::Cache).expect("replace");
            files.set_aside(&hash, true);
            assert!(!files.blob(&hash).exists());
        }
        assert_eq!(fs::read_dir(files.path("rotten")).expect("list").count(), ROTTEN_MAX);
    }

    #[test]
    fn rotten_blobs_take_no_more_bytes_than_their_bound() {
        let (_dir, files) = files();
        let set_aside = |name: &[u8], len| {
            let path = files.blob(&Hash::of(name));
            let file = File::create(&path).expect("create");
            // Of holes, which take nothing.
            file.set_len(len).expect("grow");
            files.set_aside(&Hash::of(name), true);
            fs::read_dir(files.path("rotten")).expect("list").count()
        };
        assert_eq!(set_aside(b"short", 7), 1);
        assert_eq!(set_aside(b"short, too", 7), 2);
        assert_eq!(set_aside(b"longer than all may be", ROTTEN_BYTES_MAX + 1), 1, "alone");
        assert_eq!(set_aside(b"as long as may be", ROTTEN_BYTES_MAX), 1, "instead of the other");
        assert_eq!(set_aside(b"one more", 7), 1);
        assert_eq!(set_aside(b"one more, too", 7), 2);
    }
}
