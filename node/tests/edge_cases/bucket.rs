//! What only a bucket has: credentials, signatures, uploads in parts.

use std::fmt::Write as _;
use std::time::Duration;

use blobmesh_node::config::{Credentials, EdgeConfig};
use blobmesh_node::control::api::Trouble;
use blobmesh_node::edge::{Edge, EdgeError, EdgeOptions, PolicyOptions};
use hyper::Method;
use hyper::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};

use crate::edge_support::blobs::{Blob, collect};
use crate::edge_support::fault::Fault;
use crate::edge_support::place::{KEY_ID, Place, SECRET, quick};

/// Ends every kind of work at an edge and returns the errors.
async fn all_errors(edge: &Edge, blob: &Blob) -> Vec<EdgeError> {
    vec![
        edge.size(&blob.hash()).await.expect_err("size"),
        edge.read(&blob.hash(), None).await.expect_err("read"),
        edge.read(&blob.hash(), Some(1..9)).await.expect_err("range"),
        edge.group_list(&blob.hash(), 1000).await.expect_err("list"),
        blob.push(edge).await.expect_err("push"),
    ]
}

/// Returns everything that could be shown of an error.
fn shown(error: &EdgeError) -> String {
    let mut text = format!("{error} {error:?}");
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        write!(text, " {inner} {inner:?}").expect("a string takes it");
        cause = inner.source();
    }
    text
}

#[tokio::test]
async fn wrong_credentials_are_told_apart_from_everything_else() {
    let place = Place::s3().await;
    let blob = Blob::of_len(1000);
    blob.seed(&place.root).await;
    let pairs =
        [(KEY_ID, "hunter3", "SignatureDoesNotMatch"), ("AKIDNOBODY", SECRET, "NotSignedUp")];
    for (id, secret, expected) in pairs {
        for error in all_errors(&place.edge_as(Some((id, secret))), &blob).await {
            let EdgeError::BadCredentials { status, code, .. } = &error else {
                panic!("{error:?}");
            };
            assert_eq!((*status, code.as_str()), (403, expected));
            assert_eq!(error.trouble(), Trouble::EdgeBadCredentials);
            assert!(!error.is_temporary(), "trying again would only repeat it");
        }
    }
}

#[tokio::test]
async fn private_bucket_without_credentials_is_not_public() {
    let place = Place::s3().await;
    let blob = Blob::of_len(1000);
    blob.seed(&place.root).await;
    let unsigned = place.edge_as(None);
    for error in all_errors(&unsigned, &blob).await {
        assert!(matches!(error, EdgeError::NotPublic { status: 403, .. }), "{error:?}");
        assert_eq!(error.trouble(), Trouble::EdgeNotPublic);
    }
    // R2's own answer, which is easily taken for a mistake of the program.
    place.front().always(Fault::s3(400, "InvalidArgument", "Authorization"));
    let (unsigned, before) = (place.edge_as(None), place.front().seen().len());
    for error in all_errors(&unsigned, &blob).await {
        let EdgeError::NotPublic { status, code, message, .. } = error else { panic!("{error:?}") };
        let told = (status, code.as_str(), message.as_str());
        assert_eq!(told, (400, "InvalidArgument", "Authorization"));
    }
    let asked = place.front().seen().len() - before;
    assert_eq!(asked, 2, "the length, and the same as a read, whose answer says why");
}

#[tokio::test]
async fn forbidden_clock_skew_and_missing_bucket_have_their_own_errors() {
    let place = Place::s3().await;
    let blob = Blob::of_len(1000);
    let table = [
        (403, "AccessDenied", Trouble::EdgeBadCredentials),
        (403, "RequestTimeTooSkewed", Trouble::EdgeClockSkew),
        (404, "NoSuchBucket", Trouble::EdgeRefused),
        (301, "PermanentRedirect", Trouble::EdgeRefused),
        (507, "InsufficientStorage", Trouble::Unreachable),
    ];
    for (status, code, trouble) in table {
        place.front().inject(Method::GET, Fault::s3(status, code, "no"));
        let policy = PolicyOptions { attempts_max: 1, ..PolicyOptions::default() };
        let once = EdgeOptions { policy, ..quick() };
        let error = place.edge_with(once.clone()).read(&blob.hash(), None).await.expect_err(code);
        assert_eq!(error.trouble(), trouble, "{error:?}");
        place.front().inject(Method::PUT, Fault::s3(status, code, "no"));
        let error = blob.push(&place.edge_with(once)).await.expect_err(code);
        assert_eq!(error.trouble(), trouble, "{error:?}");
    }
}

