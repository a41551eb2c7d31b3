//! The edge in a bucket with an S3 interface: R2, S3, MinIO and their like.
//!
//! Reads are signed requests of our own, so that status, error code, range and rate are seen as they
//! come. Writes go through `object_store`, which knows multipart uploads, over the same HTTP client:
//! path style, plain bodies of a known length, no checksum headers or trailers, equal parts. R2
//! refuses anything else. A push that is dropped in the middle of its parts, or fails in a way that may pass, leaves an
//! unfinished upload, which is invisible, and a [`journal`](super::journal) by which the next one goes on; R2 removes
//! such uploads after seven days.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use blobmesh_protocol::Hash;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::list::{PaginatedListOptions, PaginatedListStore as _};
use object_store::multipart::{MultipartStore as _, PartId};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, ObjectMeta, ObjectStore as _, PutMode, PutMultipartOptions, PutOptions,
    PutPayload, RetryConfig, UpdateVersion,
};
use tokio::time::timeout;
use tracing::debug;

use super::body::EdgeBody;
use super::diagnose::{self, Finding};
use super::error::{Action, Breach, ConfigError, EdgeError, Task};
use super::files;
use super::http::Http;
use super::journal::{Journal, Subject};
use super::location;
use super::options::EdgeOptions;
use super::policy::{Ask, Policy};
use super::remote::Remote;
use super::s3_transport::{Transport, error_of};
use super::sign::Signer;
use super::{CACHE_CONTROL, CONTENT_TYPE, EdgeBackend, Push, Pushed, blob_path, groups_path};
use crate::config::Credentials;

/// A body goes out in frames of this length, so that a stall shows while it is under way.
const FRAME_LEN: usize = 64 << 10;

/// Says which bucket, and who asks.
#[derive(Debug)]
pub(super) struct Bucket<'a> {
    pub(super) bucket: &'a str,
    pub(super) endpoint: &'a str,
    pub(super) region: &'a str,
    pub(super) prefix: &'a str,
    pub(super) credentials: Option<&'a Credentials>,
}

/// Says what must lie at a path so that a write takes its place.
#[derive(Clone, Debug)]
pub(super) enum Condition {
    /// Whatever lies there.
    None,
    /// Nothing.
    Absent,
    /// The version with this tag.
    Is(String),
}

/// Is a part of a listing.
#[derive(Clone, Debug)]
pub(super) struct Page {
    /// Paths below the base, in order, with lengths in bytes.
    pub(super) objects: Vec<(String, u64)>,
    /// What the next page is asked for with; none after the last one.
    pub(super) next: Option<String>,
}

/// Reads and writes a bucket.
#[derive(Clone)]
pub struct S3Edge {
    /// What reads, from the base URL `ENDPOINT/BUCKET[/PREFIX]`.
    remote: Remote,
    /// What every request of a push goes through.
    policy: Arc<Policy>,
    /// What writes; paths in it begin with the prefix.
    store: Arc<AmazonS3>,
    prefix: String,
    described: String,
}

impl std::fmt::Debug for S3Edge {
    /// Shows what [`describe`](EdgeBackend::describe) says: the S3 client would show its key id.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "S3Edge({})", self.described)
    }
}

impl S3Edge {
    pub(super) fn new(
        place: &Bucket<'_>,
        options: EdgeOptions,
        policy: Arc<Policy>,
    ) -> Result<Self, ConfigError> {
        location::check_bucket(place.bucket)?;
        location::check_region(place.region)?;
        location::check_prefix(place.prefix)?;
        let endpoint = location::endpoint_url(place.endpoint)?;
        if !options.plain_http {
            location::check_transport(&endpoint, location::Part::Endpoint)?;
        }
        let signer = place.credentials.map(|pair| Signer::new(pair, place.region)).transpose()?;
        let mut base = endpoint.clone();
        let parts = std::iter::once(place.bucket).chain(place.prefix.split('/'));
        if let Ok(mut segments) = base.path_segments_mut() {
            segments.pop_if_empty().extend(parts.filter(|part| !part.is_empty()));
        }
        let endpoint = location::without_slash(endpoint.as_str()).to_owned();
        let http = Http::new(&base, false, options)?;
        let store = client(place, &endpoint, &http, &policy)?;
        let described = match place.prefix {
            "" => format!("s3://{} at {endpoint}", place.bucket),
            prefix => format!("s3://{}/{prefix} at {endpoint}", place.bucket),
        };
        let remote = Remote::new(http, base, signer);
        let prefix = place.prefix.to_owned();
        Ok(Self { remote, policy, store: Arc::new(store), prefix, described })
    }

