//! Adding, finding, pinning, listing and removing.

use std::fs;

use blobmesh_node::control::api::Trouble;
use blobmesh_node::store::{Origin, Store, StoreConfig, StoreError};
use blobmesh_protocol::Hash;

use crate::support::{Case, GROUP, Home, SIZES, assert_holds, bytes_of, fetch, list_of};

#[test]
fn every_size_comes_back_as_it_was_added_also_after_a_restart() {
    let home = Home::new();
    let store = home.open();
    for size in SIZES {
        let bytes = bytes_of(size, 1);
        assert_eq!(home.add(&store, &bytes), Hash::of(&bytes), "size {size}");
        assert_holds(&store, &bytes);
        let info = store.find(&Hash::of(&bytes)).expect("find").expect("there");
        assert_eq!((info.size, info.origin, info.pinned), (size as u64, Origin::Added, false));
    }
    assert_eq!(store.stats().blobs, SIZES.len() as u64);
    assert_eq!(store.stats().bytes, SIZES.iter().sum::<usize>() as u64);
    store.close();
    home.assert_no_temps();
    let (store, report) = home.open_reporting();
    assert!(report.clean && report.indexed);
    assert_eq!(report.rebuild, None);
    assert_eq!(store.stats().bytes, SIZES.iter().sum::<usize>() as u64);
    SIZES.iter().for_each(|size| assert_holds(&store, &bytes_of(*size, 1)));
}

#[test]
fn every_size_comes_back_as_it_was_fetched_also_after_a_restart() {
    let home = Home::new();
    let store = home.open();
    for size in SIZES {
        let bytes = bytes_of(size, 2);
        fetch(&store, &bytes);
        assert_holds(&store, &bytes);
        let whole = bytes_of(size, 3);
        // There is only one empty blob.
        let existed = store.put_whole(&Hash::of(&whole), &whole).expect("put").existed;
        assert_eq!(existed, size == 0);
        assert!(store.put_whole(&Hash::of(&whole), &whole).expect("again").existed);
        assert_holds(&store, &whole);
        let inline = !home.blob_path(&Hash::of(&whole)).exists();
        assert_eq!(inline, size <= 4096, "size {size}");
    }
    store.close();
    let store = home.open();
    for size in SIZES {
        assert_holds(&store, &bytes_of(size, 2));
        assert_holds(&store, &bytes_of(size, 3));
    }
    assert_eq!(store.stats().reserved, 0);
}

#[test]
fn writer_gives_the_same_blob_as_a_file_whatever_the_pieces() {
    let home = Home::new();
    let store = home.open();
    let bytes = bytes_of(3 * GROUP + 5, 4);
    for (piece, existed) in [(1000, false), (GROUP, true), (bytes.len(), true)] {
        let mut writer = store.add_writer().expect("writer");
        bytes.chunks(piece).for_each(|piece| writer.write(piece).expect("write"));
        let added = writer.finish().expect("finish");
        assert_eq!((added.hash, added.existed), (Hash::of(&bytes), existed));
    }
    let mut dropped = store.add_writer().expect("writer");
    dropped.write(&bytes).expect("write");
    drop(dropped);
    assert_eq!(store.stats().reserved, 0);
    home.assert_no_temps();
}

#[test]
fn large_file_is_added_through_the_pipeline_with_rising_progress() {
    let home = Home::new();
    let store = home.open();
    for size in [(1 << 20) + 1, 4 << 20, (9 << 20) + 77] {
        let bytes = bytes_of(size, 5);
        let path = home.beside("large");
        fs::write(&path, &bytes).expect("write");
        let mut seen = vec![0];
        let added = store.add_file(&path, &mut |done| seen.push(done)).expect("add");
        assert_eq!(added.hash, Hash::of(&bytes));
        assert!(seen.is_sorted(), "{seen:?}");
        assert_eq!(seen.last(), Some(&(size as u64)));
        assert_holds(&store, &bytes);
    }
}

