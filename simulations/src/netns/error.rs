//! What can go wrong in an experiment, apart from a bound that does not hold.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

/// Says why an experiment came to no result.
///
/// A measurement out of its bound is no error: it is a [`Metric`](super::metric::Metric) that does
/// not hold.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This machine cannot make a lab: not root, a tool is missing, or the kernel refuses.
    #[error("no network namespaces here: {reason}")]
    Unavailable {
        /// What is missing, and what would help.
        reason: String,
    },
    /// The `blobmesh` binary is not where it is looked for.
    #[error("no blobmesh binary at {}; build it, or name one in BLOBMESH_BIN", path.display())]
    NoBinary {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// An experiment was given fewer nodes than it uses.
    #[error("the lab has no host n{number}")]
    NoHost {
        /// The host's number, from 1.
        number: u8,
    },
    /// A shaped network cannot be as it was asked for, or has no such part.
    #[error("the network cannot be: {problem}")]
    Layout {
        /// What is wrong.
        problem: String,
    },
    /// A plan asks for what real nodes in namespaces cannot do.
    #[error("the plan cannot be replayed: {key}: {reason}")]
    Unplayable {
        /// The key of the plan, or the table.
        key: String,
        /// Why not, and what may stand there.
        reason: String,
    },
    /// The lab's network is not shaped: its wires cannot be changed.
    #[error("the lab has no relay")]
    NoRelay,
    /// A signal asked for the end.
    #[error("ended by signal {signal}")]
    Interrupted {
        /// The signal's number.
        signal: i32,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {} s", limit.as_secs_f64())]
    Late {
        /// What was waited for.
        what: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// A command failed.
    #[error("`{command}` ended with {status}: {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote on stderr.
        stderr: String,
    },
    /// A node ended while it was needed.
    #[error("node {node} ended by itself with {status}")]
    NodeEnded {
        /// The node's name in the experiment.
        node: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// A command's answer is not what the command line promises.
    #[error("`{command}` answered unexpectedly: {problem}")]
    Answer {
        /// The command line.
        command: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was being done to it.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The operating system refused something that has no path.
    #[error("cannot {action}")]
    System {
        /// What was being done.
        action: String,
        /// Why not.
        source: io::Error,
    },
    /// The report could not be written: its reader went away, or the disk is full.
    #[error("cannot write the report")]
    Report {
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    /// Makes the error of an `action` on `path` that failed.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }

    /// Makes the error of an `action` that failed.
    pub(crate) fn system(action: impl fmt::Display) -> impl FnOnce(io::Error) -> Self {
        let action = action.to_string();
        move |source| Self::System { action, source }
    }
}
