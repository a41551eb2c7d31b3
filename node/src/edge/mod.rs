//! The edge: where blobs come from that no neighbour has.
//!
//! One contract, [`EdgeBackend`], and three backends: a plain [directory](DirectoryEdge), a [public
//! URL](PublicEdge) and a [bucket](S3Edge) with an S3 interface; [`Edge`] is any of them. All lay a
//! blob at `{base}/blobs/{2 hex digits}/{62 hex digits}` as its own bytes, so that any other tool can
//! read them, and its group list beside it with `.groups` at the end of the name.
//!
//! What comes from an edge is as untrusted as what comes from a peer: the edge checks status, range,
//! length and rate of an answer, and **whoever reads verifies the bytes** against the hash. A path is
//! made from a hash and nothing else, and nobody but the node's own configuration names an edge.
//!
//! Between the callers and the backend stands a policy (`policy`), one for all that a node asks of its edge: it
//! says what is asked again, and when the edge is left alone. It does not choose between tiers; it says
//! what went wrong ([`EdgeError`]) and the resolver decides. Backends know nothing of it but for the
//! requests of a push, each of which goes through it. `EDGE.md` says what users see of all this.
//!
//! Proxy variables of the environment are not used. Credentials appear in no log, error, URL or `Debug`
//! output.

mod answer;
mod body;
mod diagnose;
mod directory;
mod error;
mod files;
mod http;
#[cfg(feature = "http3")]
mod http3;
#[cfg(not(feature = "http3"))]
#[path = "http3_absent.rs"]
mod http3;
mod journal;
mod location;
mod measure;
mod object;
mod options;
mod pace;
pub(crate) mod packs;
mod policy;
mod public;
mod remote;
mod s3;
mod s3_transport;
mod sign;
mod source;
mod spare;
mod spread;

use std::future::Future;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{GROUP_LEN, GroupList, ProvisionalList, group_count};
use bytes::Bytes;
use tokio::sync::OnceCell;
use tracing::debug;

pub use answer::RETRY_AFTER_MAX;
pub use body::EdgeBody;
pub use diagnose::{Figures, Finding, Verdict};
pub use directory::DirectoryEdge;
pub use error::{Action, Breach, Cause, ConfigError, EdgeError, Reach, Task};
pub use location::{EdgeLocation, LocationError, Part, REGION_DEFAULT};
pub use options::{EdgeHttp, EdgeOptions, PolicyOptions};
pub use policy::{EdgeState, EdgeStats};
pub use public::PublicEdge;
pub use s3::S3Edge;
pub use source::file_source;

use crate::config::EdgeConfig;
use answer::Promise;
use object::{Object, Wanted};
use packs::Packs;
use policy::{Ask, Policy};
use s3::Bucket;
use source::Source;

/// The content type of everything pushed: bytes, and nothing a browser would run.
const CONTENT_TYPE: &str = "application/octet-stream";
/// What caches are told of everything pushed: a blob's name is its content, so it never changes.
const CACHE_CONTROL: &str = "public, max-age=31536000, immutable";
/// The length of a group list's file before its entries, and of one entry.
const GROUP_FILE_HEADER_LEN: u64 = 16;
const GROUP_FILE_ENTRY_LEN: u64 = 32;

/// Is the contract of every edge; one suite of tests holds all backends to it.
///
/// Futures may be dropped at any time. A dropped read leaves nothing behind; a dropped push leaves
/// either the whole blob under its name or nothing there, and maybe what the next push of it goes on with.
pub trait EdgeBackend {
    /// Says where the edge is, for people; never with a secret.
    fn describe(&self) -> String;

    /// Asks how long a blob is, in bytes.
    ///
    /// # Errors
    /// [`EdgeError::NotFound`] where the edge has no such blob.
    fn size(&self, hash: &Hash) -> impl Future<Output = Result<u64, EdgeError>> + Send;

