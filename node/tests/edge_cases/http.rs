//! Everything an HTTP server, or what lies before it, does wrong; for a bucket and a public URL alike.

use std::time::Duration;

use blobmesh_node::config::EdgeConfig;
use blobmesh_node::control::api::Trouble;
use blobmesh_node::edge::{Breach, Edge, EdgeError, EdgeOptions, Reach};
use hyper::Method;
use hyper::header::RANGE;
use tokio::net::TcpListener;

use crate::edge_support::blobs::{Blob, collect};
use crate::edge_support::fault::Fault;
use crate::edge_support::front::Raw;
use crate::edge_support::place::{Kind, Place, impatient, quick};

conformance!(s3:
    edge_that_never_answers_is_given_up, dripping_body_is_given_up, body_cut_in_the_middle_is_told,
    failure_of_a_moment_is_temporary_and_passes, pause_asked_for_is_told,
    wrong_partial_answers_are_refused, whole_blob_is_taken_where_a_range_was_asked,
    web_page_is_no_blob, encoded_body_is_refused, redirect_elsewhere_is_not_followed,
    head_that_is_not_known_is_asked_as_a_read,
);
conformance!(s3_h2:
    edge_that_never_answers_is_given_up, dripping_body_is_given_up, body_cut_in_the_middle_is_told,
    failure_of_a_moment_is_temporary_and_passes, pause_asked_for_is_told,
    wrong_partial_answers_are_refused, whole_blob_is_taken_where_a_range_was_asked,
    web_page_is_no_blob, encoded_body_is_refused, redirect_elsewhere_is_not_followed,
    head_that_is_not_known_is_asked_as_a_read,
);
conformance!(public:
    edge_that_never_answers_is_given_up, dripping_body_is_given_up, body_cut_in_the_middle_is_told,
    failure_of_a_moment_is_temporary_and_passes, pause_asked_for_is_told,
    wrong_partial_answers_are_refused, whole_blob_is_taken_where_a_range_was_asked,
    web_page_is_no_blob, encoded_body_is_refused, redirect_elsewhere_is_not_followed,
    head_that_is_not_known_is_asked_as_a_read,
    redirect_loop_ends, redirect_within_the_origin_is_followed,
);
conformance!(public_h2:
    edge_that_never_answers_is_given_up, dripping_body_is_given_up, body_cut_in_the_middle_is_told,
    failure_of_a_moment_is_temporary_and_passes, pause_asked_for_is_told,
    wrong_partial_answers_are_refused, whole_blob_is_taken_where_a_range_was_asked,
    web_page_is_no_blob, encoded_body_is_refused, redirect_elsewhere_is_not_followed,
    head_that_is_not_known_is_asked_as_a_read,
    redirect_loop_ends, redirect_within_the_origin_is_followed,
);

async fn edge_that_never_answers_is_given_up(place: Place) {
    let blob = Blob::of_len(1000);
    blob.seed(&place.root).await;
    place.front().always(Fault::Silent);
    let edge = place.edge_with(impatient());
    let read = edge.read(&blob.hash(), None).await.map(|_| ());
    let size = edge.size(&blob.hash()).await.map(|_| ());
    let list = edge.group_list(&blob.hash(), 1000).await.map(|_| ());
    for ended in [read, size, list] {
        let error = ended.expect_err("silence");
        let EdgeError::Stalled { waited, got, .. } = error else { panic!("{error:?}") };
        assert_eq!((waited, got), (Duration::from_millis(300), 0));
        assert!(error.is_temporary());
        assert_eq!(error.trouble(), Trouble::Unreachable);
    }
}

async fn dripping_body_is_given_up(place: Place) {
    let blob = Blob::of_len(100_000);
    blob.seed(&place.root).await;
    place.front().always(Fault::Drip { bytes: 10, every: Duration::from_millis(5) });
    let options = EdgeOptions { stall_window: Duration::from_millis(80), ..quick() };
    let edge = place.edge_with(options);
    let body = edge.read(&blob.hash(), None).await.expect("a head");
    let error = collect(body).await.expect_err("too slow");
    let EdgeError::Stalled { got, .. } = error else { panic!("{error:?}") };
    assert!(0 < got && got < 10_000, "{got} bytes at a rate that asks for {}", 64 << 10);
}

async fn body_cut_in_the_middle_is_told(place: Place) {
    let blob = Blob::of_len(200_000);
    blob.seed(&place.root).await;
    place.front().always(Fault::CutAfter(70_000));
    let mut body = place.edge.read(&blob.hash(), None).await.expect("a head");
    let mut bytes = Vec::new();
    let error = loop {
        match body.chunk().await {
            Ok(Some(piece)) => bytes.extend_from_slice(&piece),
            Ok(None) => panic!("{} bytes pass as the whole", bytes.len()),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, EdgeError::Cut { expected: 200_000, .. }), "{error:?}");
    assert!(bytes == blob.bytes[..bytes.len()], "what came before the cut is good");
    assert!(error.is_temporary());
}

