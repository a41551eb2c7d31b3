//! Packs: small fetched blobs that share a file, and every ruin of it.

use std::fs;
use std::path::PathBuf;

use blobmesh_node::store::{Lent, Origin, SmallRead, Store, StoreError};
use blobmesh_protocol::Hash;
use bytes::Bytes;

use crate::support::{GROUP, Home, assert_holds, bytes_of, flip_bit, truncate};

const BLOCK: usize = 4096;
const BLOB: usize = 9_000;

fn blobs(count: u64) -> Vec<(Hash, Bytes)> {
    (0..count)
        .map(|seed| Bytes::from(bytes_of(BLOB + seed as usize, seed)))
        .map(|bytes| (Hash::of(&bytes), bytes))
        .collect()
}

/// Fetches some blobs together.
fn put(store: &Store, blobs: &[(Hash, Bytes)]) {
    for (stored, (_, bytes)) in store.put_batch(blobs).into_iter().zip(blobs) {
        assert_eq!(stored.expect("stored").size, bytes.len() as u64);
    }
}

fn read(store: &Store, hash: &Hash) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let read = store.read_small(hash, GROUP as u64, &mut out).expect("read");
    (read == SmallRead::Whole).then_some(out)
}

fn has(store: &Store, hash: &Hash) -> bool {
    store.find(hash).expect("find").is_some()
}

fn packs(home: &Home) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.root().join("packs")).expect("list");
    let mut packs: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    packs.sort();
    packs
}

/// Returns the one pack of a store.
fn pack(home: &Home) -> PathBuf {
    let [pack] = &packs(home)[..] else { panic!("one pack") };
    pack.clone()
}

/// Returns the bytes that a pack takes on the device.
fn taken(home: &Home) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    fs::File::open(pack(home)).expect("open").sync_all().expect("sync");
    fs::metadata(pack(home)).expect("stat").blocks() * 512
}

/// Returns where in the one pack the bytes of a blob begin.
fn offset_of(home: &Home, bytes: &[u8]) -> usize {
    let pack = fs::read(pack(home)).expect("read");
    (0..pack.len()).step_by(BLOCK).find(|at| pack[*at..].starts_with(bytes)).expect("there")
}

fn lose_index(home: &Home) {
    fs::remove_dir_all(home.root().join("index.sled")).expect("remove");
}

#[test]
fn blobs_that_come_together_share_a_file_and_behave_as_others() {
    let home = Home::new();
    let store = home.open();
    let blobs = blobs(250);
    put(&store, &blobs);
    let pack = fs::read(pack(&home)).expect("read");
    for (hash, bytes) in &blobs {
        assert!(!home.blob_path(hash).exists());
        assert_eq!(offset_of(&home, bytes) % BLOCK, 0);
        assert_holds(&store, bytes);
        assert_eq!(read(&store, hash).as_deref(), Some(&bytes[..]));
        let info = store.find(hash).expect("find").expect("there");
        assert_eq!((info.size, info.origin), (bytes.len() as u64, Origin::Fetched));
        assert!(store.verify(hash).expect("verify"));
    }
    // Three blocks each, and three tables.
    assert_eq!(pack.len().div_ceil(BLOCK), 250 * 3 + 3);
    let sum: usize = blobs.iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!((store.stats().blobs, store.stats().bytes), (250, sum as u64));
    assert_eq!(store.stats().reserved, 0);
    let again = store.put_batch(&blobs);
    assert!(again.into_iter().all(|added| added.expect("stored").existed));
    assert_eq!((store.stats().blobs, store.stats().bytes), (250, sum as u64));
    let to = home.beside("exported");
    store.export(&blobs[7].0, &to, false).expect("export");
    assert_eq!(fs::read(&to).expect("read"), blobs[7].1);
    store.close();
    let (store, report) = home.open_reporting();
    assert!(report.clean);
    assert_eq!(store.list().expect("list").len(), 250);
    blobs.iter().for_each(|(_, bytes)| assert_holds(&store, bytes));
}