    /// Reads the bytes of a blob's `.groups` file, `None` where it is longer than `len_max` bytes or no
    /// file at all.
    ///
    /// # Errors
    /// [`EdgeError::NotFound`] where there is none.
    fn group_file(
        &self,
        hash: &Hash,
        len_max: u64,
    ) -> impl Future<Output = Result<Option<Bytes>, EdgeError>> + Send;

    /// Begins to read a blob, or `range` of it in bytes; a range is cut at the blob's end.
    ///
    /// # Errors
    /// [`EdgeError::Range`] where the range is empty or begins at or past the blob's end.
    fn read(
        &self,
        hash: &Hash,
        range: Option<Range<u64>>,
    ) -> impl Future<Output = Result<EdgeBody, EdgeError>> + Send;

    /// Writes a blob and then its group list, unless the edge has them in these lengths.
    fn push(&self, push: Push<'_>) -> impl Future<Output = Result<Pushed, EdgeError>> + Send;

    /// Looks for what people get wrong first, with at most one request that changes nothing.
    fn diagnose(&self) -> impl Future<Output = Vec<Finding>> + Send;
}

/// Is what one push writes.
pub struct Push<'a> {
    hash: Hash,
    source: Source,
    /// The bytes of its group list; none of a blob of one group, which its hash alone verifies.
    group_file: Option<Bytes>,
    /// Whether the edge is known not to have it.
    absent: bool,
    /// Takes the bytes of the blob written so far.
    progress: &'a mut (dyn FnMut(u64) + Send),
}

impl std::fmt::Debug for Push<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Push").field("hash", &self.hash).finish_non_exhaustive()
    }
}

/// Tells how a push ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Whether the edge had a blob of that name and length before, so that none was written.
    pub existed: bool,
}

/// Is the edge of a node; cheap to clone. All clones share one pool of connections and one policy, which
/// says what is asked again and when the edge is left alone ([`PolicyOptions`]).
#[derive(Clone, Debug)]
pub struct Edge {
    backend: Backend,
    policy: Arc<Policy>,
    packs: Arc<Packs>,
    /// Reads what nobody waits for; made when there is some.
    gentle: Arc<OnceCell<Backend>>,
}

#[derive(Clone, Debug)]
enum Backend {
    Directory(DirectoryEdge),
    Public(PublicEdge),
    S3(S3Edge),
}

impl Edge {
    /// Makes an edge; nothing is asked of it yet.
    ///
    /// # Errors
    /// [`EdgeError::Config`] that names what is wrong.
    pub fn new(config: &EdgeConfig, options: EdgeOptions) -> Result<Self, EdgeError> {
        options.check()?;
        let mut allowed = options.policy.clone();
        if matches!(config, EdgeConfig::Directory { .. }) {
            // A look there costs nothing, and who shares a folder expects to see what is put in.
            allowed.absent_keep = Duration::ZERO;
        }
        let policy = Arc::new(Policy::new(allowed));
        let backend = match config {
            EdgeConfig::Directory { path } => Backend::Directory(DirectoryEdge::new(path, options)),
            EdgeConfig::Public { url } => Backend::Public(PublicEdge::new(url, options)?),
            EdgeConfig::S3 { bucket, endpoint, region, prefix, credentials } => {
                let credentials = credentials.as_ref();
                let bucket = Bucket { bucket, endpoint, region, prefix, credentials };
                Backend::S3(S3Edge::new(&bucket, options, Arc::clone(&policy))?)
            }
        };
        Ok(Self { backend, policy, packs: Arc::new(Packs::new()), gentle: Arc::default() })
    }

    /// Returns the same edge for reads that nobody waits for: they share a connection of their own, on which only a little
    /// is ever on its way, so that whoever begins to wait for something has the uplink at once.
    pub(crate) async fn gently(&self) -> Self {
        let made = self.gentle.get_or_init(|| async {
            let backend = self.backend.clone();
            // Certificates are read.
            let made = files::blocking(move || Ok(backend.gently())).await;
            // What could be made once fails only where certificates went away.
            made.ok().and_then(Result::ok).unwrap_or_else(|| self.backend.clone())
        });
        Self { backend: made.await.clone(), ..self.clone() }
    }

