//! Trees: whole directories, into the store and out of it.
//!
//! What a tree is, and which of them are safe, `blobmesh_protocol::tree` says. `scan` makes one of a directory,
//! `closure` says which blobs one consists of, `source` gives the manifests of those that are in the store, and
//! [`checkout()`] makes a directory of one. Everything here blocks: call it from threads that may.

#[cfg(target_os = "linux")]
mod beneath;
#[cfg(target_os = "linux")]
mod checkout;
pub(crate) mod closure;
#[cfg(target_os = "linux")]
mod pattern;
#[cfg(unix)]
pub(crate) mod scan;
pub(crate) mod source;
#[cfg(target_os = "linux")]
mod ways;

#[cfg(target_os = "linux")]
pub use checkout::{
    CheckedOut, CheckoutError, IN_THE_WAY_MAX, Options, Progress, Recovered, SourceError, checkout,
};
#[cfg(target_os = "linux")]
pub(crate) use checkout::{
    Supply, check_target, checkout_meanwhile, each_file, older_versions, open_older, shown,
};
#[cfg(target_os = "linux")]
pub use ways::WayCounts;

pub use crate::stop::Stop;
