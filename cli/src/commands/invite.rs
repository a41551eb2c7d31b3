//! `invite`: a ticket for another machine.

use blobmesh_node::control::api::{Answer, Request, Trouble};
use blobmesh_node::mesh::{MeshKey, Ticket};
use serde::Serialize;

use super::{Context, unexpected};
use crate::address::is_loopback;
use crate::args::NodeArgs;
use crate::error::CommandError;
use crate::files::ensure_home;
use crate::session::{Need, Session, key_error};
use crate::settings::Settings;

#[derive(Serialize)]
struct Summary {
    command: &'static str,
    ticket: String,
    addresses: Vec<String>,
}

pub(super) async fn run(context: &Context) -> Result<(), CommandError> {
    let settings = context.settings(&NodeArgs::default())?;
    ensure_home(&settings.node.home)?;
    let addresses = addresses_of_running_node(context, &settings).await?;
    let key = MeshKey::load_or_create(&settings.node.mesh_key_path()).map_err(key_error)?;
    if addresses.is_empty() {
        context.printer.status("no node runs here: the ticket holds the mesh key, and no address");
    }
    context.printer.warning("whoever has this ticket can join the mesh: pass it on in private");
    let ticket = Ticket::new(key, addresses.clone())
        .map_err(|error| CommandError::new(Trouble::MeshRefused, error.to_string()))?
        .to_string();
    context.printer.answer(&ticket)?;
    context.printer.line("summary", &Summary { command: "invite", ticket, addresses })
}

/// Returns the addresses other machines can dial, or all where there are none but loopback.
///
/// # Errors
/// `MeshRefused` where the node is in no mesh.
async fn addresses_of_running_node(
    context: &Context,
    settings: &Settings,
) -> Result<Vec<String>, CommandError> {
    let mut session = match Session::open(context.printer, settings, Need::RunningNode).await {
        Ok(session) => session,
        Err(error) if error.code() == crate::exit::NO_NODE => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let answer = session.call(Request::Status, context.printer.progress("invite", "")).await;
    session.close().await;
    let answer = answer?;
    let Answer::Status(status) = answer else { return Err(unexpected(&answer)) };
    if status.mesh.is_none() {
        let text = "the node that runs here is open: it does not use the mesh key a ticket holds";
        return Err(CommandError::new(Trouble::MeshRefused, text).hint(
            "start it without --open; whoever knows its address needs no ticket until then",
        ));
    }
    let (loopback, mut addresses): (Vec<_>, Vec<_>) =
        status.addresses.into_iter().partition(|address| is_loopback(address));
    if addresses.is_empty() {
        addresses = loopback;
    }
    addresses.truncate(Ticket::ADDRESSES_MAX);
    Ok(addresses)
}
