//! The subcommands of `blobmesh-sim`, one file each. Only they print.

pub(crate) mod netns;
pub(crate) mod run;
