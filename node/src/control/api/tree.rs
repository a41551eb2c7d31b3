//! What is told of directories: what was added, listed, checked out and pulled.

use serde::{Deserialize, Serialize};

use super::receipt::TierBytes;

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
