//! The control socket between a client and a service that plays the node.

use std::future::pending;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::api::{
    Answer, BlobRow, Event, Exchange, Failure, GotRow, Input, Progress, Request, TierBytes, Trouble,
};
use super::{Client, ControlError, Listener, Service, serve};

const BYTES_LEN: usize = (3 << 20) + 17;
const ROWS: usize = 20_000;

/// Plays the node: each request exercises one part of the wire.
struct FakeNode {
    /// Told when a `Get` begins, and again when it is dropped before its end.
    gets: mpsc::Sender<&'static str>,
}

struct TellOnDrop(mpsc::Sender<&'static str>);

impl Drop for TellOnDrop {
    fn drop(&mut self) {
        self.0.try_send("cancelled").ok();
    }
}

impl Service for FakeNode {
    async fn handle(&self, request: Request, exchange: Exchange) -> Result<Answer, Failure> {
        match request {
            Request::Add { pin, .. } => self.add(exchange, pin).await,
            Request::Cat { .. } => cat(exchange).await,
            Request::Get { .. } => {
                let _tell = TellOnDrop(self.gets.clone());
                self.gets.send("began").await.ok();
                pending().await
            }
            Request::List => Ok(Answer::List { blobs: rows() }),
            Request::Push { .. } => Err(not_found()),
            Request::Gc => panic!("a handler with a bug"),
            Request::GetMany { .. } => {
                exchange.events.send(Event::Got(got_rows())).await.unwrap();
                Ok(Answer::Done)
            }
            Request::AddTree { .. }
            | Request::Tree { .. }
            | Request::Checkout { .. }
            | Request::Has { .. }
            | Request::Remove { .. }
            | Request::Pin { .. }
            | Request::Unpin { .. }
            | Request::Peers
            | Request::Status
            | Request::Savings
            | Request::Prefetch { .. }
            | Request::Why { .. }
            | Request::Verify { .. }
            | Request::Pull { .. } => Ok(Answer::Done),
        }
    }
}

impl FakeNode {
    /// Adds in a task of its own, which goes on when the client has hung up, as a thread of the node does; tells
    /// how a pinned one ended.
    async fn add(&self, exchange: Exchange, tell: bool) -> Result<Answer, Failure> {
        let gets = self.gets.clone();
        let adding = tokio::spawn(async move {
            if tell {
                gets.send("began").await.ok();
            }
            let added = add(exchange).await;
            if tell {
                gets.send(if added.is_ok() { "added" } else { "cut" }).await.ok();
            }
            added
        });
        adding.await.unwrap()
    }
}

fn got_rows() -> Vec<GotRow> {
    let row = |failure| GotRow {
        hash: "ab".repeat(32),
        size: Some(u64::MAX),
        found: "lan".to_owned(),
        tier: TierBytes { lan: 7, ..TierBytes::default() },
        seconds: 0.25,
        failure,
    };
    vec![row(None), row(Some(not_found()))]
}

async fn add(mut exchange: Exchange) -> Result<Answer, Failure> {
    let mut size = 0;
    loop {
        match exchange.input.recv().await {
            Some(Ok(Input::Bytes(piece))) => size += piece.len() as u64,
            Some(Ok(Input::End)) => break,
            Some(Err(error)) => return Err(Failure::new(Trouble::File, error.to_string())),
            None => return Err(Failure::new(Trouble::Interrupted, "cut")),
        }
    }
    Ok(Answer::Added { hash: "ab".repeat(32), size, existed: false })
}

async fn cat(exchange: Exchange) -> Result<Answer, Failure> {
    exchange.events.send(Event::Progress(progress())).await.unwrap();
    exchange.events.send(Event::Bytes(pattern())).await.unwrap();
    Ok(Answer::Got(Box::default()))
}

fn progress() -> Progress {
    Progress { phase: "lan".to_owned(), done: 1, total: Some(2), peers: 3, files: None }
}

fn pattern() -> Bytes {
    (0..=250).cycle().take(BYTES_LEN).collect()
}

fn rows() -> Vec<BlobRow> {
    let row = |index: usize| BlobRow {
        hash: format!("{index:064x}"),
        size: index as u64,
        pinned: index.is_multiple_of(2),
        origin: "added".to_owned(),
        accessed: 0,
    };
    (0..ROWS).map(row).collect()
}

fn not_found() -> Failure {
    Failure::new(Trouble::NotFound, "blob 3f9a1c20be was not found")
        .cause("local: absent")
        .cause("edge: 404")
}

/// A running fake node and the client's side of it.
struct Rig {
    home: TempDir,
    gets: mpsc::Receiver<&'static str>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Rig {
    async fn start() -> Self {
        let home = TempDir::new().unwrap();
        let (gets, gets_seen) = mpsc::channel(8);
        let (stop, stopped) = oneshot::channel::<()>();
        let listener = Listener::bind(&socket_of(&home)).await.unwrap();
        let served = tokio::spawn(serve(listener, Arc::new(FakeNode { gets }), async {
            stopped.await.ok();
        }));
        Self { home, gets: gets_seen, stop, served }
    }

    async fn call(&self, request: Request) -> Result<Answer, Failure> {
        self.call_with(request, Vec::new()).await.0
    }

    /// Calls with all of `input`, and returns the events too.
    async fn call_with(
        &self,
        request: Request,
        input: Vec<io::Result<Input>>,
    ) -> (Result<Answer, Failure>, Vec<Event>) {
        let client = Client::connect(&socket_of(&self.home)).await.unwrap().unwrap();
        let (events, mut events_taken) = mpsc::channel(64);
        let (give, take) = mpsc::channel(1);
        let exchange = Exchange { events, input: take };
        let give_all = async move {
            for piece in input {
                if give.send(piece).await.is_err() {
                    break;
                }
            }
        };
        let (result, ()) = tokio::join!(client.call(request, exchange), give_all);
        let mut seen = Vec::new();
        while let Some(event) = events_taken.recv().await {
            seen.push(event);
        }
        (result, seen)
    }

    /// Opens a connection that is past the greeting, to write what no client would.
    async fn raw(&self) -> BufReader<UnixStream> {
        let stream = UnixStream::connect(socket_of(&self.home)).await.unwrap();
        let mut stream = BufReader::new(stream);
        stream.write_all(b"{\"blobmesh_control\":1,\"program\":\"test\"}\n").await.unwrap();
        let mut hello = String::new();
        stream.read_line(&mut hello).await.unwrap();
        assert!(hello.starts_with("{\"blobmesh_control\":1,"), "{hello}");
        stream
    }
}

fn socket_of(home: &TempDir) -> std::path::PathBuf {
    home.path().join("control.sock")
}

fn get() -> Request {
    let hash = "ab".repeat(32);
    Request::Get { hash, output: None, force: false, timeout_ms: None, base: None, no_store: false }
}

fn add_input() -> Request {
    Request::Add { path: None, pin: false }
}

#[tokio::test]
async fn failure_arrives_with_its_kind_message_and_causes() {
    let rig = Rig::start().await;
    let result = rig.call(Request::Push { hashes: Vec::new(), only: false, no_packs: false }).await;
    assert_eq!(result, Err(not_found()));
}

#[tokio::test]
async fn progress_and_bytes_longer_than_a_frame_arrive_whole_and_in_order() {
    let rig = Rig::start().await;
    let request = Request::Cat { hash: "ab".repeat(32), timeout_ms: None };
    let (result, events) = rig.call_with(request, Vec::new()).await;
    assert_eq!(result, Ok(Answer::Got(Box::default())));
    let mut bytes = Vec::new();
    for (index, event) in events.into_iter().enumerate() {
        match event {
            Event::Progress(told) => assert_eq!((index, told), (0, progress())),
            Event::Bytes(part) => bytes.extend_from_slice(&part),
            Event::Got(rows) => panic!("nobody asked for many: {rows:?}"),
        }
    }
    assert!(bytes == pattern());
}

#[tokio::test]
async fn rows_of_many_arrive_as_they_are() {
    let rig = Rig::start().await;
    let request = Request::GetMany { hashes: Vec::new(), timeout_ms: None };
    let (result, events) = rig.call_with(request, Vec::new()).await;
    assert_eq!(result, Ok(Answer::Done));
    assert!(matches!(&events[..], [Event::Got(rows)] if *rows == got_rows()), "{events:?}");
}

#[tokio::test]
async fn answer_longer_than_a_frame_arrives_whole() {
    let rig = Rig::start().await;
    assert!(rig.call(Request::List).await == Ok(Answer::List { blobs: rows() }));
}

#[tokio::test]
async fn input_longer_than_a_frame_is_counted_whole() {
    let rig = Rig::start().await;
    let pieces = [Bytes::from_static(b"abc"), pattern(), Bytes::new()];
    let pieces = pieces.into_iter().map(Input::Bytes).chain([Input::End]).map(Ok).collect();
    let (result, _) = rig.call_with(add_input(), pieces).await;
    let Ok(Answer::Added { size, .. }) = result else { panic!("{result:?}") };
    assert_eq!(size, 3 + BYTES_LEN as u64);
}

#[tokio::test]
async fn input_that_fails_is_a_failure_and_not_a_shorter_blob() {
    let rig = Rig::start().await;
    let piece = Ok(Input::Bytes(Bytes::from_static(b"abc")));
    let pieces = vec![piece, Err(io::Error::other("the disk is gone"))];
    let (result, _) = rig.call_with(add_input(), pieces).await;
    assert_eq!(result, Err(Failure::new(Trouble::File, "the disk is gone")));
}

#[tokio::test]
async fn input_that_ends_without_its_end_is_a_failure_and_not_a_shorter_blob() {
    let rig = Rig::start().await;
    let pieces = vec![Ok(Input::Bytes(Bytes::from_static(b"abc")))];
    let (result, _) = rig.call_with(add_input(), pieces).await;
    assert_eq!(result, Err(Failure::new(Trouble::File, "it was cut")));
}

#[tokio::test]
async fn client_that_hangs_up_cuts_its_input_and_does_not_end_it() {
    let mut rig = Rig::start().await;
    let request = serde_json::to_vec(&Request::Add { path: None, pin: true }).unwrap();
    let whole = [&[1, 3, 0, 0, 0][..], b"abc"].concat();
    let half = [&whole, &[1, 9, 0, 0, 0][..], b"ab"].concat();
    for (frames, expected) in
        [(&whole, "cut"), (&half, "cut"), (&[2, 0, 0, 0, 0].to_vec(), "added")]
    {
        let mut stream = rig.raw().await;
        stream.write_all(&[&request[..], b"\n"].concat()).await.unwrap();
        assert_eq!(rig.gets.recv().await, Some("began"));
        stream.write_all(frames).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(rig.gets.recv().await, Some(expected), "{frames:?}");
    }
}

#[tokio::test]
async fn answer_comes_although_the_node_takes_none_of_a_large_input() {
    let rig = Rig::start().await;
    let pieces = (0..8).map(|_| Ok(Input::Bytes(pattern()))).collect();
    let (result, _) = rig
        .call_with(Request::Push { hashes: Vec::new(), only: false, no_packs: false }, pieces)
        .await;
    assert_eq!(result, Err(not_found()));
}

#[tokio::test]
async fn client_that_hangs_up_cancels_its_request() {
    let mut rig = Rig::start().await;
    let client = Client::connect(&socket_of(&rig.home)).await.unwrap().unwrap();
    let (events, _events) = mpsc::channel(1);
    let (_input, input) = mpsc::channel(1);
    let call = tokio::spawn(client.call(get(), Exchange { events, input }));
    assert_eq!(rig.gets.recv().await, Some("began"));
    call.abort();
    assert_eq!(rig.gets.recv().await, Some("cancelled"));
}

#[tokio::test]
async fn oversize_frame_ends_its_connection_and_cancels_the_request() {
    let mut rig = Rig::start().await;
    let mut stream = rig.raw().await;
    stream.write_all(&serde_json::to_vec(&get()).unwrap()).await.unwrap();
    stream.write_all(b"\n").await.unwrap();
    assert_eq!(rig.gets.recv().await, Some("began"));
    let over = (1_u32 << 20) + 1;
    stream.write_all(&[&[1], &over.to_le_bytes()[..]].concat()).await.unwrap();
    assert_eq!(rig.gets.recv().await, Some("cancelled"));
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(rig.call(Request::Status).await, Ok(Answer::Done), "others are served");
}

#[tokio::test]
async fn request_that_is_not_understood_is_a_usage_failure() {
    let rig = Rig::start().await;
    for line in ["\n", "{}\n", "{\"op\":\"format_disk\"}\n", "[1,2]\n"] {
        let mut stream = rig.raw().await;
        stream.write_all(line.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let failure: Failure = serde_json::from_slice(&answer[5..]).unwrap();
        assert_eq!((answer[0], failure.kind), (20, Trouble::Usage), "{line}");
    }
}

#[tokio::test]
async fn node_of_another_version_is_named_and_not_asked() {
    let home = TempDir::new().unwrap();
    let listener = tokio::net::UnixListener::bind(socket_of(&home)).unwrap();
    let node = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"{\"blobmesh_control\":2,\"program\":\"9.9.9\"}\n").await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        said
    });
    let error = Client::connect(&socket_of(&home)).await.unwrap_err();
    assert!(matches!(&error, ControlError::Version { theirs: 2, .. }), "{error:?}");
    assert_eq!(error.trouble(), Trouble::FormatNewer);
    assert!(error.to_string().contains("9.9.9"), "{error}");
    assert_eq!(node.await.unwrap().lines().count(), 1, "only a hello was sent");
}

