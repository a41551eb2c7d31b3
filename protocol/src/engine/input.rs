//! What the driver tells the engine.

use std::ops::Range;
use std::time::Duration;

use crate::blob::{GroupSet, Hash};
use crate::id::{FetchId, LookId, PeerId, QueryId, ServeId, WantId};
use crate::wire::message::Message;

/// Tells the engine what happened. Closed: every driver handles the same few events.
#[derive(Clone, Debug)]
pub enum Input {
    /// The user wants a blob.
    Get {
        /// The driver's number for this want; must be new.
        want: WantId,
        /// The blob.
        hash: Hash,
        /// When the user's patience ends; none waits as long as any tier may still answer.
        timeout: Option<Duration>,
    },
    /// The user wants a blob's bytes, and need not have it in the store. Its bytes come with the end of a
    /// small request; where the blob came another way, they are in the store.
    Read {
        /// The driver's number for this want; must be new.
        want: WantId,
        /// The blob.
        hash: Hash,
        /// When the user's patience ends; none waits as long as any tier may still answer.
        timeout: Option<Duration>,
        /// The longest blob that is of use, in bytes.
        len_max: u64,
    },
    /// The user no longer wants it.
    Cancel {
        /// The want; an unknown one is ignored.
        want: WantId,
    },
    /// Answers an [`Output::Look`](super::Output::Look).
    Looked {
        /// The question.
        look: LookId,
        /// What the store holds.
        result: LookResult,
    },
    /// A blob came into the store other than by a fetch.
    Held {
        /// The blob.
        hash: Hash,
        /// Whether it was added or pinned here, so that the DHT should know.
        advertise: bool,
    },
    /// A fetch stored a blob, also one that was stopped meanwhile.
    Stored {
        /// The fetch.
        fetch: FetchId,
        /// The blob.
        hash: Hash,
    },
    /// A blob left the store.
    Gone {
        /// The blob.
        hash: Hash,
    },
    /// The node has looked for its neighbours long enough: those it was told of were dialled, and
    /// discovery had its time.
    Settled,
    /// Whether what is asked of the edge at once has a connection for each request, because the edge can do no better, as
    /// over HTTP/1.1. Until it is told it is thought to share one.
    EdgeApart {
        /// Whether it has.
        apart: bool,
    },
    /// The node itself was held up, by its store or for want of processor time: a source that was silent may have given
    /// what has not come to be told.
    HeldUp,
    /// The control streams with a neighbour are open.
    Connected {
        /// The neighbour.
        peer: PeerId,
    },
    /// The control streams with a neighbour are gone.
    Disconnected {
        /// The neighbour.
        peer: PeerId,
    },
    /// A neighbour said something.
    Message {
        /// The neighbour.
        peer: PeerId,
        /// What it said.
        message: Message,
    },
    /// A provider search named peers.
    Providers {
        /// The search.
        query: QueryId,
        /// The peers it named.
        peers: Vec<PeerId>,
    },
    /// A provider search came to its end.
    ProvidersEnded {
        /// The search.
        query: QueryId,
    },
    /// A fetch verified and stored more bytes.
    Progress {
        /// The fetch.
        fetch: FetchId,
        /// How many bytes came since the last time; none is a sign of life and nothing more.
        bytes: u64,
        /// The groups that they are, verified and stored.
        groups: Range<u64>,
        /// The blob's length, proven.
        size: u64,
    },
    /// The edge has no group list of the blob that a fetch is of: the fetch brings all of it, and nothing
    /// of it counts before its end.
    Unlisted {
        /// The fetch.
        fetch: FetchId,
    },
    /// A fetch came to its end. An ended fetch is never heard of again.
    FetchEnded {
        /// The fetch.
        fetch: FetchId,
        /// How it ended.
        outcome: FetchOutcome,
    },
    /// A peer asks to be served a blob.
    ServeAsked {
        /// The driver's number for this service; must be new.
        serve: ServeId,
        /// The requester.
        peer: PeerId,
    },
    /// A service that was admitted came to its end.
    ServeEnded {
        /// The service.
        serve: ServeId,
    },
    /// A moment named by [`poll_timeout`](super::Engine::poll_timeout) has come.
    Timeout,
}

/// Says what the store holds of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookResult {
    /// All of it.
    Whole {
        /// Its length in bytes.
        size: u64,
    },
    /// Some verified groups of it.
    Part {
        /// Its length in bytes, proven.
        size: u64,
        /// The bytes held.
        held: u64,
        /// The groups held.
        groups: GroupSet,
    },
    /// Nothing.
    Absent,
}

/// Says how a fetch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchOutcome {
    /// The blob is whole, verified, and in the store under its name.
    Complete {
        /// Its length in bytes.
        size: u64,
    },
    /// The blob came whole, in answer to a small request that was not to be kept: it is verified, in
    /// memory and not in the store.
    Read {
        /// Its length in bytes.
        size: u64,
    },
    /// The source holds the blob, and it is too long to answer a small request with.
    Large {
        /// Its length in bytes, as the source claims.
        size: u64,
    },
    /// The groups asked for are stored, and others of the blob are still missing.
    Part,
    /// The source does not hold the blob, or not the groups.
    Absent,
    /// The source cannot serve it now.
    Busy {
        /// When it asks us to come again.
        retry_after: Duration,
    },
    /// The source could not be reached, stopped in the middle or took too long.
    Failed {
        /// What happened, for the receipt.
        detail: String,
    },
    /// The source sent bytes, or a list, that do not belong to the hash.
    WrongBytes {
        /// What was wrong, for the receipt.
        detail: String,
    },
    /// The source broke the rules of the wire. It is not asked for this blob again; it is not banned,
    /// because that proves nothing about its bytes.
    Misbehaved {
        /// What it did, for the receipt.
        detail: String,
    },
    /// The source refused us, or offers what we refuse, and will again.
    Refused {
        /// Why, for the receipt.
        detail: String,
    },
    /// Our own store failed: no other source can help.
    StoreFailed {
        /// What failed, for the receipt.
        detail: String,
    },
}
