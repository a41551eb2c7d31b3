//! Many small blobs between real nodes on loopback, and peers that misbehave with them.

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
mod mesh_support;

use std::collections::BTreeSet;

use blobmesh_node::control::api::{Answer, GotRow, Request, TierBytes, Trouble};
use blobmesh_protocol::Hash;
use blobmesh_protocol::wire::message::{HEAD, Message};
use blobmesh_protocol::wire::small::{
    SMALL_BLOB, SmallAnswer, SmallRequest, SmallResult, push_small_blob,
};
use mesh_support::bad_peer::{BadPeer, Conduct, Said, encode, hello_small};
use mesh_support::blob::{Blob, GROUP_BYTES, frame_of};
use mesh_support::{SOON, TestNode, bytes, edge_dir, panics};
use tokio::time::timeout;

/// The lengths of blobs that are asked for in one list: none, one that lies in the index, around its bound, and
/// up to the longest small one.
const LENS: [usize; 6] = [0, 1, 4_096, 4_097, 16_000, GROUP_BYTES];

fn blob(number: usize) -> Vec<u8> {
    let mut blob = bytes(1, LENS[number % LENS.len()]);
    let number = number.to_le_bytes();
    let len = blob.len().min(number.len());
    blob[..len].copy_from_slice(&number[..len]);
    blob
}

/// Two linked nodes, of which the first holds the blobs.
async fn holder_and_getter(blobs: &[Vec<u8>]) -> (TestNode, TestNode, Vec<String>) {
    let holder = TestNode::start(&[]).await;
    let mut hashes = Vec::new();
    for blob in blobs {
        hashes.push(holder.add(blob).await);
    }
    let getter = TestNode::start(&[&holder]).await;
    getter.linked(1).await;
    (holder, getter, hashes)
}

async fn has(node: &TestNode, hash: &str) -> bool {
    match node.ask(Request::Has { hashes: vec![hash.to_owned()] }).await {
        Ok(Answer::Has { sizes }) => sizes[0].is_some(),
        other => panic!("not told: {other:?}"),
    }
}

