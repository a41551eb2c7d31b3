//! `get`: blobs from the first tier that has them.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use blobmesh_node::control::api::{Answer, BaseName, DeltaRow, Receipt, Request, Trouble};
use serde::Serialize;

use super::{Context, cat, get_many, unexpected};
use crate::args::GetArgs;
use crate::error::CommandError;
use crate::files::{check_base, check_hashes, check_output, read_list};
use crate::output::got_line;
use crate::session::{Need, Session};
use crate::units::parse_duration;

#[derive(Serialize)]
struct Start<'a> {
    command: &'static str,
    hash: &'a str,
}

/// The line that ends a get.
#[derive(Serialize)]
struct Summary<'a> {
    command: &'static str,
    hash: &'a str,
    size: Option<u64>,
    found: &'a str,
    tier: blobmesh_node::control::api::TierBytes,
    seconds: f64,
    phases: blobmesh_node::control::api::Phases,
    output: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<&'a DeltaRow>,
}

pub(super) async fn run(context: &Context, args: &GetArgs) -> Result<(), CommandError> {
    let mut hashes = hashes_of(args)?;
    let timeout = check_timeout(args.timeout.as_deref())?;
    if args.output.is_some() && hashes.len() > 1 {
        return Err(CommandError::usage("--output takes one blob, and there are several")
            .hint("get them one by one, or without --output into the store"));
    }
    let base = args.base.as_deref().map(check_base).transpose()?;
    if base.is_some() && hashes.len() > 1 {
        return Err(CommandError::usage("--base is of one blob, and there are several")
            .hint("get them one by one"));
    }
    let mut named = HashSet::new();
    hashes.retain(|hash| named.insert(hash.clone()));
    if args.output.as_ref().is_some_and(|output| output.as_os_str() == "-") {
        if base.is_some() {
            return Err(CommandError::usage("--base needs an output that is no stream")
                .hint("get the blob first, then `blobmesh cat` it"));
        }
        if args.no_store {
            return Err(CommandError::usage("--no-store needs an output that is no stream")
                .hint("write to a file, or leave --no-store out"));
        }
        return cat::write_blob(context, &hashes[0], timeout, &args.node).await;
    }
    let output = args.output.as_deref().map(|path| check_output(path, args.force)).transpose()?;
    if output.as_ref().is_some_and(|output| output.to_str().is_none()) {
        return Err(CommandError::usage("the output's name is not UTF-8")
            .hint("write it with `blobmesh cat HASH > FILE`"));
    }
    let settings = context.settings(&args.node)?;
    let timeout = timeout.or(settings.timeout);
    let mut session = context.session(&settings, Need::Network).await?;
    let get = Get { context, output, force: args.force, timeout, base, no_store: args.no_store };
    let result = match &hashes[..] {
        [hash] => get.one(&mut session, hash).await.map_err(|error| with_resume_hint(error, hash)),
        hashes => get_many::run(context, &mut session, hashes, timeout).await,
    };
    session.close().await;
    result
}

/// Returns the hashes of the arguments and of the list.
fn hashes_of(args: &GetArgs) -> Result<Vec<String>, CommandError> {
    let mut hashes = check_hashes(&args.hashes)?;
    if let Some(list) = &args.from {
        hashes.extend(read_list(list)?);
    }
    Ok(hashes)
}

/// Reads the value of `--timeout`.
pub(super) fn check_timeout(text: Option<&str>) -> Result<Option<Duration>, CommandError> {
    let parsed = text.map(parse_duration).transpose();
    parsed.map_err(|text| CommandError::usage(format!("--timeout: {text}")))
}

/// Returns the milliseconds of a timeout for a request.
pub(super) fn milliseconds(timeout: Option<Duration>) -> Option<u64> {
    timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX))
}

/// Says how an interrupted get goes on.
pub(super) fn with_resume_hint(error: CommandError, hash: &str) -> CommandError {
    if error.trouble() == Some(Trouble::Interrupted) {
        let hint = format!("what was verified is kept: `blobmesh get {hash}` takes it up again");
        return error.hint(hint);
    }
    error
}

struct Get<'a> {
    context: &'a Context,
    output: Option<PathBuf>,
    force: bool,
    timeout: Option<Duration>,
    base: Option<BaseName>,
    no_store: bool,
}

impl Get<'_> {
    async fn one(&self, session: &mut Session, hash: &str) -> Result<(), CommandError> {
        self.context.printer.line("start", &Start { command: "get", hash })?;
        let request = Request::Get {
            hash: hash.to_owned(),
            output: self.output.clone(),
            force: self.force,
            timeout_ms: milliseconds(self.timeout),
            base: self.base.clone(),
            no_store: self.no_store,
        };
        let answer = session.call(request, self.context.progress("get", hash)).await?;
        let Answer::Got(receipt) = answer else { return Err(unexpected(&answer)) };
        self.print(&receipt)
    }

    fn print(&self, receipt: &Receipt) -> Result<(), CommandError> {
        let printer = &self.context.printer;
        let output = self.output.as_deref().and_then(|output| output.to_str());
        printer.status(got_line(receipt));
        printer.answer(output.unwrap_or(&receipt.hash))?;
        let Receipt { hash, size, found, tier, seconds, phases, delta, .. } = receipt;
        let (size, tier, seconds, phases) = (*size, *tier, *seconds, *phases);
        let (command, delta) = ("get", delta.as_ref());
        let summary = Summary { command, hash, size, found, tier, seconds, phases, output, delta };
        printer.line("summary", &summary)
    }
}
