//! Directories that hold one tree and are to hold another.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use blobmesh_node::control::api::Trouble;
use blobmesh_node::tree::{IN_THE_WAY_MAX, Options, checkout};
use blobmesh_protocol::Hash;
use proptest::prelude::*;

use super::support::*;

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).expect("stat").ino()
}

#[test]
fn switch_touches_what_differs_and_nothing_else() {
    let room = Room::new();
    let old = tree([
        ("changed", file("old")),
        ("dir", dir([("gone", file("gone")), ("kept", file("kept"))])),
        ("gone", dir([("deep", dir([("file", file("x"))]))])),
        ("kept", file("kept")),
        ("to", link("kept")),
        ("turns", Spec::Program(b"same".to_vec())),
    ]);
    let new = tree([
        ("changed", Spec::Program(b"new".to_vec())),
        ("dir", dir([("kept", file("kept")), ("new", dir([("file", file("y"))]))])),
        ("kept", file("kept")),
        ("to", link("changed")),
        ("turns", file("same")),
    ]);
    room.check_out(&room.put_tree(&old)).expect("checked out");
    let (root, before) = (room.put_tree(&new), room.everything());
    let kept = ["kept", "dir/kept", "dir", "."].map(|name| inode(&room.out().join(name)));
    let done = room.check_out(&root).expect("switched");
    assert_eq!((done.added, done.changed, done.removed), (1, 3, 2));
    assert_holds(&room.out(), &new);
    assert_eq!(["kept", "dir/kept", "dir", "."].map(|name| inode(&room.out().join(name))), kept);
    room.assert_rest_is(&before);
    let again = room.check_out(&root).expect("nothing to do");
    assert_eq!((again.added, again.changed, again.removed, again.bytes), (0, 0, 0, 0));
    assert_eq!(names(&room.out().join(".blobmesh")), ["state"]);
}

