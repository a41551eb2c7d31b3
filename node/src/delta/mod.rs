//! Deltas: what an older version has of a blob is copied from it, and the rest fetched by the byte (SPEC.md, "Delta
//! requests").
//!
//! A delta runs ahead of an ordinary get and fills the blob's partial; what it leaves is fetched as ever. So it may fail
//! at any point, and costs time then and nothing else. What to copy and what to fetch, `blobmesh_protocol::delta`
//! decides. [`requester`] does it, [`provider`] answers, [`maps`] makes the maps of what this node holds, once each, and
//! [`base`] reads the older version.
//!
//! Every group is checked by the partial it is written to. Memory does not grow with the blob, but for its list, its map
//! and that of the base, which are bounded.

pub(crate) mod base;
pub(crate) mod maps;
pub(crate) mod provider;
pub(crate) mod requester;
#[cfg(test)]
mod tests;

pub(crate) use base::Base;
pub(crate) use maps::Maps;
pub(crate) use requester::{DeltaError, Made};