#[tokio::test]
async fn secrets_are_shown_nowhere() {
    let place = Place::s3().await;
    let blob = Blob::of_len(1000);
    let mut text = format!("{:?} {}", place.edge, place.edge.describe());
    for fault in [Fault::s3(403, "AccessDenied", "no"), Fault::status(302, &[]), Fault::page(200)] {
        place.front().always(fault);
        let read = place.edge.read(&blob.hash(), None).await.expect_err("a fault");
        let push = blob.push(&place.edge).await.expect_err("a fault");
        text.push_str(&shown(&read));
        text.push_str(&shown(&push));
    }
    for finding in place.edge.diagnose().await {
        write!(text, "{finding:?}").expect("a string takes it");
    }
    for secret in [SECRET, KEY_ID, "Signature=", "X-Amz-Signature", "AWS4-HMAC"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    let queries = place.front().seen().into_iter().filter(|parts| parts.uri.query().is_some());
    assert_eq!(queries.count(), 0, "a URL that could be replayed");
}

#[tokio::test]
async fn half_of_a_key_pair_is_refused_before_anything_is_asked() {
    let config = EdgeConfig::S3 {
        bucket: "bucket".to_owned(),
        endpoint: "https://edge.example".to_owned(),
        region: "auto".to_owned(),
        prefix: String::new(),
        credentials: Some(Credentials {
            access_key_id: KEY_ID.to_owned(),
            secret_access_key: String::new(),
        }),
    };
    let error = Edge::new(&config, EdgeOptions::default()).expect_err("half a pair");
    assert_eq!(error.trouble(), Trouble::Configuration);
    assert!(shown(&error).contains("secret_access_key"), "{}", shown(&error));
}

#[tokio::test]
async fn writes_are_plain_bodies_of_known_length_that_caches_may_keep() {
    let place = Place::s3().await;
    let blob = Blob::of_len(100_000);
    blob.push(&place.edge).await.expect("pushed");
    let seen = place.front().seen();
    let puts: Vec<_> = seen.iter().filter(|parts| parts.method == Method::PUT).collect();
    assert_eq!(puts.len(), 2, "the blob and its list");
    for (put, len) in puts.iter().zip([100_000, blob.list.to_file().len()]) {
        assert_eq!(put.headers[CACHE_CONTROL], "public, max-age=31536000, immutable");
        assert_eq!(put.headers[CONTENT_TYPE], "application/octet-stream");
        assert_eq!(put.headers[CONTENT_LENGTH], len.to_string());
        assert!(!put.headers.contains_key(TRANSFER_ENCODING));
        let names = put.headers.keys().map(hyper::header::HeaderName::as_str);
        let refused = |name: &&str| name.contains("checksum") || name.contains("trailer");
        assert_eq!(names.filter(refused).count(), 0, "what R2 refuses");
    }
    let paths: Vec<&str> = puts.iter().map(|put| put.uri.path()).collect();
    let path = format!("/team-blobs/ci/main/blobs/{}", blob.hash().sharded_path());
    assert_eq!(paths, [path.clone(), format!("{path}.groups")], "the list comes last");
}

#[tokio::test]
async fn failed_write_is_tried_again_a_few_times_only() {
    let place = Place::s3().await;
    let blob = Blob::of_len(1000);
    place.front().inject(Method::PUT, Fault::s3(500, "InternalError", "again please"));
    place.front().inject(Method::PUT, Fault::s3(503, "SlowDown", "again please"));
    blob.push(&place.edge).await.expect("pushed at the third attempt");
    assert_eq!(place.front().count(&Method::PUT), 3, "two failures, the blob");

    let other = Blob::of_len(1001);
    place.front().always(Fault::s3(500, "InternalError", "never"));
    place.front().inject(Method::HEAD, Fault::status(404, &[]));
    let error = other.push(&place.edge).await.expect_err("never");
    assert!(matches!(error, EdgeError::Busy { status: 500, .. }), "{error:?}");
    assert_eq!(place.front().count(&Method::PUT), 6, "one attempt and two more");
}

#[tokio::test]
async fn pause_asked_of_a_write_is_left_to_the_caller() {
    let place = Place::s3().await;
    let fault = Fault::status(429, &[("retry-after", "9")]);
    place.front().inject(Method::PUT, fault);
    let error = Blob::of_len(1000).push(&place.edge).await.expect_err("busy");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(9)));
    assert_eq!(place.front().count(&Method::PUT), 1);
}

