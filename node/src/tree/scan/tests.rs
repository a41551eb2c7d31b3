//! Directories of every kind, and what becomes of them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use blobmesh_protocol::Hash;
use blobmesh_protocol::tree::{
    Entry, Manifest, ManifestError, Name, Node, Rules, TREE_DEPTH_MAX, check,
};
use tempfile::TempDir;

use super::cache::Cache;
use super::files::Scanner;
use super::walk::{Chunk, FileStep, Step};
use super::{ScanError, ScanOptions, ScanProgress, Scanned, scan};
use crate::store::{Store, StoreConfig};
use crate::tree::closure;
use crate::tree::source::StoreSource;

/// Is a directory to scan, with a store beside it.
struct Place {
    dir: TempDir,
    store: Store,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config = StoreConfig::new(dir.path().join("store"), 1 << 30, 1 << 28);
        let (store, _) = Store::open(config).expect("open");
        fs::create_dir(dir.path().join("shared")).expect("create");
        Self { dir, store }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("shared")
    }

    fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.root().join(Path::new(name.as_ref()))
    }

    /// Writes a file that was last changed long ago, and the directories above it.
    fn file(&self, name: impl AsRef<OsStr>, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("below the root")).expect("create");
        fs::write(&path, bytes).expect("write");
        path
    }

    fn options(&self) -> ScanOptions {
        ScanOptions {
            root: self.root(),
            ignore: true,
            store_dir: self.store.dir().to_owned(),
            memory: self.dir.path().join("scans"),
        }
    }

    fn try_scan(&self, options: &ScanOptions) -> Result<Scanned, ScanError> {
        scan(&self.store, options, &ScanProgress::default())
    }

    fn scan(&self) -> Scanned {
        self.try_scan(&self.options()).expect("a tree")
    }

    /// Returns the paths of a tree, with the first bytes of what is there.
    fn list(&self, hash: &Hash) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let mut open = vec![(String::new(), load(&self.store, hash))];
        while let Some((path, entries)) = open.pop() {
            for Entry { name, node } in entries {
                let path = format!("{path}/{name}");
                let shown = match node {
                    Node::File { hash, executable, .. } => {
                        let mut bytes = Vec::new();
                        self.store.read_small(&hash, 1 << 20, &mut bytes).expect("read");
                        bytes.truncate(20);
                        let mark = if executable { "x:" } else { "" };
                        format!("{mark}{}", String::from_utf8_lossy(&bytes))
                    }
                    Node::Symlink { target } => format!("-> {}", target.escape_ascii()),
                    Node::Dir(entries) => {
                        open.push((path.clone(), entries));
                        "/".to_owned()
                    }
                    Node::Tree { hash, .. } => {
                        open.push((path.clone(), load(&self.store, &hash)));
                        "//".to_owned()
                    }
                };
                found.insert(path, shown);
            }
        }
        found
    }

    fn names(&self, hash: &Hash) -> Vec<String> {
        self.list(hash).into_keys().collect()
    }

    /// Makes the times of all files look as if they had been settled for long; their inodes were changed now.
    fn settle(&self) {
        // The clock of the file system has to pass the moment of the last change by more than a tick.
        let settled = SystemTime::now() + Duration::from_millis(25);
        while SystemTime::now() < settled {
            std::thread::yield_now();
        }
    }
}

fn load(store: &Store, hash: &Hash) -> Vec<Entry> {
    let mut bytes = Vec::new();
    store.read_small(hash, 64 << 20, &mut bytes).expect("read");
    Manifest::decode(&bytes).expect("a manifest").entries
}

/// Does what a scan does in the simplest way.
fn reference(directory: &Path) -> Manifest {
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory).expect("list") {
        let entry = entry.expect("list");
        let name = Name::new(entry.file_name().as_bytes()).expect("a name");
        let meta = fs::symlink_metadata(entry.path()).expect("stat");
        let node = if meta.is_dir() {
            reference(&entry.path()).seal().expect("in bounds").node
        } else if meta.is_symlink() {
            let target = fs::read_link(entry.path()).expect("a link");
            Node::Symlink { target: target.as_os_str().as_bytes().into() }
        } else {
            let bytes = fs::read(entry.path()).expect("read");
            let executable = meta.permissions().mode() & 0o100 != 0;
            Node::File { hash: Hash::of(&bytes), size: meta.len(), executable }
        };
        entries.push(Entry { name, node });
    }
    Manifest::new(entries).expect("in bounds")
}

