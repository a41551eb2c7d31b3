//! The requests a node serves to its own user, its answers and its failures.
//!
//! Everything here is plain data that serialises to JSON; paths are absolute; hashes and peers are
//! text, because that is what people read and pass on.

use std::path::PathBuf;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// The version of the control protocol; a client and a node of different versions refuse each other.
pub const CONTROL_VERSION: u32 = 1;

/// Asks a node for something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Adds one file, or the bytes of the exchange's input where `path` is none. Answered `Added`.
    Add {
        /// The file, absolute; none reads the exchange's input.
        path: Option<PathBuf>,
        /// Whether to pin it too.
        pin: bool,
    },
    /// Adds a directory: all that is in it, and the manifests that describe it. Answered `AddedTree`.
    AddTree {
        /// The directory, absolute.
        path: PathBuf,
        /// Whether to pin all of it too.
        pin: bool,
        /// Whether `.gitignore` and `.blobmeshignore` in it say what is left out.
        ignore: bool,
    },
    /// Lists what is in a tree; manifests that are not in the store are got and not kept. Answered `Tree`.
    Tree {
        /// The tree, 64 hex digits.
        hash: String,
    },
    /// Gets many blobs into the store, each as `Get` does, and tells of each as [`Event::Got`] when it
    /// ended. Answered `GotMany`.
    GetMany {
        /// The blobs, 64 hex digits each; one that is named twice is got once.
        hashes: Vec<String>,
        /// Ends those that have not ended after so many milliseconds; none takes the node's default.
        timeout_ms: Option<u64>,
    },
    /// Gets a blob into the store, and to `output` where given. Answered `Got`.
    Get {
        /// The blob, 64 hex digits.
        hash: String,
        /// A file to write, absolute; its directory must exist.
        output: Option<PathBuf>,
        /// Whether an existing output file is replaced.
        force: bool,
        /// Ends the get after so many milliseconds; none takes the node's default.
        timeout_ms: Option<u64>,
        /// An older version of the blob: what it has of it is copied and not fetched.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        base: Option<BaseName>,
    },
    /// Gets a blob as `Get` does and sends its bytes as [`Event::Bytes`]. Answered `Got`.
    Cat {
        /// The blob, 64 hex digits.
        hash: String,
        /// Ends the get after so many milliseconds; none takes the node's default.
        timeout_ms: Option<u64>,
    },
    /// Makes a directory hold a tree of the store. Answered `CheckedOut`.
    Checkout {
        /// The tree's manifest, 64 hex digits.
        hash: String,
        /// The directory, absolute; the one above it must exist.
        dir: PathBuf,
        /// Whether changed and foreign files in the way are replaced.
        force: bool,
        /// Patterns of files that are to share no block with the store.
        copy: Vec<String>,
        /// Whether files become names of the store's own.
        hard_link: bool,
        /// Whether every byte is hashed while it is written.
        verify: bool,
    },
    /// Gets what the store does not have of a tree, then makes a directory hold it as `Checkout` does. Answered
    /// `Pulled`.
    Pull {
        /// The tree's manifest, 64 hex digits.
        hash: String,
        /// The directory, absolute; the one above it must exist.
        dir: PathBuf,
        /// Whether changed and foreign files in the way are replaced.
        force: bool,
        /// Patterns of files that are to share no block with the store.
        copy: Vec<String>,
        /// Whether files become names of the store's own.
        hard_link: bool,
        /// Whether every byte is hashed while it is written.
        verify: bool,
        /// Ends what is still being got after so many milliseconds; none takes the node's default for each blob.
        timeout_ms: Option<u64>,
    },
    /// Asks whether blobs are in the store, without fetching them. Answered `Has`.
    Has {
        /// The blobs, 64 hex digits each.
        hashes: Vec<String>,
    },
    /// Lists the store. Answered `List`.
    List,
    /// Removes blobs from the store. Answered `Removed`.
    Remove {
        /// The blobs, 64 hex digits each.
        hashes: Vec<String>,
        /// Whether pinned blobs go too.
        force: bool,
    },
    /// Protects blobs of the store from eviction, and with a tree all that is in it. Answered `Done`.
    Pin {
        /// The blobs, 64 hex digits each.
        hashes: Vec<String>,
    },
    /// Ends the protection; that of what is in a tree as far as no other pinned tree has it. Answered `Done`.
    Unpin {
        /// The blobs, 64 hex digits each.
        hashes: Vec<String>,
    },
    /// Uploads blobs of the store to the edge. Answered `Pushed`.
    Push {
        /// The blobs, 64 hex digits each.
        hashes: Vec<String>,
    },
    /// Lists the peers. Answered `Peers`.
    Peers,
    /// Describes the node. Answered `Status`.
    Status,
    /// Explains the last get of a blob. Answered `Why`.
    Why {
        /// The blob, 64 hex digits.
        hash: String,
    },
    /// Hashes blobs of the store again; all of them where none is named. Answered `Verified`.
    Verify {
        /// The blobs, 64 hex digits each.
        hashes: Vec<String>,
    },
    /// Evicts down to the bound, clears left-over temporary files and compacts the index.
    /// Answered `Collected`.
    Gc,
}