async fn failure_of_a_moment_is_temporary_and_passes(place: Place) {
    let blob = Blob::of_len(1000);
    blob.seed(&place.root).await;
    (0..2)
        .for_each(|_| place.front().inject(Method::GET, Fault::s3(500, "InternalError", "again")));
    let body = place.edge.read(&blob.hash(), None).await.expect("a body at the third attempt");
    assert!(collect(body).await.expect("read") == blob.bytes);
    assert_eq!(place.front().count(&Method::GET), 3);

    (0..3)
        .for_each(|_| place.front().inject(Method::GET, Fault::s3(500, "InternalError", "again")));
    let error = place.edge.read(&blob.hash(), None).await.expect_err("500");
    assert!(matches!(error, EdgeError::Busy { status: 500, retry_after: None, .. }), "{error:?}");
    assert!(error.is_temporary());
    assert_eq!(place.front().count(&Method::GET), 6, "there is no fourth");
}

async fn pause_asked_for_is_told(place: Place) {
    let blob = Blob::of_len(1000);
    blob.seed(&place.root).await;
    for (status, pause, told) in [(429, "7", 7), (503, "3", 3), (429, "86400", 30)] {
        place.front().inject(Method::GET, Fault::status(status, &[("retry-after", pause)]));
        let edge = place.edge_with(quick());
        let before = place.front().count(&Method::GET);
        let error = edge.read(&blob.hash(), None).await.expect_err("busy");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(told)), "{error:?}");
        // Until then nothing is asked, of this blob or another.
        let error = edge.size(&Blob::of_len(9).hash()).await.expect_err("busy");
        let left = error.retry_after().expect("a pause");
        assert!(left <= Duration::from_secs(told), "{error:?}");
        assert_eq!(place.front().count(&Method::GET), before + 1);
        assert_eq!(place.front().count(&Method::HEAD), 0);
    }
}

