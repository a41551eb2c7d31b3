//! Starts after every kind of ruin: no acknowledged blob is lost, no wrong byte comes out.

use std::fs;
use std::sync::{Arc, Mutex};

use blobmesh_node::control::api::Trouble;
use blobmesh_node::store::{Lendable, Lent, Origin, RebuildReason, Store, StoreError};
use blobmesh_protocol::Hash;

use crate::support::{Case, GROUP, Home, assert_holds, bytes_of, fetch, flip_bit, truncate};

const ADDED: usize = 3 * GROUP + 1;
const FETCHED: usize = 2 * GROUP + 1;
const SMALL: usize = 100;

/// Makes a store with an added, a fetched, a small added and a small fetched (inline) blob.
fn four_blobs(home: &Home) -> (Store, [Vec<u8>; 4]) {
    let store = home.open();
    let blobs = [bytes_of(ADDED, 1), bytes_of(FETCHED, 2), bytes_of(SMALL, 3), bytes_of(SMALL, 4)];
    home.add(&store, &blobs[0]);
    fetch(&store, &blobs[1]);
    home.add(&store, &blobs[2]);
    fetch(&store, &blobs[3]);
    (store, blobs)
}

#[test]
fn crash_at_once_after_the_acknowledgement_loses_nothing_added() {
    let home = Home::new();
    let (_running, blobs) = four_blobs(&home);
    let image = home.crash_image();
    let (store, report) = image.open_reporting();
    assert!(!report.clean);
    blobs[..3].iter().for_each(|bytes| assert_holds(&store, bytes));
    // The list waits for the sweep, so a blob whose row was not flushed is in it too.
    let listed = store.hashes().expect("hashes");
    blobs[..3].iter().for_each(|bytes| assert!(listed.contains(&Hash::of(bytes))));
}

#[test]
fn ruined_index_is_made_again_from_the_files_in_the_background() {
    let ruins: [Case<fn(&Home)>; 5] = [
        ("missing", |home| fs::remove_dir_all(home.root().join("index.sled")).expect("remove")),
        ("emptied", |home| fs::write(home.root().join("index.sled/db"), "").expect("write")),
        ("garbage", |home| {
            fs::write(home.root().join("index.sled/db"), bytes_of(600_000, 5)).expect("write");
        }),
        ("bad configuration", |home| {
            fs::write(home.root().join("index.sled/conf"), [9; 30]).expect("write");
        }),
        ("a file for a directory", |home| {
            fs::remove_dir_all(home.root().join("index.sled")).expect("remove");
            fs::write(home.root().join("index.sled"), "?").expect("write");
        }),
    ];
    for (name, ruin) in ruins {
        let home = Home::new();
        let (store, blobs) = four_blobs(&home);
        store.pin(&Hash::of(&blobs[2])).expect("pin");
        store.close();
        drop(store);
        ruin(&home);
        let (store, report) = home.open_reporting();
        assert!(report.rebuild.is_some() && report.indexed, "{name}: {report:?}");
        // Lookups fall through to the files before the sweep is done.
        blobs[..3].iter().for_each(|bytes| assert_holds(&store, bytes));
        let mut expected: Vec<Hash> = blobs[..3].iter().map(|bytes| Hash::of(bytes)).collect();
        expected.sort_unstable();
        assert_eq!(store.hashes().expect("hashes"), expected, "{name}: inline blobs are refetched");
        let sum = (ADDED + FETCHED + SMALL) as u64;
        assert_eq!(store.stats().bytes, sum, "{name}");
        let info = |at: usize| store.find(&Hash::of(&blobs[at])).expect("find").expect("there");
        assert_eq!(info(0).origin, Origin::Added, "{name}: the mode tells");
        assert_eq!(info(1).origin, Origin::Fetched, "{name}");
        assert!(info(2).pinned, "{name}");
        store.close();
        drop(store);
        let (store, report) = home.open_reporting();
        assert!(report.clean && report.rebuild.is_none(), "{name}: {report:?}");
        assert_eq!(store.stats().bytes, sum, "{name}");
    }
}