#[tokio::test]
async fn client_of_another_version_is_greeted_and_left() {
    let rig = Rig::start().await;
    let mut stream = UnixStream::connect(socket_of(&rig.home)).await.unwrap();
    stream.write_all(b"{\"blobmesh_control\":2,\"program\":\"9.9.9\"}\n").await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[tokio::test]
async fn something_that_greets_otherwise_is_no_node() {
    let home = TempDir::new().unwrap();
    let listener = tokio::net::UnixListener::bind(socket_of(&home)).unwrap();
    let other = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 smtp ready\n").await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.ok();
    });
    let error = Client::connect(&socket_of(&home)).await.unwrap_err();
    assert!(matches!(error, ControlError::Greeting { .. }), "{error:?}");
    other.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn node_that_does_not_greet_is_one_that_cannot_be_reached() {
    let home = TempDir::new().unwrap();
    let _listener = tokio::net::UnixListener::bind(socket_of(&home)).unwrap();
    let error = Client::connect(&socket_of(&home)).await.unwrap_err();
    assert_eq!(error.trouble(), Trouble::Unreachable, "{error:?}");
}

#[tokio::test]
async fn handler_that_panics_fails_its_own_request_only() {
    let rig = Rig::start().await;
    let failure = rig.call(Request::Gc).await.unwrap_err();
    assert_eq!(failure.kind, Trouble::NoNode);
    assert_eq!(rig.call(Request::Status).await, Ok(Answer::Done));
}

