//! Reading blobs over HTTP, alike from a public URL and from a bucket.
//!
//! A read is tried once. Whether to ask again here is for the [policy](super::policy) to decide, and
//! whether to ask elsewhere for the resolver, which knows the other tiers.

use std::ops::Range;
use std::sync::Arc;

use blobmesh_protocol::Hash;
use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, HeaderValue, IF_NONE_MATCH, RANGE};
use reqwest::{Method, Request, Response, StatusCode, Url};
use tracing::debug;

use super::answer::{self, Failure, Promise};
use super::body::EdgeBody;
use super::error::{Action, Breach, ConfigError, EdgeError, Reach, Task};
use super::http::Http;
use super::object::{Object, Wanted};
use super::options::EdgeHttp;
use super::sign::Signer;
use super::{blob_path, groups_path};

/// Reads from one base URL, signed where there is a key pair.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    http: Http,
    base: Url,
    signer: Option<Arc<Signer>>,
}

impl Remote {
    pub(super) fn new(http: Http, base: Url, signer: Option<Signer>) -> Self {
        Self { http, base, signer: signer.map(Arc::new) }
    }

    /// Returns the same for another HTTP, with no connection to the edge yet; for measurements.
    pub(super) fn by(&self, http: EdgeHttp) -> Result<Self, ConfigError> {
        Ok(Self { http: self.http.by(http)?, ..self.clone() })
    }

    /// Returns the same for what nobody waits for; see [`Http::gently`].
    pub(super) fn gently(&self) -> Result<Self, ConfigError> {
        Ok(Self { http: self.http.gently()?, ..self.clone() })
    }

    pub(super) fn http(&self) -> &Http {
        &self.http
    }

    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    pub(super) fn is_signed(&self) -> bool {
        self.signer.is_some()
    }

    /// Has a connection ready for the next read.
    pub(super) async fn prepare(&self) {
        self.http.prepare().await;
    }

    /// See [`EdgeBackend::size`](super::EdgeBackend::size).
    pub(super) async fn size(&self, hash: &Hash) -> Result<u64, EdgeError> {
        let task = Task { action: Action::Size, hash: *hash };
        let path = blob_path(hash);
        self.size_of(&path).await.map_err(|failure| failure.during(task))
    }

