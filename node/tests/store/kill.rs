//! `kill -9` at random moments: no acknowledged blob is lost, no wrong byte comes out.
//!
//! The test starts itself again as a child that adds and fetches for ever and says each
//! acknowledgement; it is killed after a random number of them, and the store is looked at.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use blobmesh_node::store::{Store, StoreConfig};
use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::group_count;

use crate::support::{GROUP, Home, bytes_of, group_of, list_of, read_all};

const DIR: &str = "BLOBMESH_TEST_KILL_DIR";
const FROM: &str = "BLOBMESH_TEST_KILL_FROM";
const KILLS: u64 = 10;
/// Larger than everything the children write: nobody may be evicted here.
const BYTES_MAX: u64 = 64 << 30;

fn len_of(seed: u64) -> usize {
    [0, 300, 4097, GROUP, GROUP + 1, 7 * GROUP + 3, 40 * GROUP][(seed % 7) as usize]
}

fn config(dir: &std::path::Path) -> StoreConfig {
    StoreConfig::new(dir.to_owned(), BYTES_MAX, 1 << 28)
}

/// Is the child's life; does nothing when run as an ordinary test.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let from: u64 = std::env::var(FROM).ok().and_then(|from| from.parse().ok()).expect("a number");
    let (store, _) = Store::open(config(dir.as_ref())).expect("open");
    let mut out = std::io::stdout();
    for seed in from.. {
        let bytes = bytes_of(len_of(seed), seed);
        let kind = if seed % 2 == 0 { "added" } else { "fetched" };
        if seed % 8 == 2 {
            let batch = store.batch().expect("batch");
            batch.put(&bytes).expect("put");
            batch.finish().expect("finish");
        } else if seed % 2 == 0 {
            let mut writer = store.add_writer().expect("writer");
            writer.write(&bytes).expect("write");
            writer.finish().expect("finish");
        } else if seed % 4 == 1 && bytes.len() <= GROUP {
            let blob = (Hash::of(&bytes), bytes.into());
            store.put_batch(&[blob]).remove(0).expect("stored");
        } else {
            let partial = store.partial(list_of(&bytes)).expect("partial");
            for index in (0..group_count(bytes.len() as u64)).rev() {
                partial.write_group(index, group_of(&bytes, index)).expect("write");
                if index % 16 == 0 {
                    partial.checkpoint().expect("checkpoint");
                }
            }
            partial.finish().expect("finish");
        }
        writeln!(out, "@{kind} {seed}").expect("say");
    }
}

/// Runs a child until it has acknowledged `enough` blobs and a random moment more; returns all it
/// acknowledged, read to the end of its output.
fn run_and_kill(home: &Home, from: u64, enough: u64, spin: u64) -> BTreeSet<(u64, bool)> {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "kill::child", "--nocapture", "--test-threads=1"])
        .env(DIR, home.root())
        .env(FROM, from.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start");
    let mut acknowledged = BTreeSet::new();
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    for line in lines.map_while(Result::ok) {
        // The harness writes its own words before the first line of ours.
        let Some((_, said)) = line.split_once('@') else { continue };
        let (kind, seed) = said.split_once(' ').expect("two words");
        acknowledged.insert((seed.parse().expect("a number"), kind == "added"));
        if acknowledged.len() as u64 == enough {
            // Some work of no fixed length, so that the kill falls anywhere.
            (0..spin).for_each(|n| {
                std::hint::black_box(Hash::of(&n.to_le_bytes()));
            });
            child.kill().expect("kill");
        }
    }
    child.wait().expect("wait");
    acknowledged
}

#[test]
fn killed_at_any_moment_the_store_keeps_what_it_acknowledged() {
    let home = Home::new();
    let mut random = [0; 16];
    let mut acknowledged = BTreeSet::new();
    for round in 0..KILLS {
        getrandom::fill(&mut random).expect("random");
        let (enough, spin) = (u64::from(random[0]) % 40 + 1, u64::from(random[1]) * 100);
        acknowledged.extend(run_and_kill(&home, round * 1000, enough, spin));
        let (store, report) = Store::open(config(&home.root())).expect("it opens after a kill");
        assert!(!report.clean, "round {round}");
        check(&store, &acknowledged, round);
        let listed: u64 = store.list().expect("list").iter().map(|(_, info)| info.size).sum();
        assert_eq!(store.stats().bytes, listed, "round {round}");
        home.assert_no_temps();
    }
}

fn check(store: &Store, acknowledged: &BTreeSet<(u64, bool)>, round: u64) {
    let listed: BTreeSet<Hash> = store.hashes().expect("hashes").into_iter().collect();
    for (seed, added) in acknowledged {
        let bytes = bytes_of(len_of(*seed), *seed);
        let hash = Hash::of(&bytes);
        let found = store.open_blob(&hash).expect("open");
        let may_be_lost = !added && bytes.len() <= 4096;
        assert!(found.is_some() || may_be_lost, "round {round}: blob {seed} is lost");
        if let Some(reader) = found {
            assert!(listed.contains(&hash), "round {round}: blob {seed} is not listed");
            assert!(read_all(&reader) == bytes, "round {round}: blob {seed} has wrong bytes");
        }
    }
    // What was not acknowledged may be there or not, but never wrong.
    for hash in listed {
        assert!(store.verify(&hash).expect("verify"), "round {round}: {hash} is wrong");
    }
}
