//! `pin` and `unpin`: protection from eviction.

use blobmesh_node::control::api::{Answer, Request};
use serde::Serialize;

use super::{Context, unexpected};
use crate::args::HashesArgs;
use crate::error::CommandError;
use crate::files::check_hashes;
use crate::session::Need;
use crate::units::count;

/// Says which of the two it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    Pin,
    Unpin,
}

#[derive(Serialize)]
struct Summary {
    command: &'static str,
    blobs: usize,
}

pub(super) async fn run(
    context: &Context,
    args: &HashesArgs,
    change: Change,
) -> Result<(), CommandError> {
    let hashes = check_hashes(&args.hashes)?;
    let blobs = hashes.len();
    let (command, done, request) = match change {
        Change::Pin => ("pin", "pinned", Request::Pin { hashes }),
        Change::Unpin => ("unpin", "unpinned", Request::Unpin { hashes }),
    };
    let answer = context.ask(Need::Store, request, command).await?;
    let Answer::Done = answer else { return Err(unexpected(&answer)) };
    context.printer.status(format!("{done} {}", count(blobs, "blob")));
    context.printer.line("summary", &Summary { command, blobs })
}
