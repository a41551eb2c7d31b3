//! `why`: how the last get of a blob was resolved.

use blobmesh_node::control::api::{Answer, Receipt, Request};
use serde::Serialize;

use super::{Context, unexpected};
use crate::args::WhyArgs;
use crate::error::CommandError;
use crate::files::check_hash;
use crate::output::receipt_text;
use crate::session::Need;

#[derive(Serialize)]
struct Summary<'a> {
    command: &'static str,
    #[serde(flatten)]
    receipt: &'a Receipt,
}

pub(super) async fn run(context: &Context, args: &WhyArgs) -> Result<(), CommandError> {
    let request = Request::Why { hash: check_hash(&args.hash)? };
    let answer = context.ask(Need::Store, request, "why").await?;
    let Answer::Why(receipt) = answer else { return Err(unexpected(&answer)) };
    context.printer.line("summary", &Summary { command: "why", receipt: &receipt })?;
    context.printer.answer(receipt_text(&receipt))
}