#[tokio::test]
async fn upload_that_nobody_takes_is_given_up() {
    let place = Place::s3().await;
    place.front().inject(Method::PUT, Fault::Silent);
    let edge = place.edge_with(EdgeOptions {
        connect_timeout: Duration::from_millis(200),
        stall_window: Duration::from_millis(80),
        write_timeout: Duration::from_millis(80),
        ..quick()
    });
    // More than the buffers of a loopback connection hold, so that it stalls in the middle.
    let error = Blob::of_len(32 << 20).push(&edge).await.expect_err("silence");
    let EdgeError::Stalled { got, .. } = error else { panic!("{error:?}") };
    assert!(0 < got && got < 32 << 20, "{got}");
    place.front().inject(Method::PUT, Fault::Silent);
    let error = Blob::of_len(1000).push(&edge).await.expect_err("silence");
    assert!(matches!(error, EdgeError::Stalled { got: 1000, .. }), "{error:?}");
}

/// The S3 server holds to the 5 MiB that every part but the last has at least.
fn in_parts() -> EdgeOptions {
    EdgeOptions { multipart_above: 5 << 20, part_len: 5 << 20, parts_at_once: 2, ..quick() }
}

#[tokio::test]
async fn large_blob_goes_up_in_equal_parts() {
    let place = Place::s3().await;
    let edge = place.edge_with(in_parts());
    for (len, parts) in [(5 << 20, 1), ((5 << 20) + 1, 2), (15 << 20, 3), ((15 << 20) + 7, 4)] {
        let before = place.front().count(&Method::PUT);
        let blob = Blob::of_len(len);
        assert!(!blob.push(&edge).await.expect("pushed").existed);
        let puts = place.front().count(&Method::PUT) - before - 1;
        assert_eq!(puts, parts, "{len} bytes");
        let body = edge.read(&blob.hash(), None).await.expect("a body");
        assert!(collect(body).await.expect("read") == blob.bytes, "{len} bytes");
    }
}

#[tokio::test]
async fn failed_part_gives_the_whole_upload_up() {
    let place = Place::s3().await;
    let edge = place.edge_with(in_parts());
    let blob = Blob::of_len(16 << 20);
    place.front().inject(Method::PUT, Fault::s3(403, "AccessDenied", "no"));
    let error = blob.push(&edge).await.expect_err("a part is refused");
    assert!(matches!(error, EdgeError::BadCredentials { .. }), "{error:?}");
    let seen = place.front().seen();
    let last = seen.last().expect("requests");
    let query = last.uri.query().unwrap_or_default();
    assert!(last.method == Method::DELETE && query.contains("uploadId"), "{last:?}");
    let size = edge.size(&blob.hash()).await;
    assert!(matches!(size, Err(EdgeError::NotFound { .. })), "{size:?}");
}

/// Sends one part at a time, and remembers what was sent.
fn remembered(uploads: &std::path::Path) -> EdgeOptions {
    EdgeOptions { parts_at_once: 1, uploads: Some(uploads.to_owned()), ..in_parts() }
}

/// Has the first parts pass and the next one fail with that fault as often as it is tried.
fn fail_after(place: &Place, parts: usize, fault: &Fault, times: usize) {
    for _ in 0..parts {
        place.front().inject(Method::PUT, Fault::Header("x-passed", String::new()));
    }
    for _ in 0..times {
        place.front().inject(Method::PUT, fault.clone());
    }
}

async fn comes_back(place: &Place, blob: &Blob) {
    let body = place.edge.read(&blob.hash(), None).await.expect("a body");
    assert!(collect(body).await.expect("read") == blob.bytes);
}

fn journals(uploads: &std::path::Path) -> Vec<std::path::PathBuf> {
    let listed = std::fs::read_dir(uploads).expect("listed");
    listed.map(|entry| entry.expect("an entry").path()).collect()
}

#[tokio::test]
async fn interrupted_upload_is_taken_up_by_the_next_push() {
    let place = Place::s3().await;
    let home = tempfile::tempdir().expect("a directory");
    let uploads = home.path().join("uploads");
    let blob = Blob::of_len(18 << 20);
    fail_after(&place, 2, &Fault::s3(500, "InternalError", "for now"), 3);
    let error = blob.push(&place.edge_with(remembered(&uploads))).await.expect_err("for now");
    assert!(matches!(error, EdgeError::Busy { .. }), "{error:?}");
    assert_eq!((journals(&uploads).len(), place.front().count(&Method::DELETE)), (1, 0));
    let (puts, posts) = (place.front().count(&Method::PUT), place.front().count(&Method::POST));
    // Another process, as far as the edge goes.
    let mut told = Vec::new();
    let bytes = blob.bytes.clone();
    let source = move |at: u64, len: usize| Ok(bytes.slice(at as usize..at as usize + len));
    let edge = place.edge_with(remembered(&uploads));
    let progress = |done| told.push(done);
    edge.push(&blob.hash(), blob.size(), &blob.list, source, progress).await.expect("pushed");
    assert_eq!(place.front().count(&Method::PUT) - puts, 3, "two parts and the list");
    assert_eq!(place.front().count(&Method::POST) - posts, 1, "completed, not begun");
    assert_eq!((told.is_sorted(), told.last()), (true, Some(&blob.size())));
    assert_eq!(journals(&uploads).len(), 0);
    comes_back(&place, &blob).await;
}

