//! What is asked of a node.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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
    /// Gets many blobs into the store, each as `Get` does, and tells of each as [`Event::Got`](super::Event::Got) when it
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
        /// Whether the blob, if it was not in the store before, is only to be at `output` then. Of no effect without that.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        no_store: bool,
    },
    /// Gets a blob as `Get` does and sends its bytes as [`Event::Bytes`](super::Event::Bytes). Answered `Got`.
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
        /// How that is to be done.
        #[serde(flatten)]
        options: CheckoutOptions,
    },
    /// Gets what the store does not have of a tree, then makes a directory hold it as `Checkout` does. Answered
    /// `Pulled`.
    Pull {
        /// The tree's manifest, 64 hex digits.
        hash: String,
        /// The directory, absolute; the one above it must exist.
        dir: PathBuf,
        /// How that is to be done.
        #[serde(flatten)]
        options: CheckoutOptions,
        /// Ends what is still being got after so many milliseconds; none takes the node's default for each blob.
        timeout_ms: Option<u64>,
    },
    /// Gets blobs ahead, and of trees all that they consist of, while nobody waits for other bytes. Answered
    /// `Prefetching`, or `Prefetched` at the end.
    Prefetch {
        /// The blobs, 64 hex digits each.
        hashes: Vec<String>,
        /// How many bytes may come from peers and the edge; none takes the node's default.
        budget: Option<u64>,
        /// Whether the answer waits for the end; then it ends with whoever waits.
        wait: bool,
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
    /// Uploads blobs of the store to the edge, and with a tree all that is in it. Answered `Pushed`.
    Push {
        /// The blobs, 64 hex digits each.
        hashes: Vec<String>,
        /// Whether a tree goes without what is in it.
        #[serde(default)]
        only: bool,
        /// Whether every blob is to be an object of its own, small ones, too.
        #[serde(default)]
        no_packs: bool,
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
    /// Asks what the edge was spared. Answered `Savings`.
    Savings,
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

/// Says how a tree is to be checked out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckoutOptions {
    /// Whether changed and foreign files in the way are replaced.
    pub force: bool,
    /// Patterns of files that are to share no block with the store.
    pub copy: Vec<String>,
    /// Whether files become names of the store's own.
    pub hard_link: bool,
    /// Whether every byte is hashed while it is written.
    pub verify: bool,
}
