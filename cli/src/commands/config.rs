//! `config`: the settings and where they come from.

use serde::Serialize;

use super::Context;
use crate::args::{ConfigArgs, ConfigCommand, NodeArgs};
use crate::error::CommandError;

#[derive(Serialize)]
struct Summary<'a> {
    command: &'static str,
    home: &'a std::path::Path,
}

pub(super) fn run(context: &Context, args: &ConfigArgs) -> Result<(), CommandError> {
    let ConfigCommand::Show = args.command;
    let settings = context.settings(&NodeArgs::default())?;
    context.printer.answer(format!("# home = {}", settings.node.home.display()))?;
    for row in &settings.rows {
        context.printer.answer(match &row.value {
            Some(value) => format!("{} = {value}  # {}", row.key, row.origin),
            None => format!("# {} is not set", row.key),
        })?;
        context.printer.line("setting", row)?;
    }
    let summary = Summary { command: "config show", home: &settings.node.home };
    context.printer.line("summary", &summary)
}
