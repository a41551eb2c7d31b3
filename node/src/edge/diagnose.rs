//! Finds out why an edge does not serve, for `doctor`.
//!
//! One request for a blob that nobody has tells nearly everything: whether the name resolves, TLS and
//! clock are right, the credentials are taken, and whether the edge's cache would keep blobs. The
//! hints name what the reader can change.

use std::path::Path;
use std::time::Duration;

use blobmesh_protocol::Hash;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, SERVER};
use serde::Serialize;
use tokio::time::timeout;

use super::answer::{self, Failure, Refusal};
use super::error::{Action, Breach, EdgeError, Reach, Task, causes};
use super::location::is_loopback;
use super::remote::Remote;
use super::{blob_path, files};

/// A difference of the clocks that is worth a word; S3 services refuse at 15 minutes.
const SKEW_WARNED_S: u64 = 5 * 60;

/// Tells the outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check's short name: `transport`, `reach`, `access`, `clock`, `cache`, `directory`,
    /// `distance`, `http/1.1`, `http/2`, `http/3`, `rate`.
    pub check: &'static str,
    /// How it went.
    pub verdict: Verdict,
    /// What was found: a lower-case fragment without a full stop.
    pub text: String,
    /// What the reader can do about it.
    pub hint: Option<String>,
    /// What was measured of one HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub figures: Option<Figures>,
}

/// Is what was measured of one way to read from the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Microseconds to the head of the first answer over a new connection, a median.
    pub cold_us: u64,
    /// The same over a connection that is there.
    pub warm_us: u64,
    /// How many ranges were read at once.
    pub ranges: u64,
    /// Over how many connections.
    pub connections: u64,
    /// What they brought together; none where nothing was read.
    pub bytes_per_s: Option<u64>,
}

/// Says how a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, with a cost or a risk.
    Warn,
    /// It does not work.
    Fail,
}

impl Finding {
    pub(super) fn ok(check: &'static str, text: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, text: text.into(), hint: None, figures: None }
    }

    pub(super) fn warn(
        check: &'static str,
        text: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        let hint = Some(hint.into());
        Self { check, verdict: Verdict::Warn, text: text.into(), hint, figures: None }
    }

    fn fail(check: &'static str, text: impl Into<String>, hint: impl Into<String>) -> Self {
        let hint = Some(hint.into());
        Self { check, verdict: Verdict::Fail, text: text.into(), hint, figures: None }
    }
}

/// Is what the request for a blob that nobody has brought back.
struct Probe {
    headers: HeaderMap,
    refusal: Refusal,
}

/// Examines a public URL.
pub(super) async fn public(remote: &Remote) -> Vec<Finding> {
    let mut findings = transport(remote);
    match probe(remote).await {
        Err(failure) => findings.push(unreachable(&failure)),
        Ok(probe) => {
            findings.push(Finding::ok("reach", "the edge answers"));
            findings.push(public_access(&probe));
            findings.extend(clock(&probe));
            findings.extend(cache(remote, &probe));
        }
    }
    findings
}

/// Examines a bucket.
pub(super) async fn bucket(remote: &Remote) -> Vec<Finding> {
    let mut findings = transport(remote);
    match probe(remote).await {
        Err(failure) => findings.push(unreachable(&failure)),
        Ok(probe) => {
            findings.push(Finding::ok("reach", "the endpoint answers"));
            findings.push(bucket_access(remote, &probe));
            findings.extend(clock(&probe));
        }
    }
    findings
}

/// Examines a directory.
pub(super) async fn directory(base: &Path, wait_max: Duration) -> Vec<Finding> {
    let path = base.to_owned();
    let looked = files::blocking(move || std::fs::metadata(path));
    let shown = base.display();
    let finding = match timeout(wait_max, looked).await {
        Err(_) => {
            Finding::fail("directory", format!("{shown} does not answer"), "is the share up?")
        }
        Ok(Err(error)) => Finding::fail(
            "directory",
            format!("{shown} cannot be looked at: {error}"),
            "create the directory, or mount the share that holds it",
        ),
        Ok(Ok(found)) if !found.is_dir() => {
            Finding::fail("directory", format!("{shown} is no directory"), "name a directory")
        }
        Ok(Ok(found)) if found.permissions().readonly() => Finding::warn(
            "directory",
            format!("{shown} is read only"),
            "blobs can be read from it, not pushed to it",
        ),
        Ok(Ok(_)) => Finding::ok("directory", format!("{shown} is there")),
    };
    vec![finding]
}

