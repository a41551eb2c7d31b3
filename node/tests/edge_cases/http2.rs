//! What is new where an edge offers HTTP/2: one connection for what is read at once, and what that can end in.

use std::sync::Arc;
use std::time::Duration;

use blobmesh_node::Node;
use blobmesh_node::config::{EdgeConfig, NodeConfig};
use blobmesh_node::control::api::Trouble;
use blobmesh_node::edge::{Edge, EdgeError, EdgeOptions, Reach};
use futures::future::join_all;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::edge_support::blobs::{Blob, GROUP, collect};
use crate::edge_support::place::{Place, quick};
use crate::edge_support::tls::{acceptor, certificate_file};

/// What a server of HTTP/2 says that wants no more of it: empty settings, and that the rules were broken.
const SETTINGS_AND_GOAWAY: [u8; 26] = [
    0, 0, 0, 4, 0, 0, 0, 0, 0, // settings, on stream 0
    0, 0, 8, 7, 0, 0, 0, 0, 0, // "go away", on stream 0:
    0, 0, 0, 0, 0, 0, 0, 1, // after stream 0, for a protocol error
];

/// Reads four ranges at once on an edge that was asked before; returns how many connections that took.
async fn connections_of_four_ranges(place: &Place) -> usize {
    let blob = Blob::of_len(400_000);
    blob.seed(&place.root).await;
    let hash = blob.hash();
    place.edge.size(&hash).await.expect("a size");
    let bodies = join_all((0..4).map(|part| {
        let range = part * 100_000..(part + 1) * 100_000;
        place.edge.read(&hash, Some(range))
    }));
    for (part, body) in bodies.await.into_iter().enumerate() {
        let bytes = collect(body.expect("a body")).await.expect("bytes");
        assert_eq!(bytes, blob.bytes[part * 100_000..][..100_000]);
    }
    place.front().connections()
}

#[tokio::test]
async fn ranges_read_at_once_share_a_connection_where_the_edge_can_do_that() {
    let place = Place::public_h2().await;
    assert_eq!(connections_of_four_ranges(&place).await, 1);
    assert!(place.front().seen().iter().all(|parts| parts.version == Version::HTTP_2));

    let place = Place::public_behind(&["http/1.1"]).await;
    assert_eq!(connections_of_four_ranges(&place).await, 4);
    let old = place.front().seen().iter().all(|parts| parts.version == Version::HTTP_11);
    assert!(old, "an edge that offers no more is spoken to in HTTP/1.1");
}

/// Has a node without neighbours get blobs of three ranges and a half; returns of how many it asked for all that the
/// first request was not for at once.
async fn asked_for_all_the_rest(place: &Place) -> usize {
    let home = tempfile::tempdir().expect("a directory");
    let config = NodeConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
        mdns: false,
        adverts: false,
        open: true,
        ..NodeConfig::new(home.path().join("home"))
    };
    let edge = Some(Arc::new(place.edge.clone()));
    let node = Node::start_with_edge(config, edge).await.expect("a node");
    let mut streams = 0;
    for len in 14_680_064..14_680_067 {
        let blob = Blob::of_len(len);
        blob.seed(&place.root).await;
        assert_eq!(node.read(blob.hash(), 16 << 20).await.expect("got"), blob.bytes);
        // The last group came beside the list.
        let rest = format!("bytes=8388608-{}", (len - 1) / GROUP * GROUP - 1);
        let seen = place.front().seen();
        let asked = |uri: &str| uri.ends_with(&blob.hash().sharded_path());
        let mut ranges = seen.iter().filter(|parts| asked(parts.uri.path()));
        streams += usize::from(ranges.any(|parts| parts.headers["range"] == rest));
    }
    streams
}

#[tokio::test(flavor = "multi_thread")]
async fn lone_node_asks_for_all_the_rest_at_once_where_ranges_would_be_connections() {
    assert_eq!(asked_for_all_the_rest(&Place::public_h2().await).await, 0);
    // Not where the connection is slow, as on a machine that is busy: of three, one is enough.
    let old = Place::public_behind(&["http/1.1"]).await;
    assert!(asked_for_all_the_rest(&old).await > 0, "the first answer tells");
    assert!(asked_for_all_the_rest(&Place::public().await).await > 0);
}

#[tokio::test]
async fn writes_go_by_http_1_1() {
    let place = Place::s3_h2().await;
    Blob::of_len(100_000).push(&place.edge).await.expect("pushed");
    let put = |version| {
        let seen = place.front().seen();
        seen.iter().filter(|parts| parts.method == "PUT" && parts.version == version).count()
    };
    assert_eq!((put(Version::HTTP_11), put(Version::HTTP_2)), (2, 0));
}