#[test]
fn directory_becomes_the_tree_it_is() {
    let place = Place::new();
    place.file("a/b/c/deep", b"deep");
    place.file("empty", b"");
    let tool = place.file("tool", b"#!/bin/sh");
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).expect("chmod");
    // Executable by others is not executable by its owner.
    let odd = place.file("odd", b"odd");
    fs::set_permissions(&odd, fs::Permissions::from_mode(0o4611)).expect("chmod");
    fs::create_dir(place.path("hollow")).expect("create");
    symlink("a/b", place.path("link")).expect("link");
    symlink("/nowhere", place.path("dangling")).expect("link");
    let scanned = place.scan();
    assert_eq!(scanned.hash, Hash::of(&reference(&place.root()).encode()));
    let list = place.list(&scanned.hash);
    let expected = [
        ("/a", "/"),
        ("/a/b", "/"),
        ("/a/b/c", "/"),
        ("/a/b/c/deep", "deep"),
        ("/dangling", "-> /nowhere"),
        ("/empty", ""),
        ("/hollow", "/"),
        ("/link", "-> a/b"),
        ("/odd", "odd"),
        ("/tool", "x:#!/bin/sh"),
    ];
    assert_eq!(list, expected.map(|(path, shown)| (path.to_owned(), shown.to_owned())).into());
    assert_eq!((scanned.totals.files, scanned.totals.bytes, scanned.totals.entries), (4, 16, 10));
    assert_eq!((scanned.manifests, scanned.unchanged), (1, 0));
}

#[test]
fn large_directories_and_many_small_ones_become_manifests_of_their_own() {
    let place = Place::new();
    for index in 0..3_000 {
        place.file(format!("flat/{index}"), format!("{}", index % 700));
    }
    for index in 0..300 {
        place.file(format!("many/{}/{index}", index / 3), format!("{index}"));
    }
    // Longer than is read into memory at once, and longer than a buffer.
    place.file("large/300k", vec![7; 300_000]);
    place.file("large/3M", vec![8; 3_000_000]);
    let scanned = place.scan();
    assert_eq!(scanned.hash, Hash::of(&reference(&place.root()).encode()));
    assert_eq!(scanned.totals.files, 3_302);
    let checked = check(&scanned.hash, Rules::default(), &mut StoreSource(&place.store));
    assert_eq!(checked.expect("safe"), scanned.totals);
    let all = closure::of_tree(&place.store, &scanned.hash).expect("whole").expect("a tree");
    let mut held = scanned.blobs.hashes();
    held.sort_unstable();
    assert_eq!(all, held, "what a pin of the tree protects is what was added");
    assert!(place.store.hashes().expect("hashes") == held);
}

#[test]
fn odd_names_survive() {
    let place = Place::new();
    let names: [&[u8]; 9] =
        [b"-rf", b" ", b"a\nb", b"\xff\xfe", "🙂".as_bytes(), b"*", b"...", b"\\", &[b'n'; 255]];
    for name in names {
        place.file(OsStr::from_bytes(name), name);
        fs::create_dir_all(place.path("d").join(OsStr::from_bytes(name))).expect("create");
    }
    symlink(OsStr::from_bytes(b"\xff/ \n"), place.path("l")).expect("link");
    let sparse = fs::File::create(place.path("sparse")).expect("create");
    sparse.set_len(10_000_000).expect("grow");
    let scanned = place.scan();
    assert_eq!(scanned.hash, Hash::of(&reference(&place.root()).encode()));
    assert_eq!(scanned.totals.entries, 9 + 1 + 9 + 1 + 1);
}

