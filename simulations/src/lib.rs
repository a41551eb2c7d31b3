//! Experiments with blobmesh.
//!
//! A [`plan`] says what is in a world. A [`world`] runs the very engine that ships in virtual time, a
//! [`batch`] many of them. An [`outcome`] is what came of one; [`output`] keeps it, a [`verdict`] tells it.
//! [`netns`] starts real `blobmesh` processes in network namespaces of this machine.
//! `simulations/README.md` holds the catalogue.
//!
//! This crate does not depend on the node: where it needs one it starts the binary, as a user would.

pub mod batch;
pub mod compare;
pub mod fuzz;
#[cfg(target_os = "linux")]
pub mod netns;
pub mod outcome;
pub mod output;
pub mod plan;
pub mod random;
pub mod report;
pub mod script;
pub mod stats;
pub mod trace;
pub mod verdict;
pub mod world;
