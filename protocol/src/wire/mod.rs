//! What travels between nodes, byte by byte as `SPEC.md` has it.

pub mod frame;
pub mod message;
