//! What a blobmesh node decides, without doing any of it.
//!
//! This crate holds the sans-IO [`engine`], the [`wire`] messages, the geometry and verification of
//! blobs, the plans of [`delta`]s, the filters that neighbours gossip, and the rules of the resolver. It never touches a clock,
//! a socket, a file, a thread or a source of randomness: time and seeds come in as arguments, so that
//! the node (`blobmesh-node`) and the simulator (`blobmesh-simulations`) run the very same decisions.
//!
//! The words used here are defined in `CONTRIBUTING.md`; the bytes on the wire in `SPEC.md`.

pub mod blob;
pub mod compress;
pub mod config;
pub mod delta;
pub mod engine;
pub mod filter;
pub mod id;
pub mod lane;
pub mod stats;
pub mod successors;
pub mod time;
pub mod tree;
pub mod wire;

pub use blob::Hash;
pub use config::Config;
pub use engine::{Engine, NeighbourInfo};
pub use id::PeerId;
pub use time::Time;
