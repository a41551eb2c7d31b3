//! Trees: directories as blobs (SPEC.md, "Trees").
//!
//! A *manifest* is the blob that describes one directory: its entries in the order of their names, each
//! a file (by its blob's hash), a symbolic link, or a directory. A directory that is described in few
//! bytes is given in place, any other one by the hash of a manifest of its own: so an unchanged subtree
//! is one hash, and a changed file costs the manifests on the way to it and no others.
//!
//! There is one encoding for a tree, so that the same directory has the same hash on every machine:
//! no times, no owners, no modes but the executable bit, and the order is that of the bytes.
//!
//! [`manifest`] holds the types, [`codec`] the bytes, [`source`] how further manifests are loaded,
//! [`diff`](mod@diff) what differs between two trees. What is decoded here is well formed, and no more: whether a tree
//! is safe to be written to a disk is a question about all of it, which [`check()`](check::check) answers.

pub mod check;
pub mod codec;
pub mod diff;
mod fold;
pub mod manifest;
pub mod name;
pub mod source;

pub use check::{CheckError, Reason, Rules, UnsafeEntry, check, check_directory};
pub use codec::ManifestError;
pub use diff::{Change, DiffError, Difference, Item, diff, difference};
pub use manifest::{Entry, Manifest, Node, Sealed, Totals};
pub use name::{Name, NameError};
pub use source::{LoadError, TreeSource};

/// The longest manifest in bytes: some million entries in one directory.
pub const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// The longest body of a directory in bytes that is given in place in its parent: some five files.
///
/// Every directory in place makes its parent longer, and a change anywhere costs the parent anew. With a larger
/// value directories of many packages become one manifest of half a megabyte; with none there are three
/// times as many manifests, most of them shorter than what it takes to ask for one. Part of the format:
/// another value gives other hashes.
pub const TREE_INLINE_MAX: usize = 256;

/// The deepest entry: one directly in the root is at depth 1.
pub const TREE_DEPTH_MAX: usize = 128;

/// The longest path of an entry from the root in bytes, with the slashes between names.
pub const TREE_PATH_MAX: usize = 4_096;

/// The largest number of entries of a tree, those of its subtrees included; some 100 bytes of memory
/// each where all of one is loaded.
pub const TREE_ENTRIES_MAX: u64 = 1_000_000;

/// The longest target of a symbolic link in bytes: what Linux can hold.
pub const SYMLINK_TARGET_MAX: usize = 4_095;
