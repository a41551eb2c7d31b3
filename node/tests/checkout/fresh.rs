//! Trees where there was nothing.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use blobmesh_node::control::api::Trouble;
use blobmesh_node::store::Lendable;
use blobmesh_node::tree::{Options, Progress, Stop, checkout};
use blobmesh_protocol::Hash;

use super::support::*;

#[test]
fn tree_becomes_a_directory_with_nothing_beside_it() {
    let room = Room::new();
    let expected = tree([
        ("bin", dir([("tool", Spec::Program(b"#!".to_vec())), ("alias", link("tool"))])),
        ("empty", file("")),
        ("hollow", dir([])),
        ("large", file(vec![7; 300_000])),
        ("many", Spec::Dir(many(500))),
    ]);
    let root = room.put_tree(&expected);
    let before = room.everything();
    let done = room.check_out(&root).expect("checked out");
    assert_eq!((done.added, done.changed, done.removed), (504, 0, 0));
    assert_holds(&room.out(), &expected);
    room.assert_rest_is(&before);
    assert_eq!(fs::read_dir(room.path("place")).expect("list").count(), 1, "no stage is left");
}

#[test]
fn every_way_gives_the_same_tree() {
    let expected = tree([
        ("a.pyc", file(vec![1; 100_000])),
        ("b", file(vec![2; 5000])),
        ("run", Spec::Program(vec![3; 5000])),
        ("small", file("x")),
    ]);
    let copy = vec!["*.pyc".to_owned()];
    for options in [
        Options { verify: true, ..Options::default() },
        Options { copy: copy.clone(), ..Options::default() },
        Options { hard_link: true, copy: copy.clone(), ..Options::default() },
        Options { hard_link: true, verify: true, ..Options::default() },
    ] {
        let room = Room::new();
        let root = room.put_tree(&expected);
        let done = room.check_out_with(&root, &options).expect("checked out");
        assert_holds(&room.out(), &expected);
        let ways = done.ways;
        let all = ways.copied + ways.kernel_copied + ways.reflinked + ways.hard_linked;
        assert_eq!(all, 4, "{ways:?}");
        if !options.copy.is_empty() {
            assert!(ways.copied >= 2, "the pattern's and the one that lies in the index: {ways:?}");
        }
        if options.hard_link {
            let blob = room.store.blob_path(&Hash::of(&[2; 5000]));
            let inode = |path: &std::path::Path| fs::metadata(path).expect("stat").ino();
            assert_eq!(inode(&blob), inode(&room.out().join("b")));
            assert_ne!(inode(&room.out().join("run")), inode(&room.out().join("b")));
        }
    }
}

#[test]
fn edited_files_leave_the_store_alone() {
    let room = Room::new();
    let bytes = vec![9; 200_000];
    let root = room.put_tree(&tree([("a", file(&bytes)), ("b", Spec::Program(bytes.clone()))]));
    room.check_out(&root).expect("checked out");
    for name in ["a", "b"] {
        let edit = fs::File::options().write(true).open(room.out().join(name)).expect("open");
        std::os::unix::fs::FileExt::write_all_at(&edit, b"edited", 70_000).expect("write");
    }
    assert!(room.store.verify(&Hash::of(&bytes)).expect("verify"));
}

#[test]
fn directories_that_cannot_be_a_checkout_are_refused() {
    let room = Room::new();
    let root = room.put_tree(&tree([("a", file("a"))]));
    fs::write(room.path("place/file"), "").expect("write");
    fs::create_dir(room.path("place/full")).expect("a directory");
    fs::write(room.path("place/full/x"), "").expect("write");
    symlink("full", room.path("place/link")).expect("a link");
    symlink("nowhere", room.path("place/dangling")).expect("a link");
    let before = room.everything();
    for (path, kind) in [
        ("/", Trouble::Usage),
        ("relative", Trouble::Usage),
        ("", Trouble::Usage),
        (room.path("store").to_str().unwrap(), Trouble::Usage),
        (room.path("store/blobs/new").to_str().unwrap(), Trouble::Usage),
        (room.path("place/file").to_str().unwrap(), Trouble::Usage),
        (room.path("place/link").to_str().unwrap(), Trouble::Usage),
        (room.path("place/dangling").to_str().unwrap(), Trouble::Usage),
        (room.path(".").to_str().unwrap(), Trouble::Usage),
        (room.path("place/full").to_str().unwrap(), Trouble::NotACheckout),
        (room.path("place/missing/out").to_str().unwrap(), Trouble::OutputDirectoryMissing),
        (room.path("place/file/out").to_str().unwrap(), Trouble::OutputDirectoryMissing),
    ] {
        for force in [false, true] {
            let options = Options { force, ..Options::default() };
            let refused = room.check_out_to(path.as_ref(), &root, &options).expect_err(path);
            assert_eq!(refused.kind(), kind, "{path}: {refused}");
        }
    }
    assert_eq!(room.everything(), before);
}

