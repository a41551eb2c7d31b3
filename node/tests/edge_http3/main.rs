//! HTTP/3, against Caddy: the same blobs and the same failures as over TCP, and TCP where UDP does not get through.
//!
//! `cargo test -p blobmesh-node --features http3 --test edge_http3`
#![allow(clippy::cast_possible_truncation, reason = "small values of the tests' own making")]
#![allow(clippy::unwrap_in_result, reason = "a test ends where its world does not come about")]

mod caddy;
#[path = "../edge_support/mod.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod edge_support;
mod hostile;

use std::time::Duration;

use blobmesh_node::config::EdgeConfig;
use blobmesh_node::edge::{Breach, Edge, EdgeError, EdgeHttp, EdgeOptions, Finding, Verdict};
use blobmesh_protocol::Hash;
use caddy::{Caddy, Wire};
use edge_support::blobs::{Blob, collect};
use edge_support::place::{KEY_ID, Place, SECRET, quick, s3_at};
use edge_support::tls::certificate_file;
use futures::future::join_all;

const MIB: usize = 1 << 20;

fn options() -> EdgeOptions {
    EdgeOptions { http: EdgeHttp::Http3, ca_file: Some(certificate_file()), ..quick() }
}

fn edge_at(url: &str, options: EdgeOptions) -> Edge {
    Edge::new(&EdgeConfig::Public { url: url.to_owned() }, options).expect("an edge")
}

