//! Many blobs that become durable together.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::thread;

use blobmesh_node::store::{Origin, StoreError};
use blobmesh_protocol::Hash;

use crate::support::{GROUP, Home, SIZES, assert_holds, bytes_of, fetch};

#[test]
fn every_size_comes_back_and_is_durable() {
    let home = Home::new();
    let store = home.open();
    let batch = store.batch().expect("batch");
    for size in SIZES {
        let bytes = bytes_of(size, 1);
        assert_eq!(batch.put(&bytes).expect("put"), Hash::of(&bytes));
        assert!(store.find(&Hash::of(&bytes)).expect("find").is_none(), "not before the end");
    }
    let added = batch.finish().expect("finish");
    assert_eq!(added.added.len(), SIZES.len());
    assert_eq!(added.hashes().len(), SIZES.len());
    for size in SIZES {
        let bytes = bytes_of(size, 1);
        assert_holds(&store, &bytes);
        let info = store.find(&Hash::of(&bytes)).expect("find").expect("there");
        assert_eq!((info.size, info.origin), (size as u64, Origin::Added));
        let mode = fs::metadata(home.blob_path(&Hash::of(&bytes))).expect("stat").permissions();
        assert_eq!(mode.mode() & 0o777, 0o444, "its mode says so without the index, too");
    }
    assert_eq!(store.stats().bytes, SIZES.iter().sum::<usize>() as u64);
    assert_eq!(store.stats().reserved, 0);
    store.close();
    home.assert_no_temps();
}

#[test]
fn files_of_every_size_come_back() {
    let home = Home::new();
    let store = home.open();
    let batch = store.batch().expect("batch");
    for size in SIZES {
        let (bytes, path) = (bytes_of(size, 2), home.beside(&format!("{size}")));
        fs::write(&path, &bytes).expect("write");
        let mut told = 0;
        let file = fs::File::open(&path).expect("open");
        let put = batch.put_file(&path, file, &mut |done| told = done).expect("put");
        assert_eq!(put, (Hash::of(&bytes), size as u64));
        assert_eq!(told, size as u64);
    }
    batch.finish().expect("finish");
    SIZES.iter().for_each(|size| assert_holds(&store, &bytes_of(*size, 2)));
    let directory = fs::File::open(home.beside("")).expect("open");
    let batch = store.batch().expect("batch");
    let refused = batch.put_file(&home.beside(""), directory, &mut |_| {});
    assert!(matches!(refused, Err(StoreError::NotAFile { .. })));
}

#[test]
fn blob_that_is_there_is_not_written_again_and_a_fetched_one_becomes_durable() {
    let home = Home::new();
    let store = home.open();
    let (added, fetched, inline) = (bytes_of(5_000, 1), bytes_of(5_000, 2), bytes_of(9, 3));
    home.add(&store, &added);
    fetch(&store, &fetched);
    store.put_whole(&Hash::of(&inline), &inline).expect("put");
    let batch = store.batch().expect("batch");
    for bytes in [&added, &fetched, &inline, &added, &inline] {
        batch.put(bytes).expect("put");
    }
    let done = batch.finish().expect("finish");
    let mut new: Vec<Hash> = done.added.iter().map(|added| added.hash).collect();
    new.sort_unstable();
    let mut expected = [Hash::of(&fetched), Hash::of(&inline)];
    expected.sort_unstable();
    assert_eq!(new, expected);
    assert!(done.added.iter().all(|added| added.existed));
    for bytes in [&added, &fetched, &inline] {
        assert_holds(&store, bytes);
        let info = store.find(&Hash::of(bytes)).expect("find").expect("there");
        assert_eq!(info.origin, Origin::Added);
    }
    assert_eq!(store.stats().blobs, 3);
    assert_eq!(store.stats().bytes, 10_009);
}

