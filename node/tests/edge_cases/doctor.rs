//! What `doctor` finds: the failures that people meet first, each named with what to do.

use blobmesh_node::config::EdgeConfig;
use blobmesh_node::edge::{Edge, EdgeOptions, Finding, Verdict};
use blobmesh_protocol::Hash;
use hyper::header::RANGE;

use crate::edge_support::blobs::Blob;
use crate::edge_support::fault::Fault;
use crate::edge_support::front::Raw;
use crate::edge_support::place::{KEY_ID, Place, SECRET, impatient};

fn found<'a>(findings: &'a [Finding], check: &str) -> &'a Finding {
    let found = findings.iter().find(|finding| finding.check == check);
    found.unwrap_or_else(|| panic!("no {check} in {findings:?}"))
}

/// Examines an edge whose every answer has this fault, and returns one check.
async fn examined(place: &Place, edge: &Edge, fault: Fault, check: &str) -> Finding {
    place.front().always(fault);
    let findings = edge.diagnose().await;
    let finding = found(&findings, check).clone();
    assert!(finding.verdict == Verdict::Ok || finding.hint.is_some(), "{finding:?}");
    finding
}

#[tokio::test]
async fn healthy_edges_have_nothing_against_them() {
    for place in [Place::directory().await, Place::public().await, Place::s3().await] {
        let findings = place.edge.diagnose().await;
        assert!(!findings.is_empty());
        let bad = findings.iter().find(|finding| finding.verdict != Verdict::Ok);
        assert_eq!(bad, None);
    }
}

#[tokio::test]
async fn bucket_failures_are_explained() {
    let place = Place::s3().await;
    let unsigned = place.edge_as(None);
    let table = [
        (&unsigned, Fault::s3(400, "InvalidArgument", "Authorization"), "not public"),
        (&unsigned, Fault::s3(403, "AccessDenied", ""), "not public"),
        (&place.edge, Fault::s3(403, "SignatureDoesNotMatch", ""), "credentials refused"),
        (&place.edge, Fault::s3(403, "InvalidAccessKeyId", ""), "credentials refused"),
        (&place.edge, Fault::s3(403, "RequestTimeTooSkewed", ""), "clocks differ"),
        (&place.edge, Fault::s3(404, "NoSuchBucket", ""), "no such bucket"),
        (&place.edge, Fault::s3(301, "PermanentRedirect", ""), "another region"),
        (&place.edge, Fault::s3(503, "SlowDown", ""), "503"),
    ];
    for (edge, fault, expected) in table {
        let finding = examined(&place, edge, fault, "access").await;
        assert_eq!(finding.verdict, Verdict::Fail, "{finding:?}");
        assert!(finding.text.contains(expected), "{finding:?}");
    }
}

#[tokio::test]
async fn wrong_secret_and_wrong_key_id_get_different_hints() {
    let place = Place::s3().await;
    let access = async |pair| found(&place.edge_as(Some(pair)).diagnose().await, "access").clone();
    let secret = access((KEY_ID, "hunter3")).await;
    let id = access(("AKIDNOBODY", SECRET)).await;
    assert!(
        secret.hint.as_deref().is_some_and(|hint| hint.contains("secret is wrong")),
        "{secret:?}"
    );
    assert!(id.hint.as_deref().is_some_and(|hint| hint.contains("key id is not known")), "{id:?}");
}

#[tokio::test]
async fn public_url_failures_are_explained() {
    let place = Place::public().await;
    let table = [
        (Fault::page(401), Verdict::Fail, "without credentials"),
        (Fault::page(403), Verdict::Fail, "without credentials"),
        (Fault::s3(400, "InvalidArgument", "Authorization"), Verdict::Fail, "without credentials"),
        (Fault::page(404), Verdict::Warn, "web page"),
        (Fault::page(200), Verdict::Fail, "nobody has"),
        (Fault::status(404, &[]), Verdict::Ok, "404"),
    ];
    for (fault, verdict, expected) in table {
        let finding = examined(&place, &place.edge, fault, "access").await;
        assert_eq!(finding.verdict, verdict, "{finding:?}");
        assert!(finding.text.contains(expected), "{finding:?}");
    }
}

