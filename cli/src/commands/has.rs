//! `has`: which blobs are in the store.

use blobmesh_node::control::api::{Answer, Failure, Request, Trouble};
use serde::Serialize;

use super::{Context, unexpected};
use crate::args::HashesArgs;
use crate::error::CommandError;
use crate::files::check_hashes;
use crate::session::Need;
use crate::units::{short_hash, size};

#[derive(Serialize)]
struct Has<'a> {
    hash: &'a str,
    has: bool,
    size: Option<u64>,
}

#[derive(Serialize)]
struct Summary {
    command: &'static str,
    asked: usize,
    has: usize,
}

pub(super) async fn run(context: &Context, args: &HashesArgs) -> Result<(), CommandError> {
    let hashes = check_hashes(&args.hashes)?;
    let request = Request::Has { hashes: hashes.clone() };
    let answer = context.ask(Need::Store, request, "has").await?;
    let Answer::Has { sizes } = answer else { return Err(unexpected(&answer)) };
    let rows = || hashes.iter().zip(&sizes);
    let texts = rows().map(|(hash, bytes)| {
        let held = bytes.map_or_else(|| "absent".to_owned(), size);
        format!("{hash}  {held}")
    });
    let bodies =
        rows().map(|(hash, bytes)| ("has", Has { hash, has: bytes.is_some(), size: *bytes }));
    context.printer.lines(texts, bodies)?;
    let absent: Vec<&String> = hashes
        .iter()
        .zip(&sizes)
        .filter(|(_, size)| size.is_none())
        .map(|(hash, _)| hash)
        .collect();
    let Some(first) = absent.first() else {
        let summary = Summary { command: "has", asked: hashes.len(), has: hashes.len() };
        return context.printer.line("summary", &summary);
    };
    let text = match absent.len() {
        1 => format!("blob {} is not in the store", short_hash(first)),
        several => format!("{several} of {} blobs are not in the store", hashes.len()),
    };
    let failure = Failure::new(Trouble::NotFound, text);
    Err(CommandError::from(failure).hint("`blobmesh get` asks the peers and the edge, too"))
}
