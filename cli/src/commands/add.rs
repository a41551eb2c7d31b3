//! `add`: files into the store.

use std::path::Path;

use blobmesh_node::control::api::{Answer, Request};
use serde::Serialize;

use super::{Context, Tally, unexpected};
use crate::args::{AddArgs, NodeArgs};
use crate::error::CommandError;
use crate::files::check_input;
use crate::session::{Need, Session, read_input};

#[derive(Serialize)]
struct Added {
    hash: String,
    size: u64,
    existed: bool,
    path: String,
}

#[derive(Serialize)]
struct Summary {
    command: &'static str,
    blobs: usize,
    bytes: u64,
}

pub(super) async fn run(context: &Context, args: &AddArgs) -> Result<(), CommandError> {
    if args.paths.iter().filter(|path| path.as_os_str() == "-").count() > 1 {
        return Err(CommandError::usage("stdin can be added once only"));
    }
    let settings = context.settings(&NodeArgs::default())?;
    // What cannot be added is found before the store is opened.
    let mut tally = Tally::default();
    let mut good = Vec::new();
    for path in &args.paths {
        match path.as_os_str() == "-" {
            true => good.push(path.clone()),
            false => match check_input(path) {
                Ok(path) => good.push(path),
                Err(error) => tally.count(Err(error))?,
            },
        }
    }
    if good.is_empty() {
        return tally.end(&context.printer, "files were added");
    }
    let mut session = context.session(&settings, Need::Store).await?;
    let result = add_all(context, &mut session, args, &good, tally).await;
    session.close().await;
    result
}

async fn add_all(
    context: &Context,
    session: &mut Session,
    args: &AddArgs,
    paths: &[std::path::PathBuf],
    mut tally: Tally,
) -> Result<(), CommandError> {
    let mut bytes = 0;
    for path in paths {
        let added = add_one(context, session, path, args.pin).await;
        tally.count(added.map(|size| bytes += size))?;
    }
    if tally.failed.is_empty() {
        let summary = Summary { command: "add", blobs: tally.done, bytes };
        context.printer.line("summary", &summary)?;
    }
    tally.end(&context.printer, "files were added")
}

/// Adds one file, prints its hash and returns its size.
async fn add_one(
    context: &Context,
    session: &mut Session,
    path: &Path,
    pin: bool,
) -> Result<u64, CommandError> {
    let progress = context.printer.progress("add", &name_of(path));
    let answer = if path.as_os_str() == "-" {
        let request = Request::Add { path: None, pin };
        session.call_with(request, read_input(std::io::stdin()), progress).await?
    } else if path.to_str().is_none() {
        // A request is text, which such a name is not; its bytes need no name.
        let file =
            std::fs::File::open(path).map_err(|error| CommandError::file("read", path, error))?;
        session.call_with(Request::Add { path: None, pin }, read_input(file), progress).await?
    } else {
        session.call(Request::Add { path: Some(path.to_owned()), pin }, progress).await?
    };
    let Answer::Added { hash, size, existed } = answer else { return Err(unexpected(&answer)) };
    context.printer.answer(&hash)?;
    let path = path.to_string_lossy().into_owned();
    context.printer.line("added", &Added { hash, size, existed, path })?;
    Ok(size)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
