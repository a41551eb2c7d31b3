//! Fetching by groups, resuming, and every way a partial can be ruined.

use std::fs;
use std::sync::Arc;

use blobmesh_node::control::api::Trouble;
use blobmesh_node::store::{CheckedRun, Partial, StoreError};
use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::group_count;

use crate::support::{
    Case, GROUP, Home, SIZES, assert_holds, bytes_of, fill, flip_bit, group_of, list_of, truncate,
};

const GROUPS: u64 = 6;

fn blob() -> (Vec<u8>, Hash) {
    let bytes = bytes_of((GROUPS as usize - 1) * GROUP + 99, 20);
    let hash = Hash::of(&bytes);
    (bytes, hash)
}

/// Returns the groups that are not held.
fn missing(partial: &Partial) -> Vec<u64> {
    partial.held().missing().into_iter().flatten().collect()
}

#[test]
fn nothing_unverified_is_written() {
    let home = Home::new();
    let store = home.open();
    let (bytes, hash) = blob();
    let partial = store.partial(list_of(&bytes)).expect("partial");
    let before = fs::read(home.partial_path(&hash, "data")).expect("read");
    let mut wrong = group_of(&bytes, 2).to_vec();
    wrong[7] ^= 1;
    let cases: [(u64, &[u8]); 5] = [
        (2, &wrong),
        (2, group_of(&bytes, 3)),
        (2, &wrong[1..]),
        (GROUPS - 1, group_of(&bytes, 0)),
        (GROUPS, group_of(&bytes, 0)),
    ];
    for (index, group) in cases {
        let refused = partial.write_group(index, group).expect_err("refused");
        assert!(matches!(refused, StoreError::BadGroup { .. }));
    }
    assert_eq!(fs::read(home.partial_path(&hash, "data")).expect("read"), before);
    assert_eq!(partial.held().held(), 0);
    let early = partial.finish().expect_err("nothing is held");
    assert!(matches!(early, StoreError::Incomplete { missing: GROUPS, .. }));
    assert!(store.find(&hash).expect("find").is_none());
}

#[test]
fn groups_in_any_order_make_the_blob_and_are_readable_meanwhile() {
    let home = Home::new();
    let store = home.open();
    for size in SIZES {
        let bytes = bytes_of(size, 21);
        let partial = store.partial(list_of(&bytes)).expect("partial");
        let mut buf = Vec::new();
        for index in (0..group_count(size as u64)).rev() {
            assert!(!partial.read_group(index, &mut buf).expect("read"), "not held yet");
            assert!(partial.write_group(index, group_of(&bytes, index)).expect("write"));
            assert!(!partial.write_group(index, group_of(&bytes, index)).expect("again"));
            assert!(partial.read_group(index, &mut buf).expect("read"));
            assert_eq!(buf, group_of(&bytes, index));
        }
        let added = partial.finish().expect("finish");
        assert_eq!(partial.finish().expect("a second finish"), added);
        assert_holds(&store, &bytes);
        assert!(store.find_partial(&added.hash).expect("find").is_none());
    }
    assert_eq!(store.stats().partials, 0);
    assert_eq!(store.stats().reserved, 0);
}

#[test]
fn everybody_shares_one_partial_and_writes_at_the_same_time() {
    let home = Home::new();
    let store = home.open();
    let bytes = bytes_of(64 * GROUP, 22);
    let list = list_of(&bytes);
    // Whoever asked only once the others are through would begin anew, and wait for ever for the rest.
    let partials = [(); 4].map(|()| store.partial(list.clone()).expect("partial"));
    std::thread::scope(|scope| {
        for (thread, partial) in (0..).zip(partials) {
            let bytes = &bytes;
            scope.spawn(move || {
                // Each begins elsewhere and overlaps with the others.
                fill(&partial, bytes, (0..48).map(|step| (thread * 16 + step) % 64));
                while !partial.held().is_full() {
                    std::thread::yield_now();
                }
                partial.finish().expect("finish");
            });
        }
    });
    assert_holds(&store, &bytes);
    assert_eq!(store.stats().reserved, 0);
}

#[test]
fn dropped_partial_is_resumed_where_it_was_also_after_a_restart() {
    let home = Home::new();
    let (bytes, hash) = blob();
    let store = home.open();
    let partial = store.partial(list_of(&bytes)).expect("partial");
    fill(&partial, &bytes, [GROUPS - 1, 0, 2]);
    drop(partial);
    let partial = store.find_partial(&hash).expect("find").expect("resumed");
    assert_eq!(missing(&partial), [1, 3, 4]);
    fill(&partial, &bytes, [1]);
    store.close();
    drop(partial);
    drop(store);
    let (store, report) = home.open_reporting();
    assert_eq!(report.partials, 1);
    assert_eq!(store.stats().reserved, bytes.len() as u64);
    // A new get brings its own list; what is on disk is taken up all the same.
    let partial = store.partial(list_of(&bytes)).expect("partial");
    assert_eq!(missing(&partial), [3, 4]);
    fill(&partial, &bytes, [3, 4]);
    partial.finish().expect("finish");
    assert_holds(&store, &bytes);
}

