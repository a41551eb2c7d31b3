//! The bound, and who goes when it is met.

use std::sync::{Arc, Mutex};

use blobmesh_node::control::api::Trouble;
use blobmesh_node::store::{Collected, Store};
use blobmesh_protocol::Hash;

use crate::support::{GROUP, Home, bytes_of, fetch, fill, list_of};

const BLOB: usize = 10_000;

fn has(store: &Store, hash: &Hash) -> bool {
    store.find(hash).expect("find").is_some()
}

/// Makes a full store of ten blobs and says who leaves it.
fn full(home: &Home) -> (Store, Vec<Hash>, Arc<Mutex<Vec<Hash>>>) {
    let store = home.open();
    let gone = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&gone);
    store.set_gone_listener(move |hash| seen.lock().expect("lock").push(hash));
    let blobs = (0..10).map(|seed| home.add(&store, &bytes_of(BLOB, seed))).collect();
    (store, blobs, gone)
}

#[test]
fn least_recently_used_go_until_a_tenth_is_free() {
    let home = Home::bounded(10 * BLOB as u64);
    let (store, blobs, gone) = full(&home);
    assert_eq!(store.stats().bytes, 10 * BLOB as u64, "exactly full evicts nobody");
    // The two oldest are used again, one of them only by its name.
    drop(store.open_blob(&blobs[0]).expect("open"));
    store.find(&blobs[1]).expect("a look is no use");
    home.add(&store, &bytes_of(BLOB, 10));
    let left: Vec<usize> = (0..10).filter(|at| has(&store, &blobs[*at])).collect();
    assert_eq!(left, [0, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(*gone.lock().expect("lock"), [blobs[1], blobs[2]]);
    assert_eq!(store.stats().bytes, 9 * BLOB as u64);
}

#[test]
fn use_is_remembered_over_a_restart() {
    let home = Home::bounded(10 * BLOB as u64);
    let (store, blobs, _) = full(&home);
    drop(store.open_blob(&blobs[0]).expect("open"));
    store.close();
    let store = home.open();
    home.add(&store, &bytes_of(BLOB, 10));
    assert!(has(&store, &blobs[0]) && !has(&store, &blobs[1]));
}

#[test]
fn pinned_blobs_and_blobs_in_use_stay() {
    let home = Home::bounded(10 * BLOB as u64);
    let (store, blobs, _) = full(&home);
    store.pin(&blobs[0]).expect("pin");
    let reader = store.open_blob(&blobs[1]).expect("open").expect("there");
    // The others are used after it, so only the lease protects it.
    blobs[2..].iter().for_each(|hash| drop(store.open_blob(hash).expect("open")));
    home.add(&store, &bytes_of(6 * BLOB, 10));
    assert!(has(&store, &blobs[0]) && has(&store, &blobs[1]));
    drop(reader);
    home.add(&store, &bytes_of(8 * BLOB, 11));
    assert!(has(&store, &blobs[0]) && !has(&store, &blobs[1]));
}

#[test]
fn what_cannot_fit_evicts_nobody() {
    let home = Home::bounded(10 * BLOB as u64);
    let (store, blobs, gone) = full(&home);
    let refusal = |len: usize| {
        let mut writer = store.add_writer()?;
        writer.write(&bytes_of(len, 12))?;
        writer.finish().map(|_| ())
    };
    assert_eq!(refusal(10 * BLOB + 1).expect_err("larger than the store").kind(), Trouble::NoSpace);
    blobs[1..].iter().for_each(|hash| store.pin(hash).expect("pin"));
    assert_eq!(refusal(2 * BLOB).expect_err("only one may go").kind(), Trouble::NoSpace);
    store.pin(&blobs[0]).expect("the last one was not evicted for it");
    assert_eq!(refusal(1).expect_err("all is pinned").kind(), Trouble::NoSpace);
    let partial = store.partial(list_of(&bytes_of(GROUP, 12))).expect_err("all is pinned");
    assert_eq!(partial.kind(), Trouble::NoSpace);
    assert!(blobs.iter().all(|hash| has(&store, hash)));
    assert_eq!(*gone.lock().expect("lock"), []);
    assert_eq!(store.stats().reserved, 0);
    home.assert_no_temps();
}

#[test]
fn lowered_bound_is_met_by_gc() {
    let mut home = Home::bounded(10 * BLOB as u64);
    let (store, blobs, _) = full(&home);
    assert_eq!(store.gc().expect("gc"), Collected::default());
    store.close();
    home.bytes_max = 5 * BLOB as u64;
    let store = home.open();
    // Down to 90 % of five blobs, that is four.
    assert_eq!(store.gc().expect("gc"), Collected { blobs: 6, bytes: 6 * BLOB as u64 });
    assert!(!has(&store, &blobs[5]) && has(&store, &blobs[6]));
}

#[test]
fn running_partial_stays_and_an_idle_one_goes_by_its_age() {
    let home = Home::bounded(10 * BLOB as u64);
    let store = home.open();
    let bytes = bytes_of(GROUP + 1, 13);
    let partial = store.partial(list_of(&bytes)).expect("partial");
    fill(&partial, &bytes, [1]);
    assert_eq!(store.stats().reserved, GROUP as u64 + 1);
    home.add(&store, &bytes_of(3 * BLOB, 14));
    home.add(&store, &bytes_of(3 * BLOB, 15));
    let first = Hash::of(&bytes_of(3 * BLOB, 14));
    assert!(!has(&store, &first), "a blob goes for it");
    drop(partial);
    assert_eq!(store.stats().reserved, GROUP as u64 + 1, "an idle partial keeps its room");
    home.add(&store, &bytes_of(7 * BLOB, 16));
    assert_eq!(store.stats().reserved, 0);
    assert!(store.find_partial(&Hash::of(&bytes)).expect("find").is_none());
}

#[test]
fn many_writers_at_once_never_exceed_the_bound() {
    let home = Home::bounded(10 * BLOB as u64);
    let store = home.open();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = store.clone();
            scope.spawn(move || {
                for round in 0..20 {
                    fetch(&store, &bytes_of(BLOB, 100 + thread * 100 + round));
                    let stats = store.stats();
                    assert!(stats.bytes <= stats.bytes_max, "{stats:?}");
                }
            });
        }
    });
    let listed: u64 = store.list().expect("list").iter().map(|(_, info)| info.size).sum();
    assert_eq!(store.stats().bytes, listed, "the totals are the sum of the rows");
    assert_eq!(store.stats().reserved, 0);
}
