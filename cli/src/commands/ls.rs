//! `ls`: the blobs of the store.

use blobmesh_node::control::api::{Answer, BlobRow, Request};
use serde::Serialize;

use super::{Context, unexpected};
use crate::error::CommandError;
use crate::output::table;
use crate::session::Need;
use crate::units::{count, size};

#[derive(Serialize)]
struct Summary {
    command: &'static str,
    blobs: usize,
    bytes: u64,
}

pub(super) async fn run(context: &Context) -> Result<(), CommandError> {
    let answer = context.ask(Need::Store, Request::List, "ls").await?;
    let Answer::List { blobs } = answer else { return Err(unexpected(&answer)) };
    for blob in &blobs {
        context.printer.line("blob", blob)?;
    }
    let bytes = blobs.iter().map(|blob| blob.size).sum();
    let summary = Summary { command: "ls", blobs: blobs.len(), bytes };
    context.printer.line("summary", &summary)?;
    if !blobs.is_empty() {
        let rows: Vec<_> = blobs.iter().map(row).collect();
        context.printer.answer(table(["HASH", "SIZE", "ORIGIN", "PINNED"], &rows))?;
    }
    context.printer.status(format!("{}, {}", count(blobs.len(), "blob"), size(bytes)));
    Ok(())
}

fn row(blob: &BlobRow) -> [String; 4] {
    let pinned = if blob.pinned { "pinned" } else { "" };
    [blob.hash.clone(), size(blob.size), blob.origin.clone(), pinned.to_owned()]
}
