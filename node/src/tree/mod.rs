//! Trees: whole directories, into the store and out of it.
//!
//! What a tree is, and which of them are safe, `blobmesh_protocol::tree` says. [`scan`] makes one of a
//! directory, [`closure`] says which blobs one consists of, [`source`] gives the manifests of those that are in the store.

pub(crate) mod closure;
#[cfg(unix)]
pub(crate) mod scan;
pub(crate) mod source;
