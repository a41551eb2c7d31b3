//! How a command fails.

use std::fmt::Display;
use std::io;
use std::path::Path;

use blobmesh_node::control::ControlError;
use blobmesh_node::control::api::{Failure, Trouble};

use crate::{exit, hints};

/// Says why a command did not do what it was asked for.
#[derive(Debug)]
pub(crate) enum CommandError {
    /// Something went wrong that the user is told.
    Failed {
        /// What.
        failure: Box<Failure>,
        /// What to do about it, where it is more than the hint of its kind.
        hint: Option<String>,
    },
    /// Nobody reads the answer any more, as in `blobmesh ls | head`; that is no failure.
    BrokenPipe,
}

impl CommandError {
    /// Makes a failure.
    pub(crate) fn new(kind: Trouble, message: impl Into<String>) -> Self {
        Failure::new(kind, message).into()
    }

    /// Makes a failure of the command line's arguments.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Trouble::Usage, message)
    }

    /// Makes a failure about a file: `cannot read PATH`, and why.
    pub(crate) fn file(doing: &str, path: &Path, cause: impl Display) -> Self {
        Failure::new(Trouble::File, format!("cannot {doing} {}", path.display()))
            .cause(cause.to_string())
            .into()
    }

    /// Replaces the hint.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        match self {
            Self::Failed { failure, .. } => Self::Failed { failure, hint: Some(hint.into()) },
            Self::BrokenPipe => self,
        }
    }

    /// Returns the hint to show; none where there is nothing to do.
    pub(crate) fn shown_hint(&self) -> Option<&str> {
        match self {
            Self::Failed { hint: Some(hint), .. } => Some(hint),
            Self::Failed { failure, .. } => hints::hint_of(failure.kind),
            Self::BrokenPipe => None,
        }
    }

    /// Returns what kind of trouble it is; none for a broken pipe.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Failed { failure, .. } => Some(failure.kind),
            Self::BrokenPipe => None,
        }
    }

    /// Returns the exit code.
    pub(crate) fn code(&self) -> u8 {
        self.trouble().map_or(exit::DONE, exit::code_of)
    }
}

impl From<Failure> for CommandError {
    fn from(failure: Failure) -> Self {
        Self::Failed { failure: Box::new(failure), hint: None }
    }
}

impl From<ControlError> for CommandError {
    fn from(error: ControlError) -> Self {
        let another_version = matches!(error, ControlError::Version { .. });
        let shown = Self::from(Failure::from(error));
        if another_version {
            return shown.hint("restart the node with the program that is installed now");
        }
        shown
    }
}

/// Turns the error of writing to stdout into a command's.
pub(crate) fn stdout_error(error: &io::Error) -> CommandError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return CommandError::BrokenPipe;
    }
    Failure::new(Trouble::File, "cannot write to stdout").cause(error.to_string()).into()
}
