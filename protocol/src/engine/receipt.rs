//! Receipts: how a get was resolved, for the user who asks why.

use std::time::Duration;

use super::output::Source;
use crate::blob::Hash;
use crate::id::{FetchId, PeerId};

/// Tells how one get was resolved. Its lists are as long as the engine's bounds allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The blob.
    pub hash: Hash,
    /// Its length in bytes, once proven or claimed.
    pub size: Option<u64>,
    /// What found it; none where nothing did.
    pub found: Option<Found>,
    /// Bytes that were in the store before.
    pub bytes_local: u64,
    /// Bytes that came from peers.
    pub bytes_lan: u64,
    /// Bytes that came from the edge.
    pub bytes_edge: u64,
    /// From the want to its end.
    pub took: Duration,
    /// Where the time went.
    pub phases: Phases,
    /// How many neighbours there were when the LAN was first considered.
    pub neighbours: usize,
    /// Who was asked, in the order asked.
    pub asked: Vec<Asked>,
    /// The neighbours whose fresh filter ruled the blob out.
    pub skipped: Vec<PeerId>,
    /// The attempts at sources, in order.
    pub fetches: Vec<Fetched>,
    /// The provider search; none where there was none.
    pub search: Option<Searched>,
    /// The decisions worth knowing, in order.
    pub notes: Vec<Note>,
}

impl Receipt {
    pub(crate) fn new(hash: Hash) -> Self {
        Self {
            hash,
            size: None,
            found: None,
            bytes_local: 0,
            bytes_lan: 0,
            bytes_edge: 0,
            took: Duration::ZERO,
            phases: Phases::default(),
            neighbours: 0,
            asked: Vec::new(),
            skipped: Vec::new(),
            fetches: Vec::new(),
            search: None,
            notes: Vec::new(),
        }
    }
}

/// Says what found a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The store had it.
    Local,
    /// A neighbour had it.
    Lan,
    /// A provide record in the DHT named a peer that had it.
    Dht,
    /// The edge had it.
    Edge,
}

/// The time of one get by phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// Looking into the store.
    pub local: Duration,
    /// Finding a source.
    pub find: Duration,
    /// From the first source chosen to the first verified byte.
    pub first_group: Duration,
    /// From the first verified byte to the last.
    pub transfer: Duration,
    /// From the last byte to the blob's final name.
    pub store: Duration,
}

/// Tells of one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Who was asked.
    pub peer: PeerId,
    /// What it answered; none while it has not.
    pub answer: Option<AskedAnswer>,
    /// How long that took.
    pub after: Duration,
}

/// Says how a question ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskedAnswer {
    /// The peer has the blob.
    Have,
    /// It does not.
    Absent,
    /// It was too busy to say.
    Busy,
    /// It did not answer in time.
    Timeout,
    /// Its connection ended.
    Gone,
}

/// Tells of one attempt at one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The attempt, as the driver knows it.
    pub fetch: FetchId,
    /// The source.
    pub source: Source,
    /// Verified bytes it gave.
    pub bytes: u64,
    /// How it ended, in words; empty while it runs.
    pub outcome: String,
    /// How long it took.
    pub took: Duration,
}

/// Tells of a provider search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Searched {
    /// How many providers it named.
    pub providers: usize,
    /// How long it took, up to the end of the get.
    pub took: Duration,
    /// Whether it came to its end.
    pub ended: bool,
}

/// Is a decision worth knowing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The get joined one that was under way.
    Joined,
    /// The LAN had not answered in time, so the edge was asked beside it.
    HedgeFired {
        /// How long the LAN was waited for.
        after: Duration,
    },
    /// A source gave no byte in time, so the edge was asked beside it.
    FirstGroupLate,
    /// A source gave no byte for too long and was dropped.
    Stalled {
        /// The source.
        source: Source,
    },
    /// A peer sent wrong bytes and was banned.
    Banned {
        /// The peer.
        peer: PeerId,
    },
    /// A source is tried again.
    Retry {
        /// The source.
        source: Source,
        /// After how long.
        after: Duration,
    },
    /// What was to be asked of the edge was left to a neighbour who asked for the same.
    Yielded {
        /// The neighbour.
        peer: PeerId,
    },
    /// A neighbour named a peer that holds the blob and is no neighbour itself.
    Named {
        /// Who holds it.
        holder: PeerId,
        /// The neighbour.
        by: PeerId,
    },
    /// A neighbour's filter changed during the get, so it was asked after all.
    FilterChanged {
        /// The neighbour.
        peer: PeerId,
    },
}