/// Names an older version of a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BaseName {
    /// A blob of the store, 64 hex digits.
    Blob(String),
    /// A file, absolute.
    File(PathBuf),
}

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
    /// Blobs were uploaded.
    Pushed {
        /// How many went up.
        uploaded: u64,
        /// How many the edge had already.
        existed: u64,
        /// The bytes that went up.
        bytes: u64,
    },
    /// The peers of the node.
    Peers {
        /// One row a peer.
        peers: Vec<PeerRow>,
    },
    /// The node's state.
    Status(Box<Status>),
    /// The receipt of the last get.
    Why(Box<Receipt>),
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

/// Tells what came of adding a directory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AddedTree {
    /// The tree, 64 hex digits: the hash of its root's manifest.
    pub hash: String,
    /// How many files are in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many entries: files, symbolic links and directories.
    pub entries: u64,
    /// How many manifests describe it.
    pub manifests: u64,
    /// How many files were not read, because they are what they were when it was added before.
    pub unchanged: u64,
    /// How many blobs were not in the store before, manifests included.
    pub new_blobs: u64,
    /// Their bytes.
    pub new_bytes: u64,
    /// How many entries ignore rules left out; of a directory only itself counts.
    pub ignored: u64,
    /// How many entries named `.git` were left out.
    pub git: u64,
    /// How many sockets, pipes and devices were left out.
    pub special: u64,
    /// What its owner should know; a hundred and one at most.
    pub warnings: Vec<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Describes one entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeRow {
    /// The path from the root; what is not UTF-8 of it is replaced.
    pub path: String,
    /// The path's bytes in hex, where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
    /// `file`, `executable`, `symlink` or `directory`.
    pub kind: String,
    /// The length in bytes: of a file, of all files in a directory; none of a symbolic link.
    pub size: Option<u64>,
    /// The blob of a file, or the manifest of a directory that has one.
    pub hash: Option<String>,
    /// Where a symbolic link leads; what is not UTF-8 of it is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Tells how the get of one of many blobs ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GotRow {
    /// The blob, 64 hex digits.
    pub hash: String,
    /// Its length in bytes; none when it was never learned.
    pub size: Option<u64>,
    /// `local`, `lan`, `dht`, `edge`, or `none`: what found the blob.
    pub found: String,
    /// The bytes of the blob taken from each tier.
    pub tier: TierBytes,
    /// How long it was under way, in seconds.
    pub seconds: f64,
    /// Why it was not got; none where it was.
    pub failure: Option<Failure>,
}

/// Tells what a checkout did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckoutReport {
    /// Files and symbolic links that are new.
    pub added: u64,
    /// Those that were replaced.
    pub changed: u64,
    /// Those that went.
    pub removed: u64,
    /// The bytes of the files that were made.
    pub bytes: u64,
    /// Files that share their blocks with the store.
    pub reflinked: u64,
    /// Files that the kernel copied.
    pub kernel_copied: u64,
    /// Files that were read and written.
    pub copied: u64,
    /// Files that are the store's own.
    pub hard_linked: u64,
    /// What was found of an earlier checkout that was interrupted; none where there was none.
    pub recovered: Option<String>,
    /// Paths that changed while this went on, and were left alone.
    pub left: Vec<String>,
    /// The whole in seconds.
    pub seconds: f64,
}

/// Tells what a pull did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PullReport {
    /// How many manifests were fetched.
    pub manifests: u64,
    /// How many blobs of files were fetched; those that the store had are not counted.
    pub blobs: u64,
    /// The bytes of both, by the tier they came from.
    pub tier: TierBytes,
    /// The bytes of them that were copied from older versions of the same files.
    #[serde(default)]
    pub copied: u64,
    /// How long the manifests took, in seconds.
    pub find_s: f64,
    /// How long the files took, in seconds.
    pub fetch_s: f64,
    /// What was done to the directory.
    pub checkout: CheckoutReport,
    /// The whole in seconds.
    pub seconds: f64,
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

