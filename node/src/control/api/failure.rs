//! What went wrong, for people and for programs.

use serde::{Deserialize, Serialize};

/// Says what went wrong, for people and for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of trouble it is: decides exit code and hint.
    pub kind: Trouble,
    /// What was being done to which blob, peer or path: a lower-case fragment without a full stop.
    pub message: String,
    /// The causes, one line each: for a blob that was not found, one line per tier.
    pub causes: Vec<String>,
}

impl Failure {
    /// Makes a failure without causes.
    pub fn new(kind: Trouble, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), causes: Vec::new() }
    }

    /// Adds one cause.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }
}

/// Kinds of trouble; each has one exit code and may have a hint, both given by the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// Nothing below fits.
    Other,
    /// The request makes no sense: a malformed hash, a relative path.
    Usage,
    /// No tier has the blob, and every tier could be asked.
    NotFound,
    /// Bytes did not match their hash.
    WrongBytes,
    /// The edge refused for want of credentials: the bucket is not public.
    EdgeNotPublic,
    /// The edge refused the credentials.
    EdgeBadCredentials,
    /// The edge refused because this machine's clock is wrong.
    EdgeClockSkew,
    /// The edge refused, for another reason.
    EdgeRefused,
    /// The edge cannot be written to: it is a public URL, or none is configured.
    EdgeReadOnly,
    /// A mesh key, ticket or peer was refused.
    MeshRefused,
    /// A tier could not be reached, or time ran out; trying again may help.
    Unreachable,
    /// Another process holds the store.
    StoreLocked,
    /// The store is damaged or cannot be opened.
    StoreDamaged,
    /// The store was written by a newer program.
    FormatNewer,
    /// Some of the work was done.
    Partial,
    /// The configuration is invalid.
    Configuration,
    /// There is no space, or the blob does not fit under the store's bound.
    NoSpace,
    /// No node runs where one is needed.
    NoNode,
    /// The address to listen on is taken.
    AddressInUse,
    /// A file could not be read or written; the message names it.
    File,
    /// The output file exists.
    OutputExists,
    /// The output's directory is missing.
    OutputDirectoryMissing,
    /// A tree has entries that must not be written, or is damaged.
    UnsafeTree,
    /// A blob was named as a tree, and is something else.
    NotATree,
    /// The store does not have all of a tree.
    TreeIncomplete,
    /// A directory holds something else than a checkout.
    NotACheckout,
    /// Files of a checkout were changed, or others are in the way.
    LocalChanges,
    /// The blob is pinned.
    Pinned,
    /// The file changed while it was read.
    FileChanged,
    /// The blob is larger than the bound.
    TooLarge,
    /// The user or a signal ended it.
    Interrupted,
}