#[test]
fn wrong_doubled_and_odd_blobs_of_a_batch_are_no_members() {
    let home = Home::new();
    let store = home.open();
    let mut blobs = blobs(6);
    let wrong = Hash::of(b"another");
    blobs[1].0 = wrong;
    blobs.push(blobs[0].clone());
    for len in [0, 1, 1_024, 1_025, BLOCK, GROUP] {
        let bytes = Bytes::from(bytes_of(len, 99));
        blobs.push((Hash::of(&bytes), bytes));
    }
    let stored = store.put_batch(&blobs);
    for (at, (stored, (hash, bytes))) in stored.into_iter().zip(&blobs).enumerate() {
        if at == 1 {
            assert!(matches!(stored, Err(StoreError::WrongHash { .. })), "{stored:?}");
            assert!(!has(&store, hash));
            continue;
        }
        assert_eq!(stored.expect("stored").existed, at == 6, "{at}");
        assert_holds(&store, bytes);
    }
    assert_eq!(store.stats().blobs, blobs.len() as u64 - 2);
    assert_eq!(store.stats().reserved, 0);
    store.close();
    drop(store);
    lose_index(&home);
    let store = home.open();
    // Of what lay in the index itself nothing is left.
    assert_eq!(store.hashes().expect("hashes").len(), 8);
    assert!(!has(&store, &wrong));
}

#[test]
fn member_that_goes_gives_its_blocks_back_and_the_last_one_the_file() {
    let home = Home::new();
    let store = home.open();
    let blobs = blobs(40);
    put(&store, &blobs);
    let before = taken(&home);
    for (hash, bytes) in &blobs[..20] {
        assert_eq!(store.remove(hash, false).expect("remove"), Some(bytes.len() as u64));
        assert!(!has(&store, hash) && read(&store, hash).is_none());
    }
    let after = taken(&home);
    assert!(after <= before - 20 * 3 * BLOCK as u64, "{before} to {after}");
    blobs[20..].iter().for_each(|(_, bytes)| assert_holds(&store, bytes));
    store.close();
    drop(store);
    let store = home.open();
    for (left, (hash, _)) in (0..20).rev().zip(&blobs[20..]) {
        assert_eq!(packs(&home).len(), 1, "{left} are left");
        store.remove(hash, false).expect("remove");
    }
    assert!(packs(&home).is_empty());
    assert_eq!((store.stats().blobs, store.stats().bytes), (0, 0));
}

#[test]
fn pack_that_lost_all_while_it_was_written_goes_with_the_next_sweep_of_the_user() {
    let home = Home::new();
    let store = home.open();
    put(&store, &blobs(5));
    for (hash, _) in blobs(5) {
        assert!(store.remove(&hash, false).expect("remove").is_some());
    }
    store.gc().expect("gc");
    assert_eq!(packs(&home).len(), 1, "it is being written");
    store.close();
    let store = home.open();
    store.gc().expect("gc");
    assert!(packs(&home).is_empty());
}

#[test]
fn what_is_read_does_not_change_when_it_goes() {
    let home = Home::new();
    let store = home.open();
    let blobs = blobs(5);
    put(&store, &blobs);
    let (hash, bytes) = &blobs[2];
    let reader = store.open_blob(hash).expect("open").expect("there");
    let mut group = Vec::new();
    reader.read_group(0, &mut group).expect("right");
    let before = taken(&home);
    let Some(Lent::Packed(lent)) = store.lend(hash, bytes.len() as u64).expect("lend") else {
        panic!("it is in a pack")
    };
    store.remove(hash, false).expect("remove");
    put(&store, &blobs[2..3]);
    reader.read_group(0, &mut group).expect("right");
    assert_eq!(group, bytes[..]);
    drop(reader);
    let (file, from) = lent.place();
    let mut copied = vec![0; bytes.len()];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut copied, from).expect("read");
    assert_eq!(copied, bytes[..]);
    assert_eq!(taken(&home), before);
    drop(lent);
    assert!(taken(&home) < before, "now nobody reads it");
    assert_holds(&store, bytes);
}

