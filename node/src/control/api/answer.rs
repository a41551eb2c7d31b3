//! What a node answers, and how it describes its store, its peers and itself.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::receipt::{Receipt, TierBytes};
use super::tree::{AddedTree, CheckoutReport, PullReport, TreeRow};

/// What a node answers at the end of a request that succeeded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// A blob was added, or was there already.
    Added {
        /// The blob, 64 hex digits.
        hash: String,
        /// Its length in bytes.
        size: u64,
        /// Whether it was in the store before.
        existed: bool,
    },
    /// A directory was added.
    AddedTree(Box<AddedTree>),
    /// What is in a tree, in the order of its paths.
    Tree {
        /// One row an entry.
        entries: Vec<TreeRow>,
    },
    /// A blob was got.
    Got(Box<Receipt>),
    /// All of many blobs ended, for better or worse.
    GotMany {
        /// How many were got.
        got: u64,
        /// How many were not.
        failed: u64,
        /// The bytes of those that were got, by the tier they came from.
        tier: TierBytes,
        /// The whole in seconds.
        seconds: f64,
    },
    /// A directory holds a tree.
    CheckedOut(Box<CheckoutReport>),
    /// A directory holds a tree, of which everything is in the store now.
    Pulled(Box<PullReport>),
    /// Blobs will be got ahead.
    Prefetching {
        /// How many lists come before.
        before: u64,
    },
    /// Blobs were got ahead.
    Prefetched(Box<PrefetchReport>),
    /// Which blobs are in the store, in the order asked; none for one that is not.
    Has {
        /// The length in bytes of each blob that is there.
        sizes: Vec<Option<u64>>,
    },
    /// The blobs of the store.
    List {
        /// One row a blob, by hash.
        blobs: Vec<BlobRow>,
    },
    /// Blobs were removed.
    Removed {
        /// How many bytes became free.
        bytes: u64,
        /// How many blobs went.
        blobs: u64,
    },
    /// The request was carried out and has nothing to tell.
    Done,
    /// Blobs were uploaded, all or some of them.
    Pushed(Box<PushReport>),
    /// The peers of the node.
    Peers {
        /// One row a peer.
        peers: Vec<PeerRow>,
    },
    /// The node's state.
    Status(Box<Status>),
    /// The receipt of the last get.
    Why(Box<Receipt>),
    /// What the edge was spared.
    Savings {
        /// One row a day on which something was got, the oldest first; 400 at most.
        days: Vec<SavingsRow>,
    },
    /// Blobs were verified.
    Verified {
        /// How many were hashed.
        blobs: u64,
        /// Their bytes.
        bytes: u64,
        /// Those with wrong bytes, now out of the store.
        bad: Vec<String>,
    },
    /// The store was collected.
    Collected {
        /// How many blobs were evicted.
        blobs: u64,
        /// How many bytes became free.
        bytes: u64,
    },
}

/// Describes one blob of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRow {
    /// The blob, 64 hex digits.
    pub hash: String,
    /// Its length in bytes.
    pub size: u64,
    /// Whether it is pinned.
    pub pinned: bool,
    /// `added` by a user of this machine, or `fetched` from a peer or the edge.
    pub origin: String,
    /// When it was last used, in seconds since 1970.
    pub accessed: u64,
}

/// Describes one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRow {
    /// The peer's id, `12D3KooW…`.
    pub peer: String,
    /// The address of the connection.
    pub address: String,
    /// Whether it gossips with us: found by mDNS or named by a user, on either side.
    pub neighbour: bool,
    /// How many blobs its filter holds; none before a filter came.
    pub filter_blobs: Option<u64>,
    /// The round trip of the last answer in microseconds; none before one came.
    pub rtt_us: Option<u64>,
    /// The bytes of blobs received from it.
    pub bytes_in: u64,
    /// The bytes of blobs sent to it.
    pub bytes_out: u64,
}

