//! Trees that are described in a test, put into a store by hand, and read back from a disk.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use blobmesh_node::store::{Store, StoreConfig};
use blobmesh_node::tree::{CheckedOut, CheckoutError, Options, Progress, Stop, checkout};
use blobmesh_protocol::Hash;
use blobmesh_protocol::tree::{Entry, Manifest, Name, Node};
use tempfile::TempDir;

/// Is what a tree has under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Spec {
    File(Vec<u8>),
    Program(Vec<u8>),
    Link(Vec<u8>),
    Dir(Tree),
}

/// Is a tree, or a directory of one.
pub(crate) type Tree = BTreeMap<Vec<u8>, Spec>;

pub(crate) fn file(bytes: impl AsRef<[u8]>) -> Spec {
    Spec::File(bytes.as_ref().to_vec())
}

pub(crate) fn link(target: impl AsRef<[u8]>) -> Spec {
    Spec::Link(target.as_ref().to_vec())
}

pub(crate) fn dir<const N: usize>(entries: [(&str, Spec); N]) -> Spec {
    Spec::Dir(tree(entries))
}

pub(crate) fn tree<const N: usize>(entries: [(&str, Spec); N]) -> Tree {
    entries.into_iter().map(|(name, spec)| (name.as_bytes().to_vec(), spec)).collect()
}

/// Is a directory with a store, a checkout's place, and files that nobody may touch.
pub(crate) struct Room {
    dir: TempDir,
    pub(crate) store: Store,
}

impl Room {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config = StoreConfig::new(dir.path().join("store"), 1 << 30, 1 << 28);
        let store = Store::open(config).expect("the store opens").0;
        let room = Self { dir, store };
        fs::create_dir_all(room.path("outside/inner")).expect("directories");
        for name in ["outside/file", "outside/inner/file", "precious"] {
            fs::write(room.path(name), name).expect("write");
        }
        fs::create_dir(room.path("place")).expect("a directory");
        room
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns where trees are checked out.
    pub(crate) fn out(&self) -> PathBuf {
        self.path("place/out")
    }

    pub(crate) fn put(&self, bytes: &[u8]) -> Hash {
        let hash = Hash::of(bytes);
        self.store.put_whole(&hash, bytes).expect("put");
        hash
    }

    /// Puts a tree with all its blobs into the store.
    pub(crate) fn put_tree(&self, tree: &Tree) -> Hash {
        let manifest = Manifest::new(self.entries(tree)).expect("a manifest");
        self.put(&manifest.encode())
    }

    fn entries(&self, tree: &Tree) -> Vec<Entry> {
        let entry = |(name, spec): (&Vec<u8>, &Spec)| {
            let node = match spec {
                Spec::File(bytes) | Spec::Program(bytes) => Node::File {
                    hash: self.put(bytes),
                    size: bytes.len() as u64,
                    executable: matches!(spec, Spec::Program(_)),
                },
                Spec::Link(target) => Node::Symlink { target: target.as_slice().into() },
                Spec::Dir(inner) => {
                    let manifest = Manifest::new(self.entries(inner)).expect("a manifest");
                    let sealed = manifest.seal().expect("sealed");
                    if let Some(bytes) = sealed.manifest {
                        self.put(&bytes);
                    }
                    sealed.node
                }
            };
            Entry { name: Name::new(name).expect("a name"), node }
        };
        tree.iter().map(entry).collect()
    }

    pub(crate) fn check_out(&self, root: &Hash) -> Result<CheckedOut, CheckoutError> {
        self.check_out_with(root, &Options::default())
    }

    pub(crate) fn force(&self, root: &Hash) -> Result<CheckedOut, CheckoutError> {
        self.check_out_with(root, &Options { force: true, ..Options::default() })
    }

    pub(crate) fn check_out_with(
        &self,
        root: &Hash,
        options: &Options,
    ) -> Result<CheckedOut, CheckoutError> {
        self.check_out_to(&self.out(), root, options)
    }