#[test]
fn added_or_pinned_blob_leaves_its_pack() {
    let home = Home::new();
    let store = home.open();
    let blobs = blobs(6);
    put(&store, &blobs);
    let before = taken(&home);
    store.pin(&blobs[0].0).expect("pin");
    store.pin_all(&[blobs[1].0]).expect("pin");
    home.add(&store, &blobs[2].1);
    let batch = store.batch().expect("batch");
    batch.put(&blobs[3].1).expect("put");
    drop(batch.finish().expect("finish"));
    assert!(taken(&home) <= before - 4 * 3 * BLOCK as u64);
    for (hash, bytes) in &blobs[..4] {
        assert_eq!(fs::read(home.blob_path(hash)).expect("a file"), *bytes);
        assert_eq!(store.find(hash).expect("find").expect("there").origin, Origin::Added);
        assert_holds(&store, bytes);
    }
    let sum: usize = blobs.iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!((store.stats().blobs, store.stats().bytes), (6, sum as u64), "none counts twice");
    store.close();
    drop(store);
    lose_index(&home);
    let store = home.open();
    assert_eq!(store.hashes().expect("hashes").len(), 6);
    assert_eq!(store.stats().bytes, sum as u64);
    assert_eq!(store.find(&blobs[0].0).expect("find").expect("there").origin, Origin::Added);
}

#[test]
fn lost_index_is_made_again_from_the_tables_and_what_was_removed_stays_so() {
    let home = Home::new();
    let store = home.open();
    let blobs = blobs(220);
    put(&store, &blobs);
    for (hash, _) in blobs.iter().step_by(3) {
        store.remove(hash, false).expect("remove");
    }
    let (left, bytes) = (store.hashes().expect("hashes"), store.stats().bytes);
    store.close();
    drop(store);
    lose_index(&home);
    let store = home.open();
    assert_eq!(store.hashes().expect("hashes"), left);
    assert_eq!(store.stats().bytes, bytes);
    let kept = blobs.iter().enumerate().filter(|(at, _)| at % 3 != 0);
    kept.for_each(|(_, (_, bytes))| assert_holds(&store, bytes));
    // What is fetched anew beside a lost row is there once.
    store.close();
    drop(store);
    lose_index(&home);
    let store = home.open();
    store.put_batch(&blobs[..6]);
    store.list().expect("swept");
    assert_eq!(store.stats().blobs, left.len() as u64 + 2);
    blobs[..6].iter().for_each(|(_, bytes)| assert_holds(&store, bytes));
}

/// Rows of packs are written a moment after their blobs came, and a crash may come before.
#[test]
fn rows_that_a_crash_forestalled_are_made_from_the_tables() {
    let home = Home::new();
    let store = home.open();
    let blobs = blobs(220);
    put(&store, &blobs);
    assert!(store.remove(&blobs[0].0, false).expect("remove").is_some());
    let image = home.crash_image();
    assert_eq!(store.list().expect("list").len(), 219, "whether they are written or not");
    store.close();
    let store = image.open();
    assert_eq!(store.list().expect("swept").len(), 219);
    assert!(!has(&store, &blobs[0].0), "nor is what went there again");
    blobs[1..].iter().for_each(|(_, bytes)| assert_holds(&store, bytes));
    let sum: usize = blobs[1..].iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(store.stats().bytes, sum as u64);
}

#[test]
fn torn_pack_loses_what_was_torn_and_nothing_else() {
    let home = Home::new();
    let store = home.open();
    let blobs = blobs(30);
    put(&store, &blobs[..10]);
    put(&store, &blobs[10..20]);
    put(&store, &blobs[20..]);
    store.close();
    // In a blob of the second batch, in its table, in the first table, and to nothing.
    let second = offset_of(&home, &blobs[10].1);
    let fifteenth = offset_of(&home, &blobs[15].1);
    for (len, left) in
        [(fifteenth + 100, 15), (second - 10, 10), (second - BLOCK, 10), (7, 0), (0, 0)]
    {
        for index in [true, false] {
            let image = home.crash_image();
            truncate(&pack(&image), len as u64);
            if !index {
                lose_index(&image);
            }
            let store = image.open();
            // With and without the sweep's help.
            if !index {
                store.list().expect("swept");
            }
            for (at, (hash, bytes)) in blobs.iter().enumerate() {
                assert_eq!(has(&store, hash), at < left, "{at} of {left}, index {index}");
                if at < left {
                    assert_holds(&store, bytes);
                }
            }
            put(&store, &blobs);
            blobs.iter().for_each(|(_, bytes)| assert_holds(&store, bytes));
            assert_eq!(store.stats().blobs, 30);
        }
    }
}

