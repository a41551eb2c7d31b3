//! Experiments with blobmesh.
//!
//! [`world`] runs the very engine that ships in virtual time, and [`runs`] are worlds with something to
//! measure. [`netns`] starts real `blobmesh` processes in network namespaces of this machine.
//! `simulations/README.md` holds the catalogue.
//!
//! This crate does not depend on the node: where it needs one it starts the binary, as a user would.

#[cfg(target_os = "linux")]
pub mod netns;
pub mod runs;
pub mod world;
