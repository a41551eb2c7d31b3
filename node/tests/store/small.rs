//! Many small blobs: stored in batches, read whole.

use std::fs;

use blobmesh_node::store::{Origin, SmallRead, Store, StoreError};
use blobmesh_protocol::Hash;
use bytes::Bytes;

use crate::support::{GROUP, Home, SIZES, bytes_of};

fn batch(sizes: impl Iterator<Item = usize>) -> Vec<(Hash, Bytes)> {
    sizes
        .enumerate()
        .map(|(seed, size)| Bytes::from(bytes_of(size, seed as u64)))
        .map(|bytes| (Hash::of(&bytes), bytes))
        .collect()
}

fn read(store: &Store, hash: &Hash) -> Option<Vec<u8>> {
    let mut out = b"before".to_vec();
    let read = store.read_small(hash, GROUP as u64, &mut out).expect("read");
    assert_eq!(&out[..6], b"before");
    (read == SmallRead::Whole).then(|| out.split_off(6))
}

#[test]
fn wrong_blob_of_a_batch_is_refused_and_the_others_are_stored() {
    let home = Home::new();
    let store = home.open();
    let mut blobs = batch(SIZES.into_iter().filter(|size| *size <= GROUP));
    let wrong: Vec<usize> = (0..blobs.len()).filter(|at| at % 3 == 1).collect();
    for at in &wrong {
        blobs[*at].0 = Hash::of(&at.to_le_bytes());
    }
    for again in [false, true] {
        let stored = store.put_batch(&blobs);
        for (at, ((hash, bytes), stored)) in blobs.iter().zip(stored).enumerate() {
            if wrong.contains(&at) {
                assert!(matches!(stored, Err(StoreError::WrongHash { .. })), "{at}: {stored:?}");
                assert_eq!(store.find(hash).expect("find"), None);
                continue;
            }
            let added = stored.expect("stored");
            assert_eq!((added.size, added.existed), (bytes.len() as u64, again));
            assert_eq!(store.find(hash).expect("find").expect("there").origin, Origin::Fetched);
            assert_eq!(read(&store, hash).as_deref(), Some(&bytes[..]), "{at}");
        }
    }
    let stats = store.stats();
    assert_eq!(stats.blobs, (blobs.len() - wrong.len()) as u64);
    assert_eq!(stats.reserved, 0);
    home.assert_no_temps();
    store.close();
    let store = home.open();
    assert_eq!(store.stats().blobs, stats.blobs);
    assert_eq!(store.stats().bytes, stats.bytes);
}

#[test]
fn durable_blob_stays_durable_also_when_the_index_has_lost_it() {
    let home = Home::new();
    let store = home.open();
    let bytes = bytes_of(9_000, 1);
    let hash = home.add(&store, &bytes);
    store.close();
    fs::remove_dir_all(home.root().join("index.sled")).expect("removed");
    let store = home.open();
    let added = store.put_batch(&[(hash, bytes.clone().into())]).remove(0).expect("stored");
    assert!(added.existed);
    assert_eq!(store.find(&hash).expect("find").expect("there").origin, Origin::Added);
    assert_eq!(read(&store, &hash), Some(bytes));
    home.assert_no_temps();
}

#[test]
fn blob_whose_pin_outlived_it_becomes_durable() {
    let home = Home::new();
    let store = home.open();
    for len in [100, 9_000] {
        let bytes = bytes_of(len, 1);
        let hash = home.add(&store, &bytes);
        store.pin(&hash).expect("pinned");
        let path = home.blob_path(&hash);
        fs::remove_file(&path).expect("removed");
        assert_eq!(store.find(&hash).expect("find"), None);
        store.put_batch(&[(hash, bytes.into())]).remove(0).expect("stored");
        assert_eq!(store.find(&hash).expect("find").expect("there").origin, Origin::Added);
        assert!(path.exists());
    }
}

