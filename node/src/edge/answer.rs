//! What the head of an HTTP answer says, and what a refusal means.
//!
//! Pure functions over bounded input: whatever an edge sends is cut to a bound before it is kept, and
//! nothing here waits or allocates by a length the edge claims.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG,
    HeaderMap, HeaderName, RETRY_AFTER,
};

use super::error::{Breach, Cause, EdgeError, Reach, Task};

/// The longest pause that an edge can ask for; a longer one is cut to it.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// How many characters of an edge's own words are kept.
const MESSAGE_LEN_MAX: usize = 200;
/// How many characters of an S3 error code or an odd header are kept.
const CODE_LEN_MAX: usize = 64;
/// The longest tag of an object's version that is kept.
const TAG_LEN_MAX: usize = 256;
/// Beyond this difference S3 services refuse signatures.
const SKEW_REFUSED_S: u64 = 15 * 60;

/// How an exchange over HTTP failed, before it is told which task it ended.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the edge answered {}", .0.status)]
    Refusal(Refusal),
    #[error("{reach}")]
    Unreachable {
        reach: Reach,
        #[source]
        source: Cause,
    },
    #[error("the edge was silent or too slow")]
    Stalled { waited: Duration, got: u64 },
    #[error("the body was cut")]
    Cut {
        got: u64,
        expected: u64,
        #[source]
        source: Option<Cause>,
    },
    #[error("{0}")]
    Breach(Breach),
    #[error("the range lies outside of the blob")]
    Range { start: u64, end: u64, size: Option<u64> },
}

/// Keeps what is worth knowing of an answer that is not a success.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// Whether the request carried a signature.
    pub(super) signed: bool,
    /// The S3 error code, empty where there is none.
    pub(super) code: String,
    pub(super) message: String,
    pub(super) retry_after: Option<Duration>,
    /// This machine's clock minus the edge's in seconds.
    pub(super) skew_s: Option<i64>,
}

impl Refusal {
    /// Reads the head and the (bounded) body of an answer.
    pub(super) fn read(status: StatusCode, headers: &HeaderMap, body: &[u8], signed: bool) -> Self {
        let body = String::from_utf8_lossy(body);
        Self {
            status,
            signed,
            code: element(&body, "Code", CODE_LEN_MAX),
            message: element(&body, "Message", MESSAGE_LEN_MAX),
            retry_after: retry_after(headers),
            skew_s: skew_s(headers, SystemTime::now()),
        }
    }

    /// Returns whether the same request may succeed later.
    pub(super) fn is_temporary(&self) -> bool {
        match self.status {
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => true,
            StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => false,
            status => status.is_server_error(),
        }
    }

    fn during(self, task: Task) -> EdgeError {
        let status = self.status.as_u16();
        if self.is_temporary() {
            return EdgeError::Busy { task, status, retry_after: self.retry_after };
        }
        let skewed = self.is_skewed();
        let (code, message) = (self.code, self.message);
        match (status, self.signed) {
            // A missing bucket is a mistake of the configuration, not a missing blob.
            (404 | 410, _) if code == "NoSuchBucket" => {
                EdgeError::Refused { task, status, code, message }
            }
            (404 | 410, _) => EdgeError::NotFound { task },
            (412, _) => EdgeError::Changed { task },
            (409, _) if code == "ConditionalRequestConflict" => EdgeError::Changed { task },
            (400 | 401 | 403, false) => EdgeError::NotPublic { task, status, code, message },
            (_, true) if skewed => EdgeError::ClockSkew { task, skew_s: self.skew_s },
            (401 | 403, true) => EdgeError::BadCredentials { task, status, code, message },
            // R2 answers so to a key id of the wrong length.
            (400, true) if code == "InvalidArgument" => {
                EdgeError::BadCredentials { task, status, code, message }
            }
            _ => EdgeError::Refused { task, status, code, message },
        }
    }

    /// Returns whether the clock is to blame. Services that only say "denied" are taken at the word
    /// of their own date.
    fn is_skewed(&self) -> bool {
        match self.code.as_str() {
            "RequestTimeTooSkewed" => true,
            "RequestExpired" | "ExpiredRequest" | "AccessDenied" | "SignatureDoesNotMatch" => {
                self.skew_s.is_some_and(|seconds| seconds.unsigned_abs() > SKEW_REFUSED_S)
            }
            _ => false,
        }
    }
}