async fn probe(remote: &Remote) -> Result<Probe, Failure> {
    let answer = remote.probe(&blob_path(&nobodys_blob())).await?;
    let headers = answer.headers().clone();
    let refusal = remote.http().refusal(answer, remote.is_signed()).await;
    Ok(Probe { headers, refusal })
}

/// Names a blob of which nobody knows the bytes.
pub(super) fn nobodys_blob() -> Hash {
    let mut bytes = [0; 32];
    bytes[..14].copy_from_slice(b"blobmesh probe");
    Hash::from_bytes(bytes)
}

fn transport(remote: &Remote) -> Vec<Finding> {
    if remote.base().scheme() == "https" {
        return Vec::new();
    }
    if is_loopback(remote.base()) {
        return vec![Finding::ok("transport", "plain http to this machine")];
    }
    vec![Finding::warn(
        "transport",
        "plain http to another machine",
        "anybody on the way can see which blobs are asked for; use https",
    )]
}

fn unreachable(failure: &Failure) -> Finding {
    let mut text = match failure {
        Failure::Stalled { waited, .. } => {
            format!("the host accepts connections and did not answer in {} ms", waited.as_millis())
        }
        Failure::Unreachable { .. }
        | Failure::Breach(_)
        | Failure::Refusal(_)
        | Failure::Cut { .. }
        | Failure::Range { .. } => failure.to_string(),
    };
    if let Some(root) = causes(failure).last() {
        text = format!("{text}: {root}");
    }
    let hint = match failure {
        Failure::Unreachable { reach: Reach::Name, .. } => {
            "check the host name: R2's endpoint is https://ACCOUNT_ID.r2.cloudflarestorage.com, and a \
             custom domain must be connected to the bucket"
        }
        Failure::Unreachable { reach: Reach::Tls, .. } => {
            "check the host name, the port and this machine's date and certificates; an R2 account id \
             that does not exist fails here too"
        }
        Failure::Breach(Breach::RedirectElsewhere) => {
            "use the address that it redirects to as the edge"
        }
        Failure::Unreachable { .. }
        | Failure::Stalled { .. }
        | Failure::Breach(_)
        | Failure::Refusal(_)
        | Failure::Cut { .. }
        | Failure::Range { .. } => {
            "check host, port, firewall and network; proxy variables are not used"
        }
    };
    Finding::fail("reach", text, hint)
}

fn public_access(probe: &Probe) -> Finding {
    let page = answer::text(&probe.headers, &CONTENT_TYPE).starts_with("text/html");
    let refusal = &probe.refusal;
    match refusal.status {
        StatusCode::NOT_FOUND if page => Finding::warn(
            "access",
            "a missing blob is answered with a web page of status 404",
            "right for R2, but also what a URL with nothing behind it answers: get a blob to be sure",
        ),
        StatusCode::NOT_FOUND => {
            Finding::ok("access", "blobs can be read without credentials; a missing one gives 404")
        }
        StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Finding::fail(
                "access",
                format!("the edge refuses to be read without credentials ({})", told(refusal)),
                "enable public access of the bucket (R2: custom domain, or the r2.dev URL), or use \
                 s3://BUCKET?endpoint=… with access_key_id and secret_access_key",
            )
        }
        status if status.is_success() => Finding::fail(
            "access",
            format!("a blob that nobody has is answered with {}", status.as_u16()),
            "the URL answers every path with a page: name the one under which blobs/ lies",
        ),
        _ => unexpected(refusal),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "all other errors are as unexpected")]