    /// Says where the edge is, for people; never with a secret.
    pub fn describe(&self) -> String {
        match &self.backend {
            Backend::Directory(edge) => edge.describe(),
            Backend::Public(edge) => edge.describe(),
            Backend::S3(edge) => edge.describe(),
        }
    }

    /// Returns what was asked of the edge so far, what was not, and how it is treated now.
    pub fn stats(&self) -> EdgeStats {
        self.policy.stats()
    }

    /// Takes in that somebody put a blob on the edge: that it was missing a moment ago is forgotten.
    pub fn announced(&self, hash: &Hash) {
        self.policy.announced(*hash);
        self.packs.is_old();
    }

    /// Has a connection ready for a read that may come soon, and keeps it for a few seconds where none does. Nothing is
    /// asked of the edge, and nothing is done for a directory, nor while the edge is left alone.
    ///
    /// What goes wrong is told by the read. Dropping the future ends it.
    pub(crate) async fn prepare(&self) {
        if self.stats().state != EdgeState::Serving {
            return;
        }
        match &self.backend {
            Backend::Directory(_) => {}
            Backend::Public(edge) => edge.remote().prepare().await,
            Backend::S3(edge) => edge.remote().prepare().await,
        }
    }

    /// Returns whether what is asked at once has a connection for each request because the edge can do no better, as far
    /// as is known.
    pub(crate) fn is_apart(&self) -> bool {
        match &self.backend {
            Backend::Directory(_) => false,
            Backend::Public(edge) => edge.remote().http().is_apart(),
            Backend::S3(edge) => edge.remote().http().is_apart(),
        }
    }

    /// Asks how long a blob is, in bytes; see [`EdgeBackend::size`]. Of one that lies in a pack the index tells.
    pub async fn size(&self, hash: &Hash) -> Result<u64, EdgeError> {
        let known = || self.indexed_size(hash);
        if let Some(size) = known() {
            return Ok(size);
        }
        match self.size_of_object(hash).await {
            Err(EdgeError::NotFound { task }) => {
                self.look_after_miss().await;
                known().ok_or(EdgeError::NotFound { task })
            }
            asked => asked,
        }
    }

    /// Returns the length of a blob that lies in a pack, as far as the index is known.
    pub(crate) fn indexed_size(&self, hash: &Hash) -> Option<u64> {
        self.indexed(hash).map(|entry| entry.size)
    }

    async fn size_of_object(&self, hash: &Hash) -> Result<u64, EdgeError> {
        let task = Task { action: Action::Size, hash: *hash };
        let asked = self.policy.run(Ask::Size(*hash), task, || self.backend.size(hash)).await;
        let (size, flight) = asked?;
        flight.served();
        Ok(size)
    }

    /// Reads the group list of a blob of at most `size_max` bytes.
    ///
    /// `None` where the edge has none, or has one that cannot be of this blob: a blob without a list is
    /// still whole, and a bad list is worth no more than none.
    pub async fn group_list(
        &self,
        hash: &Hash,
        size_max: u64,
    ) -> Result<Option<ProvisionalList>, EdgeError> {
        let task = Task { action: Action::GroupList, hash: *hash };
        let Some(file) = self.group_file(task, size_max).await? else { return Ok(None) };
        let hash = *hash;
        // Merging a long list takes a tenth of a second.
        let read = files::blocking(move || Ok(ProvisionalList::from_file(hash, &file, size_max)));
        match read.await.map_err(|error| EdgeError::io(task, None, error))? {
            Ok(list) => Ok(Some(list)),
            Err(error) => {
                debug!(hash = hash.fmt_short(), %error, "the edge's group list is not usable");
                Ok(None)
            }
        }
    }