#[test]
fn missing_pack_is_as_if_its_blobs_had_never_come() {
    let home = Home::new();
    let store = home.open();
    let blobs = blobs(10);
    put(&store, &blobs);
    store.close();
    drop(store);
    fs::remove_file(pack(&home)).expect("remove");
    let store = home.open();
    for (hash, bytes) in &blobs {
        assert!(store.lend(hash, bytes.len() as u64).expect("lend").is_none());
        assert!(!has(&store, hash) && read(&store, hash).is_none());
    }
    assert_eq!((store.stats().blobs, store.stats().bytes), (0, 0));
}

#[test]
fn rot_in_a_pack_is_found_taken_out_and_told() {
    let home = Home::new();
    let store = home.open();
    let blobs = blobs(10);
    put(&store, &blobs);
    let places: Vec<usize> = blobs.iter().map(|(_, bytes)| offset_of(&home, bytes)).collect();
    store.close();
    drop(store);
    (0..4).for_each(|at| flip_bit(&pack(&home), places[at] + 5_000));
    let store = home.open();
    assert_eq!(read(&store, &blobs[0].0), None);
    assert!(!store.verify(&blobs[1].0).expect("verify"));
    let reader = store.open_blob(&blobs[2].0).expect("open").expect("there");
    let mut group = Vec::new();
    assert!(matches!(reader.read_group(0, &mut group), Err(StoreError::Rot { .. })));
    assert!(matches!(store.pin(&blobs[3].0), Err(StoreError::Rot { .. })));
    blobs[..4].iter().for_each(|(hash, _)| assert!(!has(&store, hash)));
    blobs[4..].iter().for_each(|(_, bytes)| assert_holds(&store, bytes));
    put(&store, &blobs);
    blobs.iter().for_each(|(_, bytes)| assert_holds(&store, bytes));
}

/// After a power cut blocks may be empty whose rows are there.
#[test]
fn emptied_blocks_are_not_lent_after_an_unclean_end() {
    let home = Home::new();
    let store = home.open();
    let blobs = blobs(10);
    put(&store, &blobs);
    let place = offset_of(&home, &blobs[3].1);
    store.close();
    let running = home.open();
    let image = home.crash_image();
    running.close();
    let mut bytes = fs::read(pack(&image)).expect("read");
    bytes[place..place + 3 * BLOCK].fill(0);
    fs::write(pack(&image), bytes).expect("write");
    let store = image.open();
    for (at, (hash, bytes)) in blobs.iter().enumerate() {
        let lent = store.lend(hash, bytes.len() as u64).expect("lend");
        assert_eq!(lent.is_some(), at != 3, "{at}");
    }
    assert!(!has(&store, &blobs[3].0));
}

#[test]
fn store_without_room_evicts_members_and_the_pinned_stay() {
    let home = Home::bounded(30 * BLOB as u64);
    let store = home.open();
    let blobs = blobs(60);
    put(&store, &blobs[..10]);
    store.pin(&blobs[0].0).expect("pin");
    blobs[10..].chunks(5).for_each(|some| {
        put(&store, some);
        assert!(store.stats().bytes <= 30 * BLOB as u64);
        some.iter().for_each(|(_, bytes)| assert_holds(&store, bytes));
    });
    assert!(has(&store, &blobs[0].0) && !has(&store, &blobs[1].0));
    assert!(taken(&home) < 31 * 3 * BLOCK as u64 + 20 * BLOCK as u64);
}