#[test]
fn batch_evicts_what_it_must_and_one_that_never_fits_is_stored_as_far_as_it_does() {
    let home = Home::bounded(100_000);
    let store = home.open();
    for round in 0..5 {
        let blobs: Vec<(Hash, Bytes)> = (0..4)
            .map(|at| Bytes::from(bytes_of(10_000, 10 * round + at)))
            .map(|bytes| (Hash::of(&bytes), bytes))
            .collect();
        assert!(store.put_batch(&blobs).iter().all(Result::is_ok), "round {round}");
        assert!(store.stats().bytes <= 100_000);
        assert!(blobs.iter().all(|(hash, _)| read(&store, hash).is_some()));
    }
    let many = batch(std::iter::repeat_n(9_000, 20));
    assert!(store.put_batch(&many).iter().all(Result::is_ok), "each makes its own room");
    assert!(store.stats().bytes <= 100_000 && store.stats().reserved == 0);
    let large = batch([60_000, 60_000].into_iter());
    store.pin(&large[0].0).expect_err("not there");
    let stored = store.put_batch(&large);
    assert!(stored.iter().all(Result::is_ok));
    store.pin(&large[1].0).expect("pinned");
    let refused = store.put_batch(&large[..1]).remove(0);
    assert!(matches!(refused, Err(StoreError::NoSpace { .. })), "{refused:?}");
}

#[test]
fn long_blob_is_named_so_and_rot_is_never_read() {
    let home = Home::new();
    let store = home.open();
    let long = home.add(&store, &bytes_of(GROUP + 1, 1));
    let mut out = Vec::new();
    let said = store.read_small(&long, GROUP as u64, &mut out).expect("read");
    assert_eq!((said, out.len()), (SmallRead::Large { size: GROUP as u64 + 1 }, 0));
    assert_eq!(read(&store, &Hash::of(b"nobody")), None);
    let hash = home.add(&store, &bytes_of(5_000, 2));
    let path = home.blob_path(&hash);
    let mut bytes = fs::read(&path).expect("read");
    bytes[4_000] ^= 1;
    fs::remove_file(&path).expect("removed");
    fs::write(&path, bytes).expect("written");
    assert_eq!(read(&store, &hash), None);
    assert_eq!(store.find(&hash).expect("find"), None, "it is taken out");
}

/// Returns whether the file system below is one of those that tell what they have in memory.
#[cfg(target_os = "linux")]
fn tells_what_is_cached(path: &std::path::Path) -> bool {
    const EXT4: u64 = 0xef53;
    const TMPFS: u64 = 0x0102_1994;
    let kind = rustix::fs::statfs(path).expect("a file system").f_type;
    u64::try_from(kind).is_ok_and(|kind| [EXT4, TMPFS].contains(&kind))
}

#[test]
#[cfg(target_os = "linux")]
fn what_was_just_written_is_read_at_once_and_rot_or_a_long_blob_never() {
    let home = Home::new();
    let store = home.open();
    let mut out = b"before".to_vec();
    let bytes = bytes_of(5_000, 2);
    let hash = home.add(&store, &bytes);
    let path = home.blob_path(&hash);
    if tells_what_is_cached(&path) {
        assert!(!store.read_hot(&hash, GROUP as u64, &mut out), "nobody has read it yet");
        assert!(store.read_cached(&hash, 5_000, &mut out));
        assert_eq!(out, [b"before", &bytes[..]].concat());
        assert!(store.read_hot(&hash, GROUP as u64, &mut out), "it was checked");
    }
    out.truncate(6);
    assert!(!store.read_cached(&hash, 4_999, &mut out), "too long");
    assert!(!store.read_cached(&Hash::of(b"nobody"), GROUP as u64, &mut out));
    fs::remove_file(&path).expect("removed");
    fs::write(&path, vec![7; 5_000]).expect("written");
    assert!(!store.read_cached(&hash, GROUP as u64, &mut out), "rot");
    assert_eq!(out, b"before");
    store.close();
    assert!(!store.read_cached(&hash, GROUP as u64, &mut out));
}

#[test]
fn sizes_of_many_are_those_of_each() {
    let home = Home::new();
    let store = home.open();
    let here = home.add(&store, &bytes_of(5_000, 2));
    let sizes = store.sizes(&[Hash::of(b"nobody"), here]).expect("sizes");
    assert_eq!(sizes, [None, Some(5_000)]);
    fs::remove_file(home.blob_path(&here)).expect("removed");
    assert_eq!(store.sizes(&[here]).expect("sizes"), [None], "a row without its file is none");
}
