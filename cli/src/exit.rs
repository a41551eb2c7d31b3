//! The exit codes of `blobmesh`: a promise to scripts. New ones may be added; treat an unknown code
//! as a failure.

use blobmesh_node::control::api::Trouble;

/// Everything asked for was done.
pub const DONE: u8 = 0;
/// A failure that none of the other codes names.
pub const OTHER: u8 = 1;
/// The command line makes no sense as it stands: an unknown flag, a malformed hash, an output that
/// exists.
pub const USAGE: u8 = 2;
/// The blob is in no tier, and every tier could be asked.
pub const NOT_FOUND: u8 = 3;
/// Bytes did not match their hash.
pub const WRONG_BYTES: u8 = 4;
/// Refused: the edge's credentials, the mesh, a ticket, or an unsafe tree.
pub const REFUSED: u8 = 5;
/// A tier could not be reached or time ran out; trying again may help.
pub const UNREACHABLE: u8 = 6;
/// The store is locked by another process, or damaged.
pub const STORE: u8 = 7;
/// Some of the work was done, the rest failed.
pub const PARTIAL: u8 = 8;
/// The configuration is invalid.
pub const CONFIGURATION: u8 = 9;
/// There is no space, or a bound of the store is in the way.
pub const NO_SPACE: u8 = 10;
/// No node runs where one is needed.
pub const NO_NODE: u8 = 11;
/// The store or the running node is of a newer format than this program.
pub const FORMAT_NEWER: u8 = 12;
/// A signal or the user ended it.
pub const INTERRUPTED: u8 = 130;

/// Every code with its meaning, as `--help` shows them.
pub const TABLE: &[(u8, &str)] = &[
    (DONE, "done"),
    (OTHER, "other failure"),
    (USAGE, "usage"),
    (NOT_FOUND, "blob not found in any tier"),
    (WRONG_BYTES, "verification failed"),
    (REFUSED, "refused (edge credentials, mesh, ticket, unsafe tree)"),
    (UNREACHABLE, "a tier was unreachable or timed out; trying again may help"),
    (STORE, "store locked or damaged"),
    (PARTIAL, "finished partly"),
    (CONFIGURATION, "configuration invalid"),
    (NO_SPACE, "no space, or over a bound of the store"),
    (NO_NODE, "no running node"),
    (FORMAT_NEWER, "format newer than this program"),
    (INTERRUPTED, "interrupted"),
];

/// Returns the exit code of a kind of trouble.
pub fn code_of(trouble: Trouble) -> u8 {
    match trouble {
        Trouble::Other
        | Trouble::AddressInUse
        | Trouble::File
        | Trouble::Pinned
        | Trouble::FileChanged => OTHER,
        Trouble::Usage
        | Trouble::OutputExists
        | Trouble::OutputDirectoryMissing
        | Trouble::NotACheckout
        | Trouble::NotATree
        | Trouble::LocalChanges => USAGE,
        Trouble::NotFound | Trouble::TreeIncomplete => NOT_FOUND,
        Trouble::WrongBytes => WRONG_BYTES,
        Trouble::EdgeNotPublic
        | Trouble::EdgeBadCredentials
        | Trouble::EdgeClockSkew
        | Trouble::EdgeRefused
        | Trouble::EdgeReadOnly
        | Trouble::MeshRefused
        | Trouble::UnsafeTree => REFUSED,
        Trouble::Unreachable => UNREACHABLE,
        Trouble::StoreLocked | Trouble::StoreDamaged => STORE,
        Trouble::Partial => PARTIAL,
        Trouble::Configuration => CONFIGURATION,
        Trouble::NoSpace | Trouble::TooLarge => NO_SPACE,
        Trouble::NoNode => NO_NODE,
        Trouble::FormatNewer => FORMAT_NEWER,
        Trouble::Interrupted => INTERRUPTED,
    }
}

/// Returns the table as text for `--help`.
pub(crate) fn help() -> String {
    let rows = TABLE.iter().map(|(code, meaning)| format!("  {code:>3}  {meaning}\n"));
    format!("Exit codes (treat an unknown one as failure):\n{}", rows.collect::<String>())
}