/// Tells what a prefetch did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PrefetchReport {
    /// How many blobs were got.
    pub blobs: u64,
    /// Their bytes, by the tier they came from.
    pub tier: TierBytes,
    /// How many the store had.
    pub existed: u64,
    /// How many could not be got.
    pub failed: u64,
    /// Why, of the first of them.
    #[serde(default)]
    pub failures: Vec<Failure>,
    /// How many were left because they exceed the budget.
    pub left: u64,
    /// The whole in seconds.
    pub seconds: f64,
}

/// Tells what was got on one day, and what of it the edge was spared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavingsRow {
    /// The day in UTC, `2026-11-22`.
    pub day: String,
    /// What was got on it.
    #[serde(flatten)]
    pub saved: Saved,
}

/// Counts what was got, by where it came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    /// Gets that ended well.
    pub gets: u64,
    /// Those for which the edge gave no byte.
    pub without_edge: u64,
    /// The bytes of those that ended well, by the tier they came from.
    pub tier: TierBytes,
    /// All requests that the edge was sent, with repetitions and pushes.
    pub edge_requests: u64,
    /// Bytes that came ahead of a get, by a prefetch; they are in `tier` too, where they came from.
    pub ahead: u64,
    /// Those of all that came ahead that were used meanwhile.
    pub ahead_used: u64,
}

impl Saved {
    /// Returns what both come to.
    pub fn plus(&self, other: &Self) -> Self {
        self.by_count(other, u64::saturating_add)
    }

    /// Returns what came after `before`, which counts from the same start.
    pub fn since(&self, before: &Self) -> Self {
        self.by_count(before, u64::saturating_sub)
    }

    /// Returns the bytes that gets were given and that the edge did not send. What came ahead is bytes that nobody
    /// asked for yet: its use counts as from the store, and is what it saves.
    pub fn spared(&self) -> u64 {
        self.tier.local.saturating_add(self.tier.lan).saturating_sub(self.ahead)
    }

    fn by_count(&self, other: &Self, of: impl Fn(u64, u64) -> u64) -> Self {
        let (mine, others) = (&self.tier, &other.tier);
        Self {
            gets: of(self.gets, other.gets),
            without_edge: of(self.without_edge, other.without_edge),
            tier: TierBytes {
                local: of(mine.local, others.local),
                lan: of(mine.lan, others.lan),
                edge: of(mine.edge, others.edge),
            },
            edge_requests: of(self.edge_requests, other.edge_requests),
            ahead: of(self.ahead, other.ahead),
            ahead_used: of(self.ahead_used, other.ahead_used),
        }
    }
}

/// Describes a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node's program version.
    pub version: String,
    /// The process id.
    pub pid: u32,
    /// The node's own peer id, `12D3KooW…`.
    pub peer: String,
    /// The addresses it listens on.
    pub addresses: Vec<String>,
    /// Seconds since its start.
    pub uptime_s: u64,
    /// The directory of the node.
    pub home: PathBuf,
    /// The public name of the mesh, 16 hex digits; none for an open one.
    pub mesh: Option<String>,
    /// Where the edge is, without secrets; none without an edge.
    pub edge: Option<String>,
    /// Whether mDNS runs.
    pub mdns: bool,
    /// How many peers are connected.
    pub peers: u64,
    /// How many blobs the store holds.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The bound of the store in bytes.
    pub bytes_max: u64,
    /// The counters since the start, by name.
    pub counters: Vec<(String, u64)>,
}

/// Tells what came of a push.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PushReport {
    /// How many blobs went up.
    pub uploaded: u64,
    /// How many the edge had already.
    pub existed: u64,
    /// The bytes that went up.
    pub bytes: u64,
    /// How many of those that went up lie in packs.
    #[serde(default)]
    pub packed: u64,
    /// In how many.
    #[serde(default)]
    pub packs: u64,
    /// How many did not go up, with those that were not tried.
    #[serde(default)]
    pub failed: u64,
    /// Why, of the first of them.
    #[serde(default)]
    pub failures: Vec<Failure>,
    /// How many requests the node made of the edge meanwhile.
    #[serde(default)]
    pub requests: u64,
    /// The whole in seconds.
    #[serde(default)]
    pub seconds: f64,
}