    async fn group_file(&self, task: Task, size_max: u64) -> Result<Option<Bytes>, EdgeError> {
        let len_max = group_file_len(size_max);
        let hash = &task.hash;
        let read = || self.backend.group_file(hash, len_max);
        match self.policy.run(Ask::GroupList(*hash), task, read).await {
            Ok((file, flight)) => {
                flight.served();
                Ok(file)
            }
            Err(EdgeError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Begins to read a blob, or `range` of it in bytes; see [`EdgeBackend::read`].
    ///
    /// A blob that the index of packs knows is read out of its pack. Any other is asked for under its own name, and
    /// when it is not there the index is looked at again, once a minute at most.
    ///
    /// It is asked again, where that helps, up to the head of the answer. What goes wrong with the body
    /// is told by [`EdgeBody::chunk`], and left to whoever reads: it has some of the bytes.
    pub async fn read(
        &self,
        hash: &Hash,
        range: Option<Range<u64>>,
    ) -> Result<EdgeBody, EdgeError> {
        let task = Task { action: Action::Read, hash: *hash };
        if let Some(bytes) = self.packed(task).await? {
            return body_of(task, bytes, range);
        }
        match self.read_object(hash, range.clone()).await {
            Err(EdgeError::NotFound { .. }) => {
                // Somebody else may have looked meanwhile.
                self.look_after_miss().await;
                let bytes = self.packed(task).await?.ok_or(EdgeError::NotFound { task })?;
                body_of(task, bytes, range)
            }
            read => read,
        }
    }

    async fn read_object(
        &self,
        hash: &Hash,
        range: Option<Range<u64>>,
    ) -> Result<EdgeBody, EdgeError> {
        let task = Task { action: Action::Read, hash: *hash };
        let ask = Ask::Bytes(*hash, range.as_ref().map_or(0, |range| range.start));
        let read = || self.backend.read(hash, range.clone());
        debug!(hash = hash.fmt_short(), ?range, "the edge is asked");
        let (body, flight) = self.policy.run(ask, task, read).await?;
        debug!(hash = hash.fmt_short(), range = ?body.range, "the edge answers");
        Ok(body.followed_by(flight))
    }

    /// Writes a blob of `size` bytes and then its group list, unless the edge has both already. A blob of one group
    /// has no list.
    ///
    /// `source` gives the bytes at an offset, as many as asked for; it is called in order, on a thread
    /// that may block ([`file_source`] reads a file). `progress` takes the bytes written so far. The
    /// blob's bytes are not verified here.
    ///
    /// # Errors
    /// [`EdgeError::ReadOnly`] for a public URL; [`EdgeError::Io`] when the source fails or is short.
    pub async fn push(
        &self,
        hash: &Hash,
        size: u64,
        list: &GroupList,
        source: impl FnMut(u64, usize) -> io::Result<Bytes> + Send + 'static,
        progress: impl FnMut(u64) + Send,
    ) -> Result<Pushed, EdgeError> {
        self.push_blob((hash, size, false), list, source, progress).await
    }

    /// Does the same; a blob that is known to be `absent` is written without a question.
    pub(crate) async fn push_blob(
        &self,
        (hash, size, absent): (&Hash, u64, bool),
        list: &GroupList,
        source: impl FnMut(u64, usize) -> io::Result<Bytes> + Send + 'static,
        mut progress: impl FnMut(u64) + Send,
    ) -> Result<Pushed, EdgeError> {
        if list.hash() != *hash || list.size() != size {
            let task = Task { action: Action::Push, hash: *hash };
            return Err(EdgeError::WrongList { task });
        }
        let push = Push {
            hash: *hash,
            source: Source::new(size, source),
            group_file: (size > GROUP_LEN).then(|| Bytes::from(list.to_file())),
            absent,
            progress: &mut progress,
        };
        let pushed = match &self.backend {
            Backend::Directory(edge) => edge.push(push).await,
            Backend::Public(edge) => edge.push(push).await,
            Backend::S3(edge) => edge.push(push).await,
        }?;
        self.policy.announced(*hash);
        Ok(pushed)
    }

    /// Looks for what people get wrong first, with at most one request that changes nothing; whatever
    /// the policy says, and without counting there.
    pub async fn diagnose(&self) -> Vec<Finding> {
        match &self.backend {
            Backend::Directory(edge) => edge.diagnose().await,
            Backend::Public(edge) => edge.diagnose().await,
            Backend::S3(edge) => edge.diagnose().await,
        }
    }
}

impl Edge {
    /// Measures how far away the edge is and, with a blob that it has, what each HTTP brings, and says which to
    /// choose: up to 18 requests and 32 MiB for each, past the policy. Nothing is measured of a directory.
    pub async fn measure(&self, blob: Option<Hash>) -> Vec<Finding> {
        match &self.backend {
            Backend::Directory(_) => Vec::new(),
            Backend::Public(edge) => measure::measure(edge.remote(), blob).await,
            Backend::S3(edge) => measure::measure(edge.remote(), blob).await,
        }
    }
}

impl Backend {
    fn gently(&self) -> Result<Self, ConfigError> {
        Ok(match self {
            Self::Directory(edge) => Self::Directory(edge.clone()),
            Self::Public(edge) => Self::Public(edge.gently()?),
            Self::S3(edge) => Self::S3(edge.gently()?),
        })
    }

    async fn size(&self, hash: &Hash) -> Result<u64, EdgeError> {
        match self {
            Self::Directory(edge) => edge.size(hash).await,
            Self::Public(edge) => edge.size(hash).await,
            Self::S3(edge) => edge.size(hash).await,
        }
    }

    async fn group_file(&self, hash: &Hash, len_max: u64) -> Result<Option<Bytes>, EdgeError> {
        match self {
            Self::Directory(edge) => edge.group_file(hash, len_max).await,
            Self::Public(edge) => edge.group_file(hash, len_max).await,
            Self::S3(edge) => edge.group_file(hash, len_max).await,
        }
    }

    async fn read(&self, hash: &Hash, range: Option<Range<u64>>) -> Result<EdgeBody, EdgeError> {
        match self {
            Self::Directory(edge) => edge.read(hash, range).await,
            Self::Public(edge) => edge.read(hash, range).await,
            Self::S3(edge) => edge.read(hash, range).await,
        }
    }
}

impl Backend {
    /// Reads an object that is no blob; none where it is as before.
    async fn object(&self, task: Task, wanted: &Wanted<'_>) -> Result<Option<Object>, EdgeError> {
        match self {
            Self::Directory(edge) => edge.object(task, wanted).await,
            Self::Public(edge) => edge.remote().object(task, wanted).await,
            Self::S3(edge) => edge.remote().object(task, wanted).await,
        }
    }
}

/// Makes the body of a read of a blob that is here whole.
fn body_of(task: Task, bytes: Bytes, range: Option<Range<u64>>) -> Result<EdgeBody, EdgeError> {
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let promise = Promise::of(range, size, task)?;
    let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    let bytes = bytes.slice(place(promise.range.start)..place(promise.range.end));
    Ok(EdgeBody::memory(promise, bytes, task))
}

/// Returns how long the group list's file of a blob of `size` bytes is, above one group.
fn group_file_len(size: u64) -> u64 {
    let entries = group_count(size).saturating_mul(GROUP_FILE_ENTRY_LEN);
    entries.saturating_add(GROUP_FILE_HEADER_LEN)
}

/// Returns where a blob lies under the base of an edge.
fn blob_path(hash: &Hash) -> String {
    format!("blobs/{}", hash.sharded_path())
}

/// Returns where a blob's group list lies.
fn groups_path(hash: &Hash) -> String {
    format!("{}.groups", blob_path(hash))
}
