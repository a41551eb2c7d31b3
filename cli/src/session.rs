//! Who serves a command's requests: the running node, or one of this process.
//!
//! The only place of the command line that starts nodes. A command that found no running node opens
//! the store itself: without network for what the store alone can answer, with network for the time
//! of a get or a push.

use std::convert::Infallible;
use std::io::Read;
use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use blobmesh_node::Node;
use blobmesh_node::config::NodeConfig;
use blobmesh_node::control::api::{Answer, Event, Exchange, Failure, Input, Request, Trouble};
use blobmesh_node::control::{Client, EXCHANGE_LEN_MAX, Service};
use blobmesh_node::mesh::MeshKeyError;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::error::CommandError;
use crate::files::ensure_home;
use crate::output::{Printer, Progress, TakeEvents};
use crate::patience::Patience;
use crate::settings::Settings;
use crate::signals::Signals;

/// How long a node of this process may take to end.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(8);

/// How long a connection without a request is good for one: a node closes it after 5 s.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// The bytes read from stdin at a time.
const INPUT_PIECE_LEN: usize = 256 << 10;

/// Is the input of a request, as it is read.
pub(crate) type InputParts = mpsc::Receiver<std::io::Result<Input>>;

/// Says what a command needs when no node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// The store.
    Store,
    /// The store, the peers and the edge.
    Network,
    /// A running node, and nothing else will do.
    RunningNode,
}

/// Serves the requests of one command.
pub(crate) struct Session {
    server: Server,
    signals: Signals,
}

enum Server {
    Running {
        socket: PathBuf,
        /// The connection by which it was found, and when. A connection carries one request.
        found_by: Option<(Client, Instant)>,
    },
    Own(Node),
}

impl Session {
    /// Finds the running node, or starts one in this process. SIGINT and SIGTERM end that.
    ///
    /// # Errors
    /// `NoNode` where a running node is needed; what starting a node gives; `Interrupted` after a signal.
    pub(crate) async fn open(
        printer: Printer,
        settings: &Settings,
        need: Need,
    ) -> Result<Self, CommandError> {
        let mut signals = Signals::new()?;
        let server = Box::pin(signals.or(Server::find(printer, settings, need))).await??;
        Ok(Self { server, signals })
    }

    /// Returns whether a running node serves.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.server, Server::Running { .. })
    }

    /// Has one request served and shows its progress. SIGINT and SIGTERM cancel it.
    ///
    /// # Errors
    /// The node's failure; `Interrupted` after a signal.
    pub(crate) async fn call(
        &mut self,
        request: Request,
        progress: Progress,
    ) -> Result<Answer, CommandError> {
        let (_, no_input) = mpsc::channel(1);
        self.call_with(request, no_input, progress).await
    }

    /// Has a request served that reads `input`.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub(crate) async fn call_with(
        &mut self,
        request: Request,
        input: InputParts,
        mut progress: Progress,
    ) -> Result<Answer, CommandError> {
        self.serve(request, input, &mut progress).await
    }

    /// Has a request served whose events `taker` takes.
    ///
    /// # Errors
    /// As [`call`](Self::call), and what the taker gives.
    pub(crate) async fn call_taking(
        &mut self,
        request: Request,
        taker: &mut impl TakeEvents,
    ) -> Result<Answer, CommandError> {
        let (_, no_input) = mpsc::channel(1);
        self.serve(request, no_input, taker).await
    }

    async fn serve(
        &mut self,
        request: Request,
        input: InputParts,
        progress: &mut impl TakeEvents,
    ) -> Result<Answer, CommandError> {
        let (events, mut events_taken) = mpsc::channel(EXCHANGE_LEN_MAX);
        let (input_given, input_taken) = mpsc::channel(1);
        let exchange = Exchange { events, input: input_taken };
        let mut served = Box::pin(self.server.serve(request, exchange));
        let mut given = pin!(give(input, input_given));
        let answer = loop {
            tokio::select! {
                Some(event) = events_taken.recv() => progress.take(&event)?,
                answer = &mut served => break answer,
                never = &mut given => match never {},
                () = self.signals.next() => {
                    return Err(CommandError::new(Trouble::Interrupted, "interrupted"));
                }
            }
        };
        // Also before a failure: what came until then came.
        let drained = drain(&mut events_taken, progress);
        let answer = answer?;
        drained?;
        Ok(answer)
    }

    /// Ends the session, and the node where it is of this process. A further signal does not wait for that.
    pub(crate) async fn close(mut self) {
        if let Server::Own(node) = self.server {
            self.signals.or(shut_down(node)).await.ok();
        }
    }
}