#[test]
fn what_cannot_be_added_is_refused_and_leaves_nothing() {
    let home = Home::new();
    let store = home.open();
    let add = |name: &str| {
        let refused = store.add_file(&home.beside(name), &mut |_| {}).expect_err(name);
        home.assert_no_temps();
        refused.kind()
    };
    assert_eq!(add("missing"), Trouble::File);
    fs::create_dir(home.beside("directory")).expect("create");
    assert_eq!(add("directory"), Trouble::File);
    fs::File::create(home.beside("huge")).expect("create").set_len(1 << 40).expect("grow");
    assert_eq!(add("huge"), Trouble::TooLarge);
    #[cfg(unix)]
    {
        let socket = home.beside("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("bind");
        assert_eq!(add("socket"), Trouble::File);
    }
}

#[test]
fn file_that_changes_while_it_is_read_is_refused() {
    let home = Home::new();
    let store = home.open();
    let path = home.beside("growing");
    let changes: [Case<fn(&mut fs::File)>; 3] = [
        ("grows", |file| file.set_len(10 << 20).expect("grow")),
        ("shrinks", |file| file.set_len(1).expect("shrink")),
        ("is written to", |file| {
            std::io::Write::write_all(file, b"x").expect("write");
            let past = std::time::SystemTime::UNIX_EPOCH;
            file.set_modified(past).expect("time");
        }),
    ];
    for (name, change) in changes {
        fs::write(&path, bytes_of(8 << 20, 6)).expect("write");
        let mut file = fs::File::options().write(true).open(&path).expect("open");
        let added = store.add_file(&path, &mut |_| change(&mut file));
        // Where the file system shares bytes, the copy was taken before the change.
        match added {
            Err(refused) => assert!(matches!(refused, StoreError::FileChanged { .. }), "{name}"),
            Ok(added) => assert_eq!(added.hash, Hash::of(&bytes_of(8 << 20, 6)), "{name}"),
        }
        home.assert_no_temps();
        assert_eq!(store.stats().reserved, 0, "{name}");
    }
}

#[test]
fn quarantine_stores_what_was_expected_and_nothing_else() {
    let home = Home::new();
    let store = home.open();
    let (right, wrong) = (bytes_of(2 * GROUP, 7), bytes_of(2 * GROUP, 8));
    let mut quarantine = store.quarantine(Hash::of(&right)).expect("quarantine");
    quarantine.write(&wrong).expect("write");
    let refused = quarantine.finish().expect_err("other bytes");
    assert!(matches!(refused, StoreError::WrongHash { found, .. } if found == Hash::of(&wrong)));
    assert_eq!(store.list().expect("list"), []);
    home.assert_no_temps();
    let mut quarantine = store.quarantine(Hash::of(&right)).expect("quarantine");
    quarantine.write(&right).expect("write");
    quarantine.finish().expect("the right bytes");
    assert_holds(&store, &right);
    let refused = store.put_whole(&Hash::of(&right), b"small and wrong").expect_err("wrong");
    assert_eq!(refused.kind(), Trouble::WrongBytes);
}

#[test]
fn endless_source_is_cut_off_at_the_bound() {
    let home = Home::new();
    let config = StoreConfig { blob_bytes_max: 3 * GROUP as u64, ..home.config() };
    let (store, _) = Store::open(config).expect("open");
    let mut quarantine = store.quarantine(Hash::of(b"x")).expect("quarantine");
    let piece = bytes_of(GROUP, 9);
    (0..3).for_each(|_| quarantine.write(&piece).expect("within the bound"));
    let refused = quarantine.write(&piece[..1]).expect_err("one byte more");
    assert_eq!(refused.kind(), Trouble::TooLarge);
    drop(quarantine);
    let refused = store.partial(list_of(&bytes_of(3 * GROUP + 1, 9))).expect_err("too large");
    assert_eq!(refused.kind(), Trouble::TooLarge);
    home.assert_no_temps();
}

#[test]
fn pin_makes_a_fetched_blob_durable_and_refuses_its_removal() {
    let home = Home::new();
    let store = home.open();
    for size in [100, 3 * GROUP] {
        let bytes = bytes_of(size, 10);
        let hash = fetch(&store, &bytes);
        assert_eq!(store.find(&hash).expect("find").expect("there").origin, Origin::Fetched);
        store.pin(&hash).expect("pin");
        assert!(home.blob_path(&hash).exists(), "a pinned blob is a file");
        let info = store.find(&hash).expect("find").expect("there");
        assert_eq!((info.pinned, info.origin), (true, Origin::Added));
        assert_eq!(store.remove(&hash, false).expect_err("pinned").kind(), Trouble::Pinned);
        store.unpin(&hash).expect("unpin");
        store.pin(&hash).expect("pin again");
        assert_eq!(store.remove(&hash, true).expect("forced"), Some(size as u64));
        assert_eq!(store.find(&hash).expect("find"), None);
    }
    assert_eq!(store.stats().pins, 0);
    let absent = store.pin(&Hash::of(b"absent")).expect_err("absent");
    assert_eq!(absent.kind(), Trouble::NotFound);
}

#[test]
fn removed_blob_is_gone_but_who_reads_it_goes_on() {
    let home = Home::new();
    let store = home.open();
    let bytes = bytes_of(2 * GROUP, 11);
    let hash = home.add(&store, &bytes);
    let reader = store.open_blob(&hash).expect("open").expect("there");
    assert_eq!(store.remove(&hash, false).expect("remove"), Some(bytes.len() as u64));
    assert_eq!(store.remove(&hash, false).expect("again"), None);
    assert!(store.open_blob(&hash).expect("open").is_none());
    assert!(crate::support::read_all(&reader) == bytes);
    assert_eq!(store.stats().bytes, 0);
}

#[test]
fn adding_a_fetched_blob_makes_it_durable() {
    let home = Home::new();
    let store = home.open();
    for size in [50, 2 * GROUP] {
        let bytes = bytes_of(size, 12);
        let hash = fetch(&store, &bytes);
        let path = home.beside("mine");
        fs::write(&path, &bytes).expect("write");
        assert!(store.add_file(&path, &mut |_| {}).expect("add").existed);
        assert_eq!(store.find(&hash).expect("find").expect("there").origin, Origin::Added);
        assert!(home.blob_path(&hash).exists());
        assert_holds(&store, &bytes);
    }
    assert_eq!(store.stats().bytes, 50 + 2 * GROUP as u64);
}

#[test]
fn file_of_another_length_under_the_name_of_a_blob_is_replaced_by_an_add() {
    let add = |home: &Home, store: &Store, bytes: &[u8]| {
        home.add(store, bytes);
    };
    let add_by_a_batch = |_: &Home, store: &Store, bytes: &[u8]| {
        let batch = store.batch().expect("batch");
        batch.put(bytes).expect("put");
        batch.finish().expect("finish");
    };
    replaces_a_file_of_another_length(add);
    replaces_a_file_of_another_length(add_by_a_batch);
}

fn replaces_a_file_of_another_length(add: impl FnOnce(&Home, &Store, &[u8])) {
    let bytes = bytes_of(GROUP, 13);
    let home = Home::new();
    let path = home.blob_path(&Hash::of(&bytes));
    let store = home.open();
    fs::write(&path, &bytes[1..]).expect("write");
    add(&home, &store, &bytes);
    assert_eq!(fs::read(&path).expect("read"), bytes);
    assert_eq!((store.stats().blobs, store.stats().bytes), (1, GROUP as u64));
    assert_holds(&store, &bytes);
}

#[test]
fn list_and_hashes_are_sorted_and_whole() {
    let home = Home::new();
    let store = home.open();
    let mut hashes: Vec<Hash> = (0..20).map(|seed| home.add(&store, &bytes_of(10, seed))).collect();
    hashes.push(fetch(&store, &bytes_of(10, 99)));
    hashes.sort_unstable();
    assert_eq!(store.hashes().expect("hashes"), hashes);
    let listed: Vec<Hash> = store.list().expect("list").into_iter().map(|(hash, _)| hash).collect();
    assert_eq!(listed, hashes);
}

#[test]
fn second_opener_is_told_who_holds_the_store() {
    let home = Home::new();
    let store = home.open();
    let refused = Store::open(home.config()).expect_err("locked");
    assert!(
        matches!(refused, StoreError::Locked { pid: Some(pid), .. } if pid == std::process::id())
    );
    assert_eq!(refused.kind(), Trouble::StoreLocked);
    let clone = store.clone();
    store.close();
    assert!(matches!(clone.find(&Hash::of(b"x")), Err(StoreError::Closed)));
    home.open();
}
