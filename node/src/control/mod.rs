//! What users and programs of this machine ask of a node, and how the request travels.
//!
//! [`api`] holds the requests and answers. The same [`api::Request`] is served by a running node over
//! its Unix socket ([`serve`], [`Client`]), and in process by a command that found no running node:
//! both ends have the shape of [`Service::handle`], so that a caller cannot tell them apart.
//!
//! # The wire
//! A connection carries one request.
//! 1. Both sides send one line of JSON, `{"blobmesh_control":1,"program":"0.1.0"}`, and read the
//!    other's. Sides of different versions part here.
//! 2. The client sends the [`api::Request`] as one line of JSON.
//! 3. Then frames go both ways: `kind u8, length u32 little-endian, body`, a body of at most 1 MiB.
//!    The client sends the input of an `Add` without a path, and says where it ends; the node sends progress, the bytes of a
//!    `Cat`, the rows of a `GetMany`, and at the end one answer or one failure. An answer longer than a frame comes in parts.
//!
//! # Invariants
//! - A client that hangs up, in either direction, cancels its request: the handler's future is dropped.
//! - The socket is never wider than mode 0600, not even while it is being bound.
//! - Lines, frames, answers and connections have bounds; an excess ends the connection, not the node.
//!
//! Nothing here checks who connects: the mode of the socket does, so that root and the node's own
//! user get in, and nobody else.

use std::future::Future;
use std::io;
use std::path::PathBuf;

use self::api::{Answer, Exchange, Failure, Request, Trouble};

pub mod api;
mod client;
mod frame;
mod hello;
mod server;
mod socket;
#[cfg(test)]
#[cfg(unix)]
mod tests;

pub use client::Client;
pub use server::serve;
pub use socket::Listener;

/// How many connections are served at once; further ones wait in the socket's backlog.
pub const CONNECTIONS_MAX: usize = 256;

/// The bound of a request's line in bytes: room for 50,000 hashes.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;

/// How many blobs one `GetMany` may name, so that it keeps the bound of a request.
pub const GET_MANY_MAX: usize = 50_000;

/// The bound of one answer in bytes: room for a list of about a million blobs.
pub const ANSWER_BYTES_MAX: usize = 256 << 20;

/// How many events, and how many pieces of input, wait in the queues of one request.
pub const EXCHANGE_LEN_MAX: usize = 16;

/// Serves requests, in process or from the socket.
pub trait Service: Send + Sync + 'static {
    /// Serves one request to its end.
    ///
    /// Dropping the future cancels the request: what was verified and stored by then stays, nothing
    /// half-done becomes visible.
    ///
    /// # Errors
    /// A [`Failure`] whose kind decides the exit code.
    fn handle(
        &self,
        request: Request,
        exchange: Exchange,
    ) -> impl Future<Output = Result<Answer, Failure>> + Send;
}

/// Says why a control socket could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another node serves this socket.
    #[error("a node already serves {}", path.display())]
    Live {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket has the socket's name.
    #[error("{} is not a socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The socket could not be made.
    #[error("cannot bind the control socket {}", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The socket is there, and connecting failed in another way than "nobody listens".
    #[error("cannot connect to the control socket {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The other side is no blobmesh node, or it ended while it greeted.
    #[error("no blobmesh node answers at {}", path.display())]
    Greeting {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Somebody listens, and did not greet in time.
    #[error("the node that listens at {} does not answer", path.display())]
    Silent {
        /// The socket.
        path: PathBuf,
    },
    /// The running node speaks another version of the control protocol.
    #[error(
        "the running node is of version {program} (control protocol {theirs}), this program speaks {}",
        api::CONTROL_VERSION
    )]
    Version {
        /// The node's program version.
        program: String,
        /// The control protocol it speaks.
        theirs: u32,
    },
    /// This platform has no control socket yet.
    #[error("the control socket needs a Unix system")]
    Unsupported,
}

impl ControlError {
    /// Returns what kind of trouble it is.
    pub fn trouble(&self) -> Trouble {
        match self {
            Self::Live { .. } => Trouble::StoreLocked,
            Self::Version { theirs, .. } if *theirs > api::CONTROL_VERSION => Trouble::FormatNewer,
            Self::Greeting { .. } => Trouble::NoNode,
            Self::Silent { .. } => Trouble::Unreachable,
            Self::Connect { .. }
            | Self::NotASocket { .. }
            | Self::Bind { .. }
            | Self::Version { .. }
            | Self::Unsupported => Trouble::Other,
        }
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let failure = Self::new(error.trouble(), error.to_string());
        match std::error::Error::source(&error) {
            Some(source) => failure.cause(source.to_string()),
            None => failure,
        }
    }
}