/// Tells how a get was resolved: every tier, who was asked, who was skipped, and the time it took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The blob, 64 hex digits.
    pub hash: String,
    /// Its length in bytes; none when it was never learned.
    pub size: Option<u64>,
    /// `local`, `lan`, `dht`, `edge`, or `none`: what found the blob.
    pub found: String,
    /// The bytes of the blob taken from each tier.
    pub tier: TierBytes,
    /// The whole get in seconds.
    pub seconds: f64,
    /// Where the time went.
    pub phases: Phases,
    /// How many neighbours there were when the get began.
    pub neighbours: u64,
    /// Who was asked, in order.
    pub asked: Vec<AskedRow>,
    /// The neighbours whose fresh filter ruled the blob out, so that they were not asked.
    pub skipped: Vec<String>,
    /// The sources of bytes, in order of their first attempt.
    pub fetches: Vec<FetchRow>,
    /// What the DHT said: none when it was not asked.
    pub dht: Option<DhtRow>,
    /// What the edge said: none when it was not asked.
    pub edge: Option<String>,
    /// Decisions worth knowing, such as a hedge that fired or a peer dropped for wrong bytes.
    pub notes: Vec<String>,
    /// What an older version gave; none where none was at hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<DeltaRow>,
}

impl Receipt {
    /// Returns who was asked on the LAN, in one line: `asked 0 of 2 peers: both filters rule it out`.
    pub fn lan(&self) -> String {
        let (asked, skipped) = (self.asked.len(), self.skipped.len());
        let count = match self.neighbours {
            0 if asked == 0 => return "no peers".to_owned(),
            1 => format!("asked {asked} of 1 peer"),
            neighbours => format!("asked {asked} of {neighbours} peers"),
        };
        let all = u64::try_from(skipped).is_ok_and(|skipped| skipped == self.neighbours);
        match (skipped, all) {
            (0, _) => count,
            (1, true) => format!("{count}: its filter rules it out"),
            (2, true) => format!("{count}: both filters rule it out"),
            (_, true) => format!("{count}: all {skipped} filters rule it out"),
            (1, false) => format!("{count}: one filter rules it out"),
            (_, false) => format!("{count}: {skipped} filters rule it out"),
        }
    }
}

/// The bytes of one blob by the tier they came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierBytes {
    /// Already in the store.
    pub local: u64,
    /// From peers.
    pub lan: u64,
    /// From the edge.
    pub edge: u64,
}

/// The seconds of one get by phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phases {
    /// Looking into the store.
    pub local_s: f64,
    /// Finding a holder: asks, provider search, hedge delays.
    pub find_s: f64,
    /// From the choice of a source to its first verified group.
    pub first_group_s: f64,
    /// From the first verified group to the last.
    pub transfer_s: f64,
    /// From the last group to the blob's final name, and its output where one was asked for.
    pub store_s: f64,
}

/// Tells what one peer answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AskedRow {
    /// The peer's id, `12D3KooW…`.
    pub peer: String,
    /// `have`, `absent`, `busy`, `timeout` or `gone`.
    pub answer: String,
    /// Milliseconds until the answer.
    pub ms: f64,
}

/// Tells what one source gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FetchRow {
    /// A peer's id, or `edge`.
    pub source: String,
    /// Verified bytes that came from it.
    pub bytes: u64,
    /// `complete`, or why it ended before.
    pub outcome: String,
    /// Milliseconds from the first request to the end.
    pub ms: f64,
    /// How the bytes came; none for the edge, and in receipts of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way: Option<WayRow>,
}

/// Tells how the bytes of one peer came, and where the time went. The times of threads that work side by
/// side add up, so they may exceed the whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WayRow {
    /// How many lanes were opened.
    pub lanes: u64,
    /// Verified bytes that came over lanes.
    pub lane_bytes: u64,
    /// Verified bytes that came over blob streams.
    pub stream_bytes: u64,
    /// Milliseconds to a connection and a blob stream on it.
    pub connect_ms: f64,
    /// Milliseconds from the request to the first byte of its answer.
    pub answer_ms: f64,
    /// Milliseconds to open the lanes.
    pub dial_ms: f64,
    /// Milliseconds to verify what came over lanes.
    pub verify_ms: f64,
    /// Milliseconds to write, and to verify what came over blob streams.
    pub write_ms: f64,
}

/// Tells what was made of an older version of a blob, ahead of the get.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeltaRow {
    /// The older version: a blob's 64 hex digits, or a path.
    pub base: String,
    /// The peer that gave the rest; none where no neighbour could be asked.
    pub peer: Option<String>,
    /// The bytes of the blob that were copied from the older version; they count as local.
    pub copied: u64,
    /// Those that were fetched, by the range.
    pub fetched: u64,
    /// What came beside them: group list, map, keys.
    pub beside: u64,
    /// `whole`, `part`, or why it ended before.
    pub outcome: String,
    /// Milliseconds it took.
    pub ms: f64,
}

/// Tells what the provider search gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DhtRow {
    /// How many providers it named.
    pub providers: u64,
    /// Milliseconds it took; up to the end of the get when it did not end before.
    pub ms: f64,
    /// Whether it came to its end.
    pub ended: bool,
}

