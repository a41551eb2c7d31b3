//! `completions`: what a shell needs to complete our arguments.

use super::Context;
use crate::args::{self, CompletionsArgs};
use crate::error::CommandError;

pub(super) fn run(context: &Context, args: &CompletionsArgs) -> Result<(), CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut args::command(), "blobmesh", &mut script);
    context.printer.bytes(&script)?;
    context.printer.flush()
}
