//! What to do about each kind of trouble, where there is something to do.
//!
//! Nodes report what happened; only here is it known which command or setting helps.

use blobmesh_node::control::api::Trouble;

/// Returns the hint of a kind of trouble; none where the message says it all.
pub(crate) fn hint_of(trouble: Trouble) -> Option<&'static str> {
    Some(match trouble {
        Trouble::NotFound => {
            "check the hash, or add the blob on a node of this mesh, or `blobmesh push` it to the edge"
        }
        Trouble::WrongBytes => "run `blobmesh verify`, then get the blob again",
        Trouble::EdgeNotPublic => {
            "set BLOBMESH_EDGE_ACCESS_KEY_ID and BLOBMESH_EDGE_SECRET_ACCESS_KEY, \
             or use the bucket's public URL"
        }
        Trouble::EdgeBadCredentials => {
            "check both keys: for R2 they are an S3 API token's pair, of the account in the endpoint"
        }
        Trouble::EdgeClockSkew => "set this machine's clock; signed requests are valid for minutes",
        Trouble::EdgeRefused => "run `blobmesh doctor` to see what the edge says",
        Trouble::EdgeReadOnly => {
            "to push, configure a bucket with credentials (`s3://BUCKET?endpoint=…`) or `dir:PATH`"
        }
        Trouble::MeshRefused => {
            "nodes talk within one mesh only: `blobmesh invite` there, `blobmesh join` here"
        }
        Trouble::Unreachable => "try again; `blobmesh doctor` shows what cannot be reached",
        Trouble::StoreLocked => {
            "one process holds a store at a time: stop that one, or use another --home"
        }
        Trouble::StoreDamaged => {
            "run `blobmesh doctor`; blob files stay readable under store/blobs"
        }
        Trouble::FormatNewer => "use the newer blobmesh, which wrote it",
        Trouble::Configuration => "`blobmesh config show` tells where each value comes from",
        Trouble::NoSpace => {
            "free some space, or `blobmesh rm` what is not needed and `blobmesh gc`"
        }
        Trouble::NoNode => "start one with `blobmesh up`",
        Trouble::AddressInUse => "choose another --listen address, or port 0 for any",
        Trouble::OutputExists => "add --force to replace it",
        Trouble::OutputDirectoryMissing => "make the directory first",
        Trouble::UnsafeTree => {
            "nothing was written; a tree like this was not made by `blobmesh add`"
        }
        Trouble::NotATree => "`blobmesh get` gets a blob that is no tree",
        Trouble::TreeIncomplete => "`blobmesh pull` gets what is missing, and checks the tree out",
        Trouble::NotACheckout => {
            "name a directory that is empty, does not exist, or was made by a checkout"
        }
        Trouble::LocalChanges => "move or add them first, or --force to lose them",
        Trouble::Pinned => "`blobmesh unpin` it first, or add --force",
        Trouble::FileChanged => "add it again once nothing writes to it",
        Trouble::TooLarge => "raise store.blob_bytes_max or store.bytes_max in the configuration",
        Trouble::Other
        | Trouble::Usage
        | Trouble::Partial
        | Trouble::File
        | Trouble::Interrupted => return None,
    })
}
