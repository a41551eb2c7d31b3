//! Stores in temporary directories, and blobs of known bytes.

use std::fs;
use std::path::{Path, PathBuf};

use blobmesh_node::store::{BlobReader, OpenReport, Partial, Store, StoreConfig};
use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{
    BlobHasher, GROUP_LEN, GroupList, group_count, group_len, group_offset,
};
use tempfile::TempDir;

pub(crate) const GROUP: usize = GROUP_LEN as usize;

/// The sizes at which something changes: empty, inline or not, one group or more.
pub(crate) const SIZES: [usize; 9] =
    [0, 1, 4095, 4096, 4097, GROUP - 1, GROUP, GROUP + 1, 5 * GROUP + 123];

/// Is a named case of a table.
pub(crate) type Case<F> = (&'static str, F);

/// Is a directory with a store in it, and room beside the store.
pub(crate) struct Home {
    dir: TempDir,
    pub(crate) bytes_max: u64,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory"), bytes_max: 1 << 30 }
    }

    pub(crate) fn bounded(bytes_max: u64) -> Self {
        Self { bytes_max, ..Self::new() }
    }

    pub(crate) fn config(&self) -> StoreConfig {
        StoreConfig::new(self.root(), self.bytes_max, 1 << 28)
    }

    pub(crate) fn open(&self) -> Store {
        self.open_reporting().0
    }

    pub(crate) fn open_reporting(&self) -> (Store, OpenReport) {
        Store::open(self.config()).expect("the store opens")
    }

    /// Returns the store's directory.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Returns a path beside the store.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn blob_path(&self, hash: &Hash) -> PathBuf {
        self.root().join("blobs").join(hash.sharded_path())
    }

    pub(crate) fn partial_path(&self, hash: &Hash, extension: &str) -> PathBuf {
        self.root().join("partial").join(hash.sharded_path()).with_extension(extension)
    }

    /// Adds a file of these bytes.
    pub(crate) fn add(&self, store: &Store, bytes: &[u8]) -> Hash {
        let path = self.beside("source");
        fs::write(&path, bytes).expect("write");
        store.add_file(&path, &mut |_| {}).expect("add").hash
    }

    /// Makes the store look as if the process had died: a copy of everything but the lock.
    pub(crate) fn crash_image(&self) -> Self {
        let image = Self { bytes_max: self.bytes_max, ..Self::new() };
        copy_tree(&self.root(), &image.root());
        image
    }

    /// Asserts that nothing is left behind in `tmp/`.
    pub(crate) fn assert_no_temps(&self) {
        let left: Vec<_> = fs::read_dir(self.root().join("tmp")).expect("list").flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("create");
    for entry in fs::read_dir(from).expect("list").flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().expect("type").is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copy");
        }
    }
}

/// Makes bytes that differ between seeds and do not repeat from group to group.
pub(crate) fn bytes_of(len: usize, seed: u64) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    let mut bytes = vec![0; len];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

pub(crate) fn list_of(bytes: &[u8]) -> GroupList {
    let mut hasher = BlobHasher::new();
    hasher.update(bytes);
    hasher.finish()
}

/// Returns the bytes of one group.
pub(crate) fn group_of(bytes: &[u8], index: u64) -> &[u8] {
    let from = group_offset(index) as usize;
    &bytes[from..from + group_len(bytes.len() as u64, index)]
}

/// Writes groups of `bytes` into a partial.
pub(crate) fn fill(partial: &Partial, bytes: &[u8], groups: impl IntoIterator<Item = u64>) {
    for index in groups {
        partial.write_group(index, group_of(bytes, index)).expect("a right group");
    }
}

/// Stores `bytes` as if fetched from a peer.
pub(crate) fn fetch(store: &Store, bytes: &[u8]) -> Hash {
    let partial = store.partial(list_of(bytes)).expect("partial");
    fill(&partial, bytes, (0..group_count(bytes.len() as u64)).rev());
    partial.finish().expect("finish").hash
}

pub(crate) fn read_all(reader: &BlobReader) -> Vec<u8> {
    let (mut all, mut group) = (Vec::new(), Vec::new());
    for index in 0..group_count(reader.size()) {
        reader.read_group(index, &mut group).expect("a right group");
        all.extend_from_slice(&group);
    }
    all
}

/// Asserts that the store gives exactly these bytes.
pub(crate) fn assert_holds(store: &Store, bytes: &[u8]) {
    let hash = Hash::of(bytes);
    let reader = store.open_blob(&hash).expect("open").expect("it is there");
    assert_eq!(reader.size(), bytes.len() as u64);
    assert!(read_all(&reader) == bytes, "other bytes than were stored");
    assert_eq!(*reader.list().expect("list"), list_of(bytes));
}

/// Flips one bit of a file, as a decaying disk would; the file's times stay what they are.
pub(crate) fn flip_bit(path: &Path, at: usize) {
    let times = fs::metadata(path).expect("stat").modified().expect("time");
    let mut bytes = fs::read(path).expect("read");
    bytes[at] ^= 0x10;
    make_writable(path);
    fs::write(path, bytes).expect("write");
    fs::File::options().write(true).open(path).expect("open").set_modified(times).expect("time");
}

pub(crate) fn truncate(path: &Path, len: u64) {
    make_writable(path);
    fs::File::options().write(true).open(path).expect("open").set_len(len).expect("truncate");
}

fn make_writable(path: &Path) {
    let mut permissions = fs::metadata(path).expect("stat").permissions();
    #[allow(clippy::permissions_set_readonly_false, reason = "a test's own file")]
    permissions.set_readonly(false);
    fs::set_permissions(path, permissions).expect("chmod");
}
