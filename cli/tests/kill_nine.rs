//! A node is killed again and again while it adds and gets: nothing acknowledged is lost, nothing
//! wrong comes out, and the next start is quick.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the start times are worth knowing")]
#![allow(clippy::wildcard_enum_match_arm, reason = "an answer of another kind fails the test")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use blobmesh_node::control::Client;
use blobmesh_node::control::api::{Answer, Event, Exchange, Failure, Input, Request};
use blobmesh_protocol::Hash;
use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

/// How often the node is killed.
const CYCLES: u64 = 50;
/// How often at least: a slow machine stops after these when it has worked for so long.
const CYCLES_LEAST: u64 = 15;
const LONG_ENOUGH: Duration = Duration::from_secs(90);
/// How many acknowledgements may come before the kill, at most.
const ACKS_MAX: u64 = 24;
/// How long anything may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A node's process and its home.
struct Node {
    child: Child,
    home: TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn spawn(home: &Path, peer: Option<&str>) -> Child {
    std::fs::remove_file(home.join("ready.json")).ok();
    let mut command = Command::new(env!("CARGO_BIN_EXE_blobmesh"));
    command.env_clear().arg("--home").arg(home).arg("--quiet").arg("up");
    command.args(["--listen", "127.0.0.1:0", "--no-mdns", "--no-adverts", "--ready-file"]);
    command.arg(home.join("ready.json"));
    if let Some(peer) = peer {
        command.args(["--peer", peer]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until a node serves, and returns how long that took and its address.
async fn ready(home: &Path, since: Instant) -> (Duration, String) {
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    loop {
        if let Ok(text) = std::fs::read(home.join("ready.json")) {
            let ready: serde_json::Value = serde_json::from_slice(&text).unwrap();
            let (address, peer) = (ready["addresses"][0].as_str(), ready["peer"].as_str());
            let address = format!("{}/p2p/{}", address.unwrap(), peer.unwrap());
            return (since.elapsed(), address);
        }
        assert!(since.elapsed() < PATIENCE, "the node does not serve");
        pace.tick().await;
    }
}

/// Asks a node; an error says that it was killed.
async fn ask(home: &Path, request: Request, input: &[u8]) -> Result<(Answer, Vec<u8>), Failure> {
    let gone = || Failure::new(blobmesh_node::control::api::Trouble::NoNode, "no node");
    let client = Client::connect(&home.join("control.sock")).await.map_err(|_| gone())?;
    let (events, mut events_in) = mpsc::channel(16);
    let (input_out, input_in) = mpsc::channel(16);
    if !input.is_empty() {
        let bytes = Input::Bytes(Bytes::copy_from_slice(input));
        input_out.send(Ok(bytes)).await.unwrap();
    }
    input_out.send(Ok(Input::End)).await.unwrap();
    drop(input_out);
    let exchange = Exchange { events, input: input_in };
    let collect = async {
        let mut bytes = Vec::new();
        while let Some(event) = events_in.recv().await {
            if let Event::Bytes(piece) = event {
                bytes.extend_from_slice(&piece);
            }
        }
        bytes
    };
    let (answer, bytes) = tokio::join!(client.ok_or_else(gone)?.call(request, exchange), collect);
    Ok((answer?, bytes))
}

async fn add(home: &Path, bytes: &[u8]) -> Result<String, Failure> {
    match ask(home, Request::Add { path: None, pin: false }, bytes).await?.0 {
        Answer::Added { hash, .. } => Ok(hash),
        _ => panic!("not an answer to an add"),
    }
}

/// Makes a blob of between 1 byte and 200 KB out of a number.
fn blob(seed: u64) -> Vec<u8> {
    let len = usize::try_from(1 + seed * 7_919 % 200_000).unwrap();
    let pieces = (0u64..).flat_map(|piece| {
        *Hash::of(&[seed.to_le_bytes(), piece.to_le_bytes()].concat()).as_bytes()
    });
    pieces.take(len).collect()
}

/// What was acknowledged so far.
#[derive(Default)]
struct Acks {
    added: Mutex<Vec<(String, u64)>>,
}

/// Adds blobs until the node is gone, noting each acknowledgement.
async fn keep_adding(home: &Path, first: u64, acks: Arc<Acks>, count: watch::Sender<u64>) {
    for seed in first.. {
        let Ok(hash) = add(home, &blob(seed)).await else { return };
        acks.added.lock().unwrap().push((hash, seed));
        count.send_modify(|count| *count += 1);
    }
}

/// Gets the other node's blobs until the node is gone.
async fn keep_getting(home: &Path, hashes: &[String], count: watch::Sender<u64>) {
    for hash in hashes.iter().cycle() {
        let request = Request::Get {
            hash: hash.clone(),
            output: None,
            force: false,
            timeout_ms: None,
            base: None,
            no_store: false,
        };
        if ask(home, request, &[]).await.is_err() {
            return;
        }
        let gone = Request::Remove { hashes: vec![hash.clone()], force: true };
        if ask(home, gone, &[]).await.is_err() {
            return;
        }
        count.send_modify(|count| *count += 1);
    }
}

/// Checks that everything acknowledged is there with the right bytes, and nothing wrong beside it.
async fn check(home: &Path, acks: &Acks, cycle: u64) {
    let added = acks.added.lock().unwrap().clone();
    let hashes = added.iter().map(|(hash, _)| hash.clone()).collect();
    let (answer, _) = ask(home, Request::Has { hashes }, &[]).await.unwrap();
    let Answer::Has { sizes } = answer else { panic!("not an answer to a has") };
    for ((hash, seed), size) in added.iter().zip(&sizes) {
        let expected = u64::try_from(blob(*seed).len()).unwrap();
        assert_eq!(*size, Some(expected), "cycle {cycle}: acknowledged blob {hash} is lost");
    }
    if let Some((hash, seed)) = added.last() {
        let cat = Request::Cat { hash: hash.clone(), timeout_ms: None };
        let (_, bytes) = ask(home, cat, &[]).await.unwrap();
        assert!(bytes == blob(*seed), "cycle {cycle}: wrong bytes of {hash}");
    }
    let (answer, _) = ask(home, Request::Verify { hashes: Vec::new() }, &[]).await.unwrap();
    let Answer::Verified { bad, .. } = answer else { panic!("not an answer to a verify") };
    assert!(bad.is_empty(), "cycle {cycle}: wrong bytes of {bad:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_killed_again_and_again_loses_nothing_acknowledged() {
    let holder_home = TempDir::new().unwrap();
    let holder = Node { child: spawn(holder_home.path(), None), home: holder_home };
    let (_, holder_address) = ready(holder.home.path(), Instant::now()).await;
    let mut held = Vec::new();
    for seed in 0..8 {
        held.push(add(holder.home.path(), &blob(1_000_000 + seed)).await.unwrap());
    }
    let home = TempDir::new().unwrap();
    let key = "mesh.key";
    std::fs::copy(holder.home.path().join(key), home.path().join(key)).unwrap();
    let acks = Arc::new(Acks::default());
    let mut starts = Vec::new();
    let work = Instant::now();
    for cycle in 0..CYCLES {
        if cycle >= CYCLES_LEAST && work.elapsed() > LONG_ENOUGH {
            break;
        }
        let began = Instant::now();
        let mut victim = spawn(home.path(), Some(&holder_address));
        let (took, _) = ready(home.path(), began).await;
        starts.push(took);
        check(home.path(), &acks, cycle).await;
        let (count, mut counted) = watch::channel(0);
        // The kill comes after a number of acknowledgements that differs from cycle to cycle, in
        // the middle of whatever the node does then.
        let kill_at = 1 + Hash::of(&cycle.to_le_bytes()).prefix()[0] as u64 % ACKS_MAX;
        let adding = keep_adding(home.path(), cycle * 1_000, Arc::clone(&acks), count.clone());
        let getting = keep_getting(home.path(), &held, count);
        let killing = async {
            counted.wait_for(|count| *count >= kill_at).await.unwrap();
            victim.kill().unwrap();
            victim.wait().unwrap();
        };
        let all = async { tokio::join!(adding, getting, killing) };
        tokio::time::timeout(PATIENCE, all).await.expect("a cycle ends");
    }
    let victim = spawn(home.path(), None);
    let began = Instant::now();
    ready(home.path(), began).await;
    check(home.path(), &acks, CYCLES).await;
    drop(Node { child: victim, home });
    starts.sort();
    let (median, slowest) = (starts[starts.len() / 2], starts[starts.len() - 1]);
    let added = acks.added.lock().unwrap().len();
    let kills = starts.len();
    println!("{kills} kills, {added} blobs added; start: median {median:?}, slowest {slowest:?}");
}