#[test]
fn bit_flips_anywhere_in_the_index_never_give_a_wrong_byte() {
    let home = Home::new();
    let (store, blobs) = four_blobs(&home);
    store.close();
    drop(store);
    let len = fs::metadata(home.root().join("index.sled/db")).expect("stat").len() as usize;
    let first = fs::read(home.root().join("index.sled/db")).expect("read");
    let written = first.iter().rposition(|byte| *byte != 0).unwrap_or(len - 1);
    for step in 0..12 {
        let image = home.crash_image();
        flip_bit(&image.root().join("index.sled/db"), written * step / 11);
        let store = image.open();
        blobs[..3].iter().for_each(|bytes| assert_holds(&store, bytes));
        if let Some(reader) = store.open_blob(&Hash::of(&blobs[3])).expect("open") {
            let mut buf = Vec::new();
            if reader.read_group(0, &mut buf).is_ok() {
                assert_eq!(buf, blobs[3], "step {step}");
            }
        }
    }
}

#[test]
fn file_without_a_row_is_found_and_counted_once() {
    let home = Home::new();
    let store = home.open();
    store.close();
    drop(store);
    let bytes = bytes_of(ADDED, 6);
    let path = home.blob_path(&Hash::of(&bytes));
    fs::create_dir_all(path.parent().expect("shard")).expect("create");
    fs::write(&path, &bytes).expect("write");
    let (store, report) = home.open_reporting();
    assert!(report.clean, "a clean start does not sweep");
    assert_eq!(store.stats().blobs, 0);
    assert_holds(&store, &bytes);
    assert_holds(&store, &bytes);
    assert_eq!((store.stats().blobs, store.stats().bytes), (1, ADDED as u64));
}

/// The row of an add waits to be flushed, its file does not.
#[test]
fn file_that_was_added_just_before_a_crash_stands_above_what_the_index_has_of_the_blob() {
    let home = Home::new();
    let bytes = bytes_of(SMALL, 9);
    let hash = Hash::of(&bytes);
    let store = home.open();
    store.put_whole(&hash, &bytes).expect("put");
    store.close();
    let running = home.open();
    let image = home.crash_image();
    running.close();
    let path = image.blob_path(&hash);
    fs::write(&path, &bytes).expect("write");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o444);
    fs::set_permissions(&path, mode).expect("chmod");
    let store = image.open();
    let listed = store.list().expect("list");
    let [(listed, info)] = listed[..] else { panic!("one blob") };
    assert_eq!((listed, info.origin, info.size), (hash, Origin::Added, SMALL as u64));
    assert_eq!((store.stats().blobs, store.stats().bytes), (1, SMALL as u64));
    assert_holds(&store, &bytes);
    assert_eq!(store.remove(&hash, false).expect("remove"), Some(SMALL as u64));
    assert_eq!(store.find(&hash).expect("find"), None);
}

#[test]
fn row_without_a_file_is_dropped_when_met_and_by_the_sweep() {
    let home = Home::new();
    let (store, blobs) = four_blobs(&home);
    let gone = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&gone);
    store.set_gone_listener(move |hash| seen.lock().expect("lock").push(hash));
    let hash = Hash::of(&blobs[0]);
    fs::remove_file(home.blob_path(&hash)).expect("remove");
    assert_eq!(store.find(&hash).expect("find"), None);
    assert_eq!(*gone.lock().expect("lock"), [hash]);
    assert_eq!(store.stats().blobs, 3);
    store.close();
    drop(store);
    // Make the next start unclean, with one more file gone.
    let store = home.open();
    let image = home.crash_image();
    drop(store);
    fs::remove_file(image.blob_path(&Hash::of(&blobs[2]))).expect("remove");
    let store = image.open();
    assert_eq!(store.list().expect("list").len(), 2);
    assert_eq!(store.stats().bytes, (FETCHED + SMALL) as u64);
}

