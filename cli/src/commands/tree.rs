//! `tree`: what is in a directory that was added.

use blobmesh_node::control::api::{Answer, Request, TreeRow};
use serde::Serialize;

use super::{Context, unexpected};
use crate::args::TreeArgs;
use crate::error::CommandError;
use crate::files::check_hash;
use crate::session::Need;
use crate::units::{count, size};

#[derive(Serialize)]
struct Summary {
    command: &'static str,
    hash: String,
    entries: usize,
    files: usize,
    bytes: u64,
}

pub(super) async fn run(context: &Context, args: &TreeArgs) -> Result<(), CommandError> {
    let hash = check_hash(&args.hash)?;
    let settings = context.settings(&args.node)?;
    let mut session = context.session(&settings, Need::Network).await?;
    let request = Request::Tree { hash: hash.clone() };
    let answer = session.call(request, context.progress("tree", &hash)).await;
    session.close().await;
    let answer = answer?;
    let Answer::Tree { entries } = answer else { return Err(unexpected(&answer)) };
    let bodies = entries.iter().map(|entry| ("entry", entry));
    context.printer.lines(entries.iter().map(line), bodies)?;
    let files: Vec<&TreeRow> = entries.iter().filter(|entry| is_file(entry)).collect();
    let bytes = files.iter().filter_map(|file| file.size).sum();
    let summary =
        Summary { command: "tree", hash, entries: entries.len(), files: files.len(), bytes };
    context.printer.line("summary", &summary)?;
    context.printer.status(format!("{}, {}", count(files.len(), "file"), size(bytes)));
    Ok(())
}

fn is_file(entry: &TreeRow) -> bool {
    entry.kind == "file" || entry.kind == "executable"
}

/// Shows an entry as `ls -l` does: kind, size, hash and name.
fn line(entry: &TreeRow) -> String {
    let kind = match entry.kind.as_str() {
        "directory" => 'd',
        "symlink" => 'l',
        "executable" => 'x',
        _ => '-',
    };
    let size = entry.size.map(size).unwrap_or_default();
    let hash = entry.hash.as_deref().unwrap_or_default();
    let target =
        entry.target.as_ref().map(|target| format!(" -> {}", shown(target))).unwrap_or_default();
    format!("{kind} {size:>10} {hash:64} {}{target}", shown(&entry.path))
}

/// Escapes what a terminal would obey, and what would end the line.
fn shown(text: &str) -> String {
    let escape = |character: char| match character.is_control() {
        true => character.escape_default().collect(),
        false => character.to_string(),
    };
    text.chars().map(escape).collect()
}