fn names(at: &Path) -> Vec<String> {
    let names = fs::read_dir(at).expect("list").flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn every_kind_of_entry_turns_into_every_other() {
    let kinds = || {
        [
            None,
            Some(file("a")),
            Some(Spec::Program(b"a".to_vec())),
            Some(file("longer")),
            Some(link("other")),
            Some(link("elsewhere")),
            Some(dir([])),
            Some(dir([("x", file("1")), ("y", dir([("z", link("../x"))]))])),
            Some(dir([("x", dir([("y", file("2"))]))])),
        ]
    };
    let room = Room::new();
    let with = |spec: Option<Spec>| -> Tree {
        let mut all = tree([("other", file("o"))]);
        all.extend(spec.map(|spec| (b"it".to_vec(), spec)));
        all
    };
    for (number, old) in kinds().into_iter().enumerate() {
        for new in kinds() {
            let out = room.path(&format!("place/{number}"));
            let (old, new) = (with(old.clone()), with(new));
            for tree in [&old, &new] {
                let root = room.put_tree(tree);
                room.check_out_to(&out, &root, &Options::default()).expect("checked out");
                assert_holds(&out, tree);
            }
            fs::remove_dir_all(&out).expect("remove");
        }
    }
}

#[test]
fn empty_directory_is_filled_and_stays_the_same_directory() {
    let room = Room::new();
    let expected = many(300);
    let root = room.put_tree(&expected);
    fs::create_dir(room.out()).expect("a directory");
    let before = inode(&room.out());
    room.check_out(&root).expect("checked out");
    assert_eq!(inode(&room.out()), before);
    assert_holds(&room.out(), &expected);
}

#[test]
fn empty_directory_is_left_empty_by_a_failure() {
    let room = Room::new();
    let root = room.put_tree(&many(30));
    room.store.remove(&Hash::of(b"content 7"), true).expect("remove");
    fs::create_dir(room.out()).expect("a directory");
    room.check_out(&root).expect_err("a blob is missing");
    assert!(names(&room.out()).is_empty());
}

#[test]
fn old_tree_that_the_store_has_forgotten_is_known_all_the_same() {
    let room = Room::new();
    let old = many(400);
    let old_root = room.put_tree(&old);
    room.check_out(&old_root).expect("checked out");
    let new = many(410);
    let root = room.put_tree(&new);
    // Its root, and manifests further down, in turn.
    room.store.remove(&old_root, true).expect("remove");
    let done = room.check_out(&root).expect("switched");
    assert_eq!((done.added, done.changed, done.removed), (10, 0, 0));
    assert_holds(&room.out(), &new);
}

/// Does something to a checkout, and says which paths are then in the way of the next tree.
type Deed = (&'static str, fn(&Path), &'static [&'static str]);

const DEEDS: &[Deed] = &[
    ("an edit", |out| fs::write(out.join("changed"), "mine").expect("write"), &["changed"]),
    ("an edit of the same length", |out| edit_in_place(&out.join("changed")), &["changed"]),
    ("an edit of what goes", |out| fs::write(out.join("gone"), "mine").expect("write"), &["gone"]),
    ("a file where one comes", |out| fs::write(out.join("new"), "mine").expect("write"), &["new"]),
    ("a link where a file comes", |out| symlink("kept", out.join("new")).expect("link"), &["new"]),
    (
        "a directory where a file comes",
        |out| {
            fs::create_dir(out.join("new")).expect("a directory");
            fs::write(out.join("new/mine"), "mine").expect("write");
        },
        &["new"],
    ),
    (
        "a file in a directory that becomes one",
        |out| fs::write(out.join("turns/mine"), "mine").expect("write"),
        &["turns/mine"],
    ),
    (
        "an edit in a directory that becomes a file",
        |out| fs::write(out.join("turns/inner"), "mine").expect("write"),
        &["turns/inner"],
    ),
    (
        "a link in place of a directory",
        |out| {
            fs::rename(out.join("dir"), out.join("mine")).expect("rename");
            symlink("../../outside", out.join("dir")).expect("link");
        },
        &["dir"],
    ),
    ("another target", |out| relink(&out.join("to"), "changed"), &["to"]),
    (
        "two at once",
        |out| {
            fs::write(out.join("changed"), "mine").expect("write");
            fs::write(out.join("new"), "mine").expect("write");
        },
        &["changed", "new"],
    ),
];

fn edit_in_place(path: &Path) {
    let len = fs::metadata(path).expect("stat").len();
    fs::write(path, vec![b'm'; usize::try_from(len).expect("short")]).expect("write");
}

fn relink(path: &Path, target: &str) {
    fs::remove_file(path).expect("remove");
    symlink(target, path).expect("link");
}

fn trees_for_deeds() -> (Tree, Tree) {
    let old = tree([
        ("changed", file("old")),
        ("dir", dir([("file", file("old"))])),
        ("gone", file("gone")),
        ("kept", file("kept")),
        ("to", link("kept")),
        ("turns", dir([("inner", file("inner"))])),
    ]);
    let new = tree([
        ("changed", file("new")),
        ("dir", dir([("file", file("new"))])),
        ("kept", file("kept")),
        ("new", file("new")),
        ("to", link("new")),
        ("turns", file("a file")),
    ]);
    (old, new)
}

#[test]
fn work_of_others_is_in_the_way_unless_that_is_forced() {
    for (about, deed, in_the_way) in DEEDS {
        let room = Room::new();
        let (old, new) = trees_for_deeds();
        room.check_out(&room.put_tree(&old)).expect("checked out");
        deed(&room.out());
        let (root, before) = (room.put_tree(&new), room.everything());
        let refused = room.check_out(&root).expect_err(about);
        assert_eq!(refused.kind(), Trouble::LocalChanges, "{about}: {refused}");
        assert_eq!(refused.details(), *in_the_way, "{about}");
        let after = room.everything();
        let state = |path: &&std::path::PathBuf| !path.ends_with(".blobmesh");
        assert!(before.keys().filter(state).eq(after.keys().filter(state)), "{about}");
        for (path, told) in before.iter().filter(|(path, _)| path.is_file()) {
            assert_eq!(after.get(path), Some(told), "{about}: {}", path.display());
        }
        room.force(&root).expect(about);
        let mut found = read_back(&room.out());
        found.remove(&b"mine"[..]);
        assert!(found == new, "{about}: {found:?}");
        room.assert_rest_is(&before);
    }
}

#[test]
fn changes_that_are_in_nobodys_way_are_kept() {
    let room = Room::new();
    let (old, new) = trees_for_deeds();
    room.check_out(&room.put_tree(&old)).expect("checked out");
    let out = room.out();
    fs::write(out.join("kept"), "my own").expect("write");
    fs::write(out.join("dir/beside"), "mine").expect("write");
    fs::remove_file(out.join("changed")).expect("remove");
    fs::remove_file(out.join("gone")).expect("remove");
    fs::write(out.join("new"), "new").expect("the same as comes");
    let root = room.put_tree(&new);
    room.check_out(&root).expect("nothing is in the way");
    let mut expected = new.clone();
    expected.insert(b"kept".to_vec(), file("my own"));
    expected.insert(b"dir".to_vec(), dir([("beside", file("mine")), ("file", file("new"))]));
    assert_holds(&out, &expected);
    room.force(&root).expect("forced");
    expected.insert(b"kept".to_vec(), file("kept"));
    assert_holds(&out, &expected);
}

#[test]
fn file_that_was_only_touched_or_copied_is_not_changed() {
    let room = Room::new();
    let (old, new) = trees_for_deeds();
    room.check_out(&room.put_tree(&old)).expect("checked out");
    let path = room.out().join("changed");
    let copy = fs::read(&path).expect("read");
    fs::remove_file(&path).expect("remove");
    fs::write(&path, copy).expect("write");
    room.check_out(&room.put_tree(&new)).expect("switched");
    assert_holds(&room.out(), &new);
}

#[test]
fn all_are_counted_that_are_in_the_way_and_some_are_named() {
    let room = Room::new();
    room.check_out(&room.put_tree(&many(10))).expect("checked out");
    for number in 10..50 {
        fs::write(room.out().join(format!("d{}/f{number:05}", number % 7)), "mine").expect("write");
    }
    let refused = room.check_out(&room.put_tree(&many(50))).expect_err("in the way");
    assert!(refused.to_string().starts_with("40 paths in "), "{refused}");
    assert_eq!(refused.details().len(), IN_THE_WAY_MAX + 1);
    assert_eq!(refused.details()[IN_THE_WAY_MAX], "and 20 more");
}

#[test]
fn damaged_memory_is_found_and_forced() {
    let room = Room::new();
    let root = room.put_tree(&many(30));
    room.check_out(&root).expect("checked out");
    let state = room.out().join(".blobmesh/state");
    let good = fs::read(&state).expect("read");
    for damage in [Vec::new(), good[..good.len() / 2].to_vec(), {
        let mut bad = good.clone();
        bad[100] ^= 1;
        bad
    }] {
        fs::write(&state, damage).expect("write");
        let refused = room.check_out(&root).expect_err("damaged");
        assert!(refused.to_string().contains("is damaged"), "{refused}");
    }
    fs::write(room.out().join("d0/f00000"), "edited").expect("write");
    room.force(&root).expect("forced");
    assert_holds(&room.out(), &many(30));
    fs::remove_file(&state).expect("remove");
    assert!(room.check_out(&root).is_err());
    room.force(&root).expect("forced");
    room.check_out(&root).expect("remembered");
}

#[test]
fn two_checkouts_into_one_directory_do_not_meet() {
    let room = Room::new();
    let root = room.put_tree(&many(10));
    room.check_out(&root).expect("checked out");
    let held = fs::File::open(room.out().join(".blobmesh")).expect("open");
    held.lock().expect("lock");
    let busy = room.check_out(&root).expect_err("somebody works on it");
    assert!(busy.to_string().contains("under way"), "{busy}");
    drop(held);
    room.check_out(&root).expect("free again");
}

#[test]
fn stopped_switch_changes_nothing() {
    let room = Room::new();
    let old = many(50);
    room.check_out(&room.put_tree(&old)).expect("checked out");
    let root = room.put_tree(&many(60));
    let stop = blobmesh_node::tree::Stop::default();
    stop.stop();
    let stopped =
        checkout(&room.store, &root, &room.out(), &Options::default(), &Default::default(), &stop);
    assert_eq!(stopped.expect_err("stopped").kind(), Trouble::Interrupted);
    assert_holds(&room.out(), &old);
    assert_eq!(names(&room.out().join(".blobmesh")), ["state"]);
}

#[test]
fn hard_linked_files_are_replaced_and_never_written_to() {
    let room = Room::new();
    let options = Options { hard_link: true, ..Options::default() };
    let same = vec![1; 6000];
    let old = tree([("a", file(&same)), ("b", file(&same)), ("c", file(&same))]);
    let new = tree([("a", file(vec![2; 6000])), ("c", dir([("d", file(&same))]))]);
    room.check_out_with(&room.put_tree(&old), &options).expect("checked out");
    room.check_out_with(&room.put_tree(&new), &options).expect("switched");
    assert_holds(&room.out(), &new);
    assert!(room.store.verify(&Hash::of(&same)).expect("verify"));
}

fn spec() -> impl Strategy<Value = Spec> {
    let leaf = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Spec::File),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Spec::Program),
        1 => "[a-e]{1,3}".prop_map(|target| Spec::Link(target.into_bytes())),
        1 => (4000..70_000_usize).prop_map(|len| Spec::File(vec![7; len])),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| entries(inner).prop_map(Spec::Dir))
}