#[test]
fn fetched_blob_cut_short_by_a_power_cut_is_absent_and_can_be_fetched_again() {
    for len in [0, 10, GROUP as u64, FETCHED as u64 - 1] {
        let home = Home::new();
        let (_running, blobs) = four_blobs(&home);
        let hash = Hash::of(&blobs[1]);
        let image = home.crash_image();
        truncate(&image.blob_path(&hash), len);
        let store = image.open();
        store.gc().expect("gc waits for the sweep");
        match store.open_blob(&hash).expect("open") {
            None => {}
            // The row was lost too: only the bytes can tell.
            Some(reader) => {
                let refused = reader.list().expect_err("too short");
                assert!(matches!(refused, StoreError::Rot { .. }));
            }
        }
        assert_eq!(store.find(&hash).expect("find"), None, "cut to {len}");
        assert!(!image.blob_path(&hash).exists());
        fetch(&store, &blobs[1]);
        assert_holds(&store, &blobs[1]);
    }
}

#[test]
fn fetched_blob_of_right_length_and_wrong_bytes_is_found_when_read() {
    let home = Home::new();
    let (_running, blobs) = four_blobs(&home);
    let image = home.crash_image();
    let hash = Hash::of(&blobs[1]);
    // What a power cut leaves of data that was never written: a hole.
    truncate(&image.blob_path(&hash), GROUP as u64);
    truncate(&image.blob_path(&hash), FETCHED as u64);
    let store = image.open();
    let reader = store.open_blob(&hash).expect("open").expect("the length is right");
    let mut buf = Vec::new();
    let refused = reader.read_group(1, &mut buf).expect_err("a hole");
    assert_eq!(refused.kind(), Trouble::WrongBytes);
    assert!(buf.is_empty());
    assert_eq!(store.find(&hash).expect("find"), None);
}

/// A checkout copies what it is lent, and looks at no byte.
#[test]
fn fetched_blob_of_right_length_and_wrong_bytes_is_not_lent_however_clean_the_ends_since() {
    for clean_runs in [0, 1, 3] {
        let home = Home::new();
        let (running, blobs) = four_blobs(&home);
        let right = bytes_of(FETCHED, 10);
        fetch(&running, &right);
        let image = home.crash_image();
        let hash = Hash::of(&blobs[1]);
        truncate(&image.blob_path(&hash), GROUP as u64);
        truncate(&image.blob_path(&hash), FETCHED as u64);
        for run in 0..clean_runs {
            let (store, report) = image.open_reporting();
            assert_eq!(report.clean, run > 0);
            // The sweep comes to its end, and so does the run.
            store.gc().expect("gc");
            store.close();
        }
        let (store, report) = image.open_reporting();
        assert_eq!(report.clean, clean_runs > 0);
        assert!(store.lend(&hash, FETCHED as u64).expect("lend").is_none(), "{clean_runs}");
        assert_eq!(store.is_lendable(&hash, FETCHED as u64).expect("said"), Lendable::Absent);
        for bytes in [&right, &blobs[0], &blobs[2]] {
            let lent = store.lend(&Hash::of(bytes), bytes.len() as u64).expect("lend");
            assert!(matches!(lent, Some(Lent::File(_))), "{clean_runs}: {lent:?}");
        }
    }
}

#[test]
fn fetched_blob_of_wrong_bytes_is_not_lendable_after_an_unclean_end() {
    let home = Home::new();
    let (_running, blobs) = four_blobs(&home);
    let image = home.crash_image();
    let hash = Hash::of(&blobs[1]);
    flip_bit(&image.blob_path(&hash), GROUP + 1);
    let store = image.open();
    assert_eq!(store.is_lendable(&hash, FETCHED as u64).expect("said"), Lendable::Absent);
    fetch(&store, &blobs[1]);
    assert_eq!(store.is_lendable(&hash, FETCHED as u64).expect("said"), Lendable::Yes);
    assert!(store.lend(&hash, FETCHED as u64).expect("lend").is_some());
}

#[test]
fn every_flipped_bit_is_found_before_it_is_served() {
    let home = Home::new();
    let bytes = bytes_of(ADDED, 7);
    let hash = Hash::of(&bytes);
    for at in [0, 1, GROUP - 1, GROUP, 2 * GROUP + 9, ADDED - 1] {
        let store = home.open();
        home.add(&store, &bytes);
        store.close();
        drop(store);
        flip_bit(&home.blob_path(&hash), at);
        let store = home.open();
        let reader = store.open_blob(&hash).expect("open").expect("there");
        let (mut buf, mut refused) = (Vec::new(), 0);
        for index in 0..4 {
            match reader.read_group(index, &mut buf) {
                Ok(()) => assert_eq!(buf, crate::support::group_of(&bytes, index)),
                Err(StoreError::Rot { .. }) => refused += 1,
                Err(other) => panic!("unexpected: {other}"),
            }
        }
        assert!(refused > 0, "flip at {at}");
        assert!(store.open_blob(&hash).expect("open").is_none(), "it is out of the store");
        assert_eq!(store.stats().blobs, 0);
        assert!(home.root().join("rotten").join(hash.to_hex()).exists(), "kept for a look");
    }
}

