//! `push`: blobs and trees up to the edge.

use blobmesh_node::control::api::{Answer, PushReport, Request, Trouble};
use serde::Serialize;

use super::{Context, unexpected};
use crate::args::PushArgs;
use crate::error::CommandError;
use crate::exit;
use crate::files::check_hashes;
use crate::session::Need;
use crate::units::{count, size};

#[derive(Serialize)]
struct Summary {
    command: &'static str,
    uploaded: u64,
    existed: u64,
    failed: u64,
    bytes: u64,
    packed: u64,
    packs: u64,
    requests: u64,
    seconds: f64,
}

pub(super) async fn run(context: &Context, args: &PushArgs) -> Result<(), CommandError> {
    let hashes = check_hashes(&args.hashes)?;
    let settings = context.settings(&args.node)?;
    let mut session = context.session(&settings, Need::Network).await?;
    let progress = match hashes.as_slice() {
        [hash] => context.progress("push", hash),
        hashes => context.printer.progress("push", &count(hashes.len(), "blob")),
    };
    let request = Request::Push { hashes, only: args.only, no_packs: args.no_packs };
    let answer = session.call(request, progress).await;
    session.close().await;
    let answer = answer.map_err(with_resume_hint)?;
    let Answer::Pushed(report) = answer else {
        return Err(unexpected(&answer));
    };
    context.printer.status(told(&report));
    report.failures.iter().for_each(|failure| context.printer.part_failed(&failure.clone().into()));
    context.printer.line("summary", &summary(&report))?;
    ended(&report)
}

/// Says how an interrupted push goes on.
fn with_resume_hint(error: CommandError) -> CommandError {
    if error.trouble() == Some(Trouble::Interrupted) {
        return error.hint("what went up is kept: the same command sends the rest");
    }
    error
}

fn told(report: &PushReport) -> String {
    let PushReport { uploaded, existed, bytes, packed, packs, requests, .. } = report;
    let mut text = format!("pushed {}, {}", count(*uploaded, "blob"), size(*bytes));
    if *packs > 0 {
        text += &format!(" ({packed} in {})", count(*packs, "pack"));
    }
    text + &format!("; the edge had {existed} already; {}", count(*requests, "request"))
}

fn summary(report: &PushReport) -> Summary {
    let PushReport { uploaded, existed, bytes, packed, packs, failed, requests, seconds, .. } =
        *report;
    let command = "push";
    Summary { command, uploaded, existed, failed, bytes, packed, packs, requests, seconds }
}

/// Makes an error of what did not go up.
fn ended(report: &PushReport) -> Result<(), CommandError> {
    let (failed, done) = (report.failed, report.uploaded + report.existed);
    if failed == 0 {
        return Ok(());
    }
    let error = CommandError::new(
        Trouble::Partial,
        format!("{done} of {} blobs are at the edge", done + failed),
    );
    let passes = |code| code == exit::UNREACHABLE;
    let may_pass = report.failures.iter().any(|failure| passes(exit::code_of(failure.kind)));
    Err(if may_pass { error.hint("the same command sends the rest") } else { error })
}