async fn wrong_partial_answers_are_refused(place: Place) {
    let blob = Blob::of_len(1000);
    blob.seed(&place.root).await;
    let wrong =
        ["bytes 0-9/1000", "bytes 10-29/1000", "bytes 10-19/*", "bytes 10-19/15", "nonsense"];
    for range in wrong {
        place.front().inject(Method::GET, Fault::Header("content-range", range.to_owned()));
        let error = place.edge.read(&blob.hash(), Some(10..20)).await.expect_err(range);
        let EdgeError::Protocol { breach: Breach::WrongRange { found, .. }, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(found, range);
        assert_eq!(error.trouble(), Trouble::Unreachable, "which is not the same as not found");
    }
}

async fn whole_blob_is_taken_where_a_range_was_asked(place: Place) {
    let blob = Blob::of_len(1000);
    blob.seed(&place.root).await;
    place.front().inject(Method::GET, Fault::IgnoreRange);
    let body = place.edge.read(&blob.hash(), Some(10..20)).await.expect("a body");
    assert_eq!((body.size, body.range.clone()), (1000, 0..1000));
    assert!(collect(body).await.expect("read") == blob.bytes);
}

async fn web_page_is_no_blob(place: Place) {
    let blob = Blob::of_len(1000);
    blob.seed(&place.root).await;
    place.front().always(Fault::page(200));
    let read = place.edge.read(&blob.hash(), None).await.map(|_| ());
    let size = place.edge.size(&blob.hash()).await.map(|_| ());
    for ended in [read, size] {
        let Err(EdgeError::Protocol { breach: Breach::WebPage, .. }) = ended else {
            panic!("{ended:?}");
        };
    }
    let list = place.edge.group_list(&blob.hash(), 1000).await.expect("answered");
    assert!(list.is_none(), "a page is no group list");
}

async fn encoded_body_is_refused(place: Place) {
    let blob = Blob::of_len(1000);
    blob.seed(&place.root).await;
    place.front().always(Fault::Header("content-encoding", "gzip".to_owned()));
    let read = place.edge.read(&blob.hash(), None).await;
    let Err(EdgeError::Protocol { breach: Breach::Encoded { .. }, .. }) = read else {
        panic!("{read:?}");
    };
}

async fn redirect_elsewhere_is_not_followed(place: Place) {
    let elsewhere = Place::public().await;
    let blob = Blob::of_len(1000);
    blob.seed(&elsewhere.root).await;
    let target = format!("{}/blobs/{}", elsewhere.front().url(), blob.hash().sharded_path());
    place.front().always(Fault::status(302, &[("location", &target)]));
    let error = place.edge.read(&blob.hash(), None).await.expect_err("a redirect");
    match place.kind {
        Kind::Public => {
            let EdgeError::Protocol { breach: Breach::RedirectElsewhere, .. } = error else {
                panic!("{error:?}");
            };
        }
        Kind::S3 | Kind::Directory => {
            assert!(matches!(error, EdgeError::Refused { status: 302, .. }), "{error:?}");
        }
    }
    assert!(elsewhere.front().seen().is_empty(), "the other origin was asked");
}

async fn redirect_loop_ends(place: Place) {
    let blob = Blob::of_len(1000);
    let itself = format!("{}/blobs/{}", place.front().url(), blob.hash().sharded_path());
    place.front().always(Fault::status(302, &[("location", &itself)]));
    let error = place.edge.read(&blob.hash(), None).await.expect_err("a loop");
    let EdgeError::Protocol { breach: Breach::RedirectLoop { max: 3 }, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(place.front().seen().len(), 4, "the request and three redirects, once");
}

async fn redirect_within_the_origin_is_followed(place: Place) {
    let blob = Blob::of_len(1000);
    blob.seed(&place.root).await;
    let path = format!("/blobs/{}", blob.hash().sharded_path());
    place.front().inject(Method::GET, Fault::status(307, &[("location", &path)]));
    let body = place.edge.read(&blob.hash(), Some(10..20)).await.expect("a body");
    assert!(collect(body).await.expect("read") == blob.bytes[10..20]);
    let seen = place.front().seen();
    assert!(seen.iter().all(|parts| parts.headers.contains_key(RANGE)), "the range is kept");
}

async fn head_that_is_not_known_is_asked_as_a_read(place: Place) {
    for len in [0, 1, 1000] {
        let blob = Blob::of_len(len);
        blob.seed(&place.root).await;
        place.front().inject(Method::HEAD, Fault::status(405, &[]));
        assert_eq!(place.edge.size(&blob.hash()).await.expect("a size"), blob.size());
    }
}

#[tokio::test]
async fn length_that_lies_never_passes_as_a_whole_blob() {
    let too_long: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nfour";
    let none: &[u8] = b"HTTP/1.1 200 OK\r\n\r\nfour";
    let odd: &[u8] = b"HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 0-3/10\r\n\
                       content-length: 5\r\n\r\nfours";
    let more: &[u8] = b"HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 0-3/10\r\n\
                        transfer-encoding: chunked\r\n\r\n5\r\nfours\r\n0\r\n\r\n";
    let less: &[u8] = b"HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 0-3/10\r\n\
                        transfer-encoding: chunked\r\n\r\n3\r\nfou\r\n0\r\n\r\n";
    let hash = Blob::of_len(1).hash();
    for answer in [too_long, none, odd, more, less] {
        let server = Raw::start(answer).await;
        let config = EdgeConfig::Public { url: format!("http://{}", server.address) };
        let edge = Edge::new(&config, quick()).expect("an edge");
        let range = answer.starts_with(b"HTTP/1.1 206").then_some(0..4);
        let ended = match edge.read(&hash, range).await {
            Ok(body) => collect(body).await,
            Err(error) => Err(error),
        };
        let shown = String::from_utf8_lossy(answer);
        let Err(EdgeError::Cut { .. } | EdgeError::Protocol { .. }) = ended else {
            panic!("{shown}: {ended:?}");
        };
    }
}

#[tokio::test]
async fn host_is_found_by_its_name() {
    let place = Place::public().await;
    let blob = Blob::of_len(1000);
    blob.seed(&place.root).await;
    let url = place.front().url().replace("127.0.0.1", "localhost");
    let edge = Edge::new(&EdgeConfig::Public { url }, quick()).expect("an edge");
    assert_eq!(edge.size(&blob.hash()).await.expect("a size"), 1000);
}

#[tokio::test]
async fn nobody_listening_is_unreachable_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let config = EdgeConfig::Public { url: format!("http://{address}") };
    let edge = Edge::new(&config, EdgeOptions::default()).expect("an edge");
    let error = edge.size(&Blob::of_len(1).hash()).await.expect_err("nobody there");
    assert!(matches!(error, EdgeError::Unreachable { reach: Reach::Connect, .. }), "{error:?}");
    assert!(error.is_temporary());
    let causes = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(!causes.contains("http://"), "the cause repeats the URL: {causes}");
}

#[tokio::test]
async fn server_without_tls_is_a_tls_failure() {
    let server = Raw::start(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let config = EdgeConfig::Public { url: format!("https://{}", server.address) };
    let edge = Edge::new(&config, EdgeOptions::default()).expect("an edge");
    let error = edge.size(&Blob::of_len(1).hash()).await.expect_err("no TLS");
    assert!(matches!(error, EdgeError::Unreachable { reach: Reach::Tls, .. }), "{error:?}");
    assert!(!error.is_temporary());
}

#[tokio::test]
async fn plain_http_to_another_machine_needs_to_be_allowed() {
    let config = EdgeConfig::Public { url: "http://edge.example".to_owned() };
    let error = Edge::new(&config, EdgeOptions::default()).expect_err("refused");
    assert_eq!(error.trouble(), Trouble::Configuration);
    let options = EdgeOptions { plain_http: true, ..EdgeOptions::default() };
    assert!(Edge::new(&config, options).is_ok());
}
