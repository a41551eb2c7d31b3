//! Blobs: their names, their geometry and their verification.
//!
//! A blob is a run of immutable bytes named by its BLAKE3 [`struct@Hash`]. It is moved, verified and
//! remembered in *groups* of 64 chunks (64 KiB). The chaining values of all its groups, the
//! [`GroupList`], merge to the hash, so that any group can be checked alone and taken from anybody.
//! The tree is BLAKE3's own: the left subtree of a node is the largest power of two of chunks that
//! leaves at least one byte to the right.
//!
//! Source: O'Connor, Aumasson, Neves, Wilcox-O'Hearn, *BLAKE3: one function, fast everywhere* (2020),
//! section 2.1, for the tree and for the chunk numbers that tie a chaining value to its place.

mod group;
mod hash;
mod list;

pub use group::{GROUP_LEN, GroupSet, group_count, group_len, group_offset};
pub use hash::{Hash, ParseHashError};
pub use list::{
    BlobHasher, ChainingValue, GroupError, GroupList, ListError, ListFileError, ProvisionalList,
    group_value,
};
