//! `up`: the node, in the foreground, until a signal ends it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use blobmesh_node::Node;
use blobmesh_node::control::api::Trouble;
use blobmesh_node::control::{Client, Listener, serve};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::Context;
use crate::args::UpArgs;
use crate::error::CommandError;
use crate::files::write_whole;
use crate::patience::Patience;
use crate::session;
use crate::settings::Settings;
use crate::signals::Signals;

/// How long the requests of others may take to be cancelled at the end.
const REQUESTS_END_WITHIN: Duration = Duration::from_secs(2);

/// What the ready file holds, and the first line with `--json`.
#[derive(Serialize)]
struct Ready {
    peer: String,
    addresses: Vec<String>,
    pid: u32,
}

#[derive(Serialize)]
struct Summary {
    command: &'static str,
}

pub(super) async fn run(context: &Context, args: &UpArgs) -> Result<(), CommandError> {
    let settings = context.settings(&args.node)?;
    if settings.node.open {
        context
            .printer
            .warning("this node is open: whoever connects can get its blobs and give it theirs");
    }
    let mut end = End::new(args.until_stdin_ends)?;
    let node = tokio::select! {
        node = Box::pin(start(context, &settings)) => node?,
        () = end.wait() => return Err(stopped_early()),
    };
    let served = serve_node(context, args, &settings, &node, &mut end).await;
    // A second signal does not wait for a node that takes its time.
    let ended = tokio::select! {
        in_time = session::shut_down(node) => match in_time {
            true => Ok(()),
            false => Err(CommandError::new(Trouble::Other, "the node did not end in time")),
        },
        () = end.wait() => {
            Err(CommandError::new(Trouble::Interrupted, "stopped at once by a second signal"))
        }
    };
    served.and(ended)?;
    context.printer.line("summary", &Summary { command: "up" })
}

/// Starts the node. A command that holds the store ends soon, and is waited for; another node is not.
async fn start(context: &Context, settings: &Settings) -> Result<Node, CommandError> {
    let mut patience = Patience::new(context.printer);
    loop {
        let error = match session::start(settings).await {
            Ok(node) => return Ok(node),
            Err(error) => error,
        };
        if serves(settings).await {
            return Err(error);
        }
        patience.wait(error).await?;
    }
}

/// Returns whether a node serves this home.
async fn serves(settings: &Settings) -> bool {
    !matches!(Client::connect(&settings.node.socket_path()).await, Ok(None))
}

/// Serves requests until the end comes.
async fn serve_node(
    context: &Context,
    args: &UpArgs,
    settings: &Settings,
    node: &Node,
    end: &mut End,
) -> Result<(), CommandError> {
    let listener = Listener::bind(&settings.node.socket_path()).await?;
    let (stop, stopped) = oneshot::channel::<()>();
    let mut serving = tokio::spawn(serve(listener, Arc::new(node.service()), async {
        stopped.await.ok();
    }));
    let ready =
        Ready { peer: node.peer_id(), addresses: node.addresses(), pid: std::process::id() };
    let _ready_file = args.ready_file.as_deref().map(|path| ReadyFile::write(path, &ready));
    let _ready_file = _ready_file.transpose()?;
    announce(context, settings, &ready)?;

    tokio::select! {
        () = end.wait() => {}
        _ = &mut serving => {
            return Err(CommandError::new(Trouble::Other, "the control socket is not served any more"));
        }
        () = node.ended() => {
            return Err(CommandError::new(Trouble::Other, "the node has ended by itself")
                .hint("its log says why; what it stored is kept"));
        }
    }
    context.printer.status("stopping; a second signal stops at once");
    drop(stop);
    end_of(serving).await;
    Ok(())
}

async fn end_of(mut serving: JoinHandle<()>) {
    if tokio::time::timeout(REQUESTS_END_WITHIN, &mut serving).await.is_err() {
        serving.abort();
    }
}

fn announce(context: &Context, settings: &Settings, ready: &Ready) -> Result<(), CommandError> {
    context.printer.line("start", ready)?;
    context.printer.status(format!("node {} serves {}", ready.peer, settings.node.home.display()));
    for address in &ready.addresses {
        context.printer.status(format!("  listens on {address}"));
    }
    Ok(())
}

fn stopped_early() -> CommandError {
    CommandError::new(Trouble::Interrupted, "interrupted before the node served")
}

/// Says when the node ends: at a signal, or with stdin where that was asked for.
struct End {
    signals: Signals,
    stdin: Option<oneshot::Receiver<()>>,
}

impl End {
    fn new(until_stdin_ends: bool) -> Result<Self, CommandError> {
        let signals = Signals::new()?;
        Ok(Self { signals, stdin: until_stdin_ends.then(stdin_end) })
    }

    /// Waits for the next reason to end. Cancel safe; stdin ends once only.
    async fn wait(&mut self) {
        let stdin = async {
            match &mut self.stdin {
                Some(ended) => {
                    ended.await.ok();
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.signals.next() => {}
            () = stdin => self.stdin = None,
        }
    }
}

/// Reads stdin to its end on a thread of its own.
fn stdin_end() -> oneshot::Receiver<()> {
    let (ended, end) = oneshot::channel();
    // Not awaited: it lasts until stdin or the process ends.
    let _reader = tokio::task::spawn_blocking(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = [0; 256];
        while stdin.read(&mut buffer).is_ok_and(|len| len > 0) {}
        ended.send(()).ok();
    });
    end
}

/// The file that tells that the node serves; removed once it does not.
struct ReadyFile {
    path: PathBuf,
}

impl ReadyFile {
    fn write(path: &Path, ready: &Ready) -> Result<Self, CommandError> {
        let failed =
            |error: std::io::Error| CommandError::file("write the ready file", path, error);
        let mut text = serde_json::to_vec(ready).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        write_whole(path, &text).map_err(failed)?;
        Ok(Self { path: path.to_owned() })
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        // Whoever waits for it checks the pid in it, too.
        std::fs::remove_file(&self.path).ok();
    }
}
