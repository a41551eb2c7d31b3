//! `get` of many blobs: a list that the node works through at once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use blobmesh_node::control::GET_MANY_MAX;
use blobmesh_node::control::api::{Answer, Event, Failure, GotRow, Request, TierBytes, Trouble};
use serde::Serialize;

use super::get::milliseconds;
use super::{Context, unexpected};
use crate::error::CommandError;
use crate::exit;
use crate::output::{Count, Printer, TakeEvents, got_many_line};
use crate::session::Session;

/// How many failures people are told one by one; JSON lines tell them all.
const FAILURES_TOLD_MAX: usize = 20;

#[derive(Serialize)]
struct Start {
    command: &'static str,
    blobs: usize,
}

/// The line of one blob, `got` or `failed`.
#[derive(Serialize)]
struct Row<'a> {
    hash: &'a str,
    size: Option<u64>,
    found: &'a str,
    tier: TierBytes,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u8>,
    #[serde(flatten)]
    failure: Option<&'a Failure>,
}

/// The line that ends a get of many.
#[derive(Serialize)]
struct Summary {
    command: &'static str,
    blobs: usize,
    got: u64,
    failed: u64,
    tier: TierBytes,
    seconds: f64,
}

/// Gets blobs into the store, and tells of each when it ended.
pub(super) async fn run(
    context: &Context,
    session: &mut Session,
    hashes: &[String],
    timeout: Option<Duration>,
) -> Result<(), CommandError> {
    let printer = context.printer;
    printer.line("start", &Start { command: "get", blobs: hashes.len() })?;
    let mut taker = Taker::new(printer, hashes.len());
    let started = Instant::now();
    let mut tier = TierBytes::default();
    // A request has a bound.
    for hashes in hashes.chunks(GET_MANY_MAX) {
        let left = timeout.map(|timeout| timeout.saturating_sub(started.elapsed()));
        let request = Request::GetMany { hashes: hashes.to_vec(), timeout_ms: milliseconds(left) };
        let answer = session.call_taking(request, &mut taker).await.map_err(with_resume_hint)?;
        let Answer::GotMany { tier: of_chunk, .. } = answer else {
            return Err(unexpected(&answer));
        };
        tier.local += of_chunk.local;
        tier.lan += of_chunk.lan;
        tier.edge += of_chunk.edge;
    }
    taker.end(hashes.len(), tier, started.elapsed().as_secs_f64())
}

/// Says how an interrupted get goes on.
fn with_resume_hint(error: CommandError) -> CommandError {
    if error.trouble() == Some(Trouble::Interrupted) {
        return error.hint("what came is kept: the same command gets the rest");
    }
    error
}

/// Takes the rows as they come.
struct Taker {
    printer: Printer,
    count: Count,
    got: u64,
    failed: u64,
    /// The first failures, for people.
    failures: Vec<Failure>,
    /// The exit codes of all failures.
    codes: BTreeSet<u8>,
}

impl TakeEvents for Taker {
    fn take(&mut self, event: &Event) -> Result<(), CommandError> {
        match event {
            Event::Got(rows) => self.rows(rows),
            Event::Progress(_) | Event::Bytes(_) => Ok(()),
        }
    }
}

impl Taker {
    fn new(printer: Printer, blobs: usize) -> Self {
        Self {
            printer,
            count: printer.count("get", blobs),
            got: 0,
            failed: 0,
            failures: Vec::new(),
            codes: BTreeSet::new(),
        }
    }

    fn rows(&mut self, rows: &[GotRow]) -> Result<(), CommandError> {
        let mut bytes = 0;
        for row in rows {
            let Some(failure) = &row.failure else {
                self.got += 1;
                bytes += row.size.unwrap_or(0);
                continue;
            };
            self.failed += 1;
            self.codes.insert(exit::code_of(failure.kind));
            if self.failures.len() < FAILURES_TOLD_MAX {
                self.failures.push(failure.clone());
            }
        }
        self.count.add(rows.len(), bytes);
        let got = rows.iter().filter(|row| row.failure.is_none());
        self.printer.lines(got.map(|row| &row.hash), rows.iter().map(line_of))
    }

    /// Tells what came of all; an error unless all were got.
    fn end(self, blobs: usize, tier: TierBytes, seconds: f64) -> Result<(), CommandError> {
        let Self { printer, count, got, failed, failures, codes } = self;
        drop(count);
        let line = Summary { command: "get", blobs, got, failed, tier, seconds };
        printer.status(got_many_line(got, seconds, tier));
        for failure in &failures {
            printer.talk_of_failed(failure);
        }
        if failed == 0 {
            return printer.line("summary", &line);
        }
        printer.line("summary", &line)?;
        let kind = match failures.first() {
            Some(first) if got == 0 && codes.len() == 1 => first.kind,
            _ if got == 0 => Trouble::Other,
            _ => Trouble::Partial,
        };
        let error = CommandError::new(kind, format!("{got} of {blobs} blobs were got"));
        let told = u64::try_from(failures.len()).unwrap_or(u64::MAX);
        Err(if failed > told {
            error.hint(format!("{} more failed: `--json` has a line for each", failed - told))
        } else if codes.contains(&exit::UNREACHABLE) {
            error.hint("the same command gets the rest: what came is kept")
        } else {
            error
        })
    }
}

fn line_of(row: &GotRow) -> (&'static str, Row<'_>) {
    let GotRow { hash, size, found, tier, seconds, failure } = row;
    let failure = failure.as_ref();
    let code = failure.map(|failure| exit::code_of(failure.kind));
    let (size, tier, seconds) = (*size, *tier, *seconds);
    let row = Row { hash, size, found, tier, seconds, code, failure };
    (if failure.is_some() { "failed" } else { "got" }, row)
}
