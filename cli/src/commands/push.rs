//! `push`: blobs up to the edge.

use blobmesh_node::control::api::{Answer, Request};
use serde::Serialize;

use super::{Context, unexpected};
use crate::args::PushArgs;
use crate::error::CommandError;
use crate::files::check_hashes;
use crate::session::Need;
use crate::units::{count, size};

#[derive(Serialize)]
struct Summary {
    command: &'static str,
    uploaded: u64,
    existed: u64,
    bytes: u64,
}

pub(super) async fn run(context: &Context, args: &PushArgs) -> Result<(), CommandError> {
    let hashes = check_hashes(&args.hashes)?;
    let settings = context.settings(&args.node)?;
    let mut session = context.session(&settings, Need::Network).await?;
    let progress = match hashes.as_slice() {
        [hash] => context.progress("push", hash),
        hashes => context.printer.progress("push", &count(hashes.len(), "blob")),
    };
    let answer = session.call(Request::Push { hashes }, progress).await;
    session.close().await;
    let answer = answer?;
    let Answer::Pushed { uploaded, existed, bytes } = answer else {
        return Err(unexpected(&answer));
    };
    let pushed = count(uploaded, "blob");
    let text = format!("pushed {pushed}, {}; the edge had {existed} already", size(bytes));
    context.printer.status(text);
    context.printer.line("summary", &Summary { command: "push", uploaded, existed, bytes })
}
