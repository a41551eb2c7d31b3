//! `pull`: a tree of the mesh becomes a directory; what is missing of it is fetched before.

use blobmesh_node::control::api::{Answer, PullReport, Request, Trouble};
use serde::Serialize;

use super::get::{check_timeout, milliseconds};
use super::{Context, checkout, unexpected};
use crate::args::PullArgs;
use crate::error::CommandError;
use crate::files::check_hash;
use crate::session::Need;
use crate::units::{count, short_hash, size};

/// The line that ends a pull.
#[derive(Serialize)]
struct Summary<'a> {
    command: &'static str,
    hash: &'a str,
    dir: &'a str,
    #[serde(flatten)]
    report: &'a PullReport,
}

pub(super) async fn run(context: &Context, args: &PullArgs) -> Result<(), CommandError> {
    let hash = check_hash(&args.checkout.hash)?;
    let timeout = check_timeout(args.timeout.as_deref())?;
    let (dir, text) = checkout::check_dir(&args.checkout.dir)?;
    let settings = context.settings(&args.node)?;
    let mut session = context.session(&settings, Need::Network).await?;
    let request = Request::Pull {
        hash: hash.clone(),
        dir,
        options: args.checkout.options(),
        timeout_ms: milliseconds(timeout.or(settings.timeout)),
    };
    let answer = session.call(request, context.progress("pull", &hash)).await;
    session.close().await;
    let answer = answer.map_err(with_hint)?;
    let Answer::Pulled(report) = answer else { return Err(unexpected(&answer)) };
    print(context, &hash, &text, &report)
}

fn print(
    context: &Context,
    hash: &str,
    dir: &str,
    report: &PullReport,
) -> Result<(), CommandError> {
    let printer = &context.printer;
    printer.status(told(hash, report));
    checkout::tell(printer, hash, &report.checkout);
    printer.answer(dir)?;
    printer.line("summary", &Summary { command: "pull", hash, dir, report })
}

/// Tells what was fetched: `fetched 3f9a1c20be  12 files and 1 manifest, 98 MiB in 0.21s`.
fn told(hash: &str, report: &PullReport) -> String {
    let PullReport { manifests, blobs, tier, copied, find_s, fetch_s, .. } = report;
    if *blobs == 0 && *manifests == 0 {
        return format!("fetched {}: nothing is missing", short_hash(hash));
    }
    let counted = |number: u64, what| count(usize::try_from(number).unwrap_or(usize::MAX), what);
    let (hash, bytes) = (short_hash(hash), size(tier.lan + tier.edge));
    let (files, manifests) = (counted(*blobs, "file"), counted(*manifests, "manifest"));
    let older = match copied {
        0 => String::new(),
        copied => format!(" and {} of older versions", size(*copied)),
    };
    format!("fetched {hash}  {files} and {manifests}, {bytes}{older} in {:.2}s", find_s + fetch_s)
}

fn with_hint(error: CommandError) -> CommandError {
    match error.trouble() {
        Some(Trouble::Interrupted) => {
            error.hint("what came is kept: the same command gets the rest, and checks the tree out")
        }
        _ => error,
    }
}
