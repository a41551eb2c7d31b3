//! Why a fetch did not give the blob.

use std::time::Duration;

use blobmesh_protocol::blob::{GroupError, ListError, group_count, group_len};
use blobmesh_protocol::compress::CodecError;
use blobmesh_protocol::engine::FetchOutcome;
use blobmesh_protocol::wire::frame::FrameError;

use super::StreamError;
use crate::driver::describe;
use crate::edge::EdgeError;
use crate::store::StoreError;
use crate::swarm::{ConnectError, OpenError};

/// Says why a fetch did not give the blob, and with it whose fault that was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The source does not hold the blob.
    #[error("the source does not hold the blob")]
    Absent,
    /// The source cannot serve it now.
    #[error("the source is busy")]
    Busy {
        /// When to come again.
        retry_after: Duration,
    },
    /// The peer could not be reached.
    #[error("{0}")]
    Connect(ConnectError),
    /// No stream could be opened to the peer.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// The source refused the request.
    #[error("the source refused the request")]
    Refused,
    /// The stream broke.
    #[error("{0}")]
    Stream(#[from] StreamError),
    /// The source stopped before it had sent all it was asked for.
    #[error("the source stopped before the end")]
    Short,
    /// The source answered something else than it was asked.
    #[error("the source answered with a frame of kind {kind:#04x} out of turn")]
    OutOfTurn {
        /// The frame's kind.
        kind: u8,
    },
    /// The blob is larger than the bound, as the source claims.
    #[error("the source claims {size} bytes, more than the bound of {size_max}")]
    TooLarge {
        /// The claim.
        size: u64,
        /// The bound.
        size_max: u64,
    },
    /// The group list does not belong to the hash.
    #[error("{0}")]
    List(#[from] ListError),
    /// A group does not belong to the hash.
    #[error("{0}")]
    Group(#[from] GroupError),
    /// A group's payload does not decode.
    #[error("{0}")]
    Codec(#[from] CodecError),
    /// The edge failed.
    #[error("{0}")]
    Edge(#[from] EdgeError),
    /// Our own store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// All the memory for lanes stayed in use.
    #[error("no buffer became free in time")]
    NoBuffer,
    /// A thread of ours did not come to its end.
    #[error("a worker thread was lost")]
    Worker,
}

impl From<FrameError> for FetchError {
    fn from(error: FrameError) -> Self {
        Self::Stream(error.into())
    }
}

impl FetchError {
    /// Says that a source claims another size than the one that is proven.
    pub(crate) fn other_size(proven: u64, claimed: u64) -> Self {
        let index = group_count(proven) - 1;
        let expected = group_len(proven, index);
        Self::Group(GroupError::Len { index, expected, found: group_len(claimed, index) })
    }

    /// Tells the engine what to make of it.
    pub(crate) fn outcome(&self) -> FetchOutcome {
        let detail = self.to_string();
        match self {
            Self::Absent | Self::Edge(EdgeError::NotFound { .. }) => FetchOutcome::Absent,
            Self::Busy { retry_after } => FetchOutcome::Busy { retry_after: *retry_after },
            Self::Edge(error) => edge_outcome(error, describe(error)),
            Self::Store(StoreError::BadGroup { .. } | StoreError::WrongHash { .. }) => {
                FetchOutcome::WrongBytes { detail }
            }
            // Rot in what an earlier fetch left; the groups are missing now, and can be fetched again.
            Self::Store(StoreError::Incomplete { .. }) => FetchOutcome::Failed { detail },
            Self::Store(_) | Self::Worker => FetchOutcome::StoreFailed { detail },
            Self::TooLarge { .. } | Self::Refused => FetchOutcome::Refused { detail },
            Self::Stream(StreamError::Frame(_))
            | Self::OutOfTurn { .. }
            | Self::Codec(CodecError::Unknown { .. }) => FetchOutcome::Misbehaved { detail },
            Self::List(_) | Self::Group(_) | Self::Codec(_) => FetchOutcome::WrongBytes { detail },
            Self::Connect(_)
            | Self::Open(_)
            | Self::Stream(StreamError::Io(_))
            | Self::Short
            | Self::NoBuffer => FetchOutcome::Failed { detail },
        }
    }
}

fn edge_outcome(error: &EdgeError, detail: String) -> FetchOutcome {
    match error.retry_after() {
        Some(retry_after) => FetchOutcome::Busy { retry_after },
        None if error.is_temporary() => FetchOutcome::Failed { detail },
        None => FetchOutcome::Refused { detail },
    }
}
