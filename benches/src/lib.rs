//! What the benches share: contents, nodes and rivals that are measured, and how.
//!
//! [`works`] holds what `versus` does. Linux only: costs are read from `/proc`.

pub mod ceiling;
pub mod content;
pub mod counted;
pub mod dialogue;
pub mod git;
pub mod images;
pub mod load;
pub mod local;
pub mod machine;
pub mod nginx;
pub mod nodes;
pub mod process;
pub mod results;
pub mod rivals;
pub mod rounds;
pub mod rsync;
pub mod stats;
pub mod steps;
pub mod waits;
pub mod web;
pub mod works;