#[test]
fn crash_after_a_checkpoint_costs_only_what_came_later() {
    let home = Home::new();
    let (bytes, hash) = blob();
    let store = home.open();
    let partial = store.partial(list_of(&bytes)).expect("partial");
    fill(&partial, &bytes, [GROUPS - 1, 0]);
    partial.checkpoint().expect("checkpoint");
    fill(&partial, &bytes, [1]);
    let image = home.crash_image();
    let store = image.open();
    let partial = store.find_partial(&hash).expect("find").expect("resumed");
    assert_eq!(missing(&partial), [1, 2, 3, 4]);
}

#[test]
fn checkpoint_comes_by_itself_after_so_many_bytes() {
    let home = Home::new();
    let bytes = bytes_of(blobmesh_node::store::CHECKPOINT_BYTES as usize + GROUP, 23);
    let hash = Hash::of(&bytes);
    let store = home.open();
    let partial = store.partial(list_of(&bytes)).expect("partial");
    let groups = group_count(bytes.len() as u64);
    fill(&partial, &bytes, (2..groups).rev());
    assert!(!home.partial_path(&hash, "bits").exists());
    fill(&partial, &bytes, [1]);
    assert!(home.partial_path(&hash, "bits").exists());
}

#[test]
fn runs_of_checked_groups_are_kept_over_a_crash_without_a_sync() {
    let home = Home::new();
    let bytes = bytes_of(blobmesh_node::store::CHECKPOINT_BYTES as usize + 5 * GROUP, 29);
    let (hash, list) = (Hash::of(&bytes), Arc::new(list_of(&bytes)));
    let store = home.open();
    let partial = store.partial(list_of(&bytes)).expect("partial");
    let groups = group_count(bytes.len() as u64);
    let write = |range: std::ops::Range<u64>| {
        let buffer = vec![0; (range.end - range.start) as usize * GROUP];
        let mut run = CheckedRun::begin(Arc::clone(&list), range.start, buffer);
        for index in range {
            let start = index as usize * GROUP;
            let space = run.space().expect("room");
            space.copy_from_slice(&bytes[start..start + space.len()]);
            run.accept().expect("right");
        }
        partial.write_run(&run).expect("written")
    };
    assert_eq!(write(groups - 1..groups), GROUP as u64);
    assert_eq!(write(groups - 1..groups), 0, "nothing new");
    assert_eq!(write(0..16), 16 * GROUP as u64);
    assert_eq!(write(10..20), 4 * GROUP as u64, "some of it new");
    write(20..groups - 3);
    let image = home.crash_image();
    let store = image.open();
    let partial = store.find_partial(&hash).expect("find").expect("resumed");
    assert_eq!(missing(&partial), [groups - 3, groups - 2]);
}

#[test]
fn run_of_another_blob_is_not_written() {
    let home = Home::new();
    let store = home.open();
    let (bytes, _) = blob();
    let partial = store.partial(list_of(&bytes)).expect("partial");
    let other = bytes_of(GROUP * 2, 31);
    let mut run = CheckedRun::begin(Arc::new(list_of(&other)), 0, vec![0; GROUP]);
    run.space().expect("room").copy_from_slice(&other[..GROUP]);
    run.accept().expect("right");
    assert!(partial.write_run(&run).is_err());
    assert_eq!(partial.held().held(), 0);
}

#[test]
fn ruined_partials_start_again_empty() {
    let (bytes, hash) = blob();
    let ruins: [Case<Ruin>; 8] = [
        ("no bits", |home, hash| remove(home, hash, "bits")),
        ("empty bits", |home, hash| truncate(&home.partial_path(hash, "bits"), 0)),
        ("a flipped bit", |home, hash| flip_bit(&home.partial_path(hash, "bits"), 8)),
        ("no list", |home, hash| remove(home, hash, "groups")),
        ("a damaged list", |home, hash| flip_bit(&home.partial_path(hash, "groups"), 20)),
        ("no data", |home, hash| remove(home, hash, "data")),
        ("short data", |home, hash| truncate(&home.partial_path(hash, "data"), 100)),
        ("a rotten last group", |home, hash| {
            flip_bit(&home.partial_path(hash, "data"), (GROUPS as usize - 1) * GROUP);
        }),
    ];
    for (name, ruin) in ruins {
        let home = Home::new();
        let store = home.open();
        let partial = store.partial(list_of(&bytes)).expect("partial");
        fill(&partial, &bytes, [GROUPS - 1, 1]);
        drop(partial);
        store.close();
        ruin(&home, &hash);
        let store = home.open();
        assert!(store.find_partial(&hash).expect("find").is_none(), "{name}");
        assert_eq!(store.stats().reserved, 0, "{name}");
        for extension in ["data", "bits", "groups"] {
            assert!(!home.partial_path(&hash, extension).exists(), "{name}: {extension}");
        }
        let partial = store.partial(list_of(&bytes)).expect("partial");
        assert_eq!(partial.held().held(), 0, "{name}");
        fill(&partial, &bytes, 0..GROUPS);
        partial.finish().expect("finish");
        assert_holds(&store, &bytes);
    }
}

