//! Deltas between real nodes on loopback, and peers that misbehave with them.

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
mod mesh_support;

use std::path::PathBuf;

use blobmesh_node::control::api::{Answer, BaseName, DeltaRow, Failure, Receipt, Request, Trouble};
use mesh_support::{TestNode, bytes};

const MIB: usize = 1 << 20;

/// Two linked nodes; the first holds the blob, and the second the base.
async fn holder_and_getter(blob: &[u8], base: &[u8]) -> (TestNode, TestNode, String, String) {
    let holder = TestNode::start(&[]).await;
    let hash = holder.add(blob).await;
    let getter = TestNode::start(&[&holder]).await;
    let base = getter.add(base).await;
    getter.linked(1).await;
    (holder, getter, hash, base)
}

async fn get_from(node: &TestNode, hash: &str, base: BaseName) -> Result<Receipt, Failure> {
    let request = Request::Get {
        hash: hash.to_owned(),
        output: None,
        force: false,
        timeout_ms: Some(20_000),
        base: Some(base),
        no_store: false,
    };
    let Answer::Got(receipt) = node.ask(request).await? else { panic!("not got") };
    Ok(*receipt)
}

fn delta_of(receipt: &Receipt) -> &DeltaRow {
    receipt.delta.as_ref().expect("a delta")
}

/// The base with 20 KiB replaced, 1,000 bytes inserted and 500 removed.
fn edited(base: &[u8]) -> Vec<u8> {
    let mut blob = base.to_vec();
    blob.drain(3_000_000..3_000_500);
    blob.splice(1_000..1_000, bytes(8, 1_000));
    blob[2_000_000..2_020_480].copy_from_slice(&bytes(9, 20_480));
    blob
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_blob_has_is_copied_and_the_rest_fetched_by_the_byte() {
    let base = bytes(1, 6 * MIB);
    let blob = edited(&base);
    let (_holder, getter, hash, base) = holder_and_getter(&blob, &base).await;
    let receipt = get_from(&getter, &hash, BaseName::Blob(base.clone())).await.expect("got");
    let delta = delta_of(&receipt);
    assert_eq!((&delta.outcome[..], &delta.base), ("whole", &base));
    assert_eq!(delta.copied + delta.fetched, blob.len() as u64);
    // The last group proves the list; besides it only what is new, and at each change two blocks at most.
    let bound = 64 * 1024 + 21_480 + 3 * 2 * 1_024;
    assert!(delta.fetched <= bound, "{} of {bound}", delta.fetched);
    assert!(delta.beside < blob.len() as u64 / 500, "{}", delta.beside);
    assert_eq!((receipt.tier.local, receipt.tier.lan), (delta.copied, delta.fetched));
    assert_eq!(receipt.found, "lan");
    assert!(getter.cat(&hash).await == blob);
    // It is served as any other blob, and told of.
    let third = TestNode::start(&[&getter]).await;
    third.linked(1).await;
    assert!(third.cat(&hash).await == blob);
}

#[tokio::test(flavor = "multi_thread")]
async fn file_serves_as_a_base_and_one_that_cannot_be_read_is_told() {
    let base = bytes(1, 6 * MIB);
    let blob = edited(&base);
    let (_holder, getter, hash, _) = holder_and_getter(&blob, b"something else").await;
    let path = getter.home.path().join("older");
    let missing = get_from(&getter, &hash, BaseName::File(path.clone())).await;
    assert_eq!(missing.expect_err("there is none").kind, Trouble::File);
    let dir = BaseName::File(PathBuf::from("/"));
    assert_eq!(get_from(&getter, &hash, dir).await.expect_err("no file").kind, Trouble::File);
    std::fs::write(&path, &base).expect("written");
    let receipt = get_from(&getter, &hash, BaseName::File(path)).await.expect("got");
    let delta = delta_of(&receipt);
    assert_eq!(delta.outcome, "whole");
    assert!(delta.fetched < 100_000, "{}", delta.fetched);
    assert!(getter.cat(&hash).await == blob);
}

#[tokio::test(flavor = "multi_thread")]
async fn change_that_the_lists_show_needs_no_map() {
    let base = bytes(1, 8 * MIB);
    let mut blob = base.clone();
    *blob.last_mut().expect("bytes") ^= 1;
    let (_holder, getter, hash, base) = holder_and_getter(&blob, &base).await;
    let receipt = get_from(&getter, &hash, BaseName::Blob(base)).await.expect("got");
    let delta = delta_of(&receipt);
    assert_eq!(delta.outcome, "whole");
    assert_eq!(delta.beside, 128 * 32, "the list alone, which comes with its last group");
    assert_eq!((delta.fetched, delta.copied), (64 * 1024, blob.len() as u64 - 64 * 1024));
    assert!(getter.cat(&hash).await == blob);
}

#[tokio::test(flavor = "multi_thread")]
async fn base_that_is_none_costs_the_get_nothing_but_time() {
    let blob = bytes(1, 3 * MIB);
    let (_holder, getter, hash, base) = holder_and_getter(&blob, &bytes(2, 3 * MIB)).await;
    let receipt = get_from(&getter, &hash, BaseName::Blob(base)).await.expect("got");
    assert_eq!(delta_of(&receipt).outcome, "the base has too little of it");
    assert_eq!(receipt.tier.local + receipt.tier.lan, blob.len() as u64);
    assert!(getter.cat(&hash).await == blob);
    let absent = "ab".repeat(32);
    let other = getter.get(&absent).await;
    assert_eq!(other.expect_err("nobody has it").kind, Trouble::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn base_that_is_not_here_or_too_short_is_told_and_the_get_goes_on() {
    let blob = bytes(1, MIB);
    let (_holder, getter, hash, short) = holder_and_getter(&blob, b"short").await;
    let absent = BaseName::Blob("ab".repeat(32));
    let receipt = get_from(&getter, &hash, absent).await.expect("got");
    assert_eq!(delta_of(&receipt).outcome, "the older version is not in the store");
    let (other, _) =
        getter.ask_with(Request::Remove { hashes: vec![hash.clone()], force: true }, &[]).await;
    other.expect("removed");
    let receipt = get_from(&getter, &hash, BaseName::Blob(short)).await.expect("got");
    assert_eq!(delta_of(&receipt).outcome, "the older version is too short");
    // What is here already needs no delta.
    let again = get_from(&getter, &hash, BaseName::Blob("ab".repeat(32))).await.expect("got");
    assert_eq!((again.found.as_str(), again.tier.lan), ("local", 0));
}
