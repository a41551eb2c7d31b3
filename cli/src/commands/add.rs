//! `add`: files and directories into the store.

use std::path::Path;

use blobmesh_node::control::api::{AddedTree, Answer, Request};
use serde::Serialize;

use super::{Context, Tally, unexpected};
use crate::args::{AddArgs, NodeArgs};
use crate::error::CommandError;
use crate::files::{Input, check_input};
use crate::session::{Need, Session, read_input};
use crate::units::{count, seconds, size};

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
            true => good.push(Input::File(path.clone())),
            false => match check_input(path) {
                Ok(input) => good.push(input),
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
    inputs: &[Input],
    mut tally: Tally,
) -> Result<(), CommandError> {
    let mut bytes = 0;
    for input in inputs {
        let added = match input {
            Input::File(path) => add_one(context, session, path, args.pin).await,
            Input::Directory(path) => add_directory(context, session, path, args).await,
        };
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

#[derive(Serialize)]
struct TreeLine<'a> {
    path: &'a Path,
    #[serde(flatten)]
    tree: &'a AddedTree,
}

/// Adds a directory, prints its hash and returns the bytes of its files.
async fn add_directory(
    context: &Context,
    session: &mut Session,
    path: &Path,
    args: &AddArgs,
) -> Result<u64, CommandError> {
    let progress = context.printer.progress("add", &name_of(path));
    let request =
        Request::AddTree { path: path.to_owned(), pin: args.pin, ignore: !args.no_ignore };
    let answer = session.call(request, progress).await?;
    let Answer::AddedTree(tree) = answer else { return Err(unexpected(&answer)) };
    for warning in &tree.warnings {
        context.printer.warning(warning);
    }
    context.printer.answer(&tree.hash)?;
    context.printer.line("tree", &TreeLine { path, tree: &tree })?;
    context.printer.status(sentence(path, &tree));
    Ok(tree.bytes)
}

/// Says what came of a directory, in one line.
fn sentence(path: &Path, tree: &AddedTree) -> String {
    let AddedTree { files, bytes, unchanged, new_bytes, .. } = tree;
    let took = seconds(tree.seconds);
    let mut text = format!(
        "added {}: {}, {} in {took}; {unchanged} unchanged, {} new",
        name_of(path),
        count(*files, "file"),
        size(*bytes),
        size(*new_bytes)
    );
    if tree.git > 0 {
        text.push_str("; .git left out");
    }
    if tree.ignored > 0 {
        text.push_str(&format!("; {} ignored (--no-ignore adds them)", tree.ignored));
    }
    text
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
