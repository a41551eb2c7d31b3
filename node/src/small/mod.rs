//! Small requests: many small blobs over one long-lived stream to each neighbour (SPEC.md, "Small
//! requests").
//!
//! The engine decides who is asked for what, and how many requests are out; here they are written, as many at
//! once as there are, and their answers taken in whatever order they come. [`requester`] is the task that has
//! one neighbour's stream, [`lane`] the thread that takes over where there is much to ask for, [`keeper`] the one that has blobs stored in batches, and [`provider`] answers.
//!
//! A blob is verified before anybody sees it: one that is kept by the store, on the thread that writes it, and
//! one that is only read right where it came in. That is the one hash which an async thread computes: of at
//! most a group, for which a way to another thread and back would take longer.

pub(crate) mod keeper;
mod lane;
#[cfg(test)]
mod lane_tests;
pub(crate) mod provider;
pub(crate) mod requester;
#[cfg(test)]
mod tests;

use blobmesh_protocol::engine::FetchOutcome;
use blobmesh_protocol::id::FetchId;
use blobmesh_protocol::wire::frame::{Frame, FrameReader};
use blobmesh_protocol::wire::message::{body_len_max, body_len_max_with_medium};
use blobmesh_protocol::wire::small::{BundleError, Longest, SMALL_ANSWER, SMALL_BLOB, open_bundle};
use blobmesh_protocol::{Hash, PeerId};
use bytes::Bytes;

use crate::transfer::FetchError;

/// How many requests wait for one neighbour's task, beside those that are out. The engine has no more of them
/// than hashes that it resolves.
pub(crate) const WAITING_MAX: usize = 1_024;
/// How many requests may be out on one stream: those that the engine has out, and as many that it has given
/// up and whose answers are still to come.
const UNANSWERED_MAX: usize = 1_024;

/// Is one small request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) fetch: FetchId,
    pub(crate) hash: Hash,
    /// Whether the blob goes into the store.
    pub(crate) keep: bool,
}

/// Says how a small request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) fetch: FetchId,
    pub(crate) peer: PeerId,
    pub(crate) hash: Hash,
    pub(crate) outcome: FetchOutcome,
    /// The blob, verified, where it was only to be read.
    pub(crate) bytes: Option<Bytes>,
}

/// Is told how small requests end.
pub(crate) trait Ends: Clone + Send + Sync + 'static {
    /// Hands in some ends; waits while too many were handed in. Ends come in no order.
    fn ended(&self, ends: Vec<End>) -> impl Future<Output = ()> + Send;

    /// Hands in some ends on a thread that may block, after it told of those blobs that it stored.
    fn stored(&self, ends: Vec<End>);
}

/// Takes a bundle apart: the answers in it, with blobs no longer than `longest`, of which nobody has looked at any. They
/// are work for a thread that may block.
///
/// # Errors
/// What breaks the rules of bundles.
fn answers_in(bundle: &[u8], longest: Longest) -> Result<Vec<Frame>, FetchError> {
    let bytes = open_bundle(bundle, longest)?;
    let (mut frames, mut rest) = (frames_of(longest), &bytes[..]);
    let mut answers = Vec::new();
    while !rest.is_empty() {
        let answer = frames.poll_frame(&mut rest)?.ok_or(FetchError::Short)?;
        if !matches!(answer.kind, SMALL_BLOB | SMALL_ANSWER) {
            return Err(FetchError::OutOfTurn { kind: answer.kind });
        }
        answers.push(answer);
    }
    Ok(answers)
}

/// Reads the frames of answers whose blobs are no longer than `longest`.
fn frames_of(longest: Longest) -> FrameReader {
    match longest {
        Longest::Small => FrameReader::new(body_len_max),
        Longest::Medium => FrameReader::new(body_len_max_with_medium),
    }
}

impl From<BundleError> for FetchError {
    fn from(error: BundleError) -> Self {
        match error {
            BundleError::Frame(error) => error.into(),
            BundleError::Codec(error) => error.into(),
        }
    }
}
