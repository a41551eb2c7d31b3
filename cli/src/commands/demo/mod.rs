//! `demo`: the main job, with an edge directory and three real nodes on this machine.
//!
//! Every node is a process of this very program with a home of its own, in a mesh of their own. Each
//! step is a command of this program with `--json`, and counts only if the bytes came from the tier
//! they had to come from. Processes and directories go at the end, however it ends: the nodes stop when
//! this process does, because their stdin is a pipe from it.

mod mesh;
mod program;
mod steps;

use blobmesh_node::control::api::Trouble;
use serde::Serialize;

use self::mesh::Mesh;
use self::steps::Demo;
use super::Context;
use crate::args::DemoArgs;
use crate::error::CommandError;
use crate::signals::Signals;
use crate::units::{parse_size, size};

/// The largest blobs of a demo, in bytes.
const SIZE_MAX: u64 = 1 << 30;

#[derive(Serialize)]
struct Summary {
    command: &'static str,
    steps: usize,
    failed: usize,
}

pub(super) async fn run(context: &Context, args: &DemoArgs) -> Result<(), CommandError> {
    let bytes = parse_size(&args.size).and_then(|bytes| match bytes {
        1..=SIZE_MAX => Ok(bytes),
        _ => Err(format!("the demo's blobs have from 1 byte to {}", size(SIZE_MAX))),
    });
    let bytes = bytes.map_err(|text| CommandError::usage(format!("--size: {text}")))?;
    let mut signals = Signals::new()?;
    let directory = tempfile::Builder::new().prefix("blobmesh-demo-").tempdir();
    let directory = directory
        .map_err(|error| CommandError::file("make a directory in", &std::env::temp_dir(), error))?;

    let mut mesh = Mesh::new(directory.path())?;
    let played = tokio::select! {
        played = Box::pin(play(context, &mut mesh, bytes)) => played,
        () = signals.next() => Err(CommandError::new(Trouble::Interrupted, "interrupted")),
    };
    // The nodes go before their directories; a second signal does not wait for them.
    tokio::select! {
        () = mesh.stop() => {}
        () = signals.next() => {}
    }
    drop(mesh);
    if let Err(error) = directory.close() {
        context.printer.warning(format!("the demo's directory could not be removed: {error}"));
    }
    played
}

async fn play(context: &Context, mesh: &mut Mesh, bytes: u64) -> Result<(), CommandError> {
    let mut demo = Demo::new(context, mesh, bytes);
    demo.start().await?;
    demo.get_from_a_peer().await?;
    demo.get_from_the_store().await?;
    demo.get_from_the_edge().await?;
    demo.get_from_nowhere().await?;
    let (steps, failed) = (demo.steps, demo.failed);
    context.printer.line("summary", &Summary { command: "demo", steps, failed })?;
    if failed == 0 {
        return Ok(());
    }
    Err(CommandError::new(Trouble::Other, format!("{failed} of {steps} steps went otherwise")))
}