impl Failure {
    /// Turns the failure into the error of a task.
    pub(super) fn during(self, task: Task) -> EdgeError {
        match self {
            Self::Refusal(refusal) => refusal.during(task),
            Self::Unreachable { reach, source } => EdgeError::Unreachable { task, reach, source },
            Self::Stalled { waited, got } => EdgeError::Stalled { task, waited, got },
            Self::Cut { got, expected, source } => EdgeError::Cut { task, got, expected, source },
            Self::Breach(breach) => EdgeError::Protocol { task, breach },
            Self::Range { start, end, size } => EdgeError::Range { task, start, end, size },
        }
    }
}

/// Is what a successful answer's head promises: the blob's size and the bytes that follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) size: u64,
    pub(super) range: Range<u64>,
}

impl Promise {
    /// Makes that of a blob of `size` bytes that is here: the range, cut at its end, or all of it.
    pub(super) fn of(range: Option<Range<u64>>, size: u64, task: Task) -> Result<Self, EdgeError> {
        match range {
            None => Ok(Self { size, range: 0..size }),
            Some(range) if range.is_empty() || range.start >= size => {
                let (start, end) = (range.start, range.end);
                Err(EdgeError::Range { task, start, end, size: Some(size) })
            }
            Some(range) => Ok(Self { size, range: range.start..range.end.min(size) }),
        }
    }
}

/// Reads the head of an answer to a GET, of status 200 or 206, for `wanted` or the whole.
///
/// A 200 is taken as the whole blob even where a range was wanted: a server may not know ranges. A
/// 206 must carry exactly the range, cut at the blob's end.
pub(super) fn promise(
    status: StatusCode,
    headers: &HeaderMap,
    wanted: Option<&Range<u64>>,
    size_max: u64,
) -> Result<Promise, Breach> {
    let encoding = text(headers, &CONTENT_ENCODING);
    if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity") {
        return Err(Breach::Encoded { encoding });
    }
    let promise = match (status, wanted) {
        (StatusCode::OK, _) if is_web_page(headers) => return Err(Breach::WebPage),
        (StatusCode::OK, _) => {
            let size = content_length(headers).ok_or(Breach::NoLength)?;
            Promise { size, range: 0..size }
        }
        (StatusCode::PARTIAL_CONTENT, Some(wanted)) => partial(headers, wanted)?,
        (status, _) => return Err(Breach::Status { status: status.as_u16() }),
    };
    if promise.size > size_max {
        return Err(Breach::TooLarge { size: promise.size, size_max });
    }
    Ok(promise)
}

fn partial(headers: &HeaderMap, wanted: &Range<u64>) -> Result<Promise, Breach> {
    let wrong = |found: String| Breach::WrongRange {
        wanted: format!("{}-{}", wanted.start, wanted.end.saturating_sub(1)),
        found,
    };
    let value = text(headers, &CONTENT_RANGE);
    let Some((range, size)) = content_range(&value) else { return Err(wrong(value)) };
    let exact = range.start == wanted.start && range.end == wanted.end.min(size);
    if !exact {
        return Err(wrong(value));
    }
    // A length beside the range is redundant, and a lie where it differs.
    match content_length(headers) {
        Some(len) if len != range.end - range.start => Err(wrong(format!("{len} bytes"))),
        _ => Ok(Promise { size, range }),
    }
}

/// Reads `bytes FIRST-LAST/SIZE`; an unknown size (`*`) is of no use here.
fn content_range(value: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = value.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let (end, size) = (last.checked_add(1)?, number(size)?);
    (first < end && end <= size).then_some((first..end, size))
}

/// Reads the size out of `bytes */SIZE`, as a 416 carries it.
pub(super) fn unsatisfied_size(headers: &HeaderMap) -> Option<u64> {
    number(text(headers, &CONTENT_RANGE).trim().strip_prefix("bytes")?.trim().strip_prefix("*/")?)
}

/// Returns the length that an answer announces, none where it is missing or no number.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    number(&text(headers, &CONTENT_LENGTH))
}

/// Returns whether a success is rather the page of a portal or a catch-all route: those are
/// `text/html` and do not know ranges. A blob of HTML comes from servers that do.
pub(super) fn is_web_page(headers: &HeaderMap) -> bool {
    let kind = text(headers, &CONTENT_TYPE).to_ascii_lowercase();
    let html = kind.starts_with("text/html") || kind.starts_with("application/xhtml");
    html && !text(headers, &ACCEPT_RANGES).eq_ignore_ascii_case("bytes")
}

