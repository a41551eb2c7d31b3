//! What can go wrong at the edge, told so that the resolver can decide and a person can act.
//!
//! Every error names the task it ended. No error holds a credential, a signature or a URL's query:
//! the HTTP client's errors are stripped of their URL before they become a `source()`.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::Hash;

use super::location::LocationError;
use crate::control::api::Trouble;

/// A cause that can be shared, since one failure may be told to several who wait for it.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// Names what the edge was doing, and for which blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// What was being done.
    pub action: Action,
    /// The blob.
    pub hash: Hash,
}

/// Kinds of work at the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Asking how long a blob is.
    Size,
    /// Reading a blob's group list.
    GroupList,
    /// Reading a blob's bytes.
    Read,
    /// Writing a blob and its group list.
    Push,
    /// Reading or writing the index of packs, which is about no blob.
    Index,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blob = self.hash.fmt_short();
        match self.action {
            Action::Size => write!(f, "asking the edge for the size of blob {blob}"),
            Action::GroupList => write!(f, "reading the group list of blob {blob} from the edge"),
            Action::Read => write!(f, "reading blob {blob} from the edge"),
            Action::Push => write!(f, "pushing blob {blob} to the edge"),
            Action::Index => f.write_str("using the edge's index of packs"),
        }
    }
}

/// Says how a connection to the edge failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The host's name has no usable address.
    Name,
    /// Nobody accepts connections there, or the connection broke before an answer.
    Connect,
    /// No TLS session came about: wrong certificate, or no TLS on that port.
    Tls,
    /// The connection was not made in time.
    Timeout,
    /// The directory, or the share that holds it, is not there.
    Directory,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "its name has no usable address",
            Self::Connect => "the connection failed",
            Self::Tls => "no TLS session came about",
            Self::Timeout => "the connection was not made in time",
            Self::Directory => "its directory is not there",
        })
    }
}

/// Says how an answer broke the rules, so that its bytes are not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Breach {
    /// A web page came with status 200, as from a login portal or a catch-all route.
    #[error("a web page came instead of a blob")]
    WebPage,
    /// The status means success, but neither 200 nor 206.
    #[error("status {status} came where 200 or 206 is due")]
    Status {
        /// The status.
        status: u16,
    },
    /// A 206 does not carry exactly the range that was asked for.
    #[error("bytes {wanted} were asked for and {found:?} came")]
    WrongRange {
        /// The range asked for, as `first-last`.
        wanted: String,
        /// The `Content-Range` or the length that came, cut to a bounded text.
        found: String,
    },
    /// The length is missing or not a number.
    #[error("the answer does not tell its length")]
    NoLength,
    /// The blob is larger than the bound.
    #[error("it has {size} bytes, more than the bound of {size_max}")]
    TooLarge {
        /// The length in bytes that was announced.
        size: u64,
        /// The bound in bytes.
        size_max: u64,
    },
    /// The body is encoded although no encoding was asked for.
    #[error("the answer is encoded as {encoding:?} although none was asked for")]
    Encoded {
        /// The encoding.
        encoding: String,
    },
    /// A redirect leads to another origin; none is followed.
    #[error("it redirects to another origin")]
    RedirectElsewhere,
    /// More redirects than are followed.
    #[error("it redirects more than {max} times")]
    RedirectLoop {
        /// How many are followed.
        max: usize,
    },
    /// The path is there and is not a regular file.
    #[error("{path:?} is not a regular file")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// What lies at the place of the index's head is none, or of a newer version: it is not written over.
    #[error("index/head is of another program, or of a newer version of this one")]
    ForeignIndex,
    /// An S3 answer to a write made no sense.
    #[error("the answer to a write makes no sense")]
    Unintelligible {
        /// What the S3 client said.
        #[source]
        source: Cause,
    },
}