type Ruin = fn(&Home, &Hash);

fn remove(home: &Home, hash: &Hash, extension: &str) {
    fs::remove_file(home.partial_path(hash, extension)).expect("remove");
}

#[test]
fn group_that_rotted_while_idle_is_never_served_nor_finished() {
    let home = Home::new();
    let store = home.open();
    let (bytes, hash) = blob();
    let partial = store.partial(list_of(&bytes)).expect("partial");
    fill(&partial, &bytes, 0..GROUPS);
    drop(partial);
    flip_bit(&home.partial_path(&hash, "data"), GROUP + 5);
    flip_bit(&home.partial_path(&hash, "data"), 3 * GROUP + 5);
    let partial = store.find_partial(&hash).expect("find").expect("resumed");
    let mut buf = Vec::new();
    assert!(!partial.read_group(1, &mut buf).expect("read"));
    assert!(buf.is_empty());
    fill(&partial, &bytes, [1]);
    let refused = partial.finish().expect_err("group 3 is rotten too");
    assert_eq!(refused.kind(), Trouble::Partial);
    assert_eq!(missing(&partial), [3]);
    fill(&partial, &bytes, [3]);
    partial.finish().expect("finish");
    assert_holds(&store, &bytes);
}

#[test]
fn finish_that_fails_leaves_a_partial_that_can_be_finished() {
    let home = Home::new();
    let store = home.open();
    let (bytes, hash) = blob();
    let partial = store.partial(list_of(&bytes)).expect("partial");
    fill(&partial, &bytes, 0..GROUPS);
    let outboard = home.root().join("outboard").join(hash.sharded_path());
    let shard = outboard.parent().expect("a shard");
    fs::remove_dir(shard).expect("remove");
    fs::write(shard, "in the way of the list").expect("write");
    partial.finish().expect_err("the list has no place");
    assert_eq!(mode_of_data(&home, &hash), 0o600);
    fs::remove_file(shard).expect("remove");
    drop(partial);
    let partial = store.find_partial(&hash).expect("find").expect("resumed");
    assert!(missing(&partial).is_empty());
    partial.finish().expect("finish");
    assert_holds(&store, &bytes);
}

#[test]
fn finish_that_was_stopped_before_the_blob_had_its_name_is_taken_up() {
    let home = Home::new();
    let store = home.open();
    let (bytes, hash) = blob();
    let partial = store.partial(list_of(&bytes)).expect("partial");
    fill(&partial, &bytes, 1..GROUPS);
    drop(partial);
    let data = home.partial_path(&hash, "data");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o400);
    fs::set_permissions(data, mode).expect("the mode of a fetched blob");
    let partial = store.find_partial(&hash).expect("find").expect("resumed");
    assert_eq!(mode_of_data(&home, &hash), 0o600);
    fill(&partial, &bytes, [0]);
    partial.finish().expect("finish");
    assert_holds(&store, &bytes);
}

fn mode_of_data(home: &Home, hash: &Hash) -> u32 {
    let meta = fs::metadata(home.partial_path(hash, "data")).expect("stat");
    std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777
}

#[test]
fn partial_without_a_group_leaves_nothing() {
    let home = Home::new();
    let store = home.open();
    let (bytes, hash) = blob();
    drop(store.partial(list_of(&bytes)).expect("partial"));
    assert!(!home.partial_path(&hash, "data").exists());
    assert_eq!(store.stats().reserved, 0);
    assert_eq!(store.stats().partials, 0);
}

#[test]
fn blob_whose_pin_outlived_it_is_kept_durably_when_fetched_again() {
    let home = Home::new();
    let store = home.open();
    let (bytes, hash) = blob();
    home.add(&store, &bytes);
    store.pin(&hash).expect("pin");
    flip_bit(&home.blob_path(&hash), 0);
    assert!(!store.verify(&hash).expect("verify"));
    crate::support::fetch(&store, &bytes);
    let info = store.find(&hash).expect("find").expect("there");
    assert_eq!((info.pinned, info.origin), (true, blobmesh_node::store::Origin::Added));
}