    /// Returns the same for what nobody waits for; see [`Http::gently`]. What it writes goes as before.
    pub(super) fn gently(&self) -> Result<Self, ConfigError> {
        Ok(Self { remote: self.remote.gently()?, ..self.clone() })
    }

    pub(super) fn remote(&self) -> &Remote {
        &self.remote
    }

    fn options(&self) -> &EdgeOptions {
        self.remote.http().options()
    }

    /// Returns whether `path` holds exactly `size` bytes.
    async fn has(&self, path: &str, size: u64, task: Task) -> Result<bool, EdgeError> {
        let size_of =
            || async { self.remote.size_of(path).await.map_err(|failure| failure.during(task)) };
        match self.policy.run(Ask::Push, task, size_of).await {
            Ok((found, flight)) => {
                flight.served();
                Ok(found == size)
            }
            Err(EdgeError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn key(&self, path: &str) -> Path {
        match self.prefix.as_str() {
            "" => Path::from(path),
            prefix => Path::from(format!("{prefix}/{path}")),
        }
    }

    async fn put(&self, path: &str, bytes: Bytes, task: Task) -> Result<(), EdgeError> {
        self.put_object(path, bytes, CACHE_CONTROL, (Condition::None, task)).await.map(|_| ())
    }

    /// Writes an object under a condition, and returns the tag of what lies there then, where the service tells one.
    ///
    /// # Errors
    /// [`EdgeError::Changed`] where the condition does not hold.
    pub(super) async fn put_object(
        &self,
        path: &str,
        bytes: Bytes,
        cache_control: &'static str,
        (condition, task): (Condition, Task),
    ) -> Result<Option<String>, EdgeError> {
        let mode = match condition {
            Condition::None => PutMode::Overwrite,
            Condition::Absent => PutMode::Create,
            Condition::Is(tag) => {
                PutMode::Update(UpdateVersion { e_tag: Some(tag), version: None })
            }
        };
        let attributes = attributes(cache_control);
        let options = PutOptions { mode, attributes, ..PutOptions::default() };
        let put = self.store.put_opts(&self.key(path), framed(bytes), options).await;
        put.map(|put| put.e_tag).map_err(|error| error_of(error, task))
    }

    /// Lists objects whose path below the base begins so, up to a thousand, from where the page before ended.
    pub(super) async fn list(
        &self,
        path: &str,
        after: Option<String>,
        task: Task,
    ) -> Result<Page, EdgeError> {
        let base = match self.prefix.as_str() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        let options = PaginatedListOptions { page_token: after, ..PaginatedListOptions::default() };
        let listed = self.store.list_paginated(Some(&format!("{base}{path}")), options).await;
        let listed = listed.map_err(|error| error_of(error, task))?;
        let below = |object: ObjectMeta| {
            let path = object.location.as_ref().strip_prefix(&base)?.to_owned();
            Some((path, object.size))
        };
        let objects = listed.result.objects.into_iter().filter_map(below).collect();
        Ok(Page { objects, next: listed.page_token })
    }

    async fn put_blob(&self, push: &mut Push<'_>, task: Task) -> Result<(), EdgeError> {
        let size = push.source.size();
        let path = blob_path(&push.hash);
        if size > self.options().multipart_above {
            return self.put_in_parts(&path, push, task).await;
        }
        let bytes = push.source.read(0, size, task).await?;
        self.put(&path, bytes, task).await?;
        (push.progress)(size);
        Ok(())
    }

    /// Sends a blob in parts, those of them that an earlier push has not sent.
    async fn put_in_parts(
        &self,
        path: &str,
        push: &mut Push<'_>,
        task: Task,
    ) -> Result<(), EdgeError> {
        let key = self.key(path);
        let subject = self.subject(push);
        if let Some(journal) = interrupted(subject.clone()).await {
            let known = journal.parts.len();
            debug!(hash = task.hash.fmt_short(), known, "an interrupted upload is taken up");
            match self.put_rest((path, &key), journal, push, task).await {
                // The edge does not know it any more, or not so.
                Err(error) if !error.is_temporary() && !matches!(error, EdgeError::Io { .. }) => {
                    debug!(%error, "the upload is begun anew");
                }
                ended => return ended,
            }
        }
        let options = PutMultipartOptions {
            attributes: attributes(CACHE_CONTROL),
            ..PutMultipartOptions::default()
        };
        let upload = self.store.create_multipart_opts(&key, options).await;
        let upload = upload.map_err(|error| error_of(error, task))?;
        let journal = remembered(upload, subject).await;
        self.put_rest((path, &key), journal, push, task).await
    }

    /// Sends what is missing of an upload, and completes it. What a failure leaves that may pass is for the next push.
    async fn put_rest(
        &self,
        (path, key): (&str, &Path),
        mut journal: Journal,
        push: &mut Push<'_>,
        task: Task,
    ) -> Result<(), EdgeError> {
        let put = match self.put_parts(key, &mut journal, push, task).await {
            Ok(parts) => match self.complete((key, &journal.upload), parts, task).await {
                // The answer may have been lost, and what was asked for done.
                Err(error) => match self.has(path, push.source.size(), task).await {
                    Ok(true) => Ok(()),
                    Ok(false) | Err(_) => Err(error),
                },
                Ok(()) => Ok(()),
            },
            Err(error) => Err(error),
        };
        match &put {
            Ok(()) => {}
            Err(error) if error.is_temporary() && journal.is_kept() => return put,
            Err(_) => self.abort(key, &journal.upload, task).await,
        }
        // It holds no data: nothing to wait for.
        let _ended = files::blocking(move || journal.end()).await;
        put
    }

    /// Has the edge make a blob of its parts.
    async fn complete(
        &self,
        (key, upload): (&Path, &str),
        parts: Vec<PartId>,
        task: Task,
    ) -> Result<(), EdgeError> {
        let done = self.store.complete_multipart(key, &upload.to_owned(), parts).await;
        match done.map_err(|error| error_of(error, task)) {
            Ok(_) => Ok(()),
            // An edge begins this answer before it is done: an error of its own comes in a success then, and another attempt
            // with the same parts may do.
            Err(EdgeError::Protocol { breach: Breach::Unintelligible { source }, .. }) => {
                debug!(%source, "the edge could not complete an upload");
                Err(EdgeError::Busy { task, status: 200, retry_after: None })
            }
            Err(error) => Err(error),
        }
    }

    /// Says what a journal of this push is about, and where it lies; none where uploads are not remembered.
    fn subject(&self, push: &Push<'_>) -> Option<(PathBuf, Subject)> {
        let dir = self.options().uploads.clone()?;
        let (hash, place, size) = (push.hash, self.described.clone(), push.source.size());
        let part_len = self.options().part_len_of(size);
        Some((dir, Subject { hash, place, size, part_len }))
    }

    /// Sends the parts that the journal does not have, a few at a time, and returns the ids of all in order.
    async fn put_parts(
        &self,
        key: &Path,
        journal: &mut Journal,
        push: &mut Push<'_>,
        task: Task,
    ) -> Result<Vec<PartId>, EdgeError> {
        let size = push.source.size();
        let part_len = self.options().part_len_of(size);
        let upload = journal.upload.clone();
        let mut flying = FuturesUnordered::new();
        let (mut offset, mut index, mut sent) = (0, 0, 0);
        while offset < size || !flying.is_empty() {
            let len = size.saturating_sub(offset).min(part_len);
            if offset < size && journal.parts.contains_key(&index) {
                (offset, index, sent) = (offset + len, index + 1, sent + len);
                (push.progress)(sent);
            } else if offset < size && flying.len() < self.options().parts_at_once {
                let bytes = push.source.read(offset, part_len, task).await?;
                let (part, upload) = (index, &upload);
                flying.push(async move {
                    (part, len, self.store.put_part(key, upload, part, framed(bytes)).await)
                });
                (offset, index) = (offset + len, index + 1);
            } else if let Some((index, len, part)) = flying.next().await {
                // A line of some bytes into the page cache.
                journal.took(index, part.map_err(|error| error_of(error, task))?.content_id);
                sent += len;
                (push.progress)(sent);
            }
        }
        let parts = std::mem::take(&mut journal.parts).into_values();
        Ok(parts.map(|content_id| PartId { content_id }).collect())
    }

    /// Gives an unfinished upload up, so that its parts are not kept and billed.
    async fn abort(&self, key: &Path, upload: &String, task: Task) {
        let abort = self.store.abort_multipart(key, upload);
        let ended = timeout(self.options().first_byte_timeout, abort).await;
        if !matches!(ended, Ok(Ok(()))) {
            debug!(hash = task.hash.fmt_short(), "an unfinished upload could not be given up");
        }
    }
}

impl EdgeBackend for S3Edge {
    fn describe(&self) -> String {
        self.described.clone()
    }

    async fn size(&self, hash: &Hash) -> Result<u64, EdgeError> {
        self.remote.size(hash).await
    }

    async fn group_file(&self, hash: &Hash, len_max: u64) -> Result<Option<Bytes>, EdgeError> {
        self.remote.group_file(hash, len_max).await
    }

    async fn read(&self, hash: &Hash, range: Option<Range<u64>>) -> Result<EdgeBody, EdgeError> {
        self.remote.read(hash, range).await
    }

    async fn push(&self, mut push: Push<'_>) -> Result<Pushed, EdgeError> {
        let task = Task { action: Action::Push, hash: push.hash };
        let (path, size) = (blob_path(&push.hash), push.source.size());
        let existed = !push.absent && self.has(&path, size, task).await?;
        if !existed {
            self.put_blob(&mut push, task).await?;
        }
        if let Some(file) = push.group_file {
            let path = groups_path(&push.hash);
            let len = u64::try_from(file.len()).unwrap_or(u64::MAX);
            // Beside a new blob, a list of the right length may be as wrong as the blob's old bytes were.
            if !existed || !self.has(&path, len, task).await? {
                self.put(&path, file, task).await?;
            }
        }
        Ok(Pushed { existed })
    }

    async fn diagnose(&self) -> Vec<Finding> {
        diagnose::bucket(&self.remote).await
    }
}

fn client(
    place: &Bucket<'_>,
    endpoint: &str,
    http: &Http,
    policy: &Arc<Policy>,
) -> Result<AmazonS3, ConfigError> {
    let transport = Transport::new(http.clone(), Arc::clone(policy), place.credentials.is_some());
    // The policy makes requests again; nothing else does.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let builder = AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_allow_http(true)
        .with_bucket_name(place.bucket)
        .with_region(place.region)
        .with_virtual_hosted_style_request(false)
        .with_unsigned_payload(true)
        .with_retry(retry)
        .with_http_connector(transport);
    let builder = match place.credentials {
        Some(pair) => builder
            .with_access_key_id(&pair.access_key_id)
            .with_secret_access_key(&pair.secret_access_key),
        None => builder.with_skip_signature(true),
    };
    builder.build().map_err(|error| ConfigError::Client { source: Arc::new(error) })
}

/// Returns the upload that an earlier push of the same blob has left.
async fn interrupted(subject: Option<(PathBuf, Subject)>) -> Option<Journal> {
    let (dir, subject) = subject?;
    let resume = move || Ok(Journal::resume(&dir, &subject, SystemTime::now()));
    files::blocking(resume).await.ok().flatten()
}

/// Has the next push know of an upload; where that cannot be written, none does.
async fn remembered(upload: String, subject: Option<(PathBuf, Subject)>) -> Journal {
    let Some((dir, subject)) = subject else { return Journal::fleeting(upload) };
    let named = upload.clone();
    let begin = move || Journal::begin(&dir, &subject, &named, SystemTime::now());
    files::blocking(begin).await.unwrap_or_else(|error| {
        debug!(%error, "an upload cannot be remembered");
        Journal::fleeting(upload)
    })
}

fn attributes(cache_control: &'static str) -> Attributes {
    let mut attributes = Attributes::new();
    attributes.insert(Attribute::ContentType, CONTENT_TYPE.into());
    attributes.insert(Attribute::CacheControl, cache_control.into());
    attributes
}

fn framed(mut bytes: Bytes) -> PutPayload {
    let mut frames = Vec::with_capacity(bytes.len().div_ceil(FRAME_LEN));
    while !bytes.is_empty() {
        frames.push(bytes.split_to(bytes.len().min(FRAME_LEN)));
    }
    frames.into_iter().collect()
}
