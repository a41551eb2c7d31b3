//! `gc`: the store down to its bound.

use blobmesh_node::control::api::{Answer, Request};
use serde::Serialize;

use super::{Context, unexpected};
use crate::error::CommandError;
use crate::session::Need;
use crate::units::{count, size};

#[derive(Serialize)]
struct Summary {
    command: &'static str,
    blobs: u64,
    bytes: u64,
}

pub(super) async fn run(context: &Context) -> Result<(), CommandError> {
    let answer = context.ask(Need::Store, Request::Gc, "gc").await?;
    let Answer::Collected { blobs, bytes } = answer else { return Err(unexpected(&answer)) };
    context.printer.status(format!("evicted {}, {} free again", count(blobs, "blob"), size(bytes)));
    context.printer.line("summary", &Summary { command: "gc", blobs, bytes })
}