async fn whole(edge: &Edge, hash: &Hash) -> Vec<u8> {
    collect(edge.read(hash, None).await.expect("a body")).await.expect("bytes")
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_of_every_length_come_over_one_connection() {
    let Some(caddy) = Caddy::start(None) else { return };
    let wire = Wire::to(caddy.address, false).await;
    let edge = edge_at(&wire.url, options());
    for len in [0, 1, 4096] {
        let blob = Blob::of_len(len);
        blob.seed(&caddy.root).await;
        assert_eq!(edge.size(&blob.hash()).await.expect("a size"), blob.size());
        assert_eq!(whole(&edge, &blob.hash()).await, blob.bytes, "{len} bytes");
    }
    let blob = Blob::of_len(64 * MIB);
    blob.seed(&caddy.root).await;
    let list = edge.group_list(&blob.hash(), u64::MAX).await.expect("asked").expect("a list");
    assert_eq!(list.size(), blob.size());
    let (edge, blob) = (&edge, &blob);
    let parts = join_all((0..8).map(|part| async move {
        let (from, to) = (part * 8 * MIB, (part + 1) * 8 * MIB);
        let body = edge.read(&blob.hash(), Some(from as u64..to as u64)).await.expect("a body");
        assert_eq!(body.range, from as u64..to as u64);
        collect(body).await.expect("bytes") == blob.bytes[from..to]
    }));
    assert_eq!(parts.await, [true; 8]);
    let beyond = edge.read(&blob.hash(), Some(blob.size()..blob.size() + 1)).await;
    assert!(matches!(beyond, Err(EdgeError::Range { .. })), "{beyond:?}");
    assert_eq!((wire.tcp_connections(), wire.udp_senders()), (0, 1));
}

#[tokio::test]
async fn odd_answers_are_told_as_over_tcp() {
    let Some(caddy) = Caddy::start(None) else { return };
    let blob = Blob::of_len(70_000);
    blob.seed(&caddy.root).await;
    let missing = Hash::of(b"nobody has this");
    for http in [EdgeHttp::Http3, EdgeHttp::Http2] {
        let wire = Wire::to(caddy.address, false).await;
        let asked = async |base: &str, hash: &Hash| {
            let edge = edge_at(&format!("{}{base}", wire.url), EdgeOptions { http, ..options() });
            edge.read(hash, None).await.map(drop)
        };
        let hash = &blob.hash();
        let table = [
            ("/page", |error| matches!(error, EdgeError::Protocol { breach: Breach::WebPage, .. })),
            ("/loop", |error| {
                matches!(error, EdgeError::Protocol { breach: Breach::RedirectLoop { .. }, .. })
            }),
            ("/elsewhere", |error| {
                matches!(error, EdgeError::Protocol { breach: Breach::RedirectElsewhere, .. })
            }),
            ("/private", |error| matches!(error, EdgeError::NotPublic { status: 403, .. })),
            ("/busy", |error| matches!(error, EdgeError::Busy { status: 503, .. })),
        ] as [(&str, fn(&EdgeError) -> bool); 5];
        for (base, is_expected) in table {
            let error = asked(base, hash).await.expect_err(base);
            assert!(is_expected(&error), "{http:?} {base}: {error:?}");
        }
        asked("/moved", hash).await.expect("a redirect within the origin is followed");
        let error = asked("", &missing).await.expect_err("missing");
        assert!(matches!(error, EdgeError::NotFound { .. }), "{error:?}");
        assert_eq!(wire.tcp_connections() == 0, http == EdgeHttp::Http3);
    }
}

#[tokio::test]
async fn bucket_is_read_over_http_3_and_written_over_http_1_1() {
    let place = Place::s3().await;
    let Some(caddy) = Caddy::start(Some(&place.front().url())) else { return };
    let wire = Wire::to(caddy.address, false).await;
    let config = s3_at(wire.url.clone(), Some((KEY_ID, SECRET)));
    let edge = Edge::new(&config, options()).expect("an edge");
    let blob = Blob::of_len(200_000);
    blob.push(&edge).await.expect("pushed");
    let written = wire.tcp_connections();
    assert!(written > 0);
    // Another one, so that it has no connection over TCP.
    let reader = Edge::new(&config, options()).expect("an edge");
    assert_eq!(whole(&reader, &blob.hash()).await, blob.bytes);
    assert_eq!(wire.tcp_connections(), written);
    let stranger = Edge::new(&s3_at(wire.url.clone(), Some((KEY_ID, "wrong"))), options());
    let error = stranger.expect("an edge").read(&blob.hash(), None).await.expect_err("refused");
    assert!(matches!(error, EdgeError::BadCredentials { .. }), "{error:?}");
}

#[tokio::test]
async fn edge_that_udp_does_not_reach_is_read_over_tcp_and_not_tried_again() {
    let Some(caddy) = Caddy::start(None) else { return };
    let blob = Blob::of_len(70_000);
    blob.seed(&caddy.root).await;
    let wire = Wire::to(caddy.address, true).await;
    let edge = edge_at(&wire.url, options());
    assert_eq!(whole(&edge, &blob.hash()).await, blob.bytes);
    assert_eq!(wire.tcp_connections(), 1, "all over one connection of HTTP/2");
    let tried = wire.datagrams();
    assert!(tried > 0);
    assert_eq!(whole(&edge, &blob.hash()).await, blob.bytes);
    assert_eq!((wire.tcp_connections(), wire.datagrams()), (1, tried));
}

#[tokio::test]
async fn connection_that_is_cut_gives_what_came_and_the_rest_comes_over_tcp() {
    let Some(caddy) = Caddy::start(None) else { return };
    let blob = Blob::of_len(40 * MIB);
    blob.seed(&caddy.root).await;
    let wire = Wire::to(caddy.address, false).await;
    let life_interval = Duration::from_millis(100);
    let edge = edge_at(&wire.url, EdgeOptions { life_interval, ..options() });
    let mut body = edge.read(&blob.hash(), None).await.expect("a body");
    let mut got = Vec::new();
    let cut = loop {
        match body.chunk().await {
            Ok(piece) => got.extend_from_slice(&piece.expect("not all fits into the window")),
            Err(cut) => break cut,
        }
        wire.cut_udp();
    };
    assert!(matches!(cut, EdgeError::Cut { .. }), "{cut:?}");
    assert!(wire.tcp_connections() == 0 && !got.is_empty());
    let rest = Some(got.len() as u64..blob.size());
    let rest = edge.read(&blob.hash(), rest).await.expect("a body");
    got.extend(collect(rest).await.expect("bytes"));
    assert!(got == blob.bytes);
    assert_eq!(wire.tcp_connections(), 1);
}

#[tokio::test]
async fn certificates_are_checked_and_tls_is_needed() {
    let Some(caddy) = Caddy::start(None) else { return };
    let wire = Wire::to(caddy.address, false).await;
    let edge = edge_at(&wire.url, EdgeOptions { ca_file: None, ..options() });
    let error = edge.size(&Hash::of(b"any")).await.expect_err("nobody vouches for it");
    assert!(error.to_string().contains("no TLS session came about"), "{error:?}");
    let plain = EdgeConfig::Public { url: "http://127.0.0.1:9".to_owned() };
    let error = Edge::new(&plain, options()).expect_err("no TLS");
    assert!(matches!(error, EdgeError::Config { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_compares_what_each_http_brings() {
    let Some(caddy) = Caddy::start(None) else { return };
    let blob = Blob::of_len(4 * MIB);
    blob.seed(&caddy.root).await;
    let found = |findings: &[Finding], check: &str| {
        let found = findings.iter().find(|finding| finding.check == check);
        found.unwrap_or_else(|| panic!("{check} in {findings:?}")).clone()
    };
    let wire = Wire::to(caddy.address, false).await;
    let findings = edge_at(&wire.url, options()).measure(Some(blob.hash())).await;
    for (check, connections) in [("http/1.1", 4), ("http/2", 1), ("http/3", 1)] {
        let figures = found(&findings, check).figures.expect("measured");
        assert_eq!((figures.ranges, figures.connections), (4, connections), "{check}");
        assert!(figures.bytes_per_s > Some(0) && figures.cold_us > 0, "{figures:?}");
    }
    assert!(found(&findings, "distance").text.contains("HTTP/2.0"), "{findings:?}");
    assert!(found(&findings, "rate").text.contains("edge.http = "), "{findings:?}");

    let wire = Wire::to(caddy.address, true).await;
    let findings = edge_at(&wire.url, options()).measure(Some(blob.hash())).await;
    let http3 = found(&findings, "http/3");
    assert!(http3.verdict == Verdict::Warn && http3.text.contains("UDP"), "{http3:?}");
    let wanted = EdgeOptions { http: EdgeHttp::Auto, ..options() };
    let findings = edge_at(&wire.url, wanted).measure(None).await;
    assert_eq!(found(&findings, "http/3").verdict, Verdict::Ok, "nobody asked for it");
}