    /// Asks for the length of what lies at `path`.
    pub(super) async fn size_of(&self, path: &str) -> Result<u64, Failure> {
        let answer = self.http.send(self.request(Method::HEAD, path)?).await?;
        let size = match answer.status() {
            StatusCode::OK if answer::is_web_page(answer.headers()) => {
                return Err(Failure::Breach(Breach::WebPage));
            }
            StatusCode::OK => answer::content_length(answer.headers()),
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                return Err(Failure::Refusal(self.http.refusal(answer, self.is_signed()).await));
            }
            _ => None,
        };
        match size {
            Some(size) => Ok(size),
            // A HEAD's answer has no body that would say why; some servers do not know HEAD at all.
            None => self.size_by_read(path).await,
        }
    }

    async fn size_by_read(&self, path: &str) -> Result<u64, Failure> {
        match self.open(path, Some(&(0..1)), u64::MAX).await {
            Ok((promise, _)) => Ok(promise.size),
            // Only of an empty blob the first byte lies outside.
            Err(Failure::Range { .. }) => Ok(0),
            Err(failure) => Err(failure),
        }
    }

    /// See [`EdgeBackend::group_file`](super::EdgeBackend::group_file).
    pub(super) async fn group_file(
        &self,
        hash: &Hash,
        len_max: u64,
    ) -> Result<Option<Bytes>, EdgeError> {
        let task = Task { action: Action::GroupList, hash: *hash };
        let file = match self.open(&groups_path(hash), None, len_max).await {
            Ok((promise, mut answer)) => {
                let len_max = usize::try_from(promise.size).unwrap_or(usize::MAX);
                self.http.collect(&mut answer, len_max).await
            }
            Err(failure) => Err(failure),
        };
        match file.map_err(|failure| failure.during(task)) {
            Ok(file) => Ok(file),
            Err(EdgeError::Protocol { breach, .. }) => {
                debug!(hash = hash.fmt_short(), %breach, "the edge's group list is not usable");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// See [`EdgeBackend::read`](super::EdgeBackend::read).
    pub(super) async fn read(
        &self,
        hash: &Hash,
        range: Option<Range<u64>>,
    ) -> Result<EdgeBody, EdgeError> {
        let task = Task { action: Action::Read, hash: *hash };
        let size_max = self.http.options().blob_bytes_max;
        // No blob that would be taken reaches beyond the bound, and some servers read numbers that
        // large as a malformed request.
        let range = range.map(|range| range.start..range.end.min(size_max));
        let opened = self.open(&blob_path(hash), range.as_ref(), size_max).await;
        let (promise, answer) = opened.map_err(|failure| failure.during(task))?;
        let body = self.http.body(&answer, promise.range.end - promise.range.start);
        Ok(EdgeBody::remote(promise, answer, body, task))
    }

    /// Reads an object that is no blob; none where it is as before.
    pub(super) async fn object(
        &self,
        task: Task,
        wanted: &Wanted<'_>,
    ) -> Result<Option<Object>, EdgeError> {
        self.object_at(wanted).await.map_err(|failure| failure.during(task))
    }

    async fn object_at(&self, wanted: &Wanted<'_>) -> Result<Option<Object>, Failure> {
        let mut request = self.request(Method::GET, wanted.path)?;
        let range = wanted.range.as_ref();
        if let Some(range) = range {
            request.headers_mut().insert(RANGE, range_header(range)?);
        }
        if let Some(tag) = wanted.unless.and_then(|tag| HeaderValue::from_str(tag).ok()) {
            request.headers_mut().insert(IF_NONE_MATCH, tag);
        }
        let answer = self.http.send(request).await?;
        if wanted.unless.is_some() && answer.status() == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        let (promise, mut answer) = self.taken(answer, range, u64::MAX).await?;
        // All of it, where the server knows no ranges.
        let size = promise.range.end - promise.range.start;
        let size_max = wanted.len_max;
        let too_large = Failure::Breach(Breach::TooLarge { size, size_max });
        let Some(len) = usize::try_from(size).ok().filter(|_| size <= size_max) else {
            return Err(too_large);
        };
        let tag = answer::tag(answer.headers());
        let bytes = self.http.collect(&mut answer, len).await?.ok_or(too_large)?;
        let got = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let whole = range.is_none_or(|range| promise.range == *range);
        if got < size || !whole {
            return Err(Failure::Cut { got, expected: size, source: None });
        }
        Ok(Some(Object { bytes, tag }))
    }

    /// Asks for what lies at `path` and takes the answer only as far as its head is in order.
    async fn open(
        &self,
        path: &str,
        range: Option<&Range<u64>>,
        size_max: u64,
    ) -> Result<(Promise, Response), Failure> {
        let mut request = self.request(Method::GET, path)?;
        if let Some(range) = range {
            // Not among the signed headers, which need be no more than S3 asks for.
            request.headers_mut().insert(RANGE, range_header(range)?);
        }
        let answer = self.http.send(request).await?;
        self.taken(answer, range, size_max).await
    }

    /// Takes the head of an answer to a GET, which is to be a success.
    async fn taken(
        &self,
        mut answer: Response,
        range: Option<&Range<u64>>,
        size_max: u64,
    ) -> Result<(Promise, Response), Failure> {
        let status = answer.status();
        if status.is_success() {
            if answer.content_length() == Some(0) {
                // Over HTTP/2 an answer may end with its head, and need not say that nothing follows.
                let length = answer.headers_mut().entry(CONTENT_LENGTH);
                length.or_insert(HeaderValue::from_static("0"));
            }
            let promise = answer::promise(status, answer.headers(), range, size_max)
                .map_err(Failure::Breach)?;
            return Ok((promise, answer));
        }
        if let (StatusCode::RANGE_NOT_SATISFIABLE, Some(range)) = (status, range) {
            let size = answer::unsatisfied_size(answer.headers());
            return Err(Failure::Range { start: range.start, end: range.end, size });
        }
        Err(Failure::Refusal(self.http.refusal(answer, self.is_signed()).await))
    }

    /// Asks for what lies at `path` and returns whatever answer comes; for a diagnosis.
    pub(super) async fn probe(&self, path: &str) -> Result<Response, Failure> {
        self.http.send(self.request(Method::GET, path)?).await
    }

    fn request(&self, method: Method, path: &str) -> Result<Request, Failure> {
        let mut url = self.base.clone();
        // Only URLs like `mailto:` refuse this; the base was checked to be HTTP.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path.split('/'));
        }
        let mut request = Request::new(method.clone(), url);
        if let Some(signer) = &self.signer {
            // Fails only without a crypto provider, and one is built in.
            *request.headers_mut() = signer
                .headers(method, request.url())
                .map_err(|source| Failure::Unreachable { reach: Reach::Connect, source })?;
        }
        Ok(request)
    }
}

fn range_header(range: &Range<u64>) -> Result<HeaderValue, Failure> {
    let empty = Failure::Range { start: range.start, end: range.end, size: None };
    if range.is_empty() {
        return Err(empty);
    }
    HeaderValue::try_from(format!("bytes={}-{}", range.start, range.end - 1)).map_err(|_| empty)
}