#[tokio::test]
async fn stopping_cancels_what_runs_and_removes_the_socket() {
    let mut rig = Rig::start().await;
    let client = Client::connect(&socket_of(&rig.home)).await.unwrap().unwrap();
    let (events, _events) = mpsc::channel(1);
    let (_input, input) = mpsc::channel(1);
    let call = tokio::spawn(client.call(get(), Exchange { events, input }));
    assert_eq!(rig.gets.recv().await, Some("began"));
    rig.stop.send(()).unwrap();
    rig.served.await.unwrap();
    assert_eq!(call.await.unwrap().unwrap_err().kind, Trouble::NoNode);
    assert!(!socket_of(&rig.home).exists());
}

#[tokio::test]
async fn socket_is_for_its_owner_only_and_nothing_is_left_beside_it() {
    let rig = Rig::start().await;
    let metadata = std::fs::symlink_metadata(socket_of(&rig.home)).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(rig.home.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn socket_nobody_listens_at_is_replaced() {
    let home = TempDir::new().unwrap();
    let path = socket_of(&home);
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    assert!(Client::connect(&path).await.unwrap().is_none());
    let _listener = Listener::bind(&path).await.unwrap();
    UnixStream::connect(&path).await.unwrap();
}

#[tokio::test]
async fn socket_of_a_live_node_is_refused_and_left_alone() {
    let rig = Rig::start().await;
    let error = Listener::bind(&socket_of(&rig.home)).await.unwrap_err();
    assert!(matches!(error, ControlError::Live { .. }), "{error:?}");
    assert_eq!(rig.call(Request::Status).await, Ok(Answer::Done));
}

#[tokio::test]
async fn file_with_the_name_of_the_socket_is_not_overwritten() {
    let home = TempDir::new().unwrap();
    std::fs::write(socket_of(&home), "precious").unwrap();
    let error = Listener::bind(&socket_of(&home)).await.unwrap_err();
    assert!(matches!(error, ControlError::NotASocket { .. }), "{error:?}");
    assert_eq!(std::fs::read_to_string(socket_of(&home)).unwrap(), "precious");
}

#[tokio::test]
async fn successors_socket_is_not_removed_by_its_predecessor() {
    let home = TempDir::new().unwrap();
    let path = socket_of(&home);
    let first = Listener::bind(&path).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let _second = Listener::bind(&path).await.unwrap();
    drop(first);
    UnixStream::connect(&path).await.unwrap();
}

#[tokio::test]
async fn nobody_is_found_where_there_is_no_socket_or_no_home() {
    let home = TempDir::new().unwrap();
    assert!(Client::connect(&socket_of(&home)).await.unwrap().is_none());
    assert!(Client::connect(&home.path().join("none/control.sock")).await.unwrap().is_none());
    let error = Listener::bind(Path::new("/nonexistent/control.sock")).await.unwrap_err();
    assert!(matches!(error, ControlError::Bind { .. }), "{error:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn home_with_a_path_longer_than_the_kernel_takes_works() {
    let home = TempDir::new().unwrap();
    let deep = home.path().join("d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    let path = deep.join("control.sock");
    let _listener = Listener::bind(&path).await.unwrap();
    let error = Listener::bind(&path).await.unwrap_err();
    assert!(matches!(error, ControlError::Greeting { .. } | ControlError::Live { .. }), "{error}");
}