#[tokio::test]
async fn push_that_is_dropped_leaves_its_parts_to_the_next_one() {
    let place = Place::s3().await;
    let home = tempfile::tempdir().expect("a directory");
    let blob = Blob::of_len(11 << 20);
    fail_after(&place, 1, &Fault::Silent, 1);
    let edge = place.edge_with(remembered(home.path()));
    let dropped = async {
        // The second part is on its way, and is not answered.
        while place.front().count(&Method::PUT) < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        pushed = blob.push(&edge) => panic!("{pushed:?}"),
        () = dropped => {}
    }
    assert_eq!(place.front().count(&Method::DELETE), 0);
    let puts = place.front().count(&Method::PUT);
    blob.push(&place.edge_with(remembered(home.path()))).await.expect("pushed");
    assert_eq!(place.front().count(&Method::PUT) - puts, 3, "two parts and the list");
    comes_back(&place, &blob).await;
}

#[tokio::test]
async fn upload_that_the_edge_does_not_know_any_more_is_begun_anew() {
    let place = Place::s3().await;
    let home = tempfile::tempdir().expect("a directory");
    let blob = Blob::of_len(11 << 20);
    fail_after(&place, 1, &Fault::s3(500, "InternalError", "for now"), 3);
    blob.push(&place.edge_with(remembered(home.path()))).await.expect_err("for now");
    let [journal] = &journals(home.path())[..] else { panic!("one journal") };
    let text = std::fs::read_to_string(journal).expect("read");
    let (head, parts) = text.split_once('\n').expect("lines");
    let (of, _) = head.rsplit_once(' ').expect("an upload");
    let gone = format!("{of} 00000000-0000-4000-8000-000000000000\n{parts}");
    std::fs::write(journal, gone).expect("written");
    blob.push(&place.edge_with(remembered(home.path()))).await.expect("pushed");
    assert_eq!(journals(home.path()).len(), 0);
    comes_back(&place, &blob).await;
}

#[tokio::test]
async fn refused_part_ends_the_upload_and_what_is_known_of_it() {
    let place = Place::s3().await;
    let home = tempfile::tempdir().expect("a directory");
    let blob = Blob::of_len(11 << 20);
    fail_after(&place, 1, &Fault::s3(403, "AccessDenied", "no"), 1);
    blob.push(&place.edge_with(remembered(home.path()))).await.expect_err("refused");
    assert_eq!((journals(home.path()).len(), place.front().count(&Method::DELETE)), (0, 1));
}

/// Has an upload begin, and what completes it meet a fault.
fn fail_completion(place: &Place, fault: Fault) {
    place.front().inject(Method::POST, Fault::Header("x-passed", String::new()));
    place.front().inject(Method::POST, fault);
}

#[tokio::test]
async fn upload_whose_last_answer_is_lost_has_been_done() {
    let place = Place::s3().await;
    let home = tempfile::tempdir().expect("a directory");
    let blob = Blob::of_len(11 << 20);
    fail_completion(&place, Fault::CutAfter(0));
    blob.push(&place.edge_with(remembered(home.path()))).await.expect("pushed");
    assert_eq!((journals(home.path()).len(), place.front().count(&Method::DELETE)), (0, 0));
    comes_back(&place, &blob).await;
}

#[tokio::test]
async fn upload_that_cannot_be_completed_for_now_keeps_its_parts() {
    let place = Place::s3().await;
    let home = tempfile::tempdir().expect("a directory");
    let blob = Blob::of_len(11 << 20);
    // The status is sent before the edge knows better.
    fail_completion(&place, Fault::s3(200, "InternalError", "for now"));
    let edge = place.edge_with(remembered(home.path()));
    let error = blob.push(&edge).await.expect_err("for now");
    assert!(matches!(error, EdgeError::Busy { status: 200, .. }), "{error:?}");
    assert_eq!((journals(home.path()).len(), place.front().count(&Method::DELETE)), (1, 0));
    let puts = place.front().count(&Method::PUT);
    blob.push(&place.edge_with(remembered(home.path()))).await.expect("pushed");
    assert_eq!(place.front().count(&Method::PUT) - puts, 1, "the list");
    comes_back(&place, &blob).await;
}