/// Ends a task at the edge.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EdgeError {
    /// The edge answered, and does not have it.
    #[error("{task}: it is not there")]
    NotFound {
        /// The task.
        task: Task,
    },
    /// The edge refused a request without credentials: the bucket or URL is not public.
    #[error("{task}: a request without credentials was refused ({})", status_text(*.status, .code))]
    NotPublic {
        /// The task.
        task: Task,
        /// The HTTP status; R2 answers 400, others 401 or 403.
        status: u16,
        /// The S3 error code, empty where there is none.
        code: String,
        /// The edge's own words, bounded; empty where there are none.
        message: String,
    },
    /// The edge refused the key id or the signature, or the key has no right to this bucket.
    #[error("{task}: the credentials were refused ({})", status_text(*.status, .code))]
    BadCredentials {
        /// The task.
        task: Task,
        /// The HTTP status.
        status: u16,
        /// The S3 error code, empty where there is none.
        code: String,
        /// The edge's own words, bounded; empty where there are none.
        message: String,
    },
    /// The edge refused a signature because this machine's clock is wrong.
    #[error("{task}: the signature was refused because the clocks differ{}", skew_text(*.skew_s))]
    ClockSkew {
        /// The task.
        task: Task,
        /// This machine's clock minus the edge's, in seconds; none when the edge told no date.
        skew_s: Option<i64>,
    },
    /// The edge refused for another reason.
    #[error("{task}: the edge refused ({})", status_text(*.status, .code))]
    Refused {
        /// The task.
        task: Task,
        /// The HTTP status.
        status: u16,
        /// The S3 error code, empty where there is none.
        code: String,
        /// The edge's own words, bounded; empty where there are none.
        message: String,
    },
    /// Something else lies there than what the write was to replace: another node was faster.
    #[error("{task}: another node has changed it at the same time")]
    Changed {
        /// The task.
        task: Task,
    },
    /// This edge cannot be written to.
    #[error("{task}: a public URL is read only")]
    ReadOnly {
        /// The task.
        task: Task,
    },
    /// The edge could not be reached.
    #[error("{task}: {reach}")]
    Unreachable {
        /// The task.
        task: Task,
        /// How it failed.
        reach: Reach,
        /// The cause.
        #[source]
        source: Cause,
    },
    /// The edge accepted and then was silent, or slower than the bound.
    #[error("{task}: after {got} bytes it was silent or too slow for {} ms", waited.as_millis())]
    Stalled {
        /// The task.
        task: Task,
        /// The deadline or window that passed.
        waited: Duration,
        /// The bytes of the body that had moved before.
        got: u64,
    },
    /// The connection broke before the whole body was there.
    #[error("{task}: it was cut after {got} of {expected} bytes")]
    Cut {
        /// The task.
        task: Task,
        /// The bytes that came.
        got: u64,
        /// The bytes that were announced.
        expected: u64,
        /// The cause, where the transport gave one.
        #[source]
        source: Option<Cause>,
    },
    /// The edge is overloaded or failing for now (408, 429, 5xx).
    #[error("{task}: the edge cannot serve now ({status})")]
    Busy {
        /// The task.
        task: Task,
        /// The HTTP status.
        status: u16,
        /// How long the edge asks to wait, at most [`RETRY_AFTER_MAX`](super::RETRY_AFTER_MAX).
        retry_after: Option<Duration>,
    },
    /// The edge failed again and again and is left alone for a while; nothing was asked of it.
    #[error("the edge keeps failing and is left alone for {} ms more", left.as_millis())]
    LeftAlone {
        /// The task.
        task: Task,
        /// For how long; none while one request finds out whether it is back.
        left: Duration,
        /// The last failure.
        #[source]
        source: Arc<EdgeError>,
    },
    /// The answer broke the rules; none of its bytes were taken.
    #[error("{task}: {breach}")]
    Protocol {
        /// The task.
        task: Task,
        /// How.
        breach: Breach,
    },
    /// The range asked for is empty or begins past the end of what the edge has.
    #[error("{task}: bytes {start} to {end} lie outside of it")]
    Range {
        /// The task.
        task: Task,
        /// The first byte asked for.
        start: u64,
        /// The end asked for, exclusive.
        end: u64,
        /// The length in bytes that the edge has, where it told one.
        size: Option<u64>,
    },
    /// The group list given for a push is of another blob or another size.
    #[error("{task}: the group list belongs to another blob")]
    WrongList {
        /// The task.
        task: Task,
    },
    /// The edge is configured wrongly.
    #[error("the edge is configured wrongly")]
    Config {
        /// What is wrong.
        #[from]
        source: ConfigError,
    },
    /// A file of this machine, or of the edge directory, could not be read or written.
    #[error("{task}: {}", io_place(.path.as_ref()))]
    Io {
        /// The task.
        task: Task,
        /// The file; none when it is the source of a push.
        path: Option<PathBuf>,
        /// The cause.
        #[source]
        source: Arc<io::Error>,
    },
}

/// Says what is wrong with an edge's configuration.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConfigError {
    /// The location makes no sense.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// A part of the key pair is empty or has characters that no key has; never shown.
    #[error("{field} is empty or has white space or other characters that no key has")]
    Credentials {
        /// `access_key_id` or `secret_access_key`.
        field: &'static str,
    },
    /// An option is out of its bounds.
    #[error("option {option} is out of its bounds")]
    Option {
        /// The option's name.
        option: &'static str,
    },
    /// The certificates to trust cannot be read.
    #[error("the certificates in {} cannot be read", path.display())]
    Certificates {
        /// The file that was to hold them.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Cause,
    },
    /// HTTP/3 is asked for, and this program was built without it.
    #[error("HTTP/3 is not built in")]
    Http3NotBuilt,
    /// HTTP/3 is asked for from an edge without TLS.
    #[error("HTTP/3 needs an edge with https://")]
    Http3WithoutTls,
    /// The HTTP client could not be made; most often the system's certificates cannot be read.
    #[error("the HTTP client could not be set up")]
    Client {
        /// The cause.
        #[source]
        source: Cause,
    },
}