impl Server {
    /// Looks for who serves until somebody does: a store that is held is that of a node that serves soon, or of a
    /// command that ends soon.
    async fn find(printer: Printer, settings: &Settings, need: Need) -> Result<Self, CommandError> {
        let mut patience = Patience::new(printer);
        loop {
            match Self::look(settings, need).await {
                Err(error) => patience.wait(error).await?,
                found => return found,
            }
        }
    }

    async fn look(settings: &Settings, need: Need) -> Result<Self, CommandError> {
        let socket = settings.node.socket_path();
        if let Some(client) = Client::connect(&socket).await? {
            return Ok(Self::Running { socket, found_by: Some((client, Instant::now())) });
        }
        match need {
            Need::RunningNode => {
                let text = format!("no node runs in {}", settings.node.home.display());
                Err(CommandError::new(Trouble::NoNode, text))
            }
            Need::Store => Ok(Self::Own(start_offline(settings).await?)),
            Need::Network => Ok(Self::Own(start_for_one(settings).await?)),
        }
    }

    async fn serve(&mut self, request: Request, exchange: Exchange) -> Result<Answer, Failure> {
        match self {
            Self::Running { socket, found_by } => {
                let fresh = found_by.take().filter(|(_, found)| found.elapsed() < FRESH_FOR);
                let client = match fresh {
                    Some((client, _)) => Some(client),
                    None => Client::connect(socket).await?,
                };
                match client {
                    Some(client) => client.call(request, exchange).await,
                    None => Err(Failure::new(Trouble::NoNode, "the running node has ended")),
                }
            }
            Self::Own(node) => node.service().handle(request, exchange).await,
        }
    }
}

/// Passes an input on until it is dropped, which cuts it: a source that was killed by the same Ctrl-C ends, too, and that
/// is no end of a blob.
async fn give(mut input: InputParts, to: mpsc::Sender<std::io::Result<Input>>) -> Infallible {
    while let Some(part) = input.recv().await {
        if to.send(part).await.is_err() {
            break;
        }
    }
    drop(to);
    std::future::pending().await
}

/// Shows what was sent before the answer and is still in the queue.
fn drain(
    events: &mut mpsc::Receiver<Event>,
    progress: &mut impl TakeEvents,
) -> Result<(), CommandError> {
    events.close();
    while let Ok(event) = events.try_recv() {
        progress.take(&event)?;
    }
    Ok(())
}

/// Starts a node with network in this process; the first one of a home makes its keys.
///
/// # Errors
/// What the node gives: the store is locked, an address is taken, the configuration is wrong.
pub(crate) async fn start(settings: &Settings) -> Result<Node, CommandError> {
    ensure_home(&settings.node.home)?;
    Ok(Box::pin(Node::start(settings.node.clone())).await?)
}

/// Starts a node for one command: too short a time to learn what follows what.
async fn start_for_one(settings: &Settings) -> Result<Node, CommandError> {
    ensure_home(&settings.node.home)?;
    let config = NodeConfig { learn: false, ..settings.node.clone() };
    Ok(Box::pin(Node::start(config)).await?)
}

async fn start_offline(settings: &Settings) -> Result<Node, CommandError> {
    ensure_home(&settings.node.home)?;
    Ok(Box::pin(Node::start_offline(settings.node.clone())).await?)
}

/// Ends a node of this process; one that does not end is left to the end of the process.
///
/// Returns whether it ended in time.
pub(crate) async fn shut_down(node: Node) -> bool {
    tokio::time::timeout(SHUTDOWN_WITHIN, node.shutdown()).await.is_ok()
}

/// Turns an error about the mesh key into a command's; it never tells the key.
pub(crate) fn key_error(error: MeshKeyError) -> CommandError {
    let failure = Failure::new(Trouble::Configuration, error.to_string());
    let failure = match std::error::Error::source(&error) {
        Some(source) => failure.cause(source.to_string()),
        None => failure,
    };
    CommandError::from(failure)
        .hint("a mesh key is 64 hex digits in a file of mode 0600; `blobmesh join` writes one")
}

/// Reads `source` on a thread of its own, until its end or until nobody takes its bytes.
pub(crate) fn read_input(mut source: impl Read + Send + 'static) -> InputParts {
    let (give, take) = mpsc::channel(EXCHANGE_LEN_MAX);
    // Not awaited: a read from a terminal has no end of its own, and ends with the process.
    let _reader = tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; INPUT_PIECE_LEN];
        loop {
            let part = match source.read(&mut buffer) {
                Ok(0) => Ok(Input::End),
                Ok(len) => Ok(Input::Bytes(Bytes::copy_from_slice(&buffer[..len]))),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let is_last = !matches!(part, Ok(Input::Bytes(_)));
            if give.blocking_send(part).is_err() || is_last {
                break;
            }
        }
    });
    take
}