#[test]
fn missing_blobs_are_counted_and_nothing_is_written() {
    let room = Room::new();
    let expected = many(300);
    let root = room.put_tree(&expected);
    for number in [3, 4, 250] {
        let hash = Hash::of(format!("content {number}").as_bytes());
        room.store.remove(&hash, true).expect("remove");
    }
    let before = room.everything();
    let refused = room.check_out(&root).expect_err("three are missing");
    assert_eq!(refused.kind(), Trouble::TreeIncomplete);
    assert_eq!(refused.to_string(), "3 of the tree's blobs are not in the store, of 29 bytes");
    let absent = room.check_out(&Hash::of(b"nothing")).expect_err("no such tree");
    assert_eq!(absent.kind(), Trouble::TreeIncomplete);
    assert_eq!(room.everything(), before);
}

#[test]
fn rot_is_found_by_verify_and_the_tree_is_not_made() {
    for verify in [true, false] {
        let room = Room::new();
        let bytes = vec![5; 40_000];
        let root =
            room.put_tree(&tree([("dir", dir([("rotten", file(&bytes))])), ("z", file("z"))]));
        let path = room.store.blob_path(&Hash::of(&bytes));
        rot(&path);
        let before = room.everything();
        let options = Options { verify, ..Options::default() };
        let mut done = room.check_out_with(&root, &options);
        // A sample is one group in 64: sooner or later it is this one.
        for _ in 0..4000 {
            if verify || done.is_err() {
                break;
            }
            fs::remove_dir_all(room.out()).expect("remove");
            done = room.check_out_with(&root, &options);
        }
        let refused = done.expect_err("rotten");
        assert_eq!(refused.kind(), Trouble::WrongBytes, "{refused}");
        assert!(refused.to_string().contains("dir/rotten"), "{refused}");
        let there = room.store.is_lendable(&Hash::of(&bytes), 40_000).expect("said");
        assert_eq!(there, Lendable::Absent, "it was taken out");
        room.assert_rest_is(&before);
        assert!(!room.out().exists());
    }
}

fn rot(path: &std::path::Path) {
    let mut bytes = fs::read(path).expect("read");
    bytes[1234] ^= 4;
    fs::remove_file(path).expect("remove");
    fs::write(path, bytes).expect("write");
}

#[test]
fn checkout_that_is_stopped_leaves_nothing() {
    let room = Room::new();
    let root = room.put_tree(&many(100));
    let before = room.everything();
    let stop = Stop::default();
    stop.stop();
    let (options, progress) = (Options::default(), Progress::default());
    let stopped = checkout(&room.store, &root, &room.out(), &options, &progress, &stop);
    assert_eq!(stopped.expect_err("stopped").kind(), Trouble::Interrupted);
    room.assert_rest_is(&before);
    assert!(!room.out().exists());
}

#[test]
fn stage_that_was_left_behind_is_removed_unless_somebody_works_on_it() {
    let room = Room::new();
    let expected = many(20);
    let root = room.put_tree(&expected);
    let name = format!(".blobmesh-{}", &Hash::of(b"out").to_hex()[..16]);
    let stage = room.path("place").join(name);
    fs::create_dir_all(stage.join("half/made")).expect("directories");
    let held = fs::File::open(&stage).expect("open");
    held.lock().expect("lock");
    let busy = room.check_out(&root).expect_err("somebody works on it");
    assert!(busy.to_string().contains("under way"), "{busy}");
    assert!(stage.join("half/made").exists() && !room.out().exists());
    drop(held);
    let done = room.check_out(&root).expect("checked out");
    assert!(done.recovered.is_some());
    assert_holds(&room.out(), &expected);
    assert!(!stage.exists());
}