#[test]
fn keep_takes_what_is_durable_and_of_the_right_length_and_nothing_else() {
    let home = Home::new();
    let store = home.open();
    let (added, fetched, gone) = (bytes_of(5_000, 1), bytes_of(5_000, 2), bytes_of(5_000, 3));
    home.add(&store, &added);
    home.add(&store, &gone);
    fetch(&store, &fetched);
    fs::remove_file(home.blob_path(&Hash::of(&gone))).expect("remove");
    let batch = store.batch().expect("batch");
    for (bytes, size, kept) in [
        (&added, 4_999, false),
        (&added, 5_000, true),
        (&fetched, 5_000, false),
        (&gone, 5_000, false),
        (&bytes_of(9, 9), 9, false),
    ] {
        assert_eq!(batch.keep(&Hash::of(bytes), size).expect("look"), kept);
    }
    assert_eq!(batch.finish().expect("finish").hashes(), [Hash::of(&added)]);
}

#[test]
fn batch_that_does_not_fit_is_refused_and_does_not_evict_itself() {
    let home = Home::bounded(100_000);
    let store = home.open();
    let old = home.add(&store, &bytes_of(30_000, 0));
    let kept = home.add(&store, &bytes_of(10_000, 99));
    let batch = store.batch().expect("batch");
    assert!(batch.keep(&kept, 10_000).expect("look"));
    // Nine of them fit beside what is kept, once the old one has gone.
    for seed in 1..=9 {
        batch.put(&bytes_of(10_000, seed)).expect("it fits");
    }
    assert!(store.find(&old).expect("find").is_none(), "evicted");
    let refused = batch.put(&bytes_of(10_000, 10));
    assert!(matches!(refused, Err(StoreError::NoSpace { .. })), "{refused:?}");
    let done = batch.finish().expect("finish");
    let refused = store.add_writer().expect("writer").write(&[0; 10_000]);
    assert!(matches!(refused, Err(StoreError::NoSpace { .. })), "as long as the batch is held");
    (1..=9).for_each(|seed| assert_holds(&store, &bytes_of(10_000, seed)));
    drop(done);
    store.add_writer().expect("writer").write(&[0; 10_000]).expect("now some may go");
}

#[test]
fn many_threads_add_the_same_and_different_blobs() {
    let home = Home::new();
    let store = home.open();
    let batch = store.batch().expect("batch");
    thread::scope(|scope| {
        for thread in 0..4 {
            let batch = &batch;
            scope.spawn(move || {
                for seed in 0..300 {
                    batch.put(&bytes_of(100, seed)).expect("put");
                    batch.put(&bytes_of(GROUP + 1, thread * 1000 + seed % 3)).expect("put");
                }
            });
        }
    });
    let done = batch.finish().expect("finish");
    assert_eq!(done.added.len(), 300 + 4 * 3);
    assert_eq!(store.stats().blobs, 312);
    (0..300).for_each(|seed| assert_holds(&store, &bytes_of(100, seed)));
    store.close();
    home.assert_no_temps();
}

#[test]
fn batch_that_is_given_up_leaves_nothing() {
    let home = Home::new();
    let store = home.open();
    let batch = store.batch().expect("batch");
    (0..50).for_each(|seed| {
        batch.put(&bytes_of(1_000, seed)).expect("put");
    });
    drop(batch);
    home.assert_no_temps();
    assert_eq!(store.stats().blobs, 0);
    assert_eq!(store.stats().reserved, 0);
}

#[test]
fn many_are_pinned_and_unpinned_at_once() {
    let home = Home::bounded(100_000);
    let store = home.open();
    let mut hashes: Vec<Hash> = (0..8).map(|seed| fetch(&store, &bytes_of(10_000, seed))).collect();
    let absent = Hash::of(b"absent");
    let refused = store.pin_all(&[hashes[0], absent]);
    assert!(matches!(refused, Err(StoreError::Absent { hash }) if hash == absent));
    assert!(store.pins().is_empty(), "all or none");
    store.pin_all(&hashes).expect("pin");
    hashes.sort_unstable();
    assert_eq!(store.pins(), hashes);
    for hash in &hashes {
        let info = store.find(hash).expect("find").expect("there");
        assert_eq!((info.pinned, info.origin), (true, Origin::Added), "pinned is durable");
    }
    assert!(store.add_writer().expect("writer").write(&[0; 30_000]).is_err(), "nobody may go");
    store.unpin_all(&hashes).expect("unpin");
    assert!(store.pins().is_empty());
    store.add_writer().expect("writer").write(&[0; 30_000]).expect("some may go");
}