#[test]
fn place_owner_and_time_make_no_difference_and_the_executable_bit_does() {
    let (one, other) = (Place::new(), Place::new());
    for place in [&one, &other] {
        place.file("b/x", b"x");
        place.file("a", b"a");
    }
    let file = fs::File::options().write(true).open(other.path("a")).expect("open");
    file.set_modified(SystemTime::UNIX_EPOCH).expect("time");
    fs::set_permissions(other.path("a"), fs::Permissions::from_mode(0o600)).expect("chmod");
    assert_eq!(one.scan().hash, other.scan().hash);
    fs::set_permissions(other.path("a"), fs::Permissions::from_mode(0o700)).expect("chmod");
    assert_ne!(one.scan().hash, other.scan().hash);
}

#[test]
fn rules_leave_out_what_git_would_and_the_repository_itself() {
    let place = Place::new();
    fs::write(place.dir.path().join(".gitignore"), "*").expect("a rule above the root");
    place.file(".git/hooks/pre-commit", b"evil");
    place.file("sub/.git", b"gitdir: ../x");
    place.file("sub/.blobmesh/state", b"ours");
    place.file(".gitignore", "\u{feff}*.log\n!keep.log\nbuild/\n/only-here\n\\#odd\n");
    for name in [
        "a.log",
        "keep.log",
        "build/x",
        "sub/build/y",
        "only-here",
        "sub/only-here",
        "#odd",
        ".hidden",
        "sub/a.log",
        "sub/deep/a.log",
        "sub/deep/b.txt",
        "sub/deep/c.txt",
        "no.txt",
        "sub/no.txt",
    ] {
        place.file(name, name);
    }
    place.file("sub/.gitignore", "!a.log\ndeep/*.txt\n");
    place.file(".blobmeshignore", "no.txt\n!c.txt\n");
    let scanned = place.scan();
    let expected = [
        "/.blobmeshignore",
        "/.gitignore",
        "/.hidden",
        "/keep.log",
        "/sub",
        "/sub/.gitignore",
        "/sub/a.log",
        "/sub/deep",
        "/sub/deep/a.log",
        "/sub/deep/c.txt",
        "/sub/only-here",
    ];
    assert_eq!(place.names(&scanned.hash), expected);
    // a.log, build, sub/build, only-here, #odd, b.txt and both no.txt.
    assert_eq!((scanned.left_out.ignored, scanned.left_out.git), (8, 2));
    assert!(scanned.left_out.warnings.is_empty(), "{:?}", scanned.left_out.warnings);

    let all = place.try_scan(&ScanOptions { ignore: false, ..place.options() }).expect("a tree");
    let names = place.names(&all.hash);
    assert!(names.contains(&"/build/x".to_owned()) && names.contains(&"/#odd".to_owned()));
    assert!(!names.iter().any(|name| name.contains("/.git/") || name.contains("/.blobmesh/")));
    assert_eq!((all.left_out.ignored, all.left_out.git), (0, 2));
}

#[test]
fn rule_that_makes_no_sense_is_told_of_and_passed_over() {
    let place = Place::new();
    place.file(".gitignore", "[z-a]\n*.log\n");
    place.file("a.log", b"");
    let scanned = place.scan();
    assert_eq!(place.names(&scanned.hash), ["/.gitignore"]);
    let warnings = &scanned.left_out.warnings;
    assert!(warnings.len() == 1 && warnings[0].starts_with("line 1 of "), "{warnings:?}");
}

