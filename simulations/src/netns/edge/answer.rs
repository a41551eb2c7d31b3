//! What the edge answers: files of the bucket, whole or in a range, as late and as slow as a plan says.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    net::IpAddr,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt as _, Empty, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Frame,
    header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE},
    http::response::Builder,
};
use tokio::time::{Instant, sleep, sleep_until};

use super::Served;
use crate::{plan, random::Random};

/// How many bytes are read and sent at a time.
const STEP_BYTES: u64 = 64 << 10;

pub(super) type Reply = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// Answers, and counts what each client asked for and was sent.
#[derive(Debug)]
pub(super) struct Answers {
    bucket: PathBuf,
    spec: plan::Edge,
    random: Mutex<Random>,
    /// By the address of the client.
    served: Mutex<BTreeMap<IpAddr, Served>>,
}

impl Answers {
    pub(super) fn new(bucket: PathBuf, spec: plan::Edge, random: Random) -> Self {
        Self { bucket, spec, random: Mutex::new(random), served: Mutex::default() }
    }

    /// Answers one request; an error ends its connection.
    pub(super) async fn answer<B>(
        self: Arc<Self>,
        client: IpAddr,
        request: Request<B>,
    ) -> Result<Reply, hyper::http::Error> {
        let asked = Asked::of(&request);
        let is_blob = asked.as_ref().is_some_and(Asked::is_blob);
        self.count(client, |served| served.count_request(is_blob));
        let Some(asked) = asked else { return bare(StatusCode::BAD_REQUEST) };
        let (wait, fails) = self.draw(is_blob);
        sleep(wait).await;
        if fails {
            return bare(StatusCode::INTERNAL_SERVER_ERROR);
        }
        let found = File::open(self.bucket.join(&asked.path))
            .and_then(|file| Ok((file.metadata()?.len(), file)));
        let Ok((size, file)) = found else { return bare(StatusCode::NOT_FOUND) };
        let Some((head, bytes)) = asked.head(size) else {
            let told = Response::builder().status(StatusCode::RANGE_NOT_SATISFIABLE);
            let told = told.header(CONTENT_RANGE, format!("bytes */{size}"));
            return told.header(CONTENT_LENGTH, 0).body(Empty::new().map_err(never).boxed_unsync());
        };
        if !asked.body {
            return head.body(Empty::new().map_err(never).boxed_unsync());
        }
        head.body(self.body(client, is_blob, (file, bytes)))
    }

    /// Returns what all clients asked for and were sent.
    pub(super) fn served(&self) -> Served {
        lock(&self.served).values().fold(Served::default(), |sum, one| sum.plus(one))
    }

    /// Returns what one client asked for and was sent.
    pub(super) fn served_to(&self, client: IpAddr) -> Served {
        lock(&self.served).get(&client).copied().unwrap_or_default()
    }

    fn count(&self, client: IpAddr, count: impl FnOnce(&mut Served)) {
        count(lock(&self.served).entry(client).or_default());
    }

    /// Draws how long a request waits, and whether it fails. Group lists are not what a plan speaks of.
    fn draw(&self, is_blob: bool) -> (Duration, bool) {
        if !is_blob {
            return (Duration::ZERO, false);
        }
        let mut random = lock(&self.random);
        let fails = random.chance(self.spec.error_rate);
        (Duration::from_nanos(self.spec.first_byte.draw(&mut random)), fails)
    }

    /// Returns bytes of a file step by step, not faster than the plan says, each counted when it is taken.
    fn body(
        self: Arc<Self>,
        client: IpAddr,
        is_blob: bool,
        (file, bytes): (File, Range<u64>),
    ) -> UnsyncBoxBody<Bytes, io::Error> {
        let (began, start) = (Instant::now(), bytes.start);
        let source = (self, file, bytes);
        let steps = stream::try_unfold(source, move |(answers, file, bytes)| async move {
            if bytes.is_empty() {
                return Ok(None);
            }
            if let Some(rate) = answers.spec.rate_per_connection {
                let due = (bytes.start - start) as f64 / rate.max(1) as f64;
                sleep_until(began + Duration::try_from_secs_f64(due).unwrap_or_default()).await;
            }
            let len = STEP_BYTES.min(bytes.end - bytes.start);
            let mut step = vec![0; usize::try_from(len).unwrap_or_default()];
            // The file was written a moment ago: it lies in memory.
            file.read_exact_at(&mut step, bytes.start)?;
            answers.count(client, |served| served.count_bytes(is_blob, len));
            let rest = bytes.start + len..bytes.end;
            Ok(Some((Frame::data(Bytes::from(step)), (answers, file, rest))))
        });
        StreamBody::new(steps).boxed_unsync()
    }
}