#[tokio::test]
async fn clock_that_is_off_is_warned_of() {
    let place = Place::s3().await;
    let fault = Fault::status(404, &[("date", "Thu, 01 Jan 1970 00:00:00 GMT")]);
    assert_eq!(examined(&place, &place.edge, fault, "clock").await.verdict, Verdict::Warn);
}

#[tokio::test]
async fn blobs_that_cloudflare_does_not_cache_are_warned_of() {
    let place = Place::public().await;
    let ray = ("cf-ray", "8f00-FRA");
    let table = [
        (vec![ray], Verdict::Warn),
        (vec![ray, ("cf-cache-status", "DYNAMIC")], Verdict::Warn),
        (vec![ray, ("cf-cache-status", "MISS")], Verdict::Ok),
    ];
    for (headers, verdict) in table {
        let finding = examined(&place, &place.edge, Fault::status(404, &headers), "cache").await;
        assert_eq!(finding.verdict, verdict, "{finding:?}");
    }
}

#[tokio::test]
async fn edges_out_of_reach_are_explained() {
    let place = Place::public().await;
    place.front().always(Fault::Silent);
    let silent = place.edge_with(impatient()).diagnose().await;
    assert!(found(&silent, "reach").text.contains("did not answer"), "{silent:?}");

    let server = Raw::start(b"no TLS here\r\n").await;
    let config = EdgeConfig::Public { url: format!("https://{}", server.address) };
    let edge = Edge::new(&config, EdgeOptions::default()).expect("an edge");
    let findings = edge.diagnose().await;
    let finding = found(&findings, "reach");
    assert!(finding.verdict == Verdict::Fail && finding.text.contains("TLS"), "{finding:?}");

    let place = Place::directory().await;
    std::fs::remove_dir(&place.root).expect("removed");
    let findings = place.edge.diagnose().await;
    assert_eq!(found(&findings, "directory").verdict, Verdict::Fail);
}

#[tokio::test]
async fn edge_is_measured_by_one_connection_and_by_four() {
    for place in [Place::public().await, Place::s3().await] {
        let blob = Blob::of_len(4 << 20);
        blob.seed(&place.root).await;
        let findings = place.edge.measure(Some(blob.hash())).await;
        let verdicts: Vec<_> = findings.iter().map(|found| (found.check, found.verdict)).collect();
        assert_eq!(verdicts, [("distance", Verdict::Ok), ("rate", Verdict::Ok)], "{findings:?}");
        assert!(findings[0].text.contains("first byte"), "{findings:?}");
        assert!(findings[1].text.contains("by 4 at once"), "{findings:?}");
        let seen = place.front().seen();
        assert!(seen.len() <= 30, "{} requests, which somebody pays for", seen.len());
        let mut ranges: Vec<_> = seen.iter().filter_map(|parts| parts.headers.get(RANGE)).collect();
        ranges.sort_unstable_by_key(|range| range.as_bytes());
        ranges.dedup();
        assert_eq!(ranges.len(), 1 + 4, "the whole, and four parts: {ranges:?}");
        assert_eq!(place.edge.stats().requests, 0, "it is not what gets are counted by");
    }
}

#[tokio::test]
async fn edge_without_a_blob_to_measure_by_says_so() {
    let place = Place::public().await;
    let rate = |findings: Vec<Finding>| found(&findings, "rate").clone();
    let unnamed = rate(place.edge.measure(None).await);
    assert!(unnamed.text.contains("--edge-blob"), "{unnamed:?}");
    let missing = rate(place.edge.measure(Some(Hash::of(b"nobody has this"))).await);
    assert!(missing.verdict == Verdict::Warn && missing.hint.is_some(), "{missing:?}");
    let small = Blob::of_len(1000);
    small.seed(&place.root).await;
    let small = rate(place.edge.measure(Some(small.hash())).await);
    assert!(small.text.contains("only 1000 bytes"), "{small:?}");
    let directory = Place::directory().await;
    assert_eq!(directory.edge.measure(None).await, []);
}
