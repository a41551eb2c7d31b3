//! What travels between nodes, byte by byte as `SPEC.md` has it.
//!
//! Source: bodies are encoded by version 1 of postcard's wire specification.

pub mod delta;
pub mod frame;
pub mod lane;
pub mod message;
pub mod small;
