//! What the engine asks of the driver.

use std::ops::Range;
use std::time::Duration;

use super::receipt::Receipt;
use crate::blob::Hash;
use crate::id::{FetchId, LookId, PeerId, QueryId, ServeId, WantId};
use crate::wire::message::Message;

/// Asks the driver to do something. Closed: every driver does the same few things.
#[derive(Clone, Debug)]
pub enum Output {
    /// Look into the store, and answer with [`Input::Looked`](super::Input::Looked).
    Look {
        /// Numbers the question.
        look: LookId,
        /// The blob.
        hash: Hash,
    },
    /// Say something to a neighbour. May be dropped when the neighbour is gone.
    Send {
        /// The neighbour.
        peer: PeerId,
        /// What to say.
        message: Message,
    },
    /// Fetch missing groups of a blob from one source, tell of progress, and of the end with
    /// [`Input::FetchEnded`](super::Input::FetchEnded).
    Fetch {
        /// Numbers the attempt.
        fetch: FetchId,
        /// The blob.
        hash: Hash,
        /// Where from.
        source: Source,
        /// Which of the missing groups; none for all of them.
        groups: Option<Range<u64>>,
    },
    /// Ask a neighbour for a blob that may be small by a small request, and tell of the end with
    /// [`Input::FetchEnded`](super::Input::FetchEnded).
    FetchSmall {
        /// Numbers the attempt, as those of [`Fetch`](Self::Fetch).
        fetch: FetchId,
        /// The blob.
        hash: Hash,
        /// Whom to ask.
        peer: PeerId,
        /// Whether the blob goes into the store. One that does not ends as
        /// [`FetchOutcome::Read`](super::FetchOutcome::Read).
        keep: bool,
    },
    /// Have a connection to the edge ready, if there is none: a get may ask it soon. Nothing is asked of it, and
    /// nothing is awaited; it may be ignored.
    PrepareEdge,
    /// Stop a fetch. What it verified stays; its end is not awaited.
    StopFetch {
        /// The fetch.
        fetch: FetchId,
    },
    /// Search the DHT for providers of a blob.
    FindProviders {
        /// Numbers the search.
        query: QueryId,
        /// The blob.
        hash: Hash,
    },
    /// End a provider search; its end is not awaited.
    StopFindProviders {
        /// The search.
        query: QueryId,
    },
    /// Put a provide record into the DHT, again if it is there.
    Provide {
        /// The blob.
        hash: Hash,
    },
    /// Let our provide record expire.
    Unprovide {
        /// The blob.
        hash: Hash,
    },
    /// Answer a peer that asked to be served.
    Serve {
        /// The service.
        serve: ServeId,
        /// Whether it is admitted, or when the peer should come again.
        verdict: ServeVerdict,
    },
    /// End the connection with a peer.
    Drop {
        /// The peer.
        peer: PeerId,
        /// Why, for the log.
        reason: DropReason,
    },
    /// A get came to its end.
    Ended {
        /// The want.
        want: WantId,
        /// Whether the blob is in the store.
        result: Result<(), WantError>,
        /// How it was resolved.
        receipt: Box<Receipt>,
    },
}

/// Says where a fetch takes a blob from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A peer.
    Peer(PeerId),
    /// The edge.
    Edge,
}

impl Source {
    /// Returns the peer; none if it is the edge.
    pub fn peer(self) -> Option<PeerId> {
        match self {
            Self::Peer(peer) => Some(peer),
            Self::Edge => None,
        }
    }
}

/// Says whether a peer is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServeVerdict {
    /// It is, now.
    Admit,
    /// It should come again.
    Busy {
        /// After how long.
        retry_after: Duration,
    },
}

/// Says why the connection with a peer is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// It sent bytes that do not belong to the hash, or a list that does not.
    WrongBytes,
    /// It speaks no version of the protocol that we speak.
    Version,
    /// It broke the rules of the control stream.
    Malformed,
    /// There are as many neighbours as the bound allows, and each has more weight.
    Full,
    /// It is banned.
    Banned,
}

/// Says why a get failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WantError {
    /// Every tier was asked and none has the blob.
    #[error("no tier has the blob")]
    NotFound,
    /// A source claimed to hold the blob, sent wrong bytes, and there is no other.
    #[error("every source sent wrong bytes")]
    WrongBytes,
    /// The edge refused us, and no peer has the blob.
    #[error("the edge refused the request")]
    Refused,
    /// A tier could not be reached or did not answer in time, so the blob may exist.
    #[error("a tier could not be reached")]
    Unreachable,
    /// The user's patience ended.
    #[error("the time allowed ran out")]
    TimedOut,
    /// The user no longer wants it.
    #[error("the get was cancelled")]
    Cancelled,
    /// Our own store failed.
    #[error("the store failed")]
    StoreFailed,
    /// The blob is longer than whoever wanted its bytes takes.
    #[error("the blob is longer than was asked for")]
    TooLarge,
    /// There are as many gets as the bound allows.
    #[error("too many gets at once")]
    TooMany,
}