/// Tells how far long work is; at most five a second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// What goes on: `hash`, `scan`, `find`, `fetch`, `lan`, `edge`, `store`, `push`, `verify`, `write`.
    pub phase: String,
    /// The bytes done.
    pub done: u64,
    /// The bytes in all; none while unknown.
    pub total: Option<u64>,
    /// How many peers take part.
    pub peers: u64,
    /// How many files are done, where the work is one on files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<FileCount>,
}

/// Counts files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCount {
    /// Those that are done.
    pub done: u64,
    /// All; none while unknown.
    pub total: Option<u64>,
}

/// What a node sends while it serves a request.
#[derive(Debug)]
pub enum Event {
    /// How far it is.
    Progress(Progress),
    /// The next bytes of a `Cat`.
    Bytes(Bytes),
    /// Blobs of a `GetMany` that have ended, in the order of their ends.
    Got(Vec<GotRow>),
}

/// Says what went wrong, for people and for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of trouble it is: decides exit code and hint.
    pub kind: Trouble,
    /// What was being done to which blob, peer or path: a lower-case fragment without a full stop.
    pub message: String,
    /// The causes, one line each: for a blob that was not found, one line per tier.
    pub causes: Vec<String>,
}

impl Failure {
    /// Makes a failure without causes.
    pub fn new(kind: Trouble, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), causes: Vec::new() }
    }

    /// Adds one cause.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }
}

/// Kinds of trouble; each has one exit code and may have a hint, both given by the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// Nothing below fits.
    Other,
    /// The request makes no sense: a malformed hash, a relative path.
    Usage,
    /// No tier has the blob, and every tier could be asked.
    NotFound,
    /// Bytes did not match their hash.
    WrongBytes,
    /// The edge refused for want of credentials: the bucket is not public.
    EdgeNotPublic,
    /// The edge refused the credentials.
    EdgeBadCredentials,
    /// The edge refused because this machine's clock is wrong.
    EdgeClockSkew,
    /// The edge refused, for another reason.
    EdgeRefused,
    /// The edge cannot be written to: it is a public URL, or none is configured.
    EdgeReadOnly,
    /// A mesh key, ticket or peer was refused.
    MeshRefused,
    /// A tier could not be reached, or time ran out; trying again may help.
    Unreachable,
    /// Another process holds the store.
    StoreLocked,
    /// The store is damaged or cannot be opened.
    StoreDamaged,
    /// The store was written by a newer program.
    FormatNewer,
    /// Some of the work was done.
    Partial,
    /// The configuration is invalid.
    Configuration,
    /// There is no space, or the blob does not fit under the store's bound.
    NoSpace,
    /// No node runs where one is needed.
    NoNode,
    /// The address to listen on is taken.
    AddressInUse,
    /// A file could not be read or written; the message names it.
    File,
    /// The output file exists.
    OutputExists,
    /// The output's directory is missing.
    OutputDirectoryMissing,
    /// A tree has entries that must not be written, or is none.
    UnsafeTree,
    /// The store does not have all of a tree.
    TreeIncomplete,
    /// A directory holds something else than a checkout.
    NotACheckout,
    /// Files of a checkout were changed, or others are in the way.
    LocalChanges,
    /// The blob is pinned.
    Pinned,
    /// The file changed while it was read.
    FileChanged,
    /// The blob is larger than the bound.
    TooLarge,
    /// The user or a signal ended it.
    Interrupted,
}

/// Is what a request talks through while it is served.
#[derive(Debug)]
pub struct Exchange {
    /// Takes the events; progress is dropped when it is full, all else waits.
    pub events: mpsc::Sender<Event>,
    /// Gives the bytes of an `Add` without a path; ended by `None`.
    pub input: mpsc::Receiver<std::io::Result<Bytes>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lan_line_counts_the_asked_and_the_ruled_out() {
        for (neighbours, asked, skipped, line) in [
            (0, 0, 0, "no peers"),
            (1, 1, 0, "asked 1 of 1 peer"),
            (1, 0, 1, "asked 0 of 1 peer: its filter rules it out"),
            (2, 0, 2, "asked 0 of 2 peers: both filters rule it out"),
            (2, 1, 1, "asked 1 of 2 peers: one filter rules it out"),
            (2, 0, 0, "asked 0 of 2 peers"),
            (9, 0, 9, "asked 0 of 9 peers: all 9 filters rule it out"),
            (9, 2, 7, "asked 2 of 9 peers: 7 filters rule it out"),
        ] {
            let row = AskedRow { peer: String::new(), answer: String::new(), ms: 0.0 };
            let receipt = Receipt {
                neighbours,
                asked: vec![row; asked],
                skipped: vec![String::new(); skipped],
                ..Receipt::default()
            };
            assert_eq!(receipt.lan(), line);
        }
    }
}
