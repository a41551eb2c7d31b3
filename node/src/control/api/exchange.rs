//! What is said while a request is served.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::receipt::GotRow;

/// Is what a request talks through while it is served.
#[derive(Debug)]
pub struct Exchange {
    /// Takes the events; progress is dropped when it is full, all else waits.
    pub events: mpsc::Sender<Event>,
    /// Gives the bytes of an `Add` without a path, and then [`Input::End`]. Where it ends without, it was cut, and
    /// what came of it is no blob.
    pub input: mpsc::Receiver<std::io::Result<Input>>,
}

/// Is a part of what a request reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The next bytes.
    Bytes(Bytes),
    /// There are no more.
    End,
}

/// What a node sends while it serves a request.
#[derive(Debug)]
pub enum Event {
    /// How far it is.
    Progress(Progress),
    /// The next bytes of a `Cat`.
    Bytes(Bytes),
    /// Blobs of a `GetMany` that have ended, in the order of their ends.
    Got(Vec<GotRow>),
}

/// Tells how far long work is; at most five a second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// What goes on: `hash`, `scan`, `find`, `fetch`, `lan`, `edge`, `store`, `push`, `verify`, `write`.
    pub phase: String,
    /// The bytes done.
    pub done: u64,
    /// The bytes in all; none while unknown.
    pub total: Option<u64>,
    /// How many peers take part.
    pub peers: u64,
    /// How many files are done, where the work is one on files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<FileCount>,
}

/// Counts files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCount {
    /// Those that are done.
    pub done: u64,
    /// All; none while unknown.
    pub total: Option<u64>,
}
