//! `join`: into the mesh of a ticket.
//!
//! A ticket holds the mesh key. It comes by a prompt, stdin or the environment, never by the argument
//! list, which every user of the machine can read; no message shows it.

use std::ffi::OsStr;
use std::io::{BufRead, IsTerminal, Read};
use std::path::Path;

use blobmesh_node::control::api::{Failure, Trouble};
use blobmesh_node::mesh::{MeshKey, Ticket, TicketError};
use serde::Serialize;

use super::Context;
use crate::args::{JoinArgs, NodeArgs};
use crate::error::CommandError;
use crate::files::ensure_home;
use crate::session::{Need, Session, key_error};
use crate::settings::{Settings, remember_peers};
use crate::signals::Signals;
use crate::units::count;

/// The bound of a ticket in bytes.
const TICKET_BYTES_MAX: u64 = 64 << 10;

#[derive(Serialize)]
struct Summary {
    command: &'static str,
    changed: bool,
    addresses: usize,
}

pub(super) async fn run(context: &Context, args: &JoinArgs) -> Result<(), CommandError> {
    let from_stdin = match args.source.as_deref() {
        None => false,
        Some(source) if source == OsStr::new("-") => true,
        Some(_) => {
            return Err(CommandError::usage("a ticket is not given as an argument").hint(
                "every user of this machine can read arguments: paste it at the prompt of \
                 `blobmesh join`, or use `blobmesh join -` or BLOBMESH_TICKET",
            ));
        }
    };
    let settings = context.settings(&NodeArgs::default())?;
    let text = read_ticket(context, from_stdin).await?;
    let ticket: Ticket = text.trim().parse().map_err(ticket_error)?;
    ensure_home(&settings.node.home)?;
    let change = change_of(&settings.node.mesh_key_path(), &ticket)?;
    if change != Change::None {
        refuse_while_running(context, &settings).await?;
    }
    store_key(&settings.node.mesh_key_path(), &ticket, change, args.force)?;
    let fresh = change == Change::Other;
    let addresses = remember_peers(&settings.node.home, ticket.addresses(), fresh)?;
    context.printer.status(match (change, addresses) {
        (Change::None, _) => "this node is in the mesh already".to_owned(),
        (_, 0) => "joined the mesh; the ticket names no node to connect with".to_owned(),
        (_, addresses) => format!(
            "joined the mesh; `blobmesh up` will try the ticket's {}",
            count(addresses, "node")
        ),
    });
    let changed = change != Change::None;
    context.printer.line("summary", &Summary { command: "join", changed, addresses })
}

fn ticket_error(error: TicketError) -> CommandError {
    CommandError::new(Trouble::MeshRefused, error.to_string())
        .hint("`blobmesh invite` on a node of the mesh prints a ticket; take all of it")
}

/// What joining does to the mesh key of this home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// It is the same.
    None,
    /// There was none.
    First,
    /// There is another.
    Other,
}

fn change_of(path: &Path, ticket: &Ticket) -> Result<Change, CommandError> {
    if !path.exists() {
        return Ok(Change::First);
    }
    let ours = MeshKey::load(path).map_err(key_error)?;
    Ok(if &ours == ticket.key() { Change::None } else { Change::Other })
}

fn store_key(
    path: &Path,
    ticket: &Ticket,
    change: Change,
    force: bool,
) -> Result<(), CommandError> {
    match change {
        Change::None => return Ok(()),
        Change::First => {}
        Change::Other if force => {
            std::fs::remove_file(path).map_err(|e| CommandError::file("replace", path, e))?;
        }
        Change::Other => {
            let text = "this home belongs to another mesh";
            return Err(CommandError::new(Trouble::MeshRefused, text)
                .hint("add --force to leave that one, or use another --home"));
        }
    }
    ticket.key().store_new(path).map_err(key_error)
}

/// A running node holds the key it was started with.
async fn refuse_while_running(context: &Context, settings: &Settings) -> Result<(), CommandError> {
    match Session::open(context.printer, settings, Need::RunningNode).await {
        Ok(session) => {
            session.close().await;
            let text = "a node runs here, and would stay in its mesh";
            Err(CommandError::new(Trouble::StoreLocked, text)
                .hint("stop it, join, and start it again"))
        }
        Err(error) if error.code() == crate::exit::NO_NODE => Ok(()),
        Err(error) => Err(error),
    }
}

async fn read_ticket(context: &Context, from_stdin: bool) -> Result<String, CommandError> {
    if from_stdin {
        let mut text = String::new();
        std::io::stdin().take(TICKET_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
        return Ok(text);
    }
    if let Some(text) = std::env::var_os("BLOBMESH_TICKET").filter(|text| !text.is_empty()) {
        return text.into_string().map_err(|_| CommandError::usage("BLOBMESH_TICKET is not UTF-8"));
    }
    if !std::io::stdin().is_terminal() {
        return Err(CommandError::usage("there is no ticket to join with")
            .hint("`blobmesh join -` reads it from stdin, and BLOBMESH_TICKET holds it, too"));
    }
    prompt_for_ticket(context).await
}

/// Asks at the terminal, which shows again what is typed however this ends.
async fn prompt_for_ticket(context: &Context) -> Result<String, CommandError> {
    let mut signals = Signals::new()?;
    context.printer.prompt("ticket (from `blobmesh invite`; not shown): ");
    let hidden = HiddenInput::begin();
    let line = tokio::task::spawn_blocking(|| {
        let mut text = String::new();
        std::io::stdin().lock().take(TICKET_BYTES_MAX).read_line(&mut text).map(|_| text)
    });
    let read = tokio::select! {
        line = line => line.unwrap_or_else(|error| Err(error.into())).map_err(unreadable),
        () = signals.next() => Err(CommandError::new(Trouble::Interrupted, "interrupted")),
    };
    drop(hidden);
    context.printer.prompt("\n");
    read
}

fn unreadable(error: std::io::Error) -> CommandError {
    Failure::new(Trouble::File, "cannot read the ticket from stdin").cause(error.to_string()).into()
}

/// Keeps the terminal from showing what is typed, for as long as it lives.
#[cfg(unix)]
struct HiddenInput {
    before: Option<rustix::termios::Termios>,
}

#[cfg(unix)]
impl HiddenInput {
    fn begin() -> Self {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let stdin = std::io::stdin();
        // A terminal that cannot hide it is still one to paste into.
        let before = tcgetattr(&stdin).ok();
        if let Some(mut hidden) = before.clone() {
            hidden.local_modes.remove(LocalModes::ECHO);
            tcsetattr(&stdin, OptionalActions::Flush, &hidden).ok();
        }
        Self { before }
    }
}

#[cfg(unix)]
impl Drop for HiddenInput {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let now = rustix::termios::OptionalActions::Now;
            rustix::termios::tcsetattr(std::io::stdin(), now, before).ok();
        }
    }
}

#[cfg(not(unix))]
struct HiddenInput;

#[cfg(not(unix))]
impl HiddenInput {
    fn begin() -> Self {
        Self
    }
}
