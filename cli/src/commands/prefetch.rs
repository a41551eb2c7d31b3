//! `prefetch`: blobs come into the store ahead of whoever will want them.

use blobmesh_node::control::GET_MANY_MAX;
use blobmesh_node::control::api::{Answer, PrefetchReport, Request, TierBytes, Trouble};
use serde::Serialize;

use super::{Context, unexpected};
use crate::args::PrefetchArgs;
use crate::error::CommandError;
use crate::files::{check_hashes, read_list};
use crate::session::Need;
use crate::units::{count, parse_size, size};

/// The line that ends a prefetch that was not waited for.
#[derive(Serialize)]
struct Queued {
    command: &'static str,
    /// How many others come first.
    before: u64,
}

/// The line that ends one that was.
#[derive(Serialize)]
struct Summary {
    command: &'static str,
    blobs: u64,
    tier: TierBytes,
    existed: u64,
    failed: u64,
    left: u64,
    seconds: f64,
}

pub(super) async fn run(context: &Context, args: &PrefetchArgs) -> Result<(), CommandError> {
    let mut named = args.hashes.clone();
    if let Some(list) = &args.from {
        named.extend(read_list(list)?);
    }
    let hashes = check_hashes(&named)?;
    if hashes.len() > GET_MANY_MAX {
        return Err(CommandError::usage(format!("more than {GET_MANY_MAX} blobs are named"))
            .hint("prefetch a tree, or several lists"));
    }
    let budget = args.budget.as_deref().map(parse_size).transpose();
    let budget = budget.map_err(|text| CommandError::usage(format!("--budget: {text}")))?;
    let settings = context.settings(&args.node)?;
    let need = if args.wait { Need::Network } else { Need::RunningNode };
    let mut session = context.session(&settings, need).await?;
    let progress = context.printer.progress("prefetch", &count(hashes.len(), "blob"));
    let request = Request::Prefetch { hashes, budget, wait: args.wait };
    let answer = session.call(request, progress).await;
    session.close().await;
    let answer = answer.map_err(with_hint)?;
    if let Answer::Prefetched(report) = answer {
        return end(context, &report);
    }
    let Answer::Prefetching { before } = answer else { return Err(unexpected(&answer)) };
    context.printer.status(match before {
        0 => "the node gets them while nobody waits for other bytes".to_owned(),
        before => format!("the node gets them after {}", count(before, "other list")),
    });
    context.printer.line("summary", &Queued { command: "prefetch", before })
}

fn end(context: &Context, report: &PrefetchReport) -> Result<(), CommandError> {
    context.printer.status(told(report));
    report.failures.iter().for_each(|failure| context.printer.part_failed(&failure.clone().into()));
    context.printer.line("summary", &summary(report))?;
    if report.failed == 0 {
        return Ok(());
    }
    let text = format!("{} could not be got", count(report.failed, "blob"));
    Err(CommandError::new(kind_of(report), text).hint("`blobmesh get HASH` says of each why"))
}

/// Returns what it is that some could not be got: where none was, and all for one reason, it is that.
fn kind_of(report: &PrefetchReport) -> Trouble {
    let kinds: Vec<_> = report.failures.iter().map(|failure| failure.kind).collect();
    match kinds.first() {
        _ if report.blobs + report.existed > 0 => Trouble::Partial,
        Some(first) if kinds.iter().all(|kind| kind == first) => *first,
        _ => Trouble::Other,
    }
}

fn summary(report: &PrefetchReport) -> Summary {
    let PrefetchReport { blobs, tier, existed, failed, left, seconds, .. } = *report;
    Summary { command: "prefetch", blobs, tier, existed, failed, left, seconds }
}

fn told(report: &PrefetchReport) -> String {
    let PrefetchReport { blobs, tier, existed, left, seconds, .. } = report;
    let mut text = format!(
        "got {}, {} from peers and {} from the edge, in {seconds:.2}s; {existed} were there",
        count(*blobs, "blob"),
        size(tier.lan),
        size(tier.edge)
    );
    if *left > 0 {
        text.push_str(&format!("; the budget ended before {}", count(*left, "blob")));
    }
    text
}

fn with_hint(error: CommandError) -> CommandError {
    match error.trouble() {
        Some(Trouble::Interrupted) => {
            error.hint("what came is kept; without --wait a running node goes on by itself")
        }
        Some(Trouble::NoNode) => error.hint("start one with `blobmesh up`, or use --wait"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use blobmesh_node::control::api::Failure;

    use super::*;

    #[test]
    fn budget_is_told_where_it_ended_before_the_list() {
        let tier = TierBytes { local: 0, lan: 1 << 20, edge: 2 << 20 };
        let report = PrefetchReport {
            blobs: 2,
            tier,
            existed: 3,
            seconds: 0.5,
            ..PrefetchReport::default()
        };
        let all = "got 2 blobs, 1 MiB from peers and 2 MiB from the edge, in 0.50s; 3 were there";
        assert_eq!(told(&report), all);
        let some = told(&PrefetchReport { left: 1, ..report });
        assert_eq!(some, format!("{all}; the budget ended before 1 blob"));
    }

    #[test]
    fn reason_that_all_failed_for_is_that_of_the_whole() {
        use Trouble::{NotFound, Other, Partial, Unreachable};
        for (blobs, existed, failures, kind) in [
            (0, 0, &[Unreachable, Unreachable][..], Unreachable),
            (0, 0, &[NotFound], NotFound),
            (0, 0, &[NotFound, Unreachable], Other),
            (1, 0, &[Unreachable], Partial),
            (0, 1, &[NotFound], Partial),
        ] {
            let failures: Vec<_> = failures.iter().map(|kind| Failure::new(*kind, "")).collect();
            let report = PrefetchReport { blobs, existed, failures, ..PrefetchReport::default() };
            assert_eq!(kind_of(&report), kind, "{report:?}");
        }
    }
}
