//! `cat`: a blob's bytes on stdout.

use std::time::Duration;

use blobmesh_node::control::api::{Answer, Request};

use super::get::{check_timeout, milliseconds, with_resume_hint};
use super::{Context, unexpected};
use crate::args::{CatArgs, NodeArgs};
use crate::error::CommandError;
use crate::files::check_hash;
use crate::output::got_line;
use crate::session::Need;

pub(super) async fn run(context: &Context, args: &CatArgs) -> Result<(), CommandError> {
    let hash = check_hash(&args.hash)?;
    let timeout = check_timeout(args.timeout.as_deref())?;
    write_blob(context, &hash, timeout, &args.node).await
}

/// Gets a blob and writes its bytes to stdout.
pub(super) async fn write_blob(
    context: &Context,
    hash: &str,
    timeout: Option<Duration>,
    flags: &NodeArgs,
) -> Result<(), CommandError> {
    if context.printer.is_json() {
        return Err(CommandError::usage("stdout cannot take both the blob's bytes and JSON")
            .hint("write the blob to a file: `blobmesh get HASH -o FILE --json`"));
    }
    let settings = context.settings(flags)?;
    let timeout_ms = milliseconds(timeout.or(settings.timeout));
    let mut session = context.session(&settings, Need::Network).await?;
    let request = Request::Cat { hash: hash.to_owned(), timeout_ms };
    let answer = session.call(request, context.progress("cat", hash)).await;
    session.close().await;
    let answer = answer.map_err(|error| with_resume_hint(error, hash))?;
    let Answer::Got(receipt) = answer else { return Err(unexpected(&answer)) };
    context.printer.flush()?;
    context.printer.status(got_line(&receipt));
    Ok(())
}