/// Returns this machine's clock minus the edge's in whole seconds.
pub(super) fn skew_s(headers: &HeaderMap, now: SystemTime) -> Option<i64> {
    let date = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    match now.duration_since(date) {
        Ok(ahead) => i64::try_from(ahead.as_secs()).ok(),
        Err(behind) => i64::try_from(behind.duration().as_secs()).ok().map(|seconds| -seconds),
    }
}

/// Returns what an edge calls this version of an object; none where that is longer than such names are.
pub(super) fn tag(headers: &HeaderMap) -> Option<String> {
    let tag = headers.get(ETAG)?.to_str().ok()?;
    (tag.len() <= TAG_LEN_MAX).then(|| tag.to_owned())
}

/// Returns a header as text of a bounded length; empty where it is missing or not ASCII.
pub(super) fn text(headers: &HeaderMap, name: &HeaderName) -> String {
    let value = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.chars().take(CODE_LEN_MAX).collect()
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = httpdate::parse_http_date(value).ok()?;
            until.duration_since(SystemTime::now()).unwrap_or_default()
        }
    };
    Some(pause.min(RETRY_AFTER_MAX))
}

/// Digits only: `u64::from_str` would take a plus sign too.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Returns the text of the first XML element of that name, bounded and on one line. S3 errors are
/// flat; a parser would be more than two lookups need.
fn element(body: &str, name: &str, len_max: usize) -> String {
    let inner = body
        .split_once(&format!("<{name}>"))
        .and_then(|(_, rest)| rest.split_once(&format!("</{name}>")))
        .map_or("", |(inner, _)| inner);
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = inner.chars().take(len_max).map(plain).collect();
    text.trim().replace("&quot;", "\"").replace("&apos;", "'").replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use blobmesh_protocol::Hash;
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::super::error::Action;
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
        };
        pairs.iter().map(pair).collect()
    }

    fn refusal(status: u16, signed: bool, code: &str, skew_s: Option<i64>) -> EdgeError {
        let refusal = Refusal {
            status: StatusCode::from_u16(status).expect("a status"),
            signed,
            code: code.to_owned(),
            message: String::new(),
            retry_after: None,
            skew_s,
        };
        refusal.during(Task { action: Action::Read, hash: Hash::of(b"") })
    }

    #[test]
    fn partial_answers_are_taken_only_for_exactly_the_range() {
        let take = |range: &str, wanted: Range<u64>| {
            let headers = headers(&[("content-range", range)]);
            promise(StatusCode::PARTIAL_CONTENT, &headers, Some(&wanted), 1000).ok()
        };
        let wrong = [
            "",
            "bytes",
            "bytes 10-19",
            "bytes 10-19/*",
            "bytes 10-20/100",
            "bytes 9-19/100",
            "bytes 10-18/100",
            "bytes 19-10/100",
            "bytes 10-19/15",
            "bytes +10-19/100",
            "bytes 10-18446744073709551615/100",
            "octets 10-19/100",
            "bytes 10-19/2000",
        ];
        wrong.iter().for_each(|range| assert_eq!(take(range, 10..20), None, "{range}"));
        let promised = Some(Promise { size: 100, range: 10..20 });
        assert_eq!(take("bytes 10-19/100", 10..20), promised);
        let cut = Some(Promise { size: 15, range: 10..15 });
        assert_eq!(take("bytes 10-14/15", 10..20), cut, "cut at the blob's end");
    }

    #[test]
    fn length_beside_a_range_must_agree_with_it() {
        let headers = headers(&[("content-range", "bytes 0-9/100"), ("content-length", "11")]);
        let taken = promise(StatusCode::PARTIAL_CONTENT, &headers, Some(&(0..10)), 1000);
        assert!(matches!(taken, Err(Breach::WrongRange { .. })));
    }

    #[test]
    fn whole_answers_need_a_length_within_the_bound_and_no_encoding() {
        let take = |pairs: &[(&'static str, &str)]| {
            promise(StatusCode::OK, &headers(pairs), Some(&(5..6)), 100)
        };
        assert!(matches!(take(&[]), Err(Breach::NoLength)));
        assert!(matches!(take(&[("content-length", "-1")]), Err(Breach::NoLength)));
        assert!(matches!(take(&[("content-length", "101")]), Err(Breach::TooLarge { .. })));
        let gzip = [("content-length", "5"), ("content-encoding", "gzip")];
        assert!(matches!(take(&gzip), Err(Breach::Encoded { .. })));
        let page = [("content-length", "5"), ("content-type", "text/html; charset=utf-8")];
        assert!(matches!(take(&page), Err(Breach::WebPage)));
        let whole = take(&[("content-length", "100")]).expect("a whole blob");
        assert_eq!(whole, Promise { size: 100, range: 0..100 });
        let mut blob_of_html = page.to_vec();
        blob_of_html.push(("accept-ranges", "bytes"));
        assert!(take(&blob_of_html).is_ok());
        let other = promise(StatusCode::NO_CONTENT, &headers(&[]), None, 100);
        assert!(matches!(other, Err(Breach::Status { status: 204 })));
        let unasked = headers(&[("content-range", "bytes 0-9/10")]);
        let unasked = promise(StatusCode::PARTIAL_CONTENT, &unasked, None, 100);
        assert!(matches!(unasked, Err(Breach::Status { status: 206 })));
    }

    #[test]
    fn refusals_mean_what_they_mean_to_the_user() {
        use EdgeError as E;
        assert!(matches!(refusal(404, true, "NoSuchKey", None), E::NotFound { .. }));
        assert!(matches!(refusal(404, false, "", None), E::NotFound { .. }));
        assert!(matches!(refusal(404, true, "NoSuchBucket", None), E::Refused { .. }));
        for status in [400, 401, 403] {
            assert!(matches!(refusal(status, false, "InvalidArgument", None), E::NotPublic { .. }));
        }
        for code in ["SignatureDoesNotMatch", "InvalidAccessKeyId", "AccessDenied", ""] {
            assert!(matches!(refusal(403, true, code, None), E::BadCredentials { .. }), "{code}");
        }
        assert!(matches!(refusal(400, true, "InvalidArgument", None), E::BadCredentials { .. }));
        assert!(matches!(refusal(400, true, "InvalidPart", None), E::Refused { .. }));
        assert!(matches!(refusal(403, true, "RequestTimeTooSkewed", None), E::ClockSkew { .. }));
        let skewed = refusal(403, true, "AccessDenied", Some(-3600));
        assert!(matches!(skewed, E::ClockSkew { skew_s: Some(-3600), .. }));
        assert!(matches!(refusal(403, true, "AccessDenied", Some(30)), E::BadCredentials { .. }));
        for status in [408, 429, 500, 502, 503, 504, 521] {
            assert!(refusal(status, true, "SlowDown", None).is_temporary(), "{status}");
        }
        for status in [301, 405, 409, 501] {
            assert!(matches!(refusal(status, true, "", None), E::Refused { .. }), "{status}");
        }
        let raced = refusal(409, true, "ConditionalRequestConflict", None);
        assert!(matches!(raced, E::Changed { .. }), "S3 of writes at the same time");
        assert!(matches!(refusal(412, true, "PreconditionFailed", None), E::Changed { .. }));
    }

    #[test]
    fn error_bodies_give_a_bounded_code_and_message() {
        let body = "<Error><Code>AccessDenied</Code><Message>No\nway &amp; never</Message></Error>";
        let read = |body: &str| {
            Refusal::read(StatusCode::FORBIDDEN, &HeaderMap::new(), body.as_bytes(), true)
        };
        assert_eq!(read(body).code, "AccessDenied");
        assert_eq!(read(body).message, "No way & never");
        let long = format!("<Message>{}</Message>", "é".repeat(10_000));
        assert_eq!(read(&long).message.chars().count(), MESSAGE_LEN_MAX);
        assert_eq!(read("<Code>never closed").code, "");
    }

    #[test]
    fn pauses_and_clocks_are_read_and_bounded() {
        let pause = |value: &str| retry_after(&headers(&[("retry-after", value)]));
        assert_eq!(pause("7"), Some(Duration::from_secs(7)));
        assert_eq!(pause("86400"), Some(RETRY_AFTER_MAX));
        assert_eq!(pause("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(pause("soon"), None);
        let date = headers(&[("date", "Thu, 01 Jan 1970 01:00:00 GMT")]);
        let at = |seconds| skew_s(&date, SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!((at(3600), at(3000), at(4000)), (Some(0), Some(-600), Some(400)));
    }

    proptest! {
        #[test]
        fn no_head_or_body_panics(
            range in "[ -~]{0,60}", length in "[ -~]{0,30}", body: Vec<u8>, start: u64, end: u64,
        ) {
            let headers = headers(&[
                ("content-range", &range), ("content-length", &length),
                ("retry-after", &length), ("date", &range),
            ]);
            let _promise = promise(StatusCode::PARTIAL_CONTENT, &headers, Some(&(start..end)), 1 << 40);
            let _size = unsatisfied_size(&headers);
            let _refusal = Refusal::read(StatusCode::FORBIDDEN, &headers, &body, true);
        }
    }
}