    pub(crate) fn check_out_to(
        &self,
        out: &Path,
        root: &Hash,
        options: &Options,
    ) -> Result<CheckedOut, CheckoutError> {
        checkout(&self.store, root, out, options, &Progress::default(), &Stop::default())
    }

    /// Returns all that is in the room but for the store, with times and modes.
    pub(crate) fn everything(&self) -> BTreeMap<PathBuf, String> {
        let mut all = BTreeMap::new();
        note_all(self.dir.path(), &self.path("store"), &mut all);
        all
    }

    /// Asserts that all but the checkout itself is as it was.
    #[track_caller]
    pub(crate) fn assert_rest_is(&self, before: &BTreeMap<PathBuf, String>) {
        let (place, out) = (self.path("place"), self.out());
        let rest = |all: &BTreeMap<PathBuf, String>| -> BTreeMap<PathBuf, String> {
            let is_rest = |path: &Path| path != place && !path.starts_with(&out);
            let rest = all.iter().filter(|(path, _)| is_rest(path));
            rest.map(|(path, told)| (path.clone(), told.clone())).collect()
        };
        assert_eq!(rest(&self.everything()), rest(before));
    }
}

fn note_all(at: &Path, but: &Path, all: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(at).expect("list").flatten() {
        let path = entry.path();
        if path == but {
            continue;
        }
        let meta = fs::symlink_metadata(&path).expect("stat");
        let (times, inode) = ((meta.mtime(), meta.mtime_nsec()), meta.ino());
        let content = match meta.is_file() {
            true => Hash::of(&fs::read(&path).expect("read")).to_hex(),
            false => String::new(),
        };
        all.insert(path.clone(), format!("{:o} {times:?} {inode} {content}", meta.mode()));
        if meta.is_dir() {
            note_all(&path, but, all);
        }
    }
}

/// Reads a directory back; what a checkout remembers is no part of it. A file's mode must be one of the two.
pub(crate) fn read_back(at: &Path) -> Tree {
    let mut tree = Tree::new();
    for entry in fs::read_dir(at).expect("list").flatten() {
        let name = entry.file_name().as_bytes().to_vec();
        if name == b".blobmesh" {
            continue;
        }
        let (path, meta) = (entry.path(), fs::symlink_metadata(entry.path()).expect("stat"));
        let spec = if meta.is_symlink() {
            Spec::Link(fs::read_link(&path).expect("a link").as_os_str().as_bytes().to_vec())
        } else if meta.is_dir() {
            Spec::Dir(read_back(&path))
        } else {
            let bytes = fs::read(&path).expect("read");
            match meta.permissions().mode() & 0o7777 {
                0o644 | 0o444 | 0o400 => Spec::File(bytes),
                0o755 => Spec::Program(bytes),
                mode => panic!("{} has mode {mode:o}", path.display()),
            }
        };
        tree.insert(name, spec);
    }
    tree
}

/// Asserts that a directory holds a tree, and tells what differs without all of its bytes.
#[track_caller]
pub(crate) fn assert_holds(at: &Path, expected: &Tree) {
    let found = read_back(at);
    if &found != expected {
        let names = |tree: &Tree| {
            let name = |name: &Vec<u8>| String::from_utf8_lossy(name).into_owned();
            tree.keys().map(name).collect::<Vec<_>>()
        };
        let differing: Vec<_> =
            expected.iter().filter(|(name, spec)| found.get(*name) != Some(*spec)).collect();
        let told: String = format!("{differing:?}").chars().take(600).collect();
        panic!("{:?} instead of {:?}: {told}", names(&found), names(expected));
    }
}

/// Makes a tree of so many small files in some directories.
pub(crate) fn many(files: usize) -> Tree {
    let mut tree = Tree::new();
    for number in 0..files {
        let directory = format!("d{}", number % 7).into_bytes();
        let inner = tree.entry(directory).or_insert_with(|| Spec::Dir(Tree::new()));
        let Spec::Dir(inner) = inner else { continue };
        inner.insert(format!("f{number:05}").into_bytes(), file(format!("content {number}")));
    }
    tree
}