fn bucket_access(remote: &Remote, probe: &Probe) -> Finding {
    let refusal = &probe.refusal;
    let task = Task { action: Action::Read, hash: nobodys_blob() };
    match Failure::Refusal(refusal.clone()).during(task) {
        EdgeError::NotFound { .. } if remote.is_signed() => {
            Finding::ok("access", "the credentials are taken; a missing blob gives 404")
        }
        EdgeError::NotFound { .. } => Finding::warn(
            "access",
            "the bucket can be read without credentials",
            "pushing needs access_key_id and secret_access_key",
        ),
        EdgeError::NotPublic { .. } => Finding::fail(
            "access",
            format!("the bucket is not public and no credentials are set ({})", told(refusal)),
            "set [edge] access_key_id and secret_access_key, or use the bucket's public URL; R2 \
             answers 400 to a request without credentials, not 403",
        ),
        EdgeError::ClockSkew { .. } => Finding::fail(
            "access",
            format!("signatures are refused because the clocks differ ({})", told(refusal)),
            "set this machine's clock",
        ),
        EdgeError::BadCredentials { .. } => Finding::fail(
            "access",
            format!("credentials refused ({})", told(refusal)),
            hint(refusal),
        ),
        _ if refusal.code == "NoSuchBucket" => Finding::fail(
            "access",
            "the endpoint has no such bucket",
            "check the bucket's name and the account id in the endpoint",
        ),
        _ if refusal.code == "PermanentRedirect"
            || refusal.code == "AuthorizationHeaderMalformed" =>
        {
            Finding::fail(
                "access",
                format!("the bucket is in another region ({})", told(refusal)),
                "set the bucket's region, or its region's endpoint; R2's region is auto",
            )
        }
        _ => unexpected(refusal),
    }
}

fn hint(refusal: &Refusal) -> &'static str {
    match refusal.code.as_str() {
        "SignatureDoesNotMatch" => "the key id is known and the secret is wrong: set it again",
        "InvalidAccessKeyId" | "NotSignedUp" | "InvalidArgument" => {
            "the key id is not known there: check it, and the account id in the endpoint"
        }
        "AccessDenied" => {
            "the key is right but has no right to this bucket: give it read, write and list"
        }
        _ => "check key id, secret, and the key's rights to this bucket",
    }
}

fn unexpected(refusal: &Refusal) -> Finding {
    let text = format!("a blob that nobody has is answered with {}", told(refusal));
    if refusal.is_temporary() {
        return Finding::fail("access", text, "the edge is failing or overloaded: try again later");
    }
    Finding::fail("access", text, "expected 404: is blobs/ served from this address?")
}

fn told(refusal: &Refusal) -> String {
    let status = refusal.status.as_u16().to_string();
    let parts = [status.as_str(), &refusal.code, &refusal.message];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn clock(probe: &Probe) -> Option<Finding> {
    let skew_s = probe.refusal.skew_s?;
    if skew_s.unsigned_abs() <= SKEW_WARNED_S {
        return Some(Finding::ok("clock", format!("it differs from the edge's by {skew_s} s")));
    }
    let text = format!("this machine's clock differs from the edge's by {skew_s} s");
    Some(Finding::warn("clock", text, "signatures are refused from 15 minutes on: set the clock"))
}

/// Judges Cloudflare's cache, and nothing elsewhere: other caches do not tell.
fn cache(remote: &Remote, probe: &Probe) -> Option<Finding> {
    const RAY: HeaderName = HeaderName::from_static("cf-ray");
    const STATUS: HeaderName = HeaderName::from_static("cf-cache-status");
    if remote.base().host_str().is_some_and(|host| host.ends_with(".r2.dev")) {
        return Some(Finding::warn(
            "cache",
            "r2.dev addresses are rate limited and not cached",
            "connect a custom domain to the bucket",
        ));
    }
    let cloudflare = probe.headers.contains_key(RAY)
        || answer::text(&probe.headers, &SERVER).eq_ignore_ascii_case("cloudflare");
    if !cloudflare {
        return None;
    }
    let status = answer::text(&probe.headers, &STATUS).to_ascii_uppercase();
    match status.as_str() {
        "" | "DYNAMIC" | "BYPASS" | "NONE" => Some(Finding::warn(
            "cache",
            format!("blobs are not cached at the edge (cf-cache-status: {})", shown(&status)),
            "add a cache rule that makes /blobs/* eligible for cache: names without an extension \
             are not cached by default",
        )),
        _ => Some(Finding::ok("cache", format!("blobs can be cached (cf-cache-status: {status})"))),
    }
}

fn shown(status: &str) -> &str {
    if status.is_empty() { "missing" } else { status }
}