#[test]
fn verify_tells_good_from_bad() {
    let home = Home::new();
    let (store, blobs) = four_blobs(&home);
    for bytes in &blobs {
        assert!(store.verify(&Hash::of(bytes)).expect("verify"));
    }
    flip_bit(&home.blob_path(&Hash::of(&blobs[2])), 5);
    assert!(!store.verify(&Hash::of(&blobs[2])).expect("verify"));
    let absent = store.verify(&Hash::of(&blobs[2])).expect_err("it is out now");
    assert_eq!(absent.kind(), Trouble::NotFound);
}

#[test]
fn damaged_or_missing_outboard_is_made_again() {
    let home = Home::new();
    let bytes = bytes_of(ADDED, 8);
    let hash = Hash::of(&bytes);
    let outboard = home.root().join("outboard").join(hash.sharded_path());
    let store = home.open();
    home.add(&store, &bytes);
    let good = fs::read(&outboard).expect("read");
    let ruins: [fn(&std::path::Path); 4] = [
        |path| fs::remove_file(path).expect("remove"),
        |path| truncate(path, 17),
        |path| flip_bit(path, 3),
        |path| flip_bit(path, 40),
    ];
    for ruin in ruins {
        store.close();
        ruin(&outboard);
        let store = home.open();
        assert_holds(&store, &bytes);
        assert_eq!(fs::read(&outboard).expect("read"), good);
        store.close();
    }
}

#[test]
fn left_over_temporary_files_are_counted_and_removed() {
    let home = Home::new();
    let store = home.open();
    store.close();
    drop(store);
    fs::write(home.root().join("tmp/0"), "half a blob").expect("write");
    fs::write(home.root().join("tmp/17"), "").expect("write");
    let (_store, report) = home.open_reporting();
    assert_eq!(report.temps_removed, 2);
    home.assert_no_temps();
}

#[test]
fn stray_things_in_the_store_do_no_harm() {
    let home = Home::new();
    let (store, blobs) = four_blobs(&home);
    store.close();
    drop(store);
    let stray = Hash::of(b"a directory under a blob's name");
    fs::create_dir_all(home.blob_path(&stray)).expect("create");
    fs::write(home.root().join("blobs/README"), "?").expect("write");
    fs::write(home.root().join("partial/x"), "?").expect("write");
    fs::remove_dir_all(home.root().join("index.sled")).expect("remove");
    let store = home.open();
    assert_eq!(store.find(&stray).expect("find"), None);
    assert_eq!(store.hashes().expect("hashes").len(), 3);
    assert_holds(&store, &blobs[0]);
}

#[test]
fn damaged_pins_and_newer_formats_stop_the_start_and_change_nothing() {
    let home = Home::new();
    let (store, _) = four_blobs(&home);
    store.close();
    drop(store);
    fs::write(home.root().join("pins.json"), "{\"version\":1,\"pi").expect("write");
    let refused = Store::open(home.config()).expect_err("damaged pins");
    assert!(matches!(refused, StoreError::PinsDamaged { .. }));
    assert_eq!(refused.kind(), Trouble::StoreDamaged);
    fs::remove_file(home.root().join("pins.json")).expect("remove");
    fs::write(home.root().join("FORMAT"), "blobmesh-store 9\n").expect("write");
    let refused = Store::open(home.config()).expect_err("newer");
    assert_eq!(refused.kind(), Trouble::FormatNewer);
    fs::write(home.root().join("FORMAT"), "blobmesh-store 1\n").expect("write");
    let (_, report) = home.open_reporting();
    assert!(report.clean, "the refusals changed nothing");
    assert_eq!(report.rebuild, None::<RebuildReason>);
}
