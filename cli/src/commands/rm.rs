//! `rm`: blobs out of the store.

use blobmesh_node::control::api::{Answer, Request};
use serde::Serialize;

use super::{Context, unexpected};
use crate::args::RmArgs;
use crate::error::CommandError;
use crate::files::check_hashes;
use crate::session::Need;
use crate::units::{count, size};

#[derive(Serialize)]
struct Summary {
    command: &'static str,
    blobs: u64,
    bytes: u64,
}

pub(super) async fn run(context: &Context, args: &RmArgs) -> Result<(), CommandError> {
    let request = Request::Remove { hashes: check_hashes(&args.hashes)?, force: args.force };
    let answer = context.ask(Need::Store, request, "rm").await?;
    let Answer::Removed { bytes, blobs } = answer else { return Err(unexpected(&answer)) };
    context.printer.status(format!("removed {}, {}", count(blobs, "blob"), size(bytes)));
    context.printer.line("summary", &Summary { command: "rm", blobs, bytes })
}