#[tokio::test]
async fn certificate_of_ones_own_is_taken_only_where_it_is_named() {
    let place = Place::public_h2().await;
    let edge = Edge::new(&place.config(), quick()).expect("an edge");
    let error = edge.size(&Blob::of_len(1).hash()).await.expect_err("nobody vouches for it");
    assert!(matches!(error, EdgeError::Unreachable { reach: Reach::Tls, .. }), "{error:?}");

    let home = tempfile::tempdir().expect("a directory");
    let empty = home.path().join("empty.pem");
    std::fs::write(&empty, "no certificate").expect("written");
    for path in [home.path().join("missing.pem"), empty] {
        let options = EdgeOptions { ca_file: Some(path.clone()), ..quick() };
        let error = Edge::new(&place.config(), options).expect_err("nothing to trust");
        assert_eq!(error.trouble(), Trouble::Configuration);
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        let text = format!("{error} {}", cause.unwrap_or_default());
        assert!(text.contains(&path.display().to_string()), "{text}");
    }
}

/// Stands between an edge and its server, and can hold back all that its first connection still carries.
struct Wire {
    url: String,
    freeze: tokio::sync::watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Wire {
    async fn to(url: &str) -> Self {
        let server = url.trim_start_matches("https://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        let (freeze, frozen) = tokio::sync::watch::channel(false);
        let task = tokio::spawn(async move {
            let mut carried = tokio::task::JoinSet::new();
            let mut first = Some(frozen);
            while let Ok((mut near, _)) = listener.accept().await {
                let mut far = TcpStream::connect(&server).await.expect("the server");
                let frozen = first.take();
                carried.spawn(async move {
                    let freezes = async {
                        match frozen {
                            Some(mut frozen) => drop(frozen.wait_for(|frozen| *frozen).await),
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        _ended = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        () = freezes => std::future::pending().await,
                    }
                });
            }
        });
        Self { url, freeze, task }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn connection_that_died_without_a_word_is_not_used_again() {
    let place = Place::public_h2().await;
    let blob = Blob::of_len(1000);
    blob.seed(&place.root).await;
    let wire = Wire::to(&place.front().url()).await;
    let config = EdgeConfig::Public { url: wire.url.clone() };
    let options = EdgeOptions {
        life_interval: Duration::from_millis(50),
        ca_file: Some(certificate_file()),
        ..quick()
    };
    let edge = Edge::new(&config, options).expect("an edge");
    edge.size(&blob.hash()).await.expect("a size");
    wire.freeze.send(true).expect("a connection");
    // Asked again within the deadline of the first answer, which nothing but the dead connection would use up.
    let body = edge.read(&blob.hash(), None).await.expect("a body");
    assert_eq!(collect(body).await.expect("bytes"), blob.bytes);
    assert_eq!(place.front().connections(), 2);
}

/// Answers with a few bytes, but breaks its first connection of HTTP/2, or each; returns its URL.
async fn breaking(protocols: &'static [&'static str], always: bool) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("https://{}", listener.local_addr().expect("an address"));
    let tls = acceptor(protocols);
    let task = tokio::spawn(async move {
        let mut breaks = true;
        while let Ok((socket, _)) = listener.accept().await {
            // One that finds no protocol in common ends here.
            let Ok(mut stream) = tls.accept(socket).await else { continue };
            if breaks && stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                let mut asked = [0; 1024];
                let _len = stream.read(&mut asked).await.expect("a preface");
                stream.write_all(&SETTINGS_AND_GOAWAY).await.expect("written");
                stream.shutdown().await.ok();
                breaks = always;
                continue;
            }
            let answer = service_fn(|_| async {
                Ok::<_, std::convert::Infallible>(Response::new(Full::<&[u8]>::from(&b"bytes"[..])))
            });
            let builder = Builder::new(TokioExecutor::new());
            let _ended = builder.serve_connection(TokioIo::new(stream), answer).await;
        }
    });
    (url, task)
}

#[tokio::test]
async fn edge_that_breaks_http_2_is_spoken_to_in_http_1_1_if_it_can_do_that() {
    for (protocols, always) in [(&["h2", "http/1.1"][..], true), (&["h2"][..], false)] {
        let (url, server) = breaking(protocols, always).await;
        let config = EdgeConfig::Public { url };
        let options = EdgeOptions { ca_file: Some(certificate_file()), ..quick() };
        let edge = Edge::new(&config, options).expect("an edge");
        let body = edge.read(&Blob::of_len(1).hash(), None).await.expect("a body");
        assert_eq!(collect(body).await.expect("bytes"), b"bytes"[..], "{protocols:?}");
        server.abort();
    }
}
