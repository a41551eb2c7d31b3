//! The requests a node serves to its own user, its answers and its failures.
//!
//! Everything here is plain data that serialises to JSON; paths are absolute; hashes and peers are
//! text, because that is what people read and pass on.

mod answer;
mod exchange;
mod failure;
mod receipt;
mod request;
mod tree;

pub use answer::{Answer, BlobRow, PeerRow, PrefetchReport, PushReport, Saved, SavingsRow, Status};
pub use exchange::{Event, Exchange, FileCount, Input, Progress};
pub use failure::{Failure, Trouble};
pub use receipt::{
    AskedRow, DeltaRow, DhtRow, FetchRow, GotRow, Phases, Receipt, TierBytes, WayRow,
};
pub use request::{BaseName, CheckoutOptions, Request};
pub use tree::{AddedTree, CheckoutReport, PullReport, TreeRow};

/// The version of the control protocol; a client and a node of different versions refuse each other.
pub const CONTROL_VERSION: u32 = 1;