#[test]
fn unchanged_files_are_not_read_again_and_changed_ones_are() {
    let place = Place::new();
    for index in 0..20 {
        place.file(format!("d/{index}"), format!("content {index:02}"));
    }
    place.settle();
    let first = place.scan();
    assert_eq!(first.unchanged, 0);
    let second = place.scan();
    assert_eq!((second.unchanged, second.hash), (20, first.hash));
    assert!(second.blobs.added.is_empty());
    // Of the same length, and with the time of before: only the inode's own time tells.
    let path = place.path("d/7");
    let before = fs::metadata(&path).expect("stat").modified().expect("time");
    fs::write(&path, b"CONTENT 07").expect("write");
    fs::File::options().write(true).open(&path).expect("open").set_modified(before).expect("time");
    // Replaced by a rename, as editors do; the old one's inode may be taken again.
    place.file("new", b"content 99");
    fs::rename(place.path("new"), place.path("d/8")).expect("rename");
    let third = place.scan();
    assert_eq!(third.unchanged, 18);
    assert_eq!(third.hash, Hash::of(&reference(&place.root()).encode()));
    assert_eq!(third.blobs.added.len(), 4, "two files, two manifests");
}

#[test]
fn file_whose_blob_has_gone_is_read_again() {
    let place = Place::new();
    place.file("a", b"a");
    place.file("b", b"b");
    place.settle();
    let first = place.scan();
    drop(first.blobs);
    place.store.remove(&Hash::of(b"a"), false).expect("remove");
    let second = place.scan();
    assert_eq!((second.unchanged, second.blobs.added.len(), second.hash), (1, 1, first.hash));
    assert!(place.store.find(&Hash::of(b"a")).expect("find").is_some());
}

#[test]
fn damaged_memory_costs_a_reading_and_no_more() {
    let place = Place::new();
    place.file("a", b"a");
    place.settle();
    let first = place.scan();
    let memory = place.dir.path().join("scans");
    let path = fs::read_dir(&memory).expect("list").next().expect("one").expect("one").path();
    let good = fs::read(&path).expect("read");
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let damages =
        [Vec::new(), good[..good.len() - 1].to_vec(), flipped(0), flipped(8), flipped(50)];
    for damaged in damages {
        fs::write(&path, damaged).expect("write");
        let again = place.scan();
        assert_eq!((again.unchanged, again.hash), (0, first.hash));
        assert_eq!(fs::read(&path).expect("read"), good);
    }
    assert_eq!(place.scan().unchanged, 1);
}

#[test]
fn file_that_was_written_just_now_is_not_remembered() {
    let place = Place::new();
    let path = place.file("a", b"a");
    // As if its last change were still to come, which no tick of a clock is longer than.
    let file = fs::File::options().write(true).open(&path).expect("open");
    file.set_modified(SystemTime::now() + Duration::from_secs(1_000)).expect("time");
    place.settle();
    place.scan();
    assert_eq!(place.scan().unchanged, 0);
}

