//! What the programs of this package share: processes that are timed, and the TLS of the ceiling.

pub mod ceiling;
pub mod nodes;
pub mod process;
pub mod rsync;
