//! A device that is really full: the store runs on a small tmpfs in a namespace of its own.
//!
//! The test starts itself again under `unshare`; where that is not allowed it says so and ends.

use std::process::Command;

use blobmesh_node::control::api::Trouble;
use blobmesh_node::store::{Store, StoreConfig};
use blobmesh_protocol::Hash;

use crate::support::{GROUP, Home, assert_holds, bytes_of, group_of, list_of};

const DIR: &str = "BLOBMESH_TEST_FULL_DIR";
const DEVICE_BYTES: usize = 8 << 20;

#[test]
fn full_device_refuses_clearly_and_loses_nothing() {
    let home = Home::new();
    let mount = "mount -t tmpfs -o size=8m tmpfs \"$0\" && exec \"$@\"";
    let run = |command: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--mount", "sh", "-c", mount]);
        unshare.arg(home.beside("")).args(command).env(DIR, home.beside("")).output()
    };
    if !run(&["true"]).is_ok_and(|tried| tried.status.success()) {
        println!("skipped: no namespaces with a tmpfs for this user");
        return;
    }
    let this = std::env::current_exe().expect("this test");
    let this = this.to_str().expect("a plain path");
    let ran = run(&[this, "--exact", "full::child", "--nocapture"]).expect("run");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    assert!(said.contains("the child came to its end"), "{said}");
}

/// Is the life on the small device; does nothing when run as an ordinary test.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let root = std::path::Path::new(&dir).join("store");
    pack_that_does_not_fit_takes_nothing(&root);
    let config = StoreConfig::new(root.clone(), 1 << 30, 1 << 28);
    let (store, _) = Store::open(config.clone()).expect("open");
    let temps = || std::fs::read_dir(root.join("tmp")).expect("list").count();

    let mut kept = Vec::new();
    let refused = (0..).find_map(|seed| {
        let bytes = bytes_of(5 * GROUP, seed);
        let mut writer = match store.add_writer() {
            Ok(writer) => writer,
            Err(refused) => return Some(refused),
        };
        let added = writer.write(&bytes).and_then(|()| writer.finish());
        kept.extend(added.is_ok().then_some(bytes));
        added.err()
    });
    assert_eq!(refused.expect("the device is small").kind(), Trouble::NoSpace);
    assert!(kept.len() * 5 * GROUP > DEVICE_BYTES / 4, "only {} blobs fitted", kept.len());
    assert_eq!(temps(), 0, "nothing is left behind");

    let bytes = bytes_of(DEVICE_BYTES, 1000);
    let partial = store.partial(list_of(&bytes)).expect("a file of holes takes no space");
    let refused =
        (0..128).find_map(|index| partial.write_group(index, group_of(&bytes, index)).err());
    assert_eq!(refused.expect("full").kind(), Trouble::NoSpace);
    drop(partial);

    kept.iter().for_each(|bytes| assert_holds(&store, bytes));
    store.close();
    drop(store);
    let (store, _) = Store::open(config).expect("it opens on a full device");
    kept.iter().for_each(|bytes| assert_holds(&store, bytes));
    let hash = Hash::of(&kept[0]);
    assert!(store.remove(&hash, false).expect("removal makes room").is_some());
    println!("the child came to its end");
}

fn pack_that_does_not_fit_takes_nothing(root: &std::path::Path) {
    let (store, _) =
        Store::open(StoreConfig::new(root.to_owned(), 1 << 30, 1 << 28)).expect("open");
    let fetched = |seeds: std::ops::Range<u64>| -> Vec<(Hash, bytes::Bytes)> {
        let bytes = seeds.map(|seed| bytes::Bytes::from(bytes_of(GROUP, seed)));
        bytes.map(|bytes| (Hash::of(&bytes), bytes)).collect()
    };
    let packs = || -> Vec<u64> {
        let packs = std::fs::read_dir(root.join("packs")).expect("list").flatten();
        packs.map(|pack| pack.metadata().expect("stat").len()).collect()
    };
    assert!(store.put_batch(&fetched(2000..2030)).iter().all(Result::is_ok));
    let before = packs();
    assert_eq!(before, [4096 + 30 * GROUP as u64]);
    let stored = store.put_batch(&fetched(2030..2130));
    assert!(stored.iter().any(Result::is_err), "the device is small");
    assert_eq!(packs(), before);
    store.close();
    std::fs::remove_dir_all(root).expect("room for the next");
}
