//! `checkout`: a tree of the store becomes a directory.

use std::path::{Path, PathBuf};

use blobmesh_node::control::api::{Answer, CheckoutReport, Request, Trouble};
use serde::Serialize;

use super::{Context, unexpected};
use crate::args::{CheckoutArgs, NodeArgs};
use crate::error::CommandError;
use crate::files::check_hash;
use crate::output::Printer;
use crate::session::Need;
use crate::units::size;

/// The line that ends a checkout.
#[derive(Serialize)]
struct Summary<'a> {
    command: &'static str,
    hash: &'a str,
    dir: &'a str,
    #[serde(flatten)]
    report: &'a CheckoutReport,
}

pub(super) async fn run(context: &Context, args: &CheckoutArgs) -> Result<(), CommandError> {
    let hash = check_hash(&args.hash)?;
    let (dir, text) = check_dir(&args.dir)?;
    let settings = context.settings(&NodeArgs::default())?;
    let mut session = context.session(&settings, Need::Store).await?;
    let request = Request::Checkout { hash: hash.clone(), dir, options: args.options() };
    let answer = session.call(request, context.progress("checkout", &hash)).await;
    session.close().await;
    let answer = answer.map_err(with_hint)?;
    let Answer::CheckedOut(report) = answer else { return Err(unexpected(&answer)) };
    print(context, &hash, &text, &report)
}

/// Returns the directory of a checkout, absolute, and the same as text.
pub(super) fn check_dir(dir: &Path) -> Result<(PathBuf, String), CommandError> {
    let dir = std::path::absolute(dir)
        .map_err(|_| CommandError::usage("the directory's name is empty"))?;
    match dir.to_str().map(str::to_owned) {
        Some(text) => Ok((dir, text)),
        None => Err(CommandError::usage("the directory's name is not UTF-8")
            .hint("check out into another, and rename it")),
    }
}

fn print(
    context: &Context,
    hash: &str,
    dir: &str,
    report: &CheckoutReport,
) -> Result<(), CommandError> {
    let printer = &context.printer;
    tell(printer, hash, report);
    printer.answer(dir)?;
    printer.line("summary", &Summary { command: "checkout", hash, dir, report })
}

/// Tells people what was done, and what they should know of it.
pub(super) fn tell(printer: &Printer, hash: &str, report: &CheckoutReport) {
    if let Some(recovered) = &report.recovered {
        printer.warning(recovered);
    }
    if !report.left.is_empty() {
        let paths = report.left.iter().take(20).map(|path| path.escape_debug().to_string());
        let paths = paths.collect::<Vec<_>>().join(", ");
        printer.warning(format!("changed meanwhile, and left alone: {paths}"));
    }
    printer.status(told(hash, report));
}

/// Tells what was done: `checked out 3f9a1c20be  10000 added, 98 MiB in 0.21s  (10000 reflinked)`.
fn told(hash: &str, report: &CheckoutReport) -> String {
    let counts = |counts: &[(u64, &str)]| {
        let some = counts.iter().filter(|(count, _)| *count > 0);
        some.map(|(count, what)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
    };
    let CheckoutReport { added, changed, removed, bytes, seconds, .. } = report;
    let done = counts(&[(*added, "added"), (*changed, "changed"), (*removed, "removed")]);
    let done = if done.is_empty() { "nothing to do".to_owned() } else { done };
    let ways = counts(&[
        (report.reflinked, "reflinked"),
        (report.kernel_copied + report.copied, "copied"),
        (report.hard_linked, "hard links"),
    ]);
    let ways = if ways.is_empty() { ways } else { format!("  ({ways})") };
    let (hash, bytes) = (crate::units::short_hash(hash), size(*bytes));
    format!("checked out {hash}  {done}, {bytes} in {seconds:.2}s{ways}")
}

fn with_hint(error: CommandError) -> CommandError {
    match error.trouble() {
        Some(Trouble::Interrupted) => error.hint(
            "the directory is as it was, or holds the whole tree; checking out again tells which",
        ),
        _ => error,
    }
}