fn entries(spec: impl Strategy<Value = Spec>) -> impl Strategy<Value = Tree> {
    prop::collection::btree_map("[a-e]{1,2}".prop_map(String::into_bytes), spec, 0..7)
}

/// Is where in a tree, and what becomes of an entry there.
type Edit = (Vec<usize>, Option<Spec>);

/// Changes some entries of a tree to others.
fn edited(mut tree: Tree, edits: Vec<Edit>) -> Tree {
    edits.into_iter().for_each(|(way, spec)| edit(&mut tree, &way, spec));
    tree
}

fn edit(tree: &mut Tree, way: &[usize], spec: Option<Spec>) {
    if let Some((step, way)) = way.split_first() {
        let dirs = tree.values().filter(|spec| matches!(spec, Spec::Dir(_))).count();
        let mut inner = tree.values_mut().filter(|spec| matches!(spec, Spec::Dir(_)));
        if let Some(Spec::Dir(inner)) = inner.nth(step % dirs.max(1)) {
            return edit(inner, way, spec);
        }
    }
    let first = tree.keys().next().cloned().unwrap_or(b"new".to_vec());
    match spec {
        Some(spec) => drop(tree.insert(first, spec)),
        None => drop(tree.remove(&first)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn switch_after_any_edits_equals_a_fresh_checkout(
        first in entries(spec()),
        edits in prop::collection::vec((prop::collection::vec(0..5_usize, 0..4), prop::option::of(spec())), 0..12),
        other in entries(spec()),
    ) {
        let room = Room::new();
        let second = edited(first.clone(), edits);
        for tree in [&first, &second, &other, &first] {
            let root = room.put_tree(tree);
            room.check_out(&root).expect("switched");
            prop_assert!(&read_back(&room.out()) == tree);
            let fresh = room.path("place/fresh");
            room.check_out_to(&fresh, &root, &Options::default()).expect("checked out");
            prop_assert!(&read_back(&fresh) == tree);
            fs::remove_dir_all(&fresh).expect("remove");
        }
    }
}
