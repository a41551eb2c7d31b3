//! Whole directories between real nodes on loopback.

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
mod mesh_support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use blobmesh_node::control::api::{Answer, CheckoutOptions, PullReport, Request};
use mesh_support::{TestNode, bytes};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

/// From this length on an older version of a file is used by a pull.
const LONG: usize = 1 << 20;

/// What may lie at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    File { bytes: Vec<u8>, executable: bool },
    Link(String),
    Dir,
}

/// A directory by paths; what lies above an entry is there, too.
type Tree = BTreeMap<PathBuf, Item>;

fn write(tree: &Tree, dir: &Path) {
    if dir.exists() {
        fs::remove_dir_all(dir).expect("removed");
    }
    fs::create_dir_all(dir).expect("made");
    for (path, item) in tree {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("made");
        match item {
            Item::File { bytes, executable } => {
                fs::write(&path, bytes).expect("written");
                let mode = if *executable { 0o755 } else { 0o644 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("changed");
            }
            Item::Link(target) => symlink(target, &path).expect("linked"),
            Item::Dir => fs::create_dir_all(&path).expect("made"),
        }
    }
}

/// Reads a directory, without what a checkout keeps there for itself.
fn read(dir: &Path) -> Tree {
    let (mut tree, mut open) = (Tree::new(), vec![PathBuf::new()]);
    while let Some(below) = open.pop() {
        for entry in fs::read_dir(dir.join(&below)).expect("listed") {
            let entry = entry.expect("an entry");
            let path = below.join(entry.file_name());
            if path == Path::new(".blobmesh") {
                continue;
            }
            let meta = entry.metadata().expect("stat");
            let item = if meta.is_dir() {
                open.push(path.clone());
                Item::Dir
            } else if meta.is_symlink() {
                let target = fs::read_link(entry.path()).expect("read");
                Item::Link(target.to_string_lossy().into_owned())
            } else {
                let executable = meta.permissions().mode() & 0o100 != 0;
                Item::File { bytes: fs::read(entry.path()).expect("read"), executable }
            };
            tree.insert(path, item);
        }
    }
    tree
}

/// Adds the directories above what a tree has.
fn with_dirs(mut tree: Tree) -> Tree {
    let above = tree.keys().flat_map(|path| path.ancestors().skip(1));
    let above: Vec<PathBuf> = above.filter(|path| *path != Path::new("")).map(Into::into).collect();
    for path in above {
        tree.insert(path, Item::Dir);
    }
    tree
}

async fn add(node: &TestNode, dir: &Path) -> String {
    let request = Request::AddTree { path: dir.to_owned(), pin: false, ignore: false };
    let Ok(Answer::AddedTree(report)) = node.ask(request).await else { panic!("not added") };
    report.hash
}

async fn pull(node: &TestNode, hash: &str, dir: &Path) -> PullReport {
    let request = Request::Pull {
        hash: hash.to_owned(),
        dir: dir.to_owned(),
        options: CheckoutOptions::default(),
        timeout_ms: Some(20_000),
    };
    match node.ask(request).await {
        Ok(Answer::Pulled(report)) => *report,
        other => panic!("not pulled: {other:?}"),
    }
}

fn path() -> impl Strategy<Value = PathBuf> {
    // Entries lie in directories or are leaves by their names, so that none is both.
    let dirs = prop::collection::vec(prop::sample::select(vec!["a", "b", "ein dir"]), 0..4);
    (dirs, 0..12u8).prop_map(|(dirs, leaf)| {
        let mut path: PathBuf = dirs.into_iter().collect();
        path.push(format!("leaf {leaf}"));
        path
    })
}

fn item() -> impl Strategy<Value = Item> {
    let len = prop_oneof![
        Just(0usize),
        Just(1),
        4_000..4_200usize,
        4_096..20_000usize,
        65_530..65_540usize,
        LONG - 5_000..LONG + 300_000,
    ];
    let file = (len, 0..9u8, any::<bool>())
        .prop_map(|(len, seed, executable)| Item::File { bytes: bytes(seed, len), executable });
    let link = prop::sample::select(vec!["leaf 1", "a/leaf 2", "not there"]);
    prop_oneof![8 => file, 1 => link.prop_map(|target| Item::Link(target.to_owned())), 1 => Just(Item::Dir)]
}

/// Says how the next version of a tree differs.
#[derive(Clone, Debug)]
enum Edit {
    /// Something is put at a path.
    Put(PathBuf, Item),
    /// Something goes.
    Remove(Index),
    /// A file gets other bytes at a place.
    Splice { file: Index, at: Index, goes: usize, comes: usize },
}

fn edit() -> impl Strategy<Value = Edit> {
    let splice = (any::<Index>(), any::<Index>(), 0..3_000usize, 0..3_000usize);
    prop_oneof![
        2 => (path(), item()).prop_map(|(path, item)| Edit::Put(path, item)),
        1 => any::<Index>().prop_map(Edit::Remove),
        4 => splice.prop_map(|(file, at, goes, comes)| Edit::Splice { file, at, goes, comes }),
    ]
}

fn carry_out(edit: &Edit, tree: &mut Tree) {
    match edit {
        Edit::Put(path, item) => drop(tree.insert(path.clone(), item.clone())),
        Edit::Remove(index) if !tree.is_empty() => {
            let path = index.get(&tree.keys().cloned().collect::<Vec<_>>()).clone();
            tree.remove(&path);
        }
        Edit::Remove(_) => {}
        Edit::Splice { file, at, goes, comes } => {
            let mut files: Vec<&mut Vec<u8>> = tree
                .values_mut()
                .filter_map(|item| match item {
                    Item::File { bytes, .. } if !bytes.is_empty() => Some(bytes),
                    Item::File { .. } | Item::Link(_) | Item::Dir => None,
                })
                .collect();
            if files.is_empty() {
                return;
            }
            let file = file.index(files.len());
            let blob = &mut files[file];
            let from = at.index(blob.len());
            let to = (from + goes).min(blob.len());
            blob.splice(from..to, bytes(99, *comes));
        }
    }
}

/// Whatever a tree is and however it is edited: what is pulled is what was added, and a pull over the version before
/// makes the same of the directory as one into nothing.
#[test]
fn pull_is_the_identity_and_of_an_edited_tree_equals_one_into_nothing() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (holder, getter, other) = runtime.block_on(async {
        let holder = TestNode::start(&[]).await;
        let (getter, other) =
            (TestNode::start(&[&holder]).await, TestNode::start(&[&holder]).await);
        getter.linked(1).await;
        other.linked(1).await;
        (holder, getter, other)
    });
    let room = tempfile::tempdir().expect("a directory");
    let (source, out, fresh) =
        (room.path().join("source"), room.path().join("out"), room.path().join("fresh"));
    let copied = std::cell::Cell::new(0);
    let trees = prop::collection::btree_map(path(), item(), 0..25);
    let cases = (trees, prop::collection::vec(edit(), 1..8));
    let config = Config { cases: 12, failure_persistence: None, ..Config::default() };
    let ran = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    )
    .run(&cases, |(mut tree, edits)| {
        for dir in [&out, &fresh] {
            if dir.exists() {
                fs::remove_dir_all(dir).expect("removed");
            }
        }
        runtime.block_on(async {
            write(&tree, &source);
            let hash = add(&holder, &source).await;
            pull(&getter, &hash, &out).await;
            assert!(read(&out) == with_dirs(tree.clone()), "the first version");
            edits.iter().for_each(|edit| carry_out(edit, &mut tree));
            write(&tree, &source);
            let hash = add(&holder, &source).await;
            copied.set(copied.get() + pull(&getter, &hash, &out).await.copied);
            pull(&other, &hash, &fresh).await;
            let (switched, made) = (read(&out), read(&fresh));
            assert!(made == with_dirs(tree.clone()), "the edited version into nothing");
            assert!(switched == made, "the edited version over the first");
        });
        Ok(())
    });
    ran.expect("every tree");
    assert!(copied.get() > 0, "no older version was of any use");
}