#[test]
fn member_that_somebody_reads_keeps_its_blocks_until_he_has_ended() {
    let home = Home::new();
    let store = home.open();
    let blobs = blobs(8);
    put(&store, &blobs);
    let (hash, bytes) = &blobs[2];
    let lend = || match store.lend(hash, bytes.len() as u64).expect("lend") {
        Some(Lent::Packed(lent)) => lent,
        other => panic!("{other:?}"),
    };
    let (one, other, before) = (lend(), lend(), taken(&home));
    store.remove(hash, false).expect("remove");
    assert!(!has(&store, hash));
    drop(one);
    let (file, from) = other.place();
    let mut copied = vec![0; bytes.len()];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut copied, from).expect("read");
    assert!(copied == bytes[..], "it was given back while somebody reads it");
    assert_eq!(taken(&home), before);
    drop(other);
    assert!(taken(&home) < before, "nobody reads it any more");
}

#[test]
fn whoever_reads_while_others_evict_sees_right_bytes_or_none() {
    let home = Home::bounded(30 * BLOB as u64);
    let store = home.open();
    let blobs = blobs(60);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for _ in 0..20 {
                blobs.chunks(6).for_each(|some| drop(store.put_batch(some)));
            }
        });
        let mut seen = 0_u64;
        while !writer.is_finished() || seen == 0 {
            for (hash, bytes) in &blobs {
                if let Some(found) = read(&store, hash) {
                    assert!(found == bytes[..], "wrong bytes");
                    seen += 1;
                }
                let Some(Lent::Packed(lent)) = store.lend(hash, bytes.len() as u64).expect("lend")
                else {
                    continue;
                };
                let (file, from) = lent.place();
                let mut copied = vec![0; bytes.len()];
                std::os::unix::fs::FileExt::read_exact_at(file, &mut copied, from).expect("read");
                assert!(copied == bytes[..], "wrong bytes were lent");
            }
        }
    });
}

#[test]
fn blobs_in_files_and_in_packs_are_lent_beside_each_other() {
    let home = Home::new();
    let store = home.open();
    let packed = blobs(20);
    put(&store, &packed);
    let (bytes, other) = (bytes_of(BLOB, 100), bytes_of(100, 101));
    let file = home.add(&store, &bytes);
    let inline = store.put_whole(&Hash::of(&other), &other).expect("put").hash;
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (store, packed) = (&store, &packed);
            scope.spawn(move || {
                for round in 0..2_000 {
                    let (hash, bytes) = &packed[(round + thread) % packed.len()];
                    let lent = store.lend(hash, bytes.len() as u64).expect("lend");
                    assert!(matches!(lent, Some(Lent::Packed(_))), "{round}: {lent:?}");
                    let lent = store.lend(&file, BLOB as u64).expect("lend");
                    assert!(matches!(lent, Some(Lent::File(_))), "{round}: {lent:?}");
                    let lent = store.lend(&inline, 100).expect("lend");
                    assert!(matches!(lent, Some(Lent::Bytes(_))), "{round}: {lent:?}");
                }
            });
        }
    });
}

/// A kill may lose the last rows that were written or removed, but no file.
#[test]
fn row_that_outlived_its_pack_means_no_other_blob() {
    let home = Home::new();
    let store = home.open();
    let (old, new) = (blobs(8), blobs(16).split_off(8));
    put(&store, &old);
    store.close();
    let running = home.open();
    let image = home.crash_image();
    running.close();
    // The pack was removed, and its rows came back.
    fs::remove_file(pack(&image)).expect("remove");
    let store = image.open();
    put(&store, &new);
    for ((hash, bytes), (other, right)) in old.iter().zip(&new) {
        if let Some(Lent::Packed(_)) = store.lend(hash, bytes.len() as u64).expect("lend") {
            panic!("another blob lies there");
        }
        assert!(read(&store, hash).is_none() && !store.verify(hash).unwrap_or(false));
        assert_eq!(read(&store, other).as_deref(), Some(&right[..]));
    }
    store.list().expect("swept");
    for (hash, _) in &old {
        store.remove(hash, false).expect("remove");
        assert!(!has(&store, hash));
    }
    new.iter().for_each(|(_, bytes)| assert_holds(&store, bytes));
    store.close();
    lose_index(&image);
    let store = image.open();
    assert_eq!(store.hashes().expect("hashes").len(), 8);
}
