//! x
pub mod runs;
pub mod world;
