//! `verify`: the store against its hashes.

use blobmesh_node::control::api::{Answer, Failure, Request, Trouble};
use serde::Serialize;

use super::{Context, unexpected};
use crate::args::VerifyArgs;
use crate::error::CommandError;
use crate::files::check_hashes;
use crate::session::Need;
use crate::units::{count, size};

#[derive(Serialize)]
struct Bad<'a> {
    hash: &'a str,
}

#[derive(Serialize)]
struct Summary {
    command: &'static str,
    blobs: u64,
    bytes: u64,
    bad: usize,
}

pub(super) async fn run(context: &Context, args: &VerifyArgs) -> Result<(), CommandError> {
    let request = Request::Verify { hashes: check_hashes(&args.hashes)? };
    let answer = context.ask(Need::Store, request, "verify").await?;
    let Answer::Verified { blobs, bytes, bad } = answer else { return Err(unexpected(&answer)) };
    for hash in &bad {
        context.printer.answer(format!("{hash}  wrong bytes"))?;
        context.printer.line("bad", &Bad { hash })?;
    }
    context.printer.status(format!("verified {}, {}", count(blobs, "blob"), size(bytes)));
    context
        .printer
        .line("summary", &Summary { command: "verify", blobs, bytes, bad: bad.len() })?;
    if bad.is_empty() {
        return Ok(());
    }
    let text =
        format!("{} of {} had wrong bytes and left the store", bad.len(), count(blobs, "blob"));
    let failure = Failure::new(Trouble::WrongBytes, text);
    Err(CommandError::from(failure).hint("get them again; if it happens twice, test the disk"))
}