impl EdgeError {
    /// Returns whether the same request may succeed later without anybody changing anything.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { reach, .. } => *reach != Reach::Tls,
            Self::Stalled { .. } | Self::Cut { .. } | Self::Busy { .. } => true,
            Self::LeftAlone { source, .. } => source.is_temporary(),
            Self::NotFound { .. }
            | Self::NotPublic { .. }
            | Self::BadCredentials { .. }
            | Self::ClockSkew { .. }
            | Self::Refused { .. }
            | Self::Changed { .. }
            | Self::ReadOnly { .. }
            | Self::Protocol { .. }
            | Self::Range { .. }
            | Self::WrongList { .. }
            | Self::Config { .. }
            | Self::Io { .. } => false,
        }
    }

    /// Returns how long the edge asks to be left alone; none when it did not say.
    pub fn retry_after(&self) -> Option<Duration> {
        if let Self::Busy { retry_after, .. } = self { *retry_after } else { None }
    }

    /// Returns the kind of trouble this is for the user.
    pub fn trouble(&self) -> Trouble {
        match self {
            Self::NotFound { .. } => Trouble::NotFound,
            Self::NotPublic { .. } => Trouble::EdgeNotPublic,
            Self::BadCredentials { .. } => Trouble::EdgeBadCredentials,
            Self::ClockSkew { .. } => Trouble::EdgeClockSkew,
            Self::Refused { .. } => Trouble::EdgeRefused,
            Self::ReadOnly { .. } => Trouble::EdgeReadOnly,
            Self::LeftAlone { source, .. } => source.trouble(),
            Self::Protocol { breach: Breach::TooLarge { .. }, .. } => Trouble::TooLarge,
            // An answer that cannot be used says nothing about whether the blob exists.
            Self::Unreachable { .. }
            | Self::Stalled { .. }
            | Self::Cut { .. }
            | Self::Busy { .. }
            | Self::Changed { .. }
            | Self::Protocol { .. } => Trouble::Unreachable,
            // The edge's blob is shorter than the hash's.
            Self::Range { .. } => Trouble::WrongBytes,
            Self::WrongList { .. } => Trouble::Other,
            Self::Config { .. } => Trouble::Configuration,
            Self::Io { source, .. } if is_no_space(source.kind()) => Trouble::NoSpace,
            Self::Io { .. } => Trouble::File,
        }
    }
}

impl EdgeError {
    /// Says the same of another task.
    pub(super) fn of_task(&self, other: Task) -> Self {
        let mut error = self.clone();
        match &mut error {
            Self::NotFound { task }
            | Self::NotPublic { task, .. }
            | Self::BadCredentials { task, .. }
            | Self::ClockSkew { task, .. }
            | Self::Refused { task, .. }
            | Self::Changed { task }
            | Self::ReadOnly { task }
            | Self::Unreachable { task, .. }
            | Self::Stalled { task, .. }
            | Self::Cut { task, .. }
            | Self::Busy { task, .. }
            | Self::LeftAlone { task, .. }
            | Self::Protocol { task, .. }
            | Self::Range { task, .. }
            | Self::WrongList { task }
            | Self::Io { task, .. } => *task = other,
            Self::Config { .. } => {}
        }
        error
    }

    pub(super) fn io(task: Task, path: Option<PathBuf>, source: io::Error) -> Self {
        Self::Io { task, path, source: Arc::new(source) }
    }
}

fn is_no_space(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Walks the causes of an error, the nearest first.
///
/// An `io::Error` passes over the error that it carries when it is asked for its source, so it is
/// asked for what it carries.
pub(super) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    fn next<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(carried) => Some(carried),
            None => error.source(),
        }
    }
    std::iter::successors(next(error), |cause| next(*cause))
}

fn status_text(status: u16, code: &str) -> String {
    if code.is_empty() { status.to_string() } else { format!("{status} {code}") }
}

fn skew_text(skew_s: Option<i64>) -> String {
    match skew_s {
        Some(seconds) if seconds < 0 => format!(": ours is {} s behind", seconds.unsigned_abs()),
        Some(seconds) => format!(": ours is {seconds} s ahead"),
        None => String::new(),
    }
}

fn io_place(path: Option<&PathBuf>) -> String {
    match path {
        Some(path) => format!("{} could not be read or written", path.display()),
        None => "the blob's own bytes could not be read".to_owned(),
    }
}