fn bare(status: StatusCode) -> Result<Reply, hyper::http::Error> {
    Response::builder().status(status).body(Empty::new().map_err(never).boxed_unsync())
}

fn never(never: std::convert::Infallible) -> io::Error {
    match never {}
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Is what a request asks for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    /// Relative to the bucket.
    path: String,
    /// The first and the last byte.
    range: Option<(u64, u64)>,
    /// Whether the body is wanted.
    body: bool,
}

impl Asked {
    /// Reads the head of a request; none of one that no node sends.
    fn of<B>(request: &Request<B>) -> Option<Self> {
        let body = match *request.method() {
            Method::GET => true,
            Method::HEAD => false,
            _ => return None,
        };
        let path = request.uri().path().strip_prefix('/')?;
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
        if !path.bytes().all(known) || path.split('/').any(|part| part == "..") {
            return None;
        }
        let range = match request.headers().get(RANGE) {
            Some(value) => {
                let (from, last) = value.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
                let last = if last.is_empty() { u64::MAX } else { last.parse().ok()? };
                Some((from.parse().ok()?, last))
            }
            None => None,
        };
        Some(Self { path: path.to_owned(), range, body })
    }

    fn is_blob(&self) -> bool {
        !self.path.ends_with(".groups")
    }

    /// Returns the head of the answer out of a file of `size` bytes, and which of them follow; none where the
    /// range lies behind its end.
    fn head(&self, size: u64) -> Option<(Builder, Range<u64>)> {
        let head = Response::builder().header(CONTENT_TYPE, "application/octet-stream");
        let (head, bytes) = match self.range {
            None => (head, 0..size),
            Some((from, _)) if from >= size => return None,
            Some((from, last)) => {
                let to = last.saturating_add(1).clamp(from, size);
                let told = format!("bytes {from}-{}/{size}", to.saturating_sub(1));
                let head = head.status(StatusCode::PARTIAL_CONTENT).header(CONTENT_RANGE, told);
                (head, from..to)
            }
        };
        Some((head.header(CONTENT_LENGTH, bytes.end - bytes.start), bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: Method, path: &str, range: Option<&str>) -> Option<Asked> {
        let request = Request::builder().method(method).uri(path);
        let request =
            range.into_iter().fold(request, |request, range| request.header(RANGE, range));
        Asked::of(&request.body(()).unwrap())
    }

    #[test]
    fn request_that_no_node_sends_is_none() {
        for (method, path, range) in [
            (Method::PUT, "/blobs/a", None),
            (Method::GET, "/../etc/passwd", None),
            (Method::GET, "/blobs/%2e%2e", None),
            (Method::GET, "/blobs/a", Some("bytes=x-1")),
            (Method::GET, "/blobs/a", Some("lines=0-1")),
        ] {
            assert_eq!(asked(method, path, range), None, "{path} {range:?}");
        }
    }

    #[test]
    fn range_is_read_with_and_without_its_end() {
        let range = |range: &str| asked(Method::GET, "/blobs/ab/c", Some(range)).unwrap().range;
        assert_eq!(range("bytes=5-9"), Some((5, 9)));
        assert_eq!(range("bytes=5-"), Some((5, u64::MAX)));
        let head = asked(Method::HEAD, "/blobs/ab/c", None).unwrap();
        assert_eq!((head.path.as_str(), head.range, head.body), ("blobs/ab/c", None, false));
    }

    #[test]
    fn range_is_cut_at_the_end_of_the_file_and_refused_behind_it() {
        let bytes = |range: &str| {
            let asked = asked(Method::GET, "/blobs/a", Some(range)).unwrap();
            asked.head(10).map(|(_, bytes)| bytes)
        };
        assert_eq!(bytes("bytes=2-4"), Some(2..5));
        assert_eq!(bytes("bytes=8-99"), Some(8..10));
        assert_eq!(bytes("bytes=9-3"), Some(9..9), "a range that ends before it begins");
        assert_eq!(bytes("bytes=10-"), None);
    }
}