#[test]
fn what_is_no_file_is_left_out_and_told_of() {
    let place = Place::new();
    place.file("a", b"a");
    let _socket = std::os::unix::net::UnixListener::bind(place.path("socket")).expect("bind");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let pipe = place.path("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0)
        .expect("a pipe");
    let scanned = place.scan();
    assert_eq!(place.names(&scanned.hash), ["/a"]);
    assert_eq!(scanned.left_out.special, 2);
    let [pipe, socket] = &scanned.left_out.warnings[..] else { panic!("{scanned:?}") };
    assert!(pipe.starts_with("left out the pipe ") && pipe.ends_with("/pipe"), "{pipe}");
    assert!(socket.starts_with("left out the socket "), "{socket}");
}

#[test]
fn file_that_is_another_thing_by_now_is_an_error_that_names_it() {
    let place = Place::new();
    place.file("file", b"x");
    symlink("file", place.path("link")).expect("link");
    fs::create_dir(place.path("directory")).expect("create");
    // Scans a file that a listing had, as it is now.
    let scan_one = |name: &str| {
        let directory: Arc<Path> = place.root().into();
        let name = Name::new(name.as_bytes()).expect("a name");
        let steps = vec![Step::File(FileStep { directory, name })];
        let progress = ScanProgress::default();
        let batch = place.store.batch().expect("batch");
        Scanner::new(batch, Cache::default(), &progress).scan_all(&Chunk { steps }, 2)
    };
    assert_eq!(scan_one("file").expect("a file").len(), 1);
    for name in ["link", "directory", "gone"] {
        let refused = scan_one(name);
        let Err(ScanError::Changed { path }) = &refused else { panic!("{name}: {refused:?}") };
        assert_eq!(*path, place.path(name));
    }
}

#[test]
fn too_deep_a_directory_is_refused_by_name() {
    let place = Place::new();
    let deep = |levels| ["d"].repeat(levels).join("/");
    fs::create_dir_all(place.path(deep(TREE_DEPTH_MAX))).expect("create");
    let scanned = place.scan();
    assert!(check(&scanned.hash, Rules::default(), &mut StoreSource(&place.store)).is_ok());
    fs::create_dir_all(place.path(deep(TREE_DEPTH_MAX + 1))).expect("create");
    let refused = place.try_scan(&place.options());
    let Err(ScanError::Tree { path, source: ManifestError::Depth }) = &refused else {
        panic!("{refused:?}")
    };
    assert!(path.ends_with(deep(TREE_DEPTH_MAX + 1)), "{}", path.display());
}

#[test]
fn store_is_never_added_to_itself() {
    let place = Place::new();
    place.file("a", b"a");
    let above = ScanOptions { root: place.dir.path().to_owned(), ..place.options() };
    let scanned = place.try_scan(&above).expect("a tree");
    assert_eq!(place.names(&scanned.hash), ["/shared", "/shared/a"]);
    assert!(scanned.left_out.warnings[0].starts_with("left out the store "));
    for inside in [place.dir.path().join("store"), place.dir.path().join("store/blobs")] {
        let refused = place.try_scan(&ScanOptions { root: inside, ..place.options() });
        assert!(matches!(refused, Err(ScanError::InStore { .. })), "{refused:?}");
    }
    let file = place.try_scan(&ScanOptions { root: place.path("a"), ..place.options() });
    assert!(matches!(file, Err(ScanError::NotADirectory { .. })), "{file:?}");
    let nothing = place.try_scan(&ScanOptions { root: place.path("b"), ..place.options() });
    assert!(matches!(nothing, Err(ScanError::Io { .. })), "{nothing:?}");
}

#[test]
fn scan_that_nobody_waits_for_ends() {
    let place = Place::new();
    (0..50).for_each(|index| {
        place.file(format!("{index}"), b"x");
    });
    let progress = ScanProgress::default();
    progress.stop.stop();
    let ended = scan(&place.store, &place.options(), &progress);
    assert!(matches!(ended, Err(ScanError::Canceled)), "{ended:?}");
    assert_eq!(place.store.stats().blobs, 0);
}

#[test]
fn progress_counts_every_file_read_or_not() {
    let place = Place::new();
    place.file("a", b"12345");
    place.file("d/large", vec![1; 1 << 20]);
    place.settle();
    for _ in 0..2 {
        let progress = ScanProgress::default();
        scan(&place.store, &place.options(), &progress).expect("a tree");
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        assert_eq!((count(&progress.files), count(&progress.found)), (2, 2));
        assert_eq!(count(&progress.bytes), (1 << 20) + 5);
        assert!(progress.all_found.load(Ordering::Relaxed));
    }
}

#[test]
fn tree_is_unpinned_but_for_what_another_pinned_one_has() {
    let place = Place::new();
    for index in 0..100 {
        place.file(format!("shared/{index}"), format!("shared {index}"));
    }
    place.file("only", b"first");
    let first = place.scan();
    place.file("only", b"second");
    let second = place.scan();
    for scanned in [&first, &second] {
        place.store.pin_all(&scanned.blobs.hashes()).expect("pin");
    }
    let all = place.store.pins().len();
    let gone = closure::to_unpin(&place.store, &first.hash).expect("whole").expect("a tree");
    let mut expected = [first.hash, Hash::of(b"first")];
    expected.sort_unstable();
    assert_eq!(gone, expected);
    place.store.unpin_all(&gone).expect("unpin");
    let rest = closure::to_unpin(&place.store, &second.hash).expect("whole").expect("a tree");
    assert_eq!(rest.len(), all - 2);
    assert_eq!(closure::of_tree(&place.store, &Hash::of(b"first")).expect("read"), None);
}