fn sum(rows: &[GotRow], of: impl Fn(&TierBytes) -> u64) -> u64 {
    rows.iter().map(|row| of(&row.tier)).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn list_of_small_blobs_comes_by_small_requests_and_the_second_time_from_the_store() {
    let blobs: Vec<Vec<u8>> = (0..600).map(blob).collect();
    let (_holder, getter, hashes) = holder_and_getter(&blobs).await;
    let distinct: BTreeSet<&String> = hashes.iter().collect();
    let nobody = Hash::of(b"nobody").to_hex();
    let list = [&hashes[..], &hashes[..5], std::slice::from_ref(&nobody)].concat();
    let (answer, rows) = getter.get_many(&list).await;
    let Ok(Answer::GotMany { got, failed, tier, .. }) = answer else { panic!("{answer:?}") };
    let failures: Vec<_> = rows.iter().filter_map(|row| row.failure.as_ref()).collect();
    assert_eq!((got, failed), (distinct.len() as u64, 1), "{:?}", failures.first());
    assert_eq!(rows.len(), distinct.len() + 1, "one row each, also of what is named twice");
    assert_eq!(failures[0].kind, Trouble::NotFound);
    let all: u64 = rows.iter().filter_map(|row| row.size).sum();
    assert_eq!((tier.local + tier.lan, tier.edge), (all, 0));
    assert_eq!(sum(&rows, |tier| tier.lan), tier.lan);
    // The small ones came without a question, whatever the machine's pace.
    assert!(getter.counter("small_sent").await >= distinct.len() as u64);
    for (hash, blob) in hashes.iter().zip(&blobs).step_by(41) {
        assert!(getter.cat(hash).await == *blob, "{hash}");
    }
    let (answer, rows) = getter.get_many(&hashes).await;
    let Ok(Answer::GotMany { failed: 0, tier, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!((tier.local, tier.lan), (all, 0));
    assert!(rows.iter().all(|row| row.found == "local"));
}

#[tokio::test(flavor = "multi_thread")]
async fn long_blobs_of_a_list_come_the_ordinary_way() {
    let blobs = [blob(4), bytes(2, GROUP_BYTES + 1), bytes(3, 1_000_000)];
    let (_holder, getter, hashes) = holder_and_getter(&blobs).await;
    let (answer, rows) = getter.get_many(&hashes).await;
    assert!(matches!(answer, Ok(Answer::GotMany { got: 3, failed: 0, .. })), "{answer:?}");
    assert_eq!(rows.len(), 3);
    for (hash, blob) in hashes.iter().zip(&blobs) {
        assert!(getter.cat(hash).await == *blob);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn read_gives_the_bytes_and_leaves_nothing_in_the_store() {
    let blobs = [blob(4), blob(0), blob(5)];
    let (_holder, getter, hashes) = holder_and_getter(&blobs).await;
    for (hash, blob) in hashes.iter().zip(&blobs) {
        let read = getter.node.read(hash.parse().expect("a hash"), 1 << 20).await.expect("read");
        assert!(read == *blob);
        assert!(!has(&getter, hash).await);
    }
    let own = getter.add(b"mine").await.parse().expect("a hash");
    assert_eq!(getter.node.read(own, 4).await.expect("read"), &b"mine"[..]);
    assert_eq!(getter.node.read(own, 3).await.expect_err("longer").kind, Trouble::TooLarge);
}

#[tokio::test(flavor = "multi_thread")]
async fn read_of_a_long_blob_comes_by_the_store_unless_it_is_too_long() {
    let long = bytes(9, 300_000);
    let (_holder, getter, hashes) = holder_and_getter(std::slice::from_ref(&long)).await;
    let hash: Hash = hashes[0].parse().expect("a hash");
    let refused = getter.node.read(hash, 299_999).await.expect_err("too long");
    assert_eq!(refused.kind, Trouble::TooLarge, "{refused:?}");
    assert!(!has(&getter, &hashes[0]).await, "nothing was fetched for it");
    assert!(getter.node.read(hash, 300_000).await.expect("read") == long);
    assert!(has(&getter, &hashes[0]).await);
    let nobody = getter.node.read(Hash::of(b"nobody"), 10).await.expect_err("nobody has it");
    assert_eq!(nobody.kind, Trouble::NotFound);
}

/// How many more blobs a bad peer may give a proof of itself for.
const CHANCES: u32 = 12;

/// Says how somebody misbehaves in answer to a small request, and whether that is a proof.
struct Deed {
    name: &'static str,
    small: fn(&SmallRequest, &Blob) -> Said,
    banned: bool,
}

fn answer(id: u32, bytes: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    push_small_blob(id, bytes, &mut frame);
    frame
}

fn refusal(id: u32, result: SmallResult) -> Vec<u8> {
    SmallAnswer { id, result }.encode().expect("encodes")
}

const DEEDS: [Deed; 11] = [
    Deed {
        name: "wrong bytes",
        small: |request, blob| {
            let mut wrong = blob.bytes.clone();
            wrong[17] ^= 1;
            Said::then_silence(answer(request.id, &wrong))
        },
        banned: true,
    },
    Deed {
        name: "no bytes",
        small: |request, _| Said::then_silence(answer(request.id, b"")),
        banned: true,
    },
    Deed {
        name: "an answer longer than a group",
        small: |request, _| {
            let body = [&request.id.to_le_bytes()[..], &[7; GROUP_BYTES + 1]].concat();
            Said::then_silence(frame_of(SMALL_BLOB, &body))
        },
        banned: false,
    },
    Deed {
        name: "an answer of 4 GiB",
        small: |_, _| Said::then_silence(vec![SMALL_BLOB, 1, 0, 0, 255, 255, 255, 255]),
        banned: false,
    },
    Deed {
        name: "an answer without a number",
        small: |_, _| Said::then_silence(frame_of(SMALL_BLOB, &[1, 2, 3])),
        banned: false,
    },
    Deed {
        name: "an answer to nothing",
        small: |request, blob| Said::then_silence(answer(request.id ^ 0x8000_0000, &blob.bytes)),
        banned: false,
    },
    Deed { name: "no answer", small: |_, _| Said::then_silence(Vec::new()), banned: false },
    Deed { name: "a reset", small: |_, _| Said::then_reset(Vec::new()), banned: false },
    Deed {
        name: "a frame out of turn",
        small: |_, _| Said::then_silence(frame_of(HEAD, &[1])),
        banned: false,
    },
    Deed {
        name: "a large one of few bytes",
        small: |request, _| {
            Said::then_silence(refusal(request.id, SmallResult::Large { size: 65_536 }))
        },
        banned: false,
    },
    Deed {
        name: "busy for ever",
        small: |request, _| {
            let busy = SmallResult::Busy { retry_after_ms: u32::MAX };
            Said::then_silence(refusal(request.id, busy))
        },
        banned: false,
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn blobs_come_from_the_edge_when_a_peer_answers_small_requests_badly() {
    panics::watch();
    let meetings = DEEDS.iter().enumerate().map(|(number, deed)| meet(number, deed));
    futures::future::join_all(meetings).await;
    assert_eq!(panics::count(), 0);
}

/// Has a node get and read blobs that a bad peer claims to hold, and the edge has.
async fn meet(number: usize, deed: &Deed) {
    let first = u32::try_from(number * 100).expect("few");
    let blobs: Vec<Blob> = (first..first + 3 + CHANCES).map(|n| Blob::new(n, 5_000)).collect();
    let conduct = Conduct {
        greet: |filter| {
            Said::then_silence([hello_small(), encode(&Message::Filter(filter))].concat())
        },
        small: deed.small,
        ..Conduct::EMPTY_HANDED
    };
    let edge = tempfile::tempdir().expect("a directory");
    let contents: Vec<&[u8]> = blobs.iter().map(|blob| &blob.bytes[..]).collect();
    let bucket = edge_dir(edge.path(), &contents);
    let node = TestNode::start_with(&[], |config| config.edge = Some(bucket)).await;
    let bad = BadPeer::start(conduct, &blobs).await;
    bad.dial(&node).await;
    node.linked(1).await;
    let hashes: Vec<String> = blobs.iter().map(|blob| blob.hash().to_hex()).collect();
    let (listed, read) = tokio::join!(
        timeout(SOON, node.get_many(&hashes[..2])),
        timeout(SOON, node.node.read(blobs[2].hash(), 1 << 20)),
    );
    let (answer, rows) = listed.expect(deed.name);
    assert!(
        matches!(answer, Ok(Answer::GotMany { got: 2, failed: 0, .. })),
        "{}: {answer:?} {rows:?}",
        deed.name
    );
    assert!(read.expect(deed.name).expect(deed.name) == blobs[2].bytes, "{}", deed.name);
    for (hash, blob) in hashes.iter().zip(&blobs) {
        // On a busy machine the edge may be faster, and a proof that comes after the blob is not looked at.
        let proven = node.counter("bans").await == u64::from(deed.banned);
        assert!(node.cat(hash).await == blob.bytes, "{}", deed.name);
        if proven && deed.banned {
            break;
        }
    }
    assert!(!bad.seen().requested_small.is_empty(), "{}: it had its chance", deed.name);
    assert_eq!(node.counter("bans").await, u64::from(deed.banned), "{}", deed.name);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_that_is_answered_twice_is_got_and_the_next_one_too() {
    panics::watch();
    let blobs: Vec<Blob> = (500..502).map(|n| Blob::new(n, 5_000)).collect();
    let conduct = Conduct {
        greet: |filter| {
            Said::then_silence([hello_small(), encode(&Message::Filter(filter))].concat())
        },
        small: |request, blob| Said::then_silence(answer(request.id, &blob.bytes).repeat(2)),
        serve: |requested| Said::then_close(requested.response()),
        ..Conduct::EMPTY_HANDED
    };
    let node = TestNode::start(&[]).await;
    let bad = BadPeer::start(conduct, &blobs).await;
    bad.dial(&node).await;
    node.linked(1).await;
    for blob in &blobs {
        assert!(node.cat(&blob.hash().to_hex()).await == blob.bytes);
    }
    assert_eq!(node.counter("bans").await, 0);
    assert_eq!(panics::count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn holder_serves_others_while_a_peer_babbles_small_requests() {
    panics::watch();
    let blob = Blob::new(700, 5_000);
    let holder = TestNode::start(&[]).await;
    let hash = holder.add(&blob.bytes).await;
    let bad = BadPeer::start(Conduct::EMPTY_HANDED, &[]).await;
    bad.dial(&holder).await;
    bad.until("linked", |seen| seen.links > 0).await;
    let request = |id| SmallRequest { id, hash: blob.hash() }.encode().expect("encodes");
    let nonsense: [Vec<u8>; 4] = [
        [request(1), frame_of(HEAD, &[1])].concat(),
        [request(1), vec![0x16, 1, 0, 0, 255, 255, 255, 255]].concat(),
        request(1)[..20].to_vec(),
        // The same number again and again: whose it is, is the requester's affair.
        request(1).repeat(300),
    ];
    for said in nonsense {
        bad.babble(&holder, false, &said).await;
    }
    let getter = TestNode::start(&[&holder]).await;
    getter.linked(1).await;
    assert_eq!(getter.get(&hash).await.expect("got").tier.lan, 5_000);
    assert_eq!(panics::count(), 0);
}
