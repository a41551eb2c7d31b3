//! Runs of the engine in virtual time.

mod two_nodes;

pub use two_nodes::{TwoNodes, two_nodes};
